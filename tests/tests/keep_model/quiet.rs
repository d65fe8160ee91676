//! What must be true of what lies on the drives: at every moment, and when things are quiet.

use crate::ops::Found;
use crate::steps::Run;
use crate::store::Store;
use crate::{Wrong, wrong};
use codec::effect::{ChunkRow, ChunkState, StripeRow};
use codec::id::{DriveId, ShardId, StripeId};
use codec::stripe::{StripeClass, StripeDescriptor};
use metadata::index::{self, CHUNKS, Overlay, STRIPES, View, reclaim};
use metadata::lookup;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use storage_node::keep::{Finding, ScrubOrder, ScrubState, ShardRef, Subject};
use tests::crash::mix;
use tests::keeping::HOUR;

/// A pass of scrub over these small drives that takes longer hangs.
const SCRUB_HANGS: Duration = Duration::from_secs(180);

/// The stripes that have a row.
pub fn stripes(store: &Store) -> Result<Vec<(StripeDescriptor, StripeRow)>, Wrong> {
    let rows = Overlay::new(&**store.world().metadata.kv()).rows(STRIPES, &[], &[0xff; 17], usize::MAX);
    let decode = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        let row: StripeRow = index::decode(STRIPES, &key, value).map_err(|error| wrong("a row", error))?;
        let id = StripeId::from_slice(&key).ok_or_else(|| wrong("a key", ""))?;
        Ok((lookup::descriptor(id, &row).map_err(|error| wrong("a row", error))?, row))
    };
    rows.map_err(|error| wrong("rows", error))?.into_iter().map(decode).collect()
}

fn chunks(store: &Store) -> Result<Vec<ChunkRow>, Wrong> {
    let rows = Overlay::new(&**store.world().metadata.kv()).rows(CHUNKS, &[], &[0xff; 40], usize::MAX);
    let rows = rows.map_err(|error| wrong("rows", error))?.into_iter();
    rows.map(|(key, value)| index::decode(CHUNKS, &key, value).map_err(|error| wrong("a row", error))).collect()
}

/// Where each shard has to be.
fn named(store: &Store) -> Result<BTreeMap<DriveId, Vec<ShardRef>>, Wrong> {
    let mut named: BTreeMap<DriveId, Vec<ShardRef>> = BTreeMap::new();
    for (descriptor, row) in stripes(store)? {
        let mut drives = BTreeSet::new();
        for index in (0..descriptor.width()).filter(|&index| descriptor.is_present(index)) {
            let drive = row.drive(index).ok_or_else(|| wrong("a shard without a drive", descriptor.id))?;
            if !drives.insert(drive) {
                return Err(wrong("two shards on one drive", descriptor.id));
            }
            let id = ShardId { stripe: descriptor.id, index };
            named.entry(drive).or_default().push(ShardRef { id, root: descriptor.root() });
        }
    }
    Ok(named)
}

async fn verify(store: &Store, only: impl Fn(usize) -> bool) -> Result<(), Wrong> {
    let numbers = store.drives().await;
    for (drive, shards) in named(store)? {
        let number = numbers.get(&drive).copied();
        if !number.is_some_and(&only) {
            continue;
        }
        let answers = store.world().metadata.node().verify_shards(drive, shards.clone()).await;
        let answers = answers.map_err(|error| wrong("a drive can't be asked", format!("{number:?}: {error}")))?;
        for (shard, answer) in shards.iter().zip(answers) {
            if let Err(finding) = answer {
                return Err(wrong("a shard is gone", format!("{} on drive {number:?}: {finding:?}", shard.id)));
            }
        }
    }
    Ok(())
}

/// Every shard that a row names is good on its drive, but for drives that were harmed.
pub async fn nothing_reachable_is_gone(store: &Store) -> Result<(), Wrong> {
    let unharmed = store.unharmed();
    verify(store, |number| unharmed.contains(&number)).await
}

