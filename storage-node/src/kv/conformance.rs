//! What every index store must do; each implementation's tests run it.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

use super::{Direction, Family, Kv, KvBatch, KvError, KvIterator};

pub(super) const FAMILIES: &[Family] = &["one", "two"];

/// Runs the suite; `open` gives an empty store with [`FAMILIES`].
pub(super) fn run(open: &dyn Fn() -> Box<dyn Kv>) {
    reads_what_was_written(open().as_ref());
    families_are_apart(open().as_ref());
    batches_are_ordered_and_atomic(open().as_ref());
    scans_go_both_ways(open().as_ref());
    scans_see_one_moment(open().as_ref());
    scans_together_see_the_same_moment(open().as_ref());
    unknown_families_are_refused(open().as_ref());
    agrees_with_a_map(open);
}

fn collect(scan: &mut dyn KvIterator) -> Vec<String> {
    std::iter::from_fn(|| scan.next().unwrap()).map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

fn put_all(kv: &dyn Kv, family: Family, keys: &[&'static str]) {
    let mut batch = KvBatch::new();
    keys.iter().for_each(|key| batch.put(family, *key, *key));
    kv.write(batch).unwrap();
}

fn reads_what_was_written(kv: &dyn Kv) {
    assert_eq!(kv.get("one", b"a").unwrap(), None);
    put_all(kv, "one", &["a", "b"]);
    assert_eq!(kv.get("one", b"a").unwrap(), Some(Bytes::from("a")));
    let many = kv.multi_get("one", &[b"b", b"x", b"a", b"b"]).unwrap();
    assert_eq!(many, [Some(Bytes::from("b")), None, Some(Bytes::from("a")), Some(Bytes::from("b"))]);
    assert_eq!(kv.multi_get("one", &[]).unwrap(), []);
    let mut batch = KvBatch::new();
    batch.put("one", "", "");
    batch.delete("one", "a");
    batch.delete("one", "never there");
    kv.write(batch).unwrap();
    assert_eq!(kv.get("one", b"").unwrap(), Some(Bytes::new()), "empty keys and values are rows");
    assert_eq!(kv.get("one", b"a").unwrap(), None);
    kv.write(KvBatch::new()).unwrap();
    kv.flush().unwrap();
    kv.stats();
}

fn families_are_apart(kv: &dyn Kv) {
    put_all(kv, "one", &["a"]);
    assert_eq!(kv.get("two", b"a").unwrap(), None);
    assert_eq!(collect(kv.scan("two", b"", Direction::Forward).unwrap().as_mut()), [""; 0]);
}

fn batches_are_ordered_and_atomic(kv: &dyn Kv) {
    let mut batch = KvBatch::new();
    batch.put("one", "k", "1");
    batch.delete("one", "k");
    batch.put("one", "k", "2");
    batch.put("two", "gone", "1");
    let mut more = KvBatch::new();
    more.delete("two", "gone");
    batch.append(more);
    assert_eq!((batch.len(), batch.is_empty()), (5, false));
    kv.write(batch).unwrap();
    assert_eq!(kv.get("one", b"k").unwrap(), Some(Bytes::from("2")));
    assert_eq!(kv.get("two", b"gone").unwrap(), None);

    let mut batch = KvBatch::new();
    batch.put("one", "k", "3");
    batch.put("unknown", "k", "3");
    assert_eq!(kv.write(batch), Err(KvError::UnknownFamily("unknown")));
    assert_eq!(kv.get("one", b"k").unwrap(), Some(Bytes::from("2")), "a refused batch changes nothing");
}

fn scans_go_both_ways(kv: &dyn Kv) {
    put_all(kv, "one", &["b", "d", "f", "ff"]);
    let scan = |start: &str, direction| collect(kv.scan("one", start.as_bytes(), direction).unwrap().as_mut());
    assert_eq!(scan("", Direction::Forward), ["b", "d", "f", "ff"]);
    assert_eq!(scan("d", Direction::Forward), ["d", "f", "ff"]);
    assert_eq!(scan("e", Direction::Forward), ["f", "ff"]);
    assert_eq!(scan("g", Direction::Forward), [""; 0]);
    assert_eq!(scan("", Direction::Backward), ["ff", "f", "d", "b"]);
    assert_eq!(scan("f", Direction::Backward), ["f", "d", "b"]);
    assert_eq!(scan("e", Direction::Backward), ["d", "b"]);
    assert_eq!(scan("a", Direction::Backward), [""; 0]);

    let mut forward = kv.scan("one", b"", Direction::Forward).unwrap();
    assert_eq!(forward.next().unwrap().unwrap().0, "b");
    forward.seek(b"e");
    assert_eq!(forward.next().unwrap().unwrap().0, "f");
    forward.seek(b"c");
    assert_eq!(collect(forward.as_mut()), ["d", "f", "ff"]);
    assert_eq!(forward.next().unwrap(), None, "the end stays the end");
    forward.seek(b"f");
    assert_eq!(collect(forward.as_mut()), ["f", "ff"]);
    let mut backward = kv.scan("one", b"", Direction::Backward).unwrap();
    backward.seek(b"e");
    assert_eq!(collect(backward.as_mut()), ["d", "b"]);
    backward.seek(b"");
    assert_eq!(collect(backward.as_mut()), ["ff", "f", "d", "b"]);
}

fn scans_see_one_moment(kv: &dyn Kv) {
    put_all(kv, "one", &["a", "c"]);
    let mut scan = kv.scan("one", b"", Direction::Forward).unwrap();
    let mut batch = KvBatch::new();
    batch.put("one", "b", "b");
    batch.delete("one", "c");
    kv.write(batch).unwrap();
    assert_eq!(collect(scan.as_mut()), ["a", "c"]);
}

fn scans_together_see_the_same_moment(kv: &dyn Kv) {
    put_all(kv, "one", &["a", "b"]);
    put_all(kv, "two", &["c"]);
    let mut scans = kv.scan_together(&["two", "one", "two"]).unwrap();
    put_all(kv, "one", &["b2"]);
    put_all(kv, "two", &["d"]);
    let mut batch = KvBatch::new();
    batch.delete("one", "a");
    kv.write(batch).unwrap();
    let seen: Vec<Vec<String>> = scans.iter_mut().map(|scan| collect(scan.as_mut())).collect();
    assert_eq!(seen, [vec!["c"], vec!["a", "b"], vec!["c"]]);
    assert!(matches!(kv.scan_together(&["one", "three"]), Err(KvError::UnknownFamily("three"))));
}

fn unknown_families_are_refused(kv: &dyn Kv) {
    assert_eq!(kv.get("unknown", b"k"), Err(KvError::UnknownFamily("unknown")));
    assert_eq!(kv.multi_get("unknown", &[b"k"]), Err(KvError::UnknownFamily("unknown")));
    let refused = kv.scan("unknown", b"", Direction::Forward).map(|_| ());
    assert_eq!(refused, Err(KvError::UnknownFamily("unknown")));
}

type Change = (bool, Vec<u8>, Option<Vec<u8>>);

/// Random batches give the same rows as a map does, from every start and in both directions.
fn agrees_with_a_map(open: &dyn Fn() -> Box<dyn Kv>) {
    let key = || prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x61, 0xff]), 0..4);
    let change = (any::<bool>(), key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..4)));
    let input = (prop::collection::vec(prop::collection::vec(change, 0..12), 0..6), key());
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    runner
        .run(&input, |(batches, start)| {
            let kv = open();
            compare(kv.as_ref(), &batches, &start);
            Ok(())
        })
        .unwrap();
}

