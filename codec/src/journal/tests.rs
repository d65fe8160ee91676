use super::fixture::{effects, effects_v2, effects_v3, effects_v4};
use super::*;
use crate::effect::{Effect, EffectKind, EpochRow};
use crate::golden;
use proptest::prelude::*;

fn frames() -> Vec<Bytes> {
    vec![Bytes::from(vec![0xaa; 300]), Bytes::from_static(b"a frame")]
}

fn small(epoch: u64) -> Effects {
    Effects {
        effects: vec![Effect::from(EffectKind::StartEpoch(EpochRow { epoch, ..EpochRow::default() }))],
        wall_ms: 1,
    }
}

fn three() -> Vec<EncodedEntry> {
    let first = encode_entry(Lsn(1), Epoch(5), NO_ENTRY, &small(5), &frames()).unwrap();
    let second = encode_entry(Lsn(2), Epoch(5), first.hash, &small(6), &[]).unwrap();
    let third = encode_entry(Lsn(3), Epoch(6), second.hash, &Effects::default(), &frames()[1..]).unwrap();
    vec![first, second, third]
}

fn bytes_of(entries: &[EncodedEntry]) -> Vec<Bytes> {
    entries.iter().map(|entry| entry.bytes.clone()).collect()
}

/// Reads a whole batch as a scan does: header, then payload.
fn open(header: &[u8], payload: &[u8]) -> Result<Vec<Entry>, JournalError> {
    BatchHeader::parse(header)?.open(&Bytes::copy_from_slice(payload))
}

#[test]
fn golden_entry_with_every_effect() {
    let entry = encode_entry(Lsn(42), Epoch(1 << 32), [7; 32], &effects(), &frames()).unwrap();
    golden::check("journal-entry-v1.bin", &entry.bytes);
    let parsed = parse_entry(entry.bytes).unwrap();
    assert_eq!(parsed.effects, effects());
    golden::check("journal-entry-ledger-v1.bin", &parsed.ledger_form());
}

#[test]
fn golden_entry_of_effect_version_2() {
    let entry = encode_entry(Lsn(43), Epoch(3 << 32), [8; 32], &effects_v2(), &frames()[1..]).unwrap();
    golden::check("journal-entry-v1-effects-v2.bin", &entry.bytes);
    assert_eq!(entry.bytes[6..8], 2u16.to_le_bytes());
    let parsed = parse_entry(entry.bytes).unwrap();
    assert_eq!(parsed.effects, effects_v2());
    golden::check("journal-entry-ledger-v1-effects-v2.bin", &parsed.ledger_form());
}

#[test]
fn golden_entry_of_effect_version_3() {
    let entry = encode_entry(Lsn(44), Epoch(3 << 32), [9; 32], &effects_v3(), &[]).unwrap();
    golden::check("journal-entry-v1-effects-v3.bin", &entry.bytes);
    assert_eq!(entry.bytes[6..8], 3u16.to_le_bytes());
    assert_eq!(parse_entry(entry.bytes).unwrap().effects, effects_v3());
}

#[test]
fn golden_entry_of_effect_version_4() {
    let entry = encode_entry(Lsn(45), Epoch(3 << 32), [10; 32], &effects_v4(), &frames()).unwrap();
    golden::check("journal-entry-v1-effects-v4.bin", &entry.bytes);
    assert_eq!(entry.bytes[6..8], 4u16.to_le_bytes());
    let parsed = parse_entry(entry.bytes).unwrap();
    assert_eq!(parsed.effects, effects_v4());
    golden::check("journal-entry-ledger-v1-effects-v4.bin", &parsed.ledger_form());
    // Each row alone is of version 4, or says nothing that a release before would drop.
    for effect in effects_v4().effects {
        let alone = Effects { effects: vec![effect], wall_ms: 1 };
        assert_eq!(alone.version(), 4, "{alone:?}");
    }
}

/// Replay reads entries for ever (R3): a kind that no golden file has could change its bytes and nobody would see it.
#[test]
fn every_kind_of_effect_is_in_a_golden_file() {
    let is_known = |tag: &u32| {
        let mut effect = Vec::new();
        prost::encoding::encode_key(*tag, prost::encoding::WireType::LengthDelimited, &mut effect);
        effect.push(0);
        let effects = [&[0x0a, effect.len() as u8], &effect[..]].concat();
        Effects::parse(&effects).is_ok()
    };
    let tag = |effect: &Effect| prost::encoding::decode_key(&mut &effect.encode_to_vec()[..]).unwrap().0;
    let covered: std::collections::BTreeSet<u32> = [effects(), effects_v2(), effects_v3(), effects_v4()]
        .iter()
        .flat_map(|effects| &effects.effects)
        .map(tag)
        .collect();
    assert_eq!((1..=2047).filter(is_known).collect::<Vec<_>>(), covered.into_iter().collect::<Vec<_>>());
}

