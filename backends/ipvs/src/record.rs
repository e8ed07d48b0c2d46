//! IPVS, and the record of what it holds.

use ipvs_rs::{Errno, Ipvs, Rejection, Request};
use shunt_model::object::ObjectKey;
use shunt_netlink::Pulse;
use shunt_nftables::kernel::Report;

use crate::error::Error;
use crate::installed::Installed;

/// How many requests are submitted at once: after them it can be told how far it got.
const PORTION: usize = 2000;

/// What the kernel refused.
pub(crate) enum Refusal {
    /// A request to IPVS.
    Request(Box<Request>, Errno),
    /// What the table says of Services; and the reasons.
    Table(Vec<(ObjectKey, String)>),
}

/// IPVS, and what it and the device are known to hold, unless that was forgotten.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) ipvs: Ipvs,
    pub(crate) installed: Option<Installed>,
    pub(crate) pulse: Pulse,
}

impl Record {
    /// Has the kernel carry requests out, and records them. One that it refuses is given back, and
    /// nothing after its portion is done.
    pub(crate) fn submit(
        &mut self,
        requests: &[Request],
        report: &mut Report,
    ) -> Result<Option<Refusal>, Error> {
        for portion in requests.chunks(PORTION) {
            let rejections = match self.ipvs.submit(portion) {
                Ok(()) => Vec::new(),
                Err(ipvs_rs::Error::Rejected(rejections)) => rejections,
                Err(error) => return Err(error.into()),
            };
            report.transactions += 1;
            report.operations += portion.len() - rejections.len();
            if let Some(Rejection { index, errno }) = rejections.first() {
                return Ok(Some(Refusal::Request(Box::new(portion[*index].clone()), *errno)));
            }
            self.pulse.beat();
            if let Some(installed) = &mut self.installed {
                portion.iter().for_each(|request| installed.apply(request));
            }
        }
        Ok(None)
    }
}
