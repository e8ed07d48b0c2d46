//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`): what rules over, and what stands
//! behind, the policies of namespaces.
//!
//! A connection is asked of the tier Admin, then of NetworkPolicy, then of the tier Baseline; the
//! first decision holds. Within a tier the policies are asked by priority, those of one priority
//! by name (the API leaves that open), and each rule by rule.

use std::sync::Arc;

use crate::object::{Direction, Pod, Rule};
use crate::selector::{Labels, Selector};

/// Where a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before all NetworkPolicies.
    Admin,
    /// After them, for pods that none isolates in the direction.
    Baseline,
}

impl Tier {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Admin, Self::Baseline];

    /// As the API writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        }
    }
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It passes; nobody else is asked in this direction.
    Accept,
    /// It is dropped.
    Deny,
    /// The rest of this tier is not asked.
    Pass,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRule {
    /// `name`, for people; may be empty.
    pub name: Arc<str>,
    /// `action`.
    pub action: Action,
    /// What it matches. Its peers of pods name their namespaces by a selector.
    pub on: Rule,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.tier`.
    pub tier: Tier,
    /// `spec.priority`, 0 to 1000; the lesser is asked first.
    pub priority: u16,
    /// `spec.subject`: of which namespaces ...
    pub namespaces: Selector,
    /// ... and which of their pods.
    pub pods: Selector,
    /// `spec.ingress`.
    pub ingress: Vec<ActionRule>,
    /// `spec.egress`.
    pub egress: Vec<ActionRule>,
}

impl ClusterNetworkPolicy {
    /// The rules of a direction, in order. Without any it says nothing of it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[ActionRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether it is for a pod, whose namespace has these labels.
    #[must_use]
    pub fn selects(&self, namespace: &Labels, pod: &Pod) -> bool {
        self.namespaces.selects(namespace) && self.pods.selects(&pod.labels)
    }
}

/// A Node as policy sees it: a peer that rules select by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNode {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`.
    pub addresses: Vec<std::net::IpAddr>,
}
