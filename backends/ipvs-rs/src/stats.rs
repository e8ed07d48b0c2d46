//! Counters.

/// What a service or destination has seen since it was made or zeroed, and its present rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub incoming_packets: u64,
    /// Packets to clients; none where destinations answer past the director.
    pub outgoing_packets: u64,
    /// Bytes from clients.
    pub incoming_bytes: u64,
    /// Bytes to clients.
    pub outgoing_bytes: u64,
    /// Connections a second.
    pub connection_rate: u64,
    /// Packets a second from clients.
    pub incoming_packet_rate: u64,
    /// Packets a second to clients.
    pub outgoing_packet_rate: u64,
    /// Bytes a second from clients.
    pub incoming_byte_rate: u64,
    /// Bytes a second to clients.
    pub outgoing_byte_rate: u64,
}
