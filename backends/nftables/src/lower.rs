//! From the plan to what the sets and maps shall hold.

mod members;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::Endpoint;
use shunt_model::balancing::Method;
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, FrontendPlan, NodePlan, Plan, PlanDelta, ServicePlan};

use self::members::{networks, node_members, service_members};
use crate::affinity::{Id, Numbers, Sticky};
use crate::diff::interval_elements;
use crate::element::{Key, Place, Target, View};
use crate::forwarding::Forwarding;
use crate::installed::Installed;
use crate::name::SetId;
use crate::pool::Draw;
use crate::slots::slots;
use crate::userdata::fit_comment;

/// What one frontend shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendTarget {
    /// Its verdict.
    pub target: Target,
    /// How its pool is drawn from, by this verdict or the one that a guard leads to.
    pub draw: Draw,
    /// What the slots of its pool hold: sorted, or by slot if they are drawn by a hash.
    pub slots: Arc<[Endpoint]>,
    /// The group of its clients, if they are remembered; with everyone's view.
    pub group: Option<Id>,
    /// Its slots and endpoints by id, if clients are remembered. Then there are no others.
    pub sticky: Option<Box<Sticky>>,
    /// Namespace/name:port, for readers of the listing.
    pub comment: Arc<str>,
}

/// What (a part of) the table shall hold. What is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Frontends, as each kind of client meets them; `None`: shall be gone.
    pub frontends: BTreeMap<Place, Option<FrontendTarget>>,
    /// Members of plain sets; `false`: shall be gone.
    pub members: BTreeMap<(SetId, Key), bool>,
    /// The networks of sets of intervals, sorted and disjoint.
    pub networks: BTreeMap<SetId, Vec<IpNet>>,
}

/// What concerns several Services at once. How many of them (or the node) want each member of a
/// plain set: an address can be the ClusterIP of several ports and an endpoint belong to several
/// Services. And the numbers of session affinity.
#[derive(Clone, Debug, Default)]
pub struct References {
    forwarding: Forwarding,
    counts: HashMap<(SetId, Key), u32>,
    numbers: Numbers,
}

impl References {
    /// No references yet, where this or IPVS forwards packets.
    #[must_use]
    pub fn new(forwarding: Forwarding) -> Self {
        Self { forwarding, ..Self::default() }
    }

    /// The references of a whole plan, where this table forwards packets; what the record has
    /// numbered keeps its number.
    #[must_use]
    pub fn of(plan: &Plan, installed: &Installed) -> Self {
        Self::default().taking(plan, installed)
    }

    /// With those of a whole plan.
    #[must_use]
    pub fn taking(mut self, plan: &Plan, installed: &Installed) -> Self {
        for (key, service) in &plan.services {
            self.numbers.recover(key, service, installed);
        }
        for (key, service) in &plan.services {
            self.number(key, Some(service));
        }
        let forwarding = self.forwarding;
        let services = plan.services.values();
        let services = services.flat_map(|service| service_members(service, forwarding));
        for member in services.chain(node_members(&plan.node, forwarding)) {
            self.take(member);
        }
        self
    }

    /// The Services that are served without (all of) their session affinity: more of them ask for
    /// it than can be numbered.
    pub(crate) fn without_affinity(&self) -> impl Iterator<Item = &ObjectKey> {
        self.numbers.short()
    }

    /// Numbers what a Service needs for session affinity. IPVS has its own.
    fn number(&mut self, key: &ObjectKey, service: Option<&ServicePlan>) {
        if self.forwarding.translates() {
            self.numbers.update(key, service);
        }
    }

    fn take(&mut self, member: (SetId, Key)) {
        *self.counts.entry(member).or_default() += 1;
    }

    fn release(&mut self, member: (SetId, Key)) {
        if let Some(count) = self.counts.get_mut(&member) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&member);
            }
        }
    }
}

impl Wanted {
    /// What a delta asks for; the plan is the one before it. Work: the size of the delta.
    pub fn change(plan: &Plan, delta: &PlanDelta, references: &mut References) -> Self {
        let forwarding = references.forwarding;
        let mut wanted = Self::default();
        let mut touched = Vec::new();
        for (key, new) in &delta.services {
            let old = plan.services.get(key).map(Arc::as_ref);
            for frontend in old.into_iter().flat_map(|service| &service.frontends) {
                for place in places(frontend) {
                    wanted.frontends.entry(place).or_insert(None);
                }
            }
            references.number(key, new.as_deref());
            if let Some(service) = new {
                wanted.frontends.extend(service_targets(key, service, references));
            }
            // Taken before released: a member that stays is never at zero in between.
            let members = |service| service_members(service, forwarding);
            let taken = new.as_deref().into_iter().flat_map(members);
            let released = old.into_iter().flat_map(members);
            exchange(references, &mut touched, taken.collect(), released.collect());
        }
        if let Some(node) = &delta.node {
            let taken = node_members(node, forwarding).collect();
            let released = node_members(&plan.node, forwarding).collect();
            exchange(references, &mut touched, taken, released);
            wanted.networks = networks(node);
        }
        for member in touched {
            wanted.members.insert(member, references.counts.contains_key(&member));
        }
        wanted
    }

