//! Multipart: parts, entity tags, checksums, order.

use crate::{World, body, bucket, noise, world, world_with};
use bytes::Bytes;
use codec::chunk::ChunkSizes;
use codec::effect::{Checksum, ChecksumAlgorithm, ObjectMeta, UploadRow};
use gateway::engine::{
    Claim, Claims, CompleteRequest, Config, CreateUploadRequest, ListedPart, PartRequest, PutDone, part_range,
};
use gateway::error::PutError;
use metadata::client::MetadataClient;
use metadata::command::Condition;
use std::sync::atomic::Ordering;

async fn open(world: &World, checksum: Option<ChecksumAlgorithm>, full_object: Option<bool>) -> UploadRow {
    let request = CreateUploadRequest {
        attached: Default::default(),
        bucket: bucket(),
        key: "key".to_owned(),
        initiator: "alice".to_owned(),
        meta: ObjectMeta::default(),
        encrypt: gateway::protect::Protection::Plain,
        checksum,
        full_object,
    };
    let name = world.gateway.create_upload(request).await.unwrap();
    world.fake.upload(&name).await.unwrap().unwrap()
}

async fn part(world: &World, upload: &UploadRow, number: u32, bytes: &Bytes) -> Result<PutDone, PutError> {
    let length = Some(bytes.len() as u64);
    let request =
        PartRequest { upload: upload.clone(), number, length, zstd_level: 0, key: None, claims: Claims::default() };
    world.gateway.put_part(request, body(bytes)).await
}

fn listed(number: u32, done: &PutDone) -> ListedPart {
    ListedPart { number, etag: done.etag.clone(), checksums: Vec::new() }
}

fn complete(upload: &UploadRow, parts: Vec<ListedPart>) -> CompleteRequest {
    CompleteRequest { upload: upload.clone(), parts, condition: Condition::None, checksums: Vec::new(), size: None }
}

#[tokio::test]
async fn parts_become_one_object() {
    let world = world();
    let upload = open(&world, None, None).await;
    let bytes = [noise(1, 5 << 20), noise(2, 6 << 20), noise(3, 1000)];
    let mut parts = Vec::new();
    // In any order, and one of them twice.
    part(&world, &upload, 2, &noise(9, 1000)).await.unwrap();
    for number in [3, 1, 2] {
        parts.push(listed(number, &part(&world, &upload, number, &bytes[number as usize - 1]).await.unwrap()));
    }
    parts.sort_by_key(|part| part.number);
    let stripes = world.fake.stripe_count();
    let done = world.gateway.complete_upload(complete(&upload, parts)).await.unwrap();
    assert_eq!(world.fake.stripe_count(), stripes, "completing stores no data");
    assert!(done.etag.ends_with("-3"), "{}", done.etag);
    assert_eq!((done.parts, done.size), (3, (11 << 20) + 1000));
    let whole = Bytes::from(bytes.concat());
    assert_eq!(world.get("key", None).await.unwrap(), whole);
    let content = world.version("key").content.unwrap();
    let range = part_range(&content, 2).unwrap();
    assert_eq!(world.get("key", Some(range)).await.unwrap(), bytes[1]);
    // The CRC-64/NVME of the object is that of its bytes.
    let once = world.put("at once", &whole).await.unwrap();
    assert_eq!(done.checksums, once.checksums);
    assert!(matches!(part(&world, &upload, 4, &bytes[2]).await, Err(PutError::NoSuchUpload)));
}

#[tokio::test]
async fn a_part_s_own_checksum_does_not_replace_the_upload_s() {
    let world = world();
    let upload = open(&world, Some(ChecksumAlgorithm::Sha256), None).await;
    let bytes = noise(1, 1000);
    let claims = Claims { md5: None, checksums: vec![(ChecksumAlgorithm::Crc32, Claim::Compute)] };
    let request = PartRequest { upload: upload.clone(), number: 1, length: None, zstd_level: 0, key: None, claims };
    let done = world.gateway.put_part(request, body(&bytes)).await.unwrap();
    let algorithms: Vec<i32> = done.checksums.iter().map(|checksum| checksum.algorithm).collect();
    assert_eq!(algorithms, [ChecksumAlgorithm::Crc32 as i32, ChecksumAlgorithm::Sha256 as i32]);
    let object = world.gateway.complete_upload(complete(&upload, vec![listed(1, &done)])).await.unwrap();
    assert!(object.checksums[0].composite);
}

