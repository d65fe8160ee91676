//! The server's CPU time and peak memory, from /proc (proc(5)).

use std::fs;

/// The server under test.
pub struct ServerProcess {
    pid: u32,
}

impl ServerProcess {
    /// Watches the process with this id.
    pub fn new(pid: u32) -> ServerProcess {
        ServerProcess { pid }
    }

    /// User and system CPU seconds used so far; `None` where the process is gone.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The command name may hold spaces; the fields are counted from the closing bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        // USER_HZ is 100 on every Linux that Rust supports.
        Some(ticks as f64 / 100.0)
    }

    /// Peak resident memory in MiB.
    pub fn peak_rss_mib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
    }
}
