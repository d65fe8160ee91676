//! Every kind of damage, in every place where it can be: found exactly once, under the right name, and nothing else.
use super::*;

const LENS: [usize; 6] = [100, 9000, 4088, 30, 6000, 20_000];
const FIRST: &str = "segments/0000000000000001.seg";
const SECOND: &str = "segments/0000000000000003.seg";
const JOURNAL: &str = "journal/0000000000000002.seg";

/// Two drives, and on each: a closed data segment, a journal segment and an open data segment.
struct World {
    trace: Trace,
    kv: Arc<MemoryKv>,
    clock: Arc<ManualClock>,
    node: Arc<StorageNode>,
    /// The block of each record's header in the closed segment, and its end.
    blocks: Vec<u64>,
}

const DRIVE: fn() -> DriveId = || drive_id(0);

impl World {
    async fn new() -> World {
        let trace = Trace::new(2);
        format_all(&trace);
        let (kv, clock) = (memory_kv(), ManualClock::new());
        let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, false)).await;
        let (mut blocks, mut block) = (Vec::new(), 1);
        for (i, len) in LENS.iter().enumerate() {
            for drive in 0..2 {
                put(&node, drive_id(drive), 10 * drive as u64 + i as u64, *len).await.unwrap();
            }
            blocks.push(block);
            block += 1 + codec::block::blocks_for(*len as u64);
        }
        blocks.push(block);
        node.journal_begin(DRIVE(), JournalHead { ensemble: 1, first_lsn: Lsn(1) }).await.unwrap();
        let entries = entries(12, 3000);
        for some in entries.chunks(3) {
            let (header, payload) = batch(some);
            node.journal_append(DRIVE(), header, payload, Reserve::Metadata).await.unwrap();
        }
        node.stop().await;
        let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, false)).await;
        for i in 100..103 {
            put(&node, DRIVE(), i, 5000).await.unwrap();
        }
        World { trace, kv, clock, node, blocks }
    }

    async fn pass(&self) -> Vec<Finding> {
        pass(&self.node, &self.clock, DRIVE()).await
    }

    fn read(&self, drive: usize, path: &str, block: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        open_file(&self.trace, drive, path).read_at(&mut bytes, block * BLOCK_BYTES).unwrap();
        bytes
    }

    fn write(&self, path: &str, block: u64, bytes: &[u8]) {
        open_file(&self.trace, 0, path).write_at(bytes, block * BLOCK_BYTES).unwrap();
    }

    /// Does damage, looks for it, undoes it, and looks whether it is forgotten.
    async fn finds(&self, path: &str, block: u64, bytes: &[u8], expected: &[(Subject, FindingKind)]) {
        let before = self.read(0, path, block);
        assert_ne!(before, bytes);
        self.write(path, block, bytes);
        assert_found(&self.pass().await, expected);
        // Once more: found again is not found twice.
        assert_found(&self.pass().await, expected);
        self.write(path, block, &before);
        assert_found(&self.pass().await, &[]);
    }
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    let world = World::new().await;
    assert_found(&world.pass().await, &[]);
    let status = status(&world.node, DRIVE()).await;
    assert_eq!((status.shards, status.verified_shards, status.findings), (9, 9, [0; 7]));
    assert!(status.total_bytes > 0 && status.oldest_ms >= status.pass_began_ms);
    world.node.stop().await;
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_damage_to_what_lies_there() {
    let world = World::new().await;
    for (i, block) in world.blocks.iter().enumerate().take(LENS.len()) {
        // The header, the first block of the payload, the last byte of the last one.
        for (block, at) in [(*block, 77), (block + 1, 0), (world.blocks[i + 1] - 1, 4095)] {
            let mut bytes = world.read(0, FIRST, block);
            bytes[at] ^= 4;
            world.finds(FIRST, block, &bytes, &[(subject(i as u64), FindingKind::Damaged)]).await;
        }
    }
    // In the segment that is being written, up to its barrier.
    let mut bytes = world.read(0, SECOND, 2);
    bytes[0] ^= 1;
    world.finds(SECOND, 2, &bytes, &[(subject(100), FindingKind::Damaged)]).await;
    // The journal: records of one header and three blocks each.
    for (block, entries) in [(1, (1, 3)), (3, (1, 3)), (5, (4, 6)), (6, (4, 6))] {
        let mut bytes = world.read(0, JOURNAL, block);
        bytes[9] ^= 1;
        let subject = Subject::Entries(Lsn(entries.0), Lsn(entries.1));
        world.finds(JOURNAL, block, &bytes, &[(subject, FindingKind::Damaged)]).await;
    }
    world.node.stop().await;
}

