//! Fault by fault, run by run: a table of what broke.
//!
//! A *session* is one life of the processes with one set of rooms, in which a fault is injected several times, each at a
//! random moment under load; each is a *run*. Sessions go round the faults until every fault had its runs or the time is
//! over; those of the first round have one run, so that a short budget has something of everything. A session depends
//! on nothing but its seed. The servers of a cluster live on from one session to the next while nothing is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use testbed::Generation;
use tokio::time::{Instant, sleep};

use crate::fault::{Family, Fault, mongo_path, on_small_disk};
use crate::history::{History, Injection};
use crate::judge::{Verdict, judge};
use crate::report::{Row, Table};
use crate::system::{Programs, Servers, System};
use crate::workload::{Plan, Workload, World};

/// Runs in one session.
const RUNS_PER_SESSION: u32 = 5;
/// Between recovery and the next fault.
const CALM: (f64, f64) = (0.5, 2.5);
/// Sessions in a row that could not be held; then something is wrong that is not under test.
const FAILURES_MAX: u32 = 3;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    pub programs: Programs,
    pub seed: u64,
    /// No session begins after this time.
    pub budget: Duration,
    pub faults: Vec<(Family, String)>,
    /// Of each fault.
    pub runs: u32,
    /// New acts per second.
    pub per_sec: f64,
    /// Which RabbitMQ a cluster has.
    pub rabbitmq: Generation,
    /// Where sessions with violations are kept.
    pub folder: PathBuf,
    /// Keep the others too.
    pub keep: bool,
}

/// One session and what came of it.
#[derive(Debug)]
pub struct Session {
    pub family: Family,
    pub fault: String,
    pub seed: u64,
    /// Faults injected.
    pub runs: u32,
    pub verdict: Verdict,
    /// Why the session could not be brought to its end; then the promises were not kept either.
    pub failure: Option<String>,
    /// What was kept of it.
    pub folder: Option<PathBuf>,
    pub took: Took,
}

/// How long the parts of a session took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// Starting the processes.
    pub start: Duration,
    /// Faults and what lies between them.
    pub faults: Duration,
    /// Until everything was answered and read.
    pub clients: Duration,
    /// Until everything was stored and looked at, and the processes had ended.
    pub stored: Duration,
}

impl Session {
    /// Whether all promises were kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && self.verdict.is_clean()
    }

    /// One that could not be held.
    fn failed(family: Family, fault: &str, seed: u64, error: &anyhow::Error) -> Self {
        Self {
            family,
            fault: fault.to_owned(),
            seed,
            runs: 0,
            verdict: Verdict::default(),
            failure: Some(format!("{error:#}")),
            folder: None,
            took: Took::default(),
        }
    }
}

/// Runs the matrix; the table. What is worth knowing at once goes to `tell`.
///
/// # Errors
/// When something that is not under test does not work.
pub async fn run(options: &Options, tell: &mut dyn FnMut(String)) -> Result<Table> {
    let end = Instant::now() + options.budget;
    let mut table = Table::new(options.seed);
    for (family, fault) in &options.faults {
        // A name that is wrong is told before anything is started.
        family.fault(fault)?;
        table.rows.push(Row::new(*family, fault));
    }
    let (mut servers, mut failures) = (None, 0);
    let mut round = 0;
    while table.rows.iter().any(|row| row.asked < options.runs) {
        let seed = options.seed + round;
        for (index, (family, fault)) in options.faults.iter().enumerate() {
            let left = options.runs - table.rows[index].asked;
            let runs = left.min(if round == 0 { 1 } else { RUNS_PER_SESSION });
            if runs == 0 {
                continue;
            }
            if Instant::now() >= end {
                table.is_cut_short = true;
                return Ok(table);
            }
            let held = hold(options, *family, fault, seed, runs, &mut servers).await;
            let session = match held {
                Ok(session) => {
                    failures = 0;
                    session
                }
                Err(error) if failures + 1 < FAILURES_MAX => {
                    failures += 1;
                    Session::failed(*family, fault, seed, &error)
                }
                Err(error) => return Err(error),
            };
            if !session.is_clean() {
                // Whatever state the servers are in, it is not for the next one.
                servers = None;
            }
            tell(said(&session, runs));
            table.rows[index].asked += runs;
            table.rows[index].add(&session);
        }
        round += 1;
    }
    Ok(table)
}

/// Holds a session, with servers if it needs some.
async fn hold(
    options: &Options,
    family: Family,
    fault: &str,
    seed: u64,
    runs: u32,
    servers: &mut Option<Arc<Servers>>,
) -> Result<Session> {
    let of_session = match (family, &servers) {
        (Family::Standalone, _) => None,
        (Family::Cluster, _) if on_small_disk(fault) => {
            // For this session alone.
            let disk = options.folder.join("disk");
            Some(Arc::new(
                Servers::start_on_small_disk(&disk, options.rabbitmq).await?,
            ))
        }
        (Family::Cluster, Some(servers)) => Some(Arc::clone(servers)),
        (Family::Cluster, None) => {
            let started = Arc::new(Servers::start(options.rabbitmq).await?);
            Some(Arc::clone(servers.insert(started)))
        }
    };
    session(options, family, of_session.as_ref(), fault, seed, runs).await
}

