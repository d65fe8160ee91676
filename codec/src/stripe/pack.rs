//! Packing whole frames into the data shards of one stripe.
//!
//! A frame is never split, so a document is read from one shard on one drive. How many data shards are used is decided when
//! the stripe is finished: every number up to the allowed one is tried, and the one that writes the fewest blocks is taken.
//! Few bytes give a narrow stripe, since each shard costs a header block and each parity shard costs the longest data shard.

use super::{MAX_SHARD, StripeClass, StripeDescriptor, StripeError};
use crate::block::blocks_for;
use crate::erasure::{Erasure, Geometry};
use crate::id::{ClusterId, Lsn, StripeId};
use bytes::Bytes;
use std::cmp::Reverse;

/// Where a frame lies in its stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePlace {
    /// The index of the data shard.
    pub shard: u8,
    /// Offset of the frame's first byte in the shard's payload.
    pub offset: u32,
}

/// A stripe, ready to be written.
#[derive(Clone, Debug)]
pub struct PackedStripe {
    /// What every shard carries.
    pub descriptor: StripeDescriptor,
    /// The payloads of the k+m shards; `None` where absent.
    pub shards: Vec<Option<Bytes>>,
    /// Where each frame went, in the order in which they were added.
    pub places: Vec<FramePlace>,
}

/// How frames are spread over shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spread {
    /// Each to the least-full shard.
    LeastFull,
    /// Shard 0 first, then shard 1: reading shards in order gives the frames in order.
    InOrder,
}

/// Collects the frames of one stripe.
#[derive(Debug)]
pub struct StripePacker {
    spread: Spread,
    max_data_shards: u8,
    parity_shards: u8,
    shard_target: u64,
    frames: Vec<Bytes>,
    bytes: u64,
    /// What the shards would hold if all `max_data_shards` were used.
    fill: Vec<u64>,
}

/// One way to put the frames into shards.
struct Layout {
    /// Data shard of each frame.
    shard_of: Vec<u8>,
    /// Bytes in each data shard.
    fill: Vec<u64>,
    /// Some shard holds several frames and is longer than the target.
    over_target: bool,
    /// Blocks on all drives, record headers included.
    blocks: u64,
}

impl StripePacker {
    /// For up to `max_data_shards` (at least 1; fewer than k when too few drives are usable) data shards of about
    /// `shard_target` bytes and `parity_shards` parity shards. Frames go to the least-full shard.
    pub fn new(max_data_shards: u8, parity_shards: u8, shard_target: u32) -> StripePacker {
        Self::with_spread(max_data_shards, parity_shards, shard_target, Spread::LeastFull)
    }

    /// The same, but the frames keep their order from shard to shard: for ledger stripes and checkpoints.
    pub fn in_order(max_data_shards: u8, parity_shards: u8, shard_target: u32) -> StripePacker {
        Self::with_spread(max_data_shards, parity_shards, shard_target, Spread::InOrder)
    }

