//! What the operator has set.

use std::time::Duration;

use ipnet::IpNet;
use ipvs_rs::{Flags, Timeouts};
use shunt_nftables::counting::Counting;

/// The mark of a virtual server of ours: bits of its flags that neither the kernel nor `ipvsadm`
/// knows; the kernel keeps them as long as the virtual server lives. Whatever has no such mark is
/// someone else's.
pub const OURS: Flags = Flags(0x7368_0000);

/// What the operator has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The scheduler of Services that ask for none.
    pub scheduler: String,
    /// Virtual servers in these networks are never removed.
    pub exclude: Vec<IpNet>,
    /// Answer ARP for an address only on the interface that has it, as MetalLB wants it.
    pub strict_arp: bool,
    /// Timeouts to set; 0 leaves one as it is.
    pub timeouts: Timeouts,
    /// Claim the nftables table where the kernel can.
    pub owner: bool,
    /// How often virtual servers are compared with what is known of them, in turns.
    pub patrol: Duration,
    /// What the nftables table counts. IPVS itself counts all that it forwards.
    pub counting: Counting,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheduler: "rr".to_owned(),
            exclude: Vec::new(),
            strict_arp: false,
            timeouts: Timeouts::default(),
            owner: true,
            patrol: Duration::from_secs(30),
            counting: Counting::Nothing,
        }
    }
}
