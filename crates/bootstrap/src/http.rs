//! Requests with JSON in them: to the management API of RabbitMQ, and to Kubernetes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use serde_json::Value;
use ureq::http::Request;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A whole request and its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer. A Secret has a mebibyte at most.
const ANSWER_MAX: u64 = 4 * 1024 * 1024;

/// A server, and what is said to it every time.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
    /// Without a slash at its end.
    base: String,
    authorization: String,
}

/// What a server answered, whatever it is.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Null if it is no JSON.
    pub body: Value,
}

/// Whose certificates are good.
pub enum Trust<'a> {
    Public,
    Authorities(&'a Path),
    Anybody,
}

/// What is asked.
pub enum Method {
    Get,
    Put(Value),
    /// Fields that change, and no others.
    Merge(Value),
}

impl Http {
    /// # Errors
    /// When the file of authorities cannot be read or has no certificate.
    pub fn new(base: String, authorization: String, trust: &Trust<'_>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        let tls = match trust {
            Trust::Public => tls.root_certs(RootCerts::WebPki),
            Trust::Anybody => tls.disable_verification(true),
            Trust::Authorities(file) => tls.root_certs(RootCerts::from(authorities(file)?)),
        };
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            // The servers are near, whatever leads to the world.
            .proxy(None)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(ANSWER_WITHIN))
            .build();
        Ok(Self {
            agent: agent.into(),
            base,
            authorization,
        })
    }

    /// # Errors
    /// When there is no answer in time. What a server refuses is an answer.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Answer, String> {
        let (this, url) = (self.clone(), format!("{}{path}", self.base));
        let asking = tokio::task::spawn_blocking(move || this.ask_now(method, &url));
        asking.await.map_err(|error| error.to_string())?
    }

    fn ask_now(&self, method: Method, url: &str) -> Result<Answer, String> {
        let request = Request::builder()
            .uri(url)
            .header("authorization", &self.authorization)
            .header("accept", "application/json");
        let answer = match method {
            Method::Get => request.method("GET").body(()).map(|r| self.agent.run(r)),
            Method::Put(body) => request
                .method("PUT")
                .header("content-type", "application/json")
                .body(body.to_string())
                .map(|r| self.agent.run(r)),
            Method::Merge(body) => request
                .method("PATCH")
                .header("content-type", "application/merge-patch+json")
                .body(body.to_string())
                .map(|r| self.agent.run(r)),
        };
        let answer = answer.map_err(|error| error.to_string())?;
        let mut answer = answer.map_err(|error| error.to_string())?;
        Ok(Answer {
            status: answer.status().as_u16(),
            body: read(answer.body_mut())?,
        })
    }
}

fn read(body: &mut Body) -> Result<Value, String> {
    let body = body.with_config().limit(ANSWER_MAX).read_to_vec();
    let body = body.map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn authorities(file: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let shown = file.display();
    let text = std::fs::read(file).map_err(|why| format!("cannot read {shown}: {why}"))?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(why) => Some(Err(format!("{shown} has a bad certificate: {why}"))),
    });
    let certificates: Vec<_> = items.collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err(format!("{shown} has no certificate in PEM"));
    }
    Ok(certificates)
}
