//! The directory of the cluster family keeps the promises of the suite, and some of its own, on real servers.
#![cfg(feature = "cluster")]

mod caching;
mod functions;
mod indexes;
mod orphans;
mod outage;
mod stage;

use backend::Backends;
use stage::Stage;

async fn run(test: impl AsyncFnOnce(&Backends)) {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let family = stage.family().await;
    test(&family).await;
    family.health.close().await;
}

backend::conformance_suite! { @tests run
    directory: rooms_are_made_once, direct_rooms_are_one_per_pair, patches_are_announced,
        deleted_rooms_stay_deleted, listings, members_come_and_go, members_are_listed_by_name,
        the_last_owner_stays, private_rooms_are_never_empty, the_first_in_an_empty_room_owns_it,
        roles_and_departures_at_once, cursors_only_go_up, invites, invites_are_bounded,
        announcements_wait_until_done,
        changes_are_seen_at_once, many_change_at_once;
}
