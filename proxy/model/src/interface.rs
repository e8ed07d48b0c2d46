//! Names of network interfaces, and patterns of them.

use std::fmt;
use std::str::FromStr;

/// How many bytes a name has at most: `IFNAMSIZ` without the end.
const LONGEST: usize = 15;

/// The name of a network interface: 1 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName([u8; LONGEST]);

impl InterfaceName {
    /// The name's bytes, with zeros behind them.
    #[must_use]
    pub const fn padded(&self) -> &[u8; LONGEST] {
        &self.0
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

/// A text that no interface is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoInterfaceName;

impl fmt::Display for NoInterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be the name of an interface: 1 to 15 letters, digits and -_.@+")
    }
}

impl std::error::Error for NoInterfaceName {}

impl FromStr for InterfaceName {
    type Err = NoInterfaceName;

    /// Takes what the kernel takes (`dev_valid_name`), but for what nft gives a meaning of its own.
    fn from_str(text: &str) -> Result<Self, NoInterfaceName> {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
        let fits = (1..=LONGEST).contains(&text.len());
        if !fits || !text.bytes().all(usual) {
            return Err(NoInterfaceName);
        }
        let mut name = [0; LONGEST];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One interface, or all whose names begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfacePattern {
    /// This one.
    Exact(InterfaceName),
    /// Those whose names begin so.
    Prefix(InterfaceName),
}

impl InterfacePattern {
    /// Whether an interface is meant.
    #[must_use]
    pub fn matches(&self, name: &InterfaceName) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Prefix(prefix) => name.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Prefix(name) => write!(f, "{name}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        let name = |text: &str| text.parse::<InterfaceName>().map(|name| name.to_string());
        assert_eq!(name("cali12ab.7@if2"), Ok("cali12ab.7@if2".to_owned()));
        for wrong in ["", "sixteen-bytes-xx", "a b", "a/b", "a*", "\"", "a:1", "ä"] {
            assert_eq!(name(wrong), Err(NoInterfaceName), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_is_also_a_whole_name() {
        let name = |text: &str| text.parse::<InterfaceName>().unwrap();
        let prefix = InterfacePattern::Prefix(name("cali"));
        assert!(prefix.matches(&name("cali")) && prefix.matches(&name("cali1")));
        assert!(!prefix.matches(&name("cal")) && !prefix.matches(&name("tunl0")));
        assert!(!InterfacePattern::Exact(name("cali")).matches(&name("cali1")));
    }
}
