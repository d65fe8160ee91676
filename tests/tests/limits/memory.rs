//! Memory stays bounded, whatever clients send.

use crate::{BUCKET, bucket, config, get};
use bytes::Bytes;
use std::time::Instant;
use tests::s3::{Head, Random, RawRequest};

const LIMIT_MIB: u64 = 1024;

/// A megabyte that does not compress and is not found again.
fn block(seed: u64) -> Bytes {
    let mut random = Random::new(seed);
    (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect()
}

async fn uploads(count: u64, mib: u64) {
    let (_directory, config) = config(6);
    let server = config.start().await;
    let client = bucket(&config).await;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let config = config.clone();
        tasks.spawn(async move {
            let path = format!("/{BUCKET}/large-{n}");
            let headers = [("content-length", (mib << 20).to_string())];
            let head = Head { method: "PUT", path: &path, payload: "UNSIGNED-PAYLOAD", headers: &headers };
            let mut request = RawRequest::open(&config, &head).await.unwrap();
            for m in 0..mib {
                request.send(&block((n << 32) + m)).await.unwrap();
            }
            let answer = request.answer().await.unwrap();
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap_or_else(|error| panic!("{error}\n{}", server.output()));
    }
    let (written, peak) = (began.elapsed(), server.peak_resident_mib());
    println!("{count} uploads of {mib} MiB in {written:?}: at most {peak} MiB resident");
    assert!(peak < LIMIT_MIB, "{peak} MiB");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let client = client.clone();
        tasks.spawn(async move {
            let mut got = client.get_object().bucket(BUCKET).key(format!("large-{n}")).send().await.unwrap();
            let (mut at, mut expected) = (0, Bytes::new());
            while let Some(piece) = got.body.try_next().await.unwrap() {
                for byte_run in piece.chunks(64 << 10) {
                    let mut left = byte_run;
                    while !left.is_empty() {
                        if expected.is_empty() {
                            expected = block((n << 32) + (at >> 20));
                        }
                        let now = left.len().min(expected.len());
                        assert!(left[..now] == expected[..now], "large-{n} differs at {at}");
                        left = &left[now..];
                        at += now as u64;
                        drop(expected.split_to(now));
                    }
                }
            }
            assert_eq!(at, mib << 20, "large-{n}");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap_or_else(|error| panic!("{error}\n{}", server.output()));
    }
    let peak = server.peak_resident_mib();
    println!("and read back in {:?}: at most {peak} MiB resident", began.elapsed() - written);
    assert!(peak < LIMIT_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_uploads_at_once_stay_below_a_gigabyte() {
    uploads(16, 64).await;
}

/// `STELE_UPLOAD_MIB` makes them smaller where 32 GiB of disk can't be spared.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 16 GiB"]
async fn sixteen_uploads_of_a_gigabyte_stay_below_a_gigabyte() {
    let mib = std::env::var("STELE_UPLOAD_MIB").ok().and_then(|mib| mib.parse().ok());
    uploads(16, mib.unwrap_or(1024)).await;
}

/// An aws-chunk that says it is huge is refused when it has to be kept whole (it is signed), and streamed or refused
/// otherwise: never kept.
#[tokio::test(flavor = "multi_thread")]
async fn huge_declared_chunks_take_no_memory() {
    let (_directory, config) = config(3);
    let server = config.start().await;
    let client = bucket(&config).await;
    let before = server.peak_resident_mib();
    for payload in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        for declared in ["40000000", "ffffffff", "7fffffffffffffff", "ffffffffffffffff", "fffffffffffffffffffffff"] {
            let key = format!("chunk-{declared}");
            let path = format!("/{BUCKET}/{key}");
            let mut headers = vec![
                ("content-length", (1u64 << 32).to_string()),
                ("x-amz-decoded-content-length", ((1u64 << 32) - 200).to_string()),
                ("content-encoding", "aws-chunked".to_owned()),
            ];
            if payload.ends_with("TRAILER") {
                headers.push(("x-amz-trailer", "x-amz-checksum-crc32".to_owned()));
            }
            let head = Head { method: "PUT", path: &path, payload, headers: &headers };
            let mut request = RawRequest::open(&config, &head).await.unwrap();
            let signature = "0".repeat(64);
            let line = if payload.ends_with("TRAILER") {
                format!("{declared}\r\n")
            } else {
                format!("{declared};chunk-signature={signature}\r\n")
            };
            // A head that is refused may have closed the connection already.
            let _may_have_been_closed = request.send(line.as_bytes()).await;
            let piece = block(7);
            // Refused at once, or read on and on: 200 MiB are enough to see that they are not kept.
            for _ in 0..200 {
                if request.send(&piece).await.is_err() {
                    break;
                }
            }
            let _may_have_been_closed = request.half_close().await;
            if let Ok(answer) = request.answer().await {
                assert!((400..500).contains(&answer.status), "{payload} {declared}: {answer:?}");
            }
            assert_eq!(get(&client, &key).await.unwrap_err(), "NoSuchKey");
        }
    }
    let peak = server.peak_resident_mib();
    println!("{before} MiB resident before, at most {peak} MiB");
    assert!(peak < before + 300, "{before} MiB, then {peak} MiB");
}
