//! The daemon is killed and started again while clients are at work.

use std::time::{Duration, Instant};

use shunt_cluster::{Family, Load, LoadSpec, Protocol, Report};
use shunt_nftables::installed::Installed;

use super::super::expect::expect;
use super::super::held::Held;
use super::super::scene::Scene;
use super::super::traffic::{Way, milliseconds};
use super::Demo;
use crate::failure::Failure;

/// How much traffic there is, of each kind, a second.
const PER_SECOND: u32 = 250;
/// How many connections are held, by each way.
const HELD: usize = 4;
/// With a daemon, before and after.
const WITH: Duration = Duration::from_millis(700);
/// Without one.
const WITHOUT: Duration = Duration::from_millis(1500);
/// The traffic is ended by us; this is when it ends if it is not.
const AT_MOST: Duration = Duration::from_secs(60);
/// A request that takes longer is lost. A lost packet alone costs a second and shows as the
/// slowest answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The traffic of clients.
struct Clients {
    ways: Vec<Way>,
    loads: Vec<Load>,
    held: Held,
}

/// What became of it.
struct Sum {
    sent: u64,
    answered: u64,
    lost: u64,
    lines: u64,
}

impl Clients {
    /// New connections over IPv4 to the ClusterIP and over IPv6 to a NodePort, datagrams over
    /// IPv6 to the ClusterIP, and connections that are held.
    fn start(scene: &Scene) -> Result<Self, Failure> {
        let all = scene.ways()?;
        let chosen = |protocol, family, from_pod: bool| {
            all.iter().find(|way| {
                let is_pod = way.from.name() == super::SHOPPER;
                let same_family = Family::of(way.to.ip()) == family;
                way.protocol == protocol && same_family && is_pod == from_pod
            })
        };
        let tcp: Vec<_> =
            [chosen(Protocol::Tcp, Family::V4, true), chosen(Protocol::Tcp, Family::V6, false)]
                .into_iter()
                .flatten()
                .collect();
        let udp = chosen(Protocol::Udp, Family::V6, true);
        let held = Held::open(&tcp, HELD)?;
        let ways: Vec<_> = tcp.into_iter().chain(udp).cloned().collect();
        let start = |way: &Way| {
            let spec = LoadSpec {
                protocol: way.protocol,
                destination: way.to,
                per_second: PER_SECOND,
                duration: AT_MOST,
                timeout: PATIENCE,
            };
            Load::start(way.from.netns(), &spec)
        };
        let loads = ways.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { ways, loads, held })
    }

    fn so_far(&self) -> Sum {
        let reports: Vec<_> = self.loads.iter().map(Load::so_far).collect();
        sum(&reports, self.held.lines())
    }
}

fn sum(reports: &[Report], lines: u64) -> Sum {
    Sum {
        sent: reports.iter().map(|report| report.sent).sum(),
        answered: reports.iter().map(Report::answers).sum(),
        lost: reports.iter().map(Report::losses).sum(),
        lines,
    }
}

/// Compares what the kernels hold. Chains for pools of a size that no Service has any more do
/// not matter: a start tidies them up.
fn same_elements(before: &[Installed], now: &[Installed], what: &str) -> Result<(), Failure> {
    let same = |(old, new): (&Installed, &Installed)| {
        old.frontends == new.frontends
            && old.members == new.members
            && old.networks == new.networks
            && old.count == new.count
    };
    expect(before.iter().zip(now).all(same), || {
        format!("a kernel's elements changed when the daemons {what}")
    })
}

