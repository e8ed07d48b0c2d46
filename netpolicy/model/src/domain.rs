//! Names of domains as ClusterNetworkPolicies have them, and as DNS answers do.

use std::fmt;
use std::sync::Arc;

/// The longest name (RFC 1035, section 2.3.4), in characters without the last dot.
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A name, or with `*.` before it all names below it (not itself): in lower case, without the last dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Arc<str>);

impl DomainName {
    /// Reads one as the API allows it: of two labels at least, `*` as the first only.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let labels = name.strip_prefix("*.").unwrap_or(&name);
        let sound = labels.contains('.') && labels.split('.').all(is_label);
        (sound && name.len() <= LONGEST).then(|| Self(name.into()))
    }

    /// Whether it stands for a name that is in lower case and has no last dot.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            // What is left begins with a dot.
            Some(parent) => name.len() > parent.len() && name.ends_with(parent),
            None => *self.0 == *name,
        }
    }

    /// A number made of it: the same in every run.
    #[must_use]
    pub fn number(&self) -> u32 {
        let hash = self
            .0
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash.max(1)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Letters, digits, and in between hyphens; underscores, which names have that are not of hosts.
pub(crate) fn is_label(label: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let bytes = label.as_bytes();
    (1..=LONGEST_LABEL).contains(&bytes.len())
        && bytes.iter().all(|byte| is_inner(*byte))
        && [bytes.first(), bytes.last()].into_iter().flatten().all(|byte| *byte != b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_or_more_labels_and_not_for_none() {
        let below = DomainName::parse("*.Kubernetes.io.").unwrap();
        assert_eq!(below.to_string(), "*.kubernetes.io");
        for name in ["www.kubernetes.io", "latest.blog.kubernetes.io"] {
            assert!(below.matches(name), "{name}");
        }
        for name in ["kubernetes.io", ".kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!below.matches(name), "{name}");
        }
        let one = DomainName::parse("kubernetes.io").unwrap();
        assert!(one.matches("kubernetes.io") && !one.matches("www.kubernetes.io"));
    }

    #[test]
    fn what_the_api_does_not_allow_is_no_name() {
        let long = format!("{}.io", "a".repeat(64));
        for text in
            ["", "io", "*", "*.io", "a.*.io", "*a.io", "a..io", "a b.io", "-a.io", "a-.io", &long]
        {
            assert_eq!(DomainName::parse(text), None, "{text}");
        }
        assert!(DomainName::parse("_sip._tcp.example.com").is_some());
    }
}
