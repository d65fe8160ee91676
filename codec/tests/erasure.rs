//! R3: the erasure code against a second implementation and against the crate that it takes its matrix from.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../src/golden.rs"]
mod golden;
mod oracle;

use codec::erasure::{Erasure, Geometry, Kernel, self_test, self_test_of};
use oracle::Field;

/// What ships: the geometries that the first start chooses by the number of drives.
const SHIPPED: [(u8, u8); 13] =
    [(1, 1), (1, 2), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3), (6, 3), (6, 4), (7, 4), (8, 4), (9, 4), (10, 4)];

fn shard(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn kernels(geometry: Geometry) -> Vec<Erasure> {
    [Kernel::Table, Kernel::Simd].into_iter().filter_map(|k| Erasure::with_kernel(geometry, k).ok()).collect()
}

fn options(data: &[Vec<u8>]) -> Vec<Option<&[u8]>> {
    data.iter().map(|shard| (!shard.is_empty()).then_some(&shard[..])).collect()
}

/// Bitmaps of `n` bits with at most `most` set.
fn patterns(n: u8, most: u8) -> impl Iterator<Item = u32> {
    (0..1u32 << n).filter(move |pattern| pattern.count_ones() <= u32::from(most))
}

#[test]
fn r3_parity_agrees_with_the_second_implementation_for_every_geometry() {
    let field = Field::new();
    for k in 1..32u8 {
        for m in 1..=32 - k {
            let data: Vec<Vec<u8>> = (0..k).map(|i| shard(i.into(), 41)).collect();
            let all = field.encode(&field.generator(k.into(), m.into()), &data);
            for erasure in kernels(Geometry::new(k, m).unwrap()) {
                assert_eq!(erasure.encode_parity(&options(&data)), all[usize::from(k)..], "{k}+{m}");
            }
        }
    }
}

#[test]
fn r3_parity_agrees_with_the_crate() {
    let field = Field::new();
    for (k, m) in SHIPPED.into_iter().chain([(16, 4), (17, 3), (28, 4), (16, 16)]) {
        let theirs = reed_solomon_erasure::galois_8::ReedSolomon::new(k.into(), m.into()).unwrap();
        let data: Vec<Vec<u8>> = (0..k).map(|i| shard(i.into(), 1000)).collect();
        let mut parity = vec![vec![0; 1000]; m.into()];
        if codec::erasure::cpu_check().is_ok() {
            theirs.encode_sep(&data, &mut parity).unwrap();
            assert_eq!(parity, field.encode(&field.generator(k.into(), m.into()), &data)[usize::from(k)..]);
        }
        assert_eq!(Erasure::new(Geometry::new(k, m).unwrap()).encode_parity(&options(&data)), parity, "{k}+{m}");
    }
}

/// Loses each pattern of at most m shards; asks for all of them, from all survivors and from k of them.
fn lose_every_pattern(field: &Field, k: u8, m: u8) {
    let geometry = Geometry::new(k, m).unwrap();
    let generator = field.generator(k.into(), m.into());
    let data: Vec<Vec<u8>> = (0..k).map(|i| shard(i.into(), 37)).collect();
    let all = field.encode(&generator, &data);
    let codes = kernels(geometry);
    for pattern in patterns(geometry.total(), m) {
        let erasure = &codes[pattern as usize % codes.len()];
        let lost: Vec<u8> = (0..k + m).filter(|i| pattern >> i & 1 == 1).collect();
        let kept: Vec<(u8, &[u8])> =
            (0..k + m).filter(|i| pattern >> i & 1 == 0).map(|i| (i, &all[usize::from(i)][..])).collect();
        // k of the survivors, not always the first, and not in order.
        let mut few = kept.clone();
        few.rotate_left(pattern as usize % kept.len());
        few.truncate(k.into());
        for inputs in [&kept, &few] {
            let back = erasure.reconstruct(inputs, 0, &lost, 37).unwrap();
            for (index, bytes) in lost.iter().zip(&back) {
                assert_eq!(bytes, &all[usize::from(*index)], "{k}+{m}, lost {lost:?}, shard {index}");
            }
        }
        let given: Vec<(usize, Vec<u8>)> = few.iter().map(|(i, bytes)| ((*i).into(), bytes.to_vec())).collect();
        assert_eq!(field.decode(&generator, &given), all, "{k}+{m}, lost {lost:?}: the second implementation");
    }
}

#[test]
fn r3_every_loss_pattern_of_the_shipped_geometries_is_decoded() {
    let field = Field::new();
    for (k, m) in SHIPPED {
        lose_every_pattern(&field, k, m);
    }
}

#[test]
fn r3_every_loss_pattern_of_all_geometries_up_to_12_shards_is_decoded() {
    let field = Field::new();
    for total in 2..=12 {
        for m in 1..total {
            lose_every_pattern(&field, total - m, m);
        }
    }
}

/// One shortened stripe: `absent` data shards don't exist, the others are of different lengths.
fn lose_from_shortened(field: &Field, k: u8, m: u8, absent: u32) {
    let geometry = Geometry::new(k, m).unwrap();
    let exists = |i: u8| absent >> i & 1 == 0;
    let data: Vec<Vec<u8>> =
        (0..k).map(|i| if exists(i) { shard(i.into(), 5 + 3 * usize::from(i)) } else { Vec::new() }).collect();
    let len = data.iter().map(Vec::len).max().unwrap();
    let padded = |shard: &Vec<u8>| [&shard[..], &vec![0; len - shard.len()]].concat();
    let all = field.encode(&field.generator(k.into(), m.into()), &data.iter().map(padded).collect::<Vec<_>>());
    let codes = kernels(geometry);
    assert_eq!(codes[0].encode_parity(&options(&data)), all[usize::from(k)..], "{k}+{m} without {absent:b}");
    let members: Vec<u8> = (0..k + m).filter(|i| *i >= k || exists(*i)).collect();
    for pattern in patterns(members.len() as u8, m) {
        let erasure = &codes[pattern as usize % codes.len()];
        let lost = |position: usize| pattern >> position & 1 == 1;
        let bytes = |index: u8| if index < k { &data[usize::from(index)][..] } else { &all[usize::from(index)][..] };
        let kept: Vec<(u8, &[u8])> =
            members.iter().enumerate().filter(|(p, _)| !lost(*p)).map(|(_, i)| (*i, bytes(*i))).collect();
        // As many as data shards exist are enough.
        let enough = &kept[kept.len() - (members.len() - usize::from(m))..];
        let want: Vec<u8> = (0..k + m).collect();
        let back = erasure.reconstruct(enough, absent, &want, len).unwrap();
        assert_eq!(back, all, "{k}+{m} without {absent:b}, lost {pattern:b}");
    }
}

#[test]
fn r3_every_loss_pattern_of_shortened_stripes_is_decoded() {
    let field = Field::new();
    for (k, m) in [(2, 2), (3, 2), (4, 2), (4, 3), (5, 3), (6, 3)] {
        for absent in 0..(1u32 << k) - 1 {
            lose_from_shortened(&field, k, m, absent);
        }
    }
    for present in 1..=10 {
        lose_from_shortened(&field, 10, 4, ((1 << 10) - 1) & !((1 << present) - 1));
    }
    for absent in [0b01_0101_0101, 0b10_1010_1010, 0b00_0000_0001, 0b01_1111_1111, 0b00_1110_0111] {
        lose_from_shortened(&field, 10, 4, absent);
    }
}

#[test]
fn pieces_join_and_every_range_decodes_by_itself() {
    let geometry = Geometry::new(4, 2).unwrap();
    let field = Field::new();
    for lens in
        [[1, 1, 1, 1], [65_535, 1, 0, 65_536], [65_537, 65_536, 131_072, 131_073], [200_000, 7, 70_000, 150_001]]
    {
        let data: Vec<Vec<u8>> = lens.iter().zip(0..).map(|(len, i)| shard(i, *len)).collect();
        let longest = *lens.iter().max().unwrap();
        let padded: Vec<Vec<u8>> = data.iter().map(|d| [&d[..], &vec![0; longest - d.len()]].concat()).collect();
        let all = field.encode(&field.generator(4, 2), &padded);
        for erasure in kernels(geometry) {
            assert_eq!(erasure.encode_parity(&options(&data)), all[4..]);
            for range in [0..longest, longest / 3..longest / 2, longest - 1..longest, 0..0] {
                let inputs: Vec<(u8, &[u8])> =
                    [1u8, 3, 4, 5].iter().map(|i| (*i, &all[usize::from(*i)][range.clone()])).collect();
                let back = erasure.reconstruct(&inputs, 0, &[0, 2], range.len()).unwrap();
                assert_eq!(back, [&all[0][range.clone()], &all[2][range.clone()]]);
            }
        }
    }
}

/// The golden file comes from the second implementation, so the self-test compares two of them at each start.
#[test]
fn r3_known_answers_are_those_of_the_second_implementation() {
    let field = Field::new();
    let data: Vec<Vec<u8>> = (0..31u8)
        .map(|index| {
            let mut out = vec![0; 1021];
            blake3::Hasher::new().update(b"stele erasure known answer").update(&[index]).finalize_xof().fill(&mut out);
            out
        })
        .collect();
    let mut answers = Vec::new();
    for k in 1..32usize {
        for parity in &field.encode(&field.generator(k, 32 - k), &data[..k])[k..] {
            answers.extend_from_slice(&blake3::hash(parity).as_bytes()[..8]);
        }
    }
    golden::check("erasure-known-answers.bin", &answers);
}

#[test]
fn r3_the_self_test_passes_for_every_geometry_and_kernel() {
    for k in 1..=32u8 {
        for m in 0..=32 - k {
            let geometry = Geometry::new(k, m).unwrap();
            assert_eq!(self_test(geometry), Ok(()));
            assert_eq!(self_test_of(&Erasure::with_kernel(geometry, Kernel::Table).unwrap()), Ok(()));
        }
    }
}

/// The tables of docs/FORMAT.md, "Erasure code".
#[test]
fn r3_golden_parity_is_what_the_format_page_says() {
    let golden: [(u8, u8, &[&str]); 3] = [
        (4, 2, &["34ee74d474edf79f", "3a148ff2df5004c4"]),
        (6, 3, &["4a0a57967fdd1f9b", "0d1a10caf05dc0c7", "d2a8617b92ef6675"]),
        (10, 4, &["b3a2f25891b5dcb4", "f30e05020ddc17e1", "ec13894380d5a5b7", "31f3731e942a7634"]),
    ];
    let byte = |i: u32, b: u32| ((i + 1) * (b + 3) * (b + i + 5)) as u8;
    for (k, m, parity) in golden {
        let data: Vec<Vec<u8>> = (0..k.into()).map(|i| (0..8).map(|b| byte(i, b)).collect()).collect();
        for erasure in kernels(Geometry::new(k, m).unwrap()) {
            let computed: Vec<String> = erasure.encode_parity(&options(&data)).iter().map(hex::encode).collect();
            assert_eq!(computed, parity, "{k}+{m}");
        }
    }
    let ten_and_four: Vec<String> = Field::new().generator(10, 4)[10..].iter().map(hex::encode).collect();
    assert_eq!(
        ten_and_four,
        ["8196afb8d2c4fee80302", "9681b8afc4d2e8fe0203", "bfd6620a066fdfb70504", "d6bf0a626f06b7df0405"]
    );
}
