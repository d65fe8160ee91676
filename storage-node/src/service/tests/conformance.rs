//! The same behaviours, asked of the node itself and of the client of the node in another process: nobody can tell.
use super::*;
use crate::client::{DriveHealth, ReadError, Reserve, ScanEnd, WriteError};
use crate::disk::DiskOp;
use crate::disk::faulty::Fault;
use crate::keep::{Authority, FindingKind, RebuildOrder, ScrubOrder, ScrubState, ShardRef, Subject};
use crate::service::wire::PIECE;
use crate::tests::{batch, entries, noise, shard};
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn, ShardId, StripeId};
use codec::segment::JournalHead;
use codec::stripe::StripeClass;
use rustix::io::Errno;

/// A client of a node, and the node's disks.
pub struct Env {
    pub trace: Trace,
    pub client: Arc<dyn NodeClient>,
    /// Ends with it.
    _cluster: Cluster,
}

pub async fn env(drives: usize, remote: bool) -> Env {
    let cluster = Cluster::start(drives, crate::tests::config(), ServiceConfig::default()).await;
    in_env(cluster, remote)
}

async fn large_env(remote: bool) -> Env {
    in_env(Cluster::large(ServiceConfig::default()).await, remote)
}

fn in_env(cluster: Cluster, remote: bool) -> Env {
    let client: Arc<dyn NodeClient> =
        if remote { cluster.client(Role::Metadata) } else { Arc::clone(&cluster.node) as Arc<dyn NodeClient> };
    Env { trace: cluster.trace.clone(), client, _cluster: cluster }
}

macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(false).await })*
        }
        mod remote {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(true).await })*
        }
    };
}

both!(
    shards_are_written_and_read_by_range,
    a_shard_of_many_pieces_is_read_by_range,
    what_is_not_there_is_named_as_what_it_is,
    damage_is_named_where_it_is,
    errors_of_a_drive_come_through,
    shards_are_listed,
    the_journal_is_appended_read_scanned_and_freed,
    a_register_is_replaced,
    shards_are_verified_and_scrubbed,
    shards_are_rebuilt,
    r10_shards_are_freed_for_who_may,
    drives_say_how_they_are,
);

const DRIVE: fn() -> DriveId = first_drive;

async fn put(client: &dyn NodeClient, counter: u64, len: usize) -> Result<(), WriteError> {
    let (header, payload) = shard(counter, len);
    client.write_shard(DRIVE(), header, payload, Reserve::Client).await
}

fn shard_ref(counter: u64, len: usize) -> ShardRef {
    let (header, _) = shard(counter, len);
    ShardRef { id: header.id(), root: header.descriptor.root() }
}

async fn shards_are_written_and_read_by_range(remote: bool) {
    let env = env(1, remote).await;
    for (counter, len) in [(1, 1), (2, 4096), (3, 100_000), (4, 70_001)] {
        put(&*env.client, counter, len).await.unwrap();
        let (id, root, bytes) = (shard_ref(counter, len).id, shard_ref(counter, len).root, noise(counter, len));
        let len = len as u32;
        for range in [0..len, 0..0, len..len, 0..1, len - 1..len, len / 3..len / 2] {
            let read = env.client.read_shard(DRIVE(), id, root, range.clone()).await;
            assert_eq!(read, Ok(bytes.slice(range.start as usize..range.end as usize)), "{range:?}");
        }
        let header = env.client.read_shard_header(DRIVE(), id).await.unwrap();
        assert_eq!(header, shard(counter, len as usize).0);
    }
}

async fn a_shard_of_many_pieces_is_read_by_range(remote: bool) {
    let env = large_env(remote).await;
    for (counter, len) in [(1, PIECE), (2, PIECE + 1), (3, 5 * PIECE + 4321)] {
        put(&*env.client, counter, len).await.unwrap();
        let (ShardRef { id, root }, bytes, piece) = (shard_ref(counter, len), noise(counter, len), PIECE as u32);
        let len = len as u32;
        for range in [0..len, piece - 1..len, len / 2 - 7..len, 5..len - 5] {
            let read = env.client.read_shard(DRIVE(), id, root, range.clone()).await.unwrap();
            assert!(read == bytes.slice(range.start as usize..range.end as usize), "{range:?}");
        }
        let beyond = env.client.read_shard(DRIVE(), id, root, 7..len + 1).await;
        assert_eq!(beyond, Err(ReadError::OutOfRange { start: 7, end: len + 1, len: len.into() }));
    }
}

