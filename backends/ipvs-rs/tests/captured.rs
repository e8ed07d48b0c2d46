//! Bytes that `ipvsadm` 1.31 sent and Linux 7.2 answered (x86-64), as `strace` saw them.
#![cfg(target_endian = "little")]

use ipvs_rs::codec::{
    Question, decode_daemon, decode_destination, decode_request, decode_service, encode_question,
    encode_request,
};
use ipvs_rs::{
    Daemon, DaemonState, Destination, DestinationKey, Family, Flags, Forward, Multicast,
    Persistence, Protocol, Request, Service, ServiceKey, Timeouts, Tunnel, TunnelKind,
};

/// `-A -t 10.0.0.1:80 -s wlc -p 300 -M 255.255.255.0`
const ADD_SERVICE: &str = "\
     010100005400018006000100020000000600020006000000140003000a00000100000000000000000000\
     0000060004000050000008000600776c63000c00070001000000ffffffff080008002c01000008000900\
     ffffff00";
/// `-A -t [fd00::1]:443 -s mh -b mh-port`
const ADD_SERVICE_V6: &str = "\
     0101000054000180060001000a000000060002000600000014000300fd00000000000000000000000000\
     00010600040001bb0000070006006d6800000c00070010000000ffffffff080008000000000008000900\
     80000000";
/// `-A -f 7 -s rr`
const ADD_MARK: &str = "\
     01010000380001800600010002000000080005000700000007000600727200000c00070000000000ffff\
     ffff080008000000000008000900ffffffff";
/// `-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 5 -x 100 -y 20`
const ADD_DESTINATION: &str = "\
     050100005400018006000100020000000600020006000000140003000a00000100000000000000000000\
     0000060004000050000005000600000000000c00070000000000ffffffff080008000000000008000900\
     ffffffff6000028006000b0002000000140001000a010001000000000000000000000000060002001f90\
     00000800030000000000080004000500000005000d000000000006000e000000000006000f0000000000\
     08000500640000000800060014000000";
/// `-a -t [fd00::1]:443 -r [fd00:1::1]:8443 -m -w 7`
const ADD_DESTINATION_V6: &str = "\
     0501000054000180060001000a000000060002000600000014000300fd00000000000000000000000000\
     00010600040001bb000005000600000000000c00070000000000ffffffff080008000000000008000900\
     800000006000028006000b000a00000014000100fd0000010000000000000000000000010600020020fb\
     00000800030000000000080004000700000005000d000000000006000e000000000006000f0000000000\
     08000500000000000800060000000000";
/// `-a -t [fd00::1]:443 -r 10.9.9.9:8443 -i -w 2`: another family behind a tunnel
const ADD_OTHER_FAMILY: &str = "\
     0501000054000180060001000a000000060002000600000014000300fd00000000000000000000000000\
     00010600040001bb000005000600000000000c00070000000000ffffffff080008000000000008000900\
     800000006000028006000b0002000000140001000a0909090000000000000000000000010600020001bb\
     00000800030002000000080004000200000005000d000000000006000e000000000006000f0000000000\
     08000500000000000800060000000000";
/// `-a -f 7 -r 10.1.0.1:0 -i -w 3 --tun-type gue --tun-port 6080`
const ADD_TUNNEL: &str = "\
     05010000380001800600010002000000080005000700000005000600000000000c00070000000000ffff\
     ffff080008000000000008000900ffffffff6000028006000b0002000000140001000a01000100000000\
     000000000000000006000200000000000800030002000000080004000300000005000d00010000000600\
     0e0017c0000006000f000000000008000500000000000800060000000000";
/// `-d -t 10.0.0.1:80 -r 10.1.0.1:8080`
const DELETE_DESTINATION: &str = "\
     070100005400018006000100020000000600020006000000140003000a00000100000000000000000000\
     0000060004000050000005000600000000000c00070000000000ffffffff080008000000000008000900\
     ffffffff6000028006000b0002000000140001000a010001000000000000000000000000060002001f90\
     00000800030003000000080004000100000005000d000000000006000e000000000006000f0000000000\
     08000500000000000800060000000000";
/// `--set 10 20 30`
const SET_TIMEOUTS: &str = "\
     0c010000080004000a0000000800050014000000080006001e000000";
/// `--start-daemon master --mcast-interface lo --syncid 5`
const START_DAEMON: &str = "\
     090100001c0003800800010001000000070002006c6f00000800030005000000";
