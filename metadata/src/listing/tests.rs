//! Listings against a naive reference: every key, rolled up one by one.

use super::*;
use crate::index::{FAMILIES, part_key, upload_key, version_key, versions};
use codec::effect::{Content, PartRow};
use codec::id::Lsn;
use proptest::prelude::*;
use std::collections::BTreeSet;
use storage_node::kv::{KvBatch, KvError, KvStats, MemoryKv};

const BUCKET: BucketId = BucketId(5);

fn store(fill: impl FnOnce(&mut Overlay<'_>)) -> MemoryKv {
    let kv = MemoryKv::new(&FAMILIES);
    let mut overlay = Overlay::new(&kv);
    // Neighbours that no page may show.
    for bucket in [BucketId(4), BucketId(6)] {
        overlay.put(OBJECTS, version_key(bucket, "a/b", Lsn(1)), &version(bucket, "a/b", 1, "", false));
    }
    fill(&mut overlay);
    let batch = overlay.into_batch();
    kv.write(batch).unwrap();
    kv
}

fn version(bucket: BucketId, key: &str, seq: u64, version_id: &str, delete_marker: bool) -> VersionRow {
    VersionRow {
        bucket: bucket.0,
        key: key.to_owned(),
        seq,
        version_id: version_id.to_owned(),
        delete_marker,
        ..VersionRow::default()
    }
}

fn store_of(keys: &BTreeSet<String>) -> MemoryKv {
    store(|overlay| {
        for key in keys {
            overlay.put(OBJECTS, version_key(BUCKET, key, Lsn(9)), &version(BUCKET, key, 9, "", false));
        }
    })
}

/// The items of a listing: keys and common prefixes, in order.
fn naive(keys: &BTreeSet<String>, request: &ListRequest) -> Vec<(String, bool)> {
    let mut items: Vec<(String, bool)> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(&request.prefix)) {
        let rest = &key[request.prefix.len()..];
        let common = rest.find(&request.delimiter).filter(|_| !request.delimiter.is_empty());
        let item = match common {
            Some(at) => (key[..request.prefix.len() + at + request.delimiter.len()].to_owned(), true),
            None => (key.clone(), false),
        };
        let shown_before = item.1 && item.0 == request.after;
        if *key > request.after && !shown_before && items.last() != Some(&item) {
            items.push(item);
        }
    }
    items
}

fn items(page: &ListPage) -> Vec<(String, bool)> {
    let objects = page.objects.iter().map(|version| (version.key.clone(), false));
    let prefixes = page.prefixes.iter().map(|prefix| (prefix.clone(), true));
    let mut items: Vec<_> = objects.chain(prefixes).collect();
    items.sort();
    items
}

fn request(prefix: &str, delimiter: &str, after: &str, max: usize) -> ListRequest {
    ListRequest { bucket: BUCKET, prefix: prefix.into(), delimiter: delimiter.into(), after: after.into(), max }
}

/// Short keys of few characters, so that prefixes, markers and delimiters meet; ends of UTF-8 ranges among them.
fn key() -> impl Strategy<Value = String> {
    let characters =
        prop::sample::select(vec!['a', 'b', '/', '\0', '\u{1}', '\u{2}', '\u{7f}', 'é', '\u{ffff}', '\u{10000}']);
    prop::collection::vec(characters, 1..5).prop_map(|characters| characters.into_iter().collect())
}

