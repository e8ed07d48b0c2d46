//! What the kernel thread needs of a backend, and the backends there are.

mod successor;

use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::{Context, anyhow};
use ipnet::IpNet;
use ipvs_rs::Timeouts;
use shunt_ipvs::kernel::VirtualServers;
use shunt_ipvs::kube_proxy::Scope;
use shunt_ipvs::{Former, Settings};
use shunt_model::plan::PlanDelta;
use shunt_netlink::Pulse;
use shunt_netpolicy_nftables::kernel::{Change, PolicyTable};
pub use shunt_nftables::codec::Report as SyncReport;
use shunt_nftables::counting::Counting;
use shunt_nftables::forwarding::Forwarding;
use shunt_nftables::kernel::{Nftables, Options};
use tracing::{info, warn};

use crate::cli::{Counters, IpvsFallback, TableOwner};
use crate::config::kube_proxy::Ipvs;
use crate::config::{Effective, GoDuration, Mode};
use crate::failure::Failure;
use successor::Successor;

/// What went wrong in a backend.
pub type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// A difference between two states of what is wanted.
pub trait Delta: Clone + Default + Send + 'static {
    /// Adds a later one.
    fn merge(&mut self, later: Self);

    /// How many objects it names: Services, or addresses of pods.
    fn objects(&self) -> usize;
}

impl Delta for PlanDelta {
    fn merge(&mut self, later: Self) {
        Self::merge(self, later);
    }

    fn objects(&self) -> usize {
        self.services.len()
    }
}

impl Delta for Change {
    fn merge(&mut self, later: Self) {
        Self::merge(self, later);
    }

    fn objects(&self) -> usize {
        self.table.peers.len() + self.table.locals.len()
    }
}

/// What carries a plan out in the kernel.
pub trait Backend {
    /// What changes of its plan.
    type Delta: Delta;

    /// Brings the kernel to the plan that all deltas so far make up.
    ///
    /// The delta is taken in also when this fails. After a failure the record of what is
    /// installed is forgotten: the next sync, also one with an empty delta, reads the kernel and
    /// writes the difference.
    ///
    /// # Errors
    /// If the kernel refuses, for a reason that is not one Service's fault.
    fn sync(&mut self, delta: Self::Delta) -> Result<SyncReport, BackendError>;

    /// Forgets the record of what is installed; the next sync reads the kernel.
    fn forget(&mut self);

    /// Whether someone else has written to what is ours since the last sync. Does not block.
    ///
    /// # Errors
    /// If that cannot be told, for instance because notifications were lost.
    fn foreign_change(&mut self) -> Result<bool, BackendError>;

    /// The process that made the last foreign change, if the kernel told.
    fn last_writer(&self) -> Option<String>;

    /// One of them is readable when [`foreign_change`](Self::foreign_change) may have something to
    /// say; none as long as no one else can write.
    fn events(&self) -> Vec<BorrowedFd<'_>>;

    /// Beats with each portion that is committed, also in the middle of a sync.
    fn pulse(&self) -> Pulse;

    /// When [`tend`](Self::tend) has something to do; `None`: nothing as yet.
    fn tend_at(&self) -> Option<Instant> {
        None
    }

    /// Does what is due without an order: removes what has drained, or is not needed any more.
    ///
    /// # Errors
    /// If the kernel refuses; what is installed is read back then.
    fn tend(&mut self, _now: Instant) -> Result<usize, BackendError> {
        Ok(0)
    }
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    type Delta = B::Delta;

    fn sync(&mut self, delta: B::Delta) -> Result<SyncReport, BackendError> {
        (**self).sync(delta)
    }

    fn forget(&mut self) {
        (**self).forget();
    }

    fn foreign_change(&mut self) -> Result<bool, BackendError> {
        (**self).foreign_change()
    }

    fn last_writer(&self) -> Option<String> {
        (**self).last_writer()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        (**self).events()
    }

    fn pulse(&self) -> Pulse {
        (**self).pulse()
    }

    fn tend_at(&self) -> Option<Instant> {
        (**self).tend_at()
    }

    fn tend(&mut self, now: Instant) -> Result<usize, BackendError> {
        (**self).tend(now)
    }
}

/// The backend that serves Services.
pub type Services = Box<dyn Backend<Delta = PlanDelta> + Send>;

