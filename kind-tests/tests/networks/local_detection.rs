//! The modes that find out by devices, or by the Node, who is local. (By `--cluster-cidr` the scenarios of the matrix do.)

use anyhow::{Context, Result, ensure};
use shunt_cluster::Network;
use shunt_kind_tests::guest::{self, Clock};
use shunt_kind_tests::scenario::Scenario;

use crate::{Backend, twice};

/// Where each is played, and a scenario.
const MODES: &[(&[Network], &str)] = &[
    (
        &[Network::Routed, Network::Ipip, Network::Ptp, Network::CniPtp, Network::Geneve],
        "masquerade-and-policies-by-interface-prefix",
    ),
    (
        &[
            Network::Ipip,
            Network::Ptp,
            Network::Bridge,
            Network::FlannelVxlan,
            Network::CniPtp,
            Network::Geneve,
        ],
        "node-cidr-masquerades-outsiders",
    ),
];

fn play(backend: Backend) -> Result<()> {
    let mut played = 0;
    for (networks, name) in MODES {
        for network in networks.iter().filter(|network| network.is_possible_here()) {
            let scenario = Scenario::load(&Scenario::home().join(name))?.on(*network)?;
            let at = format!("{name} on {} with {}", network.name(), backend.name());
            let done = twice(&at, || match backend {
                Backend::Nftables => scenario.play(),
                Backend::Ipvs => scenario.play_with_ipvs(),
            });
            done.context(at)?;
            played += 1;
        }
    }
    ensure!(played >= 3, "{played} were played");
    Ok(())
}

#[test]
fn nftables() -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    play(Backend::Nftables)
}

#[test]
#[ignore = "needs IPVS; the test below runs it in the guest"]
fn ipvs() -> Result<()> {
    play(Backend::Ipvs)
}

#[test]
fn ipvs_in_the_guest() -> Result<()> {
    guest::replay(&["local_detection::ipvs"])
}
