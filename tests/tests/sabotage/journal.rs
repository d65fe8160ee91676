//! The journal, its ensemble, and recovery.

use crate::Switch;
use crate::drives::{ensemble, failed, holds, missed, serves, serves_not_or_holds, store};
use futures::future::join_all;
use metadata::client::MetadataClient;
use rustix::io::Errno;
use std::sync::Arc;
use storage_node::disk::faulty::{CrashChoice, Fault, FaultDisk, Trace, What};
use storage_node::disk::{Disk, DiskOp};
use storage_node::kv::Kv;
use tests::oracle::Wrong;
use tests::world::{Indexes, RecordedKv, Shape, World, disks, meta_families, noise};

fn shape(switch: &Switch) -> Shape {
    Shape::small("1+1").sabotaged(switch.set.clone())
}

/// A member fails; the change is acknowledged under an ensemble that only its members know. Then these are lost: more than
/// m, so the store must say so, and not begin again with the old members.
pub async fn change_that_nobody_knows_of(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let (trace, world) = store(5, &shape).await?;
    let old = ensemble(&world, &disks(&trace));
    switch.on();
    trace.inject(Fault::error(Errno::IO).drive(old[0]));
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    trace.heal_all();
    let new = ensemble(&world, &disks(&trace));
    world.stop().await;
    if new == old {
        return Err(failed("the ensemble did not change"));
    }
    let after = trace.restart();
    new.iter().for_each(|drive| after.trace().remove_drive(*drive));
    serves_not_or_holds(after.trace(), &Indexes::lost(), &shape, &[("a", 1), ("b", 2)]).await
}

/// A member is gone, another takes its place, and then the other old member is gone too: the new one has the whole tail.
pub async fn old_members_lost_after_a_change(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let (trace, world) = store(5, &shape).await?;
    let old = ensemble(&world, &disks(&trace));
    switch.on();
    trace.remove_drive(old[0]);
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    world.stop().await;
    let after = trace.restart();
    after.trace().remove_drive(old[1]);
    serves(disks(after.trace()), &shape, &[("a", 1), ("b", 2)]).await
}

/// Two members that take no writes any more were replaced, and the change is on the three other drives. The two old members
/// alone, two of five, know nothing of it and have each other's whole tail.
pub async fn old_members_alone(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let (trace, world) = store(5, &shape).await?;
    let old = ensemble(&world, &disks(&trace));
    for member in &old {
        trace.inject(Fault::error(Errno::IO).drive(*member).on(DiskOp::Write).on(DiskOp::Create));
    }
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    world.stop().await;
    switch.on();
    let after = trace.restart();
    (0..5).filter(|drive| !old.contains(drive)).for_each(|drive| after.trace().remove_drive(drive));
    serves_not_or_holds(after.trace(), &Indexes::lost(), &shape, &[("a", 1), ("b", 2)]).await
}

/// All members are lost, and the majority of the drives is there.
pub async fn both_members_lost(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let (trace, world) = store(5, &shape).await?;
    let members = ensemble(&world, &disks(&trace));
    world.stop().await;
    switch.on();
    let after = trace.restart();
    members.iter().for_each(|drive| after.trace().remove_drive(*drive));
    serves_not_or_holds(after.trace(), &Indexes::lost(), &shape, &[("a", 1)]).await
}

/// The drives are restored from an older copy, the index is not. That its last entry is nowhere on the drives would be
/// reason enough to write nothing ("disagree"); only this step tells the operator that it is the drives which are old.
pub async fn older_drives_under_a_newer_index(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let trace = Trace::with_sabotage(3, switch.set.clone());
    let indexes = Indexes::lost();
    let world = World::start(disks(&trace), &indexes, &shape).await.map_err(failed)?;
    world.create_bucket("b").await.map_err(failed)?;
    world.put("b", "a", &noise(1, 700)).await.map_err(failed)?;
    let older = trace.restart();
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    world.stop().await;
    switch.on();
    // The node's index knows how far the drives were written, and would call them damaged; it may be lost.
    let indexes = Indexes { meta: Arc::clone(&indexes.meta), ..Indexes::lost() };
    serves_not_or_holds(older.trace(), &indexes, &shape, &[("a", 1), ("b", 2)]).await?;
    let world = World::start(disks(older.trace()), &indexes, &shape).await.map_err(failed)?;
    let reason = world.metadata.status().reason;
    let read = holds(&world, &[("a", 1)]).await;
    world.stop().await;
    match reason.contains("journal ends at LSN") {
        true => read,
        false => Err(Wrong::new("the operator is not told that the drives are older", reason)),
    }
}

