//! What can be asked of the kernel.

use crate::daemon::{Daemon, DaemonState};
use crate::service::{Destination, DestinationKey, Service, ServiceKey, Timeouts};

/// A request that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make a service; refused (`EEXIST`) if it is there.
    AddService(Service),
    /// Change a service's scheduler, flags and persistence; its connections stay.
    SetService(Service),
    /// Remove a service with its destinations.
    DeleteService(ServiceKey),
    /// Add a destination to a service.
    AddDestination(ServiceKey, Destination),
    /// Change a destination's weight, thresholds and way of forwarding; its connections stay.
    SetDestination(ServiceKey, Destination),
    /// Remove a destination. Its connections end as the kernel's `expire_nodest_conn` says.
    DeleteDestination(ServiceKey, DestinationKey),
    /// Start a sync daemon.
    StartDaemon(Daemon),
    /// Stop a sync daemon, that of this state and sync id.
    StopDaemon(Daemon),
    /// Set the timeouts.
    SetTimeouts(Timeouts),
    /// Set the counters of a service, or of everything, to zero.
    Zero(Option<ServiceKey>),
    /// Remove every service of the network namespace.
    Flush,
}

impl Request {
    /// Stops the daemon of a state.
    #[must_use]
    pub fn stop_daemon(state: DaemonState, sync_id: u32) -> Self {
        let (interface, max_length, multicast) = (String::new(), None, None);
        Self::StopDaemon(Daemon { state, interface, sync_id, max_length, multicast })
    }
}
