//! The kernel's expressions: the instructions that rules are made of
//! (`include/uapi/linux/netfilter/nf_tables.h`).

use shunt_model::address::Family;
use shunt_netlink::Message;

use crate::name::SetId;

/// A register of four bytes, counted from 0 (`NFT_REG32_00`); longer values fill the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    const fn number(self) -> u32 {
        8 + self.0
    }
}

/// Where a rule ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Goto(String),
}

impl Verdict {
    /// Writes `NFTA_DATA_VERDICT` into a data nest.
    pub(crate) fn write(&self, message: &mut Message) {
        message.nest(2, |message| match self {
            Self::Drop => message.u32(1, 0),
            Self::Goto(chain) => {
                message.u32(1, NFT_GOTO);
                message.text(2, chain);
            }
        });
    }
}

/// `NFT_GOTO`, -4.
pub(crate) const NFT_GOTO: u32 = 0xffff_fffc;

/// What `reject` answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    TcpReset,
    PortUnreachable,
}

/// One instruction. `Mixed` bits of meaning (key sizes, header offsets) are resolved when the
/// layout is made, so that encoding has no choice left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// `meta nfproto` is this family: the rule is for its packets only.
    FamilyIs(Family),
    /// `meta l4proto` is this number.
    ProtocolIs(u8),
    /// `meta l4proto { tcp, udp, sctp }`, by an anonymous set of the rule.
    ServiceProtocol,
    /// `ct status dnat`.
    DestinationTranslated,
    /// `fib saddr type local`: an address of this machine.
    SourceIsLocal,
    /// `meta l4proto`
    LoadProtocol(Register),
    /// `ip saddr`, `ip6 saddr`
    LoadSource(Family, Register),
    /// `ip daddr`, `ip6 daddr`
    LoadDestination(Family, Register),
    /// `th dport`
    LoadPort(Register),
    /// `ct original ip daddr`
    LoadOriginalDestination(Family, Register),
    /// `ct original proto-dst`
    LoadOriginalPort(Register),
    /// `numgen random mod N`
    Random(Register, u32),
    /// Continue only if the key is in the set (or is not, if inverted).
    In { set: SetId, key: Register, inverted: bool },
    /// Replace the key by its value in the map; do not continue without one.
    Map { set: SetId, key: Register, value: Register },
    /// End with the verdict that the map has for the key, if any.
    VerdictMap { set: SetId, key: Register },
    /// `dnat to`, address and port.
    TranslateDestination { family: Family, address: Register, port: Register },
    /// `masquerade fully-random`: ports are drawn, so that racing connections do not collide.
    Masquerade,
    /// `reject with`
    Reject(Rejection),
    /// `counter`
    Counter,
    /// End.
    End(Verdict),
}

/// The name by which the anonymous set of a rule is known within its transaction.
const ANONYMOUS: &str = "__set%d";

impl Expression {
    /// Writes the expression, or the few that it stands for, as list elements. `anonymous` is
    /// the id of the rule's anonymous set.
    pub(crate) fn write(&self, message: &mut Message, anonymous: u32) {
        match self {
            Self::FamilyIs(family) => {
                meta(message, META_NFPROTO, SCRATCH);
                compare(message, EQUAL, &[nfproto(*family)]);
            }
            Self::ProtocolIs(number) => {
                meta(message, META_L4PROTO, SCRATCH);
                compare(message, EQUAL, &[*number]);
            }
            Self::ServiceProtocol => {
                meta(message, META_L4PROTO, SCRATCH);
                element(message, "lookup", |message| {
                    message.text(1, ANONYMOUS);
                    message.u32(2, SCRATCH.number());
                    message.u32(4, anonymous);
                });
            }
            Self::DestinationTranslated => translated(message),
            Self::SourceIsLocal => source_is_local(message),
            Self::LoadProtocol(register) => meta(message, META_L4PROTO, *register),
            Self::LoadSource(Family::V4, register) => payload(message, NETWORK, (12, 4), *register),
            Self::LoadSource(Family::V6, register) => payload(message, NETWORK, (8, 16), *register),
            Self::LoadDestination(Family::V4, register) => {
                payload(message, NETWORK, (16, 4), *register);
            }
            Self::LoadDestination(Family::V6, register) => {
                payload(message, NETWORK, (24, 16), *register);
            }
            Self::LoadPort(register) => payload(message, TRANSPORT, (2, 2), *register),
            Self::LoadOriginalDestination(family, register) => {
                let key = if *family == Family::V4 { CT_DST_IP } else { CT_DST_IP6 };
                conntrack(message, key, *register);
            }
            Self::LoadOriginalPort(register) => conntrack(message, CT_PROTO_DST, *register),
            Self::Random(register, modulus) => element(message, "numgen", |message| {
                message.u32(1, register.number());
                message.u32(2, *modulus);
                message.u32(3, NG_RANDOM);
            }),
            Self::In { .. } | Self::Map { .. } | Self::VerdictMap { .. } => self.lookup(message),
            Self::TranslateDestination { .. }
            | Self::Masquerade
            | Self::Reject(_)
            | Self::Counter
            | Self::End(_) => self.statement(message),
        }
    }

