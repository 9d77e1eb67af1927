//! What was read a moment ago, in memory: answers at once, asks once for all who miss the same thing, and is bounded.
//!
//! A value is believed for about a second after the moment at which it was asked for. It is asked for again before that
//! is over if somebody still wants it, so that what is used all the time is always there. A read takes a ticket first;
//! a change of the same thing makes the ticket worthless, so that what was read before it never covers what is true
//! after it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::{Error, Result};

const SHARDS: usize = 16;
/// A value is not believed any longer, up to a tenth less so that not all are asked for at once.
const FRESH: Duration = Duration::from_millis(950);
/// A value that is older is asked for again while it still serves.
const RIPE: Duration = Duration::from_millis(500);

/// A value and how old it is.
#[derive(Clone, Debug)]
pub(super) struct Held<V> {
    pub value: V,
    /// When it was true at the latest known: before it was asked for.
    pub read_at: Instant,
    /// Until when it is answered without asking.
    good_until: Instant,
    ripe_at: Instant,
    /// It could not be read again.
    is_old: bool,
}

impl<V> Held<V> {
    /// What was asked for at `asked_at` and read.
    pub fn read(value: V, asked_at: Instant) -> Self {
        let jitter = rand::random_range(0.9..1.0);
        Self {
            value,
            read_at: asked_at,
            good_until: asked_at + FRESH.mul_f64(jitter),
            ripe_at: asked_at + RIPE.mul_f64(jitter),
            is_old: false,
        }
    }

    /// The same value for another while, because it cannot be read.
    pub fn kept(self) -> Self {
        Self {
            read_at: self.read_at,
            is_old: true,
            ..Self::read(self.value, Instant::now())
        }
    }
}

/// What came of asking, for all who wait for it.
type Answer<V> = Option<std::result::Result<Held<V>, Arc<Error>>>;

struct Slot<V> {
    /// Changes with every change of what it stands for.
    number: u64,
    held: Option<Held<V>>,
    asking: Option<watch::Receiver<Answer<V>>>,
}

type Shard<K, V> = HashMap<K, Slot<V>>;

pub(super) struct Cache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    numbers: AtomicU64,
    shard_len_max: usize,
}

/// What the cache has to say about a key.
enum Look<V> {
    Here(V),
    Wait(watch::Receiver<Answer<V>>),
    Ask(Ticket<V>),
    /// Here, but soon too old.
    Renew(V, Ticket<V>),
}

