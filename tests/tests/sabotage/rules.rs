//! What a commit must refuse.

use crate::Switch;
use crate::data::{layout_of, number_of};
use crate::drives::{failed, holds, store};
use bytes::Bytes;
use codec::effect::{
    ClockTick, Content, ObjectMeta, Place, RetentionMode, RetentionRow, SealedRow, StripeName, StripeRow,
};
use codec::erasure::Erasure;
use codec::id::{ChunkId, ClusterId, Lsn, ShardId, StripeId};
use codec::manifest::{Entry, Manifest};
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripePacker};
use gateway::error::PutError;
use metadata::client::{CommitError, MetadataClient};
use metadata::command::{
    BucketChange, ChangeVersion, Command, CommitObject, Condition, CreateBucket, DeleteCondition, DeleteVersion,
    DeleteVersions, Move, Named, Seal, ShardMove, VersionChange,
};
use storage_node::client::Reserve;
use storage_node::drive;
use tests::oracle::Wrong;
use tests::world::{Indexes, OWNER, Shape, World, disks, noise};

async fn small(switch: &Switch) -> Result<World, Wrong> {
    let (_, world) = store(3, &Shape::small("1+1").sabotaged(switch.set.clone())).await?;
    Ok(world)
}

async fn end(world: World, result: Result<(), Wrong>) -> Result<(), Wrong> {
    world.stop().await;
    result
}

/// R9: a writer from before a restart.
pub async fn fenced_writer(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    let old = world.metadata.epoch();
    world.stop().await;
    switch.on();
    let world = World::start(disks(&trace), &Indexes::lost(), &shape).await.map_err(failed)?;
    let (name, owner) = ("late".to_owned(), OWNER.to_owned());
    let command = CreateBucket {
        name,
        owner,
        location: String::new(),
        encrypt: false,
        zstd_level: 0,
        now_ms: 1,
        with: Default::default(),
    };
    let late = world.metadata.commit(old, Command::CreateBucket(command)).await;
    let result = match late {
        Err(CommitError::Refused(_)) => Ok(()),
        other => Err(Wrong::new("a fenced writer was heard", format!("{other:?}"))),
    };
    end(world, result).await
}

/// R11: a copy needs chunks that were condemned in between. The row must say that they are needed.
pub async fn copy_of_what_was_deleted(switch: Switch) -> Result<(), Wrong> {
    let world = small(&switch).await?;
    switch.on();
    let source = world.version("b", "a").await.map_err(failed)?.ok_or_else(|| failed("no version"))?;
    world.delete("b", "a").await.map_err(failed)?;
    let content = source.content.clone().unwrap_or_default();
    let command = CommitObject {
        bucket: world.bucket("b").await.map_err(failed)?.bucket_id(),
        key: "copy".to_owned(),
        condition: Condition::None,
        meta: ObjectMeta::default(),
        content: content.clone(),
        chunks: Vec::new(),
        now_ms: 1,
        attached: Default::default(),
    };
    let committed = world.metadata.commit(world.metadata.epoch(), Command::CommitObject(command)).await;
    committed.map_err(failed)?;
    let manifest = Manifest::parse(&content.manifest).map_err(failed)?;
    let ids: Vec<ChunkId> = manifest.entries().iter().map(|entry| entry.id).collect();
    let hits = world.metadata.find_chunks(content.domain_id(), &ids).await.map_err(failed)?;
    let result = match hits.iter().all(Option::is_some) {
        true => holds(&world, &[("copy", 1)]).await,
        false => Err(Wrong::new("a chunk that is needed is condemned", "")),
    };
    end(world, result).await
}

