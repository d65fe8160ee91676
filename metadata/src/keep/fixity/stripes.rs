//! What drives know of the shards of stripes, asked in bulk and kept for one page: neighbours in key order were mostly put
//! one after the other, and share their stripes.

use super::judge::{Judged, judge};
use crate::client::MetadataClient;
use crate::index::{self, Overlay};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::lookup::Wounds;
use crate::service::Metadata;
use codec::effect::DriveState;
use codec::id::{DriveId, Lsn, ShardId, StripeId};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, ReadError};
use storage_node::keep::{FindingKind, ShardRef, Subject};
use storage_node::stripe_io::StripeLayout;

/// Shards that a drive is asked about with one question.
const ASK: usize = 1024;
/// Shards that a drive verifies with one question.
const VERIFY: usize = 64;
/// A drive that takes longer to say what it knows can't be asked: it must not hold up what the others know.
const PATIENCE: Duration = Duration::from_secs(20);
/// Stripes that are kept; when there are more, all are forgotten and asked for again.
const KEPT: usize = 32 << 10;

/// How a shard is, as far as its drive knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShardState {
    /// It verified from the medium since it was written, and nothing is known to be wrong with it.
    Good,
    /// It was not verified since it was written, or since its drive was away.
    Unverified,
    /// Something is wrong with it, or it is not there.
    Bad(FindingKind),
    /// Its drive can't be asked.
    Unreachable,
}

impl ShardState {
    /// The name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            ShardState::Good => "good",
            ShardState::Unverified => "unverified",
            ShardState::Bad(kind) => kind.name(),
            ShardState::Unreachable => FindingKind::Unreachable.name(),
        }
    }

    fn of(kind: FindingKind) -> ShardState {
        match kind {
            FindingKind::Unreachable => ShardState::Unreachable,
            kind => ShardState::Bad(kind),
        }
    }
}

/// A shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFixity {
    /// Its index in the stripe.
    pub index: u8,
    /// The drive that the stripe's row names; `None` when it names none.
    pub drive: Option<DriveId>,
    /// How it is.
    pub state: ShardState,
    /// When it last verified from the medium, in milliseconds since the Unix epoch; 0: not since it was written.
    pub verified_ms: u64,
}

/// A stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeFixity {
    /// Its id.
    pub id: StripeId,
    /// How many of its shards are enough to read it.
    pub needed: usize,
    /// All of its shards, by index.
    pub shards: Vec<ShardFixity>,
}

impl StripeFixity {
    /// What it comes to.
    pub fn judge(&self) -> Judged {
        judge(self.needed, self.shards.iter().map(|shard| shard.state))
    }

    /// Whether a second look at its row may tell something else.
    pub(super) fn is_suspect(&self) -> bool {
        self.shards.iter().any(|shard| matches!(shard.state, ShardState::Bad(_)))
    }
}

/// A journal entry. Its copies have no time: nobody keeps one for what is sealed into stripes within hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFixity {
    /// The entry.
    pub lsn: Lsn,
    /// Its copies: the drive, and how it is there. A copy that is lacking has no drive.
    pub copies: Vec<(Option<DriveId>, ShardState)>,
}

impl EntryFixity {
    /// What it comes to: any copy is enough.
    pub fn judge(&self) -> Judged {
        judge(1, self.copies.iter().map(|(_, state)| *state))
    }
}

type Known = HashMap<ShardId, (ShardState, u64)>;

/// What is known of stripes and drives while one page is made.
pub struct Stripes<'a> {
    meta: &'a Metadata,
    verify_since: Option<u64>,
    /// Journal copies that there should be.
    copies: usize,
    /// Drives that can't be asked.
    failed: BTreeSet<DriveId>,
    /// Drives that will not come back.
    removed: BTreeSet<DriveId>,
    /// Drives that were away: what they say of their shards counts up to this stripe. A drive that comes back may have been
    /// put back from a copy, its times included.
    doubted: Arc<Wounds>,
    /// Journal entries that are known to be bad, by drive.
    entries: BTreeMap<DriveId, Vec<(Lsn, Lsn, FindingKind)>>,
    known: HashMap<StripeId, Arc<StripeFixity>>,
}

