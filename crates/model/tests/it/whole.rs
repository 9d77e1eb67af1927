//! With every safeguard the promises hold in the whole space of a configuration.

use crate::{
    A_FENCE, A_HELPED_EVENT, A_SECOND_GENERATION, ALL_MESSAGES, AN_ACK, AN_ACK_AGAIN, config,
    explore,
};

fn holds(settings: &str, happens: &[&str]) {
    let seen = explore(config(&format!("{settings} symmetry=1")));
    for what in happens {
        assert!(seen.contains(what), "{what} never happens with {settings}");
    }
}

#[test]
fn two_messages_lost_confirms_and_help() {
    holds(
        "messages=2 sends=3 lost_confirms=1 helps=1",
        &[AN_ACK, AN_ACK_AGAIN, A_HELPED_EVENT, ALL_MESSAGES],
    );
}

#[test]
fn a_worker_and_a_pod_that_die() {
    holds(
        "sends=2 worker_crashes=1 crashes=1 lost_confirms=1 helps=1",
        &[AN_ACK_AGAIN, A_HELPED_EVENT, ALL_MESSAGES],
    );
}

#[test]
fn a_pod_dies_with_its_event_and_the_retry_comes_in_the_next_generation() {
    holds(
        "sends=2 generations=1 crashes=1 helps=1 flushes=1",
        &[
            AN_ACK_AGAIN,
            A_HELPED_EVENT,
            A_SECOND_GENERATION,
            A_FENCE,
            ALL_MESSAGES,
        ],
    );
}

#[test]
fn two_pods_seed_a_cold_room_that_is_flushed_and_expires() {
    holds(
        "messages=2 sends=2 cold=1 expiries=1 flushes=1 generations=1",
        &[AN_ACK, A_SECOND_GENERATION, A_FENCE, ALL_MESSAGES],
    );
}

#[test]
fn redis_comes_back_empty_or_as_an_older_copy() {
    holds(
        "messages=2 sends=2 generations=1 restarts=1",
        &[AN_ACK, A_SECOND_GENERATION, A_FENCE, ALL_MESSAGES],
    );
}

#[test]
fn two_primaries_and_a_publish_of_the_former_one_that_comes_late() {
    holds(
        "sends=2 generations=1 failovers=1 lost_confirms=1",
        &[AN_ACK_AGAIN, A_SECOND_GENERATION, A_FENCE, ALL_MESSAGES],
    );
}

#[test]
fn two_primaries_and_openings_that_are_abandoned() {
    holds(
        "sends=2 generations=2 failovers=1",
        &[AN_ACK_AGAIN, A_FENCE, ALL_MESSAGES],
    );
}

#[test]
fn openings_are_abandoned_again_and_again() {
    holds(
        "sends=2 generations=3 flushes=1",
        &[AN_ACK_AGAIN, A_FENCE, ALL_MESSAGES],
    );
}

#[test]
fn the_exchange_loses_its_binding() {
    holds(
        "sends=2 generations=1 unbinds=1 helps=1 lost_confirms=1",
        &[
            AN_ACK_AGAIN,
            A_HELPED_EVENT,
            A_SECOND_GENERATION,
            ALL_MESSAGES,
        ],
    );
}

#[test]
fn redis_forgets_what_is_stored_and_then_all() {
    holds(
        "sends=2 generations=1 random_ids=1 ages=1 expiries=1 flushes=1",
        &[AN_ACK_AGAIN, A_SECOND_GENERATION, A_FENCE, ALL_MESSAGES],
    );
}
