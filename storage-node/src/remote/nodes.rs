//! Many nodes as one: every call goes to the node whose drive it names.
//!
//! Invariants:
//! * A drive is known once its node has named it. A call for one that is not known asks all nodes first. One that moved to
//!   another node is found there when [`drives`](NodeClient::drives) is asked next, as its owner does all the time.
//! * While a node can't be asked, its drives stay known, and calls for them say that the node is not reachable; "no such
//!   drive" is said only when every node was asked, has answered, and none has it: unknown is not missing (R13).
//! * Which nodes there are may change at any time ([`members`]).

mod members;

pub use members::NodeAddress;

use self::members::Members;
use crate::client::{DriveStatus, JournalScan, JournalSegmentInfo, NodeClient, ReadError, Reserve, WriteError};
use crate::drive::{DriveError, ProbedDrive};
use crate::host::{Grants, NodeHost, NodeSight};
use crate::keep::{
    Authority, Finding, Freed, RebuildError, RebuildOrder, Rebuilt, ScrubOrder, ScrubStatus, ShardRef, Subject,
    Verified,
};
use crate::remote::RemoteError;
use crate::service::identity::NodeName;
use crate::service::tls::Credentials;
use async_trait::async_trait;
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn, ShardId};
use codec::journal::BatchHeader;
use codec::segment::JournalHead;
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use futures::future::join_all;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an unknown drive stays unknown before the nodes are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why a drive is on no node.
enum Nowhere {
    /// Every node has answered, and none has it.
    Unknown,
    /// A node that did not answer may have it.
    Unreachable,
}

/// Several nodes, near or far, behind one [`NodeClient`].
pub struct Nodes {
    members: Arc<Members>,
    /// What was granted last, for nodes that come later.
    grants: Mutex<Option<Arc<Grants>>>,
    /// When all nodes had last answered, or not, for an unknown drive. Held while they are asked: others wait for the answers.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Nodes {
    /// These nodes, and no others; which drives they have is asked when it is first needed.
    pub fn new(nodes: Vec<Arc<dyn NodeHost>>) -> Arc<Nodes> {
        Nodes::with(Members::new(nodes, None, None))
    }

    /// The nodes of a list, which may change ([`NodeHost::follow`]). Does not connect.
    pub fn connecting(credentials: Credentials, list: &[NodeAddress]) -> Result<Arc<Nodes>, RemoteError> {
        let members = Members::new(Vec::new(), Some(credentials), None);
        members.follow(list)?;
        Ok(Nodes::with(members))
    }

    fn with(members: Members) -> Arc<Nodes> {
        let members = Arc::new(members);
        Arc::new(Nodes { members, grants: Mutex::default(), asked: Default::default() })
    }

    /// The node of this process, by the name in its credentials, and those of a list.
    pub fn beside(
        own: Arc<dyn NodeHost>,
        credentials: Credentials,
        list: &[NodeAddress],
    ) -> Result<Arc<Nodes>, RemoteError> {
        let name = credentials.identity().name.clone();
        let members = Members::new(vec![own], Some(credentials), Some(name));
        members.follow(list)?;
        Ok(Nodes::with(members))
    }

    /// Asks all nodes, all at once, and learns whose drives are where.
    async fn ask_all(&self) -> Vec<DriveStatus> {
        let asking = self.members.all().into_iter().map(|member| async move {
            let drives = member.host.drives().await;
            (member, drives)
        });
        self.members.learn(join_all(asking).await)
    }

    async fn of(&self, drive: DriveId) -> Result<Arc<dyn NodeHost>, Nowhere> {
        if let Some(node) = self.members.of(drive) {
            return Ok(node);
        }
        {
            let mut asked = self.asked.lock().await;
            if asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
                self.ask_all().await;
                *asked = Some(Instant::now());
            }
        }
        let nowhere = if NodeHost::silent(self).is_empty() { Nowhere::Unknown } else { Nowhere::Unreachable };
        self.members.of(drive).ok_or(nowhere)
    }

    async fn reader(&self, drive: DriveId) -> Result<Arc<dyn NodeHost>, ReadError> {
        self.of(drive).await.map_err(|nowhere| match nowhere {
            Nowhere::Unknown => ReadError::UnknownDrive(drive),
            Nowhere::Unreachable => ReadError::Unreachable,
        })
    }

    async fn writer(&self, drive: DriveId) -> Result<Arc<dyn NodeHost>, WriteError> {
        self.of(drive).await.map_err(|nowhere| match nowhere {
            Nowhere::Unknown => WriteError::UnknownDrive(drive),
            Nowhere::Unreachable => WriteError::Unreachable,
        })
    }
}

