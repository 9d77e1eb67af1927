//! Explores small configurations to the end.

mod safeguards;
mod whole;

use model::{Config, Log, NOTHING_IS_PARKED, PROMISES, State};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

const AN_ACK: &str = "an ack";
const AN_ACK_AGAIN: &str = "an ack given again";
const A_HELPED_EVENT: &str = "an event helped through";
const A_SECOND_GENERATION: &str = "a second generation open";
const A_FENCE: &str = "a fence shown";
const ALL_MESSAGES: &str = "all messages shown";

/// A configuration from settings as the program takes them.
fn config(settings: &str) -> Config {
    let mut config = Config::default();
    for setting in settings.split_whitespace() {
        config.set(setting).unwrap();
    }
    config
}

/// Explores the whole space, in which every promise must hold, and returns what happened in it at least once.
fn explore(config: Config) -> Vec<&'static str> {
    // What a broker that does not agree with itself lets in too late is parked, and nobody was told of it.
    let may_park = !config.servers.broker_agrees;
    let checker = Log { config }
        .checker()
        .finish_when(HasDiscoveries::AnyOf(PROMISES.into()))
        .spawn_bfs()
        .join();
    let mut seen = Vec::new();
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        match property.expectation {
            _ if may_park && property.name == NOTHING_IS_PARKED => {}
            Expectation::Always => {
                assert!(
                    found.is_none(),
                    "{}:{}",
                    property.name,
                    trace(found.as_ref())
                );
            }
            _ => seen.extend(found.map(|_| property.name)),
        }
    }
    assert!(checker.is_done());
    println!(
        "{} states, depth {}",
        checker.unique_state_count(),
        checker.max_depth()
    );
    seen
}

/// The steps of a counter-example.
fn trace(path: Option<&Path<State, model::Action>>) -> String {
    let actions = path.cloned().map(Path::into_actions).unwrap_or_default();
    actions
        .iter()
        .map(|action| format!("\n  {action:?}"))
        .collect()
}
