//! The index store on RocksDB.
//!
//! Every write goes to the write-ahead log and none is synced. Recovery is to a point in time, so that what survives
//! a crash is a prefix of the batches, across all families; the modes that skip damaged records are never used. A store that
//! others rely on to have kept what it synced (the Raft log) is not opened without it ([`RocksKv::open_promised`]).
//! Memory is bounded: one block cache (which holds index and filter blocks too) and one budget of write buffers for
//! all families.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBRawIteratorWithThreadMode, DBRecoveryMode, DBWithThreadMode, ErrorKind, LogLevel, MultiThreaded, Options,
    ReadOptions, WriteBatch, WriteOptions,
};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Direction, Family, Kv, KvBatch, KvError, KvIterator, KvStats};

type Db = DBWithThreadMode<MultiThreaded>;

/// RocksDB's own family that every store has; it stays empty.
const DEFAULT_FAMILY: &str = "default";

/// Our lock beside RocksDB's own `LOCK`, so that "in use" is an answer and not a message to search.
const LOCK_FILE: &str = "stele.lock";

/// Says that the store was found damaged while it was open. RocksDB opens a store with a bad block of rows as if it were
/// whole: without this file the next start would open it again, and fail again at the same row.
const DAMAGED_FILE: &str = "stele.damaged";

/// An i/o error with less than this left on the file system, in bytes, is taken for a full one: RocksDB's binding
/// tells the two apart only in its message.
const NEARLY_FULL: u64 = 1 << 20;

/// How much memory a [`RocksKv`] may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Cache of blocks, with index and filter blocks among them, in bytes. Taken only as it fills.
    pub block_cache: usize,
    /// Write buffers of all families together, in bytes. Taken only as they fill.
    pub write_buffers: usize,
    /// Files kept open.
    pub open_files: u32,
}

impl Default for RocksOptions {
    /// 64 MiB of cache, 32 MiB of write buffers, 512 files.
    fn default() -> Self {
        Self { block_cache: 64 << 20, write_buffers: 32 << 20, open_files: 512 }
    }
}

/// An index store on RocksDB.
pub struct RocksKv {
    // Dropped in this order: what is left is removed when the store is closed, and the lock goes last.
    db: Db,
    cache: Cache,
    families: Vec<Family>,
    options: RocksOptions,
    path: PathBuf,
    /// [`DAMAGED_FILE`] was left, or it was tried.
    marked: AtomicBool,
    left: Left,
    _lock: OwnedFd,
}

/// The directory of a store that is closed.
struct Left {
    path: PathBuf,
    is_unneeded: AtomicBool,
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.is_unneeded.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "an index that nobody needs can't be removed; the next start does it");
        }
    }
}

impl std::fmt::Debug for RocksKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksKv").field("path", &self.path).field("families", &self.families).finish_non_exhaustive()
    }
}

impl RocksKv {
    /// Opens the store in a directory, creating both if needed, with these families. Families that a newer version
    /// left in it are kept and not offered.
    pub fn open(path: &Path, families: &[Family], options: RocksOptions) -> Result<Self, KvError> {
        Self::open_as(path, families, options, DBRecoveryMode::PointInTime)
    }

    /// The same for a store of which nothing that was synced may be missing, and which can't be made anew: damage in the middle of
    /// its write-ahead log is an error, where [`Self::open`] begins with what came before the damage.
    pub fn open_promised(path: &Path, families: &[Family], options: RocksOptions) -> Result<Self, KvError> {
        Self::open_as(path, families, options, DBRecoveryMode::TolerateCorruptedTailRecords)
    }

