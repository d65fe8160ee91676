//! Bytes that change on the medium: never served, found as damage below the barrier, and they cost no neighbour (R7).
use super::*;
use crate::client::Lost;
use crate::disk::{Access, DiskFile};
use crate::segment::BLOCK_BYTES;

const LENS: [usize; 5] = [100, 9000, 4088, 30, 6000];
const SEGMENT: &str = "segments/0000000000000001.seg";

/// A drive whose first segment was closed by a second one, and the block of each record's header.
async fn closed_segment() -> (Trace, Vec<u64>) {
    let (trace, node, drive) = one_drive().await;
    let (mut blocks, mut block) = (Vec::new(), 1);
    for (i, len) in LENS.iter().enumerate() {
        put(&node, drive, i as u64, *len).await.unwrap();
        blocks.push(block);
        block += 1 + codec::block::blocks_for(*len as u64);
    }
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    put(&node, drive, 100, 10).await.unwrap();
    node.stop().await;
    assert_eq!(file(&trace, SEGMENT).len().unwrap(), block * BLOCK_BYTES, "the unused tail was released");
    blocks.push(block);
    (trace, blocks)
}

fn file(trace: &Trace, path: &str) -> Arc<dyn DiskFile> {
    trace.disk(0).open(path, Access::ReadWrite).unwrap()
}

/// Which record a block belongs to.
fn record_of(blocks: &[u64], block: u64) -> Option<usize> {
    blocks.iter().rposition(|first| *first <= block)
}

