//! Scenarios: Services as YAML in, what happens to flows out; on the oracle and on a real kernel.
//!
//! A scenario is a directory under `kind-tests/scenarios`; its README describes the format. Each step is checked
//! twice: on the plan that the daemon's own code makes of the manifests, asked through the model's oracle; and with
//! real daemons on the nodes of a cluster of network namespaces, and real packets. Both share the code from manifests
//! to plan: against mistakes in that, only the flows stand, which a person has written.

mod binary;
pub mod daemon;
mod difference;
mod explained;
mod flow;
mod lab;
mod names;
mod need;
mod oracle;
mod peer;
mod policy;
mod probe;
mod run;
mod setup;
mod site;
mod step;
pub mod storm;
mod table;
mod text;
mod virtual_servers;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use shunt_cluster::Network;
use shunt_nftables::forwarding::Forwarding;

use crate::guest::Clock;
use crate::kube_proxy::Mode;
pub use binary::{shunt_binary, shunt_binary_or};
use need::Need;
pub use run::Played;
use setup::Setup;
use step::Step;

/// A scenario, read and checked for mistakes.
#[derive(Clone, Debug)]
pub struct Scenario {
    name: String,
    setup: Setup,
    steps: Vec<Step>,
}

impl Scenario {
    /// Where all scenarios are.
    #[must_use]
    pub fn home() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
    }

    /// Reads a scenario. Mistakes in it are errors that name file and line.
    ///
    /// # Errors
    /// If it cannot be read, or makes no sense.
    pub fn load(directory: &Path) -> Result<Self> {
        let name =
            directory.file_name().and_then(OsStr::to_str).context("a directory has a name")?;
        let setup = Setup::load(directory)?;
        let steps = step::load_all(directory, &setup)?;
        Ok(Self { name: name.to_owned(), setup, steps })
    }

    /// The name of its directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this machine's kernel has what it needs. Where it lacks something, the guest has it.
    #[must_use]
    pub fn is_playable_here(&self) -> bool {
        self.setup.needs.iter().all(|need| need.is_met())
    }

    /// Whether it is about a network, which it names itself.
    #[must_use]
    pub fn has_its_network(&self) -> bool {
        self.setup.cluster.network != Network::default()
    }

    /// The same scenario on another network than the one that scenarios are written for.
    ///
    /// # Errors
    /// If it gives an address to a node that is another's at the devices of that network.
    pub fn on(&self, network: Network) -> Result<Self> {
        let mut scenario = self.clone();
        scenario.setup.choose(network)?;
        Ok(scenario)
    }

    /// The clock of the guest that it can be played in.
    #[must_use]
    pub fn clock(&self) -> Clock {
        let travels = self.setup.needs.contains(&Need::TimeTravel);
        if travels { Clock::TimeTravel } else { Clock::Running }
    }

    /// Plays it. Needs root.
    ///
    /// # Errors
    /// At the first step that does not come out as expected; the error tells all flows of that step that failed.
    pub fn play(&self) -> Result<Played> {
        run::play(self)
    }

    /// Plays it with the IPVS backend, which the kernel must have. Needs root.
    ///
    /// # Errors
    /// As [`play`](Self::play).
    pub fn play_with_ipvs(&self) -> Result<Played> {
        let mut scenario = self.clone();
        scenario.setup.forwarding = Forwarding::VirtualServers;
        scenario.setup.flags.push("--proxy-mode=ipvs".to_owned());
        scenario.play()
    }

    /// Plays it on the real kube-proxy, as far as that plays it. Needs root.
    ///
    /// # Errors
    /// With all flows that are otherwise than for shunt, or otherwise than declared.
    pub fn play_on(&self, mode: Mode) -> Result<Played> {
        peer::play(self, mode)
    }

    /// The rows of `docs/differences.md` that its flows name.
    #[must_use]
    pub fn differences(&self) -> BTreeSet<&str> {
        let of_flows = self.steps.iter().flat_map(|step| &step.flows);
        let differences = of_flows.flat_map(|flow| &flow.differences);
        let absences = self.steps.iter().flat_map(|step| &step.absences);
        differences.chain(absences).map(|difference| difference.because.as_str()).collect()
    }
}
