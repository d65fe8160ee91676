//! A storage node in another process, behind [`NodeClient`].
//!
//! Invariants:
//! * Unknown is not missing: whatever keeps an answer away, a broken connection, a deadline, a refusal, an answer that can't
//!   be read, is [`ReadError::Unreachable`] or [`WriteError::Unreachable`], and only a node that was asked and answered says
//!   "not found". Why it was, for people, is [`RemoteNode::problem`].
//! * Every call has a deadline, kept at both ends: the node stops when the client has stopped waiting.
//! * No bytes are returned that were not verified after they arrived, and none of a stream that ended early.
//! * A write that came to nothing may have been carried out all the same, as with a drive that does not answer in time. So a
//!   caller must treat it as [`stripe_io`](crate::stripe_io) does: what may have been written is an orphan.

mod host;
pub(crate) mod link;
mod nodes;
mod silence;

pub use link::ConnectError;
pub use nodes::{NodeAddress, Nodes};

use self::link::{Lane, Link, Target, Trouble};
use crate::client::{
    DriveStatus, JournalScan, JournalSegmentInfo, NodeClient, ReadError, Reserve, STALLED_AFTER, WRITE_DEADLINE,
    WriteError,
};
use crate::clock::SystemClock;
use crate::host::Grants;
use crate::keep::Subject;
use crate::keep::{
    Authority, Finding, Freed, RebuildError, RebuildOrder, Rebuilt, ScrubOrder, ScrubState, ScrubStatus, ShardRef,
    Verified,
};
use crate::service::PROTOCOL;
use crate::service::answer::LIST;
use crate::service::fault::Fault;
use crate::service::identity::{Identity, NodeName};
use crate::service::message::{
    FindingList, FindingMessage, Nothing, Numbers, OfDrive, OfJournal, OfList, OfShard, OfShards, Order, Register,
    ScrubList, ScrubMessage, ScrubTold, SegmentList, SegmentMessage, Settle, Strings, SubjectMessage, VerifiedList,
    VerifiedMessage, drive_bytes, pack_refs, pack_shards, shard_bytes, unpack_refs, unpack_shards,
};
use crate::service::method::Method;
use crate::service::tls::{Credentials, TlsError};
use crate::service::wire::{ANSWER_LIMIT, CONNECTION_WINDOW, PIECE, STREAM_WINDOW, Upload, UploadHead};
use crate::unanswered::Unanswered;
use async_trait::async_trait;
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn, ShardId};
use codec::journal::BatchHeader;
use codec::level::Later;
use codec::segment::JournalHead;
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripeError};
use futures::stream;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Shards that are verified by one call: as many as a drive can read well within the deadline.
const VERIFY: usize = 128;

/// Drives of one node whose operations are counted, about.
const DRIVES: usize = 256;

/// Shards that are named in one call.
const NAMED: usize = 4096;

/// The longest pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_secs(5);

/// How long calls may take.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Making a connection, handshake included.
    pub connect: Duration,
    /// A question that a node answers from memory or its index.
    pub ask: Duration,
    /// How long whoever asks for the drives of a node waits for it, before being told what was known; longer than a node with a
    /// drive that hangs takes.
    pub prompt: Duration,
    /// How long a node gives no answer before its drives count as failed: longer than a switch or a process takes to start anew.
    pub silent: Duration,
    /// A read of a range.
    pub read: Duration,
    /// A write: what a drive gets ([`WRITE_DEADLINE`]), and the way there.
    pub write: Duration,
    /// What reads much from a medium: a scan, a listing, verifying, freeing.
    pub long: Duration,
    /// An order to rebuild, which may be told to be slow.
    pub rebuild: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect: Duration::from_secs(5),
            ask: Duration::from_secs(15),
            prompt: Duration::from_secs(2),
            silent: Duration::from_secs(60),
            read: Duration::from_secs(30),
            write: WRITE_DEADLINE + Duration::from_secs(5),
            long: Duration::from_secs(150),
            rebuild: Duration::from_secs(3600),
        }
    }
}

