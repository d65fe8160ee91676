//! SSE-C and SSE-KMS: what is stored under which key, and what takes none.

use crate::{World, body, bucket, noise, request, text, world, world_with};
use bytes::Bytes;
use codec::chunk::ChunkSizes;
use codec::effect::{Content, ObjectMeta, UploadRow};
use codec::frame::{Expect, decode, parse_header};
use codec::manifest::Manifest;
use futures::TryStreamExt;
use gateway::engine::{
    Claims, CompleteRequest, Config, CopyRequest, CreateUploadRequest, ListedPart, PartRequest, PutDone, PutRequest,
};
use gateway::error::{GetError, PutError};
use gateway::protect::{CustomerKey, Protection, WrongKey};
use metadata::client::MetadataClient;
use metadata::command::Condition;
use metadata::keys::Purpose;

fn key(byte: u8) -> CustomerKey {
    CustomerKey::new(&[byte; 32].into())
}

async fn put(world: &World, name: &str, bytes: &Bytes, how: Protection) -> PutDone {
    let request = PutRequest { encrypt: how, ..request(name, Some(bytes.len() as u64)) };
    world.gateway.put_object(request, body(bytes)).await.unwrap()
}

async fn get(world: &World, content: &Content, key: Option<&CustomerKey>) -> Result<Bytes, GetError> {
    let stream = world.gateway.get_with(content, None, key).await?;
    let pieces: Vec<Bytes> = stream.bytes.try_collect().await?;
    Ok(pieces.concat().into())
}

fn content(world: &World, name: &str) -> Content {
    world.version(name).content.unwrap()
}

/// A manifest of many levels: the nodes are chunks of their own.
fn deep() -> World {
    let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
    world_with(Config { chunk_sizes: Some(sizes), ..Config::default() })
}

#[tokio::test]
async fn what_is_under_a_clients_key_takes_that_key_and_no_other() {
    let world = deep();
    let bytes = text(300_000);
    let done = put(&world, "k", &bytes, Protection::Customer(key(1))).await;
    assert_eq!(done.purpose, Purpose::Customer);
    let stored = content(&world, "k");
    assert_eq!(get(&world, &stored, Some(&key(1))).await.unwrap(), bytes);
    assert!(matches!(get(&world, &stored, None).await, Err(GetError::Key(WrongKey::Missing))));
    assert!(matches!(get(&world, &stored, Some(&key(2))).await, Err(GetError::Key(WrongKey::Other))));
    assert!(Manifest::parse(&stored.manifest).unwrap().entries().iter().any(|entry| !entry.leaf), "it has nodes");
}

/// Marks, fixity and repair read manifests without any client; no leaf opens to what metadata has.
#[tokio::test]
async fn metadata_reads_every_node_and_no_byte_of_the_object() {
    let world = deep();
    put(&world, "k", &text(300_000), Protection::Customer(key(1))).await;
    let stored = content(&world, "k");
    let domain = world.fake.domain_by_id(stored.domain_id()).await.unwrap();
    let (mut nodes, mut leaves) = (vec![Manifest::parse(&stored.manifest).unwrap()], 0);
    while let Some(node) = nodes.pop() {
        for entry in node.entries() {
            let (frame, plain_len) = {
                let rows = world.fake.rows.lock().unwrap();
                let chunk = &rows.chunks[&entry.id];
                (chunk.frame.clone(), chunk.plain_len)
            };
            assert!(parse_header(&frame).unwrap().encrypted());
            let data_key = domain.node_key.as_ref();
            let expect = Expect { id: entry.id, domain: domain.id, plain_len, chunk_key: &domain.chunk_key, data_key };
            match decode(&frame, &expect) {
                Ok(plain) if !entry.leaf => nodes.push(Manifest::parse(&plain).unwrap()),
                Err(_) if entry.leaf => leaves += 1,
                other => panic!("{entry:?}: {other:?}"),
            }
        }
    }
    assert!(leaves > 100);
}

