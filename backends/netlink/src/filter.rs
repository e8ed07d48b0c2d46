//! What the kernel keeps from a socket: classic BPF (`include/uapi/linux/bpf_common.h`).

use socket2::SockFilter;

/// `BPF_LD | BPF_W | BPF_ABS`: a word of the message, from network order.
const LOAD: u16 = 0x20;
/// `BPF_LD | BPF_H | BPF_ABS`: half a word.
const LOAD_HALF: u16 = 0x28;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`: how many bytes of the message are let through.
const RETURN: u16 = 0x06;
/// Where the message's type is in `struct nlmsghdr`.
const KIND: u32 = 4;
/// Where the index of the interface is, behind `struct nlmsghdr`: at the same place in `struct ifaddrmsg` and `struct
/// ifinfomsg`.
const INTERFACE: u32 = 20;

/// Lets through what is not about an interface.
pub(crate) fn all_but_interface(index: u32) -> [SockFilter; 4] {
    let index = u32::from_be_bytes(index.to_ne_bytes());
    [
        SockFilter::new(LOAD, 0, 0, INTERFACE),
        SockFilter::new(IF_EQUAL, 0, 1, index),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// Lets messages of one type through.
pub(crate) fn only(kind: u16) -> [SockFilter; 4] {
    let kind = u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    [
        SockFilter::new(LOAD_HALF, 0, 0, KIND),
        SockFilter::new(IF_EQUAL, 0, 1, kind),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
