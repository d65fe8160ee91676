use super::*;
use crate::block::{BLOCK, BlockError, BlockSeed, open_blocks, open_range, seal_into};
use crate::golden;
use proptest::prelude::*;

fn header() -> SegmentHeader {
    SegmentHeader {
        version: SEGMENT_VERSION,
        class: SegmentClass::Journal,
        cluster: ClusterId([1; 16]),
        drive: DriveId([2; 16]),
        number: 7,
        incarnation: Incarnation([3; 16]),
        epoch: Epoch(0x5_1234_5678),
        previous: Some(Closed { number: 4, closed_blocks: 99, last_record_hash: [5; 32] }),
        journal: Some(JournalHead { ensemble: 3, first_lsn: Lsn(1000) }),
        created_by: "stele 0.1.0".to_owned(),
    }
}

fn data_header() -> SegmentHeader {
    SegmentHeader { class: SegmentClass::Data, previous: None, journal: None, ..header() }
}

fn seed() -> BlockSeed {
    BlockSeed::for_segment(ClusterId([1; 16]), DriveId([2; 16]), Incarnation([3; 16]))
}

/// A closed segment of these payloads, and what its successor will say about it.
fn image(payloads: &[&[u8]]) -> (Vec<u8>, Closed) {
    let mut out = Vec::new();
    let head = data_header().encode();
    seal_into(&mut out, BlockSeed::HEADER, 0, &head);
    let mut chain = Chain::start(&head);
    for payload in payloads {
        let record = RecordHeader {
            kind: RecordKind::Shard,
            seq: chain.seq,
            block: chain.block,
            payload_len: payload.len() as u64,
            barrier_block: chain.block,
            prev_hash: chain.prev_hash,
            body: Bytes::from_static(b"body"),
        };
        seal_into(&mut out, seed(), record.block, &record.encode().unwrap());
        seal_into(&mut out, seed(), record.payload_block(), payload);
        chain = chain.after(&record).unwrap();
        assert_eq!(chain.block as usize * BLOCK, out.len());
    }
    (out, Closed { number: 7, closed_blocks: chain.block, last_record_hash: chain.prev_hash })
}