fn compare(kv: &dyn Kv, batches: &[Vec<Change>], start: &[u8]) {
    let mut model = [BTreeMap::new(), BTreeMap::new()];
    for changes in batches {
        let mut batch = KvBatch::new();
        for (second, key, value) in changes {
            let family = FAMILIES[usize::from(*second)];
            match value {
                Some(value) => {
                    batch.put(family, key.clone(), value.clone());
                    model[usize::from(*second)].insert(key.clone(), value.clone());
                }
                None => {
                    batch.delete(family, key.clone());
                    model[usize::from(*second)].remove(key);
                }
            }
        }
        kv.write(batch).unwrap();
    }
    for (family, model) in FAMILIES.iter().zip(&model) {
        let scan = |direction| {
            let mut scan = kv.scan(family, start, direction).unwrap();
            let rows = std::iter::from_fn(|| scan.next().unwrap());
            rows.map(|(k, v)| (k.to_vec(), v.to_vec())).collect::<Vec<_>>()
        };
        let row = |(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), v.clone());
        let forward: Vec<_> = model.range(start.to_vec()..).map(row).collect();
        let to_start = |key: &Vec<u8>| start.is_empty() || key.as_slice() <= start;
        let backward: Vec<_> = model.iter().rev().filter(|(k, _)| to_start(k)).map(row).collect();
        assert_eq!(scan(Direction::Forward), forward);
        assert_eq!(scan(Direction::Backward), backward);
        for (key, value) in model {
            assert_eq!(kv.get(family, key).unwrap().as_deref(), Some(value.as_slice()));
        }
    }
}
