//! Drives that take an operation and never return from it: they count as failed, hold up nobody, and are drives again when
//! they have answered and were looked at anew.
use super::*;
use crate::client::{DriveHealth, DriveStatus, STALLED_AFTER};
use crate::disk::DiskOp;
use crate::disk::faulty::{Fault, FaultId};
use crate::drive::DriveError;
use crate::node::HUNG_AFTER;
use tokio::task::JoinHandle;

const LEN: usize = 20_000;

/// Nodes of so many drives that are told the time by the test.
async fn node(drives: usize) -> (Trace, Arc<StorageNode>, Arc<Hands>) {
    let trace = Trace::new(drives);
    format_all(&trace);
    let clock = Arc::new(Hands::default());
    let config = NodeConfig { clock: clock.clone(), close_deadline: Duration::from_secs(5), ..config() };
    let node = open_with(&trace, memory_kv(), config).await;
    node.begin(EPOCH).await.unwrap();
    (trace, node, clock)
}

async fn status(node: &StorageNode, drive: DriveId) -> DriveStatus {
    node.drives().await.into_iter().find(|status| status.id == drive).unwrap()
}

/// Time passes, and the node looks at its drives now and then.
async fn pass(node: &StorageNode, clock: &Hands, by: Duration) {
    for _ in 0..by.as_secs() {
        clock.pass(Duration::from_secs(1));
        node.drives().await;
    }
}

async fn met(trace: &Trace, fault: FaultId, times: u64) {
    while trace.hits(fault) < times {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Until the drive's threads are done with what hung.
async fn answered(node: &StorageNode, drive: DriveId) {
    while status(node, drive).await.unanswered_ms > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn putting(node: &Arc<StorageNode>, drive: DriveId, counter: u64) -> JoinHandle<Result<(), WriteError>> {
    let node = node.clone();
    tokio::spawn(async move { put(&node, drive, counter, LEN).await })
}

/// It stayed healthy for ever: only operations that had returned said anything of it.
#[tokio::test]
async fn a_drive_that_does_not_return_from_a_write_has_failed_and_comes_back_when_it_was_opened_anew() {
    let (trace, node, clock) = node(2).await;
    let [hung, other] = [drive_id(0), drive_id(1)];
    put(&node, hung, 0, LEN).await.unwrap();
    let hang = trace.inject(Fault::hang().on(DiskOp::SyncData).drive(0));
    let first = putting(&node, hung, 1);
    met(&trace, hang, 1).await;
    let second = putting(&node, hung, 2);
    pass(&node, &clock, STALLED_AFTER).await;
    // Stalled: not to be given anything, and not failed yet. What can be read is read.
    assert!(node.is_stalled(hung) && !node.is_stalled(other));
    let seen = status(&node, hung).await;
    assert!(seen.waits(STALLED_AFTER) && seen.health == DriveHealth::Healthy, "{seen:?}");
    assert_readable(&node, hung, 0, LEN).await;
    // A sync of more than a minute is nothing but slow.
    pass(&node, &clock, Duration::from_secs(165)).await;
    assert_eq!(status(&node, hung).await.health, DriveHealth::Healthy);
    pass(&node, &clock, Duration::from_secs(15)).await;
    let seen = status(&node, hung).await.health;
    assert_eq!(seen, DriveHealth::Failed { reason: "no answer for 185 s".to_owned() });
    // Who waited is answered, and who comes now does not wait.
    for waiting in [first, second] {
        assert!(matches!(waiting.await.unwrap(), Err(WriteError::DriveFailed { .. })));
    }
    assert!(matches!(put(&node, hung, 3, LEN).await, Err(WriteError::DriveFailed { .. })));
    assert!(matches!(get(&node, hung, 0, LEN).await, Err(ReadError::DriveFailed { .. })));
    put(&node, other, 3, LEN).await.unwrap();
    // It is not opened, closed or even asked while it hangs.
    let before = trace.events().len();
    assert!(matches!(node.reopen(hung).await, Err(DriveError::Failed { .. })));
    assert_eq!(trace.events().len(), before);
    assert_eq!(status(&node, hung).await.opened, 1);

    trace.heal(hang);
    answered(&node, hung).await;
    // It answers, and has failed all the same until it was looked at.
    assert!(matches!(status(&node, hung).await.health, DriveHealth::Failed { .. }));
    node.reopen(hung).await.unwrap();
    let seen = status(&node, hung).await;
    assert_eq!((seen.health, seen.opened), (DriveHealth::Healthy, 2));
    assert_readable(&node, hung, 0, LEN).await;
    put(&node, hung, 4, LEN).await.unwrap();
    // What was queued behind the hang was answered with an error and is not written later.
    assert_eq!(get(&node, hung, 2, LEN).await, Err(ReadError::NotFound));
    node.stop().await;
}

#[tokio::test]
async fn reads_that_hang_take_a_bounded_number_of_threads_and_are_answered_when_the_drive_fails() {
    let (trace, node, clock) = node(1).await;
    let drive = drive_id(0);
    put(&node, drive, 0, LEN).await.unwrap();
    let hang = trace.inject(Fault::hang().on(DiskOp::Read).path("segments"));
    let reading: Vec<_> = (0..40)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { get(&node, drive, 0, LEN).await })
        })
        .collect();
    let places = config().reads_per_drive as u64;
    met(&trace, hang, places).await;
    pass(&node, &clock, HUNG_AFTER + Duration::from_secs(1)).await;
    for read in reading {
        assert!(matches!(read.await.unwrap(), Err(ReadError::DriveFailed { .. })));
    }
    assert_eq!(trace.hits(hang), places);
    trace.heal(hang);
    answered(&node, drive).await;
    node.reopen(drive).await.unwrap();
    assert_readable(&node, drive, 0, LEN).await;
}

