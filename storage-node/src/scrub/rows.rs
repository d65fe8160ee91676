//! What scrub keeps in the node's index store, in a family of its own.
//!
//! All of it can be found out again by reading the drive once more, so it is written like the rest of the index: unsynced,
//! and gone with it. A row that can't be read is no row. Keys are the drive's id, one byte that says what the row is, and:
//!
//! | row | key | value |
//! |---|---|---|
//! | `c` | nothing | how far the pass is ([`Pass`]) |
//! | `p` | nothing | present while an operator has paused the drive |
//! | `o` | nothing | present when an operator has ordered a pass that has not begun |
//! | `v` | shard id | when the shard was written and last verified ([`Checks`]) |
//! | `y` | due time in ms (big endian), shard id | which of the early checks of a new shard is due then |
//! | `f` | what it is about ([`FindingKey`]) | a finding |
//! | `d` | segment, block (big endian) | a record there holds a shard that was freed, or written again elsewhere |

use super::findings::{FindingKey, Noted};
use crate::index::{SCRUB, ShardPlace, parse_shard, shard_bytes};
use crate::keep::{Finding, FindingKind, Subject};
use crate::kv::{Direction, Kv, KvBatch, KvError};
use codec::id::{DriveId, Lsn, ShardId};
use codec::segment::Chain;
use std::sync::Arc;

const ROW_VERSION: u8 = 1;
const PASS: u8 = b'c';
const PAUSED: u8 = b'p';
const ORDERED: u8 = b'o';
const CHECKS: u8 = b'v';
const YOUNG: u8 = b'y';
const FINDING: u8 = b'f';
const DEAD: u8 = b'd';
/// The longest detail of a finding that is kept, in bytes.
const MAX_DETAIL: usize = 512;

/// When a shard was written and verified, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Checks {
    /// When it was written, or first indexed.
    pub written_ms: u64,
    /// When it last verified from the medium; 0: not yet.
    pub good_ms: u64,
    /// How often it verified.
    pub count: u32,
}

impl Checks {
    /// When it was last known to be good: verified, or written.
    pub fn known_ms(&self) -> u64 {
        self.good_ms.max(self.written_ms)
    }
}

/// How far a pass over the drive is, and when the last one was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pass {
    /// A pass is under way.
    pub active: bool,
    /// An operator ordered it: it does not wait for its share of the period.
    pub ordered: bool,
    /// When it, or the last one, began.
    pub began_ms: u64,
    /// When the last whole one ended.
    pub ended_ms: u64,
    /// The last segment that it covers: what is begun later is new, and is looked at as such.
    pub last_segment: u64,
    /// The segment that is next, or being read.
    pub segment: u64,
    /// Where in that segment's chain it stands; `None`: at its beginning.
    pub chain: Option<Chain>,
    /// Bytes that it has behind it.
    pub bytes: u64,
}

impl Pass {
    /// No pass yet.
    pub const NONE: Pass = Pass {
        active: false,
        ordered: false,
        began_ms: 0,
        ended_ms: 0,
        last_segment: 0,
        segment: 0,
        chain: None,
        bytes: 0,
    };

    fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.active) | u8::from(self.ordered) << 1 | u8::from(self.chain.is_some()) << 2;
        let mut out = vec![ROW_VERSION, flags];
        let chain = self.chain.unwrap_or(Chain { block: 0, seq: 0, prev_hash: [0; 32], barrier_block: 0 });
        for n in [
            self.began_ms,
            self.ended_ms,
            self.last_segment,
            self.segment,
            self.bytes,
            chain.block,
            chain.seq,
            chain.barrier_block,
        ] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&chain.prev_hash);
        out
    }

    fn parse(bytes: &[u8]) -> Option<Pass> {
        let (head, mut rest) = bytes.split_first_chunk::<2>()?;
        if head[0] != ROW_VERSION || head[1] > 7 {
            return None;
        }
        let mut next = || {
            let (n, more) = rest.split_first_chunk::<8>()?;
            rest = more;
            Some(u64::from_le_bytes(*n))
        };
        let (began_ms, ended_ms, last_segment) = (next()?, next()?, next()?);
        let (segment, bytes, block, seq, barrier_block) = (next()?, next()?, next()?, next()?, next()?);
        let prev_hash: [u8; 32] = rest.try_into().ok()?;
        let chain = (head[1] & 4 != 0).then_some(Chain { block, seq, prev_hash, barrier_block });
        Some(Pass {
            active: head[1] & 1 != 0,
            ordered: head[1] & 2 != 0,
            began_ms,
            ended_ms,
            last_segment,
            segment,
            chain,
            bytes,
        })
    }
}

