//! The format level: one number for a set of layout versions, which says what writers may write.
//!
//! Processes of two releases work side by side while a cluster is upgraded, and each of them may be put back to the release
//! before. So nobody writes a layout because his program knows it: he writes what the cluster's format level says. The level is
//! journaled ([`LevelRow`](crate::effect::LevelRow)) and is raised once, by an operator, when every process knows the new one.
//!
//! Invariants:
//! * A level means the same versions in every release, for ever. A new release that brings a new version of a layout brings a
//!   new level, which is one more row of [`TABLE`].
//! * No version goes down from one level to the next, so whoever knows a level reads all that any earlier one let be written.
//! * What a level says is the newest version that may be written; a writer that needs less writes less
//!   ([`Effects::version`](crate::effect::Effects::version)).

use crate::effect::{EFFECT_VERSION, EffectKind};
use crate::frame;
use crate::journal::{BATCH_VERSION, ENTRY_VERSION, Entry, JournalError, parse_entry, split_batch};
use crate::register::REGISTER_VERSION;
use crate::shard::SHARD_VERSION;
use crate::stripe::DESCRIPTOR_VERSION;
use bytes::Bytes;
use std::fmt;

/// A set of layout versions. Later ones include earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FormatLevel(pub u32);

/// The newest version of each layout that may be written at a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// [`crate::shard`].
    pub shard: u16,
    /// [`crate::stripe`].
    pub descriptor: u16,
    /// [`crate::frame`].
    pub frame: u8,
    /// [`crate::journal`]: batch headers.
    pub batch: u16,
    /// [`crate::journal`]: entries.
    pub entry: u16,
    /// [`crate::effect`].
    pub effects: u16,
    /// [`crate::register`].
    pub register: u16,
}

impl Versions {
    /// The first version of everything.
    pub const FIRST: Versions =
        Versions { shard: 1, descriptor: 1, frame: 1, batch: 1, entry: 1, effects: 1, register: 1 };
}

const FIRST: Versions = Versions::FIRST;

/// What each level lets be written, lowest first. Rows are added, and never changed.
const TABLE: &[(FormatLevel, Versions)] = &[
    (FormatLevel(1), FIRST),
    (FormatLevel::BEFORE, Versions { effects: 2, ..FIRST }),
    (FormatLevel(3), Versions { effects: 3, ..FIRST }),
    (FormatLevel(4), Versions { effects: 4, ..FIRST }),
    #[cfg(feature = "next-release")]
    (FormatLevel(5), Versions { effects: 5, frame: 2, ..FIRST }),
];

const NEWEST: (FormatLevel, Versions) = TABLE[TABLE.len() - 1];

// What this program knows, and nothing else, is what its newest level says: otherwise it would write what it can't read, or
// know what nobody could ever switch on.
const _: () = {
    let v = NEWEST.1;
    assert!(v.shard == SHARD_VERSION && v.descriptor == DESCRIPTOR_VERSION && v.frame == frame::VERSION);
    assert!(v.batch == BATCH_VERSION && v.entry == ENTRY_VERSION && v.effects == EFFECT_VERSION);
    assert!(v.register == REGISTER_VERSION);
};

impl FormatLevel {
    /// That of a cluster whose journal says none: it was begun before there were levels.
    pub const BEFORE: FormatLevel = FormatLevel(2);
    /// The first at which buckets keep versions, and all that came with them: locks, access, users, keys.
    pub const VERSIONS: FormatLevel = FormatLevel(4);
    /// The newest that this program knows.
    pub const NEWEST: FormatLevel = NEWEST.0;

    /// What may be written at it; `None` for one that this program does not know.
    pub fn versions(self) -> Option<Versions> {
        TABLE.iter().find(|(level, _)| *level == self).map(|(_, versions)| *versions)
    }

    /// Whether this program knows it.
    pub fn is_known(self) -> bool {
        self.versions().is_some()
    }

    /// The lowest level at which effects of a version may be written; `None` for one that this program does not know.
    pub fn for_effects(version: u16) -> Option<FormatLevel> {
        TABLE.iter().find(|(_, versions)| versions.effects >= version).map(|(level, _)| *level)
    }

