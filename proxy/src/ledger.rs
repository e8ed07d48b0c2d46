//! The ledger of problems: each is told once when it appears and once when it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;
use tracing::{info, warn};

/// Who found a problem, and in what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The conversion of an object.
    Object(Kind, ObjectKey),
    /// The compilation of a Service.
    Plan(ObjectKey),
    /// The reading of a manifest.
    File(PathBuf),
    /// A Service's health-check node port, on one address.
    HealthCheck(ObjectKey, std::net::SocketAddr),
    /// The kernel, which rejected something.
    Kernel,
    /// The kernel, which does not hold what network policy asks.
    Policy,
    /// The mode for pods that are not known yet, which cannot be had.
    NewPods,
    /// The reading of DNS answers, for policies that speak of domain names.
    DomainNames,
    /// The container runtime, which shall tell of new pods.
    Nri,
    /// The start, which could not set something on the machine.
    Machine,
    /// The machine's network, which keeps packets from us.
    Network,
    /// Another service proxy, whose rules are beside ours.
    SecondProxy,
}

impl Origin {
    /// The value of the label `kind` in metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Object(Kind::Service, _) | Self::Plan(_) | Self::HealthCheck(..) => "Service",
            Self::Object(Kind::EndpointSlice, _) => "EndpointSlice",
            Self::Object(Kind::Node | Kind::PeerNode, _) => "Node",
            Self::Object(Kind::ServiceCidr, _) => "ServiceCIDR",
            Self::Object(Kind::Pod, _) => "Pod",
            Self::Object(Kind::Namespace, _) => "Namespace",
            Self::Object(Kind::NetworkPolicy, _) => "NetworkPolicy",
            Self::Object(Kind::ClusterNetworkPolicy, _) => "ClusterNetworkPolicy",
            Self::File(_) => "file",
            Self::Kernel => "kernel",
            Self::Policy | Self::NewPods | Self::DomainNames | Self::Nri => "policy",
            Self::Machine => "machine",
            Self::Network => "network",
            Self::SecondProxy => "second-proxy",
        }
    }

    /// All values of that label.
    pub const KINDS: [&'static str; 14] = [
        "Service",
        "EndpointSlice",
        "Node",
        "ServiceCIDR",
        "Pod",
        "Namespace",
        "NetworkPolicy",
        "ClusterNetworkPolicy",
        "file",
        "kernel",
        "policy",
        "machine",
        "network",
        "second-proxy",
    ];
}

/// What a new finding changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Problems that were not there before.
    pub appeared: Vec<String>,
    /// Problems that are no more.
    pub gone: Vec<String>,
}

impl News {
    /// Logs it.
    pub fn log(&self) {
        for problem in &self.appeared {
            warn!("{problem}");
        }
        for problem in &self.gone {
            info!("no longer a problem: {problem}");
        }
    }
}

/// All problems there are at present.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<Origin, BTreeSet<String>>,
    counts: BTreeMap<&'static str, usize>,
}

impl Ledger {
    /// Puts what was found now in place of what was found before.
    pub fn replace(&mut self, origin: Origin, found: BTreeSet<String>) -> News {
        // Almost every change is of an object that never had a problem.
        if found.is_empty() && !self.entries.contains_key(&origin) {
            return News::default();
        }
        let held = self.entries.remove(&origin).unwrap_or_default();
        let news = News {
            appeared: found.difference(&held).cloned().collect(),
            gone: held.difference(&found).cloned().collect(),
        };
        let count = self.counts.entry(origin.kind()).or_default();
        *count = *count + found.len() - held.len();
        if !found.is_empty() {
            self.entries.insert(origin, found);
        }
        news
    }

    /// The objects of a kind that have problems of their own.
    #[must_use]
    pub fn objects(&self, kind: Kind) -> Vec<ObjectKey> {
        let of_kind = self.entries.keys().filter_map(|origin| match origin {
            Origin::Object(of, key) if *of == kind => Some(key.clone()),
            _ => None,
        });
        of_kind.collect()
    }

    /// All problems, sorted by where they are from.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, &str)> {
        let texts = |(origin, found)| std::iter::repeat(origin).zip(found);
        self.entries
            .iter()
            .flat_map(texts)
            .map(|(origin, text): (_, &String)| (origin, text.as_str()))
    }

    /// How many problems there are of a kind (see [`Origin::kind`]).
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.counts.get(kind).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_problem_is_told_once_when_it_comes_and_once_when_it_goes() {
        let mut ledger = Ledger::default();
        let origin = || Origin::Plan(ObjectKey::new("default", "web"));
        let news = ledger.replace(origin(), set(&["a", "b"]));
        assert_eq!((news.appeared.len(), news.gone.len()), (2, 0));
        assert_eq!(ledger.replace(origin(), set(&["a", "b"])), News::default());
        let news = ledger.replace(origin(), set(&["b", "c"]));
        assert_eq!(news, News { appeared: vec!["c".into()], gone: vec!["a".into()] });
        assert_eq!(ledger.count("Service"), 2);
        let news = ledger.replace(origin(), set(&[]));
        assert_eq!(news.gone, ["b", "c"]);
        assert_eq!((ledger.count("Service"), ledger.iter().count()), (0, 0));
    }
}
