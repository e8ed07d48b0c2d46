//! The rules that Flannel masquerades with (`--ip-masq`), written by stock `nft` as Flannel does.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use crate::host::Host;
use crate::numbering;

/// Gives a node the rules: what a pod sends to anyone but pods gets the node's address, and so does what others send to
/// pods of other nodes.
pub(crate) fn prepare(node: &Host, pod_networks: &[IpNet]) -> Result<()> {
    let mut script = String::new();
    for own in pod_networks {
        script += &rules(*own, numbering::in_all_pods(own.addr()).trunc());
    }
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = node.netns.spawn(command).context("Flannel's rules take nft")?;
    let (input, _, _) = nft.pipes();
    input.context("its input")?.write_all(script.as_bytes())?;
    let status = nft.wait_timeout(std::time::Duration::from_secs(20))?;
    ensure!(status.is_some_and(|status| status.success()), "nft: {status:?}");
    Ok(())
}

/// As in Flannel's `pkg/trafficmngr/nftables`.
fn rules(own: IpNet, all: IpNet) -> String {
    let (ip, table, multicast) = match own {
        IpNet::V4(_) => ("ip", "flannel-ipv4", "224.0.0.0/4"),
        IpNet::V6(_) => ("ip6", "flannel-ipv6", "ff00::/8"),
    };
    format!(
        "table inet {table} {{
          chain postrtg {{
            type nat hook postrouting priority srcnat; policy accept;
            meta mark & 0x4000 == 0x4000 return
            {ip} saddr {own} {ip} daddr {all} return
            {ip} saddr {all} {ip} daddr {own} return
            {ip} saddr != {all} {ip} daddr {own} return
            {ip} saddr {all} {ip} daddr != {multicast} masquerade fully-random
            {ip} saddr != {all} {ip} daddr {all} masquerade fully-random
          }}
        }}\n"
    )
}