    /// The highest level all of whose layouts are read by whoever says no level of his own, as a release did that did not know of
    /// levels: `reads` is asked for each.
    pub fn read_by(reads: impl Fn(&Versions) -> bool) -> FormatLevel {
        TABLE.iter().rev().find(|(_, versions)| reads(versions)).map_or(FormatLevel(1), |(level, _)| *level)
    }
}

impl fmt::Display for FormatLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of this program's release, which goes into the journal and into refusals, for people.
pub const SOFTWARE: &str = if cfg!(feature = "next-release") {
    concat!("stele ", env!("CARGO_PKG_VERSION"), "-next")
} else {
    concat!("stele ", env!("CARGO_PKG_VERSION"))
};

/// What was found is of a format level that this program does not know.
///
/// Nothing is to be written by whoever gets it, and nothing repaired: what looks like damage may be what a later release writes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.message())]
pub struct TooNew {
    /// The level that was found.
    pub level: FormatLevel,
    /// The release that raised it there, as [`SOFTWARE`] of it; empty where that is not known.
    pub by: String,
}

impl TooNew {
    /// A level that was found, if this program does not know it.
    pub fn check(level: FormatLevel, by: &str) -> Result<(), TooNew> {
        if level <= FormatLevel::NEWEST { Ok(()) } else { Err(TooNew { level, by: by.to_owned() }) }
    }

    fn message(&self) -> String {
        let (level, known) = (self.level, FormatLevel::NEWEST);
        let (by, start) = match self.by.as_str() {
            "" => (String::new(), "the release that wrote it".to_owned()),
            by => (format!(", raised by {by}"), by.to_owned()),
        };
        format!(
            "the cluster is at format level {level}{by}; this is {SOFTWARE}, which knows levels up to {known}: start {start} \
             or a later release"
        )
    }
}

/// Why what a later release wrote can't be read.
///
/// Whoever gets it must not take it for damage: what can't be read may be all there is, and the rest of it older than it seems.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Later {
    /// It says itself of which level it is.
    #[error(transparent)]
    Level(#[from] TooNew),
    /// It is of a layout that this program does not know.
    #[error(
        "{what} of version {version}: this is {SOFTWARE}, which knows levels up to {}: start the release that wrote it or a later \
         release",
        FormatLevel::NEWEST
    )]
    Layout {
        /// Which one.
        what: &'static str,
        /// Its version.
        version: u16,
    },
}

impl Later {
    /// Why the entries of a batch's payload, or of a ledger stripe's data shards joined in order, do not parse, where that is because
    /// a later release wrote them: one of them raises the level, or none does and one is of another layout.
    pub fn of_batch(payload: &Bytes, error: &JournalError) -> Option<Later> {
        let JournalError::Version { .. } = error else { return None };
        Later::of_entries(&split_batch(payload).unwrap_or_default(), error)
    }

    /// The same, of these entries.
    pub fn of_entries(entries: &[Bytes], error: &JournalError) -> Option<Later> {
        let JournalError::Version { what, version } = *error else { return None };
        let mut before = entries.iter().map_while(|bytes| parse_entry(bytes.clone()).ok());
        let raised = before.find_map(|entry| Later::raised(&entry));
        Some(raised.unwrap_or(Later::Layout { what, version }))
    }

