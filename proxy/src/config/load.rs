//! From the text of a file to a configuration: strict first, lenient with a remark after.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::KubeProxyConfiguration;
use super::kube_proxy::{API_VERSION, KIND};

/// A configuration that was read, with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub configuration: KubeProxyConfiguration,
    /// What a strict reader would refuse: unknown fields with their path, keys given twice.
    pub remarks: Vec<String>,
}

/// Reads a file.
///
/// # Errors
/// If it cannot be read, or is no such configuration; the error names the field.
pub fn file(path: &Path) -> anyhow::Result<Loaded> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config {}: cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("--config {}", path.display()))
}

/// Reads a configuration, in YAML or JSON.
///
/// # Errors
/// If it is none; the error names the field.
pub fn parse(text: &str) -> anyhow::Result<Loaded> {
    let mut remarks = Vec::new();
    let mut value = match tree(text, DuplicateKeyPolicy::Error) {
        Ok(value) => value,
        Err(strict) => {
            let value = tree(text, DuplicateKeyPolicy::LastWins)?;
            remarks.push(format!("{strict:#}; the last one counts"));
            value
        }
    };
    if value.is_null() {
        bail!("kind: must be {KIND}: the file is empty");
    }
    for (field, expected) in [("kind", KIND), ("apiVersion", API_VERSION)] {
        match value.get(field).and_then(Value::as_str) {
            Some(given) if given == expected => {}
            Some(given) => bail!("{field}: {given:?} is not known: must be {expected}"),
            None => bail!("{field}: is missing: must be {expected}"),
        }
    }
    drop_nulls(&mut value);
    if let Some(path) = list_for_fields(&value, &shape()?) {
        bail!("{path}: invalid type: sequence, expected a map");
    }
    let mut unknown = Vec::new();
    let mut noted = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let read = serde_ignored::deserialize(tracked, &mut noted);
    let mut configuration: KubeProxyConfiguration =
        read.map_err(|error| anyhow!("{}: {error}", track.path()))?;
    remarks.extend(unknown.into_iter().map(|path| format!("{path}: unknown field")));
    configuration.set_defaults();
    Ok(Loaded { configuration, remarks })
}

fn tree(text: &str, duplicates: DuplicateKeyPolicy) -> anyhow::Result<Value> {
    let options = serde_saphyr::options! { duplicate_keys: duplicates };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or_else(String::new, |at| format!("line {}: ", at.line()));
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default();
        // The line is told already, and the crate's advice is not for operators.
        let end = [", set ", " at line "].iter().filter_map(|end| text.find(end)).min();
        anyhow!("{line}{}", &text[..end.unwrap_or(text.len())])
    })
}

/// All sections, with their fields.
fn shape() -> anyhow::Result<Value> {
    let mut shape = serde_json::to_value(KubeProxyConfiguration::default())?;
    // An empty one is not written.
    shape["shunt"] = Value::Object(serde_json::Map::new());
    Ok(shape)
}

/// The path of a list where a section has fields: serde would take its items for them, one after the other.
fn list_for_fields(value: &Value, shape: &Value) -> Option<String> {
    value.as_object()?.iter().find_map(|(name, value)| match (value, shape.get(name)?) {
        (Value::Array(_), Value::Object(_)) => Some(name.clone()),
        (_, shape) => Some(format!("{name}.{}", list_for_fields(value, shape)?)),
    })
}

/// A `null` is nothing, as in Go.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A configuration as YAML, with sorted keys as kube-proxy writes it.
///
/// # Errors
/// None that is known of: all its keys are texts.
pub fn print(configuration: &KubeProxyConfiguration) -> anyhow::Result<String> {
    let value = serde_json::to_value(configuration.clone().of_its_mode())?;
    Ok(serde_saphyr::to_string(&value)?)
}
