//! What one connection may say at this moment. Decides; does not do: frames go in, [`Act`]s come out.

use protocol::{BadFrame, ClientFrame, CloseCode, ErrorCode, ErrorFrame, UserId};

use crate::websocket::Incoming;

/// So many bad frames in a row are no accident.
const BAD_FRAMES_MAX: u8 = 10;

/// What is to be done about a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Nobody is signed in yet: this user wants to be.
    SignIn(UserId),
    /// A request of the signed-in user.
    Request(ClientFrame),
    /// The frame is refused.
    Refuse(ErrorFrame),
    /// The frame is refused, and it was the last one.
    RefuseAndClose(ErrorFrame, CloseCode, &'static str),
    /// The connection must end.
    Close(CloseCode, &'static str),
    /// Answer a ping.
    Pong,
    /// A sign of life, no more.
    Nothing,
}

/// The state of one connection's conversation.
#[derive(Debug, Default)]
pub struct Session {
    user: Option<UserId>,
    bad_frames: u8,
}

impl Session {
    /// The user, once signed in.
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// From here on the connection speaks for `user`.
    pub fn signed_in(&mut self, user: UserId) {
        self.user = Some(user);
    }

    /// Decides about a message.
    pub fn on_message(&mut self, message: &Incoming<'_>) -> Act {
        match message {
            Incoming::Text(bytes) => self.on_text(bytes),
            Incoming::Binary => self.bad(BadFrame {
                message: "frames of this protocol are text, not binary".to_owned(),
                reference: None,
                id: None,
            }),
            Incoming::Ping(_) => Act::Pong,
            Incoming::Pong => Act::Nothing,
            Incoming::Close(_) => Act::Close(CloseCode::Normal, ""),
        }
    }

    fn on_text(&mut self, bytes: &[u8]) -> Act {
        if std::str::from_utf8(bytes).is_err() {
            return Act::Close(CloseCode::InvalidPayload, "text that is not UTF-8");
        }
        match ClientFrame::decode(bytes) {
            Err(bad) => self.bad(bad),
            Ok(frame) => {
                self.bad_frames = 0;
                self.on_frame(frame)
            }
        }
    }

    fn on_frame(&mut self, frame: ClientFrame) -> Act {
        match (frame, &self.user) {
            (ClientFrame::Hello(hello), None) => match (hello.user, hello.token) {
                (Some(user), None) => Act::SignIn(user),
                (_, Some(_)) => Act::Refuse(ErrorFrame::new(
                    ErrorCode::Unauthenticated,
                    "this server is in open mode and knows no tokens: say `user` in hello",
                )),
                (None, None) => Act::Refuse(ErrorFrame::new(
                    ErrorCode::Unauthenticated,
                    "user: is missing in hello",
                )),
            },
            (ClientFrame::Hello(_), Some(user)) => Act::Refuse(ErrorFrame::new(
                ErrorCode::BadRequest,
                format!("this connection is already signed in as {user}"),
            )),
            (frame, Some(_)) => Act::Request(frame),
            (frame, None) => {
                let (reference, id) = answerable(&frame);
                Act::Refuse(ErrorFrame {
                    reference,
                    id,
                    ..ErrorFrame::new(ErrorCode::Unauthenticated, "say hello first")
                })
            }
        }
    }

    fn bad(&mut self, bad: BadFrame) -> Act {
        self.bad_frames += 1;
        let frame = bad.into_error();
        if self.bad_frames < BAD_FRAMES_MAX {
            Act::Refuse(frame)
        } else {
            Act::RefuseAndClose(frame, CloseCode::Policy, "ten bad frames in a row")
        }
    }
}

/// What an answer to the frame repeats.
pub fn answerable(frame: &ClientFrame) -> (Option<String>, Option<protocol::MessageId>) {
    match frame {
        ClientFrame::Subscribe(frame) => (frame.reference.clone(), None),
        ClientFrame::Unsubscribe(frame) => (frame.reference.clone(), None),
        ClientFrame::Fetch(frame) => (frame.reference.clone(), None),
        ClientFrame::Send(frame) => (None, Some(frame.id)),
        ClientFrame::Edit(frame) => (None, Some(frame.id)),
        ClientFrame::Delete(frame) => (None, Some(frame.id)),
        ClientFrame::React(frame) => (None, Some(frame.id)),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(session: &mut Session, json: &str) -> Act {
        session.on_message(&Incoming::Text(json.as_bytes()))
    }

    fn alice() -> UserId {
        UserId::parse("alice").unwrap()
    }

    #[test]
    fn nothing_is_done_before_hello() {
        let mut session = Session::default();
        let act = text(
            &mut session,
            r#"{"type":"fetch","ref":"9","room":"a","after":0,"limit":1}"#,
        );
        let Act::Refuse(error) = act else {
            panic!("{act:?}");
        };
        assert_eq!(error.code, ErrorCode::Unauthenticated);
        assert_eq!(error.reference.as_deref(), Some("9"));
        let act = text(&mut session, r#"{"type":"hello","user":"alice"}"#);
        assert_eq!(act, Act::SignIn(alice()));
    }

    #[test]
    fn nobody_signs_in_twice() {
        let mut session = Session::default();
        session.signed_in(alice());
        let act = text(&mut session, r#"{"type":"hello","user":"bob"}"#);
        assert!(matches!(act, Act::Refuse(error) if error.code == ErrorCode::BadRequest));
        assert_eq!(session.user(), Some(&alice()));
    }

    #[test]
    fn the_tenth_bad_frame_in_a_row_closes_and_a_good_one_starts_the_count_anew() {
        let mut session = Session::default();
        session.signed_in(alice());
        for _ in 0..9 {
            assert!(matches!(text(&mut session, "{"), Act::Refuse(_)));
        }
        let good = r#"{"type":"typing","room":"a","on":true}"#;
        assert!(matches!(text(&mut session, good), Act::Request(_)));
        for _ in 0..9 {
            assert!(matches!(
                session.on_message(&Incoming::Binary),
                Act::Refuse(_)
            ));
        }
        let act = text(&mut session, "{");
        assert!(matches!(act, Act::RefuseAndClose(_, CloseCode::Policy, _)));
    }

    #[test]
    fn text_must_be_utf_8() {
        let act = Session::default().on_message(&Incoming::Text(b"\xff"));
        assert!(matches!(act, Act::Close(CloseCode::InvalidPayload, _)));
    }
}