async fn what_is_not_there_is_named_as_what_it_is(remote: bool) {
    let env = env(1, remote).await;
    put(&*env.client, 1, 5000).await.unwrap();
    let ShardRef { id, root } = shard_ref(1, 5000);
    let read = async |drive, id, root, range| env.client.read_shard(drive, id, root, range).await;
    assert_eq!(read(DRIVE(), id, root, 3..5001).await, Err(ReadError::OutOfRange { start: 3, end: 5001, len: 5000 }));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = read(DRIVE(), id, root, 9..3).await;
    assert_eq!(reversed, Err(ReadError::OutOfRange { start: 9, end: 3, len: 5000 }));
    assert_eq!(read(DRIVE(), id, [1; 32], 0..1).await, Err(ReadError::WrongStripe));
    assert_eq!(read(DRIVE(), shard_ref(2, 5000).id, root, 0..1).await, Err(ReadError::NotFound));
    let stranger = DriveId([99; 16]);
    assert_eq!(read(stranger, id, root, 0..1).await, Err(ReadError::UnknownDrive(stranger)));
    let (header, payload) = shard(3, 10);
    let written = env.client.write_shard(stranger, header.clone(), payload, Reserve::Client).await;
    assert_eq!(written, Err(WriteError::UnknownDrive(stranger)));
    let short = env.client.write_shard(DRIVE(), header, Bytes::from_static(b"short"), Reserve::Client).await;
    assert_eq!(short, Err(WriteError::Malformed("the header does not describe the payload")));
    assert_eq!(env.client.journal_free(DRIVE(), 77).await, Err(WriteError::NotFreeable(77)));
    assert_eq!(env.client.journal_scan(DRIVE(), 77, Lsn(1)).await.unwrap_err(), ReadError::NotFound);
    assert_eq!(env.client.findings(stranger).await, Err(ReadError::UnknownDrive(stranger)));
}

async fn damage_is_named_where_it_is(remote: bool) {
    let env = env(1, remote).await;
    put(&*env.client, 1, 50_000).await.unwrap();
    let ShardRef { id, root } = shard_ref(1, 50_000);
    env.trace.flip(0, "segments/0000000000000001.seg", 5 * 4096 + 3, 1).unwrap();
    let read = async |range| env.client.read_shard(DRIVE(), id, root, range).await;
    assert_eq!(read(0..50_000).await, Err(ReadError::Damaged { segment: 1, block: 5 }));
    assert_eq!(read(0..4000).await, Ok(noise(1, 50_000).slice(0..4000)), "the rest is still good");
}

async fn errors_of_a_drive_come_through(remote: bool) {
    let env = env(1, remote).await;
    put(&*env.client, 1, 100).await.unwrap();
    env.trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).path(".seg").times(1));
    let failed = put(&*env.client, 2, 100).await;
    assert!(matches!(failed, Err(WriteError::DriveFailed { drive, .. }) if drive == DRIVE()), "{failed:?}");
    put(&*env.client, 3, 100).await.unwrap();
    env.trace.set_room(0, 0);
    let full = put(&*env.client, 4, 200_000).await;
    assert_eq!(full, Err(WriteError::Full { drive: DRIVE() }));
    env.trace.remove_drive(0);
    let gone = put(&*env.client, 5, 100).await;
    assert!(matches!(gone, Err(WriteError::DriveFailed { .. } | WriteError::Full { .. })), "{gone:?}");
    let drives = env.client.drives().await;
    assert!(matches!(drives[0].health, DriveHealth::Failed { .. }), "{drives:?}");
}

async fn shards_are_listed(remote: bool) {
    let env = env(1, remote).await;
    let count = crate::service::answer::LIST as u64 + 150;
    for counter in 0..count {
        put(&*env.client, counter, 10).await.unwrap();
    }
    let all = env.client.list_shards(DRIVE(), None, None, usize::MAX).await.unwrap();
    let counters: Vec<u64> = all.iter().map(|header| header.descriptor.id.counter).collect();
    assert_eq!(counters, (0..count).collect::<Vec<_>>());
    let after = ShardId { stripe: StripeId { epoch: EPOCH, counter: 9 }, index: 0 };
    for limit in [0, 1, 7, 1100] {
        let some = env.client.list_shards(DRIVE(), Some(StripeClass::Data), Some(after), limit).await.unwrap();
        assert_eq!(some, all[10..10 + limit]);
        let refs = env.client.inventory(DRIVE(), Some(after), limit).await.unwrap();
        let of = |header: &codec::shard::ShardHeader| ShardRef { id: header.id(), root: header.descriptor.root() };
        assert_eq!(refs, all[10..10 + limit].iter().map(of).collect::<Vec<_>>());
    }
    assert_eq!(env.client.list_shards(DRIVE(), Some(StripeClass::Ledger), None, 10).await, Ok(vec![]));
}

