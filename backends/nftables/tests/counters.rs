//! What elements count and remember, with connections through a real kernel, read by stock nft.

mod common;
mod reader;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{balanced, delta, node, service};
use reader::{nft, open_when_free};
use shunt_cluster::Netns;
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use shunt_model::balancing::{Affinity, AffinityScope, Balancing, Method};
use shunt_model::object::ObjectKey;
use shunt_model::plan::{Plan, PlanDelta, ServicePlan};
use shunt_nftables::counting::{Counting, Counts};
use shunt_nftables::element::Place;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::{Nftables, Options, Report, counted};

const ALL: Options =
    Options { owner: true, forwarding: Forwarding::Translate, counting: Counting::Endpoints };

/// How long an answer may take where others have the CPU.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine that is node, client and every endpoint in one, and says on each connection which
/// endpoint it has reached.
struct Machine {
    netns: Netns,
    plan: Plan,
}

impl Machine {
    fn new() -> Self {
        let netns = Netns::new("node").expect("a network namespace: these tests need root");
        for address in ["10.77.1.1/32", "fd00:10:77:1::1/128"] {
            let address = address.parse().expect("an address");
            netns.links().add_address("lo", address).expect("an address");
        }
        for arguments in [
            "route add local 10.128.0.0/9 dev lo",
            "route add 10.96.0.0/16 dev lo",
            "-6 route add local fd01::/16 dev lo",
            "-6 route add fd00:96::/32 dev lo",
        ] {
            let mut ip = Command::new("ip");
            ip.args(arguments.split(' '));
            let status = netns.run(move || ip.status()).expect("ip");
            assert!(status.success(), "{arguments}");
        }
        let listener = netns.run(|| TcpListener::bind("[::]:8080")).expect("a listener");
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let reached = stream.local_addr().expect("an address").ip().to_canonical();
                let _ = stream.write_all(reached.to_string().as_bytes());
            }
        });
        Self { netns, plan: Plan { node: node(), ..Plan::default() } }
    }

    fn open(&self, options: Options) -> Nftables {
        self.netns.run(move || open_when_free(|| Nftables::open(options)))
    }

    /// Has the kernel serve these Services, and no others.
    #[track_caller]
    fn serve(
        &mut self,
        nftables: &mut Nftables,
        services: impl IntoIterator<Item = (ObjectKey, Arc<ServicePlan>)>,
    ) -> Report {
        let services = services.into_iter().collect::<BTreeMap<_, _>>();
        let next = Plan { services, ..self.plan.clone() };
        let mut change = delta(&self.plan, &next);
        if self.plan.services.is_empty() {
            change.node = Some(Arc::clone(&next.node));
        }
        self.plan = next;
        let report = nftables.sync(change).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        assert!(report.rejected.is_empty(), "{:?}", report.rejected);
        report
    }

    /// Connects so often; which endpoint was reached how often.
    #[track_caller]
    fn connect(&self, frontend: Frontend, times: u64) -> BTreeMap<String, u64> {
        let FrontendAddress::Ip(address) = frontend.address else { panic!("no address") };
        let to = SocketAddr::new(address, frontend.port);
        let mut reached = BTreeMap::new();
        for _ in 0..times {
            let text = self.netns.run(move || {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut text = String::new();
                stream.read_to_string(&mut text).map(|_| text)
            });
            let text = text.unwrap_or_else(|error| panic!("{to} after {reached:?}: {error}"));
            *reached.entry(text).or_default() += 1;
        }
        reached
    }

    fn counted(&self) -> Option<Counts> {
        self.netns.run(counted).expect("counts")
    }

    /// Asserts how many connections a frontend and its endpoints are said to have had.
    #[track_caller]
    fn assert_counted(&self, frontend: Frontend, total: u64, of: &BTreeMap<String, u64>) {
        let place = Place::everyone(frontend);
        let counts = self.counted().expect("it counts");
        assert_eq!(counts.frontends[&place].packets, total);
        assert!(counts.frontends[&place].bytes >= 40 * total);
        let here = counts.endpoints.iter().filter(|((of, _), _)| *of == place);
        let here = here.filter(|(_, count)| count.packets > 0);
        let named =
            |((_, endpoint), count): (&(Place, Endpoint), &shunt_nftables::counting::Count)| {
                (endpoint.address.to_string(), count.packets)
            };
        assert_eq!(here.map(named).collect::<BTreeMap<_, _>>(), *of);
    }
}

