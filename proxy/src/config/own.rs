//! Our own section of the configuration: its words are those that its flags take.

use std::net::IpAddr;

use clap::ValueEnum;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::kube_proxy::Shunt;
use super::validate::Invalid;
use crate::cli::{
    BridgeNetfilter, Counters, IpvsFallback, LiveConnections, NetworkPolicy, NewPods, TableOwner,
};

/// Reads a word that may be `off`. YAML 1.1, which Helm and our own reader follow, has a bare `off` for the boolean `false`.
pub(super) fn word_or_off<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(from)? {
        Value::Bool(is_on) => Ok(Some(if is_on { "on" } else { "off" }.to_owned())),
        word => Deserialize::deserialize(word).map_err(D::Error::custom),
    }
}

/// What a word means, or what no word means. Words that mean nothing are [`invalid`].
pub(super) fn choice<T: ValueEnum + Default>(word: Option<&str>) -> T {
    word.and_then(|word| T::from_str(word, false).ok()).unwrap_or_default()
}

/// The addresses in a list.
pub(super) fn addresses(texts: Option<&[String]>) -> impl Iterator<Item = IpAddr> {
    texts.unwrap_or_default().iter().filter_map(|text| text.parse().ok())
}

/// All that is wrong with the section.
pub(super) fn invalid(section: &Shunt) -> Vec<Invalid> {
    let words = [
        word::<TableOwner>("tableOwner", section.table_owner.as_deref()),
        word::<NetworkPolicy>("networkPolicy", section.network_policy.as_deref()),
        word::<NewPods>("newPods", section.new_pods.as_deref()),
        word::<LiveConnections>("liveConnections", section.live_connections.as_deref()),
        word::<BridgeNetfilter>("bridgeNetfilter", section.bridge_netfilter.as_deref()),
        word::<IpvsFallback>("ipvsFallback", section.ipvs_fallback.as_deref()),
        word::<Counters>("counters", section.counters.as_deref()),
    ];
    let servers = section.dns_servers.iter().flatten().enumerate();
    let wrong = servers.filter(|(_, text)| text.parse::<IpAddr>().is_err());
    let servers = wrong.map(|(at, text)| Invalid {
        path: format!("shunt.dnsServers[{at}]"),
        value: format!("{text:?}"),
        allowed: "must be an IP address".to_owned(),
    });
    let socket =
        section.nri_socket.iter().filter(|path| !path.is_empty() && !path.starts_with('/'));
    let socket = socket.map(|path| Invalid {
        path: "shunt.nriSocket".to_owned(),
        value: format!("{path:?}"),
        allowed: "must be an absolute path, or empty".to_owned(),
    });
    words.into_iter().flatten().chain(servers).chain(socket).collect()
}

/// What is wrong with a word.
fn word<T: ValueEnum>(field: &str, word: Option<&str>) -> Option<Invalid> {
    let word = word.filter(|word| T::from_str(word, false).is_err())?;
    let names = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
    let (last, others) = names.split_last()?;
    Some(Invalid {
        path: format!("shunt.{field}"),
        value: format!("{word:?}"),
        allowed: format!("must be {} or {last}", others.join(", ")),
    })
}
