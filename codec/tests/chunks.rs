//! Chunk boundaries are part of the format: documents stored today must dedup against those of ten years ago.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../src/golden.rs"]
mod golden;

use bytes::Bytes;
use codec::chunk::{ChunkSizes, Chunker};
use proptest::prelude::*;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Lines of words, so that boundaries fall in repetitive bytes as well.
fn text(len: usize) -> Vec<u8> {
    let words = ["archive", "stone", "record", "of", "the", "and", "document", "year"];
    let dice = noise(7, len);
    let mut out: Vec<u8> = dice
        .iter()
        .flat_map(|d| words[usize::from(d % 8)].bytes().chain([b" \n"[usize::from(*d > 230)]]))
        .take(len)
        .collect();
    out.resize(len, b'.');
    out
}

fn one_shot(data: &[u8], sizes: ChunkSizes) -> Vec<usize> {
    let (min, avg, max) = (sizes.min() as usize, sizes.avg() as usize, sizes.max() as usize);
    fastcdc::v2020::FastCDC::new(data, min, avg, max).map(|chunk| chunk.length).collect()
}

/// Pushes `data` in pieces of the given sizes, in turn, and takes all chunks after each.
fn streamed(data: &[u8], sizes: ChunkSizes, pushes: &[usize]) -> Vec<Bytes> {
    let mut chunker = Chunker::new(sizes);
    let (mut chunks, mut rest) = (Vec::new(), data);
    for push in pushes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (head, tail) = rest.split_at((*push).min(rest.len()));
        chunker.push(head);
        chunks.extend(chunker.by_ref());
        assert!(chunker.buffered() < sizes.max() as usize, "held back {}", chunker.buffered());
        rest = tail;
    }
    chunks.extend(chunker.finish());
    chunks
}

fn lengths(chunks: &[Bytes]) -> Vec<usize> {
    chunks.iter().map(Bytes::len).collect()
}

/// One line per input: its name, the sizes, and the lengths of its chunks.
fn cuts() -> String {
    let inputs: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("noise-1", noise(1, 1 << 20)),
        ("noise-2", noise(2, 9_000_001)),
        ("text", text(3_000_000)),
        ("zeros", vec![0; 9_000_000]),
    ];
    let mut out = String::new();
    for (name, data) in &inputs {
        for (label, sizes) in
            [("small", ChunkSizes::SMALL), ("medium", ChunkSizes::MEDIUM), ("large", ChunkSizes::LARGE)]
        {
            let cuts: Vec<String> = lengths(&streamed(data, sizes, &[100_000])).iter().map(usize::to_string).collect();
            out += &format!("{name} {label} {}\n", cuts.join(" "));
        }
    }
    out
}

#[test]
fn boundaries_are_where_they_always_were() {
    let kept = golden::read("chunk-cuts-v1.txt", || cuts().into_bytes());
    assert_eq!(String::from_utf8(kept).unwrap(), cuts());
}

#[test]
fn boundaries_of_large_objects_are_those_of_one_shot() {
    let data = noise(3, 20_000_000);
    for sizes in [ChunkSizes::SMALL, ChunkSizes::MEDIUM, ChunkSizes::LARGE] {
        for pushes in [&[65_536][..], &[20_000_000], &[1, 5_000_000], &[4 << 20]] {
            let chunks = streamed(&data, sizes, pushes);
            assert_eq!(lengths(&chunks), one_shot(&data, sizes));
            assert_eq!(chunks.concat(), data);
        }
    }
}

#[test]
fn sizes_follow_the_object() {
    assert_eq!(ChunkSizes::for_object(0), ChunkSizes::SMALL);
    assert_eq!(ChunkSizes::for_object(1 << 20), ChunkSizes::SMALL);
    assert_eq!(ChunkSizes::for_object((1 << 20) + 1), ChunkSizes::MEDIUM);
    assert_eq!(ChunkSizes::for_object(16 << 20), ChunkSizes::MEDIUM);
    assert_eq!(ChunkSizes::for_object((16 << 20) + 1), ChunkSizes::LARGE);
    for (min, avg, max) in [(0, 256, 1024), (65, 256, 1024), (512, 256, 1024), (64, 2048, 1024), (64, 256, 8 << 20)] {
        assert!(ChunkSizes::new(min, avg, max).is_err(), "{min} {avg} {max}");
    }
}

#[test]
fn a_small_object_is_one_chunk_and_an_empty_one_none() {
    let mut chunker = Chunker::new(ChunkSizes::SMALL);
    assert_eq!(chunker.next(), None);
    chunker.push(noise(1, 16 << 10));
    assert_eq!(chunker.next(), None);
    assert_eq!(lengths(&chunker.finish()), [16 << 10]);
    assert!(Chunker::new(ChunkSizes::SMALL).finish().is_empty());
}

#[test]
fn an_insertion_moves_few_boundaries() {
    let original = noise(4, 1 << 20);
    let mut edited = original.clone();
    edited.splice(500_000..500_000, *b"inserted");
    let (before, after) =
        (streamed(&original, ChunkSizes::SMALL, &[1 << 20]), streamed(&edited, ChunkSizes::SMALL, &[1 << 20]));
    let shared = after.iter().filter(|chunk| before.contains(chunk)).count();
    assert!(after.len() - shared <= 2, "{shared} of {} shared", after.len());
}

proptest! {
    #[test]
    fn boundaries_do_not_depend_on_the_pushes(
        seed: u64, len in 0usize..60_000, compressible: bool,
        pushes in proptest::collection::vec(1usize..9_000, 1..20),
    ) {
        let sizes = ChunkSizes::new(256, 1024, 4096).unwrap();
        let data = if compressible { text(len) } else { noise(seed, len) };
        let chunks = streamed(&data, sizes, &pushes);
        prop_assert_eq!(lengths(&chunks), one_shot(&data, sizes));
        prop_assert_eq!(chunks.concat(), data);
        let lens = lengths(&chunks);
        prop_assert!(lens.iter().rev().skip(1).all(|len| (256..=4096).contains(len)));
    }
}
