//! The steps of the demo.

mod look;
mod restart;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use shunt_cluster::{Family, Host, Outcome, Protocol, sent_again};

use super::DemoArgs;
use super::expect::expect;
use super::manifests::{SERVICE, cluster_ip, node_port, port};
use super::scene::{LAPTOP, SHOPPER, Scene};
use super::screen::Screen;
use super::traffic::{Spread, Way, milliseconds};
use crate::failure::Failure;
use crate::status::Status;

/// How many requests take each way, where the spread is shown.
const REQUESTS: u64 = 120;
/// How many requests take each way, where only the outcome matters. ICMP answers are limited by
/// the kernel to six in a burst.
const FEW: u64 = 2;
/// Where the ports begin from which refusals are asked for: below those that the kernel gives to
/// clients, so that no connection tracking entry of an earlier UDP client answers for a pod.
const UNUSED_PORTS: u16 = 20_000;
/// How long the kernel may take to end what has been let go.
const FAREWELL: Duration = Duration::from_secs(30);

/// The demo under way.
pub(super) struct Demo {
    scene: Scene,
    screen: Screen,
    started: Instant,
    requests: u64,
    connections: u64,
    lost: u64,
}

impl Demo {
    /// With everything built, and nothing running.
    pub(super) fn new(scene: Scene, screen: Screen, started: Instant) -> Self {
        Self { scene, screen, started, requests: 0, connections: 0, lost: 0 }
    }

    /// All steps.
    pub(super) fn run(mut self, args: &DemoArgs) -> Result<(), Failure> {
        if let Err(failure) = self.show(args) {
            // Whoever has interrupted it knows why it has ended.
            self.scene.ending.check()?;
            for (node, words) in self.scene.last_words() {
                self.screen.last_words(&node, &words);
            }
            return Err(failure);
        }
        self.clean_up()
    }

    fn show(&mut self, args: &DemoArgs) -> Result<(), Failure> {
        self.build()?;
        self.ask()?;
        self.scale()?;
        self.kill_and_start_again()?;
        self.empty_and_fill()?;
        self.status()?;
        if args.pause {
            self.pause()?;
        }
        Ok(())
    }

    fn build(&mut self) -> Result<(), Failure> {
        self.screen.step("A cluster of two nodes, built without any other program");
        let scene = &mut self.scene;
        scene.start_servers()?;
        scene.write_service()?;
        let pods: Vec<_> = scene.servers().map(ToOwned::to_owned).collect();
        scene.write_endpoints(&pods)?;
        let started = Instant::now();
        scene.start_daemons()?;
        let answers = scene.wait_for(pods.len())?;
        let synced = started.elapsed();
        self.picture()?;
        let [v4, v6] = [Family::V4, Family::V6].map(cluster_ip);
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
        self.screen.line(&format!(
            "Service {SERVICE}: {v4} and {v6}, ports {}/{tcp} and {}/{udp};",
            port(tcp),
            port(udp)
        ));
        self.screen.line(&format!(
            "NodePorts {}/{tcp} and {}/{udp}; {} pods; from manifests in {}",
            node_port(tcp),
            node_port(udp),
            pods.len(),
            self.scene.directory().display()
        ));
        let operations: u64 = answers.iter().map(|answer| answer.status.counters.operations).sum();
        self.screen.result(&format!(
            "built in {}; both daemons started and in sync in {} ({operations} operations)",
            milliseconds(self.scene.built_in),
            milliseconds(synced)
        ));
        Ok(())
    }

    fn picture(&self) -> Result<(), Failure> {
        let screen = &self.screen;
        let line = |indent: &str, host: &Host, what: &str| {
            let addresses: Vec<_> = host.addresses().iter().map(ToString::to_string).collect();
            let name = format!("{indent}{}", host.name());
            screen.line(&format!(
                "{name:<17}{:<16}{:<19}{what}",
                addresses.first().map_or("", String::as_str),
                addresses.get(1).map_or("", String::as_str)
            ));
        };
        line("", self.scene.host(LAPTOP)?, "outside the cluster");
        for daemon in &self.scene.daemons {
            screen.line("|");
            let daemon_is = format!("shunt run, process {}", daemon.pid());
            line("+-- ", self.scene.host(daemon.node())?, &daemon_is);
            for pod in self.scene.cluster.pods_of(daemon.node()) {
                let what = match pod.name() {
                    SHOPPER => "a pod that asks",
                    _ => "a pod that answers",
                };
                line("|   +-- ", pod, what);
            }
        }
        screen.line("");
        Ok(())
    }