#[tokio::test]
async fn r7_a_flipped_byte_costs_its_record_and_is_found() {
    let (trace, blocks) = closed_segment().await;
    let end = *blocks.last().unwrap() * BLOCK_BYTES;
    let edges = (0..end / BLOCK_BYTES).flat_map(|b| [b * BLOCK_BYTES, (b + 1) * BLOCK_BYTES - 1]);
    for offset in (BLOCK_BYTES..end).step_by(331).chain(edges).filter(|o| *o >= BLOCK_BYTES) {
        trace.flip(0, SEGMENT, offset, 0x10).unwrap();
        let node = open_with(&trace, memory_kv(), config()).await;
        let hit = record_of(&blocks, offset / BLOCK_BYTES).unwrap();
        let header = blocks.contains(&(offset / BLOCK_BYTES));
        if header {
            assert_eq!(node.damage(drive_id(0)).unwrap()[0].what, Lost::Unknown, "offset {offset}");
        }
        for (i, len) in LENS.iter().enumerate() {
            let good = never_wrong(&node, drive_id(0), i as u64, *len).await;
            assert_eq!(good, i != hit, "shard {i}, offset {offset}");
        }
        assert_readable(&node, drive_id(0), 100, 10).await;
        let damage = node.verify(drive_id(0)).await.unwrap();
        assert_eq!(damage.len(), 1, "offset {offset}: {damage:?}");
        assert_eq!((damage[0].block, damage[0].end_block), (blocks[hit], blocks[hit + 1]));
        if !header {
            assert_eq!(damage[0].what, Lost::Shard(shard(hit as u64, LENS[hit]).0.id()));
        }
        node.stop().await;
        trace.flip(0, SEGMENT, offset, 0x10).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_segment_header_loses_the_segment_and_nothing_while_the_index_lives() {
    let (trace, _) = closed_segment().await;
    let kv = memory_kv();
    open_with(&trace, kv.clone(), config()).await.stop().await;
    for offset in (0..BLOCK_BYTES).step_by(97) {
        trace.flip(0, SEGMENT, offset, 1).unwrap();
        let node = open_with(&trace, memory_kv(), config()).await;
        assert_eq!(node.damage(drive_id(0)).unwrap()[0].what, Lost::Segment);
        assert!(!never_wrong(&node, drive_id(0), 0, LENS[0]).await);
        assert_readable(&node, drive_id(0), 100, 10).await;
        node.stop().await;
        let node = open_with(&trace, kv.clone(), config()).await;
        for (i, len) in LENS.iter().enumerate() {
            assert_readable(&node, drive_id(0), i as u64, *len).await;
        }
        node.stop().await;
        trace.flip(0, SEGMENT, offset, 1).unwrap();
    }
}

#[tokio::test]
async fn every_truncation_keeps_what_lies_before_it() {
    let (trace, blocks) = closed_segment().await;
    let end = *blocks.last().unwrap() * BLOCK_BYTES;
    let mut cut = end;
    while cut > 0 {
        cut = cut.saturating_sub(512);
        let image = trace.restart();
        file(image.trace(), SEGMENT).truncate(cut).unwrap();
        let node = open_with(image.trace(), memory_kv(), config()).await;
        for (i, len) in LENS.iter().enumerate() {
            let whole = blocks[i + 1] * BLOCK_BYTES <= cut;
            assert_eq!(never_wrong(&node, drive_id(0), i as u64, *len).await, whole, "shard {i}, cut {cut}");
        }
        if cut >= BLOCK_BYTES {
            assert!(!node.verify(drive_id(0)).await.unwrap().is_empty(), "cut {cut}");
        }
        assert_readable(&node, drive_id(0), 100, 10).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn r7_the_barrier_of_the_segment_itself_or_of_the_index_tells_rot_from_a_torn_tail() {
    let (trace, node, drive) = one_drive().await;
    node.stop().await;
    let kv = memory_kv();
    let node = start(&trace, kv.clone()).await;
    for i in 0..3 {
        put(&node, drive, i, 100).await.unwrap();
    }
    node.stop().await;
    let path = SEGMENT;
    // Records at blocks 1, 3 and 5. The second: covered by the third's own barrier.
    trace.flip(0, path, 3 * BLOCK_BYTES, 1).unwrap();
    let opened = open_with(&trace, memory_kv(), config()).await;
    assert_eq!(opened.damage(drive).unwrap().len(), 1);
    assert_readable(&opened, drive, 2, 100).await;
    opened.stop().await;
    trace.flip(0, path, 3 * BLOCK_BYTES, 1).unwrap();
    // The last: only the index knows that it had been synced.
    trace.flip(0, path, 5 * BLOCK_BYTES, 1).unwrap();
    let opened = open_with(&trace, memory_kv(), config()).await;
    assert_eq!(opened.damage(drive).unwrap(), vec![], "without the index it looks like a torn tail");
    opened.stop().await;
    let opened = open_with(&trace, kv, config()).await;
    assert_eq!(get(&opened, drive, 2, 100).await, Err(ReadError::Damaged { segment: 1, block: 5 }));
    assert_eq!(opened.verify(drive).await.unwrap().len(), 1);
}

#[tokio::test]
async fn r8_a_block_of_another_place_or_segment_is_not_believed() {
    let (trace, blocks) = closed_segment().await;
    let image = trace.restart();
    let target = file(image.trace(), SEGMENT);
    let mut block = vec![0; BLOCK_BYTES as usize];
    target.read_at(&mut block, (blocks[1] + 1) * BLOCK_BYTES).unwrap();
    target.write_at(&block, (blocks[1] + 2) * BLOCK_BYTES).unwrap();
    let node = open_with(image.trace(), memory_kv(), config()).await;
    assert!(!never_wrong(&node, drive_id(0), 1, LENS[1]).await);
    assert_readable(&node, drive_id(0), 2, LENS[2]).await;
    node.stop().await;

    let image = trace.restart();
    let (target, other) = (file(image.trace(), SEGMENT), file(image.trace(), "segments/0000000000000002.seg"));
    other.read_at(&mut block, BLOCK_BYTES).unwrap();
    target.write_at(&block, BLOCK_BYTES).unwrap();
    let node = open_with(image.trace(), memory_kv(), config()).await;
    assert!(!never_wrong(&node, drive_id(0), 0, LENS[0]).await);
    assert_eq!(node.damage(drive_id(0)).unwrap().len(), 1);
}

#[tokio::test]
async fn a_payload_that_looks_like_a_header_is_never_taken_for_one() {
    // A client stores bytes that are a record header of the next block; then the real header in front of them rots.
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 0, 10).await.unwrap();
    let forged = codec::segment::RecordHeader {
        kind: codec::segment::RecordKind::Shard,
        seq: 2,
        block: 4,
        payload_len: 30,
        barrier_block: 1,
        prev_hash: [0; 32],
        body: shard(666, 30).0.encode(),
    };
    let payload = Bytes::copy_from_slice(&forged.encode().unwrap());
    let mut header = shard(1, payload.len()).0;
    header.descriptor.hashes = vec![*blake3::hash(&payload).as_bytes()];
    node.write_shard(drive, header, payload, Reserve::Client).await.unwrap();
    put(&node, drive, 2, 10).await.unwrap();
    node.stop().await;
    trace.flip(0, SEGMENT, 3 * BLOCK_BYTES, 1).unwrap();
    let node = open_with(&trace, memory_kv(), config()).await;
    assert_eq!(get(&node, drive, 666, 30).await, Err(ReadError::NotFound));
    assert_readable(&node, drive, 2, 10).await;
}

#[tokio::test]
async fn a_drive_of_noise_serves_nothing_and_does_not_panic() {
    let (trace, _) = closed_segment().await;
    for seed in 0..4 {
        let image = trace.restart();
        let kv = memory_kv();
        open_with(image.trace(), kv.clone(), config()).await.stop().await;
        let before = image.trace().disk(0).read_small("identity").unwrap();
        image.trace().noise(0, seed);
        image.trace().disk(0).write_durably("identity", &before).unwrap();
        for kv in [kv, memory_kv()] {
            let node = open_with(image.trace(), kv, config()).await;
            for (i, len) in LENS.iter().enumerate() {
                assert!(!never_wrong(&node, drive_id(0), i as u64, *len).await);
            }
            assert!(!node.verify(drive_id(0)).await.unwrap().is_empty());
            node.stop().await;
        }
    }
}
