//! `shunt demo` as people start it: as root, as an ordinary user, and ended before its end.
//!
//! Each run carries a mark in its environment, which its daemons inherit: by that its processes
//! are found, whatever else runs on the machine.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// `nobody`, on every distribution.
const ORDINARY: u32 = 65534;
/// The variable that marks the processes of a run.
const MARK: &str = "SHUNT_DEMO_TEST";
/// What may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs measure what their machine does: each waits for the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Who starts the demo.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Ours,
    Ordinary,
}

/// Where a run has its program and its temporary files.
struct Place {
    directory: TempDir,
    program: PathBuf,
}

impl Place {
    /// The program as built, or a copy where an ordinary user finds it: the directory it is built
    /// in may be closed to others.
    fn new(user: User) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let built = std::env::var_os("SHUNT_BIN");
        let mut program =
            built.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_shunt")), PathBuf::from);
        if user == User::Ordinary {
            let copy = directory.path().join("shunt");
            fs::copy(program, &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
            program = copy;
        }
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let place = Self { directory, program };
        fs::create_dir(place.temporary()).unwrap();
        fs::set_permissions(place.temporary(), Permissions::from_mode(0o1777)).unwrap();
        place
    }

    fn temporary(&self) -> PathBuf {
        self.directory.path().join("tmp")
    }

    /// The same command as this user, with the temporary files here.
    fn arrange(&self, mut command: Command, user: User) -> Command {
        command.env("TMPDIR", self.temporary()).current_dir("/");
        if user == User::Ordinary && is_root() {
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }
}

/// A run of the demo.
struct Run {
    child: Child,
    mark: String,
    place: Place,
    output: String,
    reader: BufReader<ChildStdout>,
}

impl Run {
    fn start(name: &str, user: User, flags: &[&str]) -> Self {
        let place = Place::new(user);
        let mark = format!("{name}-{}", std::process::id());
        let mut command = place.arrange(Command::new(&place.program), user);
        command.arg("demo").args(flags).env(MARK, &mark);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(place.directory.path().join("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        Self { child, mark, place, output: String::new(), reader }
    }

    /// Reads its output up to a line with this text; false if it ends before.
    fn read_until(&mut self, text: &str) -> bool {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap() == 0 {
                return false;
            }
            self.output.push_str(&line);
            if line.contains(text) {
                return true;
            }
        }
    }

    /// Reads the rest and waits for its end.
    fn end(&mut self) -> ExitStatus {
        self.reader.read_to_string(&mut self.output).unwrap();
        self.child.wait().unwrap()
    }

    fn told(&self) -> String {
        let errors = fs::read_to_string(self.place.directory.path().join("stderr"));
        format!("{}{}", self.output, errors.unwrap_or_default())
    }

    /// Its processes, its daemons among them.
    fn processes(&self) -> BTreeSet<PathBuf> {
        let mark = format!("{MARK}={}", self.mark);
        let marked = |process: &PathBuf| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        all_processes().filter(marked).collect()
    }

    /// The network namespaces of all its threads, but ours.
    fn namespaces(&self) -> BTreeSet<PathBuf> {
        let mut namespaces: BTreeSet<_> =
            self.processes().iter().flat_map(|process| namespaces_of(process)).collect();
        namespaces.remove(&fs::read_link("/proc/self/ns/net").unwrap());
        namespaces
    }

    /// Checks that no process, namespace or file of it is left, within bounded time.
    fn expect_nothing_left(&self, namespaces: &BTreeSet<PathBuf>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let processes = self.processes();
            let all: BTreeSet<_> = all_processes().flat_map(|p| namespaces_of(&p)).collect();
            let held: Vec<_> = all.intersection(namespaces).collect();
            if processes.is_empty() && held.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "left: {processes:?} {held:?}\n{}", self.told());
            std::thread::sleep(Duration::from_millis(5));
        }
        let files = fs::read_dir(self.place.temporary()).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(files.is_empty(), "left: {files:?}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all_processes() -> impl Iterator<Item = PathBuf> {
    let is_process = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path())).filter(is_process)
}

/// The network namespaces of a process's threads. Either may end while we look.
fn namespaces_of(process: &Path) -> Vec<PathBuf> {
    let Ok(threads) = fs::read_dir(process.join("task")) else {
        return Vec::new();
    };
    let threads = threads.filter_map(|thread| Some(thread.ok()?.path()));
    threads.filter_map(|thread| fs::read_link(thread.join("ns/net")).ok()).collect()
}

