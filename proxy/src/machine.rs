//! What is set on the machine once, at start: the limits of connection tracking and our score for
//! the out-of-memory killer, through /proc and /sys.
//!
//! kube-proxy ends when one cannot be set, and so never starts on a machine whose kernel lacks
//! one of them, or whose /proc is read-only. None of them keeps Services from being served, so
//! here each is told and the daemon goes on.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::available_parallelism;

use nix::errno::Errno;
use shunt_conntrack::kernel::Conntrack as Table;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::config::kube_proxy::Conntrack;
use crate::progress::Health;

/// kube-proxy's bound for what it computes from the number of cores.
const MOST_TRACKED: i64 = 1_048_576;
const CONNTRACK: &str = "proc/sys/net/netfilter";
const ROUTE_LOCALNET: &str = "proc/sys/net/ipv4/conf/all/route_localnet";
const HASHSIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";

/// A file of the kernel's and what shall be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    path: String,
    value: i64,
    /// What is larger already may stay.
    at_least: bool,
}

/// Has the kernel load connection tracking, where it is a module and the kernel can: its limits are not there before,
/// and with the first rule that needs it they would come as the kernel has them.
pub fn ask_for_conntrack() {
    if Path::new("/").join(CONNTRACK).join("nf_conntrack_max").exists() {
        return;
    }
    if let Err(error) = Table::open().and_then(|mut table| table.count()) {
        debug!(%error, "the kernel's connection tracking cannot be asked");
    }
}

/// Sets the limits of connection tracking. Returns what could not be set, in words.
///
/// `root` is `/`, but in tests.
#[must_use]
pub fn limit_conntrack(root: &Path, conntrack: &Conntrack) -> Vec<String> {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let mut failed = Vec::new();
    for setting in settings(conntrack, i64::try_from(cores).unwrap_or(1)) {
        if let Err(reason) = set(root, &setting) {
            failed.push(format!("/{}: cannot be set to {}: {reason}", setting.path, setting.value));
            // The table's buckets follow the limit; alone they are of no use.
            if setting.path.ends_with("nf_conntrack_max") {
                failed.extend(timeouts(root, conntrack));
                return failed;
            }
        }
    }
    failed
}

fn timeouts(root: &Path, conntrack: &Conntrack) -> Vec<String> {
    let rest = Conntrack { max_per_core: Some(0), ..conntrack.clone() };
    limit_conntrack(root, &rest)
}

/// All that a configuration asks for. As kube-proxy, 0 leaves a value as it is.
fn settings(conntrack: &Conntrack, cores: i64) -> Vec<Setting> {
    let mut wanted = Vec::new();
    let per_core = i64::from(conntrack.max_per_core.unwrap_or_default());
    if per_core > 0 {
        let scaled = (per_core * cores).min(MOST_TRACKED);
        let max = scaled.max(i64::from(conntrack.min.unwrap_or_default()));
        wanted.push(Setting {
            path: format!("{CONNTRACK}/nf_conntrack_max"),
            value: max,
            at_least: false,
        });
        wanted.push(Setting { path: HASHSIZE.into(), value: max / 4, at_least: true });
    }
    for (name, duration) in [
        ("tcp_timeout_established", conntrack.tcp_established_timeout.unwrap_or_default()),
        ("tcp_timeout_close_wait", conntrack.tcp_close_wait_timeout.unwrap_or_default()),
        ("udp_timeout", conntrack.udp_timeout),
        ("udp_timeout_stream", conntrack.udp_stream_timeout),
    ] {
        if duration.0 > 0 {
            let path = format!("{CONNTRACK}/nf_conntrack_{name}");
            wanted.push(Setting { path, value: duration.as_seconds(), at_least: false });
        }
    }
    if conntrack.tcp_be_liberal {
        let path = format!("{CONNTRACK}/nf_conntrack_tcp_be_liberal");
        wanted.push(Setting { path, value: 1, at_least: false });
    }
    wanted
}

