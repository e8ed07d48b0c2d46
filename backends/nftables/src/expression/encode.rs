//! How expressions are written: each as the kernel's instructions for it
//! (`include/uapi/linux/netfilter/nf_tables.h`).

use std::fmt::Display;

use shunt_model::address::Family;
use shunt_netlink::Message;

use super::{Expression, HASH_SEED, Register, Rejection};
use crate::affinity;

/// The name by which the anonymous set of a rule is known within its transaction.
const ANONYMOUS: &str = "__set%d";

impl<S: Display> Expression<S> {
    /// Writes the expression, or the few that it stands for, as list elements. `anonymous` is
    /// the id of the rule's anonymous set.
    pub(crate) fn write(&self, message: &mut Message, anonymous: u32) {
        match self {
            Self::ServiceProtocol => {
                meta(message, META_L4PROTO, SCRATCH);
                element(message, "lookup", |message| {
                    message.text(1, ANONYMOUS);
                    message.u32(2, SCRATCH.number());
                    message.u32(4, anonymous);
                });
            }
            Self::DestinationTranslated => translated(message),
            Self::SourceIsLocal => address_is_local(message, FIB_SOURCE, EQUAL),
            Self::DestinationIsForeign => address_is_local(message, FIB_DESTINATION, NOT_EQUAL),
            Self::LoadInputName(register) => meta(message, META_IIFNAME, *register),
            Self::LoadOutputName(register) => meta(message, META_OIFNAME, *register),
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
            Self::LoadSourcePort(register) => payload(message, TRANSPORT, (0, 2), *register),
            Self::LoadOriginalDestination(..)
            | Self::LoadOriginalPort(_)
            | Self::LoadOriginalSource(..)
            | Self::LoadReplySource(..)
            | Self::LoadReplyPort(_) => self.load_tuple(message),
            Self::LoadPriority(register) => meta(message, META_PRIORITY, *register),
            Self::ToNetworkOrder(register) => element(message, "byteorder", |message| {
                message.u32(1, register.number());
                message.u32(2, register.number());
                message.u32(3, HOST_TO_NETWORK);
                message.u32(4, 4);
                message.u32(5, 4);
            }),
            Self::LoadGroup(register) => {
                meta(message, META_PRIORITY, *register);
                mask(message, *register, &affinity::GROUP.to_ne_bytes());
            }
            Self::PriorityIsId => {
                meta(message, META_PRIORITY, SCRATCH);
                mask(message, SCRATCH, &affinity::MARK.to_ne_bytes());
                compare(message, EQUAL, &affinity::MARK.to_ne_bytes());
            }
            Self::SetPriority(register) => set_priority(message, *register),
            Self::ClearPriority => {
                immediate(message, SCRATCH, &[0; 4]);
                set_priority(message, SCRATCH);
            }
            Self::PriorityIsClear => {
                meta(message, META_PRIORITY, SCRATCH);
                compare(message, EQUAL, &[0; 4]);
            }
            Self::StateIs(bits) => state_is(message, *bits),
            Self::FamilyIs(_)
            | Self::SwitchedFamilyIs(_)
            | Self::ProtocolIs(_)
            | Self::IsAnswer
            | Self::OriginalPortIs(_)
            | Self::SourcePortIs(_)
            | Self::SourceIsLoopback
            | Self::DestinationIsLoopback
            | Self::InputIsNotLoopback
            | Self::InputIsNone => self.condition(message),
            Self::NeighbourDiscovery => neighbour_discovery(message),
            Self::FirstOfTcp => first_of_tcp(message, EQUAL),
            Self::NotFirstOfTcp => first_of_tcp(message, NOT_EQUAL),
            Self::Random(register, modulus) => element(message, "numgen", |message| {
                message.u32(1, register.number());
                message.u32(2, *modulus);
                message.u32(3, NG_RANDOM);
            }),
            Self::Hash { from, length, register, modulus } => element(message, "hash", |message| {
                message.u32(1, from.number());
                message.u32(2, register.number());
                message.u32(3, *length);
                message.u32(4, *modulus);
                message.u32(5, HASH_SEED);
            }),
            Self::In { .. } | Self::Map { .. } | Self::VerdictMap { .. } => self.lookup(message),
            Self::Remember { set, key, value, seconds } => {
                let timeout = u64::from(*seconds) * 1000;
                update(message, &set.to_string(), DYNSET_UPDATE, (*key, *value), Some(timeout));
            }
            Self::Forget { set, key, value } => {
                update(message, &set.to_string(), DYNSET_DELETE, (*key, *value), None);
            }
            Self::TranslateDestination { .. }
            | Self::Masquerade
            | Self::Reject(_)
            | Self::Counter
            | Self::Limit { .. }
            | Self::Log { .. }
            | Self::Queue(_)
            | Self::End(_) => self.statement(message),
        }
    }

