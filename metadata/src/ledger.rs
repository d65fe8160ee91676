//! The ledger as stripes: writing entries into them, finding them on the drives, reading them back in order.
//!
//! Ledger shards say their LSN range in their headers, so a scan finds them with no index at all. A crash while sealing leaves
//! ledger stripes that no entry names; their entries are the journal's own, so reading them twice does no harm: what
//! does not follow the chain is skipped or is an error, never applied.

use crate::journal::{Patience, read_in_time};
use bytes::Bytes;
use codec::id::{DriveId, Lsn, ShardId, StripeId};
use codec::journal::{Entry, JournalError, parse_batch};
use codec::level::Later;
use codec::stripe::{StripeClass, StripeDescriptor};
use futures::future::join_all;
use std::collections::BTreeMap;
use storage_node::client::{DriveHealth, NodeClient, ReadError};
use storage_node::stripe_io::{ReadOptions, StripeLayout, StripeReadError, read_range};

const PAGE: usize = 1024;

/// Why a ledger stripe can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Too few of its shards are good.
    #[error(transparent)]
    Read(#[from] StripeReadError),
    /// Its entries do not verify although its shards do.
    #[error("ledger stripe {stripe}: {error}")]
    Entries {
        /// The stripe.
        stripe: StripeId,
        /// What is wrong.
        error: JournalError,
    },
    /// Its entries are those of a later release.
    #[error("ledger stripe {stripe}: {later}")]
    Later {
        /// The stripe.
        stripe: StripeId,
        /// Which one, and what to do.
        later: Later,
    },
}

/// Every stripe of a class whose stripes name their LSNs, ledger or checkpoint, that has a shard on a drive that can be read;
/// by LSN range and id. `Err`: a drive has headers of a later release.
pub async fn find(node: &dyn NodeClient, class: StripeClass) -> Result<Vec<StripeLayout>, ReadError> {
    find_where(node, class, &|_| true).await
}

/// [`find`], of those stripes that are `wanted`: the data stripes of a large cluster do not fit in memory together.
pub async fn find_where(
    node: &dyn NodeClient,
    class: StripeClass,
    wanted: &(dyn Fn(StripeId) -> bool + Sync),
) -> Result<Vec<StripeLayout>, ReadError> {
    let drives = node.drives().await;
    let readable = drives.iter().filter(|d| !matches!(d.health, DriveHealth::Failed { .. }));
    let lists = join_all(readable.map(|d| async move { (d.id, list(node, d.id, class, wanted).await) })).await;
    let mut found: BTreeMap<(StripeId, [u8; 32]), StripeLayout> = BTreeMap::new();
    for (drive, list) in lists {
        match list {
            Ok(shards) => {
                for (descriptor, index) in shards {
                    add_shard(&mut found, drive, descriptor, index);
                }
            }
            // Its stripes would pass for ones that are not there.
            Err(error @ ReadError::Later(_)) => return Err(error),
            Err(error) => tracing::warn!(%drive, %error, "a drive's shards can't be listed"),
        }
    }
    let mut stripes: Vec<StripeLayout> = found.into_values().collect();
    stripes.sort_by_key(|layout| (layout.descriptor.lsn_range, layout.descriptor.id));
    Ok(stripes)
}

fn add_shard(
    found: &mut BTreeMap<(StripeId, [u8; 32]), StripeLayout>,
    drive: DriveId,
    descriptor: StripeDescriptor,
    index: u8,
) {
    let width = usize::from(descriptor.width());
    let key = (descriptor.id, descriptor.root());
    let layout = found.entry(key).or_insert_with(|| StripeLayout { descriptor, drives: vec![None; width] });
    if let Some(place) = layout.drives.get_mut(usize::from(index)) {
        *place = Some(drive);
    }
}

async fn list(
    node: &dyn NodeClient,
    drive: DriveId,
    class: StripeClass,
    wanted: &(dyn Fn(StripeId) -> bool + Sync),
) -> Result<Vec<(StripeDescriptor, u8)>, ReadError> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = node.list_shards(drive, Some(class), after, PAGE);
        let page = read_in_time(drive, Patience::default().deadline, page).await?;
        let full = page.len() >= PAGE;
        after = page.last().map(|h| ShardId { stripe: h.descriptor.id, index: h.index });
        all.extend(page.into_iter().map(|h| (h.descriptor, h.index)).filter(|(d, _)| wanted(d.id)));
        if !full {
            return Ok(all);
        }
    }
}

/// The entries of a ledger stripe, in LSN order, each verified.
pub async fn read(node: &dyn NodeClient, layout: &StripeLayout) -> Result<Vec<Entry>, LedgerError> {
    let mut joined = Vec::new();
    for shard in layout.descriptor.data_present() {
        let len = layout.descriptor.shard_len(shard);
        joined.extend_from_slice(&read_range(node, layout, shard, 0..len, ReadOptions::default()).await?);
    }
    let (joined, stripe) = (Bytes::from(joined), layout.descriptor.id);
    parse_batch(&joined).map_err(|error| match Later::of_batch(&joined, &error) {
        Some(later) => LedgerError::Later { stripe, later },
        None => LedgerError::Entries { stripe, error },
    })
}

/// Whether a stripe may hold an entry after `after` and before `before`.
pub fn overlaps(layout: &StripeLayout, after: Lsn, before: Lsn) -> bool {
    layout.descriptor.lsn_range.is_some_and(|(first, last)| last > after && first < before)
}
