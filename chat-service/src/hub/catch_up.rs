//! Readers who are behind: pages from the ring or the log, at the pace of their sockets.

use futures_util::FutureExt as _;
use rest::Refusal;

use super::*;

impl Hub {
    /// Gives a connection the next pages of the rooms in which it is behind, until enough waits to be written.
    pub(super) fn read_on(self: &Rc<Self>, tables: &mut Tables, connection: &Rc<Connection>) {
        let subscriptions = connection.subscriptions.borrow().clone();
        for (key, at) in subscriptions {
            while connection.waiting_bytes() < CATCH_UP_BYTES {
                let room = &mut tables.rooms[key];
                let subscription = &mut room.subscriptions[at];
                if subscription.state != State::Behind {
                    break;
                }
                let position = subscription.position;
                let recent = self.process.pod.recent(&room.id, position, CATCH_UP_BYTES);
                let recent = recent.filter(|piece| match piece.frames {
                    // The ring may know less than whoever told the head.
                    0 => position >= room.head,
                    // Looked at after the events: a membership ends before anything that its owner must not see is
                    // written.
                    _ => self.is_member(connection, &room.id),
                });
                match recent {
                    Some(piece) => {
                        if !self.take_piece(tables, connection, key, at, piece) {
                            break;
                        }
                    }
                    None => {
                        subscription.state = State::Reading;
                        let id = room.id.clone();
                        let read =
                            Rc::clone(self).read_log(Rc::clone(connection), key, id, position);
                        actix_rt::spawn(read);
                    }
                }
            }
        }
        if connection.behind.get() > 0 && connection.waiting_bytes() > 0 {
            // Goes on when this much is written.
            mark(&mut tables.dirty, connection);
        }
    }

    /// Whether the reader is known at once to be a member.
    fn is_member(&self, connection: &Connection, room: &RoomId) -> bool {
        let session = connection.session.borrow();
        let member = |user| self.process.rooms.member(user, room).now_or_never();
        matches!(session.user().map(member), Some(Some(Ok(_))))
    }

    /// Queues what a reader who is behind gets next. With nothing left to get, the reader is live. `false` when the
    /// queue must be written first.
    pub(super) fn take_piece(
        &self,
        tables: &mut Tables,
        connection: &Rc<Connection>,
        key: usize,
        at: usize,
        piece: Piece,
    ) -> bool {
        let room = &mut tables.rooms[key];
        let subscription = &mut room.subscriptions[at];
        if piece.frames == 0 {
            if subscription.position >= room.head {
                subscription.state = State::Live;
                connection.behind.set(connection.behind.get() - 1);
                self.process.metrics.slow_sessions.dec();
            } else {
                subscription.state = State::Behind;
            }
            return true;
        }
        subscription.state = State::Behind;
        mark(&mut tables.dirty, connection);
        let len = piece.bytes.len() as u64;
        if connection.push(piece.bytes, piece.frames, Lane::Data) == Pushed::Full {
            return false;
        }
        tables.deliveries += u64::from(piece.frames);
        tables.delivered_bytes += len;
        subscription.position = piece.to;
        true
    }

    /// Reads one page for a subscription that the ring cannot serve.
    pub(super) async fn read_log(
        self: Rc<Self>,
        connection: Rc<Connection>,
        key: usize,
        room: RoomId,
        position: u64,
    ) {
        let page = self.page_for_member(&connection, &room, position).await;
        let is_in_vain = match &page {
            Ok(piece) => piece.frames == 0 && self.has_more(key, &room, position),
            Err(refusal) => refusal.code != ErrorCode::NotFound,
        };
        if is_in_vain {
            tokio::time::sleep(READ_AGAIN).await;
        }
        let mut tables = self.tables.borrow_mut();
        // The subscription may be gone, another in its place, or moved elsewhere by a second `subscribe`.
        let Some(at) = place(&connection, key).filter(|_| tables.rooms[key].id == room) else {
            return;
        };
        let subscription = &mut tables.rooms[key].subscriptions[at];
        if subscription.state != State::Reading || subscription.position != position {
            return;
        }
        match page {
            Ok(piece) => {
                self.take_piece(&mut tables, &connection, key, at, piece);
            }
            Err(refusal) if refusal.code == ErrorCode::NotFound => {
                self.end_subscription(&mut tables, &connection, key, at);
            }
            Err(refusal) => {
                let message = refusal.message;
                tracing::debug!(message, room.id = %room, "a read for a reader who is behind failed");
                subscription.state = State::Behind;
            }
        }
        mark(&mut tables.dirty, &connection);
        drop(tables);
        self.mailbox.wake();
    }

    /// Whether it was told that a room has events after a position.
    fn has_more(&self, key: usize, room: &RoomId, position: u64) -> bool {
        let tables = self.tables.borrow();
        let held = tables.rooms.get(key).filter(|held| held.id == *room);
        held.is_some_and(|held| position < held.head)
    }

    /// A page, for somebody who was a member when it had been read.
    async fn page_for_member(
        &self,
        connection: &Connection,
        room: &RoomId,
        position: u64,
    ) -> Result<Piece, Refusal> {
        let piece = self
            .process
            .pod
            .page(room, position, CATCH_UP_BYTES)
            .await?;
        let user = connection.session.borrow().user().cloned();
        let user = user.ok_or_else(Refusal::no_room)?;
        self.process.rooms.member(&user, room).await?;
        Ok(piece)
    }
}
