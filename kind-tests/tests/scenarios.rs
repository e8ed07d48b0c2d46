//! Every scenario under `kind-tests/scenarios` is three tests here: on shunt, and on the real kube-proxy in both modes.
//! Needs root, and what `make controlplane` builds.
//!
//! The test harness runs as many at a time as there are cores. One of the tests runs those on shunt once more in the
//! guest kernel, and a scenario that needs what this kernel lacks is played there alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use shunt_kind_tests::guest::{self, Clock, Kernel};
use shunt_kind_tests::kube_proxy::Mode;
use shunt_kind_tests::scenario::{Played, Scenario};

/// The tests of each scenario: the directory is named like the test, with `-` for `_`.
macro_rules! scenarios {
    ($($name:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                play(module_path!(), stringify!($name), Scenario::play);
            }
        )*

        /// They need a kernel with IPVS: one of the tests below runs them in the guest.
        mod ipvs {
            $(
                #[test]
                #[ignore = "needs IPVS; a test runs them in the guest"]
                fn $name() {
                    let on = super::Scenario::play_with_ipvs;
                    super::play(module_path!(), stringify!($name), on);
                }
            )*
        }

        mod kube_proxy_nftables {
            $(
                #[test]
                fn $name() {
                    let on = |scenario: &super::Scenario| scenario.play_on(super::Mode::Nftables);
                    super::play(module_path!(), stringify!($name), on);
                }
            )*
        }

        mod kube_proxy_iptables {
            $(
                #[test]
                fn $name() {
                    let on = |scenario: &super::Scenario| scenario.play_on(super::Mode::Iptables);
                    super::play(module_path!(), stringify!($name), on);
                }
            )*
        }
    };
}

scenarios! {
    addresses_with_leading_zeros
    bad_fields_are_skipped_others_served
    bridge_is_made_to_be_seen
    changes_while_dead_are_made_up_for
    cluster_cidr_masquerades_outsiders
    cluster_ip_spreads_over_pods
    cnp_fails_closed_on_bad_input
    cnp_live_connections
    cnp_nodes_and_networks
    cnp_truth_table
    conntrack_zones
    consistent_hash
    endpoints_from_several_slices
    external_ip
    external_ip_of_a_node
    external_ips_switched_off
    external_traffic_policy_local
    families_come_and_go
    foreign_proxy_label_is_ignored
    frontends_and_endpoints_change_hands
    hairpin_pod_reaches_itself
    half_written_file_keeps_last_good_state
    health_check_node_port
    headless_and_external_name_are_ignored
    host_network_endpoints
    hours_change_nothing
    internal_traffic_policy_local
    jumbo_frames
    load_balancer_ip
    load_balancer_ranges_with_the_node
    load_balancer_source_ranges
    localhost_node_ports
    localhost_node_ports_switched_off
    long_datagrams
    long_ipv6_datagrams
    masquerade_all
    masquerade_and_policies
    masquerade_and_policies_by_bridge
    masquerade_and_policies_by_interface_prefix
    masquerade_and_policies_of_everyone
    masquerade_and_policies_where_nobody_is_known
    masquerade_by_a_bridge_that_is_one
    no_endpoints_is_refused
    node_changes_under_traffic
    node_cidr_masquerades_outsiders
    node_port
    node_port_addresses_by_network
    node_port_only_on_node_addresses
    not_ready_endpoints_get_nothing
    object_in_two_files_first_by_name_wins
    one_port_two_protocols_two_services
    path_mtu
    path_mtu_of_ipv6_datagrams
    path_mtu_with_policy
    pod_source_is_kept
    policies_and_affinity_switched_under_traffic
    policy_address_of_another_pod
    policy_behind_services
    policy_blocks_and_nodes
    policy_fails_closed_on_bad_input
    policy_host_network_and_ended_pods
    policy_live_connections
    policy_stays_while_the_daemon_is_dead
    policy_truth_table
    pools_of_any_size_reach_all_their_pods
    publish_not_ready_addresses
    restart_writes_nothing_and_breaks_nothing
    scale_up_and_down
    sctp_service
    service_changes_its_type
    service_deleted
    session_affinity
    session_affinity_across_ports
    session_affinity_and_policy_local
    session_affinity_ends_in_time
    session_survives_scale_down_of_others
    several_ports_and_named_target_ports
    single_stack_service_in_dual_stack_cluster
    single_stack_v4
    single_stack_v6
    slices_of_all_kinds
    small_mtu
    terminating_endpoints_and_policy_cluster
    terminating_endpoints_and_policy_local
    tcp_connections_to_removed_endpoints_are_reset
    terminating_endpoints_serve_when_none_is_ready
    traffic_distribution
    two_services_one_node_port_oldest_wins
    udp_flow_follows_its_service
    udp_flow_older_than_its_service
    udp_flow_stale_after_restart
    udp_service
    unallocated_addresses_are_dropped
    undefined_port_of_cluster_ip_is_refused
    weights
}

