//! The figures of HTTP, the same in every service. [`observe`](crate::observe) counts with what it finds in the app's data.

use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use protocol::ErrorCode;

/// What was asked, and what kind of answer it got. A route is a pattern, never a path: paths hold names, and there is no
/// end of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: &'static str,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    code: &'static str,
}

const SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Counters and histograms of one process: `app_data(web::Data::new(Metrics::register(&metrics)))`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Histogram>,
    refusals: Family<RefusalLabels, Counter>,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn register(metrics: &runtime::Metrics) -> Self {
        let this = Self {
            requests: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            refusals: Family::default(),
        };
        // A series that begins with its first refusal hides it from whoever looks at increases.
        for code in ErrorCode::ALL {
            let code = code.as_str();
            let refusals = this.refusals.get_or_create(&RefusalLabels { code });
            refusals.inc_by(0);
        }
        metrics.register(|registry| {
            registry.register(
                "chat_http_request_seconds",
                "From a request over HTTP to the beginning of its answer, by method, route and kind of status",
                this.requests.clone(),
            );
            registry.register(
                "chat_http_refusals",
                "Requests over HTTP that were refused, by error code",
                this.refusals.clone(),
            );
        });
        this
    }

    pub(crate) fn answered(
        &self,
        method: &Method,
        route: Option<String>,
        status: StatusCode,
        took: Duration,
    ) {
        let labels = RequestLabels {
            method: known(method),
            route: route.unwrap_or_else(|| "none".to_owned()),
            status: kind(status),
        };
        let requests = self.requests.get_or_create(&labels);
        requests.observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, code: ErrorCode) {
        let code = code.as_str();
        self.refusals.get_or_create(&RefusalLabels { code }).inc();
    }
}

/// Clients may make up methods; labels may not.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}
