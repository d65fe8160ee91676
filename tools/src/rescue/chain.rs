//! The journal and the ledger put together again: which entries there are, in which order.
//!
//! A *run* is a record of a journal segment, or a ledger stripe: entries that follow each other, read and verified as a
//! whole. From the best tail, the highest (epoch of the last entry, LSN), the chain is walked back by the hash that each
//! entry has of the one before it, run by run, to the first entry. Where no run has the entry that is wanted there is a gap:
//! it is reported, and the walk goes on with the best run below it. Only the ends of runs are kept, some 150 bytes each.

use super::media::{Batch, Media, Unreadable};
use super::stripes::Stripe;
use bytes::Bytes;
use codec::id::{Epoch, Lsn};
use codec::journal::{Entry, NO_ENTRY, parse_batch};
use codec::level::Later;
use codec::stripe::StripeDescriptor;
use metadata::survey::Mark;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Bytes in front of an entry in a record's payload: its length.
const LENGTH: u64 = 4;

#[derive(Clone)]
enum Source {
    Ledger(Box<StripeDescriptor>),
    Journal(Batch),
}

struct Run {
    source: Source,
    first: Lsn,
    last: Lsn,
    last_hash: [u8; 32],
    last_epoch: Epoch,
}

/// Entries that nobody has, although later ones are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// A run, or the beginning of one, that belongs to the chain.
struct Link {
    run: usize,
    /// The last entry of it that counts.
    upto: Lsn,
}

/// The entries that count, to be replayed from the first.
pub struct Chain<'a> {
    media: &'a Media,
    runs: Vec<Run>,
    /// For runs that frames were read from, where each entry lies in the record's payload.
    offsets: RefCell<HashMap<usize, Vec<Range<u64>>>>,
    links: Vec<Link>,
    /// What is missing in between.
    pub gaps: Vec<Gap>,
    /// Runs that were found and can't be read, in words.
    pub unreadable: Vec<String>,
    /// The last entry.
    pub last: Lsn,
}

/// Runs by their first LSN; journal and ledger apart, because a ledger stripe is long and a record short.
#[derive(Default)]
struct Shelf {
    by_first: BTreeMap<Lsn, Vec<usize>>,
    longest: u64,
}

impl Shelf {
    fn add(&mut self, run: usize, first: Lsn, last: Lsn) {
        self.by_first.entry(first).or_default().push(run);
        self.longest = self.longest.max(last.0.saturating_sub(first.0));
    }

    /// Runs that may hold an entry.
    fn around(&self, lsn: Lsn) -> impl Iterator<Item = usize> {
        let from = Lsn(lsn.0.saturating_sub(self.longest));
        self.by_first.range(from..=lsn).rev().flat_map(|(_, runs)| runs.iter().copied())
    }

    /// Runs that begin at an entry or before it.
    fn up_to(&self, lsn: Lsn) -> impl Iterator<Item = usize> {
        self.by_first.range(..=lsn).flat_map(|(_, runs)| runs.iter().copied())
    }
}

