//! Random plans, one after the other: the diff leads from any to any, in steps that serve at
//! every instant, and the real kernel ends up with what was planned.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{balanced, delta, node, service};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use shunt_cluster::Netns;
use shunt_model::balancing::{Affinity, AffinityScope, Balancing, Method};
use shunt_model::plan::{NodePlan, Plan};
use shunt_nftables::counting::Counting;
use shunt_nftables::diff::{Operation, Steps, diff};
use shunt_nftables::element::{Place, View};
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::installed::{Installed, InstalledFrontend};
use shunt_nftables::kernel::{Nftables, Options, inventory};
use shunt_nftables::lower::{References, Wanted};
use shunt_nftables::pool::Draw;
use shunt_nftables::text;

/// How connections are spread: mostly as they are by default.
fn balancing() -> impl Strategy<Value = Balancing> {
    let method = prop_oneof![6 => Just(Method::Random), 1 => Just(Method::HashAddress), 1 => Just(Method::HashConnection)];
    let scope = prop_oneof![Just(AffinityScope::Port), Just(AffinityScope::Service)];
    let affinity = (prop_oneof![Just(60), Just(10_800)], scope)
        .prop_map(|(seconds, scope)| Affinity { seconds, scope });
    (method, proptest::option::weighted(0.3, affinity)).prop_map(|(method, affinity)| Balancing {
        method,
        affinity,
        ..Balancing::default()
    })
}

/// A few Services with a few endpoints each, so that the same ones come and go.
fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let endpoints = (proptest::collection::btree_set(1..9_u16, 0..7), balancing(), any::<bool>());
    let services = proptest::collection::btree_map(1..10_u16, endpoints, 0..6);
    let one = (services, any::<bool>()).prop_map(|(services, pods_known)| {
        let mut node = (*node()).clone();
        if !pods_known {
            node = NodePlan { masquerade_all: true, ..NodePlan::default() };
        }
        let of = |(n, (endpoints, balancing, weighted)): (u16, (BTreeSet<u16>, _, _))| {
            let service = service(n, &endpoints.into_iter().collect::<Vec<_>>());
            balanced(service, balancing, weighted)
        };
        Plan {
            node: Arc::new(node),
            services: services.into_iter().map(of).collect::<BTreeMap<_, _>>(),
        }
    });
    proptest::collection::vec(one, 1..8)
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    prop::sample::select(&Forwarding::ALL[..])
}

/// How many of its first slots a draw needs filled, whatever it draws.
fn needed(draw: Draw) -> u32 {
    match draw.method {
        Method::Random => draw.slots.div_ceil(2),
        Method::HashAddress | Method::HashConnection => draw.slots,
    }
}

/// Whether the slots that a draw needs are filled, and those that hold ids lead to an endpoint.
fn filled(installed: &Installed, place: &Place, draw: Draw) -> bool {
    // Whom source ranges allow draws from the slots of everyone's view.
    let home = match place.view {
        View::Allowed => Place::everyone(place.frontend),
        View::Everyone | View::Inside => *place,
    };
    let none = InstalledFrontend::default();
    let there = installed.frontends.get(&home).unwrap_or(&none);
    let remembered = |slot: u32| {
        let sticky = there.sticky.as_deref()?;
        let everyone = installed.frontends.get(&Place::everyone(place.frontend))?;
        everyone.sticky.as_deref()?.group?;
        sticky.endpoints.get(&sticky.slots.get(slot)?).copied()
    };
    (0..needed(draw)).all(|slot| match draw.affinity {
        None => there.slots.get(slot).is_some(),
        Some(_) => remembered(slot).is_some(),
    })
}

/// Applies the steps one transaction after the other. Between any two a packet may have taken
/// its verdict from before and its slot from after: there must be one.
fn apply(installed: &mut Installed, steps: &Steps) {
    for step in steps.in_order() {
        let before = installed.clone();
        for operation in step {
            installed.apply(operation);
        }
        for (place, there) in before.frontends.iter().chain(&installed.frontends) {
            let draw = there.verdict.as_ref().and_then(|(target, _)| target.draw());
            assert!(
                filled(installed, place, draw.unwrap_or_default()),
                "{place:?}: a needed slot is empty"
            );
        }
    }
}

#[track_caller]
fn assert_same(installed: &Installed, plan: &Plan) {
    let references = References::new(installed.forwarding).taking(plan, installed);
    let wanted = Wanted::full(plan, &references, installed);
    assert_eq!(diff(&wanted, installed), Steps::default());
}

fn config(cases: u32) -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/properties.proptest-regressions");
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(seeds)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn incremental_steps_lead_from_any_plan_to_any_other(plans in plans(), forwarding in forwarding()) {
        let mut plan = Plan::default();
        let mut installed = Installed { forwarding, ..Installed::default() };
        let mut references = References::new(forwarding);
        for next in plans {
            let delta = delta(&plan, &next);
            let wanted = Wanted::change(&plan, &delta, &mut references);
            let steps = diff(&wanted, &installed);
            apply(&mut installed, &steps);
            plan = next;
            assert_same(&installed, &plan);
        }
    }

    #[test]
    fn a_crash_between_any_two_operations_is_mended(plans in plans(), cut in any::<prop::sample::Index>()) {
        let mut installed = Installed::default();
        for plan in plans {
            let wanted = Wanted::full(&plan, &References::of(&plan, &installed), &installed);
            let steps = diff(&wanted, &installed);
            let all: Vec<&Operation> = steps.in_order().flatten().collect();
            let cut = if all.is_empty() { 0 } else { cut.index(all.len()) };
            all[..cut].iter().for_each(|operation| installed.apply(operation));
            let wanted = Wanted::full(&plan, &References::of(&plan, &installed), &installed);
            for step in diff(&wanted, &installed).in_order() {
                step.iter().for_each(|operation| installed.apply(operation));
            }
            assert_same(&installed, &plan);
        }
    }
}

/// Without what is empty, and without counting bounds of intervals, of which a record has the
/// most that there can be.
fn normal(mut installed: Installed) -> Installed {
    installed.networks.retain(|_, networks| !networks.is_empty());
    installed.members.retain(|_, members| !members.is_empty());
    installed.count.retain(|set, count| *count > 0 && !set.holds_networks());
    installed
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn the_kernel_holds_each_plan(plans in plans(), owner in any::<bool>(), restart in any::<bool>(), (forwarding, counting) in (forwarding(), prop::sample::select(Counting::ALL.to_vec()))) {
        let netns = Netns::new("node").expect("a network namespace: this test needs root");
        let open = || netns.run(move || Nftables::open(Options { owner, forwarding, counting })).expect("nftables");
        let mut nftables = open();
        let mut plan = Plan::default();
        for next in plans {
            let mut change = delta(&plan, &next);
            if restart {
                drop(nftables);
                nftables = open();
                change = delta(&Plan::default(), &next);
                change.node = Some(Arc::clone(&next.node));
            }
            let report = nftables.sync(change).expect("a sync");
            prop_assert!(report.rejected.is_empty());
            plan = next;
            let read = netns.run(inventory).expect("an inventory").installed;
            assert_same(&read, &plan);
            let record = nftables.installed().expect("a record").clone();
            assert_eq!(text::render_installed(&read), text::render_installed(&record));
            assert_eq!(normal(read), normal(record), "the record is what the kernel holds");
        }
    }
}
