//! A file's bytes as sparse pages with structural sharing, and the operations that change them.
//!
//! Cloning shares everything; a change copies the page it touches and the two nodes above it. That is what makes
//! thousands of crash images cheap. A hole and a page of zeros are the same, for readers and for fingerprints.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::random::{Random, mix};

/// The page size, in bytes; also the unit of space accounting and the larger of the two torn-write granularities.
pub(super) const PAGE: u64 = 4096;

/// Pages in one node.
const FAN: u64 = 64;

struct Page {
    bytes: [u8; PAGE as usize],
    hash: OnceLock<u64>,
}

impl Page {
    fn new(bytes: [u8; PAGE as usize]) -> Arc<Self> {
        Arc::new(Self { bytes, hash: OnceLock::new() })
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            if self.bytes.iter().all(|byte| *byte == 0) {
                return 0;
            }
            blake3::hash(&self.bytes).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
        })
    }
}

#[derive(Clone)]
struct Node {
    pages: [Option<Arc<Page>>; FAN as usize],
    hash: OnceLock<u64>,
}

impl Default for Node {
    fn default() -> Self {
        Self { pages: [const { None }; FAN as usize], hash: OnceLock::new() }
    }
}

impl Node {
    /// Zero for a node of holes.
    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let hashes = self.pages.iter().enumerate().filter_map(|(i, page)| Some((i, page.as_ref()?.hash())));
            hashes.filter(|(_, hash)| *hash != 0).fold(0, |sum, (i, hash)| sum ^ mix(hash, i as u64 + 1))
        })
    }
}

/// One change of a file's bytes, length or allocation.
pub(super) enum ContentOp {
    Write(Written),
    Preallocate {
        offset: u64,
        len: u64,
    },
    Punch {
        offset: u64,
        len: u64,
    },
    Truncate {
        len: u64,
    },
    /// The medium's doing: one byte changed.
    Flip {
        offset: u64,
        mask: u8,
    },
    /// The medium's doing: every byte replaced.
    Noise {
        seed: u64,
    },
}

/// A write, cut into pages that files can share.
pub(super) struct Written {
    offset: u64,
    len: u64,
    pieces: Vec<Piece>,
}

/// What a write puts into one page: `page.bytes[bytes]`.
struct Piece {
    number: u64,
    bytes: Range<usize>,
    page: Arc<Page>,
}

impl Written {
    pub(super) fn new(offset: u64, bytes: &[u8]) -> Self {
        let len = bytes.len() as u64;
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let from = (at % PAGE) as usize;
            let take = (PAGE - at % PAGE).min(len - done) as usize;
            let mut page = [0; PAGE as usize];
            page[from..from + take].copy_from_slice(&bytes[done as usize..][..take]);
            pieces.push(Piece { number: at / PAGE, bytes: from..from + take, page: Page::new(page) });
            done += take as u64;
        }
        Self { offset, len, pieces }
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }

    /// How many blocks of a granularity the write touches.
    pub(super) fn blocks(&self, granularity: u64) -> u64 {
        if self.len == 0 { 0 } else { (self.offset + self.len).div_ceil(granularity) - self.offset / granularity }
    }
}

