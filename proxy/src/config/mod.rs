//! The configuration: kube-proxy's `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`),
//! from a file or from kube-proxy's flags, and one section of our own, `shunt`.
//!
//! Whichever way it comes, it becomes a [`KubeProxyConfiguration`] first, is validated as such,
//! and is then made into [`Effective`], which is all that the rest of the daemon knows of it.

pub mod check;
#[cfg(test)]
mod documented;
pub mod duration;
pub mod effective;
pub mod flags;
pub mod kube_proxy;
pub mod load;
mod notes;
mod own;
mod spelling;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod watch;

pub use self::duration::GoDuration;
pub use self::effective::Effective;
pub use self::flags::{KubeProxyArgs, PlanArgs};
pub use self::kube_proxy::{KubeProxyConfiguration, Mode};
pub use self::spelling::{arguments, boolean};
