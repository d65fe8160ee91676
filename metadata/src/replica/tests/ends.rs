//! Where the drives end, and where the Raft log goes on: what a leader finds that begins over drives that lack the last entries,
//! have others, or were left by a process that was all of metadata.

use super::world::{PATIENCE, Town, peer};
use super::{assert_the_drives_have_all, put, town};
use crate::client::MetadataClient;
use crate::index::Overlay;
use crate::index::reclaim::{self, Hold};
use crate::raft::HandedOver;
use crate::replay::index_mark;
use crate::replica::Leading;
use crate::service::Metadata;
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
    assert_the_drives_have_all(town, &metadata, &client).await;
}

/// The leader journaled from the Raft log what the drives lacked, and served: what had been written to them since was gone, nobody
/// was told, and reclaim went on by an index that names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_drives_that_were_put_back_are_verified_and_nothing_is_deleted() {
    put_back(false).await;
}

/// The start that saw it claimed the registers, and came to nothing after that: the next one saw drives like any others, held
/// nothing and verified nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_a_start_that_fails_leaves_what_it_saw_of_drives_that_were_put_back() {
    put_back(true).await;
}

/// `fails`: the first start after that can't begin its journal.
async fn put_back(fails: bool) {
    let (mut town, mut client) = town().await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    town.serving().await.seal_now().await.unwrap();
    let position = town.world.trace.position();
    // Another start, and shards that are on the drives and nowhere else.
    town.stop(1).await;
    town.start(1).await;
    for n in 0..5 {
        put(&town, &mut client, &format!("after-{n}"), &noise(10 + n, 900)).await;
    }
    town.serving().await.seal_now().await.unwrap();
    let hold = |metadata: &Metadata| reclaim::hold(&Overlay::new(&**metadata.kv())).unwrap();
    assert_eq!(hold(&*town.serving().await), None);

    town.journal_fails.store(fails, Ordering::Release);
    town.put_back(position).await;
    if fails {
        let place = town.place(1);
        until("a start that fails", || place.replica.serving().is_ok_and(|metadata| !metadata.may_write())).await;
        place.drives.journal_fails.store(false, Ordering::Release);
        until("a start that does not", || place.replica.serving().is_ok_and(|metadata| metadata.may_write())).await;
    }
    let metadata = town.serving().await;
    let held = hold(&metadata);
    assert!(matches!(&held, Some(Hold::Held(why)) if why.contains("put back")), "{held:?}");
    let keeper = metadata.keeper().unwrap().clone();
    let found = async {
        while keeper.status().wounded.is_empty() {
            keeper.run_once().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("what is gone is found");
}

/// The process waited for its start, which waited for drives, until it was cut off; another node led only when the others had noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_while_it_starts_to_serve_has_another_one_lead() {
    let (town, mut client) = town().await;
    let others = [town.add(2).await, town.add(3).await];
    put(&town, &mut client, "before", &noise(1, 900)).await;
    others.iter().for_each(|place| place.drives.journal_hangs.store(true, Ordering::Release));
    town.stop(1).await;
    let leads = || others.iter().find(|place| place.member.watch().borrow().leading).cloned();
    let handed = async {
        loop {
            until("somebody leads", || leads().is_some()).await;
            let Some(place) = leads() else { continue };
            assert!(place.replica.serving().is_err(), "its start hangs");
            // On a machine that is too busy for it, nobody stands in time, or the other one leads already.
            if let HandedOver::To(peer) = place.replica.hand_over(|id, _, vote| town.stand(id, vote)).await {
                return (place.member.id(), peer);
            }
        }
    };
    let (from, to) = tokio::time::timeout(PATIENCE, handed).await.expect("it waits for its start");
    assert_ne!(peer(from), to);
    others.iter().for_each(|place| place.drives.journal_hangs.store(false, Ordering::Release));
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
