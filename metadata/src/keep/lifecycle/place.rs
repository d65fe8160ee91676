//! How far a pass is, and when the last one was.

use super::Cursor;
use crate::index::{self, IndexError, View};
use codec::id::{BucketId, Lsn};
use std::fmt;
use tokio::time::Instant;

/// Name of the setting.
pub(super) const SETTING: &str = "lifecycle";

/// What of a bucket is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Versions,
    Uploads,
    /// Nothing any more.
    Done,
}

/// A pass over all buckets that have rules.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    /// Its day, counted from the Unix epoch.
    pub day: u64,
    /// The last entry that was applied when it began: rules of before are followed by it.
    pub began: Lsn,
    open: bool,
    /// The bucket that it is at; `None` before the first.
    pub bucket: Option<BucketId>,
    pub stage: Stage,
    pub cursor: Cursor,
    /// When this was last journaled.
    pub noted: Instant,
}

impl Pass {
    pub fn begin(day: u64, began: Lsn) -> Pass {
        let cursor = Cursor::default();
        Pass { day, began, open: true, bucket: None, stage: Stage::Versions, cursor, noted: Instant::now() }
    }

    /// What is journaled of the last pass. What can't be read counts as never: a pass that is done again does nothing twice.
    pub fn load(view: &dyn View) -> Result<Pass, IndexError> {
        let row = index::setting(view, SETTING)?;
        let parsed = row.as_ref().and_then(|row| Pass::parse(std::str::from_utf8(&row.value).ok()?));
        Ok(parsed.unwrap_or_else(|| Pass { open: false, ..Pass::begin(0, Lsn(0)) }))
    }

    fn parse(text: &str) -> Option<Pass> {
        let mut words = text.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (day, began, bucket) = (number()?, Lsn(number()?), number());
        let mut pass = Pass { open: bucket.is_some(), ..Pass::begin(day, began) };
        let Some(bucket) = bucket else { return Some(pass) };
        pass.bucket = Some(BucketId(bucket));
        pass.stage = match words.next()? {
            "versions" => Stage::Versions,
            "uploads" => Stage::Uploads,
            "done" => Stage::Done,
            _ => return None,
        };
        pass.cursor.row = hex::decode(words.next().unwrap_or_default()).ok()?;
        Some(pass)
    }

    /// It is not over.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// To this bucket; without one it is over.
    pub fn go_to(&mut self, bucket: Option<BucketId>) {
        self.open = bucket.is_some();
        (self.bucket, self.stage, self.cursor) = (bucket, Stage::Versions, Cursor::default());
    }

    /// To the next page; after the last one to what is next of the bucket, and then past it.
    pub fn advance(&mut self, next: Option<Cursor>) {
        match (next, self.stage) {
            (Some(cursor), _) => self.cursor = cursor,
            (None, Stage::Versions) => (self.stage, self.cursor) = (Stage::Uploads, Cursor::default()),
            (None, Stage::Uploads | Stage::Done) => (self.stage, self.cursor) = (Stage::Done, Cursor::default()),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.day, self.began.0)?;
        match self.bucket.filter(|_| self.open) {
            Some(bucket) => {
                let stage = match self.stage {
                    Stage::Versions => "versions",
                    Stage::Uploads => "uploads",
                    Stage::Done => "done",
                };
                write!(f, " {} {stage} {}", bucket.0, hex::encode(self.cursor.restart()))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pass_is_read_as_it_was_written() {
        let mut pass = Pass::begin(20_000, Lsn(77));
        let again = |pass: &Pass| {
            let read = Pass::parse(&pass.to_string()).unwrap();
            assert_eq!((read.to_string(), read.is_open()), (pass.to_string(), pass.bucket.is_some() && pass.is_open()));
            read
        };
        pass.go_to(Some(BucketId(3)));
        again(&pass);
        pass.advance(Some(Cursor { row: b"a\0b".to_vec(), ..Cursor::default() }));
        assert_eq!(again(&pass).cursor.row, b"a\0b");
        pass.advance(None);
        assert_eq!(again(&pass).stage, Stage::Uploads);
        pass.advance(None);
        assert_eq!(again(&pass).stage, Stage::Done);
        pass.go_to(None);
        assert!(!again(&pass).is_open());
        for damaged in ["", "x", "1", "1 2 3", "1 2 3 x ", "1 2 3 versions 0g"] {
            assert!(Pass::parse(damaged).is_none(), "{damaged:?}");
        }
    }
}
