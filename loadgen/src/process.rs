//! What the kernel says about a process and this machine.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Processor time of a process over all its threads, in microseconds. The kernel counts in steps of 10 ms.
pub fn cpu_us(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    parse_cpu_us(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))
}

/// The same of a process group, which its leader's number names. Those that have ended are not in it any more.
pub fn group_cpu_us(leader: u32) -> Result<u64> {
    let mut used = 0;
    for entry in fs::read_dir("/proc")? {
        // A process may end at any moment.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else {
            continue;
        };
        if parse_group(&stat) == Some(leader) {
            used += parse_cpu_us(&stat).unwrap_or(0);
        }
    }
    Ok(used)
}

fn parse_group(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    fields.nth(2)?.parse().ok()
}

fn parse_cpu_us(stat: &str) -> Option<u64> {
    // The name may hold spaces and parentheses; what follows the last one is fields 3 and on.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 10_000)
}

/// Resident memory of a process in KiB.
pub fn rss_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    field(&status, "VmRSS:").with_context(|| format!("/proc/{pid}/status has no VmRSS"))
}

/// Memory of all TCP sockets of this machine in KiB.
pub fn tcp_kib() -> Result<u64> {
    let stat = fs::read_to_string("/proc/net/sockstat")?;
    let line = stat
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .context("/proc/net/sockstat has no TCP line")?;
    let pages: u64 = line
        .split_once(" mem ")
        .and_then(|(_, rest)| rest.split_ascii_whitespace().next()?.parse().ok())
        .context("/proc/net/sockstat has an unknown form")?;
    Ok(pages * 4)
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Allows this process, and those it starts, as many open files as the system permits.
pub fn raise_open_files() {
    if let Err(error) = rlimit::increase_nofile_limit(1 << 20) {
        eprintln!("loadgen: cannot raise the limit of open files: {error}");
    }
}

/// Names processor, kernel and memory.
pub fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
        "processor": model,
        // Counted here: what the system offers to this process is less once it is pinned.
        "cores": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": format!("Linux {}", kernel.trim()),
        "memory_gib": field(&meminfo, "MemTotal:").unwrap_or(0) as f64 / (1024.0 * 1024.0),
    })
}

/// The kind of file system a folder is on.
pub fn file_system(folder: &std::path::Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mount, _)| folder.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map_or("unknown", |(_, kind)| kind)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 3 0 99";
        assert_eq!(parse_cpu_us(stat), Some(1_750_000));
        assert_eq!(parse_cpu_us("12 (a) S 1"), None);
        assert_eq!(parse_group(stat), Some(2));
    }

    #[test]
    fn this_process_has_memory_and_time() {
        assert!(rss_kib(std::process::id()).unwrap() > 100);
        cpu_us(std::process::id()).unwrap();
        tcp_kib().unwrap();
    }
}