/// Every file of a drive.
fn files(disk: &FaultDisk) -> Result<Vec<(String, Vec<u8>)>, Wrong> {
    let mut files = Vec::new();
    for dir in ["", "journal", "segments"] {
        for name in disk.list(dir).map_err(failed)? {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if let Ok(bytes) = disk.read_small(&path) {
                files.push((path, bytes));
            }
        }
    }
    // A directory that is empty is none here, and a drive without it is none.
    files.push(("segments/none".to_owned(), Vec::new()));
    Ok(files)
}

/// A crash leaves a batch, never acknowledged, on one member only. That member is away at the next start, which goes on
/// without the batch, in a new epoch. When the member comes back its tail is the longer one, and the older.
pub async fn longer_tail_of_an_older_epoch(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let (trace, world) = store(3, &shape).await?;
    let keys: Vec<String> = (0..12).map(|i| format!("k{i}")).collect();
    let bodies: Vec<_> = (0..12).map(|i| noise(20 + i, 700)).collect();
    let before = trace.position();
    let puts = keys.iter().zip(&bodies).map(|(key, bytes)| world.put("b", key, bytes));
    join_all(puts).await.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
    world.stop().await;
    // The batch: the longest write to the journal, and the same on the other member. The later of the two is lost.
    let writes =
        trace.events().into_iter().filter(|event| event.position >= before).filter_map(|event| match event.what {
            What::Op { drive, op: DiskOp::Write, path, len, .. } if path.starts_with("journal/") => {
                Some((len, event.position, drive))
            }
            _ => None,
        });
    let writes: Vec<_> = writes.collect();
    let longest = writes.iter().map(|(len, _, _)| *len).max().unwrap_or(0);
    let twin: Vec<_> = writes.iter().filter(|(len, _, _)| *len == longest).collect();
    let [(_, early, has_it), (_, late, lacks_it)] = twin.as_slice() else { return Err(missed("no such batch")) };
    if early > late || longest < 8 * 1024 {
        return Err(missed(format!("the batch has {longest} bytes")));
    }
    let point = trace.point(late + 1);
    let lost = point.pending().iter().position(|pending| pending.position == *late);
    let crashed = point.image(&CrashChoice::AllBut(lost.ok_or_else(|| failed("not pending"))?));
    let (has_it, lacks_it) = (*has_it, *lacks_it);
    let kept = files(&crashed.trace().disk(has_it))?;
    crashed.trace().remove_drive(has_it);
    let world = World::start(disks(crashed.trace()), &Indexes::lost(), &shape).await.map_err(failed)?;
    world.put("b", "x", &noise(3, 700)).await.map_err(failed)?;
    let first = world.get("b", "k11").await.map_err(failed)?;
    world.stop().await;
    if first.is_some() || lacks_it == has_it {
        return Err(failed("the batch was not lost"));
    }
    switch.on();
    let after = crashed.trace().restart();
    let kept: Vec<(&str, &[u8])> = kept.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    after.trace().replace_drive(has_it, &kept).map_err(failed)?;
    serves(disks(after.trace()), &shape, &[("a", 1), ("x", 3)]).await
}

/// An index that went on from the same state along another way: its last entry is none of this history, although its LSN is
/// sealed here.
pub async fn index_of_another_history(switch: Switch) -> Result<(), Wrong> {
    let shape = shape(&switch);
    let (trace, world) = store(3, &shape).await?;
    world.stop().await;
    let (one, other) = (trace.restart(), trace.restart());
    let index = RecordedKv::new(meta_families(), None);
    let indexes = Indexes { meta: Arc::clone(&index) as Arc<dyn Kv>, ..Indexes::lost() };
    let world = World::start(disks(one.trace()), &indexes, &shape).await.map_err(failed)?;
    world.put("b", "one", &noise(2, 700)).await.map_err(failed)?;
    world.stop().await;
    let world = World::start(disks(other.trace()), &Indexes::lost(), &shape).await.map_err(failed)?;
    for i in 0..6 {
        world.put("b", &format!("other{i}"), &noise(30 + i, 700)).await.map_err(failed)?;
    }
    world.metadata.seal_now().await.map_err(failed)?;
    holds(&world, &[("other0", 30)]).await?;
    world.stop().await;
    switch.on();
    let indexes = Indexes { meta: RecordedKv::from_snapshot(&index.snapshot(), None), ..Indexes::lost() };
    let after = other.trace().restart();
    serves_not_or_holds(after.trace(), &indexes, &shape, &[("a", 1), ("other0", 30), ("other5", 35)]).await
}
