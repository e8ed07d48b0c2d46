//! What people see: numbered steps, lines below them, bars.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};

/// The longest bar, in characters.
const BAR: u64 = 40;

/// Standard output. Colours only on a terminal, and not where `NO_COLOR` is set.
pub(super) struct Screen {
    style: Style,
    step: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Colour,
    Plain,
}

impl Screen {
    /// Looks at standard output.
    pub(super) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = if stdout().is_terminal() && !unwanted { Style::Colour } else { Style::Plain };
        Self { style, step: 0 }
    }

    /// The first line.
    pub(super) fn title(&self, text: &str) {
        print(&self.paint("1", text));
    }

    /// The head of the next step.
    pub(super) fn step(&mut self, text: &str) {
        self.step += 1;
        print("");
        let head = format!("{}  {text}", self.step);
        print(&self.paint("1;36", &head));
    }

    /// A line of a step.
    pub(super) fn line(&self, text: &str) {
        print(format!("   {text}").trim_end());
    }

    /// A line that states a result.
    pub(super) fn result(&self, text: &str) {
        self.line(&self.paint("32", text));
    }

    /// Lines of another program.
    pub(super) fn quote(&self, text: &str) {
        text.lines().for_each(|line| self.line(line));
    }

    /// What may explain why a step has failed; to standard error.
    pub(super) fn last_words(&self, of: &str, text: &str) {
        eprintln!("\nthe last lines of the log of {of}:\n{text}");
    }

    /// One bar for each name.
    pub(super) fn bars(&self, counts: &BTreeMap<String, u64>) {
        let most = counts.values().copied().max().unwrap_or(0).max(1);
        let total: u64 = counts.values().sum::<u64>().max(1);
        let width = counts.keys().map(String::len).max().unwrap_or(0);
        for (name, count) in counts {
            let length = usize::try_from(count * BAR / most).unwrap_or(0);
            let percent = count * 100 / total;
            // Blanks on a coloured ground look the same in every locale.
            let bar = match self.style {
                Style::Colour => self.paint("46", &" ".repeat(length)),
                Style::Plain => "#".repeat(length),
            };
            self.line(&format!("  {name:width$} {bar} {count} ({percent} %)"));
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.style {
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Style::Plain => text.to_owned(),
        }
    }
}

/// A reader that has seen enough (`| head`) does not end the demo: its verdict is the exit code.
fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
