//! A page of a bucket: what its rules say of the versions and uploads in it. Pure over a view.
//!
//! Invariants:
//! * A key is judged with all its versions, newest first, however many pages they take: what a page knows of the versions before it
//!   goes along in the [`Cursor`]. Where that is too little, a version stays that could go, never the other way round.
//! * Nothing here is a decision: what is found names a version by its `seq`, and whoever decides judges it again.

use crate::command::RuleStep;
use crate::index::{self, IndexError, OBJECTS, UPLOADS, View};
use crate::lifecycle;
use access::lifecycle::plan::{Calendar, aborts, plan};
use access::lifecycle::rule::Rule;
use codec::effect::{BucketRow, UploadName, UploadRow, VersionRow};
use codec::id::{BucketId, Lsn};

/// Versions of a key that go along to the next page: more than the most newer ones that a rule may keep, so that a few delete markers
/// among them change nothing.
const CONTEXT: usize = 256;

/// How far a walk over a bucket's versions is.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    /// The row to begin with.
    pub row: Vec<u8>,
    /// The last versions of the key that the row is of, without their contents, if not all of its versions were judged.
    pub(super) context: Vec<VersionRow>,
}

impl Cursor {
    /// Where to begin for whoever has only the row: at the newest version of a key.
    pub fn restart(&self) -> &[u8] {
        // The key of the row before, and a zero.
        let seq = if self.context.is_empty() { 0 } else { size_of::<u64>() + 1 };
        self.row.get(..self.row.len().saturating_sub(seq)).unwrap_or_default()
    }
}

/// A page.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub found: Vec<T>,
    /// Rows that were looked at.
    pub rows: usize,
    /// Where the next one begins; `None`: this was the last.
    pub next: Option<Cursor>,
}

/// What judging needs.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    pub bucket: BucketRow,
    pub rules: Vec<Rule>,
    pub calendar: Calendar,
    /// The earlier of the two clocks.
    pub now_ms: u64,
}

impl Judge {
    fn id(&self) -> BucketId {
        self.bucket.bucket_id()
    }

    /// The rows of versions that some rule may be about: one range for each prefix that no other prefix includes.
    fn ranges(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let concerns_versions = |rule: &&Rule| {
            rule.enabled
                && (rule.expiration.is_some()
                    || rule.noncurrent.is_some()
                    || !rule.transitions.is_empty()
                    || !rule.noncurrent_transitions.is_empty())
        };
        let mut prefixes: Vec<&str> =
            self.rules.iter().filter(concerns_versions).map(|rule| rule.filter.prefix.as_str()).collect();
        prefixes.sort_unstable();
        prefixes.dedup_by(|later, earlier| later.starts_with(*earlier));
        let range = |prefix: &str| {
            let mut start = index::bucket_objects(self.id());
            index::escape_into(&mut start, prefix.as_bytes());
            let end = index::after_prefix(&start).unwrap_or_else(|| vec![0xff; start.len() + 1]);
            (start, end)
        };
        prefixes.into_iter().map(range).collect()
    }

    /// A page of at most `limit` versions from `from` on.
    pub fn versions(&self, view: &dyn View, from: Cursor, limit: usize) -> Result<Page<RuleStep>, IndexError> {
        let mut ranges = self.ranges().into_iter().filter(|(_, end)| *end > from.row);
        let Some((start, end)) = ranges.next() else { return Ok(Page { found: Vec::new(), rows: 0, next: None }) };
        let after_range = ranges.next().map(|(start, _)| Cursor { row: start, context: Vec::new() });
        let start = start.max(from.row);
        let rows = view.rows(OBJECTS, &start, &end, limit.max(2))?;
        let is_all = rows.len() < limit.max(2);
        let count = rows.len();
        let mut versions = Vec::with_capacity(count);
        for (key, value) in rows {
            let row: VersionRow = index::decode(OBJECTS, &key, value)?;
            versions.push((key, row));
        }
        let mut found = Vec::new();
        let mut context = from.context;
        let mut rest = versions.as_slice();
        while let Some((first_row, first)) = rest.first() {
            let same = rest.iter().take_while(|(_, row)| row.key == first.key).count();
            let (group, others) = rest.split_at(same);
            let is_first = rest.len() == count;
            let cut_off = others.is_empty() && !is_all;
            if cut_off && !is_first {
                // It may go on: judged by the next page, from its newest version on.
                return Ok(Page {
                    found,
                    rows: count,
                    next: Some(Cursor { row: first_row.to_vec(), context: Vec::new() }),
                });
            }
            context.retain(|row| row.key == first.key);
            self.judge(&context, group.iter().map(|(_, row)| row), &mut found);
            if cut_off {
                context.extend(group.iter().map(|(_, row)| without_content(row)));
                let row = group.last().map(|(row, _)| [&row[..], &[0]].concat()).unwrap_or_default();
                let context = context.split_off(context.len().saturating_sub(CONTEXT));
                return Ok(Page { found, rows: count, next: Some(Cursor { row, context }) });
            }
            (context, rest) = (Vec::new(), others);
        }
        Ok(Page { found, rows: count, next: after_range })
    }

