//! The benchmark of the cluster family: real servers and programs on this machine, what they reach together, and which
//! process pays how much for it.
//!
//! Everything shares the machine with the driver, so rates are floors. The processor time of each process says what a
//! deployment of several machines would be limited by.

mod processes;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::fanout::Search;
use crate::group::{Group, Load, Shape, fresh_name};
use crate::report::{progress, progress_done, short};
use crate::{acks, fanout, http, process, storm};
use processes::{MONGOD_CACHE_MIB, Processes, SETTINGS, Usage};
use table::Row;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Folder of chat-service, history-service and persistence-worker.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// Shorter runs, a tenth of the messages.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Messages that wait for the worker, and that a search looks through.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// All figures as JSON.
    #[arg(long, default_value = "target/bench-cluster.json")]
    json: PathBuf,
    /// The table as Markdown; it is printed as well.
    #[arg(long, default_value = "target/bench-cluster.md")]
    markdown: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Acks,
    /// From one pod's sender to the other's reader.
    Pods,
    /// One room of 100 over both pods.
    Fanout,
    Storm,
    /// What waits for the worker.
    Drain,
    /// Over all rooms of a user, after `drain`.
    Search,
}

const PARTS: [Part; 6] = [
    Part::Acks,
    Part::Pods,
    Part::Fanout,
    Part::Storm,
    Part::Drain,
    Part::Search,
];
const TEXT_BYTES: usize = 100;
/// Rooms of the user who fills and searches.
const FILLED_ROOMS: usize = 100;
const FILLER: &str = "filler";
/// How long the worker may take to store what waits.
const DRAIN_MAX: Duration = Duration::from_secs(400);
const SAMPLE: Duration = Duration::from_millis(100);
/// The index has been merged when nothing was for so long.
const MERGED_AFTER: Duration = Duration::from_secs(5);

struct Bench<'a> {
    options: &'a Options,
    processes: Processes,
    rows: Vec<Row>,
    details: Map<String, Value>,
    /// Promises that were broken, and parts that could not be run.
    trouble: Vec<String>,
}

/// What a stretch of time cost.
struct Cost {
    took: Duration,
    usage: Usage,
}

/// Runs everything; answers whether all parts ran and all promises were kept.
pub fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    eprintln!("   0 s  starting the servers and programs");
    let mut bench = Bench {
        options,
        processes: Processes::start(&options.programs)?,
        rows: Vec::new(),
        details: Map::new(),
        trouble: Vec::new(),
    };
    let settings = bench.settings();
    for part in PARTS {
        if !options.only.is_empty() && !options.only.contains(&part) {
            continue;
        }
        eprintln!("{:>4.0} s  {part:?}", began.elapsed().as_secs_f64());
        if let Err(error) = bench.part(part) {
            progress_done();
            eprintln!("        {part:?} failed: {error:#}");
            bench.trouble.push(format!("{part:?} failed: {error:#}"));
        }
        // After every part: a run that is stopped keeps what it has.
        bench.write(&settings, began.elapsed())?;
    }
    println!("{}", bench.write(&settings, began.elapsed())?);
    for line in &bench.trouble {
        eprintln!("BROKEN: {line}");
    }
    Ok(bench.trouble.is_empty())
}