fn part_of_key() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 3 => key()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_page_is_the_naive_listing(
        keys in prop::collection::btree_set(key(), 0..30),
        prefix in part_of_key(), after in part_of_key(), max in 0usize..8,
        delimiter in prop::sample::select(vec!["", "/", "a", "//", "\0", "é", "\u{ffff}"]),
    ) {
        let kv = store_of(&keys);
        let request = request(&prefix, delimiter, &after, max);
        let wanted = naive(&keys, &request);
        let page = list(&kv, &request).unwrap();
        let shown = wanted.len().min(max);
        prop_assert_eq!(items(&page), &wanted[..shown]);
        let more = max > 0 && wanted.len() > max;
        prop_assert_eq!(page.next, more.then(|| wanted[max - 1].0.clone()));
    }

    #[test]
    fn pages_add_up_to_the_whole(
        keys in prop::collection::btree_set(key(), 0..30), prefix in part_of_key(), max in 1usize..5,
        delimiter in prop::sample::select(vec!["", "/", "a", "//"]),
    ) {
        let kv = store_of(&keys);
        let mut request = request(&prefix, delimiter, "", max);
        let wanted = naive(&keys, &request);
        let mut shown = Vec::new();
        loop {
            let page = list(&kv, &request).unwrap();
            shown.extend(items(&page));
            match page.next {
                Some(next) => request.after = next,
                None => break,
            }
            prop_assert!(shown.len() <= wanted.len());
        }
        prop_assert_eq!(shown, wanted);
    }

    #[test]
    fn pages_of_versions_add_up(
        versions in prop::collection::btree_set((key(), 1u64..5), 0..30), prefix in part_of_key(), max in 1usize..5,
        delimiter in prop::sample::select(vec!["", "/", "a"]),
    ) {
        let kv = store(|overlay| {
            for (key, seq) in &versions {
                let id = if *seq == 2 { String::new() } else { versions::version_id(Lsn(*seq), [1; 8]) };
                let row = version(BUCKET, key, *seq, &id, seq % 3 == 0);
                versions::put_version(overlay, &row).unwrap();
            }
        });
        let mut request = VersionsRequest {
            bucket: BUCKET, prefix: prefix.clone(), delimiter: delimiter.into(), max, ..VersionsRequest::default()
        };
        let (mut shown, mut prefixes) = (Vec::new(), Vec::new());
        loop {
            let page = list_versions(&kv, &request).unwrap();
            prop_assert!(page.versions.len() + page.prefixes.len() <= max);
            shown.extend(page.versions.into_iter().map(|(row, latest)| (row.key, row.seq, latest)));
            prefixes.extend(page.prefixes);
            let Some((key, version)) = page.next else { break };
            (request.key_marker, request.version_marker) = (key, version);
            prop_assert!(shown.len() <= versions.len() && prefixes.len() <= versions.len());
        }
        let keys: BTreeSet<String> = versions.iter().map(|(key, _)| key.clone()).collect();
        let wanted = naive(&keys, &super::tests::request(&prefix, delimiter, "", 0));
        let mut wanted_versions = Vec::new();
        for (key, _) in wanted.iter().filter(|(_, rolled_up)| !rolled_up) {
            let newest = versions.iter().filter(|(other, _)| other == key).rev();
            wanted_versions.extend(newest.enumerate().map(|(n, (key, seq))| (key.clone(), *seq, n == 0)));
        }
        prop_assert_eq!(shown, wanted_versions);
        let wanted: Vec<String> = wanted.into_iter().filter(|item| item.1).map(|item| item.0).collect();
        prop_assert_eq!(prefixes, wanted);
    }

    /// A page may end at a version that is gone when the next one is asked for: nothing is shown twice, and nothing left out.
    #[test]
    fn a_page_goes_on_after_a_version_that_is_gone(count in 2u64..6, at in 1u64..6) {
        let marker = versions::version_id(Lsn(at), [1; 8]);
        let kv = store(|overlay| {
            for seq in (1..=count).filter(|seq| *seq != at) {
                let row = version(BUCKET, "k", seq, &versions::version_id(Lsn(seq), [1; 8]), false);
                versions::put_version(overlay, &row).unwrap();
            }
        });
        let request = VersionsRequest {
            bucket: BUCKET, key_marker: "k".into(), version_marker: Some(marker), max: 9, ..VersionsRequest::default()
        };
        let page = list_versions(&kv, &request).unwrap();
        let shown: Vec<(u64, bool)> = page.versions.iter().map(|(row, latest)| (row.seq, *latest)).collect();
        let rest = (1..=count).rev().filter(|seq| *seq < at);
        let wanted: Vec<(u64, bool)> = rest.map(|seq| (seq, at >= count && seq == count - u64::from(at == count))).collect();
        prop_assert_eq!(shown, wanted);
    }

    #[test]
    fn pages_of_uploads_add_up(
        uploads in prop::collection::btree_set((key(), 0u64..4), 0..20), prefix in part_of_key(), max in 1usize..5,
        delimiter in prop::sample::select(vec!["", "/"]),
    ) {
        let kv = store(|overlay| {
            for (key, n) in &uploads {
                let name = UploadName { bucket: BUCKET.0, key: key.clone(), upload_id: format!("{n:x}") };
                overlay.put(UPLOADS, upload_key(&name), &UploadRow { name: Some(name.clone()), ..UploadRow::default() });
            }
        });
        let mut request = UploadsRequest {
            bucket: BUCKET, prefix: prefix.clone(), delimiter: delimiter.into(), max, ..UploadsRequest::default()
        };
        let (mut shown, mut prefixes) = (Vec::new(), Vec::new());
        loop {
            let page = list_uploads(&kv, &request).unwrap();
            shown.extend(page.uploads.into_iter().filter_map(|row| row.name).map(|name| (name.key, name.upload_id)));
            prefixes.extend(page.prefixes);
            let Some((key, upload)) = page.next else { break };
            (request.key_marker, request.upload_marker) = (key, upload);
            prop_assert!(shown.len() <= uploads.len() && prefixes.len() <= uploads.len());
        }
        let keys: BTreeSet<String> = uploads.iter().map(|(key, _)| key.clone()).collect();
        let wanted = naive(&keys, &super::tests::request(&prefix, delimiter, "", 0));
        let listed = |key: &String| wanted.contains(&(key.clone(), false));
        let wanted_uploads: Vec<(String, String)> =
            uploads.iter().filter(|(key, _)| listed(key)).map(|(key, n)| (key.clone(), format!("{n:x}"))).collect();
        prop_assert_eq!(shown, wanted_uploads);
        let wanted: Vec<String> = wanted.into_iter().filter(|item| item.1).map(|item| item.0).collect();
        prop_assert_eq!(prefixes, wanted);
    }
}

