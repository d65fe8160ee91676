//! The versions of the layouts that a process writes and reads, which the handshake compares.
//!
//! Invariants:
//! * No connection is used over which one end would write what the other can't read. Readers keep every version for ever (R16),
//!   so the newest that a process reads says all. A process that does not say, one of the first release, has the first version of
//!   everything.
//! * What a process writes is what the cluster's format level says, and not what its program could: so processes of two releases
//!   work together until the level is raised ([`codec::level`]).
//! * A process that does not know the cluster's level is not worked with, whatever it would be asked: what it was given before may
//!   be all that it can read.

use super::identity::{NodeName, Role};
use super::message::Format;
use crate::level::CurrentLevel;
use codec::level::{FormatLevel, Versions};
use std::fmt;

/// The first version of every layout.
const FIRST: u32 = 1;

/// A layout that travels from one process to another, or that one writes to a medium for another to read.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    /// Its version among those of a level.
    version: fn(&Versions) -> u32,
    /// Only metadata writes it, whatever the others could.
    of_metadata: bool,
}

/// What one process writes and reads of one layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Said {
    /// The version that is written.
    writes: u32,
    /// The newest that is read.
    reads: u32,
}

const fn layout(name: &'static str, version: fn(&Versions) -> u32, of_metadata: bool) -> Layout {
    Layout { name, version, of_metadata }
}

const LAYOUTS: [Layout; 7] = [
    layout("shard header", |versions| versions.shard as u32, false),
    layout("stripe descriptor", |versions| versions.descriptor as u32, false),
    layout("frame", |versions| versions.frame as u32, false),
    layout("journal batch header", |versions| versions.batch as u32, true),
    layout("journal entry", |versions| versions.entry as u32, true),
    layout("effects", |versions| versions.effects as u32, true),
    layout("ensemble register", |versions| versions.register as u32, true),
];

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub name: &'a NodeName,
    pub role: Role,
    pub software: &'a str,
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.software)
    }
}

/// What the other end says of itself in the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theirs<'a> {
    pub formats: &'a [Format],
    /// The newest level that it knows; 0: it does not say, of a release before there were levels.
    pub knows: u32,
    /// The level by which it writes; 0 likewise.
    pub at: u32,
}

impl Theirs<'_> {
    /// The newest level that it knows.
    pub fn level(&self) -> FormatLevel {
        match self.knows {
            0 => FormatLevel::read_by(|versions| {
                LAYOUTS.iter().all(|layout| (layout.version)(versions) <= said(layout, self.formats).reads)
            }),
            knows => FormatLevel(knows),
        }
    }
}

fn said(layout: &Layout, formats: &[Format]) -> Said {
    let found = formats.iter().find(|format| format.layout == layout.name);
    found.map_or(Said { writes: FIRST, reads: FIRST }, |format| Said { writes: format.writes, reads: format.reads })
}

fn our_own(layout: &Layout, written: &Versions) -> Said {
    let newest = FormatLevel::NEWEST.versions().unwrap_or(Versions::FIRST);
    Said { writes: (layout.version)(written), reads: (layout.version)(&newest) }
}

/// What this process writes and reads, for the other end.
pub(crate) fn ours(level: &CurrentLevel) -> Vec<Format> {
    let written = level.versions();
    let format = |layout: &Layout| {
        let Said { writes, reads } = our_own(layout, &written);
        Format { layout: layout.name.to_owned(), writes, reads }
    };
    LAYOUTS.iter().map(format).collect()
}

/// Why a process that knows levels up to `knows` is not worked with, if that is so.
pub(crate) fn too_old(who: impl fmt::Display, knows: FormatLevel, at: FormatLevel) -> Option<String> {
    let why = || {
        format!("the cluster is at format level {at}, {who} knows levels up to {knows}: start a later release there")
    };
    (knows < at).then(why)
}

/// Why the two ends can't work together, naming both, if they can't.
pub(crate) fn mismatch(us: End<'_>, them: End<'_>, theirs: Theirs<'_>, level: &CurrentLevel) -> Option<String> {
    let at = level.get();
    let levels = too_old(them, theirs.level(), at).or_else(|| too_old(us, FormatLevel::NEWEST, FormatLevel(theirs.at)));
    let written = level.versions();
    let layouts = || {
        LAYOUTS
            .iter()
            .find_map(|layout| compare(layout, (us, our_own(layout, &written)), (them, said(layout, theirs.formats))))
    };
    levels.or_else(layouts)
}

