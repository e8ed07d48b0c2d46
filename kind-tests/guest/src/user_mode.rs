//! User-mode Linux: a kernel that is a process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;

use crate::Guest;
use crate::home::Home;

/// Names a kernel in place of the one that `build-kernel.sh` builds.
const VARIABLE: &str = "SHUNT_GUEST_KERNEL";
/// Where memory of the guest is kept, if there is room.
const SHARED_MEMORY: &str = "/dev/shm";

/// The kernel: what `SHUNT_GUEST_KERNEL` names, or the one that was built for this checkout and compiler.
pub(crate) fn kernel() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build-kernel.sh");
    let output = Command::new(&script).arg("--print").output();
    let output = output.with_context(|| format!("starting {}", script.display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// The command that starts it.
pub(crate) fn start(kernel: &Path, home: &Home, guest: &Guest, cpu: usize) -> Result<Command> {
    let path = home.path().to_str().context("a path that is text")?;
    let name = home.path().file_name().and_then(|name| name.to_str()).context("a name")?;
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]);
    // The guest's console and its two serial lines are files that this shell opens for it.
    command.args([
        "sh",
        "-c",
        "cd \"$1\"; exec >console 2>&1 7>>console 8>>stdout 9>>stderr; shift; exec \"$@\"",
    ]);
    command.args(["sh", path]).arg(kernel);
    command.arg(format!("mem={}M", guest.memory));
    command.args([&format!("umid={name}"), &format!("uml_dir={path}")]);
    command.args([
        "seccomp=on",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "quiet",
    ]);
    command.args(["con=null", "con0=null,fd:7", "ssl=null", "ssl0=null,fd:8", "ssl1=null,fd:9"]);
    // Links that the kernel would make in every namespace by itself, which a machine with modules does not have.
    command.args(["fb_tunnels=none", "dummy.numdummies=0"]);
    if guest.time_travel {
        command.arg("time-travel=inf-cpu");
    }
    command.args([&format!("init={path}/init"), "--", path]);
    command.env("TMPDIR", memory_directory(guest.memory, home.path()));
    Ok(command)
}

/// The guest's memory is a sparse file. In a container /dev/shm may be too small for it, which ends the guest.
fn memory_directory(mebibytes: u32, home: &Path) -> &Path {
    let shared = Path::new(SHARED_MEMORY);
    let free = statvfs(shared).map_or(0, |room| room.blocks_available() * room.fragment_size());
    if free >= u64::from(mebibytes) << 20 { shared } else { home }
}
