//! A row as elements: what it accepts, and, where connections are counted by policy, what it denies.

use shunt_model::address::Protocol;
use shunt_netpolicy::deciders::{Deciders, Decision, Segment};
use shunt_netpolicy::table::{Row, RowId};

use crate::element::Key;
use crate::name::SetId;

/// Ranges of more ports than this are ranges for the kernel too; smaller ones are written out, as a
/// port is found faster than a range.
const WRITTEN_OUT: u16 = 64;

/// One element of a row, and what the connections that meet it have in common.
pub(crate) type Element<'a> = ((SetId, Key), Option<&'a Decision>);

/// All elements of a row.
pub(crate) fn elements(id: RowId, row: &Row) -> Vec<Element<'_>> {
    let mut out = Vec::new();
    match &row.by {
        None => accepted(id, row, &mut out),
        Some(deciders) => decided(id, row, deciders, &mut out),
    }
    out
}

fn accepted(id: RowId, row: &Row, out: &mut Vec<Element<'_>>) {
    for protocol in Protocol::ALL {
        let ports = row.ports(protocol);
        if ports.is_all() {
            out.push(((SetId::Protocols, Key::Protocol(id, protocol)), None));
            continue;
        }
        for (first, last) in ports.ranges() {
            write_ports(id, protocol, (*first, *last), true, None, out);
        }
    }
    if row.others {
        out.push(((SetId::Others, Key::Row(id)), None));
    }
}

/// The same by who decides. Ports of which a protocol has most are found last, by the protocol alone; of what is
/// accepted only if all is, as what is found there is accepted whatever the port.
fn decided<'a>(id: RowId, row: &'a Row, by: &'a Deciders, out: &mut Vec<Element<'a>>) {
    for protocol in Protocol::ALL {
        let rest = [
            row.ports(protocol).is_all().then(|| by.usual(protocol, true)).flatten(),
            by.usual(protocol, false),
        ];
        for decision in rest.into_iter().flatten() {
            let set = if decision.accepts { SetId::Protocols } else { SetId::DeniedProtocols };
            out.push(((set, Key::Protocol(id, protocol)), Some(decision)));
        }
        for Segment { first, last, decision } in by.segments(protocol) {
            if !rest.contains(&Some(decision)) {
                let ports = (*first, *last);
                write_ports(id, protocol, ports, decision.accepts, Some(decision), out);
            }
        }
    }
    let set = if by.others.accepts { SetId::Others } else { SetId::DeniedOthers };
    out.push(((set, Key::Row(id)), Some(&by.others)));
}

fn write_ports<'a>(
    id: RowId,
    protocol: Protocol,
    (first, last): (u16, u16),
    accepts: bool,
    decision: Option<&'a Decision>,
    out: &mut Vec<Element<'a>>,
) {
    let (ports, ranges) = match accepts {
        true => (SetId::Ports, SetId::Ranges),
        false => (SetId::DeniedPorts, SetId::DeniedRanges),
    };
    if last - first >= WRITTEN_OUT {
        out.push(((ranges, Key::Range(id, protocol, first, last)), decision));
        return;
    }
    let each = |port| ((ports, Key::Port(id, protocol, port)), decision);
    out.extend((first..=last).map(each));
}
