//! Names for addresses, in flows and in manifests.
//!
//! Hosts have the addresses of the numbering that `shunt_cluster` documents; they are computed here too, so that a
//! scenario can be read and checked without a cluster. The runner makes sure that both agree.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use shunt_cluster::{ClusterSpec, Families, Family};

/// How many `vip-N` and `ext-N` there are.
const SERVICE_ADDRESSES: u8 = 9;

/// All names of a scenario, with one address for each family of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    /// By address, the hosts only.
    hosts: BTreeMap<IpAddr, String>,
}

impl Names {
    /// The names of a cluster's hosts, and of the addresses that Services can use.
    pub(super) fn of(spec: &ClusterSpec) -> Result<Self> {
        let mut names = Self::default();
        let both = |v4: Ipv4Addr, v6: Ipv6Addr| of_families(spec.families, v4, v6);
        for (index, node) in (1..).zip(&spec.nodes) {
            names.add_host(&node.name, underlay(spec.families, 10 + index))?;
            for (pod, name) in (11..).zip(&node.pods) {
                let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x77, digits(index), 0, 0, 0, digits(pod));
                names.add_host(name, both(Ipv4Addr::new(10, 77, index, pod), v6))?;
            }
        }
        for (number, client) in (101..).zip(&spec.clients) {
            names.add_host(client, underlay(spec.families, number))?;
        }
        for number in 1..=SERVICE_ADDRESSES {
            let last = digits(10 + number);
            let vip = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, last);
            let external = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, last);
            names
                .add(&format!("vip-{number}"), both(Ipv4Addr::new(10, 96, 0, 10 + number), vip))?;
            names.add(
                &format!("ext-{number}"),
                both(Ipv4Addr::new(203, 0, 113, 10 + number), external),
            )?;
        }
        Ok(names)
    }

    /// The addresses that `name`, `name/v4` or `name/v6` means: of each family, or of one.
    pub(super) fn resolve(&self, text: &str) -> Result<Vec<IpAddr>> {
        let (name, family) = match text.split_once('/') {
            None => (text, None),
            Some((name, "v4")) => (name, Some(Family::V4)),
            Some((name, "v6")) => (name, Some(Family::V6)),
            Some((_, other)) => bail!("{other} is not v4 or v6"),
        };
        let addresses = self.addresses.get(name);
        let addresses = addresses.with_context(|| format!("there is nothing named {name}"))?;
        let wanted =
            |address: &&IpAddr| family.is_none_or(|family| Family::of(**address) == family);
        let found: Vec<_> = addresses.iter().filter(wanted).copied().collect();
        ensure!(!found.is_empty(), "the cluster does not have the family of {text}");
        Ok(found)
    }

    /// Whether there is a host of this name.
    pub(super) fn is_host(&self, name: &str) -> bool {
        self.hosts.values().any(|host| host == name)
    }

    /// Whose address this is.
    pub(super) fn host_of(&self, address: IpAddr) -> Option<&str> {
        self.hosts.get(&address).map(String::as_str)
    }

    /// The address of a host in the family of another one.
    pub(super) fn host_like(&self, host: &str, like: IpAddr) -> Result<IpAddr> {
        let addresses = self.addresses.get(host).into_iter().flatten();
        let mut of_family = addresses.filter(|address| address.is_ipv4() == like.is_ipv4());
        of_family.next().copied().with_context(|| format!("{host} has no address like {like}"))
    }

    /// Gives a host one more address.
    pub(super) fn also(&mut self, host: &str, address: IpAddr) -> Result<()> {
        match self.hosts.insert(address, host.to_owned()) {
            None => Ok(()),
            Some(other) => Err(anyhow!("{address} is {other}'s")),
        }
    }

    /// Puts the addresses in the place of each `$(name)`: quoted, with a comma between two of them.
    pub(super) fn substitute(&self, text: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("$(") {
            let (name, after) = after.split_once(')').context("$( without )")?;
            let quoted: Vec<_> = self.resolve(name)?.iter().map(|ip| format!("\"{ip}\"")).collect();
            out.push_str(before);
            out.push_str(&quoted.join(", "));
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn add_host(&mut self, name: &str, addresses: Vec<IpAddr>) -> Result<()> {
        for address in &addresses {
            self.also(name, *address)?;
        }
        self.add(name, addresses)
    }

    fn add(&mut self, name: &str, addresses: Vec<IpAddr>) -> Result<()> {
        let before = self.addresses.insert(name.to_owned(), addresses);
        ensure!(before.is_none(), "two things are named {name}");
        Ok(())
    }
}

fn underlay(families: Families, number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, digits(number));
    of_families(families, Ipv4Addr::new(192, 168, 77, number), v6)
}

fn of_families(families: Families, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
    let address = |family: &Family| match family {
        Family::V4 => IpAddr::V4(v4),
        Family::V6 => IpAddr::V6(v6),
    };
    families.each().iter().map(address).collect()
}

/// The hexadecimal number whose digits are the decimal digits of this one.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

#[cfg(test)]
mod tests {
    use shunt_cluster::NodeSpec;

    use super::*;

    fn names(families: Families) -> Names {
        Names::of(&ClusterSpec {
            nodes: vec![NodeSpec::new("node-1", &["web-1"]), NodeSpec::new("node-2", &["web-2"])],
            clients: vec!["client".into()],
            families,
            ..ClusterSpec::default()
        })
        .unwrap()
    }

    #[test]
    fn names_are_replaced_by_their_addresses() {
        let names = names(Families::Dual);
        let text = names.substitute("a: [$(web-2/v6)], b: [$(vip-1)]").unwrap();
        assert_eq!(text, r#"a: ["fd00:10:77:2::11"], b: ["10.96.0.11", "fd00:10:96::11"]"#);
        let wrong = names.substitute("a: $(web-9)").unwrap_err();
        assert_eq!(wrong.to_string(), "there is nothing named web-9");
    }

    #[test]
    fn a_family_that_the_cluster_has_not_is_an_error() {
        let names = names(Families::V6);
        assert_eq!(names.resolve("client").unwrap(), ["fd00:77::101".parse::<IpAddr>().unwrap()]);
        assert!(names.resolve("client/v4").is_err());
    }
}
