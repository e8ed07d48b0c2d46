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
