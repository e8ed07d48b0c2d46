//! The API server's process.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shunt_cluster::{Host, Netns, Process, Signal};

/// A start takes two seconds on an idle machine.
const START: Duration = Duration::from_secs(90);
/// Each of the program's other commands takes less than a second, but in the guest: starting the program takes one there,
/// and many Services a minute.
const COMMAND: Duration = Duration::from_mins(5);
/// The requests that end up in the audit log: all of ServiceAccounts in kube-system.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: [\"system:serviceaccounts:kube-system\"]
  - level: None
";

/// etcd, kube-apiserver and controllers on a host of the cluster. State survives its end.
pub struct ApiServer {
    netns: Netns,
    address: IpAddr,
    dir: PathBuf,
    flags: Vec<String>,
    process: Option<Process>,
}

/// A request that kube-apiserver has answered, from its audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The verb: list, watch and so on.
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// The HTTP status of the answer; 0 if there is none.
    pub status: u64,
}

impl ApiServer {
    /// Starts it with its state in `dir`, and more flags of kube-apiserver.
    pub(super) fn start(host: &Host, dir: &Path, flags: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let policy = dir.join("audit-policy.yaml");
        fs::write(&policy, AUDIT_POLICY)?;
        let mut own = vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", dir.join("audit.log").display()),
        ];
        own.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut server = Self {
            netns: host.netns().clone(),
            address: host.ip(),
            dir: dir.to_owned(),
            flags: own,
            process: None,
        };
        server.resume()?;
        Ok(server)
    }

    /// Starts it again where it ended.
    pub fn resume(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the API server runs already");
        let log = self.dir.join("serve.log");
        let mut command = Command::new(program()?);
        command.args(["serve", "--die-with-parent", "--dir"]).arg(&self.dir);
        command.args(["--address", &self.address.to_string()]);
        if self.address.is_ipv6() {
            // The first range must be of the server's own family.
            command.args(["--service-cidrs", "fd00:10:96::/112,10.96.0.0/12"]);
        }
        command.args(self.flags.iter().map(|flag| format!("--apiserver-flag={flag}")));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(OpenOptions::new().create(true).append(true).open(&log)?);
        let mut process = self.netns.spawn(command)?;
        let (_, output, _) = process.pipes();
        let ready = first_line(output.context("no standard output")?);
        if let Err(error) = ready {
            return Err(error.context(format!("the API server does not start:\n{}", tail(&log))));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the API server does not run")?;
        process.signal(Signal::SIGKILL)?;
        ensure!(process.wait_timeout(COMMAND)?.is_some(), "the API server survives SIGKILL");
        Ok(())
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Runs another command of the program to its end; what it says if it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<()> {
        let output = self.dir.join("command.log");
        // The guard would kill it, but only if we live.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program()?).args(arguments);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&output)?);
        let mut process = self.netns.spawn(command)?;
        let status = process.wait_timeout(COMMAND)?;
        let status = status.with_context(|| format!("{} does not end", arguments[0]))?;
        ensure!(status.success(), "{}: {}", arguments[0], tail(&output));
        Ok(())
    }

    /// The requests of ServiceAccounts in kube-system, in the order in which they were first told
    /// of. Of a watch that goes on, the log tells when its answer starts and when it ends.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let text = fs::read_to_string(self.dir.join("audit.log"))?;
        // The last line may be half written.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let field = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let mut told = BTreeSet::new();
        let firsts = events.filter(|event| told.insert(field(event, "auditID")));
        let request = |event: Value| Request {
            verb: field(&event, "verb"),
            uri: field(&event, "requestURI"),
            status: event["responseStatus"]["code"].as_u64().unwrap_or(0),
        };
        Ok(firsts.map(request).collect())
    }
}

/// Waits for the line that says that all is ready. What comes after it is not read.
fn first_line(output: ChildStdout) -> Result<()> {
    let (sender, line) = channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        let result = BufReader::new(output).read_line(&mut line);
        // Whoever waited may have given up.
        let _ = sender.send(result.map(|_| line));
    });
    match line.recv_timeout(START) {
        Ok(line) => {
            let line = line?;
            // It ends with its only job.
            let _ = reader.join();
            ensure!(line.starts_with('{'), "it says {line:?} in place of being ready");
            Ok(())
        }
        Err(RecvTimeoutError::Timeout) => bail!("not ready after {START:?}"),
        Err(RecvTimeoutError::Disconnected) => bail!("its output cannot be read"),
    }
}

/// The program of `kind-tests/controlplane`.
fn program() -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/controlplane/controlplane");
    ensure!(
        program.is_file(),
        "{} is missing; build it with `make controlplane` in the checkout",
        program.display()
    );
    Ok(program)
}

/// The end of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