/// A whole pass over every drive that can be read.
pub async fn scrub(store: &Store) -> Result<(), Wrong> {
    let node = store.world().metadata.node();
    // Passes are told apart by their milliseconds.
    tokio::time::sleep(Duration::from_millis(3)).await;
    let before: BTreeMap<DriveId, u64> =
        node.scrub_status().await.into_iter().map(|status| (status.drive, status.last_pass_ms)).collect();
    let mut ordered = Vec::new();
    for drive in before.keys() {
        if node.scrub_order(*drive, ScrubOrder::Start).await.is_ok() {
            ordered.push(*drive);
        }
    }
    let began = Instant::now();
    loop {
        let status = node.scrub_status().await;
        let is_done = |drive: &DriveId| {
            status.iter().find(|status| status.drive == *drive).is_none_or(|status| match status.state {
                ScrubState::Waiting => status.last_pass_ms > before[drive],
                ScrubState::Running => false,
                ScrubState::Paused | ScrubState::Stopped => true,
            })
        };
        if ordered.iter().all(is_done) {
            return Ok(());
        }
        if began.elapsed() > SCRUB_HANGS {
            return Err(wrong("scrub hangs", format!("{status:?}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Repair, until every stripe is at full strength. All drives are there.
pub async fn mend(run: &mut Run) -> Result<(), Wrong> {
    scrub(&run.store).await?;
    let store = &run.store;
    let metadata = &store.world().metadata;
    metadata.check_drives().await;
    let keeper = metadata.keeper().ok_or_else(|| wrong("reads only", ""))?;
    keeper.take_inventory().await.map_err(|error| wrong("no inventory", error))?;
    let mut rest = 0;
    for _ in 0..300 {
        let round = keeper.run_once().await.map_err(|error| wrong("no round", error))?;
        let status = keeper.status();
        rest = if round.is_busy() || !status.wounded.is_empty() { 0 } else { rest + 1 };
        if rest > 2 {
            return verify(store, |_| true).await;
        }
        if !round.is_busy() && !status.wounded.is_empty() {
            // Those that wait for a drive, or leave one alone, go on.
            store.clock.pass(61_000);
        }
    }
    Err(wrong("repair does not come to rest", format!("{:?}\n{}", keeper.status(), keeper.plan())))
}

/// Ends a history: all drives are back, repair ends, graces pass, and what nobody needs goes.
pub async fn come_to_rest(run: &mut Run) -> Result<(), Wrong> {
    run.heal().await?;
    // What a start finds of orphans it collects once, so the last writes of the history have to lie before one.
    run.store.restart(Found::Both).await?;
    for _ in 0..8 {
        run.store.world().metadata.seal_now().await.map_err(|error| wrong("no seal", error))?;
        run.pass(8 * 24 * HOUR).await?;
        let reclaimer = run.store.world().metadata.reclaimer().ok_or_else(|| wrong("reads only", ""))?;
        let report = reclaimer.round().await.map_err(|error| wrong("no round", error))?;
        if let Some(held) = report.held {
            return Err(wrong("reclaim is held", held));
        }
    }
    mend(run).await
}

/// What must be true at rest.
pub async fn check(run: &mut Run) -> Result<(), Wrong> {
    run.check().await?;
    whole(&run.store).await?;
    lean(&run.store).await?;
    sound(&run.store).await?;
    // Full strength is what is left without any m of the drives, and without the indexes.
    let drives = run.store.trace.disks().len() as u64;
    let first = mix(run.store.seed, run.store.position()) % drives;
    for n in 0..u64::from(run.store.geometry.m()) {
        run.store.lose(((first + n * 2) % drives) as u8).await;
    }
    run.store.restart(Found::None).await?;
    run.check().await
}

/// Full strength, and nothing to tell an operator.
async fn whole(store: &Store) -> Result<(), Wrong> {
    let metadata = &store.world().metadata;
    let keeper = metadata.keeper().ok_or_else(|| wrong("reads only", ""))?;
    let status = keeper.status();
    let is_quiet = status.wounded.is_empty() && status.narrower == 0 && status.alarms.is_empty();
    if !is_quiet || status.beyond > 0 || status.waiting > 0 {
        return Err(wrong("not quiet", format!("{status:?}")));
    }
    scrub(store).await?;
    let named: BTreeSet<(DriveId, ShardId)> = named(store)?
        .into_iter()
        .flat_map(|(drive, shards)| shards.into_iter().map(move |shard| (drive, shard.id)))
        .collect();
    let counts = |finding: &Finding| match finding.subject {
        Subject::Shard(id) => named.contains(&(finding.drive, id)),
        Subject::Entries(..) | Subject::Blocks { .. } => true,
    };
    for drive in store.drives().await.into_keys() {
        let findings = metadata.node().findings(drive).await.map_err(|error| wrong("no findings", error))?;
        if let Some(finding) = findings.into_iter().find(counts) {
            return Err(wrong("a finding at rest", format!("{finding:?}")));
        }
    }
    let geometry = store.geometry;
    for (descriptor, _) in stripes(store)? {
        if descriptor.parity_present().len() != usize::from(geometry.m()) {
            return Err(wrong("a stripe with less parity", descriptor.id));
        }
    }
    Ok(())
}

/// Garbage is bounded: no chunk that nobody names, no stripe without one, no shard without a stripe, and stripes that are at
/// least half in use.
async fn lean(store: &Store) -> Result<(), Wrong> {
    let view = Overlay::new(&**store.world().metadata.kv());
    let chunks = chunks(store)?;
    if let Some(row) = chunks.iter().find(|row| row.refs == 0 || row.state != ChunkState::Live as i32) {
        return Err(wrong("a chunk that nobody needs", format!("{row:?}")));
    }
    let dropped = reclaim::dropped(&view, StripeId::default(), 10).map_err(|error| wrong("rows", error))?;
    if !dropped.is_empty() {
        return Err(wrong("a stripe that was dropped and not freed", format!("{dropped:?}")));
    }
    let mut live: BTreeMap<StripeId, u64> = BTreeMap::new();
    for (stripe, len) in chunks.iter().filter_map(|row| row.place).filter_map(|p| Some((p.stripe()?, p.len))) {
        *live.entry(stripe).or_default() += u64::from(len);
    }
    let (mut stored, mut used, mut named) = (0, 0, BTreeSet::new());
    for (descriptor, row) in stripes(store)? {
        let data = descriptor.data_present().into_iter();
        let bytes: u64 = data.map(|index| u64::from(descriptor.shard_len(index))).sum();
        let live = live.get(&descriptor.id).copied().unwrap_or(0);
        if descriptor.class == StripeClass::Data {
            (stored, used) = (stored + bytes, used + live);
            if 2 * live < bytes {
                return Err(wrong("a stripe that is half dead", format!("{}: {live} of {bytes}", descriptor.id)));
            }
        }
        for index in (0..descriptor.width()).filter(|&index| descriptor.is_present(index)) {
            named.extend(row.drive(index).map(|drive| (drive, ShardId { stripe: descriptor.id, index })));
        }
    }
    if stored > 2 * used {
        return Err(wrong("garbage", format!("{stored} bytes for {used}")));
    }
    strays(store, &named).await
}

/// Every shard on every drive is one that a row names there.
async fn strays(store: &Store, named: &BTreeSet<(DriveId, ShardId)>) -> Result<(), Wrong> {
    for (drive, number) in store.drives().await {
        let listed = store.world().metadata.node().list_shards(drive, None, None, 100_000).await;
        let listed = listed.map_err(|error| wrong("no list", error))?;
        let known = stripes(store)?.into_iter().map(|(descriptor, _)| descriptor.id).collect::<BTreeSet<_>>();
        // What sealing left behind helps where the ledger is damaged, and stays.
        let mut others = listed.into_iter().filter(|header| header.descriptor.class != StripeClass::Ledger);
        let unnamed = others.find(|header| !named.contains(&(drive, header.id())));
        if let Some(header) = unnamed {
            let kind = if known.contains(&header.id().stripe) { "an old copy of a shard" } else { "an orphan" };
            return Err(wrong(kind, format!("{} on drive {number}", header.id())));
        }
    }
    Ok(())
}

/// The rows of the index agree with each other.
async fn sound(store: &Store) -> Result<(), Wrong> {
    let keeper = store.world().metadata.keeper().ok_or_else(|| wrong("reads only", ""))?;
    let report = keeper.scrub_rows().await.map_err(|error| wrong("rows", error))?;
    if report.faults > 0 { Err(wrong("rows are wrong", format!("{report:?}"))) } else { Ok(()) }
}