/// The question of `-Ln` for the destinations of a service
const GET_DESTINATIONS: &str = "\
     0801000030000180060001000a000000060002000600000014000300fd00000000000000000000000000\
     00010600040001bb0000";
/// The kernel's answer: a service of a mark
const THE_SERVICE: &str = "\
     01010000100101000600010002000000080005000700000007000600727200000c00070002000000ffff\
     ffff080008000000000008000900ffffffff5c000a000800010000000000080002000000000008000300\
     000000000c00040000000000000000000c00050000000000000000000800060000000000080007000000\
     00000800080000000000080009000000000008000a00000000007c000c000c0001000000000000000000\
     0c00020000000000000000000c00030000000000000000000c00040000000000000000000c0005000000\
     0000000000000c00060000000000000000000c00070000000000000000000c0008000000000000000000\
     0c00090000000000000000000c000a000000000000000000";
/// The kernel's answer: a destination behind a tunnel
const THE_DESTINATION: &str = "\
     0501000050010200140001000a0100010000000000000000000000000600020000000000080003000200\
     0000080004000300000005000d000100000006000e0017c0000006000f00000000000800050000000000\
     080006000000000008000700000000000800080000000000080009000000000006000b00020000005c00\
     0a000800010000000000080002000000000008000300000000000c00040000000000000000000c000500\
     000000000000000008000600000000000800070000000000080008000000000008000900000000000800\
     0a00000000007c000c000c00010000000000000000000c00020000000000000000000c00030000000000\
     000000000c00040000000000000000000c00050000000000000000000c00060000000000000000000c00\
     070000000000000000000c00080000000000000000000c00090000000000000000000c000a0000000000\
     00000000";
/// The kernel's answer: what `-A -t [fd00::1]:443 -s mh -b mh-port -p 600 -M 64` has made
const THE_SERVICE_V6: &str = "\
     010100002c010100060001000a000000060002000600000014000300fd00000000000000000000000000\
     00010600040001bb0000070006006d6800000c00070013000000ffffffff080008005802000008000900\
     400000005c000a000800010000000000080002000000000008000300000000000c000400000000000000\
     00000c000500000000000000000008000600000000000800070000000000080008000000000008000900\
     0000000008000a00000000007c000c000c00010000000000000000000c00020000000000000000000c00\
     030000000000000000000c00040000000000000000000c00050000000000000000000c00060000000000\
     000000000c00070000000000000000000c00080000000000000000000c00090000000000000000000c00\
     0a000000000000000000";
/// The kernel's answer: its destination, [fd00:1::1]:8443
const THE_DESTINATION_V6: &str = "\
     050100005001020014000100fd0000010000000000000000000000010600020020fb0000080003000000\
     0000080004000700000005000d000000000006000e000000000006000f00000000000800050000000000\
     080006000000000008000700000000000800080000000000080009000000000006000b000a0000005c00\
     0a000800010000000000080002000000000008000300000000000c00040000000000000000000c000500\
     000000000000000008000600000000000800070000000000080008000000000008000900000000000800\
     0a00000000007c000c000c00010000000000000000000c00020000000000000000000c00030000000000\
     000000000c00040000000000000000000c00050000000000000000000c00060000000000000000000c00\
     070000000000000000000c00080000000000000000000c00090000000000000000000c000a0000000000\
     00000000";
/// The kernel's answer: a sync daemon, with the defaults
const THE_DAEMON: &str = "\
     090100003c0003000800010001000000070002006c6f0000080003000500000006000400c00500000600\
     070090220000050008000100000008000500e0000051";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn web() -> ServiceKey {
    ServiceKey::address("10.0.0.1".parse().unwrap(), Protocol::TCP, 80)
}

fn secure() -> ServiceKey {
    ServiceKey::address("fd00::1".parse().unwrap(), Protocol::TCP, 443)
}

fn marked() -> ServiceKey {
    ServiceKey::mark(7, Family::V4)
}

fn tunneled() -> Destination {
    Destination {
        forward: Forward::Tunnel,
        weight: 3,
        tunnel: Tunnel { kind: TunnelKind::Gue, port: 6080, flags: 0 },
        ..Destination::new("10.1.0.1".parse().unwrap(), 0)
    }
}

