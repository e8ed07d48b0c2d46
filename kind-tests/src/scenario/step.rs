//! One step of a scenario: the manifests as they are from now on, what is done, and what must hold then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use shunt_cluster::Protocol;

use super::difference::{Difference, Instead};
use super::flow::{self, Flow};
use super::need::Need;
use super::setup::Setup;
use super::text::{Line, Place, read_lines};

/// The file that manifests stand in unless a step names another.
const DEFAULT_FILE: &str = "manifests.yaml";
/// The line of a step's YAML that begins another file.
const FILE_MARK: &str = "# file: ";
/// What follows the name of a file that stays.
const AS_BEFORE: &str = " as before";

/// The content of the directory of manifests, by the names of its files.
pub(super) type Files = BTreeMap<String, String>;

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// `01-create`.
    pub(super) name: String,
    /// The whole directory of manifests after this step.
    pub(super) files: Files,
    /// Files that nobody can read; what they said before stays true.
    pub(super) unreadable: BTreeSet<String>,
    /// What is done and demanded besides.
    pub(super) acts: Vec<Act>,
    /// The flows to check.
    pub(super) flows: Vec<Flow>,
    /// Where kube-proxy does not play along.
    pub(super) absences: Vec<Difference>,
}

/// Something that is done or demanded in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The daemon of this node is killed before the manifests change.
    Kill(String),
    /// The daemon of this node is started after the manifests have changed.
    Start(String),
    /// A connection is opened after the flows, and used in every later step.
    Hold(Hold),
    /// A held connection is closed after the flows.
    Release(String),
    /// A health-check node port is asked.
    Asks(Asks),
    /// A held TCP connection gets a reset once the manifests have changed.
    Resets(String),
    /// A held SCTP association is over once the manifests have changed.
    Ends(String),
    /// A held UDP flow, from the same port, is served by another pod once the manifests have
    /// changed: the name, and the pod.
    Moves(String, String),
    /// This much time passes after the flows.
    Wait(Duration),
    /// The link of this pod takes packets of so many bytes from now on.
    Narrow(String, u32),
    /// A held connection says so much, for which packets are sent that are too long for a link on the way: they are
    /// lost, its client is told so, and sends shorter ones.
    Learns(String, usize),
    /// A held connection does not live any more after the manifests have changed.
    Cut(String),
    /// The daemon reports a problem with this text.
    Problem(String),
    /// The daemon of this node has written nothing since it was started.
    WritesNothing(String),
}

/// A question to a health-check node port, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asks {
    /// Where it stands.
    pub(super) place: Place,
    /// The host that asks.
    pub(super) from: String,
    /// Where, in each family.
    pub(super) to: Vec<SocketAddr>,
    /// 200 or 503.
    pub(super) code: u16,
    /// How many endpoints are told.
    pub(super) endpoints: u32,
}

/// The pod of a UDP flow that nobody answers.
pub(super) const NOBODY: &str = "nobody";

/// A connection to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// Where it stands.
    pub(super) place: Place,
    /// Its name.
    pub(super) name: String,
    /// The host that connects.
    pub(super) from: String,
    /// The transport protocol.
    pub(super) protocol: Protocol,
    /// Where to.
    pub(super) to: SocketAddr,
    /// The pod it must lead to, or [`NOBODY`].
    pub(super) pod: String,
}

impl Step {
    /// Whether the step has this act.
    pub(super) fn has(&self, act: &Act) -> bool {
        self.acts.contains(act)
    }

    /// The directory as far as it can be read: what an unreadable file said before stays true.
    pub(super) fn readable(&self, before: &Files) -> Files {
        let readable = self.files.iter().filter_map(|(name, content)| {
            let unreadable = self.unreadable.contains(name);
            let content = if unreadable { before.get(name)? } else { content };
            Some((name.clone(), content.clone()))
        });
        readable.collect()
    }

