//! Settings that are accepted and mean nothing here, or something else.

use super::GoDuration;
use super::kube_proxy::{EXTERNAL_IPS_GATE, KubeProxyConfiguration, Mode, Text};

/// A remark on each setting that was given and does not do what it does in kube-proxy.
pub(super) fn notes(given: &KubeProxyConfiguration) -> Vec<String> {
    let mut usual = KubeProxyConfiguration { mode: given.mode.clone(), ..Default::default() };
    usual.set_defaults();
    // The default of kube-proxy's flags, which is not that of its files.
    let least = GoDuration::seconds(1);
    let by_flags = given.mode() == Mode::Ipvs && given.ipvs.min_sync_period == least;
    usual.ipvs.min_sync_period = if by_flags { least } else { usual.ipvs.min_sync_period };
    let mut notes = Vec::new();
    let mut note = |differs: bool, path: &str, why: &str| {
        if differs {
            notes.push(format!("{path} has no effect: {why}"));
        }
    };
    let (client, usual_client) = (&given.client_connection, &usual.client_connection);
    note(
        !client.accept_content_types.is_empty() || client.content_type != usual_client.content_type,
        "clientConnection.contentType",
        "objects are read as JSON",
    );
    note(
        (client.qps, client.burst) != (usual_client.qps, usual_client.burst),
        "clientConnection.qps",
        "shunt lists once and watches, so there is nothing to slow down",
    );
    note(
        given.config_sync_period != usual.config_sync_period,
        "configSyncPeriod",
        "a watch that is lost is listed anew, and nothing else need be",
    );
    let section = if given.mode() == Mode::Ipvs { "ipvs" } else { given.mode.as_str() };
    note(
        given.periods().1 != usual.periods().1,
        &format!("{section}.minSyncPeriod"),
        "a change is written at once, what comes meanwhile with the next; \
         shunt.verifyInterval says how often all is compared",
    );
    let bits =
        |of: &KubeProxyConfiguration| (of.iptables.masquerade_bit, of.nftables.masquerade_bit);
    note(bits(given) != bits(&usual), "masqueradeBit", "shunt sets and reads no packet mark");
    note(
        given.bind_address != usual.bind_address,
        "bindAddress, as the address of the node,",
        "the Node's own addresses count; its family decides where metrics and health listen",
    );
    note(given.enable_profiling, "enableProfiling", "there is no profiler");
    note(
        !given.show_hidden_metrics_for_version.is_empty(),
        "showHiddenMetricsForVersion",
        "no metric is hidden",
    );
    let mut gates = given.feature_gates.keys();
    note(
        gates.any(|gate| gate != EXTERNAL_IPS_GATE),
        "featureGates",
        "of kube-proxy's gates shunt has AllowServiceExternalIPs only",
    );
    note(!given.port_range.is_empty(), "portRange", "kube-proxy ignores it too");
    note(
        given.windows_run_as_service || given.winkernel != usual.winkernel,
        "winkernel",
        "this is Linux",
    );
    note_logging(given, &mut note);
    notes
}

fn note_logging(given: &KubeProxyConfiguration, note: &mut impl FnMut(bool, &str, &str)) {
    let logging = &given.logging;
    note(!logging.vmodule.is_empty(), "logging.vmodule", "use shunt.logLevel");
    let split = |output: &super::kube_proxy::LogOutput| {
        output.split_stream
            || ![Text::default(), Text::Number(0)].contains(&output.info_buffer_size)
    };
    note(
        split(&logging.options.text) || split(&logging.options.json),
        "logging.options",
        "all lines go to standard error, none is held back",
    );
}