#[derive(Debug)]
enum Damage {
    Block(#[expect(dead_code, reason = "shown when a test fails")] BlockError),
    Header(#[expect(dead_code, reason = "shown when a test fails")] SegmentError),
    Short,
    Closed,
}

/// Reads a closed segment the way a scrub does.
fn walk(image: &[u8], closed: &Closed) -> Result<Vec<Vec<u8>>, Damage> {
    let blocks = |from: u64, n: u64| {
        let at = |block: u64| usize::try_from(block).ok()?.checked_mul(BLOCK);
        at(from).zip(at(from + n)).and_then(|(a, b)| image.get(a..b)).ok_or(Damage::Short)
    };
    let head = open_blocks(BlockSeed::HEADER, 0, blocks(0, 1)?).map_err(Damage::Block)?;
    let parsed = SegmentHeader::parse(&head).map_err(Damage::Header)?;
    let seed = BlockSeed::for_segment(parsed.cluster, parsed.drive, parsed.incarnation);
    let mut chain = Chain::start(&head.try_into().unwrap());
    let mut payloads = Vec::new();
    while chain.block < closed.closed_blocks {
        let record = open_blocks(seed, chain.block, blocks(chain.block, 1)?).map_err(Damage::Block)?;
        let record = RecordHeader::parse(&record).map_err(Damage::Header)?;
        chain = chain.after(&record).map_err(Damage::Header)?;
        let payload = blocks(record.payload_block(), blocks_for(record.payload_len))?;
        let range = 0..record.payload_len as usize;
        payloads.push(open_range(seed, record.payload_block(), payload, range).map_err(Damage::Block)?.to_vec());
    }
    let end = (chain.block, chain.prev_hash);
    if end == (closed.closed_blocks, closed.last_record_hash) { Ok(payloads) } else { Err(Damage::Closed) }
}

#[test]
fn golden_segment() {
    let (image, closed) = image(&[&[7; 5000], b"second"]);
    golden::check("segment-v1.bin", &image);
    assert_eq!(walk(&image, &closed).unwrap(), vec![vec![7; 5000], b"second".to_vec()]);
    golden::check("segment-header-journal-v1.bin", &header().encode());
}

#[test]
fn headers_round_trip() {
    for header in [header(), data_header()] {
        assert_eq!(SegmentHeader::parse(&header.encode()), Ok(header));
    }
}

#[test]
fn a_long_name_of_the_software_is_cut_between_characters() {
    let created_by = "é".repeat(16) + "é";
    let header = SegmentHeader { created_by, ..header() };
    assert_eq!(SegmentHeader::parse(&header.encode()).unwrap().created_by, "é".repeat(16));
    let header = SegmentHeader { created_by: "x".to_owned() + &"é".repeat(16), ..header };
    assert_eq!(SegmentHeader::parse(&header.encode()).unwrap().created_by, "x".to_owned() + &"é".repeat(15));
}

#[test]
fn every_flipped_byte_is_seen() {
    let (mut image, closed) = image(&[&[7; 5000], b"second"]);
    assert_eq!(image.len(), 6 * BLOCK);
    for i in 0..image.len() {
        image[i] ^= 0x10;
        assert!(walk(&image, &closed).is_err(), "byte {i}");
        image[i] ^= 0x10;
    }
}

#[test]
fn every_truncation_is_seen() {
    let (image, closed) = image(&[&[7; 5000], b"second"]);
    for len in 0..image.len() {
        assert!(walk(&image[..len], &closed).is_err(), "length {len}");
    }
}

/// R7: a chain does not go on into records of another chain, even where every block verifies.
#[test]
fn r7_records_of_another_chain_do_not_continue_this_one() {
    let (one, closed) = image(&[b"first", b"second"]);
    let (other, _) = image(&[b"other", b"second"]);
    let mixed = [&one[..3 * BLOCK], &other[3 * BLOCK..]].concat();
    // The headers differ in nothing but the hash of what came before: the payload is not covered by it, its body is.
    assert!(walk(&mixed, &closed).is_ok());
    let (third, _) = image(&[&[0; 2 * BLOCK_PAYLOAD], b"second"]);
    let mixed = [&third[..3 * BLOCK], &one[3 * BLOCK..]].concat();
    assert!(walk(&mixed, &closed).is_err());
}

#[test]
fn r7_the_chain_checks_block_seq_hash_and_barrier() {
    let chain = Chain { block: 10, seq: 3, prev_hash: [1; 32], barrier_block: 8 };
    let good = RecordHeader {
        kind: RecordKind::Journal,
        seq: 3,
        block: 10,
        payload_len: 1,
        barrier_block: 8,
        prev_hash: [1; 32],
        body: Bytes::new(),
    };
    assert_eq!(chain.check(&good), Ok(()));
    let next = chain.after(&good).unwrap();
    assert_eq!((next.block, next.seq, next.barrier_block), (12, 4, 8));
    for (bad, field) in [
        (RecordHeader { block: 11, ..good.clone() }, "block"),
        (RecordHeader { seq: 4, ..good.clone() }, "seq"),
        (RecordHeader { prev_hash: [2; 32], ..good.clone() }, "prev_hash"),
        (RecordHeader { barrier_block: 7, ..good.clone() }, "barrier_block"),
    ] {
        assert_eq!(chain.check(&bad), Err(SegmentError::Chain { field }));
        assert!(chain.after(&bad).is_err());
    }
}

#[test]
fn an_unknown_version_is_refused_by_number() {
    let mut bytes = header().encode();
    bytes[8] = 2;
    assert_eq!(SegmentHeader::parse(&bytes), Err(SegmentError::Version { what: "segment", version: 2 }));
}

#[test]
fn fields_out_of_range_are_refused() {
    let refuse = |at: usize, bytes: &[u8], name: &'static str| {
        let mut payload = header().encode();
        payload[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(SegmentHeader::parse(&payload), Err(SegmentError::Field { field: name }), "{name} at {at}");
    };
    refuse(10, &[0], "class");
    refuse(10, &[1], "journal");
    refuse(11, &[7], "flags");
    refuse(11, &[2], "previous");
    refuse(11, &[1], "journal");
    refuse(12, &[1], "reserved");
    refuse(80, &7u64.to_le_bytes(), "previous.number");
    refuse(88, &u64::MAX.to_le_bytes(), "previous.closed_blocks");
    refuse(136, &0u64.to_le_bytes(), "journal.first_lsn");
    refuse(144, &[0xff], "created_by");
    refuse(144, &[0], "created_by");
    refuse(4087, &[1], "reserved");
}

#[test]
fn record_fields_out_of_range_neither_encode_nor_parse() {
    let good = RecordHeader {
        kind: RecordKind::Shard,
        seq: 0,
        block: 1,
        payload_len: 0,
        barrier_block: 1,
        prev_hash: [0; 32],
        body: Bytes::from(vec![1; MAX_RECORD_BODY]),
    };
    assert_eq!(RecordHeader::parse(&good.encode().unwrap()), Ok(good.clone()));
    for bad in [
        RecordHeader { body: Bytes::from(vec![1; MAX_RECORD_BODY + 1]), ..good.clone() },
        RecordHeader { payload_len: MAX_RECORD_PAYLOAD + 1, ..good.clone() },
        RecordHeader { block: 0, ..good.clone() },
        RecordHeader { block: MAX_SEGMENT_BLOCKS, ..good.clone() },
        RecordHeader { seq: 1, ..good.clone() },
        RecordHeader { barrier_block: 2, ..good.clone() },
    ] {
        assert!(bad.encode().is_err());
        assert!(bad.hash().is_err());
    }
    let mut bytes = good.encode().unwrap();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(RecordHeader::parse(&bytes), Err(SegmentError::Field { field: "body_len" }));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(SegmentHeader::parse(&bytes).is_err());
        prop_assert!(RecordHeader::parse(&bytes).is_err());
    }

    /// Hostile fields behind a good magic and version: refused, or read into the one value that encodes to them.
    #[test]
    fn hostile_fields_never_panic(edits in prop::collection::vec((10usize..220, any::<u8>()), 1..8)) {
        let mut bytes = header().encode();
        let record = RecordHeader { kind: RecordKind::Shard, seq: 1, block: 9, payload_len: 99, barrier_block: 3,
            prev_hash: [0; 32], body: Bytes::from_static(b"body") };
        let mut record = record.encode().unwrap();
        for (at, value) in edits {
            bytes[at] = value;
            record[at] = value;
        }
        if let Ok(header) = SegmentHeader::parse(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
        if let Ok(header) = RecordHeader::parse(&record) {
            prop_assert!(header.next_block() > header.block);
            prop_assert_eq!(header.encode().unwrap(), record);
        }
    }
}