impl Demo {
    pub(super) fn kill_and_start_again(&mut self) -> Result<(), Failure> {
        self.screen.step("Both daemons are killed in mid-traffic, and started again");
        let clients = Clients::start(&self.scene)?;
        let names: Vec<_> = clients.ways.iter().map(Way::name).collect();
        self.screen.line(&format!("{PER_SECOND} requests a second each to {};", names.join(", ")));
        self.screen.line(&format!(
            "{} connections held open, which talk all the time",
            clients.held.count()
        ));
        let ending = self.scene.ending.clone();
        ending.pause(WITH)?;

        let before = self.scene.in_kernel()?;
        for daemon in std::mem::take(&mut self.scene.daemons) {
            let (node, pid) = (daemon.node().to_owned(), daemon.pid());
            daemon.kill()?;
            self.screen.line(&format!("SIGKILL to the daemon of {node}, process {pid}"));
        }
        let (killed, since) = (clients.so_far(), Instant::now());
        ending.pause(WITHOUT)?;
        let (alone, elapsed) = (clients.so_far(), since.elapsed());
        let (answered, lines) = (alone.answered - killed.answered, alone.lines - killed.lines);
        self.screen.line(&format!(
            "no daemon for {}: {answered} requests answered, {lines} lines on held connections, \
             {} lost",
            milliseconds(elapsed),
            alone.lost
        ));
        expect(answered > 0 && lines > 0, || "no traffic without a daemon".to_owned())?;
        let without = self.scene.in_kernel()?;
        same_elements(&before, &without, "were killed")?;

        self.scene.start_daemons()?;
        self.restarted()?;
        ending.pause(WITH)?;
        let after = self.scene.in_kernel()?;
        same_elements(&before, &after, "were started again")?;
        let counts = after.iter().flat_map(|found| found.count.values());
        let elements: u64 = counts.map(|count| u64::from(*count)).sum();
        let unused = before.iter().zip(&after);
        let unused: usize = unused.map(|(old, new)| old.pools.difference(&new.pools).count()).sum();
        self.screen.line(&format!(
            "all {elements} elements in both kernels are as before; {unused} unused chains were \
             tidied up"
        ));
        self.finish(clients)
    }

    /// Waits until the new daemons are in sync; they must have written nothing.
    fn restarted(&mut self) -> Result<(), Failure> {
        let pods = self.scene.servers().count();
        for answer in self.scene.wait_for(pods)? {
            let status = &answer.status;
            let counters = &status.counters;
            let first = status.first_sync.clone().unwrap_or_default();
            self.screen.line(&format!(
                "{}: started again as process {}, in sync after {:.1} ms: read the kernel in \
                 {:.1} ms, {} operations written",
                status.node, status.pid, first.synced_ms, first.read_ms, counters.operations
            ));
            // One transaction without an operation may tidy up what nothing uses.
            expect(counters.operations == 0 && counters.transactions <= 1, || {
                format!(
                    "the daemon of {} wrote {} operations in {} transactions at its restart",
                    status.node, counters.operations, counters.transactions
                )
            })?;
        }
        Ok(())
    }

    /// Ends the traffic: all of it must have been answered.
    fn finish(&mut self, clients: Clients) -> Result<(), Failure> {
        let Clients { loads, held, .. } = clients;
        let count = held.count();
        let reports = loads.into_iter().map(Load::stop);
        let reports: Vec<_> = reports.collect::<Result<_, _>>()?;
        let (closed, lines) = held.close()?;
        let total = sum(&reports, lines);
        let slowest = reports.iter().map(|report| report.slowest).max();
        expect(total.lost == 0 && total.sent == total.answered, || {
            let told: Vec<_> = reports.iter().map(ToString::to_string).collect();
            format!("{} of {} requests were lost\n{}", total.lost, total.sent, told.join("\n"))
        })?;
        self.requests += total.sent;
        self.lost += total.lost;
        self.connections += u64::try_from(count).unwrap_or(0);
        self.screen.result(&format!(
            "{} requests made, {} lost, the slowest took {};",
            total.sent,
            total.lost,
            milliseconds(slowest.unwrap_or_default())
        ));
        self.screen.result(&format!(
            "{closed} of {count} held connections lived through it, {} lines answered on them",
            total.lines
        ));
        Ok(())
    }
}
