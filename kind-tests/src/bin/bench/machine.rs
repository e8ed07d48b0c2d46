//! What the figures were measured on, and what a process uses: all from /proc.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::figures::Usage;

/// The machine and how busy it was.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// One, five and fifteen minutes.
    pub(crate) load_before: String,
    pub(crate) load_after: String,
}

/// The programs.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Versions {
    pub(crate) shunt: String,
    pub(crate) shunt_megabytes: f64,
    pub(crate) kube_proxy: String,
    pub(crate) nft: String,
}

impl Machine {
    /// Looks at the machine before the run.
    pub(crate) fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let cpus = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name"));
        let cpu = cpus.clone().next().and_then(|rest| rest.split_once(": "));
        let memory = field(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default();
        Self {
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            cores: cpus.count(),
            memory_gib: memory.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load(),
            load_after: String::new(),
        }
    }
}

/// The load averages of the last one, five and fifteen minutes.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

impl Versions {
    /// Asks the programs.
    pub(crate) fn ask(shunt: &Path, kube_proxy: Option<&Path>) -> Result<Self> {
        let length =
            fs::metadata(shunt).with_context(|| format!("{} (make build)", shunt.display()))?.len();
        Ok(Self {
            shunt: first_line(Command::new(shunt).arg("version"))?,
            shunt_megabytes: f64::from(u32::try_from(length / 1000)?) / 1e3,
            kube_proxy: kube_proxy
                .map(|path| first_line(Command::new(path).arg("--version")))
                .transpose()?
                .unwrap_or_default(),
            nft: first_line(Command::new("nft").arg("--version"))?,
        })
    }
}

fn first_line(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("running {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// What a process and the children it has waited for have used so far.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything; what follows are numbers, from field 3 on.
    let (_, rest) = stat.rsplit_once(") ").context("/proc/PID/stat has another form")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let hertz =
        sysconf(SysconfVar::CLK_TCK)?.and_then(|hertz| u64::try_from(hertz).ok()).unwrap_or(100);
    let milliseconds = |first: usize| {
        let both = ticks(first).zip(ticks(first + 1)).map(|(user, system)| user + system);
        both.map(|ticks| ticks * 1000 / hertz).context("/proc/PID/stat is short")
    };
    Ok(Usage {
        resident_kib: field(&status, "VmRSS:").unwrap_or_default(),
        resident_peak_kib: field(&status, "VmHWM:").unwrap_or_default(),
        resident_file_kib: field(&status, "RssFile:").unwrap_or_default(),
        cpu_ms: milliseconds(14)?,
        children_cpu_ms: milliseconds(16)?,
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number after a label at the start of a line.
fn field(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}
