#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn leaf(seed: u64, len: u64) -> Entry {
    Entry { id: ChunkId(*blake3::hash(&seed.to_le_bytes()).as_bytes()), len, leaf: true }
}

/// Where the tests store nodes.
#[derive(Default)]
struct Store(HashMap<ChunkId, Bytes>);

impl Store {
    fn put(&mut self, builder: &mut ManifestBuilder, node: &Node) {
        let id = ChunkId(*blake3::hash(&node.bytes).as_bytes());
        self.0.insert(id, node.bytes.clone());
        builder.node_stored(node, id);
    }

    fn build(&mut self, entries: &[Entry]) -> Manifest {
        let mut builder = ManifestBuilder::new();
        for entry in entries {
            builder.push(*entry).unwrap();
            while let Some(node) = builder.full_node() {
                self.put(&mut builder, &node);
            }
        }
        while let Some(node) = builder.last_node() {
            self.put(&mut builder, &node);
        }
        builder.finish().unwrap()
    }

    fn leaves(&self, manifest: &Manifest, depth: usize) -> Vec<Entry> {
        assert!(depth <= MAX_DEPTH);
        let below = |entry: &Entry| match entry.leaf {
            true => vec![*entry],
            false => {
                let node = Manifest::parse(&self.0[&entry.id]).unwrap();
                assert_eq!(node.total_len(), entry.len);
                self.leaves(&node, depth + 1)
            }
        };
        manifest.entries().iter().flat_map(below).collect()
    }
}

#[test]
fn entries_come_back_in_order_whatever_their_number() {
    for count in [0, 1, 31, 32, 33, 100, 4095, 4096, 4097, 4096 + 31, 4096 + 33, 32 * 4096, 33 * 4096 + 5] {
        let entries: Vec<Entry> = (0..count).map(|i| leaf(i, 1 + i % 1000)).collect();
        let mut store = Store::default();
        let root = store.build(&entries);
        assert!(root.entries().len() <= INLINE_ENTRIES);
        assert_eq!(root.total_len(), entries.iter().map(|e| e.len).sum::<u64>());
        assert_eq!(store.leaves(&root, 0), entries, "{count} entries");
        assert_eq!(root.entries().iter().all(|e| e.leaf), count <= 32);
        assert_eq!(Manifest::parse(&root.encode()), Ok(root));
    }
}

#[test]
fn the_same_entries_give_the_same_nodes() {
    let entries: Vec<Entry> = (0..9000).map(|i| leaf(i, 7)).collect();
    let (mut a, mut b) = (Store::default(), Store::default());
    assert_eq!(a.build(&entries), b.build(&entries));
    assert_eq!(a.0, b.0);
}

#[test]
fn an_object_of_parts_joins_their_manifests() {
    let mut store = Store::default();
    let parts: Vec<Vec<Entry>> = (0..100).map(|p| (0..50).map(|i| leaf(p * 50 + i, 3)).collect()).collect();
    let roots: Vec<Manifest> = parts.iter().map(|part| store.build(part)).collect();
    let joined: Vec<Entry> = roots.iter().flat_map(|root| root.entries().to_vec()).collect();
    let whole = store.build(&joined);
    assert_eq!(store.leaves(&whole, 0), parts.concat());
}

#[test]
fn nodes_fit_a_chunk() {
    let full = Manifest::new((0..NODE_ENTRIES as u64).map(|i| leaf(i, 1)).collect()).unwrap();
    assert!(full.encode().len() <= MAX_CHUNK);
    assert_eq!(children(&full.encode()).unwrap()[4095], leaf(4095, 1).id);
}

#[test]
fn a_range_finds_its_entries() {
    let manifest = Manifest::new(vec![leaf(0, 10), leaf(1, 5), leaf(2, 1)]).unwrap();
    let found = |range| manifest.covering(range).map(|(offset, _)| offset).collect::<Vec<_>>();
    assert_eq!(found(0..16), [0, 10, 15]);
    assert_eq!(found(9..10), [0]);
    assert_eq!(found(10..15), [10]);
    assert_eq!(found(14..16), [10, 15]);
    assert_eq!(found(15..u64::MAX), [15]);
    assert!(found(16..20).is_empty());
}

#[test]
fn impossible_entries_are_refused() {
    let refused = |entry: Entry| {
        assert_eq!(Manifest::new(vec![leaf(0, 1), entry]), Err(ManifestError::EntryLength(1)));
        let mut builder = ManifestBuilder::new();
        builder.push(leaf(0, 1)).unwrap();
        assert_eq!(builder.push(entry), Err(ManifestError::EntryLength(1)));
    };
    refused(leaf(1, 0));
    refused(leaf(1, MAX_CHUNK as u64 + 1));
    refused(Entry { leaf: false, ..leaf(1, u64::MAX) });
    refused(Entry { leaf: false, ..leaf(1, NODE_BIT - 1) });
    assert!(Manifest::new(vec![Entry { leaf: false, ..leaf(1, NODE_BIT - 1) }]).is_ok());
    let many: Vec<Entry> = (0..NODE_ENTRIES as u64 + 1).map(|i| leaf(i, 1)).collect();
    assert_eq!(Manifest::new(many), Err(ManifestError::TooMany(4097)));
}

#[test]
fn a_builder_with_nodes_to_store_does_not_finish() {
    let mut builder = ManifestBuilder::new();
    for i in 0..33 {
        builder.push(leaf(i, 1)).unwrap();
    }
    assert_eq!(builder.finish(), Err(ManifestError::Unfinished));
}

#[test]
fn r17_every_flip_and_every_cut_is_detected() {
    for count in [0, 1, 5] {
        let bytes = Manifest::new((0..count).map(|i| leaf(i, 1 + i)).collect()).unwrap().encode();
        for i in 0..bytes.len() {
            assert!(Manifest::parse(&bytes[..i]).is_err(), "cut at {i}");
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[i] ^= 1 << bit;
                assert!(Manifest::parse(&damaged).is_err(), "bit {bit} of byte {i}");
            }
        }
        assert!(Manifest::parse(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn the_golden_manifest_is_still_written_and_read() {
    let entries = vec![leaf(0, 65_536), Entry { leaf: false, ..leaf(1, 1 << 40) }, leaf(2, 1)];
    let manifest = Manifest::new(entries).unwrap();
    let golden = crate::golden::read("manifest-v1.bin", || manifest.encode().to_vec());
    assert_eq!(golden, manifest.encode());
    assert_eq!(Manifest::parse(&golden), Ok(manifest));
}

proptest! {
    #[test]
    fn r17_noise_is_no_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0u32..5000) {
        prop_assert!(Manifest::parse(&bytes).is_err());
        let mut disguised = b"STLM\x01\0\0\0".to_vec();
        disguised.extend_from_slice(&count.to_le_bytes());
        disguised.extend_from_slice(&bytes);
        prop_assert!(Manifest::parse(&disguised).is_err());
    }
}
