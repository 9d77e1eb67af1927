//! What comes next for a replica set, from what its members say. No input or output.

use std::fmt;

use super::config::Config;
use crate::config::ReplicaSet;

/// What the members say at a moment.
pub struct View<L> {
    /// Those that shall belong to the set, in their order.
    pub members: Vec<(String, Seen)>,
    /// The member that takes writes, if there is one.
    pub leader: Option<L>,
}

/// What a member says.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Nothing, and why.
    Away(String),
    /// It runs and belongs to no set.
    Bare,
    Configured {
        config: Config,
        /// What the set calls it, if it belongs to it.
        me: Option<String>,
    },
}

/// What the primary says.
pub trait Leads {
    fn config(&self) -> &Config;
    /// `PRIMARY`, `SECONDARY`, `STARTUP2` and so on.
    fn state(&self, host: &str) -> Option<&str>;
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Make a set of this member alone.
    Initiate {
        set: String,
        host: String,
    },
    /// Take a member in, without a vote.
    Add {
        host: String,
    },
    GiveVote {
        host: String,
    },
    Wait(String),
    Refuse(String),
    /// The set is as it shall be; these belong to it too.
    Done {
        strangers: Vec<String>,
    },
}

impl fmt::Display for Plan {
    /// As a wish.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initiate { set, host } => write!(f, "begin the replica set {set} with {host}"),
            Self::Add { host } => write!(f, "take {host} into the replica set"),
            Self::GiveVote { host } => write!(f, "give {host} a vote in the replica set"),
            Self::Wait(why) | Self::Refuse(why) => f.write_str(why),
            Self::Done { .. } => f.write_str("change nothing"),
        }
    }
}

impl Plan {
    /// As a deed.
    #[must_use]
    pub fn done(&self) -> String {
        match self {
            Self::Initiate { set, host } => format!("made the replica set {set} with {host}"),
            Self::Add { host } => format!("took {host} into the replica set; it is being filled"),
            Self::GiveVote { host } => format!("gave {host} a vote in the replica set"),
            other => other.to_string(),
        }
    }
}

/// One thing at a time, each from a new look: whoever is broken off, or meets another at work, goes on.
#[must_use]
pub fn plan<L: Leads>(wanted: &ReplicaSet, view: &View<L>) -> Plan {
    if let Some(why) = contradiction(wanted, view) {
        return Plan::Refuse(why);
    }
    match &view.leader {
        Some(leader) => grow(leader, view),
        None => begin(wanted, view),
    }
}

/// Only when every member says that it belongs to no set: one that is away may belong to one, and then there would be two.
fn begin<L>(wanted: &ReplicaSet, view: &View<L>) -> Plan {
    let away = view.members.iter().filter_map(|(host, seen)| match seen {
        Seen::Away(why) => Some(format!("{host} {why}")),
        _ => None,
    });
    let away: Vec<String> = away.collect();
    let is_begun = (view.members.iter()).any(|(_, seen)| matches!(seen, Seen::Configured { .. }));
    match view.members.first() {
        Some((host, _)) if away.is_empty() && !is_begun => Plan::Initiate {
            set: wanted.name.clone(),
            host: host.clone(),
        },
        _ if is_begun => Plan::Wait(format!(
            "mongodb: the replica set has no primary, for which a majority of its members has to be there{}{}",
            if away.is_empty() { "" } else { ": " },
            away.join(", "),
        )),
        _ => Plan::Wait(format!("mongodb: {}", away.join(", "))),
    }
}

fn grow<L: Leads>(leader: &L, view: &View<L>) -> Plan {
    let config = leader.config();
    let is_filled = |host: &str| matches!(leader.state(host), Some("PRIMARY" | "SECONDARY"));
    let not_filled = |host: &str| {
        let state = leader.state(host).unwrap_or("not known to the primary yet");
        Plan::Wait(format!("mongodb: {host} is not ready: {state}"))
    };
    // One at a time: who was taken in has to have the data before the next one.
    for (host, _) in &view.members {
        match config.member(host) {
            Some(member) if member.votes > 0 || member.is_special => {}
            Some(_) if is_filled(host) => return Plan::GiveVote { host: host.clone() },
            Some(_) => return not_filled(host),
            None => {}
        }
    }
    for (host, seen) in &view.members {
        match seen {
            _ if config.member(host).is_some() => {}
            Seen::Away(why) => return Plan::Wait(format!("mongodb: {host} {why}")),
            Seen::Bare | Seen::Configured { .. } => return Plan::Add { host: host.clone() },
        }
    }
    if let Some((host, _)) = (view.members.iter()).find(|(host, _)| !is_filled(host)) {
        return not_filled(host);
    }
    let members = config.members().into_iter().map(|member| member.host);
    let is_named = |host: &String| {
        view.members
            .iter()
            .any(|(named, _)| named.eq_ignore_ascii_case(host))
    };
    Plan::Done {
        strangers: members.filter(|host| !is_named(host)).collect(),
    }
}

