//! Debian's stock kernels in QEMU, without hardware support: slow, for what depends on the kernel's version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::home::Home;

/// The daemon that hands the host's files to the guest.
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// The directory of a kernel of this series, as `fetch-kernel.sh` makes it.
pub(crate) fn kernel(series: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fetch-kernel.sh");
    let output = Command::new(&script).args([series, "--print"]).output();
    let output = output.with_context(|| format!("starting {}", script.display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// The command that starts it.
pub(crate) fn start(kernel: &Path, home: &Home, memory: u32) -> Result<Command> {
    let path = home.path().to_str().context("a path that is text")?;
    let modules = kernel.join("modules");
    let modules = modules.to_str().context("a path that is text")?;
    let mut command = Command::new("sh");
    // The file server ends with QEMU, which takes this shell's place. It locks the whole path of its socket: a bare
    // name would be that of every guest's.
    let script = "cd \"$1\"; exec >console 2>&1
        setpriv --pdeathsig KILL \"$2\" --socket-path=\"$1/files\" -o source=/ -o cache=always -o sandbox=chroot &
        tries=0
        until [ -S files ] || [ $tries = 200 ]; do sleep 0.05; tries=$((tries + 1)); done
        shift 2; exec \"$@\"";
    command.args(["-c", script, "sh", path, VIRTIOFSD, "qemu-system-x86_64"]);
    // Without cx16=off kernels from 6.12 crash at times under QEMU 7.2.
    command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-m", &memory.to_string(), "-serial", "file:kernel-log"]);
    let shared = format!("memory-backend-memfd,id=memory,size={memory}M,share=on");
    command.args(["-object", &shared, "-numa", "node,memdev=memory"]);
    command.args(["-chardev", "socket,id=files,path=files"]);
    command.args(["-device", "vhost-user-fs-pci,chardev=files,tag=root"]);
    command.arg("-kernel").arg(kernel.join("vmlinuz"));
    command.arg("-initrd").arg(kernel.join("initrd"));
    let line = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on";
    command.args(["-append", &format!("{line} guest.home={path} guest.modules={modules}")]);
    Ok(command)
}