/// Nobody else can mend it: found by one pass, restored when the next one begins.
#[tokio::test]
async fn a_segment_header_is_found_broken_and_written_again() {
    let world = World::new().await;
    for (number, path) in [(1, FIRST), (2, JOURNAL)] {
        let before = world.read(0, path, 0);
        let subject = Subject::Blocks { segment: number, start: 0, end: 1 };
        let sectors = 0..512;
        for kind in [FindingKind::Damaged, FindingKind::Misplaced, FindingKind::Unreadable] {
            match kind {
                FindingKind::Damaged => world.trace.flip(0, path, 100, 1).unwrap(),
                FindingKind::Misplaced => world.write(path, 0, &world.read(1, FIRST, 0)),
                _ => world.trace.make_unreadable(0, path, sectors.clone()).unwrap(),
            }
            assert_found(&world.pass().await, &[(subject, kind)]);
            world.trace.make_readable(0);
            assert_found(&world.pass().await, &[]);
            assert_eq!(world.read(0, path, 0), before);
        }
    }
    // One that is being written is closed first: on a drive that nobody writes to it may stay the last one for years.
    let (before, subject) = (world.read(0, SECOND, 0), Subject::Blocks { segment: 3, start: 0, end: 1 });
    world.trace.flip(0, SECOND, 100, 1).unwrap();
    assert_found(&world.pass().await, &[(subject, FindingKind::Damaged)]);
    assert_found(&world.pass().await, &[]);
    assert_eq!(world.read(0, SECOND, 0), before);
    put(&world.node, DRIVE(), 300, 5000).await.unwrap();
    world.node.stop().await;
}

/// With the header the first record's has rotted, which would vouch for it: another record of the segment does.
#[tokio::test]
async fn a_segment_header_is_written_again_although_the_first_record_is_rotten_too() {
    let world = World::new().await;
    let entries = Subject::Entries(Lsn(1), Lsn(3));
    for (number, path, first) in [(1, FIRST, subject(0)), (2, JOURNAL, entries)] {
        let before = world.read(0, path, 0);
        let header = Subject::Blocks { segment: number, start: 0, end: 1 };
        world.trace.flip(0, path, 100, 1).unwrap();
        world.trace.flip(0, path, BLOCK_BYTES, 1).unwrap();
        assert_found(&world.pass().await, &[(header, FindingKind::Damaged), (first, FindingKind::Damaged)]);
        assert_found(&world.pass().await, &[(first, FindingKind::Damaged)]);
        assert_eq!(world.read(0, path, 0), before);
        world.trace.flip(0, path, BLOCK_BYTES, 1).unwrap();
        assert_found(&world.pass().await, &[]);
    }
    world.node.stop().await;
}

/// Nothing in the segment verifies, so nothing vouches for its header: it stays damaged as long as the index has shards there,
/// and once they were rebuilt elsewhere nobody needs it.
#[tokio::test]
async fn a_segment_of_which_nothing_is_left_is_retired_when_its_shards_are_rebuilt() {
    let world = World::new().await;
    for block in [0].iter().chain(&world.blocks[..6]) {
        world.trace.flip(0, FIRST, block * BLOCK_BYTES + 100, 1).unwrap();
    }
    let header = Subject::Blocks { segment: 1, start: 0, end: 1 };
    let mut expected: Vec<_> = (0..6).map(|i| (subject(i), FindingKind::Damaged)).collect();
    expected.push((header, FindingKind::Damaged));
    for _ in 0..2 {
        assert_found(&world.pass().await, &expected);
    }
    for (i, len) in LENS.iter().enumerate() {
        put(&world.node, DRIVE(), i as u64, *len).await.unwrap();
    }
    let rotten = world.read(0, FIRST, 0);
    assert_found(&world.pass().await, &[(header, FindingKind::Unknown)]);
    assert_eq!(world.node.settle_unnamed(DRIVE(), vec![header]).await.unwrap(), 1);
    for _ in 0..2 {
        assert_found(&world.pass().await, &[]);
    }
    assert_eq!(world.read(0, FIRST, 0), rotten);
    world.node.stop().await;
}

