use super::*;
use crate::golden;
use proptest::prelude::*;

fn seed() -> BlockSeed {
    BlockSeed::for_segment(ClusterId([1; 16]), DriveId([2; 16]), Incarnation([3; 16]))
}

fn sealed(first: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    seal_into(&mut out, seed(), first, payload);
    out
}

#[test]
fn golden_block() {
    let payload: Vec<u8> = (0..BLOCK_PAYLOAD + 100).map(|i| (i * 7 % 251) as u8).collect();
    let mut blocks = sealed(5, &payload);
    seal_into(&mut blocks, BlockSeed::HEADER, 0, b"header");
    golden::check("blocks-v1.bin", &blocks);
}

#[test]
fn every_flipped_byte_is_seen() {
    let payload: Vec<u8> = (0..BLOCK_PAYLOAD).map(|i| i as u8).collect();
    let mut block = sealed(9, &payload);
    for i in 0..block.len() {
        for bit in [1, 0x80] {
            block[i] ^= bit;
            assert_eq!(open_blocks(seed(), 9, &block), Err(BlockError { block: 9 }), "byte {i}");
            block[i] ^= bit;
        }
    }
    assert!(open_blocks(seed(), 9, &block).is_ok());
}

#[test]
fn every_truncation_is_seen() {
    let blocks = sealed(9, &[7; 2 * BLOCK_PAYLOAD]);
    for len in 0..blocks.len() {
        let opened = open_blocks(seed(), 9, &blocks[..len]);
        if len % BLOCK == 0 {
            assert_eq!(opened.map(|p| p.len()), Ok(len / BLOCK * BLOCK_PAYLOAD));
        } else {
            assert_eq!(opened, Err(BlockError { block: 9 + (len / BLOCK) as u64 }));
        }
        // What was asked for and isn't there is an error, also when the truncation fell between two blocks.
        assert!(open_range(seed(), 9, &blocks[..len], 0..2 * BLOCK_PAYLOAD).is_err());
    }
}

/// R8: a block that verifies at one place verifies at no other.
#[test]
fn r8_misdirected_lost_and_recycled_blocks_are_seen() {
    let block = sealed(9, b"payload");
    assert!(open_blocks(seed(), 9, &block).is_ok());
    for other in (0..2000).chain([u64::MAX, 9 + (1 << 32)]).filter(|n| *n != 9) {
        assert!(open_blocks(seed(), other, &block).is_err(), "block {other}");
    }
    let (cluster, drive, incarnation) = (ClusterId([1; 16]), DriveId([2; 16]), Incarnation([3; 16]));
    for other in [
        BlockSeed::for_segment(ClusterId([9; 16]), drive, incarnation),
        BlockSeed::for_segment(cluster, DriveId([9; 16]), incarnation),
        BlockSeed::for_segment(cluster, drive, Incarnation([9; 16])),
        BlockSeed::HEADER,
    ] {
        assert!(open_blocks(other, 9, &block).is_err());
    }
}

/// What a hole, a fresh drive and an erased flash page read as.
#[test]
fn blocks_never_written_do_not_verify() {
    for byte in [0, 0xff] {
        for number in 0..2000 {
            assert!(open_blocks(seed(), number, &[byte; BLOCK]).is_err());
        }
        assert!(open_blocks(BlockSeed::HEADER, 0, &[byte; BLOCK]).is_err());
    }
}

#[test]
fn an_empty_payload_is_no_block() {
    assert_eq!(blocks_for(0), 0);
    assert!(sealed(1, &[]).is_empty());
    assert_eq!(blocks_for(u64::MAX), u64::MAX / BLOCK_PAYLOAD as u64 + 1);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "hostile on purpose")]
fn ranges_out_of_bounds_are_errors() {
    let block = sealed(1, b"payload");
    for range in [0..BLOCK_PAYLOAD + 1, 5..4, usize::MAX..usize::MAX, 0..usize::MAX] {
        assert!(open_range(seed(), u64::MAX, &block, range.clone()).is_err());
        assert_eq!(open_range(seed(), 1, &block, range), Err(BlockError { block: 2 }));
    }
}

proptest! {
    #[test]
    fn round_trip(payload in prop::collection::vec(any::<u8>(), 0..3 * BLOCK), first in any::<u64>()) {
        let blocks = sealed(first, &payload);
        prop_assert_eq!(blocks.len() as u64, blocks_for(payload.len() as u64) * BLOCK as u64);
        let opened = open_blocks(seed(), first, &blocks).unwrap();
        prop_assert_eq!(&opened[..payload.len()], &payload[..]);
        prop_assert!(opened[payload.len()..].iter().all(|b| *b == 0));
        let range = payload.len() / 3..payload.len() / 2;
        prop_assert_eq!(&open_range(seed(), first, &blocks, range.clone()).unwrap()[..], &payload[range]);
    }

    #[test]
    fn random_bytes_do_not_open(bytes in prop::collection::vec(any::<u8>(), 1..2 * BLOCK), first in any::<u64>()) {
        prop_assert!(open_blocks(seed(), first, &bytes).is_err());
    }
}
