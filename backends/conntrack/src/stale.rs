//! Which connections a change of the plan has made wrong.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, FrontendPlan, NodePlan, PlanDelta, ServicePlan};

use crate::filter::Filter;
use crate::flow::Flow;

/// What of the plan connections depend on, and which of them are suspected to be wrong.
///
/// A connection through a frontend is right if its endpoint is in one of the frontend's pools, or
/// lingers: it gets no new connections but serves those that it has. It is wrong if its endpoint
/// was one before, or if it goes past the frontend, because it is older. Connections to anything
/// else are none of ours: that something of ours has the same port is no reason to end them.
///
/// IPVS forgets what it had a UDP connection translated to, but only in the zone that no rule has set
/// (`ip_vs_conn_drop_conntrack`); its TCP connections and SCTP associations drain.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whether TCP connections are ended too.
    tcp: bool,
    node: Arc<NodePlan>,
    /// The Services that have frontends of such a protocol.
    services: BTreeMap<ObjectKey, Arc<ServicePlan>>,
    /// Which of them such a frontend belongs to.
    owners: BTreeMap<Frontend, ObjectKey>,
    suspects: Suspects,
}

/// What connections must be looked at.
#[derive(Clone, Debug)]
enum Suspects {
    /// All: nothing is known of what was before.
    All,
    /// Those through these frontends.
    Some(BTreeMap<Frontend, Suspect>),
}

/// What may be wrong with connections through a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Suspect {
    /// They go to these, which were its endpoints.
    endpoints: BTreeSet<Endpoint>,
    /// They are older than the frontend.
    untranslated: bool,
}

impl Record {
    /// A record that suspects everything. TCP connections are ended only if `tcp` says so: their
    /// clients notice by themselves, and an endpoint that ends may still finish them.
    #[must_use]
    pub fn new(tcp: bool) -> Self {
        Self {
            tcp,
            node: Arc::default(),
            services: BTreeMap::new(),
            owners: BTreeMap::new(),
            suspects: Suspects::All,
        }
    }

    /// Takes in a change of the plan that is in the kernel by now.
    pub fn take(&mut self, delta: &PlanDelta) {
        let mut before = BTreeMap::new();
        for key in delta.services.keys() {
            if let Some(old) = self.services.remove(key) {
                for plan in relevant(self.tcp, &old) {
                    self.owners.remove(&plan.frontend);
                }
                before.insert(key, old);
            }
        }
        for (key, new) in &delta.services {
            self.put(key, before.remove(key), new.as_ref());
        }
        if let Some(node) = &delta.node {
            self.put_node(node);
        }
    }

    /// Whether no connection need be looked at.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match &self.suspects {
            Suspects::All => self.owners.is_empty(),
            Suspects::Some(frontends) => frontends.is_empty(),
        }
    }

    /// All that was suspected has been looked at.
    pub fn settle(&mut self) {
        self.suspects = Suspects::Some(BTreeMap::new());
    }

    /// What the kernel must be asked for, so that every suspect is in an answer: for each family
    /// and protocol the tightest filter that lets them all through, as each costs a walk.
    #[must_use]
    pub fn filters(&self) -> Vec<Filter> {
        let mut filters: BTreeMap<(Family, Protocol), Filter> = BTreeMap::new();
        match &self.suspects {
            Suspects::All => {
                for frontend in self.owners.keys() {
                    let (family, protocol) = (frontend.family(), frontend.protocol);
                    let translated = protocol == Protocol::Tcp;
                    let filter = Filter { translated, ..Filter::all(family, protocol) };
                    filters.insert((family, protocol), filter);
                }
            }
            Suspects::Some(suspects) => {
                for (frontend, suspect) in suspects {
                    let filter = suspect.filter(frontend);
                    filters
                        .entry((filter.family, filter.protocol))
                        .and_modify(|all| *all = all.or(&filter))
                        .or_insert(filter);
                }
            }
        }
        filters.into_values().collect()
    }

    /// Whether a connection is to be ended.
    #[must_use]
    pub fn condemns(&self, flow: &Flow) -> bool {
        let Some(frontend) = self.frontend_of(flow) else {
            return false;
        };
        // IPVS drains the others itself.
        if flow.is_of_ipvs() && flow.protocol != Protocol::Udp {
            return false;
        }
        let endpoint = Endpoint { address: flow.server.ip(), port: flow.server.port() };
        let owned = self.plan_of(&frontend);
        if owned.is_some_and(|(service, plan)| allows(service, plan, &endpoint)) {
            return false;
        }
        match &self.suspects {
            Suspects::All => flow.is_translated() || flow.protocol != Protocol::Tcp,
            Suspects::Some(suspects) => suspects.get(&frontend).is_some_and(|suspect| {
                if flow.is_translated() {
                    suspect.endpoints.contains(&endpoint)
                } else {
                    suspect.untranslated && owned.is_some()
                }
            }),
        }
    }

    /// The frontend that a connection was meant for, as far as it is of interest.
    fn frontend_of(&self, flow: &Flow) -> Option<Frontend> {
        let (ip, port, protocol) = (flow.destination.ip(), flow.destination.port(), flow.protocol);
        let known = |frontend: &Frontend| {
            let suspected = match &self.suspects {
                Suspects::All => false,
                Suspects::Some(suspects) => suspects.contains_key(frontend),
            };
            suspected || self.owners.contains_key(frontend)
        };
        let exact = Frontend { address: FrontendAddress::Ip(ip), protocol, port };
        if known(&exact) {
            return Some(exact);
        }
        let address = FrontendAddress::Node(Family::of(ip));
        let node_port = Frontend { address, protocol, port };
        let of_node = self.node.node_port_addresses.contains(&ip);
        (of_node && known(&node_port)).then_some(node_port)
    }

    fn plan_of(&self, frontend: &Frontend) -> Option<(&ServicePlan, &FrontendPlan)> {
        let service = self.services.get(self.owners.get(frontend)?)?;
        let at = service.frontends.binary_search_by_key(frontend, |plan| plan.frontend).ok()?;
        Some((service, &service.frontends[at]))
    }

    fn put(
        &mut self,
        key: &ObjectKey,
        old: Option<Arc<ServicePlan>>,
        new: Option<&Arc<ServicePlan>>,
    ) {
        let tcp = self.tcp;
        let find = |service: Option<&'_ Arc<ServicePlan>>, frontend: &Frontend| {
            let service = service?;
            let at = service.frontends.binary_search_by_key(frontend, |plan| plan.frontend);
            Some((Arc::clone(service), at.ok()?))
        };
        for plan in old.iter().flat_map(|old| relevant(tcp, old)) {
            let now = find(new, &plan.frontend);
            let stays = |endpoint: &Endpoint| {
                now.as_ref().is_some_and(|(s, at)| allows(s, &s.frontends[*at], endpoint))
            };
            let gone = old.iter().flat_map(|old| endpoints(old, plan));
            let gone: Vec<_> = gone.filter(|endpoint| !stays(endpoint)).collect();
            if !gone.is_empty() {
                self.suspect(plan.frontend, |suspect| suspect.endpoints.extend(gone));
            }
        }
        let Some(new) = new else { return };
        let mut any = false;
        for plan in relevant(tcp, new) {
            any = true;
            self.owners.insert(plan.frontend, key.clone());
            if find(old.as_ref(), &plan.frontend).is_none()
                && plan.frontend.protocol != Protocol::Tcp
            {
                self.suspect(plan.frontend, |suspect| suspect.untranslated = true);
            }
        }
        if any {
            self.services.insert(key.clone(), Arc::clone(new));
        }
    }

    /// An address that is new among the node's makes NodePorts of what was none.
    fn put_node(&mut self, node: &Arc<NodePlan>) {
        let added = node.node_port_addresses.difference(&self.node.node_port_addresses);
        let families: BTreeSet<_> = added.map(|ip| Family::of(*ip)).collect();
        self.node = Arc::clone(node);
        let node_ports = self.owners.keys().filter(|frontend| {
            matches!(frontend.address, FrontendAddress::Node(family) if families.contains(&family))
                && frontend.protocol != Protocol::Tcp
        });
        for frontend in node_ports.copied().collect::<Vec<_>>() {
            self.suspect(frontend, |suspect| suspect.untranslated = true);
        }
    }

    fn suspect(&mut self, frontend: Frontend, note: impl FnOnce(&mut Suspect)) {
        if let Suspects::Some(suspects) = &mut self.suspects {
            note(suspects.entry(frontend).or_default());
        }
    }
}

