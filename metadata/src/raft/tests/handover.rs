//! A leader that ends: another node leads before anybody could have noticed.

use super::super::{HandedOver, Identity, Member, MemberConfig, Peer, Timings, WayError};
use super::net::Net;
use codec::id::ClusterId;
use openraft::Vote;
use std::collections::BTreeMap;
use std::time::Duration;
use storage_node::kv::RocksOptions;
use storage_node::level::CurrentLevel;
use storage_node::sabotage::SabotageSet;

const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };
const PATIENCE: Duration = Duration::from_secs(120);
/// Followers wait for the longer one before they think of an election, and for the shorter one after that: longer than a leader
/// that hands over waits in all.
const ELECTION: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));

async fn open(net: &Net, dir: &std::path::Path, id: u64) -> Member {
    let timings = Timings {
        heartbeat: Duration::from_millis(150),
        election_min: ELECTION.0,
        election_max: ELECTION.1,
        shorten_every: None,
        ..Timings::default()
    };
    let config = MemberConfig {
        identity: Identity { cluster: ClusterId([1; 16]), node: id },
        dir: dir.join(id.to_string()),
        rocks: SMALL,
        timings,
        sabotage: SabotageSet::default(),
        level: CurrentLevel::default(),
    };
    let member = Member::open(config, (net.clone(), id)).await.unwrap();
    net.nodes.lock().unwrap().insert(id, (member.raft().clone(), member.machine().clone()));
    member
}

/// The stores are closed before the process ends: RocksDB does not bear to be used while it is torn down.
async fn end(net: &Net, members: Vec<Member>) {
    for member in &members {
        member.shutdown().await;
    }
    net.nodes.lock().unwrap().clear();
    drop(members);
    // Their log's threads close them, once they have seen that nobody is left.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Has a node stand, as its inbox does when the leader that it follows asks.
async fn stand(net: &Net, id: u64, vote: Vote<u64>) -> Result<(), WayError> {
    let (raft, _) = net.nodes.lock().unwrap()[&id].clone();
    let ours = raft.metrics().borrow().vote;
    if ours == vote {
        raft.trigger().elect().await.unwrap();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_has_another_node_lead_first() {
    let (net, dir) = (Net::default(), tempfile::tempdir().unwrap());
    let mut members = Vec::new();
    for id in 1..=3 {
        members.push(open(&net, dir.path(), id).await);
    }
    let peers: BTreeMap<u64, Peer> =
        (1..=3).map(|id| (id, Peer { name: format!("m{id}"), ..Peer::default() })).collect();
    members[0].raft().initialize(peers).await.unwrap();
    let led = async {
        loop {
            for member in &members {
                let before = member.term();
                let leads = member.read_index().await.is_ok();
                if !leads {
                    continue;
                }
                assert_eq!(
                    members[(member.id() % 3) as usize].hand_over(|_, _, _| async { Ok(()) }).await,
                    HandedOver::Nothing
                );
                // A leader votes for another one only when it has led for the time of an election.
                tokio::time::sleep(ELECTION.1).await;
                let handed = member.hand_over(|id, _, vote| stand(&net, id, vote)).await;
                // On a machine that is too busy for it the next one is tried.
                if let HandedOver::To(peer) = handed {
                    return (member.id(), peer, before);
                }
            }
        }
    };
    let (from, to, before) = tokio::time::timeout(PATIENCE, led).await.expect("nobody took over");
    let successor = members.iter().find(|member| format!("m{}", member.id()) == to.name).unwrap();
    assert_ne!(successor.id(), from);
    tokio::time::timeout(PATIENCE, successor.read_index()).await.unwrap().unwrap();
    assert!(successor.term() > before);
    end(&net, members).await;
}

/// Nobody stands: the leader ends all the same, and soon. One that nobody else votes with has nobody to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_successor_ends_all_the_same() {
    let (net, dir) = (Net::default(), tempfile::tempdir().unwrap());
    let alone = open(&net, dir.path(), 1).await;
    alone.raft().initialize(BTreeMap::from([(1, Peer::default())])).await.unwrap();
    // It has to elect itself first.
    let leads = async { while alone.read_index().await.is_err() {} };
    tokio::time::timeout(PATIENCE, leads).await.unwrap();
    let asked = |_, _, _| async { panic!("there is nobody") };
    assert_eq!(alone.hand_over(asked).await, HandedOver::Nothing);
    let second = open(&net, dir.path(), 2).await;
    alone.raft().add_learner(2, Peer::default(), true).await.unwrap();
    alone.raft().change_membership(std::collections::BTreeSet::from([1, 2]), false).await.unwrap();
    let handed = tokio::time::timeout(PATIENCE, alone.hand_over(|_, _, _| async { Ok(()) })).await;
    assert_eq!(handed.unwrap(), HandedOver::Nobody);
    end(&net, vec![alone, second]).await;
}
