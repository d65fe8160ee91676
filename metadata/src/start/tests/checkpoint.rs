//! Checkpoints of the index: written while serving, used by a rebuild, passed over when in doubt.

use super::world::{Client, World, digest, run};
use crate::checkpoint::restore;
use crate::index::{self, FAMILIES, META, Overlay};
use crate::service::Metadata;
use crate::survey::Chain;
use codec::id::Lsn;
use std::collections::BTreeMap;
use storage_node::kv::{KvBatch, MemoryKv};

/// A chain that ends, sealed, at the index's last entry.
fn chain(metadata: &Metadata) -> Chain {
    let last = index::applied(&Overlay::new(&**metadata.kv())).unwrap();
    Chain { held: BTreeMap::new(), last, sealed: Lsn(0), gap: None, kept: BTreeMap::new() }
}

/// A service with a sealed part, a checkpoint at the time of the returned chain, and more after it.
async fn with_a_checkpoint(world: &World) -> (Metadata, Client, Chain, [u8; 32]) {
    let (metadata, mut client) = world.filled(0..60, 3000).await;
    metadata.seal_now().await.unwrap();
    client.puts(&metadata, 60..80, 3000).await;
    let (chain, rows) = (chain(&metadata), index::digest_all(&**metadata.kv()).unwrap());
    let report = metadata.checkpoint_now().await.unwrap().expect("there is something to write");
    assert_eq!(report.lsn, chain.last.0);
    client.puts(&metadata, 70..100, 3000).await;
    (metadata, client, chain, rows)
}

#[test]
fn a_checkpoint_gives_back_every_row_of_its_moment() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, _client, chain, rows) = with_a_checkpoint(&world).await;
        let kv = MemoryKv::new(&FAMILIES);
        let lsn = restore(&**metadata.node(), &kv, &chain).await.unwrap();
        assert_eq!(lsn, Some(chain.last.0));
        assert_eq!(index::digest_all(&kv).unwrap(), rows);
        metadata.shutdown().await;
    });
}

#[test]
fn a_lost_index_is_rebuilt_from_a_checkpoint_and_what_followed() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, mut client, _, _) = with_a_checkpoint(&world).await;
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        // Once more with the checkpoint's own entry sealed, and two drives gone.
        metadata.seal_now().await.unwrap();
        client.puts(&metadata, 100..110, 3000).await;
        let before = digest(&metadata);
        metadata.shutdown().await;
        world.trace.remove_drive(0);
        world.trace.remove_drive(3);
        world.lose_index();
        let metadata = world.start().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn nothing_new_makes_no_checkpoint_and_only_two_are_kept() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, mut client, _, _) = with_a_checkpoint(&world).await;
        for keys in [110..115, 115..120, 120..125] {
            assert!(metadata.checkpoint_now().await.unwrap().is_some());
            assert_eq!(metadata.checkpoint_now().await.unwrap(), None, "nothing but its own entry is new");
            client.puts(&metadata, keys, 3000).await;
        }
        let view = Overlay::new(&**metadata.kv());
        let kept = index::checkpoints(&view).unwrap();
        assert_eq!(kept.len(), 2);
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_checkpoint_that_no_entry_confirms_is_passed_over_for_the_one_before() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, mut client, first, rows) = with_a_checkpoint(&world).await;
        metadata.checkpoint_now().await.unwrap().unwrap();
        client.puts(&metadata, 100..103, 3000).await;
        // A journal that ends where the first one was made: the second is of a history that was given up.
        let kv = MemoryKv::new(&FAMILIES);
        let lsn = restore(&**metadata.node(), &kv, &first).await.unwrap();
        assert_eq!(lsn, Some(first.last.0));
        assert_eq!(index::digest_all(&kv).unwrap(), rows);
        // One that has another entry there knows neither.
        let mut other = first.clone();
        other.last.1[0] ^= 1;
        let (kv, empty) = (MemoryKv::new(&FAMILIES), index::digest_all(&MemoryKv::new(&FAMILIES)).unwrap());
        assert_eq!(restore(&**metadata.node(), &kv, &other).await.unwrap(), None);
        assert_eq!(index::digest_all(&kv).unwrap(), empty, "what is not used leaves nothing");
        metadata.shutdown().await;
    });
}

#[test]
fn an_index_that_was_being_filled_is_thrown_away() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, client, _, _) = with_a_checkpoint(&world).await;
        let before = digest(&metadata);
        let kv = metadata.kv().clone();
        metadata.shutdown().await;
        // As a crash in the middle leaves it: rows, no `applied`, and the mark.
        let mut batch = KvBatch::new();
        batch.put(META, "loading", "");
        batch.delete(META, "applied");
        batch.put(index::CHUNKS, vec![7; 32], "half a row");
        kv.write(batch).unwrap();
        let metadata = world.serving().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