#[tokio::test]
async fn zeroed_blocks_are_found_and_the_first_of_a_payload_is_a_shard_that_is_missing() {
    let world = World::new().await;
    let zeros = vec![0; BLOCK_BYTES as usize];
    world.finds(FIRST, world.blocks[1], &zeros, &[(subject(1), FindingKind::Damaged)]).await;
    world.finds(FIRST, world.blocks[1] + 1, &zeros, &[(subject(1), FindingKind::Missing)]).await;
    world.finds(FIRST, world.blocks[1] + 2, &zeros, &[(subject(1), FindingKind::Damaged)]).await;
    let entries = (Subject::Entries(Lsn(1), Lsn(3)), FindingKind::Damaged);
    world.finds(JOURNAL, 1, &zeros, &[entries]).await;
    world.finds(JOURNAL, 2, &zeros, &[entries]).await;
    world.node.stop().await;
}

#[tokio::test]
async fn a_block_of_another_place_segment_or_drive_is_misplaced() {
    let world = World::new().await;
    let at = |i: usize| world.blocks[i];
    let misplaced = |i: u64| [(subject(i), FindingKind::Misplaced)];
    // Payload of the same record, of another one, of another segment, of the journal, of another drive's segment.
    world.finds(FIRST, at(1) + 1, &world.read(0, FIRST, at(1) + 2), &misplaced(1)).await;
    world.finds(FIRST, at(1) + 1, &world.read(0, FIRST, at(4) + 1), &misplaced(1)).await;
    world.finds(FIRST, at(4) + 1, &world.read(0, SECOND, 2), &misplaced(4)).await;
    world.finds(FIRST, at(4) + 1, &world.read(0, JOURNAL, 3), &misplaced(4)).await;
    world.finds(FIRST, at(4) + 1, &world.read(1, FIRST, at(4) + 1), &misplaced(4)).await;
    // Headers in the place of payload and the other way round; a header of another place; a segment's header.
    world.finds(FIRST, at(4) + 1, &world.read(0, FIRST, at(2)), &misplaced(4)).await;
    world.finds(FIRST, at(4), &world.read(0, FIRST, at(4) + 1), &misplaced(4)).await;
    world.finds(FIRST, at(4), &world.read(0, FIRST, at(3)), &misplaced(4)).await;
    world.finds(FIRST, at(4), &world.read(1, FIRST, at(4)), &misplaced(4)).await;
    world.finds(FIRST, at(0), &world.read(0, SECOND, 0), &misplaced(0)).await;
    let entries = [(Subject::Entries(Lsn(4), Lsn(6)), FindingKind::Misplaced)];
    world.finds(JOURNAL, 5, &world.read(0, JOURNAL, 1), &entries).await;
    world.finds(JOURNAL, 6, &world.read(0, FIRST, at(1) + 1), &entries).await;
    world.node.stop().await;
}

#[tokio::test]
async fn two_swapped_blocks_are_two_misplaced_ones() {
    let world = World::new().await;
    let (a, b) = (world.blocks[1] + 1, world.blocks[4] + 1);
    let (first, second) = (world.read(0, FIRST, a), world.read(0, FIRST, b));
    world.write(FIRST, a, &second);
    world.write(FIRST, b, &first);
    let expected = [(subject(1), FindingKind::Misplaced), (subject(4), FindingKind::Misplaced)];
    assert_found(&world.pass().await, &expected);
    world.node.stop().await;
}

