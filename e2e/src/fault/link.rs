//! Faults of the network between our processes and the servers.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Fault, secs};
use crate::system::{Server, System};

/// What the network does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are closed and new ones refused.
    Cut,
    /// Everything comes late.
    Delay,
    /// Nothing comes any more, in one direction or both, and nothing is closed.
    Stall,
}

/// A fault between processes of a kind and a server: of one process or of all.
pub struct Link {
    from: &'static str,
    to: Server,
    trouble: Trouble,
    hit: Vec<String>,
}

impl Link {
    pub fn new(from: &'static str, to: Server, trouble: Trouble) -> Self {
        let hit = Vec::new();
        Self {
            from,
            to,
            trouble,
            hit,
        }
    }
}

#[async_trait(?Send)]
impl Fault for Link {
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String> {
        let cluster = system.servers()?;
        let mut links = cluster.links(self.from, self.to);
        ensure!(
            !links.is_empty(),
            "there is no link from {} to {:?}",
            self.from,
            self.to
        );
        if random.random_bool(0.5) {
            links = vec![links[random.random_range(0..links.len())]];
        }
        let delay = Duration::from_millis(random.random_range(20..400));
        let direction = random.random_range(0..3);
        for (_, proxy) in &links {
            match self.trouble {
                Trouble::Cut => proxy.cut().await,
                Trouble::Delay => proxy.delay(delay),
                Trouble::Stall => {
                    if direction != 0 {
                        proxy.stall_to_server();
                    }
                    if direction != 1 {
                        proxy.stall_to_client();
                    }
                }
            }
        }
        self.hit = links.iter().map(|(from, _)| (*from).to_owned()).collect();
        let what = match (self.trouble, direction) {
            (Trouble::Cut, _) => "cut".to_owned(),
            (Trouble::Delay, _) => format!("delayed by {} ms", delay.as_millis()),
            (Trouble::Stall, 0) => "silent towards the process".to_owned(),
            (Trouble::Stall, 1) => "silent towards the server".to_owned(),
            (Trouble::Stall, _) => "silent".to_owned(),
        };
        Ok(format!("{} to {:?}: {what}", self.hit.join(", "), self.to))
    }

    async fn heal(&mut self, system: &mut System) -> Result<()> {
        let cluster = system.servers()?;
        for from in &self.hit {
            let proxy = cluster.one(from, self.to)?;
            proxy.delay(Duration::ZERO);
            proxy.heal().await?;
        }
        Ok(())
    }

    fn holds(&self) -> Range<Duration> {
        match self.trouble {
            Trouble::Cut => secs(0.1, 5.0),
            Trouble::Delay => secs(2.0, 4.0),
            Trouble::Stall => secs(1.0, 8.0),
        }
    }
}
