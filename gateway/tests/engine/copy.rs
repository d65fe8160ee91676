//! Copies: shared inside a dedup domain, stored again across.

use crate::{World, body, bucket, noise, request, world};
use codec::effect::{BucketRow, ChecksumAlgorithm, ObjectMeta, UploadRow};
use gateway::engine::{
    Claims, CompleteRequest, CopyPartRequest, CopyRequest, CreateUploadRequest, ListedPart, PutRequest,
};
use gateway::error::PutError;
use metadata::client::MetadataClient;
use metadata::command::Condition;

fn copy_part(world: &World, range: Option<std::ops::Range<u64>>, upload: &UploadRow, number: u32) -> CopyPartRequest {
    let (source, upload) = (world.version("from"), upload.clone());
    CopyPartRequest { source, range, upload, number, zstd_level: 0, key: None, source_key: None }
}

fn copy(world: &World, from: &str, to: &str) -> CopyRequest {
    CopyRequest {
        attached: Default::default(),
        source: world.version(from),
        bucket: bucket(),
        key: to.to_owned(),
        meta: None,
        encrypt: gateway::protect::Protection::Plain,
        source_key: None,
        condition: Condition::None,
        checksum: None,
    }
}

#[tokio::test]
async fn inside_a_domain_nothing_is_read_or_stored() {
    let world = world();
    let bytes = noise(1, 3 << 20);
    let meta = ObjectMeta { content_type: "text/plain".to_owned(), ..ObjectMeta::default() };
    let put = PutRequest { meta: meta.clone(), ..request("from", None) };
    let original = world.gateway.put_object(put, body(&bytes)).await.unwrap();
    let (chunks, stripes) = (world.fake.chunk_count(), world.fake.stripe_count());
    let done = world.gateway.copy_object(copy(&world, "from", "to")).await.unwrap();
    assert_eq!((done.etag, done.checksums), (original.etag, original.checksums));
    assert_eq!((world.fake.chunk_count(), world.fake.stripe_count()), (chunks, stripes));
    assert_eq!(world.fake.reads.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(world.version("to").meta, Some(meta));
    assert_eq!(world.get("to", None).await.unwrap(), bytes);
}

#[tokio::test]
async fn across_domains_it_is_chunked_again() {
    let world = world();
    let bytes = noise(1, 2 << 20);
    world.put("from", &bytes).await.unwrap();
    let chunks = world.fake.chunk_count();
    let sealed = CopyRequest { encrypt: gateway::protect::Protection::Managed, ..copy(&world, "from", "sealed") };
    assert!(world.gateway.copy_object(sealed).await.unwrap().encrypted);
    let bob = BucketRow { owner: "bob".to_owned(), ..bucket() };
    let other = CopyRequest { bucket: bob, ..copy(&world, "from", "bob") };
    world.gateway.copy_object(other).await.unwrap();
    assert_eq!(world.fake.chunk_count(), 3 * chunks);
    for key in ["sealed", "bob"] {
        assert_eq!(world.get(key, None).await.unwrap(), bytes);
        assert_eq!(world.version(key).content.unwrap().etag, world.version("from").content.unwrap().etag);
    }
}

#[tokio::test]
async fn a_checksum_that_the_source_lacks_is_computed() {
    let world = world();
    world.put("from", &noise(1, 100_000)).await.unwrap();
    let request = CopyRequest { checksum: Some(ChecksumAlgorithm::Sha256), ..copy(&world, "from", "to") };
    let done = world.gateway.copy_object(request).await.unwrap();
    assert_eq!(done.checksums[0].algorithm, ChecksumAlgorithm::Sha256 as i32);
}

#[tokio::test]
async fn an_unreadable_source_leaves_nothing() {
    let world = world();
    world.put("from", &noise(1, 3 << 20)).await.unwrap();
    let request = CopyRequest { encrypt: gateway::protect::Protection::Managed, ..copy(&world, "from", "to") };
    {
        let mut rows = world.fake.rows.lock().unwrap();
        let manifest = rows.versions[&(1, "from".to_owned())].content.as_ref().unwrap().manifest.clone();
        let last = codec::manifest::children(&manifest).unwrap().pop().unwrap();
        rows.chunks.remove(&last);
    }
    assert!(matches!(world.gateway.copy_object(request).await, Err(PutError::Source(_))));
    assert!(world.fake.version(1, "to").is_none());
}

#[tokio::test]
async fn parts_are_copied_whole_and_by_range() {
    let world = world();
    let bytes = noise(1, 6 << 20);
    world.put("from", &bytes).await.unwrap();
    let create = CreateUploadRequest {
        attached: Default::default(),
        bucket: bucket(),
        key: "to".to_owned(),
        initiator: String::new(),
        meta: ObjectMeta::default(),
        encrypt: gateway::protect::Protection::Plain,
        checksum: None,
        full_object: None,
    };
    let name = world.gateway.create_upload(create).await.unwrap();
    let upload = world.fake.upload(&name).await.unwrap().unwrap();
    let mut parts = Vec::new();
    for (number, range) in [(1, None), (2, Some(100..1_000_000))] {
        let request = copy_part(&world, range, &upload, number);
        let done = world.gateway.copy_part(request).await.unwrap();
        parts.push(ListedPart { number, etag: done.etag, checksums: Vec::new() });
    }
    assert_eq!(parts[0].etag, world.version("from").content.unwrap().etag);
    let out = copy_part(&world, Some(100..(6 << 20) + 1), &upload, 3);
    assert!(matches!(world.gateway.copy_part(out).await, Err(PutError::Source(_))));
    let complete = CompleteRequest { upload, parts, condition: Condition::None, checksums: Vec::new(), size: None };
    let done = world.gateway.complete_upload(complete).await.unwrap();
    let whole = [&bytes[..], &bytes[100..1_000_000]].concat();
    assert_eq!(world.get("to", None).await.unwrap(), whole);
    let put = PutRequest { claims: Claims::default(), ..request("at once", None) };
    let once = world.gateway.put_object(put, body(&whole.into())).await.unwrap();
    assert_eq!(done.checksums, once.checksums);
}
