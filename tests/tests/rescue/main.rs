//! `stele rescue`: a real server writes, is killed, loses its index, its key and as many drives as may be lost; every object
//! comes back from the directories that are left, byte for byte, and nothing is written to them.

#![allow(clippy::unwrap_used, missing_docs)]

mod store;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use store::Store;
use tests::s3::Random;

/// Every file below the drives: length, time of last change, and content.
fn picture(drives: &[PathBuf]) -> BTreeMap<PathBuf, (u64, i64, i64, blake3::Hash)> {
    let mut files = BTreeMap::new();
    let mut directories: Vec<PathBuf> = drives.to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let meta = fs::metadata(&path).unwrap();
            let hash = blake3::hash(&fs::read(&path).unwrap());
            files.insert(path, (meta.len(), meta.mtime(), meta.mtime_nsec(), hash));
        }
    }
    files
}

/// Flips a bit in every 40th block of a drive's segments, headers of segments included.
fn rot(drive: &Path, seed: u64) -> usize {
    let mut random = Random::new(seed);
    let mut flips = 0;
    for class in ["segments", "journal"] {
        for entry in fs::read_dir(drive.join(class)).unwrap() {
            let path = entry.unwrap().path();
            let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let blocks = file.metadata().unwrap().len() / 4096;
            for _ in 0..blocks.div_ceil(40) {
                let at = random.below(blocks) * 4096 + random.below(4096);
                let mut byte = [0];
                file.seek(SeekFrom::Start(at)).unwrap();
                file.read_exact(&mut byte).unwrap();
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&[byte[0] ^ (1 << random.below(8))]).unwrap();
                flips += 1;
            }
        }
    }
    flips
}