/// How a node is reached.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// `host:port`.
    pub address: String,
    /// Its name: no other node is taken for it.
    pub node: NodeName,
    /// How long calls may take.
    pub deadlines: Deadlines,
    /// Bytes of one answer that the node may send ahead.
    pub stream_window: u32,
    /// Bytes of one connection that the node may send ahead.
    pub connection_window: u32,
    /// The versions of the protocol that are spoken.
    pub versions: RangeInclusive<u32>,
    /// Told to the node, for people.
    pub software: String,
}

impl RemoteConfig {
    /// The defaults, for a node.
    pub fn new(address: impl Into<String>, node: NodeName) -> RemoteConfig {
        RemoteConfig {
            address: address.into(),
            node,
            deadlines: Deadlines::default(),
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            versions: PROTOCOL,
            software: codec::level::SOFTWARE.to_owned(),
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The credentials can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// What was last known of the node, for when it can't be asked.
#[derive(Default)]
struct Known {
    drives: Vec<DriveStatus>,
    scrubs: Vec<ScrubStatus>,
    problem: Option<ConnectError>,
    /// It did not answer when it was last asked for its drives, or was never asked.
    silent: bool,
    /// When the first of the questions for its drives was asked that have had no answer since the last that had one.
    quiet: Option<Instant>,
    /// When the oldest such question was asked that an answer is still waited for, and the latest that had one.
    asked: Option<Instant>,
    answered: Option<Instant>,
    /// A task goes on asking.
    probing: bool,
    /// Which start of the node's service answered last.
    incarnation: u64,
    /// Added to how often the node says that it has opened a drive, since each start counts anew; and the highest sum so far.
    opened: (u32, u32),
    /// The highest epoch that the node's drives have seen.
    highest: Option<Epoch>,
    /// The epoch in which the node is to begin, and whether it is being told so.
    epoch: Option<Epoch>,
    telling: bool,
    /// What was granted to gateways in that epoch, as the node is to hear, and the version that it has heard.
    grants: Option<Arc<Grants>>,
    heard: u64,
    /// Drives that are none of the cluster any more.
    forgotten: HashSet<DriveId>,
    /// The epoch in which the node has refused to begin, since it follows a higher one, and its words.
    superseded: Option<(Epoch, String)>,
}

/// A node in another process. It connects when it is first asked, and again when a connection is gone.
pub struct RemoteNode {
    target: Target,
    deadlines: Deadlines,
    /// Shards in one connection, all the rest in another: a question must not wait behind megabytes.
    bulk: Lane,
    control: Lane,
    /// The node's number, from its name.
    number: u32,
    known: Mutex<Known>,
    /// What each drive was asked and has not answered.
    unanswered: Mutex<HashMap<DriveId, Arc<Unanswered>>>,
    me: Weak<RemoteNode>,
}

impl RemoteNode {
    /// A client of the node that `config` names, in the cluster of these credentials. Does not connect.
    pub fn new(credentials: &Credentials, config: RemoteConfig) -> Result<Arc<RemoteNode>, RemoteError> {
        let mut client = [0; 16];
        getrandom::fill(&mut client).map_err(RemoteError::Random)?;
        let node = credentials.node(&config.node);
        let target = Target {
            address: config.address,
            tls: credentials.client(&node)?,
            node,
            hello: Method::Hello.path().to_owned(),
            client,
            leads: Arc::default(),
            level: credentials.level().clone(),
            own: credentials.identity().clone(),
            versions: config.versions,
            software: config.software,
            connect: config.deadlines.connect,
            pause: CONNECT_PAUSE,
            stream_window: config.stream_window,
            connection_window: config.connection_window,
        };
        let number = host::number_of(&target.node.name);
        let known = Mutex::new(Known { silent: true, ..Known::default() });
        let deadlines = config.deadlines;
        Ok(Arc::new_cyclic(|me| {
            let (bulk, control, me) = (Lane::new(0), Lane::new(1), me.clone());
            let unanswered = Mutex::default();
            RemoteNode { target, deadlines, bulk, control, number, known, unanswered, me }
        }))
    }

    /// The same node at another address. Its drives were not away, so how often they were opened goes on.
    pub(crate) fn moved(&self, credentials: &Credentials, address: String) -> Result<Arc<RemoteNode>, RemoteError> {
        let config = RemoteConfig {
            deadlines: self.deadlines.clone(),
            stream_window: self.target.stream_window,
            connection_window: self.target.connection_window,
            versions: self.target.versions.clone(),
            software: self.target.software.clone(),
            ..RemoteConfig::new(address, self.target.node.name.clone())
        };
        let moved = RemoteNode::new(credentials, config)?;
        {
            let before = self.known();
            let mut known = moved.known();
            (known.incarnation, known.opened) = (before.incarnation, before.opened);
            known.forgotten = before.forgotten.clone();
            known.drives.clone_from(&before.drives);
        }
        Ok(moved)
    }

    /// Connects, unless it is connected. Returns the software that the node runs.
    pub async fn connect(&self) -> Result<String, ConnectError> {
        let link = self.control.link(&self.target).await.inspect_err(|error| self.note(error))?;
        Ok(link.welcome.software.clone())
    }

    /// The node.
    pub fn identity(&self) -> &Identity {
        &self.target.node
    }

    /// Why the last call that had no answer had none; `None` since the last that had one.
    pub fn problem(&self) -> Option<ConnectError> {
        self.known().problem.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: &ConnectError) {
        let mut known = self.known();
        if known.problem.as_ref() != Some(error) {
            tracing::warn!(node = %self.target.node, %error, "a storage node does not answer");
            known.problem = Some(error.clone());
        }
    }

    pub(crate) fn lane(&self, method: Method) -> &Lane {
        match method {
            Method::WriteShard | Method::ReadShard => &self.bulk,
            _ => &self.control,
        }
    }

    /// The connection for a call. An attempt to make one outlives who waits for it: a read that is given up for another drive's
    /// after half a second would end it each time, and where a handshake takes longer there would never be a connection.
    async fn link(&self, method: Method) -> Result<Arc<Link>, ConnectError> {
        match (self.lane(method).linked(), self.me.upgrade()) {
            (Some(link), _) => Ok(link),
            (None, Some(me)) => {
                let linking = tokio::spawn(async move { me.lane(method).link(&me.target).await });
                linking.await.unwrap_or_else(|_| Err(self.target.late(self.deadlines.connect)))
            }
            (None, None) => self.lane(method).link(&self.target).await,
        }
    }

    /// Makes one call, within `limit` as a whole.
    async fn call<T, F>(&self, method: Method, limit: Duration, call: F) -> Result<T, Trouble>
    where
        F: AsyncFnOnce(&Link) -> Result<Result<T, Fault>, link::AskError>,
    {
        // While nobody answers, one task looks whether somebody does; all others would only wait for another attempt to connect.
        if method != Method::Drives && self.is_quiet() && !self.lane(method).is_linked() {
            return Err(Trouble::Unanswered);
        }
        let calling = async {
            let link = self.link(method).await?;
            call(&link).await.map_err(|error| error.of(&self.target, limit))
        };
        let late = || ConnectError::Late { address: self.target.address.clone(), after: limit };
        match tokio::time::timeout(limit, calling).await.unwrap_or_else(|_| Err(late())) {
            Ok(answered) => {
                self.known().problem = None;
                answered.map_err(Trouble::Fault)
            }
            Err(error) => {
                self.note(&error);
                match error {
                    ConnectError::Refused { refusal, reason, .. } => Err(Trouble::Refused(refusal, reason)),
                    _ => {
                        // Also where nobody else asks how the drives are: others are to go around a node that is gone.
                        if method != Method::Drives {
                            self.look();
                        }
                        Err(Trouble::Unanswered)
                    }
                }
            }
        }
    }

    async fn bytes<Q>(
        &self,
        method: Method,
        question: Q,
        sizes: (usize, usize),
        limit: Duration,
    ) -> Result<Bytes, Trouble>
    where
        Q: Message + Default + 'static,
    {
        self.call(method, limit, async |link: &Link| link.ask(method, question, sizes, limit).await).await
    }

    /// Asks for a message.
    async fn ask<Q, A>(&self, method: Method, question: Q, limit: Duration) -> Result<A, Trouble>
    where
        Q: Message + Default + 'static,
        A: Message + Default,
    {
        let bytes = self.bytes(method, question, (0, ANSWER_LIMIT), limit).await?;
        A::decode(bytes).map_err(|_| self.unreadable())
    }

    fn unreadable(&self) -> Trouble {
        let error = self.target.unreadable("the message is not the one that was asked for");
        self.note(&error);
        Trouble::Unanswered
    }

    /// A shard's header from an answer. One that a later release wrote is no fault of the node, which knows it (R16).
    fn header(&self, bytes: &[u8]) -> Result<ShardHeader, ReadError> {
        ShardHeader::parse(bytes).map_err(|error| match error {
            StripeError::Version { version } => ReadError::Later(Later::Layout { what: "shard", version }.to_string()),
            _ => self.unreadable().into(),
        })
    }

    fn read<T>(&self, value: Option<T>) -> Result<T, Trouble> {
        value.ok_or_else(|| self.unreadable())
    }

    /// What a drive has not answered; kept as long as the drive is known here.
    fn unanswered_of(&self, drive: DriveId) -> Arc<Unanswered> {
        let mut all = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&drive) && all.len() >= DRIVES {
            // More than a node has: of drives that were here once.
            all.retain(|_, unanswered| Arc::strong_count(unanswered) > 1);
        }
        Arc::clone(all.entry(drive).or_insert_with(|| Unanswered::new(Arc::new(SystemClock))))
    }

    async fn upload(&self, method: Method, drive: DriveId, head: UploadHead, payload: Bytes) -> Result<(), WriteError> {
        let unanswered = self.unanswered_of(drive);
        let _asked = unanswered.ask();
        let limit = self.deadlines.write;
        let done = self.call(method, limit, async |link: &Link| link.send(method, uploads(head, payload), limit).await);
        done.await.map_err(WriteError::from)
    }

    async fn range<Q>(&self, method: Method, drive: DriveId, question: Q, range: Range<u32>) -> Result<Bytes, ReadError>
    where
        Q: Message + Default + 'static,
    {
        let unanswered = self.unanswered_of(drive);
        let _asked = unanswered.ask();
        let len = range.end.saturating_sub(range.start) as usize;
        let bytes = self.bytes(method, question, (len, len), self.deadlines.read).await?;
        if bytes.len() == len { Ok(bytes) } else { Err(self.unreadable().into()) }
    }
}

/// A head, and then the payload in pieces, none of which is copied.
fn uploads(head: UploadHead, payload: Bytes) -> impl futures::Stream<Item = Upload> + Send + 'static {
    let pieces = (0..payload.len()).step_by(PIECE).map(move |start| {
        let end = start.saturating_add(PIECE).min(payload.len());
        Upload { head: None, data: payload.slice(start..end) }
    });
    stream::iter(std::iter::once(Upload { head: Some(head), data: Bytes::new() }).chain(pieces))
}

impl From<Trouble> for ReadError {
    fn from(trouble: Trouble) -> ReadError {
        match trouble {
            Trouble::Fault(Fault::Read(error)) => error,
            Trouble::Fault(other) => {
                tracing::warn!(?other, "a node answers a read with an error of another kind");
                ReadError::Unreachable
            }
            Trouble::Refused(..) | Trouble::Unanswered => ReadError::Unreachable,
        }
    }
}

impl From<Trouble> for WriteError {
    fn from(trouble: Trouble) -> WriteError {
        match trouble {
            Trouble::Fault(Fault::Write(error)) => error,
            Trouble::Fault(other) => {
                tracing::warn!(?other, "a node answers a write with an error of another kind");
                WriteError::Unreachable
            }
            Trouble::Refused(..) | Trouble::Unanswered => WriteError::Unreachable,
        }
    }
}

#[async_trait]
impl NodeClient for RemoteNode {
    /// By what the node said of the drive, and by what was asked here: a network can hang as well as a drive.
    fn is_stalled(&self, drive: DriveId) -> bool {
        self.waits(drive) || self.unanswered_of(drive).longest() >= STALLED_AFTER
    }

