//! What the words of a question stand for: pods, nodes and addresses.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use shunt_model::object::ObjectKey;
use shunt_model::snapshot::Snapshot;
use shunt_netpolicy::object::Pod;
use shunt_netpolicy::store::Store;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The node that these are addresses of, if they are no pod's.
    pub(crate) node: Option<String>,
}

/// The objects that have addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// Pods.
    pub(crate) store: &'a Store,
    /// Nodes, and Services.
    pub(crate) services: &'a Snapshot,
}

impl Known<'_> {
    /// Who connects, by a word: an address, a pod, or all pods whose names begin so.
    ///
    /// # Errors
    /// If it stands for nobody, or for a pod without an address.
    pub(crate) fn ends(&self, word: &str) -> Result<Vec<End>> {
        if let Ok(address) = word.parse::<IpAddr>() {
            return Ok(vec![self.at(address)]);
        }
        let key = key(word)?;
        if let Some(start) = key.name.strip_suffix('*') {
            let alike = self.store.pods().filter(|pod| {
                pod.key.namespace == key.namespace
                    && pod.key.name.starts_with(start)
                    && !pod.addresses.is_empty()
            });
            let ends: Vec<_> = alike.map(|pod| End::of_pod(pod)).collect();
            if ends.is_empty() {
                bail!("there is no pod {key}");
            }
            return Ok(ends);
        }
        let pod = self.store.pod(&key).with_context(|| format!("there is no pod {key}"))?;
        if pod.addresses.is_empty() {
            bail!("the pod {key} has no address: it does not run yet, or has ended");
        }
        Ok(vec![End::of_pod(pod)])
    }

    /// Who has an address.
    pub(crate) fn at(&self, address: IpAddr) -> End {
        let pod = self.store.pod_at(address);
        let node = if pod.is_some() { None } else { self.node_at(address) };
        let name = match (pod, &node) {
            (Some(pod), _) => format!("{address} ({})", pod.key),
            (None, Some(node)) => format!("{address} (node {node})"),
            (None, None) => address.to_string(),
        };
        End { name, addresses: vec![address], node }
    }

    fn node_at(&self, address: IpAddr) -> Option<String> {
        let mut nodes = self.services.nodes();
        if let Some(node) = nodes.find(|node| node.addresses.contains(&address)) {
            return Some(node.name.to_string());
        }
        let mut pods = self.store.pods();
        let on_host = pods.find(|pod| pod.host_network && pod.addresses.contains(&address))?;
        on_host.node.as_ref().map(ToString::to_string)
    }
}

impl End {
    pub(crate) fn of_pod(pod: &Pod) -> Self {
        let node = pod.node.as_ref().filter(|_| pod.host_network).map(ToString::to_string);
        Self { name: pod.key.to_string(), addresses: pod.addresses.to_vec(), node }
    }
}

/// NAMESPACE/NAME, or NAME.
///
/// # Errors
/// If it is neither.
pub(crate) fn key(word: &str) -> Result<ObjectKey> {
    let (namespace, name) = word.split_once('/').unwrap_or(("default", word));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        bail!("{word:?} is neither NAMESPACE/NAME nor an address");
    }
    Ok(ObjectKey::new(namespace, name))
}
