//! Subscriptions: from the first hold to the end.

use super::*;

impl Hub {
    /// Makes place for a subscription that is not yet known to be allowed: from here on the worker gets the room's
    /// events. A subscription that exists is taken back to this state.
    pub fn hold(&self, connection: &Rc<Connection>, id: &RoomId) -> usize {
        let mut tables = self.tables.borrow_mut();
        let key = match tables.room_keys.get(id) {
            Some(&key) => key,
            None => {
                let key = tables.rooms.insert(Room {
                    id: id.clone(),
                    subscriptions: Slab::new(),
                    pending: Vec::new(),
                    head: 0,
                });
                tables.room_keys.insert(id.clone(), key);
                key
            }
        };
        if let Some(at) = place(connection, key) {
            let subscription = &mut tables.rooms[key].subscriptions[at];
            if matches!(subscription.state, State::Behind | State::Reading) {
                connection.behind.set(connection.behind.get() - 1);
                self.process.metrics.slow_sessions.dec();
            }
            subscription.state = State::Held;
            return key;
        }
        self.process.pod.watch(self.worker, id);
        self.process.metrics.subscriptions.inc();
        let at = tables.rooms[key].subscriptions.insert(Subscription {
            connection: Rc::clone(connection),
            position: 0,
            state: State::Held,
        });
        connection.subscriptions.borrow_mut().push((key, at));
        key
    }

    /// The subscription is allowed and begins after `position`; `head` is the end of the log, read after [`hold`].
    /// `false` when it was ended in the meantime.
    ///
    /// [`hold`]: Self::hold
    pub fn begin(
        &self,
        connection: &Rc<Connection>,
        key: usize,
        id: &RoomId,
        position: u64,
        head: u64,
    ) -> bool {
        let mut tables = self.tables.borrow_mut();
        let tables = &mut *tables;
        let Some(at) = place(connection, key).filter(|_| tables.rooms[key].id == *id) else {
            return false;
        };
        let room = &mut tables.rooms[key];
        let subscription = &mut room.subscriptions[at];
        subscription.position = position;
        subscription.state = State::Live;
        // Whatever was appended after the head was read comes through the mailbox, or has come already.
        if position < head.max(room.head) {
            fall_behind(&self.process, subscription, &mut tables.dirty);
        }
        self.mailbox.wake();
        true
    }

    /// Ends a subscription. `false` when there was none.
    pub fn unsubscribe(&self, connection: &Rc<Connection>, id: &RoomId) -> bool {
        let mut tables = self.tables.borrow_mut();
        let Some(&key) = tables.room_keys.get(id) else {
            return false;
        };
        let Some(at) = place(connection, key) else {
            return false;
        };
        self.end_subscription(&mut tables, connection, key, at);
        true
    }

    /// Whether the connection is subscribed to the room and allowed to be.
    pub fn is_subscribed(&self, connection: &Rc<Connection>, id: &RoomId) -> bool {
        let tables = self.tables.borrow();
        tables
            .room_keys
            .get(id)
            .and_then(|&key| Some((key, place(connection, key)?)))
            .is_some_and(|(key, at)| tables.rooms[key].subscriptions[at].state != State::Held)
    }

    /// The last event of a subscribed room that this process knows of.
    pub fn known_head(&self, connection: &Rc<Connection>, id: &RoomId) -> Option<u64> {
        let tables = self.tables.borrow();
        let &key = tables.room_keys.get(id)?;
        let subscription = &tables.rooms[key].subscriptions[place(connection, key)?];
        let here = tables.rooms[key].head.max(subscription.position);
        let pod = self.process.pod.known_head(id).unwrap_or_default();
        (subscription.state != State::Held).then_some(here.max(pod))
    }

    pub(super) fn end_subscription(
        &self,
        tables: &mut Tables,
        connection: &Rc<Connection>,
        key: usize,
        at: usize,
    ) {
        connection
            .subscriptions
            .borrow_mut()
            .retain(|&(of, _)| of != key);
        let room = &mut tables.rooms[key];
        let gone = room.subscriptions.remove(at);
        if matches!(gone.state, State::Behind | State::Reading) {
            connection.behind.set(connection.behind.get() - 1);
            self.process.metrics.slow_sessions.dec();
        }
        self.process.pod.unwatch(self.worker, &room.id);
        self.process.metrics.subscriptions.dec();
        let (session, id) = (connection.id, room.id.clone());
        if room.subscriptions.is_empty() {
            tables.room_keys.remove(&id);
            tables.rooms.remove(key);
            tables.dirty_rooms.retain(|&dirty| dirty != key);
        }
        if !connection.is_over() {
            let presence = Arc::clone(&self.process.backends.presence);
            actix_rt::spawn(async move {
                if let Err(error) = presence.leave(session, &id).await {
                    tracing::debug!(%error, "presence did not learn that a room was left");
                }
            });
        }
    }
}
