//! A plan in words, one line for each stripe.

use super::{Plan, RepairItem, Wait, Waiting};
use std::fmt;

impl fmt::Display for RepairItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: slack {}, {} % of drive time, reads {} of", self.stripe, self.slack, self.share, self.reads)?;
        for (index, drive) in &self.sources {
            write!(f, " {index}@{drive}")?;
        }
        write!(f, ", writes")?;
        for target in &self.targets {
            write!(f, " {}@{}", target.index, target.to)?;
        }
        write!(f, ", {} bytes", self.read_bytes().saturating_add(self.write_bytes()))
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Grace { .. } => write!(f, "waits for its drive to answer again"),
            Wait::Verify => write!(f, "waits until its drive, which is back, is verified"),
            Wait::Replacement { .. } => write!(f, "no spare drive: waits for a replacement"),
            Wait::Again { .. } => write!(f, "was tried, and came to nothing; is tried again"),
            Wait::TooFewDrives => write!(f, "no spare drive, and too few for a narrower stripe"),
            Wait::NoRoom => write!(f, "no spare drive, and no room outside the reserve for a narrower stripe"),
            Wait::NoSpare => write!(f, "no other drive to move to"),
            Wait::Beyond { lacking, may_return: true } => {
                write!(f, "{lacking} shards short of readable; drives that do not answer may hold them")
            }
            Wait::Beyond { lacking, may_return: false } => write!(f, "{lacking} shards short of readable"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: slack {}, {}", self.stripe, self.slack, self.why)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            writeln!(f, "rebuild {item}")?;
        }
        if self.later > 0 {
            writeln!(f, "then {} more stripes", self.later)?;
        }
        for stripe in &self.narrower {
            writeln!(f, "restripe {stripe}: no spare drive is left, a narrower one takes its place")?;
        }
        for waiting in &self.waiting {
            writeln!(f, "leave {waiting}")?;
        }
        Ok(())
    }
}
