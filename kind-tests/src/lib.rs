//! Tests of shunt against real kernels and a real API server.

pub mod scenario;
