//! What happened to one file's content or one directory's entries, and what of it is durable at which moment.
//!
//! Invariants: positions only grow. A checkpoint holds exactly the operations before it, and is made only by a
//! successful sync of a history in which nothing is doomed. An operation's first sync decides for ever: if it
//! succeeded the operation is durable, if it failed the operation may be lost whatever later syncs say (the page
//! cache has forgotten that it was dirty).

use std::sync::Arc;

/// How sure it is that an operation survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survival {
    Must,
    May,
}

pub(super) struct History<S, O> {
    checkpoints: Vec<Checkpoint<S>>,
    ops: Vec<Recorded<O>>,
    syncs: Vec<(u64, bool)>,
}

struct Checkpoint<S> {
    position: u64,
    state: Arc<S>,
    /// How many operations it holds.
    ops: usize,
}

struct Recorded<O> {
    position: u64,
    op: Arc<O>,
    /// The medium's own doing: no sync needed.
    at_once: bool,
}

impl<S, O> History<S, O> {
    /// A history that begins, durably, with a state.
    pub(super) fn new(position: u64, state: Arc<S>) -> Self {
        Self { checkpoints: vec![Checkpoint { position, state, ops: 0 }], ops: Vec::new(), syncs: Vec::new() }
    }

    pub(super) fn record(&mut self, position: u64, op: Arc<O>, at_once: bool) {
        self.ops.push(Recorded { position, op, at_once });
    }

    /// A sync; `state` is the content with everything recorded so far.
    pub(super) fn sync(&mut self, position: u64, succeeded: bool, state: &Arc<S>) {
        let doomed = self.syncs.iter().any(|(_, succeeded)| !succeeded);
        self.syncs.push((position, succeeded));
        if succeeded && !doomed && self.checkpoints.last().is_none_or(|last| last.ops < self.ops.len()) {
            self.checkpoints.push(Checkpoint { position, state: Arc::clone(state), ops: self.ops.len() });
        }
    }

    /// The state that is certain after the events before `at`, and the later operations, in order, with their
    /// positions. Those that must survive are among them only where an earlier one may be lost.
    pub(super) fn at(&self, at: u64) -> (Arc<S>, impl Iterator<Item = (u64, &Arc<O>, Survival)>) {
        // The first checkpoint is there from the beginning of the history, and nobody asks about the time before.
        let newest = self.checkpoints.partition_point(|checkpoint| checkpoint.position < at).max(1) - 1;
        let checkpoint = &self.checkpoints[newest];
        let later = self.ops[checkpoint.ops..].iter().take_while(move |op| op.position < at);
        let ops = later.map(move |op| (op.position, &op.op, self.survival(op, at)));
        (Arc::clone(&checkpoint.state), ops)
    }

    fn survival(&self, op: &Recorded<O>, at: u64) -> Survival {
        if op.at_once {
            return Survival::Must;
        }
        let first = self.syncs.partition_point(|(position, _)| *position < op.position);
        match self.syncs.get(first) {
            Some((position, true)) if *position < at => Survival::Must,
            _ => Survival::May,
        }
    }
}
