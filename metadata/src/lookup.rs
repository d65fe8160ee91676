//! From chunk ids to places, and the rule of what is a dedup hit.

use crate::index::{self, CHUNKS, IndexError, RowFault, STRIPES, View, damaged};
use codec::effect::{ChunkRow, ChunkState, Place, StripeRow};
use codec::id::{ChunkId, DomainId, DriveId, Lsn, StripeId};
use codec::stripe::StripeDescriptor;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use storage_node::stripe_io::StripeLayout;

/// A chunk that need not be stored again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Plaintext length, in bytes.
    pub plain_len: u32,
    /// Its plaintext is a manifest node.
    pub is_manifest: bool,
}

/// A chunk and where its frame lies.
#[derive(Clone, Debug)]
pub struct Located {
    /// The chunk.
    pub id: ChunkId,
    /// Its dedup domain.
    pub domain: DomainId,
    /// Plaintext length, in bytes.
    pub plain_len: u32,
    /// Its plaintext is a manifest node.
    pub is_manifest: bool,
    /// Where the frame lies.
    pub place: Place,
    /// The stripe, unless the frame rides in the journal.
    pub stripe: Option<Arc<StripeLayout>>,
}

/// How safe a frame's place is. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Safety {
    /// Another lost drive may lose it, or it is lost already: not a dedup hit, and any other place is better.
    AtRisk,
    /// In the journal with copies to spare, or in a stripe that is short of shards but can still lose one.
    Safe,
    /// In a stripe with all its shards.
    Whole,
}

/// Which drives don't answer, what is wrong on those that do, and which journal entries have lost copies. Volatile: it may
/// steer a decision, because only effects are journaled, but never what applying an effect does.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Drives whose shards can't be read at present.
    pub drives: BTreeSet<DriveId>,
    /// Entries below this LSN and unsealed that have too few good copies: fewer than two (fewer than one when m = 0).
    /// Zero when all have enough.
    pub thin_journal_below: Lsn,
    /// What keeping knows to be wrong on drives that answer.
    pub wounds: Arc<Wounds>,
}

/// Shards that are found to be no good, by stripe: the shard's index, and the drive on which it was found.
pub type BadShards = HashMap<StripeId, Vec<(u8, DriveId)>>;

/// What is wrong on drives that answer, as keeping knows it. Replaced as a whole, and published again after a mend: without
/// it a chunk would be a dedup hit in a stripe that rot has eaten, and the copy that a client has at hand is thrown away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wounds {
    /// Shards that scrub, the inventory or repair found bad. One counts only while the row names that drive, so a shard that
    /// was rebuilt elsewhere counts as good from the commit on.
    pub shards: Arc<BadShards>,
    /// Drives that were silent: their shards count again up to this stripe, once verified; `None`: not one of them.
    pub unverified: BTreeMap<DriveId, Option<StripeId>>,
    /// Of those that are back, the last stripe that was begun before that was noticed: what they have of later ones was
    /// written since, and is as good as on any other drive.
    pub returned: BTreeMap<DriveId, StripeId>,
    /// Unsealed entries of which damage leaves too few good copies.
    pub thin_entries: Vec<RangeInclusive<Lsn>>,
}

impl Wounds {
    /// Whether a shard is known to be no good on a drive, or not known to be good.
    pub(crate) fn has(&self, stripe: StripeId, index: u8, drive: DriveId) -> bool {
        let bad = || self.shards.get(&stripe).is_some_and(|shards| shards.contains(&(index, drive)));
        self.is_unverified(drive, stripe) || bad()
    }

    /// Whether a drive was silent, may have lost the shard that it had of a stripe meanwhile, and was not asked since.
    pub fn is_unverified(&self, drive: DriveId, stripe: StripeId) -> bool {
        let Some(verified) = self.unverified.get(&drive) else { return false };
        let written_since = self.returned.get(&drive).is_some_and(|last| stripe > *last);
        !written_since && verified.is_none_or(|upto| stripe > upto)
    }
}

impl Losses {
    /// How safe a stripe is.
    pub fn of_stripe(&self, descriptor: &StripeDescriptor, row: &StripeRow) -> Safety {
        let present = (0..descriptor.width()).filter(|&index| descriptor.is_present(index));
        let is_lost =
            |index: u8, drive: DriveId| self.drives.contains(&drive) || self.wounds.has(descriptor.id, index, drive);
        let lost = present.filter(|&index| row.drive(index).is_none_or(|drive| is_lost(index, drive))).count();
        if lost == 0 {
            Safety::Whole
        } else if lost < usize::from(descriptor.geometry.m()) {
            Safety::Safe
        } else {
            Safety::AtRisk
        }
    }