#[tokio::test]
async fn sectors_that_can_not_be_read_are_unreadable_and_their_neighbours_are_not() {
    let world = World::new().await;
    let at = |i: usize| world.blocks[i];
    let sector = |block: u64| block * BLOCK_BYTES + 512..block * BLOCK_BYTES + 1024;
    for (block, expected) in [(at(1), subject(1)), (at(4) + 1, subject(4)), (at(5) + 4, subject(5))] {
        world.trace.make_unreadable(0, FIRST, sector(block)).unwrap();
        assert_found(&world.pass().await, &[(expected, FindingKind::Unreadable)]);
        world.trace.make_readable(0);
        assert_found(&world.pass().await, &[]);
    }
    for block in [5, 6] {
        world.trace.make_unreadable(0, JOURNAL, sector(block)).unwrap();
        let entries = Subject::Entries(Lsn(4), Lsn(6));
        assert_found(&world.pass().await, &[(entries, FindingKind::Unreadable)]);
        world.trace.make_readable(0);
        assert_found(&world.pass().await, &[]);
    }
    world.node.stop().await;
}

#[tokio::test]
async fn a_truncated_segment_misses_what_is_cut_off() {
    let world = World::new().await;
    let (cut, mut kept) = (world.blocks[3] + 1, Vec::new());
    for block in cut..world.blocks[6] {
        kept.push(world.read(0, FIRST, block));
    }
    open_file(&world.trace, 0, FIRST).truncate(cut * BLOCK_BYTES).unwrap();
    let missing = |i| (subject(i), FindingKind::Missing);
    assert_found(&world.pass().await, &[missing(3), missing(4), missing(5)]);
    for (block, bytes) in (cut..).zip(&kept) {
        world.write(FIRST, block, bytes);
    }
    assert_found(&world.pass().await, &[]);
    world.node.stop().await;
}

#[tokio::test]
async fn a_missing_segment_misses_everything_that_was_in_it() {
    let world = World::new().await;
    world.trace.disk(0).remove(FIRST).unwrap();
    world.trace.disk(0).remove(JOURNAL).unwrap();
    let mut expected: Vec<_> = (0..6).map(|i| (subject(i), FindingKind::Missing)).collect();
    expected.extend((0..4).map(|i| (Subject::Entries(Lsn(3 * i + 1), Lsn(3 * i + 3)), FindingKind::Missing)));
    assert_found(&world.pass().await, &expected);
    // Written again, a shard is no longer missing; freed, the journal's segment is no longer asked for.
    put(&world.node, DRIVE(), 2, LENS[2]).await.unwrap();
    world.node.journal_begin(DRIVE(), JournalHead { ensemble: 1, first_lsn: Lsn(13) }).await.unwrap();
    world.node.journal_free(DRIVE(), 2).await.unwrap();
    let expected: Vec<_> = [0, 1, 3, 4, 5].map(|i| (subject(i), FindingKind::Missing)).to_vec();
    assert_found(&world.pass().await, &expected);
    world.node.stop().await;
}

#[tokio::test]
async fn a_drive_of_noise_is_damage_to_everything_that_was_on_it() {
    let world = World::new().await;
    let identity = world.trace.disk(0).read_small("identity").unwrap();
    world.trace.noise(0, 7);
    world.trace.disk(0).write_durably("identity", &identity).unwrap();
    let mut expected: Vec<_> = (0..6).chain(100..103).map(|i| (subject(i), FindingKind::Damaged)).collect();
    expected.extend((0..4).map(|i| (Subject::Entries(Lsn(3 * i + 1), Lsn(3 * i + 3)), FindingKind::Damaged)));
    let header = |segment| (Subject::Blocks { segment, start: 0, end: 1 }, FindingKind::Damaged);
    expected.extend([1, 2, 3].map(header));
    for _ in 0..2 {
        assert_found(&world.pass().await, &expected);
    }
    world.node.stop().await;
}

