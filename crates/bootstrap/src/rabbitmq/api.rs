//! The management API of RabbitMQ.

use anyhow::{Result, anyhow};
use backend::cluster::settings::RABBITMQ;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::config::{ADMIN_URL, Broker, Secret};
use crate::http::{Answer, Http, Method, Trust};
use crate::wait::Trouble;

/// Something that RabbitMQ lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    MakeVhost,
    MakeUser,
    /// The user may administer something, which is not for programs.
    TakeTags,
    SetRights,
    SetPassword,
}

pub struct Api {
    http: Http,
    vhost: String,
    user: String,
    password: Secret,
    rights: Rights,
}

/// What a user may do in a virtual host, each as an expression for names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rights {
    configure: String,
    write: String,
    read: String,
}

impl Rights {
    /// Everything of the namespace. Publishing to a queue by its name goes through the exchange that the broker calls
    /// `amq.default`: what was parked is sent again so.
    fn of(namespace: &str) -> Self {
        let own = format!(r"^{namespace}\.");
        Self {
            write: format!(r"^({namespace}\.|amq\.default$)"),
            configure: own.clone(),
            read: own,
        }
    }

    fn has(&self, answer: &Value) -> bool {
        answer["configure"] == *self.configure
            && answer["write"] == *self.write
            && answer["read"] == *self.read
    }
}

impl Api {
    /// # Errors
    /// When the file of authorities cannot be used.
    pub fn new(broker: &Broker, namespace: &str) -> Result<Self> {
        let api = &broker.api;
        let trust = match (&api.trust.ca_file, api.trust.verify) {
            (_, false) => Trust::Anybody,
            (Some(file), true) => Trust::Authorities(file),
            (None, true) => Trust::Public,
        };
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", api.user, api.password.0));
        let http = Http::new(api.url.clone(), format!("Basic {credentials}"), &trust);
        Ok(Self {
            http: http.map_err(|why| anyhow!("DARDA_RABBITMQ_CA_FILE: {why}"))?,
            vhost: broker.vhost.clone(),
            user: broker.user.clone(),
            password: broker.password.clone(),
            rights: Rights::of(namespace),
        })
    }

    /// What is lacking, in the order in which it can be made. Of the password the API does not tell.
    pub async fn look(&self) -> Result<Vec<Change>, Trouble> {
        let mut lacking = Vec::new();
        if self.get(&self.vhost_path()).await?.is_none() {
            lacking.push(Change::MakeVhost);
        }
        match self.get(&self.user_path()).await? {
            None => lacking.push(Change::MakeUser),
            Some(user) if has_tags(&user) => lacking.push(Change::TakeTags),
            Some(_) => {}
        }
        // Asking for the rights in a virtual host that is not there is an error.
        let rights = match lacking.is_empty() {
            true => self.get(&self.rights_path()).await?,
            false => None,
        };
        if !rights.is_some_and(|rights| self.rights.has(&rights)) {
            lacking.push(Change::SetRights);
        }
        Ok(lacking)
    }

    pub async fn make(&self, change: &Change) -> Result<(), Trouble> {
        let user = json!({ "password": self.password.0, "tags": "" });
        let Rights {
            configure,
            write,
            read,
        } = &self.rights;
        match change {
            Change::MakeVhost => self.put(&self.vhost_path(), json!({})).await,
            Change::MakeUser | Change::TakeTags | Change::SetPassword => {
                self.put(&self.user_path(), user).await
            }
            Change::SetRights => {
                let rights = json!({ "configure": configure, "write": write, "read": read });
                self.put(&self.rights_path(), rights).await
            }
        }
    }

    /// Nodes that belong to the broker and do not run.
    pub async fn nodes_down(&self) -> Result<Vec<String>, Trouble> {
        let nodes = self.get("/api/nodes").await?.unwrap_or_default();
        let nodes = nodes.as_array().into_iter().flatten();
        let down = nodes.filter(|node| node["running"] != true);
        Ok(down
            .filter_map(|node| node["name"].as_str().map(str::to_owned))
            .collect())
    }

