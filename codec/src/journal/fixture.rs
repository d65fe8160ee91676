//! Entries that have, between them, every kind of effect and every field set, for golden files. What is in a file is never changed: a
//! kind or a field that is new goes into a new one, of the version of the effects that brings it.

mod v4;

pub(super) use v4::effects_v4;

use crate::effect::*;
use bytes::Bytes;

fn id(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

fn meta() -> ObjectMeta {
    ObjectMeta {
        content_type: "application/pdf".into(),
        cache_control: "no-cache".into(),
        content_disposition: "attachment".into(),
        content_encoding: "gzip".into(),
        content_language: "de".into(),
        expires: "never".into(),
        user: vec![UserMeta { name: "author".into(), value: "Ω".into() }],
        storage_class: "STANDARD".into(),
        website_redirect: "/".into(),
    }
}

fn content() -> Content {
    Content {
        size: 1 << 33,
        etag: "d41d8cd98f00b204e9800998ecf8427e-2".into(),
        checksums: vec![Checksum { algorithm: ChecksumAlgorithm::Crc64Nvme.into(), value: id(6, 8), composite: true }],
        domain: 5,
        manifest: Bytes::from_static(b"manifest"),
        part_sizes: vec![1 << 32, 1 << 32],
        encrypted: true,
        upload_id: String::new(),
        ..Content::default()
    }
}

fn upload() -> UploadName {
    UploadName { bucket: 2, key: "a/b".into(), upload_id: "u1".into() }
}

fn bucket() -> BucketRow {
    BucketRow {
        id: 2,
        name: "archive".into(),
        owner: "owner".into(),
        created_ms: 1_767_225_600_000,
        location: "eu".into(),
        encrypt: true,
        zstd_level: -1,
        ..BucketRow::default()
    }
}

fn account() -> AccountRow {
    AccountRow {
        id: "ac".into(),
        name: "root".into(),
        display_name: "Root".into(),
        access_key: "AK".into(),
        wrapped_secret: id(9, 60),
        ..AccountRow::default()
    }
}

fn first_kinds() -> Vec<EffectKind> {
    let chunk = |place, state: ChunkState| ChunkRow {
        id: id(1, 32),
        domain: 5,
        plain_len: 65536,
        place: Some(place),
        state: state.into(),
        refs: 3,
        condemned_lsn: 77,
        is_manifest: true,
    };
    let stripe = crate::id::StripeId { epoch: crate::id::Epoch(1 << 32), counter: 4 };
    vec![
        EffectKind::PutBucket(bucket()),
        EffectKind::DeleteBucket(bucket()),
        EffectKind::PutVersion(VersionRow {
            bucket: 2,
            key: "a/b".into(),
            seq: 42,
            version_id: "v".into(),
            modified_ms: 1,
            meta: Some(meta()),
            content: Some(content()),
            delete_marker: true,
            ..VersionRow::default()
        }),
        EffectKind::DeleteVersion(VersionName { bucket: 2, key: "a/b".into(), seq: 41 }),
        EffectKind::PutUpload(UploadRow {
            name: Some(upload()),
            seq: 42,
            initiated_ms: 2,
            initiator: "ac".into(),
            meta: Some(meta()),
            checksum: ChecksumAlgorithm::Sha256.into(),
            full_object_checksum: true,
            domain: 5,
            encrypted: true,
            ..UploadRow::default()
        }),
        EffectKind::DeleteUpload(upload()),
        EffectKind::PutPart(PartRow {
            upload: Some(upload()),
            number: 10_000,
            modified_ms: 3,
            content: Some(content()),
        }),
        EffectKind::PutChunk(chunk(Place::in_stripe(stripe, 3, 4096, 700), ChunkState::Live)),
        EffectKind::PutChunk(chunk(Place::in_journal(crate::id::Lsn(42), 176, 700), ChunkState::Condemned)),
        EffectKind::DeleteChunk(ChunkName { id: id(1, 32) }),
        EffectKind::PutStripe(StripeRow { descriptor: id(8, 100), drives: vec![id(2, 16), Bytes::new(), id(3, 16)] }),
        EffectKind::DeleteStripe(StripeName { epoch: 1 << 32, counter: 4 }),
        EffectKind::PutDrive(DriveRow {
            id: id(2, 16),
            state: DriveState::Draining.into(),
            node: 1,
            path: "/mnt/1".into(),
            ..DriveRow::default()
        }),
        EffectKind::PutAccount(account()),
        EffectKind::DeleteAccount(account()),
        EffectKind::PutDomain(DomainRow {
            id: 5,
            account: "ac".into(),
            encrypted: true,
            wrapped_chunk_key: id(4, 60),
            wrapped_data_key: id(5, 60),
            ..DomainRow::default()
        }),
        EffectKind::PutSetting(SettingRow { name: "geometry".into(), value: Bytes::from_static(b"4+2") }),
        EffectKind::StartEpoch(EpochRow { epoch: 1 << 32, ..EpochRow::default() }),
        EffectKind::ClockTick(ClockTick { retention_ms: 4, caught_up_ms: 5, steady_ms: 0 }),
        EffectKind::Sealed(SealedRow {
            first: 1,
            last: 41,
            stripes: vec![StripeName { epoch: 1 << 32, counter: 4 }],
            last_hash: id(7, 32),
        }),
        EffectKind::AcceptedLoss(AcceptedLossRow { kept: 40, known: 41 }),
    ]
}

/// Kinds that came after the first file was written, and those of version 2.
fn later_kinds() -> Vec<EffectKind> {
    let stripes = || vec![StripeName { epoch: 1 << 32, counter: 4 }, StripeName { epoch: 1 << 32, counter: 5 }];
    let checkpoint = |lsn| CheckpointRow { lsn, rows: 1 << 40, stripes: stripes() };
    vec![
        EffectKind::StartEpoch(EpochRow { epoch: 3 << 32, open_from: 1 << 32, journal: 2 << 32 }),
        EffectKind::ClockTick(ClockTick { retention_ms: 4, caught_up_ms: 5, steady_ms: 6 }),
        EffectKind::PutCheckpoint(checkpoint(41)),
        EffectKind::DeleteCheckpoint(checkpoint(12)),
        EffectKind::StripeFreed(StripeName { epoch: 1 << 32, counter: 3 }),
        EffectKind::PutDrive(DriveRow {
            id: id(2, 16),
            state: DriveState::Active.into(),
            node: 1 << 31,
            path: "n1:/mnt/1".into(),
            rack: "r1".into(),
            site: "east".into(),
            cell: 3,
        }),
        EffectKind::PutNode(NodeRow {
            name: "n1".into(),
            address: "n1.example.org:7072".into(),
            state: NodeState::Draining.into(),
        }),
        EffectKind::PutReplication(ReplicationRow {
            bucket: 2,
            seq: 42,
            set_ms: 1_767_225_600_000,
            endpoint: "https://s3.example.org:443".into(),
            region: "eu-central-1".into(),
            target: "copy".into(),
            access_key: "AK".into(),
            wrapped_secret: id(9, 60),
            virtual_host: true,
            deletes: true,
            paused: true,
            walked: true,
            walked_to: "a/b".into(),
            versions: false,
        }),
        EffectKind::DeleteReplication(ReplicationName { bucket: 2 }),
        EffectKind::ReplicationQueue(ReplicationQueueRow {
            bucket: 2,
            queued: vec!["a/b".into(), "Ω".into()],
            done: vec![ReplicatedKey { key: "a/c".into(), lsn: 40 }],
        }),
        EffectKind::GrantEpoch(GrantRow { epoch: 2 << 32, holder: "g1".into(), open_from: 1 << 32 }),
    ]
}

fn of(kinds: Vec<EffectKind>) -> Effects {
    Effects { effects: kinds.into_iter().map(Effect::from).collect(), wall_ms: 1_767_225_600_123 }
}

/// Every kind of effect that there was when the layout of version 1 was fixed.
pub(super) fn effects() -> Effects {
    of(first_kinds())
}

/// The kinds that version 3 brought.
pub(super) fn effects_v3() -> Effects {
    of(vec![EffectKind::PutLevel(LevelRow { level: 3, by: "stele 0.1.0".into() })])
}

/// The other kinds, and the fields that rows have got since.
pub(super) fn effects_v2() -> Effects {
    of(later_kinds())
}
