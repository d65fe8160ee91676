//! The messages of the calls, and how the trait's values become such messages and come back.
//!
//! What has a layout of its own on the medium (shard headers, batch headers, stripe descriptors, journal entries) travels in
//! that layout, with the check that it carries. A message that does not make a value is `None`: an unusable request for the
//! node, and no answer for a client (R17).

use crate::client::{DriveHealth, DriveStatus, JournalScan, JournalSegmentInfo, Labels, ScanEnd};
use crate::keep::{
    Finding, FindingKind, Medium, RebuildOrder, ScrubOrder, ScrubState, ScrubStatus, ShardRef, Subject, Verified,
};
use crate::remote::NodeAddress;
use crate::service::identity::NodeName;
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn, ShardId, StripeId};
use codec::level::Later;
use codec::segment::JournalHead;
use codec::stripe::{StripeClass, StripeDescriptor};
use prost::Message;

/// Bytes of a packed shard id: stripe, index.
const SHARD: usize = 17;
/// Bytes of a packed shard reference: shard id, root.
const REF: usize = SHARD + 32;
/// Bytes of a packed place: index, drive.
const PLACE: usize = 17;

pub(crate) fn drive_id(bytes: &[u8]) -> Option<DriveId> {
    DriveId::from_slice(bytes)
}

pub(crate) fn drive_bytes(drive: DriveId) -> Bytes {
    Bytes::copy_from_slice(drive.as_bytes())
}

pub(crate) fn stripe_id(bytes: &[u8]) -> Option<StripeId> {
    StripeId::from_slice(bytes)
}

pub(crate) fn shard_id(bytes: &[u8]) -> Option<ShardId> {
    let (index, stripe) = bytes.split_last()?;
    Some(ShardId { stripe: StripeId::from_slice(stripe)?, index: *index })
}

pub(crate) fn shard_bytes(shard: ShardId) -> Bytes {
    pack_shards(&[shard])
}

/// Packs shard ids one behind the other.
pub(crate) fn pack_shards(shards: &[ShardId]) -> Bytes {
    let packed = shards.iter().flat_map(|shard| shard.stripe.to_bytes().into_iter().chain([shard.index]));
    packed.collect::<Vec<u8>>().into()
}

pub(crate) fn unpack_shards(bytes: &[u8]) -> Option<Vec<ShardId>> {
    let (shards, rest) = bytes.as_chunks::<SHARD>();
    rest.is_empty().then(|| shards.iter().map(|shard| shard_id(shard)).collect())?
}

/// Packs shard references one behind the other.
pub(crate) fn pack_refs(refs: &[ShardRef]) -> Bytes {
    let mut out = Vec::with_capacity(refs.len() * REF);
    for shard in refs {
        out.extend_from_slice(&shard.id.stripe.to_bytes());
        out.push(shard.id.index);
        out.extend_from_slice(&shard.root);
    }
    out.into()
}

pub(crate) fn unpack_refs(bytes: &[u8]) -> Option<Vec<ShardRef>> {
    let (refs, rest) = bytes.as_chunks::<REF>();
    let one = |bytes: &[u8; REF]| {
        let (id, root) = bytes.split_at(SHARD);
        Some(ShardRef { id: shard_id(id)?, root: root.try_into().ok()? })
    };
    rest.is_empty().then(|| refs.iter().map(one).collect())?
}

fn pack_places(places: &[(u8, DriveId)]) -> Bytes {
    let packed = places.iter().flat_map(|(index, drive)| std::iter::once(*index).chain(drive.0));
    packed.collect::<Vec<u8>>().into()
}

fn unpack_places(bytes: &[u8]) -> Option<Vec<(u8, DriveId)>> {
    let (places, rest) = bytes.as_chunks::<PLACE>();
    let one = |bytes: &[u8; PLACE]| bytes.split_first().and_then(|(index, drive)| Some((*index, drive_id(drive)?)));
    rest.is_empty().then(|| places.iter().map(one).collect())?
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Message)]
            pub(crate) struct $name { $($(#[$attribute])* pub $field: $kind),* }
        )*
    };
}

