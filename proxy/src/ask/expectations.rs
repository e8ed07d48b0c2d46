//! `shunt policy test`: expectations, held against what policy says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_saphyr::Spanned;
use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::object::{NamedPort, Pod, Uid};

use super::answer::{Audit, ask};
use super::world::World;

/// A file of expectations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Pods beside those of the manifests, such as those of a Deployment that has not run yet.
    #[serde(default)]
    pods: Vec<Spanned<ExtraPod>>,
    /// What is expected.
    expect: Vec<Spanned<Expectation>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtraPod {
    name: String,
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Named ports of its containers.
    #[serde(default)]
    ports: Vec<ExtraPort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtraPort {
    name: String,
    /// `80`, `53/udp`.
    port: PortText,
}

/// A port as a number or a word.
#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    from: OneOrMore<String>,
    to: OneOrMore<String>,
    port: OneOrMore<PortText>,
    verdict: Verdict,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
}

impl<T> OneOrMore<T> {
    fn all(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

impl PortText {
    fn read(&self) -> Result<super::Port> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Word(word) => word.clone(),
        };
        text.parse().map_err(anyhow::Error::msg)
    }
}

/// What was checked.
pub(super) struct Checked {
    /// A paragraph for each expectation that does not hold, and a sum.
    pub(super) report: String,
    /// Expectations, one for each from, to and port.
    pub(super) all: usize,
    /// Those that do not hold.
    pub(super) failed: usize,
}

/// Checks a file of expectations.
///
/// # Errors
/// If it is none, or names what is not there; the error has line and field.
pub(super) fn check(world: &mut World, path: &Path, text: &str) -> Result<Checked> {
    let name = path.display();
    let file = parse(text).map_err(|wrong| anyhow!("{name}:{wrong}"))?;
    for (index, extra) in file.pods.iter().enumerate() {
        let pod = pod(&extra.value)
            .with_context(|| format!("{name}:{}: pods[{index}]", extra.referenced.line()))?;
        if world.store.pod(&pod.key).is_some() {
            bail!(
                "{name}:{}: pods[{index}]: there is a pod {} already",
                extra.referenced.line(),
                pod.key
            );
        }
        world.add(pod);
    }
    let mut checked = Checked { report: String::new(), all: 0, failed: 0 };
    for (index, expectation) in file.expect.iter().enumerate() {
        let line = expectation.referenced.line();
        expectation.value.to.all().iter().for_each(|word| world.place_domain(word));
        hold(world, &expectation.value, &format!("{name}:{line}"), &mut checked)
            .with_context(|| format!("{name}:{line}: expect[{index}]"))?;
    }
    if checked.all == 0 {
        bail!("{name}: expect: nothing is expected");
    }
    let held = checked.all - checked.failed;
    let _ = writeln!(checked.report, "{held} of {} expectations hold", checked.all);
    Ok(checked)
}

fn parse(text: &str) -> Result<File> {
    let mut track = serde_path_to_error::Track::new();
    let read = |deserializer: serde_saphyr::Deserializer<'_, '_>| {
        File::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
    };
    serde_saphyr::with_deserializer_from_str(text, read).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or_else(String::new, |at| format!("{}:", at.line()));
        let text = error.to_string();
        let reason = text.lines().next().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        let reason = match reason.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
            Some((_, reason)) => reason,
            None => reason.split(" at line ").next().unwrap_or_default(),
        };
        // What has a line is a value of its own.
        match track.path().to_string().replace(".value", "").trim_end_matches(".?") {
            "." | "?" => anyhow!("{line} {reason}"),
            field => anyhow!("{line} {field}: {reason}"),
        }
    })
}

fn pod(extra: &ExtraPod) -> Result<Pod> {
    let mut ports = Vec::new();
    for (index, port) in extra.ports.iter().enumerate() {
        let at: super::Port = port.port.read().with_context(|| format!("ports[{index}].port"))?;
        let protocol: Protocol = at.protocol;
        ports.push(NamedPort { name: port.name.as_str().into(), protocol, port: at.number });
    }
    let labels =
        extra.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
    Ok(Pod {
        key: ObjectKey::new(&extra.namespace, &extra.name),
        uid: Uid::default(),
        created: 0,
        node: None,
        addresses: Box::default(),
        host_network: false,
        labels: Arc::new(labels.collect()),
        ports: ports.into(),
    })
}

/// Holds one expectation against what policy says, for each from, to and port.
fn hold(world: &World, expected: &Expectation, at: &str, checked: &mut Checked) -> Result<()> {
    for from in expected.from.all() {
        for to in expected.to.all() {
            for port in expected.port.all() {
                let port = port.read().context("port")?;
                world.ends(from).context("from")?;
                world.targets(to, port).context("to")?;
                let answer = ask(world, from, to, port, Audit::Off)?;
                checked.all += 1;
                let (allow, word) = match expected.verdict {
                    Verdict::Allow => (true, "allow"),
                    Verdict::Deny => (false, "deny"),
                };
                if answer.verdict() == Some(allow) {
                    continue;
                }
                checked.failed += 1;
                let report = &mut checked.report;
                let _ = writeln!(report, "{at}: {from} -> {to} {port}: {word} is expected, but:");
                report.push_str(&answer.reasons_against(allow));
            }
        }
    }
    Ok(())
}
