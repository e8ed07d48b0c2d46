//! The status as aligned columns.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::in_kernel::InKernel;
use super::{DroppedStatus, FrontendRow, NewPodsStatus, PolicyStatus, Status};

/// What is printed.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// The daemon's state, if it runs.
    pub(super) status: Option<Status>,
    /// The daemon's frontends, or the kernel's if there is no daemon.
    pub(super) rows: Vec<FrontendRow>,
    /// What the kernel holds, or why it cannot be read.
    pub(super) kernel: Result<Held, String>,
}

impl Report {
    /// Takes over what the kernel has counted.
    pub(super) fn count(&mut self) {
        let Ok(held) = &self.kernel else { return };
        for row in &mut self.rows {
            held.count(row);
        }
    }
}

/// What the kernel holds, by frontend.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// The table, in one clause.
    pub(super) table: String,
    /// How many frontends.
    pub(super) frontends: usize,
    /// How many endpoints of all frontends.
    pub(super) endpoints: usize,
    by_frontend: BTreeMap<String, FrontendRow>,
}

impl Held {
    /// All frontends, sorted by Service.
    pub(super) fn rows(&self) -> Vec<FrontendRow> {
        let mut rows: Vec<_> = self.by_frontend.values().cloned().collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        rows
    }

    /// Takes over what the kernel has counted.
    pub(super) fn count(&self, row: &mut FrontendRow) {
        if let Some(held) = self.by_frontend.get(&row.frontend) {
            row.connections = held.connections;
            row.endpoint_connections.clone_from(&held.endpoint_connections);
        }
    }

    /// What the kernel does with a frontend's connections, if it is not what was planned.
    pub(super) fn difference(&self, row: &FrontendRow) -> Option<Difference<'_>> {
        match self.by_frontend.get(&row.frontend) {
            None => Some(Difference::Missing),
            Some(held) if (&held.action, &held.endpoints) == (&row.action, &row.endpoints) => None,
            Some(held) => Some(Difference::Other(held)),
        }
    }
}

/// How the kernel departs from the plan.
pub(super) enum Difference<'a> {
    /// It does not know the frontend.
    Missing,
    /// It does something else.
    Other(&'a FrontendRow),
}

impl From<InKernel> for Held {
    fn from(kernel: InKernel) -> Self {
        Self {
            table: kernel.table,
            frontends: kernel.rows.len(),
            endpoints: kernel.rows.iter().map(|row| row.endpoints.len()).sum(),
            by_frontend: kernel.rows.into_iter().map(|row| (row.frontend.clone(), row)).collect(),
        }
    }
}

/// How much is told of each frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// One short line.
    Narrow,
    /// Also whose source is hidden, and every endpoint.
    Wide,
}

/// Prints the header, the table and the problems.
#[must_use]
pub(super) fn print_table(report: &Report, width: Width) -> String {
    let mut out = String::new();
    for (name, value) in header(report) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<13}{value}", format!("{name}:"));
    }
    if !report.rows.is_empty() {
        out.push('\n');
        align(&mut out, &columns(report, width));
    }
    let problems = report.status.iter().flat_map(|status| &status.problems);
    for (number, problem) in problems.enumerate() {
        out.push_str(if number == 0 { "\nPROBLEMS\n" } else { "" });
        let _ = writeln!(out, "{problem}");
    }
    out
}

fn header(report: &Report) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(status) = &report.status {
        lines.extend(daemon(status));
    } else {
        lines.push(("shunt", "not running; this is what the kernel holds".into()));
    }
    lines.push(match &report.kernel {
        Ok(held) => {
            let (frontends, endpoints) = (held.frontends, held.endpoints);
            ("kernel", format!("table {}; {frontends} frontends, {endpoints} slots", held.table))
        }
        Err(error) => ("kernel", format!("cannot be read: {error}")),
    });
    lines
}

fn daemon(status: &Status) -> Vec<(&'static str, String)> {
    let health = if status.healthy { "healthy" } else { "not healthy" };
    let mut lines = vec![
        ("shunt", format!("{} (process {}), {health}", status.version, status.pid)),
        ("node", status.node.clone()),
        ("source", status.source.clone()),
        ("started", status.started.clone()),
        ("synced", synced(status)),
    ];
    if let Some(last) = &status.last_sync {
        let (at, reason, operations) = (&last.at, &last.reason, last.operations);
        lines.push(("last sync", format!("{at}, {reason}, {operations} operations")));
    }
    let counters = &status.counters;
    let (failures, repairs, drifts) = (counters.failures, counters.repairs, counters.drifts);
    let troubles = format!("{failures} failed syncs, {repairs} repairs, {drifts} drifts");
    lines.push(("since start", troubles));
    if let Some(failure) = &status.failure {
        lines.push(("failing", failure.clone()));
    }
    let (services, frontends, endpoints) = (status.services, status.frontends, status.endpoints);
    let plan = format!("{services} services, {frontends} frontends, {endpoints} endpoints");
    lines.push(("plan", plan));
    if let Some(policy) = &status.network_policy {
        lines.extend(of_policy(policy));
    }
    lines.push(("problems", status.problems.len().to_string()));
    lines
}