#[test]
fn a_marker_inside_a_common_prefix_shows_it_and_the_prefix_itself_does_not() {
    let keys = ["a", "d/1", "d/2", "e"].map(str::to_owned).into();
    let kv = store_of(&keys);
    let listed = |after: &str| items(&list(&kv, &request("", "/", after, 10)).unwrap());
    let (prefix, last) = (("d/".to_owned(), true), ("e".to_owned(), false));
    assert_eq!(listed("d/1"), [prefix.clone(), last.clone()]);
    assert_eq!(listed("d"), [prefix, last.clone()]);
    assert_eq!(listed("d/"), listed("d/2"));
    assert_eq!(listed("d/2"), [last]);
}

#[test]
fn deleted_keys_show_neither_themselves_nor_their_prefix() {
    let kv = store(|overlay| {
        for (key, seq, deleted) in [("d/1", 2, true), ("d/1", 1, false), ("e/1", 1, false), ("f", 3, true)] {
            let id = format!("v{seq}");
            overlay.put(OBJECTS, version_key(BUCKET, key, Lsn(seq)), &version(BUCKET, key, seq, &id, deleted));
        }
    });
    let page = list(&kv, &request("", "/", "", 10)).unwrap();
    assert_eq!(items(&page), [("e/".to_owned(), true)]);
}

