//! The inventory: every row against every shard that lies on a drive, both ways, without reading payloads. What is silently
//! missing is known within a day, long before scrub would come by.
//!
//! Invariants
//! * A shard is reported only after the row was read again, still named the drive, and the drive, asked for that shard alone,
//!   did not verify it. A stripe that was committed, moved or dropped while the pass went by is therefore never reported.
//! * A drive that can't be asked is left out, and so are its shards: unknown is not missing (R13).
//! * What lies on a drive and no row names is counted and left alone.

use super::wounds::Wrong;
use crate::index::{self, IndexError, Overlay, STRIPES, View};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::lookup;
use codec::effect::StripeRow;
use codec::id::{DriveId, ShardId, StripeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use storage_node::client::NodeClient;
use storage_node::keep::{FindingKind, ShardRef, Subject};
use storage_node::kv::Kv;

/// Shards that a drive is asked for at a time.
const PAGE: usize = 4096;
/// Suspects that are verified with one question.
const VERIFY: usize = 64;

/// What an inventory came to. Times are milliseconds on the keeper's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InventoryReport {
    /// When it began.
    pub began_ms: u64,
    /// When it ended; 0 while it is under way.
    pub ended_ms: u64,
    /// Stripes that have a row.
    pub stripes: u64,
    /// Shards that the rows name.
    pub shards: u64,
    /// Of these, on drives that could not be asked.
    pub unasked: u64,
    /// Found wrong, by kind, in the order of [`FindingKind::ALL`].
    pub found: [u64; 7],
    /// Shards on drives that no row names there: left by writes that were given up, or by repair, for reclaim to collect.
    pub orphans: u64,
    /// Rows that do not decode.
    pub bad_rows: u64,
    /// Findings of damage to nobody knows what that were taken off the drives' lists: all that should be there is known by name.
    pub settled: u64,
}

/// A shard that the inventory found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// The drive that the row names.
    pub drive: DriveId,
    /// The shard.
    pub shard: ShardId,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// A drive's shards in id order, page by page.
struct Cursor {
    after: Option<ShardId>,
    page: VecDeque<ShardRef>,
    ended: bool,
}

/// A pass in progress.
pub struct Pass {
    /// So far.
    pub report: InventoryReport,
    cursors: BTreeMap<DriveId, Cursor>,
    next: Vec<u8>,
}

/// The key after every stripe's.
const STRIPES_END: [u8; 17] = [0xff; 17];

impl Pass {
    /// A pass over these drives.
    pub fn new(drives: impl IntoIterator<Item = DriveId>, now_ms: u64) -> Pass {
        let cursor = |drive| (drive, Cursor { after: None, page: VecDeque::new(), ended: false });
        let report = InventoryReport { began_ms: now_ms, ..InventoryReport::default() };
        Pass { report, cursors: drives.into_iter().map(cursor).collect(), next: Vec::new() }
    }

    /// The drives all of whose shards were compared, once the pass has ended. None if some row could not be read: what it
    /// names may be what is damaged.
    pub fn whole(&self) -> Vec<DriveId> {
        if self.report.bad_rows > 0 { Vec::new() } else { self.cursors.keys().copied().collect() }
    }

    /// Compares the next `rows` rows. `None`: that was all; otherwise what was found.
    pub async fn step(
        &mut self,
        node: &dyn NodeClient,
        kv: &dyn Kv,
        rows: usize,
        now_ms: u64,
    ) -> Result<(Vec<Met>, bool), IndexError> {
        let found = Overlay::new(kv).rows(STRIPES, &self.next, &STRIPES_END, rows.max(1))?;
        let last = found.len() < rows.max(1);
        let upto = match found.last() {
            Some((key, _)) if !last => StripeId::from_slice(key),
            _ => None,
        };
        let mut expected: BTreeMap<DriveId, BTreeMap<ShardId, [u8; 32]>> = BTreeMap::new();
        for (key, value) in found {
            self.next = [&key[..], &[0]].concat();
            self.report.stripes += 1;
            if self.expect(&mut expected, &key, value).is_none() {
                self.report.bad_rows += 1;
            }
        }
        let mut met = Vec::new();
        let drives: BTreeSet<DriveId> = self.cursors.keys().chain(expected.keys()).copied().collect();
        for drive in drives {
            let wanted = expected.remove(&drive).unwrap_or_default();
            self.report.shards += wanted.len() as u64;
            let Some(suspects) = self.compare(node, drive, &wanted, upto).await else {
                self.report.unasked += wanted.len() as u64;
                continue;
            };
            met.extend(self.confirm(node, kv, drive, suspects, now_ms).await?);
        }
        Ok((met, last))
    }