fn cluster_ip(family: Family, n: u16) -> Frontend {
    let address = match family {
        Family::V4 => [10, 96, 0, u8::try_from(n).expect("small")].into(),
        Family::V6 => [0xfd00, 0x96, 0, 0, 0, 0, 0, n].into(),
    };
    Frontend { address: FrontendAddress::Ip(address), protocol: Protocol::Tcp, port: 80 }
}

/// Adds what came later, of endpoints that are still there.
fn plus(all: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (endpoint, count) in more {
        *all.entry(endpoint).or_default() += count;
    }
}

/// The name of an endpoint of a Service: its address.
fn name(n: u16, endpoint: u16) -> String {
    format!("10.128.{n}.{endpoint}")
}

#[test]
fn connections_are_counted_and_counts_outlive_their_elements() {
    let mut machine = Machine::new();
    let mut nftables = machine.open(ALL);
    machine.serve(&mut nftables, [service(1, &[1, 2, 3]), service(2, &[])]);
    let web = cluster_ip(Family::V4, 1);
    let mut of = machine.connect(web, 30);
    machine.assert_counted(web, 30, &of);
    let v6 = cluster_ip(Family::V6, 1);
    let mut of_v6 = machine.connect(v6, 5);
    machine.assert_counted(v6, 5, &of_v6);
    let listing = nft(&machine.netns, &["list", "map", "inet", "shunt", "frontends_v4"]);
    assert!(listing.contains("10.96.0.1 . tcp . 80 counter packets 30 bytes"), "{listing}");

    // What is refused is counted too: without an answer it may be sent again.
    let refused = "10.96.0.2:80".parse().expect("an address");
    let refused = machine.netns.tcp_connect(refused, PATIENCE);
    assert!(refused.is_err());
    let place = Place::everyone(cluster_ip(Family::V4, 2));
    assert_eq!(machine.counted().expect("counts").frontends[&place].packets, 1);

    // A larger chain, so another verdict; the endpoint that goes leaves its slot to the last one.
    let report = machine.serve(&mut nftables, [service(1, &[2, 3, 4, 5, 6]), service(2, &[])]);
    assert!(!report.read_back && report.rebuilt.is_none());
    of.remove(&name(1, 1));
    machine.assert_counted(web, 30, &of);
    plus(&mut of, machine.connect(web, 30));
    machine.assert_counted(web, 60, &of);
    // Another endpoint in the same chain: a data map alone changes.
    machine.serve(&mut nftables, [service(1, &[2, 4, 5, 6, 7]), service(2, &[])]);
    of.remove(&name(1, 3));
    machine.assert_counted(web, 60, &of);

    // A set grows: the table is replaced.
    let many = || (3..900).map(|n| service(n, &[1, 2]));
    let more = [service(1, &[2, 4, 5, 6, 7]), service(2, &[])].into_iter().chain(many());
    let report = machine.serve(&mut nftables, more);
    assert_eq!(report.rebuilt, Some("a set had to grow"));
    machine.assert_counted(web, 60, &of);
    of_v6.retain(|endpoint, _| !endpoint.ends_with(":1:1") && !endpoint.ends_with(":1:3"));
    machine.assert_counted(v6, 5, &of_v6);

    // After a restart nothing is written, and all is still there.
    drop(nftables);
    let mut nftables = machine.open(ALL);
    let again = |nftables: &mut Nftables| {
        let mut all = delta(&Plan::default(), &machine.plan);
        all.node = Some(Arc::clone(&machine.plan.node));
        nftables.sync(all).expect("a sync")
    };
    let report = again(&mut nftables);
    assert_eq!((report.operations, report.rebuilt), (0, None));
    machine.assert_counted(web, 60, &of);

    // Another choice replaces the table, in one transaction, and what it still counts stays.
    let reason = Some("something else is counted now");
    for (counting, left) in [(Counting::Frontends, Some(60)), (Counting::Nothing, None)] {
        drop(nftables);
        nftables = machine.open(Options { counting, ..ALL });
        let report = again(&mut nftables);
        assert_eq!((report.rebuilt, report.transactions), (reason, 1));
        let counts = machine.counted();
        assert_eq!(counts.as_ref().map(|all| all.frontends[&Place::everyone(web)].packets), left);
        assert!(counts.is_none_or(|all| all.endpoints.is_empty()));
        machine.connect(web, 1);
    }
}

