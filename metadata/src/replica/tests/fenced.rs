//! One storage node as several metadata nodes share it: whoever begins in the highest epoch has it, and the others are refused,
//! as over the wire.

use async_trait::async_trait;
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn, ShardId};
use codec::journal::BatchHeader;
use codec::segment::JournalHead;
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use storage_node::client::{DriveStatus, JournalScan, JournalSegmentInfo, NodeClient, ReadError, Reserve, WriteError};
use storage_node::drive::{DriveError, ProbedDrive};
use storage_node::host::NodeHost;
use storage_node::keep::{
    Authority, Finding, Freed, RebuildError, RebuildOrder, Rebuilt, ScrubOrder, ScrubStatus, ShardRef, Subject,
    Verified,
};
use storage_node::node::StorageNode;

/// One metadata node's way to the storage node.
pub struct Fenced {
    node: Arc<StorageNode>,
    /// The highest epoch that anybody has begun in.
    begun: Arc<AtomicU64>,
    mine: AtomicU64,
    /// Journal appends of this metadata node hang.
    pub journal_hangs: AtomicBool,
    /// This metadata node can begin no journal segment.
    pub journal_fails: AtomicBool,
    /// Drives of a node that does not answer this metadata node. They stay known.
    away: Mutex<BTreeSet<DriveId>>,
    /// This metadata node has said that it leads no more.
    pub left: AtomicBool,
}

impl Fenced {
    pub fn new(node: Arc<StorageNode>, begun: Arc<AtomicU64>) -> Arc<Fenced> {
        let (mine, journal_hangs, journal_fails, away, left) = Default::default();
        Arc::new(Fenced { node, begun, mine, journal_hangs, journal_fails, away, left })
    }

    /// The node of `drive` answers no more.
    pub fn lose(&self, drive: DriveId) {
        self.away.lock().unwrap().insert(drive);
    }

    fn is_away(&self, drive: DriveId) -> bool {
        self.away.lock().unwrap().contains(&drive)
    }

    fn reach(&self, drive: DriveId) -> Result<(), ReadError> {
        if self.is_away(drive) { Err(ReadError::Unreachable) } else { Ok(()) }
    }

    fn reach_to_write(&self, drive: DriveId) -> Result<(), WriteError> {
        if self.is_away(drive) { Err(WriteError::Unreachable) } else { Ok(()) }
    }

    fn writer(&self) -> Result<&StorageNode, WriteError> {
        let mine = self.mine.load(Ordering::Acquire);
        let leads = mine > 0 && mine == self.begun.load(Ordering::Acquire);
        if leads { Ok(&self.node) } else { Err(WriteError::Fenced) }
    }
}

#[async_trait]
impl NodeClient for Fenced {
    async fn drives(&self) -> Vec<DriveStatus> {
        self.node.drives().await
    }

    async fn write_shard(
        &self,
        drive: DriveId,
        header: ShardHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        self.reach_to_write(drive)?;
        self.node.write_shard(drive, header, payload, reserve).await
    }

    async fn read_shard(
        &self,
        drive: DriveId,
        shard: ShardId,
        root: [u8; 32],
        range: Range<u32>,
    ) -> Result<Bytes, ReadError> {
        self.reach(drive)?;
        self.node.read_shard(drive, shard, root, range).await
    }

    async fn read_shard_header(&self, drive: DriveId, shard: ShardId) -> Result<ShardHeader, ReadError> {
        self.reach(drive)?;
        self.node.read_shard_header(drive, shard).await
    }

