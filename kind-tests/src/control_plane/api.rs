//! The API as an administrator uses it, from a thread in the namespace of the API server.

use std::future::Future;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use shunt_cluster::Netns;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A client in a namespace of its own choice. Dropping it ends its thread and what runs on it.
pub struct Api {
    client: Client,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// A client with the credentials of a kubeconfig. Nothing is sent yet.
    pub fn new(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, made) = channel();
        let thread = netns.thread("api", move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error.into()))),
            };
            let client = runtime.block_on(client(kubeconfig));
            let handle = runtime.handle().clone();
            if ready.send(client.map(|client| (client, handle))).is_ok() {
                // Runs whatever is spawned on its handle until it is told to stop.
                let _ = runtime.block_on(stopped);
            }
        })?;
        let (client, handle) = made.recv().context("the API's thread has ended")??;
        Ok(Self { client, handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a future on the API's thread and waits for it.
    pub fn run<T, F, W>(&self, work: W) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        W: FnOnce(Client) -> F,
    {
        let (sender, result) = channel();
        let future = work(self.client.clone());
        self.handle.spawn(async move {
            // Whoever waited may have panicked.
            let _ = sender.send(future.await);
        });
        result.recv().unwrap_or_else(|_| panic!("the work on the API's thread panicked"))
    }

    /// Starts a future on the API's thread.
    pub fn spawn<F, W>(&self, work: W) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
        W: FnOnce(Client) -> F,
    {
        self.handle.spawn(work(self.client.clone()))
    }

    /// Waits for what [`Api::spawn`] has started.
    pub fn join<T: Send + 'static>(&self, task: tokio::task::JoinHandle<T>) -> Result<T> {
        self.run(|_| task).map_err(|error| anyhow!("a task on the API's thread: {error}"))
    }

    /// Creates an object.
    pub fn create(&self, object: Value) -> Result<Value> {
        self.run(|client| async move { verbs::create(&client, object).await })
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, id: &Id, patch: Value) -> Result<Value> {
        let id = id.clone();
        self.run(|client| async move { verbs::patch(&client, &id, patch).await })
    }

    /// Changes an object's status by a merge patch.
    pub fn patch_status(&self, id: &Id, patch: Value) -> Result<Value> {
        let id = id.clone();
        self.run(|client| async move { verbs::patch_status(&client, &id, patch).await })
    }

    /// Reads an object.
    pub fn get(&self, id: &Id) -> Result<Value> {
        let id = id.clone();
        self.run(|client| async move { verbs::get(&client, &id).await })
    }

    /// Deletes an object: a Pod at once, or, with `grace`, as far as a kubelet must confirm it.
    pub fn delete(&self, id: &Id, grace: u32) -> Result<()> {
        let id = id.clone();
        self.run(|client| async move { verbs::delete(&client, &id, grace).await })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

async fn client(kubeconfig: Kubeconfig) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    api_version: &'static str,
    kind: &'static str,
    namespace: String,
    name: String,
}

impl Id {
    fn new(api_version: &'static str, kind: &'static str, namespace: &str, name: &str) -> Self {
        Self { api_version, kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A Service.
    #[must_use]
    pub fn service(namespace: &str, name: &str) -> Self {
        Self::new("v1", "Service", namespace, name)
    }

    /// An EndpointSlice.
    #[must_use]
    pub fn slice(namespace: &str, name: &str) -> Self {
        Self::new("discovery.k8s.io/v1", "EndpointSlice", namespace, name)
    }

    /// A Pod.
    #[must_use]
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::new("v1", "Pod", namespace, name)
    }

    /// A Namespace.
    #[must_use]
    pub fn namespace(name: &str) -> Self {
        Self::new("v1", "Namespace", "", name)
    }

    /// A NetworkPolicy.
    #[must_use]
    pub fn network_policy(namespace: &str, name: &str) -> Self {
        Self::new("networking.k8s.io/v1", "NetworkPolicy", namespace, name)
    }

    /// An Event.
    #[must_use]
    pub fn event(namespace: &str, name: &str) -> Self {
        Self::new("events.k8s.io/v1", "Event", namespace, name)
    }

    /// A ClusterNetworkPolicy.
    #[must_use]
    pub fn cluster_policy(name: &str) -> Self {
        Self::new("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "", name)
    }

    /// A CustomResourceDefinition.
    #[must_use]
    pub fn definition(name: &str) -> Self {
        Self::new("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name)
    }

    /// A Node.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::new("v1", "Node", "", name)
    }
}

/// The verbs on objects in JSON, to be awaited on an API's thread.
pub mod verbs {
    use anyhow::{Context, Result};
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
    use kube::core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
    use kube::{Api, Client};
    use serde_json::Value;

    use super::Id;

    /// Creates an object.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create(client: &Client, object: Value) -> Result<Value> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.as_ref().context("an object without apiVersion and kind")?;
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let api = api(client, &types.api_version, &types.kind, &namespace)?;
        let created = api.create(&PostParams::default(), &object).await;
        let created = created.with_context(|| format!("creating {namespace}/{name}"))?;
        Ok(serde_json::to_value(created)?)
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn patch(client: &Client, id: &Id, patch: Value) -> Result<Value> {
        let params = PatchParams::default();
        let patched = of(client, id)?.patch(&id.name, &params, &Patch::Merge(&patch)).await;
        let patched = patched.with_context(|| format!("patching {id:?} with {patch}"))?;
        Ok(serde_json::to_value(patched)?)
    }

    /// Changes an object's status by a merge patch.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn patch_status(client: &Client, id: &Id, patch: Value) -> Result<Value> {
        let params = PatchParams::default();
        let patched = of(client, id)?.patch_status(&id.name, &params, &Patch::Merge(&patch)).await;
        let patched =
            patched.with_context(|| format!("patching the status of {id:?} with {patch}"))?;
        Ok(serde_json::to_value(patched)?)
    }

    /// Reads an object.
    ///
    /// # Errors
    /// If it is not there, or the server refuses.
    pub async fn get(client: &Client, id: &Id) -> Result<Value> {
        let got = of(client, id)?.get(&id.name).await;
        Ok(serde_json::to_value(got.with_context(|| format!("reading {id:?}"))?)?)
    }

    /// Lists the objects of the kind of `like`, in its namespace if it has one.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn list(client: &Client, like: &Id, labels: &str) -> Result<Vec<Value>> {
        let listed = of(client, like)?.list(&ListParams::default().labels(labels)).await;
        let listed = listed.with_context(|| format!("listing {}s", like.kind))?;
        listed.items.into_iter().map(|item| Ok(serde_json::to_value(item)?)).collect()
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// If it is not there, or the server refuses.
    pub async fn delete(client: &Client, id: &Id, grace: u32) -> Result<()> {
        let params = DeleteParams::default().grace_period(grace);
        let deleted = of(client, id)?.delete(&id.name, &params).await;
        deleted.map(drop).with_context(|| format!("deleting {id:?}"))
    }

    fn of(client: &Client, id: &Id) -> Result<Api<DynamicObject>> {
        api(client, id.api_version, id.kind, &id.namespace)
    }

    fn api(
        client: &Client,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> Result<Api<DynamicObject>> {
        let types = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        Ok(if namespace.is_empty() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        })
    }
}
