//! The heartbeat: one tick a second serves a slot of the connections, so none has a timer of its own.

use super::*;

impl Hub {
    /// One slot of connections after the other gets its ping and the heads of its rooms, so that a loss of the last event
    /// is noticed. There is no timer per connection.
    pub(super) async fn heartbeat(self: Rc<Self>) {
        let whole = self.process.config.gateway.heartbeat;
        // A slot takes a second at most: newcomers are looked at as often.
        let slots = (whole.as_secs() as usize).max(HEARTBEAT_SLOTS_MIN);
        let mut tick = tokio::time::interval(whole / slots as u32);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut slot = 0;
        loop {
            tick.tick().await;
            self.expect_hello();
            slot = (slot + 1) % slots;
            let connections: Vec<_> = {
                let tables = self.tables.borrow();
                tables
                    .connections
                    .iter()
                    .filter(|(key, _)| key % slots == slot)
                    .map(|(_, connection)| Rc::clone(connection))
                    .collect()
            };
            for connection in connections {
                self.beat(&connection);
            }
        }
    }

    /// Ends connections on which nobody signed in within the limit, to the second.
    pub(super) fn expect_hello(&self) {
        let patience = self.process.config.limits.hello;
        loop {
            let late = {
                let mut tables = self.tables.borrow_mut();
                match tables.newcomers.front() {
                    Some((begun, _)) if begun.elapsed() >= patience => tables.newcomers.pop_front(),
                    _ => return,
                }
            };
            if let Some(connection) = late.and_then(|(_, connection)| connection.upgrade())
                && connection.session.borrow().user().is_none()
            {
                self.close(&connection, CloseCode::Unauthenticated, "no hello in time");
            }
        }
    }

    pub(super) fn beat(&self, connection: &Rc<Connection>) {
        if connection.pings.get() >= 2 {
            self.process.metrics.closed(CloseCode::Timeout);
            connection.close(CloseCode::Timeout, "no answer to two pings");
            // Somebody who does not read will not see the close frame either.
            if !connection.flush() {
                connection.abort();
            }
            return;
        }
        connection.pings.set(connection.pings.get() + 1);
        connection.push(websocket::ping(), 1, Lane::Answer);
        // Sent without rooms as well: a page cannot see pings, and must know that the connection lives.
        if connection.welcomed.get() {
            let rooms = self.heads(connection);
            let frame = websocket::text(ServerFrame::Heads { rooms }.encode().as_bytes());
            connection.push(frame, 1, Lane::Signal);
        }
        self.touch(connection);
        if !connection.idle.get() && connection.active.get().elapsed() > AWAY_AFTER {
            self.set_idle(connection, true);
        }
    }

    pub(super) fn heads(&self, connection: &Connection) -> BTreeMap<RoomId, Seq> {
        let tables = self.tables.borrow();
        let subscriptions = connection.subscriptions.borrow();
        subscriptions
            .iter()
            .map(|&(key, at)| (&tables.rooms[key], at))
            .filter(|(room, at)| room.subscriptions[*at].state == State::Live)
            .map(|(room, at)| {
                let head = room.head.max(room.subscriptions[at].position);
                (room.id.clone(), Seq::new(head).unwrap_or_default())
            })
            .collect()
    }

    /// The person at the connection did something.
    pub fn person_acted(&self, connection: &Rc<Connection>) {
        connection.active.set(Instant::now());
        if connection.idle.get() {
            self.set_idle(connection, false);
        }
    }

    pub(super) fn set_idle(&self, connection: &Rc<Connection>, idle: bool) {
        connection.idle.set(idle);
        let (presence, session) = (Arc::clone(&self.process.backends.presence), connection.id);
        actix_rt::spawn(async move {
            if let Err(error) = presence.set_idle(session, idle).await {
                tracing::debug!(%error, "presence did not learn that somebody went quiet");
            }
        });
    }
}
