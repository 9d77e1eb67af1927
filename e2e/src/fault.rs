//! What is broken on purpose. A fault is injected, holds for a while and is healed; then everything must come back by
//! itself.

mod all;
mod disk;
mod link;
mod mongo;
mod process;
mod rabbitmq;
mod redis;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use rand::rngs::StdRng;

use crate::system::{Disk, MongoPath, Server, System};
use all::{Calm, PowerCut};
use disk::{BrokersDiskFull, OwnDiskFull};
use link::{Link, Trouble};
use mongo::{How, Members, StepDown, Who};
use process::{Crash, CrashLoop, Freeze, Replace};
use rabbitmq::{Broken, Duplicates, Poison};
use redis::{Loss, Split};

/// Something that breaks a system.
#[async_trait(?Send)]
pub trait Fault {
    /// Breaks something; what exactly, for people.
    async fn inject(&mut self, system: &mut System, random: &mut StdRng) -> Result<String>;

    /// Undoes it, as an operator or a supervisor would. What was lost stays lost.
    async fn heal(&mut self, system: &mut System) -> Result<()>;

    /// How long it holds.
    fn holds(&self) -> Range<Duration>;
}

/// A system under test, by what it consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// One process over a folder.
    Standalone,
    /// Pods, workers and a history-service over Redis, RabbitMQ and MongoDB.
    Cluster,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Standalone, Self::Cluster];

    /// Its word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Cluster => "cluster",
        }
    }

    /// The names of all faults there are for it.
    #[must_use]
    pub fn faults(self) -> Vec<&'static str> {
        let of_it =
            |(family, name, _): &(Self, &'static str, Make)| (*family == self).then_some(*name);
        FAULTS.iter().filter_map(of_it).collect()
    }

    /// A fault by its name.
    ///
    /// # Errors
    /// When there is none of that name; says which there are.
    pub fn fault(self, name: &str) -> Result<Box<dyn Fault>> {
        let is_it = |(family, known, _): &&(Self, &str, Make)| *family == self && *known == name;
        match FAULTS.iter().find(is_it) {
            Some((_, _, make)) => Ok(make()),
            None => bail!(
                "there is no fault '{name}'; there are: {}",
                self.faults().join(", ")
            ),
        }
    }
}

type Make = fn() -> Box<dyn Fault>;

/// How processes have to find MongoDB for a fault.
#[must_use]
pub fn mongo_path(fault: &str) -> MongoPath {
    if fault.contains("_mongo_") {
        MongoPath::Proxied
    } else {
        MongoPath::ReplicaSet
    }
}

/// Whether something has to be on a small disk for a fault.
#[must_use]
pub fn on_small_disk(fault: &str) -> bool {
    fault.ends_with("disk_full")
}

/// What a fault lacks here.
#[must_use]
pub fn missing(fault: &str) -> Option<&'static str> {
    Disk::missing().filter(|_| on_small_disk(fault))
}

