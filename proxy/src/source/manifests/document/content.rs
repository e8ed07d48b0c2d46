//! What a document says it is.

use serde::Deserialize;
use tracing::debug;

/// The kinds of object that are read, by what a document says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// One object.
    One(Single),
    /// A list, and what its items are if they do not say themselves.
    List(Option<Single>),
    Foreign,
}

/// The kind of a single object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Single {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
    Pod,
    Namespace,
    NetworkPolicy,
    ClusterNetworkPolicy,
}

impl Single {
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        Some(match (api_version, kind) {
            ("v1", "Service") => Self::Service,
            ("v1", "Node") => Self::Node,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Namespace") => Self::Namespace,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            ("networking.k8s.io/v1", "ServiceCIDR") => Self::ServiceCidr,
            ("networking.k8s.io/v1", "NetworkPolicy") => Self::NetworkPolicy,
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
                Self::ClusterNetworkPolicy
            }
            _ => return None,
        })
    }
}

impl Content {
    fn of(api_version: &str, kind: &str) -> Self {
        if (api_version, kind) == ("v1", "List") {
            return Self::List(None);
        }
        match (Single::of(api_version, kind), kind.strip_suffix("List")) {
            (Some(single), _) => Self::One(single),
            (None, Some(of)) => {
                Single::of(api_version, of).map_or(Self::Foreign, |of| Self::List(Some(of)))
            }
            (None, None) => Self::Foreign,
        }
    }
}

/// What a document, or an item of a list, says it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<HeaderMetadata>,
    #[serde(default)]
    pub(super) items: Option<Vec<Header>>,
}

#[derive(Debug, Deserialize)]
struct HeaderMetadata {
    #[serde(default)]
    name: Option<String>,
}

impl Header {
    /// What it is; `implied` is what the list around it says.
    pub(super) fn content(
        &self,
        implied: Option<Single>,
    ) -> Result<Content, (&'static str, &'static str)> {
        let content = match (self.api_version.as_deref(), self.kind.as_deref(), implied) {
            (None, None, Some(single)) => Content::One(single),
            (_, None, _) => return Err(("kind", "there is no kind")),
            (None, Some(_), _) => return Err(("apiVersion", "there is no apiVersion")),
            (Some(api_version), Some(kind), _) => Content::of(api_version, kind),
        };
        let name = self.metadata.as_ref().and_then(|metadata| metadata.name.as_deref());
        match content {
            Content::Foreign => {
                debug!(api_version = self.api_version, kind = self.kind, "a kind that is not read");
            }
            Content::List(_) => {}
            Content::One(_) => {
                if name.is_none_or(str::is_empty) {
                    return Err(("metadata.name", "there is no name"));
                }
            }
        }
        Ok(content)
    }
}