/// What no waiting mends.
fn contradiction<L: Leads>(wanted: &ReplicaSet, view: &View<L>) -> Option<String> {
    let configured = view.members.iter().filter_map(|(host, seen)| match seen {
        Seen::Configured { config, .. } => Some((host.as_str(), config)),
        _ => None,
    });
    let leader = view
        .leader
        .iter()
        .map(|leader| ("the primary", leader.config()));
    let mut first: Option<(&str, &Config)> = None;
    for (host, config) in leader.chain(configured) {
        if config.name() != wanted.name {
            return Some(format!(
                "mongodb: {host} belongs to the replica set {}, not to {}; see DARDA_BOOTSTRAP_MONGODB_SET",
                config.name(),
                wanted.name
            ));
        }
        let (other, known) = *first.get_or_insert((host, config));
        if config.id() != known.id() {
            return Some(format!(
                "mongodb: {host} belongs to another replica set than {other}, of the same name; one of the two has the data of \
                 another installation"
            ));
        }
    }
    // It would belong to the set twice.
    view.members.iter().find_map(|(host, seen)| match seen {
        Seen::Configured { me: Some(me), .. } if !me.eq_ignore_ascii_case(host) => Some(format!(
            "mongodb: {host} belongs to the replica set as {me}; name it so in DARDA_BOOTSTRAP_MONGODB_MEMBERS"
        )),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, doc};

    use super::*;
    use crate::config::{Secret, User};

    struct Leader(Config, Vec<(&'static str, &'static str)>);

    impl Leads for Leader {
        fn config(&self) -> &Config {
            &self.0
        }

        fn state(&self, host: &str) -> Option<&str> {
            let mut states = self.1.iter();
            states.find_map(|(known, state)| (*known == host).then_some(*state))
        }
    }

    fn wanted() -> ReplicaSet {
        ReplicaSet {
            name: "rs0".to_owned(),
            members: Vec::new(),
            key: Secret(String::new()),
            user: User {
                name: String::new(),
                password: Secret(String::new()),
                source: String::new(),
                database: String::new(),
            },
        }
    }

    fn config(id: i32, members: &[(&str, i32)]) -> Config {
        let members: Vec<Document> = (0_i32..)
            .zip(members)
            .map(|(n, (host, votes))| doc! { "_id": n, "host": *host, "votes": *votes })
            .collect();
        let settings = doc! { "replicaSetId": id };
        Config::of(doc! { "_id": "rs0", "version": 1, "members": members, "settings": settings })
    }

    fn configured(config: Config) -> Seen {
        Seen::Configured { config, me: None }
    }

    fn away() -> Seen {
        Seen::Away("does not answer".to_owned())
    }

    fn next(members: &[(&str, Seen)], leader: Option<Leader>) -> Plan {
        let members = members
            .iter()
            .map(|(host, seen)| ((*host).to_owned(), seen.clone()));
        plan(
            &wanted(),
            &View {
                members: members.collect(),
                leader,
            },
        )
    }

    fn host(plan: &Plan) -> String {
        match plan {
            Plan::Initiate { host, .. } | Plan::Add { host } | Plan::GiveVote { host } => {
                host.clone()
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_set_begins_with_the_first_when_all_say_that_there_is_none() {
        let plan = next(&[("a", Seen::Bare), ("b", Seen::Bare)], None);
        assert!(matches!(plan, Plan::Initiate { .. }));
        assert_eq!(host(&plan), "a");
    }

    #[test]
    fn one_that_is_away_may_belong_to_a_set() {
        let Plan::Wait(why) = next(&[("a", Seen::Bare), ("b", away())], None) else {
            panic!("no waiting");
        };
        assert_eq!(why, "mongodb: b does not answer");
        let known = configured(config(1, &[("b", 1)]));
        let Plan::Wait(why) = next(&[("a", Seen::Bare), ("b", known)], None) else {
            panic!("no waiting");
        };
        assert!(why.contains("no primary"), "{why}");
    }

    #[test]
    fn members_are_taken_in_one_at_a_time() {
        let seen = |config: &Config| configured(config.clone());
        let one = config(1, &[("a", 1)]);
        let states = vec![("a", "PRIMARY"), ("b", "STARTUP2")];
        let bare = [("a", seen(&one)), ("b", Seen::Bare), ("c", Seen::Bare)];
        let plan = next(&bare, Some(Leader(one.clone(), states.clone())));
        assert_eq!(
            plan,
            Plan::Add {
                host: "b".to_owned()
            }
        );

        let two = config(1, &[("a", 1), ("b", 0)]);
        let taken = [("a", seen(&two)), ("b", seen(&two)), ("c", Seen::Bare)];
        let plan = next(&taken, Some(Leader(two.clone(), states)));
        assert_eq!(
            plan,
            Plan::Wait("mongodb: b is not ready: STARTUP2".to_owned())
        );
        let states = vec![("a", "PRIMARY"), ("b", "SECONDARY")];
        let plan = next(&taken, Some(Leader(two, states.clone())));
        assert_eq!(
            plan,
            Plan::GiveVote {
                host: "b".to_owned()
            }
        );

        let two = config(1, &[("a", 1), ("b", 1)]);
        let plan = next(&taken, Some(Leader(two.clone(), states.clone())));
        assert_eq!(
            plan,
            Plan::Add {
                host: "c".to_owned()
            }
        );
        let gone = [("a", seen(&two)), ("b", seen(&two)), ("c", away())];
        let plan = next(&gone, Some(Leader(two, states)));
        assert_eq!(plan, Plan::Wait("mongodb: c does not answer".to_owned()));
    }

    #[test]
    fn members_that_nobody_named_stay() {
        let both = config(1, &[("a", 1), ("z", 1)]);
        let leader = Leader(both.clone(), vec![("a", "PRIMARY")]);
        let plan = next(&[("a", configured(both))], Some(leader));
        assert_eq!(
            plan,
            Plan::Done {
                strangers: vec!["z".to_owned()]
            }
        );
    }

    #[test]
    fn a_member_that_is_not_ready_is_waited_for() {
        let both = config(1, &[("a", 1), ("b", 1)]);
        let leader = Leader(both.clone(), vec![("a", "PRIMARY"), ("b", "RECOVERING")]);
        let seen = configured(both);
        let plan = next(&[("a", seen.clone()), ("b", seen)], Some(leader));
        assert_eq!(
            plan,
            Plan::Wait("mongodb: b is not ready: RECOVERING".to_owned())
        );
    }

    #[test]
    fn the_data_of_another_set_is_refused() {
        let (one, other) = (config(1, &[("a", 1)]), config(2, &[("b", 1)]));
        let members = [("a", configured(one.clone())), ("b", configured(other))];
        for leader in [None, Some(Leader(one, vec![("a", "PRIMARY")]))] {
            let Plan::Refuse(why) = next(&members, leader) else {
                panic!("no refusal");
            };
            assert!(why.starts_with("mongodb: b belongs to another"), "{why}");
        }
        let renamed = Config::of(doc! { "_id": "rs1", "members": [] });
        let plan = next(&[("a", configured(renamed))], None);
        assert!(matches!(plan, Plan::Refuse(why) if why.contains("rs1")));
    }

    #[test]
    fn a_member_with_two_names_is_refused() {
        let one = config(1, &[("a", 1)]);
        let known_as = |me: &str| Seen::Configured {
            config: one.clone(),
            me: Some(me.to_owned()),
        };
        let leader = || Some(Leader(one.clone(), vec![("a", "PRIMARY")]));
        let plan = next(&[("b", known_as("a"))], leader());
        assert!(
            matches!(plan, Plan::Refuse(why) if why.contains("b belongs to the replica set as a"))
        );
        let plan = next(&[("a", known_as("A"))], leader());
        assert_eq!(
            plan,
            Plan::Done {
                strangers: Vec::new()
            }
        );
    }
}