#[test]
fn an_endpoint_that_keeps_some_of_its_slots_keeps_its_count() {
    let mut machine = Machine::new();
    let mut nftables = machine.open(ALL);
    let hash = Balancing { method: Method::HashConnection, ..Balancing::default() };
    let by_hash = |endpoints: &[u16]| balanced(service(1, endpoints), hash.clone(), false);
    let weighted = |endpoints: &[u16]| balanced(service(2, endpoints), Balancing::default(), true);
    machine.serve(&mut nftables, [by_hash(&[1, 2, 3]), weighted(&[1, 2, 3])]);
    let (hashed, weighed) = (cluster_ip(Family::V4, 1), cluster_ip(Family::V4, 2));
    let mut of_hashed = machine.connect(hashed, 30);
    let of_weighed = machine.connect(weighed, 30);
    machine.assert_counted(hashed, 30, &of_hashed);
    machine.assert_counted(weighed, 30, &of_weighed);
    // Each gives some of its slots up to the new one.
    let lighter = service(2, &[1, 2, 3]);
    machine.serve(&mut nftables, [by_hash(&[1, 2, 3, 4]), lighter]);
    machine.assert_counted(hashed, 30, &of_hashed);
    machine.assert_counted(weighed, 30, &of_weighed);
    plus(&mut of_hashed, machine.connect(hashed, 30));
    machine.assert_counted(hashed, 60, &of_hashed);
    // The same record as the kernel's.
    drop(nftables);
    let mut nftables = machine.open(ALL);
    let mut all = delta(&Plan::default(), &machine.plan);
    all.node = Some(Arc::clone(&machine.plan.node));
    assert_eq!(nftables.sync(all).expect("a sync").operations, 0);
}

/// A client is sent where it was, and each of its connections is counted once; and that also after
/// the table was replaced because a set had to grow.
#[test]
fn clients_are_remembered_when_sets_grow() {
    let mut machine = Machine::new();
    let mut nftables = machine.open(ALL);
    let affinity = Affinity { seconds: 10_800, scope: AffinityScope::Port };
    let balancing = Balancing { affinity: Some(affinity), ..Balancing::default() };
    // Others before it, whose numbers are not needed any more when it is numbered anew.
    let sticky = |n: u16| balanced(service(n, &[1, 2, 3, 4, 5, 6, 7]), balancing.clone(), false);
    machine.serve(&mut nftables, [sticky(1), sticky(2), sticky(3)]);
    for family in Family::ALL {
        let kept: Vec<_> = [1, 2, 3].map(|n| machine.connect(cluster_ip(family, n), 20)).into();
        for (n, reached) in (1..).zip(&kept) {
            assert_eq!(reached.len(), 1, "one client, one endpoint: {reached:?}");
            machine.assert_counted(cluster_ip(family, n), 20, reached);
        }
    }
    let before: Vec<_> =
        [2, 3].map(|n| machine.connect(cluster_ip(Family::V4, n), 1)).into_iter().collect();
    machine.serve(&mut nftables, [sticky(2), sticky(3)]);
    let many = (4..900).map(|n| service(n, &[1, 2]));
    let report = machine.serve(&mut nftables, [sticky(2), sticky(3)].into_iter().chain(many));
    assert_eq!(report.rebuilt, Some("a set had to grow"));
    // Six others of seven would be drawn otherwise, for each of the two.
    for _ in 0..5 {
        let after: Vec<_> =
            [2, 3].map(|n| machine.connect(cluster_ip(Family::V4, n), 1)).into_iter().collect();
        assert_eq!(after, before);
    }
    let memory = nft(&machine.netns, &["list", "map", "inet", "shunt", "affinity_v6"]);
    let expires = memory.matches("timeout 3h expires 2h59m").count();
    assert_eq!(expires, 3, "with the time that was left: {memory}");
    // A rebuild by the next process as well.
    drop(nftables);
    let mut nftables = machine.open(Options { counting: Counting::Nothing, ..ALL });
    let mut all: PlanDelta = delta(&Plan::default(), &machine.plan);
    all.node = Some(Arc::clone(&machine.plan.node));
    let report = nftables.sync(all).expect("a sync");
    assert_eq!(report.rebuilt, Some("something else is counted now"));
    let after: Vec<_> =
        [2, 3].map(|n| machine.connect(cluster_ip(Family::V4, n), 1)).into_iter().collect();
    assert_eq!(after, before);
}
