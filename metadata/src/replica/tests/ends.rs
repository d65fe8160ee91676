//! Where the drives end, and where the Raft log goes on: what a leader finds that begins over drives that lack the last entries,
//! have others, or were left by a process that was all of metadata.

use super::world::{PATIENCE, Town};
use super::{assert_journal_is_the_log, put, town};
use crate::client::MetadataClient;
use crate::index::digest;
use crate::replay::index_mark;
use crate::replica::Leading;
use crate::start::tests::world::{Client, World, noise};
use codec::id::Lsn;
use openraft::EntryPayload;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A leader that ends between Raft's commit of a `Seal` and the journal. All that the drives have is sealed by an entry that they
/// lack: to an index that has it they seem to be empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_that_was_agreed_on_and_not_journaled_is_journaled_by_the_next_leader() {
    let (town, mut client) = town().await;
    town.add(2).await;
    town.add(3).await;
    put(&town, &mut client, "sealed", &noise(1, 900)).await;
    let old = town.leading().await;
    let service = old.replica.serving().unwrap();
    old.drives.journal_hangs.store(true, Ordering::Release);
    let sealing = tokio::spawn(async move { service.seal_now().await });
    let sealed = || index_mark(&*old.member.machine().kv()).unwrap().sealed;
    until("a seal that is agreed on", || sealed() > Lsn(0)).await;
    assert!(!sealing.is_finished(), "done before any drive had it");
    town.stop(old.member.id()).await;
    assert!(tokio::time::timeout(PATIENCE, sealing).await.expect("an answer").unwrap().is_err());

    put(&town, &mut client, "after", &noise(2, 900)).await;
    let metadata = town.serving().await;
    client.check(&metadata).await;
    let sealed = metadata.status().sealed;
    assert!(sealed > Lsn(0));
    assert!(metadata.journal_entry(sealed).is_none(), "what is sealed is not looked for in the journal");
    let leading = town.leading().await;
    assert_journal_is_the_log(&metadata, &leading).await;
    let before = digest(&*leading.member.machine().kv()).unwrap();
    let (_world, rebuilt) = town.wiped().await;
    assert_eq!(digest(&**rebuilt.kv()).unwrap(), before);
    client.check(&rebuilt).await;
}

/// The epoch of the journal may be a lower one than that of stripes, where an epoch had been granted that no drive names. Raft's
/// first entry is hashed with the epoch of the entry before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_begun_after_an_epoch_that_nobody_used_writes() {
    let (world, mut client) = (World::new(4, "2+1"), Client::default());
    let mut metadata = world.serving().await;
    client.create_bucket(&metadata).await;
    for _ in 0..64 {
        if metadata.last_entry_epoch().unwrap() < metadata.epoch() {
            break;
        }
        metadata.renew_epoch().await.unwrap();
        metadata = world.rebuilt(metadata).await;
    }
    assert!(metadata.last_entry_epoch().unwrap() < metadata.epoch(), "the journal's epoch was never the lower one");
    let town = Town::after(world, metadata).await;
    town.found(1).await.unwrap();
    put(&town, &mut client, "first", &noise(1, 900)).await;
    client.check(&*town.serving().await).await;
}

/// Others have begun from the drives since, and the log of this node has grown past what those have written: it must not serve what
/// it remembers as if the drives had it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_history_than_the_drives_serves_nothing() {
    let (mut town, mut client) = town().await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    town.stop(1).await;
    let drives = town.forked().await;
    let member = town.open(1).await;
    until("a leader", || member.watch().borrow().leading).await;
    let applied = member.machine().tail().unwrap().lsn;
    let old = member.log().read_committed_from(member.log().first_index().unwrap(), applied.0).unwrap();
    let old = old.iter().find_map(|entry| match &entry.payload {
        EntryPayload::Normal(proposal) => Some(proposal.clone()),
        _ => None,
    });
    // One that comes late changes nothing, and is an empty entry.
    for _ in applied.0..=drives.0 {
        member.raft().client_write(old.clone().unwrap()).await.unwrap();
    }
    member.shutdown().await;
    drop(member);
    let place = town.start(1).await;
    until("a start that fails", || place.replica.problem().is_some() || place.replica.serving().is_ok()).await;
    let problem = place.replica.problem().unwrap_or_default();
    assert!(problem.contains("has another entry"), "{problem:?}");
    assert!(place.replica.serving().is_err());
}

/// A node that has followed since, and leads again, has seen the drives as they were before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_of_another_term_is_another_leader() {
    let (town, _client) = town().await;
    let member = town.leading().await.member;
    let term = member.term();
    member.leads_in(term).await.unwrap();
    assert!(member.leads_in(term - 1).await.is_err());
}
