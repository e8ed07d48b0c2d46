//! The page docs/benchmarks.md: what stands between its markers is ours.

use std::fs;

use anyhow::Result;
use shunt_kind_tests::benchmark;

use crate::figures::Results;
use crate::{picture, table};

/// Writes the section and the picture.
pub(crate) fn write(results: &Results) -> Result<()> {
    fs::write(benchmark::docs().join("benchmarks.svg"), picture::draw(results))?;
    benchmark::publish("bench", &section(results))
}

fn section(results: &Results) -> String {
    let (machine, versions) = (&results.machine, &results.versions);
    format!(
        "![shunt beside kube-proxy](benchmarks.svg)\n\n\
         {date}, {cpu}, {cores} cores, {memory} GiB, Linux {kernel}; load average {before} before, {after} after. \
         {shunt} ({size:.1} MB, static), kube-proxy {kube_proxy}, {nft}.\n\n\
         {tables}\
         {how}",
        date = results.date,
        cpu = machine.cpu,
        cores = machine.cores,
        memory = machine.memory_gib,
        kernel = machine.kernel,
        before = machine.load_before,
        after = machine.load_after,
        shunt = versions.shunt,
        size = versions.shunt_megabytes,
        kube_proxy = versions.kube_proxy,
        nft = versions.nft,
        tables = table::markdown(results),
        how = HOW,
    )
}

const HOW: &str = "\
### How it is measured

`make bench` runs all of it (`make bench BENCH=--quick` a little of it, at 1,000 Services only) and prints these tables; \
raw figures go to `target/bench/`. It needs root; all traffic stays in network namespaces.

- etcd and kube-apiserver run in a namespace; each proxy runs alone, in a node's namespace of its own, with the same flags and credentials. \
Every tenth Service has a node port, and one endpoint in a hundred is on the node that is measured.
- **Start to last rule**: from the start of the process to the last change of the kernel's ruleset before the proxy calls itself synced. \
An observer asks the kernel for the ruleset's generation every millisecond, for both alike. For shunt the median of several starts, for kube-proxy one. \
What stands indented below comes from shunt's own `/status`.
- kube-proxy's start at 10,000 Services is one `nft -f` for which the kernel walks a growing list for each anonymous map. \
Of all figures it varies most from run to run, up to twice: its ratio is worth its order of magnitude.
- **The lists alone**: shunt's source of objects (TLS, streaming lists, JSON, conversion), of the same build and with the same allocator, \
in a process of its own that throws away what it gets; from the start of that process to its end, in turn with the starts of shunt; the median.
- **Bare netlink**: the same elements in messages made beforehand, in one transaction and in several; the time in the kernel; the medians, of which the lower one is compared. \
Neither that nor shunt's commit contains the encoding, which is part of _all else_.
- **API's answer to kernel**: an endpoint of a Service is replaced, added or removed through the API. \
An nftables event listener in the node's namespace tells when the kernel has committed it. A negative time means that the kernel was ahead of the API server's answer. \
kube-proxy syncs at most once a second: its changes come after that, so no such wait counts.
- **Event to commit**: shunt's own count, from the receipt of the API's event to the end of its last transaction.
- **Restart**: shunt is ended and started again under 500 new connections a second through a Service; a connection that takes 900 ms is lost.
- CPU times are those of the kernel's process accounting (ticks of 10 ms); kube-proxy's include the `nft` processes it starts.

";
