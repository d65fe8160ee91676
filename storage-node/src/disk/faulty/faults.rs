//! Faults to be met by operations: which ones, when, and what then happens.

use std::time::Duration;

use rustix::io::Errno;

use super::super::DiskOp;

/// A rule for operations to come. Begin with what happens ([`Fault::error`], ...), then aim it; a rule that is not
/// aimed hits every operation on every drive.
///
/// ```
/// # use storage_node::disk::{DiskOp, faulty::{Fault, Trace}};
/// # use rustix::io::Errno;
/// let trace = Trace::new(3);
/// let third_sync = trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).drive(1).path("journal/").nth(3));
/// # assert_eq!(trace.hits(third_sync), 0);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    ops: Vec<DiskOp>,
    drive: Option<usize>,
    path: Option<String>,
    first: u64,
    times: u64,
}

/// Names an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(pub(super) usize);

#[derive(Clone, Debug)]
pub(super) enum Effect {
    Error(Errno),
    Partial {
        bytes: usize,
        errno: Errno,
    },
    Lost,
    Shifted(i64),
    Elsewhere(String),
    Slow(Duration),
    /// Nothing, for as long as the rule is in force.
    Hang,
    /// This happens on the medium, and the cache hides it.
    Cached(Box<Effect>),
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self { effect, ops: Vec::new(), drive: None, path: None, first: 1, times: u64::MAX }
    }

    /// The operation fails and changes nothing. A failed sync makes nothing durable, and what waited for it stays
    /// doubtful for ever.
    pub fn error(errno: Errno) -> Self {
        Self::new(Effect::Error(errno))
    }

    /// A write stores its first bytes, then fails.
    pub fn partial_write(bytes: usize, errno: Errno) -> Self {
        Self::new(Effect::Partial { bytes, errno }).on(DiskOp::Write)
    }

    /// A write is accepted and never stored; reads give what was there before.
    pub fn lost_write() -> Self {
        Self::new(Effect::Lost).on(DiskOp::Write)
    }

    /// A write lands so many bytes further on (or back) in the same file.
    pub fn shifted_write(by: i64) -> Self {
        Self::new(Effect::Shifted(by)).on(DiskOp::Write)
    }

    /// A write lands at its offset in another file of the same drive.
    pub fn write_elsewhere(path: &str) -> Self {
        Self::new(Effect::Elsewhere(path.to_owned())).on(DiskOp::Write)
    }

    /// For a write that is lost, shifted or written elsewhere: reads give what was meant to be written, because the
    /// cache remembers it; only reads of the medium, and a restart, show what became of it.
    pub fn under_cache(mut self) -> Self {
        self.effect = Effect::Cached(Box::new(self.effect));
        self
    }

    /// The operation takes longer.
    pub fn slow(by: Duration) -> Self {
        Self::new(Effect::Slow(by))
    }

    /// The operation does not return before the fault is healed; then it is done as if nothing had been. (After two minutes
    /// it goes on by itself, so that a test which fails ends.)
    pub fn hang() -> Self {
        Self::new(Effect::Hang)
    }

    /// Only this kind of operation (or, called again, any of several).
    pub fn on(mut self, op: DiskOp) -> Self {
        self.ops.push(op);
        self
    }

    /// Only this drive.
    pub fn drive(mut self, drive: usize) -> Self {
        self.drive = Some(drive);
        self
    }

    /// Only paths with this in them (directory operations are known by the directory's path, renames by the old name).
    pub fn path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self
    }

    /// Only the n-th operation that the rule is aimed at from now on, counted from 1.
    pub fn nth(mut self, n: u64) -> Self {
        (self.first, self.times) = (n, 1);
        self
    }

    /// The n-th operation that the rule is aimed at, counted from 1, and all after it.
    pub fn from(mut self, n: u64) -> Self {
        (self.first, self.times) = (n, u64::MAX);
        self
    }

    /// At most so many times.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    fn aims_at(&self, drive: usize, op: DiskOp, path: &str) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op))
            && self.drive.is_none_or(|only| only == drive)
            && self.path.as_ref().is_none_or(|part| path.contains(part.as_str()))
    }
}

/// The rules in force and how often each was met.
#[derive(Default)]
pub(super) struct Faults(Vec<Rule>);

struct Rule {
    fault: Option<Fault>,
    met: u64,
    hits: u64,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> FaultId {
        self.0.push(Rule { fault: Some(fault), met: 0, hits: 0 });
        FaultId(self.0.len() - 1)
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        if let Some(rule) = self.0.get_mut(id.0) {
            rule.fault = None;
        }
    }

    pub(super) fn remove_all(&mut self) {
        self.0.iter_mut().for_each(|rule| rule.fault = None);
    }

    pub(super) fn hits(&self, id: FaultId) -> u64 {
        self.0.get(id.0).map_or(0, |rule| rule.hits)
    }

    /// Whether a rule was not taken back.
    pub(super) fn is_in_force(&self, id: FaultId) -> bool {
        self.0.get(id.0).is_some_and(|rule| rule.fault.is_some())
    }

    /// What happens to an operation, and by which rule: every rule counts it, the first that hits decides.
    pub(super) fn judge(&mut self, drive: usize, op: DiskOp, path: &str) -> Option<(FaultId, Effect)> {
        let mut verdict = None;
        for (id, rule) in self.0.iter_mut().enumerate() {
            let Some(fault) = rule.fault.as_ref().filter(|fault| fault.aims_at(drive, op, path)) else { continue };
            rule.met += 1;
            if verdict.is_none() && rule.met >= fault.first && rule.hits < fault.times {
                rule.hits += 1;
                verdict = Some((FaultId(id), fault.effect.clone()));
            }
        }
        verdict
    }
}
