//! The planner and the throttle on a cluster that is not there: how long it takes until everything is at full strength
//! after a loss, and what is moved for it. No data, no disks and no threads; the code that plans is the code that serves.
//!
//! A sample of the stripes that the loss wounds is placed, planned and carried out in virtual time. Each of them stands for
//! as many as there are wounded stripes to a sampled one, so times and bytes are scaled by that.

use super::config::KeepConfig;
use super::lanes::Lanes;
use super::plan::{Condition, Plan, Policy, RepairItem, Scene, Shard, Stripe, plan_repairs};
use crate::placement::{Need, cells, place};
use crate::topology::{Drive, Topology};
use codec::erasure::Geometry;
use codec::id::{DriveId, Epoch, StripeId};
use codec::stripe::StripeClass;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Items at the head of the queue that are looked at when drives have time.
const WINDOW: usize = 2000;

/// A cluster on paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    /// Racks.
    pub racks: u32,
    /// Nodes in each.
    pub nodes_per_rack: u32,
    /// Drives in each node.
    pub drives_per_node: u32,
    /// The geometry of all stripes.
    pub geometry: Geometry,
    /// Bytes that are stored, without parity.
    pub stored: u64,
    /// Bytes of each shard.
    pub shard: u32,
    /// Bytes per second that a drive reads or writes in sequence.
    pub drive_rate: u64,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// One drive.
    Drive,
    /// All drives of one node.
    Node,
    /// All drives of one rack.
    Rack,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Drives lost.
    pub drives: usize,
    /// Stripes that lost shards.
    pub stripes: f64,
    /// Shards lost.
    pub shards: f64,
    /// The most that one stripe lost.
    pub most: usize,
    /// Stripes that can't be read any more.
    pub beyond: f64,
    /// Bytes read.
    pub read: f64,
    /// Bytes written.
    pub written: f64,
    /// Seconds until every stripe is at full strength, counted from the end of the grace.
    pub seconds: f64,
    /// Seconds until no stripe is left that could not lose two more shards; 0 if there was none.
    pub urgent_seconds: f64,
    /// What the formula of docs/OPERATIONS.md gives for the same loss.
    pub formula_seconds: f64,
}

impl Cluster {
    /// A petabyte on a thousand drives: ten racks of five nodes of twenty drives, 10+4, shards of 8 MiB, 100 MB/s.
    ///
    /// # Errors
    /// Never in practice: the geometry is a constant.
    pub fn petabyte() -> Result<Cluster, codec::erasure::ErasureError> {
        Ok(Cluster {
            racks: 10,
            nodes_per_rack: 5,
            drives_per_node: 20,
            geometry: Geometry::new(10, 4)?,
            stored: 1_000_000_000_000_000,
            shard: 8 << 20,
            drive_rate: 100_000_000,
        })
    }

    /// How many drives there are.
    pub fn drives(&self) -> u32 {
        self.racks * self.nodes_per_rack * self.drives_per_node
    }

    fn width(&self) -> usize {
        usize::from(self.geometry.k()) + usize::from(self.geometry.m())
    }

    /// How many stripes there are.
    pub fn stripes(&self) -> f64 {
        self.stored as f64 / (f64::from(self.shard) * f64::from(self.geometry.k()))
    }

    fn topology(&self) -> Topology {
        let drive = |n: u32| {
            let node = n / self.drives_per_node;
            let id = DriveId(u128::from(n).to_be_bytes());
            // Much room: the simulation is about time.
            let (free, usable) = (1 << 50, true);
            Drive { node, rack: node / self.nodes_per_rack, free, usable, ..Drive::new(id) }
        };
        cells::shared_out(Topology { drives: (0..self.drives()).map(drive).collect(), ..Topology::default() })
    }

    /// The drives with the lowest numbers are lost.
    fn lost(&self, loss: Loss) -> u32 {
        match loss {
            Loss::Drive => 1,
            Loss::Node => self.drives_per_node,
            Loss::Rack => self.drives_per_node * self.nodes_per_rack,
        }
    }

