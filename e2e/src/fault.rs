//! What is broken on purpose. A fault is injected, holds for a while and is healed; then everything must come back by
//! itself.

mod process;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use rand::rngs::StdRng;

use crate::system::System;
use process::{Crash, Freeze, Replace};

/// Something that breaks a system.
#[async_trait]
pub trait Fault: Send {
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
}

impl Family {
    /// Its word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
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

/// Every fault.
const FAULTS: &[(Family, &str, Make)] = &[
    (Family::Standalone, "crash", || {
        Box::new(Crash::of("standalone"))
    }),
    (Family::Standalone, "freeze", || {
        Box::new(Freeze::of("standalone"))
    }),
    (Family::Standalone, "replace", || {
        Box::new(Replace::of("standalone"))
    }),
];

/// A range of seconds.
fn secs(least: f64, most: f64) -> Range<Duration> {
    Duration::from_secs_f64(least)..Duration::from_secs_f64(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_an_unknown_one_is_told() {
        let mut names = Family::Standalone.faults();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let error = Family::Standalone.fault("rain").err().unwrap().to_string();
        assert!(error.contains("crash"), "{error}");
    }
}
