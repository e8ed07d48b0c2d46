//! A real containerd on a node of a cluster, which makes real pods with runc and a CNI plugin.
//!
//! It runs in namespaces of its own (processes, mounts), so that all that it starts ends with it, whatever ends that.

use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_cluster::{Netns, Process};

use crate::control_plane::wait_for;

/// It needs half a second on an idle machine.
const START: Duration = Duration::from_secs(30);
/// The network of its pods: a part of the first node's of a cluster, above the addresses of its other pods.
const PODS: &str = "10.77.1.192/26";
/// Where runc makes control groups: for each runtime in one of its own, named after the process that has started it and a
/// number. Other runtimes of the process make theirs meanwhile, which have nobody in them at first.
const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP_PREFIX: &str = "shunt-runtime-";

/// A running containerd. Its pods and everything else ends with it.
pub struct ContainerRuntime {
    process: Process,
    dir: PathBuf,
    netns: Netns,
    cgroup: String,
}

/// A pod that it has made.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// How long it took until it was there, network included.
    pub took: Duration,
    /// Its address.
    pub ip: IpAddr,
}

impl ContainerRuntime {
    /// Starts it in a node's namespace with its state below a directory (its path must be short, for sockets).
    pub fn start(netns: &Netns, dir: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_cgroups(|name| !is_alive(name))?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("{CGROUP_PREFIX}{}-{number}", std::process::id());
        let dir = dir.join("rt");
        fs::create_dir_all(dir.join("cni"))?;
        fs::write(dir.join("config.toml"), configuration(&dir))?;
        fs::write(dir.join("cni/10-pods.conflist"), network(&dir))?;
        let log = OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--fork"]);
        command.args(["--kill-child=KILL", "--mount-proc"]).arg(program("runtime")?);
        command.arg("supervise").arg(dir.join("order.sock")).arg(program("containerd")?);
        command.arg("--config").arg(dir.join("config.toml"));
        let beside = program("runtime")?.parent().context("a directory")?.to_owned();
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", beside.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = netns.spawn(command)?;
        let runtime = Self { process, dir, netns: netns.clone(), cgroup };
        runtime.wait_until_it_answers()?;
        Ok(runtime)
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        wait_for("containerd", START, || {
            let output = self.ask(&["import", &self.socket()])?;
            Ok(if output.status.success() { Ok(()) } else { Err(said(&output)) })
        })
    }

    /// Where plugins of NRI connect.
    #[must_use]
    pub fn nri_socket(&self) -> PathBuf {
        self.dir.join("nri.sock")
    }

    /// Makes a pod's sandbox, as the kubelet does first.
    pub fn pod(&self, name: &str, uid: &str, label: &str) -> Result<Sandbox> {
        let output = self.ask(&["pod", &self.socket(), "default", name, uid, label])?;
        ensure!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout)?;
        let mut words = text.split_whitespace();
        let mut word = || words.next().with_context(|| format!("{text:?}"));
        let (id, took, ip) = (word()?.to_owned(), word()?.parse()?, word()?.parse()?);
        Ok(Sandbox { id, took: Duration::from_millis(took), ip })
    }

    /// Starts a container in a pod, which at once connects to an address and a port; whether its first packet was answered.
    pub fn connects(&self, pod: &Sandbox, to: &str) -> Result<bool> {
        let output = self.ask(&["run", &self.socket(), &pod.id, "connect", to])?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => anyhow::bail!("{}", said(&output)),
        }
    }

    /// Ends a pod.
    pub fn end(&self, pod: &Sandbox) -> Result<()> {
        let output = self.ask(&["end", &self.socket(), &pod.id])?;
        ensure!(output.status.success(), "{}", said(&output));
        Ok(())
    }

    /// Kills containerd; its pods go on.
    pub fn kill(&self) -> Result<()> {
        self.order("stop")
    }

    /// Starts containerd again.
    pub fn resume(&self) -> Result<()> {
        self.order("start")?;
        self.wait_until_it_answers()
    }

    fn order(&self, word: &str) -> Result<()> {
        let socket = self.dir.join("order.sock").display().to_string();
        let output = self.ask(&["order", &socket, word])?;
        ensure!(output.status.success(), "{}", said(&output));
        Ok(())
    }

    fn socket(&self) -> String {
        self.dir.join("c.sock").display().to_string()
    }

    fn ask(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("runtime")?);
        command.args(words).env("CGROUP_PARENT", format!("/{}", self.cgroup));
        self.netns.run(move || command.output()).context("the program runtime")
    }

    /// What it has logged last.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("level=info")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for ContainerRuntime {
    fn drop(&mut self) {
        let _ = self.process.signal(shunt_cluster::Signal::SIGKILL);
        let _ = self.process.wait_timeout(START);
        let began = Instant::now();
        // What was killed leaves its control group a little later.
        while began.elapsed() < START {
            if remove_cgroups(|name| name == self.cgroup).unwrap_or(true) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether the process that a control group is named after is there.
fn is_alive(cgroup: &str) -> bool {
    let pid = cgroup.strip_prefix(CGROUP_PREFIX).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

/// Removes those of our control groups that are over, by their names; whether all could be.
fn remove_cgroups(is_over: impl Fn(&str) -> bool) -> Result<bool> {
    let mut all = true;
    for hierarchy in fs::read_dir(CGROUPS)?.flatten() {
        for group in fs::read_dir(hierarchy.path()).into_iter().flatten().flatten() {
            let name = group.file_name().to_string_lossy().into_owned();
            if name.starts_with(CGROUP_PREFIX) && is_over(&name) {
                // Another process may remove what is over at the same time.
                let inside = fs::read_dir(group.path()).into_iter().flatten().flatten();
                for inner in inside.filter(|entry| entry.path().is_dir()) {
                    let _ = fs::remove_dir(inner.path());
                }
                all &= fs::remove_dir(group.path()).is_ok();
            }
        }
    }
    Ok(all)
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "version = 3
root = \"{dir}/root\"
state = \"{dir}/state\"
[grpc]
  address = \"{dir}/c.sock\"
[ttrpc]
  address = \"{dir}/t.sock\"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = \"native\"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = \"localhost/runtime:1\"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [\"/usr/lib/cni\"]
    conf_dir = \"{dir}/cni\"
[plugins.'io.containerd.nri.v1.nri']
  socket_path = \"{dir}/nri.sock\"
"
    )
}

fn network(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "{{\"cniVersion\":\"1.0.0\",\"name\":\"pods\",\"plugins\":[{{\"type\":\"ptp\",\"ipMasq\":false,\"ipam\":\
         {{\"type\":\"host-local\",\"dataDir\":\"{dir}/ipam\",\"ranges\":[[{{\"subnet\":\"{PODS}\"}}]],\
         \"routes\":[{{\"dst\":\"0.0.0.0/0\"}}]}}}}]}}"
    )
}

fn program(name: &str) -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/runtime").join(name);
    let missing = || format!("{} is missing; build it with `make runtime`", program.display());
    program.canonicalize().with_context(missing)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
