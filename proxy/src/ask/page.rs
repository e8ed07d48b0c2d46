//! The matrix as a page: one file that needs nothing beside itself.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::matrix::{Cell, Matrix};

/// The page around the data. Its script draws them.
const PAGE: &str = include_str!("page.html");

/// The page.
pub(super) fn page(matrix: &Matrix) -> String {
    // No text of ours may end the element that it stands in.
    let data = data(matrix).to_string().replace('<', "\\u003c");
    let asked = matrix.asked().replace('<', "&lt;");
    PAGE.replace("@ASKED@", &asked).replace("@DATA@", &data)
}

/// Clauses stand in a list of their own, and cells that are equal once: a page of hundreds of pods
/// stays small.
fn data(matrix: &Matrix) -> Value {
    let ends: Vec<_> = matrix
        .classes
        .iter()
        .map(|class| {
            let pods: Vec<_> = class.members.iter().map(|end| end.name.as_str()).collect();
            json!({"ns": class.namespace, "name": class.name, "pods": pods})
        })
        .collect();
    let mut kinds: Vec<Value> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut number = |cell: &Cell| {
        let kind = kind(cell);
        *known.entry(kind.to_string()).or_insert_with(|| {
            kinds.push(kind);
            kinds.len() - 1
        })
    };
    let rows: Vec<Vec<usize>> =
        matrix.cells.iter().map(|row| row.iter().map(&mut number).collect()).collect();
    json!({"ends": ends, "rows": rows, "kinds": kinds})
}

fn kind(cell: &Cell) -> Value {
    let parts: Vec<_> = cell
        .parts
        .iter()
        .map(|part| {
            let decision = &part.decision;
            json!([part.what, decision.allowed, decision.egress, decision.ingress])
        })
        .collect();
    json!({"verdict": cell.verdict.word(), "parts": parts})
}
