//! Whether what clients saw of one key is what one copy of it could have shown them: linearizability of a register.
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for
//! linearizability", 2016): operations are put in an order one by one, each only if none that is left had ended before it began,
//! and a state that was met before is not searched again. It is exact, and three remarks keep it small:
//! * An observation that is allowed now and agrees with the value is taken at once: it changes nothing, and moving it to the front of
//!   any order that is left leaves that an order.
//! * A change without an answer may have happened at any time after it began, or never. It is taken only directly before an
//!   operation that needs it: anywhere else the next operation would do as well without it.
//! * Unanswered deletions are all alike but for their begin, and so are unanswered writes whose value nobody ever saw. Of those the
//!   one that began first is taken.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// A value of the register. Values are told apart by their number, and no two changes write the same one.
pub type Value = u64;

/// What a client did or saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Wrote a value.
    Put(Value),
    /// Wrote a value where there was none.
    Create(Value),
    /// Removed the value.
    Delete,
    /// Was refused a [`Act::Create`]: there was a value.
    Refused,
    /// Saw the value, or that there was none.
    Read(Option<Value>),
}

impl Act {
    fn is_change(self) -> bool {
        matches!(self, Act::Put(_) | Act::Create(_) | Act::Delete)
    }
}

/// One operation, by a count that grows with each begin and end in the whole test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What.
    pub act: Act,
    /// When it was begun.
    pub begun: u64,
    /// When it was answered. `None`: it was not, and a change may have happened at any time since, or never.
    pub ended: Option<u64>,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No order explains what was seen. `ordered` operations could be put in one; then one of `next` would have to follow, and
    /// none can on any of the `values` that the key may have by then.
    NoOrder {
        /// How many, at best.
        ordered: usize,
        /// What had to follow.
        next: Vec<Op>,
        /// What the key could hold.
        values: Vec<Option<Value>>,
    },
    /// More states than are searched.
    TooMuch,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::TooMuch => write!(f, "more than {MAX_STATES} states"),
            Wrong::NoOrder { ordered, next, values } => {
                write!(f, "after {ordered} operations, with the value {values:?}, none of these can follow: {next:?}")
            }
        }
    }
}

/// States that are searched before the search is given up.
const MAX_STATES: usize = 2_000_000;

/// Whether there is an order. The key holds nothing at first.
pub fn check(ops: &[Op]) -> Result<(), Wrong> {
    Search::new(ops).run()
}

/// How far an order has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// All answered operations before this one are ordered.
    first: usize,
    /// Those that are ordered beyond it.
    ahead: Vec<usize>,
    value: Option<Value>,
    /// Unanswered deletions that are taken: the first so many.
    deletes: usize,
    /// Unanswered writes of values that nobody saw that are taken: the first so many.
    hidden: usize,
    /// Unanswered writes of other values that are taken, in the order of their begin.
    taken: Vec<Value>,
}

struct Search {
    /// Answered operations by their begin.
    ops: Vec<(Act, u64, u64)>,
    /// Begins of unanswered deletions.
    deletes: Vec<u64>,
    /// Begins of unanswered writes of values that nobody saw.
    hidden: Vec<u64>,
    /// Unanswered writes of values that somebody saw.
    open: BTreeMap<Value, (Act, u64)>,
}

impl Search {
    fn new(all: &[Op]) -> Search {
        let mut search = Search { ops: Vec::new(), deletes: Vec::new(), hidden: Vec::new(), open: BTreeMap::new() };
        let seen: HashSet<Value> =
            all.iter().filter_map(|op| if let Act::Read(v) = op.act { v } else { None }).collect();
        for op in all {
            match (op.ended, op.act) {
                (Some(ended), act) => search.ops.push((act, op.begun, ended)),
                (None, Act::Delete) => search.deletes.push(op.begun),
                (None, Act::Put(value) | Act::Create(value)) if seen.contains(&value) => {
                    search.open.insert(value, (op.act, op.begun));
                }
                (None, Act::Put(_) | Act::Create(_)) => search.hidden.push(op.begun),
                (None, Act::Refused | Act::Read(_)) => {}
            }
        }
        search.ops.sort_unstable_by_key(|&(_, begun, _)| begun);
        search.deletes.sort_unstable();
        search.hidden.sort_unstable();
        search
    }

