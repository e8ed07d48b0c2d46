//! The process, by the names that client libraries of Prometheus give it: read from /proc when
//! metrics are.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// `USER_HZ`: in what part of a second the kernel tells programs of time, on all that we run on.
const TICKS: f64 = 100.0;

/// Resident memory in bytes; 0 without /proc.
#[must_use]
pub fn resident_bytes() -> u64 {
    size("VmRSS:")
}

/// A size in /proc/self/status, in bytes.
fn size(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// What /proc/self/stat says of time (proc(5)).
#[derive(Debug, PartialEq)]
struct Times {
    /// Seconds of processor time, in user and kernel mode.
    cpu: f64,
    /// Seconds from the machine's start to the process's.
    started: f64,
}

fn times(stat: &str) -> Option<Times> {
    // The program's name may hold anything; what follows is fields 3 and on.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some(Times { cpu: (ticks(14)? + ticks(15)?) / TICKS, started: ticks(22)? / TICKS })
}

/// When the machine started, in seconds since 1970.
fn booted(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

/// What is asked of the operating system when metrics are read.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(Times { cpu, started }) = times(&stat) {
            let help = "Total user and system CPU time spent in seconds.";
            one(&mut encoder, "cpu", help, Some(&Unit::Seconds), &ConstCounter::new(cpu))?;
            start_time(&mut encoder, started)?;
        }
        let number = |number: u64| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        let bytes = Some(&Unit::Bytes);
        let help = "Resident memory size in bytes.";
        one(&mut encoder, "resident_memory", help, bytes, &number(resident_bytes()))?;
        let help = "Virtual memory size in bytes.";
        one(&mut encoder, "virtual_memory", help, bytes, &number(size("VmSize:")))?;
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let files = ConstGauge::new(i64::try_from(files).unwrap_or(i64::MAX));
        one(&mut encoder, "open_fds", "Number of open file descriptors.", None, &files)
    }
}

/// When the process started, alone.
#[derive(Debug)]
pub(super) struct StartTime;

impl Collector for StartTime {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        times(&stat).map_or(Ok(()), |times| start_time(&mut encoder, times.started))
    }
}

/// `started`: in seconds since the machine's start.
fn start_time(encoder: &mut DescriptorEncoder<'_>, started: f64) -> fmt::Result {
    let booted = booted(&fs::read_to_string("/proc/stat").unwrap_or_default());
    let at = ConstGauge::new(booted.unwrap_or_default() + started);
    let help = "Start time of the process since unix epoch in seconds.";
    one(encoder, "start_time", help, Some(&Unit::Seconds), &at)
}

fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let name = format!("process_{name}");
    metric.encode(encoder.encode_descriptor(&name, help, unit, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_after_any_name() {
        let numbers: Vec<_> = (4..25).map(|field| (field * 100).to_string()).collect();
        let stat = format!("7 (a) b (c) S {}", numbers.join(" "));
        assert_eq!(times(&stat), Some(Times { cpu: 29.0, started: 22.0 }));
        assert_eq!(times("7 (a) S 1"), None);
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
    }

    #[test]
    fn this_process_has_them() {
        assert!(resident_bytes() > 0);
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(times(&stat).unwrap().started > 0.0);
    }
}
