//! Step 9: moving what only archived versions need ([`crate::keep::archive`]).

use super::{DAY_MS, Pace, ReclaimError, Reclaimer, Recompressor, Restriper, Usage, Work};
use crate::index::{self, reclaim};
use crate::keep::archive::cold::{Bounds, cold};
use crate::keep::archive::{LEVEL, along, geometry, widest};
use crate::keep::mark::Limits;
use crate::keep::restripe::{Group, Restriped};
use codec::erasure::{Erasure, self_test_of};
use codec::id::{Lsn, StripeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::client::Reserve;

/// Stripes that one look takes on.
const STRIPES: usize = 8192;
/// Stripes that are rewritten before it is asked again whether anything is held or to be repaired.
const TOGETHER: usize = 32;

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Archiving {
    /// Where the next look begins; `None`: at the beginning, a day after the last.
    next: Option<Vec<u8>>,
    /// When the last look that saw everything ended.
    since: Option<Lsn>,
}

impl Reclaimer {
    /// Moves what is found once a day, and takes it out of what is restriped. Whether there is more to look for at once.
    ///
    /// It takes none of the reserve: that is for what gives space back on full drives.
    pub(super) async fn archive(
        &self,
        work: &mut Work,
        usage: &mut BTreeMap<StripeId, Usage>,
        limits: Limits,
        pace: &Pace,
    ) -> Result<bool, ReclaimError> {
        let (parts, policy) = (&self.parts, &self.parts.config.restripe);
        let since = work.archiving.since.filter(|_| work.archiving.next.is_none());
        let due = since.map_or(Ok(true), |since| reclaim::is_over(&self.view(), since, DAY_MS))?;
        let Some(wide) = geometry(parts.stripes.geometry()).filter(|_| policy.archive && due) else { return Ok(false) };
        if !self.may_archive(work)? {
            return Ok(false);
        }
        let from = work.archiving.next.clone().unwrap_or_default();
        let bounds = Bounds { stripes: limits.stripes.min(STRIPES), chunks: limits.chunks };
        let mut found = cold(&parts.shared, &parts.keys, wide.k(), &from, usage, bounds).await?;
        let topology = parts.shared.topology(Reserve::Client).await?;
        let width = widest(&topology, parts.stripes.geometry(), wide);
        let stripes: BTreeSet<StripeId> = match found.stripes.is_empty() {
            true => BTreeSet::new(),
            false => found.stripes.into_iter().chain(along(usage, wide, width, policy.live_percent)).collect(),
        };
        let wide = Arc::new(parts.shared.sabotage.erasure(wide));
        let moved = self.move_cold(work, &stripes, wide, pace).await?;
        usage.retain(|id, _| !stripes.contains(id));
        let next = if moved { found.again.take().or(found.next) } else { found.next };
        if next.is_none() {
            work.archiving.since = Some(index::applied(&self.view())?.0);
        }
        work.archiving.next = next;
        Ok(work.archiving.next.is_some())
    }

    /// Not while anything is held (R10), and not while a drive or a shard waits for repair: that comes first, and needs the drives' time.
    fn may_archive(&self, work: &mut Work) -> Result<bool, ReclaimError> {
        let losses = self.parts.shared.losses();
        let is_whole =
            losses.drives.is_empty() && losses.wounds.shards.is_empty() && losses.wounds.unverified.is_empty();
        Ok(is_whole && !self.is_held(work)?)
    }

    /// Whether frames of them were moved, and none could not be: looking at the same once more finds others then.
    async fn move_cold(
        &self,
        work: &mut Work,
        stripes: &BTreeSet<StripeId>,
        wide: Arc<Erasure>,
        pace: &Pace,
    ) -> Result<bool, ReclaimError> {
        if stripes.is_empty() {
            return Ok(false);
        }
        if let Err(error) = self_test_of(&wide) {
            tracing::error!(%error, "nothing is moved into the archive class");
            return Ok(false);
        }
        let parts = &self.parts;
        let level = Some(parts.config.restripe.recompress_level).filter(|level| *level > 0).unwrap_or(LEVEL);
        let recompress = Recompressor::new(level, parts.shared.level.versions().frame, &self.view(), &parts.keys)?;
        let restriper = Restriper { recompress, wide: Some(wide), reserve: Reserve::Client, ..self.restriper(pace) };
        let mut moved = false;
        let mut is_read = true;
        let stripes: Vec<StripeId> = stripes.iter().copied().collect();
        for some in stripes.chunks(TOGETHER) {
            if !self.may_archive(work)? {
                return Ok(false);
            }
            // Each is stored as soon as it is full: that it makes fewer stripes is not what it is for.
            let group = Group { stripes: some.to_vec(), gains: true };
            match restriper.rewrite(&group).await {
                Ok(done) => {
                    note(work, &done);
                    moved |= done.moved > 0;
                    is_read &= done.unread == 0;
                    if done.failed {
                        // A drive that does not give back what it took: repair looks at it first.
                        return Ok(false);
                    }
                }
                // No room, or too few drives: no mistake, and what was moved is moved.
                Err(ReclaimError::Store(error)) => {
                    tracing::debug!(%error, "archived versions are moved later");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(moved && is_read)
    }
}

fn note(work: &mut Work, done: &Restriped) {
    let report = &mut work.report;
    report.moved += done.moved;
    report.archived += done.moved;
    report.moved_bytes += done.bytes;
    report.saved += done.saved;
    report.unread += done.unread;
}
