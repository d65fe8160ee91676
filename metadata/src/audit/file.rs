//! The files of a book of the audit log, and the thread that writes them: nobody who commits waits for its disk. Each book has its own,
//! so that a flood of what was refused leaves no line of another book unwritten.

use super::{Book, FILE};
use codec::id::Lsn;
use serde_json::json;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written.
const WAITING: usize = 8192;
/// Lines are on the disk after so long.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    lines: SyncSender<String>,
    missed: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn open(directory: &Path, book: Book, applied: Lsn) -> io::Result<Log> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let (lines, waiting) = sync_channel(WAITING);
        let missed = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::open(directory, book, Arc::clone(&missed))?;
        writer.put(&json!({ "what": "start", "lsn": applied.0 }).to_string())?;
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Log { lines, missed })
    }

    /// Writes a line soon.
    pub(super) fn write(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    directory: PathBuf,
    book: Book,
    file: File,
    size: u64,
    missed: Arc<AtomicU64>,
    unsynced: bool,
}

impl Writer {
    fn open(directory: &Path, book: Book, missed: Arc<AtomicU64>) -> io::Result<Writer> {
        let path = directory.join(book.name());
        let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        if size > 0 {
            // A line that a crash has cut short must not run into the next one.
            file.write_all(b"\n")?;
        }
        Ok(Writer { directory: directory.to_owned(), book, file, size, missed, unsynced: false })
    }

    /// Until nobody is left who writes.
    fn run(mut self, waiting: &Receiver<String>) {
        loop {
            match waiting.recv_timeout(SYNC_EVERY) {
                Ok(line) => self.line(&line),
                Err(RecvTimeoutError::Timeout) => self.sync(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.sync();
    }

    fn line(&mut self, line: &str) {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        let told = if missed == 0 {
            Ok(())
        } else {
            let text = json!({ "what": "missed", "lines": missed, "see": "the journal" }).to_string();
            self.put(&text)
        };
        if let Err(error) = told.and_then(|()| self.put(line)) {
            tracing::error!(%error, "the audit log can't be written; what happened is in the journal");
            self.missed.fetch_add(missed + 1, Ordering::Relaxed);
        }
    }

    fn put(&mut self, line: &str) -> io::Result<()> {
        if self.size + line.len() as u64 > FILE {
            self.rotate()?;
        }
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.size += line.len() as u64 + 1;
        self.unsynced = true;
        Ok(())
    }

    fn sync(&mut self) {
        if !std::mem::take(&mut self.unsynced) {
            return;
        }
        if let Err(error) = self.file.sync_data() {
            tracing::error!(%error, "the audit log was not synced; what happened is in the journal");
        }
    }

    /// Begins another file. The oldest goes. Where the new one could not be opened the last time, as on a full disk, each has its
    /// number already: to count up again for each line that is tried would throw one file after the other away.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync();
        let current = self.directory.join(self.book.name());
        if current.try_exists()? {
            self.count_up(&current)?;
        }
        *self = Writer::open(&self.directory, self.book, Arc::clone(&self.missed))?;
        Ok(())
    }

    fn count_up(&self, current: &Path) -> io::Result<()> {
        let name = self.book.name();
        let numbered = |number: u32| self.directory.join(format!("{name}.{number}"));
        for number in (1..self.book.files().saturating_sub(1)).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(current, numbered(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const BOOK: Book = Book::Changes;
    const NAME: &str = "audit.log";

    fn writer(dir: &Path) -> Writer {
        Writer::open(dir, BOOK, Arc::default()).unwrap()
    }

    #[test]
    fn a_log_goes_on_after_a_start_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        for lsn in [7, 9] {
            let log = Log::open(&path, BOOK, Lsn(lsn)).unwrap();
            log.write(json!({ "what": "x" }).to_string());
            drop(log);
            let written = || lines(&path.join(NAME)).last().is_some_and(|line| line["what"] == "x");
            while !written() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let all = lines(&path.join(NAME));
        let starts: Vec<_> =
            all.iter().filter(|line| line["what"] == "start").map(|line| line["lsn"].clone()).collect();
        assert_eq!(starts, [7, 9]);
    }

    #[test]
    fn what_was_not_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        writer.missed.fetch_add(3, Ordering::Relaxed);
        writer.line("{\"what\":\"x\"}");
        writer.line("{\"what\":\"y\"}");
        let all = lines(&dir.path().join(NAME));
        assert_eq!((all[0]["lines"].clone(), all.len()), (json!(3), 3));
    }

    #[test]
    fn files_are_so_many_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        for number in 0..BOOK.files() + 5 {
            writer.size = FILE;
            writer.put(&json!({ "number": number }).to_string()).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), BOOK.files() as usize);
        assert_eq!(lines(&dir.path().join(NAME))[0]["number"], BOOK.files() + 4);
        assert_eq!(lines(&dir.path().join(format!("{NAME}.1")))[0]["number"], BOOK.files() + 3);
    }

    /// A disk that is full, or no more open files: what was written stays, and the log goes on once a file can be made again.
    #[test]
    fn a_file_that_could_not_be_begun_costs_none_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path());
        for number in 0..BOOK.files() {
            writer.size = FILE;
            writer.put(&json!({ "number": number }).to_string()).unwrap();
        }
        let newest = BOOK.files() - 1;
        // As it is when the files were counted up and the new one could not be opened.
        let current = dir.path().join(NAME);
        writer.count_up(&current).unwrap();
        std::os::unix::fs::symlink(dir.path().join("none/none"), &current).unwrap();
        writer.size = FILE;
        for _ in 0..10 {
            writer.line(&json!({ "number": "lost" }).to_string());
        }
        std::fs::remove_file(&current).unwrap();
        writer.line(&json!({ "number": "next" }).to_string());
        let number = |path: &str, at: usize| lines(&dir.path().join(path))[at]["number"].clone();
        assert_eq!(number(&format!("{NAME}.1"), 0), newest);
        assert_eq!(number(&format!("{NAME}.2"), 0), newest - 1);
        assert_eq!(lines(&dir.path().join(NAME))[0]["lines"], 10);
        assert_eq!(number(NAME, 1), "next");
    }
}