/// The file, or its header and the index's copy of it, went while the node was down.
#[tokio::test]
async fn a_segment_that_a_start_does_not_find_misses_what_the_index_has_in_it() {
    let World { trace, kv, clock, node, .. } = World::new().await;
    node.stop().await;
    trace.disk(0).remove(FIRST).unwrap();
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
    let missing: Vec<_> = (0..6).map(|i| (subject(i), FindingKind::Missing)).collect();
    for _ in 0..2 {
        assert_found(&pass(&node, &clock, DRIVE()).await, &missing);
    }
    let there: Vec<_> = (100..103).map(|i| shard_ref(i, 5000)).collect();
    assert_eq!(node.inventory(DRIVE(), None, 100).await.unwrap(), there);
    assert_found(&node.findings(DRIVE()).await.unwrap(), &missing);
    node.stop().await;
}

#[tokio::test]
async fn blocks_that_nobody_can_name_are_unknown() {
    let world = World::new().await;
    // The header is gone, and the index does not know the shard either.
    let id = shard(1, LENS[1]).0.id();
    let key = [DRIVE().as_bytes(), &id.stripe.to_bytes(), &[0]].concat();
    let mut batch = KvBatch::new();
    batch.delete(SHARDS, key);
    world.kv.write(batch).unwrap();
    let mut bytes = world.read(0, FIRST, world.blocks[1]);
    bytes[0] ^= 1;
    world.write(FIRST, world.blocks[1], &bytes);
    let blocks = Subject::Blocks { segment: 1, start: world.blocks[1], end: world.blocks[2] };
    // That it was written here and has vanished is known all the same.
    assert_found(&world.pass().await, &[(blocks, FindingKind::Unknown), (subject(1), FindingKind::Missing)]);
    world.node.stop().await;
}

