//! What this process asks of the system before anything else happens.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;

/// Files that a server with a few dozen drives may have open: segments, two indexes, connections.
const OPEN_FILES: u64 = 1 << 16;

/// Open files that a server needs beside those of its drives: two indexes, ports, a few connections, the runtime.
const FILES: u64 = 256;
/// Open files that a drive needs: directory, lock, identity, open segments, and segments that are read and scrubbed.
const FILES_PER_DRIVE: u64 = 32;

/// The system allows too few open files: a start would take drives that it can't open for drives that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{drives} drives need {needed} open files, this process may have {limit}: raise the limit (ulimit -Hn {needed}, or \
     LimitNOFILE={needed} of a systemd unit)"
)]
pub struct TooFewFiles {
    /// How many drives there are.
    pub drives: usize,
    /// Open files that they, and what is beside them, need.
    pub needed: u64,
    /// How many the system allows.
    pub limit: u64,
}

/// Whether the limit of open files, raised by [`prepare`], is enough for so many drives.
///
/// # Errors
/// It is too low, and could not be raised.
pub fn check_open_files(drives: usize) -> Result<(), TooFewFiles> {
    enough_files(drives, getrlimit(Resource::Nofile).current)
}

fn enough_files(drives: usize, limit: Option<u64>) -> Result<(), TooFewFiles> {
    let needed = FILES.saturating_add(FILES_PER_DRIVE.saturating_mul(drives as u64));
    match limit.filter(|limit| *limit < needed) {
        Some(limit) => Err(TooFewFiles { drives, needed, limit }),
        None => Ok(()),
    }
}

/// Settles memory and file limits. Call once, before any other thread begins.
pub fn prepare() {
    share_arenas();
    raise_open_files();
}

/// Raises the limit of open files towards [`OPEN_FILES`], as far as the system allows: the usual 1024 is less than a dozen
/// drives, their indexes and a few hundred connections need, and a server that runs out can't begin a segment.
fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    if now.current.is_some_and(|current| current < most) {
        // Refused: it stays as it is, and whoever runs out says so.
        let _refused = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: now.maximum });
    }
}

/// Keeps glibc's allocator to two arenas. Frames are allocated on one thread and freed on another; with an arena per
/// thread each keeps the most that ever passed through it, and sixteen parallel uploads held a fifth more memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn share_arenas() {
    // SAFETY: mallopt(3) takes two integers and touches nothing but the allocator's settings; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Other allocators have no such setting.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_arenas() {}

/// What a process ends with that is too old for the format level of what it serves. Starting it again changes nothing: a later release
/// is to be started.
pub const TOO_OLD: u8 = 4;

/// Ends the process with `code`: what was printed is flushed, and nothing else is run. A start that fails leaves threads of
/// drives and of RocksDB behind; exit(3) would run RocksDB's static destructors under them, and one that takes a destroyed
/// lock then aborts, so that a clear error ended in "pthread lock: Invalid argument" and a signal. What must be on the
/// drives is there before anybody is told so: there is nothing that a destructor could still save.
#[allow(unsafe_code)]
pub fn end(code: u8) -> ! {
    // Nobody reads it any more: that is no reason to stay.
    let _unread = std::io::stdout().flush();
    let _unread = std::io::stderr().flush();
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Lets a command end quietly when nobody reads its output any more (`stele status | head -1`). Not for a server: a client
/// that hangs up must not end it.
#[allow(unsafe_code)]
pub fn end_with_the_pipe() {
    // SAFETY: signal(2) with the default action installs no handler, so nothing of ours runs in a signal's context.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_open_files_for_the_drives_are_said() {
        assert_eq!(enough_files(12, None), Ok(()));
        assert_eq!(enough_files(12, Some(640)), Ok(()));
        let few = enough_files(12, Some(639)).unwrap_err();
        assert_eq!(few, TooFewFiles { drives: 12, needed: 640, limit: 639 });
        assert!(few.to_string().contains("ulimit -Hn 640"), "{few}");
    }

    #[test]
    fn open_files_are_raised_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        prepare();
        let after = getrlimit(Resource::Nofile);
        assert!(after.current.unwrap_or(u64::MAX) >= before.current.unwrap_or(u64::MAX).min(OPEN_FILES));
        assert_eq!(after.maximum, before.maximum);
    }
}
