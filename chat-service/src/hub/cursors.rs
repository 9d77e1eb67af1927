//! Cursors: gathered, kept in the directory, told to the rooms.

use super::*;

impl Hub {
    /// Notes a cursor; it is kept and told to the room soon.
    pub fn move_cursor(&self, room: RoomId, user: UserId, received: Seq, read: Seq) {
        let mut tables = self.tables.borrow_mut();
        let full = tables.cursors.len() >= CURSORS_MAX;
        match tables.cursors.get_mut(&(room.clone(), user.clone())) {
            Some(kept) => *kept = (kept.0.max(received), kept.1.max(read)),
            // Cursors are hints that the client repeats with its next event.
            None if full => {
                self.process.metrics.signals_dropped.inc();
            }
            None => {
                tables.cursors.insert((room, user), (received, read));
            }
        }
    }

    pub(super) async fn keep_cursors(self: Rc<Self>) {
        let mut tick = tokio::time::interval(CURSORS_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.flush_cursors().await;
        }
    }

    /// Keeps what cursors moved and tells the rooms.
    pub async fn flush_cursors(&self) {
        let cursors = std::mem::take(&mut self.tables.borrow_mut().cursors);
        if cursors.is_empty() {
            return;
        }
        let cursors: Vec<Cursor> = cursors
            .into_iter()
            .map(|((room, user), (received, read))| Cursor {
                room,
                user,
                received: received.max(read),
                read,
            })
            .collect();
        if let Err(error) = self
            .process
            .backends
            .directory
            .advance(cursors.clone())
            .await
        {
            tracing::debug!(%error, "cursors were not kept");
            return;
        }
        for cursor in cursors {
            let small = {
                let tables = self.tables.borrow();
                tables
                    .room_keys
                    .get(&cursor.room)
                    .is_none_or(|&key| tables.rooms[key].subscriptions.len() <= SIGNAL_ROOM_MAX)
            };
            if small {
                self.process.backends.relay.signal(Signal::Receipt {
                    room: cursor.room,
                    user: cursor.user,
                    received: cursor.received,
                    read: cursor.read,
                });
            }
        }
    }
}
