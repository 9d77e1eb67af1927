//! The clients and the judge without a fault injector, against servers that are there: whatever happens to them happens
//! from outside.

use std::time::Duration;

use anyhow::{Context, Result};
use client::Address;
use serde::Serialize;
use tokio::time::sleep;

use crate::history::History;
use crate::judge::{Verdict, judge};
use crate::workload::{Plan, Pod, Workload};

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub is_clean: bool,
    pub secs: f64,
    pub verdict: Verdict,
}

/// Sends and reads for some time; the summary, and the history to be kept when something is wrong.
///
/// # Errors
/// When nothing can be sent at the beginning, or the logs cannot be read in the end.
pub async fn run(plan: &Plan, addresses: &[Address], time: Duration) -> Result<(Summary, History)> {
    let pod = |address: &Address| Pod {
        name: address.authority().into(),
        address: address.clone(),
    };
    let mut workload = Workload::start(plan, addresses.iter().map(pod).collect())?;
    let begun = workload.recovered(0).await;
    begun.context("the servers do not take messages")?;
    workload.begin();
    sleep(time).await;
    let (history, ended) = workload.finish(Vec::new()).await;
    ended?;
    let verdict = judge(&history);
    let (begin, end) = history.sending;
    let summary = Summary {
        is_clean: verdict.is_clean(),
        secs: (end - begin) as f64 / 1e6,
        verdict,
    };
    Ok((summary, history))
}
