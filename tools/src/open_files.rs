//! How many files this process has open, and how many it may.

use gateway::server::Limits;
use rustix::process::{Resource, getrlimit};

/// Above this part of what may be open, in tenths, an operator is warned.
const TENTHS: u64 = 9;

/// Files that are open: segments, indexes, connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// How many are.
    pub used: u64,
    /// How many may be.
    pub limit: u64,
}

impl OpenFiles {
    /// As it is now; `None` where the system does not say.
    pub fn now() -> Option<OpenFiles> {
        let limit = getrlimit(Resource::Nofile).current?;
        let used = match std::fs::read_dir("/proc/self/fd") {
            // One of them is this directory.
            Ok(open) => (open.count() as u64).saturating_sub(1),
            // It takes one more to count them.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => limit,
            Err(_) => return None,
        };
        Some(OpenFiles { used, limit })
    }

    /// Connections that may be served of `wanted`: the other half is for drives and indexes.
    pub fn connections(limit: Option<u64>, wanted: usize) -> usize {
        let half = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX));
        wanted.min(half).max(1)
    }

    /// How many connections are served, with so many files as there may be.
    pub fn limits() -> Limits {
        let limits = Limits::default();
        let connections = OpenFiles::connections(OpenFiles::now().map(|open| open.limit), limits.connections);
        Limits { connections, ..limits }
    }

    /// What an operator is told when few are left.
    pub fn warning(self) -> Option<String> {
        let OpenFiles { used, limit } = self;
        (used.saturating_mul(10) >= limit.saturating_mul(TENTHS)).then(|| {
            format!("{used} files are open and {limit} may be: requests will be refused; raise the limit (ulimit -n, LimitNOFILE=)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        let before = OpenFiles::now().unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let after = OpenFiles::now().unwrap();
        // Other tests open and close some meanwhile.
        assert!(after.used >= before.used + 20 && after.limit == before.limit, "{before:?} {after:?}");
        drop(files);
    }

    /// A server that could open no file was healthy.
    #[test]
    fn few_that_are_left_are_warned_of() {
        assert_eq!(OpenFiles { used: 899, limit: 1000 }.warning(), None);
        let told = OpenFiles { used: 900, limit: 1000 }.warning().unwrap();
        assert!(told.starts_with("900 files are open and 1000 may be"), "{told}");
    }

    #[test]
    fn connections_leave_files_for_drives() {
        assert_eq!(OpenFiles::connections(Some(1024), 4096), 512);
        assert_eq!(OpenFiles::connections(Some(1 << 16), 4096), 4096);
        assert_eq!((OpenFiles::connections(None, 4096), OpenFiles::connections(Some(1), 4096)), (4096, 1));
    }
}