/// R11: a commit that names a chunk which is not stored.
pub async fn chunk_that_nobody_stored(switch: Switch) -> Result<(), Wrong> {
    let world = small(&switch).await?;
    switch.on();
    let known = world.version("b", "a").await.map_err(failed)?.and_then(|version| version.content).unwrap_or_default();
    let entries = vec![Entry { id: ChunkId([9; 32]), len: 700, leaf: true }];
    let manifest: Bytes = Manifest::new(entries).map_err(failed)?.encode();
    let command = CommitObject {
        bucket: world.bucket("b").await.map_err(failed)?.bucket_id(),
        key: "hollow".to_owned(),
        condition: Condition::None,
        meta: ObjectMeta::default(),
        content: Content { size: 700, manifest, ..known },
        chunks: Vec::new(),
        now_ms: 1,
        attached: Default::default(),
    };
    let result = match world.metadata.commit(world.metadata.epoch(), Command::CommitObject(command)).await {
        Err(CommitError::Refused(_)) => Ok(()),
        Ok(_) => match world.get("b", "hollow").await {
            Ok(_) => Err(failed("a chunk from nowhere can be read")),
            Err(error) => Err(Wrong::new("an object can't be read", error.to_string())),
        },
        Err(other) => Err(failed(other)),
    };
    end(world, result).await
}

/// If-None-Match and If-Match.
pub async fn conditions(switch: Switch) -> Result<(), Wrong> {
    let world = small(&switch).await?;
    switch.on();
    let put = world.put_with("b", "a", &noise(2, 700), false, Condition::IfNoneMatchAny).await;
    let delete = world.delete_if("b", "a", Condition::IfMatch("another".to_owned())).await;
    let result = match (put, delete) {
        (Err(PutError::PreconditionFailed), Err(CommitError::Refused(_))) => holds(&world, &[("a", 1)]).await,
        other => Err(Wrong::new("a condition was not asked", format!("{other:?}"))),
    };
    end(world, result).await
}

/// R15: a version is deleted that is kept in COMPLIANCE mode.
pub async fn locked_version(switch: Switch) -> Result<(), Wrong> {
    let world = small(&switch).await?;
    switch.on();
    let bucket = world.bucket("b").await.map_err(failed)?.bucket_id();
    let commit = async |command| world.metadata.commit(world.metadata.epoch(), command).await;
    for change in [BucketChange::Versioning(true), BucketChange::Lock(None)] {
        commit(Command::ChangeBucket { bucket, change }).await.map_err(failed)?;
    }
    let version = world.version("b", "a").await.map_err(failed)?.ok_or_else(|| failed("no version"))?;
    let until_ms = version.modified_ms.max(version.clock_ms) + 24 * 3600 * 1000;
    let kept = RetentionRow { mode: RetentionMode::Compliance.into(), until_ms };
    let (key, named) = (version.key.clone(), Named::Null);
    let change = VersionChange::Retention(Some(kept));
    let change = ChangeVersion { bucket, key, named: named.clone(), change, bypass: false, seq: None };
    commit(Command::ChangeVersion(change)).await.map_err(failed)?;
    let condition = DeleteCondition::default();
    let versions = vec![DeleteVersion { key: version.key, named, condition, bypass: true }];
    let delete = DeleteVersions { bucket, versions, owner: String::new(), nonce: [1; 8], now_ms: 1 };
    let result = match commit(Command::DeleteVersions(delete)).await {
        Err(CommitError::Refused(_)) => holds(&world, &[("a", 1)]).await,
        other => Err(Wrong::new("a lock was not asked", format!("{other:?}"))),
    };
    end(world, result).await
}

/// A stripe as a seal names it. Its shards are written nowhere, which nobody notices before somebody reads.
fn stripe(world: &World, counter: u64, class: StripeClass) -> Result<StripeRow, Wrong> {
    let geometry = world.metadata.status().geometry;
    let id = StripeId { epoch: world.metadata.epoch(), counter };
    let range = (class == StripeClass::Ledger).then_some((Lsn(1), Lsn(1)));
    let mut packer = StripePacker::in_order(1, geometry.m(), 1 << 20);
    packer.add(noise(counter, 3_000));
    let packed =
        packer.finish(id, class, geometry, ClusterId([1; 16]), range, &Erasure::new(geometry)).map_err(failed)?;
    let drives = world.metadata.status().ensemble.into_iter().map(|drive| Bytes::copy_from_slice(drive.as_bytes()));
    Ok(StripeRow { descriptor: packed.descriptor.encode(), drives: drives.collect() })
}