/// Whoever knows all shards that should be there says that nothing is missed, and it is not listed again.
#[tokio::test]
async fn damage_to_nobody_knows_what_is_settled_once_and_for_all() {
    let World { trace, clock, node, .. } = World::new().await;
    node.stop().await;
    // The node's index is gone, and so is a segment; of another record the header is gone.
    let kv = memory_kv();
    trace.disk(0).remove(FIRST).unwrap();
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, false)).await;
    let astray = Subject::Blocks { segment: 1, start: 0, end: 1 };
    assert_found(&pass(&node, &clock, DRIVE()).await, &[(astray, FindingKind::Unknown)]);
    let header = open_file(&trace, 0, SECOND);
    header.write_at(&[0x55; 100], BLOCK_BYTES).unwrap();
    let mut batch = KvBatch::new();
    for family in [SHARDS, crate::index::SCRUB] {
        let id = shard(100, 5000).0.id();
        let key = [DRIVE().as_bytes(), &id.stripe.to_bytes()[..], &[0]].concat();
        let checks = [DRIVE().as_bytes(), &b"v"[..], &id.stripe.to_bytes(), &[0]].concat();
        batch.delete(family, if family == SHARDS { key } else { checks });
    }
    kv.write(batch).unwrap();
    let found = pass(&node, &clock, DRIVE()).await;
    let unnamed: Vec<Subject> = found.iter().map(|finding| finding.subject).collect();
    assert!(found.len() == 2 && found.iter().all(|f| f.kind == FindingKind::Unknown), "{found:?}");

    // Only what is named is settled, and only what is unknown.
    assert_eq!(node.settle_unnamed(DRIVE(), vec![subject(101), astray]).await.unwrap(), 1);
    let left: Vec<_> =
        unnamed.iter().filter(|subject| **subject != astray).map(|s| (*s, FindingKind::Unknown)).collect();
    for _ in 0..2 {
        assert_found(&pass(&node, &clock, DRIVE()).await, &left);
    }
    assert_eq!(node.settle_unnamed(DRIVE(), unnamed).await.unwrap(), 1);
    node.stop().await;
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
    for _ in 0..2 {
        assert_found(&pass(&node, &clock, DRIVE()).await, &[]);
    }
    // What is damaged later is found all the same.
    trace.flip(0, SECOND, 5 * BLOCK_BYTES + 9, 1).unwrap();
    assert_eq!(pass(&node, &clock, DRIVE()).await.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn findings_about_a_journal_segment_go_with_it() {
    let world = World::new().await;
    world.trace.flip(0, JOURNAL, 5 * BLOCK_BYTES + 9, 1).unwrap();
    let entries = Subject::Entries(Lsn(4), Lsn(6));
    assert_found(&world.pass().await, &[(entries, FindingKind::Damaged)]);
    world.node.journal_begin(DRIVE(), JournalHead { ensemble: 1, first_lsn: Lsn(13) }).await.unwrap();
    world.node.journal_free(DRIVE(), 2).await.unwrap();
    assert_found(&world.node.findings(DRIVE()).await.unwrap(), &[]);
    world.node.stop().await;
}

#[tokio::test]
async fn content_that_is_not_what_its_stripe_names_is_damage_although_every_block_verifies() {
    let world = World::new().await;
    // Sealed anew over other bytes, as a machine that computes wrong results would have done.
    let rows = world.node.read_shard_header(DRIVE(), shard(3, LENS[3]).0.id()).await.unwrap();
    assert_eq!(rows.payload_len(), LENS[3] as u32);
    let header = world.read(0, FIRST, 0);
    let header = codec::segment::SegmentHeader::parse(&header[..codec::block::BLOCK_PAYLOAD]).unwrap();
    let seed = codec::block::BlockSeed::for_segment(header.cluster, header.drive, header.incarnation);
    let mut sealed = Vec::new();
    codec::block::seal_into(&mut sealed, seed, world.blocks[3] + 1, &noise(77, LENS[3]));
    world.finds(FIRST, world.blocks[3] + 1, &sealed, &[(subject(3), FindingKind::Damaged)]).await;
    world.node.stop().await;
}

#[tokio::test]
async fn what_a_cache_hides_is_seen() {
    let world = World::new().await;
    let block = world.blocks[1] + 1;
    world.trace.flip_under_cache(0, FIRST, block * BLOCK_BYTES, 1).unwrap();
    assert_readable(&world.node, DRIVE(), 1, LENS[1]).await;
    assert_found(&world.pass().await, &[(subject(1), FindingKind::Damaged)]);
    // A write that is lost, or lands elsewhere, while readers are shown what was meant.
    let lost = world.trace.inject(Fault::lost_write().under_cache().drive(0).path(SECOND).times(1));
    put(&world.node, DRIVE(), 200, 5000).await.unwrap();
    assert_eq!(world.trace.hits(lost), 1);
    world.trace.heal_all();
    assert_readable(&world.node, DRIVE(), 200, 5000).await;
    put(&world.node, DRIVE(), 201, 5000).await.unwrap();
    let found = world.pass().await;
    assert_found(&found, &[(subject(1), FindingKind::Damaged), (subject(200), FindingKind::Damaged)]);
    world.node.stop().await;
}

#[tokio::test]
async fn findings_survive_a_restart_and_a_drive_that_goes_away_makes_none() {
    let World { trace, kv, clock, node, blocks } = World::new().await;
    trace.flip(0, FIRST, (blocks[2] + 1) * BLOCK_BYTES, 1).unwrap();
    let found = pass(&node, &clock, DRIVE()).await;
    assert_found(&found, &[(subject(2), FindingKind::Damaged)]);
    node.stop().await;
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
    assert_eq!(node.findings(DRIVE()).await.unwrap(), found);
    assert_eq!(status(&node, DRIVE()).await.findings[1], 1);
    trace.remove_drive(0);
    node.scrub_order(DRIVE(), ScrubOrder::Start).await.unwrap();
    until(&node, DRIVE(), "stopped", |s| s.state == ScrubState::Stopped).await;
    assert_eq!(node.findings(DRIVE()).await.unwrap(), found);
    // The other drive of the node goes on.
    assert_found(&pass(&node, &clock, drive_id(1)).await, &[]);
    node.stop().await;
}