#[test]
fn golden_batch() {
    let (header, payload) = encode_batch(&bytes_of(&three())).unwrap();
    golden::check("journal-batch-v1.bin", &[&header.encode()[..], &payload].concat());
}

#[test]
fn an_entry_round_trips_and_its_frames_are_where_the_offsets_say() {
    let entry = encode_entry(Lsn(42), Epoch(9), [7; 32], &effects(), &frames()).unwrap();
    let parsed = parse_entry(entry.bytes.clone()).unwrap();
    assert_eq!((parsed.lsn, parsed.epoch, parsed.prev_hash), (Lsn(42), Epoch(9), [7; 32]));
    assert_eq!((parsed.hash, parsed.ledger), (entry.hash, false));
    for (i, frame) in frames().iter().enumerate() {
        let offset = frame_offset(&frames(), i).unwrap() as usize;
        assert_eq!(entry.bytes[offset..offset + frame.len()], frame[..]);
        assert_eq!(parsed.frame(i).as_ref(), Some(frame));
    }
    assert_eq!(frame_offset(&frames(), 2), None);
    assert_eq!(parsed.frame(2), None);
}

#[test]
fn the_ledger_form_keeps_hash_effects_and_offsets() {
    let entry = parse_entry(encode_entry(Lsn(42), Epoch(9), [7; 32], &effects(), &frames()).unwrap().bytes).unwrap();
    let ledger = parse_entry(entry.ledger_form()).unwrap();
    assert!(ledger.ledger);
    assert_eq!(ledger.bytes.len(), entry.bytes.len() - 307);
    assert_eq!(ledger.frame(0), None);
    assert_eq!(ledger.ledger_form(), ledger.bytes);
    let expected = Entry { ledger: true, bytes: ledger.bytes.clone(), ..entry };
    assert_eq!(ledger, expected);
}

#[test]
fn every_flipped_byte_of_a_batch_is_seen() {
    let (header, payload) = encode_batch(&bytes_of(&three())).unwrap();
    let (mut header, mut payload) = (header.encode().to_vec(), payload.to_vec());
    assert_eq!(open(&header, &payload).unwrap().len(), 3);
    for i in 0..header.len() {
        header[i] ^= 4;
        assert!(open(&header, &payload).is_err(), "header byte {i}");
        header[i] ^= 4;
    }
    for i in 0..payload.len() {
        payload[i] ^= 4;
        assert!(open(&header, &payload).is_err(), "payload byte {i}");
        // An entry notices by itself as well, without its batch's hash: that is all that a ledger reader has.
        assert!(parse_batch(&Bytes::copy_from_slice(&payload)).is_err(), "payload byte {i}");
        payload[i] ^= 4;
    }
}

#[test]
fn every_truncation_of_a_batch_is_seen() {
    let (header, payload) = encode_batch(&bytes_of(&three())).unwrap();
    let header = header.encode();
    for len in 0..header.len() {
        assert!(open(&header[..len], &payload).is_err());
    }
    for len in 0..payload.len() {
        assert!(open(&header, &payload[..len]).is_err());
    }
    assert!(open(&[&header[..], &[0]].concat(), &payload).is_err());
    assert!(open(&header, &[&payload[..], &[0]].concat()).is_err());
}

#[test]
fn every_flip_and_truncation_of_the_ledger_form_is_seen() {
    let entry = parse_entry(three()[0].bytes.clone()).unwrap();
    let bytes = entry.ledger_form();
    for i in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[i] ^= 1;
        assert!(parse_entry(flipped.into()).is_err(), "byte {i}");
        assert!(parse_entry(bytes.slice(..i)).is_err(), "length {i}");
    }
}

