//! Who is about to change where a stripe's shards lie, or to free what lies where they used to be.
//!
//! Repair writes a shard on a drive that the row does not name, and only then changes the row; collecting copies that are left
//! behind frees shards on drives that the row does not name. Were both at work on one stripe, the row could come to name a
//! drive that has just freed its shard. So each takes the stripe first, before it reads the row, and keeps it until its last
//! commit or order about it is answered.
//!
//! A row that changed since [`Claims::begin`] had readers who may still be on their way to the old place (R12): [`Claims`]
//! remembers which those are. Nothing of it is needed after a restart: orders of an earlier start are fenced (R9), and the time
//! that readers are given begins anew.

use codec::id::StripeId;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Stripes that are remembered as changed; with more, all count as changed.
const MOST: usize = 1 << 20;

#[derive(Debug, Default)]
struct Inner {
    /// Those that are taken, and whether their row is about to change.
    held: HashMap<StripeId, bool>,
    changed: HashSet<StripeId>,
    overflowed: bool,
}

/// The stripes that somebody has taken.
#[derive(Debug, Default)]
pub struct Claims(Mutex<Inner>);

/// A stripe that nobody else changes while this lives.
#[derive(Debug)]
pub struct Claim<'a> {
    claims: &'a Claims,
    stripe: StripeId,
}

impl Claims {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, stripe: StripeId, changes: bool) -> Option<Claim<'_>> {
        let mut inner = self.inner();
        match inner.held.entry(stripe) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(free) => drop(free.insert(changes)),
        }
        if changes && inner.changed.len() < MOST {
            inner.changed.insert(stripe);
        } else {
            inner.overflowed |= changes;
        }
        Some(Claim { claims: self, stripe })
    }

    /// Takes a stripe whose row is about to change; `None` while somebody else has it.
    pub fn claim(&self, stripe: StripeId) -> Option<Claim<'_>> {
        self.take(stripe, true)
    }

    /// Takes a stripe whose row stays as it is; `None` while somebody else has it.
    pub fn look(&self, stripe: StripeId) -> Option<Claim<'_>> {
        self.take(stripe, false)
    }

    /// Forgets which rows may have changed, but for those that are about to.
    pub fn begin(&self) {
        let mut inner = self.inner();
        inner.changed = inner.held.iter().filter(|(_, changes)| **changes).map(|(stripe, _)| *stripe).collect();
        inner.overflowed = false;
    }

    /// Whether the row may have changed since [`Self::begin`].
    pub fn has_changed(&self, stripe: StripeId) -> bool {
        let inner = self.inner();
        inner.overflowed || inner.changed.contains(&stripe)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.inner().held.remove(&self.stripe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::id::Epoch;

    #[test]
    fn a_stripe_is_taken_by_one_at_a_time_and_changes_are_remembered() {
        let claims = Claims::default();
        let [one, two] = [1, 2].map(|counter| StripeId { epoch: Epoch(1), counter });
        let held = claims.claim(one).map(|_held| claims.look(one).is_none());
        assert_eq!(held, Some(true));
        assert!(claims.look(one).is_some() && claims.look(two).is_some(), "given back");
        assert!(claims.has_changed(one) && !claims.has_changed(two));
        claims.begin();
        assert!(!claims.has_changed(one));
        let held = claims.claim(two);
        claims.begin();
        assert!(held.is_some() && claims.has_changed(two), "its commit may still come");
        drop(held);
        claims.begin();
        assert!(!claims.has_changed(two));
    }
}
