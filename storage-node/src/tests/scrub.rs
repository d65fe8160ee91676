//! Scrub finds what is wrong, says what it is, and says nothing else.
use super::*;
use crate::clock::Clock;
use crate::disk::faulty::Fault;
use crate::disk::{Access, DiskFile};
use crate::index::SHARDS;
use crate::keep::{Finding, FindingKind, ScrubOrder, ScrubState, ScrubStatus, ShardRef, Subject};
use crate::kv::{Direction, KvBatch};
use crate::scrub::ScrubConfig;
use crate::segment::BLOCK_BYTES;
use codec::id::ShardId;
use codec::segment::JournalHead;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod asks;
mod kinds;
mod schedule;

/// A clock that stands still until it is told to go on.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn new() -> Arc<ManualClock> {
        Arc::new(ManualClock(AtomicU64::new(1_000_000_000)))
    }

    pub fn pass(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.now()
    }
}

/// Small segments, scrub as fast as it can, at the order of the test or when the clock says so.
pub fn scrubbing(clock: &Arc<ManualClock>, by_itself: bool) -> NodeConfig {
    let look_every = Duration::from_millis(2);
    let scrub = ScrubConfig { by_itself, look_every, settle: Duration::ZERO, ..ScrubConfig::on_order() };
    NodeConfig { scrub, clock: clock.clone(), ..config() }
}

pub async fn start_scrubbing(trace: &Trace, kv: Arc<dyn Kv>, config: NodeConfig) -> Arc<StorageNode> {
    let node = open_with(trace, kv, config).await;
    node.begin(EPOCH).await.unwrap();
    node
}

pub async fn status(node: &StorageNode, drive: DriveId) -> ScrubStatus {
    node.scrub_status().await.into_iter().find(|status| status.drive == drive).unwrap()
}

/// Waits until something is true of a drive's scrub.
pub async fn until(node: &StorageNode, drive: DriveId, what: &str, is: impl Fn(&ScrubStatus) -> bool) -> ScrubStatus {
    let begun = std::time::Instant::now();
    loop {
        let status = status(node, drive).await;
        if is(&status) {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "never {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs a whole pass and gives what is in the list then.
pub async fn pass(node: &StorageNode, clock: &ManualClock, drive: DriveId) -> Vec<Finding> {
    clock.pass(Duration::from_secs(1));
    let before = clock.now();
    node.scrub_order(drive, ScrubOrder::Start).await.unwrap();
    let done = |s: &ScrubStatus| s.last_pass_ms >= before && s.state == ScrubState::Waiting;
    until(node, drive, "a whole pass", done).await;
    node.findings(drive).await.unwrap()
}

pub fn shard_ref(counter: u64, len: usize) -> ShardRef {
    let (header, _) = shard(counter, len);
    ShardRef { id: header.id(), root: header.descriptor.root() }
}

pub fn subject(counter: u64) -> Subject {
    Subject::Shard(shard(counter, 1).0.id())
}

/// Exactly this, and nothing else.
#[track_caller]
pub fn assert_found(findings: &[Finding], expected: &[(Subject, FindingKind)]) {
    let mut found: Vec<_> = findings.iter().map(|f| (f.subject, f.kind)).collect();
    let mut expected = expected.to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "{findings:?}");
}

pub fn open_file(trace: &Trace, drive: usize, path: &str) -> Arc<dyn DiskFile> {
    trace.disk(drive).open(path, Access::ReadWrite).unwrap()
}