impl Bench<'_> {
    fn part(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Acks => self.acks(),
            Part::Pods => self.pods(),
            Part::Fanout => self.fanout(),
            Part::Storm => self.storm(),
            Part::Drain => self.drain(),
            Part::Search => self.search(),
        }
    }

    fn settings(&self) -> Value {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        json!({
            "machine": process::machine(),
            "file_system": process::file_system(&std::env::temp_dir()),
            "load_average_before": load.split(' ').next(),
            "programs": SETTINGS.map(|(name, value)| format!("{name}={value}")),
            "quick": self.options.quick,
            "messages": self.messages(),
        })
    }

    fn messages(&self) -> u64 {
        self.options.messages / if self.options.quick { 10 } else { 1 }
    }

    fn seconds(&self, full: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(if self.options.quick { quick } else { full })
    }

    /// Runs something and counts what every process used for it.
    fn costing<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Cost)> {
        let (began, before) = (Instant::now(), self.processes.usage()?);
        let result = run(self)?;
        let took = began.elapsed();
        let after = self.processes.usage()?;
        let usage = before
            .into_iter()
            .zip(after)
            .map(|((name, before), (_, after))| (name, after.saturating_sub(before)))
            .collect();
        Ok((result, Cost { took, usage }))
    }

    fn keep(&mut self, what: &str, broken: &[String], detail: Value, cost: &Cost) {
        let lines = broken.iter().map(|line| format!("{what}: {line}"));
        self.trouble.extend(lines);
        let detail = json!({"figures": detail, "cores_used": cost.json()});
        self.details.insert(what.to_owned(), detail);
    }

    /// Waits until the worker has nothing more to store.
    fn settle(&self) -> Result<()> {
        let began = Instant::now();
        let (mut stored, mut since) = (self.processes.stored()?, Instant::now());
        while since.elapsed() < Duration::from_secs(1) {
            ensure!(
                began.elapsed() < DRAIN_MAX,
                "the worker does not come to rest"
            );
            std::thread::sleep(SAMPLE);
            let now = self.processes.stored()?;
            if now != stored {
                (stored, since) = (now, Instant::now());
                progress(&format!("the worker has stored {stored}"));
            }
        }
        progress_done();
        Ok(())
    }

    fn acks(&mut self) -> Result<()> {
        let target = self.processes.target();
        let time = self.seconds(8.0, 3.0);
        for senders in [1, 16, 256, 1024] {
            let (outcome, cost) = self.costing(|_| {
                let plan = acks::Plan::closed_loop(senders, 16, TEXT_BYTES, time);
                acks::run(&target, &plan, None, false)
            })?;
            let what = format!("durable acks, {senders} sending");
            let broken = outcome.faults.lines();
            self.keep(&what, &broken, outcome.json(), &cost);
            let goal = if senders == 1024 { "≥ 10k" } else { "" };
            self.rows.push(
                Row::new(format!("{what}: acks/s"), outcome.rate, "")
                    .goal(goal)
                    .cost(&cost)
                    .note(format!(
                        "p50 {:.1} ms, p99 {:.1} ms; {}; {} sent again",
                        outcome.latency.quantile_ms(0.5),
                        outcome.latency.quantile_ms(0.99),
                        cost.each(outcome.acks as f64, "an ack"),
                        outcome.again,
                    )),
            );
            self.settle()?;
        }
        Ok(())
    }

    fn pods(&mut self) -> Result<()> {
        // One sender and one reader in each room, on different pods.
        let shape = Shape {
            rooms: 10,
            members: 2,
            senders: 1,
            bytes: TEXT_BYTES,
        };
        let mut group = Group::join(&self.processes.target(), shape, None)?;
        let measure = self.seconds(10.0, 4.0);
        let (outcome, cost) = self.costing(|_| {
            group.run(Load::Rate {
                per_sec: 1000.0,
                warm_up: Duration::from_secs(1),
                measure,
            })
        })?;
        let what = "1,000 messages/s, from one pod to the other";
        self.keep(what, &outcome.broken(), outcome.json(), &cost);
        let [here, there] = &outcome.delivery_by_pod[..] else {
            bail!("there are not two pods");
        };
        let added = |quantile| there.quantile_ms(quantile) - here.quantile_ms(quantile);
        self.rows.push(
            Row::new(format!("{what}: p50"), there.quantile_ms(0.5), "ms")
                .cost(&cost)
                .note(format!(
                    "p99 {:.1} ms; on the sender's pod p50 {:.1} ms, p99 {:.1} ms",
                    there.quantile_ms(0.99),
                    here.quantile_ms(0.5),
                    here.quantile_ms(0.99),
                )),
        );
        self.rows.push(
            Row::new("the same: what the other pod adds, p50", added(0.5), "ms")
                .goal("≤ 8 ms")
                .note(format!("p99 {:.1} ms", added(0.99))),
        );
        self.settle()
    }

    fn fanout(&mut self) -> Result<()> {
        let shape = Shape {
            rooms: 1,
            members: 100,
            senders: 10,
            bytes: TEXT_BYTES,
        };
        let target = self.processes.target();
        let plan = Search {
            p99_ms_max: 200.0,
            first: 50_000.0,
            step: self.seconds(2.0, 1.0),
            confirm: self.seconds(4.0, 2.0),
            within: self.seconds(30.0, 10.0),
        };
        let found = fanout::search(&target, shape, None, plan)?;
        self.settle()?;
        let half = found.best.rate / 2.0;
        let mut group = Group::join(&target, shape, None)?;
        let measure = self.seconds(5.0, 2.0);
        let (outcome, cost) = self.costing(|_| {
            group.run(Load::Rate {
                per_sec: half / shape.members as f64,
                warm_up: Duration::ZERO,
                measure,
            })
        })?;
        let what = "one room of 100 over both pods";
        let broken = [found.best.broken(), outcome.broken()].concat();
        let detail = json!({"search": found.json(), "half": outcome.json()});
        self.keep(what, &broken, detail, &cost);
        self.rows.push(
            Row::new(format!("{what}: most deliveries/s"), found.best.rate, "")
                .note(format!("p99 {:.0} ms", found.best.p99_ms)),
        );
        let chats = cost.of("chat 1") + cost.of("chat 2");
        self.rows.push(
            Row::new(
                "the same at half of it: processor time of the pods per delivery",
                chats / outcome.delivered.max(1) as f64,
                "µs",
            )
            .cost(&cost)
            .note(format!(
                "p50 {:.1} ms, p99 {:.1} ms",
                outcome.p50_ms, outcome.p99_ms
            )),
        );
        self.settle()
    }

    fn storm(&mut self) -> Result<()> {
        let plan = storm::Plan {
            clients: 1000,
            rooms: 10,
            missed: 100,
            bytes: TEXT_BYTES,
        };
        let target = self.processes.target();
        let runs = if self.options.quick { 1 } else { 3 };
        let (mut outcomes, cost) = self.costing(|_| {
            (0..runs)
                .map(|_| storm::run(&target, plan, None))
                .collect::<Result<Vec<_>>>()
        })?;
        outcomes.sort_by_key(|outcome| outcome.last_has_all);
        let broken: Vec<String> = outcomes
            .iter()
            .flat_map(|outcome| outcome.faults.lines())
            .collect();
        let detail = outcomes.iter().map(storm::Outcome::json).collect();
        let what = "1,000 clients come back 100 messages behind";
        self.keep(what, &broken, detail, &cost);
        let median = outcomes[outcomes.len() / 2].last_has_all.as_secs_f64() * 1e3;
        self.rows.push(
            Row::new(format!("{what}: the last has all"), median, "ms")
                .note(format!("median of {runs}")),
        );
        self.settle()
    }

    fn drain(&mut self) -> Result<()> {
        self.processes.stop_worker()?;
        let target = self.processes.target();
        let (messages, name) = (self.messages(), fresh_name());
        let rooms: Vec<String> = (0..FILLED_ROOMS)
            .map(|room| format!("{name}-{room}"))
            .collect();
        let plan = acks::Plan::fill(rooms, FILLER.to_owned(), messages, 1024);
        let (filled, cost) = self.costing(|_| acks::run(&target, &plan, None, false))?;
        let what =
            format!("{messages} messages into {FILLED_ROOMS} rooms, 1,024 under way, no worker");
        let broken = filled.faults.lines();
        self.keep(&what, &broken, filled.json(), &cost);
        self.rows.push(
            Row::new(format!("{what}: acks/s"), filled.rate, "")
                .goal("≥ 10k")
                .cost(&cost)
                .note(format!(
                    "{}; {} sent again",
                    cost.each(filled.acks as f64, "an ack"),
                    filled.again
                )),
        );
        ensure!(
            filled.acks == messages,
            "only {} of {messages} messages were acked; nothing else can be measured: {}",
            filled.acks,
            broken.join("; ")
        );
        let (rate, cost) = self.costing(|bench| bench.store(messages))?;
        let what = "the worker stores what has waited";
        let detail = json!({"events": messages, "events_per_sec": rate});
        self.keep(what, &[], detail, &cost);
        self.rows.push(
            Row::new(format!("{what}: events/s"), rate, "")
                .goal("≥ 25k")
                .cost(&cost)
                .note(cost.each(messages as f64, "an event")),
        );
        Ok(())
    }

    /// Starts the worker; answers how many events a second it stores, from its first batch on.
    fn store(&mut self, messages: u64) -> Result<f64> {
        self.processes.start_worker()?;
        let began = Instant::now();
        let mut first = None;
        loop {
            std::thread::sleep(SAMPLE);
            // Its port opens a moment after it was started.
            let stored = self.processes.stored().unwrap_or(0);
            progress(&format!("the worker has stored {stored} of {messages}"));
            if stored > 0 {
                let (at, before) = *first.get_or_insert((Instant::now(), stored));
                if stored >= messages {
                    progress_done();
                    let took = at.elapsed().as_secs_f64().max(1e-3);
                    return Ok((stored - before) as f64 / took);
                }
            }
            ensure!(
                began.elapsed() < DRAIN_MAX,
                "after {DRAIN_MAX:?} only {stored} of {messages} events were stored"
            );
        }
    }

    /// Right after what waited was stored, while its index is being merged; and once that is done.
    fn search(&mut self) -> Result<()> {
        self.search_now("right after that")?;
        self.merged()?;
        self.search_now("once the index is merged")
    }

    /// Waits until the worker merges no more.
    fn merged(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut last = (began, self.processes.merges()?);
        while last.0.elapsed() < MERGED_AFTER {
            std::thread::sleep(SAMPLE);
            let merges = self.processes.merges()?;
            if merges != last.1 {
                last = (Instant::now(), merges);
            }
            ensure!(
                began.elapsed() < DRAIN_MAX,
                "after {DRAIN_MAX:?} the index is still being merged"
            );
        }
        Ok(())
    }

    fn search_now(&mut self, when: &str) -> Result<()> {
        let target = self.processes.target();
        let plan = http::Plan {
            path: "/v1/search?q={word}&limit=20".to_owned(),
            number_max: 1,
            user: FILLER.to_owned(),
            rate: 50.0,
            time: self.seconds(15.0, 5.0),
            connections: 16,
        };
        let (outcome, cost) = self.costing(|_| http::run(&target, &plan, None))?;
        let messages = self.messages();
        let what = format!(
            "search of a word in all {FILLED_ROOMS} rooms of a user, {messages} messages, {}/s, {when}",
            plan.rate
        );
        self.keep(&what, &outcome.faults.lines(), outcome.json(), &cost);
        let requests = plan.rate * plan.time.as_secs_f64();
        self.rows.push(
            Row::new(
                format!("{what}: p99"),
                outcome.latency.quantile_ms(0.99),
                "ms",
            )
            .goal("≤ 20 ms")
            .cost(&cost)
            .note(format!(
                "p50 {:.1} ms; {}",
                outcome.latency.quantile_ms(0.5),
                cost.each(requests, "a search"),
            )),
        );
        Ok(())
    }

    /// Writes both files and answers the Markdown.
    fn write(&self, settings: &Value, took: Duration) -> Result<String> {
        let table = format!(
            "{}\n{}",
            self.headline(settings, took),
            table::markdown(&self.rows)
        );
        let all = json!({
            "settings": settings,
            "took_secs": took.as_secs(),
            "rows": table::json_rows(&self.rows),
            "details": self.details,
            "trouble": self.trouble,
        });
        let json = serde_json::to_string_pretty(&all)? + "\n";
        for (file, text) in [
            (&self.options.json, &json),
            (&self.options.markdown, &table),
        ] {
            std::fs::write(file, text)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(table)
    }

    fn headline(&self, settings: &Value, took: Duration) -> String {
        let machine = &settings["machine"];
        format!(
            "{} × {}, {:.0} GiB, {}; nothing pinned; data on {}. Two chat-services of one HTTP thread each, a history-service, \
             a persistence-worker, Redis with its append-only file, RabbitMQ of one node with quorum queues, a MongoDB set of \
             one member (majority, journalled, a cache of {MONGOD_CACHE_MIB} MiB), and the driver, all on this machine; \
             {TEXT_BYTES}-byte texts. Under the names \
             of processes: how much of one core each used meanwhile. Load average before: {}. Took {:.0} min{}.\n",
            machine["cores"],
            machine["processor"].as_str().unwrap_or_default(),
            machine["memory_gib"].as_f64().unwrap_or_default(),
            machine["kernel"].as_str().unwrap_or_default(),
            settings["file_system"].as_str().unwrap_or_default(),
            settings["load_average_before"].as_str().unwrap_or_default(),
            took.as_secs_f64() / 60.0,
            if self.options.quick {
                " (`--quick`)"
            } else {
                ""
            },
        )
    }
}

impl Cost {
    /// Processor time of one process in microseconds.
    fn of(&self, name: &str) -> f64 {
        let one = self.usage.iter().find(|(other, _)| *other == name);
        one.map_or(0.0, |(_, used)| *used as f64)
    }

    /// How much of one core every process used.
    fn cores(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let took = self.took.as_micros().max(1) as f64;
        self.usage
            .iter()
            .map(move |(name, used)| (*name, *used as f64 / took))
    }

    fn json(&self) -> Value {
        let cores: Map<String, Value> = self
            .cores()
            .map(|(name, cores)| (name.to_owned(), json!(cores)))
            .collect();
        cores.into()
    }

    /// How many cores were busy, and the processor time for each of `count`, of the dearest three processes.
    fn each(&self, count: f64, of: &str) -> String {
        let busy: f64 = self.cores().map(|(_, cores)| cores).sum();
        let mut usage = self.usage.clone();
        usage.retain(|(name, _)| *name != "driver");
        usage.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let parts: Vec<String> = usage
            .iter()
            .take(3)
            .map(|(name, used)| format!("{name} {}", short(*used as f64 / count.max(1.0))))
            .collect();
        format!("{busy:.1} cores in all; µs {of}: {}", parts.join(", "))
    }
}