    fn open_as(
        path: &Path,
        families: &[Family],
        options: RocksOptions,
        recovery: DBRecoveryMode,
    ) -> Result<Self, KvError> {
        let lock = lock(path)?;
        if path.join(DAMAGED_FILE).exists() {
            let detail = "it was found damaged while it was in use".to_owned();
            return Err(KvError::Corrupt { path: path.display().to_string(), detail });
        }
        let cache = Cache::new_lru_cache(options.block_cache);
        let mut db_options = db_options(&options);
        db_options.set_wal_recovery_mode(recovery);
        let names = all_families(path, families, &db_options)?;
        let descriptors =
            names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, family_options(&options, &cache)));
        let db = Db::open_cf_descriptors(&db_options, path, descriptors).map_err(|e| open_error(path, e))?;
        Ok(Self {
            db,
            cache,
            families: families.to_vec(),
            options,
            path: path.to_owned(),
            marked: AtomicBool::new(false),
            left: Left { path: path.to_owned(), is_unneeded: AtomicBool::new(false) },
            _lock: lock,
        })
    }

    /// Has the directory removed when the store is closed, that is, with its last owner: another one has taken its place, durably.
    pub fn remove_when_closed(&self) {
        self.left.is_unneeded.store(true, Ordering::Release);
    }

    /// Removes a store that no process has open; one that does not exist is fine.
    pub fn destroy(path: &Path) -> Result<(), KvError> {
        if !path.exists() {
            return Ok(());
        }
        let _lock = lock(path)?;
        fs::remove_dir_all(path).map_err(|e| io_error(path, &e))
    }

    fn family(&self, family: Family) -> Result<Arc<BoundColumnFamily<'_>>, KvError> {
        if !self.families.contains(&family) {
            return Err(KvError::UnknownFamily(family));
        }
        self.db.cf_handle(family).ok_or(KvError::UnknownFamily(family))
    }

    fn error(&self, error: rocksdb::Error) -> KvError {
        let error = sort_error(&self.path, error);
        if matches!(error, KvError::Corrupt { .. }) && !self.marked.swap(true, Ordering::Relaxed) {
            self.mark_damaged(&error);
        }
        error
    }

    /// Leaves [`DAMAGED_FILE`], as well as it can: where even that fails, the next start meets the damage by itself.
    fn mark_damaged(&self, error: &KvError) {
        tracing::error!(%error, "an index is damaged; the next start rebuilds it");
        let mark = || {
            let mut file = fs::File::create(self.path.join(DAMAGED_FILE))?;
            std::io::Write::write_all(&mut file, error.to_string().as_bytes())?;
            file.sync_all()?;
            fs::File::open(&self.path)?.sync_all()
        };
        if let Err(error) = mark() {
            tracing::warn!(%error, "could not note that an index is damaged");
        }
    }

    /// Drops every family, whatever version made it, and begins those of this one again.
    fn renew_families(&self) -> Result<(), rocksdb::Error> {
        for name in Db::list_cf(&db_options(&self.options), &self.path)? {
            if name != DEFAULT_FAMILY {
                self.db.drop_cf(&name)?;
            }
        }
        self.families
            .iter()
            .try_for_each(|family| self.db.create_cf(family, &family_options(&self.options, &self.cache)))
    }

    fn property(&self, family: Family, name: &str) -> u64 {
        let Ok(handle) = self.family(family) else { return 0 };
        self.db.property_int_value_cf(&handle, name).ok().flatten().unwrap_or(0)
    }
}

fn lock(path: &Path) -> Result<OwnedFd, KvError> {
    fs::create_dir_all(path).map_err(|e| io_error(path, &e))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path.join(LOCK_FILE), flags, Mode::from(0o600)).map_err(|e| io_error(path, &e.into()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(KvError::Locked { path: path.display().to_string() }),
        Err(e) => Err(io_error(path, &e.into())),
    }
}

/// The families asked for and those that are there: RocksDB opens only with all of them.
fn all_families(path: &Path, families: &[Family], options: &Options) -> Result<BTreeSet<String>, KvError> {
    let mut names: BTreeSet<String> = families.iter().map(|name| (*name).to_owned()).collect();
    names.insert(DEFAULT_FAMILY.to_owned());
    if path.join("CURRENT").exists() {
        names.extend(Db::list_cf(options, path).map_err(|e| open_error(path, e))?);
    } else if has_manifest(path)? {
        // RocksDB would begin a new store among the files of the old one.
        let detail = "the file CURRENT is missing".to_owned();
        return Err(KvError::Corrupt { path: path.display().to_string(), detail });
    }
    Ok(names)
}