/// An early check of a new shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Young {
    /// When it is due, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// The shard.
    pub shard: ShardId,
    /// Which of the checks.
    pub stage: u8,
}

/// Scrub's rows of one drive.
#[derive(Clone, Debug)]
pub(crate) struct ScrubRows {
    kv: Arc<dyn Kv>,
    drive: DriveId,
}

impl ScrubRows {
    pub fn new(kv: Arc<dyn Kv>, drive: DriveId) -> ScrubRows {
        ScrubRows { kv, drive }
    }

    fn key(&self, row: u8, rest: &[u8]) -> Vec<u8> {
        [self.drive.as_bytes(), &[row], rest].concat()
    }

    fn young_key(&self, young: &Young) -> Vec<u8> {
        self.key(YOUNG, &[&young.due_ms.to_be_bytes()[..], &shard_bytes(young.shard)].concat())
    }

    pub fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// The pass; [`Pass::NONE`] without a row that can be read.
    pub fn pass(&self) -> Result<Pass, KvError> {
        let row = self.kv.get(SCRUB, &self.key(PASS, &[]))?;
        Ok(row.and_then(|row| Pass::parse(&row)).unwrap_or(Pass::NONE))
    }

    pub fn put_pass(&self, batch: &mut KvBatch, pass: &Pass) {
        batch.put(SCRUB, self.key(PASS, &[]), pass.encode());
    }

    pub fn is_paused(&self) -> Result<bool, KvError> {
        Ok(self.kv.get(SCRUB, &self.key(PAUSED, &[]))?.is_some())
    }

    pub fn is_ordered(&self) -> Result<bool, KvError> {
        Ok(self.kv.get(SCRUB, &self.key(ORDERED, &[]))?.is_some())
    }

    /// Remembers what an operator said.
    pub fn put_paused(&self, batch: &mut KvBatch, paused: bool) {
        self.put_flag(batch, PAUSED, paused);
    }

    /// Remembers that an operator asked for a pass, until it has begun.
    pub fn put_ordered(&self, batch: &mut KvBatch, ordered: bool) {
        self.put_flag(batch, ORDERED, ordered);
    }

    fn put_flag(&self, batch: &mut KvBatch, row: u8, set: bool) {
        match set {
            true => batch.put(SCRUB, self.key(row, &[]), vec![ROW_VERSION]),
            false => batch.delete(SCRUB, self.key(row, &[])),
        }
    }

    pub fn checks(&self, shard: ShardId) -> Result<Option<Checks>, KvError> {
        let row = self.kv.get(SCRUB, &self.key(CHECKS, &shard_bytes(shard)))?;
        Ok(row.and_then(|row| parse_checks(&row)))
    }

    pub fn put_checks(&self, batch: &mut KvBatch, shard: ShardId, checks: &Checks) {
        let mut row = vec![ROW_VERSION];
        row.extend_from_slice(&checks.written_ms.to_le_bytes());
        row.extend_from_slice(&checks.good_ms.to_le_bytes());
        row.extend_from_slice(&checks.count.to_le_bytes());
        batch.put(SCRUB, self.key(CHECKS, &shard_bytes(shard)), row);
    }

    pub fn delete_checks(&self, batch: &mut KvBatch, shard: ShardId) {
        batch.delete(SCRUB, self.key(CHECKS, &shard_bytes(shard)));
    }

