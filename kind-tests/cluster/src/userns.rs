//! Lets an ordinary user build a cluster, inside a user namespace.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::link::Links;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// How the process came by the right to make network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It had it already; nothing was changed.
    Held,
    /// It is root of a user namespace of its own now, with a network and a mount namespace of its own.
    UserNamespace,
}

/// Gives this process the right to make network namespaces: nothing to do for root, a user namespace for others. To
/// be called before any thread is started. The error is one sentence on what is missing and what helps.
pub fn enter_user_namespace() -> Result<Privilege> {
    if is_privileged()? {
        return Ok(Privilege::Held);
    }
    if threads()? > 1 {
        bail!("a user namespace can be entered only before the process has started threads");
    }
    let (user, group) = (geteuid(), getegid());
    let all = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(all).map_err(|errno| anyhow!(explain(errno, &Facts::gather())))?;
    // Without this the kernel refuses the group map to ordinary users (user_namespaces(7)).
    become_root("setgroups", "deny")?;
    become_root("uid_map", &format!("0 {user} 1"))?;
    become_root("gid_map", &format!("0 {group} 1"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("making the mounts of the user namespace private")?;
    Links::open_here()?.set_up("lo")?;
    Ok(Privilege::UserNamespace)
}

fn become_root(file: &str, text: &str) -> Result<()> {
    fs::write(format!("/proc/self/{file}"), text).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        anyhow!("{} (at /proc/self/{file})", explain(errno, &Facts::gather()))
    })
}

fn is_privileged() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = u64::from_str_radix(line.unwrap_or("0").trim(), 16)?;
    let needed = 1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN;
    Ok(held & needed == needed)
}

fn threads() -> Result<usize> {
    let tasks = fs::read_dir("/proc/self/task").context("reading /proc/self/task")?;
    Ok(tasks.count())
}

/// What the machine says about user and network namespaces.
#[derive(Clone, Copy, Debug)]
struct Facts {
    user_namespaces: bool,
    net_namespaces: bool,
    /// user.max_user_namespaces
    user_limit: u64,
    /// user.max_net_namespaces
    net_limit: u64,
    /// kernel.unprivileged_userns_clone of Debian's kernels.
    clone_allowed: bool,
    /// kernel.apparmor_restrict_unprivileged_userns of Ubuntu's kernels.
    apparmor_restricts: bool,
}

impl Facts {
    fn gather() -> Self {
        Self {
            user_namespaces: Path::new("/proc/self/ns/user").exists(),
            net_namespaces: Path::new("/proc/self/ns/net").exists(),
            user_limit: sysctl("user/max_user_namespaces").unwrap_or(u64::MAX),
            net_limit: sysctl("user/max_net_namespaces").unwrap_or(u64::MAX),
            clone_allowed: sysctl("kernel/unprivileged_userns_clone") != Some(0),
            apparmor_restricts: sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1),
        }
    }
}

fn sysctl(path: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    text.trim().parse().ok()
}

/// The one sentence for the person at the terminal.
fn explain(errno: Errno, facts: &Facts) -> String {
    let why = if !facts.user_namespaces {
        "this kernel has no user namespaces (CONFIG_USER_NS): run as root"
    } else if !facts.net_namespaces {
        "this kernel has no network namespaces (CONFIG_NET_NS): another kernel is needed"
    } else if facts.user_limit == 0 {
        "user namespaces are switched off here: run as root, or set the sysctl user.max_user_namespaces above 0"
    } else if facts.net_limit == 0 {
        "network namespaces are switched off here: set the sysctl user.max_net_namespaces above 0"
    } else if !facts.clone_allowed {
        "only root may make user namespaces here: run as root, or set the sysctl kernel.unprivileged_userns_clone to 1"
    } else if facts.apparmor_restricts {
        "AppArmor keeps ordinary users from using user namespaces here: run as root, or set the sysctl \
         kernel.apparmor_restrict_unprivileged_userns to 0"
    } else if errno == Errno::ENOSPC {
        "there are as many namespaces as this machine allows: raise the sysctls user.max_user_namespaces and \
         user.max_net_namespaces, or end what holds them"
    } else {
        "a user namespace is not allowed here, as in a container with a seccomp profile or in a chroot: run as root, \
         in a container with --privileged"
    };
    format!("{why} (the kernel says: {})", errno.desc())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Facts = Facts {
        user_namespaces: true,
        net_namespaces: true,
        user_limit: 1000,
        net_limit: 1000,
        clone_allowed: true,
        apparmor_restricts: false,
    };

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        let cases = [
            (Facts { user_namespaces: false, ..FINE }, Errno::EINVAL, "CONFIG_USER_NS"),
            (Facts { net_namespaces: false, ..FINE }, Errno::EINVAL, "CONFIG_NET_NS"),
            (Facts { user_limit: 0, ..FINE }, Errno::ENOSPC, "user.max_user_namespaces above 0"),
            (Facts { net_limit: 0, ..FINE }, Errno::ENOSPC, "user.max_net_namespaces above 0"),
            (
                Facts { clone_allowed: false, ..FINE },
                Errno::EPERM,
                "unprivileged_userns_clone to 1",
            ),
            (
                Facts { apparmor_restricts: true, ..FINE },
                Errno::EPERM,
                "apparmor_restrict_unprivileged_userns to 0",
            ),
            (FINE, Errno::ENOSPC, "raise the sysctls"),
            (FINE, Errno::EPERM, "--privileged"),
        ];
        for (facts, errno, remedy) in cases {
            let text = explain(errno, &facts);
            assert!(text.contains(remedy), "{facts:?}: {text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_process_with_threads_is_told_so_or_needs_nothing() {
        // The test runner has threads. As root there is nothing to do.
        match enter_user_namespace() {
            Ok(privilege) => assert_eq!(privilege, Privilege::Held),
            Err(error) => assert!(error.to_string().contains("threads"), "{error}"),
        }
    }
}