    fn lookup(&self, message: &mut Message) {
        let (set, key, value, inverted) = match self {
            Self::In { set, key, inverted } => (set, key, None, *inverted),
            Self::Map { set, key, value } => (set, key, Some(value.number()), false),
            Self::VerdictMap { set, key } => (set, key, Some(VERDICT_REGISTER), false),
            _ => return,
        };
        element(message, "lookup", |message| {
            message.text(1, &set.to_string());
            message.u32(2, key.number());
            if let Some(value) = value {
                message.u32(3, value);
            }
            if inverted {
                message.u32(5, LOOKUP_INVERTED);
            }
        });
    }

    fn statement(&self, message: &mut Message) {
        match self {
            Self::TranslateDestination { family, address, port } => {
                element(message, "nat", |message| {
                    message.u32(1, NAT_DNAT);
                    message.u32(2, u32::from(nfproto(*family)));
                    message.u32(3, address.number());
                    message.u32(5, port.number());
                });
            }
            Self::Masquerade => element(message, "masq", |message| message.u32(1, FULLY_RANDOM)),
            Self::Reject(Rejection::TcpReset) => {
                element(message, "reject", |message| message.u32(1, REJECT_TCP_RST));
            }
            Self::Reject(Rejection::PortUnreachable) => element(message, "reject", |message| {
                message.u32(1, REJECT_ICMPX);
                message.bytes(2, &[REJECT_ICMPX_PORT_UNREACHABLE]);
            }),
            Self::Counter => element(message, "counter", |_| {}),
            Self::End(verdict) => element(message, "immediate", |message| {
                message.u32(1, VERDICT_REGISTER);
                message.nest(2, |message| verdict.write(message));
            }),
            _ => {}
        }
    }
}

/// Register for values that are compared at once.
const SCRATCH: Register = Register(0);
const VERDICT_REGISTER: u32 = 0;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const CT_STATUS: u32 = 2;
const CT_PROTO_DST: u32 = 12;
const CT_DST_IP: u32 = 20;
const CT_DST_IP6: u32 = 22;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const NG_RANDOM: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_SOURCE: u32 = 1;
/// `RTN_LOCAL` of rtnetlink.
const RTN_LOCAL: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const NAT_DNAT: u32 = 1;
const FULLY_RANDOM: u32 = 1 << 4;
const REJECT_TCP_RST: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const REJECT_ICMPX_PORT_UNREACHABLE: u8 = 1;

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn element(message: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    message.nest(1, |message| {
        message.text(1, name);
        message.nest(2, fill);
    });
}

fn meta(message: &mut Message, key: u32, register: Register) {
    element(message, "meta", |message| {
        message.u32(1, register.number());
        message.u32(2, key);
    });
}

fn payload(message: &mut Message, base: u32, (offset, length): (u32, u32), register: Register) {
    element(message, "payload", |message| {
        message.u32(1, register.number());
        message.u32(2, base);
        message.u32(3, offset);
        message.u32(4, length);
    });
}

fn conntrack(message: &mut Message, key: u32, register: Register) {
    element(message, "ct", |message| {
        message.u32(1, register.number());
        message.u32(2, key);
        message.bytes(3, &[0]);
    });
}

fn compare(message: &mut Message, operation: u32, value: &[u8]) {
    element(message, "cmp", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, operation);
        message.nest(3, |message| message.bytes(1, value));
    });
}

/// `ct status & dnat != 0`; the status is a number in host order.
fn translated(message: &mut Message) {
    element(message, "ct", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, CT_STATUS);
    });
    element(message, "bitwise", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, SCRATCH.number());
        message.u32(3, 4);
        message.nest(4, |message| message.bytes(1, &STATUS_DNAT.to_ne_bytes()));
        message.nest(5, |message| message.bytes(1, &[0; 4]));
    });
    compare(message, NOT_EQUAL, &[0; 4]);
}

/// The kind of route that leads to the source address; a number in host order.
fn source_is_local(message: &mut Message) {
    element(message, "fib", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, FIB_ADDRESS_TYPE);
        message.u32(3, FIB_SOURCE);
    });
    compare(message, EQUAL, &RTN_LOCAL.to_ne_bytes());
}