#[tokio::test]
async fn wrong_lists_are_refused_and_the_upload_stays() {
    let world = world();
    let upload = open(&world, Some(ChecksumAlgorithm::Crc32c), Some(true)).await;
    let bytes = noise(1, 1000);
    let done = part(&world, &upload, 1, &bytes).await.unwrap();
    let good = listed(1, &done);
    let wrong_tag = ListedPart { etag: "0".repeat(32), ..good.clone() };
    let wrong_sum = ListedPart { checksums: vec![(ChecksumAlgorithm::Crc32c, vec![0; 4].into())], ..good.clone() };
    let unknown = ListedPart { number: 2, ..good.clone() };
    for parts in [vec![wrong_tag], vec![wrong_sum], vec![good.clone(), unknown]] {
        let refused = world.gateway.complete_upload(complete(&upload, parts)).await;
        assert!(matches!(refused, Err(PutError::InvalidPart { .. })));
    }
    for parts in [vec![], vec![good.clone(), good.clone()]] {
        let refused = world.gateway.complete_upload(complete(&upload, parts)).await;
        assert!(matches!(refused, Err(PutError::InvalidPartOrder)));
    }
    let sized = CompleteRequest { size: Some(999), ..complete(&upload, vec![good.clone()]) };
    assert!(matches!(world.gateway.complete_upload(sized).await, Err(PutError::Invalid(_))));
    let wrong = Checksum { algorithm: ChecksumAlgorithm::Crc32c as i32, value: vec![0; 4].into(), composite: false };
    let summed = CompleteRequest { checksums: vec![wrong], ..complete(&upload, vec![good.clone()]) };
    assert!(matches!(world.gateway.complete_upload(summed).await, Err(PutError::ChecksumMismatch { .. })));
    let right =
        CompleteRequest { checksums: done.checksums.clone(), size: Some(1000), ..complete(&upload, vec![good]) };
    world.gateway.complete_upload(right).await.unwrap();
    assert_eq!(world.get("key", None).await.unwrap(), bytes);
}

#[tokio::test]
async fn checksum_types_that_s3_does_not_have_are_refused() {
    let world = world();
    for (algorithm, full_object) in [(ChecksumAlgorithm::Sha256, true), (ChecksumAlgorithm::Crc64Nvme, false)] {
        let request = CreateUploadRequest {
            attached: Default::default(),
            bucket: bucket(),
            key: "key".to_owned(),
            initiator: String::new(),
            meta: ObjectMeta::default(),
            encrypt: gateway::protect::Protection::Plain,
            checksum: Some(algorithm),
            full_object: Some(full_object),
        };
        assert!(matches!(world.gateway.create_upload(request).await, Err(PutError::Invalid(_))));
    }
}

#[tokio::test]
async fn an_aborted_upload_is_gone() {
    let world = world();
    let upload = open(&world, None, None).await;
    let done = part(&world, &upload, 1, &noise(1, 10)).await.unwrap();
    world.gateway.abort_upload(upload.name.clone().unwrap()).await.unwrap();
    let late = world.gateway.complete_upload(complete(&upload, vec![listed(1, &done)])).await;
    assert!(matches!(late, Err(PutError::NoSuchUpload)));
    assert!(matches!(world.gateway.abort_upload(upload.name.unwrap()).await, Err(PutError::NoSuchUpload)));
}

#[tokio::test]
async fn parts_with_trees_become_a_tree_of_trees() {
    let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
    let world = world_with(Config { chunk_sizes: Some(sizes), ..Config::default() });
    let upload = open(&world, None, None).await;
    let (mut parts, mut bytes) = (Vec::new(), Vec::new());
    for number in 1..=40 {
        let part_bytes = noise(u64::from(number), 7_000 * number as usize);
        parts.push(listed(number, &part(&world, &upload, number, &part_bytes).await.unwrap()));
        bytes.extend_from_slice(&part_bytes);
    }
    world.gateway.complete_upload(complete(&upload, parts)).await.unwrap();
    let bytes = Bytes::from(bytes);
    assert_eq!(world.get("key", None).await.unwrap(), bytes);
    let reads = world.fake.reads.swap(0, Ordering::SeqCst);
    assert_eq!(world.get("key", Some(3_000_000..3_000_100)).await.unwrap(), bytes.slice(3_000_000..3_000_100));
    let few = world.fake.reads.load(Ordering::SeqCst);
    assert!(few <= 6 && few < reads, "a range reads the nodes above it and no others: {few} of {reads}");
}