proptest! {
    /// However few keys a page may pass over: the pages add up to what there is, and each prefix comes once.
    #[test]
    fn pages_that_end_among_deleted_keys_add_up(
        keys in prop::collection::btree_map(key(), (any::<bool>(), 1u64..4), 0..40),
        most in 0usize..4,
        max in 1usize..4,
        delimiter in prop_oneof![Just(""), Just("/")],
    ) {
        let kv = store(|overlay| {
            for (key, (alive, versions)) in &keys {
                for seq in 1..=*versions {
                    let row = version(BUCKET, key, seq, "v", seq == *versions && !alive);
                    overlay.put(OBJECTS, version_key(BUCKET, key, Lsn(seq)), &row);
                }
            }
        });
        let alive: BTreeSet<String> = keys.iter().filter(|(_, (alive, _))| *alive).map(|(key, _)| key.clone()).collect();
        let mut asked = request("", delimiter, "", max);
        let (wanted, mut found) = (naive(&alive, &asked), Vec::new());
        for _ in 0..200 {
            let page = list_within(&kv, &asked, most).unwrap();
            found.extend(items(&page));
            match page.next {
                Some(next) => asked.after = next,
                None => break,
            }
        }
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn a_page_of_versions_goes_on_at_the_newest_when_its_null_version_is_gone() {
    let kv = store(|overlay| {
        for seq in 1..=4 {
            let id = versions::version_id(Lsn(seq), [1; 8]);
            versions::put_version(overlay, &version(BUCKET, "k", seq, &id, false)).unwrap();
        }
    });
    let request = VersionsRequest {
        bucket: BUCKET,
        key_marker: "k".to_owned(),
        version_marker: Some("null".to_owned()),
        max: 9,
        ..VersionsRequest::default()
    };
    let page = list_versions(&kv, &request).unwrap();
    let found: Vec<(u64, bool)> = page.versions.iter().map(|(row, latest)| (row.seq, *latest)).collect();
    assert_eq!(found, [(4, true), (3, false), (2, false), (1, false)]);
}

#[test]
fn pages_of_parts() {
    let name = UploadName { bucket: BUCKET.0, key: "k".into(), upload_id: "u".into() };
    let other = UploadName { upload_id: "u2".into(), ..name.clone() };
    let kv = store(|overlay| {
        overlay.put(UPLOADS, upload_key(&name), &UploadRow { name: Some(name.clone()), ..UploadRow::default() });
        for (upload, number) in [(&name, 1), (&name, 300), (&name, 10_000), (&other, 2)] {
            let content = Some(Content::default());
            let row = PartRow { upload: Some(upload.clone()), number, content, ..PartRow::default() };
            overlay.put(UPLOADS, part_key(upload, number), &row);
        }
    });
    let page = |after, max| {
        let page = list_parts(&kv, &PartsRequest { upload: name.clone(), after, max }).unwrap().unwrap();
        (page.parts.iter().map(|part| part.number).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(page(0, 2), (vec![1, 300], Some(300)));
    assert_eq!(page(300, 2), (vec![10_000], None));
    assert_eq!(page(1, 2), (vec![300, 10_000], None));
    assert_eq!(page(0, 0), (vec![], None));
    assert_eq!(page(u32::MAX, 5), (vec![], None));
    assert_eq!(list_parts(&kv, &PartsRequest { upload: other, after: 0, max: 1 }).unwrap(), None);
}

/// Counts the rows that scans read.
#[derive(Debug)]
struct Counting(MemoryKv, std::sync::atomic::AtomicUsize);

struct CountingScan<'a>(Box<dyn KvIterator + 'a>, &'a std::sync::atomic::AtomicUsize);

impl KvIterator for CountingScan<'_> {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, KvError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.next()
    }

    fn seek(&mut self, key: &[u8]) {
        self.0.seek(key);
    }
}

impl Kv for Counting {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.0.get(family, key)
    }

    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        self.0.write(batch)
    }

    fn scan(&self, family: Family, start: &[u8], way: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        Ok(Box::new(CountingScan(self.0.scan(family, start, way)?, &self.1)))
    }

    fn flush(&self) -> Result<(), KvError> {
        self.0.flush()
    }

    fn stats(&self) -> KvStats {
        self.0.stats()
    }
}

#[test]
fn a_delimiter_seeks_past_its_prefixes() {
    let keys: BTreeSet<String> = (0..20_000).map(|n| format!("{:02}/{n:06}", n % 20)).collect();
    let kv = Counting(store_of(&keys), 0.into());
    let page = list(&kv, &request("", "/", "", 1000)).unwrap();
    assert_eq!(page.prefixes.len(), 20);
    let read = kv.1.load(std::sync::atomic::Ordering::Relaxed);
    assert!(read <= 22, "{read} rows read for 20 common prefixes");
}
