//! What names of domains cost packets: a connection that is allowed by a name beside one by a block, and what the table that
//! hands DNS answers over costs those of a pod that nothing is said of. Ratios of one run.
//!
//! `cargo test --release -p shunt-netpolicy-nftables --test names_price -- --ignored --nocapture`

#[path = "../../../backends/nftables/tests/reader/mod.rs"]
#[expect(dead_code, reason = "what other tests need of it")]
mod reader;
#[expect(dead_code, reason = "what other tests need of it")]
mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use reader::open_when_free;
use shunt_cluster::{Cluster, ClusterSpec, NodeSpec, connect_times};
use shunt_model::address::Protocol;
use shunt_netpolicy::cluster::{Action, Tier};
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::domain::DomainName;
use shunt_netpolicy::object::{Peer, PortNumber, Rule};
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy_nftables::answers::{Answers, Wanted};
use shunt_netpolicy_nftables::kernel::{Change, PolicyTable};
use world::{block, cluster_policy, pod, port};

const PORT: u16 = 9000;
const NAME: &str = "www.example.com";
/// How often it is changed between what is compared, and how often each is measured before that.
const TURNS: usize = 20;
const ROUNDS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(5);
/// No single run is better than that.
const NOISE: f64 = 1.15;

struct Node {
    cluster: Cluster,
    policy: PolicyTable,
    answers: Answers,
}

impl Node {
    fn new() -> Self {
        let pods = ["asks", "free", "by-block", "by-name"];
        let cluster = Cluster::build(&ClusterSpec {
            nodes: vec![NodeSpec::new("node-1", &pods)],
            ..ClusterSpec::default()
        })
        .expect("a cluster: this needs root");
        let netns = cluster.host("node-1").expect("a node").netns();
        let policy = netns.run(|| open_when_free(|| PolicyTable::open(false)));
        let answers = netns.run(|| open_when_free(|| Answers::open(false)));
        let mut node = Self { cluster, policy, answers };
        node.enforce();
        node
    }

    fn ip(&self, pod: &str) -> IpAddr {
        self.cluster.host(pod).expect("a pod").ip()
    }

    /// The pod that asks may reach one by its address, one by its name, and no other.
    fn enforce(&mut self) {
        let mut store = Store::new();
        let asks = self.ip("asks").to_string();
        drop(store.put_pod(pod("x", "asks", "node-1", &[&asks], &[("app", "asks")])));
        let ports = Some(vec![port(Protocol::Tcp, PortNumber::Any)]);
        let name = DomainName::parse(NAME).expect("a name");
        let by_block = block(&format!("{}/32", self.ip("by-block")), &[]);
        let accept = |peer| Rule { peers: Some(vec![peer]), ports: ports.clone() };
        let egress = vec![
            (Action::Accept, accept(by_block)),
            (Action::Accept, accept(Peer::Domain(name.clone()))),
            (Action::Deny, Rule { peers: None, ports: None }),
        ];
        let policy = cluster_policy("names", (Tier::Admin, 1), &[("app", "asks")], vec![], egress);
        drop(store.put_cluster_policy(policy));
        let named = self.ip("by-name");
        drop(store.put_names(named, [name.clone()].into()));
        let until = Instant::now() + Duration::from_secs(3600);
        let change = Change {
            table: Compiler::new("node-1").update(&store, &Dirty::everything()),
            own: Some([self.ip("node-1")].into()),
            learnt: [((named, name.number()), Some(until))].into(),
            ..Change::default()
        };
        self.policy.sync(change).expect("a sync");
    }

    /// Has answers of a DNS server to the pod that asks handed over, or not.
    fn hand_over(&mut self, wanted: bool) {
        let (asks, server) = (self.ip("asks"), [10, 96, 0, 10].into());
        let wanted = match wanted {
            true => Wanted { pods: [asks].into(), servers: [server].into() },
            false => Wanted::default(),
        };
        self.answers.sync(&wanted).expect("the table of answers");
    }

    fn listen(&self, pod: &str) -> TcpListener {
        let netns = self.cluster.host(pod).expect("a pod").netns();
        let listener = netns.run(|| TcpListener::bind(("0.0.0.0", PORT))).expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        listener
    }

    /// The times of new connections, of each destination.
    fn connects(&self, from: &str, to: &[&str]) -> Vec<Vec<Duration>> {
        let netns = self.cluster.host(from).expect("a pod").netns();
        let listeners = to.iter().map(|pod| self.listen(pod)).collect();
        let to: Vec<_> = to.iter().map(|pod| SocketAddr::new(self.ip(pod), PORT)).collect();
        connect_times(netns, listeners, &to, ROUNDS).expect("connections")
    }

    /// The times of a byte there and one back, over a connection that is established.
    fn exchanges(&self, from: &str, to: &str) -> Vec<Duration> {
        let listener = self.listen(to);
        let netns = self.cluster.host(from).expect("a pod").netns();
        let address = SocketAddr::new(self.ip(to), PORT);
        let mut client = netns.tcp_connect(address, PATIENCE).expect("a connection");
        listener.set_nonblocking(false).expect("a listener");
        let (mut server, _) = listener.accept().expect("a connection");
        for stream in [&client, &server] {
            stream.set_nonblocking(false).expect("a stream");
            stream.set_nodelay(true).expect("a stream");
            stream.set_read_timeout(Some(PATIENCE)).expect("a stream");
        }
        (0..ROUNDS).map(|_| exchange(&mut client, &mut server)).collect()
    }
}

/// One thread has both ends: nobody has to be woken up.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> Duration {
    let mut byte = [0];
    let began = Instant::now();
    client.write_all(&[1]).expect("there");
    server.read_exact(&mut byte).expect("there");
    server.write_all(&byte).expect("back");
    client.read_exact(&mut byte).expect("back");
    began.elapsed()
}

/// In microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

#[test]
#[ignore = "it measures"]
fn a_name_costs_no_more_than_a_block() {
    let mut node = Node::new();
    let (mut by_block, mut by_name, mut free) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    let mut established = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        let handed_over = turn % 2;
        node.hand_over(handed_over == 1);
        let mut times = node.connects("asks", &["by-block", "by-name"]).into_iter();
        by_block.extend(times.next().expect("two destinations"));
        by_name.extend(times.next().expect("two destinations"));
        free[handed_over].extend(node.connects("free", &["by-block"]).swap_remove(0));
        established[handed_over].extend(node.exchanges("free", "by-block"));
    }
    let (by_block, by_name) = (median(by_block), median(by_name));
    println!(
        "new, allowed by a block {by_block:.1} µs, by a name {by_name:.1}: {:.2}",
        by_name / by_block
    );
    for (what, [without, with]) in [("new", free), ("established", established)] {
        let (without, with) = (median(without), median(with));
        let ratio = with / without;
        println!(
            "{what}, of a pod without policy: {without:.2} µs, beside the table of answers {with:.2}: {ratio:.2}"
        );
        assert!(ratio < NOISE, "{what}");
    }
    assert!(by_name / by_block < NOISE);
}
