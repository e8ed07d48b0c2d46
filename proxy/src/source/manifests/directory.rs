//! What the files of a directory define: which file an object is taken from, and what changes
//! when a file does. Reads files, but waits for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io, mem};

use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;

use super::document::{Defined, Format, parse};
use crate::source::convert::Converter;
use crate::source::{FileProblem, SourceEvent};

/// The kinds, in the order in which they are listed.
const KINDS: [Kind; 9] = [
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Node,
    Kind::ServiceCidr,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::PeerNode,
    Kind::Namespace,
    Kind::Pod,
];

/// Which files may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// All.
    All,
    /// Those of these names.
    Files(BTreeSet<OsString>),
}

impl Touched {
    pub(super) fn none() -> Self {
        Self::Files(BTreeSet::new())
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::Files(names) if names.is_empty())
    }

    pub(super) fn add(&mut self, name: &OsStr) {
        if let Self::Files(names) = self {
            names.insert(name.to_owned());
        }
    }
}

type Id = (Kind, ObjectKey);

/// What a file defines.
#[derive(Debug, Default)]
struct File {
    /// From its last good state.
    objects: BTreeMap<Id, Entry>,
    /// Why its present state is not good.
    broken: Vec<FileProblem>,
    /// Objects that it defines more than once.
    repeated: Vec<FileProblem>,
    /// What was last reported of it.
    reported: Vec<FileProblem>,
}

#[derive(Debug)]
struct Entry {
    line: u64,
    /// What it amounts to.
    event: Arc<SourceEvent>,
}

/// A directory of manifests.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    converter: Converter,
    files: BTreeMap<OsString, File>,
    /// The files that define an object, sorted: it is taken from the first.
    definers: BTreeMap<Id, Vec<OsString>>,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            converter: Converter::new(),
            files: BTreeMap::new(),
            definers: BTreeMap::new(),
        }
    }

    /// Reads everything and tells it as the first list of each kind.
    ///
    /// # Errors
    /// If the directory cannot be read. Nothing has been told then.
    pub(super) fn list(&mut self, tell: &mut dyn FnMut(SourceEvent)) -> io::Result<()> {
        let names = self.names()?;
        for kind in KINDS {
            tell(SourceEvent::list_started(kind));
        }
        self.update_files(&names, tell);
        for kind in KINDS {
            tell(SourceEvent::list_done(kind));
        }
        Ok(())
    }

    /// Reads what may have changed and tells what has.
    ///
    /// # Errors
    /// If the directory cannot be read. Everything stays as it was then.
    pub(super) fn update(
        &mut self,
        touched: &Touched,
        tell: &mut dyn FnMut(SourceEvent),
    ) -> io::Result<()> {
        match touched {
            Touched::All => {
                let mut names = self.names()?;
                names.extend(self.files.keys().cloned());
                self.update_files(&names, tell);
            }
            Touched::Files(names) => self.update_files(names, tell),
        }
        Ok(())
    }

    fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let entries = fs::read_dir(&self.path)?;
        let names =
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<BTreeSet<_>>>()?;
        Ok(names.into_iter().filter(|name| format_of(name).is_some()).collect())
    }

    fn update_files(&mut self, names: &BTreeSet<OsString>, tell: &mut dyn FnMut(SourceEvent)) {
        let mut concerned = names.clone();
        for name in names {
            if let Some(format) = format_of(name) {
                self.update_file(name, format, &mut concerned, tell);
            }
        }
        for name in concerned {
            self.report(&name, tell);
        }
    }

    fn update_file(
        &mut self,
        name: &OsStr,
        format: Format,
        concerned: &mut BTreeSet<OsString>,
        tell: &mut dyn FnMut(SourceEvent),
    ) {
        let path = self.path.join(name);
        let objects = match read(&path, format, &mut self.converter) {
            Read::Gone if !self.files.contains_key(name) => return,
            Read::Gone => Vec::new(),
            Read::Broken(problems) => {
                self.files.entry(name.to_owned()).or_default().broken = problems;
                return;
            }
            Read::Good(objects) => objects,
        };
        let file = self.files.entry(name.to_owned()).or_default();
        file.broken.clear();
        file.repeated.clear();
        let mut former = mem::take(&mut file.objects);
        for Defined { line, kind, key, event } in objects {
            let id = (kind, key);
            if let Some(first) = file.objects.get(&id) {
                let (kind, key) = &id;
                if *kind == Kind::PeerNode {
                    continue;
                }
                let reason = format!(
                    "{kind} {key} is defined on line {} already; this one is ignored",
                    first.line
                );
                file.repeated.push(FileProblem {
                    file: path.clone(),
                    line: Some(line),
                    field: None,
                    reason,
                });
                continue;
            }
            file.objects.insert(id, Entry { line, event: Arc::new(event) });
        }
        let mut ids: BTreeSet<Id> = former.keys().cloned().collect();
        ids.extend(file.objects.keys().cloned());
        for id in ids {
            let before = self.before(&id, name, former.remove(&id));
            self.redefine(&id, name, concerned);
            let after = self.current(&id);
            if let Some(event) = difference(id, before.as_deref(), after.as_deref()) {
                tell(event);
            }
        }
    }

    /// The object as it was taken before the file of this name changed.
    fn before(&self, id: &Id, name: &OsStr, former: Option<Entry>) -> Option<Arc<SourceEvent>> {
        let owner = self.definers.get(id)?.first()?;
        if owner == name { former.map(|entry| entry.event) } else { self.current_of(id, owner) }
    }

    /// Brings the record of who defines an object up to date with a file's new state.
    fn redefine(&mut self, id: &Id, name: &OsStr, concerned: &mut BTreeSet<OsString>) {
        let defines = self.files.get(name).is_some_and(|file| file.objects.contains_key(id));
        let definers = self.definers.entry(id.clone()).or_default();
        match definers.binary_search_by(|definer| definer.as_os_str().cmp(name)) {
            Ok(at) if !defines => drop(definers.remove(at)),
            Err(at) if defines => definers.insert(at, name.to_owned()),
            Ok(_) | Err(_) => {}
        }
        if definers.len() > 1 || definers.first().is_some_and(|first| first != name) {
            concerned.extend(definers.iter().cloned());
        }
        if definers.is_empty() {
            self.definers.remove(id);
        }
    }

    fn current(&self, id: &Id) -> Option<Arc<SourceEvent>> {
        self.current_of(id, self.definers.get(id)?.first()?)
    }

    fn current_of(&self, id: &Id, name: &OsStr) -> Option<Arc<SourceEvent>> {
        Some(Arc::clone(&self.files.get(name)?.objects.get(id)?.event))
    }

    /// Tells what is wrong with a file if that has changed, and forgets a file of which nothing is
    /// left.
    fn report(&mut self, name: &OsStr, tell: &mut dyn FnMut(SourceEvent)) {
        let Some(file) = self.files.get(name) else { return };
        let path = self.path.join(name);
        let mut problems = file.broken.clone();
        problems.extend(file.repeated.iter().cloned());
        // A Node is one thing, though there are two views of it.
        let told = file.objects.iter().filter(|((kind, _), _)| *kind != Kind::PeerNode);
        for (id, entry) in told {
            let first = self.definers.get(id).and_then(|definers| definers.first());
            if let Some(first) = first.filter(|first| first.as_os_str() != name) {
                let (kind, key) = id;
                let first = Path::new(first).display();
                let reason =
                    format!("{kind} {key} is defined in {first} already; this one is ignored");
                problems.push(FileProblem {
                    file: path.clone(),
                    line: Some(entry.line),
                    field: None,
                    reason,
                });
            }
        }
        let forget = problems.is_empty() && file.objects.is_empty() && !path.exists();
        if problems != file.reported {
            tell(SourceEvent::FileProblems { file: path, problems: problems.clone() });
        }
        if forget {
            self.files.remove(name);
        } else if let Some(file) = self.files.get_mut(name) {
            file.reported = problems;
        }
    }
}

