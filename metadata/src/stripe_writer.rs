//! Storing frames as a stripe: the one home of stripe ids, of the number of data shards, and of placing and writing.
//!
//! A stripe's id is the epoch that is held when it is begun, and a counter (R1): neither comes back, so a shard left by a write that was given
//! up can never be taken for a member of another stripe. Shrink k, never m: with few usable drives a stripe has fewer data
//! shards, down to one, and always m parity shards; with fewer than 1+m usable drives it is refused.

use crate::placement::{self, Need};
use crate::topology::{Level, Topology};
use bytes::Bytes;
use codec::effect::{Place, StripeRow};
use codec::erasure::{Erasure, Geometry};
use codec::id::{ClusterId, DriveId, Epoch, Lsn, StripeId};
use codec::stripe::{StripeClass, StripeError, StripePacker};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage_node::client::{NodeClient, Reserve, WriteError};
use storage_node::stripe_io::{StripeLayout, StripeWriteError, TargetsWanted, write_stripe};

/// Why frames were not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Fewer than 1+m drives take writes (503).
    #[error("{usable} drives take writes, a stripe needs {needed}")]
    TooFewDrives {
        /// Drives that take writes.
        usable: usize,
        /// 1+m.
        needed: usize,
    },
    /// The rule can't be kept by the drives that take writes, not even by the narrowest stripe (503).
    #[error("no stripe can be written that survives the loss of a {0}, as the rule wants")]
    Rule(Level),
    /// No space outside the reserve (507).
    #[error("the drives are full")]
    Full,
    /// Drives failed while it was written, and no others are left (503).
    #[error(transparent)]
    Write(StripeWriteError),
    /// The frames can't be packed.
    #[error(transparent)]
    Pack(#[from] StripeError),
    /// The thread that packs ended.
    #[error("packing was interrupted")]
    Interrupted,
}

/// Frames on their way into one stripe.
#[derive(Debug)]
pub struct OpenStripe {
    packer: StripePacker,
    lens: Vec<u32>,
    erasure: Arc<Erasure>,
}

impl OpenStripe {
    /// Whether one more frame leaves every shard within its target.
    pub fn fits(&self, frame: &Bytes) -> bool {
        self.lens.is_empty() || self.packer.fits(frame.len())
    }

    /// Adds a frame.
    pub fn add(&mut self, frame: Bytes) {
        self.lens.push(u32::try_from(frame.len()).unwrap_or(u32::MAX));
        self.packer.add(frame);
    }

    /// How many frames it has.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }
}

/// A stripe that is durable on its drives, and not committed yet.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What is to be committed.
    pub row: StripeRow,
    /// The same, to read by.
    pub layout: StripeLayout,
    /// Where each frame went, in the order in which they were added.
    pub places: Vec<Place>,
}

/// Writes stripes.
pub struct StripeWriter {
    node: Arc<dyn NodeClient>,
    cluster: ClusterId,
    /// The last stripe that was numbered: the epoch that is held, and how many stripes of it were begun.
    last: Mutex<StripeId>,
    /// How much work of the service's own is unfinished, by the epoch in which it began.
    unfinished: Mutex<BTreeMap<Epoch, usize>>,
    geometry: Geometry,
    shard_target: u32,
    erasure: Arc<Erasure>,
}

impl StripeWriter {
    /// A writer that holds an epoch.
    pub fn new(
        node: Arc<dyn NodeClient>,
        cluster: ClusterId,
        epoch: Epoch,
        erasure: Erasure,
        shard_target: u32,
    ) -> StripeWriter {
        let (geometry, erasure) = (erasure.geometry(), Arc::new(erasure));
        let last = Mutex::new(StripeId { epoch, counter: 0 });
        let unfinished = Mutex::default();
        StripeWriter { node, cluster, last, unfinished, geometry, shard_target, erasure }
    }

    fn last(&self) -> MutexGuard<'_, StripeId> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch that is held: what begins now is committed under it.
    pub fn epoch(&self) -> Epoch {
        self.last().epoch
    }

    /// The last stripe that was numbered: whatever has a higher id was begun later.
    pub fn last_id(&self) -> StripeId {
        *self.last()
    }

    /// Numbers stripes in a new epoch from now on. It must have been granted durably: a stripe of an epoch that the journal
    /// does not know is taken for a witness of another history, and holds reclaim (R10).
    pub fn renew(&self, epoch: Epoch) {
        let mut last = self.last();
        if epoch > last.epoch {
            *last = StripeId { epoch, counter: 0 };
        }
    }