    fn ask(&mut self) -> Result<(), Failure> {
        self.screen.step(&format!(
            "{REQUESTS} requests each way: how they spread, and as whom the pods see the client"
        ));
        let mut all = Spread::default();
        for from in [SHOPPER, LAPTOP] {
            self.screen.line(&match from {
                SHOPPER => format!("from the pod {SHOPPER} to the ClusterIPs"),
                _ => format!("from {LAPTOP}, outside, to the NodePorts"),
            });
            for way in self.scene.ways()? {
                if way.from.name() == from {
                    all.add(self.ask_way(&way)?);
                }
            }
        }
        self.spread(&all)
    }

    /// Asks one way and shows what the pods saw.
    fn ask_way(&mut self, way: &Way) -> Result<Spread, Failure> {
        let spread = self.answered(way, REQUESTS)?;
        let mut seen = Vec::new();
        for address in &spread.sources {
            let owner = self.scene.owner(*address).unwrap_or("nobody we know");
            seen.push(format!("{address} ({owner})"));
            // A pod's own address is kept; what comes from outside must go back by its node.
            let right = match way.from.name() {
                SHOPPER => way.from.addresses().contains(address),
                _ => self.scene.owner(way.to.ip()) == Some(owner),
            };
            expect(right, || {
                format!("{}: the pod saw {address} of {owner} as its client", way.name())
            })?;
        }
        self.screen.line(&format!(
            "  {:<25} {} answered, slowest {}; seen as {}",
            way.name(),
            spread.answers(),
            milliseconds(spread.slowest),
            seen.join(", ")
        ));
        Ok(spread)
    }

    /// Asks one way; every request must be answered.
    fn answered(&mut self, way: &Way, count: u64) -> Result<Spread, Failure> {
        let spread = way.ask_often(count, &self.scene.ending)?;
        expect(spread.losses.is_empty(), || {
            let first = spread.losses.first();
            format!(
                "{} of {count} requests were not answered; {}",
                spread.losses.len(),
                first.map_or("", String::as_str)
            )
        })?;
        self.requests += spread.answers();
        self.lost += u64::try_from(spread.losses.len()).unwrap_or(u64::MAX);
        Ok(spread)
    }