    /// Judges versions of a key, after those of it that were judged before.
    fn judge<'a>(
        &self,
        context: &'a [VersionRow],
        group: impl Iterator<Item = &'a VersionRow>,
        found: &mut Vec<RuleStep>,
    ) {
        let rows: Vec<&VersionRow> = context.iter().chain(group).collect();
        let Some(first) = rows.first() else { return };
        let tags: Vec<Vec<(String, String)>> = rows.iter().map(|row| lifecycle::tags(&row.tags)).collect();
        let versions: Vec<_> =
            rows.iter().zip(&tags).map(|(row, tags)| lifecycle::version(&self.bucket, row, tags)).collect();
        let versioning = lifecycle::versioning(&self.bucket);
        let steps = plan(&self.rules, &first.key, &versions, versioning, self.calendar, self.now_ms);
        for step in steps.into_iter().filter(|step| step.version >= context.len()) {
            let row = rows[step.version];
            let above = step.version.checked_sub(1).and_then(|above| versions.get(above));
            found.push(RuleStep {
                key: row.key.clone(),
                seq: Lsn(row.seq),
                version_id: row.version_id.clone(),
                noncurrent_ms: above.map(|above| above.put_ms),
                action: step.action,
            });
        }
    }

    /// A page of at most `limit` uploads from `from` on: those that are to be dropped.
    pub fn uploads(&self, view: &dyn View, from: Cursor, limit: usize) -> Result<Page<UploadName>, IndexError> {
        let mut page = Page { found: Vec::new(), rows: 0, next: None };
        if !self.rules.iter().any(|rule| rule.enabled && rule.abort_days.is_some()) {
            return Ok(page);
        }
        let start = index::bucket_uploads(self.id());
        let end = index::after_prefix(&start).unwrap_or_else(|| vec![0xff; start.len() + 1]);
        let rows = view.rows(UPLOADS, &start.max(from.row), &end, limit.max(1))?;
        page.rows = rows.len();
        let last = rows.last().filter(|_| rows.len() == limit.max(1));
        page.next = last.map(|(row, _)| Cursor { row: [&row[..], &[0]].concat(), context: Vec::new() });
        for (key, value) in rows {
            let row: UploadRow = index::decode(UPLOADS, &key, value)?;
            let Some(name) = &row.name else { continue };
            let due = aborts(&self.rules, &name.key, lifecycle::opened_ms(&self.bucket, &row), self.calendar);
            if due.is_some_and(|(due, _)| due <= self.now_ms) {
                page.found.push(name.clone());
            }
        }
        Ok(page)
    }
}

