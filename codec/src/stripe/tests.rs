use super::*;
use crate::block::blocks_for;
use crate::erasure::Erasure;
use crate::golden;
use crate::id::Epoch;
use proptest::prelude::*;

const ID: StripeId = StripeId { epoch: Epoch(0x1_dead_beef), counter: 17 };
const CLUSTER: ClusterId = ClusterId([1; 16]);

/// 4+2, of which data shards 0 and 1 exist.
pub(crate) fn descriptor() -> StripeDescriptor {
    let hash = |i| *blake3::hash(&[i]).as_bytes();
    StripeDescriptor {
        id: ID,
        class: StripeClass::Ledger,
        geometry: Geometry::new(4, 2).unwrap(),
        present: 0b11_0011,
        lengths: vec![1000, 999, 0, 0, 1000, 1000],
        hashes: vec![hash(0), hash(1), [0; 32], [0; 32], hash(4), hash(5)],
        lsn_range: Some((Lsn(10), Lsn(20))),
        cluster: CLUSTER,
    }
}

/// All of 22+10.
pub(crate) fn widest() -> StripeDescriptor {
    StripeDescriptor {
        class: StripeClass::Data,
        geometry: Geometry::new(22, 10).unwrap(),
        present: u32::MAX,
        lengths: vec![MAX_SHARD; 32],
        hashes: vec![[0xff; 32]; 32],
        lsn_range: None,
        ..descriptor()
    }
}

#[test]
fn golden_descriptor() {
    golden::check("stripe-descriptor-v1.bin", &descriptor().encode());
    assert_eq!(StripeDescriptor::parse(&descriptor().encode()).unwrap(), descriptor());
    assert_eq!(StripeDescriptor::parse(&widest().encode()).unwrap(), widest());
    assert!(widest().encode().len() <= 1300);
}

#[test]
fn every_flip_and_truncation_is_seen() {
    let bytes = descriptor().encode();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[i] ^= 1 << bit;
            assert!(StripeDescriptor::parse(&flipped).is_err(), "byte {i}");
        }
        assert!(StripeDescriptor::parse(&bytes[..i]).is_err(), "length {i}");
    }
}

/// R1: shards agree on the root only if they agree on everything that decoding needs.
#[test]
fn r1_the_root_covers_every_field() {
    let hash = [3; 32];
    let base = descriptor();
    let with = |i: usize, hash| {
        let mut hashes = base.hashes.clone();
        hashes[i] = hash;
        StripeDescriptor { hashes, ..base.clone() }
    };
    let others = [
        StripeDescriptor { id: StripeId { counter: 18, ..ID }, ..base.clone() },
        StripeDescriptor { id: StripeId { epoch: Epoch(1), ..ID }, ..base.clone() },
        StripeDescriptor { class: StripeClass::Data, ..base.clone() },
        StripeDescriptor { geometry: Geometry::new(3, 3).unwrap(), ..base.clone() },
        StripeDescriptor { lengths: vec![1000, 998, 0, 0, 1000, 1000], ..base.clone() },
        StripeDescriptor { lsn_range: Some((Lsn(10), Lsn(21))), ..base.clone() },
        StripeDescriptor { lsn_range: None, ..base.clone() },
        StripeDescriptor { cluster: ClusterId([2; 16]), ..base.clone() },
        StripeDescriptor { present: 0b11_0101, ..base.clone() },
        with(0, hash),
        with(5, hash),
    ];
    for other in others {
        assert_ne!(other.root(), base.root(), "{other:?}");
    }
}

