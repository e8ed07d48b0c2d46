//! Just enough YAML: nested mappings, lists of mappings, lists of words in one line.

use std::fmt::Display;

/// A YAML document in the making.
#[derive(Debug, Default)]
pub(super) struct Yaml {
    out: String,
    depth: usize,
    /// The next line is the first of a list's entry.
    entry: bool,
}

impl Yaml {
    /// `key: value`, unless the value is the empty text.
    pub(super) fn field(&mut self, key: &str, value: impl Display) {
        let value = value.to_string();
        if !value.is_empty() {
            self.line(&format!("{key}: {}", word(&value)));
        }
    }

    /// `key: [word, word]`, unless there is none.
    pub(super) fn words<T: Display>(&mut self, key: &str, words: impl IntoIterator<Item = T>) {
        let words: Vec<_> = words.into_iter().map(|value| word(&value.to_string())).collect();
        if !words.is_empty() {
            self.line(&format!("{key}: [{}]", words.join(", ")));
        }
    }

    /// `key:` with what `body` writes below it.
    pub(super) fn section(&mut self, key: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{key}:"));
        self.depth += 1;
        body(self);
        self.depth -= 1;
    }

    /// `key:` with one entry for each item below it, unless there is none.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut body: impl FnMut(&mut Self, T),
    ) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return;
        }
        self.line(&format!("{key}:"));
        self.depth += 1;
        for item in items {
            self.entry = true;
            body(self, item);
        }
        self.entry = false;
        self.depth -= 1;
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        self.out
    }

    fn line(&mut self, text: &str) {
        let dash = std::mem::take(&mut self.entry);
        // An entry's dash stands where its parent's children would begin.
        let indent = if dash { self.depth.saturating_sub(1) } else { self.depth };
        self.out.extend(std::iter::repeat_n("  ", indent));
        self.out.push_str(if dash { "- " } else { "" });
        self.out.push_str(text);
        self.out.push('\n');
    }
}

/// A scalar, quoted where YAML would read something else.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "./:-_()".contains(c);
    let safe = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(plain)
        && !text.ends_with(':');
    if safe { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        assert_eq!(word("10.0.0.1:80/tcp"), "10.0.0.1:80/tcp");
        assert_eq!(word("fd00::1"), "fd00::1");
        assert_eq!(word("fd00::"), "\"fd00::\"");
        assert_eq!(word("[fd00::1]:80"), "\"[fd00::1]:80\"");
        assert_eq!(word("::1"), "\"::1\"");
        assert_eq!(word("a: b"), "\"a: b\"");
    }

    #[test]
    fn lists_nest() {
        let mut yaml = Yaml::default();
        yaml.list("a", [1, 2], |yaml, item| {
            yaml.field("b", item);
            yaml.list("c", [3], |yaml, item| yaml.field("d", item));
            yaml.words("e", ["f"]);
        });
        expect_test::expect![[r#"
            a:
            - b: 1
              c:
              - d: 3
              e: [f]
            - b: 2
              c:
              - d: 3
              e: [f]
        "#]]
        .assert_eq(&yaml.finish());
    }
}