/// A file's bytes.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    nodes: Vec<Option<Arc<Node>>>,
    allocated: Extents,
    hash: OnceLock<u64>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Space taken, in bytes.
    pub(super) fn space(&self) -> u64 {
        self.allocated.total() * PAGE
    }

    /// How many bytes from the start of a range can be stored with so much more space.
    pub(super) fn fitting(&self, range: Range<u64>, free: u64) -> u64 {
        let mut room = free / PAGE;
        for page in pages(&range) {
            if !self.allocated.contains(page) {
                if room == 0 {
                    return (page * PAGE).saturating_sub(range.start);
                }
                room -= 1;
            }
        }
        range.end - range.start
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let from = (at % PAGE) as usize;
            let take = (PAGE as usize - from).min(len - done);
            match self.page(at / PAGE) {
                Some(page) => buf[done..done + take].copy_from_slice(&page.bytes[from..from + take]),
                None => buf[done..done + take].fill(0),
            }
            done += take;
        }
        len
    }

    /// A number that is equal for equal contents, and almost surely differs otherwise. Allocation is not content.
    pub(super) fn fingerprint(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let hashes = self.nodes.iter().enumerate().filter_map(|(i, node)| Some((i, node.as_ref()?.hash())));
            let pages = hashes.filter(|(_, hash)| *hash != 0).fold(0, |sum, (i, hash)| sum ^ mix(hash, i as u64 + 1));
            mix(pages, self.len)
        })
    }

    pub(super) fn apply(&mut self, op: &ContentOp) {
        match op {
            ContentOp::Write(written) => {
                for piece in &written.pieces {
                    self.put(piece, piece.bytes.clone());
                }
                self.extend_to(written.range().end, written.len);
            }
            ContentOp::Preallocate { offset, len } => {
                self.allocated.insert(page_range(&(*offset..offset + len)));
                self.extend_to(offset + len, *len);
            }
            ContentOp::Punch { offset, len } => {
                let end = (offset + len).min(self.len.next_multiple_of(PAGE));
                self.clear(*offset..end.max(*offset));
            }
            ContentOp::Truncate { len } => {
                if *len < self.len {
                    self.clear(*len..self.len.next_multiple_of(PAGE));
                    self.allocated.remove(len.div_ceil(PAGE)..u64::MAX);
                }
                self.len = *len;
            }
            ContentOp::Flip { offset, mask } => {
                if *offset < self.len {
                    self.page_mut(offset / PAGE)[(offset % PAGE) as usize] ^= mask;
                }
            }
            ContentOp::Noise { seed } => {
                for number in pages(&(0..self.len)) {
                    let mut random = Random::new(mix(*seed, number + 1));
                    let end = (self.len - number * PAGE).min(PAGE) as usize;
                    let bytes = self.page_mut(number);
                    bytes[..end].chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]));
                }
            }
        }
        self.hash = OnceLock::new();
    }

    /// Applies those blocks of a write that `keep` says survived; blocks are counted from the first one touched.
    pub(super) fn apply_torn(&mut self, written: &Written, granularity: u64, keep: impl Fn(u64) -> bool) {
        let first = written.offset / granularity;
        for piece in &written.pieces {
            let start = piece.number * PAGE;
            let range = start + piece.bytes.start as u64..start + piece.bytes.end as u64;
            for block in range.start / granularity..range.end.div_ceil(granularity) {
                if keep(block - first) {
                    let from = (block * granularity).max(range.start);
                    let to = ((block + 1) * granularity).min(range.end);
                    self.put(piece, (from - start) as usize..(to - start) as usize);
                    self.extend_to(to, to - from);
                }
            }
        }
        self.hash = OnceLock::new();
    }

    /// The length that a write gives, without its bytes: metadata reached the medium, data did not.
    pub(super) fn apply_length(&mut self, written: &Written) {
        self.extend_to(written.range().end, written.len);
        self.hash = OnceLock::new();
    }

    fn extend_to(&mut self, end: u64, bytes: u64) {
        if bytes > 0 {
            self.len = self.len.max(end);
        }
    }

    fn page(&self, number: u64) -> Option<&Arc<Page>> {
        self.nodes.get((number / FAN) as usize)?.as_ref()?.pages[(number % FAN) as usize].as_ref()
    }

    fn slot(&mut self, number: u64) -> &mut Option<Arc<Page>> {
        let node = (number / FAN) as usize;
        if self.nodes.len() <= node {
            self.nodes.resize(node + 1, None);
        }
        let node = Arc::make_mut(self.nodes[node].get_or_insert_default());
        node.hash = OnceLock::new();
        &mut node.pages[(number % FAN) as usize]
    }

    /// A page's bytes to change; copies them if they are shared.
    fn page_mut(&mut self, number: u64) -> &mut [u8; PAGE as usize] {
        let slot = self.slot(number);
        let bytes = slot.as_ref().map_or([0; PAGE as usize], |page| page.bytes);
        let page = slot.insert(Page::new(bytes));
        // Just made, so not shared: this never copies.
        &mut Arc::make_mut(page).bytes
    }

    fn put(&mut self, piece: &Piece, bytes: Range<usize>) {
        self.allocated.insert(piece.number..piece.number + 1);
        if bytes.len() == PAGE as usize {
            *self.slot(piece.number) = Some(Arc::clone(&piece.page));
        } else {
            self.page_mut(piece.number)[bytes.clone()].copy_from_slice(&piece.page.bytes[bytes]);
        }
    }

    fn clear(&mut self, range: Range<u64>) {
        for number in pages(&range) {
            let start = number * PAGE;
            let from = range.start.saturating_sub(start) as usize;
            let to = (range.end - start).min(PAGE) as usize;
            if from == 0 && to == PAGE as usize {
                self.allocated.remove(number..number + 1);
                if self.page(number).is_some() {
                    *self.slot(number) = None;
                }
            } else if self.page(number).is_some() {
                self.page_mut(number)[from..to].fill(0);
            }
        }
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes, hash: OnceLock::new() }
    }
}

fn page_range(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / PAGE..range.end.div_ceil(PAGE) }
}

fn pages(range: &Range<u64>) -> Range<u64> {
    page_range(range)
}

/// A set of pages as disjoint, non-adjacent ranges: a preallocated gigabyte is one entry.
#[derive(Clone, Default)]
struct Extents(BTreeMap<u64, u64>);

impl Extents {
    fn contains(&self, page: u64) -> bool {
        self.0.range(..=page).next_back().is_some_and(|(_, end)| *end > page)
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    fn insert(&mut self, mut range: Range<u64>) {
        if range.is_empty() || self.0.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end) {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..=range.end).next_back() {
            if end < range.start {
                break;
            }
            range = range.start.min(start)..range.end.max(end);
            self.0.remove(&start);
        }
        self.0.insert(range.start, range.end);
    }

    fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xee; content.len() as usize];
        assert_eq!(content.read(&mut bytes, 0), bytes.len());
        bytes
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Punch(u64, u64),
        Truncate(u64),
        Preallocate(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = 0..600_000u64;
        let len = prop_oneof![0..200u64, 4000..20_000u64];
        prop_oneof![
            (offset.clone(), prop::collection::vec(any::<u8>(), 0..9000)).prop_map(|(o, b)| Step::Write(o, b)),
            (0..150u64, 1..4usize, any::<u8>()).prop_map(|(p, n, b)| Step::Write(p * PAGE, vec![b; n * PAGE as usize])),
            (offset.clone(), len.clone()).prop_map(|(o, l)| Step::Punch(o, l)),
            offset.clone().prop_map(Step::Truncate),
            (offset, len).prop_map(|(o, l)| Step::Preallocate(o, l)),
        ]
    }

    fn model(bytes: &mut Vec<u8>, step: &Step) -> ContentOp {
        let grow = |bytes: &mut Vec<u8>, end: u64| bytes.resize(bytes.len().max(end as usize), 0);
        match step.clone() {
            Step::Write(offset, data) => {
                if !data.is_empty() {
                    grow(bytes, offset + data.len() as u64);
                    bytes[offset as usize..][..data.len()].copy_from_slice(&data);
                }
                ContentOp::Write(Written::new(offset, &data))
            }
            Step::Punch(offset, len) => {
                let end = (offset + len).min(bytes.len() as u64);
                bytes[offset.min(end) as usize..end as usize].fill(0);
                ContentOp::Punch { offset, len }
            }
            Step::Truncate(len) => {
                bytes.resize(len as usize, 0);
                ContentOp::Truncate { len }
            }
            Step::Preallocate(offset, len) => {
                if len > 0 {
                    grow(bytes, offset + len);
                }
                ContentOp::Preallocate { offset, len }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_vector(steps in prop::collection::vec(step(), 1..24)) {
            let mut content = Content::default();
            let mut expected = Vec::new();
            let mut older = Vec::new();
            for step in &steps {
                older.push((content.clone(), expected.clone(), content.fingerprint()));
                content.apply(&model(&mut expected, step));
                prop_assert!(bytes(&content) == expected);
                let mut plain = Content::default();
                plain.apply(&ContentOp::Write(Written::new(0, &expected)));
                prop_assert_eq!(content.fingerprint(), plain.fingerprint());
                prop_assert!(content.space() <= (expected.len() as u64).next_multiple_of(PAGE));
            }
            for (content, expected, fingerprint) in older {
                prop_assert!(bytes(&content) == expected, "a clone does not change");
                prop_assert_eq!(content.fingerprint(), fingerprint);
            }
        }

        #[test]
        fn extents_agree_with_a_set(steps in prop::collection::vec((any::<bool>(), 0..40u64, 0..12u64), 1..40)) {
            let mut extents = Extents::default();
            let mut set = std::collections::BTreeSet::new();
            for (insert, start, len) in steps {
                if insert {
                    extents.insert(start..start + len);
                    set.extend(start..start + len);
                } else {
                    extents.remove(start..start + len);
                    set.retain(|page| !(start..start + len).contains(page));
                }
                prop_assert_eq!(extents.total(), set.len() as u64);
                prop_assert!((0..60).all(|page| extents.contains(page) == set.contains(&page)));
            }
        }
    }

    #[test]
    fn torn_writes_keep_exactly_the_chosen_blocks() {
        let written = Written::new(1000, &[9; 9000]);
        assert_eq!((written.blocks(512), written.blocks(PAGE)), (19, 3));
        let mut content = Content::default();
        content.apply_torn(&written, 512, |block| block == 0 || block == 3);
        let bytes = bytes(&content);
        let expected = |i: usize| if (1000..1024).contains(&i) || (2048..2560).contains(&i) { 9 } else { 0 };
        assert!(bytes.len() == 2560 && bytes.iter().enumerate().all(|(i, b)| *b == expected(i)));
        let mut long = Content::default();
        long.apply_length(&written);
        assert!(long.len() == 10_000 && long.space() == 0);
    }

    #[test]
    fn preallocation_is_sparse_and_space_is_counted() {
        let mut content = Content::default();
        content.apply(&ContentOp::Preallocate { offset: 0, len: 1 << 40 });
        assert_eq!((content.len(), content.space()), (1 << 40, 1 << 40));
        content.apply(&ContentOp::Truncate { len: 10_000 });
        assert_eq!(content.space(), 3 * PAGE);
        assert_eq!(content.fitting(0..5 * PAGE, 0), 3 * PAGE);
        assert_eq!(content.fitting(100..5 * PAGE, PAGE), 4 * PAGE - 100);
        assert_eq!(content.fitting(0..5 * PAGE, 2 * PAGE), 5 * PAGE);
    }
}