/// A copy of the drives, so that each loss begins with the same ones.
fn copied(from: &[PathBuf], to: &Path) -> Vec<PathBuf> {
    from.iter()
        .enumerate()
        .map(|(n, drive)| {
            let target = to.join(n.to_string());
            for class in ["segments", "journal"] {
                fs::create_dir_all(target.join(class)).unwrap();
                for entry in fs::read_dir(drive.join(class)).unwrap() {
                    let path = entry.unwrap().path();
                    fs::copy(&path, target.join(class).join(path.file_name().unwrap())).unwrap();
                }
            }
            for name in ["identity", "register"] {
                fs::copy(drive.join(name), target.join(name)).unwrap();
            }
            target
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_from_the_drives_that_are_left() {
    let mut store = Store::new(6);
    let server = store.config.start().await;
    store.fill_sealed().await;
    store.config.seal().await;
    store.fill_unsealed().await;
    server.kill().await;

    // Nothing but drives is left: no index, and the key in another place.
    fs::remove_dir_all(store.config.index()).unwrap();
    let key = store.directory.path().join("kek");
    fs::rename(store.config.data.join("keys/kek"), &key).unwrap();
    let drives: Vec<PathBuf> = (0..6).map(|n| store.config.drive(n)).collect();

    // m = 2 drives lost; which two changes which shards and which journal copies are left.
    for (n, lost) in [[0, 1], [1, 3], [4, 5]].into_iter().enumerate() {
        let left: Vec<PathBuf> =
            drives.iter().enumerate().filter(|(i, _)| !lost.contains(i)).map(|(_, d)| d.clone()).collect();
        let before = picture(&left);
        let rescued = store.rescue(&left, &format!("two-{n}"), &["--key-file", key.to_str().unwrap()]).await;
        assert_eq!(rescued.code, 0, "{rescued:?}");
        assert_eq!(rescued.number("rescued"), store.objects.len() as u64);
        assert_eq!(
            rescued.number("proved_by_chunk_ids") + rescued.number("proved_by_digest"),
            rescued.number("rescued")
        );
        assert!(rescued.number("renamed") > 0 && rescued.number("open_uploads") == 1, "{rescued:?}");
        store.compare(&rescued, |_| true);
        assert_eq!(picture(&left), before, "a drive was written to");
    }

    without_the_key(&store, &drives[2..]).await;
    more_than_may_be_lost(&store, &drives, &key).await;
    rotten_drives(&store, &drives, &key).await;
    one_prefix(&store, &drives, &key).await;
    refusals(&store, &drives, &key).await;
}

/// Plaintext objects come back, proved by their tags; encrypted ones are named as lost.
async fn without_the_key(store: &Store, drives: &[PathBuf]) {
    let rescued = store.rescue(drives, "no-key", &[]).await;
    assert_eq!(rescued.code, 2, "{rescued:?}");
    let encrypted = store.objects.keys().filter(|(bucket, key)| Store::is_encrypted(bucket, key)).count() as u64;
    assert!(encrypted > 3);
    assert_eq!(rescued.number("lost"), encrypted, "{rescued:?}");
    assert_eq!(rescued.number("proved_by_digest"), store.objects.len() as u64 - encrypted, "{rescued:?}");
    store.compare(&rescued, |(bucket, key)| !Store::is_encrypted(bucket, key));
}

/// Three of six drives: what comes back is as it was, and the exit code and the report say that something is missing. Which
/// drives the journal was on is chance, so that all of the namespace may be gone, or some stripes only.
async fn more_than_may_be_lost(store: &Store, drives: &[PathBuf], key: &Path) {
    let mut some = 0;
    for left in [[3, 4, 5], [0, 4, 5], [0, 1, 2], [1, 3, 5]] {
        let here: Vec<PathBuf> = left.iter().map(|n: &usize| drives[*n].clone()).collect();
        let out = format!("three-{}{}{}", left[0], left[1], left[2]);
        let rescued = store.rescue(&here, &out, &["--key-file", key.to_str().unwrap()]).await;
        assert_eq!((rescued.code, &rescued.report["complete"]), (2, &false.into()), "{rescued:?}");
        assert!(!rescued.report["doubts"].as_array().unwrap().is_empty(), "{rescued:?}");
        let came = store.compare_what_came(&rescued).len() as u64;
        assert_eq!(came, rescued.number("rescued"));
        assert!(came < store.objects.len() as u64, "all of it, from half of the drives");
        some += came;
    }
    assert!(some > 0, "nothing from any three drives");
}

/// One drive gone and one that rots everywhere: as many as may be lost.
async fn rotten_drives(store: &Store, drives: &[PathBuf], key: &Path) {
    for seed in 0..3 {
        let to = store.directory.path().join(format!("rotten-{seed}"));
        let left = copied(&drives[1..], &to);
        let flips = rot(&left[seed as usize], seed);
        fs::remove_file(left[4].join("identity")).unwrap();
        let rescued = store.rescue(&left, &format!("rot-{seed}"), &["--key-file", key.to_str().unwrap()]).await;
        assert!(rescued.number("lost") == 0 && rescued.number("rescued") == store.objects.len() as u64, "{rescued:?}");
        assert_eq!(rescued.code, 0, "{flips} flips: {rescued:?}");
        store.compare(&rescued, |_| true);
        fs::remove_dir_all(&to).unwrap();
    }
}

async fn one_prefix(store: &Store, drives: &[PathBuf], key: &Path) {
    let key = key.to_str().unwrap();
    let rescued = store.rescue(drives, "prefix", &["--key-file", key, "--prefix", "plain/sealed/"]).await;
    assert_eq!(rescued.code, 0, "{rescued:?}");
    store.compare(&rescued, |(bucket, key)| bucket == "plain" && key.starts_with("sealed/"));
}

async fn refusals(store: &Store, drives: &[PathBuf], key: &Path) {
    // What is there is never written over.
    let again = store.rescue_raw(drives, "prefix", &[]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let bucket = store.rescue_raw(drives, "nothing", &["--prefix", "no-such-bucket"]).await;
    assert_eq!(bucket.status.code(), Some(1), "{bucket:?}");
    // The key of another cluster would make every object look lost.
    let other = store.directory.path().join("other-key");
    fs::copy(key, &other).unwrap();
    fs::write(&other, "11".repeat(32)).unwrap();
    let foreign = store.rescue_raw(drives, "foreign", &["--key-file", other.to_str().unwrap()]).await;
    assert_eq!(foreign.status.code(), Some(1), "{foreign:?}");
    let nowhere = store.rescue_raw(&[store.directory.path().join("nowhere")], "nowhere-out", &[]).await;
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
}

/// What was put while one of the two keys was not there has its domain's keys under the other one alone. Whoever has the wrong one of
/// them gets what is not encrypted all the same, as he would with none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_does_not_open_a_domain_takes_nothing_away() {
    let mut store = Store::new(3);
    store.config.start().await.kill().await;
    let key = store.directory.path().join("kek");
    fs::rename(store.config.data.join("keys/kek"), &key).unwrap();
    let server = store.config.start().await;
    store.fill_few().await;
    server.kill().await;
    let drives: Vec<PathBuf> = (0..3).map(|n| store.config.drive(n)).collect();
    let rescued = store.rescue(&drives, "one-key", &["--key-file", key.to_str().unwrap()]).await;
    assert_eq!((rescued.number("lost"), rescued.number("proved_by_digest")), (1, 3), "{rescued:?}");
    store.compare(&rescued, |(bucket, key)| !Store::is_encrypted(bucket, key));
}
