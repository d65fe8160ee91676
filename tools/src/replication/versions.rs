//! What is to be done there so that a key has its versions there. Pure: whoever carries it out says what came of each step, and may be
//! ended between any two of them: what he does next follows from what is there then.
//!
//! Invariants:
//! * What is lacking is put on top, oldest first: S3 can't put a version between two others. So what is copied in order is in order
//!   there, and what lacked while newer ones were there comes behind them, and the current one once more behind it.
//! * At the end the current one there is the current one here. Without deletes a delete marker here leaves the current one there as it is.
//! * A copy of a version is known by the name that it carries, and counts only if it also has that version's bytes and headers.
//! * What is deleted there is a copy of a version that was deleted here ([`Is::Gone`]), and nothing else ever.
//! * A version that can't be put keeps no other from being put, and is not a reason to put another one again.

use std::collections::{HashMap, HashSet};

/// A version here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Here {
    /// Its place in the order of versions.
    pub seq: u64,
    pub delete_marker: bool,
}

/// What something there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Marker,
    /// A copy of the version here with this `seq`.
    Copy(u64),
    /// Of a version that was deleted here, by a delete that is to be copied.
    Gone,
    /// Somebody else's, or of a version that is not here for another reason.
    Other,
}

/// A version there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct There {
    pub id: String,
    pub is: Is,
}

/// Something to be done there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Put a copy of this version on top.
    Put(u64),
    /// Put a delete marker on top.
    Mark,
    /// Delete the version of this id.
    Delete(String),
}

/// Says one step after the other.
pub(super) struct Plan<'a> {
    here: &'a [Here],
    deletes: bool,
    copied: HashSet<u64>,
    failed: HashSet<u64>,
    /// What will be on top once all that is to be deleted is.
    top: Option<Is>,
    /// How much of `here` was looked at.
    at: usize,
    /// Ids, newest first.
    gone: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Both from the oldest to the newest.
    pub(super) fn new(here: &'a [Here], there: &[There], deletes: bool) -> Plan<'a> {
        let goes = |version: &&There| deletes && version.is == Is::Gone;
        let gone = there.iter().filter(goes).map(|version| version.id.clone()).collect();
        let top = there.iter().rev().find(|version| !goes(version)).map(|version| version.is);
        let copied = there.iter().filter_map(|version| match version.is {
            Is::Copy(seq) => Some(seq),
            _ => None,
        });
        Plan { here, deletes, copied: copied.collect(), failed: HashSet::new(), top, at: 0, gone }
    }

    /// The next step; `None` when there is nothing to be done any more.
    pub(super) fn next(&mut self) -> Option<Step> {
        while let Some(version) = self.here.get(self.at) {
            let lacks = !version.delete_marker && !self.copied.contains(&version.seq);
            if lacks && !self.failed.contains(&version.seq) {
                let after_marker = self.at.checked_sub(1).is_some_and(|before| self.here[before].delete_marker);
                // Where it comes behind what is newer the marker would only hide that once more, at each try.
                let in_order = matches!(self.top, Some(Is::Copy(top)) if top < version.seq);
                let step = if self.deletes && after_marker && in_order { Step::Mark } else { Step::Put(version.seq) };
                return Some(step);
            }
            self.at += 1;
        }
        self.settle().or_else(|| self.gone.last().cloned().map(Step::Delete))
    }

    /// What makes the current one there the current one here.
    fn settle(&self) -> Option<Step> {
        let put = |version: &Here| (!self.failed.contains(&version.seq)).then_some(Step::Put(version.seq));
        match self.here.last() {
            Some(current) if !current.delete_marker => {
                if self.top == Some(Is::Copy(current.seq)) {
                    None
                } else {
                    put(current)
                }
            }
            _ if self.deletes => self.top.filter(|top| *top != Is::Marker).map(|_| Step::Mark),
            // Of what was put the newest is to be seen; what is seen of others stays.
            _ => match (self.top, self.here.iter().rev().find(|version| !version.delete_marker)) {
                (Some(Is::Copy(top)), Some(newest)) if top != newest.seq => put(newest),
                _ => None,
            },
        }
    }

    /// A step was done.
    pub(super) fn done(&mut self, step: &Step) {
        match step {
            Step::Put(seq) => {
                self.copied.insert(*seq);
                self.top = Some(Is::Copy(*seq));
            }
            Step::Mark => self.top = Some(Is::Marker),
            Step::Delete(_) => _ = self.gone.pop(),
        }
    }

    /// A step can't be done, and is not to be asked for again.
    pub(super) fn failed(&mut self, step: &Step) {
        match step {
            Step::Put(seq) => _ = self.failed.insert(*seq),
            Step::Delete(_) => _ = self.gone.pop(),
            // Whatever comes is put without it.
            Step::Mark => self.top = Some(Is::Marker),
        }
    }
}

