//! `shunt run` against a real API server. Needs root, and the programs that `make controlplane`
//! builds.

mod change;
mod churn;
mod cluster_policies;
mod doctor;
mod domain_names;
mod events;
mod explain;
mod failures;
mod flannel;
mod health;
mod lists;
mod manifests;
mod monitoring;
mod new_pods;
mod once;
mod outage;
mod policy;
mod second_proxy;
mod services;
mod site;
mod start;
mod takeover;