#[tokio::test]
async fn nothing_under_a_clients_key_is_shared_and_its_tag_is_no_digest() {
    let world = world();
    let bytes = noise(1, 10_000);
    let plain = world.put("plain", &bytes).await.unwrap();
    let first = put(&world, "a", &bytes, Protection::Customer(key(1))).await;
    let second = put(&world, "b", &bytes, Protection::Customer(key(1))).await;
    assert_eq!(world.fake.chunk_count(), 3);
    assert!(first.etag != plain.etag && first.etag != second.etag && first.etag.len() == 32);
    let kms = |name| put(&world, name, &bytes, Protection::Kms("k1".to_owned()));
    let (third, fourth) = (kms("c").await, kms("d").await);
    assert_eq!(world.fake.chunk_count(), 4, "under one key of the key store they are");
    assert!(third.etag != plain.etag && third.etag != fourth.etag);
    assert_eq!(third.purpose, Purpose::Kms("k1".to_owned()));
    assert_eq!(get(&world, &content(&world, "c"), None).await.unwrap(), bytes);
}

fn copy(world: &World, from: &str, to: &str, how: Protection, source_key: Option<CustomerKey>) -> CopyRequest {
    CopyRequest {
        attached: Default::default(),
        source: world.version(from),
        bucket: bucket(),
        key: to.to_owned(),
        meta: None,
        encrypt: how,
        source_key,
        condition: Condition::None,
        checksum: None,
    }
}

#[tokio::test]
async fn copies_go_from_any_protection_to_any_other() {
    let world = world();
    let bytes = noise(1, 2 << 20);
    let how = |n: u8| match n {
        0 => (Protection::Plain, None),
        1 => (Protection::Managed, None),
        2 => (Protection::Customer(key(1)), Some(key(1))),
        3 => (Protection::Customer(key(2)), Some(key(2))),
        _ => (Protection::Kms("k1".to_owned()), None),
    };
    for from in 0..5 {
        put(&world, "from", &bytes, how(from).0).await;
        for to in 0..5 {
            let copied = copy(&world, "from", "to", how(to).0, how(from).1);
            assert_eq!(world.gateway.copy_object(copied).await.unwrap().purpose, how(to).0.purpose());
            let stored = content(&world, "to");
            assert_eq!(get(&world, &stored, how(to).1.as_ref()).await.unwrap(), bytes, "{from} to {to}");
        }
        if how(from).1.is_some() {
            let blind = copy(&world, "from", "to", Protection::Plain, None);
            let refused = world.gateway.copy_object(blind).await;
            assert!(matches!(refused, Err(PutError::Source(GetError::Key(WrongKey::Missing)))));
        }
    }
}

async fn part(world: &World, upload: &UploadRow, bytes: &Bytes, key: Option<CustomerKey>) -> Result<PutDone, PutError> {
    let (upload, length) = (upload.clone(), Some(bytes.len() as u64));
    let request = PartRequest { upload, number: 1, length, zstd_level: 0, key, claims: Claims::default() };
    world.gateway.put_part(request, body(bytes)).await
}

/// Clients send their key with each part, and most of them none when they complete.
#[tokio::test]
async fn parts_take_the_key_of_their_upload_and_completing_takes_none() {
    let world = deep();
    let create = CreateUploadRequest {
        attached: Default::default(),
        bucket: bucket(),
        key: "m".to_owned(),
        initiator: "alice".to_owned(),
        meta: ObjectMeta::default(),
        encrypt: Protection::Customer(key(1)),
        checksum: None,
        full_object: None,
    };
    let name = world.gateway.create_upload(create).await.unwrap();
    let upload = world.fake.upload(&name).await.unwrap().unwrap();
    let bytes = text(200_000);
    assert!(matches!(part(&world, &upload, &bytes, None).await, Err(PutError::Key(WrongKey::Missing))));
    assert!(matches!(part(&world, &upload, &bytes, Some(key(2))).await, Err(PutError::Key(WrongKey::Other))));
    let done = part(&world, &upload, &bytes, Some(key(1))).await.unwrap();
    let parts = vec![ListedPart { number: 1, etag: done.etag, checksums: Vec::new() }];
    let complete = CompleteRequest { upload, parts, condition: Condition::None, checksums: Vec::new(), size: None };
    assert_eq!(world.gateway.complete_upload(complete).await.unwrap().purpose, Purpose::Customer);
    let stored = content(&world, "m");
    assert_eq!(get(&world, &stored, Some(&key(1))).await.unwrap(), bytes);
    assert!(get(&world, &stored, Some(&key(2))).await.is_err());
}
