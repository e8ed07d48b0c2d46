//! Messages of nf_tables, as we write them (`include/uapi/linux/netfilter/nf_tables.h`).

mod elements;

use std::fmt::Display;

use shunt_netlink::{Message, nfnetlink};

pub use self::elements::Elements;
use self::elements::write_counter;
pub(crate) use self::elements::{ElementList, interval_list};
use crate::counting::{Count, Counting};
use crate::declaration::{self, SetType, set_type};
use crate::expression::Expression;
use crate::forwarding::Forwarding;
use crate::layout::layout_fingerprint;
use crate::name::{SetId, TABLE, TABLE_COMMENT};
use crate::rule::{Chain, Rule};
use crate::userdata;

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`, `NFPROTO_BRIDGE`.
pub(crate) const INET: u8 = 1;
const BRIDGE: u8 = 7;
/// `NLM_F_CREATE`, `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NFT_MSG_*`.
pub mod kind {
    /// Makes or adds.
    pub const NEWTABLE: u16 = 0;
    /// Asks for.
    pub const GETTABLE: u16 = 1;
    /// Removes.
    pub const DELTABLE: u16 = 2;
    /// Makes or adds.
    pub const NEWCHAIN: u16 = 3;
    /// Asks for.
    pub const GETCHAIN: u16 = 4;
    /// Removes.
    pub const DELCHAIN: u16 = 5;
    /// Makes or adds.
    pub const NEWRULE: u16 = 6;
    /// Asks for.
    pub const GETRULE: u16 = 7;
    /// Removes.
    pub const DELRULE: u16 = 8;
    /// Makes or adds.
    pub const NEWSET: u16 = 9;
    /// Asks for.
    pub const GETSET: u16 = 10;
    /// Makes or adds.
    pub const NEWSETELEM: u16 = 12;
    /// Asks for.
    pub const GETSETELEM: u16 = 13;
    /// Removes.
    pub const DELSETELEM: u16 = 14;
    /// Makes or adds.
    pub const NEWGEN: u16 = 15;
    /// Asks for.
    pub const GETGEN: u16 = 16;
}

/// `NFT_TABLE_F_PERSIST`: the table outlives its owner.
pub(crate) const PERSIST: u32 = 0x4;
/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`.
pub(crate) const OWNED: u32 = 0x2 | PERSIST;
pub(crate) const SET_INTERVAL: u32 = 0x4;
/// `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`.
pub(crate) const SET_TIMEOUT: u32 = 0x10;
pub(crate) const SET_EVAL: u32 = 0x20;
pub(crate) const SET_MAP: u32 = 0x8;
pub(crate) const SET_CONCAT: u32 = 0x80;
pub(crate) const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
pub(crate) const INTERVAL_END: u32 = 1;
const LIST_ELEMENT: u16 = 1;

/// The comment by which our table of this layout is known.
pub(crate) fn table_comment(forwarding: Forwarding) -> String {
    format!("{TABLE_COMMENT}{:016x}", layout_fingerprint(forwarding))
}

/// The messages about one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// `NFPROTO_*`.
    pub(crate) family: u8,
}

/// The table of Services.
pub(crate) const OURS: Table = Table::inet(TABLE);

impl Table {
    /// One of family `inet`.
    #[must_use]
    pub const fn inet(name: &'static str) -> Self {
        Self { name, family: INET }
    }

    /// One of family `bridge`: for what is switched.
    #[must_use]
    pub const fn bridge(name: &'static str) -> Self {
        Self { name, family: BRIDGE }
    }

    /// A message of a kind, with the family header and the table's name.
    fn message(self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
        message.raw(&nfnetlink(self.family, 0));
        message.text(1, self.name);
        message
    }

    /// A request for one of the `GET` kinds.
    #[must_use]
    pub fn get(self, kind: u16) -> Message {
        self.message(kind, 0)
    }

    /// A request for the elements of a set.
    #[must_use]
    pub fn get_elements(self, set: &str) -> Message {
        let mut request = self.get(kind::GETSETELEM);
        request.text(2, set);
        request
    }

    /// Makes the table.
    #[must_use]
    pub fn create(self, owned: bool, comment: &str) -> Message {
        let mut table = self.message(kind::NEWTABLE, CREATE);
        if owned {
            table.u32(2, OWNED);
        }
        table.bytes(6, &userdata::comment(comment));
        table
    }

    /// Adopts a table that has lost its owner.
    pub(crate) fn adopt(self) -> Message {
        let mut table = self.message(kind::NEWTABLE, 0);
        table.u32(2, OWNED);
        table
    }

    /// Removes the table with all that is in it.
    #[must_use]
    pub fn delete(self) -> Message {
        self.message(kind::DELTABLE, 0)
    }

    /// Makes a chain without rules.
    #[must_use]
    pub fn new_chain<S>(self, chain: &Chain<S>) -> Message {
        let mut out = self.message(kind::NEWCHAIN, CREATE);
        out.text(3, &chain.name);
        if let Some(hook) = chain.hook {
            out.nest(4, |out| {
                out.u32(1, hook.number);
                out.u32(2, u32::from_ne_bytes(hook.priority.to_ne_bytes()));
            });
            out.u32(5, 1);
            out.text(7, hook.kind);
        }
        out
    }

    pub(crate) fn delete_chain(self, name: &str) -> Message {
        let mut out = self.message(kind::DELCHAIN, 0);
        out.text(3, name);
        out
    }

