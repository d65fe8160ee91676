//! A start once it has looked and judged: steps 3 to 6, or a service that only reads.

use super::accept::Accepted;
use super::adopt::Adopter;
use super::first::first_members;
use super::key::{Basis, Key};
use super::lead::Lead;
use super::{Config, Means, Scene, StartError, random, rule};
use crate::checkpoint;
use crate::clock::{Clock, Entropy, RetentionClock};
use crate::command::{Command, GEOMETRY_SETTING};
use crate::commit::{Asked, Committer, Request};
use crate::epochs::{Epochs, Proposed};
use crate::index::{self, Overlay};
use crate::journal::{Journal, JournalMap, JournalStart, JournalStopped};
use crate::keep::keeper::{Keeper, KeeperParts};
use crate::keep::lifecycle::{Lifecycle, LifecycleParts};
use crate::keep::reclaim::{self, ReclaimError, ReclaimParts, Reclaimer, orphans};
use crate::keep::returning::Returning;
use crate::keys::Keys;
use crate::kms::Destroying;
use crate::nodes;
use crate::replay::{Replay, ReplayError, index_mark};
use crate::seal::Sealer;
use crate::service::{Alarm, Metadata, Shared, SharedParts, Writing};
use crate::stripe_writer::StripeWriter;
use crate::survey::{ReadOnlyReason, before_gap};
use crate::tasks;
use crate::topology;
use bytes::Bytes;
use codec::effect::{DriveRow, DriveState, SettingRow};
use codec::id::{DriveId, Epoch, Lsn};
use codec::level::{FormatLevel, TooNew};
use codec::register::Register;
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient};
use storage_node::host::NodeHost;
use storage_node::kv::Kv;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Commands that wait for the committer.
const QUEUE: usize = 4096;
/// So often the drives are waited for as long as for a read, while too few of them allow writes: filling a reserve takes long.
const BEGIN_STEPS: u32 = 15;
/// What a record costs beside its entries: header block, block tails, length prefixes.
const RECORD_OVERHEAD: u64 = 64 * 1024;

/// A service that reads: nothing is written to media, and no epoch is taken.
pub(super) async fn read_only(
    parts: Means,
    config: Config,
    scene: Scene,
    key: Key,
    reason: ReadOnlyReason,
) -> Result<Metadata, StartError> {
    tracing::error!(%reason, "writes are not served");
    let kv = scene.kv.clone().ok_or(StartError::NoRegister)?;
    let keys = key.check(&scene, Basis::Reading(&*kv), config.patience).await?;
    let Scene { node, mark, copies, register, mut chain, geometry, .. } = scene;
    let epoch = index::epoch(&Overlay::new(&*kv))?;
    // The chain ends at an entry that is lost; what lies before it can still be read by those whose index names it.
    if let Some(gap) = chain.gap {
        chain.held.extend(before_gap(&copies, gap, mark.sealed));
    }
    let present: Vec<DriveId> = copies.iter().map(|copy| copy.drive).collect();
    let map = Arc::new(JournalMap::new(chain.held, config.patience));
    let shared = shared_of(&node, &kv, map, &parts.clock, &config)?;
    let shared = Arc::new(Shared::new(shared, mark.applied, mark.sealed));
    shared.set_register(register.clone());
    shared.set_read_only(reason.to_string());
    shared.set_alarm(Alarm::ReadOnly, help(&reason, &*kv, &register, &present));
    let tasks = tasks::reading(&shared, &config, geometry);
    let metadata = Metadata::new(shared, node, keys, geometry, epoch, None, tasks);
    metadata.look_at_keys().await;
    Ok(metadata)
}

/// Which drives would let writes be served again, where more drives would.
fn help(reason: &ReadOnlyReason, kv: &dyn Kv, register: &Register, present: &[DriveId]) -> Option<String> {
    let missing = reason.drives_missing()?;
    let wanted: Vec<DriveId> = match reason {
        ReadOnlyReason::MembersAbsent { absent, .. } | ReadOnlyReason::NoMajority { absent, .. } => absent.clone(),
        _ => register.registered.iter().copied().filter(|id| !present.contains(id)).collect(),
    };
    let rows = index::drives(&Overlay::new(kv)).unwrap_or_default();
    let name = |id: &DriveId| match rows.iter().find(|row| row.id == id.as_bytes()[..]) {
        Some(row) if !row.path.is_empty() => format!("{id} (last seen at {})", row.path),
        _ => id.to_string(),
    };
    let names = wanted.iter().map(name).collect::<Vec<_>>().join(", ");
    Some(format!("writes are served again after a restart with {missing} or more of these drives whole: {names}"))
}

