//! The image: built with Debian's buildah, and run by runc as the DaemonSet has it run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{Netns, Process};
use shunt_kind_tests::control_plane::wait_for;

use super::{home, succeed};

const PATIENCE: Duration = Duration::from_secs(60);
/// What is to show in the kernel.
const MANIFEST: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, protocol: TCP, port: 80}]}
";

/// A binary that needs no other file: the one that is tested, or one that is built for this.
fn static_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHUNT_BIN") {
        return Ok(path.into());
    }
    let version = succeed(Command::new("rustc").arg("-vV"))?.stdout;
    let version = String::from_utf8(version)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("a host")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "-p", "shunt", "--target", host]).current_dir(&root);
    succeed(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(root.join("target").join(host).join("debug/shunt"))
}

/// What the deployment's container may do: with this one capability, and no other.
fn security_context() -> Result<Value> {
    let daemonset = fs::read_to_string(home().join("base/daemonset.yaml"))?;
    let mut daemonset: Value = serde_saphyr::from_str(&daemonset)?;
    let context = daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"].take();
    let (given, taken) = (&context["capabilities"]["add"], &context["capabilities"]["drop"]);
    assert_eq!((given, taken), (&json!(["NET_ADMIN"]), &json!(["ALL"])));
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    Ok(context)
}

/// Builds the image and starts it: a root filesystem with one file.
#[test]
fn the_image_is_one_binary_that_starts() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let context = scratch.path().join("context");
    fs::create_dir(&context)?;
    let binary = static_binary()?;
    fs::copy(&binary, context.join("shunt"))?;
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(scratch.path().join("root"));
        command.arg("--runroot").arg(scratch.path().join("run"));
        command.args(["--storage-driver", "vfs"]).args(arguments);
        succeed(&mut command).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let recipe = home().join("Containerfile").display().to_string();
    let context = context.display().to_string();
    buildah(&["bud", "--isolation", "chroot", "-f", &recipe, "-t", "shunt", &context])?;
    let container = buildah(&["from", "localhost/shunt"])?;
    let container = container.trim();
    let version = buildah(&["run", "--isolation", "chroot", container, "--", "/shunt", "version"])?;
    assert_eq!(version, format!("shunt {}\n", env!("CARGO_PKG_VERSION")));
    let root = buildah(&["mount", container])?;
    serves_as_the_daemonset(Path::new(root.trim()), scratch.path())?;
    buildah(&["umount", container])?;
    buildah(&["rm", container])?;
    let image = scratch.path().join("image");
    buildah(&["push", "localhost/shunt", &format!("dir:{}", image.display())])?;
    let sizes = fs::read_dir(&image)?.map(|entry| Ok(entry?.metadata()?.len()));
    let compressed = sizes.sum::<Result<u64>>()?;
    let unpacked = fs::metadata(&binary)?.len();
    println!("image: {unpacked} bytes unpacked, {compressed} bytes compressed");
    println!("capabilities: only {}", security_context()?["capabilities"]["add"]);
    // A binary with debugging aids is larger than one to ship.
    let limit = if binary.components().any(|part| part.as_os_str() == "debug") { 1000 } else { 20 };
    ensure!(compressed < limit * 1_000_000, "the image has {compressed} bytes");
    Ok(())
}

/// A container of runc's. It goes with its guard.
struct Container {
    state: PathBuf,
    id: String,
    _process: Process,
}

impl Container {
    /// Starts one in a namespace, as with `hostNetwork`.
    fn run(netns: &Netns, directory: &Path, config: &Value) -> Result<Self> {
        fs::write(directory.join("config.json"), config.to_string())?;
        let state = directory.join("state");
        let id = format!("shunt-image-{}", std::process::id());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "runc", "--root"]).arg(&state);
        command.args(["run", "--bundle"]).arg(directory).arg(&id);
        let log = fs::File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { state, id, _process: netns.spawn(command)? })
    }

    fn runc(&self, words: &[&str]) -> Result<String> {
        let output = succeed(Command::new("runc").arg("--root").arg(&self.state).args(words))?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // One that has ended by itself may be gone already.
        let _ = self.runc(&["delete", "--force", &self.id]);
    }
}

/// Fails unless the daemon serves with what the DaemonSet's security context leaves it, on a root filesystem that it
/// cannot write. (No seccomp profile: what `RuntimeDefault` means is the container runtime's.)
fn serves_as_the_daemonset(root: &Path, scratch: &Path) -> Result<()> {
    let netns = Netns::new("image")?;
    let directory = scratch.join("bundle");
    let manifests = directory.join("manifests");
    fs::create_dir_all(&manifests)?;
    fs::write(manifests.join("web.yaml"), MANIFEST)?;
    let context = security_context()?;
    let given = context["capabilities"]["add"].as_array().context("capabilities")?;
    let given: Value =
        given.iter().map(|name| format!("CAP_{}", name.as_str().unwrap_or_default())).collect();
    let args = ["/shunt", "run", "--manifests=/etc/shunt", "--node-name=n"];
    let config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": context["readOnlyRootFilesystem"]},
        "process": {
            "args": args, "cwd": "/", "user": {"uid": context["runAsUser"], "gid": 0},
            "noNewPrivileges": context["allowPrivilegeEscalation"] == false,
            "capabilities": {"bounding": given, "effective": given, "permitted": given},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/shunt", "type": "bind", "source": manifests, "options": ["bind", "ro"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]},
    });
    let container = Container::run(&netns, &directory, &config)?;
    wait_for("the Service in the kernel", PATIENCE, || {
        let table = || Command::new("nft").args(["list", "table", "inet", "shunt"]).output();
        let table = String::from_utf8(netns.run(table)?.stdout)?;
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        Ok(if table.contains("10.96.0.10") { Ok(()) } else { Err(log()) })
    })?;
    // What runc is not asked to make its own, it takes from where it is called.
    let mut status = Command::new("runc");
    status.arg("--root").arg(&container.state).args(["exec", &container.id, "/shunt", "status"]);
    let status = String::from_utf8(netns.run(move || status.output())?.stdout)?;
    ensure!(status.contains("healthy") && status.contains("default/web"), "{status}");
    let state: Value = serde_json::from_str(&container.runc(&["state", &container.id])?)?;
    let process = fs::read_to_string(format!("/proc/{}/status", state["pid"]))?;
    // CAP_NET_ADMIN is bit 12.
    for line in ["CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1"] {
        ensure!(process.contains(line), "{line} is not in\n{process}");
    }
    Ok(())
}