/// The right to keep what is read now.
struct Ticket<V> {
    number: u64,
    answer: watch::Sender<Answer<V>>,
    waiting: watch::Receiver<Answer<V>>,
    /// What was known before.
    held: Option<Held<V>>,
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub fn new(len_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            numbers: AtomicU64::new(0),
            shard_len_max: len_max.div_ceil(SHARDS),
        }
    }

    /// The value, asked for by `ask` if it is not known. `ask` is given what was known before and is run to its end
    /// even if nobody waits for it any more.
    pub async fn get<F>(
        self: &Arc<Self>,
        key: &K,
        ask: impl FnOnce(Option<Held<V>>) -> F,
    ) -> Result<V>
    where
        F: Future<Output = Result<Held<V>>> + Send + 'static,
    {
        let waiting = match self.look(key) {
            Look::Here(value) => return Ok(value),
            Look::Renew(value, ticket) => {
                let asking = ask(ticket.held.clone());
                self.send(key, ticket, asking);
                return Ok(value);
            }
            Look::Ask(ticket) => {
                let waiting = ticket.waiting.clone();
                let asking = ask(ticket.held.clone());
                self.send(key, ticket, asking);
                waiting
            }
            Look::Wait(waiting) => waiting,
        };
        answered(waiting).await
    }

    /// To be taken before something is read that is [`put`](Self::put) here.
    pub fn moment(&self, key: &K) -> u64 {
        self.slot(&mut self.shard(key), key).number
    }

    /// Keeps what was read since a moment, whatever others are reading now; unless it may have changed since.
    pub fn put(&self, key: &K, held: Held<V>, since: u64) {
        let mut shard = self.shard(key);
        if let Some(slot) = shard.get_mut(key).filter(|slot| slot.number == since) {
            *slot = Slot {
                number: self.next_number(),
                held: Some(held),
                asking: None,
            };
        }
    }

    /// Whatever is known of it may be wrong now.
    pub fn forget(&self, key: &K) {
        self.shard(key).remove(key);
    }

    /// Changes what is known, if it is, to what is true now. What is being read at this moment is not kept.
    pub fn update(&self, key: &K, change: impl FnOnce(&mut V)) {
        let mut shard = self.shard(key);
        if let Some(slot) = shard.get_mut(key) {
            slot.number = self.next_number();
            slot.asking = None;
            match &mut slot.held {
                Some(held) => change(&mut held.value),
                None => {
                    shard.remove(key);
                }
            }
        }
    }

    fn look(&self, key: &K) -> Look<V> {
        let now = Instant::now();
        let mut shard = self.shard(key);
        let slot = self.slot(&mut shard, key);
        let held = slot.held.clone().filter(|held| now < held.good_until);
        // Whoever asked may have been stopped before there was an answer.
        let asking = slot.asking.as_ref();
        let asking = asking.filter(|asking| asking.has_changed().is_ok());
        match (held, asking) {
            (Some(held), asking) if asking.is_some() || now < held.ripe_at => {
                Look::Here(held.value)
            }
            (None, Some(asking)) => Look::Wait(asking.clone()),
            (held, _) => {
                let (answer, waiting) = watch::channel(None);
                slot.asking = Some(waiting.clone());
                let ticket = Ticket {
                    number: slot.number,
                    answer,
                    waiting,
                    held: slot.held.clone(),
                };
                match held {
                    Some(held) => Look::Renew(held.value, ticket),
                    None => Look::Ask(ticket),
                }
            }
        }
    }

    /// The place of a key; an empty one if there was none.
    fn slot<'a>(&self, shard: &'a mut Shard<K, V>, key: &K) -> &'a mut Slot<V> {
        if !shard.contains_key(key) {
            self.make_room(shard);
        }
        shard.entry(key.clone()).or_insert_with(|| Slot {
            number: self.next_number(),
            held: None,
            asking: None,
        })
    }

    /// Asks beside the callers.
    fn send<F>(self: &Arc<Self>, key: &K, ticket: Ticket<V>, asking: F)
    where
        F: Future<Output = Result<Held<V>>> + Send + 'static,
    {
        let (cache, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let answer = asking.await;
            let answer = cache.keep(&key, ticket.number, answer);
            ticket.answer.send_replace(Some(answer.map_err(Arc::new)));
        });
    }

    /// Keeps an answer unless what it is about has changed meanwhile. Then it is still the answer to those who had asked
    /// before, but only if it was really read and is not what was known before.
    fn keep(&self, key: &K, number: u64, answer: Result<Held<V>>) -> Result<Held<V>> {
        let mut shard = self.shard(key);
        let slot = shard.get_mut(key).filter(|slot| slot.number == number);
        let Some(slot) = slot else {
            return answer.and_then(|held| {
                if held.is_old {
                    Err(Error::unavailable("it changed, and it cannot be read now"))
                } else {
                    Ok(held)
                }
            });
        };
        slot.asking = None;
        match &answer {
            Ok(held) => slot.held = Some(held.clone()),
            Err(_) if slot.held.is_none() => {
                shard.remove(key);
            }
            Err(_) => {}
        }
        answer
    }

    /// Keeps the shard within its bounds: what was not asked for in a minute goes first.
    fn make_room(&self, shard: &mut Shard<K, V>) {
        if shard.len() < self.shard_len_max {
            return;
        }
        let now = Instant::now();
        let is_used = |slot: &Slot<V>, within: Duration| {
            let held = slot.held.as_ref();
            slot.asking.is_some() || held.is_some_and(|held| now < held.good_until + within)
        };
        shard.retain(|_, slot| is_used(slot, Duration::from_secs(60)));
        if shard.len() > self.shard_len_max / 4 * 3 {
            let mut kept = 0;
            shard.retain(|_, _| {
                kept += 1;
                kept <= self.shard_len_max / 2
            });
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answered<V: Clone>(mut waiting: watch::Receiver<Answer<V>>) -> Result<V> {
    let answer = waiting.wait_for(Option::is_some).await;
    match answer.ok().and_then(|answer| answer.clone()) {
        Some(Ok(held)) => Ok(held.value),
        Some(Err(error)) => Err(Error::clone(&error)),
        None => Err(Error::unavailable("the directory is closed")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    fn cache() -> Arc<Cache<u32, u32>> {
        Arc::new(Cache::new(160))
    }

    async fn answer(value: u32) -> Result<Held<u32>> {
        Ok(Held::read(value, Instant::now()))
    }

    #[tokio::test]
    async fn many_who_miss_the_same_thing_ask_once() {
        let (cache, asked) = (cache(), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (cache, asked) = (Arc::clone(&cache), Arc::clone(&asked));
                tokio::spawn(async move {
                    let ask = |_| async move {
                        asked.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        answer(7).await
                    };
                    cache.get(&1, ask).await
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap(), 7);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_was_read_before_a_change_is_not_kept() {
        let cache = cache();
        for change in [
            (|cache| Cache::forget(cache, &1)) as fn(&Cache<u32, u32>),
            |cache| cache.update(&1, |value| *value += 1),
        ] {
            let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let slow = {
                let (cache, begun, go_on) = (cache.clone(), begun.clone(), go_on.clone());
                tokio::spawn(async move {
                    let ask = |_| async move {
                        begun.notify_one();
                        go_on.notified().await;
                        answer(1).await
                    };
                    cache.get(&1, ask).await
                })
            };
            begun.notified().await;
            change(&cache);
            // Whoever comes after the change does not wait for the old answer, which is not kept either.
            assert_eq!(cache.get(&1, |_| answer(2)).await.unwrap(), 2);
            go_on.notify_one();
            assert_eq!(slow.await.unwrap().unwrap(), 1);
            assert_eq!(cache.get(&1, |_| answer(3)).await.unwrap(), 2);
            cache.forget(&1);
        }
    }

    #[tokio::test]
    async fn what_was_found_is_kept_unless_it_changes_itself() {
        let cache = cache();
        let since = cache.moment(&1);
        (2..100).for_each(|other| cache.forget(&other));
        cache.put(&1, Held::read(7, Instant::now()), since);
        assert_eq!(cache.get(&1, |_| answer(8)).await.unwrap(), 7);
        let since = cache.moment(&1);
        cache.forget(&1);
        cache.put(&1, Held::read(9, Instant::now()), since);
        assert_eq!(cache.get(&1, |_| answer(10)).await.unwrap(), 10);
    }

    #[tokio::test]
    async fn an_old_value_is_not_answered_after_a_change() {
        let cache = cache();
        assert_eq!(cache.get(&1, |_| answer(1)).await.unwrap(), 1);
        let held = cache.shard(&1).get(&1).and_then(|slot| slot.held.clone());
        cache.forget(&1);
        let Look::Ask(ticket) = cache.look(&1) else {
            panic!("something is known");
        };
        cache.forget(&1);
        let old = Ok(held.expect("a value").kept());
        assert!(cache.keep(&1, ticket.number, old).is_err());
    }

    #[tokio::test]
    async fn a_failure_is_told_and_not_kept() {
        let cache = cache();
        let fail = |_| async { Err(Error::unavailable("away")) };
        assert!(cache.get(&1, fail).await.is_err());
        assert!(cache.shard(&1).is_empty());
        assert_eq!(cache.get(&1, |_| answer(2)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_ripe_value_is_answered_at_once_and_asked_for_again() {
        let cache = cache();
        let then = Instant::now().checked_sub(RIPE).expect("a time");
        let old = |_| async move { Ok(Held::read(1, then)) };
        assert_eq!(cache.get(&1, old).await.unwrap(), 1);
        assert_eq!(cache.get(&1, |_| answer(2)).await.unwrap(), 1);
        while cache.shard(&1).get(&1).unwrap().asking.is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(cache.get(&1, |_| answer(3)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let cache = cache();
        for key in 0..10_000 {
            cache.get(&key, |_| answer(key)).await.unwrap();
        }
        let len = (0..SHARDS).map(|shard| cache.shards[shard].lock().unwrap().len());
        assert!(len.sum::<usize>() <= 160);
    }
}
