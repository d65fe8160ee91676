//! One round of the keeper, step by step.

use super::{Journal, KeepError, Keeper, Round, Walk, Work};
use crate::command::Command;
use crate::index::{self, IndexError, Overlay, STRIPES, View};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::keep::plan::{Plan, Policy, RepairItem, Scene, Stripe, Wait, plan_repairs};
use crate::keep::repair::{Done, Executor, Failure, commit};
use crate::keep::spread::{Apart, with_headroom};
use crate::keep::watch::Sight;
use crate::keep::wounds::{Wrong, judge};
use crate::lookup::Wounds;
use crate::topology::{Level, Topology};
use codec::effect::{DriveRow, StripeRow};
use codec::id::{DriveId, Lsn, StripeId};
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::PoisonError;
use std::time::Duration;
use storage_node::client::DriveStatus;
use storage_node::keep::{Finding, RebuildError, Subject};
use storage_node::sabotage::Sabotage;

/// Rows that are walked over without letting others run.
pub(super) const WALK_STEP: usize = 2048;
/// The second walk after a change: a stripe that was being written when a drive fell silent may be committed after the first.
const WALK_AGAIN_MS: u64 = 120_000;
/// Those who wait are looked at again after this time at the latest.
const WAKE_MS: u64 = 60_000;
/// A drive that did not take a shard is left alone for this time.
const AVOID_MS: u64 = 60_000;
/// Sealing for the sake of a damaged journal copy is tried again after this time.
const JOURNAL_AGAIN_MS: u64 = 3_600_000;
/// How long a round waits for a drive whose share is used up, at a time.
const NAP: Duration = Duration::from_millis(50);
/// Plans that one round makes at most, when all that is looked at turns out to wait.
const PLANS: usize = 16;

/// The key after every stripe's.
pub(super) const STRIPES_END: [u8; 17] = [0xff; 17];

/// What is known of the drives for this round.
pub(super) struct Now {
    rows: Vec<DriveRow>,
    status: Vec<DriveStatus>,
    pub(super) ms: u64,
}

/// What repair leaves of the reserve of each drive, in bytes: a journal segment of the usual size.
const JOURNAL_SHARE: u64 = 256 << 20;

impl Keeper {
    pub(super) async fn round(&self, work: &mut Work) -> Result<Round, KeepError> {
        let now = self.look(work).await?;
        self.poll(work, &now, LONG_WORK).await?;
        self.walk(work, &now).await?;
        self.verify_back(work, &now).await?;
        // Mending takes a while; what is wrong is refused meanwhile.
        self.publish(work);
        let mut round = self.mend(work, &now).await?;
        self.mend_journal(work, now.ms).await;
        self.narrow(work, now.ms).await;
        self.bring_apart(work, &now, &mut round).await?;
        round.left = work.queue.first(usize::MAX).len();
        round.looking = work.walk.is_some() || !work.drives.back().is_empty();
        Ok(round)
    }

    /// How the drives are.
    pub(super) async fn look(&self, work: &mut Work) -> Result<Now, KeepError> {
        let shared = &self.parts.shared;
        let status = shared.node.drives().await;
        let view = Overlay::new(&*shared.kv);
        let rows = index::drives(&view)?;
        let ms = self.now_ms();
        let look = work.drives.look(&view, &rows, &status, ms, self.parts.config.repair.grace_ms)?;
        if shared.sabotage.is(Sabotage::ReturnVerify) {
            work.drives.back().into_iter().for_each(|(drive, _)| work.drives.verified(drive, None));
        }
        for note in look.notes {
            if let Err(error) =
                commit(&self.parts.requests, self.parts.stripes.epoch(), Command::PutSetting(note)).await
            {
                tracing::warn!(%error, "since when a drive is silent was not journaled");
            }
        }
        let mut usable: Vec<DriveId> = Topology::new(&rows, &status).usable().map(|drive| drive.id).collect();
        usable.sort_unstable();
        if look.changed || usable != work.usable || ms >= work.wake_at_ms {
            work.queue.wake();
            work.wake_at_ms = ms.saturating_add(WAKE_MS);
        }
        work.usable = usable;
        if look.changed || (work.walk.is_none() && ms >= work.walk_at_ms) {
            work.walk = Some(Walk::default());
            work.walked_all &= !look.changed;
            work.walk_at_ms = if look.changed { ms.saturating_add(WALK_AGAIN_MS) } else { u64::MAX };
        }
        work.avoid.retain(|_, until_ms| *until_ms > ms);
        work.lanes.forget_idle(ms);
        Ok(Now { rows, status, ms })
    }

