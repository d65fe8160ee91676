//! Chunks: references, the states of R11, and which of two places is kept.

use super::{At, DecideError};
use crate::command::{MAX_INLINE_BYTES, MAX_ROWS, ManifestFault, NewChunk, NewFrame, Refusal};
use crate::index::{self, OBJECTS, RowFault, View, damaged};
use crate::lookup::{self, Safety};
use bytes::Bytes;
use codec::effect::{ChunkRow, ChunkState, Content, Place};
use codec::id::{ChunkId, DomainId, StripeId};
use codec::journal::frame_offset;
use codec::manifest::{INLINE_ENTRIES, Manifest};
use codec::stripe::StripeDescriptor;
use std::collections::{BTreeMap, BTreeSet};
use storage_node::sabotage::Sabotage;

/// Changes to chunk rows, collected so that each row is written once whatever happens to it.
pub(super) struct ChunkChanges<'a> {
    view: &'a dyn View,
    at: &'a At,
    /// In id order, which is the order of the effects.
    rows: BTreeMap<ChunkId, Changed>,
    /// Chunks that ride in this entry, by frame number.
    inline: Vec<ChunkId>,
    frames: Vec<Bytes>,
    missing: Vec<ChunkId>,
    /// Chunks that this command deletes.
    gone: BTreeSet<ChunkId>,
    /// Dedup domains that were found to exist.
    domains: BTreeSet<DomainId>,
}

struct Changed {
    before: Option<ChunkRow>,
    now: ChunkRow,
}

impl<'a> ChunkChanges<'a> {
    pub(super) fn new(view: &'a dyn View, at: &'a At) -> Self {
        ChunkChanges {
            view,
            at,
            rows: BTreeMap::new(),
            inline: Vec::new(),
            frames: Vec::new(),
            missing: Vec::new(),
            gone: BTreeSet::new(),
            domains: BTreeSet::new(),
        }
    }

    /// How many rows were touched.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// A chunk's row as it is by now.
    pub(super) fn row(&mut self, id: ChunkId) -> Result<Option<&mut ChunkRow>, DecideError> {
        if self.gone.contains(&id) {
            return Ok(None);
        }
        if !self.rows.contains_key(&id) {
            let Some(row) = index::chunk(self.view, id)? else { return Ok(None) };
            self.rows.insert(id, Changed { before: Some(row.clone()), now: row });
        }
        Ok(self.rows.get_mut(&id).map(|changed| &mut changed.now))
    }

    /// The chunks of a command whose frames ride in its entry.
    pub(super) fn add_inline(&mut self, chunks: &[NewChunk]) -> Result<(), DecideError> {
        check_size(chunks)?;
        for chunk in chunks {
            let NewFrame::Inline(frame) = &chunk.frame else {
                return Err(Refusal::BadManifest(ManifestFault::Frame).into());
            };
            let len = u32::try_from(frame.len()).map_err(|_| Refusal::TooLarge)?;
            // The offset depends on the frames that come after all; `finish` fills it in.
            let place = Place::in_journal(self.at.lsn, 0, len);
            if self.add(chunk, place, Safety::Safe)? {
                self.inline.push(chunk.id);
                self.frames.push(frame.clone());
            }
        }
        Ok(())
    }

    /// The chunks of a stripe.
    pub(super) fn add_striped(
        &mut self,
        stripe: StripeId,
        descriptor: &StripeDescriptor,
        safety: Safety,
        chunks: &[NewChunk],
    ) -> Result<(), DecideError> {
        check_size(chunks)?;
        for chunk in chunks {
            let NewFrame::InStripe { shard, offset, len } = chunk.frame else {
                return Err(Refusal::BadManifest(ManifestFault::Frame).into());
            };
            let place = Place::in_stripe(stripe, shard, offset, len);
            if !fits(descriptor, &place) {
                return Err(Refusal::BadManifest(ManifestFault::Frame).into());
            }
            self.add(chunk, place, safety)?;
        }
        Ok(())
    }

