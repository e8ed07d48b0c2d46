//! Asking the kernel, and ending connections.

use nix::errno::Errno;
use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::{Error, Message, Socket, attributes, nfnetlink};

use crate::filter::Filter;
use crate::flow::Flow;
use crate::stale::Record;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS`.
const GET_STATS: u16 = 0x105;
/// `CTA_STATS_GLOBAL_ENTRIES`.
const ENTRIES: u16 = 1;

/// The kernel's table of connections.
#[derive(Debug)]
pub struct Conntrack {
    pub(crate) socket: Socket,
}

impl Conntrack {
    /// Opens it.
    ///
    /// # Errors
    /// If the kernel has none, or does not let us.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(NETLINK_NETFILTER)? })
    }

    /// How many connections the table has. A kernel whose connection tracking is a module loads it for this question
    /// where it can, and with it come its settings below `/proc/sys/net/netfilter`.
    ///
    /// # Errors
    /// If the kernel refuses, or the socket fails.
    pub fn count(&mut self) -> Result<u32, Error> {
        let mut question = Message::new(GET_STATS, 0);
        question.raw(&nfnetlink(0, 0));
        let mut count = 0;
        self.socket.request("count connections", question, |payload| {
            let told = attributes(payload.get(4..).unwrap_or_default());
            let entries = told.filter(|attribute| attribute.kind == ENTRIES);
            let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
            count = entries.filter_map(|it| number(it.payload)).last().unwrap_or(count);
        })?;
        Ok(count)
    }

    /// The connections that a filter lets through and `wanted` wants.
    ///
    /// # Errors
    /// If the kernel refuses, or the socket fails.
    pub fn list(
        &mut self,
        filter: &Filter,
        wanted: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Error> {
        self.socket.dump("list connections", &filter.dump(), |flows: &mut Vec<Flow>, payload| {
            flows.extend(Flow::read(payload).filter(&wanted));
        })
    }

    /// Ends one connection; `false` if it had ended by itself.
    ///
    /// # Errors
    /// If the kernel refuses, or the socket fails.
    pub fn end(&mut self, flow: &Flow) -> Result<bool, Error> {
        match self.socket.request("end a connection", flow.delete(), |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the connections behind one of the record's filters that it condemns, and says how
    /// many there were. The kernel walks its whole table for it, which takes 0.25 us for each
    /// connection in it, of whatever kind and namespace.
    ///
    /// # Errors
    /// If the kernel refuses, or the socket fails; some may have been ended by then.
    pub fn sweep(&mut self, record: &Record, filter: &Filter) -> Result<usize, Error> {
        let mut ended = 0;
        for flow in self.list(filter, |flow| record.condemns(flow))? {
            ended += usize::from(self.end(&flow)?);
        }
        Ok(ended)
    }
}