/// Tells everybody that nothing is committed any more when the committer ends, however that comes. Without it a service whose
/// committer panicked went on to call itself ready, and refused every write.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let reason = match std::thread::panicking() {
            true => "the committer ended by a mistake in this program, which the log names; restart",
            false => "the service is stopping",
        };
        self.0.set_read_only(reason.to_owned());
    }
}

fn shared_of(
    node: &Arc<dyn NodeHost>,
    kv: &Arc<dyn Kv>,
    map: Arc<JournalMap>,
    clock: &Arc<dyn Clock>,
    config: &Config,
) -> Result<SharedParts, StartError> {
    config.level.raise(known_level(&**kv)?);
    let max_entry = usize::try_from(config.journal_segment.saturating_sub(RECORD_OVERHEAD)).unwrap_or(usize::MAX);
    Ok(SharedParts {
        node: node.clone(),
        kv: kv.clone(),
        map,
        clock: clock.clone(),
        sabotage: config.sabotage.clone(),
        max_entry: max_entry.min(codec::journal::MAX_ENTRY),
        level: config.level.clone(),
    })
}

/// The format level of the index, if this program knows it.
fn known_level(kv: &dyn Kv) -> Result<FormatLevel, StartError> {
    let row = index::level(&Overlay::new(kv))?;
    let level = FormatLevel(row.level);
    TooNew::check(level, &row.by)?;
    Ok(level)
}

/// Steps 3 to 6.
pub(super) async fn serve(
    parts: Means,
    config: Config,
    mut scene: Scene,
    key: Key,
    accepted: Option<Accepted>,
) -> Result<Metadata, StartError> {
    let kv = scene.kv.clone().ok_or(StartError::NoRegister)?;
    // An empty index: nothing was ever applied to it. A checkpoint saves replaying all that led to it.
    if scene.mark.applied == Lsn(0) && !scene.first && accepted.is_none() {
        checkpoint::restore(&*scene.node, &*kv, &scene.chain).await?;
        // It may be all that says so: nothing of a later layout need have come after it.
        known_level(&*kv)?;
        scene.mark = index_mark(&*kv)?;
    }
    let mut replay = Replay::new(&*kv, scene.mark, config.sabotage.clone());
    match replay.ledger(&*scene.node, &scene.chain).await {
        Ok(()) => {}
        Err(ReplayError::ReadOnly(reason)) if accepted.is_none() => {
            return read_only(parts, config, scene, key, reason).await;
        }
        Err(error) => return Err(error.into()),
    }
    let keys = key.check(&scene, Basis::Index(&*kv), config.patience).await?;
    let epoch = match &accepted {
        Some(accepted) => accepted.epoch,
        None => next_epoch(&scene, &kv, &*parts.entropy, parts.lead.as_ref()).await?,
    };
    // A node that was superseded meanwhile would take the drives from its successor.
    if let Some(lead) = &parts.lead {
        lead.confirm().await?;
    }
    begin_drives(&scene, epoch, config.patience.deadline).await?;
    // Again: what was seen before is not what the drives have where another node has led since then, and the register that was
    // found would be written over a newer one.
    if let Some(lead) = &parts.lead {
        lead.confirm().await?;
        lead.remember(&*parts.clock, known_level(&*kv)?).await?;
    }
    let map = Arc::new(JournalMap::new(std::mem::take(&mut scene.chain.held), config.patience));
    let mut journal = Journal::new(JournalStart {
        node: scene.node.clone(),
        map: map.clone(),
        register: scene.register.clone(),
        epoch,
        last: scene.chain.last,
        sabotage: config.sabotage.clone(),
    });
    if let Some(accepted) = &accepted {
        journal.skip_to(Lsn(accepted.row.known).next());
    }
    let begun = begin_journal(&mut journal, &scene).await;
    if let Err(stopped) = begun {
        scene.chain.held = std::collections::BTreeMap::new();
        let shared = shared_of(&scene.node, &kv, map, &parts.clock, &config)?;
        return stopped_service(config, scene, shared, keys, stopped);
    }
    match replay.journal(&*scene.node, &map, scene.chain.last.0).await {
        Ok(()) => drop(replay),
        Err(error) => return Err(error.into()),
    }
    finish_start(parts, config, scene, keys, journal, map, kv, epoch, accepted).await
}

