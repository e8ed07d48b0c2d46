//! Kernel settings that IPVS mode needs, those of kube-proxy.

use std::fs;
use std::io;

use crate::error::Error;

const VS: &str = "/proc/sys/net/ipv4/vs";

/// Sets what must be set; returns what should be and could not.
///
/// # Errors
/// Without `vs/conntrack` no source can be hidden, and answers get lost.
pub fn set_all(strict_arp: bool) -> Result<Vec<String>, Error> {
    // So that nftables sees the connections of IPVS and can hide their sources.
    let path = format!("{VS}/conntrack");
    set(&path, "1").map_err(|source| Error::Sysctl { path, value: "1", source })?;
    let mut wanted = vec![
        // A connection to a real server that was removed is scheduled anew at once.
        (format!("{VS}/expire_nodest_conn"), "1"),
        // Persistence does not hold clients at a real server that drains.
        (format!("{VS}/expire_quiescent_template"), "1"),
        ("/proc/sys/net/ipv4/ip_forward".to_owned(), "1"),
    ];
    if nix::sys::utsname::uname().is_ok_and(|name| delays_reuse(&name.release().to_string_lossy()))
    {
        wanted.push((format!("{VS}/conn_reuse_mode"), "0"));
    }
    // Addresses of frontends have the scope of the host: no interface answers for them, as with
    // nftables, where they are no addresses at all. Other addresses are answered for as before.
    let arp_ignore = "/proc/sys/net/ipv4/conf/all/arp_ignore".to_owned();
    if !strict_arp && fs::read_to_string(&arp_ignore).is_ok_and(|is| is.trim() == "0") {
        wanted.push((arp_ignore, "3"));
    }
    if strict_arp {
        wanted.push(("/proc/sys/net/ipv4/conf/all/arp_ignore".to_owned(), "1"));
        wanted.push(("/proc/sys/net/ipv4/conf/all/arp_announce".to_owned(), "2"));
    }
    let failed = |(path, value): (String, &str)| {
        let error = set(&path, value).err()?;
        Some(format!("{path} is not {value}: {error}"))
    };
    Ok(wanted.into_iter().filter_map(failed).collect())
}

/// Writes a value if another is there: in a container the files are often read-only and right.
fn set(path: &str, value: &str) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value)
}

/// Whether a kernel of this release delays a new connection from a port that was used before by a
/// second, unless `conn_reuse_mode` is off: 4.1 (it came) to 5.8 (commit f0a5e4d7a594 mended it).
fn delays_reuse(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return false };
    ((4, 1)..(5, 9)).contains(&(major, minor))
}

#[cfg(test)]
mod tests {
    use super::delays_reuse;

    #[test]
    fn reuse_is_switched_off_where_it_costs_a_second() {
        for release in ["4.1.0", "4.19.0-27-amd64", "5.4.0", "5.8.18"] {
            assert!(delays_reuse(release), "{release}");
        }
        for release in ["3.10.0-1160.el7", "4.0.9", "5.9.0", "5.10.0-30", "6.1", "7.2.12", "", "x"]
        {
            assert!(!delays_reuse(release), "{release}");
        }
    }
}
