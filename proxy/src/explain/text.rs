//! An explanation for people.

use std::fmt::Write as _;

use super::answer::{Destination, Explanation, Fate, Party};

/// The answer, as lines.
pub(super) fn print(answer: &Explanation) -> String {
    let fate = match answer.fate {
        Fate::Pass => "goes on as it is",
        Fate::Forward => "goes to an endpoint",
        Fate::Reject => "is refused",
        Fate::Drop => "is dropped",
    };
    let (from, to) = (name(&answer.from), to(answer));
    let mut out = format!("{from} -> {to}, on {}: {fate}\n", answer.node);
    let mut line = |name: &str, text: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name:<10} {text}");
    };
    line("why", &answer.reason);
    if let Some(row) = &answer.frontend {
        let port = if row.port.is_empty() { String::new() } else { format!(", port {}", row.port) };
        let (frontend, kind, namespace) = (&row.frontend, &row.kind, &row.namespace);
        line("frontend", &format!("{frontend}, {kind} of {namespace}/{}{port}", row.name));
    }
    if let Some(spread) = &answer.spread {
        line("spread", spread);
    }
    if let Some(kernel) = &answer.kernel {
        let counted = answer.frontend.as_ref().and_then(|row| row.connections);
        let counted = counted.map(|count| format!("; {count} connections so far"));
        line("kernel", &format!("{kernel}{}", counted.unwrap_or_default()));
    }
    for end in &answer.ends {
        out.push_str(&destination(answer, end));
    }
    for unused in &answer.unused {
        let _ = writeln!(out, "  not used   {}: {}", unused.endpoint, unused.reason);
    }
    for remark in &answer.remarks {
        let _ = writeln!(out, "  remark     {remark}");
    }
    out
}

fn name(party: &Party) -> String {
    let (address, name) = (&party.address, &party.name);
    name.as_ref().map_or_else(|| address.clone(), |name| format!("{name} ({address})"))
}

fn to(answer: &Explanation) -> String {
    let address = match answer.to.address.contains(':') {
        true => format!("[{}]", answer.to.address),
        false => answer.to.address.clone(),
    };
    let at = format!("{address}:{}", answer.port);
    answer.to.name.as_ref().map_or_else(|| at.clone(), |name| format!("{name} ({at})"))
}

fn destination(answer: &Explanation, end: &Destination) -> String {
    let name = end.party.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let node = end.party.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let share = match answer.fate {
        Fate::Forward => format!(", {} % of the connections", end.share),
        Fate::Pass | Fate::Reject | Fate::Drop => String::new(),
    };
    let (endpoint, seen_as) = (&end.endpoint, &end.seen_as);
    let mut out = format!("  to         {endpoint}{name}{node}{share}; seen as {seen_as}");
    let Some(policy) = &end.policy else {
        return out + "\n";
    };
    out.push_str(match (policy.allows(), policy.passes()) {
        (true, _) => "; policy allows it\n",
        (false, true) => "; policy would deny it, but it passes: audited\n",
        (false, false) => "; policy denies it\n",
    });
    let _ = writeln!(out, "               egress: {}", policy.egress.why);
    let _ = writeln!(out, "               ingress: {}", policy.ingress.why);
    out
}
