//! The whole benchmark: starts each program, drives it, and puts the figures side by side.
//!
//! Figures are only comparable within one run on one machine: the table shows the reference's and the bare epoll loop's
//! beside ours.

mod programs;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::fanout::{Found, Search};
use crate::group::{Group, Load, Outcome, Shape};
use crate::report::{progress, progress_done};
use crate::{acks, disk, fanout, http, idle, process, stalled, storm};
use programs::{DARDA_SETTINGS, Places, Program};
use table::Row;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// The server under test.
    #[arg(long, default_value = "target/release/standalone")]
    standalone: PathBuf,
    /// Folder of the reference programs.
    #[arg(long, default_value = "loadgen/reference")]
    reference: PathBuf,
    /// Where data goes while it runs: this disk is measured.
    #[arg(long, default_value = "target")]
    data: PathBuf,
    /// Shorter runs, fewer cases: about three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Measures the reference and the floor alone.
    #[arg(long)]
    without_darda: bool,
    /// All figures as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// The table as Markdown; it is printed as well.
    #[arg(long, default_value = "target/bench.md")]
    markdown: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One room of 100.
    Fanout100,
    /// One room of 1,000.
    Fanout1000,
    /// A hundred rooms of ten, all of them talking.
    Rooms,
    Burst,
    Idle,
    Acks,
    Storm,
    Stalled,
    History,
}

const PARTS: [Part; 9] = [
    Part::Fanout100,
    Part::Fanout1000,
    Part::Rooms,
    Part::Burst,
    Part::Idle,
    Part::Acks,
    Part::Storm,
    Part::Stalled,
    Part::History,
];

const TEXT_BYTES: usize = 100;
/// What Darda adds to a text in an `event`; the floor writes frames of the same length. Replaced by what is measured.
const EVENT_BYTES: f64 = 320.0;
/// A frame of the echo protocol without its padding: `{"pad":"","text":""}` and the text.
const PADDED_BYTES: f64 = 20.0 + TEXT_BYTES as f64;

struct Bench<'a> {
    options: &'a Options,
    places: Places,
    rows: Vec<Row>,
    details: Map<String, Value>,
    /// Promises that were broken, and parts that could not be run.
    trouble: Vec<String>,
}

