//! Passwords in a Secret of Kubernetes, for who applies manifests and has nothing that makes them.
//!
//! Two requests of the HTTP API, with the rights of the pod's service account: a client for all of Kubernetes would be the
//! largest thing in the program.

mod account;
mod values;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use tracing::info;

pub use account::ServiceAccount;

use crate::config::SecretConfig;
use crate::http::{Answer, Http, Method};
use crate::wait::{self, Step, Trouble};

/// What a Secret holds, decoded.
type Data = BTreeMap<String, String>;

/// Fills the Secret with what it lacks.
///
/// # Errors
/// When it cannot be read or changed in time.
pub async fn run(config: &SecretConfig, account: &ServiceAccount) -> Result<()> {
    let name = &config.secret;
    let http = account.http().map_err(|why| anyhow!("kubernetes: {why}"))?;
    let path = account.secret_path(name);
    wait::steps(config.wait, async || {
        let (data, version) = get(&http, &path).await?;
        let made = values::lacking(&config.hosts, &data);
        if made.is_empty() {
            return Ok(Step::Done(()));
        }
        patch(&http, &path, &made, &version).await?;
        let keys: Vec<_> = made.keys().map(String::as_str).collect();
        info!("secret {name}: made {}", keys.join(", "));
        Ok(Step::Further)
    })
    .await?;
    info!("secret {name}: nothing is lacking");
    Ok(())
}

/// What it holds, and which version of it that is.
async fn get(http: &Http, path: &str) -> Result<(Data, String), Trouble> {
    let answer = http.ask(Method::Get, path).await.map_err(away)?;
    if answer.status != 200 {
        return Err(refusal(&answer));
    }
    let version = answer.body["metadata"]["resourceVersion"].as_str();
    let version =
        version.ok_or_else(|| away("it does not tell the version of the Secret".to_owned()))?;
    let data = answer.body["data"].as_object();
    let data = data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), decoded(value)));
    Ok((data.collect(), version.to_owned()))
}

/// Refused if the Secret is of another version by now: then somebody else may have made passwords.
async fn patch(http: &Http, path: &str, made: &Data, version: &str) -> Result<(), Trouble> {
    let data: Map<String, Value> = made
        .iter()
        .map(|(key, value)| (key.clone(), BASE64_STANDARD.encode(value).into()))
        .collect();
    let patch = json!({ "metadata": { "resourceVersion": version }, "data": data });
    let answer = http.ask(Method::Merge(patch), path).await.map_err(away)?;
    match answer.status {
        200 => Ok(()),
        409 => Err(away(
            "somebody else changed the Secret at this moment".to_owned(),
        )),
        _ => Err(refusal(&answer)),
    }
}

/// What is no text is not ours, and stays.
fn decoded(value: &Value) -> String {
    let bytes = BASE64_STANDARD.decode(value.as_str().unwrap_or_default());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

fn away(why: String) -> Trouble {
    Trouble::Passing(format!("kubernetes: {why}"))
}

/// Rights and the Secret itself may be made at this moment.
fn refusal(answer: &Answer) -> Trouble {
    let why = answer.body["message"]
        .as_str()
        .unwrap_or("it gives no reason");
    away(format!("{}, {why}", answer.status))
}
