//! The table as a script for stock nft: the third printable stage.

use std::fmt::Write as _;

use shunt_model::plan::Plan;

use crate::counting::Counting;
use crate::declaration::{capacities, set_type};
use crate::diff::diff;
use crate::forwarding::Forwarding;
use crate::installed::Installed;
use crate::interfaces::Listed;
use crate::layout;
use crate::lower::{References, Wanted};
use crate::message::table_comment;
use crate::name::{SetId, SetKind, TABLE};

/// The script that a plan is lowered to on a machine that holds nothing: `nft -f` accepts it.
#[must_use]
pub fn render(plan: &Plan) -> String {
    render_installed(&fresh(plan))
}

/// What a machine that held nothing holds after a plan was installed.
#[must_use]
pub fn fresh(plan: &Plan) -> Installed {
    fresh_for(plan, Forwarding::Translate)
}

/// The same, where this or IPVS forwards packets.
#[must_use]
pub fn fresh_for(plan: &Plan, forwarding: Forwarding) -> Installed {
    let mut installed = Installed { forwarding, ..Installed::default() };
    let references = References::new(forwarding).taking(plan, &installed);
    let wanted = Wanted::full(plan, &references, &installed);
    let steps = diff(&wanted, &installed);
    for operation in steps.in_order().flatten() {
        installed.apply(operation);
    }
    installed.capacity = capacities(&installed.count);
    installed
}

/// A record of what is installed, as a script.
#[must_use]
pub fn render_installed(installed: &Installed) -> String {
    let mut out =
        format!("table inet {TABLE} {{\n\tcomment \"{}\"", table_comment(installed.forwarding));
    let mut elements: Vec<_> = installed.elements().collect();
    elements.sort_unstable_by_key(|element| (element.set, element.key));
    for set in SetId::all() {
        out.push('\n');
        let of_set = elements.iter().filter(|element| element.set == set).map(ToString::to_string);
        let listed: Vec<String> = if set.holds_networks() {
            let networks = installed.networks.get(&set).into_iter().flatten();
            match set.kind {
                SetKind::LocalInterfaces => {
                    networks.map(|each| Listed(*each).to_string()).collect()
                }
                _ => networks.map(ToString::to_string).collect(),
            }
        } else {
            of_set.collect()
        };
        let capacity = installed.capacity.get(&set).copied().unwrap_or_default();
        write_set(&mut out, set, installed.counting, capacity, &listed);
    }
    let pools = installed.pools.iter().map(|pool| layout::pool(*pool));
    for chain in layout::chains(installed.forwarding).into_iter().chain(pools) {
        out.push_str(&chain.text());
    }
    out.push_str("}\n");
    out
}

fn write_set(out: &mut String, set: SetId, counting: Counting, capacity: u32, elements: &[String]) {
    let described = set_type(set);
    let _ =
        writeln!(out, "\t{} {set} {{\n\t\t{}\n\t\tsize {capacity}", described.word, described.text);
    if described.interval {
        out.push_str("\t\tflags interval\n");
    }
    if described.dynamic {
        out.push_str("\t\tflags dynamic,timeout\n");
    }
    if counting.counts(set) {
        out.push_str("\t\tcounter\n");
    }
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
    out.push_str("\t}\n");
}