    /// What a portion of a plan asks for where nothing of it is there yet; the references are those
    /// of the whole plan.
    #[must_use]
    pub fn portion(portion: &PlanDelta, references: &References) -> Self {
        let forwarding = references.forwarding;
        let mut wanted = Self::default();
        for (key, service) in &portion.services {
            let Some(service) = service else { continue };
            wanted.frontends.extend(service_targets(key, service, references));
            wanted.members.extend(service_members(service, forwarding).map(|key| (key, true)));
        }
        if let Some(node) = &portion.node {
            wanted.members.extend(node_members(node, forwarding).map(|key| (key, true)));
            wanted.networks = networks(node);
        }
        wanted
    }

    /// What a whole plan asks for, including that everything else goes.
    #[must_use]
    pub fn full(plan: &Plan, references: &References, installed: &Installed) -> Self {
        let mut frontends: BTreeMap<_, _> =
            installed.frontends.keys().map(|frontend| (*frontend, None)).collect();
        for (key, service) in &plan.services {
            frontends.extend(service_targets(key, service, references));
        }
        let there = installed
            .members
            .iter()
            .flat_map(|(set, keys)| keys.iter().map(|key| ((*set, *key), false)));
        let mut members: BTreeMap<_, _> = there.collect();
        members.extend(references.counts.keys().map(|member| (*member, true)));
        Self { frontends, members, networks: networks(&plan.node) }
    }
}

/// How many elements each set has when a whole plan is installed.
#[must_use]
pub fn counts(plan: &Plan, references: &References) -> HashMap<SetId, u32> {
    let mut counts: HashMap<SetId, u32> = HashMap::new();
    let comment: Arc<str> = "".into();
    for (key, service) in &plan.services {
        let frontends = service.frontends.iter();
        let targets = frontends.flat_map(|plan| targets(key, service, plan, references, &comment));
        for (place, target) in targets {
            *counts.entry(place.verdicts()).or_default() += 1;
            let Some(target) = target else { continue };
            let mut count = |set, elements: usize| {
                *counts.entry(set).or_default() += u32::try_from(elements).unwrap_or(u32::MAX);
            };
            count(place.endpoints(), target.slots.len());
            count(place.groups(), usize::from(target.group.is_some()));
            if let Some(sticky) = target.sticky {
                count(place.sticky_slots(), sticky.slots.len());
                count(place.sticky_endpoints(), sticky.endpoints.len());
            }
        }
    }
    for (set, _) in references.counts.keys() {
        *counts.entry(*set).or_default() += 1;
    }
    for (set, networks) in networks(&plan.node) {
        counts.insert(set, interval_elements(networks.len()));
    }
    counts
}

/// A whole plan as deltas from nothing, so that what is made on the way to the kernel is never
/// large: memory that is needed once is memory that the process keeps. What every pod needs comes
/// first: the API server's Service, and those of the cluster's own namespace, DNS among them. The
/// networks of Services come last: what has no frontend there is dropped, and until all have theirs
/// another proxy may serve them. A portion is full when it has so many frontends and endpoints.
pub fn portions(plan: &Plan, elements: usize) -> impl Iterator<Item = PlanDelta> + '_ {
    let is_first = |key: &ObjectKey| {
        &*key.namespace == "kube-system"
            || (&*key.namespace == "default" && &*key.name == "kubernetes")
    };
    let (first, rest): (Vec<_>, Vec<_>) = plan.services.iter().partition(|(key, _)| is_first(key));
    let mut all = first.into_iter().chain(rest);
    let mut node =
        Some(Arc::new(NodePlan { service_cidrs: BTreeSet::new(), ..NodePlan::clone(&plan.node) }));
    let last = (!plan.node.service_cidrs.is_empty())
        .then(|| PlanDelta { node: Some(Arc::clone(&plan.node)), ..PlanDelta::default() });
    let portions = std::iter::from_fn(move || {
        let mut delta = PlanDelta { node: node.take(), ..PlanDelta::default() };
        let mut taken = 0;
        while taken < elements
            && let Some((key, service)) = all.next()
        {
            taken += service.frontends.iter().map(elements_of).sum::<usize>();
            delta.services.insert(key.clone(), Some(Arc::clone(service)));
        }
        (!delta.is_empty()).then_some(delta)
    });
    portions.chain(last)
}

