//! The section of docs/benchmarks.md.

use shunt_kind_tests::benchmark::goal;

use crate::inside::{KubeProxys, Results, Started};

/// The section, as Markdown.
pub(crate) fn of(results: &Results) -> String {
    let Results { services, endpoints, bare, shunt, kube_proxy } = results;
    let requests = bare.ipvs_ms + bare.addresses_ms;
    let times = |theirs: Option<f64>, ours: f64| {
        theirs.map_or_else(String::new, |theirs| format!("{:.1} times", theirs / ours))
    };
    let theirs = |value: Option<f64>| value.map(ms).unwrap_or_default();
    let kube_proxy = kube_proxy.as_ref();
    let mut rows = Vec::new();
    let mut row = |what: &str, ours: String, theirs: String, note: String| {
        rows.push(format!("| {what} | {ours} | {theirs} | {note} |\n"));
    };
    let (synced, ratio) = kube_proxy.map(|proxy| started(proxy, results)).unwrap_or_default();
    row("start to synced", ms(shunt.synced_ms), synced, ratio);
    row("&emsp;difference", ms(shunt.diff_ms), String::new(), String::new());
    row("&emsp;writing", ms(shunt.commit_ms), String::new(), String::new());
    let told = format!(
        "{} to IPVS in {}, {} addresses in {}",
        bare.requests,
        ms(bare.ipvs_ms),
        bare.addresses,
        ms(bare.addresses_ms)
    );
    row("the bare requests to IPVS and the device", ms(requests), String::new(), told);
    let elements = format!("{} elements", bare.elements);
    row("the bare transactions of the table", ms(bare.table_ms), String::new(), elements);
    let ratio = goal(shunt.commit_ms / (requests + bare.table_ms), 1.5);
    row("writing : all of these", String::new(), String::new(), ratio);
    let ratio = format!("{:.2}", shunt.commit_ms / requests);
    row("writing : without the table's", String::new(), String::new(), ratio);
    for percent in [50, 99] {
        let ours = percentile(&shunt.changes_ms, percent);
        let changed = kube_proxy.filter(|proxy| !proxy.changes_ms.is_empty());
        let other = changed.map(|proxy| percentile(&proxy.changes_ms, percent));
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
    row("event to commit, longest", ms(shunt.event_max_ms), String::new(), String::new());
    let reads = if shunt.changes_that_read == 0 { "goal 0: met" } else { "goal 0: MISSED" };
    row(
        "&emsp;that read the kernel",
        shunt.changes_that_read.to_string(),
        String::new(),
        reads.into(),
    );
    let resident = format!("{:.1} MB", shunt.resident_bytes as f64 / 1e6);
    row("resident after the changes", resident, String::new(), String::new());
    format!(
        "### IPVS: {services} x {endpoints} endpoints\n\n| | shunt | kube-proxy, IPVS mode | ratio, goal |\n|---|---:|---:|---|\n{}\n",
        rows.concat()
    )
}

/// kube-proxy's start, and its ratio to shunt's; how far it came, where its time was over before.
fn started(proxy: &KubeProxys, results: &Results) -> (String, String) {
    let shunt = results.shunt.synced_ms;
    match proxy.start {
        Started::Synced { ms: took } => (ms(took), format!("{:.1} times", took / shunt)),
        Started::Unfinished { ms: waited, servers } => (
            format!("> {}, {servers} of {} virtual servers", ms(waited), results.services),
            format!("> {:.0} times", waited / shunt),
        ),
    }
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
    use crate::bare::Bare;
    use crate::inside::Shunt;

    #[test]
    fn times_ratios_and_goals_are_told() {
        let shunt = Shunt {
            synced_ms: 1000.0,
            commit_ms: 300.0,
            diff_ms: 20.0,
            changes_ms: (1..=100).map(f64::from).collect(),
            event_p50_ms: 1.0,
            event_p99_ms: 6.0,
            event_max_ms: 7.0,
            changes_that_read: 0,
            resident_bytes: 35_000_000,
        };
        let start = Started::Synced { ms: 60_000.0 };
        let kube_proxy = Some(KubeProxys { start, changes_ms: vec![500.0] });
        let bare = Bare {
            requests: 6,
            ipvs_ms: 100.0,
            addresses: 1,
            addresses_ms: 50.0,
            elements: 4,
            table_ms: 100.0,
        };
        let mut results = Results { services: 1000, endpoints: 5, bare, shunt, kube_proxy };
        let section = of(&results);
        for row in [
            "| start to synced | 1.00 s | 60.0 s | 60.0 times |",
            "| writing : all of these |  |  | 1.20, goal 1.5: met |",
            "| writing : without the table's |  |  | 2.00 |",
            "| API's answer to IPVS, p99 | 99 ms | 500 ms | 5.1 times |",
            "| event to commit, p99 | 6.00 ms |  | 6.00, goal 5: MISSED |",
        ] {
            assert!(section.contains(row), "{row} is not in\n{section}");
        }
        let start = Started::Unfinished { ms: 600_000.0, servers: 12 };
        results.kube_proxy = Some(KubeProxys { start, changes_ms: Vec::new() });
        let section = of(&results);
        for row in [
            "| start to synced | 1.00 s | > 600.0 s, 12 of 1000 virtual servers | > 600 times |",
            "| API's answer to IPVS, p99 | 99 ms |  |  |",
        ] {
            assert!(section.contains(row), "{row} is not in\n{section}");
        }
    }
}
