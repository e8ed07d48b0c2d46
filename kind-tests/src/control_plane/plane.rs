//! The whole: namespaces, API server, nodes that are registered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use shunt_cluster::{CONTROL_PLANE, Cluster, ClusterSpec, ControlPlane};

use super::api::{Api, Id, verbs};
use super::scratch::Scratch;
use super::server::ApiServer;
use super::wait::wait_for;

/// The networks of all pods, as `--cluster-cidr` takes them.
pub const CLUSTER_CIDR: &str = "10.77.0.0/16,fd00:10:77::/48";
/// The controllers need less than a second for each change on an idle machine.
const CONTROLLERS: Duration = Duration::from_secs(30);

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct PlaneSpec<'a> {
    /// The cluster; it gets a control-plane host in any case.
    pub cluster: ClusterSpec,
    /// More flags of kube-apiserver.
    pub flags: &'a [&'a str],
}

/// A cluster with an API server that knows its nodes. Everything ends with it.
pub struct Plane {
    // In the order in which they must go.
    api: Api,
    server: ApiServer,
    cluster: Cluster,
    kubeconfig: PathBuf,
    scratch: Scratch,
}

impl Plane {
    /// Builds and starts it, registers its nodes, and makes the account of `manifests/`.
    pub fn start(spec: &PlaneSpec<'_>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut cluster = spec.cluster.clone();
        cluster.control_plane = ControlPlane::Present;
        let cluster = Cluster::build(&cluster)?;
        let host = cluster.host(CONTROL_PLANE)?;
        let server = ApiServer::start(host, &scratch.path().join("s"), spec.flags)?;
        let api = Api::new(host.netns(), &server.kubeconfig())?;
        let kubeconfig = scratch.path().join("shunt.kubeconfig");
        let plane = Self { api, server, cluster, kubeconfig, scratch };
        for node in plane.cluster.nodes() {
            plane.register(node)?;
        }
        let manifests = ["serviceaccount.yaml", "rbac.yaml"].map(manifest);
        plane.server.command(&["apply", &manifests[0], &manifests[1]])?;
        plane.account("kube-system", "shunt", &plane.kubeconfig)?;
        Ok(plane)
    }

    /// Writes a kubeconfig for a ServiceAccount.
    pub fn account(&self, namespace: &str, name: &str, file: &Path) -> Result<()> {
        let file = file.to_string_lossy();
        let arguments =
            ["serviceaccount", "--namespace", namespace, "--name", name, "--out", &file];
        self.server.command(&arguments)
    }

    /// The kubeconfig of the account that `manifests/` makes.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API, as an administrator.
    #[must_use]
    pub const fn api(&self) -> &Api {
        &self.api
    }

    /// The API server's process.
    #[must_use]
    pub const fn server(&self) -> &ApiServer {
        &self.server
    }

    /// The API server's process, to end and start it.
    pub const fn server_mut(&mut self) -> &mut ApiServer {
        &mut self.server
    }

    /// The namespaces.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The namespaces, to change them.
    pub const fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// A directory that goes with the cluster.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Waits until the controllers have made exactly these addresses the endpoints of a Service,
    /// in whichever slices: the ones ready, the others not.
    pub fn wait_for_endpoints(
        &self,
        service: &str,
        ready: &[IpAddr],
        others: &[IpAddr],
    ) -> Result<()> {
        let wanted = ready.iter().map(|ip| (*ip, true)).chain(others.iter().map(|ip| (*ip, false)));
        let wanted: BTreeSet<_> = wanted.map(|(ip, ready)| (ip.to_string(), ready)).collect();
        let labels = format!("kubernetes.io/service-name={service}");
        wait_for(&format!("the endpoints of {service}"), CONTROLLERS, || {
            let labels = labels.clone();
            let like = Id::slice("default", "");
            let slices =
                self.api.run(|client| async move { verbs::list(&client, &like, &labels).await })?;
            let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array());
            let endpoint = |endpoint: &Value| {
                let address = endpoint["addresses"][0].as_str().unwrap_or_default().to_owned();
                (address, endpoint["conditions"]["ready"] == true)
            };
            let found: BTreeSet<_> = endpoints.flatten().map(endpoint).collect();
            Ok(if found == wanted { Ok(()) } else { Err(format!("{found:?}, not {wanted:?}")) })
        })
    }
}

/// The path of one of our manifests.
fn manifest(name: &str) -> String {
    format!("{}/../manifests/base/{name}", env!("CARGO_MANIFEST_DIR"))
}
