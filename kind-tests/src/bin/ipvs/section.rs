//! The section of docs/benchmarks.md.

use shunt_kind_tests::benchmark::goal;

use crate::inside::Results;

/// The section, as Markdown.
pub(crate) fn of(results: &Results) -> String {
    let Results { services, endpoints, bare, shunt, kube_proxy } = results;
    let written = bare.ipvs_ms + bare.addresses_ms;
    let times = |theirs: Option<f64>, ours: f64| {
        theirs.map_or_else(String::new, |theirs| format!("{:.1} times", theirs / ours))
    };
    let theirs = |value: Option<f64>| value.map(ms).unwrap_or_default();
    let kube_proxy = kube_proxy.as_ref();
    let synced = kube_proxy.map(|proxy| proxy.synced_ms);
    let mut rows = Vec::new();
    let mut row = |what: &str, ours: String, theirs: String, note: String| {
        rows.push(format!("| {what} | {ours} | {theirs} | {note} |\n"));
    };
    row("start to synced", ms(shunt.synced_ms), theirs(synced), times(synced, shunt.synced_ms));
    row("&emsp;difference", ms(shunt.diff_ms), String::new(), String::new());
    row("&emsp;writing", ms(shunt.commit_ms), String::new(), String::new());
    let bare_ones = format!(
        "{} to IPVS in {}, {} addresses in {}",
        bare.requests,
        ms(bare.ipvs_ms),
        bare.addresses,
        ms(bare.addresses_ms)
    );
    row("the bare requests", ms(written), String::new(), bare_ones);
    let ratio = goal(shunt.commit_ms / written, 1.5);
    row("writing : bare requests", String::new(), String::new(), ratio);
    for percent in [50, 99] {
        let ours = percentile(&shunt.changes_ms, percent);
        let other = kube_proxy.map(|proxy| percentile(&proxy.changes_ms, percent));
        let what = format!("API's answer to IPVS, p{percent}");
        row(&what, ms(ours), theirs(other), times(other, ours));
    }
    let count = |values: &Vec<f64>| values.len().to_string();
    let other = kube_proxy.map(|proxy| count(&proxy.changes_ms)).unwrap_or_default();
    row("&emsp;changes measured", count(&shunt.changes_ms), other, String::new());
    row("event to commit, p50", ms(shunt.event_p50_ms), String::new(), String::new());
    row(
        "event to commit, p99",
        ms(shunt.event_p99_ms),
        String::new(),
        goal(shunt.event_p99_ms, 5.0),
    );
    let reads = if shunt.changes_that_read == 0 { "goal 0: met" } else { "goal 0: MISSED" };
    row(
        "&emsp;that read the kernel",
        shunt.changes_that_read.to_string(),
        String::new(),
        reads.into(),
    );
    format!(
        "### IPVS: {services} x {endpoints} endpoints\n\n| | shunt | kube-proxy, IPVS mode | ratio, goal |\n|---|---:|---:|---|\n{}\n",
        rows.concat()
    )
}

fn ms(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.1} s", value / 1e3),
        _ if value >= 1_000.0 => format!("{:.2} s", value / 1e3),
        _ if value >= 10.0 => format!("{value:.0} ms"),
        _ => format!("{value:.2} ms"),
    }
}

/// The least value that so many of a hundred do not exceed; NaN of nothing.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inside::{Bare, KubeProxys, Shunt};

    #[test]
    fn times_ratios_and_goals_are_told() {
        let shunt = Shunt {
            synced_ms: 1000.0,
            commit_ms: 300.0,
            diff_ms: 20.0,
            changes_ms: (1..=100).map(f64::from).collect(),
            event_p50_ms: 1.0,
            event_p99_ms: 6.0,
            changes_that_read: 0,
        };
        let kube_proxy = Some(KubeProxys { synced_ms: 60_000.0, changes_ms: vec![500.0] });
        let bare = Bare { requests: 6, ipvs_ms: 150.0, addresses: 1, addresses_ms: 100.0 };
        let section = of(&Results { services: 1, endpoints: 5, bare, shunt, kube_proxy });
        for row in [
            "| start to synced | 1.00 s | 60.0 s | 60.0 times |",
            "| writing : bare requests |  |  | 1.20, goal 1.5: met |",
            "| API's answer to IPVS, p99 | 99 ms | 500 ms | 5.1 times |",
            "| event to commit, p99 | 6.00 ms |  | 6.00, goal 5: MISSED |",
        ] {
            assert!(section.contains(row), "{row} is not in\n{section}");
        }
    }
}