    /// The level that an entry raises the cluster to, if this program does not know it. Such an entry is read by the release before,
    /// and so may be all that comes after it: nothing else need say that there is a later release.
    pub fn raised(entry: &Entry) -> Option<Later> {
        let mut kinds = entry.effects.effects.iter().filter_map(|effect| effect.kind.as_ref());
        kinds.find_map(|kind| match kind {
            EffectKind::PutLevel(row) => TooNew::check(FormatLevel(row.level), &row.by).err().map(Later::Level),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::effect::{Effects, LevelRow};
    use crate::id::{Epoch, Lsn};
    use crate::journal::{NO_ENTRY, encode_empty_entry, encode_entry, entry_of_effects, length_prefixed, parse_batch};

    #[test]
    fn levels_only_go_up_and_no_version_goes_down_with_them() {
        for pair in TABLE.windows(2) {
            let ((low, a), (high, b)) = (pair[0], pair[1]);
            assert_eq!(low.0 + 1, high.0);
            let both = [
                (a.shard, b.shard),
                (a.descriptor, b.descriptor),
                (a.frame.into(), b.frame.into()),
                (a.batch, b.batch),
                (a.entry, b.entry),
                (a.effects, b.effects),
                (a.register, b.register),
            ];
            assert!(both.iter().all(|(before, after)| before <= after), "{low} to {high}");
        }
        assert_eq!(FormatLevel::BEFORE.versions().unwrap(), Versions { effects: 2, ..FIRST });
        assert!(FormatLevel::BEFORE < FormatLevel::NEWEST && !FormatLevel(FormatLevel::NEWEST.0 + 1).is_known());
    }

    #[test]
    fn what_a_program_reads_says_which_level_it_knows() {
        assert_eq!(FormatLevel::read_by(|_| true), FormatLevel::NEWEST);
        assert_eq!(FormatLevel::read_by(|versions| versions.effects <= 2), FormatLevel::BEFORE);
        assert_eq!(FormatLevel::read_by(|_| false), FormatLevel(1));
        assert_eq!(FormatLevel::for_effects(1), Some(FormatLevel(1)));
        assert_eq!(FormatLevel::for_effects(3), Some(FormatLevel(3)));
        assert_eq!(FormatLevel::for_effects(4), Some(FormatLevel(4)));
        assert_eq!(FormatLevel::for_effects(EFFECT_VERSION + 1), None);
    }

    #[test]
    fn a_level_that_is_too_new_is_refused_with_what_to_do() {
        assert_eq!(TooNew::check(FormatLevel::NEWEST, "stele 9.9"), Ok(()));
        let newer = FormatLevel(FormatLevel::NEWEST.0 + 1);
        let said = TooNew::check(newer, "stele 9.9").unwrap_err().to_string();
        let expected = format!(
            "the cluster is at format level {newer}, raised by stele 9.9; this is {SOFTWARE}, which knows levels up to {}: start \
             stele 9.9 or a later release",
            FormatLevel::NEWEST
        );
        assert_eq!(said, expected);
        let said = TooNew { level: newer, by: String::new() }.to_string();
        assert!(said.contains("start the release that wrote it or a later release"), "{said}");
    }

    #[test]
    fn a_batch_of_a_later_release_is_named_and_no_damage() {
        let newer = FormatLevel(FormatLevel::NEWEST.0 + 1);
        let raise = EffectKind::PutLevel(LevelRow { level: newer.0, by: "stele 9.9".to_owned() });
        let raise = Effects { effects: vec![raise.into()], wall_ms: 1 };
        let first = encode_entry(Lsn(1), Epoch(1), NO_ENTRY, &raise, &[]).unwrap();
        let second = encode_empty_entry(Lsn(2), Epoch(1), first.hash).unwrap();
        // As the later release writes it: other effects, and a hash that is right.
        let later = entry_of_effects(&second, EFFECT_VERSION + 1);
        let batch = |entries: &[&Bytes]| {
            let joined: Vec<u8> = entries.iter().flat_map(|entry| length_prefixed(entry).unwrap()).collect();
            Bytes::from(joined)
        };
        let refused = |payload: Bytes| {
            let error = parse_batch(&payload).unwrap_err();
            Later::of_batch(&payload, &error)
        };
        let named = TooNew { level: newer, by: "stele 9.9".to_owned() };
        assert_eq!(refused(batch(&[&first.bytes, &later])), Some(Later::Level(named)));
        let layout = Later::Layout { what: "effects", version: EFFECT_VERSION + 1 };
        assert_eq!(refused(batch(&[&later])), Some(layout.clone()));
        assert!(layout.to_string().contains("start the release that wrote it or a later release"), "{layout}");
        let mut damaged = first.bytes.to_vec();
        damaged[80] ^= 1;
        assert_eq!(refused(batch(&[&damaged.into()])), None);
    }
}