/// Opens the backend that is configured. Where the kernel lacks what IPVS needs and nftables may
/// take its place, that is the mode then; with it comes what is lacking.
///
/// # Errors
/// If the configuration is wrong, or the kernel lacks what the backend needs.
pub fn open(effective: &mut Effective) -> Result<(Services, Option<String>), Failure> {
    let owner = effective.table_owner == TableOwner::Auto;
    let mut settings = ipvs_settings(&effective.configuration.ipvs, owner)?;
    settings.counting = match effective.counters {
        Counters::Off => Counting::Nothing,
        Counters::Frontends => Counting::Frontends,
        Counters::Endpoints => Counting::Endpoints,
    };
    if effective.mode != Mode::Ipvs {
        return Ok((open_nftables(settings)?, None));
    }
    match VirtualServers::open(settings.clone()) {
        Ok(backend) => {
            backend.complaints().iter().for_each(|complaint| warn!("{complaint}"));
            Ok((Box::new(backend), None))
        }
        Err(error) if error.is_a_lack() && effective.ipvs_fallback == IpvsFallback::Nftables => {
            let lack = format!("nftables serves in place of IPVS: {error}");
            warn!("{lack}");
            effective.mode = Mode::Nftables;
            Ok((open_nftables(settings)?, Some(lack)))
        }
        Err(error) => Err(Failure::machine(error)),
    }
}

/// nftables; and beside it what IPVS mode has left, if it has.
fn open_nftables(of_ipvs: Settings) -> Result<Services, Failure> {
    let Settings { owner, counting, .. } = of_ipvs;
    let open = |forwarding| {
        Nftables::open(Options { owner, forwarding, counting }).map_err(Failure::machine)
    };
    let former = Former::find(of_ipvs).context("what IPVS mode has left cannot be read");
    Ok(match former.map_err(Failure::machine)? {
        None => Box::new(open(Forwarding::Translate)?),
        Some(former) => {
            info!("IPVS mode was here: its connections go on, and what has none is removed");
            Box::new(Successor::new(open(Forwarding::BesideVirtualServers)?, former))
        }
    })
}

/// What of kube-proxy's IPVS is to go.
///
/// # Errors
/// If the configuration is wrong.
pub fn of_kube_proxy(effective: &Effective) -> Result<Scope, Failure> {
    let exclude = excluded(&effective.configuration.ipvs)?;
    Ok(Scope { device: effective.mode != Mode::Ipvs, exclude })
}

/// The networks whose virtual servers are someone else's.
fn excluded(given: &Ipvs) -> Result<Vec<IpNet>, Failure> {
    let network = |network: &String| {
        let parsed = network.parse();
        parsed.map_err(|_| Failure::usage(anyhow!("ipvs.excludeCIDRs: {network} is no network")))
    };
    given.exclude_cidrs.iter().flatten().map(network).collect()
}

fn ipvs_settings(given: &Ipvs, owner: bool) -> Result<Settings, Failure> {
    let exclude = excluded(given)?;
    let seconds =
        |duration: GoDuration| u32::try_from(duration.to_duration().as_secs()).unwrap_or(u32::MAX);
    let mut settings = Settings {
        exclude,
        strict_arp: given.strict_arp,
        timeouts: Timeouts {
            tcp: seconds(given.tcp_timeout),
            tcp_fin: seconds(given.tcp_fin_timeout),
            udp: seconds(given.udp_timeout),
        },
        owner,
        patrol: given.sync_period.to_duration(),
        ..Settings::default()
    };
    if !given.scheduler.is_empty() {
        settings.scheduler.clone_from(&given.scheduler);
    }
    Ok(settings)
}

/// Implements [`Backend`] by the methods of the same names that each of ours has.
macro_rules! backend {
    ($backend:ty, $delta:ty, { $($more:tt)* }) => {
        impl Backend for $backend {
            type Delta = $delta;

            fn sync(&mut self, delta: $delta) -> Result<SyncReport, BackendError> {
                Ok(Self::sync(self, delta)?)
            }

            fn forget(&mut self) {
                Self::forget(self);
            }

            fn foreign_change(&mut self) -> Result<bool, BackendError> {
                Ok(Self::foreign_change(self)?)
            }

            fn last_writer(&self) -> Option<String> {
                Self::last_writer(self).map(ToOwned::to_owned)
            }

            fn events(&self) -> Vec<BorrowedFd<'_>> {
                Self::events(self).into_iter().collect()
            }

            fn pulse(&self) -> Pulse {
                Self::pulse(self)
            }

            $($more)*
        }
    };
}

backend!(Nftables, PlanDelta, {});
backend!(PolicyTable, Change, {
    fn tend_at(&self) -> Option<Instant> {
        Self::tend_at(self)
    }

    fn tend(&mut self, now: Instant) -> Result<usize, BackendError> {
        Ok(Self::tend(self, now)?)
    }
});
backend!(VirtualServers, PlanDelta, {
    fn tend_at(&self) -> Option<Instant> {
        Self::tend_at(self)
    }

    fn tend(&mut self, now: Instant) -> Result<usize, BackendError> {
        Ok(Self::tend(self, now)?)
    }
});
