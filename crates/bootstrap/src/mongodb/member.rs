//! One member of the replica set, asked directly.

use std::time::Duration;

use backend::cluster::settings::MONGODB;
use mongodb::Client;
use mongodb::bson::Document;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use tokio::time::timeout;

use crate::config::KEY;

/// A configuration that waits for others takes the longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const SELECT_WITHIN: Duration = Duration::from_secs(3);

pub const AUTHENTICATION_FAILED: i32 = 18;

/// A member and who asks it.
#[derive(Clone, Debug)]
pub struct Member {
    pub host: String,
    client: Client,
}

/// Why a member did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// By which it refused, if it did.
    pub code: Option<i32>,
    pub why: String,
}

impl Member {
    /// Prepares connections; the first is made by the first command.
    ///
    /// # Errors
    /// When the host is no address.
    pub fn new(options: &ClientOptions, host: &str, credential: Credential) -> Result<Self, Error> {
        let mut options = options.clone();
        options.hosts = vec![ServerAddress::parse(host)?];
        options.direct_connection = Some(true);
        options.repl_set_name = None;
        options.load_balanced = None;
        options.credential = Some(credential);
        options.app_name = Some("bootstrap".to_owned());
        options.connect_timeout = Some(CONNECT_WITHIN);
        options.server_selection_timeout = Some(SELECT_WITHIN);
        options.max_pool_size = Some(2);
        options.min_pool_size = None;
        Ok(Self {
            host: host.to_owned(),
            client: Client::with_options(options)?,
        })
    }

    /// The answer to a command.
    ///
    /// # Errors
    /// When it refuses, or does not answer in time.
    pub async fn ask(&self, database: &str, command: Document) -> Result<Document, Refusal> {
        let database = self.client.database(database);
        match timeout(ANSWER_WITHIN, database.run_command(command)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Refusal {
                code: code(&error),
                why: why(&error),
            }),
            Err(_) => Err(Refusal {
                code: None,
                why: "does not answer in time".to_owned(),
            }),
        }
    }
}

fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ if is_locked_out(error) => Some(AUTHENTICATION_FAILED),
        _ => None,
    }
}

/// For a while after the first refusal the driver does not ask again, and knows the reason as text.
fn is_locked_out(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => true,
        ErrorKind::ServerSelection { message, .. } => message.contains("AuthenticationFailed"),
        _ => false,
    }
}

fn why(error: &Error) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => format!("refuses: {}", command.message),
        _ if is_locked_out(error) => {
            format!("does not let members in with {KEY}: it has another key file")
        }
        ErrorKind::ServerSelection { message, .. } => {
            format!("does not answer: {}", MONGODB.explain(cause(message)))
        }
        other => format!("does not answer: {}", MONGODB.explain(&other.to_string())),
    }
}

/// The one server's error, from a description of the whole topology.
fn cause(message: &str) -> &str {
    let cause = message.split_once("Error: Kind: ");
    cause.map_or(message, |(_, rest)| {
        rest.split(", labels:").next().unwrap_or(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_in_the_drivers_words() {
        let words = "Server selection timeout: No available servers. Topology: { Type: Single, Servers: [ { Address: a:1, \
                     Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {}, source: None } ] }";
        assert_eq!(cause(words), "I/O error: Connection refused (os error 111)");
        assert_eq!(cause("something else"), "something else");
    }
}