/// Allows writes on the drives. A drive that hangs over it is read-only until it is done, and nobody waits for it longer than
/// it takes to know that the journal can do without it.
pub(super) async fn begin_drives(scene: &Scene, epoch: Epoch, step: Duration) -> Result<(), StartError> {
    let node = scene.node.clone();
    let mut beginning = tokio::spawn(async move { node.begin(epoch).await });
    for _ in 0..BEGIN_STEPS {
        if let Ok(begun) = timeout(step, &mut beginning).await {
            return Ok(begun.map_err(|error| StartError::Journal(error.to_string()))??);
        }
        // Whoever refuses is not waited for behind one that hangs, or the refusal would be nobody's.
        if let Some(refused) = scene.node.superseded() {
            return Err(refused.into());
        }
        let drives = scene.node.drives().await;
        let ready = drives.iter().filter(|drive| drive.health == DriveHealth::Healthy).count();
        tracing::warn!(ready, "drives take long to allow writes");
        if ready >= scene.register.members.len() {
            break;
        }
    }
    Ok(())
}

/// Makes the register that was found this journal's, then new segments on every member, with what each lacks.
async fn begin_journal(journal: &mut Journal, scene: &Scene) -> Result<(), JournalStopped> {
    if scene.first {
        let register = first_members(scene, scene.register.clone(), journal.epoch()).await;
        journal.replace_register(register).await?;
    } else {
        // A change that was interrupted may be on fewer drives than it needs before anything is acknowledged under it.
        let have = scene.copies.iter().filter(|copy| copy.register.as_ref() == Some(&scene.register)).count();
        journal.adopt(have >= scene.register.registered.len().min(scene.copies.len())).await?;
    }
    journal.establish().await
}

/// A service whose journal could not be brought to 1+m drives: it reads.
fn stopped_service(
    config: Config,
    scene: Scene,
    shared: SharedParts,
    keys: Keys,
    stopped: JournalStopped,
) -> Result<Metadata, StartError> {
    let epoch = index::epoch(&Overlay::new(&*shared.kv))?;
    let mark = index_mark(&*shared.kv)?;
    let shared = Arc::new(Shared::new(shared, mark.applied, mark.sealed));
    shared.set_register(scene.register);
    shared.set_read_only(stopped.to_string());
    let help = "a start that can't begin its journal does not try again by itself: bring drives back or make room on them, and restart";
    shared.set_alarm(Alarm::ReadOnly, Some(help.to_owned()));
    let tasks = tasks::reading(&shared, &config, scene.geometry);
    Ok(Metadata::new(shared, scene.node, keys, scene.geometry, epoch, None, tasks))
}

/// An epoch above every one that the drives and the index have seen, with a random low half (R1).
pub(super) async fn next_epoch(
    scene: &Scene,
    kv: &Arc<dyn Kv>,
    entropy: &dyn Entropy,
    lead: Option<&Lead>,
) -> Result<Epoch, StartError> {
    // Of entries that no drive has yet: one of a lower epoch after them would count as misplaced.
    let agreed = lead.map(|lead| lead.member.machine().tail()).transpose()?.map(|tail| tail.epoch);
    let registers = scene.copies.iter().filter_map(|copy| copy.register.as_ref().map(|r| r.epoch));
    let segments = scene.copies.iter().flat_map(|copy| &copy.segments).map(|segment| segment.epoch);
    let entries = scene.chain.held.values().map(|held| held.epoch);
    let index = index::epoch(&Overlay::new(&**kv))?;
    let highest = scene.node.highest_epoch().await;
    let drives = highest.unwrap_or_default();
    let highest =
        registers.chain(segments).chain(entries).chain(agreed).max().unwrap_or_default().max(index).max(drives);
    if is_far_above(highest, index) {
        tracing::error!(%highest, known = %index, "a drive names an epoch that this cluster can't have granted: forged or rotten");
    }
    highest.next(u32::from_le_bytes(random(entropy)?)).ok_or(StartError::LastEpoch { highest })
}