    fn run(&self) -> Result<(), Wrong> {
        let start = State { first: 0, ahead: vec![], value: None, deletes: 0, hidden: 0, taken: vec![] };
        let mut stack = vec![start];
        let mut met = HashSet::new();
        let (mut best, mut next, mut values) = (0, Vec::new(), Vec::new());
        while let Some(mut state) = stack.pop() {
            self.observe(&mut state);
            if state.first == self.ops.len() {
                return Ok(());
            }
            if !met.insert(state.clone()) {
                continue;
            }
            if met.len() > MAX_STATES {
                return Err(Wrong::TooMuch);
            }
            let (candidates, until) = self.candidates(&state);
            let before = stack.len();
            for &at in &candidates {
                self.follow(&state, at, until, &mut stack);
            }
            let ordered = state.first + state.ahead.len();
            if stack.len() == before && ordered >= best {
                if ordered > best {
                    values.clear();
                }
                best = ordered;
                next = candidates.iter().map(|&at| self.op(at)).collect();
                values.push(state.value);
            }
        }
        Err(Wrong::NoOrder { ordered: best, next, values })
    }

    fn op(&self, at: usize) -> Op {
        let (act, begun, ended) = self.ops[at];
        Op { act, begun, ended: Some(ended) }
    }

    /// Answered operations that may come next, and the first end among all that are left: what comes next began before it.
    fn candidates(&self, state: &State) -> (Vec<usize>, u64) {
        let mut until = u64::MAX;
        let mut found = Vec::new();
        for (at, &(_, begun, ended)) in self.ops.iter().enumerate().skip(state.first) {
            if begun > until {
                break;
            }
            if !state.ahead.contains(&at) {
                until = until.min(ended);
                found.push(at);
            }
        }
        found.retain(|&at| self.ops[at].1 < until);
        (found, until)
    }

    /// Takes every observation that is allowed and agrees, until there is none.
    fn observe(&self, state: &mut State) {
        loop {
            let (candidates, _) = self.candidates(state);
            let agrees = |act: Act| match act {
                Act::Read(value) => value == state.value,
                Act::Refused => state.value.is_some(),
                Act::Put(_) | Act::Create(_) | Act::Delete => false,
            };
            let agreeing: Vec<usize> = candidates.into_iter().filter(|&at| agrees(self.ops[at].0)).collect();
            if agreeing.is_empty() {
                return;
            }
            agreeing.into_iter().for_each(|at| state.take(at));
        }
    }

    /// Every state in which the operation at `at` was the next.
    fn follow(&self, state: &State, at: usize, until: u64, out: &mut Vec<State>) {
        let act = self.ops[at].0;
        debug_assert!(act.is_change() || state.value.is_none() || act != Act::Refused, "observed already");
        let mut done = |mut with: State, value: Option<Value>| {
            with.value = value;
            with.take(at);
            out.push(with);
        };
        match act {
            Act::Put(value) => done(state.clone(), Some(value)),
            Act::Delete => done(state.clone(), None),
            Act::Create(value) => {
                if let Some(empty) = self.emptied(state, until) {
                    done(empty, Some(value));
                }
            }
            Act::Read(None) => {
                if let Some(empty) = self.emptied(state, until) {
                    done(empty, None);
                }
            }
            Act::Read(Some(value)) => {
                if let Some(with) = self.opened(state, value, until) {
                    done(with, Some(value));
                }
            }
            Act::Refused => {
                if self.hidden.get(state.hidden).is_some_and(|&begun| begun < until) {
                    let mut with = state.clone();
                    with.hidden += 1;
                    // Nobody ever saw it, so any number that nothing else has will do.
                    done(with, Some(Value::MAX));
                }
                for &value in self.open.keys() {
                    if let Some(with) = self.opened(state, value, until) {
                        done(with, Some(value));
                    }
                }
            }
        }
    }

