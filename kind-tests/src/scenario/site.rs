//! What a scenario is played on, whoever plays it: a cluster of namespaces, servers on its pods and nodes, connections
//! that are held.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use shunt_cluster::{Cluster, ClusterSpec, EchoServer, Host, Role};

use super::need::Need;
use super::probe::{Held, Memory, Prober};
use super::setup::Setup;
use super::step::{Act, Hold};
use super::table;
use crate::control_plane::{Flannel, Plane, Rules};

/// The cluster and all that is in it but proxies. Dropping it ends every namespace.
pub(super) struct Site<'a> {
    setup: &'a Setup,
    held: BTreeMap<String, (Hold, Held)>,
    memory: RefCell<Memory>,
    _servers: Vec<EchoServer>,
    ground: Ground,
}

/// Where the namespaces come from.
enum Ground {
    /// A cluster is all.
    Bare(Box<Cluster>),
    /// The cluster's network takes Flannel's daemons and their API server.
    Flannel { _daemons: Flannel, plane: Box<Plane> },
}

impl Ground {
    fn build(spec: &ClusterSpec) -> Result<Self> {
        Ok(if spec.network.takes_daemons() {
            // `nft` complains of the rules of `iptables` when it lists a node's ruleset, as every step has it do.
            let (daemons, plane) = Flannel::start(spec, Rules::Nftables)?;
            Self::Flannel { _daemons: daemons, plane: Box::new(plane) }
        } else {
            Self::Bare(Box::new(Cluster::build(spec)?))
        })
    }

    const fn cluster(&self) -> &Cluster {
        match self {
            Self::Bare(cluster) => cluster,
            Self::Flannel { plane, .. } => plane.cluster(),
        }
    }
}

impl<'a> Site<'a> {
    /// Builds it.
    pub(super) fn build(setup: &'a Setup) -> Result<Self> {
        let ground = Ground::build(&setup.cluster)?;
        let cluster = ground.cluster();
        let is_named = |host: &&Host| *host.role() != Role::ControlPlane;
        for host in cluster.hosts().filter(is_named) {
            let known = setup.names.resolve(host.name())?;
            ensure!(host.addresses() == known, "{} is not numbered as documented", host.name());
        }
        for host in cluster.hosts() {
            // The kernel sends one ICMP error a second to each peer; what is refused by one would seem dropped.
            for limit in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
                host.netns().sysctl(limit, "0")?;
            }
        }
        for (host, address) in &setup.addresses {
            cluster.host(host)?.add_address(*address)?;
        }
        for route in &setup.routes {
            let via = setup.names.host_like(&route.via, route.network.addr())?;
            cluster.host(&route.host)?.add_route(route.network, via)?;
        }
        for node in cluster.nodes() {
            setup
                .rules
                .iter()
                .try_for_each(|rules| table::nft(node.netns(), &[rules]).map(drop))?;
        }
        let mut servers = Vec::new();
        for host in cluster.pods().chain(cluster.nodes()) {
            for port in &setup.ports {
                let name = format!("{}:{port}", host.name());
                servers.push(EchoServer::start(host.netns(), &name, &[*port])?);
                if setup.needs.contains(&Need::Sctp) {
                    servers.push(EchoServer::start_sctp(host.netns(), &name, &[*port])?);
                }
            }
        }
        Ok(Self {
            setup,
            held: BTreeMap::new(),
            memory: RefCell::default(),
            _servers: servers,
            ground,
        })
    }

    /// The namespaces.
    pub(super) const fn cluster(&self) -> &Cluster {
        self.ground.cluster()
    }

    /// What sends probes.
    pub(super) fn prober(&self) -> Prober<'_> {
        Prober { cluster: self.cluster(), setup: self.setup, memory: &self.memory }
    }

    /// Opens a connection and keeps it.
    pub(super) fn hold(&mut self, hold: &Hold) -> Result<()> {
        let connection = self
            .prober()
            .hold(hold)
            .map_err(|error| hold.place.error(format_args!("{error:#}")))?;
        self.held.insert(hold.name.clone(), (hold.clone(), connection));
        Ok(())
    }

    /// Waits for what a step says will become of connections that are held.
    pub(super) fn follow(&mut self, acts: &[Act]) -> Result<()> {
        for act in acts {
            match act {
                Act::Moves(name, pod) => self.moves(name, pod)?,
                Act::Resets(name) => self.resets(name)?,
                Act::Asks(asks) => self.prober().asks(asks)?,
                Act::Ends(name) => self.ends(name)?,
                Act::Cut(name) => self.cut(name)?,
                Act::Narrow(pod, mtu) => self.cluster().narrow(pod, *mtu)?,
                Act::Learns(name, bytes) => self.learns(name, *bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until a held UDP flow is served by another pod.
    fn moves(&mut self, name: &str, pod: &str) -> Result<()> {
        let (hold, flow) =
            self.held.get_mut(name).with_context(|| format!("{name} is not held"))?;
        pod.clone_into(&mut hold.pod);
        flow.becomes(pod).map_err(|error| hold.place.error(format_args!("{error:#}")))
    }

    /// Has a held connection say more than a link on the way takes at once.
    fn learns(&mut self, name: &str, bytes: usize) -> Result<()> {
        let (hold, held) =
            self.held.get_mut(name).with_context(|| format!("{name} is not held"))?;
        let learnt = held.learns(&hold.pod, bytes);
        learnt.map_err(|error| hold.place.error(format_args!("{name}: {error:#}")))
    }

    /// Waits until a held TCP connection gets a reset.
    fn resets(&mut self, name: &str) -> Result<()> {
        let (hold, held) = self.held.remove(name).with_context(|| format!("{name} is not held"))?;
        held.expect_reset().map_err(|error| hold.place.error(format_args!("{error:#}")))
    }

    /// Waits until a held SCTP association is over.
    fn ends(&mut self, name: &str) -> Result<()> {
        let (hold, held) = self.held.remove(name).with_context(|| format!("{name} is not held"))?;
        held.expect_end().map_err(|error| hold.place.error(format_args!("{error:#}")))
    }

    /// Makes sure that a held connection does not live any more.
    fn cut(&mut self, name: &str) -> Result<()> {
        let (hold, mut held) =
            self.held.remove(name).with_context(|| format!("{name} is not held"))?;
        let lives = held.exchange(&hold.pod).is_ok();
        ensure!(!lives, "{}: the held connection {name} still lives", hold.place);
        Ok(())
    }

    /// Closes a held connection.
    pub(super) fn release(&mut self, name: &str) -> Result<()> {
        let (_, connection) =
            self.held.remove(name).with_context(|| format!("{name} is not held"))?;
        connection.close().with_context(|| format!("closing the held connection {name}"))
    }

    /// Closes all that is held.
    pub(super) fn release_all(&mut self) -> Result<()> {
        let names: Vec<_> = self.held.keys().cloned().collect();
        names.iter().try_for_each(|name| self.release(name))
    }

    /// Talks on every held connection.
    pub(super) fn use_held(&mut self) -> Result<()> {
        for (name, (hold, connection)) in &mut self.held {
            let lives = connection.exchange(&hold.pod);
            lives.with_context(|| {
                format!("{}: the held connection {name} does not live", hold.place)
            })?;
        }
        Ok(())
    }
}