/// More than a century of hourly renewals above what is known, where anything is.
fn is_far_above(found: Epoch, known: Epoch) -> bool {
    known != Epoch(0) && found.count().saturating_sub(known.count()) > 1 << 20
}

/// The epoch that stripes are numbered in, where the journal's is `journal`: above every one that was granted, as the index
/// says now that it has caught up. The journal's was taken before that, and hourly renewals grant epochs that no segment and no
/// register names: where the index had to be made anew, or had lost its last rows with the power, one may come to light only
/// now. Refusing it as too low would be a start that fails again and again.
fn writers_epoch(kv: &dyn Kv, journal: Epoch, entropy: &dyn Entropy) -> Result<Epoch, StartError> {
    let granted = index::reclaim::last_granted(&Overlay::new(kv))?;
    match granted < journal {
        true => Ok(journal),
        false => granted.next(u32::from_le_bytes(random(entropy)?)).ok_or(StartError::LastEpoch { highest: granted }),
    }
}

/// Step 6, and everything that runs afterwards.
#[allow(clippy::too_many_arguments)] // the end of one long sequence, called once
async fn finish_start(
    parts: Means,
    config: Config,
    scene: Scene,
    keys: Keys,
    journal: Journal,
    map: Arc<JournalMap>,
    kv: Arc<dyn Kv>,
    journal_epoch: Epoch,
    accepted: Option<Accepted>,
) -> Result<Metadata, StartError> {
    let epoch = writers_epoch(&*kv, journal_epoch, &*parts.entropy)?;
    let last = index::clock(&Overlay::new(&*kv))?;
    let retention = RetentionClock::resume(last.clone(), &*parts.clock).sabotaged(last.as_ref(), &config.sabotage);
    let mark = index_mark(&*kv)?;
    let shared = shared_of(&scene.node, &kv, map, &parts.clock, &config)?;
    let shared = Arc::new(Shared::new(shared, mark.applied, mark.sealed));
    let mut committer = Committer::new(journal, shared.clone(), config.max_batch);
    if let Some(lead) = &parts.lead {
        committer.lead(lead.agreement()).await.map_err(|stopped| StartError::Journal(stopped.to_string()))?;
        // Where the drives lacked the entry that seals: they have it now, and nothing else is looked for in what it seals.
        shared.map.forget_upto(mark.sealed);
        shared.sealed(mark.sealed);
    }
    let drives = scene.node.drives().await;
    shared.set_drives(drives.clone());
    committer.check(&drives).await;
    let accepts = accepted.is_some();
    let mut commands = first_commands(&scene, &kv, &keys, (epoch, journal_epoch), accepted, &drives)?;
    match rule::change(&config, &Overlay::new(&*kv), &drives, scene.geometry)? {
        Ok(command) => {
            commands.extend(command.map(|command| Asked { writer: epoch, command, reply: None }));
            shared.set_alarm(Alarm::Rule, None);
        }
        Err(unmet) => shared.set_alarm(Alarm::Rule, Some(format!("the rule of placement stays as it was: {unmet}"))),
    }
    let shared_out = rule::share_out(&Overlay::new(&*kv))?;
    commands.extend(shared_out.map(|command| Asked { writer: epoch, command, reply: None }));
    let put_nodes = nodes::seed(&Overlay::new(&*kv), &scene.node.nodes())?;
    commands.extend(put_nodes.into_iter().map(|command| Asked { writer: epoch, command, reply: None }));
    let known = mark.applied.max(index::reclaim::floor(&Overlay::new(&*kv))?);
    let before = index::epoch(&Overlay::new(&*kv))?;
    // R10: drives that have freed for a later state than the one that was found know of deletes, and so of commits, that it
    // lacks. Said before anything else is committed: later its LSNs will have grown past those.
    let evidence = match reclaim::behind(&*scene.node, epoch, known).await {
        Some((drive, seen)) => Some(ReclaimError::Behind { drive, seen }),
        // An accepted loss holds reclaim by itself, and what the lost entries wrote is there.
        None if accepts => None,
        None => {
            let found = orphans::foreign(&*scene.node, &*kv, before).await;
            found.into_iter().next().map(|(drive, epoch)| ReclaimError::Foreign { drive, epoch })
        }
    };
    let put_back = parts.lead.as_ref().map(|lead| lead.put_back.clone()).unwrap_or_default();
    if let Some(reason) = evidence.filter(|_| !put_back.is_all()).map(|evidence| evidence.to_string()) {
        tracing::error!(reason, "nothing is deleted until an operator releases it");
        commands.push(Asked { writer: epoch, command: Command::HoldReclaim { reason }, reply: None });
    }
    if !config.sabotage.is(storage_node::sabotage::Sabotage::StartEpochEntry) || scene.first {
        for answer in committer.commit(commands).await {
            answer.map_err(|error| StartError::Journal(error.to_string()))?;
        }
    }
    nodes::follow(&*scene.node, &Overlay::new(&*kv))?;
    forget_removed(&scene.node, &kv).await?;
    let node: Arc<dyn NodeClient> = scene.node.clone();
    let stripes = Arc::new(StripeWriter::new(
        node,
        scene.cluster,
        epoch,
        config.sabotage.erasure(scene.geometry),
        config.shard_target,
    ));
    let adopter = Adopter { shared: &shared, writer: &stripes, committer: &mut committer, epoch };
    if let Err(error) = adopter.adopt().await {
        tracing::error!(%error, "not all frames of lost entries were looked for; the next start goes on");
    }
    let (requests, queue) = mpsc::channel::<Request>(QUEUE);
    let sealer = Arc::new(Sealer::new(shared.clone(), stripes.clone(), requests.clone()));
    let ended = Ended(shared.clone());
    let committing = async move {
        let _ended = ended;
        committer.run(queue).await;
    };
    let mut running = vec![tokio::spawn(committing)];
    running.extend(tasks::reading(&shared, &config, scene.geometry));
    running.extend(tasks::writing(&shared, &config, &sealer, &requests, retention.clone(), &stripes));
    let keeper = Keeper::new(KeeperParts {
        shared: shared.clone(),
        sealer: sealer.clone(),
        stripes: stripes.clone(),
        requests: requests.clone(),
        geometry: scene.geometry,
        config: config.keep,
    });
    if let Err(error) = keeper.begin(config.patience.deadline).await {
        tracing::warn!(%error, "what was found before this start is taken up by the first round of repair");
    }
    running.extend(keeper.tasks());
    if put_back.is_all() {
        // What is gone is known at once, and not with the daily look.
        let keeper = keeper.clone();
        running.push(tokio::spawn(async move {
            if let Err(error) = keeper.take_inventory().await {
                tracing::warn!(%error, "the inventory of drives that were put back was not taken");
            }
        }));
    }
    let reclaimer = Reclaimer::new(ReclaimParts {
        shared: shared.clone(),
        keys: keys.clone(),
        stripes: stripes.clone(),
        sealer: sealer.clone(),
        requests: requests.clone(),
        epoch,
        started_at: mark.applied,
        before,
        config: config.reclaim.clone(),
    });
    running.push(tokio::spawn(reclaimer.clone().run()));
    running.push(tokio::spawn(reclaimer.clone().run_narrower(keeper.clone())));
    let lifecycle = Lifecycle::new(LifecycleParts {
        shared: shared.clone(),
        stripes: stripes.clone(),
        requests: requests.clone(),
        retention,
        entropy: parts.entropy.clone(),
        config: config.lifecycle,
    });
    running.push(tokio::spawn(lifecycle.clone().run()));
    let destroying = Destroying::new(shared.clone(), requests.clone(), epoch);
    running.push(tokio::spawn(destroying.clone().run()));
    let disks = parts.disks().to_vec();
    let returning = Arc::new(Returning::new(shared.clone(), scene.node.clone(), scene.cluster, disks));
    if let Some(every) = config.check_every {
        running.push(tokio::spawn(tasks::open_returning(returning.clone(), keeper.clone(), reclaimer.clone(), every)));
    }
    if let Some(every) = config.check_every {
        let (node, requests) = (scene.node.clone(), requests.clone());
        let watching = nodes::Watching { shared: shared.clone(), node, requests, stripes: stripes.clone() };
        running.push(tokio::spawn(watching.run(every)));
    }
    let (node, entropy) = (scene.node.clone(), parts.entropy.clone());
    let (of, queue) = (shared.clone(), requests.clone());
    let epochs = Arc::new(Epochs {
        shared: of,
        node,
        stripes: stripes.clone(),
        requests: queue,
        entropy,
        proposed: Proposed::default(),
    });
    if let Some(every) = config.reclaim.renew_every {
        running.push(tokio::spawn(epochs.clone().run(every)));
    }
    if let Some(directory) = &config.audit {
        shared.open_audit(directory);
    }
    let writing = Writing { requests, stripes, sealer, keeper, reclaimer, lifecycle, destroying, returning, epochs };
    let metadata = Metadata::new(shared, scene.node, keys, scene.geometry, epoch, Some(writing), running);
    metadata.look_at_keys().await;
    Ok(metadata)
}

