//! How fast the parts of the data path are, on one core: chunk, name, compress, encrypt, encode, reconstruct.
//!
//! `cargo bench -p benches --bench codec -- <filter>`; the unit is always bytes of plaintext (or of data shards) per second.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use codec::chunk::{ChunkSizes, Chunker};
use codec::compress;
use codec::erasure::{Erasure, Geometry, Kernel};
use codec::frame::{ChunkKey, DataKey, Expect, FIRST_VERSION, FrameSpec, chunk_id, decode, encode};
use codec::id::DomainId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const DOMAIN: DomainId = DomainId(1);

/// Bytes that nothing compresses, from a small generator: the benchmark needs no cryptography.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

/// Words in random order: compresses about as well as the text of documents.
fn text(len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = noise(4096 * 8).chunks(8).map(word).collect();
    let pick =
        |pair: &[u8]| &words[usize::from(pair[0]) * 16 * usize::from(pair[1] % 4) / 4 + usize::from(pair[1] % 16)];
    noise(len).chunks(2).flat_map(|pair| pick(pair).clone()).take(len).collect()
}

fn word(dice: &[u8]) -> Vec<u8> {
    let letters = dice[1..].iter().take(2 + usize::from(dice[0] % 6)).map(|d| b'a' + d % 26);
    letters.chain([b' ']).collect()
}

fn chunking(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk");
    for (name, sizes, len) in [("small", ChunkSizes::SMALL, 1 << 20), ("large", ChunkSizes::LARGE, 32 << 20)] {
        let data = noise(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut chunker = Chunker::new(sizes);
                let mut chunks = 0;
                for piece in data.chunks(64 << 10) {
                    chunker.push(piece);
                    chunks += chunker.by_ref().count();
                }
                chunks + chunker.finish().len()
            });
        });
    }
    group.finish();
}

fn naming(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash");
    let key = ChunkKey::new([1; 32]);
    for len in [4 << 10, 64 << 10, 1 << 20] {
        let data = noise(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &data, |b, data| b.iter(|| chunk_id(&key, data)));
    }
    group.finish();
}

fn compressing(c: &mut Criterion) {
    let mut group = c.benchmark_group("compress");
    for (name, len) in [("4K", 4 << 10), ("64K", 64 << 10), ("1M", 1 << 20)] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut output = vec![0; len];
        for (kind, data) in [("text", text(len)), ("noise", noise(len))] {
            for level in [1, 3] {
                group.bench_function(format!("{kind}-{name}-level{level}"), |b| {
                    b.iter(|| compress::compress_into(black_box(&data), level, &mut output));
                });
            }
            group.bench_function(format!("{kind}-{name}-probe"), |b| b.iter(|| compress::looks_compressible(&data)));
        }
        // What a context per call would cost.
        group.bench_function(format!("text-{name}-level3-new-context"), |b| {
            let data = text(len);
            b.iter(|| zstd::bulk::compress_to_buffer(&data, &mut output, 3).unwrap());
        });
    }
    group.finish();
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let (chunk_key, data_key) = (ChunkKey::new([1; 32]), DataKey::new([2; 32]));
    for (name, len) in [("4K", 4 << 10), ("64K", 64 << 10), ("1M", 1 << 20)] {
        group.throughput(Throughput::Bytes(len as u64));
        for (kind, plain, level) in [("text", text(len), 3), ("noise", noise(len), 3)] {
            for (protection, key) in [("plain", None), ("encrypted", Some(&data_key))] {
                let id = chunk_id(&chunk_key, &plain);
                let spec = FrameSpec { version: FIRST_VERSION, domain: DOMAIN, id, level, data_key: key };
                let frame = encode(&spec, &plain).unwrap();
                let expect = Expect { id, domain: DOMAIN, plain_len: len as u32, chunk_key: &chunk_key, data_key: key };
                group.bench_function(format!("encode-{kind}-{name}-{protection}"), |b| {
                    b.iter(|| encode(&spec, black_box(&plain)).unwrap());
                });
                group.bench_function(format!("decode-{kind}-{name}-{protection}"), |b| {
                    b.iter(|| decode(black_box(&frame), &expect).unwrap());
                });
            }
        }
    }
    group.finish();
}

fn coding(c: &mut Criterion) {
    let mut group = c.benchmark_group("erasure");
    for (k, m) in [(4u8, 2u8), (8, 3), (10, 4)] {
        for (name, len) in [("64K", 64 << 10), ("1M", 1 << 20), ("8M", 8 << 20)] {
            let geometry = Geometry::new(k, m).unwrap();
            let shards: Vec<Vec<u8>> = (0..k).map(|_| noise(len)).collect();
            let data: Vec<Option<&[u8]>> = shards.iter().map(|shard| Some(&shard[..])).collect();
            group.throughput(Throughput::Bytes(u64::from(k) * len as u64));
            for kernel in [Kernel::Simd, Kernel::Table] {
                let Ok(erasure) = Erasure::with_kernel(geometry, kernel) else { continue };
                if kernel == Kernel::Table && len > 64 << 10 {
                    continue;
                }
                group.bench_function(format!("encode-{geometry}-{name}-{kernel:?}"), |b| {
                    b.iter(|| erasure.encode_parity(black_box(&data)));
                });
                let parity = erasure.encode_parity(&data);
                let all: Vec<(u8, &[u8])> = (0u8..).zip(shards.iter().chain(&parity).map(|shard| &shard[..])).collect();
                for lost in [1, m] {
                    let want: Vec<u8> = (0..lost).collect();
                    let inputs = &all[usize::from(lost)..usize::from(lost + k)];
                    group.bench_function(format!("reconstruct{lost}-{geometry}-{name}-{kernel:?}"), |b| {
                        b.iter(|| erasure.reconstruct(black_box(inputs), 0, &want, len).unwrap());
                    });
                }
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = parts;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    targets = chunking, naming, compressing, framing, coding
}
criterion_main!(parts);