#[async_trait]
impl NodeClient for Nodes {
    fn is_stalled(&self, drive: DriveId) -> bool {
        self.members.of(drive).is_some_and(|node| node.is_stalled(drive))
    }

    async fn drives(&self) -> Vec<DriveStatus> {
        self.ask_all().await
    }

    async fn write_shard(
        &self,
        drive: DriveId,
        header: ShardHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        self.writer(drive).await?.write_shard(drive, header, payload, reserve).await
    }

    async fn read_shard(
        &self,
        drive: DriveId,
        shard: ShardId,
        root: [u8; 32],
        range: Range<u32>,
    ) -> Result<Bytes, ReadError> {
        self.reader(drive).await?.read_shard(drive, shard, root, range).await
    }

    async fn read_shard_header(&self, drive: DriveId, shard: ShardId) -> Result<ShardHeader, ReadError> {
        self.reader(drive).await?.read_shard_header(drive, shard).await
    }

    async fn list_shards(
        &self,
        drive: DriveId,
        class: Option<StripeClass>,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardHeader>, ReadError> {
        self.reader(drive).await?.list_shards(drive, class, after, limit).await
    }

    async fn journal_begin(&self, drive: DriveId, head: JournalHead) -> Result<u64, WriteError> {
        self.writer(drive).await?.journal_begin(drive, head).await
    }

    async fn journal_append(
        &self,
        drive: DriveId,
        header: BatchHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        self.writer(drive).await?.journal_append(drive, header, payload, reserve).await
    }

    async fn journal_read(&self, drive: DriveId, lsn: Lsn, range: Range<u32>) -> Result<Bytes, ReadError> {
        self.reader(drive).await?.journal_read(drive, lsn, range).await
    }

    async fn journal_segments(&self, drive: DriveId) -> Result<Vec<JournalSegmentInfo>, ReadError> {
        self.reader(drive).await?.journal_segments(drive).await
    }

    async fn journal_scan(&self, drive: DriveId, number: u64, from: Lsn) -> Result<JournalScan, ReadError> {
        self.reader(drive).await?.journal_scan(drive, number, from).await
    }

    async fn journal_free(&self, drive: DriveId, number: u64) -> Result<(), WriteError> {
        self.writer(drive).await?.journal_free(drive, number).await
    }

    async fn read_register(&self, drive: DriveId) -> Result<Bytes, ReadError> {
        self.reader(drive).await?.read_register(drive).await
    }

    async fn write_register(&self, drive: DriveId, bytes: Bytes) -> Result<(), WriteError> {
        self.writer(drive).await?.write_register(drive, bytes).await
    }

    async fn scrub_order(&self, drive: DriveId, order: ScrubOrder) -> Result<(), ReadError> {
        self.reader(drive).await?.scrub_order(drive, order).await
    }

    async fn scrub_status(&self) -> Vec<ScrubStatus> {
        let members = self.members.all();
        join_all(members.iter().map(|member| member.host.scrub_status())).await.into_iter().flatten().collect()
    }

    async fn findings(&self, drive: DriveId) -> Result<Vec<Finding>, ReadError> {
        self.reader(drive).await?.findings(drive).await
    }

    async fn verify_shards(
        &self,
        drive: DriveId,
        shards: Vec<ShardRef>,
    ) -> Result<Vec<Result<(), Finding>>, ReadError> {
        self.reader(drive).await?.verify_shards(drive, shards).await
    }

    async fn verified(&self, drive: DriveId, shards: Vec<ShardId>) -> Result<Vec<Option<Verified>>, ReadError> {
        self.reader(drive).await?.verified(drive, shards).await
    }

    async fn inventory(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardRef>, ReadError> {
        self.reader(drive).await?.inventory(drive, after, limit).await
    }

    /// Carried out by the node of the first target, which writes to the other targets' nodes as it reads its sources. It is told
    /// where those are: what it last knew may have changed since.
    async fn rebuild(&self, mut order: RebuildOrder) -> Result<Rebuilt, RebuildError> {
        let Some((index, drive)) = order.targets.first().copied() else {
            return Err(RebuildError::Malformed("no shard is wanted"));
        };
        match self.writer(drive).await {
            Ok(node) => {
                let drives = order.sources.iter().chain(&order.targets).map(|(_, drive)| *drive);
                order.at = self.members.addresses(drives);
                node.rebuild(order).await
            }
            Err(error) => Err(RebuildError::Target { index, drive, error }),
        }
    }

    async fn free_shards(
        &self,
        drive: DriveId,
        authority: Authority,
        shards: Vec<ShardRef>,
    ) -> Result<Freed, WriteError> {
        self.writer(drive).await?.free_shards(drive, authority, shards).await
    }

    async fn settle_unnamed(&self, drive: DriveId, unnamed: Vec<Subject>) -> Result<u64, ReadError> {
        self.reader(drive).await?.settle_unnamed(drive, unnamed).await
    }

    async fn renew_frees(&self, drive: DriveId, authority: Authority) -> Result<(), WriteError> {
        self.writer(drive).await?.renew_frees(drive, authority).await
    }

    async fn authority(&self, drive: DriveId) -> Result<Authority, ReadError> {
        self.reader(drive).await?.authority(drive).await
    }
}

#[async_trait]
impl NodeHost for Nodes {
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        // Of an earlier service, in another epoch.
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).take();
        let members = self.members.begun(epoch);
        join_all(members.iter().map(|member| member.host.begin(epoch))).await.into_iter().collect()
    }