/// Runs everything; answers whether all parts ran and all promises were kept.
pub fn run(options: &Options) -> Result<bool> {
    std::fs::create_dir_all(&options.data)?;
    let places = Places {
        standalone: options.standalone.clone(),
        reference: options.reference.clone(),
        data: options.data.canonicalize()?,
        pinned: programs::pin_driver(),
    };
    places.prepare_reference()?;
    let mut bench = Bench {
        options,
        places,
        rows: Vec::new(),
        details: Map::new(),
        trouble: Vec::new(),
    };
    let began = Instant::now();
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
        let shape = |rooms, members, senders| Shape {
            rooms,
            members,
            senders,
            bytes: TEXT_BYTES,
        };
        match part {
            Part::Fanout100 => self.fanout("fan-out to 100", shape(1, 100, 10), part),
            Part::Fanout1000 => self.fanout("fan-out to 1,000", shape(1, 1000, 10), part),
            Part::Rooms => self.fanout("100 rooms of 10, all send", shape(100, 10, 10), part),
            Part::Burst => self.burst(shape(1, 100, 10)),
            Part::Idle => self.idle(),
            Part::Acks => self.acks(),
            Part::Storm => self.storm(),
            Part::Stalled => self.stalled(),
            Part::History => self.history(),
        }
    }

    fn settings(&self) -> Value {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        json!({
            "machine": process::machine(),
            "pinned": self.places.pinned,
            "file_system": process::file_system(&self.places.data),
            "load_average_before": load.split(' ').next(),
            "darda": DARDA_SETTINGS.map(|(name, value)| format!("{name}={value}")),
            "quick": self.options.quick,
        })
    }

    /// Runs something against a fresh program. Darda is left out where the options say so.
    fn with<T>(
        &self,
        program: Program,
        measure: impl FnOnce(&programs::Running) -> Result<T>,
    ) -> Result<Option<T>> {
        if program == Program::Darda && self.options.without_darda {
            return Ok(None);
        }
        progress(&format!("starting {program:?}"));
        let running = self
            .places
            .start(program)
            .with_context(|| format!("{program:?} did not start"))?;
        let result = measure(&running).with_context(|| format!("{program:?}"))?;
        progress_done();
        Ok(Some(result))
    }

    fn keep(&mut self, what: &str, program: Program, broken: &[String], detail: Value) {
        self.trouble.extend(
            broken
                .iter()
                .map(|line| format!("{what}, {program:?}: {line}")),
        );
        self.details.insert(format!("{what}, {program:?}"), detail);
    }

    fn fanout(&mut self, what: &str, shape: Shape, part: Part) -> Result<()> {
        let quick = self.options.quick;
        let seconds =
            |full: f64, short: f64| Duration::from_secs_f64(if quick { short } else { full });
        let plan = |first: f64| Search {
            p99_ms_max: 200.0,
            first,
            step: seconds(2.0, 1.0),
            confirm: seconds(4.0, 1.5),
            within: seconds(40.0, 10.0),
        };
        let mut frame_bytes = EVENT_BYTES;
        let mut find = |bench: &mut Self, program: Program, first: f64| -> Result<Option<Found>> {
            let found = bench.with(program, |running| {
                let mut target = running.target.clone();
                if matches!(program, Program::Floor { .. }) {
                    target.pad_bytes = (frame_bytes - PADDED_BYTES).max(0.0) as usize;
                }
                fanout::search(&target, shape, Some(running.pid), plan(first))
            })?;
            if let Some(found) = &found {
                let broken = [found.best.broken(), found.half.broken()].concat();
                bench.keep(what, program, &broken, found.json());
                if program == Program::Darda {
                    frame_bytes = found.half.frame_bytes;
                }
            }
            Ok(found)
        };
        let ours = find(self, Program::Darda, 200_000.0);
        let reference = find(self, Program::Ws, 50_000.0)?;
        let gathered = find(self, Program::Floor { frames: 64 }, 400_000.0)?;
        let single = if quick || part == Part::Rooms {
            None
        } else {
            find(self, Program::Floor { frames: 1 }, 50_000.0)?
        };
        let figures = |pick: &dyn Fn(&Found) -> Option<f64>, found: &Option<Found>| {
            found.as_ref().and_then(pick)
        };
        // What the others gave is shown even when ours could not be measured.
        let (ours, failed) = match ours {
            Ok(ours) => (ours, None),
            Err(error) => (None, Some(error)),
        };
        let mut row =
            |name: &str, unit: &'static str, pick: &dyn Fn(&Found) -> Option<f64>, note: String| {
                self.rows.push(
                    Row::new(format!("{what}: {name}"), unit)
                        .ours(figures(pick, &ours))
                        .reference(figures(pick, &reference))
                        .floor(figures(pick, &gathered), figures(pick, &single))
                        .note(note),
                );
            };
        let busy = ours.as_ref().map_or(String::new(), |found| {
            let server = found.best.server_busy.unwrap_or(0.0) * 100.0;
            format!(
                "server {server:.0} % busy, driver {:.0} %",
                found.best.driver_busy * 100.0
            )
        });
        row(
            "max sustained deliveries/s",
            "",
            &|found| Some(found.best.rate),
            busy,
        );
        row(
            "server CPU per delivery at half",
            "µs",
            &|found| found.half.cpu_us,
            String::new(),
        );
        row(
            "p50 at half",
            "ms",
            &|found| Some(found.half.p50_ms),
            String::new(),
        );
        row(
            "p99 at half",
            "ms",
            &|found| Some(found.half.p99_ms),
            String::new(),
        );
        failed.map_or(Ok(()), Err)
    }

    fn burst(&mut self, shape: Shape) -> Result<()> {
        let messages = 1000;
        let mut one = |program: Program| -> Result<Option<Outcome>> {
            let outcome = self.with(program, |running| {
                Group::join(&running.target, shape, Some(running.pid))?
                    .run(Load::Burst { messages })
            })?;
            if let Some(outcome) = &outcome {
                self.keep("burst", program, &outcome.broken(), outcome.json());
            }
            Ok(outcome)
        };
        let (ours, reference) = (one(Program::Darda)?, one(Program::Ws)?);
        let floor = one(Program::Floor { frames: 64 })?;
        let took = |outcome: &Option<Outcome>| {
            outcome
                .as_ref()
                .map(|outcome| outcome.took.as_secs_f64() * 1e3)
        };
        self.rows.push(
            Row::new("burst of 1,000 messages to 100: the last delivery", "ms")
                .ours(took(&ours))
                .reference(took(&reference))
                .floor(took(&floor), None),
        );
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        let counts: &[usize] = if self.options.quick {
            &[2_000]
        } else {
            &[2_000, 10_000]
        };
        for &count in counts {
            let mut one = |program: Program| -> Result<Option<idle::Outcome>> {
                let outcome = self.with(program, |running| {
                    idle::run(&running.target, count, 10, running.pid)
                })?;
                if let Some(outcome) = &outcome {
                    self.keep(&format!("idle {count}"), program, &[], outcome.json());
                }
                Ok(outcome)
            };
            let (ours, reference) = (one(Program::Darda)?, one(Program::Ws)?);
            let mut row = |name: &str, unit: &'static str, pick: &dyn Fn(&idle::Outcome) -> f64| {
                self.rows.push(
                    Row::new(format!("{count} idle joined connections: {name}"), unit)
                        .ours(ours.as_ref().map(pick))
                        .reference(reference.as_ref().map(pick)),
                );
            };
            row("RSS each", "KiB", &|outcome| outcome.rss_kib_each);
            row(
                "CPU to connect and join for the first time",
                "µs",
                &|outcome| outcome.first_cpu_us,
            );
            row("CPU to come back", "µs", &|outcome| outcome.again_cpu_us);
        }
        Ok(())
    }

    fn acks(&mut self) -> Result<()> {
        let time = Duration::from_secs_f64(if self.options.quick { 2.0 } else { 5.0 });
        let bare = disk::run(&self.places.data, Duration::from_secs(1))?;
        self.details.insert("fdatasync".to_owned(), bare.json());
        self.rows.push(
            Row::new("bare fdatasync of 4 KiB: p50", "ms")
                .floor(bare.quantile_ms(0.5), None)
                .note(format!("p99 {:.2} ms", bare.quantile_ms(0.99))),
        );
        let results = self.with(Program::Darda, |running| {
            [1, 16, 256]
                .into_iter()
                .map(|senders| {
                    let plan = acks::Plan::closed_loop(senders, 16, TEXT_BYTES, time);
                    Ok((
                        senders,
                        acks::run(&running.target, &plan, Some(running.pid), true)?,
                    ))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        for (senders, outcome) in results.unwrap_or_default() {
            let what = format!("durable acks, {senders} sending");
            self.keep(
                &what,
                Program::Darda,
                &outcome.faults.lines(),
                outcome.json(),
            );
            self.rows.push(
                Row::new(format!("{what}: acks/s"), "")
                    .ours(outcome.rate)
                    .note(format!(
                        "p50 {:.2} ms, p99 {:.2} ms, server CPU {:.0} µs an ack",
                        outcome.latency.quantile_ms(0.5),
                        outcome.latency.quantile_ms(0.99),
                        outcome.cpu_us.unwrap_or(0.0)
                    )),
            );
        }
        Ok(())
    }

    fn storm(&mut self) -> Result<()> {
        let plan = storm::Plan {
            clients: 1000,
            rooms: 10,
            missed: 100,
            bytes: TEXT_BYTES,
        };
        let runs = if self.options.quick { 1 } else { 3 };
        let mut one = |program: Program| -> Result<Option<f64>> {
            let outcomes = self.with(program, |running| {
                (0..runs)
                    .map(|_| storm::run(&running.target, plan, Some(running.pid)))
                    .collect::<Result<Vec<_>>>()
            })?;
            let Some(mut outcomes) = outcomes else {
                return Ok(None);
            };
            outcomes.sort_by_key(|outcome| outcome.last_has_all);
            let broken: Vec<String> = outcomes
                .iter()
                .flat_map(|outcome| outcome.faults.lines())
                .collect();
            let detail = outcomes.iter().map(storm::Outcome::json).collect();
            let median = outcomes[outcomes.len() / 2].last_has_all.as_secs_f64() * 1e3;
            self.keep("storm", program, &broken, detail);
            Ok(Some(median))
        };
        let (ours, reference) = (one(Program::Darda)?, one(Program::Socketio)?);
        self.rows.push(
            Row::new(
                "1,000 clients come back 100 messages behind: the last has all",
                "ms",
            )
            .ours(ours)
            .reference(reference)
            .note(format!(
                "reference: Socket.IO, recovery in memory; median of {runs}"
            )),
        );
        Ok(())
    }

    fn stalled(&mut self) -> Result<()> {
        let plan = stalled::Plan {
            readers: 20,
            stalled: 100,
            per_sec: 1000.0,
            bytes: 1000,
            time: Duration::from_secs(if self.options.quick { 3 } else { 5 }),
        };
        let mut one = |program: Program| -> Result<Option<stalled::Outcome>> {
            let outcome = self.with(program, |running| {
                stalled::run(&running.target, plan, running.pid)
            })?;
            if let Some(outcome) = &outcome {
                self.keep("stalled", program, &outcome.broken, outcome.json());
            }
            Ok(outcome)
        };
        let (ours, reference) = (one(Program::Darda)?, one(Program::Ws)?);
        let note = ours.as_ref().map_or(String::new(), |outcome| {
            format!(
                "{} of {} had everything in the end, {} were closed",
                outcome.caught_up, plan.stalled, outcome.closed
            )
        });
        let mut row = |name: &str,
                       unit: &'static str,
                       note: String,
                       pick: &dyn Fn(&stalled::Outcome) -> f64| {
            self.rows.push(
                Row::new(name, unit)
                    .ours(ours.as_ref().map(pick))
                    .reference(reference.as_ref().map(pick))
                    .note(note),
            );
        };
        row(
            "reader that stopped reading: RSS",
            "KiB",
            note,
            &|outcome| outcome.rss_kib_each,
        );
        row(
            "the same: kernel memory",
            "KiB",
            String::new(),
            &|outcome| outcome.tcp_kib_each,
        );
        row(
            "the others' p99 meanwhile",
            "ms",
            String::new(),
            &|outcome| outcome.during.p99_ms,
        );
        Ok(())
    }

    fn history(&mut self) -> Result<()> {
        let messages: u64 = if self.options.quick {
            100_000
        } else {
            1_000_000
        };
        let requests = |path: &str| http::Plan {
            path: path.to_owned(),
            number_max: messages,
            user: "filler".to_owned(),
            rate: 200.0,
            time: Duration::from_secs(if self.options.quick { 3 } else { 10 }),
            connections: 16,
        };
        let results = self.with(Program::Darda, |running| {
            let plan =
                acks::Plan::fill(vec!["big".to_owned()], "filler".to_owned(), messages, 1024);
            let filled = acks::run(&running.target, &plan, Some(running.pid), false)?;
            let page = requests("/v1/rooms/big/messages?before={n}&limit=50");
            let search = requests("/v1/search?room=big&q={word}&limit=20");
            Ok((
                filled,
                http::run(&running.target, &page, Some(running.pid))?,
                http::run(&running.target, &search, Some(running.pid))?,
            ))
        })?;
        let Some((filled, page, search)) = results else {
            return Ok(());
        };
        let room = format!("room of {messages} messages");
        self.keep(
            &format!("{room}, filling"),
            Program::Darda,
            &filled.faults.lines(),
            filled.json(),
        );
        self.rows
            .push(Row::new(format!("{room}: written at, acks/s"), "").ours(filled.rate));
        for (name, outcome) in [("a page of 50", page), ("search, 20 found", search)] {
            let what = format!("{room}: {name} at 200/s");
            self.keep(
                &what,
                Program::Darda,
                &outcome.faults.lines(),
                outcome.json(),
            );
            self.rows.push(
                Row::new(format!("{what}: p99"), "ms")
                    .ours(outcome.latency.quantile_ms(0.99))
                    .note(format!("p50 {:.2} ms", outcome.latency.quantile_ms(0.5))),
            );
        }
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
        std::fs::write(
            &self.options.json,
            serde_json::to_string_pretty(&all)? + "\n",
        )
        .with_context(|| format!("cannot write {}", self.options.json.display()))?;
        std::fs::write(&self.options.markdown, &table)
            .with_context(|| format!("cannot write {}", self.options.markdown.display()))?;
        Ok(table)
    }

    fn headline(&self, settings: &Value, took: Duration) -> String {
        let machine = &settings["machine"];
        let pinned = if self.places.pinned {
            "server on core 0, driver on core 1"
        } else {
            "not pinned"
        };
        format!(
            "{} × {}, {:.0} GiB, {}; {pinned}; data on {} with fsync before every ack; {TEXT_BYTES}-byte texts; \
             a rate counts while 99 of 100 deliveries take at most 200 ms. \
             Reference: a broadcaster on npm `ws` (`loadgen/reference/ws.mjs`) that keeps nothing. \
             The bare epoll loop writes frames as long as Darda's. Load average before: {}. Took {:.0} min{}.\n",
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
