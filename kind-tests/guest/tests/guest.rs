//! What a guest gives, and what it does when things go wrong.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use shunt_guest::{Guest, Outcome};

fn shell(guest: &Guest, script: &str) -> Result<Outcome> {
    guest
        .clone()
        .memory(256)
        .timeout(Duration::from_mins(1))
        .run(Command::new("sh").args(["-c", script]))
}

#[test]
fn status_and_both_outputs_come_back() -> Result<()> {
    let outcome = shell(&Guest::builder(), "echo out; echo 'an error' >&2; exit 3")?;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (3, "out\n"));
    assert_eq!(outcome.stderr, "an error\n");
    let killed = shell(&Guest::builder(), "kill -9 $$")?;
    assert_eq!(killed.code, 137);
    Ok(())
}

#[test]
fn long_output_is_whole() -> Result<()> {
    let outcome = shell(&Guest::builder(), "seq 1 100000")?;
    assert_eq!(outcome.stdout.lines().count(), 100_000);
    assert_eq!(outcome.stdout.lines().last(), Some("100000"));
    Ok(())
}

#[test]
fn the_kernel_has_what_the_host_may_lack() -> Result<()> {
    let script = "set -e
        ls /sys/class/net
        ipvsadm -A -t 10.96.0.11:80 -s mh && ipvsadm -A -t [fd00::1]:80 -s rr && ipvsadm -Ln
        ip link add kube-ipvs0 type dummy
        nft add table inet t '{ flowtable f { hook ingress priority 0; devices = { kube-ipvs0 }; }; }'
        nft list table inet t
        cat /proc/net/protocols | grep ^SCTP
        conntrack -L
        unshare --user --map-root-user --net true";
    let outcome = shell(&Guest::builder(), script)?;
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.stdout.lines().next(), Some("lo"), "no network of the host's");
    assert!(outcome.stdout.contains("TCP  10.96.0.11:80 mh"), "{}", outcome.stdout);
    Ok(())
}

#[test]
fn only_directories_that_are_lent_are_written_to() -> Result<()> {
    let lent = tempfile::tempdir()?;
    let kept = tempfile::tempdir()?;
    let script = format!(
        "echo guest | tee {}/file {}/file; cat {0}/file {1}/file",
        lent.path().display(),
        kept.path().display()
    );
    let outcome = shell(&Guest::builder().writable(lent.path()), &script)?;
    assert_eq!(outcome.stdout, "guest\nguest\nguest\n", "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(lent.path().join("file"))?, "guest\n");
    assert!(!kept.path().join("file").exists());
    Ok(())
}

#[test]
fn a_guest_that_hangs_is_killed() {
    let mut error = String::new();
    // On a busy machine it may not have begun by then: again, with more time.
    for seconds in [2, 10, 60] {
        let started = Instant::now();
        let guest = Guest::builder().memory(256).timeout(Duration::from_secs(seconds));
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 600"]);
        error = guest.run(&command).unwrap_err().to_string();
        assert!(started.elapsed() < Duration::from_secs(300), "it has slept to its end");
        assert!(error.contains(&format!("killed after {seconds}s")), "{error}");
        if error.contains("begun") {
            return;
        }
    }
    panic!("{error}");
}

#[test]
fn a_guest_that_dies_shows_its_console() {
    let error = shell(&Guest::builder(), "echo c >/proc/sysrq-trigger").unwrap_err().to_string();
    assert!(error.contains("the guest died") && error.contains("sysrq triggered crash"), "{error}");
}
