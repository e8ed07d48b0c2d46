//! The same policies as others put them into rules, loaded by stock `nft`.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_cluster::Netns;

use super::scene::{CLASSES, CLIENT, Rule, Scene, TEAMS, class_name};
use crate::traffic::Node;

/// The longest that `nft` may take.
const LOAD: Duration = Duration::from_secs(300);

/// A way to write policies as rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One chain with a rule for each policy, as controllers start out.
    Linear,
    /// A chain for each pod, which goes through a chain for each of its policies (kube-router, Calico).
    ChainPerPod,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear chain",
            Self::ChainPerPod => "chain per pod",
        })
    }
}

impl Layout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Linear, Self::ChainPerPod];

    /// Loads the policies of a scene in a namespace.
    ///
    /// # Errors
    /// If `nft` does not take them.
    pub fn load(self, scene: &Scene, netns: &Netns) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(self.script(scene).as_bytes())?;
        let mut command = Command::new("nft");
        command.arg("-f").arg(file.path()).stdin(Stdio::null());
        let mut process = netns.spawn(command).context("nft")?;
        let status = process.wait_timeout(LOAD)?.context("nft does not end")?;
        ensure!(status.success(), "nft: {status}");
        Ok(())
    }

    /// The script. Peers are in one set for each class, which is kinder than a set for each policy.
    #[must_use]
    pub fn script(self, scene: &Scene) -> String {
        let mut out = String::from("table inet bench {\n");
        let client = [Node::pod(CLIENT)];
        set(&mut out, "client", &client);
        for class in 0..CLASSES {
            set(&mut out, &set_name(&class_name(class)), &scene.peers(class));
        }
        let rules = (0..scene.policies).map(|number| scene.rule(number));
        match self {
            Self::Linear => linear(&mut out, scene, rules),
            Self::ChainPerPod => chain_per_pod(&mut out, scene, rules),
        }
        out.push_str("}\n");
        out
    }
}

const BASE: &str =
    "chain forward { type filter hook forward priority 0; ct state established,related accept\n";

fn linear(out: &mut String, scene: &Scene, rules: impl Iterator<Item = Rule>) {
    let everyone: Vec<_> = (0..scene.teams()).flat_map(|team| scene.locals(team)).collect();
    set(out, "isolated", &everyone);
    for team in 0..scene.teams() {
        set(out, &format!("team_{team}"), &scene.locals(team));
    }
    out.push_str(BASE);
    out.push_str("ip daddr != @isolated accept\n");
    for Rule { team, class, port } in rules {
        let peers = set_name(&class);
        let _ = writeln!(out, "ip daddr @team_{team} ip saddr @{peers} tcp dport {port} accept");
    }
    out.push_str("drop\n}\n");
}

fn chain_per_pod(out: &mut String, scene: &Scene, rules: impl Iterator<Item = Rule>) {
    let mut of_team = vec![Vec::new(); TEAMS];
    for (number, Rule { team, class, port }) in rules.enumerate() {
        let peers = set_name(&class);
        let _ =
            writeln!(out, "chain policy_{number} {{ ip saddr @{peers} tcp dport {port} accept; }}");
        of_team[team].push(number);
    }
    let mut dispatch = Vec::new();
    for (team, policies) in of_team.iter().enumerate().take(scene.teams()) {
        for (n, address) in scene.locals(team).into_iter().enumerate() {
            let _ = writeln!(out, "chain pod_{team}_{n} {{");
            for number in policies {
                let _ = writeln!(out, "jump policy_{number}");
            }
            out.push_str("drop\n}\n");
            dispatch.push(format!("{address} : goto pod_{team}_{n}"));
        }
    }
    let _ = writeln!(
        out,
        "map pods {{ type ipv4_addr : verdict; elements = {{ {} }}; }}",
        dispatch.join(", ")
    );
    out.push_str(BASE);
    out.push_str("ip daddr vmap @pods\n}\n");
}

fn set_name(class: &str) -> String {
    class.replace('-', "_")
}

fn set(out: &mut String, name: &str, addresses: &[IpAddr]) {
    let _ = write!(out, "set {name} {{ type ipv4_addr; ");
    if !addresses.is_empty() {
        let elements: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let _ = write!(out, "elements = {{ {} }}; ", elements.join(", "));
    }
    out.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_a_rule_and_the_last_one_lets_the_client_in() {
        let scene = Scene { pods: 2000, policies: 300 };
        let linear = Layout::Linear.script(&scene);
        assert_eq!(linear.matches("accept\n").count(), 2 + 300, "each, and the two before them");
        let last = linear.lines().rfind(|line| line.contains("dport")).unwrap_or_default();
        assert_eq!(last, "ip daddr @team_0 ip saddr @client tcp dport 9000 accept");
        let chains = Layout::ChainPerPod.script(&scene);
        assert_eq!(chains.matches("chain policy_").count(), 300);
        assert_eq!(chains.matches("chain pod_").count(), 111);
    }
}
