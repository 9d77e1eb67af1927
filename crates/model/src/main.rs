//! Explores one configuration of the model and says what came out.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use model::{Config, Faults, Log, PROMISES, Safeguards, Servers};
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    let mut config = Config::default();
    let mut seconds = 600;
    let mut by_depth = false;
    let mut parked = false;
    for setting in std::env::args().skip(1) {
        let set = match setting.strip_prefix("seconds=") {
            Some(value) => value
                .parse()
                .map(|value| seconds = value)
                .map_err(|e: std::num::ParseIntError| e.to_string()),
            None if setting == "dfs" => {
                by_depth = true;
                Ok(())
            }
            None if setting == "parked" => {
                parked = true;
                Ok(())
            }
            None => config.set(&setting),
        };
        if let Err(why) = set {
            eprintln!("{why}\n\n{}", usage());
            return ExitCode::from(2);
        }
    }
    let until = if parked {
        HasDiscoveries::AnyFailures
    } else {
        HasDiscoveries::AnyOf(PROMISES.into())
    };
    let begun = Instant::now();
    let checker = Log { config }
        .checker()
        .finish_when(until)
        .timeout(Duration::from_secs(seconds));
    if by_depth {
        report(&checker.spawn_dfs().join(), begun, seconds)
    } else {
        report(&checker.spawn_bfs().join(), begun, seconds)
    }
}

fn report(checker: &impl Checker<Log>, begun: Instant, seconds: u64) -> ExitCode {
    let took = begun.elapsed();
    println!(
        "{} states ({} transitions), depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        took.as_secs_f32()
    );
    let mut broken = false;
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        let found = discoveries.get(property.name);
        let is_promise = matches!(property.expectation, stateright::Expectation::Always);
        let says = match (is_promise, found) {
            (true, None) => "no counter-example".to_owned(),
            (true, Some(path)) => {
                format!("broken after {} steps", path.clone().into_actions().len())
            }
            (false, None) => "never".to_owned(),
            (false, Some(path)) => format!("after {} steps", path.clone().into_actions().len()),
        };
        println!("{:<26} {says}", property.name);
        if let (true, Some(path)) = (is_promise, found) {
            if !broken {
                for (state, action) in path.clone().into_vec() {
                    match action {
                        Some(action) => println!("  {action:?}"),
                        None => println!("  {state:#?}"),
                    }
                }
            }
            broken = true;
        }
    }
    if broken {
        return ExitCode::FAILURE;
    }
    if took > Duration::from_secs(seconds) {
        println!("not complete: {seconds} seconds were over");
        return ExitCode::FAILURE;
    }
    println!("complete");
    ExitCode::SUCCESS
}

fn usage() -> String {
    let names = |names: Vec<&str>| names.join(" ");
    format!(
        "usage: model [<name>=<number>]... [without=<safeguard>]... [seconds=600] [dfs] [parked]\n\
         numbers: {} {} {}\nsafeguards: {}\nassumptions: {}",
        names(Config::NUMBERS.iter().map(|(name, _)| *name).collect()),
        names(Config::SWITCHES.iter().map(|(name, _)| *name).collect()),
        names(Faults::ALL.iter().map(|(name, _)| *name).collect()),
        names(Safeguards::ALL.iter().map(|(name, _)| *name).collect()),
        names(Servers::ALL.iter().map(|(name, _)| *name).collect()),
    )
}
