//! Stock `nft` as the reader of what we wrote.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use shunt_cluster::Netns;
use shunt_nftables::kernel::Error;

/// What stock nft prints in a namespace.
pub(crate) fn nft(netns: &Netns, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    netns.run(move || {
        let output = Command::new("nft").args(&arguments).output().expect("nft runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "nft {arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    })
}

/// Opens what one socket owns. A process that another test starts holds copies of our sockets
/// between its fork and its own program, so an owner may outlive its drop by a moment.
pub(crate) fn open_when_free<T>(open: impl Fn() -> Result<T, Error>) -> T {
    for _ in 0..200 {
        match open() {
            Err(Error::Owned { .. }) => sleep(Duration::from_millis(20)),
            outcome => return outcome.expect("nftables"),
        }
    }
    panic!("the table kept its owner");
}

/// Compares two listings, whatever the order of elements, and shows the first line that differs.
#[track_caller]
pub(crate) fn assert_same(one: &str, other: &str) {
    let (one, other) = (sorted(one), sorted(other));
    for (one, other) in one.lines().zip(other.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(one.lines().count(), other.lines().count());
}

/// A listing with the elements of each set in a fixed order: the kernel's is that of its hashes.
fn sorted(listing: &str) -> String {
    let mut out = String::new();
    let mut elements: Option<Vec<String>> = None;
    for line in listing.lines() {
        let trimmed = line.trim();
        let start = trimmed.strip_prefix("elements = { ");
        if start.is_some() {
            elements = Some(Vec::new());
        }
        let Some(list) = &mut elements else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let (text, ends) = match start.unwrap_or(trimmed).strip_suffix(" }") {
            Some(text) => (text, true),
            None => (start.unwrap_or(trimmed), false),
        };
        list.extend(
            text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()),
        );
        if ends {
            list.sort_unstable();
            out.push_str(&list.join("\n"));
            out.push('\n');
            elements = None;
        }
    }
    out
}