/// Writes a value unless it is there.
fn set(root: &Path, setting: &Setting) -> Result<(), String> {
    let path = root.join(&setting.path);
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let held = text.trim().parse::<i64>().ok();
    let good = |held| if setting.at_least { held >= setting.value } else { held == setting.value };
    if held.is_some_and(good) {
        return Ok(());
    }
    let mode = fs::metadata(&path).map_err(|error| error.to_string())?.permissions().mode();
    if mode & 0o222 == 0 {
        // The kernel lets only the machine's own network namespace set the size of the table.
        debug!("/{} is not for this namespace to set", setting.path);
        return Ok(());
    }
    match fs::write(&path, setting.value.to_string()) {
        // The same of the number of buckets, whose file does not tell.
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            debug!("/{} is not for this namespace to set", setting.path);
            return Ok(());
        }
        Err(error) => return Err(format!("{error} (it is {})", text.trim())),
        Ok(()) => {}
    }
    info!(from = held, to = setting.value, "/{} is set", setting.path);
    Ok(())
}

/// Why NodePorts on 127.0.0.1 would not work: the kernel was not told to route its packets, and we
/// may not tell it.
#[must_use]
pub fn localhost_is_closed(root: &Path) -> Option<String> {
    let path = root.join(ROUTE_LOCALNET);
    let is_set = fs::read_to_string(&path).is_ok_and(|held| held.trim() == "1");
    let opened = OpenOptions::new().write(true).open(&path);
    opened.err().filter(|_| !is_set).map(|error| {
        format!("/{ROUTE_LOCALNET}: cannot be set to 1: {error}; no NodePorts on 127.0.0.1")
    })
}

/// Has the kernel route packets with loopback addresses as soon as our table, which keeps those of
/// others away, is there.
pub async fn open_localhost(mut health: watch::Receiver<Health>) {
    if health.wait_for(|health| health.synced).await.is_err() {
        return;
    }
    let setting = Setting { path: ROUTE_LOCALNET.into(), value: 1, at_least: false };
    if let Err(reason) = set(Path::new("/"), &setting) {
        warn!("/{ROUTE_LOCALNET}: cannot be set to 1: {reason}");
    }
}

/// Sets our score for the out-of-memory killer. As kube-proxy, without it if that is not allowed.
pub fn set_oom_score(score: i32) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string()) {
        debug!(score, %error, "oom_score_adj cannot be set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GoDuration;

    fn conntrack() -> Conntrack {
        Conntrack {
            max_per_core: Some(32768),
            min: Some(131_072),
            tcp_established_timeout: Some(GoDuration::seconds(86400)),
            tcp_close_wait_timeout: Some(GoDuration::seconds(0)),
            ..Conntrack::default()
        }
    }

    fn max(conntrack: &Conntrack, cores: i64) -> i64 {
        settings(conntrack, cores)[0].value
    }

    #[test]
    fn the_table_grows_with_the_cores_as_in_kube_proxy() {
        assert_eq!(max(&conntrack(), 2), 131_072);
        assert_eq!(max(&conntrack(), 8), 262_144);
        assert_eq!(max(&conntrack(), 64), 1_048_576);
        let left = Conntrack { max_per_core: Some(0), ..conntrack() };
        assert!(settings(&left, 8).iter().all(|setting| !setting.path.ends_with("max")));
    }

    #[test]
    fn localhost_is_told_to_be_closed_where_it_can_not_be_opened() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(ROUTE_LOCALNET);
        let told = localhost_is_closed(root.path()).unwrap();
        assert!(told.contains("route_localnet: cannot be set to 1"), "{told}");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "0\n").unwrap();
        assert_eq!(localhost_is_closed(root.path()), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "0\n", "it is not opened yet");
    }

    #[test]
    fn what_can_be_set_is_set_and_the_rest_is_told() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str| root.path().join(path);
        fs::create_dir_all(file(CONNTRACK)).unwrap();
        let established = format!("{CONNTRACK}/nf_conntrack_tcp_timeout_established");
        fs::write(file(&established), "432000\n").unwrap();
        // As on a kernel without the module's limit.
        let failed = limit_conntrack(root.path(), &conntrack());
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(failed[0].contains("nf_conntrack_max: cannot be set to"), "{failed:?}");
        assert_eq!(fs::read_to_string(file(&established)).unwrap(), "86400");
    }
}
