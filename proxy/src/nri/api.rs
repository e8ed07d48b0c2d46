//! The messages of NRI and ttrpc that we use, with the fields that we use.
//!
//! Sources: `pkg/api/api.proto` of github.com/containerd/nri v0.12 (package `nri.pkg.api.v1alpha1`), `request.proto` of
//! github.com/containerd/ttrpc v1.2. Fields that are left out are skipped when they are read.

use std::collections::HashMap;

use prost::Message;

/// The service of the runtime.
pub(super) const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// `ttrpc.Request`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
}

/// `ttrpc.Response`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) payload: Vec<u8>,
}

/// `google.rpc.Status`; code 0: all is well.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// What a plugin registers with.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RegisterPluginRequest {
    #[prost(string, tag = "1")]
    pub(super) plugin_name: String,
    /// Two digits: the order in which plugins are asked.
    #[prost(string, tag = "2")]
    pub(super) plugin_idx: String,
}

/// What the runtime tells of itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ConfigureRequest {
    #[prost(string, tag = "2")]
    pub(super) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(super) runtime_version: String,
    /// How long it waits for an answer, in milliseconds; 0 of old releases.
    #[prost(int64, tag = "5")]
    pub(super) request_timeout: i64,
}

/// What the plugin asks for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ConfigureResponse {
    /// A bit for each event, by its number less one.
    #[prost(int32, tag = "2")]
    pub(super) events: i32,
}

/// What there is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SynchronizeRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) pods: Vec<PodSandbox>,
    /// This is a part, and more follow.
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
}

/// The answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SynchronizeResponse {
    /// As asked: more may follow.
    #[prost(bool, tag = "2")]
    pub(super) more: bool,
}

/// The requests for one sandbox: run, stop, remove.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) pod: Option<PodSandbox>,
}

/// The same as releases before 0.12 send them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StateChangeEvent {
    #[prost(int32, tag = "1")]
    pub(super) event: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) pod: Option<PodSandbox>,
}

/// The number of an event.
pub(super) const RUN_POD_SANDBOX: i32 = 1;
/// The number of an event.
pub(super) const STOP_POD_SANDBOX: i32 = 2;
/// The number of an event.
pub(super) const REMOVE_POD_SANDBOX: i32 = 3;

/// A pod's sandbox.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) uid: String,
    #[prost(string, tag = "4")]
    pub(super) namespace: String,
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
    /// Of its first process; 0 when it has ended.
    #[prost(uint32, tag = "9")]
    pub(super) pid: u32,
    /// Since NRI 0.8.
    #[prost(string, repeated, tag = "10")]
    pub(super) ips: Vec<String>,
}
