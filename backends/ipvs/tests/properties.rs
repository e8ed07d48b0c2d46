//! Random plans, one after the other: the diff leads from any to any, also after a crash in between,
//! and whatever is not ours stays as it was.

#[path = "../../nftables/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use common::{balanced, delta, node, service};
use ipvs_rs::{Destination, DestinationKey, Flags, Protocol, Request, Service, ServiceKey};
use proptest::prelude::*;
use shunt_ipvs::diff::{Steps, diff, drained};
use shunt_ipvs::installed::{Installed, InstalledVirtual};
use shunt_ipvs::lower::{Lowering, Wanted};
use shunt_ipvs::{OURS, Settings};
use shunt_model::address::{Frontend, FrontendAddress};
use shunt_model::balancing::{Balancing, Scheduler};
use shunt_model::object::ObjectKey;
use shunt_model::plan::{FrontendKind, NodePlan, Plan, ServicePlan};

const NOW: u32 = 1000;

fn balancing() -> impl Strategy<Value = Balancing> {
    let scheduler = prop_oneof![2 => Just(None), 1 => Just(Some(Scheduler::Wlc))];
    let drain = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(30))];
    (scheduler, drain).prop_map(|(scheduler, drain_seconds)| Balancing {
        scheduler,
        drain_seconds,
        ..Balancing::default()
    })
}

/// A few Services with a few endpoints each, so that the same ones come and go.
fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let endpoints = (proptest::collection::btree_set(1..9_u16, 0..7), balancing(), any::<bool>());
    let services = proptest::collection::btree_map(1..10_u16, endpoints, 0..6);
    let one = (services, 0..3_u8).prop_map(|(services, nodes)| {
        let mut node = (*node()).clone();
        if nodes == 1 {
            node = NodePlan::default();
        }
        if nodes == 2 {
            // Each fifth Service has such an address of a load balancer.
            node.own_addresses.insert([203, 0, 113, 4].into());
        }
        let of = |(n, (endpoints, balancing, weighted)): (u16, (BTreeSet<u16>, _, _))| {
            let service = service(n, &endpoints.into_iter().collect::<Vec<_>>());
            balanced(service, balancing, weighted)
        };
        Plan { node: node.into(), services: services.into_iter().map(of).collect() }
    });
    proptest::collection::vec(one, 1..6)
}

/// An external IP that is the node's address, with the port that the NodePort of Service 1 has.
fn at_the_node_port() -> (ObjectKey, Arc<ServicePlan>) {
    let (key, like) = service(17, &[3]);
    let mut service = (*like).clone();
    let address = FrontendAddress::Ip([192, 168, 77, 11].into());
    service.frontends.truncate(1);
    service.frontends[0].kind = FrontendKind::ExternalIp;
    service.frontends[0].frontend =
        Frontend { address, port: 30_001, ..service.frontends[0].frontend };
    (key, Arc::new(service))
}

#[test]
fn an_address_with_a_port_outranks_a_node_port_and_gives_it_back() {
    let at = ServiceKey::address([192, 168, 77, 11].into(), Protocol::TCP, 30_001);
    let node_port = service(1, &[1]);
    let both = [node_port, at_the_node_port()];
    let of = |services: &[_]| Plan { node: node(), services: services.iter().cloned().collect() };
    let (mut installed, settings) = (Installed::default(), Settings::default());
    let (mut plan, mut lowering) = (Plan::default(), Lowering::new(settings.clone()));
    for (next, expected) in [
        (of(&both), Some(3)),
        (of(&both[..1]), Some(1)),
        (of(&both), Some(3)),
        (of(&both[1..]), Some(3)),
        (of(&both), Some(3)),
        (of(&[]), None),
    ] {
        let wanted = lowering.change(&plan, &delta(&plan, &next));
        let steps = diff(&wanted, &installed, &settings, NOW);
        apply(&mut installed, &steps);
        plan = next;
        assert_eq!(full(&plan, &installed), Steps::default());
        let serving = installed.virtuals.get(&at).map(|server| {
            let serving = server.destinations.iter().find(|(_, each)| each.weight > 0);
            match serving.expect("a real server").0.address {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => unreachable!("an IPv4 service"),
            }
        });
        assert_eq!(serving, expected);
    }
}

