//! What is encoded is read back as it was, and nothing that comes in makes the reader panic.

use std::net::IpAddr;

use ipvs_rs::codec::{
    decode_daemon, decode_destination, decode_info, decode_request, decode_service,
    decode_timeouts, encode_request,
};
use ipvs_rs::{
    Daemon, DaemonState, Destination, DestinationKey, Family, Flags, Forward, Multicast,
    Persistence, Protocol, Request, Service, ServiceKey, Timeouts, Tunnel, TunnelKind,
};
use proptest::prelude::*;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let by_address =
        (address(), any::<u8>(), any::<u16>()).prop_map(|(address, protocol, port)| {
            ServiceKey::address(address, Protocol(protocol), port)
        });
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let by_mark = (1u32.., family).prop_map(|(mark, family)| ServiceKey::mark(mark, family));
    prop_oneof![by_address, by_mark]
}

fn service() -> impl Strategy<Value = Service> {
    let persistence = proptest::option::of((any::<u32>(), 1u8..=128));
    let parts = (key(), "[a-z]{1,15}", any::<u32>(), persistence, "([a-z]{3})?");
    parts.prop_map(|(key, scheduler, flags, persistence, engine)| Service {
        // The lowest two bits are persistence and the kernel's own.
        flags: Flags(flags & !3),
        persistence: persistence.map(|(timeout, prefix)| Persistence {
            timeout,
            prefix: prefix.min(key.family().bits()),
        }),
        persistence_engine: (!engine.is_empty()).then_some(engine),
        ..Service::new(key, &scheduler)
    })
}

fn destination() -> impl Strategy<Value = Destination> {
    let kind = prop_oneof![Just(TunnelKind::Ipip), Just(TunnelKind::Gue), Just(TunnelKind::Gre)];
    let tunnel = (kind, any::<u16>(), any::<u16>())
        .prop_map(|(kind, port, flags)| (Forward::Tunnel, Tunnel { kind, port, flags }));
    let plain = prop_oneof![
        Just(Forward::Masquerade),
        Just(Forward::Local),
        Just(Forward::DirectRoute),
        Just(Forward::Bypass)
    ];
    let forward = prop_oneof![tunnel, plain.prop_map(|forward| (forward, Tunnel::default()))];
    let parts = (address(), any::<u16>(), forward, any::<u32>(), any::<u32>(), any::<u32>());
    parts.prop_map(
        |(address, port, (forward, tunnel), weight, upper_threshold, lower_threshold)| {
            Destination {
                forward,
                tunnel,
                weight,
                upper_threshold,
                lower_threshold,
                ..Destination::new(address, port)
            }
        },
    )
}

fn daemon() -> impl Strategy<Value = Daemon> {
    let state = prop_oneof![Just(DaemonState::Master), Just(DaemonState::Backup)];
    let multicast = (address(), any::<u16>(), any::<u8>())
        .prop_map(|(group, port, ttl)| Multicast { group, port, ttl });
    let options = (proptest::option::of(any::<u16>()), proptest::option::of(multicast));
    (state, "[a-z0-9]{0,15}", any::<u32>(), options).prop_map(
        |(state, interface, sync_id, (max_length, multicast))| Daemon {
            state,
            interface,
            sync_id,
            max_length,
            multicast,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let timeouts = any::<[u32; 3]>().prop_map(|[tcp, tcp_fin, udp]| Timeouts { tcp, tcp_fin, udp });
    let destination_key =
        (address(), any::<u16>()).prop_map(|(address, port)| DestinationKey { address, port });
    prop_oneof![
        service().prop_map(Request::AddService),
        service().prop_map(Request::SetService),
        key().prop_map(Request::DeleteService),
        (key(), destination()).prop_map(|(key, each)| Request::AddDestination(key, each)),
        (key(), destination()).prop_map(|(key, each)| Request::SetDestination(key, each)),
        (key(), destination_key).prop_map(|(key, each)| Request::DeleteDestination(key, each)),
        daemon().prop_map(Request::StartDaemon),
        daemon().prop_map(Request::StopDaemon),
        timeouts.prop_map(Request::SetTimeouts),
        proptest::option::of(key()).prop_map(Request::Zero),
        Just(Request::Flush),
    ]
}

fn read_as_everything(bytes: &[u8]) {
    let _ = decode_service(bytes);
    let _ = decode_destination(Family::V4, bytes);
    let _ = decode_destination(Family::V6, bytes);
    let _ = decode_daemon(bytes);
    let _ = decode_info(bytes);
    let _ = decode_timeouts(bytes);
    let _ = decode_request(bytes);
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_back(request in request()) {
        prop_assert_eq!(decode_request(&encode_request(&request)), Some(request));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_as_everything(&bytes);
    }

    /// Bytes that are nearly right get further into the reader than random ones.
    #[test]
    fn damaged_bytes_never_panic(request in request(), at in any::<usize>(), to in any::<u8>(), cut in any::<usize>()) {
        let mut bytes = encode_request(&request);
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(cut % (bytes.len() + 1));
        read_as_everything(&bytes);
    }
}
