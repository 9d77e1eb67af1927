//! What NetworkPolicies let through, judged as a network that enforces them would.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::{Labels, Object, Workload};

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// A pod of the same namespace.
    Pod(&'a Workload),
    /// A pod of a namespace with this name, without labels of its own.
    Namespace(&'a str),
    /// An address that is no pod's.
    World,
}

/// A port and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    pub protocol: &'static str,
    pub number: i32,
}

/// All policies of one rendering.
pub struct Policies(Vec<NetworkPolicySpec>);

impl Policies {
    pub fn of(objects: &[Object]) -> Self {
        let policies = objects.iter().filter(|o| o.kind() == "NetworkPolicy");
        Self(
            policies
                .filter_map(|o| o.typed::<NetworkPolicy>().spec)
                .collect(),
        )
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some policy selects it for this direction, so that only what is listed passes.
    pub fn deny(&self, pod: &Workload, direction: &str) -> bool {
        self.selecting(pod, direction).next().is_some()
    }

    fn selecting<'a>(
        &'a self,
        pod: &'a Workload,
        direction: &'a str,
    ) -> impl Iterator<Item = &'a NetworkPolicySpec> {
        self.0.iter().filter(move |policy| {
            let types = policy.policy_types.as_deref().unwrap_or_default();
            types.iter().any(|t| t == direction)
                && policy
                    .pod_selector
                    .as_ref()
                    .is_none_or(|s| selects(s, &pod.labels))
        })
    }

    /// Whether a pod accepts a connection.
    pub fn accepts(&self, pod: &Workload, port: Port, from: End<'_>) -> bool {
        !self.deny(pod, "Ingress")
            || self.selecting(pod, "Ingress").any(|policy| {
                let rules = policy.ingress.as_deref().unwrap_or_default();
                rules.iter().any(|rule| {
                    covers(rule.ports.as_deref(), port) && includes(rule.from.as_deref(), from)
                })
            })
    }

    /// Whether a pod may open one.
    pub fn lets_out(&self, pod: &Workload, port: Port, to: End<'_>) -> bool {
        !self.deny(pod, "Egress")
            || self.selecting(pod, "Egress").any(|policy| {
                let rules = policy.egress.as_deref().unwrap_or_default();
                rules.iter().any(|rule| {
                    covers(rule.ports.as_deref(), port) && includes(rule.to.as_deref(), to)
                })
            })
    }

    /// Whether a connection between two pods comes about.
    pub fn connects(&self, from: &Workload, to: &Workload, port: Port) -> bool {
        self.lets_out(from, port, End::Pod(to)) && self.accepts(to, port, End::Pod(from))
    }
}

/// No list is every port.
fn covers(ports: Option<&[NetworkPolicyPort]>, port: Port) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty()
        || ports.iter().any(|listed| {
            listed.protocol.as_deref().unwrap_or("TCP") == port.protocol
                && match &listed.port {
                    None => true,
                    Some(IntOrString::Int(number)) => *number == port.number,
                    Some(IntOrString::String(name)) => {
                        panic!("a policy names the port {name}; here they are numbers")
                    }
                }
        })
}

/// No list is everybody.
fn includes(peers: Option<&[NetworkPolicyPeer]>, end: End<'_>) -> bool {
    let peers = peers.unwrap_or_default();
    peers.is_empty()
        || peers.iter().any(|peer| {
            let pods = peer.pod_selector.as_ref();
            match (end, &peer.namespace_selector) {
                (End::World, _) => peer.ip_block.is_some(),
                (End::Pod(pod), None) => pods.is_some_and(|s| selects(s, &pod.labels)),
                // Nothing here is known of the labels of our own namespace but that it may have any name.
                (End::Pod(_), Some(_)) | (End::Namespace(_), None) => false,
                (End::Namespace(name), Some(namespace)) => {
                    let name = ("kubernetes.io/metadata.name".to_owned(), name.to_owned());
                    selects(namespace, &Labels::from([name]))
                        && pods.is_none_or(|s| selects(s, &Labels::new()))
                }
            }
        })
}

/// Whether a selector picks what has these labels.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    equal
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            let value = labels.get(&expression.key);
            match expression.operator.as_str() {
                "In" => value.is_some_and(|v| values.contains(v)),
                "NotIn" => value.is_none_or(|v| !values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("there is no operator {other}"),
            }
        })
}
