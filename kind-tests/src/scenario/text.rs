//! Lines of a scenario's files, and errors that name them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

/// Where something stands: file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: Arc<Path>,
    line: usize,
}

impl Place {
    /// A place for tests, and for what stands in no file.
    pub(super) fn new(file: &str, line: usize) -> Self {
        Self { file: PathBuf::from(file).into(), line }
    }

    /// An error at this place.
    pub(super) fn error(&self, what: impl fmt::Display) -> anyhow::Error {
        anyhow!("{self}: {what}")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One line with something on it, without its comment.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Where it stands.
    pub(super) place: Place,
    /// What it says.
    pub(super) text: String,
}

impl Line {
    /// Its words.
    pub(super) fn words(&self) -> Vec<&str> {
        self.text.split_whitespace().collect()
    }
}

/// The lines of a file.
pub(super) fn read_lines(file: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(lines(file, &text))
}

/// The lines of a text. `#` begins a comment; lines with nothing else are left out.
pub(super) fn lines(file: &Path, text: &str) -> Vec<Line> {
    let file: Arc<Path> = file.into();
    let numbered = (1..).zip(text.lines());
    let stripped =
        numbered.map(|(number, line)| (number, line.split('#').next().unwrap_or("").trim()));
    let line = |(number, text): (usize, &str)| Line {
        place: Place { file: Arc::clone(&file), line: number },
        text: text.to_owned(),
    };
    stripped.filter(|(_, text)| !text.is_empty()).map(line).collect()
}
