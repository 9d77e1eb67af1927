//! The members of the replica set, and what is done to them.

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, Credential};

use super::config::Config;
use super::member::{Member, Refusal};
use super::plan::{Leads, Plan, Seen, View};
use crate::config::ReplicaSet;
use crate::wait::Trouble;

const NOT_YET_INITIALIZED: i32 = 94;
/// How long a primary waits for the members to take a configuration.
const RECONFIGURED_WITHIN_MS: i32 = 10_000;

pub struct Set {
    name: String,
    members: Vec<Member>,
    options: ClientOptions,
    system: Credential,
}

/// The primary, and what it knows of the others.
pub struct Leader {
    pub member: Member,
    config: Config,
    /// Hosts and their states.
    states: Vec<(String, String)>,
}

impl Leads for Leader {
    fn config(&self) -> &Config {
        &self.config
    }

    fn state(&self, host: &str) -> Option<&str> {
        let mut states = self.states.iter();
        states.find_map(|(known, state)| known.eq_ignore_ascii_case(host).then_some(state.as_str()))
    }
}

impl Set {
    /// # Errors
    /// When a member's host is no address.
    pub fn new(options: &ClientOptions, wanted: &ReplicaSet) -> Result<Self> {
        let system = Credential::builder()
            .username("__system".to_owned())
            .password(wanted.key.0.clone())
            .source("local".to_owned())
            .build();
        let members = wanted.members.iter().map(|host| {
            let member = Member::new(options, host.as_str(), system.clone());
            member.with_context(|| format!("{host} cannot be asked"))
        });
        Ok(Self {
            name: wanted.name.clone(),
            members: members.collect::<Result<_>>()?,
            options: options.clone(),
            system,
        })
    }

    #[must_use]
    pub fn in_order(&self) -> String {
        match self.members.len() {
            1 => format!("the replica set {} has its member", self.name),
            n => format!("the replica set {} has its {n} members", self.name),
        }
    }

    /// Asks all members at once.
    pub async fn look(&self) -> View<Leader> {
        let seen = join_all(self.members.iter().map(see)).await;
        let mut leader = None;
        for (_, primary) in &seen {
            if let (None, Some(primary)) = (&leader, primary) {
                leader = self.follow(primary).await;
            }
        }
        let hosts = self.members.iter().map(|member| member.host.clone());
        View {
            members: hosts.zip(seen.into_iter().map(|(seen, _)| seen)).collect(),
            leader,
        }
    }

    /// The primary alone.
    ///
    /// # Errors
    /// When there is none.
    pub async fn leader(&self) -> Result<Member, Trouble> {
        let leader = self.look().await.leader;
        let none = || Trouble::Passing("mongodb: the replica set has no primary".to_owned());
        Ok(leader.ok_or_else(none)?.member)
    }

    /// Who says of itself that it is the primary, whether or not anybody named it.
    async fn follow(&self, host: &str) -> Option<Leader> {
        let mut members = self.members.iter();
        let known = members.find(|member| member.host.eq_ignore_ascii_case(host));
        let member = match known {
            Some(member) => member.clone(),
            None => Member::new(&self.options, host, self.system.clone()).ok()?,
        };
        let hello = member.ask("admin", doc! { "hello": 1 }).await.ok()?;
        if !hello.get_bool("isWritablePrimary").unwrap_or(false) {
            return None;
        }
        let config = config(&member).await.ok()?;
        let status = doc! { "replSetGetStatus": 1 };
        let status = member.ask("admin", status).await.ok()?;
        Some(Leader {
            member,
            config,
            states: states(&status),
        })
    }

    /// Does the next thing.
    ///
    /// # Errors
    /// When it was refused. Another bootstrap may have been quicker, so that is worth another look.
    pub async fn carry_out(&self, plan: &Plan) -> Result<(), Trouble> {
        let done = match plan {
            Plan::Initiate { set, host } => self.initiate(set, host).await,
            Plan::Add { host } => self.change(|config| config.with_member(host)).await,
            Plan::GiveVote { host } => self.change(|config| config.with_vote(host)).await,
            Plan::Wait(_) | Plan::Refuse(_) | Plan::Done { .. } => Ok(()),
        };
        done.map_err(|refusal| {
            Trouble::Passing(format!("mongodb: cannot {plan}: it {}", refusal.why))
        })
    }

    async fn initiate(&self, set: &str, host: &str) -> Result<(), Refusal> {
        let mut members = self.members.iter();
        let member = members.find(|member| member.host == host);
        let member = member.expect("a plan names members that were looked at");
        let command = doc! { "replSetInitiate": Config::first(set, host) };
        member.ask("admin", command).await.map(drop)
    }

    /// From a new look at the configuration: one that somebody else changed meanwhile has another version, and the primary
    /// refuses a second change of the same.
    async fn change(&self, change: impl Fn(&Config) -> Document) -> Result<(), Refusal> {
        let leader = self.look().await.leader.ok_or_else(|| Refusal {
            code: None,
            why: "cannot be asked: the replica set has no primary".to_owned(),
        })?;
        let command = doc! {
            "replSetReconfig": change(&leader.config),
            "maxTimeMS": RECONFIGURED_WITHIN_MS,
        };
        leader.member.ask("admin", command).await.map(drop)
    }
}

/// What a member says, and whom it takes for the primary.
async fn see(member: &Member) -> (Seen, Option<String>) {
    let config = match config(member).await {
        Ok(config) => config,
        Err(refusal) if refusal.code == Some(NOT_YET_INITIALIZED) => return (Seen::Bare, None),
        Err(refusal) => return (Seen::Away(refusal.why), None),
    };
    let hello = member.ask("admin", doc! { "hello": 1 }).await;
    let hello = hello.unwrap_or_default();
    let name = |field| hello.get_str(field).ok().map(str::to_owned);
    let (me, primary) = (name("me"), name("primary"));
    (Seen::Configured { config, me }, primary)
}

async fn config(member: &Member) -> Result<Config, Refusal> {
    let answer = member.ask("admin", doc! { "replSetGetConfig": 1 }).await?;
    let config = answer.get_document("config").map_err(|_| Refusal {
        code: None,
        why: "shows no configuration".to_owned(),
    })?;
    Ok(Config::of(config.clone()))
}

fn states(status: &Document) -> Vec<(String, String)> {
    let members = status.get_array("members").into_iter().flatten();
    let members = members.filter_map(|member| member.as_document());
    let text = |member: &Document, name| member.get_str(name).unwrap_or_default().to_owned();
    members
        .map(|member| (text(member, "name"), text(member, "stateStr")))
        .collect()
}
