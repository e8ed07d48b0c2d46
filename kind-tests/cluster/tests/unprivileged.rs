//! An ordinary user builds a cluster. Has its own `main`: a user namespace is entered before there are threads.
//!
//! As root it starts itself again as user 65534. Where the machine forbids user namespaces the test holds only if
//! that is said with a remedy, and it prints that it was so.

use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shunt_cluster::{
    Cluster, ClusterSpec, ControlPlane, EchoServer, Families, NodeSpec, Privilege, ProbeOptions,
    Protocol, enter_user_namespace, probe,
};

const ORDINARY: u32 = 65534;
/// Says which part of the test a process is.
const PART: &str = "SHUNT_CLUSTER_UNPRIVILEGED";

fn main() -> Result<()> {
    if env::args().any(|a| a == "--list") {
        println!("an_ordinary_user_builds_a_cluster: test");
        return Ok(());
    }
    match env::var(PART).as_deref() {
        Ok("forbidden") => be_refused(),
        Ok(_) => be_ordinary(),
        Err(_) if is_root()? => {
            let mut again = again("/proc/self/fd/0", &[], "ordinary")?;
            finish(again.uid(ORDINARY).gid(ORDINARY))
        }
        Err(_) => be_ordinary(),
    }
}

fn is_root() -> Result<bool> {
    Ok(fs::read_to_string("/proc/self/status")?.contains("\nUid:\t0\t"))
}

/// This program as another part of the test. It gets itself as its standard input and is started by that: the
/// directory it is in may be closed to others (/root).
fn again(program: &str, args: &[&str], part: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command.args(args).env(PART, part).current_dir("/");
    command.stdin(File::open("/proc/self/exe")?);
    Ok(command)
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn be_ordinary() -> Result<()> {
    match enter_user_namespace() {
        Ok(privilege) => {
            ensure!(privilege == Privilege::UserNamespace, "{privilege:?}");
            ask_around()?;
            forbid()
        }
        Err(error) => {
            println!("this machine lets no ordinary user build a cluster: {error:#}");
            expect_remedy(&format!("{error:#}"))
        }
    }
}

fn expect_remedy(text: &str) -> Result<()> {
    let remedy = text.contains("run as root") || text.contains("sysctl");
    ensure!(remedy, "no remedy in: {text}");
    Ok(())
}

fn ask_around() -> Result<()> {
    let cluster = Cluster::build(&ClusterSpec {
        nodes: vec![NodeSpec::new("node-1", &["a1"]), NodeSpec::new("node-2", &["b1"])],
        clients: vec!["client".to_owned()],
        families: Families::Dual,
        control_plane: ControlPlane::Present,
        ..ClusterSpec::default()
    })?;
    let server = cluster.host("b1")?;
    let _echo = EchoServer::start(server.netns(), "b1", &[80])?;
    for from in ["a1", "node-1", "node-2"] {
        for address in server.addresses() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let to = SocketAddr::new(*address, 80);
                let from = cluster.host(from)?;
                let outcome = probe(
                    from.netns(),
                    protocol,
                    to,
                    &ProbeOptions::within(Duration::from_secs(10)),
                );
                let context = format!("{} to {to} over {protocol}: {outcome}", from.name());
                ensure!(outcome.by() == Some("b1"), "{context}");
            }
        }
    }
    println!("an ordinary user has built a cluster and asked around in it");
    Ok(())
}

/// In our user namespace we may forbid further ones, and so see a real refusal.
fn forbid() -> Result<()> {
    fs::write("/proc/sys/user/max_user_namespaces", "0")?;
    let without_rights = ["--bounding-set=-all", "--inh-caps=-all", "--", "/proc/self/fd/0"];
    finish(&mut again("setpriv", &without_rights, "forbidden")?)
}

fn be_refused() -> Result<()> {
    let Err(error) = enter_user_namespace() else {
        bail!("a user namespace although none are allowed");
    };
    println!("where it is forbidden: {error:#}");
    let text = format!("{error:#}");
    ensure!(text.contains("user.max_user_namespaces"), "no remedy in: {text}");
    Ok(())
}
