mod live;

use std::fmt::Write as _;
use std::time::Instant as Clock;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;
use crate::source::testing::told_event;

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn service(name: &str, port: i64) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.0.0.1\n  \
         ports:\n    - port: {port}\n"
    )
}

/// What is told of a directory, without the brackets of the lists.
fn told(directory: &TempDir) -> Vec<String> {
    let events = load_once(directory.path()).unwrap();
    let mut lines: Vec<_> = events.iter().flat_map(told_event).collect();
    assert_eq!(lines[..4], ["[ Service", "[ EndpointSlice", "[ Node", "[ ServiceCIDR"]);
    let end = lines.len() - 4;
    assert_eq!(lines[end..], ["] Service", "] EndpointSlice", "] Node", "] ServiceCIDR"]);
    lines.truncate(end);
    lines.split_off(4)
}

fn check(files: &[(&str, &str)], expected: &Expect) {
    let mut text = told(&directory(files)).join("\n");
    text.push('\n');
    expected.assert_eq(&text);
}

#[test]
fn an_empty_directory_is_a_complete_list() {
    assert_eq!(told(&directory(&[])), [""; 0]);
}

#[test]
fn a_missing_directory_is_an_error() {
    let error = load_once(Path::new("/nonexistent/manifests")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the directory of manifests /nonexistent/manifests cannot be read"
    );
}

