//! The daemon's policy for pods on a bridge that hooks of IP do not see: audits and counters with real packets, and a
//! daemon that is killed between the steps of a change. Needs root.
//!
//! In the guest the kernel tracks connections on bridges; others judge the first packets of TCP alone.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shunt::status::PolicyStatus;
use shunt_cluster::{
    Cluster, ClusterSpec, Connection, EchoServer, Load, LoadSpec, Network, NodeSpec, ProbeOptions,
    Protocol, first_packet_arrives, probe, sent_again,
};
use shunt_kind_tests::generation;
use shunt_kind_tests::guest::{self, Clock};
use shunt_kind_tests::scenario::daemon::Daemon;
use shunt_kind_tests::scenario::shunt_binary;
use shunt_netlink::Socket;
use tempfile::TempDir;

const NODE: &str = "node-1";
const PODS: [&str; 3] = ["web", "shop", "other"];
const PORT: u16 = 8080;
/// How long anything may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is waited for what is dropped.
const SILENCE: Duration = Duration::from_millis(300);
/// How long for what may not be lost.
const ANSWER: Duration = Duration::from_secs(30);
/// How often the daemon is killed, and how many ports a policy lists beside the one that is used: so many that what nothing
/// leads to any more takes a while to remove.
const KILLS: u32 = 12;
const LISTED: u16 = 500;

/// A node with three pods on one bridge; policy is in a directory of manifests.
struct Rig {
    daemon: Option<Daemon>,
    binary: PathBuf,
    files: TempDir,
    _servers: Vec<EchoServer>,
    cluster: Cluster,
}

impl Rig {
    fn new() -> Result<Self> {
        let cluster = Cluster::build(&ClusterSpec {
            network: Network::BridgeUnseen,
            nodes: vec![NodeSpec::new(NODE, &PODS)],
            ..ClusterSpec::default()
        })?;
        let serve = |pod: &&str| EchoServer::start(cluster.host(pod)?.netns(), pod, &[PORT]);
        let servers = PODS.iter().map(serve).collect::<Result<_>>()?;
        let files = tempfile::Builder::new().prefix("shunt-switched-").tempdir()?;
        fs::create_dir(files.path().join("manifests"))?;
        let rig = Self { daemon: None, binary: shunt_binary()?, files, _servers: servers, cluster };
        let mut pods = String::new();
        for pod in PODS {
            let ip = rig.cluster.host(pod)?.ip();
            write!(
                pods,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: default, labels: {{app: {pod}}}}}\n\
                 spec: {{nodeName: {NODE}, containers: [{{name: main}}]}}\n\
                 status: {{phase: Running, podIPs: [{{ip: '{ip}'}}]}}\n"
            )?;
        }
        rig.write("pods.yaml", &pods)?;
        rig.put_namespace("enforce")?;
        rig.put_policy(&[PORT])?;
        Ok(rig)
    }

    /// Puts a file in its place in one go.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let manifests = self.files.path().join("manifests");
        let new = manifests.join(format!(".{name}"));
        fs::write(&new, text)?;
        Ok(fs::rename(new, manifests.join(name))?)
    }

    fn put_namespace(&self, mode: &str) -> Result<()> {
        let annotations = format!("annotations: {{shunt.dev/network-policy: {mode}}}");
        let metadata = format!("metadata: {{name: default, {annotations}}}");
        self.write("namespace.yaml", &format!("apiVersion: v1\nkind: Namespace\n{metadata}\n"))
    }

    /// The shop alone reaches the web server, by these ports.
    fn put_policy(&self, ports: &[u16]) -> Result<()> {
        let port = |port: &u16| format!("{{port: {port}}}, {{port: {port}, protocol: UDP}}");
        let ports = ports.iter().map(port).collect::<Vec<_>>().join(", ");
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, namespace: default}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  \
             - from: [{{podSelector: {{matchLabels: {{app: shop}}}}}}]\n    ports: [{ports}]\n"
        );
        self.write("policy.yaml", &text)
    }

    /// Starts a daemon, and waits until policy is in force.
    fn start(&mut self, flags: &[&str]) -> Result<()> {
        let manifests = self.files.path().join("manifests").display().to_string();
        // The bridge itself could show its packets, where the kernel has `br_netfilter`.
        let own_table = "--bridge-netfilter=off";
        let words = ["run", "--manifests", &manifests, "--node-name", NODE, own_table];
        let words: Vec<_> = words.iter().chain(flags).map(ToString::to_string).collect();
        let (netns, log) = (self.cluster.host(NODE)?.netns(), self.files.path().join("log"));
        self.daemon = Some(Daemon::start(&self.binary, &words, netns, &log)?);
        self.wait_for("policy in force", |policy| {
            policy.synced && policy.isolated > 0 && policy.failure.is_none()
        })
    }

    fn wait_for(&mut self, what: &str, met: impl Fn(&PolicyStatus) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.daemon.as_mut().context("no daemon runs")?.status()?;
            let policy = status.and_then(|status| status.network_policy);
            if policy.as_ref().is_some_and(&met) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{what}: {policy:?}\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_log(&self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(self.files.path().join("log"))?.contains(text) {
            ensure!(Instant::now() < deadline, "{text:?} is not in the log:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log_tail).unwrap_or_default()
    }

    fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    fn web(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.cluster.host("web")?.ip(), PORT))
    }

    fn reaches_web(&self, from: &str) -> Result<bool> {
        let netns = self.cluster.host(from)?.netns();
        let options = ProbeOptions::within(ANSWER);
        Ok(probe(netns, Protocol::Tcp, self.web()?, &options).is_answer())
    }

    fn expect_denied(&self, from: &str) -> Result<()> {
        // The kernel answers, whether or not the server runs.
        let connected = self.cluster.host(from)?.netns().tcp_connect(self.web()?, SILENCE);
        let outcome = connected.err().context(format!("{from} is let in"))?;
        ensure!(outcome.kind() == ErrorKind::TimedOut, "{from}: {outcome}");
        Ok(())
    }

    /// Waits until the web server is reached, or not.
    fn until(&self, from: &str, reached: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let netns = self.cluster.host(from)?.netns();
        while first_packet_arrives(netns, self.web()?)? != reached {
            ensure!(Instant::now() < deadline, "{from} to the web: not {reached}\n{}", self.log());
        }
        Ok(())
    }

    /// The ports that a table accepts, as stock `nft` lists them.
    fn ports(&self, family: &str) -> Result<Ports> {
        let mut command = Command::new("nft");
        command.args(["list", "set", family, "shunt-policy", "ports"]);
        let output = self.cluster.host(NODE)?.netns().run(move || command.output())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout)?;
        let last = |word: &str| word.trim_end_matches([',', '}']).parse::<u16>().ok();
        let found: Vec<u16> = listed.split_whitespace().filter_map(last).collect();
        let of = |first: u16| found.iter().any(|port| (first..first + 2 * LISTED).contains(port));
        Ok(Ports { first: of(FIRST[0]), second: of(FIRST[1]) })
    }
}

