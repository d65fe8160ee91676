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

/// A journal on the first two of three drives.
async fn begun(trace: &Trace) -> (Arc<StorageNode>, Journal) {
    let registered: Vec<DriveId> = (1..=3).map(|n| DriveId([n; 16])).collect();
    let disks = || (0..3).map(|n| trace.disk(n) as Arc<dyn Disk>);
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
    let (node, mut journal) = begun(&trace).await;
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
