//! How users are known, as the environment says.

use std::net::SocketAddr;

use runtime::env::{self, EnvError, Variable};
use serde::Deserialize;

/// How users are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Auth {
    mode: Option<Mode>,
    #[serde(default)]
    open_anywhere: bool,
}

/// The ways to know a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Names on trust.
    Open,
}

/// The variables of [`Auth`].
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "DARDA_AUTH_MODE",
        default: "open",
        meaning: "How users are known. open: names on trust, for trying out and tests.",
    },
    Variable {
        name: "DARDA_AUTH_OPEN_ANYWHERE",
        default: "false",
        meaning: "With true, and DARDA_AUTH_MODE=open said in so many words, open mode may listen on an address that others can reach.",
    },
];

impl Auth {
    /// Reads and checks it. `http` is the address that clients reach.
    ///
    /// # Errors
    /// Names the variable that is bad, and refuses an address that others reach if users are known by names alone.
    pub fn from_env(http: SocketAddr) -> Result<Self, EnvError> {
        let auth: Self = env::read("DARDA_AUTH_")?;
        auth.check(http)?;
        Ok(auth)
    }

    fn check(&self, http: SocketAddr) -> Result<(), EnvError> {
        let told_twice = self.mode == Some(Mode::Open) && self.open_anywhere;
        if http.ip().is_loopback() || told_twice {
            return Ok(());
        }
        let reason = format!(
            "open mode believes every name, so it does not listen on {http}, which others can reach; if that is what \
             you want, set both DARDA_AUTH_MODE=open and DARDA_AUTH_OPEN_ANYWHERE=true"
        );
        Err(EnvError::new("DARDA_AUTH_MODE", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_mode_leaves_the_loopback_address_only_when_told_twice() {
        let far: SocketAddr = "0.0.0.0:8080".parse().unwrap();
        let mut auth = Auth::default();
        assert!(auth.check("127.0.0.1:8080".parse().unwrap()).is_ok());
        assert_eq!(auth.check(far).unwrap_err().name, "DARDA_AUTH_MODE");
        auth.open_anywhere = true;
        assert!(auth.check(far).is_err());
        auth.mode = Some(Mode::Open);
        assert!(auth.check(far).is_ok());
    }
}
