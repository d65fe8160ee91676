//! Wrong arithmetic, wrong frames, formats of another version: what must not become wrong or unreadable bytes.

use crate::Switch;
use crate::data::number_of;
use crate::drives::{ensemble, failed, holds, serves, serves_not_or_holds, store};
use bytes::Bytes;
use codec::register::{REGISTER_VERSION, Register};
use gateway::error::{GetError, PutError};
use metadata::command::Condition;
use metadata::start::StartError;
use rustix::io::Errno;
use storage_node::disk::faulty::{Fault, Trace};
use storage_node::drive;
use storage_node::sabotage::{Defect, Sabotage};
use tests::oracle::Wrong;
use tests::world::{Indexes, Shape, World, disks, noise, text};

/// R3: a build whose erasure code computes with another matrix is started on a store that exists. It must refuse; what it
/// stores instead would be lost as soon as it is needed, read by a build that computes as the format says.
pub async fn start_with_a_wrong_erasure_code(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("2+1").sabotaged(switch.set.clone());
    let (trace, world) = store(4, &shape).await?;
    world.stop().await;
    switch.on();
    switch.set.inflict(Defect::WrongErasure, true);
    let mut layout = None;
    match World::start(disks(&trace), &Indexes::lost(), &shape).await {
        Err(StartError::Erasure(_)) => {}
        Err(other) => return Err(failed(other)),
        Ok(world) => {
            world.put("b", "large", &noise(7, 20_000)).await.map_err(failed)?;
            layout = Some(crate::data::layout_of(&world, "large").await?);
            world.stop().await;
        }
    }
    switch.set.inflict(Defect::WrongErasure, false);
    let after = trace.restart();
    if let Some(layout) = &layout {
        after.trace().remove_drive(number_of(&trace, layout.drives[0]));
    }
    let world = World::start(disks(after.trace()), &Indexes::lost(), &shape).await.map_err(failed)?;
    let result = match (holds(&world, &[("a", 1)]).await, layout) {
        (Ok(()), Some(_)) => reads_back(&world, "large", &noise(7, 20_000)).await,
        (result, _) => result,
    };
    world.stop().await;
    result
}

async fn reads_back(world: &World, key: &str, bytes: &Bytes) -> Result<(), Wrong> {
    match world.get("b", key).await {
        Ok(Some(got)) if got == *bytes => Ok(()),
        Ok(Some(_)) => Err(Wrong::new("wrong bytes", key)),
        Ok(None) => Err(Wrong::new("an acknowledged change is lost", key)),
        Err(error) => Err(Wrong::new("an object can't be read", format!("{key}: {error}"))),
    }
}

/// Stored raw in the journal, compressed in the journal, in a stripe, and encrypted.
fn bodies() -> [(&'static str, Bytes, bool); 4] {
    [
        ("raw", noise(2, 700), false),
        ("zstd", text(3, 3_000), false),
        ("large", noise(4, 30_000), false),
        ("secret", noise(5, 700), true),
    ]
}

/// R4: the encoder makes good frames of other bytes. None of them may be acknowledged.
pub async fn encoder_that_errs(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (_, world) = store(3, &shape).await?;
    switch.on();
    switch.set.inflict(Defect::WrongFrames, true);
    let mut result = Ok(());
    for (key, bytes, encrypt) in bodies() {
        match world.put_with("b", key, &bytes, encrypt, Condition::None).await {
            Ok(_) => result = result.and(reads_back(&world, key, &bytes).await),
            Err(PutError::Internal(_)) => {}
            Err(other) => result = Err(failed(other)),
        }
    }
    switch.set.inflict(Defect::WrongFrames, false);
    let result = result.and(holds(&world, &[("a", 1)]).await);
    world.stop().await;
    result
}

/// R17: frames that are good in themselves and hold other bytes than their id says, as the story above would leave them.
/// Reading them is an error.
pub async fn frames_of_other_bytes(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (_, world) = store(3, &shape).await?;
    switch.set.inflict(Defect::WrongFrames, true);
    switch.set.set(Sabotage::FrameCheck, true);
    for (key, bytes, encrypt) in bodies() {
        world.put_with("b", key, &bytes, encrypt, Condition::None).await.map_err(failed)?;
    }
    switch.set.inflict(Defect::WrongFrames, false);
    switch.set.set(Sabotage::FrameCheck, false);
    switch.on();
    let mut result = holds(&world, &[("a", 1)]).await;
    for (key, ..) in bodies() {
        match world.get("b", key).await {
            Err(GetError::Damaged { .. }) => {}
            Err(other) => result = Err(failed(other)),
            Ok(_) => result = Err(Wrong::new("wrong bytes", key)),
        }
    }
    world.stop().await;
    result
}

/// R16: the first object of a dedup domain is stored, and everything but the drives is lost. Its keys must be on them.
pub async fn first_object_of_a_domain(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    switch.on();
    world.put_with("b", "secret", &noise(2, 700), true, Condition::None).await.map_err(failed)?;
    world.stop().await;
    let after = trace.restart();
    serves(disks(after.trace()), &shape, &[("a", 1), ("secret", 2)]).await
}

/// The drive's register as a version that this one does not know would have written it.
fn as_newer(trace: &Trace, drive: usize) -> Result<(), Wrong> {
    let disk = trace.disk(drive);
    let register = drive::read_register(&*disk).map_err(failed)?;
    if Register::parse(&register).is_err() {
        return Err(failed(format!("drive {drive} has no register")));
    }
    let mut newer = register.to_vec();
    newer.truncate(register.len() - 32);
    newer[8..10].copy_from_slice(&(REGISTER_VERSION + 1).to_le_bytes());
    let hash = blake3::hash(&newer);
    newer.extend_from_slice(hash.as_bytes());
    drive::write_register(&*disk, &newer).map_err(failed)
}

/// R16: a newer version changed the ensemble, and said so in registers that this version can't read. Then its members are
/// lost. The others, read by this version, are not enough to go on with what one of them says in the old way.
pub async fn registers_of_a_newer_version(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(5, &shape).await?;
    let old = ensemble(&world, &disks(&trace));
    trace.inject(Fault::error(Errno::IO).drive(old[0]));
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    trace.heal_all();
    let new = ensemble(&world, &disks(&trace));
    world.stop().await;
    switch.on();
    let after = trace.restart();
    for drive in 0..5 {
        match new.contains(&drive) {
            true => after.trace().remove_drive(drive),
            false if drive == old[0] => {}
            false => as_newer(after.trace(), drive)?,
        }
    }
    serves_not_or_holds(after.trace(), &Indexes::lost(), &shape, &[("a", 1), ("b", 2)]).await
}