    pub(super) fn judge(&self, work: &mut Work, id: StripeId, now_ms: u64) -> Result<Option<Stripe>, IndexError> {
        let view = Overlay::new(&*self.parts.shared.kv);
        let judged = match judge(&view, &mut work.queue, id, &work.drives, &work.findings, now_ms) {
            Err(error @ IndexError::Damaged { .. }) => {
                // A row that does not decode is for the check of the rows to report; the others are still mended.
                tracing::warn!(stripe = %id, %error, "a stripe's row can't be used");
                work.queue.remove(id);
                None
            }
            judged => judged?,
        };
        if judged.is_none() {
            work.waits.remove(&id);
            work.narrower.remove(&id);
        }
        Ok(judged)
    }

    /// What nodes list, and what the inventory found. A drive is waited for no longer than `limit`.
    pub(super) async fn poll(&self, work: &mut Work, now: &Now, limit: Duration) -> Result<(), KeepError> {
        let mut stripes = BTreeSet::new();
        for met in std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner)) {
            work.findings.met(met.drive, met.shard, met.wrong);
            stripes.insert(met.shard.stripe);
        }
        let there = work.drives.iter().filter(|(_, seen)| matches!(seen.sight, Sight::There | Sight::Back { .. }));
        let lists = join_all(there.map(|(drive, _)| self.list(drive, limit))).await;
        for (drive, list, entries) in lists.into_iter().flatten() {
            stripes.extend(work.findings.listed(drive, &list, now.ms));
            work.damaged.retain(|(on, _)| *on != drive);
            if entries.is_empty() {
                work.journal.remove(&drive);
            } else {
                work.journal.entry(drive).or_default();
                work.damaged.extend(entries.into_iter().map(|range| (drive, range)));
            }
        }
        for stripe in stripes {
            self.judge(work, stripe, now.ms)?;
        }
        Ok(())
    }

    /// A drive's findings, and the entries among them that it still holds a segment of. `None`: it can't be asked; it is silent
    /// with the next look, and until then its old list stands.
    async fn list(&self, drive: DriveId, limit: Duration) -> Option<(DriveId, Vec<Finding>, Vec<RangeInclusive<Lsn>>)> {
        let node = &self.parts.shared.node;
        let list = read_in_time(drive, limit, node.findings(drive)).await.ok()?;
        let range = |finding: &Finding| match finding.subject {
            Subject::Entries(first, last) => Some(first..=last),
            Subject::Shard(_) | Subject::Blocks { .. } => None,
        };
        let mut ranges: Vec<_> = list.iter().filter_map(range).collect();
        if !ranges.is_empty() {
            let segments = read_in_time(drive, limit, node.journal_segments(drive)).await.ok()?;
            let held: Vec<_> = segments.iter().filter_map(|segment| segment.first.zip(segment.last)).collect();
            ranges.retain(|range| held.iter().any(|(from, upto)| range.start() <= upto && range.end() >= from));
        }
        Some((drive, list, ranges))
    }

    /// Tells those who answer lookups what is wrong, and what no longer is.
    pub(super) fn publish(&self, work: &mut Work) {
        let mut unverified: BTreeMap<DriveId, Option<StripeId>> = work.drives.unverified().collect();
        // Opened again since the last look.
        let doubted = self.parts.shared.doubted(|drive, opened| work.drives.opened(drive) < opened);
        unverified.extend(doubted.iter().map(|drive| (*drive, None)));
        let returned = self.note_returned(work, &doubted);
        let least = if self.parts.geometry.m() == 0 { 1 } else { 2 };
        let thin = self.parts.shared.map.thin(&work.damaged, |drive| unverified.contains_key(&drive), least);
        let wounds = Wounds { shards: work.findings.by_stripe(), unverified, returned, thin_entries: thin };
        self.parts.shared.set_wounds(wounds);
    }

    /// For each drive that is back, the last stripe that was begun before that was noticed. One that went again since counts
    /// from when it is back from that: what it took in between may be lost.
    fn note_returned(&self, work: &mut Work, doubted: &[DriveId]) -> BTreeMap<DriveId, StripeId> {
        let back = work.drives.back().into_iter().map(|(drive, _)| drive);
        let back: BTreeSet<DriveId> = back.filter(|drive| !doubted.contains(drive)).collect();
        let Work { drives, returned, .. } = work;
        returned.retain(|drive, (opened, _)| back.contains(drive) && drives.opened(*drive) == *opened);
        for drive in back {
            returned.entry(drive).or_insert_with(|| (drives.opened(drive), self.parts.stripes.last_id()));
        }
        returned.iter().map(|(drive, (_, last))| (*drive, *last)).collect()
    }

    /// Goes on over all stripes, looking for those with a shard on a drive that is lost, back, removed or being emptied.
    async fn walk(&self, work: &mut Work, now: &Now) -> Result<(), KeepError> {
        let mut left = self.parts.config.walk_rows.max(1);
        let topology = Topology::new(&now.rows, &now.status);
        let several = Level::SHARED.map(|level| topology.has_many(level));
        let apart = Apart::new(&self.roomy_topology(work, now), usize::from(self.parts.geometry.m()));
        while left > 0
            && let Some(mut walk) = work.walk.take()
        {
            let count = left.min(WALK_STEP);
            let rows = Overlay::new(&*self.parts.shared.kv).rows(STRIPES, &walk.next, &STRIPES_END, count)?;
            let ended = rows.len() < count;
            left -= count;
            for (key, value) in rows {
                walk.next = [&key[..], &[0]].concat();
                walk.stripes += 1;
                let row = index::decode::<StripeRow>(STRIPES, &key, value).ok();
                let Some((id, row)) = StripeId::from_slice(&key).zip(row) else { continue };
                let drives: Vec<DriveId> = row.drives.iter().filter_map(|drive| DriveId::from_slice(drive)).collect();
                let (crowded, could_be_apart) = Keeper::crowding(&topology, &apart, several, &drives);
                for (count, crowded) in walk.crowded.iter_mut().zip(crowded) {
                    *count += u64::from(crowded);
                }
                let (queued, concerned) =
                    (work.queue.contains(id), drives.iter().any(|drive| work.drives.concerns(*drive)));
                // What is not whole comes first; taken up again and again here it would only cost walks.
                if could_be_apart && !queued && !concerned {
                    work.spread.add(id);
                }
                if concerned && !queued {
                    self.judge(work, id, now.ms)?;
                }
            }
            if ended {
                (work.walked, work.crowded) = (walk.stripes, walk.crowded);
                work.walked_all = true;
                work.spread.walked();
                let again = now.ms.saturating_add(self.parts.config.walk_every_ms);
                work.walk_at_ms = work.walk_at_ms.min(again);
                if std::mem::take(&mut work.queue.overflowed) {
                    work.walk_at_ms = work.walk_at_ms.min(now.ms.saturating_add(WALK_AGAIN_MS));
                }
                break;
            }
            work.walk = Some(walk);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Plans, and carries out what the drives have time for.
    async fn mend(&self, work: &mut Work, now: &Now) -> Result<Round, KeepError> {
        let mut round = Round::default();
        for _ in 0..PLANS {
            let window = work.queue.first(self.parts.config.for_drives(work.usable.len()).window.max(1));
            let mut stripes = Vec::with_capacity(window.len());
            for id in &window {
                stripes.extend(self.judge(work, *id, now.ms)?);
            }
            work.plan = self.plan_for(work, now, &stripes);
            let plan = work.plan.clone();
            self.settle_waits(work, &plan, &stripes);
            if self.is_paused() || window.is_empty() {
                return Ok(round);
            }
            if !plan.items.is_empty() {
                self.carry_out(work, plan.items, &mut round).await?;
                return Ok(round);
            }
        }
        Ok(round)
    }

    fn plan_for(&self, work: &Work, now: &Now, stripes: &[Stripe]) -> Plan {
        let room = Topology::new(&now.rows, &now.status).usable().map(|drive| drive.free).sum();
        let mut status = now.status.clone();
        for drive in &mut status {
            // Repair may use the reserve (R14), but for what the journal needs on a full cluster: without room for a segment
            // nothing can be deleted any more, and nothing gives space back.
            drive.free = drive.free.saturating_add(drive.reserve.saturating_sub(JOURNAL_SHARE));
        }
        let topology = self.topology_with(work, now, &status);
        let policy: &Policy = &self.parts.config.repair;
        let is_lost = |sight| match sight {
            Sight::Silent { since_ms } => since_ms.saturating_add(policy.grace_ms) <= now.ms,
            _ => false,
        };
        let lost_drives = work.drives.iter().filter(|(_, seen)| is_lost(seen.sight)).count();
        let scene = Scene { topology: &topology, lost_drives, room, geometry: self.parts.geometry, now_ms: now.ms };
        let mut policy = self.parts.config.for_drives(work.usable.len()).repair;
        if self.parts.shared.sabotage.is(Sabotage::RepairGrace) {
            policy.grace_ms = 0;
        }
        plan_repairs(&scene, stripes, &policy)
    }

    /// The drives, of which those that are nearly full take nothing: for what moves without need.
    pub(super) fn roomy_topology(&self, work: &Work, now: &Now) -> Topology {
        with_headroom(self.free_topology(work, now), &now.status)
    }

    /// The drives, with the room that is free outside the reserve.
    fn free_topology(&self, work: &Work, now: &Now) -> Topology {
        self.topology_with(work, now, &now.status)
    }

    fn topology_with(&self, work: &Work, now: &Now, status: &[DriveStatus]) -> Topology {
        let mut topology = self.parts.shared.sparing(Topology::new(&now.rows, status), status);
        for drive in topology.drives.iter_mut().filter(|drive| work.avoid.contains_key(&drive.id)) {
            drive.usable = false;
        }
        topology
    }

    /// Stripes that wait are put behind those that don't.
    fn settle_waits(&self, work: &mut Work, plan: &Plan, stripes: &[Stripe]) {
        let narrower: BTreeSet<StripeId> = plan.narrower.iter().copied().collect();
        let waiting: std::collections::HashMap<StripeId, Wait> =
            plan.waiting.iter().map(|waiting| (waiting.stripe, waiting.why)).collect();
        for stripe in stripes {
            let (id, why) = (stripe.id, waiting.get(&stripe.id).copied());
            match why {
                Some(why) => drop(work.waits.insert(id, why)),
                None => drop(work.waits.remove(&id)),
            }
            match narrower.contains(&id) {
                true => work.narrower.insert(id, stripe.class),
                false => work.narrower.remove(&id),
            };
            if why.is_some() || narrower.contains(&id) {
                work.queue.put(stripe, true);
            }
            if let Some(Wait::Grace { until_ms } | Wait::Replacement { until_ms }) = why {
                work.wake_at_ms = work.wake_at_ms.min(until_ms);
            }
        }
    }

    pub(super) async fn carry_out(
        &self,
        work: &mut Work,
        items: Vec<RepairItem>,
        round: &mut Round,
    ) -> Result<(), KeepError> {
        let parts = &self.parts;
        let executor = Executor { shared: &parts.shared, requests: &parts.requests, stripes: &parts.stripes };
        let end_ms = self.now_ms().saturating_add(parts.config.round_ms);
        let mut items: VecDeque<RepairItem> = items.into();
        let orders = parts.config.for_drives(work.usable.len()).orders.max(1);
        let mut running = FuturesUnordered::new();
        // Bounded even if the clock stands still.
        let mut naps =
            if parts.config.drive_rate == 0 { 0 } else { u128::from(parts.config.round_ms) / NAP.as_millis() };
        loop {
            let (mut at, now_ms) = (0, self.now_ms());
            let may_begin = now_ms <= end_ms && !self.is_paused();
            while may_begin && running.len() < orders && at < items.len() {
                let task: Vec<(DriveId, u64)> = items[at].work().collect();
                if !work.lanes.start(&task, items[at].share, now_ms) {
                    at += 1;
                    continue;
                }
                let Some(item) = items.remove(at) else { break };
                let executor = &executor;
                running.push(async move {
                    let done = executor.carry_out(&item).await;
                    (task, item, done)
                });
            }
            let Some((task, item, done)) = running.next().await else {
                if items.is_empty() || !may_begin || naps == 0 {
                    return Ok(());
                }
                // All drives have used up their share: a moment later one has not. Planning anew would only cost.
                naps -= 1;
                tokio::time::sleep(NAP).await;
                continue;
            };
            work.lanes.finish(&task);
            self.settle(work, &item, done, round)?;
        }
    }

    /// Takes in what came of an item.
    fn settle(&self, work: &mut Work, item: &RepairItem, done: Done, round: &mut Round) -> Result<(), KeepError> {
        let now_ms = self.now_ms();
        for (drive, shard) in &done.good {
            work.findings.mended(*drive, *shard);
        }
        for (drive, shard, kind) in &done.bad {
            work.findings.met(*drive, *shard, Wrong { kind: *kind, since_ms: now_ms });
        }
        if let Some(drive) = done.avoid {
            work.avoid.insert(drive, now_ms.saturating_add(AVOID_MS));
        }
        let totals = &mut work.totals;
        totals.read += done.rebuilt.read;
        totals.written += done.rebuilt.written;
        totals.shards += done.shards;
        totals.found_good += (done.good.len() as u64).saturating_sub(done.shards);
        match &done.failed {
            None => {
                totals.stripes += 1;
                round.mended += 1;
                work.inconsistent.remove(&item.stripe);
            }
            Some(failure) => {
                tracing::warn!(stripe = %item.stripe, %failure, "a stripe was not mended; it is planned again");
                totals.failed += 1;
                round.failed += 1;
                if matches!(failure, Failure::Rebuild(RebuildError::Inconsistent(_))) {
                    work.inconsistent.insert(item.stripe);
                }
            }
        }
        let retry = done.failed.is_some() && done.bad.is_empty() && done.avoid.is_none();
        if let Some(stripe) = self.judge(work, item.stripe, now_ms)?
            && retry
        {
            // The same again would come to the same at once; others first.
            work.queue.put(&stripe, true);
            work.waits.insert(item.stripe, Wait::Again { until_ms: work.wake_at_ms });
        }
        Ok(())
    }

    /// A damaged copy of unsealed journal entries is mended by sealing them from the good copies: the segment that is damaged
    /// is freed by that. Until then the entries are on fewer drives than they should be.
    async fn mend_journal(&self, work: &mut Work, now_ms: u64) {
        let due =
            |journal: &Journal| journal.tried_ms.is_none_or(|tried| tried.saturating_add(JOURNAL_AGAIN_MS) <= now_ms);
        if self.is_paused() || !work.journal.values().any(due) {
            return;
        }
        let sealed = self.parts.sealer.seal_now().await;
        let failed = sealed.as_ref().err().map(ToString::to_string);
        match sealed {
            Ok(report) => tracing::info!(upto = %report.upto, "sealed, because a copy of the journal is damaged"),
            Err(error) => tracing::warn!(%error, "a damaged copy of the journal was not mended"),
        }
        for journal in work.journal.values_mut() {
            journal.tried_ms = Some(now_ms);
            journal.failed.clone_from(&failed);
        }
    }
}