    fn flush_chain(self, name: &str) -> Message {
        let mut out = self.message(kind::DELRULE, 0);
        out.text(2, name);
        out
    }

    /// Appends a rule; its anonymous set, if it has one, comes first. `ids` counts the anonymous
    /// sets of the transaction.
    pub fn new_rule<S: Display + PartialEq>(
        self,
        chain: &str,
        rule: &Rule<S>,
        ids: &mut u32,
    ) -> Vec<Message> {
        let mut out = Vec::new();
        if rule.expressions.contains(&Expression::ServiceProtocol) {
            *ids += 1;
            out.extend(self.service_protocols(*ids));
        }
        let mut message = self.message(kind::NEWRULE, CREATE | APPEND);
        message.text(2, chain);
        message.nest(4, |message| {
            for expression in &rule.expressions {
                expression.write(message, *ids);
            }
        });
        message.bytes(7, &userdata::fingerprint(rule.fingerprint()));
        out.push(message);
        out
    }

    /// The anonymous set `{ tcp, udp, sctp }`.
    fn service_protocols(self, id: u32) -> [Message; 2] {
        const NAME: &str = "__set%d";
        let mut set = self.message(kind::NEWSET, CREATE);
        set.text(2, NAME);
        set.u32(3, SET_ANONYMOUS | SET_CONSTANT);
        set.u32(4, declaration::INET_PROTO);
        set.u32(5, 1);
        set.u32(10, id);
        set.nest(9, |set| set.u32(1, 3));
        let mut elements = self.message(kind::NEWSETELEM, CREATE);
        elements.text(2, NAME);
        elements.u32(4, id);
        elements.nest(3, |elements| {
            for protocol in shunt_model::address::Protocol::ALL {
                elements.nest(LIST_ELEMENT, |element| {
                    element.nest(1, |key| key.bytes(1, &[protocol.number()]));
                });
            }
        });
        [set, elements]
    }

    /// Makes a set; `id` is one of the transaction's own.
    #[must_use]
    pub fn new_set(
        self,
        name: &str,
        described: &SetType,
        counting: bool,
        capacity: u32,
        id: u32,
    ) -> Message {
        /// `NFTA_SET_EXPR`: what every element begins with.
        const EXPRESSION: u16 = 17;
        let mut out = self.message(kind::NEWSET, CREATE);
        out.text(2, name);
        if let Some((data, length)) = described.data {
            out.u32(6, data);
            out.u32(7, length);
        }
        out.u32(3, described.flags());
        out.u32(4, described.key);
        out.u32(5, described.key_length);
        out.u32(10, id);
        out.nest(9, |out| {
            out.u32(1, capacity);
            if !described.fields.is_empty() {
                out.nest(2, |out| {
                    for length in &described.fields {
                        out.nest(LIST_ELEMENT, |out| out.u32(1, *length));
                    }
                });
            }
        });
        out.bytes(13, &described.userdata);
        if counting {
            write_counter(&mut out, EXPRESSION, Count::default());
        }
        out
    }

    /// Removes every element of a set.
    #[must_use]
    pub fn flush_set(self, set: &str) -> Message {
        let mut out = self.message(kind::DELSETELEM, 0);
        out.text(2, set);
        out
    }

    /// A list of elements to add or delete.
    #[must_use]
    pub fn elements(self, set: &str, delete: bool) -> Elements {
        let (kind, flags) = if delete { (kind::DELSETELEM, 0) } else { (kind::NEWSETELEM, CREATE) };
        let mut message = self.message(kind, flags);
        message.text(2, set);
        Elements::begun(message)
    }

    /// A list of elements of a set to ask for.
    pub(crate) fn look_up(self, set: &str) -> Elements {
        Elements::begun(self.get_elements(set))
    }
}

/// A request for the generation of the ruleset.
pub(crate) fn get_generation() -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind::GETGEN, 0);
    message.raw(&nfnetlink(0, 0));
    message
}

/// A request for one of the `GET` kinds, for our table.
pub(crate) fn get(kind: u16) -> Message {
    OURS.get(kind)
}

/// A request for the elements of a set.
pub(crate) fn get_elements(set: SetId) -> Message {
    OURS.get_elements(&set.to_string())
}

/// Makes the table.
pub(crate) fn new_table(owned: bool, forwarding: Forwarding) -> Message {
    OURS.create(owned, &table_comment(forwarding))
}

pub(crate) fn delete_table() -> Message {
    OURS.delete()
}

pub(crate) fn new_chain(chain: &Chain) -> Message {
    OURS.new_chain(chain)
}

pub(crate) fn delete_chain(name: &str) -> Message {
    OURS.delete_chain(name)
}

/// Removes all rules of a chain.
pub(crate) fn flush_chain(name: &str) -> Message {
    OURS.flush_chain(name)
}

/// Appends a rule; see [`Table::new_rule`].
pub(crate) fn new_rule(chain: &str, rule: &Rule, ids: &mut u32) -> Vec<Message> {
    OURS.new_rule(chain, rule, ids)
}

pub(crate) fn new_set(set: SetId, counting: Counting, capacity: u32, id: u32) -> Message {
    OURS.new_set(&set.to_string(), &set_type(set), counting.counts(set), capacity, id)
}

/// Removes every element of a set.
pub(crate) fn flush_set(set: SetId) -> Message {
    OURS.flush_set(&set.to_string())
}
