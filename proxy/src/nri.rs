//! The container runtime's word of new pods, before their containers start: a plugin of NRI, the interface that
//! containerd (2.0) and CRI-O have for that.
//!
//! The runtime asks plugins when it has made a pod's sandbox, network and addresses included, and goes on when they have
//! answered. We answer when the pod's addresses are in the kernel with its policies, and in any case well before the
//! runtime would go on without us: nothing that is wrong here keeps a pod from starting. For the same reason every
//! request is answered with success: an error would fail the pod.

mod api;
mod wire;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use prost::Message as _;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::object::{Pod, Uid};
use shunt_netpolicy::sandbox::Sandbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use self::wire::{Decoder, Message};

/// How many events may wait for the loop.
pub const QUEUE: usize = 64;
/// How long a sandbox waits at most. The runtime waits for two seconds, if nobody has changed that, and then drops us.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the runtime may take until it has told what there is.
const REGISTRATION: Duration = Duration::from_secs(5);
/// How often the socket is tried.
const RETRY: Duration = Duration::from_secs(2);
/// How long what a runtime has told outlives the connection to it: restarting takes seconds.
const MEMORY: Duration = Duration::from_secs(60);
/// The labels by which the kubelet finds a pod's sandbox; the pod does not have them.
const OF_KUBELET: [&str; 3] =
    ["io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid"];

/// What the runtime has to say.
#[derive(Debug)]
pub enum NriEvent {
    /// The connection.
    State(NriState),
    /// All sandboxes that there are.
    All(Vec<Sandbox>),
    /// A pod's sandbox has been made; it waits until this is answered, or dropped.
    Started(Sandbox, oneshot::Sender<()>),
    /// The sandbox of this id ends.
    Stopped(Arc<str>),
    /// A sandbox has been let go.
    Waited(Waited),
}

/// How it stands with the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NriState {
    /// There is no socket.
    #[default]
    Absent,
    /// It is there: name and version of the runtime.
    Connected(String),
    /// The socket is there, and this is wrong.
    Failed(String),
}

/// How a sandbox was let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The pod.
    pub pod: ObjectKey,
    /// Why it went on.
    pub outcome: Outcome,
    /// After how long.
    pub took: Duration,
}

/// Why a sandbox was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel knows its addresses and policies.
    Programmed,
    /// It has waited for long enough.
    Overdue,
    /// It has no addresses: it is on the host's network, or the runtime does not tell them (NRI before 0.8).
    NoAddress,
}

impl Outcome {
    /// All.
    pub const ALL: [Self; 3] = [Self::Programmed, Self::Overdue, Self::NoAddress];

    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Programmed => "programmed",
            Self::Overdue => "overdue",
            Self::NoAddress => "no_address",
        }
    }
}

/// Registers with the runtime behind a socket, again and again, and tells what it says of this node's pods; returns when
/// nobody listens.
pub async fn follow(socket: PathBuf, node: Arc<str>, out: mpsc::Sender<NriEvent>) {
    let mut said = None;
    let mut lost_at: Option<Instant> = None;
    while !out.is_closed() {
        let (state, was_connected) = match UnixStream::connect(&socket).await {
            Err(error) if error.kind() == ErrorKind::NotFound => (NriState::Absent, false),
            Err(error) => (failed(&socket, &error.into()), false),
            Ok(stream) => {
                let mut session = Session::new(stream, &node, &out);
                let error = match session.run().await {
                    Err(error) => error,
                    Ok(never) => match never {},
                };
                (failed(&socket, &error), session.is_synchronized)
            }
        };
        if was_connected {
            debug!(?state, "the connection to the container runtime has ended");
            lost_at = Some(Instant::now());
        }
        if was_connected || said.as_ref() != Some(&state) {
            said = Some(state.clone());
            if out.send(NriEvent::State(state)).await.is_err() {
                return;
            }
        }
        if lost_at.is_some_and(|at| at.elapsed() > MEMORY) {
            lost_at = None;
            let _ = out.send(NriEvent::All(Vec::new())).await;
        }
        sleep(RETRY).await;
    }
}

fn failed(socket: &Path, error: &anyhow::Error) -> NriState {
    NriState::Failed(format!("{}: {error:#}", socket.display()))
}

/// A sandbox that waits.
struct Waiting {
    stream: u32,
    waited: Waited,
}

