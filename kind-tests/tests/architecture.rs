//! The arrows between the crates, as ARCHITECTURE.md draws them.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Each crate of ours and all that it may depend on outside its tests; the two at the top, which
/// wire everything together, may use anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("shunt-model", &["ipnet"]),
    ("shunt-netlink", &["netlink-sys", "nix", "socket2", "thiserror"]),
    ("shunt-conntrack", &["nix", "shunt-model", "shunt-netlink"]),
    ("shunt-nftables", &["ipnet", "nix", "shunt-model", "shunt-netlink", "thiserror"]),
    ("ipvs-rs", &["netlink-sys", "nix", "thiserror"]),
    (
        "shunt-ipvs",
        &["ipnet", "ipvs-rs", "nix", "shunt-model", "shunt-netlink", "shunt-nftables", "thiserror"],
    ),
    ("shunt-netpolicy", &["ipnet", "shunt-model"]),
    (
        "shunt-netpolicy-nftables",
        &[
            "ipnet",
            "nix",
            "shunt-conntrack",
            "shunt-model",
            "shunt-netlink",
            "shunt-netpolicy",
            "shunt-nftables",
        ],
    ),
    ("shunt-cluster", &["anyhow", "ipnet", "nix", "tun-rs"]),
    ("shunt-guest", &["anyhow", "clap", "nix", "tempfile"]),
];
const TOP: &[&str] = &["shunt", "shunt-kind-tests"];

fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn the_crates_know_only_what_the_architecture_says() {
    let packages = packages();
    let names: BTreeSet<_> =
        packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let known: BTreeSet<_> =
        ARROWS.iter().map(|(name, _)| *name).chain(TOP.iter().copied()).collect();
    assert_eq!(names, known, "a crate is missing here or there: draw its arrows");
    for (name, allowed) in ARROWS {
        let package = packages.iter().find(|package| package["name"] == *name).expect("a package");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a name");
            let for_tests = dependency["kind"] == "dev";
            assert!(for_tests || allowed.contains(&used), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn nothing_of_ours_is_unsafe() {
    for package in packages() {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let text = std::fs::read_to_string(manifest).expect("a manifest");
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest}: the workspace's lints");
    }
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let text = std::fs::read_to_string(workspace).expect("a manifest");
    assert!(text.contains("unsafe_code = \"forbid\""));
}