/// A virtual server and an address that someone else has made.
fn foreign() -> (Installed, ServiceKey, IpAddr) {
    let key = ServiceKey::address([192, 0, 2, 1].into(), Protocol::TCP, 80);
    let mut installed = Installed::default();
    installed.apply(&Request::AddService(Service::new(key, "rr")));
    let theirs = Destination::new([192, 0, 2, 9].into(), 80);
    installed.apply(&Request::AddDestination(key, theirs));
    let address = [192, 0, 2, 77].into();
    installed.addresses.insert(address, false);
    (installed, key, address)
}

/// The kernel as far as it refuses: nothing twice, nothing to what is not there.
fn check(installed: &Installed, request: &Request) {
    let there = |key: &ServiceKey| installed.virtuals.get(key);
    let has = |key: &ServiceKey, each: &DestinationKey| {
        there(key).expect("a virtual server").destinations.contains_key(each)
    };
    match request {
        Request::AddService(service) => assert!(there(&service.key).is_none()),
        Request::SetService(service) => assert!(there(&service.key).is_some()),
        Request::DeleteService(key) => assert!(there(key).is_some()),
        Request::AddDestination(key, each) => assert!(!has(key, &each.key())),
        Request::SetDestination(key, each) => assert!(has(key, &each.key())),
        Request::DeleteDestination(key, each) => assert!(has(key, each)),
        other => panic!("{other:?}"),
    }
}

fn apply(installed: &mut Installed, steps: &Steps) {
    for request in steps.prepare.iter().chain(&steps.retire) {
        check(installed, request);
        installed.apply(request);
    }
    for address in &steps.withdraw {
        assert_eq!(installed.addresses.remove(address), Some(true));
    }
    for address in &steps.announce {
        assert_eq!(installed.addresses.insert(*address, true), None);
    }
}

fn full(plan: &Plan, installed: &Installed) -> Steps {
    let settings = Settings::default();
    let wanted = Lowering::new(settings.clone()).full(plan, installed);
    diff(&wanted, installed, &settings, NOW)
}

#[track_caller]
fn assert_holds(installed: &Installed, plan: &Plan) {
    assert_eq!(full(plan, installed), Steps::default());
    let wanted = Lowering::new(Settings::default()).full(plan, &Installed::default());
    for (key, wanted) in &wanted.virtuals {
        let (wanted, there) = (wanted.as_ref().expect("wanted"), &installed.virtuals[key]);
        assert!(there.ours(), "{key}");
        let serving = there.destinations.iter().filter(|(_, each)| each.weight > 0);
        let serving: Vec<_> = serving.map(|(key, each)| (*key, each.weight)).collect();
        let expected: Vec<_> = wanted.weights.iter().map(|(key, weight)| (*key, *weight)).collect();
        assert_eq!(serving, expected, "{key}");
    }
}

proptest! {
    #[test]
    fn incremental_steps_lead_from_any_plan_to_any_other(plans in plans()) {
        let (mut installed, key, address) = foreign();
        let (before, settings) = (installed.clone(), Settings::default());
        let (mut plan, mut lowering) = (Plan::default(), Lowering::new(settings.clone()));
        for next in plans {
            let wanted = lowering.change(&plan, &delta(&plan, &next));
            let steps = diff(&wanted, &installed, &settings, NOW);
            apply(&mut installed, &steps);
            plan = next;
            assert_holds(&installed, &plan);
            prop_assert_eq!(&installed.virtuals[&key], &before.virtuals[&key]);
            prop_assert_eq!(installed.addresses[&address], false);
        }
    }

    #[test]
    fn a_crash_between_any_two_requests_is_mended(plans in plans(), cut in any::<prop::sample::Index>()) {
        let mut installed = Installed::default();
        for plan in plans {
            let steps = full(&plan, &installed);
            let all: Vec<_> = steps.prepare.iter().chain(&steps.retire).collect();
            let cut = if all.is_empty() { 0 } else { cut.index(all.len()) };
            all[..cut].iter().for_each(|request| installed.apply(request));
            let steps = full(&plan, &installed);
            apply(&mut installed, &steps);
            assert_holds(&installed, &plan);
        }
    }

    #[test]
    fn when_everything_goes_only_others_things_stay(plans in plans()) {
        let (mut installed, ..) = foreign();
        let before = installed.clone();
        for plan in plans.iter().chain([&Plan::default()]) {
            let steps = full(plan, &installed);
            apply(&mut installed, &steps);
        }
        prop_assert_eq!(installed, before);
    }
}