/// One connection to the runtime.
struct Session<'a> {
    socket: UnixStream,
    decoder: Decoder,
    node: &'a Arc<str>,
    out: &'a mpsc::Sender<NriEvent>,
    runtime: String,
    patience: Duration,
    /// What was told of all sandboxes, in parts.
    parts: Vec<Sandbox>,
    is_synchronized: bool,
    waiting: FuturesUnordered<BoxFuture<'static, Waiting>>,
}

impl<'a> Session<'a> {
    fn new(socket: UnixStream, node: &'a Arc<str>, out: &'a mpsc::Sender<NriEvent>) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            node,
            out,
            runtime: String::new(),
            patience: PATIENCE,
            parts: Vec::new(),
            is_synchronized: false,
            waiting: FuturesUnordered::new(),
        }
    }

    /// Until the connection ends.
    async fn run(&mut self) -> Result<std::convert::Infallible> {
        self.register().await?;
        let deadline = Instant::now() + REGISTRATION;
        loop {
            tokio::select! {
                read = self.socket.read_buf(self.decoder.buffer()) => {
                    if read? == 0 {
                        bail!("the container runtime has closed the connection");
                    }
                    while let Some(message) = self.decoder.next()? {
                        self.take(message).await?;
                    }
                }
                Some(Waiting { stream, waited }) = self.waiting.next() => {
                    self.answer(stream, Vec::new()).await?;
                    self.tell(NriEvent::Waited(waited)).await?;
                }
                () = sleep_until(deadline), if !self.is_synchronized => {
                    bail!("the container runtime does not answer");
                }
                () = self.out.closed() => bail!("nobody listens"),
            }
        }
    }

    async fn register(&mut self) -> Result<()> {
        let plugin =
            api::RegisterPluginRequest { plugin_name: "shunt".into(), plugin_idx: "10".into() };
        let request = api::Request {
            service: api::RUNTIME.into(),
            method: "RegisterPlugin".into(),
            payload: plugin.encode_to_vec(),
            timeout_nano: i64::try_from(REGISTRATION.as_nanos())?,
        };
        let payload = request.encode_to_vec().into();
        let (connection, kind) = (wire::RUNTIME, wire::REQUEST);
        self.send(Message { connection, stream: 1, kind, payload }).await
    }

    /// Takes a message in.
    async fn take(&mut self, message: Message) -> Result<()> {
        match (message.connection, message.kind) {
            (wire::RUNTIME, wire::RESPONSE) => {
                let response = api::Response::decode(message.payload)?;
                match response.status.filter(|status| status.code != 0) {
                    Some(api::Status { code, message }) => {
                        bail!("the container runtime refuses us: {message} (code {code})")
                    }
                    None => Ok(()),
                }
            }
            (wire::PLUGIN, wire::REQUEST) => {
                let request = api::Request::decode(message.payload)?;
                let answered = self.serve(message.stream, &request.method, request.payload.into());
                match answered.await? {
                    Some(answer) => self.answer(message.stream, answer).await,
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Does what the runtime asks for; returns the answer, if it is to be given now.
    async fn serve(&mut self, stream: u32, method: &str, asked: Bytes) -> Result<Option<Vec<u8>>> {
        debug!(method, "the container runtime asks");
        match method {
            "Configure" => return Ok(Some(self.configure(asked)?)),
            "Synchronize" => return Ok(Some(self.synchronize(asked).await?)),
            "StateChange" => {
                let api::StateChangeEvent { event, pod } = api::StateChangeEvent::decode(asked)?;
                match (event, pod) {
                    (api::RUN_POD_SANDBOX, Some(pod)) => return self.started(stream, pod).await,
                    (api::STOP_POD_SANDBOX | api::REMOVE_POD_SANDBOX, Some(pod)) => {
                        self.tell(NriEvent::Stopped(pod.id.into())).await?;
                    }
                    _ => {}
                }
            }
            "RunPodSandbox" => {
                if let Some(pod) = api::SandboxRequest::decode(asked)?.pod {
                    return self.started(stream, pod).await;
                }
            }
            "StopPodSandbox" | "RemovePodSandbox" => {
                if let Some(pod) = api::SandboxRequest::decode(asked)?.pod {
                    self.tell(NriEvent::Stopped(pod.id.into())).await?;
                }
            }
            _ => {}
        }
        Ok(Some(Vec::new()))
    }

    fn configure(&mut self, asked: Bytes) -> Result<Vec<u8>> {
        let asked = api::ConfigureRequest::decode(asked)?;
        self.runtime = format!("{} {}", asked.runtime_name, asked.runtime_version);
        if let Ok(limit @ 1..) = u64::try_from(asked.request_timeout) {
            self.patience = PATIENCE.min(Duration::from_millis(limit) / 2);
        }
        let events = [api::RUN_POD_SANDBOX, api::STOP_POD_SANDBOX, api::REMOVE_POD_SANDBOX];
        let events = events.iter().fold(0, |bits, event| bits | 1 << (event - 1));
        Ok(api::ConfigureResponse { events }.encode_to_vec())
    }

    async fn synchronize(&mut self, asked: Bytes) -> Result<Vec<u8>> {
        let api::SynchronizeRequest { pods, more } = api::SynchronizeRequest::decode(asked)?;
        // Those that have ended are told, too, with addresses that others may have by now.
        let running = pods.into_iter().filter(|pod| pod.pid != 0);
        self.parts.extend(running.filter_map(|pod| sandbox(pod, self.node)));
        if !more {
            let all = std::mem::take(&mut self.parts);
            self.tell(NriEvent::All(all)).await?;
            self.tell(NriEvent::State(NriState::Connected(self.runtime.clone()))).await?;
            self.is_synchronized = true;
        }
        Ok(api::SynchronizeResponse { more }.encode_to_vec())
    }

    /// Tells of a new sandbox, which waits for its answer if there is something to wait for.
    async fn started(&mut self, stream: u32, pod: api::PodSandbox) -> Result<Option<Vec<u8>>> {
        let key = ObjectKey::new(&pod.namespace, &pod.name);
        let Some(sandbox) = sandbox(pod, self.node) else {
            let outcome = Outcome::NoAddress;
            let waited = Waited { pod: key, outcome, took: Duration::ZERO };
            self.tell(NriEvent::Waited(waited)).await?;
            return Ok(Some(Vec::new()));
        };
        let (began, patience) = (Instant::now(), self.patience);
        let (done, waits) = oneshot::channel();
        self.tell(NriEvent::Started(sandbox, done)).await?;
        self.waiting.push(Box::pin(async move {
            let outcome = match timeout(patience, waits).await {
                Ok(Ok(())) => Outcome::Programmed,
                Ok(Err(_)) | Err(_) => Outcome::Overdue,
            };
            Waiting { stream, waited: Waited { pod: key, outcome, took: began.elapsed() } }
        }));
        Ok(None)
    }

    async fn tell(&mut self, event: NriEvent) -> Result<()> {
        self.out.send(event).await.ok().context("nobody listens")
    }

    async fn answer(&mut self, stream: u32, payload: Vec<u8>) -> Result<()> {
        let payload = api::Response { status: None, payload }.encode_to_vec().into();
        let (connection, kind) = (wire::PLUGIN, wire::RESPONSE);
        self.send(Message { connection, stream, kind, payload }).await
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        let sent = timeout(REGISTRATION, self.socket.write_all(&message.encode())).await;
        Ok(sent.context("the container runtime does not read")??)
    }
}

/// A sandbox as policy knows it; `None` if it has no addresses.
fn sandbox(told: api::PodSandbox, node: &Arc<str>) -> Option<Sandbox> {
    let mut addresses = Vec::new();
    for text in &told.ips {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => warn!("the container runtime gives a pod the address {text:?}"),
        }
    }
    if addresses.is_empty() {
        return None;
    }
    let labels = told.labels.iter().filter(|(key, _)| !OF_KUBELET.contains(&key.as_str()));
    let labels = labels.map(|(key, value)| (key.as_str().into(), value.as_str().into()));
    let pod = Pod {
        key: ObjectKey::new(&told.namespace, &told.name),
        uid: Uid::of(&told.uid),
        created: Timestamp::now().as_second(),
        node: Some(Arc::clone(node)),
        addresses: addresses.into(),
        host_network: false,
        labels: Arc::new(labels.collect()),
        ports: Arc::default(),
    };
    Some(Sandbox { id: told.id.into(), pod })
}

#[cfg(test)]
mod tests;