fn difference(
    (kind, key): Id,
    before: Option<&SourceEvent>,
    after: Option<&SourceEvent>,
) -> Option<SourceEvent> {
    match (before, after) {
        (before, Some(after)) if before == Some(after) => None,
        (None, Some(after)) if after.is_deletion() => None,
        (_, Some(after)) => Some(after.clone()),
        (Some(_), None) => Some(SourceEvent::deleted(kind, key)),
        (None, None) => None,
    }
}

/// The format of a file of this name, if it is one of manifests.
fn format_of(name: &OsStr) -> Option<Format> {
    let path = Path::new(name);
    if name.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

enum Read {
    Gone,
    Broken(Vec<FileProblem>),
    Good(Vec<Defined>),
}

fn read(path: &Path, format: Format, converter: &mut Converter) -> Read {
    let broken = |reason: String| {
        Read::Broken(vec![FileProblem { file: path.to_owned(), line: None, field: None, reason }])
    };
    // A pipe would be waited for.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(metadata) if metadata.is_dir() => return Read::Gone,
        Ok(_) => return broken("this is no regular file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Read::Gone,
        Err(error) => return broken(format!("cannot be read: {error}")),
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Read::Gone,
        Err(error) => return broken(format!("cannot be read: {error}")),
    };
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count();
            return Read::Broken(vec![FileProblem {
                file: path.to_owned(),
                line: u64::try_from(line + 1).ok(),
                field: None,
                reason: "this is not UTF-8".to_owned(),
            }]);
        }
    };
    match parse(path, format, &text, converter) {
        Ok(objects) => Read::Good(objects),
        Err(problems) => Read::Broken(problems),
    }
}