impl<'a> Chain<'a> {
    /// Reads and verifies every run, and puts them in order. `Err`: some of them are of a later release.
    pub fn build(media: &'a Media) -> Result<Chain<'a>, Later> {
        let mut later = media.later().cloned();
        let mut chain = Chain {
            media,
            runs: Vec::new(),
            offsets: RefCell::default(),
            links: Vec::new(),
            gaps: Vec::new(),
            unreadable: Vec::new(),
            last: Lsn(0),
        };
        let mut shelves = [Shelf::default(), Shelf::default()];
        let ledger = media.ledger().map(|descriptor| Source::Ledger(Box::new(descriptor.clone())));
        let journal = media.batches().iter().map(|batch| Source::Journal(*batch));
        for source in ledger.chain(journal) {
            match chain.read(&source) {
                Ok(entries) => {
                    later = entries.iter().find_map(Later::raised).or(later);
                    chain.add(source, &entries, &mut shelves);
                }
                Err((at, Unreadable::Damaged(why))) => chain.unreadable.push(format!("{at}: {why}")),
                // One that names the level says what to start.
                Err((_, Unreadable::Later(level @ Later::Level(_)))) => later = Some(level),
                Err((_, Unreadable::Later(layout))) => later = later.or(Some(layout)),
            }
        }
        if let Some(later) = later {
            return Err(later);
        }
        chain.walk(&shelves);
        Ok(chain)
    }

    fn add(&mut self, source: Source, entries: &[Entry], shelves: &mut [Shelf; 2]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let shelf = usize::from(matches!(source, Source::Ledger(_)));
        if let Some(shelf) = shelves.get_mut(shelf) {
            shelf.add(self.runs.len(), first.lsn, last.lsn);
        }
        self.runs.push(Run { source, first: first.lsn, last: last.lsn, last_hash: last.hash, last_epoch: last.epoch });
    }

    /// The entries of a run; or what it is, and why they can't be read.
    fn read(&self, source: &Source) -> Result<Vec<Entry>, (String, Unreadable)> {
        match source {
            Source::Ledger(descriptor) => {
                let named = |why| (format!("ledger stripe {}", descriptor.id), why);
                let joined = Stripe::new(self.media, (**descriptor).clone()).joined();
                let joined = joined.map_err(|error| named(Unreadable::Damaged(error.to_string())))?;
                parse_batch(&joined).map_err(|error| named(Unreadable::of_batch(&joined, &error)))
            }
            Source::Journal(batch) => self.media.read_batch(batch).map_err(|why| {
                let range = self.media.batch_range(batch).unwrap_or_default();
                (format!("journal record of entries {} to {}", range.0, range.1), why)
            }),
        }
    }

    /// Walks back from the best tail. Leaves the links in the order of replay.
    fn walk(&mut self, shelves: &[Shelf; 2]) {
        let best = self.runs.iter().enumerate().max_by_key(|(_, run)| (run.last_epoch, run.last));
        let Some((mut run, tail)) = best else { return };
        self.last = tail.last;
        let mut upto = tail.last;
        loop {
            self.links.push(Link { run, upto });
            // The first entry of the run says which one is before it.
            let source = self.runs.get(run).map(|run| run.source.clone());
            let first =
                source.and_then(|source| self.read(&source).ok()).and_then(|entries| entries.into_iter().next());
            let Some(first) = first else { break };
            let (before, hash) = (Mark::of(&first).before(), first.prev_hash);
            if before == Lsn(0) && hash == NO_ENTRY {
                break;
            }
            if let Some(found) = self.holding(shelves, before, &hash) {
                (run, upto) = (found, before);
                continue;
            }
            let next = self.best_below(shelves, before);
            let resumed = next.map_or(Lsn(0), |(_, last)| last);
            self.gaps.push(Gap { first: resumed.0 + 1, last: before.0 });
            match next {
                Some(next) => (run, upto) = next,
                None => break,
            }
        }
        self.links.reverse();
        self.gaps.reverse();
    }

    /// A run that has this very entry.
    fn holding(&self, shelves: &[Shelf; 2], lsn: Lsn, hash: &[u8; 32]) -> Option<usize> {
        // The journal first: its entries have their frames with them.
        shelves.iter().find_map(|shelf| {
            let run = |index: &usize| self.runs.get(*index);
            let ends = shelf.around(lsn).find(|i| run(i).is_some_and(|r| r.last == lsn && r.last_hash == *hash));
            ends.or_else(|| {
                let mut longer = shelf.around(lsn).filter(|i| run(i).is_some_and(|r| r.first <= lsn && lsn < r.last));
                longer.find(|index| {
                    let entries = run(index).and_then(|run| self.read(&run.source).ok()).unwrap_or_default();
                    entries.iter().any(|entry| entry.lsn == lsn && entry.hash == *hash)
                })
            })
        })
    }

    /// The best run that begins at `lsn` or before it, and its last entry that counts. Which of two entries of one LSN the
    /// chain had can't be told across a gap: the newest epoch is taken.
    fn best_below(&self, shelves: &[Shelf; 2], lsn: Lsn) -> Option<(usize, Lsn)> {
        let all = shelves.iter().flat_map(|shelf| shelf.up_to(lsn));
        let runs = all.filter_map(|index| self.runs.get(index).map(|run| (index, run)));
        let best = runs.max_by_key(|(_, run)| (run.last_epoch, run.last.min(lsn)));
        best.map(|(index, run)| (index, run.last.min(lsn)))
    }

    /// Gives every entry that counts, in order, to `apply`; a run that can't be read any more becomes a gap.
    pub fn replay<E>(&self, mut apply: impl FnMut(&Entry) -> Result<(), E>) -> Result<Vec<Gap>, E> {
        let mut gaps = Vec::new();
        let mut done = Lsn(0);
        for link in &self.links {
            let Some(run) = self.runs.get(link.run) else { continue };
            match self.read(&run.source) {
                Ok(entries) => {
                    for entry in entries.iter().filter(|entry| done < entry.lsn && entry.lsn <= link.upto) {
                        apply(entry)?;
                    }
                }
                Err(_) => gaps.push(Gap { first: run.first.0, last: link.upto.0 }),
            }
            done = link.upto;
        }
        Ok(gaps)
    }

    /// A range of the full form of the entry at `lsn`: where a frame rides in it. `None` when it is sealed, or unreadable.
    pub fn frame(&self, lsn: Lsn, range: Range<u64>) -> Option<Bytes> {
        let place = self.links.partition_point(|link| link.upto < lsn);
        let index = self.links.get(place)?.run;
        let run = self.runs.get(index)?;
        let Source::Journal(batch) = &run.source else { return None };
        let mut offsets = self.offsets.borrow_mut();
        let starts = match offsets.entry(index) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(slot) => {
                let mut end = 0;
                let entries = self.media.read_batch(batch).ok()?;
                let starts = entries.iter().map(|entry| {
                    let start = end + LENGTH;
                    end = start + entry.bytes.len() as u64;
                    start..end
                });
                slot.insert(starts.collect())
            }
        };
        let nth = usize::try_from(lsn.0.checked_sub(run.first.0)?).ok()?;
        let entry = starts.get(nth)?;
        let (start, end) = (entry.start.checked_add(range.start)?, entry.start.checked_add(range.end)?);
        if end > entry.end { None } else { self.media.read_batch_range(batch, start..end) }
    }
}
