//! Two nodes with pods, and someone outside, under policies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc::NETLINK_NETFILTER;
use shunt_cluster::{Cluster, ClusterSpec, EchoServer, Families, NodeSpec};
use shunt_netlink::Socket;
use shunt_netpolicy::cluster::PeerNode;
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::store::{Dirty, Store};
use shunt_netpolicy_nftables::kernel::{Change, Options, PolicyTable, dropped};

use crate::world::pod;

pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];
pub(crate) const PODS: [(&str, &[&str]); 2] =
    [("node-1", &["a", "b", "c"]), ("node-2", &["d", "e"])];
pub(crate) const PORTS: [u16; 2] = [8080, 8081];
/// The objects, and each node's table.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    _servers: Vec<EchoServer>,
    pub(crate) store: Store,
    pub(crate) nodes: BTreeMap<&'static str, (Compiler, PolicyTable)>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let cluster = Cluster::build(&ClusterSpec {
            families: Families::Dual,
            nodes: PODS.iter().map(|(node, pods)| NodeSpec::new(node, pods)).collect(),
            clients: vec!["client".to_owned()],
            ..ClusterSpec::default()
        })
        .expect("a cluster: these tests need root");
        let client = cluster.host("client").expect("the client");
        for (node, network) in [
            ("node-1", "10.77.1.0/24"),
            ("node-2", "10.77.2.0/24"),
            ("node-1", "fd00:10:77:1::/64"),
            ("node-2", "fd00:10:77:2::/64"),
        ] {
            let network: IpNet = network.parse().expect("a network");
            let via = cluster.host(node).expect("a node").addresses().iter();
            let via = via.copied().find(|via| via.is_ipv4() == network.addr().is_ipv4());
            client.add_route(network, via.expect("an address")).expect("a route");
        }
        let serve = |host: &shunt_cluster::Host| {
            EchoServer::start(host.netns(), host.name(), &PORTS).expect("a server")
        };
        let nodes = NODES.iter().map(|node| cluster.host(node).expect("a node"));
        let servers = cluster.pods().chain(nodes).map(serve).collect();
        let open = |node: &'static str| {
            let netns = cluster.host(node).expect("a node").netns();
            let table = netns.run(|| PolicyTable::open(true)).expect("nftables").with(options);
            (node, (Compiler::new(node).counting(options.variant.counting), table))
        };
        let nodes = NODES.map(open).into();
        let mut store = Store::new();
        for node in NODES {
            let own = cluster.host(node).expect("a node").addresses().to_vec();
            store.put_machine(&node.into(), own.iter().copied().collect());
            let labels = [("node".into(), node.into())].into();
            store.put_node(PeerNode { name: node.into(), labels, addresses: own });
        }
        Self { cluster, _servers: servers, store, nodes }
    }

    pub(crate) fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.cluster.host(host).expect("a host").addresses().to_vec()
    }

    /// Gives a pod its labels.
    pub(crate) fn label(
        &mut self,
        node: &str,
        name: &str,
        namespace: &str,
        labels: &[(&str, &str)],
    ) -> Dirty {
        let addresses: Vec<_> = self.addresses(name).iter().map(ToString::to_string).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let old = self.store.pods().find(|pod| *pod.key.name == *name).map(|pod| pod.key.clone());
        let mut dirty = Dirty::default();
        if let Some(key) = old.filter(|key| *key.namespace != *namespace) {
            dirty.merge(self.store.remove_pod(&key));
        }
        dirty.merge(self.store.put_pod(pod(namespace, name, node, &addresses, labels)));
        dirty
    }

    pub(crate) fn sync(&mut self, dirty: &Dirty) {
        for (node, (compiler, table)) in &mut self.nodes {
            let own = self.cluster.host(node).expect("a node").addresses().iter().copied();
            let change = Change {
                table: compiler.update(&self.store, dirty),
                own: Some(own.collect()),
                ..Change::default()
            };
            table.sync(change).unwrap_or_else(|error| panic!("{node}: {error}: {error:?}"));
        }
    }

    /// How many packets the nodes have dropped, by the kernel's counters.
    pub(crate) fn dropped(&self) -> u64 {
        let of = |node: &str| {
            let netns = self.cluster.host(node).expect("a node").netns();
            let ask = || dropped(&mut Socket::open(NETLINK_NETFILTER).expect("a socket"));
            // Without an isolated pod there is no table.
            netns.run(ask).map_or(0, |dropped| dropped.ingress + dropped.egress)
        };
        NODES.map(of).iter().sum()
    }
}
