//! The configuration of a replica set, as its members keep it. What is not understood here stays as it is.

use mongodb::bson::{Bson, Document, doc};

/// As `replSetGetConfig` answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Config(Document);

/// A member, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub host: String,
    pub votes: i64,
    /// It is meant to have no vote: hidden, late, or without data.
    pub is_special: bool,
}

impl Config {
    #[must_use]
    pub fn of(document: Document) -> Self {
        Self(document)
    }

    /// Of a set that begins.
    #[must_use]
    pub fn first(name: &str, host: &str) -> Document {
        doc! { "_id": name, "members": [{ "_id": 0, "host": host }] }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.0.get_str("_id").unwrap_or_default()
    }

    /// What tells this set from all others; `None` if a member did not say.
    #[must_use]
    pub fn id(&self) -> Option<&Bson> {
        self.0.get_document("settings").ok()?.get("replicaSetId")
    }

    #[must_use]
    pub fn members(&self) -> Vec<Listed> {
        self.documents().iter().map(listed).collect()
    }

    #[must_use]
    pub fn member(&self, host: &str) -> Option<Listed> {
        let mut members = self.members().into_iter();
        members.find(|member| member.host.eq_ignore_ascii_case(host))
    }

    /// The next version, with one member more, who has no say yet.
    #[must_use]
    pub fn with_member(&self, host: &str) -> Document {
        let mut members = self.documents();
        let ids = members.iter().filter_map(|member| number(member, "_id"));
        let id = ids.max().unwrap_or(-1) + 1;
        members.push(doc! { "_id": id, "host": host, "votes": 0, "priority": 0 });
        self.next(members)
    }

    /// The next version, in which this member has a vote and may be primary.
    #[must_use]
    pub fn with_vote(&self, host: &str) -> Document {
        let mut members = self.documents();
        for member in &mut members {
            if listed(member).host.eq_ignore_ascii_case(host) {
                member.insert("votes", 1);
                member.insert("priority", 1);
            }
        }
        self.next(members)
    }

    fn next(&self, members: Vec<Document>) -> Document {
        let mut next = self.0.clone();
        next.insert("version", number(&self.0, "version").unwrap_or(0) + 1);
        next.insert("members", members);
        // The primary gives it its own.
        next.remove("term");
        next
    }

    fn documents(&self) -> Vec<Document> {
        let members = self.0.get_array("members").into_iter().flatten();
        members.filter_map(|m| m.as_document().cloned()).collect()
    }
}

fn listed(member: &Document) -> Listed {
    let is_set = |name| match member.get(name) {
        Some(Bson::Boolean(is_set)) => *is_set,
        _ => number(member, name).unwrap_or(0) != 0,
    };
    let special = ["hidden", "arbiterOnly", "secondaryDelaySecs", "slaveDelay"];
    Listed {
        host: member.get_str("host").unwrap_or_default().to_owned(),
        votes: number(member, "votes").unwrap_or(1),
        is_special: special.into_iter().any(is_set),
    }
}

/// Servers and drivers differ in the type they give to a whole number.
fn number(document: &Document, name: &str) -> Option<i64> {
    match document.get(name)? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        #[allow(clippy::cast_possible_truncation)]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::of(doc! {
            "_id": "rs0", "version": 3, "term": 7,
            "members": [
                { "_id": 0, "host": "a:1", "votes": 1, "tags": { "zone": "x" } },
                { "_id": 4, "host": "b:1", "votes": 0, "hidden": true },
            ],
            "settings": { "heartbeatIntervalMillis": 500 },
        })
    }

    #[test]
    fn a_member_begins_without_a_vote() {
        let next = Config::of(config().with_member("c:1"));
        assert_eq!(next.member("C:1").unwrap().votes, 0);
        assert_eq!(number(&next.0, "version"), Some(4));
        assert_eq!(number(&next.documents()[2], "_id"), Some(5));
        assert!(!next.0.contains_key("term"));
        // What others set up stays.
        assert_eq!(next.documents()[..2], config().documents());
        assert_eq!(next.0.get("settings"), config().0.get("settings"));

        let next = Config::of(next.with_vote("c:1"));
        assert_eq!(next.member("c:1").unwrap().votes, 1);
        assert_eq!(number(&next.0, "version"), Some(5));
        assert_eq!(next.member("b:1").unwrap().votes, 0);
    }

    #[test]
    fn what_is_hidden_is_meant_to_have_no_vote() {
        assert!(config().member("b:1").unwrap().is_special);
        assert!(!config().member("a:1").unwrap().is_special);
    }
}