    /// Shows how answers spread over the pods: each must have its share.
    fn spread(&self, spread: &Spread) -> Result<(), Failure> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for pod in self.scene.servers() {
            let count = spread.answered.get(pod).copied().unwrap_or(0);
            counts.insert(pod.to_owned(), count);
        }
        self.screen.bars(&counts);
        let pods = u64::try_from(counts.len()).unwrap_or(1).max(1);
        // Picked at random: half of an even share is further off than chance ever goes.
        let least = spread.answers() / pods / 2;
        for (pod, count) in &counts {
            expect(*count > least, || {
                format!("{pod} got {count} of {} requests", spread.answers())
            })?;
        }
        self.screen
            .result(&format!("{} requests answered by {pods} pods, 0 lost", spread.answers()));
        Ok(())
    }

    fn scale(&mut self) -> Result<(), Failure> {
        let before = self.scene.servers().count();
        self.scene.add_pod("node-1", "web-4")?;
        self.scene.add_pod("node-2", "web-5")?;
        let pods: Vec<_> = self.scene.servers().map(ToOwned::to_owned).collect();
        self.screen.step(&format!(
            "The Service grows from {before} to {} pods: its EndpointSlices are replaced",
            pods.len()
        ));
        let before = self.scene.ask_daemons()?;
        let elapsed = self.change(&pods)?;
        for (before, after) in before.iter().zip(&self.scene.ask_daemons()?) {
            self.tell_change(&before.status, &after.status)?;
        }
        self.screen.line(&format!("from the new file to both kernels: {}", milliseconds(elapsed)));
        let mut all = Spread::default();
        for way in self.scene.ways()? {
            all.add(self.answered(&way, REQUESTS)?);
        }
        self.spread(&all)
    }

    /// Replaces the endpoints, and waits until the kernels have them. Returns how long that took.
    fn change(&mut self, pods: &[String]) -> Result<Duration, Failure> {
        let written = Instant::now();
        self.scene.write_endpoints(pods)?;
        self.scene.wait_for(pods.len())?;
        Ok(written.elapsed())
    }

    /// What changes since `before` have cost a daemon, as it says.
    fn tell_change(&self, before: &Status, after: &Status) -> Result<(), Failure> {
        let latency = &after.event_to_commit_us;
        // It has measured nothing before: the first sync does not count as a change.
        expect(before.event_to_commit_us.count == 0 && latency.count > 0, || {
            format!("the daemon of {} has measured {} changes", after.node, latency.count)
        })?;
        let (before, counters) = (&before.counters, &after.counters);
        self.screen.line(&format!(
            "{}: {} from the news to the kernel; {} operations in {} transactions",
            after.node,
            milliseconds(Duration::from_micros(u64::from(latency.max))),
            counters.operations - before.operations,
            counters.transactions - before.transactions
        ));
        Ok(())
    }

    fn empty_and_fill(&mut self) -> Result<(), Failure> {
        self.screen.step("All endpoints go, and come back: clients are refused, not left waiting");
        let elapsed = self.change(&[])?;
        let mut slowest = Duration::ZERO;
        let ways = self.scene.ways()?;
        let asked = ways.iter().flat_map(|way| (0..FEW).map(move |_| way)).zip(UNUSED_PORTS..);
        let mut refused = 0;
        let before = self.sent_again()?;
        for (way, port) in asked {
            let (outcome, took) = way.ask(Some(port));
            expect(outcome == Outcome::Refused, || {
                format!("{} without endpoints: {outcome}", way.name())
            })?;
            refused += 1;
            slowest = slowest.max(took);
        }
        let again = self.sent_again()? - before;
        expect(again == 0, || {
            format!("{again} clients had to ask again before they were refused")
        })?;
        self.screen.line(&format!(
            "gone from both kernels after {}; {refused} new clients refused, the slowest in {}",
            milliseconds(elapsed),
            milliseconds(slowest)
        ));
        let pods: Vec<_> = self.scene.servers().map(ToOwned::to_owned).collect();
        let elapsed = self.change(&pods)?;
        let mut answers = 0;
        for way in self.scene.ways()? {
            answers += self.answered(&way, FEW)?.answers();
        }
        self.screen.result(&format!(
            "back after {}: {answers} new clients answered",
            milliseconds(elapsed)
        ));
        Ok(())
    }

    /// How often clients had to send the first packet of a connection again.
    fn sent_again(&self) -> Result<u64, Failure> {
        let clients = self.scene.ways()?;
        let clients: BTreeMap<_, _> = clients.iter().map(|w| (w.from.name(), &w.from)).collect();
        let counts = clients.values().map(|host| sent_again(host.netns()));
        Ok(counts.sum::<Result<_, _>>()?)
    }

    fn clean_up(mut self) -> Result<(), Failure> {
        self.screen.step("The end");
        let kernels = self.scene.in_kernel()?.len();
        let pods = self.scene.servers().count();
        let directory = self.scene.end()?;
        expect(!directory.exists(), || format!("{} is still there", directory.display()))?;
        let left = namespaces_left()?;
        expect(left == 0, || format!("{left} namespaces are still there"))?;
        let total = self.started.elapsed();
        self.screen.result(&format!(
            "{} requests and {} held connections, {} lost, over {kernels} nodes and {pods} pods; \
             all is cleaned up; {:.1} s",
            self.requests,
            self.connections,
            self.lost,
            total.as_secs_f64()
        ));
        Ok(())
    }
}

/// How many network namespaces other than our own our threads are in. The kernel lets an ended
/// thread be seen for another moment.
fn namespaces_left() -> Result<usize, Failure> {
    let own = fs::read_link("/proc/self/ns/net")?;
    let deadline = Instant::now() + FAREWELL;
    loop {
        let mut left = 0;
        for task in fs::read_dir("/proc/self/task")? {
            let namespace = fs::read_link(task?.path().join("ns/net"));
            left += usize::from(namespace.is_ok_and(|namespace| namespace != own));
        }
        if left == 0 || Instant::now() > deadline {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