fn has_manifest(path: &Path) -> Result<bool, KvError> {
    for entry in fs::read_dir(path).map_err(|e| io_error(path, &e))? {
        let name = entry.map_err(|e| io_error(path, &e))?.file_name();
        if name.to_string_lossy().starts_with("MANIFEST") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn db_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_paranoid_checks(true);
    db.set_db_write_buffer_size(options.write_buffers);
    // The log is what a crash recovery replays; without a bound a rarely written family keeps all of it alive.
    db.set_max_total_wal_size(4 * options.write_buffers as u64);
    db.set_max_open_files(i32::try_from(options.open_files).unwrap_or(i32::MAX));
    db.set_bytes_per_sync(1 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 << 20);
    db.set_stats_dump_period_sec(0);
    db
}

fn family_options(options: &RocksOptions, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Bloom while data is young and short-lived, ribbon (a third smaller, slower to build) once it has settled.
    blocks.set_hybrid_ribbon_filter(10.0, 1);
    blocks.set_block_size(16 << 10);
    let mut family = Options::default();
    family.set_block_based_table_factory(&blocks);
    family.set_write_buffer_size((options.write_buffers / 4).max(64 << 10));
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_paranoid_checks(true);
    family
}

fn io_error(path: &Path, error: &std::io::Error) -> KvError {
    let (path, detail) = (path.display().to_string(), error.to_string());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => KvError::Full { path, detail },
        _ => KvError::Io { path, detail },
    }
}

/// An error of a store that is open.
fn sort_error(path: &Path, error: rocksdb::Error) -> KvError {
    let detail = error.to_string();
    let place = path.display().to_string();
    match error.kind() {
        ErrorKind::Corruption => KvError::Corrupt { path: place, detail },
        ErrorKind::IOError if says_full(&detail) || nearly_full(path) => KvError::Full { path: place, detail },
        _ => KvError::Io { path: place, detail },
    }
}

/// An error while opening. Missing or unreadable pieces show as several kinds there; what they have in common is that
/// the store will not open, and it is disposable. Only trouble around the store (no room, a failing disk) is kept apart.
fn open_error(path: &Path, error: rocksdb::Error) -> KvError {
    match error.kind() {
        // First: the file that had no room is removed again, so that there may be some now, and nothing is missing or damaged.
        ErrorKind::IOError if says_full(error.as_ref()) => sort_error(path, error),
        ErrorKind::NotFound | ErrorKind::InvalidArgument | ErrorKind::NotSupported | ErrorKind::Incomplete => {
            KvError::Corrupt { path: path.display().to_string(), detail: error.to_string() }
        }
        // A file that the manifest names and that is not there is reported as an i/o error.
        ErrorKind::IOError if !nearly_full(path) && is_readable(path) => {
            KvError::Corrupt { path: path.display().to_string(), detail: error.to_string() }
        }
        _ => sort_error(path, error),
    }
}

/// RocksDB's own words, whatever the language of the system, and those of a quota.
fn says_full(detail: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|words| detail.contains(words))
}

fn nearly_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < NEARLY_FULL)
}

/// Whether every file of the store can be opened and its first bytes read: if so, an i/o error while opening is about
/// what is missing, not about the disk.
fn is_readable(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.into_iter().all(|entry| {
        let Ok(entry) = entry else { return false };
        if entry.path().is_dir() {
            return true;
        }
        let mut first = [0; 512];
        fs::File::open(entry.path()).and_then(|mut file| std::io::Read::read(&mut file, &mut first)).is_ok()
    })
}

