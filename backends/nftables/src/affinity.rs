//! Session affinity: the numbers by which a client's endpoint is remembered.
//!
//! An endpoint's id is 32 bits: a group (a ServicePort, or a Service, within which a client keeps
//! its endpoint) and an endpoint in it. An id alone is 0 in its lower half: a group. The upper bit
//! is always set, which tells ids from what others write into `meta priority`, where a packet
//! bears the id on its way through the chains.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use shunt_model::address::{Endpoint, Protocol};
use shunt_model::balancing::AffinityScope;
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, FrontendPlan, ServicePlan};

use crate::element::Place;
use crate::installed::Installed;

/// The part of an id that is the group's.
pub(crate) const GROUP: u32 = 0xffff_0000;
/// The bit that all ids have.
pub(crate) const MARK: u32 = 0x8000_0000;
/// The groups that there can be. The last is left out: nft calls `ffff:ffff` "root".
const GROUPS: std::ops::RangeInclusive<u32> = 0x8000..=0xfffe;
/// How many they are.
pub(crate) const MOST_GROUPS: usize = (*GROUPS.end() - *GROUPS.start() + 1) as usize;
/// The endpoints that a group can have.
const MEMBERS: std::ops::RangeInclusive<u32> = 1..=0xffff;

/// How many clients are remembered, in each family; who comes when there is no more room is served
/// without being remembered.
pub(crate) const CLIENTS: u32 = 262_144;

/// The number of an endpoint, or of a group.
pub type Id = u32;

/// An id as nft prints it (a `classid`).
#[must_use]
pub fn display(id: Id) -> String {
    format!("{:x}:{:x}", id >> 16, id & 0xffff)
}

/// What a frontend with affinity needs besides its slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sticky {
    /// What its slots hold, as [`crate::lower::FrontendTarget::slots`] does for others.
    pub slots: Vec<Id>,
    /// The endpoints of its pool.
    pub endpoints: BTreeMap<Id, Endpoint>,
}

/// What within a Service shares a memory of clients; `None`: all of it.
type Scope = Option<(Arc<str>, Protocol)>;

#[derive(Clone, Debug, Default)]
struct Group {
    id: Id,
    /// By endpoint; without ports, if it is for a whole Service.
    members: BTreeMap<Endpoint, Id>,
}

/// The numbers of all groups and endpoints. Who has a number keeps it.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    services: HashMap<ObjectKey, BTreeMap<Scope, Group>>,
    taken: BTreeSet<Id>,
    /// The group that was numbered last: the search for a free number begins behind it.
    last: Id,
    /// Services for which there was no number, of a group or of an endpoint.
    short: BTreeSet<ObjectKey>,
}

impl Numbers {
    /// Numbers what a Service needs, and takes back what it needs no more.
    pub(crate) fn update(&mut self, key: &ObjectKey, service: Option<&ServicePlan>) {
        let old = self.services.remove(key).unwrap_or_default();
        self.short.remove(key);
        let Some((service, scope)) =
            service.and_then(|service| Some((service, service.affinity()?.scope)))
        else {
            self.release(old.values());
            return;
        };
        let mut wanted: BTreeMap<Scope, BTreeSet<Endpoint>> = BTreeMap::new();
        for plan in &service.frontends {
            let members = wanted.entry(scope_of(plan, scope)).or_default();
            members.extend(endpoints(plan).map(|endpoint| member(endpoint, scope)));
        }
        let mut groups = BTreeMap::new();
        for (of, members) in wanted {
            let group = match old.get(&of) {
                Some(group) => Some(group.clone()),
                None => self.free_group().map(Group::of),
            };
            // Without a number the Service is served without affinity.
            let Some(mut group) = group else {
                self.short.insert(key.clone());
                continue;
            };
            self.taken.insert(group.id);
            group.number(&members);
            if group.members.len() < members.len() {
                self.short.insert(key.clone());
            }
            groups.insert(of, group);
        }
        self.release(
            old.iter().filter(|(of, _)| !groups.contains_key(*of)).map(|(_, group)| group),
        );
        self.services.insert(key.clone(), groups);
    }

    /// The Services whose clients are not remembered, or not at each of its ports, for want of a
    /// number.
    pub(crate) fn short(&self) -> impl Iterator<Item = &ObjectKey> {
        self.short.iter()
    }

    fn free_group(&mut self) -> Option<Id> {
        if self.taken.len() >= MOST_GROUPS {
            return None;
        }
        let behind = (self.last >> 16).max(*GROUPS.start())..=*GROUPS.end();
        let id = free(&self.taken, behind.chain(GROUPS).map(|group| group << 16))?;
        self.last = id;
        Some(id)
    }

    /// Takes over the numbers that the kernel holds of a Service, so that it remembers clients
    /// over our restart.
    pub(crate) fn recover(
        &mut self,
        key: &ObjectKey,
        service: &ServicePlan,
        installed: &Installed,
    ) {
        let Some(scope) = service.affinity().map(|affinity| affinity.scope) else { return };
        let mut groups: BTreeMap<Scope, Group> = BTreeMap::new();
        for plan in &service.frontends {
            let of = scope_of(plan, scope);
            for place in [Place::everyone(plan.frontend), Place::inside(plan.frontend)] {
                let held = installed.frontends.get(&place).and_then(|held| held.sticky.as_deref());
                let Some(held) = held else { continue };
                if let Some(id) = held.group
                    && !groups.contains_key(&of)
                    && self.taken.insert(id)
                {
                    groups.insert(of.clone(), Group::of(id));
                }
                let Some(group) = groups.get_mut(&of) else { continue };
                for (id, endpoint) in &held.endpoints {
                    if id & GROUP == group.id && !group.members.values().any(|taken| taken == id) {
                        group.members.entry(member(endpoint, scope)).or_insert(*id);
                    }
                }
            }
        }
        if !groups.is_empty() {
            self.services.insert(key.clone(), groups);
        }
    }