    #[must_use]
    pub fn in_order(&self) -> String {
        let Self { user, vhost, .. } = self;
        format!("the user {user} has its rights in the virtual host {vhost}")
    }

    /// As a wish.
    #[must_use]
    pub fn wish(&self, change: &Change) -> String {
        let Self { user, vhost, .. } = self;
        match change {
            Change::MakeVhost => format!("make the virtual host {vhost}"),
            Change::MakeUser => format!("make the user {user}"),
            Change::TakeTags => format!("take the right to administer from the user {user}"),
            Change::SetRights => {
                format!("set the rights of the user {user} in the virtual host {vhost}")
            }
            Change::SetPassword => {
                format!("give the user {user} the password of DARDA_RABBITMQ_URL")
            }
        }
    }

    /// As a deed.
    #[must_use]
    pub fn made(&self, change: &Change) -> String {
        let Self { user, vhost, .. } = self;
        match change {
            Change::MakeVhost => format!("made the virtual host {vhost}"),
            Change::MakeUser => format!("made the user {user}"),
            Change::TakeTags => format!("the user {user} could administer something; no more"),
            Change::SetRights => {
                format!("set the rights of the user {user} in the virtual host {vhost}")
            }
            Change::SetPassword => {
                format!(
                    "the user {user} had another password; it has that of DARDA_RABBITMQ_URL now"
                )
            }
        }
    }

    fn vhost_path(&self) -> String {
        format!("/api/vhosts/{}", encoded(&self.vhost))
    }

    fn user_path(&self) -> String {
        format!("/api/users/{}", encoded(&self.user))
    }

    fn rights_path(&self) -> String {
        format!(
            "/api/permissions/{}/{}",
            encoded(&self.vhost),
            encoded(&self.user)
        )
    }

    /// `None` when there is no such thing.
    async fn get(&self, path: &str) -> Result<Option<Value>, Trouble> {
        let answer = self.ask(Method::Get, path).await?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            _ => Err(refusal(&answer)),
        }
    }

    async fn put(&self, path: &str, body: Value) -> Result<(), Trouble> {
        let answer = self.ask(Method::Put(body), path).await?;
        match answer.status {
            200..300 => Ok(()),
            _ => Err(refusal(&answer)),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Answer, Trouble> {
        let answer = self.http.ask(method, path).await;
        answer.map_err(|why| {
            let why = RABBITMQ.explain(&why);
            Trouble::Passing(format!(
                "rabbitmq: the management API at {ADMIN_URL} does not answer: {why}"
            ))
        })
    }
}

/// A string before RabbitMQ 3.9, a list since.
fn has_tags(user: &Value) -> bool {
    match &user["tags"] {
        Value::String(tags) => !tags.is_empty(),
        Value::Array(tags) => !tags.is_empty(),
        _ => false,
    }
}

/// It may be a broker that is starting, so it is worth another look.
fn refusal(answer: &Answer) -> Trouble {
    let why = match (answer.status, answer.body["reason"].as_str()) {
        (401, _) => format!("it refuses the user or the password of {ADMIN_URL}"),
        (403, _) => format!("the user of {ADMIN_URL} has to be an administrator"),
        (status, Some(reason)) => format!("{status}, {reason}"),
        (status, None) => format!("{status}; is it the management API?"),
    };
    Trouble::Passing(format!("rabbitmq: {why}"))
}

fn encoded(name: &str) -> impl std::fmt::Display {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_end_with_the_namespace() {
        let rights = Rights::of("darda");
        let answer =
            |write: &str| json!({ "configure": r"^darda\.", "read": r"^darda\.", "write": write });
        assert!(rights.has(&answer(r"^(darda\.|amq\.default$)")));
        assert!(!rights.has(&answer(".*")));
        assert!(!rights.has(&Value::Null));
    }

    #[test]
    fn tags_are_told_in_two_ways() {
        for (tags, has) in [
            (json!(""), false),
            (json!([]), false),
            (json!("management"), true),
            (json!(["administrator"]), true),
        ] {
            assert_eq!(has_tags(&json!({ "tags": tags })), has);
        }
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("/a b").to_string(), "%2Fa%20b");
    }
}
