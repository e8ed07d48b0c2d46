//! The kernel's expressions: the instructions that rules are made of
//! (`include/uapi/linux/netfilter/nf_tables.h`).

mod encode;

use shunt_model::address::Family;
use shunt_netlink::Message;

use crate::name::SetId;

/// A register of four bytes, counted from 0 (`NFT_REG32_00`); longer values fill the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    const fn number(self) -> u32 {
        8 + self.0
    }
}

/// Where a rule ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `drop`
    Drop,
    /// `accept`
    Accept,
    /// `goto`: not to return here.
    Goto(String),
    /// `jump`: to return here.
    Jump(String),
}

impl Verdict {
    /// Writes `NFTA_DATA_VERDICT` into a data nest.
    pub(crate) fn write(&self, message: &mut Message) {
        let mut to = |code, chain: &str| {
            message.nest(2, |message| {
                message.u32(1, code);
                message.text(2, chain);
            });
        };
        match self {
            Self::Drop => message.nest(2, |message| message.u32(1, NF_DROP)),
            Self::Accept => message.nest(2, |message| message.u32(1, NF_ACCEPT)),
            Self::Goto(chain) => to(NFT_GOTO, chain),
            Self::Jump(chain) => to(NFT_JUMP, chain),
        }
    }
}

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `NFT_JUMP`, -3.
const NFT_JUMP: u32 = 0xffff_fffd;
/// `NFT_GOTO`, -4.
pub(crate) const NFT_GOTO: u32 = 0xffff_fffc;

/// What `reject` answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A TCP reset.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
}

/// One instruction. `Mixed` bits of meaning (key sizes, header offsets) are resolved when the
/// layout is made, so that encoding has no choice left. `S` names the sets of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression<S = SetId> {
    /// `meta nfproto` is this family: the rule is for its packets only.
    FamilyIs(Family),
    /// `meta protocol` is this family: the same in a table of family `bridge`.
    SwitchedFamilyIs(Family),
    /// `meta l4proto` is this number.
    ProtocolIs(u8),
    /// `meta l4proto { tcp, udp, sctp }`, by an anonymous set of the rule.
    ServiceProtocol,
    /// `ct status dnat`.
    DestinationTranslated,
    /// `fib saddr type local`: an address of this machine.
    SourceIsLocal,
    /// `fib daddr type != local`: no address of this machine.
    DestinationIsForeign,
    /// `ip saddr 127.0.0.0/8`
    SourceIsLoopback,
    /// `ip daddr 127.0.0.0/8`
    DestinationIsLoopback,
    /// `iif != "lo"`: by another interface than the loopback one, which is always the first.
    InputIsNotLoopback,
    /// `iif 0`: by none. In postrouting that is what this machine sends, and what a bridge switches.
    InputIsNone,
    /// `meta l4proto`
    LoadProtocol(Register),
    /// `iifname`: 16 bytes; empty where a packet comes in by no interface.
    LoadInputName(Register),
    /// `oifname`, likewise.
    LoadOutputName(Register),
    /// `ip saddr`, `ip6 saddr`
    LoadSource(Family, Register),
    /// `ip daddr`, `ip6 daddr`
    LoadDestination(Family, Register),
    /// `th dport`
    LoadPort(Register),
    /// `th sport`
    LoadSourcePort(Register),
    /// `ct original ip daddr`
    LoadOriginalDestination(Family, Register),
    /// `ct original proto-dst`
    LoadOriginalPort(Register),
    /// `ct original ip saddr`: who opened the connection, before any translation.
    LoadOriginalSource(Family, Register),
    /// `ct reply ip saddr`: who answers, after a translation of the destination.
    LoadReplySource(Family, Register),
    /// `ct reply proto-src`: the port that answers.
    LoadReplyPort(Register),
    /// `meta priority`
    LoadPriority(Register),
    /// Four bytes in a register from the host's order into the network's. nft writes keys of sets of
    /// ranges so, and has no words for it.
    ToNetworkOrder(Register),
    /// `meta priority & ffff:0`: the group in an id of session affinity.
    LoadGroup(Register),
    /// `meta priority & 8000:0 == 8000:0`: an id of session affinity.
    PriorityIsId,
    /// `meta priority set`
    SetPriority(Register),
    /// `meta priority set 0`
    ClearPriority,
    /// `meta priority 0`
    PriorityIsClear,
    /// `ct state`: one of these bits (`NF_CT_STATE_BIT`).
    StateIs(u32),
    /// `ct direction reply`: towards whoever opened the connection.
    IsAnswer,
    /// `ct original proto-dst`: the connection was opened to this port.
    OriginalPortIs(u16),
    /// `udp sport`
    SourcePortIs(u16),
    /// `icmpv6 type 133-137`: neighbours and routers being found.
    NeighbourDiscovery,
    /// `tcp flags & (syn | ack) != syn`: not the first packet of a connection.
    NotFirstOfTcp,
    /// `tcp flags & (syn | ack) == syn`: the first packet of a connection.
    FirstOfTcp,
    /// `numgen random mod N`
    Random(Register, u32),
    /// `jhash ... mod N seed S` of so many bytes in registers.
    Hash {
        /// Where they begin.
        from: Register,
        /// How many bytes.
        length: u32,
        /// Where the number goes.
        register: Register,
        /// The number is below this.
        modulus: u32,
    },
    /// Continue only if the key is in the set (or is not, if inverted).
    In {
        /// The set.
        set: S,
        /// The first register of the key.
        key: Register,
        /// Continue if it is not.
        inverted: bool,
    },
    /// Replace the key by its value in the map; do not continue without one.
    Map {
        /// The map.
        set: S,
        /// The first register of the key.
        key: Register,
        /// The first register of the value.
        value: Register,
    },
    /// `update @map { key timeout T : value }`: remember it, or for longer if it is there already.
    /// What has no room in the map ends the rule.
    Remember {
        /// The map.
        set: S,
        /// The first register of the key.
        key: Register,
        /// The register of the value.
        value: Register,
        /// For how long.
        seconds: u32,
    },
    /// `delete @map { key : value }`: forget it.
    Forget {
        /// The map.
        set: S,
        /// The first register of the key.
        key: Register,
        /// A value, which does not matter: the kernel wants one.
        value: Register,
    },
    /// End with the verdict that the map has for the key, if any.
    VerdictMap {
        /// The map.
        set: S,
        /// The first register of the key.
        key: Register,
    },
    /// `dnat to`, address and port.
    TranslateDestination {
        /// Of the address.
        family: Family,
        /// Where the address is.
        address: Register,
        /// Where the port is.
        port: Register,
    },
    /// `masquerade fully-random`: ports are drawn, so that racing connections do not collide.
    Masquerade,
    /// `reject with`
    Reject(Rejection),
    /// `counter`
    Counter,
    /// `limit rate N/second burst M packets`: continue so often at most.
    Limit {
        /// Packets a second.
        rate: u32,
        /// Packets at once.
        burst: u32,
    },
    /// `log prefix ... group N snaplen M`, to whoever listens to that group (`NFLOG`).
    Log {
        /// The prefix.
        prefix: &'static str,
        /// The group.
        group: u16,
        /// How much of a packet, in bytes.
        length: u32,
    },
    /// `queue flags bypass to N`: whoever listens to that queue says when the packet goes on; if nobody does, it does at
    /// once.
    Queue(u16),
    /// End.
    End(Verdict),
}

/// The seed of every hash: the same on all nodes, so that they make the same choice.
pub(crate) const HASH_SEED: u32 = 0x7368_756e;