async fn the_journal_is_appended_read_scanned_and_freed(remote: bool) {
    let env = env(1, remote).await;
    let all = entries(40, 9000);
    let append = async |entries: &[Bytes]| {
        let (header, payload) = batch(entries);
        env.client.journal_append(DRIVE(), header, payload, Reserve::Metadata).await
    };
    let early = append(&all[..1]).await;
    assert_eq!(early, Err(WriteError::OutOfOrder { expected: None, got: Lsn(1) }));
    let head = JournalHead { ensemble: 3, first_lsn: Lsn(1) };
    assert_eq!(env.client.journal_begin(DRIVE(), head).await, Ok(1));
    for some in all.chunks(3) {
        append(some).await.unwrap();
    }
    let gap = append(&entries(50, 10)[45..46]).await;
    assert_eq!(gap, Err(WriteError::OutOfOrder { expected: Some(Lsn(41)), got: Lsn(46) }));
    for (lsn, entry) in (1..).zip(&all) {
        let len = entry.len() as u32;
        assert_eq!(env.client.journal_read(DRIVE(), Lsn(lsn), 0..len).await, Ok(entry.clone()));
        assert_eq!(env.client.journal_read(DRIVE(), Lsn(lsn), 5..9).await, Ok(entry.slice(5..9)));
    }
    assert_eq!(env.client.journal_read(DRIVE(), Lsn(41), 0..1).await, Err(ReadError::NotFound));
    let infos = env.client.journal_segments(DRIVE()).await.unwrap();
    assert!(infos.len() > 2 && infos.iter().all(|info| info.head.ensemble == 3 && info.epoch == EPOCH));
    let mut found = Vec::new();
    for info in &infos {
        let scan = env.client.journal_scan(DRIVE(), info.number, Lsn(1)).await.unwrap();
        assert_eq!(scan.end, ScanEnd::Clean);
        found.extend(scan.entries.into_iter().map(|entry| entry.bytes));
    }
    assert_eq!(found, all);
    let (open, closed) = (infos.last().unwrap().number, infos[0].number);
    assert_eq!(env.client.journal_free(DRIVE(), open).await, Err(WriteError::NotFreeable(open)));
    env.client.journal_free(DRIVE(), closed).await.unwrap();
    assert_eq!(env.client.journal_read(DRIVE(), Lsn(1), 0..1).await, Err(ReadError::NotFound));
}

async fn a_register_is_replaced(remote: bool) {
    let env = env(1, remote).await;
    assert_eq!(env.client.read_register(DRIVE()).await, Ok(Bytes::new()));
    for text in ["one", "two"] {
        env.client.write_register(DRIVE(), Bytes::from_static(text.as_bytes())).await.unwrap();
        assert_eq!(env.client.read_register(DRIVE()).await, Ok(Bytes::from_static(text.as_bytes())));
    }
}

