//! Weights: who says them, and whose word counts.

use crate::balancing::Balancing;
use crate::testing::{World, service, slice};

fn weights(world: &World) -> Vec<String> {
    let weights = &world.service("ns/web").weights;
    weights.iter().map(|(endpoint, weight)| format!("{endpoint}={weight}")).collect()
}

#[test]
fn the_service_outranks_the_slice_and_the_least_counts() {
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80);
    let one = slice("ns/web-1").port("http", 8080);
    let one = one.endpoint("10.244.0.1", "a").weight(5).endpoint("10.244.0.2", "b").weight(5);
    let mut world = World::with([web.clone().into(), one.into()]);
    assert_eq!(weights(&world), ["10.244.0.1:8080=5", "10.244.0.2:8080=5"]);

    let node_weights = vec![("b".into(), 3)];
    world.apply(web.balancing(Balancing { node_weights, ..Balancing::default() }));
    assert_eq!(weights(&world), ["10.244.0.1:8080=5", "10.244.0.2:8080=3"]);

    world.apply(slice("ns/web-2").port("http", 8080).endpoint("10.244.0.1", "a").weight(2));
    assert_eq!(weights(&world), ["10.244.0.1:8080=2", "10.244.0.2:8080=3"]);
}

#[test]
fn only_what_differs_is_kept() {
    let web = service("ns/web").cluster_ip("10.0.0.1").port("http", 80);
    let one = slice("ns/web-1").port("http", 8080).port("other", 9090);
    let one = one.endpoint("10.244.0.1", "a").endpoint("10.244.0.2", "a").weight(7).unready();
    let mut world = World::with([web.into(), one.clone().into()]);
    assert!(weights(&world).is_empty(), "an endpoint out of use has no weight");
    world.apply(one.endpoint("10.244.0.3", "a").weight(2));
    assert_eq!(weights(&world), ["10.244.0.3:8080=2"]);
}