    /// Simulates a loss with `sample` stripes that it wounds. Equal arguments give an equal report.
    pub fn simulate(&self, loss: Loss, policy: &Policy, sample: usize, seed: u64) -> Report {
        let mut topology = self.topology();
        let lost = self.lost(loss);
        let (stripes, wounded) = self.wounded(&topology, loss, sample, seed);
        for drive in topology.drives.iter_mut().take(lost as usize) {
            drive.usable = false;
        }
        let scene = Scene {
            topology: &topology,
            lost_drives: lost as usize,
            room: u64::MAX,
            geometry: self.geometry,
            now_ms: policy.grace_ms.saturating_add(1),
        };
        let plan = plan_repairs(&scene, &stripes, &Policy { items: usize::MAX, ..*policy });
        let scale = wounded / stripes.len().max(1) as f64;
        let (ms, urgent_ms) = self.carry_out(&plan);
        let sum = |count: &dyn Fn(&RepairItem) -> u64| plan.items.iter().map(count).sum::<u64>() as f64 * scale;
        Report {
            drives: lost as usize,
            stripes: wounded,
            shards: sum(&|item| item.targets.len() as u64),
            most: stripes.iter().map(lost_of).max().unwrap_or(0),
            beyond: plan.waiting.len() as f64 * scale,
            read: sum(&RepairItem::read_bytes),
            written: sum(&RepairItem::write_bytes),
            seconds: ms as f64 / 1000.0 * scale,
            urgent_seconds: urgent_ms as f64 / 1000.0 * scale,
            formula_seconds: self.formula(&plan, &topology) * scale,
        }
    }

    /// Stripes with shards on the lost drives, and how many there are in all.
    fn wounded(&self, topology: &Topology, loss: Loss, sample: usize, seed: u64) -> (Vec<Stripe>, f64) {
        let lost = self.lost(loss);
        let is_lost = |id: &DriveId| u128::from_be_bytes(id.0) < u128::from(lost);
        let (mut found, mut tried) = (Vec::with_capacity(sample), 0u64);
        while found.len() < sample {
            tried += 1;
            let random = seed.wrapping_mul(1_000_003).wrapping_add(tried);
            // One drive in a thousand is rarely met by chance: every stripe is given a shard there.
            let first: Vec<DriveId> = match loss {
                Loss::Drive => topology.drives.iter().take(1).map(|drive| drive.id).collect(),
                Loss::Node | Loss::Rack => Vec::new(),
            };
            let need = Need::new(self.width() - first.len(), self.geometry.m());
            let mut drives = place(topology, &Need { used: &first, seed: random, ..need });
            drives.extend(first);
            drives.rotate_left((tried % self.width() as u64) as usize);
            if drives.iter().any(is_lost) {
                found.push(self.stripe(tried, &drives, is_lost));
            }
        }
        let share = match loss {
            Loss::Drive => self.width() as f64 / f64::from(self.drives()),
            Loss::Node | Loss::Rack => found.len() as f64 / tried as f64,
        };
        (found, self.stripes() * share)
    }

    fn stripe(&self, counter: u64, drives: &[DriveId], is_lost: impl Fn(&DriveId) -> bool) -> Stripe {
        let shard = |(index, drive): (u8, &DriveId)| {
            let condition = match is_lost(drive) {
                true => Condition::Unreachable { since_ms: 0 },
                false => Condition::Good,
            };
            Shard { index, drive: Some(*drive), len: self.shard, condition }
        };
        let id = StripeId { epoch: Epoch(1), counter };
        let shards = (0u8..).zip(drives).map(shard).collect();
        Stripe { id, class: StripeClass::Data, data: self.geometry.k(), shards }
    }

