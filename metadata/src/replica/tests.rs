//! Three metadata nodes over the same drives: what was acknowledged is there whoever leads, on the drives too, and nobody
//! acknowledges what can still be undone.

mod ends;
mod failing;
mod fenced;
mod joining;
mod world;

use self::world::{PATIENCE, Place, Town};
use crate::client::MetadataClient;
use crate::index::digest;
use crate::raft::{FoundError, MemberError, Tail, record};
use crate::replica::Leading;
use crate::service::Metadata;
use crate::start::tests::world::{Client, noise};
use codec::id::Lsn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage_node::client::NodeClient;
use storage_node::sabotage::Sabotage;

/// Puts an object by whoever leads, as often as it takes.
async fn put(town: &Town, client: &mut Client, key: &str, bytes: &[u8]) {
    let done = async {
        while let Err(error) = client.put(&*town.serving().await, key, bytes.to_vec()).await {
            println!("{key}: {error}");
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("an acknowledgement");
}

/// A town with a bucket.
async fn town() -> (Town, Client) {
    let (town, mut client) = (Town::begin(6, "3+2").await, Client::default());
    client.create_bucket(&*town.serving().await).await;
    (town, client)
}

/// The journal is what the leader's log says, and the drives alone bring back the same index and every object.
async fn assert_the_drives_have_all(town: Town, metadata: &Metadata, client: &Client) {
    let leading = town.leading().await;
    assert_journal_is_the_log(metadata, &leading).await;
    let before = digest(&*leading.member.machine().kv()).unwrap();
    let (_world, rebuilt) = town.wiped().await;
    assert_eq!(digest(&**rebuilt.kv()).unwrap(), before);
    client.check(&rebuilt).await;
}

/// The entries that the journal has, as one node's log says that they are.
async fn assert_journal_is_the_log(metadata: &Metadata, place: &Place) {
    let shared = metadata.shared();
    let upto = metadata.status().applied;
    let last = place.member.log().clone();
    let (purged, mut compared) = (last.purged_to(), 0);
    let mut tail: Option<Tail> = None;
    for (lsn, _) in shared.map.lengths(Lsn(purged + 1)..=upto) {
        let entry = shared.map.entry(&*shared.node, lsn).await.unwrap();
        if let Some(before) = &tail {
            let logged = last.read_committed_from(lsn.0, lsn.0).unwrap();
            let record = record(&logged[0], before).unwrap().unwrap();
            assert_eq!(record.entry.bytes, entry.bytes, "LSN {lsn}");
            compared += 1;
        }
        tail = Some(Tail { lsn, epoch: entry.epoch, hash: entry.hash });
    }
    assert!(compared > 0, "nothing was compared");
}

/// A leader that is cut off acknowledges nothing; another takes over with all that was acknowledged, again and again, and the
/// drives have the same entries as every log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_whoever_leads() {
    let (town, mut client) = town().await;
    town.add(2).await;
    town.add(3).await;
    for round in 0..2 {
        for n in 0..5 {
            put(&town, &mut client, &format!("key-{round}-{n}"), &noise(round * 100 + n, 900)).await;
        }
        let old = town.leading().await;
        let service = old.replica.serving().unwrap();
        town.cut(&[old.member.id()]);
        let mut other = client.clone();
        let alone = tokio::spawn(async move {
            let answer = other.put(&service, "alone", noise(7_000 + round, 900)).await;
            assert!(answer.is_err(), "a leader that nobody answers has acknowledged");
        });
        put(&town, &mut client, &format!("after-{round}"), &noise(round * 100 + 50, 900)).await;
        assert_ne!(town.leading().await.member.id(), old.member.id());
        tokio::time::timeout(PATIENCE, alone).await.expect("an answer").unwrap();
        assert!(old.replica.linearizable().await.is_err());
        let ended = async {
            while old.replica.serving().is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("a leader that is cut off serves no more");
        town.cut(&[]);
    }
    put(&town, &mut client, "last", &noise(9_000, 900)).await;
    let metadata = town.serving().await;
    client.check(&metadata).await;
    for id in 1..=3 {
        let place = town.place(id);
        let caught_up = async {
            while place.member.machine().tail().unwrap().lsn < metadata.status().applied {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, caught_up).await.expect("a follower that follows");
        assert_journal_is_the_log(&metadata, &place).await;
    }
    let before = digest(&*town.leading().await.member.machine().kv()).unwrap();
    let (_world, rebuilt) = town.wiped().await;
    assert_eq!(digest(&**rebuilt.kv()).unwrap(), before, "the drives do not have all of it");
    client.check(&rebuilt).await;
}

/// Nobody could lead as long as the node was away whose drive comes first: the start asked it whether it had ever had a register.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leads_while_any_one_drive_is_away() {
    let (town, mut client) = town().await;
    town.add(2).await;
    town.add(3).await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    let old = town.leading().await;
    let first = old.drives.drives().await.into_iter().map(|drive| drive.id).min().unwrap();
    (1..=3).for_each(|id| town.place(id).drives.lose(first));
    town.cut(&[old.member.id()]);
    put(&town, &mut client, "after", &noise(2, 900)).await;
    assert_ne!(town.leading().await.member.id(), old.member.id());
    client.check(&*town.serving().await).await;
}

/// A leader that ends between Raft's commit and the journal: the entry is no drive's yet, and the next leader brings it there
/// before it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_agreed_on_and_not_journaled_is_journaled_by_the_next_leader() {
    let (town, mut client) = town().await;
    town.add(2).await;
    town.add(3).await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    let old = town.leading().await;
    let service = old.replica.serving().unwrap();
    old.drives.journal_hangs.store(true, Ordering::Release);
    let (mut other, asked) = (client.clone(), service.clone());
    let waiting = tokio::spawn(async move { other.put(&asked, "between", noise(2, 900)).await });
    // Whoever reads from the leader sees it already, from memory.
    let seen = async {
        while client.get(&service, "between").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("a committed entry is applied");
    assert!(client.get(&service, "between").await == Some(noise(2, 900)));
    assert!(!waiting.is_finished(), "acknowledged before any drive had it");
    town.stop(old.member.id()).await;
    let answer = tokio::time::timeout(PATIENCE, waiting).await.expect("an answer").unwrap();
    assert!(answer.is_err(), "nobody had journaled it");

    let metadata = town.serving().await;
    client.acked.insert("between".to_owned(), noise(2, 900));
    client.check(&metadata).await;
    assert_the_drives_have_all(town, &metadata, &client).await;
}

/// Members come and go, 1 -> 3 -> 1, while somebody writes all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_while_it_serves() {
    let (town, mut client) = town().await;
    let town = Arc::new(town);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writes = town.clone();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        while !*stopped.borrow_and_update() {
            put(&writes, &mut client, &format!("key-{n}"), &noise(n, 700)).await;
            n += 1;
        }
        client
    });
    town.add(2).await;
    town.add(3).await;
    assert_eq!(town.leading().await.member.members().iter().filter(|member| member.voter).count(), 3);
    let first = town.leading().await.member.id();
    // The leader removes itself, and another takes over.
    remove(&town, first).await;
    town.stop(first).await;
    let second = town.leading().await.member.id();
    let third = (1..=3).find(|id| *id != first && *id != second).unwrap();
    remove(&town, third).await;
    town.stop(third).await;
    let members = town.leading().await.member.members();
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [second]);
    stop.send_replace(true);
    let client = tokio::time::timeout(PATIENCE, writing).await.expect("writes go on").unwrap();
    assert!(client.acked.len() > 1, "nothing was written meanwhile");
    client.check(&*town.serving().await).await;
}

