//! From the text of a file to objects.
//!
//! YAML is read by serde-saphyr: its errors, of syntax and of types, carry a line; it and its
//! parser forbid unsafe code; and kube reads kubeconfigs with it, so that it adds little to the
//! binary. (serde_yaml is archived and serde_yml has an advisory, RUSTSEC-2025-0068;
//! serde_yaml_ng and serde_norway keep serde_yaml's unsafe translation of libyaml.)
//!
//! Each document is read twice: once for the kinds in it, once for the objects, as the kind may
//! come last (`kubectl get -o json` writes a list so) and a tree of values would have no lines.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_path_to_error::Track;
use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;
use tracing::debug;

use crate::source::convert::{Converted, Converter, Wire};
use crate::source::wire::{self, cluster, policy};
use crate::source::{FileProblem, SourceEvent};

/// An object that a file defines.
#[derive(Debug)]
pub(super) struct Defined {
    /// The first line of its document.
    pub(super) line: u64,
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
    /// What it amounts to.
    pub(super) event: SourceEvent,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// Reads all objects of a file.
///
/// # Errors
/// Everything that is wrong with it, if anything is: half of a file is not used.
pub(super) fn parse(
    file: &Path,
    format: Format,
    text: &str,
    converter: &mut Converter,
) -> Result<Vec<Defined>, Vec<FileProblem>> {
    let mut defined = Vec::new();
    let mut problems = Vec::new();
    for document in documents(format, text) {
        let mut reader = Reader { document: &document, converter, defined: &mut defined };
        if let Err(error) = reader.read() {
            let Complaint { line, field, reason } = error;
            problems.push(FileProblem { file: file.to_owned(), line, field, reason });
        }
    }
    if problems.is_empty() { Ok(defined) } else { Err(problems) }
}

/// What is wrong with a document.
struct Complaint {
    line: Option<u64>,
    field: Option<String>,
    reason: String,
}

/// One document of a file.
struct Document<'a> {
    format: Format,
    text: &'a str,
    /// Lines of the file before its text.
    lines_before: u64,
}

/// Cuts a file at the lines that begin or end a document. YAML allows these marks nowhere else,
/// not even in a block of text.
fn documents(format: Format, text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut at = 0;
    for (index, line) in (0..).zip(text.split_inclusive('\n')) {
        if format == Format::Yaml && at > start && is_mark(line) {
            documents.push(Document { format, text: &text[start..at], lines_before });
            (start, lines_before) = (at, index);
        }
        at += line.len();
    }
    documents.push(Document { format, text: &text[start..], lines_before });
    documents.retain(|document| format == Format::Json || !document.is_blank());
    documents
}

/// `---` or `...`, alone or before a space.
fn is_mark(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

impl Document<'_> {
    /// Whether there is nothing but comments, marks and directives.
    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim_start_matches('\u{feff}');
            let line =
                line.strip_prefix("---").or_else(|| line.strip_prefix("...")).unwrap_or(line);
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%'])
        })
    }

    fn first_line(&self) -> u64 {
        let blank = |line: &&str| {
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%', '-', '.'])
        };
        let skipped = match self.format {
            Format::Yaml => self.text.lines().take_while(blank).count(),
            Format::Json => 0,
        };
        self.lines_before + u64::try_from(skipped).unwrap_or_default() + 1
    }

    /// Reads the document with a seed; errors come with line and field.
    fn read<'a, S>(&'a self, seed: S) -> Result<S::Value, Complaint>
    where
        S: DeserializeSeed<'a>,
    {
        let mut track = Track::new();
        let result = match self.format {
            Format::Yaml => self.read_yaml(seed, &mut track),
            Format::Json => self.read_json(seed, &mut track),
        };
        result.map_err(|(line, reason)| {
            // `?` is where the reader was between two fields.
            let path = track.path().to_string();
            let path = path.trim_end_matches(".?");
            let field = (!matches!(path, "." | "?")).then(|| path.to_owned());
            Complaint { line: line.or_else(|| Some(self.first_line())), field, reason }
        })
    }

    fn read_yaml<'a, S: DeserializeSeed<'a>>(
        &'a self,
        seed: S,
        track: &mut Track,
    ) -> Result<S::Value, (Option<u64>, String)> {
        let read = |deserializer: serde_saphyr::Deserializer<'a, '_>| {
            seed.deserialize(serde_path_to_error::Deserializer::new(deserializer, track))
        };
        serde_saphyr::with_deserializer_from_str_with_options(self.text, yaml_options(), read)
            .map_err(|error| {
                let error = error.without_snippet();
                let line = error.location().map(|at| at.line()).filter(|line| *line > 0);
                (line.map(|line| line + self.lines_before), yaml_reason(&error.to_string()))
            })
    }

    fn read_json<'a, S: DeserializeSeed<'a>>(
        &'a self,
        seed: S,
        track: &mut Track,
    ) -> Result<S::Value, (Option<u64>, String)> {
        let mut json = serde_json::Deserializer::from_str(self.text);
        seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, track))
            .and_then(|value| json.end().map(|()| value))
            .map_err(|error| {
                let text = error.to_string();
                let at = format!(" at line {} column {}", error.line(), error.column());
                let line = u64::try_from(error.line()).ok();
                (line, text.strip_suffix(&at).unwrap_or(&text).to_owned())
            })
    }
}