    /// Carries out a plan in virtual time: milliseconds until all is done, and until the items with a slack of two or less are.
    fn carry_out(&self, plan: &Plan) -> (u64, u64) {
        let KeepConfig { orders, per_drive, .. } = KeepConfig::default().for_drives(self.drives() as usize);
        let read_ms = u64::from(self.shard) * 1000 / self.drive_rate.max(1);
        let mut lanes = Lanes::new(self.drive_rate, per_drive);
        // Made once: an item is looked at many times before its drives have time.
        let works: Vec<Vec<(DriveId, u64)>> = plan.items.iter().map(|item| item.work().collect()).collect();
        let mut queue: Vec<usize> = (0..plan.items.len()).rev().collect();
        let mut running: BinaryHeap<(Reverse<u64>, usize)> = BinaryHeap::new();
        let (mut now, mut end, mut urgent) = (0, 0, 0);
        while !queue.is_empty() {
            while running.peek().is_some_and(|(until, _)| until.0 <= now) {
                if let Some((_, item)) = running.pop() {
                    lanes.finish(&works[item]);
                }
            }
            // The head of the queue is at the end of the list; what can't begin stays in its place.
            for at in (queue.len().saturating_sub(WINDOW)..queue.len()).rev() {
                if running.len() >= orders {
                    break;
                }
                let item = &plan.items[queue[at]];
                if !lanes.start(&works[queue[at]], item.share, now) {
                    continue;
                }
                // Read, write, read back, one after the other.
                let until = now + 3 * read_ms;
                running.push((Reverse(until), queue[at]));
                end = end.max(until);
                if item.slack <= 2 {
                    urgent = urgent.max(until);
                }
                queue.remove(at);
            }
            // At a small share a drive has time for an item rarely, and is looked at as rarely.
            let share = queue.last().map_or(100, |item| u64::from(plan.items[*item].share.max(1)));
            now += (read_ms * 35 / share).max(1);
        }
        (end, urgent)
    }

    /// For each class of urgency, the bytes that the drives of a cell read, write and read back, over what those of them that
    /// are left give for that class; in the cell that takes longest.
    fn formula(&self, plan: &Plan, topology: &Topology) -> f64 {
        let (mut left, mut seconds) = (HashMap::<u32, f64>::new(), HashMap::<u32, f64>::new());
        topology.usable().for_each(|drive| *left.entry(drive.cell).or_default() += 1.0);
        let cell_of: HashMap<DriveId, u32> = topology.drives.iter().map(|drive| (drive.id, drive.cell)).collect();
        for item in &plan.items {
            let cell = item.targets.first().and_then(|target| cell_of.get(&target.to)).copied().unwrap_or_default();
            let bytes = item.read_bytes() + 2 * item.write_bytes();
            let drives = left.get(&cell).copied().unwrap_or(1.0);
            let rate = drives * self.drive_rate as f64 * f64::from(item.share) / 100.0;
            *seconds.entry(cell).or_default() += bytes as f64 / rate;
        }
        seconds.into_values().fold(0.0, f64::max)
    }
}

/// How many shards of a stripe are lost.
fn lost_of(stripe: &Stripe) -> usize {
    stripe.shards.iter().filter(|shard| shard.condition != Condition::Good).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints what docs/OPERATIONS.md says, and holds the planner to it.
    #[test]
    fn a_petabyte_on_a_thousand_drives_is_back_at_full_strength_when_the_formula_says() {
        let cluster = Cluster::petabyte().unwrap();
        assert_eq!(cluster.drives(), 1000);
        for (loss, sample) in [(Loss::Drive, 2_000), (Loss::Node, 8_000), (Loss::Rack, 12_000)] {
            let report = cluster.simulate(loss, &Policy::default(), sample, 7);
            println!("{loss:?}: {report:?}");
            assert_eq!(report.beyond, 0.0, "10+4 survives the loss of a {loss:?}");
            let lost_bytes = cluster.stored as f64 * 1.4 * report.drives as f64 / 1000.0;
            let ratio = report.written / lost_bytes;
            assert!((0.9..1.1).contains(&ratio), "{ratio} of the lost bytes are written");
            assert!(report.read <= 10.0 * report.written * 1.001, "one read for all shards of a stripe");
            let stretch = report.seconds / report.formula_seconds;
            assert!((0.95..1.2).contains(&stretch), "{loss:?} took {stretch} times what the formula says");
            let most = match loss {
                Loss::Drive | Loss::Node => 1,
                Loss::Rack => 2,
            };
            assert_eq!(report.most, most, "no rack has more than two shards of a stripe, and no node more than one");
        }
    }
}
