//! What a look at the drives does to the ensemble.
#![allow(clippy::unwrap_used)]
use super::*;
use codec::id::ClusterId;
use codec::journal::NO_ENTRY;
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::drive::{format, probe};
use storage_node::kv::MemoryKv;
use storage_node::node::{NodeConfig, StorageNode};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const EPOCH: Epoch = Epoch(1 << 32);

/// A journal on the first two of some drives.
async fn begun(trace: &Trace, drives: u8) -> (Arc<StorageNode>, Journal) {
    let registered: Vec<DriveId> = (1..=drives).map(|n| DriveId([n; 16])).collect();
    let disks = || (0..usize::from(drives)).map(|n| trace.disk(n) as Arc<dyn Disk>);
    for (disk, drive) in disks().zip(&registered) {
        format(&*disk, CLUSTER, *drive, None).unwrap();
    }
    let config =
        NodeConfig { journal_segment: 256 << 10, preallocate_step: 64 << 10, reserve: 0, ..NodeConfig::new(CLUSTER) };
    let probed = disks().map(|disk| probe(disk, Some(CLUSTER))).collect();
    let index = Arc::new(MemoryKv::new(&storage_node::index::FAMILIES));
    let node = StorageNode::open(config, probed, index).await.unwrap();
    node.begin(EPOCH).await.unwrap();
    let members = registered.iter().take(2).copied().collect();
    let register =
        Register { cluster: CLUSTER, sequence: 1, epoch: EPOCH, first_lsn: Lsn(1), k: 1, m: 1, members, registered };
    let mut journal = Journal::new(JournalStart {
        node: node.clone(),
        map: Arc::new(JournalMap::new(BTreeMap::new(), Patience::default())),
        register: register.clone(),
        epoch: EPOCH,
        last: (Lsn(0), NO_ENTRY),
        sabotage: SabotageSet::default(),
    });
    journal.replace_register(register).await.unwrap();
    journal.establish().await.unwrap();
    (node, journal)
}

/// Each check asked the drives again, in the task that commits: while a host gave no answer, commits waited for it every time.
#[tokio::test]
async fn a_check_goes_by_what_it_is_told_and_asks_nobody() {
    let trace = Trace::new(3);
    let (node, mut journal) = begun(&trace, 3).await;
    let members = journal.register().members.clone();
    let before = node.drives().await;
    trace.remove_drive(0);
    journal.check(&before).await.unwrap();
    assert_eq!(journal.register().members, members, "it was not told");
    let now = node.drives().await;
    journal.check(&now).await.unwrap();
    assert!(!journal.register().members.contains(&members[0]), "{:?}", journal.register().members);
    node.stop().await;
}

/// A member that shares a node with another one was replaced whatever else was down: the register of the new ensemble did not reach a
/// majority, and a journal both of whose members were whole stopped.
#[tokio::test]
async fn a_member_does_not_give_way_while_half_of_the_drives_are_down() {
    let trace = Trace::new(7);
    let (node, mut journal) = begun(&trace, 7).await;
    let members = journal.register().members.clone();
    let on_two_nodes = |mut drives: Vec<DriveStatus>| {
        drives.iter_mut().for_each(|drive| drive.node = if members.contains(&drive.id) { 1 } else { 2 });
        drives
    };
    let all = on_two_nodes(node.drives().await);
    (3..7).for_each(|n| trace.remove_drive(n));
    let three = on_two_nodes(node.drives().await);
    for _ in 0..=2 * CROWDED_CHECKS {
        journal.check(&three).await.unwrap();
    }
    assert_eq!((journal.stopped(), &journal.register().members), (None, &members));
    assert_eq!(journal.crowded_wait, 2 * CROWDED_CHECKS, "it is not asked again as soon");
    // What it is told says that all are there, and they are not: that stops it, and shows that there is something to be spared.
    for _ in 0..2 * CROWDED_CHECKS {
        let _ = journal.check(&all).await;
    }
    assert!(matches!(journal.stopped(), Some(JournalStopped::NoMajority { .. })), "{:?}", journal.stopped());
    node.stop().await;
}