/// Also the scrub, and the question how much space there is.
#[tokio::test]
async fn whatever_hangs_counts_and_a_process_that_was_stopped_does_not_blame_its_drives() {
    for op in [DiskOp::Space, DiskOp::Inspect] {
        let (trace, node, clock) = node(1).await;
        let hang = trace.inject(Fault::hang().on(op));
        clock.pass(Duration::from_secs(3600));
        assert_eq!(status(&node, drive_id(0)).await.health, DriveHealth::Healthy);
        met(&trace, hang, 1).await;
        // Stopped while the question was asked, and going on an hour later.
        clock.pass(Duration::from_secs(3600));
        assert_eq!(status(&node, drive_id(0)).await.health, DriveHealth::Healthy, "{op}");
        pass(&node, &clock, HUNG_AFTER).await;
        assert!(matches!(status(&node, drive_id(0)).await.health, DriveHealth::Failed { .. }), "{op}");
        assert_eq!(trace.hits(hang), 1, "{op}");
        trace.heal(hang);
        answered(&node, drive_id(0)).await;
        node.reopen(drive_id(0)).await.unwrap();
    }
}

/// One directory that hung while it was opened held the lock that every other drive's commands wait for.
#[tokio::test]
async fn a_drive_that_hangs_while_it_is_opened_or_begun_keeps_nobody_from_the_others_and_is_not_asked_again() {
    for op in [DiskOp::Lock, DiskOp::Preallocate] {
        let trace = Trace::new(3);
        format_all(&trace);
        let clock = Arc::new(Hands::default());
        let config = NodeConfig {
            clock: clock.clone(),
            // Longer than the drives take on a busy machine that do not hang.
            open_deadline: Duration::from_secs(3),
            close_deadline: Duration::from_secs(3),
            reserve: 1 << 20,
            ..config()
        };
        let probed = |i: usize| probe(trace.disk(i) as Arc<dyn Disk>, Some(CLUSTER));
        let node = StorageNode::open(config, vec![probed(0), probed(1)], memory_kv()).await.unwrap();
        node.begin(EPOCH).await.unwrap();
        put(&node, drive_id(0), 0, LEN).await.unwrap();
        node.close_drive(drive_id(0)).await;
        node.close_drive(drive_id(1)).await;
        if op == DiskOp::Preallocate {
            trace.disk(0).remove("reserve").unwrap();
        }
        let hang = trace.inject(Fault::hang().on(op).drive(0));
        let opening = tokio::spawn({
            let node = node.clone();
            async move { node.reopen(drive_id(0)).await }
        });
        met(&trace, hang, 1).await;
        // The others are opened, added and forgotten meanwhile.
        node.reopen(drive_id(1)).await.unwrap();
        node.add_drive(probed(2)).await.unwrap();
        node.forget_drive(drive_id(2)).await.unwrap();
        put(&node, drive_id(1), 1, LEN).await.unwrap();
        while !opening.is_finished() {
            clock.pass(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(20)).await;
            node.drives().await;
        }
        assert!(opening.await.unwrap().is_err(), "{op}");
        assert!(matches!(status(&node, drive_id(0)).await.health, DriveHealth::Failed { .. }), "{op}");
        for _ in 0..20 {
            assert!(node.reopen(drive_id(0)).await.is_err(), "{op}");
        }
        assert_eq!(trace.hits(hang), 1, "{op}: not tried again while the first thread hangs");
        trace.heal(hang);
        while node.reopen(drive_id(0)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_readable(&node, drive_id(0), 0, LEN).await;
        node.stop().await;
    }
}