fn far() -> Destination {
    Destination { weight: 7, ..Destination::new("fd00:1::1".parse().unwrap(), 8443) }
}

/// For these we send the very same bytes.
#[test]
fn services_timeouts_and_questions_are_written_as_ipvsadm_writes_them() {
    let persistence = Some(Persistence { timeout: 300, prefix: 24 });
    let service = Service { persistence, ..Service::new(web(), "wlc") };
    assert_eq!(encode_request(&Request::AddService(service)), bytes(ADD_SERVICE));
    let service = Service { flags: Flags::HASH_PORT, ..Service::new(secure(), "mh") };
    assert_eq!(encode_request(&Request::AddService(service)), bytes(ADD_SERVICE_V6));
    let service = Service::new(marked(), "rr");
    assert_eq!(encode_request(&Request::AddService(service)), bytes(ADD_MARK));
    let timeouts = Timeouts { tcp: 10, tcp_fin: 20, udp: 30 };
    assert_eq!(encode_request(&Request::SetTimeouts(timeouts)), bytes(SET_TIMEOUTS));
    let question = Question::Destinations(secure());
    assert_eq!(encode_question(&question), bytes(GET_DESTINATIONS));
}

/// For these `ipvsadm` also sends what the kernel does not look at.
#[test]
fn the_other_requests_of_ipvsadm_mean_what_ours_mean() {
    let destination = Destination {
        weight: 5,
        upper_threshold: 100,
        lower_threshold: 20,
        ..Destination::new("10.1.0.1".parse().unwrap(), 8080)
    };
    let key = DestinationKey { address: destination.address, port: 8080 };
    let daemon = Daemon {
        state: DaemonState::Master,
        interface: "lo".to_owned(),
        sync_id: 5,
        max_length: None,
        multicast: None,
    };
    let of_other_family = Destination {
        forward: Forward::Tunnel,
        weight: 2,
        // What is not translated keeps the port of the service.
        ..Destination::new("10.9.9.9".parse().unwrap(), 443)
    };
    for (captured, request) in [
        (ADD_DESTINATION, Request::AddDestination(web(), destination)),
        (ADD_DESTINATION_V6, Request::AddDestination(secure(), far())),
        (ADD_OTHER_FAMILY, Request::AddDestination(secure(), of_other_family)),
        (ADD_TUNNEL, Request::AddDestination(marked(), tunneled())),
        (DELETE_DESTINATION, Request::DeleteDestination(web(), key)),
        (START_DAEMON, Request::StartDaemon(daemon)),
    ] {
        assert_eq!(decode_request(&bytes(captured)), Some(request));
    }
}

#[test]
fn answers_of_the_kernel_are_read() {
    assert_eq!(decode_service(&bytes(THE_SERVICE)), Some(Service::new(marked(), "rr")));
    assert_eq!(decode_destination(Family::V4, &bytes(THE_DESTINATION)), Some(tunneled()));
    let persistence = Some(Persistence { timeout: 600, prefix: 64 });
    let service = Service { flags: Flags::HASH_PORT, persistence, ..Service::new(secure(), "mh") };
    assert_eq!(decode_service(&bytes(THE_SERVICE_V6)), Some(service));
    assert_eq!(decode_destination(Family::V6, &bytes(THE_DESTINATION_V6)), Some(far()));
    let multicast = Multicast { group: "224.0.0.81".parse().unwrap(), port: 8848, ttl: 1 };
    let daemon = Daemon {
        state: DaemonState::Master,
        interface: "lo".to_owned(),
        sync_id: 5,
        max_length: Some(1472),
        multicast: Some(multicast),
    };
    assert_eq!(decode_daemon(&bytes(THE_DAEMON)), Some(daemon));
}

/// Cut anywhere, they are read without a panic, and damaged anywhere, too.
#[test]
fn damaged_answers_are_nothing_or_something_else() {
    for answer in [THE_SERVICE, THE_SERVICE_V6, THE_DESTINATION, THE_DESTINATION_V6, THE_DAEMON] {
        let whole = bytes(answer);
        let read = |bytes: &[u8]| {
            let destination = decode_destination(Family::V6, bytes);
            (decode_service(bytes), destination, decode_daemon(bytes))
        };
        for at in 0..whole.len() {
            assert_ne!(read(&whole[..at]), read(&whole), "cut at {at}");
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = read(&damaged);
            }
        }
    }
}