    /// While the node gives no answer: the drives that it had, as stalled, and after a while as failed.
    async fn drives(&self) -> Vec<DriveStatus> {
        self.statuses().await
    }

    async fn write_shard(
        &self,
        drive: DriveId,
        header: ShardHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        self.upload(Method::WriteShard, drive, head(drive, header.encode(), &payload, reserve), payload).await
    }

    async fn read_shard(
        &self,
        drive: DriveId,
        shard: ShardId,
        root: [u8; 32],
        range: Range<u32>,
    ) -> Result<Bytes, ReadError> {
        let question = OfShard {
            drive: drive_bytes(drive),
            shard: shard_bytes(shard),
            root: Bytes::copy_from_slice(&root),
            start: range.start,
            end: range.end,
        };
        self.range(Method::ReadShard, drive, question, range).await
    }

    async fn read_shard_header(&self, drive: DriveId, shard: ShardId) -> Result<ShardHeader, ReadError> {
        let question = OfShard { drive: drive_bytes(drive), shard: shard_bytes(shard), ..OfShard::default() };
        let bytes = self.bytes(Method::ReadShardHeader, question, (0, PIECE), self.deadlines.read).await?;
        // A header of another shard would be a plausible answer to another question.
        let header = self.header(&bytes)?;
        Ok(self.read((header.id() == shard).then_some(header))?)
    }

