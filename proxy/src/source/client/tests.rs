use std::fs;

use super::*;

const GOOD: &str = "
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'https://192.0.2.1:6443'}}]
users: [{name: u, user: {token: secret}}]
";

async fn complaint(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    fs::write(&path, text).unwrap();
    let error =
        client(Some(&path), None, Requests::default()).await.err().expect("an error").to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&path.display().to_string(), "PATH")
}

#[tokio::test]
async fn a_good_kubeconfig_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    fs::write(&path, GOOD).unwrap();
    client(Some(&path), None, Requests::default()).await.unwrap();
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let error = client(Some(Path::new("/nonexistent/kubeconfig")), None, Requests::default())
        .await
        .err()
        .expect("an error");
    assert_eq!(
        error.to_string(),
        "kubeconfig /nonexistent/kubeconfig: cannot be read: No such file or directory (os error 2)"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_kubeconfig_is_said_in_one_line() {
    for (text, expected) in [
        ("just words", "not a kubeconfig in YAML"),
        ("clusters:\n  - name: [", "line "),
        ("", "there is no current-context"),
        (&GOOD.replace("current-context: c", ""), "there is no current-context"),
        (&GOOD.replace("current-context: c", "current-context: d"), "there is no context \"d\""),
        (&GOOD.replace("cluster: k", "cluster: l"), "there is no cluster \"l\""),
        (
            &GOOD.replace("cluster: {", "cluster: {certificate-authority-data: '!', "),
            "failed to load certificate authority",
        ),
        (
            &GOOD.replace("cluster: {", "cluster: {certificate-authority: /nonexistent/ca, "),
            "failed to load certificate authority",
        ),
        (
            &GOOD.replace("token: secret", "client-certificate-data: eA==, client-key-data: eA=="),
            "its certificates, keys or tokens cannot be used",
        ),
        (
            &GOOD.replace("token: secret", "exec: {command: id, apiVersion: v1}"),
            "its user logs in by a program",
        ),
    ] {
        let error = complaint(text).await;
        assert!(error.contains(expected), "{text}\ngives: {error}");
        assert!(error.starts_with("kubeconfig PATH: "), "{error}");
    }
}

#[test]
fn outside_of_a_cluster_that_is_said() {
    let missing = InClusterError::ReadEnvironmentVariable(std::env::VarError::NotPresent);
    assert_eq!(
        Error::InCluster { reason: in_cluster(&missing) }.to_string(),
        "no kubeconfig is given and this is no pod of a cluster: KUBERNETES_SERVICE_HOST and \
         KUBERNETES_SERVICE_PORT are not set"
    );
}
