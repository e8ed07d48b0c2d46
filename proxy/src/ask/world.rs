//! The objects that are asked about, and what names in a question stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use shunt_model::object::{Service, SlicePort};
use shunt_model::problem::Kind;
use shunt_model::snapshot::Snapshot;
use shunt_netpolicy::domain::DomainName;
use shunt_netpolicy::object::Pod;
use shunt_netpolicy::store::Store;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::answer::node_of;
use super::ends::{End, Known, key};
use super::{Objects, Port};
use crate::failure::Failure;
use crate::logging::{self, Format, LogArgs};
use crate::metrics::Requests;
use crate::render::{Loaded, load};
use crate::source::{Wanted, api, client};

/// How long an API server may take to list everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of whom there must be a list.
const NEEDED: [Kind; 4] =
    [Kind::NetworkPolicy, Kind::ClusterNetworkPolicy, Kind::Pod, Kind::Namespace];
/// The last two only for a plan.
const SERVICES: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];

/// The objects.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) services: Snapshot,
    /// Addresses that stand for names of domains.
    domains: BTreeMap<String, [IpAddr; 2]>,
}

impl World {
    /// Reads the objects; what is wrong with them goes to standard error.
    ///
    /// # Errors
    /// If they cannot be read, or some file cannot.
    pub(crate) fn load(from: &Objects) -> Result<Self, Failure> {
        Self::load_for(from, None)
    }

    /// The same with all that a node's plan is made of.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_for(from: &Objects, node: Option<&str>) -> Result<Self, Failure> {
        let loaded = match (&from.manifests, &from.kubeconfig) {
            (Some(directory), _) => load(directory)?,
            (None, Some(kubeconfig)) => listed(kubeconfig, node)?,
            (None, None) => {
                return Err(Failure::usage(anyhow!("neither --manifests nor --kubeconfig")));
            }
        };
        loaded.policy_problems.iter().for_each(|problem| eprintln!("{problem}"));
        loaded.file_problems.iter().for_each(|problem| eprintln!("{problem}"));
        // An answer from half of the manifests would be no answer.
        if !loaded.file_problems.is_empty() {
            return Err(anyhow!("the manifests cannot be read in full").into());
        }
        let mut world = Self {
            store: loaded.policy.store().clone(),
            services: loaded.snapshot,
            domains: BTreeMap::new(),
        };
        world.place_nodes();
        if from.manifests.is_some() {
            world.place_pods();
        }
        Ok(world)
    }

    /// Notes the addresses of nodes, as far as they are known: from the Nodes, and from pods that are
    /// on the network of theirs.
    fn place_nodes(&mut self) {
        let mut nodes: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
        for node in self.store.nodes() {
            nodes.entry(Arc::clone(&node.name)).or_default().extend(&node.addresses);
        }
        for pod in self.store.pods().filter(|pod| pod.host_network) {
            if let Some(node) = &pod.node {
                nodes.entry(Arc::clone(node)).or_default().extend(pod.addresses.iter());
            }
        }
        for (node, addresses) in nodes {
            self.store.put_machine(&node, addresses);
        }
    }

    /// Gives an address to each pod that has not run yet, so that it can be asked about: one out of
    /// the ranges for benchmarks (RFC 2544) and for documentation (RFC 3849).
    pub(super) fn place_pods(&mut self) {
        let waiting: Vec<Pod> = self
            .store
            .pods()
            // One that has a node and no address has ended.
            .filter(|pod| pod.addresses.is_empty() && pod.node.is_none() && !pod.host_network)
            .map(|pod| Pod::clone(pod))
            .collect();
        let taken: BTreeSet<IpAddr> = self.store.addresses().map(|(address, _)| address).collect();
        let mut free = (1..0x1_ffff_u32)
            .map(|number| {
                let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
                let v6 = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x7070, 0, 0, 0, 0, 0));
                [IpAddr::from(v4), IpAddr::from(Ipv6Addr::from(v6 + u128::from(number)))]
            })
            .filter(|pair| !pair.iter().any(|address| taken.contains(address)));
        for pod in waiting {
            let addresses = free.next().map_or_else(Box::default, Box::from);
            drop(self.store.put_pod(Pod { addresses, ..pod }));
        }
    }

    /// Adds a pod of a file of expectations.
    pub(super) fn add(&mut self, pod: Pod) {
        drop(self.store.put_pod(pod));
        self.place_pods();
    }

    /// Gives an address of its own to a word that is the name of a domain and of no pod: it stands for all that DNS gives
    /// that name to, and that policies do not know otherwise.
    pub(super) fn place_domain(&mut self, word: &str) {
        let is_pod = key(word).is_ok_and(|key| self.store.pod(&key).is_some());
        if is_pod || self.domains.contains_key(word) || word.parse::<IpAddr>().is_ok() {
            return;
        }
        let name = word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase();
        if name.starts_with('*') || DomainName::parse(&name).is_none() {
            return;
        }
        let number = u32::try_from(self.domains.len()).unwrap_or(u32::MAX).min(0xff00);
        let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 255, 255)) - number);
        let v6 = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x7070, 1, 0, 0, 0, 0));
        let addresses = [v4.into(), Ipv6Addr::from(v6 + u128::from(number)).into()];
        let names: BTreeSet<_> = self.store.domain_names().into_iter().cloned().collect();
        let names: BTreeSet<_> = names.into_iter().filter(|of| of.matches(&name)).collect();
        for address in addresses {
            drop(self.store.put_names(address, names.clone()));
        }
        self.domains.insert(word.to_owned(), addresses);
    }

    /// Who connects, by a word: an address, a pod, or all pods whose names begin so.
    pub(super) fn ends(&self, word: &str) -> Result<Vec<End>> {
        if let Some(addresses) = self.domains.get(word) {
            let (name, addresses) = (word.to_owned(), addresses.to_vec());
            return Ok(vec![End { name, addresses, node: None }]);
        }
        self.known().ends(word)
    }

    /// Who has an address.
    pub(super) fn at(&self, address: IpAddr) -> End {
        self.known().at(address)
    }

    /// The node that a pod or an address is on, by a word; `None`: unknown, or more than one.
    pub(crate) fn node_of(&self, word: &str) -> Option<String> {
        let ends = self.known().ends(word).ok()?;
        let [end] = ends.as_slice() else { return None };
        end.node.clone().or_else(|| node_of(&self.store, *end.addresses.first()?))
    }

    /// The objects that have addresses.
    pub(crate) const fn known(&self) -> Known<'_> {
        Known { store: &self.store, services: &self.services }
    }

    /// To whom and to which port, by a word; the endpoints of a Service.
    pub(super) fn targets(&self, word: &str, port: Port) -> Result<Vec<(End, Port)>> {
        let service = match (word.strip_prefix("service:"), word.parse::<IpAddr>()) {
            (Some(name), _) => {
                let key = key(name)?;
                let service = self.services.service(&key);
                Some(service.with_context(|| format!("there is no Service {key}"))?)
            }
            (None, Ok(address)) => {
                self.services.services().find(|service| service.cluster_ips.contains(&address))
            }
            (None, Err(_)) => None,
        };
        match service {
            Some(service) => self.endpoints(service, port),
            None => Ok(self.ends(word)?.into_iter().map(|end| (end, port)).collect()),
        }
    }

    fn endpoints(&self, service: &Service, port: Port) -> Result<Vec<(End, Port)>> {
        let mut ports = service.ports.iter();
        let own = ports.find(|own| own.protocol == port.protocol && own.port == port.number);
        let own = own.with_context(|| format!("the Service {} has no port {port}", service.key))?;
        let mut found = Vec::new();
        for slice in self.services.slices_of(&service.key) {
            let named = |of: &&SlicePort| of.name == own.name && of.protocol == own.protocol;
            let Some(target) = slice.ports.iter().find(named) else { continue };
            let used = slice.endpoints.iter().filter(|endpoint| endpoint.ready || endpoint.serving);
            let target = Port { protocol: port.protocol, number: target.port };
            found.extend(used.map(|endpoint| (self.at(endpoint.address), target)));
        }
        if found.is_empty() {
            bail!("the Service {} has no endpoint for {port}", service.key);
        }
        Ok(found)
    }
}

