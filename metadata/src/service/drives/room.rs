//! Whether drives can be emptied: what lies there has to find room on the others, and where the rule of placement lets it.

use super::{DriveChangeError, Metadata};
use crate::index::{self, IndexError, STRIPES};
use crate::lookup;
use crate::topology::{Leaving, Level, MIN_FREE, Topology};
use codec::effect::{DriveState, StripeRow};
use codec::id::{DriveId, StripeId};
use std::collections::BTreeSet;
use storage_node::client::DriveStatus;
use storage_node::kv::{Direction, Kv};

impl Metadata {
    /// Whether the other drives can take what lies on these, and stripes as they are.
    pub(in crate::service) async fn check_room(
        &self,
        status: &[DriveStatus],
        drives: &BTreeSet<DriveId>,
    ) -> Result<(), DriveChangeError> {
        let rows = index::drives(&self.view())?;
        let topology = Topology::new(&rows, status).surviving(index::survive(&self.view())?);
        let left = topology.clone().without(drives);
        let others: Vec<u64> = left.usable().map(|other| other.free).collect();
        let full = usize::from(self.geometry.k()) + usize::from(self.geometry.m());
        let count = self.count(status, true).await?.ok_or(DriveChangeError::NotCounted)?;
        let widest = drives.iter().filter_map(|drive| count.get(drive)).map(|used| used.widest).max().unwrap_or(0);
        let widest = widest.max(1 + usize::from(self.geometry.m()));
        // Where stripes are narrower already they stay so; otherwise emptying a drive must not make them.
        let needed = if topology.usable().count() >= full { full.max(widest) } else { widest };
        if others.len() < needed {
            return Err(DriveChangeError::TooFewDrives { left: others.len(), needed });
        }
        let parity = usize::from(self.geometry.m());
        let by_rule = |topology: &Topology| topology.capacity(topology.survive, parity);
        let kept = if by_rule(&topology) >= full { needed } else { widest.min(by_rule(&topology)) };
        if by_rule(&left) < kept {
            return Err(DriveChangeError::Rule { level: left.survive, left: by_rule(&left), needed: kept });
        }
        let draining = rows.iter().filter(|row| row.state == DriveState::Draining as i32);
        let leaving: BTreeSet<DriveId> =
            draining.filter_map(|row| DriveId::from_slice(&row.id)).chain(drives.iter().copied()).collect();
        let bytes = leaving.iter().filter_map(|drive| count.get(drive)).map(|used| used.bytes).sum();
        let level = left.survive;
        let room = match level {
            Level::Drive => others.iter().map(|free| free.saturating_sub(MIN_FREE)).sum(),
            _ => self.room_by_rule(left, leaving, parity).await?,
        };
        if bytes > room { Err(DriveChangeError::NoRoom { level, bytes, room }) } else { Ok(()) }
    }

    /// How many bytes of what lies on the drives that are emptied find room where the rule lets them. Reads all stripes' rows.
    async fn room_by_rule(
        &self,
        left: Topology,
        emptied: BTreeSet<DriveId>,
        parity: usize,
    ) -> Result<u64, DriveChangeError> {
        let kv = self.shared.kv.clone();
        match tokio::task::spawn_blocking(move || room_for(&*kv, left, &emptied, parity)).await {
            Ok(room) => Ok(room?),
            Err(error) => {
                tracing::error!(%error, "what the drives have room for was not counted");
                Err(DriveChangeError::NotCounted)
            }
        }
    }
}

/// A row that does not decode is for the check of the rows to report.
fn room_for(kv: &dyn Kv, left: Topology, emptied: &BTreeSet<DriveId>, parity: usize) -> Result<u64, IndexError> {
    let mut leaving = Leaving::new(left, parity);
    let mut rows = kv.scan(STRIPES, &[], Direction::Forward)?;
    while let Some((key, value)) = rows.next()? {
        let row = index::decode::<StripeRow>(STRIPES, &key, value).ok();
        let Some((id, row)) = StripeId::from_slice(&key).zip(row) else { continue };
        let Ok(descriptor) = lookup::descriptor(id, &row) else { continue };
        let placed = (0..descriptor.width()).filter_map(|index| Some((index, row.drive(index)?)));
        let (leave, stay): (Vec<_>, Vec<_>) = placed.partition(|(_, drive)| emptied.contains(drive));
        if leave.is_empty() {
            continue;
        }
        let stay: Vec<DriveId> = stay.into_iter().map(|(_, drive)| drive).collect();
        let lens: Vec<u64> = leave.into_iter().map(|(index, _)| u64::from(descriptor.shard_len(index))).collect();
        leaving.add(&stay, &lens);
    }
    Ok(leaving.room())
}
