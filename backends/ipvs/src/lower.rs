//! From the plan to virtual servers and addresses.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipvs_rs::{DestinationKey, Flags, Persistence, Protocol, Service, ServiceKey};
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress};
use shunt_model::balancing::{Balancing, Method};
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, FrontendPlan, NodePlan, Plan, PlanDelta, ServicePlan};
use shunt_nftables::lower::portions;

use crate::installed::Installed;
use crate::settings::{OURS, Settings};

/// Frontends and endpoints in a portion of a whole plan: so few that what is made of one fits into the memory that the
/// one before has left, which the allocator keeps at hand, and so many that a send to the kernel is not felt.
const PORTION: usize = 100;

/// A virtual server as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Virtual {
    /// Key, scheduler, flags and persistence.
    pub service: Service,
    /// Its real servers' weights; none where the plan forwards nothing: what is left drains.
    pub weights: BTreeMap<DestinationKey, u32>,
    /// Those that get no new connections and still serve the ones they have.
    pub lingering: BTreeSet<DestinationKey>,
    /// For how long connections to a real server that leaves may go on, in seconds; `None`: as
    /// long as they do.
    pub drain: Option<u32>,
}

/// What (a part of) IPVS and the device shall hold. What is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual servers; `None`: shall be gone.
    pub virtuals: BTreeMap<ServiceKey, Option<Virtual>>,
    /// Addresses on the device; `false`: shall be gone.
    pub addresses: BTreeMap<IpAddr, bool>,
}

/// What lowering needs besides plans: the settings, which schedulers the kernel lacks, and which
/// frontends have an address of their own.
#[derive(Clone, Debug, Default)]
pub struct Lowering {
    settings: Settings,
    /// Schedulers that the kernel does not have.
    pub missing: BTreeSet<String>,
    /// A NodePort is not served where one of them has its address and port.
    exact: BTreeSet<Frontend>,
}

impl Lowering {
    /// Nothing is needed yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// What the operator has set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a delta asks for; the plan is the one before it. Work: the size of the delta, and all
    /// NodePorts if the addresses that serve them changed, or one of those has lost a frontend.
    pub fn change(&mut self, plan: &Plan, delta: &PlanDelta) -> Wanted {
        let mut wanted = Wanted::default();
        let new_node = delta.node.as_ref().unwrap_or(&plan.node);
        let olds = || delta.services.keys().filter_map(|key| plan.services.get(key));
        let news = || delta.services.values().flatten();
        let mut touched: BTreeSet<_> = olds().chain(news()).flat_map(|it| addresses(it)).collect();
        for frontend in olds().flat_map(|old| exact(old)) {
            self.exact.remove(&frontend);
        }
        self.exact.extend(news().flat_map(|new| exact(new)));
        for (key, new) in &delta.services {
            let old = plan.services.get(key).map(AsRef::as_ref);
            self.exchange(old, new.as_deref(), (&plan.node, new_node), &mut wanted);
        }
        let mut unserved = olds().flat_map(|old| exact(old)).filter(|it| !self.exact.contains(it));
        let of_node = |frontend: Frontend| match frontend.address {
            FrontendAddress::Ip(ip) => new_node.node_port_addresses.contains(&ip),
            FrontendAddress::Node(_) => false,
        };
        // Where an address and port of the node is free again it may be a NodePort.
        let moved = new_node.node_port_addresses != plan.node.node_port_addresses;
        if moved || unserved.any(of_node) {
            for (key, service) in &plan.services {
                if !delta.services.contains_key(key) && has_node_ports(service) {
                    let both = Some(service.as_ref());
                    self.exchange(both, both, (&plan.node, new_node), &mut wanted);
                }
            }
        }
        if let Some(node) = &delta.node {
            let (before, now) = (&plan.node.own_addresses, &node.own_addresses);
            touched.extend(before.symmetric_difference(now).copied());
        }
        for address in touched {
            wanted.addresses.insert(address, self.needs(new_node, address));
        }
        wanted
    }

    /// Puts the virtual servers of a Service on these nodes, before and after, in the place of others.
    fn exchange(
        &self,
        old: Option<&ServicePlan>,
        new: Option<&ServicePlan>,
        (before, after): (&NodePlan, &NodePlan),
        wanted: &mut Wanted,
    ) {
        for plan in old.into_iter().flat_map(|old| &old.frontends) {
            // What another Service has there by its own address stays.
            for (_, server) in servers(plan, before).filter(|(at, _)| !self.exact.contains(at)) {
                wanted.virtuals.entry(server).or_insert(None);
            }
        }
        for (server, made) in new.into_iter().flat_map(|new| self.virtuals(new, after)) {
            wanted.virtuals.insert(server, Some(made));
        }
    }

