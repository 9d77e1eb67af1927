//! What changes made by REST do to sockets.

use std::time::Duration;

use client::Socket;
use protocol::{
    ClientFrame, Delete, Edit, ErrorCode, EventBody, Fetch, MemberChange, MessageId, NoticeKind,
    React, RoomChange, RoomId, Seq, ServerFrame, Subscribe, SubscribeRoom,
};
use serde_json::json;

use super::{Server, id};

/// A user at a socket.
pub(super) struct Online(pub(super) Socket);

impl Online {
    pub(super) async fn connect(server: &Server, user: &str) -> Self {
        let url = format!("ws://{}/v1/ws?id={user}", server.addr);
        let mut online = Self(Socket::open(&url).await.unwrap());
        online
            .until(|frame| matches!(frame, ServerFrame::Welcome(_)))
            .await;
        online
    }

    async fn subscribe(&mut self, room: &RoomId) -> ServerFrame {
        self.subscribe_after(room, None).await
    }

    pub(super) async fn subscribe_after(
        &mut self,
        room: &RoomId,
        after: Option<Seq>,
    ) -> ServerFrame {
        let rooms = vec![SubscribeRoom {
            room: room.clone(),
            after,
        }];
        let subscribe = Subscribe {
            reference: Some("s".to_owned()),
            rooms,
        };
        self.0
            .send(&ClientFrame::Subscribe(subscribe))
            .await
            .unwrap();
        self.until(|frame| matches!(frame, ServerFrame::Subscribed(_) | ServerFrame::Error(_)))
            .await
            .pop()
            .unwrap()
    }