    /// Makes a chunk known. One that is known already keeps the safer place, the old one when they are equally safe:
    /// the other copy is dead bytes. Returns whether the new place was taken.
    fn add(&mut self, new: &NewChunk, place: Place, safety: Safety) -> Result<bool, DecideError> {
        let (view, losses) = (self.view, &self.at.losses);
        if self.row(new.id)?.is_none() {
            self.check_domain(new.domain)?;
        }
        let Some(row) = self.row(new.id)? else {
            let row = ChunkRow {
                id: Bytes::copy_from_slice(new.id.as_bytes()),
                domain: new.domain.0,
                plain_len: new.plain_len,
                place: Some(place),
                state: ChunkState::Live as i32,
                refs: 0,
                condemned_lsn: 0,
                is_manifest: new.is_manifest,
            };
            self.rows.insert(new.id, Changed { before: None, now: row });
            // Only now, when it becomes known: a second commit of a node must not count its children twice. They are of its
            // domain: reclaim keeps no more than that when it can't read the node.
            for &child in &new.children {
                if self.row(child)?.is_some_and(|row| row.domain != new.domain.0) {
                    return Err(Refusal::BadManifest(ManifestFault::Chunk).into());
                }
                self.hold(child)?;
            }
            return Ok(true);
        };
        let same = (row.domain, row.plain_len, row.is_manifest) == (new.domain.0, new.plain_len, new.is_manifest);
        if !same {
            return Err(Refusal::BadManifest(ManifestFault::Chunk).into());
        }
        let old = match &row.place {
            // A stripe of this very command may not be in the view yet: its place was chosen by these rules already.
            Some(old) if old.stripe().is_some() && old.stripe() == place.stripe() => Safety::Whole,
            Some(old) => lookup::safety(view, old, losses)?,
            None => Safety::AtRisk,
        };
        revive(row);
        if safety > old {
            row.place = Some(place);
            return Ok(true);
        }
        Ok(false)
    }

    /// Refuses a dedup domain that has no row. A gateway holds the keys of domains; were the entry of one lost, and the loss
    /// accepted, it would go on storing what nobody else has the keys of.
    pub(super) fn check_domain(&mut self, domain: DomainId) -> Result<(), DecideError> {
        if self.domains.contains(&domain) || self.at.sabotage.is(Sabotage::DomainKeysFirst) {
            return Ok(());
        }
        index::domain(self.view, domain)?.ok_or(Refusal::NoSuchDomain(domain))?;
        self.domains.insert(domain);
        Ok(())
    }

    /// Adds a reference. An unknown chunk is noted: the commit will be refused with all of them (R11).
    fn hold(&mut self, id: ChunkId) -> Result<(), DecideError> {
        let keep_condemned = self.at.sabotage.is(Sabotage::ReviveCondemned);
        match self.row(id)? {
            Some(row) => {
                row.refs = row.refs.saturating_add(1);
                if !keep_condemned {
                    revive(row);
                }
            }
            None => self.missing.push(id),
        }
        Ok(())
    }

    /// Takes a chunk away. Its effect comes after those that put rows.
    pub(super) fn delete(&mut self, id: ChunkId) {
        self.rows.remove(&id);
        self.gone.insert(id);
    }

    /// Drops a reference. The last one condemns. Counts are a hint, so a chunk that is not there is no error here: the mark
    /// pass finds what is wrong, and a DELETE must not fail because of it.
    pub(super) fn release(&mut self, id: ChunkId) -> Result<(), DecideError> {
        let lsn = self.at.lsn;
        if let Some(row) = self.row(id)? {
            row.refs = row.refs.saturating_sub(1);
            if row.refs == 0 {
                row.state = ChunkState::Condemned as i32;
                row.condemned_lsn = lsn.0;
            }
        }
        Ok(())
    }