/// Plays a scenario, in the guest where this kernel lacks what it needs.
fn play(module: &str, test: &str, on: impl Fn(&Scenario) -> Result<Played>) {
    let directory = Scenario::home().join(test.replace('_', "-"));
    let played = Scenario::load(&directory).and_then(|scenario| {
        if !scenario.is_playable_here() {
            // The Go runtime waits for time to pass without sleeping, so time does not pass.
            if scenario.clock() == Clock::TimeTravel && module.contains("kube_proxy") {
                return Ok(format!("{test}: kube-proxy is not played where the clock travels"));
            }
            let path = format!("{module}::{test}");
            let (_, path) = path.split_once("::").unwrap_or_default();
            return guest::run_tests(scenario.clock(), &["--exact", path, "--nocapture"]);
        }
        let played = on(&scenario).or_else(|error| {
            // No mark tells when kube-proxy has learnt its Node's zone: on a busy machine that may come after the flows.
            if !module.contains("kube_proxy") {
                return Err(error);
            }
            eprintln!("{test}: played once more after: {error:#}");
            on(&scenario)
        })?;
        Ok(format!("{test}: {} steps, {} flows", played.steps, played.flows))
    });
    match played {
        Ok(text) => println!("{text}"),
        Err(error) => {
            let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
            panic!("{}", causes.join(":\n"));
        }
    }
}

/// In the guest each waits for its own daemons, so more of them than it has CPUs: it has one.
const AT_A_TIME: &str = "4";

#[test]
fn everything_once_more_in_the_guest() -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    let printed = in_the_guest(&["--skip", "kube_proxy_"], "")?;
    println!("{printed}");
    Ok(())
}

#[test]
fn everything_on_ipvs_in_the_guest() -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    let printed = in_the_guest(&["--ignored", "ipvs::"], "ipvs::")?;
    println!("{printed}");
    Ok(())
}

/// Those that are played on Debian's stock kernels too, which are emulated, so that one takes ten seconds: each kind of
/// frontend, what the table beside IPVS decides, connections that are ended, and policy.
const ON_STOCK_KERNELS: &[&str] =
    &["load_balancer_source_ranges", "policy_behind_services", "udp_flow_follows_its_service"];

/// What the kernel would load one after the other, each with a process that takes its time when emulated. 5.10 does not
/// load `ip_vs` by itself when its netlink family is asked for. Those that another kernel has built in are passed over.
const MODULES: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "dummy",
    "nf_conntrack_netlink",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_reject_inet",
    "nft_counter",
    "nft_numgen",
    "nft_hash",
    "nft_fib_inet",
    "nft_limit",
    "nft_objref",
    "nft_log",
];

#[test]
fn a_few_on_debians_6_1() -> Result<()> {
    on_a_stock_kernel(Kernel::Debian6_1)
}

#[test]
fn a_few_on_debians_5_10() -> Result<()> {
    on_a_stock_kernel(Kernel::Debian5_10)
}

/// Plays them on both backends.
fn on_a_stock_kernel(kernel: Kernel) -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    let on_ipvs = ON_STOCK_KERNELS.iter().map(|name| format!("ipvs::{name}"));
    let tests: Vec<_> = ON_STOCK_KERNELS.iter().map(ToString::to_string).chain(on_ipvs).collect();
    let mut arguments = vec!["--include-ignored", "--exact", "--test-threads", "2"];
    arguments.extend(tests.iter().map(String::as_str));
    let printed = guest::run_tests_on(kernel, MODULES, &arguments)?;
    for name in tests {
        let line = format!("test {name} ... ok");
        ensure!(printed.contains(&line), "{name} was not run:\n{printed}");
    }
    println!("{printed}");
    Ok(())
}