    fn with_spread(max_data_shards: u8, parity_shards: u8, shard_target: u32, spread: Spread) -> StripePacker {
        let max_data_shards = max_data_shards.max(1);
        StripePacker {
            spread,
            max_data_shards,
            parity_shards,
            shard_target: u64::from(shard_target.min(MAX_SHARD)),
            frames: Vec::new(),
            bytes: 0,
            fill: vec![0; usize::from(max_data_shards)],
        }
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame yet.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether one more frame of this length leaves every shard within its target. A frame beyond the target fits into an
    /// empty shard: it has to go somewhere.
    pub fn fits(&self, frame_len: usize) -> bool {
        let room = |shard: usize| self.room(shard, frame_len as u64);
        match self.spread {
            Spread::LeastFull => room(least_full(&self.fill)),
            Spread::InOrder => {
                let open = self.open_shard();
                room(open) || open + 1 < self.fill.len()
            }
        }
    }

    fn room(&self, shard: usize, frame_len: u64) -> bool {
        self.fill.get(shard).is_some_and(|fill| *fill == 0 || fill.saturating_add(frame_len) <= self.shard_target)
    }

    /// The last shard that holds something.
    fn open_shard(&self) -> usize {
        self.fill.iter().rposition(|fill| *fill > 0).unwrap_or(0)
    }

    /// Adds a frame. One that does not fit ([`Self::fits`]) makes its shard longer than the target, which costs parity but
    /// loses nothing.
    pub fn add(&mut self, frame: Bytes) {
        let len = frame.len() as u64;
        let shard = match self.spread {
            Spread::LeastFull => least_full(&self.fill),
            Spread::InOrder => {
                let open = self.open_shard();
                if self.room(open, len) { open } else { (open + 1).min(self.fill.len().saturating_sub(1)) }
            }
        };
        if let Some(fill) = self.fill.get_mut(shard) {
            *fill = fill.saturating_add(len);
        }
        self.bytes = self.bytes.saturating_add(len);
        self.frames.push(frame);
    }

    /// Chooses the number of data shards, lays out the frames and computes parity and hashes. The same frames give the same
    /// stripe. `erasure` must be the code of `geometry`.
    ///
    /// Costs a copy of all frames, the parity, and one BLAKE3 over both: call it off the async threads.
    pub fn finish(
        self,
        id: StripeId,
        class: StripeClass,
        geometry: Geometry,
        cluster: ClusterId,
        lsn_range: Option<(Lsn, Lsn)>,
        erasure: &Erasure,
    ) -> Result<PackedStripe, StripeError> {
        if self.max_data_shards > geometry.k() || self.parity_shards != geometry.m() || erasure.geometry() != geometry {
            return Err(StripeError::Geometry { data: self.max_data_shards, parity: self.parity_shards, geometry });
        }
        let layout = self.best_layout().ok_or(StripeError::Empty)?;
        if layout.fill.iter().any(|fill| *fill > u64::from(MAX_SHARD)) {
            return Err(StripeError::TooLong);
        }
        let (data, places) = self.lay_out(&layout);
        let data: Vec<Bytes> = data.into_iter().map(Bytes::from).collect();
        let slices: Vec<Option<&[u8]>> =
            (0..usize::from(geometry.k())).map(|i| data.get(i).map(|shard| &shard[..])).collect();
        let parity = erasure.encode_parity(&slices);
        let mut shards: Vec<Option<Bytes>> = data.into_iter().map(Some).collect();
        shards.resize(usize::from(geometry.k()), None);
        shards.extend(parity.into_iter().map(|shard| Some(Bytes::from(shard))));
        let descriptor = describe(&shards, id, class, geometry, cluster, lsn_range);
        descriptor.check_fields()?;
        Ok(PackedStripe { descriptor, shards, places })
    }

    /// The layout that writes the fewest blocks; among those the one with the fewest shards. Layouts with a shard beyond
    /// the target lose to all others.
    fn best_layout(&self) -> Option<Layout> {
        let widths = 1..=usize::from(self.max_data_shards);
        widths.flat_map(|width| self.layouts(width)).min_by_key(|l| (l.over_target, l.blocks, l.fill.len()))
    }

    /// The layouts with exactly `width` data shards, none of which is empty.
    fn layouts(&self, width: usize) -> Vec<Layout> {
        let given: Vec<usize> = (0..self.frames.len()).collect();
        let ways = match self.spread {
            Spread::LeastFull => {
                // Long frames first evens the shards out better, mostly, and so saves parity.
                let mut long_first = given.clone();
                long_first.sort_by_key(|i| Reverse(self.frame_len(*i)));
                vec![self.least_full_first(width, &given), self.least_full_first(width, &long_first)]
            }
            Spread::InOrder => vec![self.shortest_in_order(width)],
        };
        let layouts = ways.into_iter().map(|shard_of| self.layout(shard_of, width));
        layouts.filter(|layout| layout.fill.iter().all(|fill| *fill > 0)).collect()
    }

    fn frame_len(&self, frame: usize) -> u64 {
        self.frames.get(frame).map_or(0, |f| f.len() as u64)
    }

    fn least_full_first(&self, width: usize, order: &[usize]) -> Vec<u8> {
        let mut fill = vec![0u64; width];
        let mut shard_of = vec![0u8; self.frames.len()];
        for &frame in order {
            let shard = least_full(&fill);
            fill[shard] += self.frame_len(frame);
            shard_of[frame] = shard as u8;
        }
        shard_of
    }

    /// Contiguous runs of frames, the longest run as short as it can be: a binary search for the capacity of a shard, within
    /// the target if there is room, and a frame beyond the capacity in a shard of its own.
    fn shortest_in_order(&self, width: usize) -> Vec<u8> {
        let enough = |capacity| self.runs(capacity).last().is_none_or(|shard| *shard < width);
        let (mut low, mut high) = (0, self.shard_target);
        if !enough(high) {
            (low, high) = (high, self.bytes.max(high));
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if enough(middle) { high = middle } else { low = middle + 1 }
        }
        self.runs(low).into_iter().map(|shard| shard.min(width - 1) as u8).collect()
    }

    /// The shard of each frame when each shard takes what fits into `capacity`.
    fn runs(&self, capacity: u64) -> Vec<usize> {
        let (mut shard, mut fill) = (0, 0u64);
        let place = |frame| {
            let len = self.frame_len(frame);
            if fill > 0 && fill + len > capacity {
                (shard, fill) = (shard + 1, 0);
            }
            fill += len;
            shard
        };
        (0..self.frames.len()).map(place).collect()
    }

    fn layout(&self, shard_of: Vec<u8>, width: usize) -> Layout {
        let mut fill = vec![0u64; width];
        let mut frames = vec![0usize; width];
        for (frame, shard) in shard_of.iter().enumerate() {
            let len = self.frame_len(frame);
            fill[usize::from(*shard)] += len;
            frames[usize::from(*shard)] += usize::from(len > 0);
        }
        let over_target = fill.iter().zip(&frames).any(|(fill, frames)| *fill > self.shard_target && *frames > 1);
        let record = |len: u64| 1 + blocks_for(len);
        let longest = fill.iter().copied().max().unwrap_or(0);
        let blocks = fill.iter().map(|len| record(*len)).sum::<u64>() + u64::from(self.parity_shards) * record(longest);
        Layout { shard_of, fill, over_target, blocks }
    }

    /// The data shards' bytes, and where each frame went: frames keep the order in which they were added inside a shard.
    fn lay_out(&self, layout: &Layout) -> (Vec<Vec<u8>>, Vec<FramePlace>) {
        let mut data: Vec<Vec<u8>> = layout.fill.iter().map(|len| Vec::with_capacity(*len as usize)).collect();
        let places = self.frames.iter().zip(&layout.shard_of).map(|(frame, &shard)| {
            let payload = &mut data[usize::from(shard)];
            // `finish` bounded each shard by MAX_SHARD.
            let place = FramePlace { shard, offset: payload.len() as u32 };
            payload.extend_from_slice(frame);
            place
        });
        let places = places.collect();
        (data, places)
    }
}

/// The first of the least-full shards.
fn least_full(fill: &[u64]) -> usize {
    fill.iter().enumerate().min_by_key(|(_, fill)| **fill).map_or(0, |(shard, _)| shard)
}

fn describe(
    shards: &[Option<Bytes>],
    id: StripeId,
    class: StripeClass,
    geometry: Geometry,
    cluster: ClusterId,
    lsn_range: Option<(Lsn, Lsn)>,
) -> StripeDescriptor {
    let present = (0u32..).zip(shards).filter(|(_, s)| s.is_some()).fold(0, |map, (i, _)| map | (1 << i));
    let lengths = shards.iter().map(|s| s.as_ref().map_or(0, |s| s.len() as u32)).collect();
    let hashes = shards.iter().map(|s| s.as_ref().map_or([0; 32], |s| *blake3::hash(s).as_bytes())).collect();
    StripeDescriptor { id, class, geometry, present, lengths, hashes, lsn_range, cluster }
}