/// R12: a seal moves a chunk from where it is no longer.
pub async fn seal_of_what_moved(switch: Switch) -> Result<(), Wrong> {
    let world = small(&switch).await?;
    switch.on();
    let content =
        world.version("b", "a").await.map_err(failed)?.and_then(|version| version.content).unwrap_or_default();
    let manifest = Manifest::parse(&content.manifest).map_err(failed)?;
    let id = manifest.entries().first().map(|entry| entry.id).ok_or_else(|| failed("no chunk"))?;
    let located =
        world.metadata.locate(&[id]).await.map_err(failed)?.pop().flatten().ok_or_else(|| failed("nowhere"))?;
    let from = Place { offset: located.place.offset + 1, ..located.place };
    let epoch = world.metadata.epoch();
    let (data, ledger) = (1 << 40, (1 << 40) + 1);
    let to = Place::in_stripe(StripeId { epoch, counter: data }, 0, 0, located.place.len);
    let stripes = vec![stripe(&world, data, StripeClass::Data)?, stripe(&world, ledger, StripeClass::Ledger)?];
    let named = vec![StripeName { epoch: epoch.0, counter: ledger }];
    let sealed = SealedRow { first: 1, last: 1, stripes: named, last_hash: Bytes::from_static(&[0; 32]) };
    let seal = Seal { sealed, stripes, moves: vec![Move { id, from, to }] };
    world.metadata.commit(epoch, Command::Seal(seal)).await.map_err(failed)?;
    let result = holds(&world, &[("a", 1)]).await;
    end(world, result).await
}

/// Two repairs of one shard: the one that comes second was planned from where the shard is no longer, and what it wrote is an
/// orphan by then, which may be collected.
pub async fn repair_of_what_moved(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(4, &shape).await?;
    world.put("b", "large", &noise(7, 9_000)).await.map_err(failed)?;
    let layout = layout_of(&world, "large").await?;
    let (Some(old), Some(other)) = (layout.drives[0], layout.drives[1]) else { return Err(failed("no drives")) };
    let all = disks(&trace).into_iter().filter_map(|disk| drive::probe(disk, None).identity);
    let mut free = all.map(|identity| identity.drive).filter(|drive| *drive != old && *drive != other);
    let (Some(winner), Some(loser)) = (free.next(), free.next()) else { return Err(failed("no other drives")) };
    let (descriptor, node) = (layout.descriptor.clone(), world.metadata.node());
    let shard = ShardId { stripe: descriptor.id, index: 0 };
    let bytes = node.read_shard(old, shard, descriptor.root(), 0..descriptor.shard_len(0)).await.map_err(failed)?;
    let header = ShardHeader { descriptor, index: 0 };
    node.write_shard(winner, header, bytes, Reserve::Client).await.map_err(failed)?;
    let moved =
        |to| Command::MoveShards { stripe: shard.stripe, moves: vec![ShardMove { index: 0, from: Some(old), to }] };
    let epoch = world.metadata.epoch();
    world.metadata.commit(epoch, moved(winner)).await.map_err(failed)?;
    switch.on();
    let late = world.metadata.commit(epoch, moved(loser)).await;
    trace.remove_drive(number_of(&trace, Some(other)));
    let read = world.get("b", "large").await;
    let result = match (late, read) {
        (Err(CommitError::Refused(_)), Ok(Some(got))) if got == noise(7, 9_000) => Ok(()),
        (Ok(_), Err(error)) => Err(Wrong::new("an object can't be read", error.to_string())),
        (late, read) => Err(failed(format!("{late:?}, {read:?}"))),
    };
    end(world, result).await
}

/// R15: the retention clock runs backwards.
pub async fn clock_set_back(switch: Switch) -> Result<(), Wrong> {
    let world = small(&switch).await?;
    switch.on();
    let epoch = world.metadata.epoch();
    let tick = |retention_ms| Command::ClockTick(ClockTick { retention_ms, ..ClockTick::default() });
    world.metadata.commit(epoch, tick(2_000)).await.map_err(failed)?;
    let result = match world.metadata.commit(epoch, tick(1_000)).await {
        Err(CommitError::Refused(_)) => Ok(()),
        other => Err(Wrong::new("the retention clock ran backwards", format!("{other:?}"))),
    };
    end(world, result).await
}
