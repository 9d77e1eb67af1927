//! The user of the programs in MongoDB.

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ClientOptions, Credential};

use super::member::{AUTHENTICATION_FAILED, Member, Refusal};
use crate::config::User;
use crate::wait::Trouble;

/// What the user lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Make,
    SetRoles,
    SetPassword,
}

pub struct Users {
    options: ClientOptions,
    user: User,
}

impl Users {
    pub fn new(options: ClientOptions, user: User) -> Self {
        Self { options, user }
    }

    /// What has to be changed, as the primary says.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn look(&self, primary: &Member) -> Result<Vec<Change>, Trouble> {
        let asked = doc! { "usersInfo": &self.user.name };
        let known = primary.ask(&self.user.source, asked).await;
        let known = known.map_err(|refusal| self.trouble(primary, &refusal))?;
        let users = known.get_array("users").into_iter().flatten();
        let Some(known) = users.filter_map(Bson::as_document).next() else {
            return Ok(vec![Change::Make]);
        };
        let mut changes = Vec::new();
        if !self.has_roles(known) {
            changes.push(Change::SetRoles);
        }
        if !self.may_sign_in(primary).await? {
            changes.push(Change::SetPassword);
        }
        Ok(changes)
    }

    /// # Errors
    /// When it was refused. Another bootstrap may have been quicker, so that is worth another look.
    pub async fn make(&self, primary: &Member, change: Change) -> Result<(), Trouble> {
        let (name, password) = (&self.user.name, &self.user.password.0);
        let mut command = match change {
            Change::Make => doc! { "createUser": name, "pwd": password, "roles": [self.role()] },
            Change::SetRoles => doc! { "updateUser": name, "roles": [self.role()] },
            Change::SetPassword => doc! { "updateUser": name, "pwd": password },
        };
        command.insert("writeConcern", doc! { "w": "majority", "wtimeout": 10_000 });
        let made = primary.ask(&self.user.source, command).await;
        made.map_err(|refusal| self.trouble(primary, &refusal))
            .map(drop)
    }

    #[must_use]
    pub fn in_order(&self) -> String {
        let User { name, database, .. } = &self.user;
        format!("the user {name} may read and write {database}, and no more")
    }

    /// As a wish.
    #[must_use]
    pub fn wish(&self, change: Change) -> String {
        let User { name, database, .. } = &self.user;
        match change {
            Change::Make => format!("make the user {name}, who may read and write {database}"),
            Change::SetRoles => {
                format!("let the user {name} read and write {database}, and no more")
            }
            Change::SetPassword => {
                format!("give the user {name} the password of DARDA_MONGODB_URI")
            }
        }
    }

    /// As a deed.
    #[must_use]
    pub fn made(&self, change: Change) -> String {
        let User { name, database, .. } = &self.user;
        match change {
            Change::Make => format!("made the user {name}"),
            Change::SetRoles => {
                format!(
                    "the user {name} had other rights; it may read and write {database} now, and no more"
                )
            }
            Change::SetPassword => {
                format!(
                    "the user {name} had another password; it has that of DARDA_MONGODB_URI now"
                )
            }
        }
    }

    fn role(&self) -> Document {
        doc! { "role": "readWrite", "db": &self.user.database }
    }

    fn has_roles(&self, known: &Document) -> bool {
        let roles = known.get_array("roles").into_iter().flatten();
        let roles: Vec<_> = roles.filter_map(Bson::as_document).collect();
        let wanted = self.role();
        matches!(roles[..], [role] if ["role", "db"].iter().all(|f| role.get(f) == wanted.get(f)))
    }

    async fn may_sign_in(&self, primary: &Member) -> Result<bool, Trouble> {
        let mut credential = Credential::builder()
            .username(self.user.name.clone())
            .password(self.user.password.0.clone())
            .source(self.user.source.clone())
            .build();
        // What the URI asks for, if it does.
        let asked = self.options.credential.as_ref();
        credential.mechanism = asked.and_then(|asked| asked.mechanism.clone());
        let member = Member::new(&self.options, &primary.host, credential);
        let member =
            member.map_err(|error| Trouble::Lasting(format!("mongodb: {}", error.kind)))?;
        match member.ask("admin", doc! { "ping": 1 }).await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.code == Some(AUTHENTICATION_FAILED) => Ok(false),
            Err(refusal) => Err(self.trouble(primary, &refusal)),
        }
    }

    fn trouble(&self, primary: &Member, refusal: &Refusal) -> Trouble {
        let (name, host) = (&self.user.name, &primary.host);
        Trouble::Passing(format!("mongodb: the user {name}: {host} {}", refusal.why))
    }
}
