//! Whether the process is alive, and whether it should get work.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use futures_util::future::join_all;
use serde::Serialize;

/// A check that has not answered by then has failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

type Checks = Pin<Box<dyn Future<Output = Vec<Check>> + Send>>;

struct Named {
    name: &'static str,
    run: Box<dyn Fn() -> Checks + Send + Sync>,
}

/// Whether the process should get work. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    draining: AtomicBool,
    checks: Mutex<Vec<Arc<Named>>>,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub status: State,
    pub checks: Vec<Check>,
}

/// What the checks come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ready,
    /// A dependency is away.
    Unready,
    /// The process is leaving.
    Draining,
}

/// One dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of what is called through a breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
}

/// What becomes of calls to a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// They are made.
    Closed,
    /// They are refused at once, but for one now and then that finds out whether it is back.
    Open,
}

impl Check {
    /// The state of a dependency: nothing, or what is wrong.
    pub fn new(name: impl Into<String>, trouble: Option<String>) -> Self {
        Self {
            name: name.into(),
            ok: trouble.is_none(),
            detail: trouble,
            breaker: None,
        }
    }

    /// Adds the state of its breaker, where it has one.
    #[must_use]
    pub fn with_breaker(self, breaker: Option<Breaker>) -> Self {
        Self { breaker, ..self }
    }
}

impl Readiness {
    /// Ready, with nothing to check yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on the process is leaving and wants no new work.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Adds one dependency.
    pub fn check<F, Fut>(&self, name: &'static str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks(name, move || {
            let result = check();
            async move { vec![Check::new(name, result.await.err())] }
        });
    }

    /// Adds several dependencies that one call asks about. `group` names them when they do not answer.
    pub fn checks<F, Fut>(&self, group: &'static str, checks: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Check>> + Send + 'static,
    {
        let named = Named {
            name: group,
            run: Box::new(move || Box::pin(checks())),
        };
        self.0
            .checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(named));
    }

    /// Asks everything at once, for at most two seconds.
    pub async fn report(&self) -> Report {
        let checks = self
            .0
            .checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answers = checks.iter().map(|check| async {
            tokio::time::timeout(CHECK_TIMEOUT, (check.run)())
                .await
                .unwrap_or_else(|_| {
                    let trouble = format!("no answer within {CHECK_TIMEOUT:?}");
                    vec![Check::new(check.name, Some(trouble))]
                })
        });
        let checks: Vec<Check> = join_all(answers).await.into_iter().flatten().collect();
        let status = if self.0.draining.load(Ordering::Relaxed) {
            State::Draining
        } else if checks.iter().all(|check| check.ok) {
            State::Ready
        } else {
            State::Unready
        };
        Report { status, checks }
    }
}

/// Mounts `/healthz` and `/readyz`; for the public port as well as for the admin port.
pub fn configure(readiness: Readiness) -> impl FnOnce(&mut web::ServiceConfig) {
    move |cfg| {
        cfg.app_data(web::Data::new(readiness))
            .service(web::resource("/healthz").get(healthz).head(healthz))
            .service(web::resource("/readyz").get(readyz).head(readyz));
    }
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(serde_json::json!({"status": "alive"}))
}

async fn readyz(readiness: web::Data<Readiness>) -> HttpResponse {
    let report = readiness.report().await;
    let mut answer = match report.status {
        State::Ready => HttpResponse::Ok(),
        State::Unready | State::Draining => HttpResponse::ServiceUnavailable(),
    };
    answer
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_dependency_is_listed_and_one_in_trouble_is_enough() {
        let readiness = Readiness::new();
        assert_eq!(readiness.report().await.status, State::Ready);
        readiness.check("disk", || async { Ok(()) });
        readiness.checks("stores", || async {
            let redis = Check::new("redis", Some("away".to_owned()));
            vec![redis.with_breaker(Some(Breaker::Open))]
        });
        let report = serde_json::to_value(readiness.report().await).unwrap();
        assert_eq!(
            report,
            serde_json::json!({"status": "unready", "checks": [
                {"name": "disk", "ok": true},
                {"name": "redis", "ok": false, "detail": "away", "breaker": "open"},
            ]})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_has_failed() {
        let readiness = Readiness::new();
        readiness.check("broker", std::future::pending);
        let report = readiness.report().await;
        assert_eq!(report.status, State::Unready);
        assert_eq!(
            report.checks[0].detail.as_deref(),
            Some("no answer within 2s")
        );
    }

    #[tokio::test]
    async fn draining_is_not_ready() {
        let readiness = Readiness::new();
        readiness.clone().set_draining();
        assert_eq!(readiness.report().await.status, State::Draining);
    }
}
