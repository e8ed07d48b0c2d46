//! The plan as text.

use shunt_model::plan::{Action, FrontendPlan, Plan};

use super::snapshot::{print_balancing, weight};
use super::yaml::Yaml;
use crate::status::{action, kind, masquerade};

/// Prints the plan.
pub(super) fn print(plan: &Plan) -> String {
    let mut yaml = Yaml::default();
    yaml.section("node", |yaml| {
        yaml.words("nodePortAddresses", &plan.node.node_port_addresses);
        yaml.words("localSources", &plan.node.local_sources);
        yaml.words("localInterfaces", plan.node.local_interfaces);
        if !plan.node.blind_links.is_empty() {
            yaml.words("blindLinks", &plan.node.blind_links);
        }
        yaml.words("serviceCIDRs", &plan.node.service_cidrs);
        yaml.field("masqueradeAll", plan.node.masquerade_all);
    });
    yaml.list("services", &plan.services, |yaml, (key, service)| {
        yaml.field("service", key);
        yaml.field("type", service.service_type);
        yaml.words("clusterIPs", &service.cluster_ips);
        yaml.words("hairpins", &service.hairpins);
        if let Some(balancing) = &service.balancing {
            print_balancing(yaml, balancing);
        }
        if !service.weights.is_empty() {
            yaml.words("weights", service.weights.iter().map(weight));
        }
        if let Some(check) = &service.health_check {
            let [v4, v6] = check.local;
            yaml.field("healthCheck", format!("port {}, IPv4 {v4}, IPv6 {v6}", check.port));
        }
        if !service.lingering.is_empty() {
            let lingering = service.lingering.iter();
            yaml.words("lingering", lingering.map(|(protocol, at)| format!("{at}/{protocol}")));
        }
        yaml.list("frontends", &service.frontends, print_frontend);
        yaml.words("problems", &service.problems);
    });
    yaml.finish()
}

fn print_frontend(yaml: &mut Yaml, frontend: &FrontendPlan) {
    yaml.field("frontend", frontend.frontend);
    yaml.field("kind", kind(frontend.kind));
    yaml.field("port", &frontend.port_name);
    yaml.field("masquerade", masquerade(frontend.masquerade));
    if let Some(sources) = &frontend.sources {
        yaml.words("allowedSources", sources.iter());
    }
    yaml.field("action", action(&frontend.action));
    if let Action::Forward(pool) = &frontend.action {
        yaml.words("endpoints", pool.iter());
    }
    let Some(inside) = &frontend.from_inside else { return };
    yaml.field("fromInside", action(inside));
    if let Action::Forward(pool) = inside {
        yaml.words("endpointsFromInside", pool.iter());
    }
}
