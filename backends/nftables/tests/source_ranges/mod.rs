//! Source ranges that give way to others, on a real kernel while a client asks.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use shunt_cluster::Netns;
use shunt_model::address::{Family, FrontendAddress, Protocol};
use shunt_model::plan::Plan;
use shunt_nftables::kernel::Nftables;

use crate::common::{delta, node, service};
use crate::reader::{nft, open_when_free};
use crate::{OWNER, all, sync};

/// In the last range of each Service, the old one and the new.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 3, 254, 5);
const PORT: u16 = 80;
/// Slots of four frontends: nearly what a transaction takes.
const MANY: u16 = 4850;

/// Ranges of this length that do not touch.
fn ranges(prefix: u8) -> Vec<IpNet> {
    let network = |b| Ipv4Net::new(Ipv4Addr::new(10, 3, b, 0), prefix).expect("a length");
    (176..=254).step_by(2).map(|b| network(b).into()).collect()
}

/// Load balancers with these source ranges, and a Service with so many endpoints: with many of them
/// a change takes more than one transaction, and is cut where the ranges are.
fn plan(ranges: &[IpNet], endpoints: u16) -> Plan {
    let services = (0..25_u16).map(|n| {
        let (key, service) = service(10 * n + 4, &[2]);
        let mut service = (*service).clone();
        for plan in &mut service.frontends {
            plan.frontend.protocol = Protocol::Udp;
            if plan.frontend.family() == Family::V4 && plan.sources.is_some() {
                plan.sources = Some(ranges.iter().copied().collect());
            }
        }
        (key, Arc::new(service))
    });
    let large = service(1, &(1..=endpoints).collect::<Vec<_>>());
    Plan { node: node(), services: services.chain([large]).collect() }
}

/// Where the client asks.
fn guarded(plan: &Plan) -> Vec<SocketAddr> {
    let frontends = plan.services.values().flat_map(|service| &service.frontends);
    let guarded = frontends.filter(|plan| plan.sources.is_some());
    let addresses = guarded.filter_map(|plan| match plan.frontend.address {
        FrontendAddress::Ip(ip) => Some(SocketAddr::new(ip, PORT)),
        FrontendAddress::Node(_) => None,
    });
    addresses.filter(SocketAddr::is_ipv4).collect()
}

/// A namespace that is the client too, and where all packets leave by a link that ends there.
fn world() -> Netns {
    let netns = Netns::new("node").expect("a network namespace: this test needs root");
    for arguments in [
        "link set lo up",
        "link add out type veth peer name nowhere",
        "link set out arp off up",
        "link set nowhere up",
        &format!("address add {CLIENT}/32 dev out"),
        "route add default dev out",
    ] {
        let mut ip = Command::new("ip");
        ip.args(arguments.split(' '));
        let status = netns.run(move || ip.status());
        assert!(status.expect("ip").success(), "{arguments}");
    }
    netns
}

/// Asks each frontend again and again, each time as a new connection; how many there were.
fn ask_all(to: &[SocketAddr], ended: &AtomicBool) -> usize {
    let mut asked = 0;
    while !ended.load(Ordering::Relaxed) {
        to.iter().copied().for_each(ask);
        asked += to.len();
    }
    asked
}

fn ask(to: SocketAddr) {
    let socket = UdpSocket::bind((CLIENT, 0)).expect("a socket");
    // Whoever is dropped on the way out is told so.
    let _ = socket.send_to(b"?", to);
}

/// How many packets source ranges have dropped.
fn dropped(netns: &Netns) -> u64 {
    let chain = nft(netns, &["list", "chain", "inet", "shunt", "guard_v4"]);
    let mut words = chain.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).expect("a counter")
}

/// The kernel takes no ranges that overlap, so the old ones go before the new ones come: nobody sees
/// it in between, however many there are.
#[test]
fn who_is_in_the_old_range_and_in_the_new_is_never_refused() {
    let netns = world();
    let mut nftables = netns.run(|| open_when_free(|| Nftables::open(OWNER)));
    let (narrow, wide) = (ranges(24), ranges(23));
    // First with many endpoints, so that the sets need not grow later.
    let mut held = plan(&narrow, MANY);
    sync(&mut nftables, all(&held));
    let to = guarded(&held);
    let (first, ended) = (to[0], Arc::new(AtomicBool::new(false)));
    let asking = {
        let ended = Arc::clone(&ended);
        move || ask_all(&to, &ended)
    };
    thread::scope(|scope| {
        let client = scope.spawn(|| netns.run(asking));
        for (ranges, endpoints) in [(&narrow, 1), (&wide, MANY), (&wide, 1), (&narrow, MANY)] {
            let next = plan(ranges, endpoints);
            let report = sync(&mut nftables, delta(&held, &next));
            assert!(report.rebuilt.is_none(), "{report:?}");
            held = next;
        }
        ended.store(true, Ordering::Relaxed);
        let asked = client.join().expect("the client");
        println!("{asked} asked");
        assert!(asked > 1000, "{asked} asked");
    });
    assert_eq!(dropped(&netns), 0, "the client is in all ranges");
    // That counter is the one that would tell.
    sync(&mut nftables, delta(&held, &plan(&[], MANY)));
    netns.run(move || ask(first));
    assert_eq!(dropped(&netns), 1);
}