    /// What a whole plan asks for, including that everything else of ours goes.
    pub fn full(&mut self, plan: &Plan, installed: &Installed) -> Wanted {
        let mut wanted = Wanted::default();
        for portion in self.portions(plan, installed) {
            wanted.virtuals.extend(portion.virtuals);
            wanted.addresses.extend(portion.addresses);
        }
        wanted
    }

    /// The same in portions, so that what is made on the way to the kernel is never large; the
    /// last one is what else is there.
    pub fn portions<'a>(
        &'a mut self,
        plan: &'a Plan,
        installed: &Installed,
    ) -> impl Iterator<Item = Wanted> + use<'a> {
        self.exact = plan.services.values().flat_map(|service| exact(service)).collect();
        let alone = Plan { node: Arc::clone(&plan.node), ..Plan::default() };
        let mut deltas = portions(plan, PORTION);
        let mut rest = Some(Wanted {
            virtuals: installed.virtuals.keys().map(|server| (*server, None)).collect(),
            addresses: installed.addresses.keys().map(|address| (*address, false)).collect(),
        });
        std::iter::from_fn(move || {
            let Some(delta) = deltas.next() else { return rest.take() };
            let wanted = self.change(&alone, &delta);
            if let Some(rest) = &mut rest {
                for server in wanted.virtuals.keys() {
                    rest.virtuals.remove(server);
                }
                for address in wanted.addresses.keys() {
                    rest.addresses.remove(address);
                }
            }
            Some(wanted)
        })
    }

    /// Whether an address has to be on the device: not if the machine has it anyway.
    fn needs(&self, node: &NodePlan, address: IpAddr) -> bool {
        let own = node.own_addresses.contains(&address);
        let address = FrontendAddress::Ip(address);
        let least = Frontend { address, protocol: shunt_model::address::Protocol::Tcp, port: 0 };
        let is_used = self.exact.range(least..).next().is_some_and(|it| it.address == address);
        is_used && !own
    }

    fn virtuals(&self, service: &ServicePlan, node: &NodePlan) -> Vec<(ServiceKey, Virtual)> {
        let (scheduler, flags) = self.scheduler(service);
        let drain = service.balancing.as_ref().and_then(|balancing| balancing.drain_seconds);
        let mut made = Vec::new();
        for plan in &service.frontends {
            let weights = weights(service, plan);
            let of_protocol =
                service.lingering.iter().filter(|(p, _)| *p == plan.frontend.protocol);
            let lingering: BTreeSet<_> =
                of_protocol.map(|(_, endpoint)| destination(endpoint)).collect();
            let is_exact = matches!(plan.frontend.address, FrontendAddress::Ip(_));
            for (at, key) in servers(plan, node) {
                if !is_exact && self.exact.contains(&at) {
                    continue;
                }
                let persistence = service.affinity().map(|affinity| Persistence {
                    timeout: affinity.seconds,
                    prefix: key.family().bits(),
                });
                let service = Service {
                    flags: flags.union(OURS),
                    persistence,
                    ..Service::new(key, &scheduler)
                };
                let (weights, lingering) = (weights.clone(), lingering.clone());
                made.push((key, Virtual { service, weights, lingering, drain }));
            }
        }
        made
    }

    /// The scheduler of a Service, and its flags: what its annotation names, or what does what its
    /// method asks for, or the configured one. Where weights are set, one that heeds them.
    fn scheduler(&self, service: &ServicePlan) -> (String, Flags) {
        let named = scheduler(service.balancing.as_deref());
        let has = |(name, _): &(&str, Flags)| !self.missing.contains(*name);
        let default = self.settings.scheduler.as_str();
        let default = if self.missing.contains(default) { "rr" } else { default };
        let weighted = match default {
            "rr" if !service.weights.is_empty() => "wrr",
            "lc" if !service.weights.is_empty() => "wlc",
            other => other,
        };
        let weighted = if self.missing.contains(weighted) { default } else { weighted };
        let (name, flags) = named.filter(has).unwrap_or((weighted, hashed(weighted)));
        (name.to_owned(), flags)
    }

    /// The Services that do not get the scheduler which they ask for.
    pub fn without_scheduler<'a>(
        &'a self,
        plan: &'a Plan,
    ) -> impl Iterator<Item = (ObjectKey, String)> + 'a {
        // As a rule nothing is missing, and no Service is looked at.
        let services = (!self.missing.is_empty()).then_some(&plan.services);
        services.into_iter().flatten().filter_map(|(key, service)| {
            let (name, _) = scheduler(service.balancing.as_deref())?;
            let (used, _) = self.scheduler(service);
            let reason = || format!("the kernel has no IPVS scheduler {name}; {used} is used");
            self.missing.contains(name).then(|| (key.clone(), reason()))
        })
    }
}

