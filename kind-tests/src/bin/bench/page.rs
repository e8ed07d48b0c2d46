//! The page docs/benchmarks.md: what stands between its markers is ours.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::figures::Results;
use crate::{picture, table};

const BEGIN: &str = "<!-- bench:begin, written by `make bench BENCH=--write-docs` -->";
const END: &str = "<!-- bench:end -->";
/// The page where there is none.
const NEW: &str = "# Benchmarks\n\nshunt beside kube-proxy on one machine, in one run, with the same objects on the same API server.\n\n";

/// Writes the section and the picture.
pub(crate) fn write(directory: &Path, results: &Results) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("benchmarks.svg"), picture::draw(results))?;
    let page = directory.join("benchmarks.md");
    let old = fs::read_to_string(&page).unwrap_or_else(|_| format!("{NEW}{BEGIN}\n{END}\n"));
    let new = splice(&old, &section(results)).context("docs/benchmarks.md has no markers")?;
    fs::write(&page, new).with_context(|| page.display().to_string())
}

/// Puts a section in place of what is between the markers.
fn splice(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}{END}{after}"))
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

`make bench` runs all of it (`make bench BENCH=\"--quick\"` in a minute, at 1,000 Services only) and prints these tables; \
raw figures go to `target/bench/`. It needs root; all traffic stays in network namespaces.

- etcd and kube-apiserver run in a namespace; each proxy runs alone, in a node's namespace of its own, with the same flags and credentials. \
Every tenth Service has a node port, and one endpoint in a hundred is on the node that is measured.
- **Start to last rule**: from the start of the process to the last change of the kernel's ruleset before the proxy calls itself synced. \
An observer asks the kernel for the ruleset's generation every millisecond, for both alike. For shunt the median of several starts, for kube-proxy one. \
What stands indented below comes from shunt's own `/status`.
- kube-proxy's start at 10,000 Services is one `nft -f` for which the kernel walks a growing list for each anonymous map. \
Of all figures it varies most from run to run, up to twice: its ratio is worth its order of magnitude.
- **The lists alone**: shunt's source of objects in a process of its own, with nobody who wants them; the median.
- **Bare netlink**: the same elements in messages made beforehand, in one transaction and in several; the time in the kernel; the medians, of which the lower one is compared. \
Neither that nor shunt's commit contains the encoding, which is part of _all else_.
- **API's answer to kernel**: an endpoint of a Service is replaced, added or removed through the API. \
An nftables event listener in the node's namespace tells when the kernel has committed it. A negative time means that the kernel was ahead of the API server's answer. \
kube-proxy syncs at most once a second: its changes come after that, so no such wait counts.
- **Event to commit**: shunt's own count, from the receipt of the API's event to the end of its last transaction.
- **Restart**: shunt is ended and started again under 500 new connections a second through a Service; a connection that takes 900 ms is lost.
- CPU times are those of the kernel's process accounting (ticks of 10 ms); kube-proxy's include the `nft` processes it starts.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_the_markers_stays() {
        let page = format!("above\n{BEGIN}\nold\n{END}\nbelow\n");
        let new = splice(&page, "new\n").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}\nnew\n{END}\nbelow\n"));
        assert_eq!(splice(&new, "new\n").unwrap(), new);
        assert_eq!(splice("no markers", "new"), None);
    }
}
