//! Everything at once, and nothing.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;

use super::{Fault, secs};
use crate::system::System;

/// Nothing is broken: what this finds is not the fault of a fault.
pub struct Calm;

#[async_trait(?Send)]
impl Fault for Calm {
    async fn inject(&mut self, _system: &mut System, _random: &mut StdRng) -> Result<String> {
        Ok("nothing".to_owned())
    }

    async fn heal(&mut self, _system: &mut System) -> Result<()> {
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(1.0, 2.0)
    }
}

/// All processes and all servers are killed in the same moment and started again. What is on disks is there, what was in
/// memory is not.
pub struct PowerCut;

#[async_trait(?Send)]
impl Fault for PowerCut {
    async fn inject(&mut self, system: &mut System, _random: &mut StdRng) -> Result<String> {
        system.servers()?.queues_are_written().await?;
        system.servers()?.servers.kill();
        for process in &mut system.processes {
            process.kill().await?;
        }
        Ok("kill -9 of everything".to_owned())
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        system.servers()?.servers.restart().await?;
        for process in &mut system.processes {
            process.spawn()?;
        }
        for process in &mut system.processes {
            process.ready().await?;
        }
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 0.5)
    }
}
