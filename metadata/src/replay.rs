//! Bringing the index up to the media: entries from the ledger, then from the journal, applied in order.
//!
//! Invariant: an entry is applied only if it follows, by hash, the entry that the index applied last. From an empty index that
//! is the whole chain from LSN 1 on; nothing is skipped, and nothing is applied twice.

use crate::index::{self, IndexError, Overlay};
use crate::journal::{JournalMap, JournalReadError};
use crate::keys::KEY_CHECK_SETTING;
use crate::ledger::{self, LedgerError};
use crate::state;
use crate::survey::{Chain, IndexMark, Mark, ReadOnlyReason, kept_by};
use codec::effect::{EffectKind, SettingRow};
use codec::id::Lsn;
use codec::journal::{Entry, NO_ENTRY};
use codec::level::Later;
use codec::stripe::StripeClass;
use storage_node::client::{NodeClient, ReadError};
use storage_node::kv::{Kv, KvError};
use storage_node::sabotage::{Sabotage, SabotageSet};

/// Row changes that are gathered into one index batch.
const BATCH_ROWS: usize = 4096;

/// Why the index could not be brought up to the media.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The index failed; one that is damaged is destroyed and replayed from the beginning.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// An entry's effects can't be applied.
    #[error(transparent)]
    Apply(#[from] state::ApplyError),
    /// The journal or the ledger does not continue.
    #[error(transparent)]
    ReadOnly(#[from] ReadOnlyReason),
    /// An unsealed entry can't be read, although it could be when it was scanned.
    #[error(transparent)]
    Journal(#[from] JournalReadError),
    /// A ledger stripe is of a later release. Passed over, it would pass for lost, and what is before it for all there is.
    #[error(transparent)]
    Later(#[from] Later),
    /// The headers of a drive's stripes are of a later release: without them they would be as good as not there.
    #[error(transparent)]
    Unlisted(#[from] ReadError),
}

impl From<KvError> for ReplayError {
    fn from(error: KvError) -> Self {
        ReplayError::Index(error.into())
    }
}

/// How far the ledger leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// The last entry that can be read in order, and its hash.
    pub last: (Lsn, [u8; 32]),
    /// What its entries say is sealed: more may be in it, from a seal whose own entry is lost.
    pub sealed: Lsn,
    /// What says last which key is the right one.
    pub key_check: Option<SettingRow>,
}

/// Reads the ledger on the drives from LSN 1 on, as far as one hash chain leads. Applies nothing. An entry that
/// raises the level beyond what is known here ends it, since what follows is not to be cut off by whoever can't read it.
pub async fn reach(node: &dyn NodeClient) -> Result<Reach, ReplayError> {
    let mut reach = Reach { last: (Lsn(0), NO_ENTRY), sealed: Lsn(0), key_check: None };
    let stripes = ledger::find(node, StripeClass::Ledger).await?;
    loop {
        let before = reach.last.0;
        for layout in stripes.iter().filter(|layout| layout.descriptor.lsn_range.is_some()) {
            if !ledger::overlaps(layout, reach.last.0, Lsn(u64::MAX)) {
                continue;
            }
            match ledger::read(node, layout).await {
                Ok(entries) => reach.through(&entries)?,
                Err(LedgerError::Later { later, .. }) => return Err(later.into()),
                Err(error) => tracing::warn!(%error, "a ledger stripe can't be read"),
            }
        }
        if reach.last.0 == before {
            return Ok(reach);
        }
    }
}

impl Reach {
    fn through(&mut self, entries: &[Entry]) -> Result<(), Later> {
        for entry in entries.iter().filter(|entry| entry.lsn > Lsn(0)) {
            if entry.lsn <= self.last.0 {
                continue;
            }
            let next = entry.lsn == self.last.0.next() || kept_by(entry) == Some(self.last.0);
            if !next || entry.prev_hash != self.last.1 {
                return Ok(());
            }
            if let Some(later) = Later::raised(entry) {
                return Err(later);
            }
            self.last = (entry.lsn, entry.hash);
            // The last one: those before it are wrapped by keys that it may have replaced.
            self.key_check = key_check_in(entry).or(self.key_check.take());
            self.sealed = Mark::of(entry).sealed.map_or(self.sealed, |sealed| self.sealed.max(sealed));
        }
        Ok(())
    }
}

/// Applies entries in order.
pub struct Replay<'a> {
    kv: &'a dyn Kv,
    overlay: Overlay<'a>,
    at: (Lsn, [u8; 32]),
    applied: u64,
    sabotage: SabotageSet,
}

impl<'a> Replay<'a> {
    /// Goes on after what the index applied last.
    pub fn new(kv: &'a dyn Kv, index: IndexMark, sabotage: SabotageSet) -> Replay<'a> {
        Replay { kv, overlay: Overlay::new(kv), at: (index.applied, index.hash), applied: 0, sabotage }
    }

    /// Whether `entry` comes next: by hash, and by LSN unless it accepts the loss of what lay between.
    fn follows(&self, entry: &Entry) -> bool {
        let next = entry.lsn == self.at.0.next() || (entry.lsn > self.at.0 && kept_by(entry) == Some(self.at.0));
        next && (entry.prev_hash == self.at.1 || self.sabotage.is(Sabotage::ReplayChain))
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        state::apply(&mut self.overlay, entry.lsn, &entry.hash, &entry.effects)?;
        self.at = (entry.lsn, entry.hash);
        self.applied += 1;
        if self.overlay.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ReplayError> {
        let done = std::mem::replace(&mut self.overlay, Overlay::new(self.kv));
        Ok(self.kv.write(done.into_batch())?)
    }

    /// Applies what is sealed: from the ledger stripes on the drives, found by their headers.
    pub async fn ledger(&mut self, node: &dyn NodeClient, chain: &Chain) -> Result<(), ReplayError> {
        if self.at.0 >= chain.sealed {
            return Ok(());
        }
        let stripes = ledger::find(node, StripeClass::Ledger).await?;
        tracing::info!(after = %self.at.0, upto = %chain.sealed, stripes = stripes.len(), "replaying the ledger");
        // Ranges repeat when sealing was interrupted, so what one stripe does not give another one may: go round until
        // nothing comes of it.
        loop {
            let before = self.at.0;
            for layout in &stripes {
                if self.at.0 < chain.sealed && ledger::overlaps(layout, self.at.0, chain.sealed.next()) {
                    self.ledger_stripe(node, layout).await?;
                }
            }
            if self.at.0 >= chain.sealed || self.at.0 == before {
                break;
            }
        }
        self.flush()?;
        let journal = chain.held.keys().next().copied().unwrap_or(chain.sealed.next());
        match self.at.0 == chain.sealed {
            true => Ok(()),
            false => Err(ReadOnlyReason::LedgerGap { after: self.at.0, journal }.into()),
        }
    }

    async fn ledger_stripe(
        &mut self,
        node: &dyn NodeClient,
        layout: &storage_node::stripe_io::StripeLayout,
    ) -> Result<(), ReplayError> {
        let entries = match ledger::read(node, layout).await {
            Ok(entries) => entries,
            Err(LedgerError::Later { later, .. }) => return Err(later.into()),
            Err(error @ (LedgerError::Read(_) | LedgerError::Entries { .. })) => {
                tracing::warn!(%error, "a ledger stripe can't be read");
                return Ok(());
            }
        };
        for entry in entries.iter().filter(|entry| entry.lsn > Lsn(0)) {
            if entry.lsn <= self.at.0 {
                continue;
            }
            if !self.follows(entry) {
                tracing::warn!(stripe = %layout.descriptor.id, lsn = %entry.lsn, after = %self.at.0, "a ledger entry does not follow");
                return Ok(());
            }
            self.apply(entry)?;
        }
        Ok(())
    }

    /// Applies the unsealed rest.
    pub async fn journal(&mut self, node: &dyn NodeClient, map: &JournalMap, upto: Lsn) -> Result<(), ReplayError> {
        for (lsn, _) in map.lengths(self.at.0.next()..=upto) {
            let entry = map.entry(node, lsn).await?;
            if !self.follows(&entry) {
                return Err(ReadOnlyReason::IndexDiffers(self.at.0).into());
            }
            self.apply(&entry)?;
        }
        self.flush()?;
        if self.applied > 0 {
            tracing::info!(entries = self.applied, upto = %self.at.0, "the index is up to the journal");
        }
        Ok(())
    }
}

/// What says which key is the right one, if this entry journals it: its last word on that.
pub fn key_check_in(entry: &Entry) -> Option<SettingRow> {
    let kinds = entry.effects.effects.iter().filter_map(|effect| effect.kind.as_ref());
    let settings = kinds.filter_map(|kind| if let EffectKind::PutSetting(row) = kind { Some(row) } else { None });
    settings.filter(|row| row.name == KEY_CHECK_SETTING).last().cloned()
}

/// Where an index has come to.
pub fn index_mark(kv: &dyn Kv) -> Result<IndexMark, IndexError> {
    let view = Overlay::new(kv);
    let (applied, hash) = index::applied(&view)?;
    let sealed = index::last_sealed(&view)?.map_or(Lsn(0), |row| Lsn(row.last));
    Ok(IndexMark { applied, hash, sealed })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use codec::effect::{Effects, LevelRow};
    use codec::id::Epoch;
    use codec::journal::{encode_entry, parse_entry};
    use codec::level::FormatLevel;

    /// What follows was cut off as lost by a release that could not read it.
    #[test]
    fn the_ledger_does_not_reach_over_a_level_that_is_not_known() {
        let entry = |level: FormatLevel| {
            let raise = EffectKind::PutLevel(LevelRow { level: level.0, by: "stele 9.9".to_owned() });
            let effects = Effects { effects: vec![raise.into()], wall_ms: 1 };
            parse_entry(encode_entry(Lsn(1), Epoch(1), NO_ENTRY, &effects, &[]).unwrap().bytes).unwrap()
        };
        let reached = |entry: Entry| {
            let mut reach = Reach { last: (Lsn(0), NO_ENTRY), sealed: Lsn(0), key_check: None };
            reach.through(&[entry]).map(|()| reach.last.0)
        };
        assert_eq!(reached(entry(FormatLevel::NEWEST)), Ok(Lsn(1)));
        assert!(matches!(reached(entry(FormatLevel(FormatLevel::NEWEST.0 + 1))), Err(Later::Level(_))));
    }
}
