//! What a cluster leaves behind: nothing. To be run as root.
//!
//! These tests count the threads and files of their process, so each waits for the other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, ControlPlane, EchoServer, Families, Load, LoadSpec, Netns,
    NodeSpec, ProbeOptions, Protocol, Signal, die_with_parent,
};

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec() -> ClusterSpec {
    ClusterSpec {
        nodes: vec![NodeSpec::new("node-1", &["a1"]), NodeSpec::new("node-2", &["b1"])],
        clients: vec!["client".to_owned()],
        families: Families::Dual,
        control_plane: ControlPlane::Absent,
        ..ClusterSpec::default()
    }
}

/// What a process has: network namespaces of its threads, and its open files by what they are.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    namespaces: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
}

fn holdings(process: &str) -> Result<Holdings> {
    let mut namespaces = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while we look.
        namespaces.extend(fs::read_link(task?.path().join("ns/net")));
    }
    let mut files = Vec::new();
    for file in fs::read_dir(format!("/proc/{process}/fd"))? {
        let what = fs::read_link(file?.path()).unwrap_or_default();
        // Not the directory that is being read, and not pipes: those belong to the test runner.
        let text = what.to_string_lossy();
        if ["net:", "socket:", "anon_inode:"].iter().any(|kind| text.starts_with(kind)) {
            files.push(what);
        }
    }
    files.sort();
    Ok(Holdings { namespaces, files })
}

/// The kernel lets a joined thread be seen for another moment; nothing else may be left.
fn expect_again(before: &Holdings) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while holdings("self")? != *before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(holdings("self")?, *before);
    Ok(())
}

/// All that a test can leave running, in full use.
struct Everything {
    _load: Load,
    _held: Connection,
    _servers: Vec<EchoServer>,
    cluster: Cluster,
}

fn everything() -> Result<Everything> {
    let cluster = Cluster::build(&spec())?;
    let servers = cluster
        .hosts()
        .map(|h| EchoServer::start(h.netns(), h.name(), &[80, 443]))
        .collect::<Result<_>>()?;
    let to = SocketAddr::new(cluster.host("b1")?.ip(), 80);
    let from = cluster.host("a1")?.netns();
    let held = Connection::open(from, to, &ProbeOptions::within(Duration::from_secs(10)))?;
    let load = Load::start(
        from,
        &LoadSpec {
            protocol: Protocol::Tcp,
            destination: to,
            per_second: 200,
            duration: Duration::from_secs(600),
            timeout: Duration::from_secs(60),
        },
    )?;
    while load.so_far().answers() < 10 {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Everything { _load: load, _held: held, _servers: servers, cluster })
}

#[test]
fn a_dropped_cluster_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let before = holdings("self")?;
    let running = everything()?;
    let during = holdings("self")?;
    // 2 nodes, 2 pods, a client and the fabric.
    assert_eq!(during.namespaces.len(), before.namespaces.len() + 6);
    let started = Instant::now();
    drop(running);
    println!("ended in {:?}", started.elapsed());
    expect_again(&before)
}

#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let before = holdings("self")?;
    let outcome = catch_unwind(|| {
        let _running = everything().unwrap();
        panic!("as a failed assertion does");
    });
    assert!(outcome.is_err());
    expect_again(&before)
}

#[test]
fn a_failed_build_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let before = holdings("self")?;
    let mut twice = spec();
    twice.clients.push("a1".to_owned());
    let error = Cluster::build(&twice).err().context("a name can be given twice")?;
    assert!(error.to_string().contains("a1"), "{error}");
    expect_again(&before)
}

#[test]
fn a_namespace_runs_closures_and_forwards_panics() -> Result<()> {
    let _alone = alone();
    let before = holdings("self")?;
    let netns = Netns::new("alone")?;
    let mine = fs::read_link("/proc/thread-self/ns/net")?;
    let there = netns.run(|| fs::read_link("/proc/thread-self/ns/net"))?;
    assert_ne!(mine, there);
    let inside = netns.clone();
    let nested = netns.run(move || inside.run(|| 7));
    assert_eq!(nested, 7, "from its own thread it runs at once");

    let run = AssertUnwindSafe(|| netns.run(|| panic!("in the namespace")));
    let panic = catch_unwind(run).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"in the namespace"));
    assert_eq!(netns.run(|| 8), 8, "the thread goes on after a panic");

    let thread = netns.thread("other", || fs::read_link("/proc/thread-self/ns/net"))?;
    assert_eq!(thread.join().unwrap()?, there);
    let entered = netns.clone();
    let moved = std::thread::spawn(move || {
        entered.enter()?;
        anyhow::Ok(fs::read_link("/proc/thread-self/ns/net")?)
    });
    assert_eq!(moved.join().unwrap()?, there);
    drop(netns);
    expect_again(&before)
}

