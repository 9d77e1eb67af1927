//! Promises of the directory.

use std::sync::Arc;

use protocol::{EventBody, MemberChange, Role, RoomChange, Seq, Timestamp, UserId};

use super::{
    act, answered, append, assert_conflict, assert_not_found, assert_refused, room, seq, text, user,
};
use crate::directory::{Cursor, Invite, Member, NewRoom, Room, RoomFilter, RoomKind, RoomPatch};
use crate::{Backends, log::Append};

fn new(id: &str, kind: RoomKind, by: &str) -> NewRoom {
    NewRoom {
        id: room(id),
        kind,
        name: String::new(),
        topic: String::new(),
        by: user(by),
        at: Timestamp::now(),
    }
}

async fn create(family: &Backends, id: &str, kind: RoomKind, by: &str) -> Room {
    let created = family.directory.create_room(new(id, kind, by), None).await;
    created.expect("a new room").value
}

async fn join(family: &Backends, id: &str, name: &str) -> Member {
    put(family, id, name, Role::Member).await
}

async fn put(family: &Backends, id: &str, name: &str, role: Role) -> Member {
    let changed = family
        .directory
        .put_member(&room(id), &user(name), role, &user(name))
        .await;
    changed.expect("a member").value
}

async fn member(family: &Backends, id: &str, name: &str) -> Option<Member> {
    let found = family.directory.member(&room(id), &user(name)).await;
    found.expect("an answer")
}

async fn get(family: &Backends, id: &str) -> Option<Room> {
    family.directory.room(&room(id)).await.expect("an answer")
}

fn bodies(announce: &[Append]) -> Vec<EventBody> {
    announce.iter().map(|append| append.body.clone()).collect()
}

fn joined(name: &str, role: Role) -> EventBody {
    EventBody::Member {
        user: user(name),
        change: MemberChange::Joined,
        role: Some(role),
    }
}

/// A room is as it was made; its maker owns it; its id is taken.
pub async fn rooms_are_made_once(family: &Backends) {
    assert_eq!(get(family, "general").await, None);
    assert_eq!(member(family, "general", "alice").await, None);
    let made = NewRoom {
        name: "General".to_owned(),
        topic: "All of it".to_owned(),
        ..new("general", RoomKind::Public, "alice")
    };
    let created = family.directory.create_room(made.clone(), None).await;
    let created = created.expect("a new room");
    assert_eq!(created.value.id, made.id);
    assert_eq!(created.value.kind, RoomKind::Public);
    assert_eq!(created.value.name, "General");
    assert_eq!(created.value.topic, "All of it");
    assert_eq!(created.value.created_at, made.at);
    assert_eq!((created.value.members, &created.value.pair), (1, &None));
    assert_eq!(
        bodies(&created.announce),
        [
            EventBody::Room {
                change: RoomChange::Created,
                name: Some("General".to_owned()),
                topic: Some("All of it".to_owned()),
            },
            joined("alice", Role::Owner)
        ]
    );
    assert_eq!(get(family, "general").await, Some(created.value));
    let owner = member(family, "general", "alice").await.expect("the owner");
    assert_eq!(owner.role, Role::Owner);
    assert_eq!((owner.received, owner.read), (Seq::ZERO, Seq::ZERO));

    assert_conflict(family.directory.create_room(made, None).await);
    let other = new("general", RoomKind::Private, "bob");
    assert_conflict(family.directory.create_room(other, None).await);
    assert_eq!(member(family, "general", "bob").await, None);
}

