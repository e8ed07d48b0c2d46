//! The weights of a Service's endpoints.

use std::collections::BTreeMap;

use crate::address::Endpoint;
use crate::balancing::{Balancing, WEIGHT};
use crate::object::EndpointSlice;
use crate::plan::FrontendPlan;

/// The endpoints in the pools of these frontends that have another weight than 1, sorted. What the
/// Service says of a node is stronger than what a slice says; of slices that disagree the one that
/// says least counts, so that their order does not matter.
pub(super) fn weights(
    balancing: Option<&Balancing>,
    slices: &[EndpointSlice],
    frontends: &[FrontendPlan],
) -> Box<[(Endpoint, u8)]> {
    let by_node = balancing.is_some_and(|balancing| !balancing.node_weights.is_empty());
    let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    if !by_node && endpoints.all(|endpoint| endpoint.weight == WEIGHT) {
        return Box::default();
    }
    let mut weights: BTreeMap<Endpoint, u8> = BTreeMap::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            let node = endpoint.node();
            let said =
                balancing.zip(node).and_then(|(balancing, node)| balancing.node_weight(node));
            let weight = said.unwrap_or(endpoint.weight);
            for port in &slice.ports {
                let endpoint = Endpoint { address: endpoint.address, port: port.port };
                let least = weights.entry(endpoint).or_insert(weight);
                *least = weight.min(*least);
            }
        }
    }
    weights.retain(|endpoint, weight| {
        *weight != WEIGHT && frontends.iter().any(|plan| plan.uses(endpoint))
    });
    weights.into_iter().collect()
}