    async fn list_shards(
        &self,
        drive: DriveId,
        class: Option<StripeClass>,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardHeader>, ReadError> {
        let (mut all, mut after) = (Vec::new(), after);
        loop {
            let step = (limit - all.len()).min(LIST);
            let question = OfList::new(drive, class, after, step);
            let list: Strings = self.ask(Method::ListShards, question, self.deadlines.long).await?;
            let headers = list.strings.iter().map(|bytes| self.header(bytes)).collect::<Result<Vec<_>, _>>()?;
            let headers = self.read((headers.len() <= step).then_some(headers))?;
            after = headers.last().map(ShardHeader::id).or(after);
            let ended = headers.len() < step;
            all.extend(headers);
            if ended || all.len() >= limit {
                return Ok(all);
            }
        }
    }

    async fn journal_begin(&self, drive: DriveId, head: JournalHead) -> Result<u64, WriteError> {
        let (lsn, ensemble) = (head.first_lsn.0, head.ensemble);
        let question = OfJournal { drive: drive_bytes(drive), lsn, ensemble, ..OfJournal::default() };
        let numbers: Numbers = self.ask(Method::JournalBegin, question, self.deadlines.write).await?;
        Ok(numbers.a)
    }

    async fn journal_append(
        &self,
        drive: DriveId,
        header: BatchHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        self.upload(Method::JournalAppend, drive, head(drive, header.encode(), &payload, reserve), payload).await
    }

    async fn journal_read(&self, drive: DriveId, lsn: Lsn, range: Range<u32>) -> Result<Bytes, ReadError> {
        let (start, end) = (range.start, range.end);
        let question = OfJournal { drive: drive_bytes(drive), lsn: lsn.0, start, end, ..OfJournal::default() };
        self.range(Method::JournalRead, drive, question, range).await
    }

    async fn journal_segments(&self, drive: DriveId) -> Result<Vec<JournalSegmentInfo>, ReadError> {
        let list: SegmentList = self.ask(Method::JournalSegments, OfDrive::new(drive), self.deadlines.ask).await?;
        Ok(list.segments.into_iter().map(SegmentMessage::value).collect())
    }

    async fn journal_scan(&self, drive: DriveId, number: u64, from: Lsn) -> Result<JournalScan, ReadError> {
        let question = OfJournal { drive: drive_bytes(drive), number, lsn: from.0, ..OfJournal::default() };
        let scan: Strings = self.ask(Method::JournalScan, question, self.deadlines.long).await?;
        self.read(scan.scan())?.map_err(|later| ReadError::Later(later.to_string()))
    }

    async fn journal_free(&self, drive: DriveId, number: u64) -> Result<(), WriteError> {
        let question = OfJournal { drive: drive_bytes(drive), number, ..OfJournal::default() };
        let Nothing {} = self.ask(Method::JournalFree, question, self.deadlines.write).await?;
        Ok(())
    }

    async fn read_register(&self, drive: DriveId) -> Result<Bytes, ReadError> {
        Ok(self.bytes(Method::ReadRegister, OfDrive::new(drive), (0, PIECE), self.deadlines.read).await?)
    }

    async fn write_register(&self, drive: DriveId, bytes: Bytes) -> Result<(), WriteError> {
        if bytes.len() > PIECE {
            return Err(WriteError::TooLarge { len: bytes.len() as u64, limit: PIECE as u64 });
        }
        let question = Register { drive: drive_bytes(drive), bytes };
        let Nothing {} = self.ask(Method::WriteRegister, question, self.deadlines.write).await?;
        Ok(())
    }

    async fn scrub_order(&self, drive: DriveId, order: ScrubOrder) -> Result<(), ReadError> {
        let Nothing {} = self.ask(Method::ScrubOrder, ScrubTold::new(drive, order), self.deadlines.ask).await?;
        Ok(())
    }

    /// While the node can't be asked: the drives that it had, as stopped.
    async fn scrub_status(&self) -> Vec<ScrubStatus> {
        let asked = async {
            let list: ScrubList = self.ask(Method::ScrubStatus, Nothing {}, self.deadlines.ask).await?;
            self.read(list.drives.into_iter().map(ScrubMessage::value).collect::<Option<Vec<_>>>())
        };
        match asked.await {
            Ok(scrubs) => {
                let mut known = self.known();
                let ours = |scrub: &ScrubStatus| !known.forgotten.contains(&scrub.drive);
                let scrubs: Vec<ScrubStatus> = scrubs.into_iter().filter(ours).collect();
                known.scrubs.clone_from(&scrubs);
                scrubs
            }
            Err(_) => {
                let mut scrubs = self.known().scrubs.clone();
                scrubs.iter_mut().for_each(|scrub| scrub.state = ScrubState::Stopped);
                scrubs
            }
        }
    }

    async fn findings(&self, drive: DriveId) -> Result<Vec<Finding>, ReadError> {
        let list: FindingList = self.ask(Method::Findings, OfDrive::new(drive), self.deadlines.long).await?;
        Ok(self.read(list.findings.into_iter().map(FindingMessage::value).collect())?)
    }

    async fn verify_shards(
        &self,
        drive: DriveId,
        shards: Vec<ShardRef>,
    ) -> Result<Vec<Result<(), Finding>>, ReadError> {
        let mut all = Vec::with_capacity(shards.len());
        for some in batches(&shards, VERIFY) {
            let question = OfShards { drive: drive_bytes(drive), shards: pack_refs(some), ..OfShards::default() };
            let list: VerifiedList = self.ask(Method::VerifyShards, question, self.deadlines.long).await?;
            let checked = list.shards.into_iter().map(VerifiedMessage::check).collect::<Option<Vec<_>>>();
            all.extend(self.read(checked.filter(|checked| checked.len() == some.len()))?);
        }
        Ok(all)
    }

    async fn verified(&self, drive: DriveId, shards: Vec<ShardId>) -> Result<Vec<Option<Verified>>, ReadError> {
        let mut all = Vec::with_capacity(shards.len());
        for some in batches(&shards, NAMED) {
            let question = OfShards { drive: drive_bytes(drive), shards: pack_shards(some), ..OfShards::default() };
            let list: VerifiedList = self.ask(Method::Verified, question, self.deadlines.long).await?;
            let verified = list.shards.into_iter().map(VerifiedMessage::verified).collect::<Option<Vec<_>>>();
            all.extend(self.read(verified.filter(|verified| verified.len() == some.len()))?);
        }
        Ok(all)
    }

    async fn inventory(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardRef>, ReadError> {
        let (mut all, mut after) = (Vec::new(), after);
        loop {
            let step = (limit - all.len()).min(LIST);
            let question = OfList::new(drive, None, after, step);
            let packed = self.bytes(Method::Inventory, question, (0, PIECE), self.deadlines.long).await?;
            let refs = self.read(unpack_refs(&packed).filter(|refs| refs.len() <= step))?;
            after = refs.last().map(|shard| shard.id).or(after);
            let ended = refs.len() < step;
            all.extend(refs);
            if ended || all.len() >= limit {
                return Ok(all);
            }
        }
    }

    /// A node that does not answer has not taken the first shard.
    async fn rebuild(&self, order: RebuildOrder) -> Result<Rebuilt, RebuildError> {
        let first = order.targets.first().copied();
        let answered = self.ask::<_, Numbers>(Method::Rebuild, Order::new(&order), self.deadlines.rebuild).await;
        match answered {
            Ok(numbers) => Ok(Rebuilt { read: numbers.a, written: numbers.b }),
            Err(Trouble::Fault(Fault::Rebuild(error))) => Err(error),
            Err(_) => Err(first.map_or(RebuildError::Malformed("no shard is wanted"), |(index, drive)| {
                RebuildError::Target { index, drive, error: WriteError::Unreachable }
            })),
        }
    }

    async fn free_shards(
        &self,
        drive: DriveId,
        authority: Authority,
        shards: Vec<ShardRef>,
    ) -> Result<Freed, WriteError> {
        let mut freed = Freed::default();
        for some in batches(&shards, NAMED) {
            let (epoch, lsn) = (authority.epoch.0, authority.lsn.0);
            let question = OfShards { drive: drive_bytes(drive), shards: pack_refs(some), epoch, lsn };
            let numbers: Numbers = self.ask(Method::FreeShards, question, self.deadlines.long).await?;
            freed.shards += numbers.a;
            freed.bytes += numbers.b;
            freed.refused.extend(self.read(unpack_shards(&numbers.refused))?);
        }
        Ok(freed)
    }

    async fn settle_unnamed(&self, drive: DriveId, unnamed: Vec<Subject>) -> Result<u64, ReadError> {
        let mut settled = 0;
        for some in batches(&unnamed, NAMED) {
            let unnamed = some.iter().copied().map(SubjectMessage::new).collect();
            let question = Settle { drive: drive_bytes(drive), unnamed };
            let numbers: Numbers = self.ask(Method::SettleUnnamed, question, self.deadlines.long).await?;
            settled += numbers.a;
        }
        Ok(settled)
    }

    async fn renew_frees(&self, drive: DriveId, authority: Authority) -> Result<(), WriteError> {
        let (epoch, lsn) = (authority.epoch.0, authority.lsn.0);
        let question = OfShards { drive: drive_bytes(drive), epoch, lsn, ..OfShards::default() };
        let Nothing {} = self.ask(Method::RenewFrees, question, self.deadlines.write).await?;
        Ok(())
    }

    async fn authority(&self, drive: DriveId) -> Result<Authority, ReadError> {
        let numbers: Numbers = self.ask(Method::Authority, OfDrive::new(drive), self.deadlines.ask).await?;
        Ok(Authority { epoch: Epoch(numbers.a), lsn: Lsn(numbers.b) })
    }
}

fn head(drive: DriveId, header: Bytes, payload: &Bytes, reserve: Reserve) -> UploadHead {
    UploadHead {
        drive: drive_bytes(drive),
        header,
        len: payload.len() as u64,
        reserve: reserve == Reserve::Metadata,
        restripe: reserve == Reserve::Restripe,
    }
}

/// In parts of `size`; of nothing, one empty part: the node is asked all the same, and may refuse.
fn batches<T>(all: &[T], size: usize) -> impl Iterator<Item = &[T]> {
    let none: &[T] = &[];
    all.chunks(size).chain(all.is_empty().then_some(none))
}