    /// How safe a journal entry is.
    pub fn of_entry(&self, lsn: Lsn) -> Safety {
        let thin = lsn < self.thin_journal_below || self.wounds.thin_entries.iter().any(|thin| thin.contains(&lsn));
        if thin { Safety::AtRisk } else { Safety::Safe }
    }
}

/// How safe a chunk's place is.
pub fn safety(view: &dyn View, place: &Place, losses: &Losses) -> Result<Safety, IndexError> {
    let stripe = match (place.lsn(), place.stripe()) {
        (Some(lsn), _) => return Ok(losses.of_entry(lsn)),
        (None, Some(stripe)) => stripe,
        (None, None) => return Ok(Safety::AtRisk),
    };
    match index::stripe(view, stripe)? {
        Some(row) => Ok(losses.of_stripe(&descriptor(stripe, &row)?, &row)),
        None => Ok(Safety::AtRisk),
    }
}

/// Whether a chunk is a dedup hit: Live (R11), of the asking domain, and at a place that can still lose a drive
/// (any place, when the geometry has no parity).
pub fn is_hit(view: &dyn View, row: &ChunkRow, domain: DomainId, losses: &Losses) -> Result<bool, IndexError> {
    let live = row.state == ChunkState::Live as i32 && row.domain == domain.0;
    match row.place {
        Some(place) if live => Ok(safety(view, &place, losses)? >= Safety::Safe),
        _ => Ok(false),
    }
}

/// For each id a dedup hit, or `None`.
pub fn find_chunks(
    view: &dyn View,
    domain: DomainId,
    ids: &[ChunkId],
    losses: &Losses,
) -> Result<Vec<Option<Hit>>, IndexError> {
    let find = |id: &ChunkId| {
        let Some(row) = index::chunk(view, *id)? else { return Ok(None) };
        let hit = Hit { plain_len: row.plain_len, is_manifest: row.is_manifest };
        Ok(is_hit(view, &row, domain, losses)?.then_some(hit))
    };
    ids.iter().map(find).collect()
}

/// Where chunks lie, in the order asked for; `None` where a chunk is unknown. Each stripe is looked up once.
pub fn locate(view: &dyn View, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, IndexError> {
    let mut stripes: HashMap<StripeId, Arc<StripeLayout>> = HashMap::new();
    let mut found = Vec::with_capacity(ids.len());
    for &id in ids {
        let Some(row) = index::chunk(view, id)? else {
            found.push(None);
            continue;
        };
        let place = row.place.ok_or_else(|| damaged(CHUNKS, id.as_bytes(), RowFault::Field))?;
        let stripe = match place.stripe() {
            None => None,
            Some(stripe) => Some(match stripes.get(&stripe) {
                Some(layout) => layout.clone(),
                None => {
                    let loaded = layout(view, stripe)?;
                    let loaded = Arc::new(loaded.ok_or_else(|| damaged(CHUNKS, id.as_bytes(), RowFault::Dangling))?);
                    stripes.insert(stripe, loaded.clone());
                    loaded
                }
            }),
        };
        found.push(Some(Located {
            id,
            domain: DomainId(row.domain),
            plain_len: row.plain_len,
            is_manifest: row.is_manifest,
            place,
            stripe,
        }));
    }
    Ok(found)
}

/// A stripe and its drives; `None` when it is unknown.
pub fn layout(view: &dyn View, id: StripeId) -> Result<Option<StripeLayout>, IndexError> {
    let Some(row) = index::stripe(view, id)? else { return Ok(None) };
    let descriptor = descriptor(id, &row)?;
    let drives = (0..descriptor.width()).map(|index| row.drive(index)).collect();
    Ok(Some(StripeLayout { descriptor, drives }))
}

/// The descriptor in a stripe's row, which must be of that stripe.
pub fn descriptor(id: StripeId, row: &StripeRow) -> Result<StripeDescriptor, IndexError> {
    let fault = |fault| damaged(STRIPES, &id.to_bytes(), fault);
    let descriptor = StripeDescriptor::parse(&row.descriptor).map_err(|_| fault(RowFault::Malformed))?;
    if descriptor.id != id {
        return Err(fault(RowFault::Field));
    }
    Ok(descriptor)
}
