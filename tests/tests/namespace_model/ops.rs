//! Generating operations: few keys, so that they meet; sizes around the limits at which things change.

use bytes::Bytes;
use proptest::prelude::*;
use tests::world::{noise, text};

/// A body, by what makes it.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    seed: u64,
    len: usize,
    compresses: bool,
}

impl Body {
    pub fn bytes(&self) -> Bytes {
        if self.compresses { text(self.seed, self.len) } else { noise(self.seed, self.len) }
    }
}

/// When a change is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    Absent,
    Present,
    Same,
    Other,
}

/// An operation.
#[derive(Clone, Debug)]
pub enum Op {
    Put { key: String, body: Body, encrypt: bool, when: When },
    Delete { key: String, when: When },
    DeleteMany { keys: Vec<String> },
    Copy { from: String, to: String, encrypt: bool },
    Get { key: String, start: u64, len: u64 },
    List { prefix: String, delimiter: String, max: usize },
    CreateUpload { key: String },
    PutPart { upload: usize, number: u32, body: Body },
    Complete { upload: usize },
    Abort { upload: usize },
    Seal,
    Restart { lost_index: bool },
    Crash { lost_index: bool, seed: u64 },
}

/// Keys with common prefixes, delimiters at their ends, characters that sort oddly, and a zero byte.
const KEYS: [&str; 12] =
    ["a", "a/", "a/b", "a/b/c", "a/c", "a0", "b", "b//x", "\u{0}nul", "z\u{10ffff}", "ünï/çode", "long/long/long/long"];

fn key() -> impl Strategy<Value = String> {
    proptest::sample::select(&KEYS[..]).prop_map(str::to_owned)
}

fn body() -> impl Strategy<Value = Body> {
    // Empty, tiny, around what rides in the journal, several chunks, several stripes. Few seeds, so that chunks repeat.
    let len = prop_oneof![
        1 => Just(0usize),
        4 => 1usize..600,
        2 => 3_900usize..4_300,
        3 => 4_000usize..40_000,
        1 => 60_000usize..200_000,
    ];
    (0u64..6, len, any::<bool>()).prop_map(|(seed, len, compresses)| Body { seed, len, compresses })
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        8 => Just(When::Always),
        1 => Just(When::Absent),
        1 => Just(When::Present),
        1 => Just(When::Same),
        1 => Just(When::Other),
    ]
}

/// Any operation.
pub fn ops() -> impl Strategy<Value = Op> {
    let put = (key(), body(), prop::bool::weighted(0.2), when());
    prop_oneof![
        20 => put.prop_map(|(key, body, encrypt, when)| Op::Put { key, body, encrypt, when }),
        8 => (key(), when()).prop_map(|(key, when)| Op::Delete { key, when }),
        3 => prop::collection::vec(key(), 1..5).prop_map(|keys| Op::DeleteMany { keys }),
        5 => (key(), key(), prop::bool::weighted(0.2)).prop_map(|(from, to, encrypt)| Op::Copy { from, to, encrypt }),
        8 => (key(), 0u64..50_000, 0u64..50_000).prop_map(|(key, start, len)| Op::Get { key, start, len }),
        4 => (key(), 0u64..3, 1u64..300).prop_map(|(key, start, len)| Op::Get { key, start, len }),
        5 => list(),
        3 => key().prop_map(|key| Op::CreateUpload { key }),
        6 => (0usize..6, 1u32..4, body()).prop_map(|(upload, number, body)| Op::PutPart { upload, number, body }),
        3 => (0usize..6).prop_map(|upload| Op::Complete { upload }),
        2 => (0usize..6).prop_map(|upload| Op::Abort { upload }),
        2 => Just(Op::Seal),
        2 => any::<bool>().prop_map(|lost_index| Op::Restart { lost_index }),
        2 => (any::<bool>(), any::<u64>()).prop_map(|(lost_index, seed)| Op::Crash { lost_index, seed }),
    ]
}

fn list() -> impl Strategy<Value = Op> {
    let prefixes = ["", "a", "a/", "a/b", "b/", "long/long/", "nothing"];
    let prefix = proptest::sample::select(prefixes.to_vec());
    let delimiter = proptest::sample::select(vec!["", "/", "/", "b", "//"]);
    (prefix, delimiter, 1usize..6).prop_map(|(prefix, delimiter, max)| Op::List {
        prefix: prefix.to_owned(),
        delimiter: delimiter.to_owned(),
        max,
    })
}
