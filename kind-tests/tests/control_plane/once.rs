//! `shunt run` as it ends by itself: with `--init-only`, with `--cleanup`, and when its configuration
//! file changes.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_cluster::{Netns, Process};
use shunt_kind_tests::control_plane::wait_for;
use shunt_kind_tests::scenario::shunt_binary;

/// Patience with what takes a second, or five where a file is looked at.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the time between two looks at the file.
const LOOK: Duration = Duration::from_secs(7);
const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";

/// Runs a line of shell in a namespace: its exit code, and what it said. `shunt` is our binary.
pub(crate) fn shell(netns: &Netns, line: &str) -> Result<(Option<i32>, String)> {
    let line = format!("shunt() {{ {} \"$@\"; }}\n{line}", shunt_binary()?.display());
    let output = netns.run(move || Command::new("sh").args(["-c", &line]).output())?;
    let told = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&told).into_owned()))
}

/// Starts a daemon, which writes its log to the directory, and waits until something is so.
pub(crate) fn start(
    netns: &Netns,
    directory: &Path,
    flags: &[&str],
    is_so: impl Fn(&str) -> Result<bool>,
) -> Result<Process> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(shunt_binary()?);
    command.args(["run", "--node-name", "n"]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(directory.join("log"))?);
    let process = netns.spawn(command)?;
    let began = Instant::now();
    loop {
        let log = fs::read_to_string(directory.join("log"))?;
        if is_so(&log)? {
            return Ok(process);
        }
        ensure!(began.elapsed() < PATIENCE, "{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn init_only_sets_what_needs_privileges_and_ends() -> Result<()> {
    let netns = Netns::new("init-only")?;
    let flags = "--conntrack-max-per-core=0 --conntrack-min=0 \
                 --conntrack-tcp-timeout-established=1h --conntrack-tcp-timeout-close-wait=0s";
    let (code, told) = shell(&netns, &format!("shunt run --init-only {flags}"))?;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(netns.read_sysctl(ESTABLISHED)?.trim(), "3600");
    assert_eq!(shell(&netns, "nft list tables")?.1, "");
    // As in a container without privileges.
    let line = format!(
        "unshare --mount sh -c 'mount --bind /proc/sys /proc/sys
         mount -o remount,bind,ro /proc/sys; exec \"$0\" \"$@\"' {} run --init-only {}",
        shunt_binary()?.display(),
        flags.replace("=1h", "=2h")
    );
    let (code, told) = shell(&netns, &line)?;
    ensure!(code == Some(3) && told.contains(ESTABLISHED), "{code:?}: {told}");
    assert_eq!(netns.read_sysctl(ESTABLISHED)?.trim(), "3600");
    Ok(())
}

#[test]
fn the_flag_cleanup_removes_what_is_ours() -> Result<()> {
    let (netns, scratch) = (Netns::new("cleanup")?, tempfile::tempdir()?);
    let manifests = scratch.path().join("manifests");
    fs::create_dir(&manifests)?;
    let flags = ["--manifests", &manifests.to_string_lossy()];
    let is_up = |log: &str| {
        let tables = shell(&netns, "nft list tables")?.1;
        Ok(tables.contains("inet shunt") && log.contains("health answers"))
    };
    shell(&netns, "nft add table inet other")?;
    // A kernel before 6.9 has no owners of tables.
    for (owner, refusal) in [
        ("--table-owner=off", "a running shunt answers at port 10256"),
        ("--table-owner=auto", "belongs to a running shunt"),
    ] {
        let flags = [&flags[..], &[owner]].concat();
        let daemon = start(&netns, scratch.path(), &flags, is_up)?;
        let (code, told) = shell(&netns, "shunt run --cleanup")?;
        ensure!(code == Some(1) && told.contains(refusal), "{code:?}: {told}");
        drop(daemon);
        let (code, told) = shell(&netns, "shunt run --cleanup")?;
        ensure!(code == Some(0) && told.contains("table inet shunt"), "{code:?}: {told}");
        assert_eq!(shell(&netns, "nft list tables")?.1, "table inet other\n");
    }
    // On a machine that has nothing of ours this is said, too.
    let (_, told) = shell(&netns, "shunt status")?;
    ensure!(told.contains("kernel:      table none;"), "{told}");
    Ok(())
}

#[test]
fn a_changed_configuration_ends_the_daemon() -> Result<()> {
    let (netns, scratch) = (Netns::new("config")?, tempfile::tempdir()?);
    let (file, kubeconfig) = (scratch.path().join("config"), scratch.path().join("kubeconfig"));
    fs::write(&kubeconfig, KUBECONFIG)?;
    let write = |cidr: &str| {
        let connection = format!("clientConnection: {{kubeconfig: {}}}", kubeconfig.display());
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration";
        fs::write(&file, format!("{head}\nmode: nftables\nclusterCIDR: {cidr}\n{connection}\n"))
    };
    write("10.244.0.0/16")?;
    let flags = ["--config", &file.to_string_lossy()];
    let is_up = |log: &str| Ok(log.contains("metrics answers"));
    let mut daemon = start(&netns, scratch.path(), &flags, is_up)?;
    // The same once more changes nothing.
    write("10.244.0.0/16")?;
    let ended = daemon.wait_timeout(LOOK)?;
    ensure!(ended.is_none(), "{ended:?}");
    // With a mistake in it nobody could start again.
    write("10.245.0.0/33")?;
    let told = |text: &str| {
        wait_for(text, PATIENCE, || {
            let log = fs::read_to_string(scratch.path().join("log"))?;
            Ok(if log.contains(text) { Ok(()) } else { Err(log) })
        })
    };
    let refused = "the former one stays in force: clusterCIDR: \"10.245.0.0/33\" is invalid";
    told(refused)?;
    ensure!(shell(&netns, "shunt status")?.1.contains(refused), "the status says nothing");
    write("10.244.0.0/16")?;
    told("no longer a problem: ")?;
    let ended = daemon.wait_timeout(Duration::ZERO)?;
    ensure!(ended.is_none(), "{ended:?}");
    write("10.245.0.0/16")?;
    let ended = daemon.wait_timeout(PATIENCE)?.context("it goes on with the old configuration")?;
    let log = fs::read_to_string(scratch.path().join("log"))?;
    assert_eq!(ended.code(), Some(1), "{log}");
    ensure!(log.contains("the content of the configuration file was updated"), "{log}");
    Ok(())
}

/// A server that nobody runs: it is waited for.
const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: c, user: {}}]
contexts: [{name: c, context: {cluster: c, user: c}}]
";