fn scheduler(balancing: Option<&Balancing>) -> Option<(&'static str, Flags)> {
    let balancing = balancing?;
    if let Some(scheduler) = balancing.scheduler {
        let name = scheduler.name();
        return Some((name, hashed(name)));
    }
    match balancing.method {
        Method::Random => None,
        Method::HashAddress => Some(("mh", Flags::HASH_FALLBACK)),
        Method::HashConnection => Some(("mh", hashed("mh"))),
    }
}

/// The flags of a scheduler. `mh` hashes each connection for itself, as kube-proxy has it. Those
/// that hash keep a real server of weight 0 in their table, and without the fallback refuse whom
/// they send there.
fn hashed(scheduler: &str) -> Flags {
    match scheduler {
        "mh" => Flags::HASH_PORT.union(Flags::HASH_FALLBACK),
        "sh" => Flags::HASH_FALLBACK,
        _ => Flags::default(),
    }
}

/// The addresses that a Service's frontends are reached on, once for each frontend.
fn addresses(service: &ServicePlan) -> impl Iterator<Item = IpAddr> + '_ {
    service.frontends.iter().filter_map(|plan| match plan.frontend.address {
        FrontendAddress::Ip(address) => Some(address),
        FrontendAddress::Node(_) => None,
    })
}

fn has_node_ports(service: &ServicePlan) -> bool {
    let mut frontends = service.frontends.iter();
    frontends.any(|plan| matches!(plan.frontend.address, FrontendAddress::Node(_)))
}

/// All virtual servers of a plan.
pub(crate) fn all_keys(plan: &Plan) -> HashSet<ServiceKey> {
    plan.services.values().flat_map(|service| keys(service, &plan.node)).collect()
}

/// The Service that a virtual server belongs to.
pub(crate) fn owner(plan: &Plan, key: &ServiceKey) -> Option<ObjectKey> {
    let serves = |service: &ServicePlan| keys(service, &plan.node).contains(key);
    plan.services.iter().find(|(_, service)| serves(service)).map(|(name, _)| name.clone())
}

/// The frontends of a Service that have an address of their own.
fn exact(service: &ServicePlan) -> impl Iterator<Item = Frontend> + '_ {
    let frontends = service.frontends.iter().map(|plan| plan.frontend);
    frontends.filter(|frontend| matches!(frontend.address, FrontendAddress::Ip(_)))
}

fn keys(service: &ServicePlan, node: &NodePlan) -> Vec<ServiceKey> {
    service.frontends.iter().flat_map(|plan| servers(plan, node)).map(|(_, key)| key).collect()
}

/// The virtual servers of a frontend: one, or one for each address of the node. No virtual server
/// has the port of a NodePort on any other address.
fn servers<'a>(
    plan: &FrontendPlan,
    node: &'a NodePlan,
) -> impl Iterator<Item = (Frontend, ServiceKey)> + use<'a> {
    let frontend = plan.frontend;
    let (own, family) = match frontend.address {
        FrontendAddress::Ip(address) => (Some(address), None),
        FrontendAddress::Node(family) => (None, Some(family)),
    };
    let of_node = node.node_port_addresses.iter().copied();
    let of_node = of_node.filter(move |address| Some(Family::of(*address)) == family);
    own.into_iter().chain(of_node).map(move |address| {
        let Frontend { protocol, port, .. } = frontend;
        let key = ServiceKey::address(address, Protocol(protocol.number()), port);
        (Frontend { address: FrontendAddress::Ip(address), ..frontend }, key)
    })
}

fn weights(service: &ServicePlan, plan: &FrontendPlan) -> BTreeMap<DestinationKey, u32> {
    let Action::Forward(pool) = &plan.action else { return BTreeMap::new() };
    let weight = |endpoint: &Endpoint| (destination(endpoint), u32::from(service.weight(endpoint)));
    pool.iter().map(weight).collect()
}

const fn destination(endpoint: &Endpoint) -> DestinationKey {
    DestinationKey { address: endpoint.address, port: endpoint.port }
}
