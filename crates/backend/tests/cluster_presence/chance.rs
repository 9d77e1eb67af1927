//! Several processes act at random, all at once, also while Redis loses everything: in the end all of them see the same
//! and have heard the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backend::cluster::Redis;
use backend::{Presence, Relay};
use protocol::{SessionId, Status};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::stage::{Pod, eventually, room, shared, user};

/// What a process does at random, and what it has in the end.
struct Chance {
    pod: Arc<Pod>,
    sessions: Vec<Mine>,
}

struct Mine {
    id: SessionId,
    user: String,
    rooms: BTreeSet<String>,
    idle: bool,
}

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const ROOMS: [&str; 3] = ["general", "random", "lobby"];

impl Chance {
    async fn act(&mut self, random: &mut SmallRng) {
        let presence = &self.pod.presence;
        let name = USERS[random.random_range(0..USERS.len())];
        let at = random.random_range(0..self.sessions.len().max(1));
        let Some(mine) = self
            .sessions
            .get_mut(at)
            .filter(|_| random.random_ratio(9, 10))
        else {
            let id = SessionId::generate();
            let most = 1000;
            presence.connect(id, &user(name), most).await.unwrap();
            self.sessions.push(Mine {
                id,
                user: name.to_owned(),
                rooms: BTreeSet::new(),
                idle: false,
            });
            return;
        };
        let id = ROOMS[random.random_range(0..ROOMS.len())];
        match random.random_range(0..10) {
            0..4 => {
                presence.enter(mine.id, &room(id)).await.unwrap();
                mine.rooms.insert(id.to_owned());
            }
            4..6 => {
                presence.leave(mine.id, &room(id)).await.unwrap();
                mine.rooms.remove(id);
            }
            6..8 => {
                mine.idle = !mine.idle;
                presence.set_idle(mine.id, mine.idle).await.unwrap();
            }
            _ => {
                let gone = self.sessions.swap_remove(at);
                presence.disconnect(gone.id).await.unwrap();
            }
        }
    }
}

/// The status of each user, and who shows in which room with it.
type View = (Vec<Status>, BTreeMap<(String, String), Status>);

fn truth<'a>(sessions: impl Iterator<Item = &'a Mine> + Clone) -> View {
    let status = |user: &str| {
        let mut theirs = sessions.clone().filter(|mine| mine.user == user).peekable();
        if theirs.peek().is_none() {
            Status::Offline
        } else if theirs.all(|mine| mine.idle) {
            Status::Away
        } else {
            Status::Online
        }
    };
    let shown = sessions.clone().flat_map(|mine| {
        let rooms = mine.rooms.iter();
        rooms.map(|room| ((room.clone(), mine.user.clone()), status(&mine.user)))
    });
    (USERS.map(status).to_vec(), shown.collect())
}

async fn seen(pod: &Pod) -> View {
    let mut shown = BTreeMap::new();
    for id in ROOMS {
        for user in pod.present(id).await {
            let status = pod.status(&user).await;
            shown.insert((id.to_owned(), user), status);
        }
    }
    let mut statuses = Vec::new();
    for name in USERS {
        statuses.push(pod.status(name).await);
    }
    (statuses, shown)
}

/// Who shows in which room after all that was heard.
fn heard(pod: &Pod) -> BTreeMap<(String, String), Status> {
    let mut shown = BTreeMap::new();
    for (room, user, status) in pod.heard() {
        if status == Status::Offline {
            shown.remove(&(room, user));
        } else {
            shown.insert((room, user), status);
        }
    }
    shown
}

async fn assert_agreed(what: &str, chances: &[Chance]) {
    let (statuses, shown) = truth(chances.iter().flat_map(|chance| &chance.sessions));
    for (n, Chance { pod, .. }) in chances.iter().enumerate() {
        let looked = tokio::time::timeout(Duration::from_secs(20), async {
            while seen(pod).await != (statuses.clone(), shown.clone()) || heard(pod) != shown {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if looked.await.is_err() {
            let (seen, heard) = (seen(pod).await, heard(pod));
            panic!(
                "after {what}, pod {n}: true {statuses:?} {shown:?}\nseen {seen:?}\nheard {heard:?}"
            );
        }
    }
}

/// Everybody acts at random, all at once.
async fn act(chances: &mut Vec<Chance>, seed: u64, times: usize) {
    let acting = chances.drain(..).enumerate().map(|(n, mut chance)| {
        let mut random = SmallRng::seed_from_u64(seed + n as u64);
        tokio::spawn(async move {
            for _ in 0..times {
                chance.act(&mut random).await;
            }
            chance
        })
    });
    let acting: Vec<_> = acting.collect();
    for chance in acting {
        chances.push(chance.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_all_agree_in_the_end() {
    let Some(settings) = shared().await else {
        return;
    };
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let mut chances = Vec::new();
    for _ in 0..3 {
        let pod = Arc::new(Pod::start(&settings));
        for id in ROOMS {
            pod.relay.watch(&room(id));
        }
        chances.push(Chance {
            pod,
            sessions: Vec::new(),
        });
    }
    let redis = Redis::new(&settings).unwrap();
    let routes = ROOMS.map(|id| redis.room_key(&room(id), "pods"));
    eventually("the routes", async || {
        let found: Vec<Vec<String>> = redis
            .call("darda_relay_routes", &routes, &[])
            .await
            .unwrap();
        let connected = chances.iter().all(|c| c.pod.relay.trouble().is_none());
        connected && found.iter().all(|pods| pods.len() == 3)
    })
    .await;

    for round in 0..5 {
        act(&mut chances, seed + 10 * round, 200).await;
        assert_agreed("quiet times", &chances).await;
    }
    // Redis loses everything while all go on.
    for round in 5..15 {
        let mut losing = redis::cmd("EVAL");
        let lose =
            "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
        losing.arg(lose).arg(0).arg(redis.key("presence:*"));
        let (_, lost) = tokio::join!(act(&mut chances, seed + 10 * round, 100), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            redis.query::<()>(&losing).await
        });
        lost.unwrap();
        assert_agreed("a loss", &chances).await;
    }
    for chance in &chances {
        chance.pod.close().await;
    }
}
