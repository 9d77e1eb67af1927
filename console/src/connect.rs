//! A client for the command line, and what all commands say about its connection.

use anyhow::bail;
use client::engine::{ClosedReason, Config, Gone, Saved, State};
use client::{Client, ClientConfig, Handle, Update, Updates};
use protocol::{Hello, RoomId};

use crate::args::{Account, Target};
use crate::rest::Rest;
use crate::text;

/// Connects as the user.
#[must_use]
pub fn connect(account: &Account, saved: Saved) -> (Handle, Updates) {
    let hello = Hello {
        user: Some(account.user.clone()),
        client: Some(concat!("darda/", env!("CARGO_PKG_VERSION")).to_owned()),
        token: None,
    };
    Client::connect(ClientConfig {
        url: account.server.socket(),
        engine: Config {
            hello: Some(hello),
            ..Config::default()
        },
        saved,
    })
}

/// The id of the room that was named. Asks the server only if it has to.
///
/// # Errors
/// When the direct room with a user cannot be had.
pub async fn find_room(account: &Account, target: &Target) -> anyhow::Result<RoomId> {
    if let Target::Room(room) = target {
        return Ok(room.clone());
    }
    let (rest, target) = (Rest::new(account.clone()), target.clone());
    tokio::task::spawn_blocking(move || rest.room(&target)).await?
}

/// Tells people about trouble once, not at every attempt.
#[derive(Debug, Default)]
pub struct Trouble {
    told: bool,
}

impl Trouble {
    /// Whether people were told that there is no connection.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Looks at what is about the connection or the room.
    ///
    /// # Errors
    /// When it is over for good.
    pub fn watch(&mut self, account: &Account, update: &Update) -> anyhow::Result<()> {
        match update {
            Update::Lost { reason } if !self.told => {
                self.told = true;
                note(&format!(
                    "no connection to {}: {reason}; trying again",
                    account.server
                ));
            }
            Update::Status(State::Online) if self.told => {
                self.told = false;
                note("connected again");
            }
            Update::Status(State::Stopped { code, message }) => {
                let code = code.map_or("stopped", |code| code.as_str());
                bail!(
                    "{} ({code})",
                    message.as_deref().unwrap_or("the connection was ended")
                )
            }
            Update::RoomClosed {
                room,
                reason,
                message,
            } => match reason {
                ClosedReason::Gone(Gone::Removed) => bail!("you were removed from {room}"),
                ClosedReason::Gone(Gone::Deleted) => bail!("{room} was deleted"),
                ClosedReason::Refused(code) => {
                    bail!(
                        "{room}: {} ({code})",
                        message.as_deref().unwrap_or_default()
                    )
                }
            },
            Update::ResetRoom { room, .. } => note(&format!(
                "{room} is not the room it was: the server has lost or replaced its log"
            )),
            _ => {}
        }
        Ok(())
    }
}

/// Says something that is not part of the conversation.
pub fn note(message: &str) {
    let line = format!("-- {}\n", text::plain(message));
    // Without a standard error there is nobody to tell.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
