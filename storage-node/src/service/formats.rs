//! The versions of the layouts that a process writes and reads, which the handshake compares.
//!
//! Invariant: no connection is used over which one end would write what the other can't read. Readers keep every version for ever
//! (R16), so the newest that a process reads says all. A process that does not say, one of the first release, has the first version
//! of everything.

use super::identity::{NodeName, Role};
use super::message::Format;
use std::fmt;

/// The first version of every layout.
const FIRST: u32 = 1;

/// What one process writes and reads of one layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    name: &'static str,
    /// The version that is written.
    writes: u32,
    /// The newest that is read.
    reads: u32,
    /// Only metadata writes it, whatever the others could.
    of_metadata: bool,
}

const fn newest(name: &'static str, version: u32, of_metadata: bool) -> Layout {
    Layout { name, writes: version, reads: version, of_metadata }
}

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

/// The layouts that travel from one process to another, or that one writes to a medium for another to read.
const LAYOUTS: [Layout; 7] = [
    newest("shard header", codec::shard::SHARD_VERSION as u32, false),
    newest("stripe descriptor", codec::stripe::DESCRIPTOR_VERSION as u32, false),
    newest("frame", codec::frame::VERSION as u32, false),
    newest("journal batch header", codec::journal::BATCH_VERSION as u32, true),
    newest("journal entry", codec::journal::ENTRY_VERSION as u32, true),
    newest("effects", codec::effect::EFFECT_VERSION as u32, true),
    newest("ensemble register", codec::register::REGISTER_VERSION as u32, true),
];

/// What this process writes and reads, for the other end.
pub(crate) fn ours() -> Vec<Format> {
    let said = |layout: &Layout| Format { layout: layout.name.to_owned(), writes: layout.writes, reads: layout.reads };
    LAYOUTS.iter().map(said).collect()
}

/// Why the two ends can't work together, naming both, if they can't.
pub(crate) fn mismatch(us: End<'_>, them: End<'_>, theirs: &[Format]) -> Option<String> {
    LAYOUTS.iter().find_map(|ours| compare(ours, us, them, theirs))
}

fn compare(ours: &Layout, us: End<'_>, them: End<'_>, theirs: &[Format]) -> Option<String> {
    let said = theirs.iter().find(|format| format.layout == ours.name);
    let (writes, reads) = said.map_or((FIRST, FIRST), |format| (format.writes, format.reads));
    let name = ours.name;
    let beyond = |(writer, wrote): (End<'_>, u32), (reader, read): (End<'_>, u32)| {
        let writes = wrote > read && (writer.role == Role::Metadata || !ours.of_metadata);
        let why = || {
            format!(
                "{writer} writes version {wrote} of {name}, {reader} reads up to {read} and is to be upgraded first"
            )
        };
        writes.then(why)
    };
    beyond((them, writes), (us, ours.reads)).or_else(|| beyond((us, ours.writes), (them, reads)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layout(writes: u32, reads: u32) -> Layout {
        Layout { name: "shard header", writes, reads, of_metadata: false }
    }

    fn said(writes: u32, reads: u32) -> Vec<Format> {
        vec![Format { layout: "shard header".to_owned(), writes, reads }]
    }

    #[test]
    fn r16_what_one_end_writes_the_other_must_read_and_the_refusal_names_both() {
        let (node, gateway) = (NodeName::new("n1").unwrap(), NodeName::new("g1").unwrap());
        let us = End { name: &node, role: Role::StorageNode, software: "stele 1" };
        let them = End { name: &gateway, role: Role::Gateway, software: "stele 2" };
        assert_eq!(mismatch(us, them, &ours()), None);
        // A release that reads the new version and still writes the old one goes with both sides of an upgrade.
        for (ours, theirs) in [((1, 1), (1, 2)), ((1, 2), (1, 1)), ((1, 2), (2, 2)), ((2, 2), (1, 2)), ((2, 3), (3, 3))]
        {
            assert_eq!(
                compare(&layout(ours.0, ours.1), us, them, &said(theirs.0, theirs.1)),
                None,
                "{ours:?} {theirs:?}"
            );
        }
        let newer = compare(&layout(1, 1), us, them, &said(2, 2)).unwrap();
        assert_eq!(
            newer,
            "g1 (stele 2) writes version 2 of shard header, n1 (stele 1) reads up to 1 and is to be upgraded first"
        );
        let older = compare(&layout(2, 2), us, them, &[]).unwrap();
        assert!(older.starts_with("n1 (stele 1) writes") && older.contains("g1 (stele 2) reads"), "{older}");
        assert_eq!(compare(&layout(1, 1), us, them, &[]), None, "the first release says nothing");
        // What a process never writes keeps nobody away, else a storage node could not be upgraded before metadata.
        let entries = Layout { of_metadata: true, ..layout(2, 2) };
        assert_eq!(compare(&entries, us, them, &said(1, 1)), None);
        let metadata = End { role: Role::Metadata, ..them };
        assert!(compare(&entries, us, metadata, &said(3, 3)).is_some());
        assert!(compare(&entries, End { role: Role::Metadata, ..us }, them, &said(1, 1)).is_some());
    }
}