/// The numbers right before a word, such as the 0 in `0 lost`.
fn counts(output: &str, word: &str) -> Vec<u64> {
    let mut counts = Vec::new();
    for line in output.lines() {
        for (at, _) in line.match_indices(word) {
            let number = line[..at].trim_end().rsplit(' ').next().unwrap_or_default();
            counts.extend(number.parse::<u64>());
        }
    }
    counts
}

fn shows_the_main_job(user: User, name: &str) {
    let _alone = alone();
    let started = Instant::now();
    let mut run = Run::start(name, user, &["--pause"]);
    if !run.read_until("press Enter") {
        let status = run.end();
        assert!(user == User::Ordinary && status.code() == Some(3), "{status}\n{}", run.told());
        expect_remedy(&run.told());
        println!("this machine lets no ordinary user make namespaces: {}", run.told());
        return;
    }
    let namespaces = run.namespaces();
    // Two nodes, six pods, a client, and the wires between them.
    assert!(namespaces.len() >= 9, "{namespaces:?}");
    assert_eq!(run.processes().len(), 3, "the demo and two daemons");
    run.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let status = run.end();
    assert!(status.success(), "{status}\n{}", run.told());
    assert!(started.elapsed() < PATIENCE);

    let output = &run.output;
    for step in 1..=7 {
        assert!(output.contains(&format!("\n{step}  ")), "step {step}:\n{output}");
    }
    for pod in 1..=5 {
        assert!(output.contains(&format!("     web-{pod} #")), "web-{pod} got nothing:\n{output}");
    }
    let lost = counts(output, "lost");
    assert!(lost.len() >= 4 && lost.iter().all(|lost| *lost == 0), "{lost:?}\n{output}");
    assert_eq!(counts(output, "operations written"), [0, 0], "{output}");
    assert!(output.contains("8 of 8 held connections"), "{output}");
    assert!(output.contains("16 new clients refused"), "{output}");
    assert_eq!(output.matches(" serving").count(), 8, "shunt status:\n{output}");
    assert!(!output.contains('\x1b'), "colours where there is no terminal");
    run.expect_nothing_left(&namespaces);
}

#[test]
fn the_demo_shows_the_main_job_as_whoever_we_are() {
    shows_the_main_job(User::Ours, "ours");
}

#[test]
fn the_demo_shows_the_main_job_as_an_ordinary_user() {
    shows_the_main_job(User::Ordinary, "ordinary");
}

#[test]
fn a_signal_ends_the_demo_and_leaves_nothing() {
    let _alone = alone();
    for (name, signal) in [("int", Signal::SIGINT), ("term", Signal::SIGTERM)] {
        let mut run = Run::start(name, User::Ours, &[]);
        assert!(run.read_until("held open"), "{}", run.told());
        let namespaces = run.namespaces();
        kill(Pid::from_raw(run.child.id().cast_signed()), signal).unwrap();
        let status = run.end();
        assert_eq!(status.code(), Some(1), "{signal}: {status}\n{}", run.told());
        assert!(run.told().contains("interrupted"), "{}", run.told());
        run.expect_nothing_left(&namespaces);
    }
}

#[test]
fn daemons_end_with_a_demo_that_is_killed() {
    let _alone = alone();
    let mut run = Run::start("kill", User::Ours, &["--pause"]);
    assert!(run.read_until("press Enter"), "{}", run.told());
    let namespaces = run.namespaces();
    run.child.kill().unwrap();
    run.end();
    // The directory stays: nobody is there to remove it.
    fs::remove_dir_all(run.place.temporary()).unwrap();
    fs::create_dir(run.place.temporary()).unwrap();
    run.expect_nothing_left(&namespaces);
}

fn expect_remedy(told: &str) {
    assert!(told.contains("run as root") || told.contains("sysctl"), "no remedy: {told}");
}

/// In a user namespace of our own we may forbid further ones, and so see a real refusal.
#[test]
fn without_the_right_to_namespaces_the_demo_names_the_remedy() {
    const FORBID: &str = "echo 0 >/proc/sys/user/max_user_namespaces && \
                          exec setpriv --bounding-set=-all --inh-caps=-all -- \"$0\" demo";
    let _alone = alone();
    let place = Place::new(User::Ordinary);
    let mut command = place.arrange(Command::new("unshare"), User::Ordinary);
    command.args(["--user", "--map-root-user", "sh", "-c", FORBID]).arg(&place.program);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    if told.starts_with("unshare: ") {
        // They are forbidden already; the demo itself says how.
        println!("this machine lets no ordinary user make namespaces: {told}");
        return;
    }
    assert_eq!(output.status.code(), Some(3), "{told}");
    expect_remedy(&told);
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(fs::read_dir(place.temporary()).unwrap().count(), 0);
}
