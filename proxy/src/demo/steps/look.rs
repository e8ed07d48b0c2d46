//! What there is to look at.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_cluster::{Host, Privilege};

use super::super::daemon::status_on;
use super::Demo;
use crate::failure::Failure;

/// How often the wait for Enter looks whether a signal has come, in milliseconds.
const GLANCE: u16 = 100;

impl Demo {
    /// The table of Services on the first node, and what else can be asked.
    pub(super) fn status(&mut self) -> Result<(), Failure> {
        let node = self.scene.cluster.nodes().next();
        let node = node.context("there is no node")?;
        let table = status_on(node)?;
        self.screen.step(&format!("$ shunt status (on {})", node.name()));
        self.screen.quote(&table);
        self.screen.line("");
        for (command, what) in [
            ("shunt status -o wide", "with the address of every endpoint"),
            ("shunt render --manifests DIR --stage plan", "what a node would do, without a kernel"),
            ("shunt render --manifests DIR --stage nft", "the same as a script for nft"),
            ("shunt demo --pause", "keep this cluster to look around in"),
        ] {
            self.screen.line(&format!("{command:<43}{what}"));
        }
        Ok(())
    }

    /// Waits for Enter, and says what can be done meanwhile.
    pub(super) fn pause(&mut self) -> Result<(), Failure> {
        self.screen.step("The cluster stays until you press Enter; to enter its namespaces:");
        for host in self.scene.cluster.hosts() {
            let command = self.enter(host)?;
            self.screen.line(&format!("{:<9}{command}", host.name()));
        }
        self.screen.line(&format!(
            "manifests and logs: {}; a change there is followed at once",
            self.scene.directory().display()
        ));
        loop {
            self.scene.ending.check()?;
            let stdin = io::stdin();
            let mut waited = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waited, PollTimeout::from(GLANCE)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // The line itself means nothing, and neither does its absence.
        let _ = io::stdin().lock().read(&mut [0; 1024]);
        Ok(())
    }

    /// The command that enters a host's namespace: that of the thread which lives in it.
    fn enter(&self, host: &Host) -> Result<String, Failure> {
        let thread = host.netns().run(|| fs::read_link("/proc/thread-self"))?;
        let user = match self.scene.privilege {
            Privilege::Held => String::new(),
            Privilege::UserNamespace => {
                format!(" --target={} --user --preserve-credentials", std::process::id())
            }
        };
        Ok(format!("nsenter{user} --net=/proc/{}/ns/net", thread.display()))
    }
}
