//! The deployment: rendered by kustomize, validated by a real API server; its configuration and its image,
//! tried.

mod helm;
mod image;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_kind_tests::control_plane::Plane;

pub(crate) fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// What a person with Docker runs.
fn kind() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kind")
}

fn succeed(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {told}", output.status);
    Ok(output)
}

/// What kustomize makes of a directory.
fn render(directory: &Path) -> Result<Vec<u8>> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomize.sh");
    Ok(succeed(Command::new(tool).arg("build").arg(directory))?.stdout)
}

/// The default and all overlays, and the default with each component.
fn deployments(scratch: &Path) -> Result<Vec<PathBuf>> {
    let subdirectories = |name: &str| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(home().join(name))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut all = subdirectories("overlays")?;
    all.push(home());
    all.push(kind());
    for component in subdirectories("components")? {
        let name = component.file_name().context("a name")?;
        let directory = scratch.join("with").join(name);
        fs::create_dir_all(&directory)?;
        // kustomize takes relative paths only.
        let up = "../".repeat(directory.components().count() - 1);
        let to = |path: PathBuf| -> Result<String> {
            Ok(format!(
                "{up}{}",
                path.canonicalize()?.display().to_string().trim_start_matches('/')
            ))
        };
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
             resources: [{}]\ncomponents: [{}]\n",
            to(home())?,
            to(component.clone())?
        );
        fs::write(directory.join("kustomization.yaml"), text)?;
        all.push(directory);
    }
    Ok(all)
}

/// Fails unless the server would take what kustomize makes of each deployment.
pub(crate) fn expect_valid(plane: &Plane) -> Result<()> {
    let deployments = deployments(plane.scratch())?;
    ensure!(deployments.len() >= 4, "{deployments:?}");
    for directory in deployments {
        let file = plane.scratch().join("rendered.yaml");
        fs::write(&file, render(&directory)?)?;
        let file = file.to_string_lossy();
        let valid = plane.server().command(&["apply", "--dry-run", &file]);
        valid.with_context(|| format!("{}", directory.display()))?;
    }
    helm::expect_valid(plane)?;
    let namespace = serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "smoke"},
    });
    plane.api().create(namespace)?;
    let file = kind().join("smoke.yaml").display().to_string();
    plane.server().command(&["apply", "--dry-run", &file]).context("smoke.yaml")
}

#[test]
fn every_container_has_the_image_of_this_version() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let tagged = format!("shunt:{}", env!("CARGO_PKG_VERSION"));
    for directory in deployments(scratch.path())? {
        let rendered = String::from_utf8(render(&directory)?)?;
        let images = rendered.lines().filter_map(|line| line.trim().split_once("image: "));
        let images: BTreeSet<_> = images.map(|(_, image)| image).collect();
        assert_eq!(images, BTreeSet::from([tagged.as_str()]), "{}", directory.display());
    }
    Ok(())
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

#[test]
fn the_configurations_of_the_deployments_have_no_unknown_field() -> Result<()> {
    let overlays = fs::read_dir(home().join("overlays"))?;
    let overlays = overlays.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let of = |directory: PathBuf| directory.join("config.yaml");
    let files = overlays.into_iter().map(of).filter(|file| file.exists());
    let files: Vec<_> = files.chain([home().join("base/config.yaml")]).collect();
    ensure!(files.len() >= 4, "{files:?}");
    for file in files {
        let loaded = shunt::config::load::file(&file)?;
        assert_eq!(loaded.remarks, Vec::<String>::new(), "{}", file.display());
        let effective = shunt::config::Effective::new(loaded.configuration);
        let effective = effective.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        assert_eq!(effective.notes, Vec::<String>::new(), "{}", file.display());
    }
    Ok(())
}

#[test]
fn the_scripts_for_kind_are_clean() -> Result<()> {
    succeed(Command::new("shellcheck").args(["-x", "up.sh", "smoke.sh"]).current_dir(kind()))?;
    let cluster: Value = serde_saphyr::from_str(&fs::read_to_string(kind().join("cluster.yaml"))?)?;
    assert_eq!(cluster["networking"]["kubeProxyMode"], "none");
    Ok(())
}

/// A docker that writes down what it is told, and starts nothing. It answers as one on a machine of today does. The first
/// start that fails would keep kind from the second, which it makes at the same time: each waits for the other.
const DOCKER: &str = r#"#!/bin/sh
echo "$*" >>"$(dirname "$0")/told"
case "$1 ${2-}" in
info*) echo '{"SecurityOptions":["name=seccomp"],"CgroupVersion":"2","MemoryLimit":true,"PidsLimit":true,"CPUShares":true}' ;;
"network ls") echo kind ;;
run*)
  tries=0
  until [ "$(grep -c '^run ' "$(dirname "$0")/told")" -ge 2 ] || [ $tries = 200 ]; do sleep 0.1; tries=$((tries + 1)); done
  exit 1
  ;;
esac
"#;

/// Without Docker the script comes as far as kind's starting of nodes: kind itself has read the configuration.
#[test]
fn the_script_for_kind_starts_the_nodes_of_its_configuration() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name);
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("kind.sh");
    succeed(Command::new(&tool).arg("version"))?;
    let kind_runs = format!("#!/bin/sh\nexec {} \"$@\"\n", tool.display());
    for (name, text) in [("docker", DOCKER), ("kind", &kind_runs), ("kubectl", "#!/bin/sh\n")] {
        fs::write(path(name), text)?;
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755))?;
    }
    fs::write(path("shunt"), "")?;
    let programs = format!("{}:{}", scratch.path().display(), std::env::var("PATH")?);
    let mut up = Command::new(kind().join("up.sh"));
    up.env("PATH", programs).env("BINARY", path("shunt")).env("KUBECONFIG", path("kubeconfig"));
    let output = up.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("Preparing nodes"), "{said}");
    let told = fs::read_to_string(path("told"))?;
    let starts: Vec<_> = told.lines().filter(|line| line.starts_with("run ")).collect();
    assert_eq!(starts.len(), 2, "{told}\n{said}");
    for role in ["control-plane", "worker"] {
        let label = format!("io.x-k8s.kind.role={role} ");
        let of_role = starts.iter().find(|line| line.contains(&label)).context(role)?;
        ensure!(of_role.contains("net.ipv6.conf.all.forwarding=1"), "not both families: {of_role}");
    }
    // The image that is built is the one that the manifests ask for.
    let built = told.lines().find_map(|line| line.strip_prefix("build -t ")).context("no build")?;
    let image = built.split(' ').next().context("no tag")?;
    let rendered = String::from_utf8(render(&kind())?)?;
    ensure!(rendered.contains(&format!("image: {image}\n")), "{image} is not in\n{rendered}");
    Ok(())
}

/// What is left to another one is not watched, so it may not be read.
#[test]
fn without_policy_nothing_of_policy_may_be_read() -> Result<()> {
    let of_policy = [
        "networkpolicies",
        "clusternetworkpolicies",
        "customresourcedefinitions",
        "pods",
        "namespaces",
        "--network-policy=off",
    ];
    for (overlay, policy) in
        [("nftables", true), ("flannel", true), ("policy-off", false), ("calico", false)]
    {
        let rendered = String::from_utf8(render(&home().join("overlays").join(overlay))?)?;
        let found = of_policy.map(|word| rendered.contains(&format!("- {word}\n")));
        assert_eq!(found, [policy, policy, policy, policy, policy, !policy], "{overlay}");
    }
    Ok(())
}