/// A line for people, and more when something is wrong.
fn said(session: &Session, asked: u32) -> String {
    let Session {
        family,
        fault,
        seed,
        runs,
        verdict,
        took,
        ..
    } = session;
    let (family, outage) = (family.name(), &verdict.outage);
    let mut text = format!(
        "{family} {fault}: {runs} runs in {:.0} s (started in {:.1}, answered in {:.1}, stored in {:.1}), {} acked, {} repeated, \
         unavailable {} s, recovery {} ms: {}",
        took.faults.as_secs_f64(),
        took.start.as_secs_f64(),
        took.clients.as_secs_f64(),
        took.stored.as_secs_f64(),
        verdict.messages.acked,
        verdict.messages.repeated,
        outage.unavailable_secs,
        outage.slowest_recovery_ms,
        if session.is_clean() {
            "clean"
        } else {
            "VIOLATED"
        },
    );
    if session.is_clean() {
        return text;
    }
    if let Some(failure) = &session.failure {
        text += &format!("\n  {failure}");
    }
    for violation in verdict.violations.iter().take(10) {
        text += &format!("\n  {violation}");
    }
    text += &format!(
        "\n  repeat with: checker matrix --family {family} --faults {fault} --seed {seed} --runs {asked}"
    );
    if let Some(folder) = &session.folder {
        text += &format!("\n  kept in {}", folder.display());
    }
    text
}

async fn session(
    options: &Options,
    family: Family,
    servers: Option<&Arc<Servers>>,
    fault: &str,
    seed: u64,
    runs: u32,
) -> Result<Session> {
    let folder = options
        .folder
        .join(format!("{}-{fault}-{seed}", family.name()));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let plan = Plan {
        per_sec: options.per_sec,
        ..Plan::new(seed, format!("s{seed:x}"))
    };
    let mut begun = Instant::now();
    let mut lap = || std::mem::replace(&mut begun, Instant::now()).elapsed();
    let mut took = Took::default();
    let mut system = match servers {
        None if on_small_disk(fault) => {
            System::standalone_on_small_disk(&options.programs, &folder).await?
        }
        None => System::standalone(&options.programs, &folder).await?,
        Some(servers) => {
            let namespace = format!("s{seed:x}-{:x}", rand::random::<u32>());
            let (servers, path) = (Arc::clone(servers), mongo_path(fault));
            System::cluster(&options.programs, &folder, servers, &namespace, path).await?
        }
    };
    let mut workload = Workload::start(&plan, system.pods())?;
    took.start = lap();
    let (faults, trouble) = inject(family, fault, seed, runs, &mut system, &mut workload).await?;
    took.faults = lap();
    let injected = faults.len() as u32;
    let (mut history, ended) = workload.finish(faults).await;
    took.clients = lap();
    let mut failures: Vec<String> = trouble.into_iter().collect();
    let mut verdict = Verdict::default();
    match ended {
        // Without the logs there is nothing to judge by.
        Err(error) => failures.push(format!("{error:#}")),
        Ok(()) => {
            failures.extend(inspect(&system, &mut history, plan.patience).await);
            verdict = judge(&history);
        }
    }
    failures.extend(system.crashed()?);
    system.end().await?;
    took.stored = lap();
    let mut session = Session {
        family,
        fault: fault.to_owned(),
        seed,
        runs: injected,
        verdict,
        failure: (!failures.is_empty()).then(|| failures.join("; ")),
        folder: Some(folder.clone()),
        took,
    };
    if session.is_clean() {
        // What is wrong there is not the product's fault.
        system.clear().await?;
    }
    // What is on a small disk goes with it.
    drop(system);
    if session.is_clean() && !options.keep {
        fs::remove_dir_all(&folder)?;
        session.folder = None;
    } else {
        keep(&folder, &history, &session.verdict)?;
    }
    Ok(session)
}

/// Looks behind the product: what the database holds, and what was put aside. Says what is wrong.
async fn inspect(system: &System, history: &mut History, patience: Duration) -> Vec<String> {
    let Ok(cluster) = system.servers() else {
        return Vec::new();
    };
    match cluster.stored(&history.ends, patience).await {
        Ok(logs) => drop(history.copies.insert("the database".to_owned(), logs)),
        Err(error) => return vec![format!("what is stored cannot be read: {error:#}")],
    }
    match cluster.complaints().await {
        Ok(complaints) => complaints,
        Err(error) => vec![format!("the broker cannot be asked: {error:#}")],
    }
}

/// Injects and heals again and again. Also says why it had to stop early.
async fn inject(
    family: Family,
    name: &str,
    seed: u64,
    runs: u32,
    system: &mut System,
    workload: &mut Workload,
) -> Result<(Vec<Injection>, Option<String>)> {
    let mut random = World::random(seed, name);
    let mut fault: Box<dyn Fault> = family.fault(name)?;
    let clock = workload.clock();
    let mut faults = Vec::new();
    if let Err(error) = workload.recovered(0).await {
        return Ok((faults, Some(format!("before any fault: {error:#}"))));
    }
    workload.begin();
    for run in 0..runs {
        sleep(Duration::from_secs_f64(random.random_range(CALM.0..CALM.1))).await;
        let at = clock.now();
        let what = fault.inject(system, &mut random).await?;
        sleep(random.random_range(fault.holds())).await;
        if let Err(error) = fault.heal(system).await {
            return Ok((faults, Some(format!("run {run}, {what}: {error:#}"))));
        }
        let healed = clock.now();
        let fault = name.to_owned();
        faults.push(Injection {
            fault,
            run,
            what,
            at,
            healed,
        });
        if let Err(error) = workload.recovered(healed).await {
            return Ok((faults, Some(format!("run {run}: {error:#}"))));
        }
    }
    sleep(Duration::from_secs_f64(CALM.1)).await;
    Ok((faults, None))
}

/// Writes down what is needed to find out.
fn keep(folder: &Path, history: &History, verdict: &Verdict) -> Result<()> {
    fs::write(folder.join("history.json"), serde_json::to_vec(history)?)?;
    fs::write(
        folder.join("verdict.json"),
        serde_json::to_vec_pretty(verdict)?,
    )?;
    Ok(())
}