fn of_policy(policy: &PolicyStatus) -> Vec<(&'static str, String)> {
    let DroppedStatus { ingress, egress, unknown } = policy.dropped;
    let audit = if policy.audit { ", audit: nothing is dropped" } else { "" };
    let closed = if policy.closed { ", new pods are closed" } else { "" };
    let names = match policy.names {
        0 => String::new(),
        names => format!(", {names} addresses have domain names"),
    };
    let (policies, isolated, pods) = (policy.policies, policy.isolated, policy.pods);
    let mut lines = vec![
        (
            "policy",
            format!(
                "{policies} policies isolate {isolated} addresses here, {pods} pods are watched{names}{audit}{closed}"
            ),
        ),
        ("dropped", format!("{ingress} by ingress, {egress} by egress, {unknown} of unknown pods")),
    ];
    lines.extend(policy.new_pods.as_ref().map(|pods| ("new pods", new_pods(pods))));
    let mut most: Vec<_> = policy.logged_by_policy.iter().collect();
    most.sort_by_key(|(name, count)| (Reverse(**count), (*name).clone()));
    let most: Vec<_> = most.iter().take(5).map(|(name, count)| format!("{name} {count}")).collect();
    if !most.is_empty() {
        lines.push(("logged", most.join(", ")));
    }
    let mut decided: Vec<_> = policy.decided_by_policy.iter().collect();
    decided.sort_by_key(|(name, count)| (Reverse((count.denied, count.accepted)), (*name).clone()));
    let decided = decided.iter().take(5).map(|(name, count)| {
        format!("{name} accepts {} and denies {}", count.accepted, count.denied)
    });
    let decided: Vec<_> = decided.collect();
    if !decided.is_empty() {
        lines.push(("decided", decided.join(", ")));
    }
    lines
}

fn new_pods(pods: &NewPodsStatus) -> String {
    let NewPodsStatus { runtime, failure, programmed, overdue, no_address } = pods;
    let who = match (runtime, failure) {
        (Some(runtime), _) => format!("{runtime} tells of them before they start"),
        (None, Some(failure)) => format!("the container runtime does not tell of them: {failure}"),
        (None, None) => "no container runtime tells of them".to_owned(),
    };
    let counts = format!("{programmed} had their policies in time, {overdue} had not");
    match no_address {
        0 => format!("{who}; {counts}"),
        _ => format!("{who}; {counts}, {no_address} had no address"),
    }
}

fn synced(status: &Status) -> String {
    let waiting = status.waiting_ms.map(|ms| format!(", something has waited for {ms} ms"));
    let waiting = waiting.unwrap_or_default();
    match &status.first_sync {
        Some(first) => format!("yes, {:.0} ms after the start{waiting}", first.synced_ms),
        None if status.awaiting.is_empty() => format!("not yet{waiting}"),
        None => format!("not yet, waiting for {}", status.awaiting.join(", ")),
    }
}

fn columns(report: &Report, width: Width) -> Vec<Vec<String>> {
    let mut titles = vec!["NAMESPACE/NAME", "PORT", "TYPE", "FRONTEND", "ENDPOINTS", "STATE"];
    let counted = report.rows.iter().any(|row| row.connections.is_some());
    if counted {
        titles.push("CONNECTIONS");
    }
    if width == Width::Wide {
        titles.extend(["MASQUERADE", "ADDRESSES"]);
    }
    let mut lines = vec![titles.into_iter().map(ToOwned::to_owned).collect()];
    for row in &report.rows {
        let mut line = vec![
            format!("{}/{}", row.namespace, row.name),
            or_dash(&row.port),
            or_dash(&row.kind),
            row.frontend.clone(),
            row.endpoints.len().to_string(),
            state(report, row).to_owned(),
        ];
        if counted {
            line.push(row.connections.map_or_else(|| "-".into(), |count| count.to_string()));
        }
        if width == Width::Wide {
            line.push(or_dash(&row.masquerade));
            line.push(or_dash(&addresses(row)));
        }
        lines.push(line);
    }
    lines
}

/// The endpoints, each with its connections where they are counted.
fn addresses(row: &FrontendRow) -> String {
    let counted = |endpoint: &String| match row.endpoint_connections.get(endpoint) {
        Some(count) => format!("{endpoint} ({count})"),
        None => endpoint.clone(),
    };
    row.endpoints.iter().map(counted).collect::<Vec<_>>().join(",")
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// What a client meets: what was planned, unless the kernel holds something else.
fn state(report: &Report, row: &FrontendRow) -> &'static str {
    if let (Some(_), Ok(held)) = (&report.status, &report.kernel) {
        match held.difference(row) {
            Some(Difference::Missing) => return "not installed",
            Some(Difference::Other(_)) => return "differs",
            None => {}
        }
    }
    match row.action.as_str() {
        "forward" => "serving",
        "reject" => "no endpoints",
        _ => "dropping",
    }
}

/// Columns as wide as their widest cell; the last is left as it is.
fn align(out: &mut String, lines: &[Vec<String>]) {
    let count = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        out.push_str(text.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests;