#[test]
fn contradictions_under_a_good_root_are_refused() {
    let base = descriptor();
    let lengths = |lengths: [u32; 6]| StripeDescriptor { lengths: lengths.to_vec(), ..base.clone() };
    for (bad, name) in [
        (StripeDescriptor { lsn_range: Some((Lsn(21), Lsn(20))), ..base.clone() }, "lsn_range"),
        (StripeDescriptor { lsn_range: Some((Lsn(0), Lsn(20))), ..base.clone() }, "lsn_range"),
        (StripeDescriptor { lsn_range: None, ..base.clone() }, "lsn_range"),
        (StripeDescriptor { class: StripeClass::Data, ..base.clone() }, "lsn_range"),
        (StripeDescriptor { present: 0b01_0011, ..base.clone() }, "present"),
        (StripeDescriptor { present: 0b11_0000, ..base.clone() }, "present"),
        (StripeDescriptor { present: 0b111_0011, ..base.clone() }, "present"),
        (lengths([1000, 0, 0, 0, 1000, 1000]), "lengths"),
        (lengths([1000, 999, 1, 0, 1000, 1000]), "lengths"),
        (lengths([1000, 999, 0, 0, 1000, 999]), "lengths"),
        (lengths([1000, 999, 0, 0, 1001, 1001]), "lengths"),
        (lengths([u32::MAX, 999, 0, 0, u32::MAX, u32::MAX]), "lengths"),
    ] {
        match StripeDescriptor::parse(&bad.encode()) {
            Err(StripeError::Field { field }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// R2: a payload is believed only when it is the one that the descriptor names.
#[test]
fn r2_only_the_named_payload_is_taken() {
    let payload = b"payload";
    let mut base = descriptor();
    base.lengths[0] = 7;
    base.hashes[0] = *blake3::hash(payload).as_bytes();
    assert!(base.check_shard(0, payload).is_ok());
    for (index, bytes) in [(0, &b"payloax"[..]), (0, b"payloa"), (0, b""), (1, payload), (2, b""), (6, b""), (255, b"")]
    {
        assert!(matches!(base.check_shard(index, bytes), Err(StripeError::WrongShard { .. })));
    }
}

fn frame(i: usize, len: usize) -> Bytes {
    Bytes::from((0..len).map(|j| (i * 31 + j * 7 + j / 256) as u8).collect::<Vec<_>>())
}

fn finish(packer: StripePacker, geometry: Geometry) -> PackedStripe {
    packer.finish(ID, StripeClass::Data, geometry, CLUSTER, None, &Erasure::new(geometry)).unwrap()
}

/// What every packed stripe must be: whole frames, one behind the other, and a descriptor that says the truth.
fn check_packed(packed: &PackedStripe, frames: &[Bytes], data_shards: u8) {
    let d = &packed.descriptor;
    assert_eq!(StripeDescriptor::parse(&d.encode()).unwrap(), *d);
    assert_eq!(packed.shards.len(), usize::from(d.width()));
    assert!(d.data_present().len() <= usize::from(data_shards));
    let mut used = vec![Vec::new(); packed.shards.len()];
    for (frame, place) in frames.iter().zip(&packed.places) {
        let start = place.offset as usize;
        let shard = packed.shards[usize::from(place.shard)].as_ref().unwrap();
        assert_eq!(shard[start..start + frame.len()], frame[..]);
        used[usize::from(place.shard)].push(start..start + frame.len());
    }
    assert_eq!(packed.places.len(), frames.len());
    for (i, shard) in (0u8..).zip(&packed.shards) {
        assert_eq!(d.is_present(i), shard.is_some());
        let Some(shard) = shard else { continue };
        d.check_shard(i, shard).unwrap();
        if i < d.geometry.k() {
            let ends: Vec<usize> = used[usize::from(i)].iter().map(|range| range.end).collect();
            let starts: Vec<usize> = used[usize::from(i)].iter().map(|range| range.start).collect();
            assert_eq!(starts[0], 0);
            assert_eq!(starts[1..], ends[..ends.len() - 1]);
            assert_eq!(ends.last(), Some(&shard.len()));
        }
    }
}

/// Blocks written, counted from the result.
fn blocks(packed: &PackedStripe) -> u64 {
    packed.shards.iter().flatten().map(|shard| 1 + blocks_for(shard.len() as u64)).sum()
}

/// Every loss of up to m of the shards that exist gives the lost ones back.
fn check_every_loss(packed: &PackedStripe) {
    let d = &packed.descriptor;
    let erasure = Erasure::new(d.geometry);
    let len = d.code_len() as usize;
    for lost in 0u32..1 << d.width() {
        if lost & !d.present != 0 || lost.count_ones() > u32::from(d.geometry.m()) || lost == 0 {
            continue;
        }
        let is_lost = |i: &u8| lost & (1 << i) != 0;
        let inputs: Vec<(u8, &[u8])> = (0u8..)
            .zip(&packed.shards)
            .filter(|(i, _)| !is_lost(i))
            .filter_map(|(i, shard)| Some((i, &shard.as_ref()?[..])))
            .take(d.data_present().len())
            .collect();
        let want: Vec<u8> = (0..d.width()).filter(is_lost).collect();
        let found = erasure.reconstruct(&inputs, d.data_absent(), &want, len).unwrap();
        for (index, bytes) in want.iter().zip(found) {
            let (true_bytes, padding) = bytes.split_at(d.shard_len(*index) as usize);
            d.check_shard(*index, true_bytes).unwrap();
            assert!(padding.iter().all(|b| *b == 0));
        }
    }
}

/// The fewest blocks for frames of these lengths, over every assignment of frames to shards.
fn fewest_blocks(lengths: &[usize], width: usize, m: u64, target: u64) -> u64 {
    let mut best = u64::MAX;
    for code in 0..width.pow(lengths.len() as u32) {
        let (mut fill, mut count, mut code) = (vec![0u64; width], vec![0; width], code);
        for len in lengths {
            fill[code % width] += *len as u64;
            count[code % width] += 1;
            code /= width;
        }
        if fill.iter().zip(&count).any(|(fill, count)| *fill > target && *count > 1) {
            continue;
        }
        let longest = 1 + blocks_for(fill.iter().copied().max().unwrap());
        let data: u64 = fill.iter().filter(|fill| **fill > 0).map(|fill| 1 + blocks_for(*fill)).sum();
        best = best.min(data + m * longest);
    }
    best
}

/// Blocks for frames that go to the least-full of `width` shards one by one; `None` when that breaks the target.
fn greedy_blocks(lengths: &[usize], width: usize, m: u64, target: u64) -> Option<u64> {
    let mut shards = vec![Vec::new(); width];
    for len in lengths {
        shards.iter_mut().min_by_key(|shard| shard.iter().sum::<u64>())?.push(*len as u64);
    }
    let fill: Vec<u64> = shards.iter().map(|shard| shard.iter().sum()).collect();
    let over = shards.iter().zip(&fill).any(|(shard, fill)| shard.len() > 1 && *fill > target);
    let cost = |fill: u64| 1 + blocks_for(fill);
    let data: u64 = fill.iter().filter(|fill| **fill > 0).map(|fill| cost(*fill)).sum();
    (!over).then_some(data + m * cost(*fill.iter().max()?))
}

#[test]
fn few_bytes_make_a_narrow_stripe() {
    let geometry = Geometry::new(10, 4).unwrap();
    let mut packer = StripePacker::new(10, 4, 8 << 20);
    packer.add(frame(0, 3000));
    packer.add(frame(1, 1000));
    let packed = finish(packer, geometry);
    assert_eq!(packed.descriptor.present, 0b11_1100_0000_0001);
    check_every_loss_is_survived_by_copies(&packed);
}

/// With one data shard and an MDS code each parity shard holds enough on its own.
fn check_every_loss_is_survived_by_copies(packed: &PackedStripe) {
    let d = &packed.descriptor;
    for i in d.parity_present() {
        let parity = packed.shards[usize::from(i)].as_ref().unwrap();
        let found = Erasure::new(d.geometry).reconstruct(&[(i, parity)], d.data_absent(), &[0], parity.len()).unwrap();
        d.check_shard(0, &found[0]).unwrap();
    }
}

#[test]
fn no_parity_and_copies_work() {
    for (k, m) in [(1, 0), (1, 1), (3, 0)] {
        let geometry = Geometry::new(k, m).unwrap();
        let mut packer = StripePacker::new(k, m, 1 << 20);
        packer.add(frame(1, 10_000));
        let packed = finish(packer, geometry);
        check_packed(&packed, &[frame(1, 10_000)], k);
        assert!(packed.shards.iter().flatten().all(|shard| shard[..] == frame(1, 10_000)));
    }
}

#[test]
fn what_cannot_be_packed_is_an_error() {
    let geometry = Geometry::new(4, 2).unwrap();
    let finish = |packer: StripePacker, geometry, class, range| {
        packer.finish(ID, class, geometry, CLUSTER, range, &Erasure::new(Geometry::new(4, 2).unwrap()))
    };
    let packer = |k, m| {
        let mut packer = StripePacker::new(k, m, 1 << 20);
        packer.add(frame(0, 10));
        packer
    };
    let data = StripeClass::Data;
    assert!(matches!(finish(StripePacker::new(4, 2, 9), geometry, data, None), Err(StripeError::Empty)));
    let mut empty = StripePacker::new(4, 2, 9);
    empty.add(Bytes::new());
    assert!(matches!(finish(empty, geometry, data, None), Err(StripeError::Empty)));
    for (k, m) in [(5, 2), (4, 1)] {
        assert!(matches!(finish(packer(k, m), geometry, data, None), Err(StripeError::Geometry { .. })));
    }
    let other = Geometry::new(5, 2).unwrap();
    assert!(matches!(finish(packer(4, 2), other, data, None), Err(StripeError::Geometry { .. })));
    assert!(matches!(finish(packer(4, 2), geometry, StripeClass::Ledger, None), Err(StripeError::Field { .. })));
    assert!(finish(packer(4, 2), geometry, StripeClass::Ledger, Some((Lsn(1), Lsn(1)))).is_ok());
}

#[test]
fn the_same_frames_give_the_same_stripe() {
    let pack = || {
        let mut packer = StripePacker::new(4, 2, 40_000);
        (0..20).for_each(|i| packer.add(frame(i, 3000 + i * 311)));
        finish(packer, Geometry::new(4, 2).unwrap())
    };
    let (a, b) = (pack(), pack());
    assert_eq!((a.descriptor.root(), a.places), (b.descriptor.root(), b.places));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Frames taken while they fit: whole, in place, within the target, and decodable after every loss.
    #[test]
    fn packed_stripes_hold(
        (k, m) in (1u8..5, 0u8..4),
        fewer in 0u8..2,
        target in 1u32..40_000,
        lengths in prop::collection::vec(1usize..20_000, 1..24),
        in_order in any::<bool>(),
    ) {
        let geometry = Geometry::new(k, m).unwrap();
        let data_shards = k.saturating_sub(fewer).max(1);
        let mut packer = match in_order {
            true => StripePacker::in_order(data_shards, m, target),
            false => StripePacker::new(data_shards, m, target),
        };
        let mut frames = Vec::new();
        for (i, len) in lengths.into_iter().enumerate() {
            if packer.fits(len) {
                packer.add(frame(i, len));
                frames.push(frame(i, len));
            }
        }
        prop_assert_eq!((packer.len(), packer.bytes()), (frames.len(), frames.iter().map(|f| f.len() as u64).sum()));
        let packed = finish(packer, geometry);
        check_packed(&packed, &frames, data_shards);
        check_every_loss(&packed);
        for shard in 0..k {
            let frames = packed.places.iter().filter(|place| place.shard == shard).count();
            prop_assert!(frames <= 1 || packed.descriptor.shard_len(shard) <= target);
        }
        if in_order {
            prop_assert!(packed.places.is_sorted_by_key(|place| (place.shard, place.offset)));
        }
    }

    /// k' is the best one: none of the others, packed by a plain reading of the rule, writes fewer blocks.
    #[test]
    fn k_minimises_blocks(k in 1u8..8, m in 0u8..4, target in 1u32..60_000,
        lengths in prop::collection::vec(1usize..30_000, 1..30)) {
        let geometry = Geometry::new(k, m).unwrap();
        let mut packer = StripePacker::new(k, m, target);
        let taken: Vec<usize> = lengths.into_iter().filter(|len| {
            let fits = packer.fits(*len);
            if fits {
                packer.add(frame(*len, *len));
            }
            fits
        }).collect();
        let mut long_first = taken.clone();
        long_first.sort_by_key(|len| std::cmp::Reverse(*len));
        let best = (1..=usize::from(k))
            .flat_map(|width| [&taken, &long_first].map(|order| greedy_blocks(order, width, m.into(), target.into())))
            .flatten()
            .min();
        prop_assert_eq!(Some(blocks(&finish(packer, geometry))), best);
    }

    /// Frames of one length: as good as the best of all assignments but for rounding to blocks.
    #[test]
    fn blocks_are_fewest_for_equal_frames(
        k in 1u8..5, m in 0u8..4, len in 1usize..30_000, count in 1usize..7, target in 1u32..100_000,
    ) {
        let geometry = Geometry::new(k, m).unwrap();
        let mut packer = StripePacker::new(k, m, target);
        let mut lengths = Vec::new();
        while lengths.len() < count && packer.fits(len) {
            packer.add(frame(lengths.len(), len));
            lengths.push(len);
        }
        let best = fewest_blocks(&lengths, k.into(), m.into(), target.into());
        let found = blocks(&finish(packer, geometry));
        prop_assert!((best..best + u64::from(k)).contains(&found), "{} of {}", found, best);
    }

    /// Frames of any length: finding the best assignment is NP-hard; least-full-first stays within 4/3 of it.
    #[test]
    fn blocks_stay_near_the_optimum(
        k in 1u8..5, m in 0u8..4, lengths in prop::collection::vec(1usize..60_000, 1..7),
    ) {
        let geometry = Geometry::new(k, m).unwrap();
        let mut packer = StripePacker::new(k, m, MAX_SHARD);
        lengths.iter().enumerate().for_each(|(i, len)| packer.add(frame(i, *len)));
        let best = fewest_blocks(&lengths, k.into(), m.into(), MAX_SHARD.into());
        let found = blocks(&finish(packer, geometry));
        prop_assert!(found >= best && found * 3 <= best * 4 + 3 * u64::from(k + m), "{} of {}", found, best);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(StripeDescriptor::parse(&bytes).is_err());
    }

    /// Hostile fields under a root that matches: refused, or read into the one value that encodes to them.
    #[test]
    fn hostile_fields_never_panic(edits in prop::collection::vec((6usize..88, any::<u8>()), 1..6), cut in 0usize..300) {
        let bytes = descriptor().encode();
        let mut body = bytes[..bytes.len() - 32].to_vec();
        for (at, value) in edits {
            body[at] = value;
        }
        body.truncate(body.len().saturating_sub(cut.saturating_sub(200)));
        let root = root_of(&body);
        body.extend_from_slice(&root);
        if let Ok(descriptor) = StripeDescriptor::parse(&body) {
            prop_assert_eq!(descriptor.encode(), body);
        }
    }
}