fn compare(layout: &Layout, us: (End<'_>, Said), them: (End<'_>, Said)) -> Option<String> {
    let name = layout.name;
    let beyond = |(writer, wrote): (End<'_>, u32), (reader, read): (End<'_>, u32)| {
        let writes = wrote > read && (writer.role == Role::Metadata || !layout.of_metadata);
        let why = || {
            format!(
                "{writer} writes version {wrote} of {name}, {reader} reads up to {read} and is to be upgraded first"
            )
        };
        writes.then(why)
    };
    let ((us, ours), (them, theirs)) = (us, them);
    beyond((them, theirs.writes), (us, ours.reads)).or_else(|| beyond((us, ours.writes), (them, theirs.reads)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn at(level: FormatLevel) -> CurrentLevel {
        let current = CurrentLevel::default();
        current.raise(level);
        current
    }

    fn of_release(formats: &[Format], level: FormatLevel) -> Theirs<'_> {
        Theirs { formats, knows: FormatLevel::NEWEST.0, at: level.0 }
    }

    #[test]
    fn r16_what_one_end_writes_the_other_must_read_and_the_refusal_names_both() {
        let (node, gateway) = (name("n1"), name("g1"));
        let us = End { name: &node, role: Role::StorageNode, software: "stele 1" };
        let them = End { name: &gateway, role: Role::Gateway, software: "stele 2" };
        let shard = layout("shard header", |versions| versions.shard.into(), false);
        let said = |(writes, reads): (u32, u32)| Said { writes, reads };
        // A release that reads the new version and still writes the old one goes with both sides of an upgrade.
        for (ours, theirs) in [((1, 1), (1, 2)), ((1, 2), (1, 1)), ((1, 2), (2, 2)), ((2, 2), (1, 2)), ((2, 3), (3, 3))]
        {
            assert_eq!(compare(&shard, (us, said(ours)), (them, said(theirs))), None, "{ours:?} {theirs:?}");
        }
        let newer = compare(&shard, (us, said((1, 1))), (them, said((2, 2)))).unwrap();
        assert_eq!(
            newer,
            "g1 (stele 2) writes version 2 of shard header, n1 (stele 1) reads up to 1 and is to be upgraded first"
        );
        let older = compare(&shard, (us, said((2, 2))), (them, said((1, 1)))).unwrap();
        assert!(older.starts_with("n1 (stele 1) writes") && older.contains("g1 (stele 2) reads"), "{older}");
        // What a process never writes keeps nobody away, else a storage node could not be upgraded before metadata.
        let entries = Layout { of_metadata: true, ..shard };
        assert_eq!(compare(&entries, (us, said((2, 2))), (them, said((1, 1)))), None);
        let metadata = End { role: Role::Metadata, ..them };
        assert!(compare(&entries, (us, said((2, 2))), (metadata, said((3, 3)))).is_some());
        let leader = End { role: Role::Metadata, ..us };
        assert!(compare(&entries, (leader, said((2, 2))), (them, said((1, 1)))).is_some());
    }

    #[test]
    fn a_release_before_levels_is_worked_with_until_the_level_is_raised() {
        let (leader, node) = (name("m1"), name("n1"));
        let us = End { name: &leader, role: Role::Metadata, software: "stele 3" };
        let them = End { name: &node, role: Role::StorageNode, software: "stele 2" };
        let mut formats = ours(&at(FormatLevel::BEFORE));
        for format in formats.iter_mut().filter(|format| format.layout == "effects") {
            (format.writes, format.reads) = (2, 2);
        }
        let theirs = Theirs { formats: &formats, knows: 0, at: 0 };
        assert_eq!(theirs.level(), FormatLevel::BEFORE);
        assert_eq!(Theirs { formats: &[], ..theirs }.level(), FormatLevel(1), "the first release says nothing");
        assert_eq!(mismatch(us, them, theirs, &at(FormatLevel::BEFORE)), None);
        let refused = mismatch(us, them, theirs, &at(FormatLevel(3))).unwrap();
        assert_eq!(
            refused,
            "the cluster is at format level 3, n1 (stele 2) knows levels up to 2: start a later release there"
        );
    }

    #[test]
    fn who_does_not_know_the_level_of_the_other_end_is_refused_by_both() {
        let (leader, gateway) = (name("m1"), name("g1"));
        let leader = End { name: &leader, role: Role::Metadata, software: "stele 4" };
        let gateway = End { name: &gateway, role: Role::Gateway, software: "stele 3" };
        let (newest, newer) = (FormatLevel::NEWEST, FormatLevel(FormatLevel::NEWEST.0 + 1));
        let formats = ours(&at(newest));
        // As the newer end says it, and as the older end hears of it. Before the raise they work together.
        let said = |level: FormatLevel| Theirs { knows: newer.0, ..of_release(&formats, level) };
        assert_eq!(mismatch(gateway, leader, said(newest), &at(newest)), None);
        let refused = mismatch(gateway, leader, said(newer), &at(newest)).unwrap();
        assert!(refused.contains("g1 (stele 3) knows levels up to") && refused.contains("start a later"), "{refused}");
        assert!(too_old(gateway, newest, newer).is_some() && too_old(gateway, newest, newest).is_none());
    }
}