    /// The group of a frontend, if its Service has affinity.
    pub(crate) fn group(
        &self,
        key: &ObjectKey,
        service: &ServicePlan,
        plan: &FrontendPlan,
    ) -> Option<Id> {
        let scope = service.affinity()?.scope;
        Some(self.services.get(key)?.get(&scope_of(plan, scope))?.id)
    }

    /// A pool whose slots hold these endpoints, by number. `None` where one of them has none.
    pub(crate) fn sticky(
        &self,
        key: &ObjectKey,
        service: &ServicePlan,
        plan: &FrontendPlan,
        slots: &[Endpoint],
    ) -> Option<Sticky> {
        let scope = service.affinity()?.scope;
        let group = self.services.get(key)?.get(&scope_of(plan, scope))?;
        let mut sticky = Sticky::default();
        for endpoint in slots {
            let id = *group.members.get(&member(endpoint, scope))?;
            sticky.slots.push(id);
            sticky.endpoints.insert(id, *endpoint);
        }
        Some(sticky)
    }

    fn release<'a>(&mut self, groups: impl Iterator<Item = &'a Group>) {
        for group in groups {
            self.taken.remove(&group.id);
        }
    }
}

impl Group {
    fn of(id: Id) -> Self {
        Self { id, members: BTreeMap::new() }
    }

    /// Numbers these members. A number that becomes free is not given out again before all others
    /// were, so that the clients of who went are spread anew.
    fn number(&mut self, wanted: &BTreeSet<Endpoint>) {
        let last = self.members.values().max().map_or(0, |id| id & !GROUP);
        self.members.retain(|endpoint, _| wanted.contains(endpoint));
        let mut taken: BTreeSet<Id> = self.members.values().copied().collect();
        for endpoint in wanted {
            if self.members.contains_key(endpoint) {
                continue;
            }
            let after = MEMBERS.filter(|number| *number > last);
            let all = after.chain(MEMBERS).map(|number| self.id | number);
            let Some(id) = free(&taken, all) else { return };
            taken.insert(id);
            self.members.insert(*endpoint, id);
        }
    }
}

fn free(taken: &BTreeSet<Id>, mut all: impl Iterator<Item = Id>) -> Option<Id> {
    all.find(|id| !taken.contains(id))
}

fn scope_of(plan: &FrontendPlan, scope: AffinityScope) -> Scope {
    match scope {
        AffinityScope::Port => Some((Arc::clone(&plan.port_name), plan.frontend.protocol)),
        AffinityScope::Service => None,
    }
}

/// What is remembered of an endpoint: for a whole Service only whose it is.
const fn member(endpoint: &Endpoint, scope: AffinityScope) -> Endpoint {
    match scope {
        AffinityScope::Port => *endpoint,
        AffinityScope::Service => Endpoint { address: endpoint.address, port: 0 },
    }
}

fn endpoints(plan: &FrontendPlan) -> impl Iterator<Item = &Endpoint> {
    plan.actions().flat_map(|action| match action {
        Action::Forward(pool) => &**pool,
        Action::Reject | Action::Drop => &[],
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use shunt_model::address::{Frontend, FrontendAddress};
    use shunt_model::balancing::{Affinity, Balancing};
    use shunt_model::object::ServiceType;
    use shunt_model::plan::{FrontendKind, Masquerade};

    use super::*;

    fn sticky() -> ServicePlan {
        let address: IpAddr = [10, 96, 0, 1].into();
        let frontend = FrontendPlan {
            frontend: Frontend {
                address: FrontendAddress::Ip(address),
                protocol: Protocol::Tcp,
                port: 80,
            },
            kind: FrontendKind::ClusterIp,
            port_name: "".into(),
            sources: None,
            action: Action::Reject,
            from_inside: None,
            masquerade: Masquerade::Outsiders,
        };
        let affinity = Affinity { seconds: 10_800, scope: AffinityScope::Port };
        let balancing = Balancing { affinity: Some(affinity), ..Balancing::default() };
        ServicePlan {
            service_type: ServiceType::ClusterIp,
            frontends: vec![frontend],
            cluster_ips: vec![address],
            hairpins: Vec::new(),
            balancing: Some(Arc::new(balancing)),
            weights: Box::default(),
            lingering: Box::default(),
            health_check: None,
            problems: Vec::new(),
        }
    }

    #[test]
    fn who_gets_no_number_is_told_and_gets_one_that_becomes_free() {
        let (mut numbers, plan) = (Numbers::default(), sticky());
        let key = |n: usize| ObjectKey::new("ns", &n.to_string());
        let most = MOST_GROUPS;
        assert_eq!(most, 32_767);
        for n in 0..=most {
            numbers.update(&key(n), Some(&plan));
        }
        assert_eq!(numbers.short().collect::<Vec<_>>(), [&key(most)]);
        assert_eq!(numbers.group(&key(most), &plan, &plan.frontends[0]), None);
        numbers.update(&key(7), None);
        numbers.update(&key(most), Some(&plan));
        assert_eq!(numbers.short().count(), 0);
        assert!(numbers.group(&key(most), &plan, &plan.frontends[0]).is_some());
    }
}
