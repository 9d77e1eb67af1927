//! Every safeguard is needed: without it a promise is broken, in a configuration where none is with it.

use std::collections::HashSet;

use model::{ACKED_IS_KEPT, Log, ONE_ORDER, SEEN_IS_DURABLE, SEND_AGAIN, Safeguards, Servers};
use stateright::{Checker, HasDiscoveries, Model};

use crate::{config, explore, trace};

/// `<what is taken away>: <promise that breaks>, <configuration>`
macro_rules! needed {
    ($($name:ident: $promise:ident, $settings:literal;)*) => {
        $(#[test]
        fn $name() {
            breaks(stringify!($name), $promise, $settings);
        })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

needed! {
    exchange_per_generation: ACKED_IS_KEPT, "sends=2 generations=1 failovers=1";
    old_exchanges_first: ACKED_IS_KEPT, "sends=2 generations=1 failovers=1";
    fence_before_look_up: SEND_AGAIN, "sends=2 generations=1 failovers=1";
    fence_before_reading_on: ONE_ORDER, "sends=2 generations=1 failovers=1";
    seed_ticket: ACKED_IS_KEPT, "messages=2 sends=2 cold=1 expiries=1";
    confirmed_prefix: SEEN_IS_DURABLE, "generations=1 failovers=1";
    ack_after_confirm: ACKED_IS_KEPT, "generations=1 failovers=1";
    mandatory: ACKED_IS_KEPT, "generations=1 unbinds=1";
    generation_check: ACKED_IS_KEPT, "messages=2 sends=2 generations=1 flushes=1";
    seed_per_generation: ACKED_IS_KEPT, "messages=2 sends=2 generations=1 restarts=1";
    verify_redis: ACKED_IS_KEPT, "messages=2 sends=2 generations=1 restarts=1";
    safe_of_generation: ACKED_IS_KEPT, "messages=2 sends=2 generations=1 flushes=1";
    redis_confirms: ACKED_IS_KEPT, "sends=2 generations=1 flushes=1 without=broker_agrees";
    look_up_of_generation: SEND_AGAIN, "sends=2 generations=2 flushes=2 symmetry=1";
    fresh_look_up: SEND_AGAIN, "sends=2 random_ids=1 ages=1";
    safe_without_holes: ACKED_IS_KEPT, "messages=2 sends=2 generations=1 flushes=1";
    closed_before_reading: ONE_ORDER, "messages=2 sends=2 generations=1 flushes=1";
    linearizable_last: ACKED_IS_KEPT, "messages=2 sends=2 cold=1 expiries=1";
    mark_without_holes: ONE_ORDER, "messages=2 sends=2 ages=1";
    insert_before_ack: ACKED_IS_KEPT, "worker_crashes=1";
    expire_when_stored: ACKED_IS_KEPT, "messages=2 sends=2 cold=1 expiries=1";
    broker_agrees: ACKED_IS_KEPT, "sends=2 generations=1 failovers=1";
    redelivers_in_order: ACKED_IS_KEPT, "generations=1 worker_crashes=1 flushes=1";
    connections_end: ACKED_IS_KEPT, "messages=2 sends=2 generations=1 reloads=1";
}

fn breaks(name: &str, promise: &'static str, settings: &str) {
    let settings = format!("{settings} symmetry=1");
    let checker = Log {
        config: config(&format!("{settings} without={name}")),
    };
    let checker = checker
        .checker()
        .finish_when(HasDiscoveries::AnyOf([promise].into()))
        .spawn_bfs()
        .join();
    let found = checker.discovery(promise);
    assert!(
        found.is_some(),
        "{promise} holds without {name} in {settings}"
    );
    println!("{promise}:{}", trace(found.as_ref()));
    explore(config(&settings));
}

#[test]
fn every_safeguard_has_its_test() {
    let all = Safeguards::ALL.iter().map(|(name, _)| *name);
    let all = all.chain(Servers::ALL.iter().map(|(name, _)| *name));
    assert_eq!(
        all.collect::<HashSet<_>>(),
        TESTED.iter().copied().collect()
    );
}