#[test]
fn an_address_that_is_no_frontends_costs_nothing_and_one_that_is_moves_alone() {
    let services = (1..=9).map(|n| service(n, &[1, 2])).collect();
    let plan = Plan { node: node(), services };
    let mut lowering = Lowering::new(Settings::default());
    lowering.change(&Plan::default(), &delta(&Plan::default(), &plan));
    let mut with_address = |ip: [u8; 4]| {
        let mut node = (*plan.node).clone();
        node.own_addresses.insert(ip.into());
        let next = Plan { node: node.into(), services: plan.services.clone() };
        lowering.change(&plan, &delta(&plan, &next))
    };
    // The host's end of a pod's link.
    let Wanted { virtuals, addresses } = with_address([169, 254, 7, 7]);
    assert!(virtuals.is_empty() && addresses.values().all(|wanted| !wanted), "{virtuals:?}");
    let of_balancer = [203, 0, 113, 9];
    let Wanted { virtuals, addresses } = with_address(of_balancer);
    assert_eq!(addresses, [(of_balancer.into(), false)].into());
    assert!(virtuals.is_empty(), "{virtuals:?}");
}

fn plan_of(endpoints: &[u16], drain_seconds: Option<u32>) -> Plan {
    let balancing = Balancing { drain_seconds, ..Balancing::default() };
    let services = [balanced(service(1, endpoints), balancing, false)];
    Plan { node: node(), services: services.into_iter().collect() }
}

fn cluster_ip() -> ServiceKey {
    ServiceKey::address([10, 96, 0, 1].into(), Protocol::TCP, 80)
}

fn destinations(installed: &Installed) -> Vec<(u8, u32, u32)> {
    let there = &installed.virtuals[&cluster_ip()].destinations;
    let each = there.iter().map(|(key, each)| match key.address {
        IpAddr::V4(ip) => (ip.octets()[3], each.weight, each.deadline),
        IpAddr::V6(_) => unreachable!("an IPv4 service"),
    });
    each.collect()
}

#[test]
fn who_leaves_drains_until_the_deadline_and_who_comes_back_has_lost_nothing() {
    let mut installed = Installed::default();
    for (endpoints, expected) in [
        (&[1, 2][..], [(1, 1, 0), (2, 1, 0)]),
        (&[1], [(1, 1, 0), (2, 0, NOW + 30)]),
        (&[1], [(1, 1, 0), (2, 0, NOW + 30)]),
        (&[], [(1, 0, NOW + 30), (2, 0, NOW + 30)]),
        (&[1, 2], [(1, 1, 0), (2, 1, 0)]),
    ] {
        let steps = full(&plan_of(endpoints, Some(30)), &installed);
        apply(&mut installed, &steps);
        assert_eq!(destinations(&installed), expected);
        let drains = expected.iter().any(|(_, weight, _)| *weight == 0);
        assert_eq!(installed.draining().contains(&cluster_ip()), drains);
    }
    let steps = full(&plan_of(&[1], Some(0)), &installed);
    apply(&mut installed, &steps);
    assert_eq!(destinations(&installed), [(1, 1, 0)], "no time to drain");
}

