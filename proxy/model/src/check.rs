//! A linter of plans: what must hold in each of them, whatever the objects were.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::address::{Endpoint, Family, Frontend, FrontendAddress};
use crate::balancing::{GREATEST_WEIGHT, WEIGHT};
use crate::object::ObjectKey;
use crate::plan::{Action, FrontendKind, FrontendPlan, NodePlan, Plan, ServicePlan};

impl Plan {
    /// What is wrong with this plan; empty if it is sound. A finding is a bug in shunt, not in
    /// the objects.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut findings = check_node(&self.node);
        let mut owners: BTreeMap<Frontend, &ObjectKey> = BTreeMap::new();
        for (key, service) in &self.services {
            let own = check_service(key, service);
            findings.extend(own.into_iter().map(|finding| format!("{key}: {finding}")));
            for plan in &service.frontends {
                if let Some(other) = owners.insert(plan.frontend, key).filter(|o| *o != key) {
                    findings.push(format!("{key}: {} is also in {other}", plan.frontend));
                }
            }
        }
        findings
    }
}

fn check_node(node: &NodePlan) -> Vec<String> {
    let mut findings = Vec::new();
    let unfit = |ip: &&IpAddr| ip.is_loopback() && **ip != Ipv4Addr::LOCALHOST;
    for ip in node.node_port_addresses.iter().filter(unfit) {
        findings.push(format!("node: NodePorts on the loopback address {ip}"));
    }
    let mut previous = None;
    for net in &node.local_sources {
        if net.trunc() != *net {
            findings.push(format!("node: {net} has host bits"));
        }
        // Sorted, so a network that contains others stands directly before one of them.
        if previous.is_some_and(|previous: &ipnet::IpNet| previous.contains(net)) {
            findings.push(format!("node: local source {net} overlaps another"));
        }
        previous = Some(net);
    }
    findings
}

fn check_service(key: &ObjectKey, service: &ServicePlan) -> Vec<String> {
    let mut findings = Vec::new();
    if !service.frontends.is_sorted_by(|a, b| a.frontend < b.frontend) {
        findings.push("frontends are not sorted, each once".into());
    }
    if !service.lingering.is_sorted_by(|a, b| a < b) {
        findings.push("lingering endpoints are not sorted, each once".into());
    }
    if !service.cluster_ips.is_sorted_by(|a, b| a < b) {
        findings.push("ClusterIPs are not sorted, each once".into());
    }
    if !service.hairpins.is_sorted_by(|a, b| a < b) {
        findings.push("hairpins are not sorted, each once".into());
    }
    for ip in service.hairpins.iter().filter(|ip| !in_a_pool(service, **ip)) {
        findings.push(format!("hairpin {ip} is in no pool"));
    }
    if !service.weights.is_sorted_by(|a, b| a.0 < b.0) {
        findings.push("weights are not sorted, each once".into());
    }
    for (endpoint, weight) in &service.weights {
        if *weight == WEIGHT || !(1..=GREATEST_WEIGHT).contains(weight) {
            findings.push(format!("{endpoint} has the weight {weight}"));
        }
        if !service.frontends.iter().any(|plan| plan.uses(endpoint)) {
            findings.push(format!("{endpoint} has a weight and is in no pool"));
        }
    }
    for problem in service.problems.iter().filter(|problem| problem.object != *key) {
        findings.push(format!("holds another's problem: {problem}"));
    }
    for frontend in &service.frontends {
        check_frontend(service, frontend, &mut findings);
    }
    findings
}

fn in_a_pool(service: &ServicePlan, ip: IpAddr) -> bool {
    let mut actions = service.frontends.iter().flat_map(FrontendPlan::actions);
    actions.any(|action| match action {
        Action::Forward(pool) => pool.iter().any(|endpoint| endpoint.address == ip),
        Action::Reject | Action::Drop => false,
    })
}

fn check_frontend(service: &ServicePlan, plan: &FrontendPlan, findings: &mut Vec<String>) {
    let frontend = plan.frontend;
    let fits = match (frontend.address, plan.kind) {
        (FrontendAddress::Ip(ip), FrontendKind::ClusterIp) => service.cluster_ips.contains(&ip),
        (FrontendAddress::Ip(_), FrontendKind::ExternalIp | FrontendKind::LoadBalancer) => true,
        (FrontendAddress::Node(_), kind) => kind == FrontendKind::NodePort,
        (FrontendAddress::Ip(_), FrontendKind::NodePort) => false,
    };
    if !fits {
        findings.push(format!("{frontend} cannot be a {:?}", plan.kind));
    }
    let sources = plan.sources.as_deref().unwrap_or_default();
    if !sources.is_sorted_by(|a, b| a < b && !a.contains(b)) {
        findings.push(format!("{frontend}: sources overlap, or are not sorted"));
    }
    for net in sources.iter().filter(|net| Family::of(net.addr()) != frontend.family()) {
        findings.push(format!("{frontend}: source {net} is of the other family"));
    }
    if plan.from_inside.as_ref() == Some(&plan.action) {
        findings.push(format!("{frontend}: from inside is no different"));
    }
    for action in plan.actions() {
        if let Action::Forward(pool) = action {
            check_pool(frontend, pool, findings);
        }
    }
}

fn check_pool(frontend: Frontend, pool: &[Endpoint], findings: &mut Vec<String>) {
    if pool.is_empty() {
        findings.push(format!("{frontend} forwards to no one"));
    }
    if !pool.is_sorted_by(|a, b| a < b) {
        findings.push(format!("{frontend}: endpoints are not sorted, each once"));
    }
    for endpoint in pool.iter().filter(|e| Family::of(e.address) != frontend.family()) {
        findings.push(format!("{frontend}: {endpoint} is of the other family"));
    }
}
