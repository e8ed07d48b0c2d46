//! What is counted of each frontend and endpoint. It is not kept but read from the kernel when it is
//! asked for, so it is printed here and is no part of the registry.

use std::fmt::Write;

use shunt_model::object::ObjectKey;
use shunt_model::plan::{Action, FrontendPlan, Plan};
use shunt_nftables::element::Place;

use crate::counted::Counted;
use crate::status::met_by;

/// The metrics, without the suffix that counters have, and what they are.
pub const NAMES: [(&str, &str); 2] = [
    ("shunt_frontend_connections", "New connections to a frontend"),
    ("shunt_endpoint_connections", "New connections that an endpoint of a frontend got"),
];

/// Adds them to the registry's text, for every frontend of a plan.
pub fn add(text: &mut String, plan: &Plan, counted: &Counted) {
    /// The end of what the registry prints.
    const END: &str = "# EOF\n";
    if text.ends_with(END) {
        text.truncate(text.len() - END.len());
    }
    let mut endpoints = String::new();
    head(text, NAMES[0]);
    head(&mut endpoints, NAMES[1]);
    for (key, service) in &plan.services {
        for frontend in &service.frontends {
            of_frontend(text, &mut endpoints, (key, frontend), counted);
        }
    }
    text.push_str(&endpoints);
    text.push_str(END);
}

fn head(out: &mut String, (name, help): (&str, &str)) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} counter");
}

fn of_frontend(
    frontends: &mut String,
    endpoints: &mut String,
    (key, plan): (&ObjectKey, &FrontendPlan),
    counted: &Counted,
) {
    let everyone = (Place::everyone(plan.frontend), Some(&plan.action));
    let inside = (Place::inside(plan.frontend), plan.from_inside.as_ref());
    for (place, action) in [everyone, inside] {
        let Some(action) = action else { continue };
        // Names of objects and ports have nothing in them that would have to be escaped.
        let labels = format!(
            "namespace=\"{}\",service=\"{}\",port=\"{}\",frontend=\"{}\"",
            key.namespace,
            key.name,
            plan.port_name,
            met_by(&plan.frontend, place == inside.0),
        );
        if let Some(count) = counted.frontend(&place) {
            let _ = writeln!(frontends, "{}_total{{{labels}}} {count}", NAMES[0].0);
        }
        let Action::Forward(pool) = action else { continue };
        for endpoint in pool.iter() {
            if let Some(count) = counted.endpoint(&place, *endpoint) {
                let labels = format!("{labels},endpoint=\"{endpoint}\"");
                let _ = writeln!(endpoints, "{}_total{{{labels}}} {count}", NAMES[1].0);
            }
        }
    }
}
