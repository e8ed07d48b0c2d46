//! The table as a script for stock nft.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use shunt_netpolicy::table::{Atom, Range, Table};

use crate::element::{Class, text};
use crate::installed::{Installed, Steps};
use crate::layout::{self, Variant};
use crate::lower::{Beside, Wanted};
use crate::name::{SetId, TABLE};
use crate::transaction::table_comment;

/// What a machine that held nothing holds after a decision table was installed.
#[must_use]
pub fn fresh(table: &Table, beside: &Beside) -> Installed {
    let mut installed = Installed::default();
    let steps = Steps::between(&installed, &Wanted::full(table, beside, &installed));
    steps.in_order().flatten().for_each(|operation| installed.apply(operation));
    installed
}

/// The script that installs a record: `nft -f` accepts it. Nothing, if no pod is isolated.
#[must_use]
pub fn render(installed: &Installed) -> String {
    render_variant(installed, Variant::default())
}

/// The same, as an operator has chosen it.
#[must_use]
pub fn render_variant(installed: &Installed, variant: Variant) -> String {
    if installed.elements.is_empty() {
        return String::new();
    }
    let chains = layout::chains(variant);
    let mut out = format!("table inet {TABLE} {{\n\tcomment \"{}\"", table_comment(&chains));
    let mut elements: Vec<_> = installed.elements.iter().collect();
    elements.sort_unstable();
    for set in SetId::all() {
        let of_set = elements.iter().filter(|((of, _), _)| *of == set);
        let mut listed: Vec<_> = of_set.map(|((_, key), value)| text(set, key, **value)).collect();
        listed.extend(networks(installed, set));
        let described = layout::set_type(set);
        let _ = writeln!(out, "\n\t{} {set} {{\n\t\t{}", described.word, described.text);
        if described.interval {
            out.push_str("\t\tflags interval\n");
        }
        if variant.counting && set.is_of_rows() {
            out.push_str("\t\tcounter\n");
        }
        if described.timeouts {
            out.push_str("\t\tflags timeout\n");
        }
        if !listed.is_empty() {
            let _ = writeln!(out, "\t\telements = {{ {} }}", listed.join(",\n\t\t\t     "));
        }
        out.push_str("\t}\n");
    }
    chains.iter().for_each(|chain| out.push_str(&chain.text()));
    out.push_str("}\n");
    out
}

fn networks(installed: &Installed, set: SetId) -> Vec<String> {
    let networks = installed.networks.get(&set).into_iter().flatten();
    let text = |(range, atom): &(Range, Atom)| match set {
        // nft writes what is a network so, where it has no atom.
        SetId::PodNetworks(_) => match IpNet::new(range.first, prefix(range)) {
            Ok(network) if network.broadcast() == range.last => network.to_string(),
            _ => format!("{}-{}", range.first, range.last),
        },
        _ => format!("{}-{} : {}", range.first, range.last, Class(atom.0)),
    };
    networks.map(text).collect()
}

/// How many leading bits the ends of a range share.
fn prefix(range: &Range) -> u8 {
    let bits = match (range.first, range.last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => 0,
    };
    u8::try_from(bits).unwrap_or_default()
}
