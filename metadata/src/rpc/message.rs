//! The messages of the calls. Rows travel as they are journaled (`codec::effect`).

use crate::journal::Holders;
use crate::listing::{
    ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use crate::lookup::{Hit, Located};
use bytes::Bytes;
use codec::effect::{
    AccountRow, BucketConfigRow, BucketRow, DriveRow, NodeRow, PartRow, Place, StripeRow, UploadName, UploadRow,
    VersionRow,
};
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Lsn};
use codec::stripe::StripeDescriptor;
use prost::Message;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use storage_node::stripe_io::StripeLayout;

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
    /// For a session.
    OfSession {
        /// The release of who asks, for people.
        #[prost(string, tag = "1")] software: String,
        /// The mark of the session that is known; empty: none.
        #[prost(bytes = "bytes", tag = "2")] known: Bytes,
    }
    /// A name, an id in ASCII, or an access key.
    OfName { #[prost(string, tag = "1")] name: String }
    /// A number, such as a dedup domain.
    OfNumber { #[prost(uint64, tag = "1")] number: u64 }
    /// A key of a bucket.
    OfKey { #[prost(uint64, tag = "1")] bucket: u64, #[prost(string, tag = "2")] key: String }
    /// A version of a key by its id, or up to `max` of its newest.
    OfVersion {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(string, tag = "2")] key: String,
        /// Empty: the null version.
        #[prost(string, tag = "3")] id: String,
        #[prost(uint32, tag = "4")] max: u32,
    }
    /// Configurations of a bucket.
    ConfigList { #[prost(message, repeated, tag = "1")] rows: Vec<BucketConfigRow> }
    /// A page of keys, versions or uploads: the requests have the same shape.
    OfPage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(string, tag = "2")] prefix: String,
        #[prost(string, tag = "3")] delimiter: String,
        #[prost(string, tag = "4")] after: String,
        /// The version, or the upload, of `after` to go on after.
        #[prost(string, optional, tag = "5")] within: Option<String>,
        #[prost(uint32, tag = "6")] max: u32,
    }
    /// An upload, or a page of its parts.
    OfUpload {
        #[prost(message, optional, tag = "1")] upload: Option<UploadName>,
        #[prost(uint32, tag = "2")] after: u32,
        #[prost(uint32, tag = "3")] max: u32,
        #[prost(uint32, repeated, tag = "4")] numbers: Vec<u32>,
    }
    /// A dedup domain, by what it is for.
    OfDomain {
        #[prost(string, tag = "1")] account: String,
        #[prost(bool, tag = "2")] encrypted: bool,
        /// [`codec::effect::ProtectionClass`]; Unspecified: as `encrypted` says.
        #[prost(int32, tag = "3")] class: i32,
        /// The key of the key store.
        #[prost(string, tag = "4")] key: String,
    }
    /// Chunks.
    OfChunks {
        #[prost(uint64, tag = "1")] domain: u64,
        /// 32 bytes each, one behind the other.
        #[prost(bytes = "bytes", tag = "2")] ids: Bytes,
    }
    /// An account, perhaps with its secret.
    MaybeAccount { #[prost(message, optional, tag = "1")] row: Option<AccountRow> }
    /// A bucket, if there is one.
    MaybeBucket { #[prost(message, optional, tag = "1")] row: Option<BucketRow> }
    /// A version, if there is one.
    MaybeVersion { #[prost(message, optional, tag = "1")] row: Option<VersionRow> }
    /// An upload, if there is one.
    MaybeUpload { #[prost(message, optional, tag = "1")] row: Option<UploadRow> }
    /// A part, if there is one.
    MaybePart { #[prost(message, optional, tag = "1")] row: Option<PartRow> }
    /// Buckets.
    BucketList { #[prost(message, repeated, tag = "1")] rows: Vec<BucketRow> }
    /// Parts, in the order asked for.
    PartList { #[prost(message, repeated, tag = "1")] parts: Vec<MaybePart> }
    /// A page of keys.
    KeysPage {
        #[prost(message, repeated, tag = "1")] rows: Vec<VersionRow>,
        #[prost(string, repeated, tag = "2")] prefixes: Vec<String>,
        #[prost(string, optional, tag = "3")] next: Option<String>,
    }
    /// A page of versions.
    VersionsAnswer {
        #[prost(message, repeated, tag = "1")] rows: Vec<VersionRow>,
        /// For each, whether it is its key's latest.
        #[prost(bool, repeated, tag = "2")] latest: Vec<bool>,
        #[prost(string, repeated, tag = "3")] prefixes: Vec<String>,
        #[prost(string, optional, tag = "4")] next_key: Option<String>,
        #[prost(string, optional, tag = "5")] next_version: Option<String>,
    }
    /// A page of uploads.
    UploadsAnswer {
        #[prost(message, repeated, tag = "1")] rows: Vec<UploadRow>,
        #[prost(string, repeated, tag = "2")] prefixes: Vec<String>,
        #[prost(string, optional, tag = "3")] next_key: Option<String>,
        #[prost(string, tag = "4")] next_upload: String,
    }
    /// A page of parts; without an upload there is none.
    PartsAnswer {
        #[prost(message, optional, tag = "1")] upload: Option<UploadRow>,
        #[prost(message, repeated, tag = "2")] rows: Vec<PartRow>,
        #[prost(uint32, optional, tag = "3")] next: Option<u32>,
    }
    /// For each chunk that was asked for: whether it is a hit.
    HitList { #[prost(message, repeated, tag = "1")] hits: Vec<HitMessage> }
    /// A hit, or none.
    HitMessage {
        #[prost(bool, tag = "1")] hit: bool,
        #[prost(uint32, tag = "2")] plain_len: u32,
        #[prost(bool, tag = "3")] is_manifest: bool,
    }
    /// Where chunks lie.
    LocatedList {
        #[prost(message, repeated, tag = "1")] chunks: Vec<LocatedMessage>,
        /// The stripes that `stripe` counts in.
        #[prost(message, repeated, tag = "2")] stripes: Vec<StripeRow>,
        /// Where the entries are that chunks ride in.
        #[prost(message, repeated, tag = "3")] entries: Vec<HeldMessage>,
    }
    /// An entry of the journal and the drives that have it.
    HeldMessage {
        #[prost(uint64, tag = "1")] lsn: u64,
        /// 16 bytes each.
        #[prost(bytes = "bytes", repeated, tag = "2")] drives: Vec<Bytes>,
    }
    /// Where a chunk lies; without a place it is not known.
    LocatedMessage {
        #[prost(uint64, tag = "1")] domain: u64,
        #[prost(uint32, tag = "2")] plain_len: u32,
        #[prost(bool, tag = "3")] is_manifest: bool,
        #[prost(message, optional, tag = "4")] place: Option<Place>,
        /// One more than the index of its stripe; 0: it rides in the journal.
        #[prost(uint32, tag = "5")] stripe: u32,
    }
    /// A wish for an epoch.
    OfGrant {
        /// Random, and the same for as long as the wish is.
        #[prost(bytes = "bytes", tag = "1")] nonce: Bytes,
    }
    /// An epoch.
    Granted { #[prost(uint64, tag = "1")] epoch: u64 }
    /// A session ([`super::Session`]).
    SessionMessage {
        #[prost(string, tag = "1")] geometry: String,
        #[prost(uint32, tag = "2")] shard_target: u32,
        /// Why only reads are served; absent while writes are.
        #[prost(string, optional, tag = "3")] read_only: Option<String>,
        #[prost(uint64, tag = "4")] applied: u64,
        #[prost(uint64, tag = "5")] sealed: u64,
        /// 16 bytes each.
        #[prost(bytes = "bytes", repeated, tag = "6")] ensemble: Vec<Bytes>,
        #[prost(message, repeated, tag = "7")] drives: Vec<DriveRow>,
        #[prost(bytes = "bytes", repeated, tag = "8")] spared: Vec<Bytes>,
        #[prost(message, repeated, tag = "9")] nodes: Vec<NodeRow>,
        #[prost(string, tag = "10")] survive: String,
        #[prost(string, repeated, tag = "11")] warnings: Vec<String>,
        #[prost(string, tag = "12")] survives: String,
        #[prost(uint64, tag = "13")] lost: u64,
        /// The format level; 0: of a release before there were any.
        #[prost(uint32, tag = "14")] level: u32,
        /// What it is known by, but for `applied` and `sealed`; empty: of a release that sends all each time.
        #[prost(bytes = "bytes", tag = "15")] mark: Bytes,
        /// It is the one that is known, but for `applied` and `sealed`: nothing else is set.
        #[prost(bool, tag = "16")] same: bool,
    }
}

/// An account with its secret. It shows nothing of itself in `Debug`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AccountWithSecret {
    /// Without the wrapped secret. Absent: there is no such account.
    #[prost(message, optional, tag = "1")]
    pub row: Option<AccountRow>,
    #[prost(string, tag = "2")]
    pub secret: String,
}

/// A dedup domain with its keys. It shows nothing of itself in `Debug`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct DomainMessage {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub account: String,
    #[prost(bytes = "vec", tag = "3")]
    pub chunk_key: Vec<u8>,
    /// Empty for a plaintext domain, and for SSE-C.
    #[prost(bytes = "vec", tag = "4")]
    pub data_key: Vec<u8>,
    /// [`codec::effect::ProtectionClass`]; Unspecified: SSE-S3 with a data key, plaintext without.
    #[prost(int32, tag = "5")]
    pub class: i32,
    /// The key of the key store.
    #[prost(string, tag = "6")]
    pub key: String,
    /// The key of manifest nodes, where it is not the data key.
    #[prost(bytes = "vec", tag = "7")]
    pub node_key: Vec<u8>,
}

impl std::fmt::Debug for AccountWithSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountWithSecret")
    }
}

impl std::fmt::Debug for DomainMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DomainMessage")
    }
}

/// Packs chunk ids one behind the other.
pub(crate) fn pack_chunks<'a>(ids: impl IntoIterator<Item = &'a ChunkId>) -> Bytes {
    let packed: Vec<u8> = ids.into_iter().flat_map(|id| id.as_bytes().iter().copied()).collect();
    packed.into()
}

pub(crate) fn unpack_chunks(bytes: &[u8]) -> Option<Vec<ChunkId>> {
    let (ids, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| ids.iter().map(|id| ChunkId(*id)).collect())
}

fn number(max: usize) -> u32 {
    u32::try_from(max).unwrap_or(u32::MAX)
}

impl From<ListRequest> for OfPage {
    fn from(of: ListRequest) -> OfPage {
        let ListRequest { bucket, prefix, delimiter, after, max } = of;
        OfPage { bucket: bucket.0, prefix, delimiter, after, within: None, max: number(max) }
    }
}

impl From<VersionsRequest> for OfPage {
    fn from(of: VersionsRequest) -> OfPage {
        let VersionsRequest { bucket, prefix, delimiter, key_marker, version_marker, max } = of;
        OfPage { bucket: bucket.0, prefix, delimiter, after: key_marker, within: version_marker, max: number(max) }
    }
}

impl From<UploadsRequest> for OfPage {
    fn from(of: UploadsRequest) -> OfPage {
        let UploadsRequest { bucket, prefix, delimiter, key_marker, upload_marker, max } = of;
        let within = Some(upload_marker);
        OfPage { bucket: bucket.0, prefix, delimiter, after: key_marker, within, max: number(max) }
    }
}

impl OfPage {
    pub fn keys(self) -> ListRequest {
        let OfPage { bucket, prefix, delimiter, after, max, .. } = self;
        ListRequest { bucket: BucketId(bucket), prefix, delimiter, after, max: max as usize }
    }

    pub fn versions(self) -> VersionsRequest {
        let OfPage { bucket, prefix, delimiter, after, within, max } = self;
        let (bucket, max) = (BucketId(bucket), max as usize);
        VersionsRequest { bucket, prefix, delimiter, key_marker: after, version_marker: within, max }
    }

    pub fn uploads(self) -> UploadsRequest {
        let OfPage { bucket, prefix, delimiter, after, within, max } = self;
        let (bucket, max, upload_marker) = (BucketId(bucket), max as usize, within.unwrap_or_default());
        UploadsRequest { bucket, prefix, delimiter, key_marker: after, upload_marker, max }
    }
}

impl From<PartsRequest> for OfUpload {
    fn from(of: PartsRequest) -> OfUpload {
        OfUpload { upload: Some(of.upload), after: of.after, max: number(of.max), numbers: Vec::new() }
    }
}

impl OfUpload {
    pub fn parts(self) -> Option<PartsRequest> {
        Some(PartsRequest { upload: self.upload?, after: self.after, max: self.max as usize })
    }
}

impl From<ListPage> for KeysPage {
    fn from(page: ListPage) -> KeysPage {
        KeysPage { rows: page.objects, prefixes: page.prefixes, next: page.next }
    }
}

impl From<KeysPage> for ListPage {
    fn from(page: KeysPage) -> ListPage {
        ListPage { objects: page.rows, prefixes: page.prefixes, next: page.next }
    }
}

impl From<VersionsPage> for VersionsAnswer {
    fn from(page: VersionsPage) -> VersionsAnswer {
        let (rows, latest) = page.versions.into_iter().unzip();
        let (next_key, next_version) = page.next.map_or((None, None), |(key, version)| (Some(key), version));
        VersionsAnswer { rows, latest, prefixes: page.prefixes, next_key, next_version }
    }
}

impl VersionsAnswer {
    pub fn page(self) -> Option<VersionsPage> {
        let VersionsAnswer { rows, latest, prefixes, next_key, next_version } = self;
        let versions = (rows.len() == latest.len()).then(|| rows.into_iter().zip(latest).collect())?;
        Some(VersionsPage { versions, prefixes, next: next_key.map(|key| (key, next_version)) })
    }
}

impl From<UploadsPage> for UploadsAnswer {
    fn from(page: UploadsPage) -> UploadsAnswer {
        let (next_key, next_upload) = page.next.map_or((None, String::new()), |(key, upload)| (Some(key), upload));
        UploadsAnswer { rows: page.uploads, prefixes: page.prefixes, next_key, next_upload }
    }
}

impl From<UploadsAnswer> for UploadsPage {
    fn from(page: UploadsAnswer) -> UploadsPage {
        let UploadsAnswer { rows, prefixes, next_key, next_upload } = page;
        UploadsPage { uploads: rows, prefixes, next: next_key.map(|key| (key, next_upload)) }
    }
}

impl From<Option<PartsPage>> for PartsAnswer {
    fn from(page: Option<PartsPage>) -> PartsAnswer {
        let Some(page) = page else { return PartsAnswer::default() };
        PartsAnswer { upload: Some(page.upload), rows: page.parts, next: page.next }
    }
}

impl From<PartsAnswer> for Option<PartsPage> {
    fn from(page: PartsAnswer) -> Option<PartsPage> {
        let PartsAnswer { upload, rows, next } = page;
        Some(PartsPage { upload: upload?, parts: rows, next })
    }
}

impl From<Vec<Option<Hit>>> for HitList {
    fn from(hits: Vec<Option<Hit>>) -> HitList {
        let hit = |hit: Option<Hit>| {
            hit.map_or_else(HitMessage::default, |hit| HitMessage {
                hit: true,
                plain_len: hit.plain_len,
                is_manifest: hit.is_manifest,
            })
        };
        HitList { hits: hits.into_iter().map(hit).collect() }
    }
}

impl HitList {
    /// The answer to a question for `asked` chunks.
    pub fn value(self, asked: usize) -> Option<Vec<Option<Hit>>> {
        let hit = |hit: HitMessage| hit.hit.then_some(Hit { plain_len: hit.plain_len, is_manifest: hit.is_manifest });
        (self.hits.len() == asked).then(|| self.hits.into_iter().map(hit).collect())
    }
}

impl LocatedList {
    /// `holders`: the drives that have an entry of the journal, as far as that is known.
    pub fn new(found: Vec<Option<Located>>, holders: impl Fn(Lsn) -> Option<Holders>) -> LocatedList {
        let mut list = LocatedList::default();
        let mut known = HashMap::new();
        let lsns: BTreeSet<Lsn> = found.iter().flatten().filter_map(|located| located.place.lsn()).collect();
        list.entries = lsns.into_iter().filter_map(|lsn| Some(held_message(lsn, &holders(lsn)?))).collect();
        for located in found {
            let message = located.map_or_else(LocatedMessage::default, |located| {
                let stripe = located.stripe.as_ref().map_or(0, |layout| {
                    *known.entry(layout.descriptor.id).or_insert_with(|| {
                        list.stripes.push(row_of(layout));
                        number(list.stripes.len())
                    })
                });
                let Located { domain, plain_len, is_manifest, place, .. } = located;
                LocatedMessage { domain: domain.0, plain_len, is_manifest, place: Some(place), stripe }
            });
            list.chunks.push(message);
        }
        list
    }

    /// The answer to a question for these chunks.
    pub fn value(self, ids: &[ChunkId]) -> Option<Vec<Option<Located>>> {
        let stripes: Option<Vec<Arc<StripeLayout>>> =
            self.stripes.iter().map(|row| layout_of(row).map(Arc::new)).collect();
        let (stripes, chunks) = (stripes?, self.chunks);
        let one = |(chunk, id): (LocatedMessage, &ChunkId)| {
            let Some(place) = chunk.place else { return Some(None) };
            let stripe = match chunk.stripe.checked_sub(1) {
                None => None,
                Some(index) => Some(stripes.get(index as usize)?.clone()),
            };
            // A place in a stripe comes with that stripe, and one in the journal without any.
            (place.stripe() == stripe.as_ref().map(|layout| layout.descriptor.id)).then_some(())?;
            let (domain, plain_len, is_manifest) = (DomainId(chunk.domain), chunk.plain_len, chunk.is_manifest);
            Some(Some(Located { id: *id, domain, plain_len, is_manifest, place, stripe }))
        };
        (chunks.len() == ids.len()).then(|| chunks.into_iter().zip(ids).map(one).collect())?
    }
}

fn held_message(lsn: Lsn, holders: &Holders) -> HeldMessage {
    let drives = holders.iter().map(|drive| Bytes::copy_from_slice(drive.as_bytes())).collect();
    HeldMessage { lsn: lsn.0, drives }
}

impl HeldMessage {
    pub fn holders(&self) -> Option<Holders> {
        self.drives.iter().map(|drive| DriveId::from_slice(drive)).collect()
    }
}

fn row_of(layout: &StripeLayout) -> StripeRow {
    let drive =
        |drive: &Option<DriveId>| drive.map_or_else(Bytes::new, |drive| Bytes::copy_from_slice(drive.as_bytes()));
    StripeRow { descriptor: layout.descriptor.encode(), drives: layout.drives.iter().map(drive).collect() }
}

fn layout_of(row: &StripeRow) -> Option<StripeLayout> {
    let descriptor = StripeDescriptor::parse(&row.descriptor).ok()?;
    let drives = (0..descriptor.width()).map(|index| row.drive(index)).collect();
    Some(StripeLayout { descriptor, drives })
}