/// How many elements a frontend takes, about.
fn elements_of(frontend: &FrontendPlan) -> usize {
    let slots = frontend.actions().map(|action| match action {
        Action::Forward(pool) => pool.len(),
        Action::Reject | Action::Drop => 0,
    });
    1 + slots.sum::<usize>()
}

fn exchange(
    references: &mut References,
    touched: &mut Vec<(SetId, Key)>,
    taken: Vec<(SetId, Key)>,
    released: Vec<(SetId, Key)>,
) {
    for member in &taken {
        references.take(*member);
    }
    for member in &released {
        references.release(*member);
    }
    touched.extend(taken);
    touched.extend(released);
}

/// The places in which a frontend stands.
fn places(plan: &FrontendPlan) -> impl Iterator<Item = Place> {
    let place = Place::everyone(plan.frontend);
    let allowed = plan.sources.is_some().then_some(Place { view: View::Allowed, ..place });
    let inside = plan.from_inside.is_some().then_some(Place { view: View::Inside, ..place });
    [place].into_iter().chain(allowed).chain(inside)
}

/// What each frontend of a Service is, as each kind of client meets it.
fn service_targets(
    key: &ObjectKey,
    service: &ServicePlan,
    references: &References,
) -> impl Iterator<Item = (Place, Option<FrontendTarget>)> {
    service.frontends.iter().flat_map(move |plan| {
        let comment: Arc<str> = match &*plan.port_name {
            "" => fit_comment(&key.to_string()).into(),
            port => fit_comment(&format!("{key}:{port}")).into(),
        };
        targets(key, service, plan, references, &comment)
    })
}

fn targets(
    key: &ObjectKey,
    service: &ServicePlan,
    plan: &FrontendPlan,
    references: &References,
    comment: &Arc<str>,
) -> impl Iterator<Item = (Place, Option<FrontendTarget>)> + use<> {
    let numbers = &references.numbers;
    let target = |action| {
        let mut target = target(service, action, comment);
        if let Some(affinity) = service.affinity()
            && let Some(sticky) = numbers.sticky(key, service, plan, &target.slots)
        {
            target.remember(affinity.seconds, sticky);
        }
        target
    };
    let mut everyone = target(&plan.action);
    everyone.group = numbers.group(key, service, plan);
    if let (Forwarding::VirtualServers, Target::Pool(_)) = (references.forwarding, everyone.target)
    {
        everyone = FrontendTarget::bare(Target::Virtual, comment);
    }
    let inside = plan.from_inside.as_ref().map(target);
    if inside.is_some() {
        everyone.target = match everyone.target {
            Target::Pool(draw) => Target::OutsidePool(draw),
            Target::Virtual => Target::OutsideVirtual,
            Target::Drop => Target::OutsidePool(Draw::default()),
            other => other,
        };
    }
    let place = Place::everyone(plan.frontend);
    let mut allowed = None;
    if plan.sources.is_some() {
        // The slots stay with the view of everyone; the verdict that draws from them moves.
        let target = std::mem::replace(&mut everyone.target, Target::Guard);
        let target = FrontendTarget::bare(target, comment);
        allowed = Some((Place { view: View::Allowed, ..place }, Some(target)));
    }
    let inside = inside.map(|target| (Place { view: View::Inside, ..place }, Some(target)));
    [(place, Some(everyone))].into_iter().chain(allowed).chain(inside)
}

fn target(service: &ServicePlan, action: &Action, comment: &Arc<str>) -> FrontendTarget {
    match action {
        Action::Forward(pool) => {
            let (draw, slots) = slots(service, pool);
            FrontendTarget { draw, slots, ..FrontendTarget::bare(Target::Pool(draw), comment) }
        }
        Action::Reject => FrontendTarget::bare(Target::Refuse, comment),
        Action::Drop => FrontendTarget::bare(Target::Drop, comment),
    }
}

impl FrontendTarget {
    /// A verdict alone.
    fn bare(target: Target, comment: &Arc<str>) -> Self {
        let (draw, slots, comment) = (Draw::default(), Arc::from([]), Arc::clone(comment));
        Self { target, draw, slots, group: None, sticky: None, comment }
    }

    /// Has a pool's clients remembered.
    fn remember(&mut self, seconds: u32, mut sticky: Sticky) {
        if let Target::Pool(draw) = &mut self.target {
            draw.affinity = Some(seconds);
            self.draw = *draw;
            if draw.method == Method::Random {
                sticky.slots.sort_unstable();
            }
            self.slots = Arc::from([]);
            self.sticky = Some(Box::new(sticky));
        }
    }
}