/// serde-saphyr's limits are for input from strangers. A list of 10,000 Services is above them;
/// what keeps aliases from multiplying stays.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 100_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: 1 << 30,
        },
    }
}

/// The text of an error without its place, which is told apart, and in words for people who have
/// a file before them and not the library.
fn yaml_reason(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let reason = match line.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, reason)) => reason,
        None => line.split(" at line ").next().unwrap_or_default(),
    };
    match reason {
        "invalid i64" => "this is not a whole number".to_owned(),
        other => other.split(", set DuplicateKeyPolicy").next().unwrap_or_default().to_owned(),
    }
}

/// The kinds of object that are read, by what a document says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// One object.
    One(Single),
    /// A list, and what its items are if they do not say themselves.
    List(Option<Single>),
    Foreign,
}

/// The kind of a single object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Single {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
    Pod,
    Namespace,
    NetworkPolicy,
    ClusterNetworkPolicy,
}

impl Single {
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        Some(match (api_version, kind) {
            ("v1", "Service") => Self::Service,
            ("v1", "Node") => Self::Node,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Namespace") => Self::Namespace,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            ("networking.k8s.io/v1", "ServiceCIDR") => Self::ServiceCidr,
            ("networking.k8s.io/v1", "NetworkPolicy") => Self::NetworkPolicy,
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
                Self::ClusterNetworkPolicy
            }
            _ => return None,
        })
    }
}

impl Content {
    fn of(api_version: &str, kind: &str) -> Self {
        if (api_version, kind) == ("v1", "List") {
            return Self::List(None);
        }
        match (Single::of(api_version, kind), kind.strip_suffix("List")) {
            (Some(single), _) => Self::One(single),
            (None, Some(of)) => {
                Single::of(api_version, of).map_or(Self::Foreign, |of| Self::List(Some(of)))
            }
            (None, None) => Self::Foreign,
        }
    }
}

/// What a document, or an item of a list, says it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<HeaderMetadata>,
    #[serde(default)]
    items: Option<Vec<Header>>,
}

#[derive(Debug, Deserialize)]
struct HeaderMetadata {
    #[serde(default)]
    name: Option<String>,
}

impl Header {
    /// What it is; `implied` is what the list around it says.
    fn content(&self, implied: Option<Single>) -> Result<Content, (&'static str, &'static str)> {
        let content = match (self.api_version.as_deref(), self.kind.as_deref(), implied) {
            (None, None, Some(single)) => Content::One(single),
            (_, None, _) => return Err(("kind", "there is no kind")),
            (None, Some(_), _) => return Err(("apiVersion", "there is no apiVersion")),
            (Some(api_version), Some(kind), _) => Content::of(api_version, kind),
        };
        let name = self.metadata.as_ref().and_then(|metadata| metadata.name.as_deref());
        match content {
            Content::Foreign => {
                debug!(api_version = self.api_version, kind = self.kind, "a kind that is not read");
            }
            Content::List(_) => {}
            Content::One(_) => {
                if name.is_none_or(str::is_empty) {
                    return Err(("metadata.name", "there is no name"));
                }
            }
        }
        Ok(content)
    }
}