    /// Continues only with packets of a kind.
    fn condition(&self, message: &mut Message) {
        match self {
            Self::FamilyIs(family) => {
                meta(message, META_NFPROTO, SCRATCH);
                compare(message, EQUAL, &[nfproto(*family)]);
            }
            Self::SwitchedFamilyIs(family) => {
                meta(message, META_PROTOCOL, SCRATCH);
                compare(message, EQUAL, &ether_type(*family).to_be_bytes());
            }
            Self::ProtocolIs(number) => {
                meta(message, META_L4PROTO, SCRATCH);
                compare(message, EQUAL, &[*number]);
            }
            Self::SourceIsLoopback => address_begins(message, 12, 127),
            Self::DestinationIsLoopback => address_begins(message, 16, 127),
            Self::InputIsNone => {
                meta(message, META_IIF, SCRATCH);
                compare(message, EQUAL, &[0; 4]);
            }
            Self::InputIsNotLoopback => {
                meta(message, META_IIF, SCRATCH);
                compare(message, NOT_EQUAL, &LOOPBACK_IFINDEX.to_ne_bytes());
            }
            Self::IsAnswer => {
                element(message, "ct", |message| {
                    message.u32(1, SCRATCH.number());
                    message.u32(2, CT_DIRECTION);
                });
                compare(message, EQUAL, &[REPLY]);
            }
            Self::OriginalPortIs(port) => {
                conntrack(message, CT_PROTO_DST, ORIGINAL, SCRATCH);
                compare(message, EQUAL, &port.to_be_bytes());
            }
            Self::SourcePortIs(port) => {
                payload(message, TRANSPORT, (0, 2), SCRATCH);
                compare(message, EQUAL, &port.to_be_bytes());
            }
            _ => {}
        }
    }

