//! Checkpoints of the index: finding them on the drives, and filling an empty index from one.
//!
//! Invariants:
//! * A checkpoint is used only if it is whole and the journal or the ledger holds the entry that it reflects, with the same
//!   hash: one from a history that was given up (an accepted loss, drives put back from the past) is passed over.
//! * An index that is being filled says so in its first row and is thrown away by a start that finds it so: half a
//!   checkpoint with an empty `applied` would otherwise be replayed over from LSN 1.
//! * Whatever is wrong with a checkpoint costs time only: the one before it is tried, and then the ledger from its beginning.

use crate::index::{
    ACCOUNTS, BUCKETS, CHUNKS, DRIVES, IndexError, LEDGER, META, OBJECTS, RECLAIM, REPLICATION, RowFault, STRIPES,
    UPLOADS, damaged,
};
use crate::ledger;
use crate::survey::Chain;
use bytes::Bytes;
use codec::checkpoint::{CheckpointError, Piece, parse_piece};
use codec::id::Lsn;
use codec::stripe::StripeClass;
use std::collections::BTreeMap;
use storage_node::client::NodeClient;
use storage_node::kv::{Family, Kv, KvBatch, KvError};
use storage_node::stripe_io::{ReadOptions, StripeLayout, StripeReadError, read_range};

/// The families in the order of their numbers, in which their rows are written. A family that is new comes at the end, behind
/// META, which holds `applied`: that an index is complete is said by the absence of [`LOADING`] alone.
pub const ROW_FAMILIES: [Family; 11] =
    [BUCKETS, OBJECTS, UPLOADS, CHUNKS, STRIPES, DRIVES, ACCOUNTS, RECLAIM, LEDGER, META, REPLICATION];

/// In META while a checkpoint is being loaded.
const LOADING: &[u8] = b"loading";

/// A family's number in checkpoints (docs/FORMAT.md); 0 for one that is in none.
pub fn family_number(family: Family) -> u8 {
    ROW_FAMILIES.iter().zip(1..).find(|(known, _)| **known == family).map_or(0, |(_, number)| number)
}

fn family_of(number: u8) -> Option<Family> {
    ROW_FAMILIES.get(usize::from(number).checked_sub(1)?).copied()
}

/// Why a checkpoint can't be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Read(#[from] StripeReadError),
    #[error(transparent)]
    Piece(#[from] CheckpointError),
    #[error("it has another LSN or hash in piece {0}")]
    Mixed(u32),
    #[error("piece {0} is missing")]
    Missing(u32),
    #[error("it has {got} rows and should have {want:?}")]
    Rows { got: u64, want: Option<u64> },
    #[error("family number {0} is not known")]
    Family(u8),
    #[error("its rows are not in order")]
    Order,
    #[error("no entry confirms it")]
    Unconfirmed,
    #[error(transparent)]
    Index(#[from] KvError),
}

/// Whether an index was being filled from a checkpoint when its process ended: it has to be thrown away.
pub fn half_loaded(kv: &dyn Kv) -> Result<bool, KvError> {
    Ok(kv.get(META, LOADING)?.is_some())
}

/// Fills an empty index from the newest usable checkpoint on the drives. Returns its LSN; `None` when there is none, and
/// the index is as it was.
pub async fn restore(node: &dyn NodeClient, kv: &dyn Kv, chain: &Chain) -> Result<Option<Lsn>, IndexError> {
    let mut found: BTreeMap<Lsn, Vec<StripeLayout>> = BTreeMap::new();
    // Without one there is more to replay, and what is replayed says what can't be read.
    let stripes = ledger::find(node, StripeClass::Checkpoint).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "no checkpoint of the index is looked for");
        Vec::new()
    });
    for layout in stripes {
        if let Some((lsn, _)) = layout.descriptor.lsn_range {
            found.entry(lsn).or_default().push(layout);
        }
    }
    for (lsn, stripes) in found.into_iter().rev() {
        match usable(node, chain, lsn, &stripes).await {
            Ok(()) => {}
            Err(Unusable::Index(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%lsn, %error, "a checkpoint of the index is passed over");
                continue;
            }
        }
        return match load(node, kv, &stripes).await {
            Ok(rows) => {
                tracing::info!(%lsn, rows, "the index was filled from a checkpoint");
                Ok(Some(lsn))
            }
            Err(Unusable::Index(error)) => Err(error.into()),
            // It was whole a moment ago. The index is half filled and says so: whoever opens it next throws it away.
            Err(error) => {
                tracing::error!(%lsn, %error, "a checkpoint of the index could not be loaded");
                Err(damaged(META, LOADING, RowFault::Dangling))
            }
        };
    }
    Ok(None)
}