/// Two users have one direct room, whoever asks and whatever id is offered; nobody else gets in or out.
pub async fn direct_rooms_are_one_per_pair(family: &Backends) {
    let directory = &family.directory;
    let direct = |id: &str, by: &str| new(id, RoomKind::Direct, by);
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let made = directory
        .create_room(direct("first", "bob"), Some(&alice))
        .await
        .expect("a direct room");
    assert_eq!(made.value.pair, Some((alice.clone(), bob.clone())));
    assert_eq!(made.value.members, 2);
    assert_eq!(made.announce.len(), 3);
    for (id, by, with) in [("second", "alice", &bob), ("third", "bob", &alice)] {
        let again = directory.create_room(direct(id, by), Some(with)).await;
        let again = again.expect("the same room");
        assert_eq!((&again.value, again.announce.len()), (&made.value, 0));
    }
    for name in ["alice", "bob"] {
        let member = member(family, "first", name).await.expect("a member");
        assert_eq!(member.role, Role::Member);
    }
    let first = room("first");
    assert_refused(
        directory
            .put_member(&first, &carol, Role::Member, &bob)
            .await,
    );
    let same = directory.put_member(&first, &bob, Role::Owner, &bob).await;
    let same = same.expect("a member already");
    assert_eq!((same.value.role, same.announce.len()), (Role::Member, 0));
    assert_refused(directory.set_role(&first, &bob, Role::Owner, &bob).await);
    assert_refused(directory.remove_member(&first, &bob, &bob).await);

    let other = directory
        .create_room(direct("other", "bob"), Some(&carol))
        .await;
    assert_eq!(other.expect("another pair").value.id, room("other"));
    assert_refused(directory.create_room(direct("none", "bob"), None).await);
    assert_refused(
        directory
            .create_room(direct("self", "bob"), Some(&bob))
            .await,
    );

    let racers: Vec<_> = (0..10)
        .map(|number| {
            let directory = Arc::clone(&family.directory);
            let (by, with) = if number % 2 == 0 {
                ("dora", "emil")
            } else {
                ("emil", "dora")
            };
            let room = direct(&format!("race-{number}"), by);
            tokio::spawn(async move { directory.create_room(room, Some(&user(with))).await })
        })
        .collect();
    let mut ids = Vec::new();
    for racer in racers {
        let made = racer.await.expect("a task").expect("a direct room");
        ids.push(made.value.id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one room for all");

    // The room can go, and the pair may have a new one.
    let deleted = directory.delete_room(&first, &bob).await;
    deleted.expect("a deleted room");
    let anew = directory
        .create_room(direct("anew", "alice"), Some(&bob))
        .await;
    assert_eq!(anew.expect("a new room").value.id, room("anew"));
}

/// Name and topic change and are announced, each when it is another one.
pub async fn patches_are_announced(family: &Backends) {
    create(family, "general", RoomKind::Public, "alice").await;
    let patch = async |name: Option<&str>, topic: Option<&str>| {
        let patch = RoomPatch {
            name: name.map(str::to_owned),
            topic: topic.map(str::to_owned),
        };
        let changed = family
            .directory
            .patch_room(&room("general"), patch, &user("alice"))
            .await;
        changed.expect("a changed room")
    };
    let renamed = EventBody::Room {
        change: RoomChange::Renamed,
        name: Some("N".to_owned()),
        topic: None,
    };
    let topic = EventBody::Room {
        change: RoomChange::Topic,
        name: None,
        topic: Some("T".to_owned()),
    };
    let changed = patch(Some("N"), None).await;
    assert_eq!(bodies(&changed.announce), [renamed]);
    let changed = patch(Some("N"), Some("T")).await;
    assert_eq!(bodies(&changed.announce), [topic]);
    assert_eq!(changed.announce[0].from, user("alice"));
    assert!(patch(None, None).await.announce.is_empty());
    let found = get(family, "general").await.expect("the room");
    assert_eq!((found.name.as_str(), found.topic.as_str()), ("N", "T"));
    let nowhere = family
        .directory
        .patch_room(&room("random"), RoomPatch::default(), &user("alice"))
        .await;
    assert_not_found(nowhere);
}

/// A deleted room is gone with all that hung on it, and its id is never given out again.
pub async fn deleted_rooms_stay_deleted(family: &Backends) {
    let directory = &family.directory;
    create(family, "general", RoomKind::Public, "alice").await;
    join(family, "general", "bob").await;
    let general = room("general");
    let invite = Invite {
        code: "code".to_owned(),
        room: general.clone(),
        by: user("alice"),
        uses_left: 5,
        expires_at: Timestamp::from_millis(i64::MAX),
    };
    directory
        .put_invite(invite, Timestamp::now())
        .await
        .expect("an invite");
    append(family, "general", "alice", text("x")).await;
    // Both caches know them.
    assert!(get(family, "general").await.is_some());
    assert!(member(family, "general", "bob").await.is_some());

    let members = directory.delete_room(&general, &user("bob")).await;
    let members = members.expect("a deletion");
    assert_eq!(members, [user("alice"), user("bob")]);
    assert_eq!(get(family, "general").await, None);
    assert_eq!(member(family, "general", "bob").await, None);
    let none = directory.members(&general, None, 10).await;
    assert_eq!(none.expect("members"), []);
    let none = directory.rooms(&user("bob"), &all()).await;
    assert_eq!(none.expect("rooms"), []);
    let none = directory.room_ids(&user("bob"), None, 10).await;
    assert_eq!(none.expect("ids"), []);
    let now = Timestamp::now();
    assert_not_found(directory.redeem_invite("code", &user("carol"), now).await);
    // Nothing but this is told of it any more, and that until somebody has.
    let last = directory.unannounced(10).await.expect("announcements");
    let deleted = EventBody::Room {
        change: RoomChange::Deleted,
        name: None,
        topic: None,
    };
    assert_eq!(bodies(&last), [deleted]);
    assert_eq!((&last[0].room, &last[0].from), (&general, &user("bob")));
    assert_not_found(directory.delete_room(&general, &user("bob")).await);
    let again = new("general", RoomKind::Public, "alice");
    assert_conflict(directory.create_room(again.clone(), None).await);
    family.log.append(last[0].clone()).await.expect("an end");
    family.log.forget(&general).await.expect("a forget");
    directory.announced(&last).await.expect("an end");
    assert_eq!(directory.unannounced(10).await.expect("announcements"), []);
    assert_conflict(directory.create_room(again, None).await);
}

fn all() -> RoomFilter {
    RoomFilter {
        limit: 100,
        ..RoomFilter::default()
    }
}

/// Users see public rooms and their own, in order of id, page by page.
pub async fn listings(family: &Backends) {
    for (id, kind, by) in [
        ("delta", RoomKind::Public, "alice"),
        ("alpha", RoomKind::Public, "bob"),
        ("charlie", RoomKind::Private, "alice"),
        ("bravo", RoomKind::Private, "bob"),
    ] {
        create(family, id, kind, by).await;
    }
    let direct = new("echo", RoomKind::Direct, "bob");
    let made = family
        .directory
        .create_room(direct, Some(&user("carol")))
        .await;
    made.expect("a direct room");
    let patch = RoomPatch {
        name: Some("Große Runde".to_owned()),
        topic: None,
    };
    let patched = family
        .directory
        .patch_room(&room("delta"), patch, &user("alice"))
        .await;
    patched.expect("a changed room");

    let list = async |name: &str, filter: RoomFilter| -> Vec<String> {
        let found = family.directory.rooms(&user(name), &filter).await;
        let found = found.expect("rooms");
        for (room, member) in &found {
            let known = family.directory.member(&room.id, &user(name)).await;
            assert_eq!(*member, known.expect("a membership"));
        }
        found
            .into_iter()
            .map(|(room, _)| room.id.to_string())
            .collect()
    };
    assert_eq!(list("alice", all()).await, ["alpha", "charlie", "delta"]);
    assert_eq!(
        list("bob", all()).await,
        ["alpha", "bravo", "delta", "echo"]
    );
    assert_eq!(list("nobody", all()).await, ["alpha", "delta"]);
    let mine = RoomFilter {
        mine: true,
        ..all()
    };
    assert_eq!(list("bob", mine.clone()).await, ["alpha", "bravo", "echo"]);
    assert_eq!(list("nobody", mine.clone()).await, [""; 0]);
    let ids = async |name: &str, after: Option<&str>, limit| {
        let (name, after) = (user(name), after.map(room));
        let found = family
            .directory
            .room_ids(&name, after.as_ref(), limit)
            .await;
        found.expect("ids")
    };
    let [alpha, bravo, echo] = ["alpha", "bravo", "echo"].map(room);
    assert_eq!(
        ids("bob", None, 10).await,
        [alpha, bravo.clone(), echo.clone()]
    );
    assert_eq!(ids("bob", Some("alpha"), 1).await, [bravo]);
    assert_eq!(ids("bob", Some("charlie"), 2).await, [echo]);
    assert_eq!(ids("nobody", None, 10).await, []);
    let kind = RoomFilter {
        kind: Some(RoomKind::Private),
        ..all()
    };
    assert_eq!(list("bob", kind).await, ["bravo"]);
    for part in ["GROSSE", "große r", "LTA", "%", "_"] {
        let filter = RoomFilter {
            text: Some(part.to_owned()),
            ..all()
        };
        let expected: &[&str] = if ["große r", "LTA"].contains(&part) {
            &["delta"]
        } else {
            &[]
        };
        assert_eq!(list("alice", filter).await, expected, "{part}");
    }
    let page = RoomFilter {
        after: Some(room("alpha")),
        limit: 2,
        ..all()
    };
    assert_eq!(list("bob", page.clone()).await, ["bravo", "delta"]);
    let page = RoomFilter { mine: true, ..page };
    assert_eq!(list("bob", page).await, ["bravo", "echo"]);
}

/// Joining, roles, leaving and removal, with what is announced of each.
pub async fn members_come_and_go(family: &Backends) {
    let directory = &family.directory;
    let general = room("general");
    let (alice, bob) = (user("alice"), user("bob"));
    create(family, "general", RoomKind::Public, "alice").await;
    let put = async |role| {
        let changed = directory.put_member(&general, &bob, role, &alice).await;
        changed.expect("a member")
    };
    let new = put(Role::Member).await;
    assert_eq!(bodies(&new.announce), [joined("bob", Role::Member)]);
    assert_eq!(new.announce[0].from, alice);
    assert_eq!(get(family, "general").await.expect("the room").members, 2);
    assert!(put(Role::Member).await.announce.is_empty());
    let set = async |role| directory.set_role(&general, &bob, role, &alice).await;
    let promoted = set(Role::Admin).await.expect("an admin");
    let again = set(Role::Admin).await.expect("an admin already");
    assert_eq!(
        (again.value, again.announce.len()),
        (promoted.value.clone(), 0)
    );
    let stays = put(Role::Member).await;
    assert_eq!(
        (stays.value, stays.announce.len()),
        (promoted.value.clone(), 0)
    );
    assert_eq!(promoted.value.role, Role::Admin);
    assert_eq!(promoted.value.joined_at, new.value.joined_at);
    assert_eq!(
        bodies(&promoted.announce),
        [EventBody::Member {
            user: bob.clone(),
            change: MemberChange::Role,
            role: Some(Role::Admin),
        }]
    );
    assert_eq!(member(family, "general", "bob").await, Some(promoted.value));

    for (by, change) in [
        ("bob", MemberChange::Left),
        ("alice", MemberChange::Removed),
    ] {
        let gone = directory.remove_member(&general, &bob, &user(by)).await;
        let announced = bodies(&gone.expect("a removal").announce);
        assert_eq!(
            announced,
            [EventBody::Member {
                user: bob.clone(),
                change,
                role: None,
            }]
        );
        assert_eq!(member(family, "general", "bob").await, None);
        assert_eq!(get(family, "general").await.expect("the room").members, 1);
        assert_not_found(directory.remove_member(&general, &bob, &alice).await);
        assert_not_found(set(Role::Admin).await);
        assert_eq!(member(family, "general", "bob").await, None);
        put(Role::Member).await;
    }
    let nowhere = directory
        .put_member(&room("random"), &bob, Role::Member, &bob)
        .await;
    assert_not_found(nowhere);
}

/// Members come in order of name, page by page.
pub async fn members_are_listed_by_name(family: &Backends) {
    create(family, "general", RoomKind::Public, "m").await;
    for name in ["c", "a", "z", "b.b", "b-b"] {
        join(family, "general", name).await;
    }
    let page = async |after: Option<&str>, limit| -> Vec<String> {
        let after = after.map(user);
        let found = family
            .directory
            .members(&room("general"), after.as_ref(), limit)
            .await;
        let found = found.expect("members");
        found
            .into_iter()
            .map(|member| member.user.to_string())
            .collect()
    };
    assert_eq!(page(None, 100).await, ["a", "b-b", "b.b", "c", "m", "z"]);
    assert_eq!(page(Some("b-b"), 2).await, ["b.b", "c"]);
    assert_eq!(page(Some("bb"), 1).await, ["c"]);
    assert_eq!(page(Some("z"), 10).await, [""; 0]);
}

/// Nobody takes the last owner away while others remain.
pub async fn the_last_owner_stays(family: &Backends) {
    let directory = &family.directory;
    let general = room("general");
    let (alice, bob) = (user("alice"), user("bob"));
    create(family, "general", RoomKind::Public, "alice").await;
    join(family, "general", "bob").await;
    let demote = directory
        .set_role(&general, &alice, Role::Admin, &alice)
        .await;
    assert_refused(demote);
    assert_refused(directory.remove_member(&general, &alice, &alice).await);
    let promoted = directory
        .set_role(&general, &bob, Role::Owner, &alice)
        .await;
    promoted.expect("a second owner");
    let left = directory.remove_member(&general, &alice, &alice).await;
    left.expect("one of two owners may go");
    let left = directory.remove_member(&general, &bob, &bob).await;
    left.expect("whoever is alone may go");
    assert_eq!(get(family, "general").await.expect("the room").members, 0);
}

/// Nobody leaves a private room without anybody in it, for nobody could follow.
pub async fn private_rooms_are_never_empty(family: &Backends) {
    let directory = &family.directory;
    for round in 0..20 {
        let id = format!("secret-{round}");
        create(family, &id, RoomKind::Private, "alice").await;
        let secret = room(&id);
        let (alice, bob) = (user("alice"), user("bob"));
        assert_refused(directory.remove_member(&secret, &alice, &alice).await);
        put(family, &id, "bob", Role::Owner).await;
        let leave = |who| {
            let (directory, secret) = (Arc::clone(directory), secret.clone());
            tokio::spawn(async move { directory.remove_member(&secret, &who, &who).await })
        };
        let (one, other) = (leave(alice), leave(bob));
        let (one, other) = (one.await.expect("a task"), other.await.expect("a task"));
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        assert_eq!(get(family, &id).await.expect("the room").members, 1);
    }
}

/// Whoever comes first into a room that everybody left owns it, and nobody else, however many come at once.
pub async fn the_first_in_an_empty_room_owns_it(family: &Backends) {
    let directory = &family.directory;
    for round in 0..20 {
        let id = format!("public-{round}");
        let here = room(&id);
        create(family, &id, RoomKind::Public, "alice").await;
        // The last one leaves while the next ones come.
        let leave = {
            let (directory, here, alice) = (Arc::clone(directory), here.clone(), user("alice"));
            tokio::spawn(async move { directory.remove_member(&here, &alice, &alice).await })
        };
        let joins: Vec<_> = (0..6)
            .map(|number| {
                let (directory, here) = (Arc::clone(directory), here.clone());
                let who = user(&format!("user-{number}"));
                tokio::spawn(
                    async move { directory.put_member(&here, &who, Role::Member, &who).await },
                )
            })
            .collect();
        for join in joins {
            let joined = join.await.expect("a task").expect("a member");
            assert_eq!(
                bodies(&joined.announce),
                [self::joined(joined.value.user.as_str(), joined.value.role)]
            );
        }
        let left = leave.await.expect("a task").is_ok();
        let members = directory.members(&here, None, 10).await.expect("members");
        assert_eq!(members.len(), if left { 6 } else { 7 });
        let owners = members.iter().filter(|member| member.role == Role::Owner);
        assert_eq!(owners.count(), 1);
    }
    let alone = room("public-0");
    let members = directory.members(&alone, None, 10).await.expect("members");
    let (owners, others): (Vec<_>, Vec<_>) = members
        .into_iter()
        .partition(|member| member.role == Role::Owner);
    for member in others.iter().chain(&owners) {
        let gone = directory.remove_member(&alone, &member.user, &member.user);
        gone.await.expect("a removal");
    }
    assert_eq!(join(family, "public-0", "bob").await.role, Role::Owner);
    assert_eq!(join(family, "public-0", "carol").await.role, Role::Member);
}

/// A role is no way back in for somebody who left at the same time, and two owners do not take it from each other.
pub async fn roles_and_departures_at_once(family: &Backends) {
    let directory = &family.directory;
    create(family, "general", RoomKind::Public, "alice").await;
    let general = room("general");
    let (alice, bob) = (user("alice"), user("bob"));
    let set_role = |who: &str, role, by: &str| {
        let (directory, general) = (Arc::clone(directory), general.clone());
        let (who, by) = (user(who), user(by));
        tokio::spawn(async move { directory.set_role(&general, &who, role, &by).await })
    };
    for _ in 0..20 {
        join(family, "general", "bob").await;
        let promotion = set_role("bob", Role::Admin, "alice");
        let left = directory.remove_member(&general, &bob, &bob).await;
        left.expect("a departure");
        let _ = promotion.await.expect("a task");
        assert_eq!(member(family, "general", "bob").await, None);
    }
    put(family, "general", "bob", Role::Owner).await;
    for _ in 0..20 {
        let one = set_role("bob", Role::Member, "alice");
        let other = set_role("alice", Role::Member, "bob");
        let (one, other) = (one.await.expect("a task"), other.await.expect("a task"));
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        for who in [&alice, &bob] {
            let back = directory.set_role(&general, who, Role::Owner, &alice).await;
            back.expect("an owner again");
        }
    }
}

/// Cursors go up, never down, and `received` is never below `read`.
pub async fn cursors_only_go_up(family: &Backends) {
    create(family, "general", RoomKind::Public, "alice").await;
    let advance = async |name: &str, received, read| {
        let cursor = Cursor {
            room: room("general"),
            user: user(name),
            received: seq(received),
            read: seq(read),
        };
        let advanced = family.directory.advance(vec![cursor]).await;
        advanced.expect("an advance");
        let member = member(family, "general", name).await;
        member.map(|member| (member.received.get(), member.read.get()))
    };
    assert_eq!(advance("alice", 5, 3).await, Some((5, 3)));
    assert_eq!(advance("alice", 4, 2).await, Some((5, 3)));
    assert_eq!(advance("alice", 0, 9).await, Some((9, 9)));
    assert_eq!(advance("alice", 12, 0).await, Some((12, 9)));
    assert_eq!(advance("stranger", 5, 5).await, None);
    let listed = family.directory.members(&room("general"), None, 10).await;
    assert_eq!(listed.expect("members")[0].received, seq(12));
    family.directory.advance(Vec::new()).await.expect("nothing");

    let many = (1..=20).map(|number| Cursor {
        room: room("general"),
        user: user("alice"),
        received: seq(100 + number),
        read: seq(number),
    });
    family
        .directory
        .advance(many.collect())
        .await
        .expect("an advance");
    assert_eq!(advance("alice", 0, 0).await, Some((120, 20)));
}

/// An invite lets people in until it is used up or expired.
pub async fn invites(family: &Backends) {
    let directory = &family.directory;
    create(family, "secret", RoomKind::Private, "alice").await;
    let now = Timestamp::now();
    let later = Timestamp::from_millis(now.as_millis() + 60_000);
    let invite = |code: &str, id: &str| Invite {
        code: code.to_owned(),
        room: room(id),
        by: user("alice"),
        uses_left: 2,
        expires_at: later,
    };
    let put = directory.put_invite(invite("code", "secret"), now).await;
    put.expect("an invite");
    assert_conflict(directory.put_invite(invite("code", "secret"), now).await);
    assert_not_found(directory.put_invite(invite("other", "nowhere"), now).await);

    let redeem =
        async |code: &str, name: &str, at| directory.redeem_invite(code, &user(name), at).await;
    assert_not_found(redeem("wrong", "bob", now).await);
    assert_not_found(redeem("code", "bob", later).await);
    let inside = redeem("code", "bob", now).await.expect("a way in");
    assert_eq!((inside.value.id, inside.value.members), (room("secret"), 2));
    assert_eq!(bodies(&inside.announce), [joined("bob", Role::Member)]);
    let again = redeem("code", "bob", now).await.expect("a member already");
    assert!(again.announce.is_empty());
    redeem("code", "carol", now).await.expect("the second use");
    assert_not_found(redeem("code", "dora", now).await);
    assert_eq!(member(family, "secret", "dora").await, None);
}

/// A room has so many invites at a time. They end with the right to invite of whoever made them.
pub async fn invites_are_bounded(family: &Backends) {
    let directory = &family.directory;
    create(family, "secret", RoomKind::Private, "alice").await;
    let secret = room("secret");
    let (alice, bob) = (user("alice"), user("bob"));
    put(family, "secret", "bob", Role::Admin).await;
    let now = Timestamp::now();
    let later = |millis| Timestamp::from_millis(now.as_millis() + millis);
    let invite = async |code: &str, by: &UserId, millis, at| {
        let invite = Invite {
            code: code.to_owned(),
            room: room("secret"),
            by: by.clone(),
            uses_left: 1,
            expires_at: later(millis),
        };
        directory.put_invite(invite, at).await
    };
    for number in 0..100 {
        let made = invite(&format!("code-{number}"), &alice, 1000 + number, now).await;
        made.expect("an invite");
    }
    assert_refused(invite("more", &bob, 1000, now).await);
    // One is used up, one expires.
    let carol = user("carol");
    let inside = directory.redeem_invite("code-50", &carol, now).await;
    inside.expect("a way in");
    invite("of-bob", &bob, 9000, now).await.expect("an invite");
    assert_refused(invite("more", &alice, 9000, now).await);
    let made = invite("of-alice", &alice, 9000, later(1000)).await;
    made.expect("an invite");
    assert_refused(invite("more", &alice, 9000, later(1000)).await);

    let redeem = async |code: &str| {
        let who = user(&format!("with-{code}"));
        directory.redeem_invite(code, &who, now).await
    };
    for outsider in ["carol", "nobody"] {
        assert_refused(invite("more", &user(outsider), 9000, later(5000)).await);
    }
    let demoted = directory
        .set_role(&secret, &bob, Role::Member, &alice)
        .await;
    demoted.expect("a plain member");
    assert_not_found(redeem("of-bob").await);
    for (code, role) in [("as-admin", Role::Admin), ("as-owner", Role::Owner)] {
        let promoted = directory.set_role(&secret, &bob, role, &alice).await;
        promoted.expect("another role");
        let made = invite(code, &bob, 9000, later(5000)).await;
        made.expect("an invite");
    }
    let stepped = directory.set_role(&secret, &bob, Role::Admin, &bob).await;
    stepped.expect("an admin");
    redeem("as-owner").await.expect("a way in");
    let gone = directory.remove_member(&secret, &bob, &alice).await;
    gone.expect("a removal");
    assert_not_found(redeem("as-admin").await);
    redeem("of-alice").await.expect("a way in");
}

/// What is to be announced is kept, oldest first, until it is said to be in the log.
pub async fn announcements_wait_until_done(family: &Backends) {
    let directory = &family.directory;
    let made = directory
        .create_room(new("general", RoomKind::Public, "alice"), None)
        .await
        .expect("a room");
    let joined = directory
        .put_member(&room("general"), &user("bob"), Role::Member, &user("bob"))
        .await
        .expect("a member");
    let expected: Vec<_> = made
        .announce
        .iter()
        .chain(&joined.announce)
        .cloned()
        .collect();
    assert_eq!(expected.len(), 3);
    let waiting = async |limit| directory.unannounced(limit).await.expect("announcements");
    assert_eq!(waiting(10).await, expected);
    assert_eq!(waiting(2).await, expected[..2]);
    for append in &expected {
        assert_eq!(append.room, room("general"));
        answered(&family.log, append.clone())
            .await
            .expect("an append");
    }
    directory.announced(&expected[..2]).await.expect("a note");
    assert_eq!(waiting(10).await, expected[2..]);
    directory.announced(&expected).await.expect("a note");
    assert_eq!(waiting(10).await, []);
    directory.announced(&[]).await.expect("nothing");
}

/// Reads made after a change see it, however often the same was read before.
pub async fn changes_are_seen_at_once(family: &Backends) {
    create(family, "general", RoomKind::Public, "alice").await;
    let general = room("general");
    let reader = {
        let directory = Arc::clone(&family.directory);
        let general = general.clone();
        tokio::spawn(async move {
            loop {
                let _ = directory.member(&general, &user("bob")).await;
                let _ = directory.room(&general).await;
                tokio::task::yield_now().await;
            }
        })
    };
    for round in 1..=50 {
        join(family, "general", "bob").await;
        assert!(member(family, "general", "bob").await.is_some());
        let cursor = Cursor {
            room: general.clone(),
            user: user("bob"),
            received: seq(round),
            read: seq(round),
        };
        let advanced = family.directory.advance(vec![cursor]).await;
        advanced.expect("an advance");
        let now = member(family, "general", "bob").await.expect("a member");
        assert_eq!(now.read, seq(round));
        let gone = family
            .directory
            .remove_member(&general, &user("bob"), &user("bob"))
            .await;
        gone.expect("a removal");
        assert_eq!(member(family, "general", "bob").await, None);
        assert_eq!(get(family, "general").await.expect("the room").members, 1);
    }
    reader.abort();
}

/// Changes and appends made at the same time, good ones and bad ones, do not spoil each other.
pub async fn many_change_at_once(family: &Backends) {
    create(family, "general", RoomKind::Public, "alice").await;
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let family = family.clone();
            tokio::spawn(async move {
                let name = format!("user-{number}");
                join(&family, "general", &name).await;
                let taken = new("general", RoomKind::Public, &name);
                assert_conflict(family.directory.create_room(taken, None).await);
                let appended = answered(&family.log, act("general", &name, text("hi"))).await;
                appended.expect("an append");
                let nowhere = room("nowhere");
                assert_not_found(family.directory.delete_room(&nowhere, &user("alice")).await);
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(get(family, "general").await.expect("the room").members, 41);
    let head = family.log.head(&room("general")).await;
    assert_eq!(head.expect("a head"), seq(40));
}