    /// Loads a part of the connection's tuples.
    fn load_tuple(&self, message: &mut Message) {
        match self {
            Self::LoadOriginalDestination(family, register) => {
                let key = if *family == Family::V4 { CT_DST_IP } else { CT_DST_IP6 };
                conntrack(message, key, ORIGINAL, *register);
            }
            Self::LoadOriginalPort(register) => {
                conntrack(message, CT_PROTO_DST, ORIGINAL, *register);
            }
            Self::LoadOriginalSource(family, register) => {
                conntrack(message, source_of(*family), ORIGINAL, *register);
            }
            Self::LoadReplySource(family, register) => {
                conntrack(message, source_of(*family), REPLY, *register);
            }
            Self::LoadReplyPort(register) => conntrack(message, CT_PROTO_SRC, REPLY, *register),
            _ => {}
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
            Self::Limit { rate, burst } => element(message, "limit", |message| {
                message.bytes(1, &u64::from(*rate).to_be_bytes());
                message.bytes(2, &1u64.to_be_bytes());
                message.u32(3, *burst);
                message.u32(4, LIMIT_PACKETS);
            }),
            Self::Log { prefix, group, length } => element(message, "log", |message| {
                message.bytes(1, &group.to_be_bytes());
                message.text(2, prefix);
                message.u32(3, *length);
            }),
            Self::Queue(number) => element(message, "queue", |message| {
                message.bytes(1, &number.to_be_bytes());
                message.bytes(2, &1u16.to_be_bytes());
                message.bytes(3, &QUEUE_BYPASS.to_be_bytes());
            }),
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
const META_PROTOCOL: u32 = 1;
const META_PRIORITY: u32 = 2;
const META_IIF: u32 = 4;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
const CT_PROTO_SRC: u32 = 11;
const CT_PROTO_DST: u32 = 12;
const CT_SRC_IP: u32 = 19;
const CT_DST_IP: u32 = 20;
const CT_SRC_IP6: u32 = 21;
const CT_DST_IP6: u32 = 22;
/// `IP_CT_DIR_ORIGINAL`, `IP_CT_DIR_REPLY`.
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// `LOOPBACK_IFINDEX` of the kernel's.
const LOOPBACK_IFINDEX: u32 = 1;
const LESS_OR_EQUAL: u32 = 3;
const GREATER_OR_EQUAL: u32 = 5;
const LIMIT_PACKETS: u32 = 0;
/// `NFT_BYTEORDER_HTON`.
const HOST_TO_NETWORK: u32 = 1;
/// `NFT_QUEUE_FLAG_BYPASS`.
const QUEUE_BYPASS: u16 = 1;
const NG_RANDOM: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
/// `RTN_LOCAL` of rtnetlink.
const RTN_LOCAL: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const NAT_DNAT: u32 = 1;
const FULLY_RANDOM: u32 = 1 << 4;
/// `NFT_DYNSET_OP_*`.
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;
const TCP: u8 = 6;
const ICMP6: u8 = 58;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
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

/// `ETH_P_IP`, `ETH_P_IPV6`.
const fn ether_type(family: Family) -> u16 {
    match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
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

fn conntrack(message: &mut Message, key: u32, direction: u8, register: Register) {
    element(message, "ct", |message| {
        message.u32(1, register.number());
        message.u32(2, key);
        message.bytes(3, &[direction]);
    });
}

const fn source_of(family: Family) -> u32 {
    match family {
        Family::V4 => CT_SRC_IP,
        Family::V6 => CT_SRC_IP6,
    }
}

fn set_priority(message: &mut Message, register: Register) {
    element(message, "meta", |message| {
        message.u32(2, META_PRIORITY);
        message.u32(3, register.number());
    });
}

fn immediate(message: &mut Message, register: Register, value: &[u8]) {
    element(message, "immediate", |message| {
        message.u32(1, register.number());
        message.nest(2, |message| message.bytes(1, value));
    });
}

fn compare(message: &mut Message, operation: u32, value: &[u8]) {
    element(message, "cmp", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, operation);
        message.nest(3, |message| message.bytes(1, value));
    });
}

/// Changes a map from the path of a packet; the timeout is in milliseconds.
fn update(
    message: &mut Message,
    set: &str,
    operation: u32,
    (key, value): (Register, Register),
    timeout: Option<u64>,
) {
    element(message, "dynset", |message| {
        message.text(1, set);
        message.u32(3, operation);
        message.u32(4, key.number());
        message.u32(5, value.number());
        if let Some(timeout) = timeout {
            message.bytes(6, &timeout.to_be_bytes());
        }
    });
}

/// `ct status & dnat != 0`; the status is a number in host order.
fn translated(message: &mut Message) {
    flags_of_connection(message, CT_STATUS, STATUS_DNAT);
}

/// `ct state & bits != 0`
fn state_is(message: &mut Message, bits: u32) {
    flags_of_connection(message, CT_STATE, bits);
}

fn flags_of_connection(message: &mut Message, key: u32, bits: u32) {
    element(message, "ct", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, key);
    });
    mask(message, SCRATCH, &bits.to_ne_bytes());
    compare(message, NOT_EQUAL, &[0; 4]);
}

/// Keeps the bits of a mask.
fn mask(message: &mut Message, register: Register, bits: &[u8]) {
    element(message, "bitwise", |message| {
        message.u32(1, register.number());
        message.u32(2, register.number());
        message.u32(3, u32::try_from(bits.len()).unwrap_or(4));
        message.nest(4, |message| message.bytes(1, bits));
        message.nest(5, |message| message.bytes(1, &vec![0; bits.len()]));
    });
}

/// The types 133 to 137 of RFC 4861.
fn neighbour_discovery(message: &mut Message) {
    meta(message, META_L4PROTO, SCRATCH);
    compare(message, EQUAL, &[ICMP6]);
    payload(message, TRANSPORT, (0, 1), SCRATCH);
    compare(message, GREATER_OR_EQUAL, &[133]);
    compare(message, LESS_OR_EQUAL, &[137]);
}

fn first_of_tcp(message: &mut Message, operator: u32) {
    meta(message, META_L4PROTO, SCRATCH);
    compare(message, EQUAL, &[TCP]);
    payload(message, TRANSPORT, (13, 1), SCRATCH);
    mask(message, SCRATCH, &[SYN | ACK]);
    compare(message, operator, &[SYN]);
}

/// Whether the first byte of the address at an offset of the IPv4 header is this one.
fn address_begins(message: &mut Message, offset: u32, byte: u8) {
    payload(message, NETWORK, (offset, 1), SCRATCH);
    compare(message, EQUAL, &[byte]);
}

/// Whether the kind of route that leads to an address is the machine's own; a number in host
/// order.
fn address_is_local(message: &mut Message, address: u32, operator: u32) {
    element(message, "fib", |message| {
        message.u32(1, SCRATCH.number());
        message.u32(2, FIB_ADDRESS_TYPE);
        message.u32(3, address);
    });
    compare(message, operator, &RTN_LOCAL.to_ne_bytes());
}