async fn remove(town: &Town, id: u64) {
    let gone = async {
        loop {
            let leading = town.leading().await;
            if !leading.member.members().iter().any(|member| member.id == id) {
                return;
            }
            if let Err(error) = leading.member.remove(id).await {
                println!("removing {id}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("a member that is removed");
}

/// The Raft log is shortened to what is sealed. Were it shortened to what is applied, a leader that ends before it has
/// journaled would leave an index that names what neither the drives nor the log have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_keeps_what_the_drives_may_lack() {
    for sabotaged in [false, true] {
        let (town, mut client) = town().await;
        put(&town, &mut client, "sealed", &noise(1, 900)).await;
        let metadata = town.serving().await;
        metadata.seal_now().await.unwrap();
        let leading = town.leading().await;
        let sealed = metadata.status().sealed;
        assert_eq!(leading.member.shorten_log().await, Some(sealed.0));
        assert_eq!(leading.member.log().purged_to(), sealed.0);

        leading.drives.journal_hangs.store(true, Ordering::Release);
        let (mut other, asked) = (client.clone(), metadata.clone());
        let waiting = tokio::spawn(async move { other.put(&asked, "between", noise(2, 900)).await });
        while client.get(&metadata, "between").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if sabotaged {
            town.sabotage.set(Sabotage::PurgeSealed, true);
        }
        assert_eq!(leading.member.shorten_log().await.is_some(), sabotaged);
        town.stop(1).await;
        drop((leading, metadata));
        assert!(waiting.await.unwrap().is_err());
        let place = town.start(1).await;
        if sabotaged {
            let served = async {
                loop {
                    match place.replica.serving() {
                        Ok(metadata) => return metadata.status().reason,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            };
            let reason = tokio::time::timeout(PATIENCE, served).await.expect("a service that reads");
            assert!(reason.contains("the index has applied"), "{reason:?}");
            town.sabotage.set(Sabotage::PurgeSealed, false);
            continue;
        }
        let metadata = town.serving().await;
        client.acked.insert("between".to_owned(), noise(2, 900));
        client.check(&metadata).await;
    }
}

/// All metadata nodes and all that they had are gone: a cluster is begun anew from the index that was rebuilt from the drives.
/// A node of the old cluster that turns up again serves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_begun_anew_from_the_drives() {
    let (town, mut client) = town().await;
    for n in 0..10 {
        put(&town, &mut client, &format!("key-{n}"), &noise(n, 900)).await;
    }
    let before = digest(&*town.place(1).member.machine().kv()).unwrap();
    let (world, rebuilt) = town.wiped().await;
    assert_eq!(digest(&**rebuilt.kv()).unwrap(), before);
    rebuilt.shutdown().await;
    let town = Town::over(world).await;
    town.found(11).await.unwrap();
    client.check(&*town.serving().await).await;
    put(&town, &mut client, "after", &noise(99, 900)).await;
    client.check(&*town.serving().await).await;
    let again = town.found(11).await.map(drop);
    let there = matches!(&again, Err(MemberError::Found(FoundError::There(_))));
    assert!(there, "a member's directory is not written over: {again:?}");
}