    fn leave(&self) {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.members.left().iter().for_each(|member| member.host.leave());
    }

    async fn granted(&self, grants: Arc<Grants>) {
        {
            let mut known = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
            // Two are told at the same time: the one that was read first may come last.
            if known.as_ref().is_none_or(|newest| newest.as_of() <= grants.as_of()) {
                known.replace(Arc::clone(&grants));
            }
        }
        join_all(self.members.all().iter().map(|member| member.host.granted(Arc::clone(&grants)))).await;
    }

    async fn highest_epoch(&self) -> Option<Epoch> {
        let members = self.members.all();
        join_all(members.iter().map(|member| member.host.highest_epoch())).await.into_iter().flatten().max()
    }

    async fn reopen(&self, drive: DriveId) -> Result<(), DriveError> {
        match self.of(drive).await {
            Ok(node) => node.reopen(drive).await,
            Err(Nowhere::Unknown) => Err(DriveError::Unknown { drive }),
            Err(Nowhere::Unreachable) => Err(DriveError::Unreachable),
        }
    }

    async fn add_drive(&self, probed: ProbedDrive) -> Result<(), DriveError> {
        Err(DriveError::Elsewhere { path: probed.disk.path_hint() })
    }

    async fn take_drive(&self, node: &NodeName, path: &str, replaces: Option<DriveId>) -> Result<DriveId, DriveError> {
        let Some(host) = self.members.named(node) else {
            let reason = format!("no storage node {node} belongs to this cluster");
            return Err(DriveError::NotTaken { path: path.to_owned(), reason });
        };
        host.take_drive(node, path, replaces).await
    }

    async fn forget_drive(&self, drive: DriveId) -> Result<(), DriveError> {
        self.members.forget(drive);
        for member in self.members.all() {
            let has = member.host.drives().await.iter().any(|status| status.id == drive);
            if has {
                member.host.forget_drive(drive).await?;
            }
        }
        Ok(())
    }

    async fn stop(&self) {
        let members = self.members.all();
        join_all(members.iter().map(|member| member.host.stop())).await;
    }

    fn silent(&self) -> Vec<String> {
        self.members.all().iter().flat_map(|member| member.host.silent()).collect()
    }

    fn nodes(&self) -> Vec<NodeSight> {
        self.members.all().iter().flat_map(|member| member.host.nodes()).collect()
    }

    fn follow(&self, list: &[NodeAddress]) -> Result<(), RemoteError> {
        let Some((epoch, new)) = self.members.follow(list)? else { return Ok(()) };
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for host in new {
            let (grants, members) = (grants.clone(), Arc::clone(&self.members));
            // Aside: filling a reserve takes long. One that refuses says so by `superseded`.
            tokio::spawn(async move {
                // Where this process leads no more by now, nobody would end it.
                if members.is_begun(epoch)
                    && let (Ok(()), Some(grants)) = (host.begin(epoch).await, grants)
                {
                    host.granted(grants).await;
                }
            });
        }
        Ok(())
    }

    fn meet(&self, at: &[(DriveId, NodeAddress)]) -> Result<(), RemoteError> {
        self.members.meet(at)
    }

    fn superseded(&self) -> Option<DriveError> {
        self.members.all().iter().find_map(|member| member.host.superseded())
    }
}