async fn shards_are_verified_and_scrubbed(remote: bool) {
    let env = env(1, remote).await;
    for counter in 0..200 {
        put(&*env.client, counter, 300).await.unwrap();
    }
    env.trace.flip(0, "segments/0000000000000001.seg", 4 * 4096 + 3, 1).unwrap();
    let asked: Vec<ShardRef> = (0..200).map(|counter| shard_ref(counter, 300)).chain([shard_ref(999, 300)]).collect();
    let checked = env.client.verify_shards(DRIVE(), asked.clone()).await.unwrap();
    let bad: Vec<_> = checked.iter().filter_map(|checked| checked.as_ref().err()).collect();
    let kinds: Vec<_> = bad.iter().map(|finding| (finding.subject, finding.kind)).collect();
    let subject = |counter| Subject::Shard(shard_ref(counter, 300).id);
    assert_eq!(kinds, [(subject(1), FindingKind::Damaged), (subject(999), FindingKind::Missing)]);
    let listed = env.client.findings(DRIVE()).await.unwrap();
    assert_eq!(listed, [bad[0].clone()], "of what was never here nothing is remembered");
    let ids = vec![asked[0].id, asked[1].id, asked[200].id];
    let verified = env.client.verified(DRIVE(), ids).await.unwrap();
    assert!(verified[0].as_ref().is_some_and(|v| v.good_ms > 0 && v.finding.is_none()));
    assert_eq!(verified[1].as_ref().and_then(|v| v.finding.clone()), Some(bad[0].clone()));
    assert_eq!(verified[2], None);
    assert_eq!(env.client.settle_unnamed(DRIVE(), vec![subject(1)]).await, Ok(0), "it has a name");
    env.client.scrub_order(DRIVE(), ScrubOrder::Pause).await.unwrap();
    let status = env.client.scrub_status().await;
    assert_eq!((status.len(), status[0].drive, status[0].state), (1, DRIVE(), ScrubState::Paused));
    env.client.scrub_order(DRIVE(), ScrubOrder::Resume).await.unwrap();
}

async fn shards_are_rebuilt(remote: bool) {
    let env = env(6, remote).await;
    let (stripe, order) = two_nodes::stripe_and_order(&[3]);
    two_nodes::write(&*env.client, &stripe).await;
    let done = env.client.rebuild(order.clone()).await.unwrap();
    assert!(done.read > 0 && done.written == u64::from(stripe.descriptor.shard_len(3)));
    two_nodes::assert_rebuilt(&*env.client, &order, &stripe).await;
    let none = RebuildOrder { targets: vec![], ..order.clone() };
    let refused = env.client.rebuild(none).await;
    assert_eq!(refused, Err(crate::keep::RebuildError::Malformed("no shard is wanted")));
    let few = RebuildOrder { sources: order.sources[..1].to_vec(), ..order };
    let Err(crate::keep::RebuildError::TooFewSources { good, needed, .. }) = env.client.rebuild(few).await else {
        panic!("rebuilt from one of two");
    };
    assert_eq!((good, needed), (1, 2));
}

async fn r10_shards_are_freed_for_who_may(remote: bool) {
    let env = env(1, remote).await;
    for counter in 0..10 {
        put(&*env.client, counter, 20_000).await.unwrap();
    }
    let now = Authority { epoch: Epoch(7), lsn: Lsn(70) };
    let wrong = ShardRef { root: [9; 32], ..shard_ref(2, 20_000) };
    let freed = env.client.free_shards(DRIVE(), now, vec![shard_ref(1, 20_000), wrong]).await.unwrap();
    assert_eq!((freed.shards, freed.refused), (1, vec![wrong.id]));
    assert_eq!(env.client.authority(DRIVE()).await, Ok(now));
    let ShardRef { id, root } = shard_ref(1, 20_000);
    assert_eq!(env.client.read_shard(DRIVE(), id, root, 0..1).await, Err(ReadError::NotFound));
    for old in [Authority { epoch: Epoch(6), lsn: Lsn(99) }, Authority { epoch: Epoch(8), lsn: Lsn(69) }] {
        let refused = env.client.free_shards(DRIVE(), old, vec![shard_ref(3, 20_000)]).await;
        assert_eq!(refused, Err(WriteError::OldAuthority { drive: DRIVE(), seen: now }));
        let refused = env.client.free_shards(DRIVE(), old, vec![]).await;
        assert_eq!(refused, Err(WriteError::OldAuthority { drive: DRIVE(), seen: now }));
    }
    assert!(env.client.read_shard(DRIVE(), shard_ref(3, 20_000).id, shard_ref(3, 20_000).root, 0..1).await.is_ok());
    env.client.renew_frees(DRIVE(), now).await.unwrap();
}

async fn drives_say_how_they_are(remote: bool) {
    let env = env(3, remote).await;
    let drives = env.client.drives().await;
    let ids: Vec<DriveId> = drives.iter().map(|drive| drive.id).collect();
    assert_eq!(ids, [drive_id(0), drive_id(1), drive_id(2)]);
    assert!(drives.iter().all(|drive| drive.health == DriveHealth::Healthy && drive.total > 0 && drive.opened == 1));
    assert_eq!(env.client.scrub_status().await.len(), 3);
}