    async fn list_shards(
        &self,
        drive: DriveId,
        class: Option<StripeClass>,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardHeader>, ReadError> {
        self.reach(drive)?;
        self.node.list_shards(drive, class, after, limit).await
    }

    async fn journal_begin(&self, drive: DriveId, head: JournalHead) -> Result<u64, WriteError> {
        self.reach_to_write(drive)?;
        if self.journal_fails.load(Ordering::Acquire) {
            return Err(WriteError::Unreachable);
        }
        self.writer()?.journal_begin(drive, head).await
    }

    async fn journal_append(
        &self,
        drive: DriveId,
        header: BatchHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        self.reach_to_write(drive)?;
        if self.journal_hangs.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        self.writer()?.journal_append(drive, header, payload, reserve).await
    }

    async fn journal_read(&self, drive: DriveId, lsn: Lsn, range: Range<u32>) -> Result<Bytes, ReadError> {
        self.reach(drive)?;
        self.node.journal_read(drive, lsn, range).await
    }

    async fn journal_segments(&self, drive: DriveId) -> Result<Vec<JournalSegmentInfo>, ReadError> {
        self.reach(drive)?;
        self.node.journal_segments(drive).await
    }

    async fn journal_scan(&self, drive: DriveId, number: u64, from: Lsn) -> Result<JournalScan, ReadError> {
        self.reach(drive)?;
        self.node.journal_scan(drive, number, from).await
    }

    async fn journal_free(&self, drive: DriveId, number: u64) -> Result<(), WriteError> {
        self.writer()?.journal_free(drive, number).await
    }

    async fn read_register(&self, drive: DriveId) -> Result<Bytes, ReadError> {
        self.reach(drive)?;
        self.node.read_register(drive).await
    }

    async fn write_register(&self, drive: DriveId, bytes: Bytes) -> Result<(), WriteError> {
        self.reach_to_write(drive)?;
        self.writer()?.write_register(drive, bytes).await
    }

    async fn scrub_order(&self, drive: DriveId, order: ScrubOrder) -> Result<(), ReadError> {
        self.node.scrub_order(drive, order).await
    }

    async fn scrub_status(&self) -> Vec<ScrubStatus> {
        self.node.scrub_status().await
    }

    async fn findings(&self, drive: DriveId) -> Result<Vec<Finding>, ReadError> {
        self.node.findings(drive).await
    }

    async fn verify_shards(
        &self,
        drive: DriveId,
        shards: Vec<ShardRef>,
    ) -> Result<Vec<Result<(), Finding>>, ReadError> {
        self.node.verify_shards(drive, shards).await
    }

    async fn verified(&self, drive: DriveId, shards: Vec<ShardId>) -> Result<Vec<Option<Verified>>, ReadError> {
        self.node.verified(drive, shards).await
    }

    async fn inventory(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardRef>, ReadError> {
        self.node.inventory(drive, after, limit).await
    }

    async fn settle_unnamed(&self, drive: DriveId, unnamed: Vec<Subject>) -> Result<u64, ReadError> {
        self.node.settle_unnamed(drive, unnamed).await
    }

    async fn rebuild(&self, order: RebuildOrder) -> Result<Rebuilt, RebuildError> {
        self.node.rebuild(order).await
    }

    async fn free_shards(
        &self,
        drive: DriveId,
        authority: Authority,
        shards: Vec<ShardRef>,
    ) -> Result<Freed, WriteError> {
        self.writer()?.free_shards(drive, authority, shards).await
    }

    async fn authority(&self, drive: DriveId) -> Result<Authority, ReadError> {
        self.node.authority(drive).await
    }

    async fn renew_frees(&self, drive: DriveId, authority: Authority) -> Result<(), WriteError> {
        self.writer()?.renew_frees(drive, authority).await
    }
}

#[async_trait]
impl NodeHost for Fenced {
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        let before = self.begun.fetch_max(epoch.0, Ordering::AcqRel);
        if before > epoch.0 {
            let reason = format!("epoch {} has begun", Epoch(before));
            return Err(DriveError::NotBegun { node: "the only one".to_owned(), epoch, reason });
        }
        self.mine.store(epoch.0, Ordering::Release);
        self.left.store(false, Ordering::Release);
        self.node.begin(epoch).await
    }

    fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    async fn highest_epoch(&self) -> Option<Epoch> {
        let begun = Epoch(self.begun.load(Ordering::Acquire));
        self.node.highest_epoch().max(Some(begun))
    }

    async fn reopen(&self, drive: DriveId) -> Result<(), DriveError> {
        self.node.reopen(drive).await
    }

    async fn add_drive(&self, probed: ProbedDrive) -> Result<(), DriveError> {
        self.node.add_drive(probed).await
    }

    async fn forget_drive(&self, drive: DriveId) -> Result<(), DriveError> {
        self.node.forget_drive(drive).await
    }

    async fn stop(&self) {}

    fn silent(&self) -> Vec<String> {
        self.away.lock().unwrap().iter().map(|drive| format!("the node of {drive}")).collect()
    }
}