/// Where the ports begin that two policies list in turns.
const FIRST: [u16; 2] = [20_000, 40_000];

/// Whose ports are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    first: bool,
    second: bool,
}

/// Ports that are no ranges, and the one that is used.
fn listed(turn: u32) -> Vec<u16> {
    let first = FIRST[(turn % 2) as usize];
    (0..LISTED).map(|index| first + 2 * index).chain([PORT]).collect()
}

#[test]
fn audits_and_counters() -> Result<()> {
    let mut rig = Rig::new()?;
    if let Err(error) = play_audits_and_counters(&mut rig) {
        bail!("{error:#}\n{}", rig.log());
    }
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_amid_a_change() -> Result<()> {
    play_kills(&mut Rig::new()?)
}

#[test]
fn in_the_guest() -> Result<()> {
    guest::replay(&["audits_and_counters", "a_daemon_that_is_killed_amid_a_change"])
}

fn play_audits_and_counters(rig: &mut Rig) -> Result<()> {
    rig.start(&["--policy-counters"])?;
    rig.until("other", false)?;
    rig.ports("bridge").context("it is the table for what is switched that denies it")?;
    ensure!(rig.reaches_web("shop")?, "the policy allows it");
    let decided = |policy: &PolicyStatus| {
        policy.decided_by_policy.get("default/web").copied().unwrap_or_default()
    };
    rig.wait_for("both are counted", |policy| {
        let count = decided(policy);
        count.accepted > 0 && count.denied > 0 && policy.dropped.ingress > 0
    })?;
    rig.wait_for_log("network policy drops a packet")?;

    rig.put_namespace("audit")?;
    rig.until("other", true)?;
    rig.wait_for_log("network policy would drop a packet")?;
    let status = rig.daemon.as_mut().context("no daemon runs")?.status()?;
    let before = decided(&status.and_then(|status| status.network_policy).context("policy")?);
    for _ in 0..3 {
        ensure!(rig.reaches_web("other")? && rig.reaches_web("shop")?, "an audit drops nothing");
    }
    rig.wait_for("what passes in an audit is counted as denied", |policy| {
        let count = decided(policy);
        count.denied >= before.denied + 3 && count.accepted >= before.accepted + 3
    })?;
    rig.put_namespace("enforce")?;
    rig.until("other", false)?;
    ensure!(rig.reaches_web("shop")?, "the policy allows it still");

    rig.kill()?;
    rig.start(&["--network-policy=audit"])?;
    ensure!(rig.reaches_web("other")? && rig.reaches_web("shop")?, "an audit drops nothing");
    rig.wait_for("the audit counts", |policy| policy.audit && policy.dropped.ingress > 0)
}

/// Kills the daemon between the first step of a change of policy and the next, and before the first, while connections
/// that it allows before and after begin and go on: none of them loses a packet, nobody else gets in, and the next daemon
/// ends what was begun.
fn play_kills(rig: &mut Rig) -> Result<()> {
    rig.put_policy(&listed(0))?;
    rig.start(&[])?;
    rig.until("other", false)?;
    let shop = rig.cluster.host("shop")?.netns().clone();
    let mut held = Connection::open(&shop, rig.web()?, &ProbeOptions::within(PATIENCE))?;
    let load = LoadSpec {
        protocol: Protocol::Tcp,
        destination: rig.web()?,
        per_second: 50,
        duration: PATIENCE * 5,
        timeout: ANSWER,
    };
    let load = Load::start(&shop, &load)?;
    let datagrams = Datagrams::start(rig, rig.web()?)?;
    let mut commits = generation::socket(rig.cluster.host(NODE)?.netns())?;
    let mut amid = 0;
    // In the guest all have one CPU: it takes long, and the daemon may be done before it is seen that it has begun.
    let is_guest = Clock::of_this_guest().is_some();
    let (fewest, most) = if is_guest { (KILLS / 2, KILLS / 2) } else { (KILLS, 4 * KILLS) };
    let mut kills = 0;
    while kills < fewest || (amid == 0 && kills < most) {
        let before = generation::ask(&mut commits)?;
        rig.put_policy(&listed(kills + 1))?;
        if !kills.is_multiple_of(4) {
            wait_for_commit(&mut commits, before)?;
        }
        rig.kill()?;
        let (routed, switched) = (rig.ports("inet")?, rig.ports("bridge")?);
        let when = || format!("kill {kills}: {switched:?}");
        ensure!(routed == switched, "{}: the other table has {routed:?}", when());
        amid += u32::from(switched.first && switched.second);
        rig.expect_denied("other").with_context(when)?;
        held.exchange("goes on").with_context(when)?;
        rig.start(&[])?;
        expect_ports(rig, kills + 1).with_context(when)?;
        rig.expect_denied("other").with_context(when)?;
        held.exchange("goes on").with_context(when)?;
        kills += 1;
    }
    let report = load.stop()?;
    let again = sent_again(&shop)?;
    ensure!(report.answers() > 0 && report.losses() + again == 0, "{report}; {again} SYNs again");
    let datagrams = datagrams.stop().context("a datagram of a connection was lost")?;
    ensure!(datagrams > 0, "no datagram was sent");
    println!("{amid} of {kills} kills met a half-done change; {report}; {datagrams} datagrams");
    ensure!(amid > 0 || is_guest, "all kills were too early or too late");
    Ok(())
}

/// Waits until one thing was committed to the tables of the node. It does not sleep: what follows is soon done.
fn wait_for_commit(socket: &mut Socket, before: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while generation::ask(socket)? == before {
        ensure!(Instant::now() < deadline, "nothing is committed");
    }
    Ok(())
}

/// Waits until both tables have the ports of this turn, and no others.
fn expect_ports(rig: &Rig, turn: u32) -> Result<()> {
    let wanted = Ports { first: turn.is_multiple_of(2), second: !turn.is_multiple_of(2) };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = (rig.ports("inet")?, rig.ports("bridge")?);
        if held == (wanted, wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{held:?}, not {wanted:?}\n{}", rig.log());
    }
}

/// Datagrams of one connection, one after the other.
struct Datagrams {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u64>>,
}

impl Datagrams {
    fn start(rig: &Rig, to: SocketAddr) -> Result<Self> {
        let socket = rig.cluster.host("shop")?.netns().udp_socket(to.ip())?;
        socket.connect(to)?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(ANSWER))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name("datagrams".into()).spawn(move || {
            let mut answered = 0;
            while !told.load(Ordering::Relaxed) {
                socket.send(b"datagram\n")?;
                let answer = loop {
                    match socket.recv(&mut [0; 512]) {
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        other => break other,
                    }
                };
                answer.with_context(|| format!("after {answered}"))?;
                answered += 1;
                sleep(Duration::from_millis(5));
            }
            Ok(answered)
        })?;
        Ok(Self { stop, thread })
    }

    /// How many there were. Fails if one was lost.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread has panicked"))?
    }
}
