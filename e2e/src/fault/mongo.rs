//! Faults of the replica set.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::RngExt;
use rand::rngs::StdRng;
use testbed::{Data, Member, Mongo};

use super::{Fault, secs};
use crate::system::System;

/// Which members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Primary,
    Secondary,
    All,
}

/// What is done to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// They are killed and started again.
    Crash,
    /// They stand still for some seconds.
    Freeze,
}

/// A fault of members.
pub struct Members {
    who: Who,
    how: How,
    hit: Vec<SocketAddr>,
}

impl Members {
    pub fn new(how: How, who: Who) -> Self {
        let hit = Vec::new();
        Self { who, how, hit }
    }
}

#[async_trait(?Send)]
impl Fault for Members {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let mongo = &system.servers()?.servers.mongo;
        let primary = mongo.wait_for_primary().await?.addr();
        let others = mongo
            .members()
            .iter()
            .map(Member::addr)
            .filter(|addr| *addr != primary);
        let others: Vec<SocketAddr> = others.collect();
        self.hit = match self.who {
            Who::Primary => vec![primary],
            Who::Secondary => vec![others[random.random_range(0..others.len())]],
            Who::All => mongo.members().iter().map(Member::addr).collect(),
        };
        for addr in &self.hit {
            let member = member(mongo, *addr)?;
            match self.how {
                How::Crash => member.kill(),
                How::Freeze => member.stop(),
            }
        }
        let word = match self.how {
            How::Crash => "kill -9",
            How::Freeze => "SIGSTOP",
        };
        let which = match self.who {
            Who::Primary => "the primary of MongoDB",
            Who::Secondary => "a secondary of MongoDB",
            Who::All => "all members of MongoDB",
        };
        Ok(format!("{word} {which}"))
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        let mongo = &system.servers()?.servers.mongo;
        if self.who == Who::All && self.how == How::Crash {
            return mongo.restart(Data::Kept).await;
        }
        for addr in &self.hit {
            let member = member(mongo, *addr)?;
            match self.how {
                How::Crash => member.restart(Data::Kept).await?,
                How::Freeze => member.cont(),
            }
        }
        mongo.wait_for_primary().await.map(drop)
    }

    fn holds(&self) -> Range<Duration> {
        match self.how {
            How::Crash => secs(0.5, 5.0),
            How::Freeze => secs(5.0, 6.0),
        }
    }
}

/// The primary gives its role up.
pub struct StepDown;

#[async_trait(?Send)]
impl Fault for StepDown {
    async fn inject(&mut self, system: &mut System, _random: &mut StdRng) -> Result<String> {
        system.servers()?.servers.mongo.step_down(5).await?;
        Ok("the primary of MongoDB steps down".to_owned())
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        system
            .servers()?
            .servers
            .mongo
            .wait_for_primary()
            .await
            .map(drop)
    }

    fn holds(&self) -> Range<Duration> {
        secs(0.0, 1.0)
    }
}

fn member(mongo: &Mongo, addr: SocketAddr) -> Result<&Member> {
    let found = mongo.members().iter().find(|member| member.addr() == addr);
    found.with_context(|| format!("no member at {addr}"))
}
