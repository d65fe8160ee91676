//! Manifest chunks that can't be read: what they may list stays, everything else goes on, and nothing leaks.

use super::super::failures::numbers;
use super::*;
use crate::client::StripeFrame;
use crate::command::REQUEST_LIFE_MS;
use crate::index::View;
use crate::keep::mark::Limits;
use storage_node::disk::{Access, Disk};
use storage_node::kv::{Kv, KvBatch};

/// Spoils a chunk's frame on the one drive that has it. What names the chunk was written later, so the first place is its own.
pub(super) async fn spoil(store: &Store, id: codec::id::ChunkId) {
    let located = store.metadata.locate(&[id]).await.unwrap().pop().flatten().unwrap();
    let drive = located.stripe.unwrap().drives[located.place.shard as usize].unwrap();
    let (_, drive) = numbers(&store.world, &store.metadata).await.into_iter().find(|(of, _)| *of == drive).unwrap();
    let disk = store.world.trace.disk(drive);
    for name in disk.list("segments").unwrap().into_iter().collect::<BTreeSet<_>>() {
        let path = format!("segments/{name}");
        let file = disk.open(&path, Access::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        let read = file.read_at(&mut bytes, 0).unwrap();
        if let Some(at) = bytes[..read].windows(32).position(|window| window == id.as_bytes()) {
            return store.world.trace.flip(drive, &path, at as u64 + 3, 1).unwrap();
        }
    }
    panic!("not there");
}

fn warnings(store: &Store) -> String {
    store.metadata.status().warnings.join("\n")
}

/// The manifest chunk of an object of `How::Node`.
pub(super) async fn node_of(store: &Store, key: u8) -> codec::id::ChunkId {
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
        spoil(&store, node_of(&store, 1).await).await;
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
        let unread = node_of(&store, 1).await;
        store.delete(1).await;
        store.pass(REQUEST_LIFE_MS - rows::TICK_STEP_MS).await;
        for _ in 0..3 {
            store.round().await;
        }
        assert!(store.chunk(3).await.is_some(), "a request that has found the object may still name what it names");
        store.pass(rows::TICK_STEP_MS).await;
        for _ in 0..3 {
            store.round().await;
        }
        assert!(store.chunk(3).await.is_none(), "nothing can list it any more");
        assert!(!warnings(&store).contains("manifest"), "{}", warnings(&store));
        store.pass(8 * DAY).await;
        for _ in 0..3 {
            store.round().await;
        }
        assert!(index::chunk(&store.view(), unread).unwrap().is_some(), "itself it waits for twice the grace");
        store.pass(8 * DAY).await;
        for _ in 0..20 {
            store.round().await;
        }
        assert!(index::chunk(&store.view(), unread).unwrap().is_none());
        assert_eq!(store.chunk(1).await.unwrap().refs, 1, "what is still named has the right count again");
        assert!(store.chunk(5).await.is_none_or(|row| row.state() == ChunkState::Condemned));
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
        spoil(&store, node_of(&store, 1).await).await;
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

/// An object whose manifest is three levels deep: the version names a node, which lists nodes, which list these chunks.
async fn put_deep(store: &mut Store, key: u8, leaves: &[&[u8]]) -> (codec::id::ChunkId, Vec<codec::id::ChunkId>) {
    use codec::manifest::{Entry, Manifest};
    let mut lower = Vec::new();
    for numbers in leaves {
        let mut entries = Vec::new();
        for number in *numbers {
            let (chunk, frame) = store.new_chunk(&noise(u64::from(*number), CHUNK), &[], false).await;
            entries.push(Entry { id: chunk.id, len: CHUNK as u64, leaf: true });
            store.store(store.misses(&[(chunk, frame)]).await).await;
        }
        lower.push(put_node(store, entries).await);
    }
    let upper = put_node(store, lower.clone()).await;
    store.commit(store.object(key, vec![upper], Vec::new()).await).await;
    return (upper.id, lower.into_iter().map(|entry| entry.id).collect());

    async fn put_node(store: &Store, entries: Vec<Entry>) -> Entry {
        let (node, children) =
            (Manifest::new(entries.clone()).unwrap(), entries.iter().map(|entry| entry.id).collect::<Vec<_>>());
        let (chunk, frame) = store.new_chunk(&node.encode(), &children, true).await;
        let entry = Entry { id: chunk.id, len: node.total_len(), leaf: false };
        store.store(store.misses(&[(chunk, frame)]).await).await;
        entry
    }
}

/// The upper node waited for its domain to be let go before it went, and the lower one, unread, for the reference of the upper.
#[test]
fn r13_an_unread_manifest_below_another_holds_its_domain_only_while_a_root_reaches_it() {
    run(async {
        let mut store = Store::new(3, "1+0").await;
        let (_, lower) = put_deep(&mut store, 1, &[&[1, 2], &[3, 4]]).await;
        store.put(2, &[5], How::Striped).await;
        store.put(3, &[6], How::Striped).await;
        store.put(4, &[2, 4, 7], How::Striped).await;
        spoil(&store, lower[0]).await;
        store.delete(2).await;
        for _ in 0..2 {
            store.pass(8 * DAY).await;
            store.round().await;
        }
        assert!(store.chunk(5).await.is_some(), "the object is there, and may need it");
        assert!(warnings(&store).contains("manifest"), "{}", warnings(&store));
        store.delete(1).await;
        store.delete(3).await;
        store.pass(REQUEST_LIFE_MS).await;
        store.round().await;
        assert!(store.chunk(5).await.is_none(), "with the next pass after requests have ended");
        assert!(!warnings(&store).contains("manifest"), "{}", warnings(&store));
        for _ in 0..8 {
            store.pass(8 * DAY).await;
            for _ in 0..3 {
                store.round().await;
            }
        }
        let left: BTreeSet<_> = store.chunks().into_iter().map(|row| row.chunk_id().unwrap()).collect();
        assert_eq!(left.len(), 3, "only what the object that is left names");
        for number in [2, 4, 7] {
            assert_eq!(store.chunk(number).await.unwrap().refs, 1, "with its true count: {number}");
        }
        store.check().await;
    });
}

/// A node that can't be read below one that can't be read either, and a node of theirs that a living object shares.
#[test]
fn r13_what_unread_manifests_share_with_a_living_object_holds_until_that_goes_too() {
    run(async {
        let mut store = Store::new(3, "1+0").await;
        let (upper, lower) = put_deep(&mut store, 1, &[&[1, 2], &[3, 4]]).await;
        let (_, shared) = put_deep(&mut store, 2, &[&[3, 4], &[5, 6]]).await;
        assert_eq!(lower[1], shared[0]);
        store.put(3, &[7], How::Striped).await;
        store.delete(3).await;
        for id in [upper, lower[0], lower[1]] {
            spoil(&store, id).await;
        }
        store.delete(1).await;
        for _ in 0..3 {
            store.pass(8 * DAY).await;
            store.round().await;
        }
        assert!(store.chunk(7).await.is_some(), "the second object reaches one of them");
        store.delete(2).await;
        for _ in 0..16 {
            store.pass(8 * DAY).await;
            for _ in 0..3 {
                store.round().await;
            }
        }
        assert_eq!(store.chunks().len(), 0, "nothing leaks, one unread below the other or not");
    });
}

/// A root moves past a pass that reads one after the other: an upload is completed when the versions were read and the parts were
/// not. So it is with an object that is copied to an earlier key and deleted at its own.
#[test]
fn r13_a_root_that_moves_while_roots_are_read_is_met() {
    run(async {
        let (store, version, part, _) = moving(false).await;
        // Roots are read once for the candidates, and once more for what reaches the unread one.
        let (kv, mut seen, mut done) = (store.world.home.kv.lock().unwrap().clone(), 0, false);
        store.world.home.meanwhile.set(move |families| {
            seen += u32::from(families == [index::UPLOADS]);
            if !done && (families.is_empty() || seen == 2) {
                done = true;
                complete(&kv, &version, &part, None);
            }
        });
        store.round().await;
        assert!(store.chunk(9).await.is_some(), "the unread one may list it, and an object reaches that one");
    });
}

/// An upload is completed to more parts than a version lists: by a manifest chunk that was not there when the pass listed those,
/// and that took the place of the parts before it read them.
#[test]
fn r13_a_manifest_that_came_during_the_pass_is_a_way_to_the_unread() {
    run(async {
        let (store, version, part, node) = moving(true).await;
        let (kv, mut seen, mut done) = (store.world.home.kv.lock().unwrap().clone(), 0, false);
        store.world.home.meanwhile.set(move |families| {
            seen += u32::from(families == [index::UPLOADS]);
            if !done && (families.contains(&index::OBJECTS) && families.len() > 1 || seen == 2) {
                done = true;
                complete(&kv, &version, &part, node.clone());
            }
        });
        store.round().await;
        assert!(store.chunk(9).await.is_some(), "the unread one may list it, and an object reaches that one");
    });
}

type Row = (bytes::Bytes, bytes::Bytes);

/// A store with a chunk that is due, in the domain of an unread manifest that a part reaches. And the rows: of the version that
/// the part will be, of the part, and of the manifest chunk that comes with the version if it is to be `late`.
async fn moving(late: bool) -> (Store, Row, Row, Option<Row>) {
    use codec::effect::{PartRow, UploadName, VersionRow};
    let mut store = Store::new(3, "1+0").await;
    let (upper, lower) = put_deep(&mut store, 1, &[&[1, 2], &[3, 4]]).await;
    let part_row = store.view().rows(index::OBJECTS, &[], &[0xff; 99], 9).unwrap().pop().unwrap();
    let part: VersionRow = index::decode(index::OBJECTS, &part_row.0, part_row.1.clone()).unwrap();
    let name = UploadName { bucket: store.bucket.0, key: "key-1".to_owned(), upload_id: "u".to_owned() };
    let row = PartRow { upload: Some(name.clone()), number: 1, content: part.content.clone(), ..PartRow::default() };
    let mut version = part_row;
    let mut node = None;
    let mut batch = KvBatch::new();
    if late {
        let entry = Entry { id: upper, len: 4 * CHUNK as u64, leaf: false };
        let manifest = codec::manifest::Manifest::new(vec![entry]).unwrap();
        let (chunk, frame) = store.new_chunk(&manifest.encode(), &[upper], true).await;
        let id = chunk.id;
        store.store(vec![(chunk, frame)]).await;
        store.commit(store.object(1, vec![Entry { id, ..entry }], Vec::new()).await).await;
        version = store.view().rows(index::OBJECTS, &[], &[0xff; 99], 9).unwrap().pop().unwrap();
        let key = bytes::Bytes::copy_from_slice(id.as_bytes());
        node = Some((key.clone(), store.view().row(index::CHUNKS, &key).unwrap().unwrap()));
    }
    store.put(2, &[9], How::Striped).await;
    store.delete(2).await;
    spoil(&store, lower[0]).await;
    store.pass(8 * DAY).await;
    let key = index::part_key(&name, 1);
    let mut overlay = index::Overlay::new(&**store.metadata.kv());
    overlay.put(index::UPLOADS, key.clone(), &row);
    let value = overlay.row(index::UPLOADS, &key).unwrap().unwrap();
    store.metadata.kv().write(overlay.into_batch()).unwrap();
    let part = (key.into(), value);
    batch.delete(index::OBJECTS, version.0.clone());
    if let Some((key, _)) = &node {
        batch.delete(index::CHUNKS, key.clone());
    }
    store.metadata.kv().write(batch).unwrap();
    (store, version, part, node)
}

/// The part becomes the version.
fn complete(kv: &MemoryKv, version: &Row, part: &Row, node: Option<Row>) {
    let mut batch = KvBatch::new();
    batch.put(index::OBJECTS, version.0.clone(), version.1.clone());
    batch.delete(index::UPLOADS, part.0.clone());
    if let Some((key, value)) = node {
        batch.put(index::CHUNKS, key, value);
    }
    kv.write(batch).unwrap();
}