/// A drive that was removed is no drive of this cluster any more, also when somebody brings it again: what it holds is from
/// before, and whatever it held was rebuilt elsewhere or given up.
async fn forget_removed(node: &Arc<dyn NodeHost>, kv: &Arc<dyn Kv>) -> Result<(), StartError> {
    let removed =
        index::drives(&Overlay::new(&**kv))?.into_iter().filter(|row| row.state == DriveState::Removed as i32);
    let removed: Vec<DriveId> = removed.filter_map(|row| DriveId::from_slice(&row.id)).collect();
    for drive in node.drives().await.into_iter().filter(|drive| removed.contains(&drive.id)) {
        tracing::warn!(drive = %drive.id, path = drive.path, "this drive was removed from the cluster: left alone");
        node.forget_drive(drive.id).await?;
    }
    Ok(())
}

/// What a start journals: an accepted loss first (it must follow the last entry that was kept), then the epoch, then, at a
/// first start, what a cluster is.
fn first_commands(
    scene: &Scene,
    kv: &Arc<dyn Kv>,
    keys: &Keys,
    (epoch, journal): (Epoch, Epoch),
    accepted: Option<Accepted>,
    drives: &[storage_node::client::DriveStatus],
) -> Result<Vec<Asked>, StartError> {
    let view = Overlay::new(&**kv);
    let mut asked = Vec::new();
    let mut ask = |writer, command| asked.push(Asked { writer, command, reply: None });
    let mut removed = Vec::new();
    if let Some(accepted) = accepted {
        ask(index::epoch(&view)?, Command::AcceptLoss { loss: accepted.row, sealed: accepted.sealed });
        removed = accepted.removed;
    }
    ask(epoch, Command::StartEpoch { epoch, journal });
    if index::setting(&view, GEOMETRY_SETTING)?.is_none() {
        // Before what says that there is a cluster: one that is found without a level is of before there were any.
        ask(epoch, Command::RaiseLevel(FormatLevel::NEWEST));
        let value = Bytes::from(scene.geometry.to_string());
        ask(epoch, Command::PutSetting(SettingRow { name: GEOMETRY_SETTING.to_owned(), value }));
        // At the newest level, and by both from the first entry on: nothing says again which keys are right until one is replaced.
        keys.wrap_twice();
        ask(epoch, Command::PutSetting(keys.check_setting()?));
        ask(epoch, Command::PutSetting(keys.new_session_setting()?));
    }
    for id in &scene.register.registered {
        let status = drives.iter().find(|d| d.id == *id);
        let row = index::drive(&view, *id)?;
        let is_new = row.is_none();
        let row = row.unwrap_or_else(|| drive_row(*id, DriveState::Active, 0, String::new()));
        match status.map(|status| topology::as_seen(&row, status)) {
            // It was carried to another node, or that to another rack: placement must know with what it fails.
            Some(seen) if is_new || !topology::same_place(&seen, &row) => ask(epoch, Command::RegisterDrive(seen)),
            None if is_new => ask(epoch, Command::RegisterDrive(row)),
            _ => {}
        }
    }
    for id in removed {
        if let Some(row) = index::drive(&view, id)? {
            ask(epoch, Command::RegisterDrive(drive_row(id, DriveState::Removed, row.node, row.path)));
        }
    }
    Ok(asked)
}

fn drive_row(id: DriveId, state: DriveState, node: u32, path: String) -> DriveRow {
    DriveRow { id: Bytes::copy_from_slice(id.as_bytes()), state: state as i32, node, path, ..DriveRow::default() }
}