impl Suspect {
    /// What lets all that is suspected through.
    fn filter(&self, frontend: &Frontend) -> Filter {
        let destination = match frontend.address {
            FrontendAddress::Ip(ip) => Some(ip),
            FrontendAddress::Node(_) => None,
        };
        let mut filter = Filter {
            destination,
            destination_port: Some(frontend.port),
            ..Filter::all(frontend.family(), frontend.protocol)
        };
        if !self.untranslated {
            // IPVS does not say so of its own, and of those only UDP is ended here.
            filter.translated = frontend.protocol != Protocol::Udp;
            let mut all = self.endpoints.iter();
            if let Some(first) = all.next() {
                let (mut server, mut port) = (Some(first.address), Some(first.port));
                for other in all {
                    server = server.filter(|ip| *ip == other.address);
                    port = port.filter(|port| *port == other.port);
                }
                (filter.server, filter.server_port) = (server, port);
            }
        }
        filter
    }
}

/// The frontends of a Service that may have stale connections.
fn relevant(tcp: bool, service: &ServicePlan) -> impl Iterator<Item = &FrontendPlan> {
    service.frontends.iter().filter(move |plan| tcp || plan.frontend.protocol != Protocol::Tcp)
}

/// Whether connections through a frontend to this endpoint are right.
fn allows(service: &ServicePlan, plan: &FrontendPlan, endpoint: &Endpoint) -> bool {
    let lingers = (plan.frontend.protocol, *endpoint);
    pools(plan).any(|pool| pool.binary_search(endpoint).is_ok())
        || service.lingering.binary_search(&lingers).is_ok()
}

/// The endpoints that connections through a frontend may have.
fn endpoints<'a>(
    service: &'a ServicePlan,
    plan: &'a FrontendPlan,
) -> impl Iterator<Item = Endpoint> + 'a {
    let Frontend { protocol, .. } = plan.frontend;
    let family = plan.frontend.family();
    // A pool is of the frontend's family; what lingers is of the whole Service.
    let lingering = service
        .lingering
        .iter()
        .filter(move |(of, endpoint)| *of == protocol && Family::of(endpoint.address) == family);
    pools(plan)
        .flat_map(|pool| pool.iter().copied())
        .chain(lingering.map(|(_, endpoint)| *endpoint))
}

fn pools(plan: &FrontendPlan) -> impl Iterator<Item = &Arc<[Endpoint]>> {
    [Some(&plan.action), plan.from_inside.as_ref()].into_iter().flatten().filter_map(|action| {
        match action {
            Action::Forward(pool) => Some(pool),
            Action::Reject | Action::Drop => None,
        }
    })
}