impl Kv for RocksKv {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let row = self.db.get_pinned_cf(&self.family(family)?, key).map_err(|e| self.error(e))?;
        Ok(row.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, KvError> {
        let rows = self.db.batched_multi_get_cf(&self.family(family)?, keys, false);
        rows.into_iter()
            .map(|row| Ok(row.map_err(|e| self.error(e))?.map(|value| Bytes::copy_from_slice(&value))))
            .collect()
    }

    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        let mut rocks = WriteBatch::default();
        for change in batch.changes() {
            let family = self.family(change.family)?;
            match &change.value {
                Some(value) => rocks.put_cf(&family, &change.key, value),
                None => rocks.delete_cf(&family, &change.key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(false);
        self.db.write_opt(rocks, &options).map_err(|e| self.error(e))
    }

    fn scan(&self, family: Family, start: &[u8], direction: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        let rows = self.db.raw_iterator_cf_opt(&self.family(family)?, options);
        let mut scan = RocksScan { store: self, rows, direction };
        scan.seek(start);
        Ok(Box::new(scan))
    }

    fn scan_together(&self, families: &[Family]) -> Result<Vec<Box<dyn KvIterator + '_>>, KvError> {
        // The iterators keep what they need of the snapshot's moment; the snapshot itself may go.
        let snapshot = self.db.snapshot();
        let scan = |family: &Family| {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.set_snapshot(&snapshot);
            // Every row is read once: they are not to push out the rows that are in use.
            options.fill_cache(false);
            let mut rows = self.db.raw_iterator_cf_opt(&self.family(family)?, options);
            rows.seek_to_first();
            Ok(Box::new(RocksScan { store: self, rows, direction: Direction::Forward }) as Box<dyn KvIterator>)
        };
        families.iter().map(scan).collect()
    }

    fn flush(&self) -> Result<(), KvError> {
        self.db.flush_wal(true).map_err(|e| self.error(e))
    }

    fn checkpoint(&self, path: &Path) -> Result<(), KvError> {
        let copy = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(path));
        copy.map_err(|e| self.error(e))
    }

    fn clear(&self) -> Result<(), KvError> {
        self.renew_families().map_err(|e| self.error(e))?;
        // Only now: an interrupted clear leaves a store that still calls itself damaged.
        self.marked.store(false, Ordering::Relaxed);
        match fs::remove_file(self.path.join(DAMAGED_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(&self.path, &error)),
            _ => Ok(()),
        }
    }

    fn stats(&self) -> KvStats {
        let sum = |name| self.families.iter().map(|family| self.property(family, name)).sum::<u64>();
        KvStats {
            rows: sum("rocksdb.estimate-num-keys"),
            disk_bytes: sum("rocksdb.total-sst-files-size"),
            memory_bytes: self.cache.get_usage() as u64 + sum("rocksdb.cur-size-all-mem-tables"),
        }
    }
}

struct RocksScan<'a> {
    store: &'a RocksKv,
    /// Stands on the row that `next` will give.
    rows: DBRawIteratorWithThreadMode<'a, Db>,
    direction: Direction,
}

