//! A leader that fails by itself: the cluster goes on without anybody's hand.

use super::world::{PATIENCE, Place};
use super::{put, town};
use crate::client::{MetadataClient, Mode};
use crate::index::META;
use crate::replica::Leading;
use crate::service::Metadata;
use crate::start::tests::world::noise;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage_node::kv::{Kv, KvBatch};

/// The row that says what the index has applied: whoever journals reads it first.
const APPLIED: &[u8] = b"applied";

/// Puts something in the place of what a node's index says that it has applied; returns what was there.
fn exchange(place: &Place, value: Bytes) -> Bytes {
    let kv = place.member.machine().kv();
    let was = kv.get(META, APPLIED).unwrap().unwrap();
    let mut batch = KvBatch::new();
    batch.put(META, APPLIED.to_vec(), value);
    kv.write(batch).unwrap();
    was
}

async fn takes_no_writes(service: &Metadata) {
    let stopped = async {
        while service.status().mode == Mode::Serving {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stopped).await.expect("a journal that stops");
}

/// Its journal had stopped for good, and it led on. With nobody to give way to it starts anew by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_journal_has_stopped_starts_anew() {
    let (town, mut client) = town().await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    let place = town.leading().await;
    let service = place.replica.serving().unwrap();
    let was = exchange(&place, Bytes::from_static(b"rot"));
    takes_no_writes(&service).await;
    exchange(&place, was);
    assert!(service.has_failed(), "{}", service.status().reason);
    put(&town, &mut client, "after", &noise(2, 900)).await;
    client.check(&*town.serving().await).await;
}

/// Its index is damaged, and those of the others are not: it would start and fail for ever, and they would follow it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_t_serve_gives_way_to_one_that_can() {
    let (town, mut client) = town().await;
    town.add(2).await;
    town.add(3).await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    let old = town.leading().await;
    let service = old.replica.serving().unwrap();
    exchange(&old, Bytes::from_static(b"rot"));
    takes_no_writes(&service).await;
    put(&town, &mut client, "after", &noise(2, 900)).await;
    let new = town.leading().await;
    assert_ne!(new.member.id(), old.member.id());
    let ended = async {
        while !old.drives.left.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the storage nodes are left to the successor");
    assert!(!new.drives.left.load(Ordering::Acquire));
    client.check(&*town.serving().await).await;
}