#[test]
fn sysctls_are_those_of_the_namespace() -> Result<()> {
    let _alone = alone();
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    let (one, two) = (Netns::new("one")?, Netns::new("two")?);
    one.sysctl("net.ipv4.ip_forward", "1")?;
    two.sysctl("net/ipv4/ip_forward", "0")?;
    assert_eq!(one.read_sysctl("net.ipv4.ip_forward")?, "1");
    assert_eq!(two.read_sysctl("net.ipv4.ip_forward")?, "0");
    let after = fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    assert_eq!(before, after, "this machine's own is as it was");
    let error = one.sysctl("net.ipv4.no_such", "1").unwrap_err();
    assert!(format!("{error:#}").contains("no_such"), "{error:#}");
    Ok(())
}

#[test]
fn processes_live_in_the_namespace_and_end_with_their_guard() -> Result<()> {
    let _alone = alone();
    let netns = Netns::new("host")?;
    let there = netns.run(|| fs::read_link("/proc/thread-self/ns/net"))?;

    let mut command = Command::new("sleep");
    command.arg("600");
    let mut sleeper = netns.spawn(command)?;
    let process = format!("/proc/{}", sleeper.pid());
    assert_eq!(fs::read_link(Path::new(&process).join("ns/net"))?, there);
    assert!(sleeper.is_running());
    assert!(sleeper.wait_timeout(Duration::from_millis(30))?.is_none());
    drop(sleeper);
    assert!(!Path::new(&process).exists());

    let mut command = Command::new("sh");
    command.args(["-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"]);
    command.stdout(Stdio::piped());
    let mut shell = netns.spawn(command)?;
    let (_, output, _) = shell.pipes();
    let mut line = String::new();
    BufReader::new(output.context("no output")?).read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    shell.signal(Signal::SIGTERM)?;
    let status = shell.wait_timeout(Duration::from_secs(20))?;
    assert_eq!(status.and_then(|s| s.code()), Some(3));
    shell.signal(Signal::SIGTERM)?;
    Ok(())
}

/// One of the ignored tests below, as a process of its own.
fn part(name: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    Ok(command)
}

#[test]
#[ignore = "run by nothing_outlives_a_killed_process as a process of its own"]
fn part_to_be_killed() -> Result<()> {
    let running = everything()?;
    let netns = running.cluster.host("a1")?.netns();
    let _sleeper = netns.spawn(part("part_that_dies_with_it")?)?;
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "run by nothing_outlives_a_killed_process as a process of its own"]
fn part_that_dies_with_it() -> Result<()> {
    die_with_parent()?;
    println!("sleeper {}", std::process::id());
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}

#[test]
fn nothing_outlives_a_killed_process() -> Result<()> {
    let _alone = alone();
    let mut child = part("part_to_be_killed")?.stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().context("no output")?);
    let mut lines = output.lines().map_while(Result::ok);
    let sleeper = lines.find_map(|line| Some(line.split_once("sleeper ")?.1.to_owned()));
    let during = holdings(&child.id().to_string());
    child.kill()?;
    child.wait()?;
    let sleeper = sleeper.context("the child did not get that far")?;
    let during = during?.namespaces;
    assert!(during.len() > 6, "{during:?}");

    let own = fs::read_link("/proc/self/ns/net")?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left: Vec<_> = namespaces_of_all()?
            .into_iter()
            .filter(|ns| *ns != own && during.contains(ns))
            .collect();
        let sleeps = Path::new("/proc").join(&sleeper).join("ns/net").read_link().is_ok();
        if left.is_empty() && !sleeps {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "{left:?}, sleeper: {sleeps}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The network namespaces of all threads of the machine.
fn namespaces_of_all() -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for process in fs::read_dir("/proc")? {
        // What is no process has no threads; and processes may end while we look.
        let Ok(tasks) = fs::read_dir(process?.path().join("task")) else {
            continue;
        };
        for task in tasks.flatten() {
            all.extend(fs::read_link(task.path().join("ns/net")));
        }
    }
    Ok(all)
}