/// What rules look at: tags, sizes, times.
fn without_content(row: &VersionRow) -> VersionRow {
    let content =
        row.content.as_ref().map(|content| codec::effect::Content { size: content.size, ..Default::default() });
    VersionRow { content, acl: None, ..row.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::index::{FAMILIES, Overlay, versions};
    use access::lifecycle::rule::{Expiration, Filter, Noncurrent, When};
    use codec::effect::{Content, Tag, Versioning};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use storage_node::kv::MemoryKv;

    const DAY: u64 = 24 * 3600 * 1000;

    fn judge(rules: Vec<Rule>, now_days: u64) -> Judge {
        let bucket = BucketRow { id: 7, versioning: Versioning::Enabled.into(), ..BucketRow::default() };
        Judge { bucket, rules, calendar: Calendar::default(), now_ms: now_days * DAY }
    }

    fn walk(judge: &Judge, view: &dyn View, limit: usize) -> Vec<RuleStep> {
        let (mut found, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            let page = judge.versions(view, cursor, limit).unwrap();
            found.extend(page.found);
            match page.next {
                Some(next) => cursor = next,
                None => return found,
            }
        }
    }

    fn put(overlay: &mut Overlay<'_>, bucket: u64, key: &str, seq: u64, change: impl FnOnce(&mut VersionRow)) {
        let version_id = versions::version_id(Lsn(seq), [1; 8]);
        let content = Some(Content { size: 200 << 10, ..Content::default() });
        let mut row = VersionRow { bucket, key: key.to_owned(), seq, version_id, content, ..VersionRow::default() };
        change(&mut row);
        versions::put_version(overlay, &row).unwrap();
    }

    fn expires(prefix: &str, days: u32) -> Rule {
        let filter = Filter { prefix: prefix.to_owned(), ..Filter::default() };
        let expiration = Some(Expiration::At(When::Days(days)));
        Rule { id: format!("{prefix}{days}"), enabled: true, filter, expiration, ..Rule::default() }
    }

    #[test]
    fn a_key_with_many_versions_keeps_the_newest_that_a_rule_wants() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        for seq in 1..=1000 {
            put(&mut overlay, 7, "k", seq, |_| {});
        }
        let rule =
            Rule { enabled: true, noncurrent: Some(Noncurrent { days: 1, newer: Some(100) }), ..Rule::default() };
        let judge = judge(vec![rule], 9);
        let first = judge.versions(&overlay, Cursor::default(), 300).unwrap().next.unwrap();
        assert_eq!(
            first.restart(),
            index::versions_of(BucketId(7), "k"),
            "who lost the context begins with the newest"
        );
        for limit in [2, 30, 150, 999, 1000, 5000] {
            let seqs: BTreeSet<u64> = walk(&judge, &overlay, limit).iter().map(|todo| todo.seq.0).collect();
            assert_eq!(seqs, (1..=899).collect(), "by pages of {limit}");
        }
    }

    #[test]
    fn only_what_a_prefix_names_is_read() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        for (seq, key) in ["a", "b/1", "b/2", "b/2/3", "c", "d\0", "d\0e", "dd"].into_iter().enumerate() {
            put(&mut overlay, 7, key, seq as u64 + 1, |_| {});
        }
        for bucket in [6, 8] {
            put(&mut overlay, bucket, "b/1", 50, |_| {});
        }
        let keys =
            |judge: &Judge| -> Vec<String> { walk(judge, &overlay, 2).into_iter().map(|todo| todo.key).collect() };
        let all = judge(vec![expires("b/", 1), expires("b/2/", 1), expires("d\0", 1)], 9);
        assert_eq!(keys(&all), ["b/1", "b/2", "b/2/3", "d\0", "d\0e"]);
        assert_eq!(all.ranges().len(), 2, "one prefix is in another");
        assert!(keys(&judge(vec![expires("b/", 100)], 9)).is_empty());
        assert!(keys(&judge(vec![Rule { enabled: false, ..expires("", 1) }], 9)).is_empty());
    }

    #[test]
    fn uploads_are_dropped_by_their_age() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let name = |key: &str| UploadName { bucket: 7, key: key.to_owned(), upload_id: "u".to_owned() };
        for (key, initiated_ms, clock_ms) in [("a", 0, 0), ("b", 0, 8 * DAY), ("x", 0, 0), ("c", 8 * DAY, 0)] {
            let row = UploadRow { name: Some(name(key)), initiated_ms, clock_ms, ..UploadRow::default() };
            overlay.put(UPLOADS, index::upload_key(&name(key)), &row);
        }
        let rule = |prefix: &str| Rule { expiration: None, abort_days: Some(3), ..expires(prefix, 1) };
        let judge = judge(vec![rule("a"), rule("b"), rule("c")], 9);
        let first = judge.uploads(&overlay, Cursor::default(), 2).unwrap();
        let second = judge.uploads(&overlay, first.next.unwrap(), 9).unwrap();
        assert!(second.next.is_none());
        let found: Vec<String> = first.found.into_iter().chain(second.found).map(|name| name.key).collect();
        assert_eq!(found, ["a"], "a gateway's clock at 1970 makes no upload old");
    }

    proptest! {
        #[test]
        fn pages_change_nothing(
            steps in prop::collection::vec((0..4usize, 0..6u64, any::<bool>(), any::<bool>(), 0..3u32), 0..80),
            limit in 2..12usize,
            newer in proptest::option::of(1..4u32),
        ) {
            let kv = MemoryKv::new(&FAMILIES);
            let mut overlay = Overlay::new(&kv);
            let mut model: BTreeMap<&str, Vec<VersionRow>> = BTreeMap::new();
            for ((key, day, marker, tag, size), seq) in steps.into_iter().zip(1..) {
                let key = ["a", "ab", "b", "c"][key];
                put(&mut overlay, 7, key, seq, |row| {
                    row.clock_ms = day * DAY;
                    row.delete_marker = marker;
                    row.content = (!marker).then(|| Content { size: u64::from(size), ..Content::default() });
                    row.tags = if tag && !marker { vec![Tag { key: "t".into(), value: "1".into() }] } else { Vec::new() };
                });
                let row = index::current_version(&overlay, BucketId(7), key).unwrap().unwrap();
                model.entry(key).or_default().insert(0, row);
            }
            let tagged = Filter { tags: vec![("t".into(), "1".into())], ..Filter::default() };
            let judge = judge(vec![
                expires("a", 2),
                Rule { filter: tagged, ..expires("", 1) },
                Rule { expiration: Some(Expiration::LoneMarkers), noncurrent: Some(Noncurrent { days: 1, newer }), ..expires("", 3) },
            ], 6);
            let mut expected = Vec::new();
            for rows in model.values() {
                judge.judge(&[], rows.iter(), &mut expected);
            }
            expected.sort_by_key(|todo| todo.seq);
            let mut found = walk(&judge, &overlay, limit);
            found.sort_by_key(|todo| todo.seq);
            prop_assert_eq!(found, expected);
        }
    }
}
