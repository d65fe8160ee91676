//! Manifest chunks that can't be read: what they may list stays, everything else goes on, and nothing leaks.

use super::*;
use crate::client::StripeFrame;
use crate::keep::mark::Limits;
use storage_node::disk::{Access, Disk};

/// Spoils a chunk's frame on every drive that has it.
fn spoil(store: &Store, id: codec::id::ChunkId) {
    let mut spoiled = 0;
    for (drive, disk) in store.world.trace.disks().iter().enumerate() {
        for name in disk.list("segments").unwrap() {
            let path = format!("segments/{name}");
            let file = disk.open(&path, Access::Read).unwrap();
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            let read = file.read_at(&mut bytes, 0).unwrap();
            let found = bytes[..read].windows(32).position(|window| window == id.as_bytes());
            if let Some(at) = found {
                store.world.trace.flip(drive, &path, at as u64 + 3, 1).unwrap();
                spoiled += 1;
            }
        }
    }
    assert!(spoiled > 0);
}

fn warnings(store: &Store) -> String {
    store.metadata.status().warnings.join("\n")
}

/// The manifest chunk of an object of `How::Node`.
async fn node_of(store: &Store, key: u8) -> codec::id::ChunkId {
    let version = store.metadata.current_version(store.bucket, &format!("key-{key}")).await.unwrap().unwrap();
    codec::manifest::Manifest::parse(&version.content.unwrap().manifest).unwrap().entries()[0].id
}

#[test]
fn r13_an_unread_manifest_keeps_its_domain_and_no_other_and_goes_with_its_object() {
    run(async {
        let limits = Limits { chunks: 2, ..Limits::default() };
        let mut store = Store::with(3, "1+0", |world| world.config.reclaim.limits = limits).await;
        store.put(1, &[1, 2, 5], How::Node).await;
        store.put(2, &[3], How::Striped).await;
        store.put(4, &[1, 6], How::Striped).await;
        store.account = "bob";
        store.put(3, &[4], How::Striped).await;
        store.delete(3).await;
        let bobs = store.chunk(4).await.unwrap().chunk_id().unwrap();
        store.account = "alice";
        let lsn = index::applied(&store.view()).unwrap().0;
        // By mistake the counts say that nobody needs what the manifest lists.
        store.miscount(2, lsn).await;
        store.delete(2).await;
        store.objects.remove(&1);
        spoil(&store, node_of(&store, 1).await);
        for _ in 0..2 {
            store.pass(8 * DAY).await;
            for _ in 0..3 {
                store.round().await;
            }
        }
        assert!(index::chunk(&store.view(), bobs).unwrap().is_none(), "another domain's chunk goes");
        for number in [2, 3] {
            assert!(store.chunk(number).await.is_some(), "what it may list is kept: {number}");
        }
        assert!(warnings(&store).contains("bucket/key-1"), "{}", warnings(&store));
        assert!(store.metadata.reclaimer().unwrap().status().last.kept > 0);
        // A restart forgets nothing that matters. The user gives the object up.
        let mut store = store.restart().await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        for _ in 0..3 {
            store.round().await;
        }
        assert!(store.chunk(3).await.is_some(), "after one grace somebody may still bring it back");
        store.pass(8 * DAY).await;
        for _ in 0..20 {
            store.round().await;
        }
        assert!(store.chunk(3).await.is_none(), "nothing can list it any more");
        assert_eq!(store.chunk(1).await.unwrap().refs, 1, "what is still named has the right count again");
        assert_eq!(store.chunk(5).await.unwrap().state(), ChunkState::Condemned);
        let store = store.restart().await;
        for _ in 0..3 {
            store.pass(8 * DAY).await;
            for _ in 0..5 {
                store.round().await;
            }
        }
        assert_eq!(store.chunks().len(), 2, "what the lost manifest listed does not leak");
        assert_eq!(rows::recounted_domains(&store.view()).unwrap(), BTreeSet::new());
        assert!(!warnings(&store).contains("manifests can't be read"), "{}", warnings(&store));
        store.check().await;
    });
}

#[test]
fn r13_taking_the_unread_for_absent_deletes_what_only_an_unread_manifest_names() {
    run(async {
        let mut store = Store::new(3, "1+0").await;
        store.put(1, &[1], How::Node).await;
        let lsn = index::applied(&store.view()).unwrap().0;
        store.miscount(1, lsn).await;
        spoil(&store, node_of(&store, 1).await);
        store.pass(8 * DAY).await;
        assert_eq!(store.round().await.deleted, 0);
        store.world.config.sabotage.set(Sabotage::UnknownIsAbsent, true);
        assert_eq!(store.round().await.deleted, 1);
        assert!(store.chunk(1).await.is_none());
    });
}

/// Were it not so, keeping one domain would not keep all that an unread manifest may list.
#[test]
fn r13_a_manifest_lists_chunks_of_its_own_domain_only() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let child = store.chunk(1).await.unwrap().chunk_id().unwrap();
        store.account = "bob";
        let (chunk, frame) = store.new_chunk(b"a node", &[child], true).await;
        let (id, domain, plain_len) = (chunk.id, chunk.domain, chunk.plain_len);
        let frame = StripeFrame { id, domain, plain_len, is_manifest: true, children: vec![child], frame };
        let refused = store.metadata.store_stripe(store.metadata.epoch(), vec![frame]).await;
        assert!(matches!(refused, Err(crate::client::CommitError::Refused(_))), "{refused:?}");
    });
}