/// Every fault. The telling ones come first, for short budgets.
const FAULTS: &[(Family, &str, Make)] = &[
    (Family::Standalone, "calm", || Box::new(Calm)),
    (Family::Standalone, "crash", || {
        Box::new(Crash::of("standalone"))
    }),
    (Family::Standalone, "freeze", || {
        Box::new(Freeze::of("standalone"))
    }),
    (Family::Standalone, "replace", || {
        Box::new(Replace::of("standalone"))
    }),
    (Family::Standalone, "disk_full", || Box::new(OwnDiskFull)),
    (Family::Cluster, "calm", || Box::new(Calm)),
    (Family::Cluster, "pod_crash", || Box::new(Crash::of("pod-"))),
    (Family::Cluster, "redis_flush", || Box::new(Loss::Flush)),
    (Family::Cluster, "redis_rollback", || {
        Box::new(Loss::Rollback)
    }),
    (Family::Cluster, "redis_split", || Box::<Split>::default()),
    (Family::Cluster, "exchange_deleted", || {
        Box::new(Broken::Exchange)
    }),
    (Family::Cluster, "binding_deleted", || {
        Box::new(Broken::Binding)
    }),
    (Family::Cluster, "pod_freeze", || {
        Box::new(Freeze::of("pod-"))
    }),
    (Family::Cluster, "worker_crash", || {
        Box::new(Crash::of("worker-"))
    }),
    (Family::Cluster, "duplicates", || {
        Box::<Duplicates>::default()
    }),
    (Family::Cluster, "rabbitmq_crash", || {
        Box::new(Broken::Crash)
    }),
    (Family::Cluster, "mongodb_primary_crash", || {
        members(How::Crash, Who::Primary)
    }),
    (Family::Cluster, "redis_crash", || Box::new(Loss::Crash)),
    (Family::Cluster, "pod_rollout", || {
        Box::new(Replace::of("pod-"))
    }),
    (Family::Cluster, "pod_redis_cut", || {
        link("pod-", Server::Redis, Trouble::Cut)
    }),
    (Family::Cluster, "pod_redis_delay", || {
        link("pod-", Server::Redis, Trouble::Delay)
    }),
    (Family::Cluster, "pod_redis_stall", || {
        link("pod-", Server::Redis, Trouble::Stall)
    }),
    (Family::Cluster, "pod_rabbitmq_cut", || {
        link("pod-", Server::RabbitMq, Trouble::Cut)
    }),
    (Family::Cluster, "pod_rabbitmq_delay", || {
        link("pod-", Server::RabbitMq, Trouble::Delay)
    }),
    (Family::Cluster, "pod_rabbitmq_stall", || {
        link("pod-", Server::RabbitMq, Trouble::Stall)
    }),
    (Family::Cluster, "pod_mongo_cut", || {
        link("pod-", Server::Mongo, Trouble::Cut)
    }),
    (Family::Cluster, "pod_mongo_delay", || {
        link("pod-", Server::Mongo, Trouble::Delay)
    }),
    (Family::Cluster, "pod_mongo_stall", || {
        link("pod-", Server::Mongo, Trouble::Stall)
    }),
    (Family::Cluster, "worker_rabbitmq_cut", || {
        link("worker-", Server::RabbitMq, Trouble::Cut)
    }),
    (Family::Cluster, "worker_rabbitmq_delay", || {
        link("worker-", Server::RabbitMq, Trouble::Delay)
    }),
    (Family::Cluster, "worker_rabbitmq_stall", || {
        link("worker-", Server::RabbitMq, Trouble::Stall)
    }),
    (Family::Cluster, "worker_mongo_cut", || {
        link("worker-", Server::Mongo, Trouble::Cut)
    }),
    (Family::Cluster, "worker_mongo_delay", || {
        link("worker-", Server::Mongo, Trouble::Delay)
    }),
    (Family::Cluster, "worker_mongo_stall", || {
        link("worker-", Server::Mongo, Trouble::Stall)
    }),
    (Family::Cluster, "worker_freeze", || {
        Box::new(Freeze::of("worker-"))
    }),
    (Family::Cluster, "worker_crash_loop", || {
        Box::new(CrashLoop::of("worker-"))
    }),
    (Family::Cluster, "poison", || Box::new(Poison)),
    (Family::Cluster, "history_crash", || {
        Box::new(Crash::of("history-"))
    }),
    (Family::Cluster, "history_freeze", || {
        Box::new(Freeze::of("history-"))
    }),
    (Family::Cluster, "redis_freeze", || Box::new(Loss::Freeze)),
    (Family::Cluster, "rabbitmq_freeze", || {
        Box::new(Broken::Freeze)
    }),
    (Family::Cluster, "rabbitmq_memory", || {
        Box::new(Broken::Memory)
    }),
    (Family::Cluster, "rabbitmq_disk", || Box::new(Broken::Disk)),
    (Family::Cluster, "rabbitmq_disk_full", || {
        Box::new(BrokersDiskFull)
    }),
    (Family::Cluster, "mongodb_step_down", || Box::new(StepDown)),
    (Family::Cluster, "mongodb_primary_freeze", || {
        members(How::Freeze, Who::Primary)
    }),
    (Family::Cluster, "mongodb_secondary_crash", || {
        members(How::Crash, Who::Secondary)
    }),
    (Family::Cluster, "mongodb_secondary_freeze", || {
        members(How::Freeze, Who::Secondary)
    }),
    (Family::Cluster, "mongodb_all_crash", || {
        members(How::Crash, Who::All)
    }),
    (Family::Cluster, "mongodb_all_freeze", || {
        members(How::Freeze, Who::All)
    }),
    (Family::Cluster, "power_cut", || Box::new(PowerCut)),
];

fn link(from: &'static str, to: Server, trouble: Trouble) -> Box<dyn Fault> {
    Box::new(Link::new(from, to, trouble))
}

fn members(how: How, who: Who) -> Box<dyn Fault> {
    Box::new(Members::new(how, who))
}

/// A range of seconds.
fn secs(least: f64, most: f64) -> Range<Duration> {
    Duration::from_secs_f64(least)..Duration::from_secs_f64(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_an_unknown_one_is_told() {
        for family in Family::ALL {
            let mut names = family.faults();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
        }
        let error = Family::Standalone.fault("rain").err().unwrap().to_string();
        assert!(error.contains("crash"), "{error}");
    }
}
