//! Faults of our own processes.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{Fault, secs};
use crate::process::Process;
use crate::system::System;

/// Any process of a kind.
fn any<'a>(system: &'a mut System, kind: &str, random: &mut StdRng) -> Result<&'a mut Process> {
    let mut all = system.of_kind(kind);
    let index = random.random_range(0..all.len().max(1));
    let found = (index < all.len()).then(|| all.swap_remove(index));
    found.with_context(|| format!("there is no {kind}"))
}

/// The process of a name.
pub fn named<'a>(system: &'a mut System, name: &str) -> Result<&'a mut Process> {
    let process = system
        .processes
        .iter_mut()
        .find(|process| process.name == name);
    process.with_context(|| format!("there is no {name}"))
}

/// A process is killed (SIGKILL) and started again.
pub struct Crash {
    kind: &'static str,
    hit: String,
}

impl Crash {
    pub fn of(kind: &'static str) -> Self {
        let hit = String::new();
        Self { kind, hit }
    }
}

#[async_trait(?Send)]
impl Fault for Crash {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let process = any(system, self.kind, random)?;
        process.kill().await?;
        self.hit.clone_from(&process.name);
        Ok(format!("kill -9 {}", self.hit))
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        named(system, &self.hit)?.start().await
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 1.5)
    }
}

/// A process is killed again and again as soon as it has begun.
pub struct CrashLoop {
    kind: &'static str,
}

/// Crashes in a row.
const CRASHES: u32 = 30;

impl CrashLoop {
    pub fn of(kind: &'static str) -> Self {
        Self { kind }
    }
}

#[async_trait(?Send)]
impl Fault for CrashLoop {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        for _ in 0..CRASHES {
            // All of them in turn: none gets far.
            for process in system.of_kind(self.kind) {
                process.kill().await?;
                process.spawn()?;
            }
            sleep(Duration::from_millis(random.random_range(20..400))).await;
        }
        Ok(format!("{CRASHES} times kill -9 of every {}", self.kind))
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        for process in system.of_kind(self.kind) {
            process.ready().await?;
        }
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 0.1)
    }
}

/// A process stands still (SIGSTOP) and goes on.
pub struct Freeze {
    kind: &'static str,
    hit: String,
}

impl Freeze {
    pub fn of(kind: &'static str) -> Self {
        let hit = String::new();
        Self { kind, hit }
    }
}

#[async_trait(?Send)]
impl Fault for Freeze {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let process = any(system, self.kind, random)?;
        process.freeze();
        self.hit.clone_from(&process.name);
        Ok(format!("SIGSTOP {}", self.hit))
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        named(system, &self.hit)?.thaw();
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(5.0, 6.0)
    }
}

/// Every process of a kind, one after the other, is asked to end (SIGTERM) and started again: a rollout.
pub struct Replace {
    kind: &'static str,
}

impl Replace {
    pub fn of(kind: &'static str) -> Self {
        Self { kind }
    }
}

#[async_trait(?Send)]
impl Fault for Replace {
    async fn inject(&mut self, system: &mut System, _random: &mut StdRng) -> Result<String> {
        let mut names = Vec::new();
        for process in system.of_kind(self.kind) {
            process.terminate().await?;
            process.start().await?;
            names.push(process.name.clone());
        }
        Ok(format!("SIGTERM and start of {}", names.join(", ")))
    }

    async fn heal(&mut self, _system: &mut System) -> Result<()> {
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 0.1)
    }
}
