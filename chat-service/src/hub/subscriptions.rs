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
            self.set_apart(subscription, State::Held);
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
        room.head = room.head.max(head);
        let subscription = &mut room.subscriptions[at];
        subscription.position = position;
        // It may have begun already, when a client names a room twice.
        self.set_apart(subscription, State::Live);
        // Whatever was appended after the head was read comes through the mailbox, or has come already.
        if position < room.head {
            fall_behind(&self.process, subscription, &mut tables.dirty);
        }
        self.mailbox.wake();
        true
    }

    /// Ends a subscription, if there is one.
    pub fn unsubscribe(self: &Rc<Self>, connection: &Rc<Connection>, id: &RoomId) {
        let mut tables = self.tables.borrow_mut();
        if let Some(&key) = tables.room_keys.get(id)
            && let Some(at) = place(connection, key)
        {
            self.end_subscription(&mut tables, connection, key, at);
        }
    }

    /// Takes a subscription out of the delivery, for now.
    fn set_apart(&self, subscription: &mut Subscription, state: State) {
        if subscription.state.is_behind() {
            let connection = &subscription.connection;
            connection.behind.set(connection.behind.get() - 1);
            self.process.metrics.slow_sessions.dec();
        }
        subscription.state = state;
    }

    /// A membership ended, and may have begun again since: the user's subscriptions wait until that is known.
    pub(super) fn suspend(self: &Rc<Self>, tables: &mut Tables, key: usize, user: &UserId) {
        let Some(room) = tables.rooms.get_mut(key) else {
            return;
        };
        for (_, subscription) in &mut room.subscriptions {
            let is_theirs = subscription.connection.session.borrow().user() == Some(user);
            if is_theirs && subscription.state.hears() {
                self.set_apart(subscription, State::Suspended);
                let connection = Rc::clone(&subscription.connection);
                let look = Rc::clone(self).look_again(connection, user.clone(), room.id.clone());
                actix_rt::spawn(look);
            }
        }
    }

    /// Goes on with a suspended subscription, or ends it.
    async fn look_again(self: Rc<Self>, connection: Rc<Connection>, user: UserId, id: RoomId) {
        let member = loop {
            match self.process.rooms.member(&user, &id).await {
                Err(refusal) if refusal.code != ErrorCode::NotFound && !connection.is_over() => {
                    tracing::debug!(message = refusal.message, "a membership is not known");
                    tokio::time::sleep(READ_AGAIN).await;
                }
                known => break known,
            }
        };
        let mut tables = self.tables.borrow_mut();
        let tables = &mut *tables;
        let Some(&key) = tables.room_keys.get(&id) else {
            return;
        };
        let Some(at) = place(&connection, key) else {
            return;
        };
        // The client may have subscribed again meanwhile; then that decides.
        let subscription = &mut tables.rooms[key].subscriptions[at];
        if subscription.state != State::Suspended {
            return;
        }
        if member.is_ok() {
            subscription.state = State::Live;
            fall_behind(&self.process, subscription, &mut tables.dirty);
            self.mailbox.wake();
        } else {
            self.end_subscription(tables, &connection, key, at);
        }
    }

    /// Ends all subscriptions to a room that was deleted.
    pub(super) fn end_room(self: &Rc<Self>, tables: &mut Tables, key: usize) {
        let gone: Vec<_> = tables
            .rooms
            .get(key)
            .into_iter()
            .flat_map(|room| &room.subscriptions)
            .map(|(at, subscription)| (at, Rc::clone(&subscription.connection)))
            .collect();
        for (at, connection) in gone {
            self.end_subscription(tables, &connection, key, at);
        }
    }

    /// Whether the connection is subscribed to the room and allowed to be.
    pub fn is_subscribed(&self, connection: &Rc<Connection>, id: &RoomId) -> bool {
        let tables = self.tables.borrow();
        tables
            .room_keys
            .get(id)
            .and_then(|&key| Some((key, place(connection, key)?)))
            .is_some_and(|(key, at)| tables.rooms[key].subscriptions[at].state.hears())
    }

    /// The last event of a subscribed room that this process knows of.
    pub fn known_head(&self, connection: &Rc<Connection>, id: &RoomId) -> Option<u64> {
        let tables = self.tables.borrow();
        let &key = tables.room_keys.get(id)?;
        let subscription = &tables.rooms[key].subscriptions[place(connection, key)?];
        let here = tables.rooms[key].head.max(subscription.position);
        let pod = self.process.pod.known_head(id).unwrap_or_default();
        subscription.state.hears().then_some(here.max(pod))
    }

    pub(super) fn end_subscription(
        self: &Rc<Self>,
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
        let mut gone = room.subscriptions.remove(at);
        self.set_apart(&mut gone, State::Held);
        self.process.pod.unwatch(self.worker, &room.id);
        self.process.metrics.subscriptions.dec();
        let id = room.id.clone();
        if room.subscriptions.is_empty() {
            tables.room_keys.remove(&id);
            tables.rooms.remove(key);
            tables.dirty_rooms.retain(|&dirty| dirty != key);
        }
        if !connection.is_over() {
            actix_rt::spawn(Rc::clone(self).leave(Rc::clone(connection), id));
        }
    }

    /// Takes the connection's user out of the room's presence, unless it has subscribed again.
    async fn leave(self: Rc<Self>, connection: Rc<Connection>, id: RoomId) {
        let is_back = {
            let tables = self.tables.borrow();
            let key = tables.room_keys.get(&id);
            key.is_some_and(|&key| place(&connection, key).is_some())
        };
        if !is_back
            && let Err(error) = self
                .process
                .backends
                .presence
                .leave(connection.id, &id)
                .await
        {
            tracing::debug!(%error, "presence did not learn that a room was left");
        }
    }
}
