//! The deployment, validated by a real API server.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use shunt_kind_tests::control_plane::Plane;

/// The files that `kustomization.yaml` names.
fn resources() -> Result<Vec<PathBuf>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let text = fs::read_to_string(home.join("kustomization.yaml"))?;
    let list = text.split_once("\nresources:\n").context("no resources")?.1;
    let names = list.lines().map_while(|line| line.strip_prefix("  - "));
    Ok(names.map(|name| home.join(name)).collect())
}

/// Fails unless the server would take all manifests, and no file is forgotten.
pub(crate) fn expect_valid(plane: &Plane) -> Result<()> {
    let files = resources()?;
    let home = files[0].parent().context("no directory")?;
    let there = fs::read_dir(home)?.filter(|entry| {
        let name = entry.as_ref().map(fs::DirEntry::file_name).unwrap_or_default();
        name.to_string_lossy().ends_with(".yaml") && name != "kustomization.yaml"
    });
    assert_eq!(there.count(), files.len(), "kustomization.yaml names every file");
    let mut arguments = vec!["apply", "--dry-run"];
    let files: Vec<_> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    arguments.extend(files.iter().map(String::as_str));
    plane.server().command(&arguments)
}

/// Fails unless the API says this about what an account may do.
pub(crate) async fn may(
    client: &kube::Client,
    verb: &str,
    group: &str,
    resource: &str,
) -> Result<bool> {
    let review = serde_json::json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource}},
    });
    let answer: Value = shunt_kind_tests::control_plane::verbs::create(client, review).await?;
    answer["status"]["allowed"].as_bool().context("no answer")
}