#[test]
fn a_batch_is_consecutive_and_chained() {
    let entries = three();
    let bytes = bytes_of(&entries);
    let gap = encode_batch(&[bytes[0].clone(), bytes[2].clone()]);
    assert!(matches!(gap, Err(JournalError::Chain { lsn: Lsn(3) })));
    let other = encode_entry(Lsn(2), Epoch(5), [1; 32], &small(6), &[]).unwrap().bytes;
    assert!(matches!(encode_batch(&[bytes[0].clone(), other]), Err(JournalError::Chain { .. })));
    assert!(encode_batch(&[]).is_err());
    // The reader checks for itself.
    let skipped = [length_prefixed(&bytes[0]).unwrap(), length_prefixed(&bytes[2]).unwrap()].concat();
    assert!(matches!(parse_batch(&skipped.into()), Err(JournalError::Chain { lsn: Lsn(3) })));
    // An epoch never goes back.
    let back = encode_entry(Lsn(2), Epoch(4), entries[0].hash, &small(6), &[]).unwrap().bytes;
    let back = [length_prefixed(&bytes[0]).unwrap(), length_prefixed(&back).unwrap()].concat();
    assert!(matches!(parse_batch(&back.into()), Err(JournalError::Chain { lsn: Lsn(2) })));
}

#[test]
fn entries_that_cannot_be_are_not_encoded() {
    let encode = |lsn, frames: &[Bytes]| encode_entry(lsn, Epoch(1), NO_ENTRY, &small(1), frames);
    assert!(matches!(encode(Lsn(0), &[]), Err(JournalError::Field { field: "lsn" })));
    assert!(matches!(encode(Lsn(1), &[Bytes::new()]), Err(JournalError::Field { field: "frame_len" })));
    let mebibytes = vec![Bytes::from(vec![0; 1 << 20]); 256];
    assert!(matches!(encode(Lsn(1), &mebibytes), Err(JournalError::TooLong { .. })));
    assert_eq!(frame_offset(&vec![mebibytes[0].clone(); 300], 299), None);
}

#[test]
fn newer_effects_are_refused_by_number() {
    let mut bytes = three()[1].bytes.to_vec();
    let newer = EFFECT_VERSION + 1;
    bytes[6..8].copy_from_slice(&newer.to_le_bytes());
    let hash = entry_hash(&bytes[..HASH_AT], &[], &bytes[ENTRY_HEADER..]);
    bytes[HASH_AT..ENTRY_HEADER].copy_from_slice(&hash);
    let parsed = parse_entry(bytes.into());
    assert!(matches!(parsed, Err(JournalError::Version { what: "effects", version }) if version == newer));
}

#[test]
fn an_effect_of_an_unknown_kind_is_an_error() {
    // Effects { effects: [Effect { 2047: "" }] }
    let unknown = Effects::parse(&[0x0a, 3, 0xfa, 0x7f, 0]);
    assert!(matches!(unknown, Err(EffectError::Unknown)));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(parse_entry(bytes.clone().into()).is_err());
        prop_assert!(BatchHeader::parse(&bytes).is_err());
        let _ = split_batch(&bytes.clone().into());
        let _ = Effects::parse(&bytes);
        prop_assert!(parse_batch(&bytes.into()).is_err());
    }

    /// Hostile fields under a hash that matches: refused, or consistent.
    #[test]
    fn hostile_fields_never_panic(edits in prop::collection::vec((6usize..180, any::<u8>()), 1..6)) {
        let mut bytes = three()[0].bytes.to_vec();
        let (table_end, effects_at) = (ENTRY_HEADER + 72, ENTRY_HEADER + 72 + 307);
        for (at, value) in edits {
            bytes[at] = value;
        }
        let hash = entry_hash(&bytes[..HASH_AT], &bytes[ENTRY_HEADER..table_end], &bytes[effects_at..]);
        bytes[HASH_AT..ENTRY_HEADER].copy_from_slice(&hash);
        if let Ok(entry) = parse_entry(bytes.into()) {
            for (range, i) in entry.frames.iter().zip(0..) {
                prop_assert_eq!(entry.frame(i).unwrap().len(), range.len());
            }
            prop_assert_eq!(parse_entry(entry.ledger_form()).unwrap().hash, entry.hash);
        }
    }

    #[test]
    fn hostile_batch_headers_never_panic(edits in prop::collection::vec((6usize..40, any::<u8>()), 1..6)) {
        let (header, payload) = encode_batch(&bytes_of(&three())).unwrap();
        let mut bytes = header.encode().to_vec();
        for (at, value) in edits {
            bytes[at] = value;
        }
        let check = blake3::hash(&bytes[..BATCH_HEADER - 8]);
        bytes[BATCH_HEADER - 8..].copy_from_slice(&check.as_bytes()[..8]);
        if let Ok(parsed) = BatchHeader::parse(&bytes) {
            prop_assert_eq!(parsed.encode(), bytes);
            prop_assert_eq!(parsed.open(&payload).is_ok(), parsed == header);
        }
    }
}