/// Of each version here its newest copy there.
pub(super) fn copies(there: &[There]) -> HashMap<u64, &There> {
    let copy = |version: &'_ There| match version.is {
        Is::Copy(seq) => Some(seq),
        _ => None,
    };
    there.iter().filter_map(|version| Some((copy(version)?, version))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(versions: &[i64]) -> Vec<Here> {
        versions.iter().map(|n| Here { seq: n.unsigned_abs(), delete_marker: *n < 0 }).collect()
    }

    fn there(versions: &[Is]) -> Vec<There> {
        versions.iter().enumerate().map(|(n, is)| There { id: n.to_string(), is: *is }).collect()
    }

    fn steps(here: &[Here], there: &[There], deletes: bool) -> Vec<Step> {
        let mut plan = Plan::new(here, there, deletes);
        std::iter::from_fn(|| {
            let step = plan.next()?;
            plan.done(&step);
            Some(step)
        })
        .collect()
    }

    #[test]
    fn versions_are_put_in_their_order_with_their_markers() {
        use Step::*;
        let all = here(&[1, -2, -3, 4, 5, -6]);
        assert_eq!(steps(&all, &[], true), [Put(1), Mark, Put(4), Put(5), Mark]);
        assert_eq!(steps(&all, &[], false), [Put(1), Put(4), Put(5)]);
        let half = there(&[Is::Copy(1), Is::Marker]);
        assert_eq!(steps(&all, &half, true), [Put(4), Put(5), Mark]);
        let whole = there(&[Is::Copy(1), Is::Marker, Is::Copy(4), Is::Copy(5), Is::Marker]);
        assert_eq!(steps(&all, &whole, true), []);
        assert_eq!(steps(&here(&[1, -2, -3, 4, 5]), &whole, true), [Put(5)], "the marker was deleted here");
    }

    #[test]
    fn what_lacks_below_comes_on_top_and_the_current_one_once_more() {
        use Step::*;
        let all = here(&[1, -2, 3, 4]);
        let gap = there(&[Is::Copy(1), Is::Copy(4)]);
        assert_eq!(steps(&all, &gap, true), [Put(3), Put(4)]);
        let mended = there(&[Is::Copy(1), Is::Copy(4), Is::Copy(3), Is::Copy(4)]);
        assert_eq!(steps(&all, &mended, true), []);
        assert_eq!(steps(&here(&[1, 2, -3]), &there(&[Is::Copy(2)]), false), [Put(1), Put(2)]);
        assert_eq!(steps(&here(&[1, 2, -3]), &there(&[Is::Copy(2), Is::Copy(1)]), false), [Put(2)]);
    }

    #[test]
    fn only_what_was_deleted_here_is_deleted_there() {
        use Step::*;
        let found = there(&[Is::Other, Is::Copy(1), Is::Gone, Is::Gone]);
        assert_eq!(steps(&here(&[1]), &found, true), [Delete("3".into()), Delete("2".into())]);
        assert_eq!(steps(&here(&[1]), &found, false), [Put(1)], "it stays, and is not the current one");
        assert_eq!(steps(&[], &found, false), []);
        assert_eq!(steps(&[], &there(&[Is::Gone]), true), [Delete("0".into())]);
        assert_eq!(steps(&[], &there(&[Is::Other]), true), [Mark]);
    }

    /// An object under a client's key would have its successor put again at each try.
    #[test]
    fn what_can_not_be_put_is_no_reason_to_put_others_again() {
        let all = here(&[1, -2, 3, 4]);
        let found = there(&[Is::Copy(1), Is::Marker, Is::Copy(4)]);
        let mut plan = Plan::new(&all, &found, true);
        assert_eq!(plan.next(), Some(Step::Put(3)));
        plan.failed(&Step::Put(3));
        assert_eq!(plan.next(), None);
    }

    /// A bucket there, a history here, and whoever copies ends anywhere.
    #[derive(Default)]
    struct World {
        here: Vec<Here>,
        /// Deleted and not yet copied as such.
        gone: HashSet<u64>,
        /// Of each version there: its id, and whose copy it is (0: somebody else's); none for a marker.
        there: Vec<(String, Option<u64>)>,
        next: u64,
        unreadable: HashSet<u64>,
    }

    impl World {
        fn put_there(&mut self, of: Option<u64>) {
            self.next += 1;
            self.there.push((self.next.to_string(), of));
        }

        fn found(&self) -> Vec<There> {
            let is = |of: &Option<u64>| match of {
                None => Is::Marker,
                Some(seq) if self.here.iter().any(|version| version.seq == *seq) => Is::Copy(*seq),
                Some(seq) if self.gone.contains(seq) => Is::Gone,
                Some(_) => Is::Other,
            };
            self.there.iter().map(|(id, of)| There { id: id.clone(), is: is(of) }).collect()
        }

        /// Carries out at most so many steps; whether it came to the end, and how many it put.
        fn copy(&mut self, deletes: bool, most: usize) -> (bool, usize) {
            let (here, found) = (self.here.clone(), self.found());
            let (mut plan, mut puts) = (Plan::new(&here, &found, deletes), 0);
            for _ in 0..most {
                let Some(step) = plan.next() else {
                    self.gone.clear();
                    return (true, puts);
                };
                match &step {
                    Step::Put(seq) if self.unreadable.contains(seq) => {
                        plan.failed(&step);
                        continue;
                    }
                    Step::Put(seq) => {
                        puts += 1;
                        self.put_there(Some(*seq));
                    }
                    Step::Mark => {
                        assert!(deletes);
                        self.put_there(None);
                    }
                    Step::Delete(id) => {
                        let at = self.there.iter().position(|(other, _)| other == id).unwrap();
                        let (_, of) = self.there.remove(at);
                        assert!(deletes && of.is_some_and(|of| self.gone.contains(&of)), "{of:?}");
                    }
                }
                plan.done(&step);
            }
            (false, puts)
        }

        fn check(&self, deletes: bool) {
            let readable = |version: &&Here| !version.delete_marker && !self.unreadable.contains(&version.seq);
            let has = |seq: u64| self.there.iter().any(|(_, of)| *of == Some(seq));
            assert!(self.here.iter().filter(readable).all(|version| has(version.seq)), "{:?}", self.there);
            let top = self.there.last().map(|(_, of)| *of);
            match self.here.last() {
                Some(current) if readable(&current) => assert_eq!(top, Some(Some(current.seq))),
                Some(current) if !current.delete_marker => {}
                _ if deletes => assert!(matches!(top, None | Some(None)), "{top:?}"),
                _ => {}
            }
        }
    }

    /// Numbers from a seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }
    }

    #[test]
    fn whatever_happens_all_versions_get_there_and_nothing_else_goes() {
        for seed in 0..20_000 {
            let (mut random, mut world) = (Random(seed), World::default());
            let deletes = random.below(2) == 0;
            for seq in 1..=random.below(24) as u64 {
                match random.below(20) {
                    0..6 => {
                        world.here.push(Here { seq, delete_marker: false });
                        if random.below(8) == 0 {
                            world.unreadable.insert(seq);
                        }
                    }
                    6..9 => world.here.push(Here { seq, delete_marker: true }),
                    9..12 if !world.here.is_empty() => {
                        let gone = world.here.remove(random.below(world.here.len()));
                        if deletes && !gone.delete_marker {
                            world.gone.insert(gone.seq);
                        }
                    }
                    // Somebody writes to the copy, or takes something from it.
                    12 => world.put_there(Some(0)),
                    13 if !world.there.is_empty() => _ = world.there.remove(random.below(world.there.len())),
                    _ => _ = world.copy(deletes, random.below(6)),
                }
            }
            assert!(world.copy(deletes, usize::MAX).0, "{seed}");
            world.check(deletes);
            let before = world.there.clone();
            assert_eq!(world.copy(deletes, usize::MAX), (true, 0), "{seed}");
            assert_eq!(world.there, before, "it does not settle: {seed}");
        }
    }
}