#[test]
fn a_drain_under_way_can_be_shortened_and_no_look_at_it_prolongs_it() {
    let mut installed = Installed::default();
    let steps = [
        (&[1, 2][..], None, NOW, (2, 1, 0)),
        (&[1], None, NOW, (2, 0, 0)),
        (&[1], Some(600), NOW, (2, 0, NOW + 600)),
        (&[1], Some(600), NOW + 9, (2, 0, NOW + 600)),
        (&[1], Some(30), NOW + 9, (2, 0, NOW + 39)),
        (&[1], None, NOW + 20, (2, 0, NOW + 39)),
    ];
    for (endpoints, drain_seconds, now, expected) in steps {
        let settings = Settings::default();
        let plan = plan_of(endpoints, drain_seconds);
        let wanted = Lowering::new(settings.clone()).full(&plan, &installed);
        let steps = diff(&wanted, &installed, &settings, now);
        apply(&mut installed, &steps);
        assert_eq!(destinations(&installed)[1], expected);
    }
}

#[test]
fn what_has_drained_is_idle_or_late() {
    let at = |last: u8, weight, active_connections, upper_threshold| Destination {
        weight,
        active_connections,
        upper_threshold,
        ..Destination::new([10, 0, 0, last].into(), 80)
    };
    let there =
        [at(1, 1, 0, 0), at(2, 0, 0, 0), at(3, 0, 1, 0), at(4, 0, 1, NOW), at(5, 0, 1, NOW + 1)];
    let gone = drained(cluster_ip(), &there, NOW);
    let delete = |each: &Destination| Request::DeleteDestination(cluster_ip(), each.key());
    assert_eq!(gone, [delete(&there[1]), delete(&there[3])]);
}

#[test]
fn a_virtual_server_at_a_frontend_is_taken_over_and_excluded_ones_are_never_removed() {
    let mut installed = Installed::default();
    installed.apply(&Request::AddService(Service::new(cluster_ip(), "lc")));
    let old = Destination::new([10, 0, 0, 99].into(), 80);
    installed.apply(&Request::AddDestination(cluster_ip(), old.clone()));
    let steps = full(&plan_of(&[1], None), &installed);
    apply(&mut installed, &steps);
    let taken: &InstalledVirtual = &installed.virtuals[&cluster_ip()];
    assert_eq!((taken.flags, taken.scheduler.as_str()), (OURS.union(Flags::default()), "rr"));
    assert_eq!(taken.destinations[&old.key()].weight, 0, "kube-proxy's endpoint drains");

    let settings =
        Settings { exclude: vec!["10.96.0.0/16".parse().unwrap()], ..Settings::default() };
    let wanted = Lowering::new(settings.clone()).full(&Plan::default(), &installed);
    let steps = diff(&wanted, &installed, &settings, NOW);
    let kept = Request::DeleteService(cluster_ip());
    assert!(!steps.retire.contains(&kept) && !steps.retire.is_empty());
}

#[test]
fn a_scheduler_that_the_kernel_lacks_is_replaced_and_told() {
    let balancing = Balancing { scheduler: Some(Scheduler::Mh), ..Balancing::default() };
    let services = [balanced(service(1, &[1]), balancing, false)];
    let plan = Plan { node: node(), services: services.into_iter().collect() };
    let mut lowering = Lowering::new(Settings::default());
    let scheduler = |lowering: &mut Lowering| {
        let wanted = lowering.full(&plan, &Installed::default());
        let server = wanted.virtuals[&cluster_ip()].clone().expect("wanted").service;
        (server.scheduler, server.flags)
    };
    assert_eq!(
        scheduler(&mut lowering),
        ("mh".to_owned(), OURS.union(Flags::HASH_PORT).union(Flags::HASH_FALLBACK))
    );
    assert_eq!(lowering.without_scheduler(&plan).count(), 0);
    lowering.missing.insert("mh".to_owned());
    assert_eq!(scheduler(&mut lowering), ("rr".to_owned(), OURS));
    let told: Vec<_> = lowering.without_scheduler(&plan).map(|(_, reason)| reason).collect();
    assert_eq!(told, ["the kernel has no IPVS scheduler mh; rr is used"]);
}