#[test]
fn documents_of_all_kinds() {
    let slice = "
%YAML 1.2
---
# The slice of web.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: '', port: 8080}]
...
---
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {text: |
  not a mark:
   ---
 }
--- # the node
apiVersion: v1
kind: Node
metadata: {name: n1}
";
    check(
        &[("a.yaml", &service("web", 80)), ("b.yml", slice)],
        &expect![[r#"
            + Service default/web
            b.yml:17: spec: unexpected character: `|'
        "#]],
    );
}

#[test]
fn lists() {
    let json = r#"{"apiVersion": "v1", "items": [
        {"metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1}]},
         "kind": "Service", "apiVersion": "v1"},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"x": "y"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "c"}}
    ], "kind": "List", "metadata": {"resourceVersion": ""}}"#;
    let yaml = "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: d}\n  spec: {clusterIP: 10.0.0.2, ports: [{port: 1}]}\n\
                ---\napiVersion: v1\nkind: List\nitems: null\n---\nkind: NodeList\napiVersion: v1\n";
    check(
        &[("list.json", json), ("list.yaml", yaml)],
        &expect![[r#"
            + Service default/a
            + Node c
            + Service default/d
        "#]],
    );
}

#[test]
fn only_manifests_are_read() {
    let directory = directory(&[
        (".hidden.yaml", &service("a", 1)),
        ("README.md", "no manifest"),
        ("b.yaml.bak", &service("b", 1)),
        ("c.YAML", &service("c", 1)),
        ("d.yaml", &service("d", 1)),
    ]);
    fs::create_dir(directory.path().join("sub.yaml")).unwrap();
    fs::write(directory.path().join("sub.yaml/e.yaml"), service("e", 1)).unwrap();
    assert_eq!(told(&directory), ["+ Service default/d"]);
}

#[test]
fn a_problem_of_an_object_is_the_objects() {
    check(
        &[
            ("a.yaml", &service("none", 0)),
            ("b.yaml", &service("some", 80).replace("- port", "- port: -1\n    - port")),
        ],
        &expect![[r#"
            ! Service default/none
            + Service default/some!
        "#]],
    );
}

#[test]
fn what_is_wrong_with_a_file_has_line_and_field() {
    let good = service("good", 80);
    let typed = format!("{good}---\n\n{}", service("bad", 80).replace("port: 80", "port: eighty"));
    check(
        &[
            ("a-type.yaml", &typed),
            ("b-half.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: \"web"),
            ("c-tab.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n\tname: web\n"),
            ("d-words.yaml", "just some words\n"),
            ("e-kind.yaml", &format!("{good}---\n# comment\n\nspec: {{}}\n")),
            ("f-version.yaml", "kind: Service\n"),
            ("g-name.yaml", &good.replace("name: good", "namespace: x")),
            ("h-twice.yaml", "apiVersion: v1\nkind: Service\nkind: Node\n"),
            ("i-list.yaml", "apiVersion: v1\nkind: List\nitems:\n- kind: Service\n"),
            (
                "j-item.yaml",
                "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec:\n    ports: [{port: x}]\n",
            ),
            ("k-several.yaml", "kind: Service\n---\nkind: Node\n"),
            ("l-half.json", "{\"kind\": \"Service\",\n \"apiVersion\": \"v1\",\n"),
            (
                "m-type.json",
                "{\"kind\": \"Service\",\n \"apiVersion\": \"v1\",\n \"metadata\": {\"name\": \"a\"},\n \"spec\": {\"ports\": 5}}",
            ),
            ("n-empty.json", ""),
            ("o-empty.yaml", ""),
            ("p-two.json", "{} {}"),
        ],
        &expect![[r#"
            a-type.yaml:16: spec.ports[0].port: this is not a whole number
            b-half.yaml:4: metadata: unclosed quote
            c-tab.yaml:4: tabs disallowed within this context (block indentation)
            d-words.yaml:1: expected mapping start
            e-kind.yaml:11: kind: there is no kind
            f-version.yaml:1: apiVersion: there is no apiVersion
            g-name.yaml:1: metadata.name: there is no name
            h-twice.yaml:3: duplicate mapping key: kind
            i-list.yaml:1: items[0].apiVersion: there is no apiVersion
            j-item.yaml:6: items[0].spec.ports[0].port: this is not a whole number
            k-several.yaml:1: apiVersion: there is no apiVersion
            k-several.yaml:3: apiVersion: there is no apiVersion
            l-half.json:3: EOF while parsing a value
            m-type.json:4: spec.ports: invalid type: integer `5`, expected a sequence
            n-empty.json:1: EOF while parsing a value
            p-two.json:1: trailing characters
        "#]],
    );
}

#[test]
fn an_object_of_two_files_is_taken_from_the_first() {
    let twice = format!("{}---\n{}", service("web", 80), service("web", 81));
    check(
        &[("1.yaml", &twice), ("2.yaml", &service("web", 82)), ("3.yaml", &service("other", 80))],
        &expect![[r#"
            + Service default/web
            + Service default/other
            1.yaml:9: Service default/web is defined on line 1 already; this one is ignored
            2.yaml:1: Service default/web is defined in 1.yaml already; this one is ignored
        "#]],
    );
}

#[test]
fn what_cannot_be_a_manifest_is_said() {
    let directory = directory(&[]);
    fs::write(directory.path().join("a.yaml"), b"a: b\nc: \xff\n").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("b.yaml")).unwrap();
    assert_eq!(
        told(&directory),
        ["a.yaml:2: this is not UTF-8", "b.yaml: this is no regular file"]
    );
}

#[test]
fn ten_thousand_services_in_one_file() {
    let mut yaml = String::new();
    let mut items = String::new();
    for i in 0..10_000 {
        write!(yaml, "---\n{}", service(&format!("s{i}"), 80)).unwrap();
        let item = service(&format!("t{i}"), 80).replace('\n', "\n  ");
        writeln!(items, "- {}", item.trim_end()).unwrap();
    }
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{items}");
    for (name, text) in [("documents.yaml", &yaml), ("list.yaml", &list)] {
        let directory = directory(&[(name, text)]);
        let start = Clock::now();
        let told = told(&directory);
        println!("{name}: {} KiB in {:?}", text.len() / 1024, start.elapsed());
        assert_eq!(told.len(), 10_000, "{:?}", told.last());
    }
}