    /// Up to `limit` shards after `after` that have such a row, in id order, and what it says.
    pub fn list_checks(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<(ShardId, Checks)>, KvError> {
        let start = match after {
            Some(shard) => self.key(CHECKS, &[&shard_bytes(shard)[..], &[0]].concat()),
            None => self.key(CHECKS, &[]),
        };
        let parse = |key: &[u8], row: &[u8]| parse_shard(key).zip(parse_checks(row));
        self.list(CHECKS, &start, limit, parse)
    }

    pub fn put_young(&self, batch: &mut KvBatch, young: &Young) {
        batch.put(SCRUB, self.young_key(young), vec![young.stage]);
    }

    pub fn delete_young(&self, batch: &mut KvBatch, young: &Young) {
        batch.delete(SCRUB, self.young_key(young));
    }

    /// The first `limit` early checks, in the order in which they are due.
    pub fn list_young(&self, limit: usize) -> Result<Vec<Young>, KvError> {
        let parse = |key: &[u8], row: &[u8]| {
            let (due, shard) = key.split_first_chunk::<8>()?;
            let due_ms = u64::from_be_bytes(*due);
            Some(Young { due_ms, shard: parse_shard(shard)?, stage: *row.first()? })
        };
        self.list(YOUNG, &self.key(YOUNG, &[]), limit, parse)
    }

    fn list<T>(
        &self,
        row: u8,
        start: &[u8],
        limit: usize,
        parse: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KvError> {
        let prefix = self.key(row, &[]);
        let mut rows = self.kv.scan(SCRUB, start, Direction::Forward)?;
        let mut out = Vec::new();
        while out.len() < limit {
            let Some((key, value)) = rows.next()? else { break };
            let Some(rest) = key.strip_prefix(&prefix[..]) else { break };
            out.extend(parse(rest, &value));
        }
        Ok(out)
    }

    pub fn put_finding(&self, batch: &mut KvBatch, key: &FindingKey, noted: &Noted) {
        batch.put(SCRUB, self.key(FINDING, &key.encode()), encode_finding(noted));
    }

    pub fn delete_finding(&self, batch: &mut KvBatch, key: &FindingKey) {
        batch.delete(SCRUB, self.key(FINDING, &key.encode()));
    }

    fn dead_key(&self, place: ShardPlace) -> Vec<u8> {
        self.key(DEAD, &[place.segment.to_be_bytes(), place.block.to_be_bytes()].concat())
    }

    /// Remembers that nobody asks any more for the shard whose record lies at a place.
    pub fn put_dead(&self, batch: &mut KvBatch, place: ShardPlace) {
        batch.put(SCRUB, self.dead_key(place), vec![ROW_VERSION]);
    }

    pub fn delete_dead(&self, batch: &mut KvBatch, place: ShardPlace) {
        batch.delete(SCRUB, self.dead_key(place));
    }

    pub fn is_dead(&self, place: ShardPlace) -> Result<bool, KvError> {
        Ok(self.kv.get(SCRUB, &self.dead_key(place))?.is_some())
    }

    /// The first `limit` such places from a segment on.
    pub fn list_dead(&self, from: u64, limit: usize) -> Result<Vec<ShardPlace>, KvError> {
        let parse = |key: &[u8], _: &[u8]| {
            let (segment, block) = key.split_first_chunk::<8>()?;
            let block = u64::from_be_bytes(block.try_into().ok()?);
            Some(ShardPlace { segment: u64::from_be_bytes(*segment), block })
        };
        self.list(DEAD, &self.key(DEAD, &from.to_be_bytes()), limit, parse)
    }

    /// Every finding of the drive.
    pub fn findings(&self) -> Result<Vec<(FindingKey, Noted)>, KvError> {
        let parse = |key: &[u8], row: &[u8]| FindingKey::parse(key).zip(parse_finding(self.drive, row));
        self.list(FINDING, &self.key(FINDING, &[]), usize::MAX, parse)
    }
}

fn parse_checks(row: &[u8]) -> Option<Checks> {
    let (&version, rest) = row.split_first()?;
    let (written, rest) = rest.split_first_chunk::<8>()?;
    let (good, rest) = rest.split_first_chunk::<8>()?;
    let count: [u8; 4] = rest.try_into().ok()?;
    (version == ROW_VERSION).then_some(Checks {
        written_ms: u64::from_le_bytes(*written),
        good_ms: u64::from_le_bytes(*good),
        count: u32::from_le_bytes(count),
    })
}

fn encode_finding(noted: &Noted) -> Vec<u8> {
    let Finding { subject, kind, found_ms, detail, .. } = &noted.finding;
    let kind = FindingKind::ALL.iter().position(|k| k == kind).unwrap_or(0);
    let mut out = vec![ROW_VERSION, u8::try_from(kind).unwrap_or(0)];
    let (tag, numbers) = match subject {
        Subject::Shard(_) => (1, [0; 3]),
        Subject::Entries(first, last) => (2, [first.0, last.0, 0]),
        Subject::Blocks { segment, start, end } => (3, [*segment, *start, *end]),
    };
    let place = noted.place.unwrap_or((u64::MAX, 0));
    out.push(tag);
    for n in [*found_ms, place.0, place.1, numbers[0], numbers[1], numbers[2]] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    let shard = match subject {
        Subject::Shard(shard) => shard_bytes(*shard),
        _ => [0; 17],
    };
    out.extend_from_slice(&shard);
    out.extend_from_slice(&detail.as_bytes()[..detail.floor_char_boundary(MAX_DETAIL)]);
    out
}

fn parse_finding(drive: DriveId, row: &[u8]) -> Option<Noted> {
    let (head, mut rest) = row.split_first_chunk::<3>()?;
    if head[0] != ROW_VERSION {
        return None;
    }
    let kind = *FindingKind::ALL.get(usize::from(head[1]))?;
    let mut next = || {
        let (n, more) = rest.split_first_chunk::<8>()?;
        rest = more;
        Some(u64::from_le_bytes(*n))
    };
    let (found_ms, place, numbers) = (next()?, (next()?, next()?), (next()?, next()?, next()?));
    let (shard, detail) = rest.split_first_chunk::<17>()?;
    let subject = match head[2] {
        1 => Subject::Shard(parse_shard(shard)?),
        2 => Subject::Entries(Lsn(numbers.0), Lsn(numbers.1)),
        3 => Subject::Blocks { segment: numbers.0, start: numbers.1, end: numbers.2 },
        _ => return None,
    };
    let detail = String::from_utf8(detail.to_vec()).ok()?;
    let place = (place.0 != u64::MAX).then_some(place);
    Some(Noted { finding: Finding { drive, subject, kind, found_ms, detail }, place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::FAMILIES;
    use crate::kv::MemoryKv;
    use codec::id::{Epoch, StripeId};

    fn shard(counter: u64) -> ShardId {
        ShardId { stripe: StripeId { epoch: Epoch(7), counter }, index: 3 }
    }

    #[test]
    fn rows_come_back_as_they_were_put_and_only_those_of_the_drive() {
        let kv = Arc::new(MemoryKv::new(&FAMILIES));
        let (rows, other) = (ScrubRows::new(kv.clone(), DriveId([1; 16])), ScrubRows::new(kv, DriveId([2; 16])));
        let chain = Chain { block: 5, seq: 2, prev_hash: [9; 32], barrier_block: 4 };
        let pass = Pass { active: true, began_ms: 1, ended_ms: 2, segment: 4, chain: Some(chain), ..Pass::NONE };
        let checks = Checks { written_ms: 5, good_ms: 6, count: 7 };
        let young = |due_ms, counter, stage| Young { due_ms, shard: shard(counter), stage };
        let mut batch = KvBatch::new();
        for (rows, add) in [(&rows, 0), (&other, 100)] {
            rows.put_pass(&mut batch, &pass);
            rows.put_checks(&mut batch, shard(1 + add), &checks);
            rows.put_checks(&mut batch, shard(2 + add), &checks);
            rows.put_young(&mut batch, &young(300, 1 + add, 0));
            rows.put_young(&mut batch, &young(20, 2 + add, 1));
        }
        rows.put_paused(&mut batch, true);
        rows.write(batch).unwrap();
        assert_eq!(rows.pass().unwrap(), pass);
        assert!(rows.is_paused().unwrap() && !other.is_paused().unwrap() && !rows.is_ordered().unwrap());
        assert_eq!(rows.checks(shard(1)).unwrap(), Some(checks));
        assert_eq!(rows.checks(shard(101)).unwrap(), None);
        assert_eq!(rows.list_checks(None, 9).unwrap(), [(shard(1), checks), (shard(2), checks)]);
        assert_eq!(rows.list_checks(Some(shard(1)), 9).unwrap(), [(shard(2), checks)]);
        assert_eq!(rows.list_young(9).unwrap(), [young(20, 2, 1), young(300, 1, 0)]);
    }

    #[test]
    fn findings_of_every_subject_come_back() {
        let rows = ScrubRows::new(Arc::new(MemoryKv::new(&FAMILIES)), DriveId([1; 16]));
        let subjects = [
            (Subject::Shard(shard(1)), Some((3, 4))),
            (Subject::Shard(shard(2)), None),
            (Subject::Entries(Lsn(5), Lsn(9)), Some((7, 1))),
            (Subject::Blocks { segment: 7, start: 20, end: 30 }, Some((7, 20))),
        ];
        let mut batch = KvBatch::new();
        let mut expected = Vec::new();
        for ((subject, place), kind) in subjects.into_iter().zip(FindingKind::ALL) {
            let finding =
                Finding { drive: DriveId([1; 16]), subject, kind, found_ms: 77, detail: "block 4".to_owned() };
            let noted = Noted { finding, place };
            let key = noted.key();
            rows.put_finding(&mut batch, &key, &noted);
            expected.push((key, noted));
        }
        rows.write(batch).unwrap();
        expected.sort_by_key(|(key, _)| key.encode());
        assert_eq!(rows.findings().unwrap(), expected);
    }
}