/// Plays the scenarios in one guest, and sees that none is forgotten.
fn in_the_guest(which: &[&str], module: &str) -> Result<String> {
    let mut arguments = vec!["--test-threads", AT_A_TIME];
    arguments.extend(which);
    let mut wanted = Vec::new();
    for name in LISTED {
        let scenario = Scenario::load(&Scenario::home().join(name.replace('_', "-")))?;
        // Where the clock must travel, a guest of the scenario's own is started for it anyway.
        if scenario.clock() == Clock::TimeTravel {
            arguments.extend(["--skip", *name]);
        } else {
            wanted.push(*name);
        }
    }
    let printed = guest::run_tests(Clock::Running, &arguments)?;
    for name in wanted {
        let line = format!("test {module}{name} ... ok");
        assert!(printed.contains(&line), "{name} was not run:\n{printed}");
    }
    Ok(printed)
}

#[test]
fn no_scenario_is_forgotten() -> Result<()> {
    let mut directories = BTreeSet::new();
    for entry in fs::read_dir(Scenario::home())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().into_string().ok().context("a name that is text")?;
            directories.insert(name.replace('-', "_"));
        }
    }
    let listed: BTreeSet<_> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(listed, directories, "the list in {} and the directories", file!());
    Ok(())
}

/// What flows say of kube-proxy has its row in the list of differences, and each row names just the scenarios that show
/// it.
#[test]
fn the_list_of_differences_is_true() -> Result<()> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for test in LISTED {
        let name = test.replace('_', "-");
        let scenario = Scenario::load(&Scenario::home().join(&name))?;
        for row in scenario.differences() {
            shown.entry(row.to_owned()).or_default().insert(name.clone());
        }
    }
    let page = fs::read_to_string(Scenario::home().join("../../docs/differences.md"))?;
    let mut listed = BTreeMap::new();
    // The rows of the first table, whose first cell is a name.
    let (_, table) =
        page.split_once("|---|---|---|---|---|\n").context("a table of five columns")?;
    for line in table.lines().take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let names = cells.last().into_iter().flat_map(|cell| cell.split(", "));
        let names: BTreeSet<_> = names.map(str::to_owned).collect();
        listed.insert(cells[0].trim_matches('`').to_owned(), names);
    }
    assert_eq!(listed, shown, "docs/differences.md, and what the flows declare");
    Ok(())
}

/// The scenarios that are said to show the packets of kube-proxy's own tests are there.
#[test]
fn the_list_of_traces_is_true() -> Result<()> {
    let page = fs::read_to_string(Scenario::home().join("TRACES.md"))?;
    let rows = page.lines().filter(|line| line.starts_with("| `Test"));
    let cells = rows.filter_map(|line| line.trim_matches(['|', ' ']).rsplit(" | ").next());
    let named: Vec<_> = cells.flat_map(|cell| cell.split(", ")).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(LISTED.contains(&name.replace('-', "_").as_str()), "there is no scenario {name}");
    }
    Ok(())
}

/// A scenario whose expectations are wrong in every way that there is must fail in each of them.
#[test]
fn wrong_expectations_are_found() -> Result<()> {
    const FLOWS: &[&str] = &[
        "dns-1  tcp  vip-1/v4:80     -> web-1 web-2             # one too few",
        "dns-1  tcp  vip-1/v4:80     -> web-1 web-2 web-3 web-4 # one too many",
        "dns-1  tcp  vip-1/v4:80     -> web-1:80 web-2 web-3    # another port",
        "dns-1  tcp  vip-1/v4:80     -> web-1 web-2 web-3 | source node-1",
        "web-1  tcp  vip-1/v6:80     -> web-1 web-2 web-3 | source kept",
        "dns-1  tcp  vip-1/v4:80     -> refused",
        "dns-1  tcp  vip-1/v4:81     -> dropped",
        "dns-1  tcp  vip-1/v4:81     -> pass refused",
        "dns-1  tcp  web-1/v4:8080   -> refused",
        "client tcp  node-1/v4:30080 -> pass unanswered",
    ];
    let manifests = "cluster-ip-spreads-over-pods/01-create.yaml";
    let home = tempfile::tempdir()?;
    fs::copy(Scenario::home().join(manifests), home.path().join("01-create.yaml"))?;
    fs::write(home.path().join("01-create.flows"), FLOWS.join("\n"))?;
    let error = Scenario::load(home.path())?
        .play()
        .map(|_| ())
        .err()
        .context("it was played without an error")?;
    let text = format!("{error:#}");
    assert!(text.contains(&format!("{0} of {0} flows", FLOWS.len())), "{text}");
    println!("{text}");
    Ok(())
}
