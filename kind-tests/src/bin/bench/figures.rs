//! The figures: what is measured, as it stands in the JSON file.

use std::time::Duration;

use serde::Serialize;
use shunt::status::{FirstSync, Latency};

/// Everything one run has found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) machine: crate::machine::Machine,
    pub(crate) versions: crate::machine::Versions,
    pub(crate) sizes: Vec<SizeResult>,
    /// What was wrong, as opposed to slow. Empty, or the program fails.
    pub(crate) wrong: Vec<String>,
}

/// What was found at one size.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct SizeResult {
    pub(crate) services: u32,
    pub(crate) endpoints_each: u32,
    /// How long the API server took for the objects that were added for this size.
    pub(crate) created_seconds: f64,
    /// The load averages when measuring began.
    pub(crate) load_average: String,
    /// The lists alone, each in a fresh process, in milliseconds from its start.
    pub(crate) listing_ms: Vec<f64>,
    pub(crate) shunt: ProxyResult,
    pub(crate) restart: RestartResult,
    pub(crate) floor: FloorResult,
    pub(crate) kube_proxy: Option<ProxyResult>,
}

impl SizeResult {
    pub(crate) fn name(&self) -> String {
        format!("{} x {}", grouped(self.services), self.endpoints_each)
    }
}

/// What was found of one proxy at one size.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ProxyResult {
    pub(crate) starts: Vec<Start>,
    pub(crate) chains: u64,
    pub(crate) rules: u64,
    pub(crate) after_sync: Usage,
    pub(crate) changes: Vec<Change>,
    pub(crate) after_changes: Usage,
    /// What the proxy itself says of the changes (shunt alone).
    pub(crate) event_to_commit_us: Option<Latency>,
}

/// One start into a namespace without rules.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Start {
    /// From the start of the process to the last change of the kernel before the proxy called
    /// itself synced.
    pub(crate) last_rule_ms: f64,
    /// What the proxy itself says (shunt alone).
    pub(crate) reported: Option<FirstSync>,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Usage {
    pub(crate) resident_kib: u64,
    pub(crate) resident_peak_kib: u64,
    /// What of it is the program's file, which all its processes and the page cache share.
    pub(crate) resident_file_kib: u64,
    /// User and system time of the process, in milliseconds.
    pub(crate) cpu_ms: u64,
    /// The same of the processes it has started and that have ended.
    pub(crate) children_cpu_ms: u64,
}

impl Usage {
    pub(crate) fn all_cpu_ms(&self) -> u64 {
        self.cpu_ms + self.children_cpu_ms
    }
}

/// The kinds of change of a Service's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeKind {
    Replace,
    Add,
    Remove,
}

impl ChangeKind {
    pub(crate) const ALL: [Self; 3] = [Self::Replace, Self::Add, Self::Remove];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
}

/// One change of one endpoint, as seen by an observer in the kernel.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    /// From the request to the API server until the kernel had it.
    pub(crate) from_request_us: f64,
    /// From the API server's answer; negative if the kernel was faster than the answer.
    pub(crate) from_answer_us: f64,
}

/// A start with nothing to do.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct RestartResult {
    pub(crate) synced_ms: f64,
    pub(crate) reported: FirstSync,
    pub(crate) operations: u64,
    pub(crate) transactions: u64,
    /// By how much the generation of the kernel's ruleset went up.
    pub(crate) generations: u32,
    pub(crate) connections: u64,
    pub(crate) lost: u64,
    pub(crate) slowest_ms: f64,
    pub(crate) usage: Usage,
}

/// The same elements written with no program around them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct FloorResult {
    pub(crate) operations: usize,
    pub(crate) bytes: usize,
    /// Milliseconds in the kernel, all in one transaction.
    pub(crate) one_ms: Vec<f64>,
    /// The same in as many transactions as shunt makes.
    pub(crate) bounded_ms: Vec<f64>,
    pub(crate) transactions: usize,
    pub(crate) encode_ms: Vec<f64>,
}

/// The value that so many percent do not exceed; the nearest rank.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl ProxyResult {
    pub(crate) fn start_ms(&self) -> f64 {
        median(&self.starts.iter().map(|start| start.last_rule_ms).collect::<Vec<_>>())
    }

    /// The median of a part of the start that the proxy reports itself.
    pub(crate) fn part_ms(&self, part: impl Fn(&FirstSync) -> f64) -> f64 {
        let parts = self.starts.iter().filter_map(|start| start.reported.as_ref());
        median(&parts.map(part).collect::<Vec<_>>())
    }

    /// Latencies from the API's answer to the kernel, of one kind or all.
    pub(crate) fn latencies_us(&self, kind: Option<ChangeKind>) -> Vec<f64> {
        let of_kind =
            self.changes.iter().filter(|change| kind.is_none_or(|kind| change.kind == kind));
        of_kind.map(|change| change.from_answer_us).collect()
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&values, 50) - 50.0).abs() < 1e-9);
        assert!((percentile(&values, 99) - 99.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < 1e-9);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0u32, 999, 1000, 110_001].map(grouped), ["0", "999", "1,000", "110,001"]);
    }
}