    fn expect(
        &self,
        expected: &mut BTreeMap<DriveId, BTreeMap<ShardId, [u8; 32]>>,
        key: &[u8],
        value: bytes::Bytes,
    ) -> Option<()> {
        let id = StripeId::from_slice(key)?;
        let row: StripeRow = index::decode(STRIPES, key, value).ok()?;
        let descriptor = lookup::descriptor(id, &row).ok()?;
        let root = descriptor.root();
        for index in (0..descriptor.width()).filter(|&index| descriptor.is_present(index)) {
            let drive = row.drive(index)?;
            expected.entry(drive).or_default().insert(ShardId { stripe: id, index }, root);
        }
        Some(())
    }

    /// What the rows up to `upto` name on a drive and the drive did not list as such. `None`: it can't be asked.
    async fn compare(
        &mut self,
        node: &dyn NodeClient,
        drive: DriveId,
        wanted: &BTreeMap<ShardId, [u8; 32]>,
        upto: Option<StripeId>,
    ) -> Option<Vec<ShardRef>> {
        let mut missing = wanted.clone();
        loop {
            let cursor = self.cursors.get_mut(&drive)?;
            while let Some(listed) = cursor.page.pop_front_if(|listed| upto.is_none_or(|upto| listed.id.stripe <= upto))
            {
                match wanted.get(&listed.id) {
                    Some(root) if *root == listed.root => drop(missing.remove(&listed.id)),
                    // It is there, and it is another's: verifying it says so.
                    Some(_) => {}
                    None => self.report.orphans += 1,
                }
            }
            if !cursor.page.is_empty() || cursor.ended {
                break;
            }
            match read_in_time(drive, LONG_WORK, node.inventory(drive, cursor.after, PAGE)).await {
                Ok(page) => {
                    cursor.ended = page.len() < PAGE;
                    cursor.after = page.last().map(|listed| listed.id).or(cursor.after);
                    cursor.page = page.into();
                }
                Err(error) => {
                    tracing::info!(%drive, %error, "a drive gives no inventory; its shards are not counted as missing");
                    self.cursors.remove(&drive);
                    return None;
                }
            }
        }
        Some(missing.into_iter().map(|(id, root)| ShardRef { id, root }).collect())
    }

    /// Those of the suspects that are wrong indeed.
    async fn confirm(
        &mut self,
        node: &dyn NodeClient,
        kv: &dyn Kv,
        drive: DriveId,
        suspects: Vec<ShardRef>,
        now_ms: u64,
    ) -> Result<Vec<Met>, IndexError> {
        let mut met = Vec::new();
        for batch in suspects.chunks(VERIFY) {
            let mut still = Vec::with_capacity(batch.len());
            for suspect in batch {
                let row = index::stripe(&Overlay::new(kv), suspect.id.stripe)?;
                if row.is_some_and(|row| row.drive(suspect.id.index) == Some(drive)) {
                    still.push(*suspect);
                }
            }
            if still.is_empty() {
                continue;
            }
            let asked = node.verify_shards(drive, still.clone());
            let Ok(answers) = read_in_time(drive, LONG_WORK, asked).await else {
                self.report.unasked += still.len() as u64;
                continue;
            };
            for (suspect, answer) in still.iter().zip(answers) {
                let Err(finding) = answer else { continue };
                if let Some(at) = FindingKind::ALL.iter().position(|kind| *kind == finding.kind) {
                    self.report.found[at] += 1;
                }
                let wrong = Wrong { kind: finding.kind, since_ms: finding.found_ms.min(now_ms) };
                met.push(Met { drive, shard: suspect.id, wrong });
            }
        }
        Ok(met)
    }
}

/// What a drive lists as damage to nobody knows what.
pub async fn unnamed(node: &dyn NodeClient, drive: DriveId) -> Vec<Subject> {
    let found = read_in_time(drive, LONG_WORK, node.findings(drive)).await.unwrap_or_default();
    let unnamed = found.iter().filter(|finding| finding.kind == FindingKind::Unknown);
    unnamed.map(|finding| finding.subject).filter(|subject| matches!(subject, Subject::Blocks { .. })).collect()
}