/// What an API server lists.
fn listed(kubeconfig: &Path, node: Option<&str>) -> Result<Loaded, Failure> {
    let services = if node.is_some() { &SERVICES[..] } else { &SERVICES[..2] };
    log_once()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client::client(Some(kubeconfig), None, Requests::default())
            .await
            .map_err(Failure::usage)?;
        let (out, mut events) = mpsc::channel(1024);
        let (_demand, wanted) = watch::channel(Wanted { pods: true, nodes: true });
        let mut loaded = Loaded::default();
        let listing = async {
            while !missing(&loaded, services).is_empty() {
                match events.recv().await {
                    Some(event) => loaded.take(event),
                    None => break,
                }
            }
        };
        tokio::select! {
            // Ends only when nobody listens.
            () = api::watch(client, node.unwrap_or_default(), Some(wanted), out) => {}
            _ = timeout(PATIENCE, listing) => {}
        }
        match missing(&loaded, services).as_slice() {
            [] => Ok(loaded),
            missing => Err(anyhow!(
                "the API server has not listed {} within {} s",
                missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                PATIENCE.as_secs()
            )
            .into()),
        }
    })
}

/// Warnings of the watches go to standard error, however often there is a list.
fn log_once() -> Result<(), Failure> {
    static LOGS: Once = Once::new();
    let mut started = Ok(());
    LOGS.call_once(|| {
        let log_level = Some("warn".to_owned());
        let args = LogArgs { verbosity: 0, log_level, logging_format: Format::Text };
        started = logging::start(&args).map(drop);
    });
    started
}

fn missing(loaded: &Loaded, services: &[Kind]) -> Vec<Kind> {
    let nodes = loaded.policy.store().speaks_of_nodes().then_some(Kind::PeerNode);
    let needed = NEEDED.into_iter().chain(nodes);
    let policy = needed.filter(|kind| !loaded.policy.has_listed(*kind));
    let services = services.iter().copied();
    let services = services.filter(|kind| !loaded.snapshot.has_listed(*kind));
    policy.chain(services).collect()
}