impl<'a> Stripes<'a> {
    /// Looks at the drives.
    pub async fn new(meta: &'a Metadata, verify_since: Option<u64>) -> Stripes<'a> {
        let drives = meta.node().drives().await;
        let failed = drives.iter().filter(|drive| matches!(drive.health, DriveHealth::Failed { .. }));
        // Rows that can't be read name no drive that is out: its shards are then unreachable instead of missing.
        let rows = index::drives(&Overlay::new(&**meta.kv())).unwrap_or_default();
        let removed = rows.iter().filter(|row| row.state == DriveState::Removed as i32);
        Stripes {
            meta,
            verify_since,
            copies: 1 + usize::from(meta.status().geometry.m()),
            failed: failed.map(|drive| drive.id).collect(),
            removed: removed.filter_map(|row| DriveId::from_slice(&row.id)).collect(),
            doubted: meta.wounds(),
            entries: BTreeMap::new(),
            known: HashMap::new(),
        }
    }

    /// What is known of a stripe that was asked about.
    pub fn get(&self, id: StripeId) -> Option<&Arc<StripeFixity>> {
        self.known.get(&id)
    }

    /// Asks the drives about those stripes of which nothing is known yet.
    pub async fn ask(&mut self, layouts: &[Arc<StripeLayout>]) {
        if self.known.len() + layouts.len() > KEPT {
            self.known.clear();
        }
        let new: Vec<_> = layouts.iter().filter(|layout| !self.known.contains_key(&layout.descriptor.id)).collect();
        let mut by_drive: BTreeMap<DriveId, Vec<ShardRef>> = BTreeMap::new();
        for layout in &new {
            let root = layout.descriptor.root();
            for (index, drive) in shards_of(layout) {
                if let Some(drive) = drive.filter(|drive| !self.failed.contains(drive)) {
                    let id = ShardId { stripe: layout.descriptor.id, index };
                    by_drive.entry(drive).or_default().push(ShardRef { id, root });
                }
            }
        }
        let this = &*self;
        let asked =
            by_drive.into_iter().map(|(drive, shards)| async move { (drive, this.drive(drive, &shards).await) });
        let mut answers: HashMap<DriveId, Known> = HashMap::new();
        for (drive, answer) in join_all(asked).await {
            match answer {
                Ok(known) => drop(answers.insert(drive, known)),
                Err(error) => {
                    tracing::info!(%drive, %error, "a drive can't be asked when its shards were verified");
                    self.failed.insert(drive);
                }
            }
        }
        for layout in new {
            let fixity = self.put_together(layout, &answers);
            self.known.insert(fixity.id, Arc::new(fixity));
        }
    }

    fn put_together(&self, layout: &StripeLayout, answers: &HashMap<DriveId, Known>) -> StripeFixity {
        let id = layout.descriptor.id;
        let shard = |(index, drive): (u8, Option<DriveId>)| {
            let missing = (ShardState::Bad(FindingKind::Missing), 0);
            let (state, verified_ms) = match drive {
                None => missing,
                Some(drive) if self.removed.contains(&drive) => missing,
                Some(drive) => match answers.get(&drive) {
                    Some(known) => {
                        let known = known.get(&ShardId { stripe: id, index }).copied().unwrap_or(missing);
                        self.doubt(drive, id, known)
                    }
                    None => (ShardState::Unreachable, 0),
                },
            };
            ShardFixity { index, drive, state, verified_ms }
        };
        let needed = layout.descriptor.data_present().len();
        StripeFixity { id, needed, shards: shards_of(layout).map(shard).collect() }
    }

    fn doubt(&self, drive: DriveId, stripe: StripeId, known: (ShardState, u64)) -> (ShardState, u64) {
        let (state, verified_ms) = known;
        let doubted = self.doubted.is_unverified(drive, stripe);
        let just_now = self.verify_since.is_some_and(|since| verified_ms >= since);
        match state {
            ShardState::Good if doubted && !just_now => (ShardState::Unverified, verified_ms),
            state => (state, verified_ms),
        }
    }

    /// What one drive knows of its shards, after it has verified those that it is to verify.
    async fn drive(&self, drive: DriveId, shards: &[ShardRef]) -> Result<Known, ReadError> {
        let node = self.meta.node();
        let mut known = Known::with_capacity(shards.len());
        for some in shards.chunks(ASK) {
            let ids = some.iter().map(|shard| shard.id).collect();
            let answers = read_in_time(drive, PATIENCE, node.verified(drive, ids)).await?;
            for (shard, answer) in some.iter().zip(answers) {
                let state = match answer {
                    None => (ShardState::Bad(FindingKind::Missing), 0),
                    Some(answer) => match answer.finding {
                        Some(finding) => (ShardState::of(finding.kind), answer.good_ms),
                        None if answer.good_ms == 0 => (ShardState::Unverified, 0),
                        None => (ShardState::Good, answer.good_ms),
                    },
                };
                known.insert(shard.id, state);
            }
        }
        let Some(since) = self.verify_since else { return Ok(known) };
        // A drive that was away has times from before it went: those don't reach up to `since` either.
        let old = |shard: &&ShardRef| known.get(&shard.id).is_none_or(|(_, verified_ms)| *verified_ms < since);
        let old: Vec<ShardRef> = shards.iter().filter(old).copied().collect();
        for some in old.chunks(VERIFY) {
            let answers = read_in_time(drive, LONG_WORK, node.verify_shards(drive, some.to_vec())).await?;
            let ids = some.iter().map(|shard| shard.id).collect();
            let times = read_in_time(drive, PATIENCE, node.verified(drive, ids)).await?;
            for ((shard, answer), time) in some.iter().zip(answers).zip(times) {
                let verified_ms = time.map_or(0, |time| time.good_ms);
                let state = match answer {
                    // Written again at this moment: what verified is not what is there now.
                    Ok(()) if verified_ms == 0 => ShardState::Unverified,
                    Ok(()) => ShardState::Good,
                    Err(finding) => ShardState::of(finding.kind),
                };
                known.insert(shard.id, (state, verified_ms));
            }
        }
        Ok(known)
    }

    /// Forgets those of the stripes whose row has changed since they were asked about. Whether there was any.
    pub fn forget_changed(&mut self, ids: &[StripeId]) -> bool {
        let view = Overlay::new(&**self.meta.kv());
        let before = self.known.len();
        for id in ids {
            let Some(known) = self.known.get(id) else { continue };
            let same = match index::stripe(&view, *id) {
                Ok(Some(row)) => known.shards.iter().all(|shard| row.drive(shard.index) == shard.drive),
                Ok(None) => false,
                Err(_) => true,
            };
            if !same {
                self.known.remove(id);
            }
        }
        self.known.len() < before
    }

    /// The copies of a journal entry; `None` when it is not in the journal any more.
    pub async fn entry(&mut self, lsn: Lsn) -> Option<EntryFixity> {
        let held = self.meta.journal_entry(lsn)?;
        let mut copies = Vec::with_capacity(self.copies);
        for drive in held.holders.iter() {
            copies.push((Some(*drive), self.copy(*drive, lsn).await));
        }
        let lacking = self.copies.saturating_sub(copies.len());
        copies.extend((0..lacking).map(|_| (None, ShardState::Bad(FindingKind::Missing))));
        Some(EntryFixity { lsn, copies })
    }

    async fn copy(&mut self, drive: DriveId, lsn: Lsn) -> ShardState {
        if self.removed.contains(&drive) {
            return ShardState::Bad(FindingKind::Missing);
        }
        if !self.failed.contains(&drive) && !self.entries.contains_key(&drive) {
            match read_in_time(drive, PATIENCE, self.meta.node().findings(drive)).await {
                Ok(findings) => {
                    let bad = findings.iter().filter_map(|finding| match finding.subject {
                        Subject::Entries(first, last) => Some((first, last, finding.kind)),
                        Subject::Shard(_) | Subject::Blocks { .. } => None,
                    });
                    self.entries.insert(drive, bad.collect());
                }
                Err(_) => drop(self.failed.insert(drive)),
            }
        }
        match self.entries.get(&drive) {
            _ if self.failed.contains(&drive) => ShardState::Unreachable,
            None => ShardState::Unreachable,
            Some(bad) => {
                let hit = bad.iter().find(|(first, last, _)| (*first..=*last).contains(&lsn));
                hit.map_or(ShardState::Unverified, |(.., kind)| ShardState::of(*kind))
            }
        }
    }
}

/// The shards that a stripe has, and their drives.
fn shards_of(layout: &StripeLayout) -> impl Iterator<Item = (u8, Option<DriveId>)> + '_ {
    let present = (0..layout.descriptor.width()).filter(|index| layout.descriptor.is_present(*index));
    present.map(|index| (index, layout.drives.get(usize::from(index)).copied().flatten()))
}