/// Reads all of a checkpoint and changes nothing.
async fn usable(node: &dyn NodeClient, chain: &Chain, lsn: Lsn, stripes: &[StripeLayout]) -> Result<(), Unusable> {
    let mut walk = Walk::new(lsn);
    walk.through(node, stripes, &mut |_, _, _| Ok(())).await?;
    let hash = walk.end()?;
    if confirmed(node, chain, lsn, hash).await { Ok(()) } else { Err(Unusable::Unconfirmed) }
}

/// Whether the journal or the ledger has the entry at `lsn`, with this hash.
async fn confirmed(node: &dyn NodeClient, chain: &Chain, lsn: Lsn, hash: [u8; 32]) -> bool {
    if let Some(held) = chain.held.get(&lsn) {
        return held.hash == hash;
    }
    if lsn > chain.sealed {
        return chain.last == (lsn, hash);
    }
    for layout in ledger::find(node, StripeClass::Ledger).await.unwrap_or_default() {
        let holds = layout.descriptor.lsn_range.is_some_and(|(first, last)| first <= lsn && lsn <= last);
        if holds
            && let Ok(entries) = ledger::read(node, &layout).await
            && entries.iter().any(|entry| entry.lsn == lsn && entry.hash == hash)
        {
            return true;
        }
    }
    false
}

async fn load(node: &dyn NodeClient, kv: &dyn Kv, stripes: &[StripeLayout]) -> Result<u64, Unusable> {
    let mut begin = KvBatch::new();
    begin.put(META, LOADING, Bytes::new());
    // Before any row: after a crash the store may lack its newest writes, but only from the end.
    kv.write(begin)?;
    let lsn = stripes.first().and_then(|stripe| stripe.descriptor.lsn_range).map_or(Lsn(0), |(lsn, _)| lsn);
    let mut walk = Walk::new(lsn);
    let mut batch = KvBatch::new();
    walk.through(node, stripes, &mut |family, key, value| {
        batch.put(family, key, value);
        if batch.len() < BATCH_ROWS { Ok(()) } else { kv.write(std::mem::take(&mut batch)) }
    })
    .await?;
    walk.end()?;
    batch.delete(META, LOADING);
    kv.write(batch)?;
    Ok(walk.rows)
}

/// Rows that are written in one batch.
const BATCH_ROWS: usize = 4096;

/// Takes a row: family, key, value.
type Take<'a> = dyn FnMut(Family, Bytes, Bytes) -> Result<(), KvError> + Send + 'a;

/// A walk through the pieces of one checkpoint, in order. Two attempts at one LSN may both have left stripes: a piece that
/// was seen already is skipped, since equal rows at one LSN make equal pieces; were they cut differently, the rows would not
/// be in order, and the checkpoint is passed over.
struct Walk {
    lsn: Lsn,
    hash: Option<[u8; 32]>,
    next: u32,
    rows: u64,
    total: Option<u64>,
    last_key: Option<(u8, Bytes)>,
}

impl Walk {
    fn new(lsn: Lsn) -> Walk {
        Walk { lsn, hash: None, next: 0, rows: 0, total: None, last_key: None }
    }

    /// `stripes` in the order of their ids, which is the order in which they were written.
    async fn through(
        &mut self,
        node: &dyn NodeClient,
        stripes: &[StripeLayout],
        take: &mut Take<'_>,
    ) -> Result<(), Unusable> {
        for layout in stripes {
            for shard in layout.descriptor.data_present() {
                let len = layout.descriptor.shard_len(shard);
                let mut bytes = read_range(node, layout, shard, 0..len, ReadOptions::default()).await?;
                while !bytes.is_empty() {
                    let (piece, rest) = parse_piece(&bytes)?;
                    self.piece(piece, take)?;
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece, take: &mut Take<'_>) -> Result<(), Unusable> {
        if piece.lsn != self.lsn || self.hash.is_some_and(|hash| hash != piece.hash) {
            return Err(Unusable::Mixed(piece.number));
        }
        if piece.number < self.next {
            return Ok(());
        }
        if piece.number > self.next || self.total.is_some() {
            return Err(Unusable::Missing(self.next));
        }
        self.hash = Some(piece.hash);
        self.next += 1;
        self.total = piece.total_rows;
        for row in piece.rows {
            let family = family_of(row.family).ok_or(Unusable::Family(row.family))?;
            let key = (row.family, row.key);
            if self.last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(Unusable::Order);
            }
            self.rows += 1;
            take(family, key.1.clone(), row.value)?;
            self.last_key = Some(key);
        }
        Ok(())
    }

    /// The hash of the entry, if the checkpoint is whole.
    fn end(&self) -> Result<[u8; 32], Unusable> {
        match (self.hash, self.total) {
            (Some(hash), Some(total)) if total == self.rows => Ok(hash),
            _ => Err(Unusable::Rows { got: self.rows, want: self.total }),
        }
    }
}