    /// The state with no value: as it is, or by an unanswered deletion.
    fn emptied(&self, state: &State, until: u64) -> Option<State> {
        let mut with = state.clone();
        if state.value.is_some() {
            self.deletes.get(state.deletes).filter(|&&begun| begun < until)?;
            with.deletes += 1;
            with.value = None;
        }
        Some(with)
    }

    /// The state after the unanswered write of `value`.
    fn opened(&self, state: &State, value: Value, until: u64) -> Option<State> {
        let &(act, begun) = self.open.get(&value).filter(|_| !state.taken.contains(&value))?;
        if begun >= until {
            return None;
        }
        let mut with = if matches!(act, Act::Create(_)) { self.emptied(state, until)? } else { state.clone() };
        let at = with.taken.partition_point(|&taken| taken < value);
        with.taken.insert(at, value);
        Some(with)
    }
}

impl State {
    fn take(&mut self, at: usize) {
        let place = self.ahead.partition_point(|&other| other < at);
        self.ahead.insert(place, at);
        let run = self.ahead.iter().enumerate().take_while(|&(n, &at)| at == self.first + n).count();
        self.ahead.drain(..run);
        self.first += run;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::Random;

    fn op(act: Act, begun: u64, ended: u64) -> Op {
        Op { act, begun, ended: Some(ended) }
    }

    fn open(act: Act, begun: u64) -> Op {
        Op { act, begun, ended: None }
    }

    use Act::{Create, Delete, Put, Read, Refused};

    #[test]
    fn what_one_copy_could_have_shown_is_accepted() {
        let good: [&[Op]; 9] = [
            &[],
            &[op(Read(None), 1, 2), op(Put(1), 3, 4), op(Read(Some(1)), 5, 6)],
            // Two writes at once, seen in either order, but by all in the same.
            &[op(Put(1), 1, 10), op(Put(2), 2, 9), op(Read(Some(2)), 11, 12), op(Read(Some(2)), 13, 14)],
            &[op(Put(1), 1, 10), op(Read(None), 2, 3), op(Read(Some(1)), 4, 5)],
            // No answer: at once, much later, or never.
            &[open(Put(1), 1), op(Read(Some(1)), 2, 3)],
            &[open(Put(1), 1), op(Put(2), 2, 3), op(Read(Some(2)), 4, 5), op(Read(Some(1)), 6, 7)],
            &[op(Put(1), 1, 2), open(Delete, 3), op(Read(Some(1)), 4, 5), op(Read(None), 6, 7)],
            &[op(Put(1), 1, 2), open(Delete, 3), op(Create(2), 4, 5), op(Refused, 6, 7), op(Read(Some(2)), 8, 9)],
            // A write that nobody saw is the reason of a refusal.
            &[open(Put(1), 1), op(Refused, 2, 3), op(Put(4), 4, 5)],
        ];
        for history in good {
            assert_eq!(check(history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn what_no_copy_could_have_shown_is_refused() {
        let bad: [(&str, &[Op]); 12] = [
            ("an acknowledged write is lost", &[op(Put(1), 1, 2), op(Read(None), 3, 4)]),
            ("a stale read", &[op(Put(1), 1, 2), op(Put(2), 3, 4), op(Read(Some(1)), 5, 6)]),
            ("from the future", &[op(Read(Some(1)), 1, 2), op(Put(1), 3, 4)]),
            ("nobody wrote it", &[op(Read(Some(9)), 1, 2)]),
            (
                "new, then old",
                &[op(Put(1), 1, 10), op(Put(2), 2, 9), op(Read(Some(2)), 11, 12), op(Read(Some(1)), 13, 14)],
            ),
            ("a deletion is undone", &[op(Put(1), 1, 2), op(Delete, 3, 4), op(Read(Some(1)), 5, 6)]),
            (
                "an unanswered write happens twice",
                &[
                    open(Put(1), 1),
                    op(Read(Some(1)), 2, 3),
                    op(Put(2), 4, 5),
                    op(Read(Some(2)), 6, 7),
                    op(Read(Some(1)), 8, 9),
                ],
            ),
            ("two first ones", &[op(Create(1), 1, 2), op(Create(2), 3, 4)]),
            ("two first ones at once", &[op(Create(1), 1, 4), op(Create(2), 2, 3)]),
            ("refused by nothing", &[op(Refused, 1, 2)]),
            (
                "one deletion empties twice",
                &[op(Put(1), 1, 2), open(Delete, 3), op(Read(None), 4, 5), op(Put(2), 6, 7), op(Read(None), 8, 9)],
            ),
            ("before it was begun", &[op(Read(Some(1)), 1, 2), open(Put(1), 3)]),
        ];
        for (what, history) in bad {
            assert!(matches!(check(history), Err(Wrong::NoOrder { .. })), "{what}: {history:?}");
        }
    }

    /// Every order of every choice of the unanswered ones: slow and plain.
    fn plain(ops: &[Op], value: Option<Value>, left: u32) -> bool {
        let is_left = |at: usize| left & (1 << at) != 0;
        if (0..ops.len()).all(|at| !is_left(at) || ops[at].ended.is_none()) {
            return true;
        }
        (0..ops.len()).filter(|&at| is_left(at)).any(|at| {
            let allowed =
                (0..ops.len()).all(|other| !is_left(other) || ops[other].ended.is_none_or(|end| end > ops[at].begun));
            let after = match ops[at].act {
                Put(new) => Some(Some(new)),
                Create(new) if value.is_none() => Some(Some(new)),
                Delete => Some(None),
                Refused if value.is_some() => Some(value),
                Read(seen) if seen == value => Some(value),
                Create(_) | Refused | Read(_) => None,
            };
            allowed && after.is_some_and(|after| plain(ops, after, left & !(1 << at)))
        })
    }

    #[test]
    fn it_agrees_with_trying_every_order() {
        let mut random = Random::new(7);
        let mut accepted = 0;
        for round in 0..20_000 {
            let count = 2 + random.below(6);
            let mut times: Vec<u64> = (1..=2 * count).collect();
            for at in (1..times.len()).rev() {
                times.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
            }
            let mut ops = Vec::new();
            for n in 0..count {
                let pair = &times[2 * usize::try_from(n).unwrap()..][..2];
                let act = match random.below(7) {
                    0 | 1 => Put(n),
                    2 => Create(n),
                    3 => Delete,
                    4 => Refused,
                    5 => Read(None),
                    _ => Read(Some(random.below(count))),
                };
                let ended = (random.below(3) > 0).then_some(pair[0].max(pair[1]));
                ops.push(Op { act, begun: pair[0].min(pair[1]), ended });
            }
            // An observation without an answer tells nothing.
            ops.retain(|op| op.ended.is_some() || op.act.is_change());
            let expected = plain(&ops, None, (1 << ops.len()) - 1);
            accepted += u32::from(expected);
            assert_eq!(check(&ops).is_ok(), expected, "round {round}: {ops:?}");
        }
        assert!((2_000..18_000).contains(&accepted), "{accepted} of 20000 are good: they say little");
    }

    #[test]
    fn a_long_history_with_much_at_once_is_searched_in_no_time() {
        let (mut ops, mut now) = (Vec::new(), 0);
        let mut random = Random::new(3);
        let mut value = None;
        for n in 0..4_000u64 {
            let begun = now;
            now += 1 + random.below(3);
            // Happened at `now`, and overlaps with some dozens of others.
            let (act, ended) = match random.below(8) {
                0..=2 => (Put(n), Some(now + 1 + random.below(40))),
                3 => (Delete, Some(now + 1 + random.below(40))),
                4 if random.below(4) == 0 => (Put(n), None),
                _ => (Read(value), Some(now + 1 + random.below(40))),
            };
            match act {
                Put(n) if ended.is_some() || random.below(2) == 0 => value = Some(n),
                Delete => value = None,
                _ => {}
            }
            ops.push(Op { act, begun: begun.saturating_sub(random.below(20)), ended });
            now += 1;
        }
        assert_eq!(check(&ops), Ok(()));
    }
}