    /// Frames up to the first that fits, that one included.
    pub(super) async fn until(&mut self, fits: impl Fn(&ServerFrame) -> bool) -> Vec<ServerFrame> {
        let mut seen = Vec::new();
        let wait = async {
            loop {
                let frame = self.0.next_frame().await.expect("an open socket");
                seen.push(frame);
                if fits(&seen[seen.len() - 1]) {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(in_time.is_ok(), "only these came: {seen:?}");
        seen
    }

    async fn notice(&mut self, kind: NoticeKind, room: &RoomId) -> Vec<ServerFrame> {
        let wanted = ServerFrame::Notice {
            kind,
            room: Some(room.clone()),
        };
        self.until(|frame| *frame == wanted).await
    }

    /// Everything that comes before the answer to a `fetch` of the room, which must be "no such room".
    async fn rest_without(&mut self, room: &RoomId) -> Vec<ServerFrame> {
        let fetch = Fetch {
            reference: Some("f".to_owned()),
            room: room.clone(),
            after: Seq::ZERO,
            limit: 10,
        };
        self.0.send(&ClientFrame::Fetch(fetch)).await.unwrap();
        let mut frames = self
            .until(|frame| matches!(frame, ServerFrame::Error(_) | ServerFrame::Events { .. }))
            .await;
        match frames.pop() {
            Some(ServerFrame::Error(error)) => assert_eq!(error.code, ErrorCode::NotFound),
            other => panic!("{other:?}"),
        }
        frames
    }
}

fn room_id(path: &str) -> RoomId {
    RoomId::parse(path.rsplit('/').next().unwrap()).unwrap()
}

fn has(frames: &[ServerFrame], fits: impl Fn(&EventBody) -> bool) -> bool {
    frames
        .iter()
        .any(|frame| matches!(frame, ServerFrame::Event(event) if fits(&event.body)))
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_was_removed_hears_nothing_more() {
    let server = Server::start().await;
    let room = server.room_of_three("private").await;
    let room_id = room_id(&room);
    let mut member = Online::connect(&server, "member").await;
    let mut admin = Online::connect(&server, "admin").await;
    for user in [&mut member, &mut admin] {
        let answer = user.subscribe(&room_id).await;
        assert!(matches!(answer, ServerFrame::Subscribed(_)), "{answer:?}");
    }
    server
        .delete("owner", &format!("{room}/members/member"))
        .await
        .expect(204);
    let secret = json!({"id": id(), "text": "secret"});
    server
        .post("owner", &format!("{room}/messages"), secret)
        .await
        .expect(201);

    let is_message = |body: &EventBody| matches!(body, EventBody::Message { .. });
    let heard = admin
        .until(|frame| matches!(frame, ServerFrame::Event(event) if event.body.kind() == "message"))
        .await;
    assert!(has(&heard, |body| matches!(
        body,
        EventBody::Member {
            change: MemberChange::Removed,
            ..
        }
    )));
    let mut frames = member.notice(NoticeKind::RoomRemoved, &room_id).await;
    frames.extend(member.rest_without(&room_id).await);
    assert!(!has(&frames, is_message), "{frames:?}");
    let answer = member.subscribe(&room_id).await;
    assert!(
        matches!(answer, ServerFrame::Error(ref error) if error.code == ErrorCode::NotFound),
        "{answer:?}"
    );
    member.0.close().await;
    admin.0.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_room_says_good_bye() {
    let server = Server::start().await;
    let room = server.room_of_three("public").await;
    let room_id = room_id(&room);
    let mut member = Online::connect(&server, "member").await;
    member.subscribe(&room_id).await;
    server.delete("owner", &room).await.expect(204);
    // The event and the notice take different ways, so either may come first.
    let is_end = |frame: &ServerFrame| match frame {
        ServerFrame::Event(event) => matches!(
            event.body,
            EventBody::Room {
                change: RoomChange::Deleted,
                ..
            }
        ),
        ServerFrame::Notice { kind, .. } => *kind == NoticeKind::RoomDeleted,
        _ => false,
    };
    member.until(is_end).await;
    member.until(is_end).await;
    member.rest_without(&room_id).await;
    let answer = member.subscribe(&room_id).await;
    assert!(
        matches!(answer, ServerFrame::Error(ref error) if error.code == ErrorCode::NotFound),
        "{answer:?}"
    );
    member.0.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_message_is_gone_for_edits_and_reactions() {
    let server = Server::start().await;
    let path = server.room("alice", "private").await;
    let room = room_id(&path);
    let message = json!({"id": id(), "text": "hi"});
    let ack = server
        .post("alice", &format!("{path}/messages"), message)
        .await
        .expect(201);
    let seq = Seq::new(ack["seq"].as_u64().unwrap()).unwrap();
    let mut alice = Online::connect(&server, "alice").await;
    let react = |id| {
        ClientFrame::React(React {
            id,
            room: room.clone(),
            seq,
            emoji: "👍".to_owned(),
            on: true,
        })
    };
    let edit = |id| {
        ClientFrame::Edit(Edit {
            id,
            room: room.clone(),
            seq,
            text: "other".to_owned(),
        })
    };
    let delete = ClientFrame::Delete(Delete {
        id: MessageId::generate(),
        room: room.clone(),
        seq,
    });
    let mut ask = async |frame: &ClientFrame| {
        alice.0.send(frame).await.unwrap();
        let answers = alice
            .until(|frame| matches!(frame, ServerFrame::Ack { .. } | ServerFrame::Error(_)))
            .await;
        match answers.into_iter().next_back() {
            Some(ServerFrame::Ack { duplicate, .. }) => Ok(duplicate),
            Some(ServerFrame::Error(error)) => Err(error.code),
            other => panic!("{other:?}"),
        }
    };
    let known = [react(MessageId::generate()), edit(MessageId::generate())];
    for frame in known.iter().chain([&delete]) {
        assert!(!ask(frame).await.unwrap());
    }
    for frame in [react(MessageId::generate()), edit(MessageId::generate())] {
        assert_eq!(ask(&frame).await.unwrap_err(), ErrorCode::NotFound);
    }
    // Whoever missed the answer still gets it.
    for frame in known.iter().chain([&delete]) {
        assert!(ask(frame).await.unwrap());
    }
    alice.0.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_room_is_noticed_by_those_who_are_in_it() {
    let server = Server::start().await;
    let mut bob = Online::connect(&server, "bob").await;
    let private = server.room("alice", "private").await;
    server
        .put("alice", &format!("{private}/members/bob"))
        .await
        .expect(201);
    bob.notice(NoticeKind::RoomAdded, &room_id(&private)).await;
    let direct = server.put("alice", "/v1/direct/bob").await.expect(201);
    let direct = RoomId::parse(direct["id"].as_str().unwrap()).unwrap();
    bob.notice(NoticeKind::RoomAdded, &direct).await;
    bob.0.close().await;
    server.stop().await;
}