    /// References the entries of a new content, after checking that they are what the content says.
    pub(super) fn hold_content(&mut self, content: &Content) -> Result<(), DecideError> {
        let bad = |fault| DecideError::Refused(Refusal::BadManifest(fault));
        let manifest = Manifest::parse(&content.manifest).map_err(|_| bad(ManifestFault::Malformed))?;
        if manifest.total_len() != content.size || manifest.entries().len() > INLINE_ENTRIES {
            return Err(bad(ManifestFault::Length));
        }
        for entry in manifest.entries() {
            if let Some(row) = self.row(entry.id)? {
                let kind = row.domain == content.domain && row.is_manifest != entry.leaf;
                if !kind || (entry.leaf && u64::from(row.plain_len) != entry.len) {
                    return Err(bad(ManifestFault::Chunk));
                }
            }
            self.hold(entry.id)?;
        }
        Ok(())
    }

    /// Drops the references of a content that is in the index.
    pub(super) fn release_content(&mut self, content: &Content) -> Result<(), DecideError> {
        let manifest = Manifest::parse(&content.manifest)
            .map_err(|_| damaged(OBJECTS, content.etag.as_bytes(), RowFault::Malformed))?;
        manifest.entries().iter().try_for_each(|entry| self.release(entry.id))
    }

    /// Moves a frame, if it still lies where the mover read it.
    pub(super) fn move_frame(&mut self, id: ChunkId, from: &Place, to: &Place) -> Result<bool, DecideError> {
        let unconditional = self.at.sabotage.is(Sabotage::SealCondition);
        let Some(row) = self.row(id)? else { return Ok(false) };
        if row.place.as_ref() != Some(from) && !unconditional {
            return Ok(false);
        }
        row.place = Some(*to);
        Ok(true)
    }

    /// The changed rows, and the frames that ride in the entry.
    pub(super) fn finish(mut self) -> Result<(Vec<ChunkRow>, Vec<Bytes>), DecideError> {
        if !self.missing.is_empty() && !self.at.sabotage.is(Sabotage::MissingChunks) {
            self.missing.sort_unstable();
            self.missing.dedup();
            return Err(Refusal::MissingChunks(self.missing).into());
        }
        for (number, id) in self.inline.iter().enumerate() {
            let offset = frame_offset(&self.frames, number).ok_or(Refusal::TooLarge)?;
            if let Some(place) = self.rows.get_mut(id).and_then(|changed| changed.now.place.as_mut()) {
                place.offset = offset;
            }
        }
        if self.rows.len() > MAX_ROWS {
            return Err(Refusal::TooLarge.into());
        }
        let changed = self.rows.into_values().filter(|row| row.before.as_ref() != Some(&row.now));
        Ok((changed.map(|row| row.now).collect(), self.frames))
    }
}

/// R11: a commit that needs a condemned chunk makes it Live again.
pub(super) fn revive(row: &mut ChunkRow) {
    row.state = ChunkState::Live as i32;
    row.condemned_lsn = 0;
}

/// Whether a frame lies inside a data shard that exists.
pub(super) fn fits(descriptor: &StripeDescriptor, place: &Place) -> bool {
    let Ok(shard) = u8::try_from(place.shard) else { return false };
    let end = place.offset.checked_add(place.len);
    shard < descriptor.geometry.k()
        && descriptor.is_present(shard)
        && place.len > 0
        && end.is_some_and(|end| end <= descriptor.shard_len(shard))
}

fn check_size(chunks: &[NewChunk]) -> Result<(), Refusal> {
    let rows: usize = chunks.iter().map(|chunk| 1 + chunk.children.len()).sum();
    let inline = chunks.iter().map(|chunk| match &chunk.frame {
        NewFrame::Inline(frame) => frame.len(),
        NewFrame::InStripe { .. } => 0,
    });
    if rows > MAX_ROWS || inline.sum::<usize>() > MAX_INLINE_BYTES {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}