    /// The texts that problems must contain.
    pub(super) fn problems(&self) -> Vec<&str> {
        let texts = self.acts.iter().filter_map(|act| match act {
            Act::Problem(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

/// Reads the steps of a scenario, in order.
pub(super) fn load_all(directory: &Path, setup: &Setup) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for name in step_names(directory)? {
        let before = steps.last().map(|step| step.files.clone()).unwrap_or_default();
        steps.push(load(directory, &name, setup, before)?);
    }
    ensure!(
        !steps.is_empty(),
        "{} has no steps (01-create.yaml, 01-create.flows)",
        directory.display()
    );
    check_order(&steps)?;
    Ok(steps)
}

/// The names of the steps; complains about files that belong to none.
fn step_names(directory: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let numbered =
            stem.len() > 3 && stem.as_bytes()[2] == b'-' && stem[..2].parse::<u8>().is_ok();
        match path.extension().and_then(OsStr::to_str) {
            Some("yaml" | "flows") if numbered => drop(names.insert(stem.to_owned())),
            None if stem == "cluster" => {}
            _ => bail!(
                "{}: neither `cluster` nor a step (01-create.yaml, 01-create.flows)",
                path.display()
            ),
        }
    }
    let numbers: BTreeSet<_> = names.iter().map(|name| &name[..2]).collect();
    ensure!(numbers.len() == names.len(), "{}: two steps have one number", directory.display());
    Ok(names)
}

fn load(directory: &Path, name: &str, setup: &Setup, before: Files) -> Result<Step> {
    let yaml = directory.join(format!("{name}.yaml"));
    let files = if yaml.exists() { load_files(&yaml, setup, &before)? } else { before };
    let mut step = Step {
        name: name.to_owned(),
        files,
        unreadable: BTreeSet::new(),
        acts: Vec::new(),
        flows: Vec::new(),
        absences: Vec::new(),
    };
    for line in read_lines(&directory.join(format!("{name}.flows")))? {
        read_line(&mut step, &line, setup)?;
    }
    Ok(step)
}

fn load_files(path: &Path, setup: &Setup, before: &Files) -> Result<Files> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut files = Files::new();
    let mut current = None;
    for (number, line) in (1..).zip(text.lines()) {
        let place = || Place::new(&path.display().to_string(), number);
        if let Some(mark) = line.strip_prefix(FILE_MARK) {
            let mark = mark.trim();
            let kept = mark.strip_suffix(AS_BEFORE).map(str::trim);
            let name = kept.unwrap_or(mark);
            let content = match kept {
                None => String::new(),
                Some(name) => before
                    .get(name)
                    .ok_or_else(|| place().error(format!("there was no {name}")))?
                    .clone(),
            };
            if files.insert(name.to_owned(), content).is_some() {
                return Err(place().error(format!("{name} stands twice")));
            }
            current = kept.is_none().then(|| name.to_owned());
            continue;
        }
        let line = setup.names.substitute(line).map_err(|error| place().error(error))?;
        let comment = line.trim().is_empty() || line.starts_with('#');
        if current.is_none() && comment {
            continue;
        }
        if current.is_none() && !files.is_empty() {
            return Err(place().error("a file that stays as before has no content here"));
        }
        let file = current.get_or_insert_with(|| DEFAULT_FILE.to_owned());
        let content = files.entry(file.clone()).or_default();
        content.push_str(&line);
        content.push('\n');
    }
    Ok(files)
}

impl Step {
    /// Whether our IPVS backend does not play it, nor those after it.
    pub(super) fn is_not_for_ipvs(&self) -> bool {
        self.absences.iter().any(Difference::is_of_ipvs)
    }
}

fn read_line(step: &mut Step, line: &Line, setup: &Setup) -> Result<()> {
    if let Some(difference) = Difference::parse(line, setup)? {
        return add_difference(step, difference).map_err(|error| line.place.error(error));
    }
    if line.text.contains("->") {
        step.flows.extend(flow::parse(line, setup)?);
        return Ok(());
    }
    let act =
        read_act(step, line, setup).map_err(|error| line.place.error(format_args!("{error:#}")))?;
    step.acts.extend(act);
    Ok(())
}

/// A difference is about the flow of the line above it, in all its families, or about the step.
fn add_difference(step: &mut Step, difference: Difference) -> Result<()> {
    if matches!(difference.instead, Instead::Absent) {
        step.absences.push(difference);
        return Ok(());
    }
    let above = step.flows.last().map(|flow| flow.place.clone());
    let above = above.context("there is no flow above it")?;
    for flow in step.flows.iter_mut().filter(|flow| flow.place == above) {
        flow.differences.push(difference.clone());
    }
    Ok(())
}

fn read_act(step: &mut Step, line: &Line, setup: &Setup) -> Result<Option<Act>> {
    let node = |name: &str| {
        ensure!(setup.node_of(name) == Some(name), "there is no node named {name}");
        Ok(name.to_owned())
    };
    Ok(Some(match line.words().as_slice() {
        ["kill", name] => Act::Kill(node(name)?),
        ["start", name] => Act::Start(node(name)?),
        ["writes-nothing", name] => Act::WritesNothing(node(name)?),
        ["release", name] => Act::Release((*name).to_owned()),
        ["moves", name, pod] => {
            ensure!(setup.names.is_host(pod), "there is no host named {pod}");
            Act::Moves((*name).to_owned(), (*pod).to_owned())
        }
        ["asks", from, to, code, endpoints] => {
            ensure!(setup.names.is_host(from), "there is no host named {from}");
            Act::Asks(Asks {
                place: line.place.clone(),
                from: (*from).to_owned(),
                to: flow::parse_destination(to, setup)?,
                code: code.parse().with_context(|| format!("{code} is no code of HTTP"))?,
                endpoints: endpoints.parse().with_context(|| format!("{endpoints} endpoints"))?,
            })
        }
        ["narrow", pod, mtu] => {
            ensure!(
                setup.node_of(pod).is_some_and(|node| node != *pod),
                "there is no pod named {pod}"
            );
            Act::Narrow((*pod).to_owned(), mtu.parse().with_context(|| format!("{mtu} bytes"))?)
        }
        ["learns", name, bytes] => {
            let bytes = bytes.parse().with_context(|| format!("{bytes} bytes"))?;
            Act::Learns((*name).to_owned(), bytes)
        }
        ["ends", name] => Act::Ends((*name).to_owned()),
        ["resets", name] => Act::Resets((*name).to_owned()),
        ["cut", name] => Act::Cut((*name).to_owned()),
        ["hold", name, from, protocol, to, "on", pod] => {
            let protocol = flow::parse_protocol(protocol)?;
            let nobody = *pod == NOBODY && protocol == Protocol::Udp;
            for host in [from, pod] {
                let known = setup.names.is_host(host) || (host == pod && nobody);
                ensure!(known, "there is no host named {host}");
            }
            let to = flow::parse_destination(to, setup)?;
            let [to] = to.as_slice() else {
                bail!("{to:?}: one connection has one family; say /v4 or /v6")
            };
            Act::Hold(Hold {
                place: line.place.clone(),
                name: (*name).to_owned(),
                from: (*from).to_owned(),
                protocol,
                to: *to,
                pod: (*pod).to_owned(),
            })
        }
        ["wait", duration] => {
            let possible = setup.needs.contains(&Need::TimeTravel);
            ensure!(possible, "`cluster` must say `needs time-travel`");
            Act::Wait(parse_duration(duration)?)
        }
        ["problem", ..] => Act::Problem(line.text["problem".len()..].trim().to_owned()),
        ["unreadable", file] => {
            ensure!(step.files.contains_key(*file), "there is no file named {file}");
            step.unreadable.insert((*file).to_owned());
            return Ok(None);
        }
        _ => bail!(
            "a flow (FROM PROTOCOL TO -> RESULT) or one of these is expected: kill NODE, start NODE, \
             writes-nothing NODE, asks FROM TO CODE ENDPOINTS, hold NAME FROM PROTOCOL TO on POD, moves NAME POD, \
             resets NAME, ends NAME, cut NAME, narrow POD BYTES, learns NAME BYTES, release NAME, wait DURATION, problem TEXT, unreadable FILE"
        ),
    }))
}

/// `90s`, `5m`, `3h`, `2d`.
fn parse_duration(text: &str) -> Result<Duration> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let duration = UNITS.iter().find_map(|(unit, seconds)| {
        let number: u32 = text.strip_suffix(*unit)?.parse().ok()?;
        Some(Duration::from_secs(u64::from(number) * seconds))
    });
    duration.with_context(|| format!("{text} is no duration (90s, 5m, 3h, 2d)"))
}

/// A daemon is started when it is dead, and killed when it runs; connections are released once.
fn check_order(steps: &[Step]) -> Result<()> {
    let mut dead = BTreeSet::new();
    let mut held = BTreeSet::new();
    for step in steps {
        for act in &step.acts {
            let sensible = match act {
                Act::Kill(node) => dead.insert(node),
                Act::Start(node) => dead.remove(node),
                Act::Hold(hold) => held.insert(&hold.name),
                Act::Release(name) | Act::Resets(name) | Act::Ends(name) | Act::Cut(name) => {
                    held.remove(name)
                }
                Act::Moves(name, _) | Act::Learns(name, _) => held.contains(name),
                Act::WritesNothing(node) => !dead.contains(node),
                Act::Problem(_) | Act::Asks(_) | Act::Wait(_) | Act::Narrow(..) => true,
            };
            ensure!(sensible, "step {}: {act:?} comes too early or too often", step.name);
        }
    }
    ensure!(dead.is_empty(), "at the end every daemon must run: {dead:?}");
    Ok(())
}

/// Where a scenario's directory of manifests goes: replaced file by file, each at once.
pub(super) fn write_files(directory: &Path, files: &Files, aside: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if !files.contains_key(name) {
            fs::remove_file(&path)?;
        }
    }
    for (name, content) in files {
        let path: PathBuf = directory.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == *content) {
            continue;
        }
        let new = aside.join(name);
        fs::write(&new, content)?;
        fs::rename(&new, &path)?;
    }
    Ok(())
}
