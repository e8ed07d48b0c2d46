//! The table as a script for stock nft.

use std::fmt::Write as _;

use shunt_model::address::Family;
use shunt_netpolicy::table::Table;

use crate::element::{Class, text};
use crate::installed::Installed;
use crate::layout;
use crate::lower::{Beside, Wanted};
use crate::name::{SetId, TABLE};
use crate::transaction::table_comment;

/// What a machine that held nothing holds after a decision table was installed.
#[must_use]
pub fn fresh(table: &Table, beside: &Beside) -> Installed {
    let mut installed = Installed::default();
    let steps = installed.diff(&Wanted::full(table, beside, &installed));
    steps.in_order().flatten().for_each(|operation| installed.apply(operation));
    installed
}

/// The script that installs a record: `nft -f` accepts it. Nothing, if no pod is isolated.
#[must_use]
pub fn render(installed: &Installed) -> String {
    if installed.elements.is_empty() {
        return String::new();
    }
    let mut out = format!("table inet {TABLE} {{\n\tcomment \"{}\"", table_comment());
    let mut elements: Vec<_> = installed.elements.iter().collect();
    elements.sort_unstable();
    for set in SetId::all() {
        let of_set = elements.iter().filter(|((of, _), _)| *of == set);
        let mut listed: Vec<_> = of_set.map(|((_, key), value)| text(set, key, **value)).collect();
        if let SetId::Networks(family) = set {
            listed.extend(networks(installed, family));
        }
        let described = layout::set_type(set);
        let _ = writeln!(out, "\n\t{} {set} {{\n\t\t{}", described.word, described.text);
        if described.interval {
            out.push_str("\t\tflags interval\n");
        }
        if !listed.is_empty() {
            let _ = writeln!(out, "\t\telements = {{ {} }}", listed.join(",\n\t\t\t     "));
        }
        out.push_str("\t}\n");
    }
    layout::chains().iter().for_each(|chain| out.push_str(&chain.text()));
    out.push_str("}\n");
    out
}

fn networks(installed: &Installed, family: Family) -> Vec<String> {
    let networks = installed.networks.get(&family).into_iter().flatten();
    networks
        .map(|(range, atom)| format!("{}-{} : {}", range.first, range.last, Class(atom.0)))
        .collect()
}