messages! {
    /// The handshake: who asks, what it speaks, and whom it means.
    Hello {
        #[prost(uint32, tag = "1")] oldest: u32,
        #[prost(uint32, tag = "2")] newest: u32,
        /// 16 bytes.
        #[prost(bytes = "bytes", tag = "3")] cluster: Bytes,
        #[prost(string, tag = "4")] node: String,
        /// 16 random bytes of the client: its connections replace one another.
        #[prost(bytes = "bytes", tag = "5")] client: Bytes,
        /// Which of the client's connections this is.
        #[prost(uint32, tag = "6")] lane: u32,
        /// For people.
        #[prost(string, tag = "7")] software: String,
        /// What the client writes and reads.
        #[prost(message, repeated, tag = "8")] formats: Vec<Format>,
        /// The newest format level that the client knows, and the one by which it writes; 0: of a release before there were any.
        #[prost(uint32, tag = "9")] knows: u32,
        #[prost(uint32, tag = "10")] at: u32,
    }
    /// The versions of one layout.
    Format {
        #[prost(string, tag = "1")] layout: String,
        /// The version that is written.
        #[prost(uint32, tag = "2")] writes: u32,
        /// The newest that is read.
        #[prost(uint32, tag = "3")] reads: u32,
    }
    /// The answer to it.
    Welcome {
        /// The version that both speak.
        #[prost(uint32, tag = "1")] version: u32,
        #[prost(bytes = "bytes", tag = "2")] cluster: Bytes,
        #[prost(string, tag = "3")] node: String,
        #[prost(string, tag = "4")] software: String,
        /// What the node writes and reads.
        #[prost(message, repeated, tag = "5")] formats: Vec<Format>,
        /// The newest format level that the node knows, and the one by which it writes; 0: of a release before there were any.
        #[prost(uint32, tag = "6")] knows: u32,
        #[prost(uint32, tag = "7")] at: u32,
    }
    /// A question about the node, or an answer that says nothing but "done".
    Nothing {}
    /// A question for the drives; from who leads, with what it has granted.
    OfDrives {
        #[prost(message, optional, tag = "1")] grants: Option<GrantList>,
        /// It has granted more than is told; a list of nothing.
        #[prost(message, optional, tag = "2")] too_many: Option<GrantList>,
        /// The epoch in which it leads; 0 from one that does not.
        #[prost(uint64, tag = "3")] leader: u64,
        /// The cluster's format level, from who leads.
        #[prost(uint32, tag = "4")] level: u32,
    }
    /// Which gateway may write in which epochs.
    GrantList {
        /// The epoch in which the one leads that says so.
        #[prost(uint64, tag = "1")] leader: u64,
        /// Made from the content; never 0.
        #[prost(fixed64, tag = "2")] version: u64,
        #[prost(fixed64, repeated, tag = "3")] epochs: Vec<u64>,
        /// For each epoch, whose it is: a position in `names`.
        #[prost(uint32, repeated, tag = "4")] of: Vec<u32>,
        #[prost(string, repeated, tag = "5")] names: Vec<String>,
        /// The last epoch that had been granted to anybody: of two lists, the one with the lower is older.
        #[prost(uint64, tag = "6")] as_of: u64,
    }
    /// A question about a drive.
    OfDrive { #[prost(bytes = "bytes", tag = "1")] drive: Bytes }
    /// A question about a shard, or for a range of it.
    OfShard {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(bytes = "bytes", tag = "2")] shard: Bytes,
        #[prost(bytes = "bytes", tag = "3")] root: Bytes,
        #[prost(uint32, tag = "4")] start: u32,
        #[prost(uint32, tag = "5")] end: u32,
    }
    /// A question for a part of a list of shards.
    OfList {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        /// 0: all.
        #[prost(uint32, tag = "2")] class: u32,
        #[prost(bytes = "bytes", optional, tag = "3")] after: Option<Bytes>,
        #[prost(uint32, tag = "4")] limit: u32,
    }
    /// A question about shards that are named.
    OfShards {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(bytes = "bytes", tag = "2")] shards: Bytes,
        /// With an order to free: by whom.
        #[prost(uint64, tag = "3")] epoch: u64,
        #[prost(uint64, tag = "4")] lsn: u64,
    }
    /// A question about the journal: by LSN, by segment, or for a new segment.
    OfJournal {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(uint64, tag = "2")] lsn: u64,
        #[prost(uint64, tag = "3")] number: u64,
        #[prost(uint32, tag = "4")] start: u32,
        #[prost(uint32, tag = "5")] end: u32,
        #[prost(uint64, tag = "6")] ensemble: u64,
    }
    /// A register to be written.
    Register {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(bytes = "bytes", tag = "2")] bytes: Bytes,
    }
    /// What scrub is told: 1 start, 2 pause, 3 resume.
    ScrubTold {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(uint32, tag = "2")] order: u32,
    }
    /// An order to rebuild.
    Order {
        #[prost(bytes = "bytes", tag = "1")] descriptor: Bytes,
        #[prost(bytes = "bytes", tag = "2")] sources: Bytes,
        #[prost(bytes = "bytes", tag = "3")] targets: Bytes,
        #[prost(uint64, tag = "4")] bytes_per_second: u64,
        /// Where the nodes of these drives are reached.
        #[prost(message, repeated, tag = "5")] at: Vec<DriveAt>,
    }
    /// On which node a drive is, and where that is reached.
    DriveAt {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(string, tag = "2")] node: String,
        #[prost(string, tag = "3")] address: String,
    }
    /// An order to make a directory a drive, in the place of another one or of none (empty).
    OfPlace {
        #[prost(string, tag = "1")] path: String,
        #[prost(bytes = "bytes", tag = "2")] replaces: Bytes,
    }
    /// The drive, or why there is none.
    Taken {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(string, tag = "2")] refused: String,
    }
    /// Up to three numbers.
    Numbers {
        #[prost(uint64, tag = "1")] a: u64,
        #[prost(uint64, tag = "2")] b: u64,
        /// What was refused of an order to free.
        #[prost(bytes = "bytes", tag = "3")] refused: Bytes,
    }
    /// Byte strings: headers of shards, entries of a journal.
    Strings {
        #[prost(bytes = "bytes", repeated, tag = "1")] strings: Vec<Bytes>,
        /// How a scan ended: 1 more, 2 clean, 3 torn, 4 damaged.
        #[prost(uint32, tag = "2")] end: u32,
        #[prost(uint64, tag = "3")] a: u64,
        #[prost(uint64, tag = "4")] b: u64,
    }
    /// Drives.
    DriveList {
        #[prost(message, repeated, tag = "1")] drives: Vec<DriveMessage>,
        /// Random, and another one each time that the node's service starts: 0 from one that does not say.
        #[prost(fixed64, tag = "2")] incarnation: u64,
        /// The epoch in which the service was told to begin; 0: not yet.
        #[prost(uint64, tag = "3")] begun: u64,
        /// The highest epoch that any of the drives has seen; 0: none.
        #[prost(uint64, tag = "4")] highest: u64,
        /// The version of what the leader has granted, as the node has heard; 0: nothing.
        #[prost(fixed64, tag = "5")] granted: u64,
    }
    /// An order to begin.
    OfEpoch {
        #[prost(uint64, tag = "1")] epoch: u64,
        /// The cluster's format level, as far as its sender knows.
        #[prost(uint32, tag = "2")] level: u32,
    }
    /// A drive.
    DriveMessage {
        #[prost(bytes = "bytes", tag = "1")] id: Bytes,
        #[prost(string, tag = "2")] path: String,
        /// 1 healthy, 2 read-only, 3 failed.
        #[prost(uint32, tag = "3")] health: u32,
        #[prost(string, tag = "4")] reason: String,
        #[prost(uint64, tag = "5")] total: u64,
        #[prost(uint64, tag = "6")] free: u64,
        #[prost(uint64, tag = "7")] filesystem_id: u64,
        #[prost(uint64, tag = "8")] reserve: u64,
        #[prost(uint64, tag = "9")] data_segments: u64,
        #[prost(uint64, tag = "10")] journal_segments: u64,
        #[prost(uint64, tag = "11")] damaged: u64,
        #[prost(uint32, optional, tag = "12")] p99_ms: Option<u32>,
        #[prost(uint64, tag = "13")] errors: u64,
        #[prost(uint32, tag = "14")] opened: u32,
        #[prost(uint64, tag = "15")] unanswered_ms: u64,
        #[prost(string, tag = "16")] rack: String,
        #[prost(string, tag = "17")] site: String,
    }
    /// Journal segments.
    SegmentList { #[prost(message, repeated, tag = "1")] segments: Vec<SegmentMessage> }
    /// A journal segment.
    SegmentMessage {
        #[prost(uint64, tag = "1")] number: u64,
        #[prost(uint64, tag = "2")] ensemble: u64,
        #[prost(uint64, tag = "3")] first_lsn: u64,
        #[prost(uint64, tag = "4")] epoch: u64,
        #[prost(uint64, optional, tag = "5")] first: Option<u64>,
        #[prost(uint64, optional, tag = "6")] last: Option<u64>,
        #[prost(uint64, optional, tag = "7")] last_epoch: Option<u64>,
        #[prost(bool, tag = "8")] closed: bool,
        #[prost(uint64, tag = "9")] bytes: u64,
        #[prost(uint64, tag = "10")] damaged: u64,
    }
    /// Findings.
    FindingList { #[prost(message, repeated, tag = "1")] findings: Vec<FindingMessage> }
    /// What a finding is about.
    SubjectMessage {
        /// Set for a shard.
        #[prost(bytes = "bytes", optional, tag = "1")] shard: Option<Bytes>,
        /// Set for blocks.
        #[prost(uint64, optional, tag = "2")] segment: Option<u64>,
        #[prost(uint64, tag = "3")] first: u64,
        #[prost(uint64, tag = "4")] last: u64,
    }
    /// Findings that nobody can name, and that count as settled.
    Settle {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        #[prost(message, repeated, tag = "2")] unnamed: Vec<SubjectMessage>,
    }
    /// A finding.
    FindingMessage {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        /// 1 and up, in the order of [`FindingKind::ALL`].
        #[prost(uint32, tag = "2")] kind: u32,
        #[prost(message, optional, tag = "3")] subject: Option<SubjectMessage>,
        #[prost(uint64, tag = "4")] found_ms: u64,
        #[prost(string, tag = "5")] detail: String,
    }
    /// For each shard that was asked for: what is known of it.
    VerifiedList { #[prost(message, repeated, tag = "1")] shards: Vec<VerifiedMessage> }
    /// What is known of a shard.
    VerifiedMessage {
        /// The node's index has it.
        #[prost(bool, tag = "1")] known: bool,
        #[prost(uint64, tag = "2")] good_ms: u64,
        #[prost(uint64, tag = "3")] written_ms: u64,
        #[prost(message, optional, tag = "4")] finding: Option<FindingMessage>,
    }
    /// The scrubs of a node.
    ScrubList { #[prost(message, repeated, tag = "1")] drives: Vec<ScrubMessage> }
    /// A drive's scrub.
    ScrubMessage {
        #[prost(bytes = "bytes", tag = "1")] drive: Bytes,
        /// 1 waiting, 2 running, 3 paused, 4 stopped.
        #[prost(uint32, tag = "2")] state: u32,
        /// 1 direct, 2 dropped.
        #[prost(uint32, tag = "3")] medium: u32,
        #[prost(uint64, tag = "4")] pass_began_ms: u64,
        #[prost(uint64, tag = "5")] last_pass_ms: u64,
        #[prost(uint64, tag = "6")] pass_bytes: u64,
        #[prost(uint64, tag = "7")] total_bytes: u64,
        #[prost(uint64, tag = "8")] verified_shards: u64,
        #[prost(uint64, tag = "9")] shards: u64,
        #[prost(uint64, tag = "10")] oldest_ms: u64,
        #[prost(uint64, repeated, tag = "11")] findings: Vec<u64>,
    }
}

impl OfDrive {
    pub fn new(drive: DriveId) -> OfDrive {
        OfDrive { drive: drive_bytes(drive) }
    }
}

impl OfList {
    pub fn new(drive: DriveId, class: Option<StripeClass>, after: Option<ShardId>, limit: usize) -> OfList {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let class = class.map_or(0, |class| u32::from(class as u8));
        OfList { drive: drive_bytes(drive), class, after: after.map(shard_bytes), limit }
    }

    pub fn class(&self) -> Option<Option<StripeClass>> {
        Some(match self.class {
            0 => None,
            1 => Some(StripeClass::Data),
            2 => Some(StripeClass::Ledger),
            3 => Some(StripeClass::Checkpoint),
            _ => return None,
        })
    }

    pub fn after_shard(&self) -> Option<Option<ShardId>> {
        self.after.as_ref().map_or(Some(None), |after| shard_id(after).map(Some))
    }
}

impl ScrubTold {
    pub fn new(drive: DriveId, order: ScrubOrder) -> ScrubTold {
        let order = match order {
            ScrubOrder::Start => 1,
            ScrubOrder::Pause => 2,
            ScrubOrder::Resume => 3,
        };
        ScrubTold { drive: drive_bytes(drive), order }
    }

    pub fn order(&self) -> Option<ScrubOrder> {
        Some(match self.order {
            1 => ScrubOrder::Start,
            2 => ScrubOrder::Pause,
            3 => ScrubOrder::Resume,
            _ => return None,
        })
    }
}

impl Order {
    pub fn new(order: &RebuildOrder) -> Order {
        Order {
            descriptor: order.descriptor.encode(),
            sources: pack_places(&order.sources),
            targets: pack_places(&order.targets),
            bytes_per_second: order.bytes_per_second,
            at: order.at.iter().map(DriveAt::new).collect(),
        }
    }

    /// `Some(Err)`: the order itself is there and its descriptor is none.
    pub fn value(&self) -> Option<Result<RebuildOrder, codec::stripe::StripeError>> {
        let (sources, targets) = (unpack_places(&self.sources)?, unpack_places(&self.targets)?);
        let bytes_per_second = self.bytes_per_second;
        let at: Vec<(DriveId, NodeAddress)> = self.at.iter().map(DriveAt::value).collect::<Option<_>>()?;
        let parsed = StripeDescriptor::parse(&self.descriptor);
        Some(parsed.map(|descriptor| RebuildOrder { descriptor, sources, targets, bytes_per_second, at }))
    }
}

impl DriveAt {
    fn new((drive, at): &(DriveId, NodeAddress)) -> DriveAt {
        DriveAt { drive: drive_bytes(*drive), node: at.name.to_string(), address: at.address.clone() }
    }

    fn value(&self) -> Option<(DriveId, NodeAddress)> {
        let name = NodeName::new(&self.node).ok()?;
        Some((drive_id(&self.drive)?, NodeAddress { name, address: self.address.clone() }))
    }
}

impl Strings {
    pub fn of_scan(scan: &JournalScan) -> Strings {
        let (end, a, b) = match scan.end {
            ScanEnd::More(lsn) => (1, lsn.0, 0),
            ScanEnd::Clean => (2, 0, 0),
            ScanEnd::TornTail { block } => (3, block, 0),
            ScanEnd::Damaged { block, barrier } => (4, block, barrier),
        };
        Strings { strings: scan.entries.iter().map(|entry| entry.bytes.clone()).collect(), end, a, b }
    }

    /// The entries are verified once more, each against the hash that it carries. Those that a later release wrote were read by the
    /// node and are not by this program: `Some(Err)`, since the node and its drive are as good as ever (R16).
    pub fn scan(self) -> Option<Result<JournalScan, Later>> {
        let end = match self.end {
            1 => ScanEnd::More(Lsn(self.a)),
            2 => ScanEnd::Clean,
            3 => ScanEnd::TornTail { block: self.a },
            4 => ScanEnd::Damaged { block: self.a, barrier: self.b },
            _ => return None,
        };
        let entries: Result<Vec<_>, _> = self.strings.iter().cloned().map(codec::journal::parse_entry).collect();
        match entries {
            Ok(entries) => Some(Ok(JournalScan { entries, end })),
            Err(error) => Later::of_entries(&self.strings, &error).map(Err),
        }
    }
}

impl DriveMessage {
    pub fn new(status: &DriveStatus) -> DriveMessage {
        let (health, reason) = match &status.health {
            DriveHealth::Healthy => (1, String::new()),
            DriveHealth::ReadOnly { reason } => (2, reason.clone()),
            DriveHealth::Failed { reason } => (3, reason.clone()),
        };
        DriveMessage {
            id: drive_bytes(status.id),
            path: status.path.clone(),
            health,
            reason,
            total: status.total,
            free: status.free,
            filesystem_id: status.filesystem_id,
            reserve: status.reserve,
            data_segments: status.data_segments,
            journal_segments: status.journal_segments,
            damaged: status.damaged,
            p99_ms: status.p99_ms,
            errors: status.errors,
            opened: status.opened,
            unanswered_ms: status.unanswered_ms,
            rack: status.labels.rack().to_owned(),
            site: status.labels.site().to_owned(),
        }
    }

    pub fn value(self) -> Option<DriveStatus> {
        let health = match self.health {
            1 => DriveHealth::Healthy,
            2 => DriveHealth::ReadOnly { reason: self.reason },
            3 => DriveHealth::Failed { reason: self.reason },
            _ => return None,
        };
        Some(DriveStatus {
            id: drive_id(&self.id)?,
            // The node's place in the cluster is for its client to know.
            node: 0,
            labels: Labels::new(self.rack, self.site).ok()?,
            path: self.path,
            health,
            total: self.total,
            free: self.free,
            filesystem_id: self.filesystem_id,
            reserve: self.reserve,
            data_segments: self.data_segments,
            journal_segments: self.journal_segments,
            damaged: self.damaged,
            p99_ms: self.p99_ms,
            errors: self.errors,
            opened: self.opened,
            unanswered_ms: self.unanswered_ms,
        })
    }
}

impl SegmentMessage {
    pub fn new(info: &JournalSegmentInfo) -> SegmentMessage {
        SegmentMessage {
            number: info.number,
            ensemble: info.head.ensemble,
            first_lsn: info.head.first_lsn.0,
            epoch: info.epoch.0,
            first: info.first.map(|lsn| lsn.0),
            last: info.last.map(|lsn| lsn.0),
            last_epoch: info.last_epoch.map(|epoch| epoch.0),
            closed: info.closed,
            bytes: info.bytes,
            damaged: info.damaged,
        }
    }

    pub fn value(self) -> JournalSegmentInfo {
        JournalSegmentInfo {
            number: self.number,
            head: JournalHead { ensemble: self.ensemble, first_lsn: Lsn(self.first_lsn) },
            epoch: Epoch(self.epoch),
            first: self.first.map(Lsn),
            last: self.last.map(Lsn),
            last_epoch: self.last_epoch.map(Epoch),
            closed: self.closed,
            bytes: self.bytes,
            damaged: self.damaged,
        }
    }
}

/// Details are for people; what is longer is cut, so that a list of findings stays a list.
const MAX_DETAIL: usize = 512;

impl SubjectMessage {
    pub fn new(subject: Subject) -> SubjectMessage {
        match subject {
            Subject::Shard(shard) => SubjectMessage { shard: Some(shard_bytes(shard)), ..SubjectMessage::default() },
            Subject::Entries(first, last) => {
                SubjectMessage { first: first.0, last: last.0, ..SubjectMessage::default() }
            }
            Subject::Blocks { segment, start, end } => {
                SubjectMessage { segment: Some(segment), first: start, last: end, ..SubjectMessage::default() }
            }
        }
    }

    pub fn value(self) -> Option<Subject> {
        Some(match (&self.shard, self.segment) {
            (Some(shard), None) => Subject::Shard(shard_id(shard)?),
            (None, Some(segment)) => Subject::Blocks { segment, start: self.first, end: self.last },
            (None, None) => Subject::Entries(Lsn(self.first), Lsn(self.last)),
            (Some(_), Some(_)) => return None,
        })
    }
}

impl FindingMessage {
    pub fn new(finding: &Finding) -> FindingMessage {
        let kind = (1u32..).zip(FindingKind::ALL).find(|(_, kind)| *kind == finding.kind).map_or(0, |(n, _)| n);
        FindingMessage {
            drive: drive_bytes(finding.drive),
            kind,
            subject: Some(SubjectMessage::new(finding.subject)),
            found_ms: finding.found_ms,
            detail: finding.detail.chars().take(MAX_DETAIL).collect(),
        }
    }

    pub fn value(self) -> Option<Finding> {
        let kind = usize::try_from(self.kind.checked_sub(1)?).ok()?;
        Some(Finding {
            drive: drive_id(&self.drive)?,
            subject: self.subject?.value()?,
            kind: *FindingKind::ALL.get(kind)?,
            found_ms: self.found_ms,
            detail: self.detail,
        })
    }
}

impl VerifiedMessage {
    /// An answer to "verify now".
    pub fn of_check(checked: &Result<(), Finding>) -> VerifiedMessage {
        let finding = checked.as_ref().err().map(FindingMessage::new);
        VerifiedMessage { known: true, finding, ..VerifiedMessage::default() }
    }

    pub fn check(self) -> Option<Result<(), Finding>> {
        match self.finding {
            None if self.known => Some(Ok(())),
            None => None,
            Some(finding) => Some(Err(finding.value()?)),
        }
    }

    /// An answer to "when was it verified".
    pub fn of_verified(verified: &Option<Verified>) -> VerifiedMessage {
        verified.as_ref().map_or_else(VerifiedMessage::default, |verified| VerifiedMessage {
            known: true,
            good_ms: verified.good_ms,
            written_ms: verified.written_ms,
            finding: verified.finding.as_ref().map(FindingMessage::new),
        })
    }

    pub fn verified(self) -> Option<Option<Verified>> {
        if !self.known {
            return Some(None);
        }
        let finding = match self.finding {
            Some(finding) => Some(finding.value()?),
            None => None,
        };
        Some(Some(Verified { good_ms: self.good_ms, written_ms: self.written_ms, finding }))
    }
}

impl ScrubMessage {
    pub fn new(status: &ScrubStatus) -> ScrubMessage {
        let state = match status.state {
            ScrubState::Waiting => 1,
            ScrubState::Running => 2,
            ScrubState::Paused => 3,
            ScrubState::Stopped => 4,
        };
        let medium = match status.medium {
            Medium::Direct => 1,
            Medium::Dropped => 2,
        };
        ScrubMessage {
            drive: drive_bytes(status.drive),
            state,
            medium,
            pass_began_ms: status.pass_began_ms,
            last_pass_ms: status.last_pass_ms,
            pass_bytes: status.pass_bytes,
            total_bytes: status.total_bytes,
            verified_shards: status.verified_shards,
            shards: status.shards,
            oldest_ms: status.oldest_ms,
            findings: status.findings.to_vec(),
        }
    }

    pub fn value(self) -> Option<ScrubStatus> {
        let state = match self.state {
            1 => ScrubState::Waiting,
            2 => ScrubState::Running,
            3 => ScrubState::Paused,
            4 => ScrubState::Stopped,
            _ => return None,
        };
        let medium = match self.medium {
            1 => Medium::Direct,
            2 => Medium::Dropped,
            _ => return None,
        };
        Some(ScrubStatus {
            drive: drive_id(&self.drive)?,
            state,
            medium,
            pass_began_ms: self.pass_began_ms,
            last_pass_ms: self.last_pass_ms,
            pass_bytes: self.pass_bytes,
            total_bytes: self.total_bytes,
            verified_shards: self.verified_shards,
            shards: self.shards,
            oldest_ms: self.oldest_ms,
            findings: self.findings.try_into().ok()?,
        })
    }
}
