//! The connection to the API server.
//!
//! kube's own stack neither keeps TCP connections alive nor gives up on a server that is silent,
//! and a watch on a half-dead connection would serve an old state for minutes. So the stack is
//! put together here, from kube's own layers.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::{HeaderValue, USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::{BoxError, ServiceBuilder};

use crate::metrics::Requests;

/// To connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte from the server. It sends a bookmark on each watch about once a minute.
const READ_TIMEOUT: Duration = Duration::from_secs(180);
/// For the server to take a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of an answer that a connection holds. A first list makes the buffer as large as it
/// may become, and a watch keeps it for ever.
const READ_BUFFER: usize = 64 * 1024;
/// An idle connection is probed after the first, then at each of the second; three unanswered
/// probes end it.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(20), Duration::from_secs(10), 3);

/// Why there can be no connection. Each is a matter of configuration: trying again is no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// Why, in one clause.
        reason: String,
    },
    /// The URL of `--master` cannot be used.
    #[error("--master {url}: {reason}")]
    Master {
        /// The URL.
        url: String,
        /// Why, in one clause.
        reason: String,
    },
    /// There is no kubeconfig, and what a pod has in its place is incomplete.
    #[error("no kubeconfig is given and {reason}")]
    InCluster {
        /// What is missing.
        reason: String,
    },
}

/// A client for the API server that a kubeconfig names, or that of the cluster we are a pod of;
/// `master` is a URL that outweighs the kubeconfig's, or stands alone. What it asks is counted in `requests`. Nothing is sent yet. Must be called in a tokio runtime.
///
/// # Errors
/// If the configuration cannot be used; the error says in one sentence why.
pub async fn client(
    kubeconfig: Option<&Path>,
    master: Option<&str>,
    requests: Requests,
) -> Result<Client, Error> {
    let master = master.map(|url| {
        let fail = |error| Error::Master { url: url.to_owned(), reason: format!("{error}") };
        url.parse::<hyper::Uri>().map_err(fail)
    });
    let master = master.transpose()?;
    match (kubeconfig, master) {
        (Some(path), master) => {
            let fail = |reason| Error::Kubeconfig { path: path.to_owned(), reason };
            let mut config = from_kubeconfig(path).await.map_err(fail)?;
            config.cluster_url = master.unwrap_or(config.cluster_url);
            build(config, requests).map_err(|error| fail(credentials(&error)))
        }
        (None, Some(url)) => {
            let fail = |reason| Error::Master { url: url.to_string(), reason };
            build(Config::new(url.clone()), requests).map_err(|error| fail(error.to_string()))
        }
        (None, None) => {
            let fail = |reason| Error::InCluster { reason };
            let config = Config::incluster().map_err(|error| fail(in_cluster(&error)))?;
            build(config, requests).map_err(|error| fail(credentials(&error)))
        }
    }
}

async fn from_kubeconfig(path: &Path) -> Result<Config, String> {
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| unusable(&error))?;
    if config.proxy_url.is_some() {
        return Err("its cluster has a proxy-url, which is not supported".to_owned());
    }
    // A daemon with our privileges executes no program.
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        return Err("its user logs in by a program (exec or auth-provider), which is not \
                    supported: use a token, a tokenFile or a client certificate"
            .to_owned());
    }
    Ok(config)
}

fn build(mut config: Config, requests: Requests) -> kube::Result<Client> {
    let agent = HeaderValue::from_static(concat!("shunt/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));

    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let (idle, interval, probes) = KEEPALIVE;
    tcp.set_keepalive(Some(idle));
    tcp.set_keepalive_interval(Some(interval));
    tcp.set_keepalive_retries(Some(probes));
    // The same patience for data of ours that is not acknowledged.
    tcp.set_tcp_user_timeout(Some(idle + interval * probes));

    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(READ_TIMEOUT));
    connector.set_write_timeout(Some(WRITE_TIMEOUT));
    // Or else the time that a connection lay in the pool would count.
    connector.set_reset_reader_on_write(true);

    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .http1_max_buf_size(READ_BUFFER)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(requests.counting(http));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Why a kubeconfig cannot be used, in one clause.
fn unusable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, _) => format!("cannot be read: {source}"),
        KubeconfigError::Parse(error) => {
            let error = error.without_snippet();
            let line =
                error.location().map_or_else(String::new, |at| format!("line {}: ", at.line()));
            format!("{line}not a kubeconfig in YAML: {}", first_line(&error.to_string()))
        }
        KubeconfigError::CurrentContextNotSet => "there is no current-context".to_owned(),
        KubeconfigError::LoadContext(name) => format!("there is no context {name:?}"),
        KubeconfigError::LoadClusterOfContext(name) => format!("there is no cluster {name:?}"),
        KubeconfigError::MissingClusterUrl => "its cluster has no server".to_owned(),
        other => first_line(&other.to_string()),
    }
}

fn in_cluster(error: &InClusterError) -> String {
    match error {
        InClusterError::ReadEnvironmentVariable(_) => "this is no pod of a cluster: \
             KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
            .to_owned(),
        other => format!("the service account cannot be used: {}", first_line(&other.to_string())),
    }
}

fn credentials(error: &kube::Error) -> String {
    format!("its certificates, keys or tokens cannot be used: {}", first_line(&error.to_string()))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end().to_owned()
}
