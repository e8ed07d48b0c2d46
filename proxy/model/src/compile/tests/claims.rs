//! Who owns a frontend that several Services claim.

use crate::object::ServiceType;
use crate::problem::Kind;
use crate::testing::{ServiceBuilder, World, changed, deleted, service};

/// A Service that claims 203.0.113.1:80/tcp, with a ClusterIP of its own.
fn claimant(name: &str, created: i64, own: &str) -> ServiceBuilder {
    let service = service(name).created(created).cluster_ip(own).external_ip("203.0.113.1");
    service.port("http", 80)
}

/// Who of these has 203.0.113.1:80/tcp.
fn owners<'a>(world: &World, names: &[&'a str]) -> Vec<&'a str> {
    let has = |name: &&&str| world.frontends(name).contains(&"203.0.113.1:80/tcp".to_owned());
    names.iter().filter(has).copied().collect()
}

const ALL: [&str; 3] = ["a/a", "b/b", "c/c"];

#[test]
fn the_oldest_wins_then_the_lesser_key_and_unknown_is_newest() {
    let cases = [([3, 2, 1], "c/c"), ([2, 1, 2], "b/b"), ([1, 1, 1], "a/a"), ([0, 0, 9], "c/c")];
    for (ages, owner) in cases {
        let changes = [
            claimant("a/a", ages[0], "10.0.0.1").into(),
            claimant("b/b", ages[1], "10.0.0.2").into(),
            claimant("c/c", ages[2], "10.0.0.3").into(),
        ];
        let forward = World::with(changes.clone());
        assert_eq!(owners(&forward, &ALL), [owner], "{ages:?}");
        let backward = World::with(changes.into_iter().rev());
        assert_eq!(backward.plan, forward.plan, "{ages:?}");
    }
}

#[test]
fn the_loser_names_the_field_and_the_winner() {
    let mut world = World::with([claimant("a/a", 2, "10.0.0.1").into()]);
    world.apply(claimant("b/b", 1, "10.0.0.2"));
    let by = "203.0.113.1:80/tcp is already used by Service b/b, which";
    assert_eq!(world.problems("a/a"), [format!("spec.externalIPs[0]: {by} is older; skipped")]);
    assert!(world.problems("b/b").is_empty());
    world.apply(claimant("c/c", 1, "10.0.0.3"));
    let expected = format!("spec.externalIPs[0]: {by} comes first by name; skipped");
    assert_eq!(world.problems("c/c"), [expected]);
}

/// Whoever may write a Service could otherwise take any other's traffic (CVE-2020-8554).
#[test]
fn no_external_ip_takes_a_cluster_ip_however_old_its_service() {
    let thief = service("a/a").created(1).cluster_ip("10.0.0.1").external_ip("10.0.0.2");
    let victim = service("b/b").created(2).cluster_ip("10.0.0.2").port("http", 80);
    let world = World::with([thief.port("http", 80).into(), victim.into()]);
    assert!(world.frontends("b/b").contains(&"10.0.0.2:80/tcp".to_owned()));
    assert_eq!(
        world.problems("a/a"),
        [
            "spec.externalIPs[0]: 10.0.0.2:80/tcp is already used by Service b/b, which has it as ClusterIP; skipped"
        ]
    );
}

#[test]
fn every_field_is_named() {
    let winner = service("a/a").cluster_ip("10.0.0.1").external_ip("203.0.113.1");
    let winner = winner.external_ip("203.0.113.2").port("x", 1).port("http", 80).node_port(30080);
    let loser = service("b/b").created(2).cluster_ip("10.0.0.1").external_ip("203.0.113.1");
    let loser = loser.load_balancer_ip("203.0.113.2").port("y", 2).port("http", 80);
    let loser = loser.node_port(30080).of_type(ServiceType::LoadBalancer);
    let world = World::with([winner.into(), loser.into()]);
    let fields: Vec<_> =
        world.service("b/b").problems.iter().map(|problem| problem.field.as_str()).collect();
    let expected = [
        "spec.clusterIPs[0]",
        "spec.externalIPs[0]",
        "spec.ports[1].nodePort",
        "status.loadBalancer.ingress[0].ip",
    ];
    assert_eq!(fields, expected);
    assert_eq!(
        world.frontends("b/b"),
        ["10.0.0.1:2/tcp", "203.0.113.1:2/tcp", "203.0.113.2:2/tcp"]
    );
}

#[test]
fn the_next_one_gets_it_when_the_winner_goes() {
    let mut world = World::with([
        claimant("a/a", 1, "10.0.0.1").into(),
        claimant("b/b", 2, "10.0.0.2").into(),
        claimant("c/c", 3, "10.0.0.3").into(),
    ]);
    // c/c loses as before, but to another Service, which its problem names.
    let delta = world.apply(deleted(Kind::Service, "a/a"));
    assert_eq!(changed(&delta), ALL);
    assert_eq!(owners(&world, &ALL[1..]), ["b/b"]);
    // A winner that only gives the frontend up.
    let without = service("b/b").created(2).cluster_ip("10.0.0.2").port("http", 80);
    let delta = world.apply(without);
    assert_eq!(changed(&delta), ["b/b", "c/c"]);
    assert_eq!(owners(&world, &ALL[1..]), ["c/c"]);
    // An older one comes back.
    let delta = world.apply(claimant("a/a", 1, "10.0.0.1"));
    assert_eq!(changed(&delta), ["a/a", "c/c"]);
    assert_eq!(owners(&world, &ALL), ["a/a"]);
    // It is made anew and is now the newest.
    let delta = world.apply(claimant("a/a", 9, "10.0.0.1"));
    assert_eq!(changed(&delta), ["a/a", "c/c"]);
    assert_eq!(owners(&world, &ALL), ["c/c"]);
}

#[test]
fn others_are_left_alone_when_only_a_loser_changes() {
    let mut world = World::with([
        claimant("a/a", 1, "10.0.0.1").into(),
        claimant("b/b", 2, "10.0.0.2").into(),
        claimant("c/c", 3, "10.0.0.3").into(),
    ]);
    let delta = world.apply(deleted(Kind::Service, "b/b"));
    assert_eq!(changed(&delta), ["b/b"]);
}

#[test]
fn a_cluster_ip_that_is_an_external_ip_conflicts_by_port_only() {
    let web = service("a/web").cluster_ip("10.0.0.1").port("http", 80);
    let thief = service("b/thief").created(2).cluster_ip("10.0.0.2").external_ip("10.0.0.1");
    let thief = thief.port("http", 80).port("https", 443);
    let world = World::with([web.into(), thief.into()]);
    assert_eq!(world.frontends("a/web"), ["10.0.0.1:80/tcp"]);
    assert_eq!(
        world.frontends("b/thief"),
        ["10.0.0.1:443/tcp", "10.0.0.2:80/tcp", "10.0.0.2:443/tcp"]
    );
    assert_eq!(world.problems("b/thief").len(), 1);
}

#[test]
fn an_external_ip_does_not_conflict_with_node_ports() {
    let one = service("a/one").cluster_ip("10.0.0.1").port("http", 80).node_port(30080);
    let two = service("b/two").cluster_ip("10.0.0.2").external_ip("192.168.0.1");
    let world = World::with([one.into(), two.port("http", 30080).into()]);
    assert!(world.problems("a/one").is_empty());
    assert!(world.problems("b/two").is_empty());
}
