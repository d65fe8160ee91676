//! Members that are added, and leaders that hear nobody.

use super::world::{PATIENCE, Town, peer};
use super::{assert_the_drives_have_all, put, town};
use crate::raft::{ChangeError, Member, Peer};
use crate::replica::Leading;
use crate::start::tests::world::noise;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Adds a member by way of the leader: again and again, until the answer is not that it was interrupted.
async fn added(town: &Town, id: u64) -> Result<(), ChangeError> {
    loop {
        let leading = town.leading().await;
        match leading.member.add(id, peer(id)).await {
            Ok(()) => return Ok(()),
            Err(ChangeError::NotServing | ChangeError::NotLeading(_) | ChangeError::Late) => {}
            Err(error) => return Err(error),
        }
    }
}

fn votes(member: &Member, id: u64) -> Option<bool> {
    member.members().iter().find(|line| line.id == id).map(|line| line.voter)
}

/// A new member that can't be reached stays one that does not vote, and nothing waits for it: it can be removed, and goes on when
/// it is added again. Were it a voter, nothing would be committed any more, its removal neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_not_caught_up_does_not_vote() {
    let (town, mut client) = town().await;
    for id in [2, 3] {
        town.start(id).await;
    }
    town.cut(&[2, 3]);
    for id in [2, 3] {
        let behind = added(&town, id).await;
        assert!(matches!(behind, Err(ChangeError::Behind { matched: None, needed: 1.., .. })), "{behind:?}");
        assert_eq!(votes(&town.place(1).member, id), Some(false));
        put(&town, &mut client, &format!("without-{id}"), &noise(id, 900)).await;
    }
    town.place(1).member.remove(3).await.unwrap();
    assert_eq!(votes(&town.place(1).member, 3), None);

    town.cut(&[]);
    let again = async {
        while let Err(error) = added(&town, 2).await {
            println!("adding 2: {error}");
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a member that votes");
    assert_eq!(votes(&town.place(1).member, 2), Some(true));
    put(&town, &mut client, "with-2", &noise(9, 900)).await;
    client.check(&*town.serving().await).await;
}

/// A leader whose start is not over adds nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_serve_adds_nobody() {
    let (town, mut client) = town().await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    town.stop(1).await;
    let member = town.open(1).await;
    let watching = member.watch();
    until("a leader", || watching.borrow().leading).await;
    let refused = member.add(2, peer(2)).await;
    assert!(matches!(refused, Err(ChangeError::NotServing)), "{refused:?}");
    assert_eq!(member.members().len(), 1);
    member.shutdown().await;
    drop(member);

    town.start(1).await;
    town.add(2).await;
    assert_eq!(votes(&town.leading().await.member, 2), Some(true));
    client.check(&*town.serving().await).await;
}

/// A leader that is heard and hears nobody gives way: another is elected although it is heard, and the old one follows when it
/// hears again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_gives_way() {
    let (town, mut client) = town().await;
    town.add(2).await;
    town.add(3).await;
    for round in 0..2 {
        put(&town, &mut client, &format!("before-{round}"), &noise(round, 900)).await;
        let old = town.leading().await;
        // What is proposed meanwhile is sent again and again, and is a sign of life as well.
        let service = old.replica.serving().unwrap();
        let mut other = client.clone();
        town.deafen(&[old.member.id()]);
        let alone =
            tokio::spawn(async move { other.put(&service, "unheard", noise(7_000 + round, 900)).await.is_ok() });
        put(&town, &mut client, &format!("after-{round}"), &noise(100 + round, 900)).await;
        assert_ne!(town.leading().await.member.id(), old.member.id());
        let acknowledged = tokio::time::timeout(PATIENCE, alone).await.expect("an answer").unwrap();
        assert!(!acknowledged, "a leader that hears nobody has acknowledged");
        until("a leader that hears nobody serves no more", || old.replica.serving().is_err()).await;
        town.deafen(&[]);
        let watching = old.member.watch();
        until("the old leader follows", || {
            watching.borrow().leader.as_ref().is_some_and(|(id, _)| *id != old.member.id())
        })
        .await;
    }
    put(&town, &mut client, "last", &noise(9_000, 900)).await;
    client.check(&*town.serving().await).await;
}

/// A change of members is applied while a leader decides: what it decides follows an entry that is the last no more. It has to decide
/// again; a leader that stopped for that would lead on, and refuse every write.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn members_change_while_a_command_is_decided() {
    let (town, mut client) = town().await;
    put(&town, &mut client, "before", &noise(1, 900)).await;
    let place = town.leading().await;
    let service = place.replica.serving().unwrap();
    let applied = || place.member.machine().tail().unwrap().lsn;
    for round in 0..5 {
        town.clock.hold(true);
        let (mut other, asked) = (client.clone(), service.clone());
        let deciding = tokio::spawn(async move {
            let key = format!("between-{round}");
            let put = other.put(&asked, &key, noise(2 + round, 900)).await;
            (put, other)
        });
        until("nobody asks what time it is", || town.clock.waiting.load(Ordering::Acquire) > 0).await;
        // Whoever it was, by now it is the committer.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let last = applied();
        let moved = Peer { address: format!("elsewhere-{round}:1"), ..peer(1) };
        place.member.change_address(1, moved).await.unwrap();
        until("the change is not applied", || applied() > last).await;
        town.clock.hold(false);
        let (put, other) = tokio::time::timeout(PATIENCE, deciding).await.expect("an answer").unwrap();
        put.expect("a leader that serves");
        client = other;
    }
    assert_the_drives_have_all(town, &service, &client).await;
}
