//! The Helm chart makes what kustomize makes: it has no objects of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_kind_tests::control_plane::Plane;

use super::{home, render, succeed};

/// An overlay, and the values that make the same of the chart.
const SAME: [(&str, &[&str]); 5] = [
    ("nftables", &[]),
    ("ipvs", &["mode=ipvs"]),
    ("policy-off", &["policy=off"]),
    ("flannel", &["config.clusterCIDR=10.244.0.0/16"]),
    ("calico", &["policy=off", "config.clusterCIDR=192.168.0.0/16"]),
];

fn helm(command: &str, values: &[&str]) -> Command {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm.sh");
    let mut helm = Command::new(tool);
    helm.args([command, "shunt"]).arg(home().join("helm")).args(["--namespace", "kube-system"]);
    for value in values {
        helm.args(["--set", value]);
    }
    helm
}

/// What the chart makes of these values.
fn template(values: &[&str]) -> Result<String> {
    Ok(String::from_utf8(succeed(&mut helm("template", values))?.stdout)?)
}

/// The objects of a text by kind and name. That a ConfigMap's name carries a hash, which both ways
/// to make it do, and how its content is laid out is left out.
fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for part in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(part).with_context(|| part.to_owned())?;
        let kind = object["kind"].as_str().context("a kind")?.to_owned();
        match kind.as_str() {
            "ConfigMap" => {
                let name = object["metadata"]["name"].as_str().context("a name")?;
                ensure!(name.len() == "shunt-".len() + 10, "{name} has no hash");
                object["metadata"]["name"] = "shunt".into();
                let config = object["data"]["config.yaml"].as_str().context("a configuration")?;
                object["data"]["config.yaml"] = serde_saphyr::from_str(config)?;
            }
            "DaemonSet" => {
                let volume = &mut object["spec"]["template"]["spec"]["volumes"][0];
                volume["configMap"]["name"] = "shunt".into();
            }
            _ => {}
        }
        found.insert(kind, object);
    }
    Ok(found)
}

#[test]
fn the_chart_makes_what_kustomize_makes() -> Result<()> {
    for (overlay, values) in SAME {
        let kustomized = String::from_utf8(render(&home().join("overlays").join(overlay))?)?;
        let (kustomized, templated) = (objects(&kustomized)?, objects(&template(values)?)?);
        ensure!(kustomized.len() == 5, "{kustomized:?}");
        for (kind, object) in &kustomized {
            assert_eq!(templated.get(kind), Some(object), "{overlay}: {kind}");
        }
        assert_eq!(templated.len(), kustomized.len(), "{overlay}");
    }
    Ok(())
}

#[test]
fn the_values_of_the_chart_are_put_in() -> Result<()> {
    let values = ["image.repository=registry.example/shunt", "image.tag=v1", "policy=audit"];
    let daemonset = objects(&template(&values)?)?.remove("DaemonSet").context("no DaemonSet")?;
    let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/shunt:v1");
    let args = container["args"].to_string();
    ensure!(args.contains("--network-policy=audit"), "{args}");
    let wrong = [
        ("mode=iptables", "/mode"),
        ("modus=ipvs", "modus"),
        ("config=1", "/config"),
        ("config=null", "config"),
        ("config.mode=ipvs", "config.mode: ipvs is ignored: set the value mode"),
        ("image.tag=1", "/image/tag"),
        ("policy=true", "/policy"),
    ];
    for (value, told) in wrong {
        let output = helm("template", &[value]).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && error.contains(told), "{value}: {error}");
    }
    Ok(())
}

/// For Helm a bare `off` in a file is the boolean `false`, at each of these places.
#[test]
fn a_bare_off_in_the_values_is_a_word() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("values.yaml");
    std::fs::write(&file, "policy: off\nconfig: {shunt: {tableOwner: off, counters: off}}\n")?;
    let made = succeed(helm("template", &[]).arg("--values").arg(&file))?.stdout;
    let mut made = objects(&String::from_utf8(made)?)?;
    let mut expected = objects(&template(&["policy=off"])?)?;
    for kind in ["ClusterRole", "DaemonSet"] {
        assert_eq!(made.remove(kind).context(kind)?, expected.remove(kind).context(kind)?);
    }
    let config = &made["ConfigMap"]["data"]["config.yaml"];
    let loaded = shunt::config::load::parse(&config.to_string())?;
    assert_eq!(loaded.remarks, Vec::<String>::new());
    let section = loaded.configuration.shunt;
    let words = [section.table_owner.as_deref(), section.counters.as_deref()];
    assert_eq!(words, [Some("off"); 2]);
    Ok(())
}

/// Fails unless the server would take what the chart makes.
pub(super) fn expect_valid(plane: &Plane) -> Result<()> {
    for (overlay, values) in SAME {
        let file = plane.scratch().join("templated.yaml");
        std::fs::write(&file, template(values)?)?;
        let valid = plane.server().command(&["apply", "--dry-run", &file.to_string_lossy()]);
        valid.with_context(|| format!("the chart as {overlay}"))?;
    }
    Ok(())
}