    /// Keeps the epoch that is held open until the guard is dropped: for work that the service gives itself, which numbers
    /// stripes from its beginning and commits them at its end. No client waits for it, so it has no deadline. Were its first
    /// epoch fenced meanwhile, what it took hours for would be refused, each time anew.
    pub fn begin_work(&self) -> Unfinished<'_> {
        let epoch = self.epoch();
        *self.unfinished().entry(epoch).or_default() += 1;
        Unfinished { writer: self, epoch }
    }

    /// The oldest epoch that such work may have numbered stripes in; the one that is held when there is none.
    pub fn oldest_unfinished(&self) -> Epoch {
        let held = self.epoch();
        self.unfinished().keys().next().copied().unwrap_or(held)
    }

    fn unfinished(&self) -> MutexGuard<'_, BTreeMap<Epoch, usize>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> StripeId {
        let mut last = self.last();
        last.counter += 1;
        *last
    }

    /// The target for a shard's payload.
    pub fn shard_target(&self) -> u32 {
        self.shard_target
    }

    /// The cluster's geometry.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The code.
    pub fn erasure(&self) -> &Arc<Erasure> {
        &self.erasure
    }

    /// How many data shards the drives in `topology` allow: 1 to k.
    pub fn width(&self, topology: &Topology) -> Result<u8, StoreError> {
        width(topology, self.geometry)
    }

    /// Begins a stripe whose frames go to the least-full shard, or (`in_order`) keep their order.
    pub fn open(&self, width: u8, in_order: bool) -> OpenStripe {
        let m = self.geometry.m();
        let packer = match in_order {
            true => StripePacker::in_order(width, m, self.shard_target),
            false => StripePacker::new(width, m, self.shard_target),
        };
        OpenStripe { packer, lens: Vec::new(), erasure: self.erasure.clone() }
    }

    /// Begins a stripe of another code than the cluster's, whose frames go to the least-full shard. Its descriptor says which
    /// code, and that is what readers, repair and rescue decode it by.
    pub fn open_of(&self, erasure: &Arc<Erasure>, width: u8) -> OpenStripe {
        let packer = StripePacker::new(width, erasure.geometry().m(), self.shard_target);
        OpenStripe { packer, lens: Vec::new(), erasure: erasure.clone() }
    }

    /// Packs, places and writes: `Ok` means durable on every one of its drives. A drive that fails is replaced first.
    pub async fn store(
        &self,
        stripe: OpenStripe,
        class: StripeClass,
        lsn_range: Option<(Lsn, Lsn)>,
        topology: &Topology,
        reserve: Reserve,
    ) -> Result<Stored, StoreError> {
        let id = self.next_id();
        let OpenStripe { packer, lens, erasure } = stripe;
        let (geometry, cluster) = (erasure.geometry(), self.cluster);
        let pack = move || packer.finish(id, class, geometry, cluster, lsn_range, &erasure);
        let small = lens.iter().map(|len| u64::from(*len)).sum::<u64>() < 256 * 1024;
        let packed = match small {
            true => pack()?,
            false => tokio::task::spawn_blocking(pack).await.map_err(|_| StoreError::Interrupted)??,
        };
        let mut targets = |wanted: TargetsWanted<'_>| -> Vec<DriveId> {
            let need = Need {
                count: wanted.count,
                parity: geometry.m(),
                used: wanted.used,
                failed: wanted.failed,
                survive: topology.survive,
                seed: id.epoch.0 ^ id.counter.rotate_left(32),
            };
            placement::place(topology, &need)
        };
        let drives = write_stripe(&*self.node, &packed, reserve, &mut targets).await.map_err(store_error)?;
        let row = StripeRow {
            descriptor: packed.descriptor.encode(),
            drives: drives
                .iter()
                .map(|d| d.map_or_else(Bytes::new, |d| Bytes::copy_from_slice(d.as_bytes())))
                .collect(),
        };
        let places = packed.places.iter().zip(lens);
        let places = places.map(|(place, len)| Place::in_stripe(id, place.shard, place.offset, len)).collect();
        Ok(Stored { row, layout: StripeLayout { descriptor: packed.descriptor, drives }, places })
    }
}

/// Work of the service's own that is not committed yet.
#[must_use]
pub struct Unfinished<'a> {
    writer: &'a StripeWriter,
    epoch: Epoch,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut unfinished = self.writer.unfinished();
        match unfinished.get_mut(&self.epoch) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(unfinished.remove(&self.epoch)),
        }
    }
}

/// R14: where there would be drives enough if they had room, the store is full. That is another matter than drives that are
/// gone: the client can't wait for it to pass, and the operator has to add room, not to mend drives.
fn width(topology: &Topology, geometry: Geometry) -> Result<u8, StoreError> {
    let needed = 1 + usize::from(geometry.m());
    let usable = topology.usable().count();
    let full = topology.drives.iter().filter(|drive| drive.full).count();
    match topology.width(geometry) {
        Some(width) => Ok(width),
        None if usable >= needed => Err(StoreError::Rule(topology.survive)),
        None if usable + full >= needed => Err(StoreError::Full),
        None => Err(StoreError::TooFewDrives { usable, needed }),
    }
}

fn store_error(error: StripeWriteError) -> StoreError {
    match error {
        StripeWriteError::Full { .. } | StripeWriteError::NoDrives { last: Some(WriteError::Full { .. }), .. } => {
            StoreError::Full
        }
        error => StoreError::Write(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Drive;

    #[test]
    fn r14_drives_without_room_are_full_and_not_missing() {
        let geometry = Geometry::new(3, 2).unwrap();
        let drive = |n: u8, usable, full| Drive { usable, full, ..Drive::new(DriveId([n; 16])) };
        let of = |drives: &[(bool, bool)]| {
            let drives = (0..).zip(drives).map(|(n, (usable, full))| drive(n, *usable, *full)).collect();
            width(&Topology { drives, ..Topology::default() }, geometry)
        };
        let (good, full, gone) = ((true, false), (false, true), (false, false));
        assert!(matches!(of(&[good, good, good, gone, full]), Ok(1)));
        assert!(matches!(of(&[good, good, full, gone, gone]), Err(StoreError::Full)));
        assert!(matches!(of(&[full, full, full]), Err(StoreError::Full)));
        assert!(matches!(of(&[good, full, gone, gone, gone]), Err(StoreError::TooFewDrives { usable: 1, needed: 3 })));
    }
}
