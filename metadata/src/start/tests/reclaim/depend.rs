//! Which objects depend on what is damaged, whatever the depth of their manifests.

use super::*;
use crate::keep::dependents::dependents;
use codec::id::{ChunkId, ShardId};
use codec::manifest::Manifest;
use storage_node::keep::Subject;

/// Stores a manifest chunk, and gives the entry that names it.
async fn node(store: &Store, entries: Vec<Entry>) -> Entry {
    let children: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
    let manifest = Manifest::new(entries).unwrap();
    let (chunk, frame) = store.new_chunk(&manifest.encode(), &children, true).await;
    let entry = Entry { id: chunk.id, len: manifest.total_len(), leaf: false };
    store.store(store.misses(&[(chunk, frame)]).await).await;
    entry
}

/// The shard whose damage would be damage to a chunk.
async fn shard_of(store: &Store, chunk: ChunkId) -> Subject {
    let located = store.metadata.locate(&[chunk]).await.unwrap().pop().flatten().unwrap();
    let (stripe, index) = (located.stripe.unwrap().descriptor.id, u8::try_from(located.place.shard).unwrap());
    Subject::Shard(ShardId { stripe, index })
}

#[test]
fn objects_that_depend_on_a_finding_are_found_at_any_depth_of_their_manifests() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2], How::Striped).await;
        store.put(2, &[1, 3], How::Node).await;
        store.put(3, &[4], How::Striped).await;
        store.put(4, &[5], How::Inline).await;
        // Chunk 1 once more, two manifests down.
        let one = store.chunk(1).await.unwrap().chunk_id().unwrap();
        let lower = node(&store, vec![Entry { id: one, len: CHUNK as u64, leaf: true }]).await;
        let upper = node(&store, vec![lower]).await;
        store.commit(store.object(5, vec![upper], Vec::new()).await).await;

        let inline = store.chunk(5).await.unwrap().place.unwrap().lsn().unwrap();
        let blocks = Subject::Blocks { segment: 1, start: 0, end: 1 };
        let four = store.chunk(4).await.unwrap().chunk_id().unwrap();
        let subjects = [
            shard_of(&store, one).await,
            shard_of(&store, four).await,
            Subject::Entries(inline, inline),
            blocks,
            shard_of(&store, upper.id).await,
        ];
        let report = dependents(&store.metadata, &subjects, 10).await.unwrap();
        assert_eq!((report.unread, report.bad_rows), (0, 0));
        let keys = |n: usize| -> Vec<&str> {
            let of = &report.of[n];
            assert_eq!(of.versions.len() as u64, of.version_count);
            of.versions.iter().map(|version| version.key.as_str()).collect()
        };
        assert_eq!(keys(0), ["key-1", "key-2", "key-5"]);
        assert_eq!(keys(1), ["key-3"]);
        assert_eq!(keys(2), ["key-4"]);
        assert_eq!(keys(3), Vec::<&str>::new(), "nobody can say what was there");
        assert_eq!(keys(4), ["key-5"], "its manifest");
        // More than are to be named are counted.
        let report = dependents(&store.metadata, &subjects[..1], 2).await.unwrap();
        assert_eq!((report.of[0].versions.len(), report.of[0].version_count), (2, 3));
    });
}