impl KvIterator for RocksScan<'_> {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, KvError> {
        let Some((key, value)) = self.rows.item() else {
            // An iterator ends at the end of the rows, and also where it could not read on.
            return self.rows.status().map(|()| None).map_err(|e| self.store.error(e));
        };
        let row = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        match self.direction {
            Direction::Forward => self.rows.next(),
            Direction::Backward => self.rows.prev(),
        }
        Ok(Some(row))
    }

    fn seek(&mut self, key: &[u8]) {
        match self.direction {
            Direction::Forward => self.rows.seek(key),
            Direction::Backward if key.is_empty() => self.rows.seek_to_last(),
            Direction::Backward => self.rows.seek_for_prev(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, FAMILIES};
    use super::*;

    fn small() -> RocksOptions {
        RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 32 }
    }

    fn one_row(key: &'static str, value: &[u8]) -> KvBatch {
        let mut batch = KvBatch::new();
        batch.put("one", key, value.to_vec());
        batch
    }

    /// A store whose directory goes when it is dropped.
    #[derive(Debug)]
    struct Temporary(RocksKv, #[allow(dead_code)] tempfile::TempDir);

    impl Kv for Temporary {
        fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
            self.0.get(family, key)
        }
        fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, KvError> {
            self.0.multi_get(family, keys)
        }
        fn write(&self, batch: KvBatch) -> Result<(), KvError> {
            self.0.write(batch)
        }
        fn scan(&self, f: Family, start: &[u8], d: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
            self.0.scan(f, start, d)
        }
        fn scan_together(&self, families: &[Family]) -> Result<Vec<Box<dyn KvIterator + '_>>, KvError> {
            self.0.scan_together(families)
        }
        fn flush(&self) -> Result<(), KvError> {
            self.0.flush()
        }
        fn stats(&self) -> KvStats {
            self.0.stats()
        }
    }

    #[test]
    fn conforms() {
        conformance::run(&|| {
            let dir = tempfile::tempdir().unwrap();
            Box::new(Temporary(RocksKv::open(dir.path(), FAMILIES, small()).unwrap(), dir))
        });
    }

    #[test]
    fn rows_survive_a_restart_and_new_families_can_be_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let kv = RocksKv::open(&path, &["one", "two"], small()).unwrap();
        kv.write(one_row("key", b"value")).unwrap();
        drop(kv);
        let kv = RocksKv::open(&path, &["one", "three"], small()).unwrap();
        assert_eq!(kv.get("one", b"key").unwrap().unwrap(), "value");
        assert_eq!(kv.get("three", b"key").unwrap(), None);
        assert_eq!(kv.get("two", b"key"), Err(KvError::UnknownFamily("two")));
    }

    #[test]
    fn a_second_opener_is_refused_and_destroy_removes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        RocksKv::destroy(&path).unwrap();
        let kv = RocksKv::open(&path, FAMILIES, small()).unwrap();
        assert!(matches!(RocksKv::open(&path, FAMILIES, small()), Err(KvError::Locked { .. })));
        assert!(matches!(RocksKv::destroy(&path), Err(KvError::Locked { .. })));
        drop(kv);
        RocksKv::destroy(&path).unwrap();
        assert!(!path.exists());
    }

    /// A store with one bad block of rows.
    fn with_a_bad_block(path: &Path) {
        let kv = RocksKv::open(path, FAMILIES, small()).unwrap();
        kv.write(one_row("key", &[7; 20_000])).unwrap();
        kv.db.flush_cf(&kv.family("one").unwrap()).unwrap();
        drop(kv);
        let mut tables = 0;
        for entry in fs::read_dir(path).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|e| e == "sst") {
                let mut bytes = fs::read(&file).unwrap();
                bytes[20] ^= 0xff;
                fs::write(&file, bytes).unwrap();
                tables += 1;
            }
        }
        assert!(tables > 0);
    }

    /// A block of rows went bad. The store opened all the same, and the first read of such a row failed: after every
    /// start again, until somebody removed the directory by hand.
    #[test]
    fn damage_that_was_met_in_use_is_known_to_the_next_opening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        with_a_bad_block(&path);
        let kv = RocksKv::open(&path, FAMILIES, small()).unwrap();
        assert!(matches!(kv.get("one", b"key"), Err(KvError::Corrupt { .. })));
        drop(kv);
        for _ in 0..2 {
            assert!(matches!(RocksKv::open(&path, FAMILIES, small()), Err(KvError::Corrupt { .. })));
        }
        RocksKv::destroy(&path).unwrap();
        let kv = RocksKv::open(&path, FAMILIES, small()).unwrap();
        assert_eq!(kv.get("one", b"key").unwrap(), None);
    }

    #[test]
    fn a_damaged_store_can_be_emptied_while_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        with_a_bad_block(&path);
        let kv = RocksKv::open(&path, FAMILIES, small()).unwrap();
        assert!(matches!(kv.get("one", b"key"), Err(KvError::Corrupt { .. })));
        kv.clear().unwrap();
        assert_eq!(kv.get("one", b"key").unwrap(), None);
        kv.write(one_row("key", b"again")).unwrap();
        drop(kv);
        let kv = RocksKv::open(&path, FAMILIES, small()).unwrap();
        assert_eq!(kv.get("one", b"key").unwrap().unwrap(), "again");
    }

    /// Whatever file is missing or overwritten, opening or reading says so or gives the right row: never a wrong one.
    #[test]
    fn damage_is_reported_as_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let fill = || {
            let kv = RocksKv::open(&path, FAMILIES, small()).unwrap();
            (0..200).for_each(|_| kv.write(one_row("key", &[7; 20_000])).unwrap());
        };
        fill();
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        let damaging = |name: &str| name == "CURRENT" || name.starts_with("MANIFEST") || name.ends_with(".sst");
        let mut tried = 0;
        for name in names.iter().map(|name| name.to_str().unwrap()).filter(|name| damaging(name)) {
            for overwrite in [false, true] {
                RocksKv::destroy(&path).unwrap();
                fill();
                let Ok(old) = fs::read(path.join(name)) else { continue };
                if overwrite {
                    fs::write(path.join(name), vec![0xa5; old.len()]).unwrap();
                } else {
                    fs::remove_file(path.join(name)).unwrap();
                }
                tried += 1;
                let read = RocksKv::open(&path, FAMILIES, small()).and_then(|kv| kv.get("one", b"key"));
                assert!(matches!(read, Err(KvError::Corrupt { .. })), "{name}, overwritten: {overwrite}: {read:?}");
            }
        }
        assert!(tried >= 4, "only {tried} cases");
    }
}
