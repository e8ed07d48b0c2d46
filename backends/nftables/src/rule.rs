//! Chains and rules, as nft prints them and as the kernel takes them.

use crate::expression::Expression;
use crate::name::SetId;

/// One rule: as nft prints it, and as the kernel takes it.
#[derive(Clone, Debug)]
pub struct Rule<S = SetId> {
    /// The text.
    pub text: String,
    /// The instructions.
    pub expressions: Vec<Expression<S>>,
}

impl<S> Rule<S> {
    /// A rule of both.
    pub fn new(text: impl Into<String>, expressions: impl Into<Vec<Expression<S>>>) -> Self {
        Self { text: text.into(), expressions: expressions.into() }
    }

    /// What a rule is recognised by when it is read back.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.text)
    }
}

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// Its name, for people.
    pub name: &'static str,
    /// `NF_INET_*`.
    pub number: u32,
    /// The chain's priority.
    pub priority: i32,
    /// How nft prints the priority: it knows a name for it at some hooks only.
    pub priority_text: &'static str,
}

/// One chain.
#[derive(Clone, Debug)]
pub struct Chain<S = SetId> {
    /// Its name.
    pub name: String,
    /// Where it is attached, if it is a base chain.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule<S>>,
}

impl<S> Chain<S> {
    /// The chain as nft prints it, within a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("\n\tchain {} {{\n", self.name);
        if let Some(Hook { kind, name, priority_text, .. }) = self.hook {
            out.push_str(&format!(
                "\t\ttype {kind} hook {name} priority {priority_text}; policy accept;\n"
            ));
        }
        for rule in &self.rules {
            out.push_str(&format!("\t\t{}\n", rule.text));
        }
        out.push_str("\t}\n");
        out
    }
}

/// FNV-1a, 64 bits: stable across builds, which the standard library's hasher is not.
#[must_use]
pub fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
