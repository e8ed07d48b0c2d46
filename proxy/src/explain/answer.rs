//! What `GET /explain` answers: the types on the wire. Fields are added, never renamed.

use serde::{Deserialize, Serialize};

use crate::ask::Clause;
use crate::status::FrontendRow;

/// What becomes of a connection between two addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node whose view this is.
    pub node: String,
    /// Who connects.
    pub from: Party,
    /// To what address.
    pub to: Party,
    /// To which port: `80/tcp`.
    pub port: String,
    /// What happens to it.
    pub fate: Fate,
    /// Why, in one clause.
    pub reason: String,
    /// The frontend that it meets, if it meets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendRow>,
    /// How an endpoint is picked, where there is one to pick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Whether the kernel holds the frontend so; only of a running daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Where it may end: endpoints, or the destination itself if no Service is concerned.
    #[serde(default)]
    pub ends: Vec<Destination>,
    /// Endpoints of the Service that it cannot get to, and why.
    #[serde(default)]
    pub unused: Vec<Unused>,
    /// What else there is to know: problems of the Service, limits of this answer.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// An address, and who has it as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The address.
    pub address: String,
    /// The pod or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It goes on as it is.
    Pass,
    /// It goes to an endpoint.
    Forward,
    /// It is refused.
    Reject,
    /// It is dropped.
    Drop,
}

/// Where a connection may end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Who it is.
    pub party: Party,
    /// Address and port.
    pub endpoint: String,
    /// What part of the connections it gets, in per cent.
    pub share: String,
    /// The address that it sees the connection come from.
    pub seen_as: String,
    /// What policy says, if it is enforced and there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Judgement>,
}

/// What policy says of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Of whom connects.
    pub(crate) egress: Clause,
    /// Of whom is reached.
    pub(crate) ingress: Clause,
}

impl Judgement {
    /// Whether policies let the connection pass.
    #[must_use]
    pub const fn allows(&self) -> bool {
        self.egress.allowed && self.ingress.allowed
    }

    /// Whether it passes, by policies or in an audit.
    #[must_use]
    pub const fn passes(&self) -> bool {
        self.egress.passes() && self.ingress.passes()
    }
}

/// An endpoint that gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// Address and port.
    pub endpoint: String,
    /// Why.
    pub reason: String,
}
