//! Tests of shunt against real kernels and a real API server.

pub mod benchmark;
pub mod container_runtime;
pub mod control_plane;
pub mod generation;
pub mod guest;
pub mod kube_proxy;
pub mod overlay;
pub mod policy;
pub mod scenario;
pub mod traffic;