/// Reads one document and keeps what it defines.
struct Reader<'a> {
    document: &'a Document<'a>,
    converter: &'a mut Converter,
    defined: &'a mut Vec<Defined>,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), Complaint> {
        let header = self.document.read(Of::<Header>::new())?;
        let line = self.document.first_line();
        let blame = |place: &str, (field, reason): (&str, &str)| Complaint {
            line: Some(line),
            field: Some(format!("{place}{field}")),
            reason: reason.to_owned(),
        };
        let content = header.content(None).map_err(|error| blame("", error))?;
        let contents = match content {
            Content::Foreign => return Ok(()),
            Content::List(implied) => {
                let items = header.items.as_deref().unwrap_or_default();
                let contents = items.iter().enumerate().map(|(index, item)| {
                    item.content(implied).map_err(|error| blame(&format!("items[{index}]."), error))
                });
                contents.collect::<Result<Vec<_>, _>>()?
            }
            single => vec![single],
        };
        drop(header);
        let is_list = matches!(content, Content::List(_));
        let seed = Objects {
            line,
            contents: contents.iter(),
            converter: self.converter,
            defined: self.defined,
        };
        if is_list { self.document.read(List(seed)) } else { self.document.read(One(seed)) }
    }
}

/// Reads any type, as a seed.
struct Of<T>(std::marker::PhantomData<T>);

impl<T> Of<T> {
    fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Of<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}

/// Reads objects one after the other, each of the next kind, and converts them at once.
struct Objects<'a> {
    line: u64,
    contents: std::slice::Iter<'a, Content>,
    converter: &'a mut Converter,
    defined: &'a mut Vec<Defined>,
}

impl Objects<'_> {
    fn read<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        match self.contents.next() {
            Some(Content::One(single)) => match single {
                Single::Service => self.keep::<wire::Service, D>(deserializer),
                Single::EndpointSlice => self.keep::<wire::EndpointSlice, D>(deserializer),
                Single::Node => {
                    let node = wire::Node::deserialize(deserializer)?;
                    let converted = node.convert(self.converter);
                    self.converted(converted);
                    // Network policy sees a Node in another way.
                    let wire::Node { metadata, status, .. } = node;
                    let converted = cluster::PeerNode { metadata, status }.convert(self.converter);
                    self.converted(converted);
                    Ok(())
                }
                Single::ServiceCidr => self.keep::<wire::ServiceCidr, D>(deserializer),
                Single::Pod => self.keep::<policy::Pod, D>(deserializer),
                Single::Namespace => self.keep::<policy::Namespace, D>(deserializer),
                Single::NetworkPolicy => self.keep::<policy::NetworkPolicy, D>(deserializer),
                Single::ClusterNetworkPolicy => {
                    self.keep::<cluster::ClusterNetworkPolicy, D>(deserializer)
                }
            },
            // Lists in lists are not read.
            Some(Content::List(_) | Content::Foreign) | None => {
                IgnoredAny::deserialize(deserializer).map(drop)
            }
        }
    }

    fn keep<'de, T, D>(&mut self, deserializer: D) -> Result<(), D::Error>
    where
        T: Wire + Deserialize<'de>,
        D: Deserializer<'de>,
        Converted<T::Object>: Into<SourceEvent>,
    {
        let converted = T::deserialize(deserializer)?.convert(self.converter);
        self.converted(converted);
        Ok(())
    }

    fn converted<O>(&mut self, converted: Converted<O>)
    where
        Converted<O>: Into<SourceEvent>,
    {
        let (kind, key) = (converted.kind, converted.key.clone());
        self.defined.push(Defined { line: self.line, kind, key, event: converted.into() });
    }
}

/// A document that is one object.
struct One<'a>(Objects<'a>);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        self.0.read(deserializer)
    }
}

/// A document that is a list of objects.
struct List<'a>(Objects<'a>);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(Items(&mut self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The value of `items`: a sequence or null.
struct Items<'a, 'b>(&'a mut Objects<'b>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of objects")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Item(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// One of the items.
struct Item<'a, 'b>(&'a mut Objects<'b>);

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.read(deserializer)
    }
}
