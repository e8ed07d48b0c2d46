//! From the text of a file to objects.
//!
//! YAML is read by serde-saphyr: its errors, of syntax and of types, carry a line; it and its
//! parser forbid unsafe code; and kube reads kubeconfigs with it, so that it adds little to the
//! binary. (serde_yaml is archived and serde_yml has an advisory, RUSTSEC-2025-0068;
//! serde_yaml_ng and serde_norway keep serde_yaml's unsafe translation of libyaml.)
//!
//! Each document is read twice: once for the kinds in it, once for the objects, as the kind may
//! come last (`kubectl get -o json` writes a list so) and a tree of values would have no lines.

mod content;
mod objects;

use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer};
use serde_path_to_error::Track;
use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;

use self::content::{Content, Header};
use self::objects::{List, Objects, One};
use crate::source::convert::Converter;
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
