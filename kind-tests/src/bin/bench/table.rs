//! The figures as tables: for a terminal and for Markdown.

use shunt::status::Latency;

use crate::figures::{
    ChangeKind, ProxyResult, Results, SizeResult, Usage, grouped, median, percentile,
};

/// One line of a table.
type Row = [String; 4];

/// The most that may be resident, at 100,000 endpoints, in 10^6 bytes.
const MOST_MEGABYTES: f64 = 40.0;

const HEAD: [&str; 4] = ["", "shunt", "kube-proxy", "ratio, goal"];

/// One table for each size.
pub(crate) fn tables(results: &Results) -> Vec<(String, Vec<Row>)> {
    results.sizes.iter().map(|size| (size.name(), rows(size))).collect()
}

/// The tables as aligned columns.
pub(crate) fn terminal(results: &Results) -> String {
    let mut out = String::new();
    for (name, rows) in tables(results) {
        let head = [format!("{name} endpoints"), HEAD[1].into(), HEAD[2].into(), HEAD[3].into()];
        let lines: Vec<&Row> = std::iter::once(&head).chain(&rows).collect();
        let width =
            |column: usize| lines.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        for row in lines {
            let cells = format!(
                "{:<w0$}  {:>w1$}  {:>w2$}  {}",
                row[0],
                row[1],
                row[2],
                row[3],
                w0 = widths[0],
                w1 = widths[1],
                w2 = widths[2]
            );
            out.push_str(cells.trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// The tables for a page.
pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::new();
    for (name, rows) in tables(results) {
        out.push_str(&format!(
            "### {name} endpoints\n\n| | shunt | kube-proxy | ratio, goal |\n|---|---:|---:|---|\n"
        ));
        for row in rows {
            // Indented lines are parts of the one above.
            let first = row[0].replace("  ", "&emsp;");
            out.push_str(&format!("| {first} | {} | {} | {} |\n", row[1], row[2], row[3]));
        }
        out.push('\n');
    }
    out
}

fn rows(size: &SizeResult) -> Vec<Row> {
    let mut rows = start(size);
    rows.extend(resources(size));
    rows.extend(changes(size));
    rows.extend(rest(size));
    rows
}

fn row(
    what: &str,
    shunt: impl Into<String>,
    kube_proxy: impl Into<String>,
    note: impl Into<String>,
) -> Row {
    [what.to_owned(), shunt.into(), kube_proxy.into(), note.into()]
}

/// A row in which both have a value, with their ratio.
fn both(
    what: &str,
    size: &SizeResult,
    value: impl Fn(&ProxyResult) -> f64,
    unit: fn(f64) -> String,
) -> Row {
    let ours = value(&size.shunt);
    let theirs = size.kube_proxy.as_ref().map(value);
    let ratio = theirs.map(|theirs| times(theirs / ours)).unwrap_or_default();
    row(what, unit(ours), theirs.map(unit).unwrap_or_default(), ratio)
}

fn start(size: &SizeResult) -> Vec<Row> {
    let shunt = &size.shunt;
    let part = |what: &str, value: f64| row(what, ms(value), "", "");
    let reported = |part: fn(&shunt::status::FirstSync) -> f64| shunt.part_ms(part);
    let named = reported(|first| first.listed_ms + first.read_ms + first.diff_ms + first.commit_ms);
    let lists = median(&size.listing_ms);
    let (one, bounded) = (median(&size.floor.one_ms), median(&size.floor.bounded_ms));
    // Which is faster differs with the size; a floor is the lower one.
    let floor = one.min(bounded);
    let commit = reported(|first| first.commit_ms);
    vec![
        both("start to last rule", size, ProxyResult::start_ms, ms),
        part("  until the lists are complete", reported(|first| first.listed_ms)),
        part("  reading the kernel", reported(|first| first.read_ms)),
        part("  difference", reported(|first| first.diff_ms)),
        part("  commit", commit),
        part("  all else", reported(|first| first.synced_ms) - named),
        row("the lists alone", ms(lists), "", ""),
        row("start : lists alone", "", "", goal(shunt.start_ms() / lists, 1.5)),
        row(
            "the same elements, bare netlink, one transaction",
            ms(one),
            "",
            format!(
                "{} operations, {:.1} MB",
                grouped(size.floor.operations as u64),
                mega(size.floor.bytes)
            ),
        ),
        row(
            "  in transactions of shunt's size",
            ms(bounded),
            "",
            format!("{} transactions", size.floor.transactions),
        ),
        row("commit : bare netlink", "", "", goal(commit / floor, 1.5)),
    ]
}

fn resources(size: &SizeResult) -> Vec<Row> {
    let resident = |what: &str, usage: &Usage| {
        let megabytes = kib(usage.resident_kib) * 1024.0 / 1e6;
        row(what, format!("{megabytes:.1} MB"), "", goal(megabytes, MOST_MEGABYTES))
    };
    let restarted = &size.restart.usage;
    vec![
        both("resident after the sync", size, |proxy| kib(proxy.after_sync.resident_kib), mib),
        both("  of it the program itself", size, |p| kib(p.after_sync.resident_file_kib), mib),
        both("  peak", size, |proxy| kib(proxy.after_sync.resident_peak_kib), mib),
        both("  after the changes", size, |proxy| kib(proxy.after_changes.resident_kib), mib),
        row("  after a restart", mib(kib(restarted.resident_kib)), "", ""),
        resident("resident in 10^6 bytes", &size.shunt.after_sync),
        resident("  after the changes", &size.shunt.after_changes),
        resident("  after a restart", restarted),
        both("CPU of the start (with nft)", size, |proxy| kib(proxy.after_sync.all_cpu_ms()), ms),
        both("CPU of one change (with nft)", size, cpu_of_change, ms),
    ]
}

fn cpu_of_change(proxy: &ProxyResult) -> f64 {
    let used = proxy.after_changes.all_cpu_ms().saturating_sub(proxy.after_sync.all_cpu_ms());
    kib(used) / kib(proxy.changes.len() as u64)
}

fn changes(size: &SizeResult) -> Vec<Row> {
    let mut rows = Vec::new();
    for percent in [50, 99] {
        let latency =
            move |proxy: &ProxyResult| percentile(&proxy.latencies_us(None), percent) / 1e3;
        rows.push(both(&format!("API's answer to kernel, p{percent}"), size, latency, ms));
        for kind in ChangeKind::ALL {
            let latency = move |proxy: &ProxyResult| {
                percentile(&proxy.latencies_us(Some(kind)), percent) / 1e3
            };
            rows.push(both(&format!("  {}", kind.name()), size, latency, ms));
        }
        let latency = move |proxy: &ProxyResult| {
            let all: Vec<_> = proxy.changes.iter().map(|change| change.from_request_us).collect();
            percentile(&all, percent) / 1e3
        };
        rows.push(both(&format!("  counted from the request, p{percent}"), size, latency, ms));
    }
    let count = |proxy: &ProxyResult| proxy.changes.len().to_string();
    let theirs = size.kube_proxy.as_ref().map(count).unwrap_or_default();
    rows.push(row("  changes measured", count(&size.shunt), theirs, ""));
    if let Some(Latency { count, p50, p99, max }) = size.shunt.event_to_commit_us {
        let thousandths = |us: u32| f64::from(us) / 1e3;
        rows.push(row(
            "event to commit, p50",
            ms(thousandths(p50)),
            "",
            goal(thousandths(p50), 1.0),
        ));
        rows.push(row(
            "event to commit, p99",
            ms(thousandths(p99)),
            "",
            goal(thousandths(p99), 5.0),
        ));
        let of = format!("of {count}");
        rows.push(row("event to commit, longest", ms(thousandths(max)), "", of));
    }
    rows
}

fn rest(size: &SizeResult) -> Vec<Row> {
    let restart = &size.restart;
    let exactly = |count: u64| if count == 0 { "goal 0: met" } else { "goal 0: MISSED" };
    let count = |proxy: &ProxyResult, what: fn(&ProxyResult) -> u64| grouped(what(proxy));
    let theirs = |what: fn(&ProxyResult) -> u64| {
        size.kube_proxy.as_ref().map(|proxy| count(proxy, what)).unwrap_or_default()
    };
    vec![
        row("restart, nothing changed", ms(restart.synced_ms), "", ""),
        row("  lists", ms(restart.reported.listed_ms), "", ""),
        row("  reading the kernel", ms(restart.reported.read_ms), "", ""),
        row("  difference", ms(restart.reported.diff_ms), "", ""),
        row(
            "  operations written",
            restart.operations.to_string(),
            "",
            exactly(restart.operations),
        ),
        row(
            "  connections lost",
            format!("{} of {}", restart.lost, grouped(restart.connections)),
            "",
            exactly(restart.lost),
        ),
        row("chains", count(&size.shunt, |proxy| proxy.chains), theirs(|proxy| proxy.chains), ""),
        row("rules", count(&size.shunt, |proxy| proxy.rules), theirs(|proxy| proxy.rules), ""),
    ]
}

fn goal(value: f64, limit: f64) -> String {
    let verdict = if value <= limit { "met" } else { "MISSED" };
    format!("{value:.2}, goal {limit}: {verdict}")
}

fn times(ratio: f64) -> String {
    match ratio {
        ratio if !ratio.is_finite() || ratio <= 0.0 => String::new(),
        ratio if ratio >= 10.0 => format!("{ratio:.0} times"),
        ratio => format!("{ratio:.1} times"),
    }
}

pub(crate) fn ms(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        size if size >= 10_000.0 => format!("{:.1} s", value / 1e3),
        size if size >= 1000.0 => format!("{:.2} s", value / 1e3),
        size if size >= 100.0 => format!("{value:.0} ms"),
        size if size >= 10.0 => format!("{value:.1} ms"),
        _ => format!("{value:.2} ms"),
    }
}

pub(crate) fn mib(kib: f64) -> String {
    format!("{:.1} MiB", kib / 1024.0)
}

/// A count as a number to calculate with; none here is near 2^32.
fn kib(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

fn mega(bytes: usize) -> f64 {
    kib(bytes as u64) / 1e6
}
