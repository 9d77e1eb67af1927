//! Objects of Kubernetes as they stand in YAML, and as their types know them.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, Pod, PodSpec, Secret, Service, ServiceAccount},
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::differences;

/// Kinds that are not of Kubernetes itself: only their schemas know them.
const OF_OTHERS: &[&str] = &[
    "gateway.networking.k8s.io/v1 HTTPRoute",
    "keda.sh/v1alpha1 ScaledObject",
    "keda.sh/v1alpha1 TriggerAuthentication",
    "monitoring.coreos.com/v1 PrometheusRule",
    "monitoring.coreos.com/v1 ServiceMonitor",
];

/// Names and values, as of labels.
pub type Labels = BTreeMap<String, String>;

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(pub Value);

impl Object {
    fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub fn component(&self) -> &str {
        self.text("/metadata/labels/app.kubernetes.io~1component")
    }

    /// How it is called where something is said of it.
    pub fn id(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    pub fn labels(&self) -> Labels {
        labels(self.0.pointer("/metadata/labels"))
    }

    /// As its type.
    ///
    /// # Panics
    /// If it is of another kind.
    pub fn typed<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.0.clone()).unwrap_or_else(|e| panic!("{}: {e}", self.id()))
    }

    /// Why it is not an object that Kubernetes would take as it stands: a field of another type, or one that nobody knows, which
    /// the server would drop.
    pub fn misfit(&self) -> Option<String> {
        let found = match format!("{} {}", self.api_version(), self.kind()).as_str() {
            "apps/v1 Deployment" => kept::<Deployment>(&self.0),
            "apps/v1 StatefulSet" => kept::<StatefulSet>(&self.0),
            "autoscaling/v2 HorizontalPodAutoscaler" => kept::<HorizontalPodAutoscaler>(&self.0),
            "batch/v1 Job" => kept::<Job>(&self.0),
            "networking.k8s.io/v1 Ingress" => kept::<Ingress>(&self.0),
            "networking.k8s.io/v1 NetworkPolicy" => kept::<NetworkPolicy>(&self.0),
            "policy/v1 PodDisruptionBudget" => kept::<PodDisruptionBudget>(&self.0),
            "rbac.authorization.k8s.io/v1 Role" => kept::<Role>(&self.0),
            "rbac.authorization.k8s.io/v1 RoleBinding" => kept::<RoleBinding>(&self.0),
            "v1 ConfigMap" => kept::<ConfigMap>(&self.0),
            "v1 Namespace" => kept::<Namespace>(&self.0),
            "v1 Pod" => kept::<Pod>(&self.0),
            "v1 Secret" => kept::<Secret>(&self.0),
            "v1 Service" => kept::<Service>(&self.0),
            "v1 ServiceAccount" => kept::<ServiceAccount>(&self.0),
            other if OF_OTHERS.contains(&other) => None,
            other => Some(format!("nobody expects the kind {other}")),
        };
        found.map(|what| format!("{}: {what}", self.id()))
    }
}

/// What pods are made from.
#[derive(Clone, Debug)]
pub struct Workload {
    pub kind: String,
    pub name: String,
    /// Of its pods.
    pub labels: Labels,
    pub spec: PodSpec,
    /// How many there are to be; `None` where somebody else decides.
    pub replicas: Option<i64>,
    /// Names of volumes that each pod gets from a claim of its own.
    pub claims: Vec<String>,
}

impl Workload {
    pub fn of(object: &Object) -> Option<Self> {
        let (metadata, spec) = match object.kind() {
            "Deployment" | "StatefulSet" | "Job" => {
                ("/spec/template/metadata", "/spec/template/spec")
            }
            "Pod" => ("/metadata", "/spec"),
            _ => return None,
        };
        let spec = object.0.pointer(spec).cloned().unwrap_or_default();
        let claims = object.0.pointer("/spec/volumeClaimTemplates");
        Some(Self {
            kind: object.kind().to_owned(),
            name: object.name().to_owned(),
            labels: labels(object.0.pointer(&format!("{metadata}/labels"))),
            spec: serde_json::from_value(spec).unwrap_or_else(|e| panic!("{}: {e}", object.id())),
            replicas: object.0.pointer("/spec/replicas").and_then(Value::as_i64),
            claims: claims
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|claim| Some(claim.pointer("/metadata/name")?.as_str()?.to_owned()))
                .collect(),
        })
    }

    pub fn component(&self) -> &str {
        self.labels
            .get("app.kubernetes.io/component")
            .map_or("", String::as_str)
    }

    pub fn id(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    /// Whether it runs until it is ended.
    pub fn lasts(&self) -> bool {
        matches!(self.kind.as_str(), "Deployment" | "StatefulSet")
    }
}

/// All that pods are made from.
pub fn workloads(objects: &[Object]) -> Vec<Workload> {
    objects.iter().filter_map(Workload::of).collect()
}

/// Names and values where some are.
pub fn labels(value: Option<&Value>) -> Labels {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Reads YAML as Kubernetes does. A key that stands twice is an error.
///
/// # Errors
/// Where it is none, in words.
pub fn parse(yaml: &str) -> Result<Vec<Object>, String> {
    let values: Vec<Value> = documents(yaml)?;
    Ok(values
        .into_iter()
        .filter(|value| !value.is_null())
        .map(Object)
        .collect())
}

/// Every document in a text.
///
/// # Errors
/// As [`parse`].
pub fn documents<T: DeserializeOwned>(yaml: &str) -> Result<Vec<T>, String> {
    let options = serde_saphyr::options! {
        // As what Kubernetes is written with: `defaultMode: 0440`.
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        budget: None
    };
    serde_saphyr::from_multiple_with_options(yaml, options).map_err(|error| error.to_string())
}

/// What is lost when it goes through its type.
fn kept<T: Serialize + DeserializeOwned>(value: &Value) -> Option<String> {
    let typed: T = match serde_json::from_value(value.clone()) {
        Ok(typed) => typed,
        Err(error) => return Some(error.to_string()),
    };
    let back = serde_json::to_value(&typed).expect("it was JSON before");
    let lost = differences::between(value, &back);
    let lost = lost.into_iter().find(|found| found.left.is_some())?;
    Some(format!("{} is not known", lost.pointer))
}
