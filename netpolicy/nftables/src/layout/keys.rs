//! By what the ends of a packet are told.

use shunt_model::address::Family;
use shunt_nftables::codec::{Expression, Register};

use super::{PolicyExpression, ip};

/// By what a packet's ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// By the connection: who opened it and who answers, after the destination was translated and
    /// whatever becomes of the source. The same in both directions.
    Connection,
    /// By the packet's header: conntrack does not know it.
    Header,
}

impl Keys {
    pub(super) const ALL: [Self; 2] = [Self::Connection, Self::Header];

    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Connection => "",
            Self::Header => "untracked_",
        }
    }

    pub(super) fn source(self, family: Family) -> String {
        match self {
            Self::Connection => format!("ct original {} saddr", ip(family)),
            Self::Header => format!("{} saddr", ip(family)),
        }
    }

    pub(super) fn destination(self, family: Family) -> String {
        match self {
            Self::Connection => format!("ct reply {} saddr", ip(family)),
            Self::Header => format!("{} daddr", ip(family)),
        }
    }

    pub(super) const fn port(self) -> &'static str {
        match self {
            Self::Connection => "ct reply proto-src",
            Self::Header => "th dport",
        }
    }

    /// What a rule begins with that loads addresses of a family: nft prints an address from a
    /// header as such only after this check.
    pub(super) fn check(self, family: Family) -> Vec<PolicyExpression> {
        match self {
            Self::Connection => Vec::new(),
            Self::Header => vec![Expression::FamilyIs(family)],
        }
    }

    pub(super) const fn load_source(self, family: Family, register: Register) -> PolicyExpression {
        match self {
            Self::Connection => Expression::LoadOriginalSource(family, register),
            Self::Header => Expression::LoadSource(family, register),
        }
    }

    pub(super) const fn load_destination(
        self,
        family: Family,
        register: Register,
    ) -> PolicyExpression {
        match self {
            Self::Connection => Expression::LoadReplySource(family, register),
            Self::Header => Expression::LoadDestination(family, register),
        }
    }

    pub(super) const fn load_port(self, register: Register) -> PolicyExpression {
        match self {
            Self::Connection => Expression::LoadReplyPort(register),
            Self::Header => Expression::LoadPort(register),
        }
    }
}
