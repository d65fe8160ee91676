//! The audit log: who changed what access, lock or policy there is, and who deleted what, with the request's id and where it came from.
//!
//! What happened is in the journal, and for ever: each change is an entry of it, and the ledger proves that none is missing. This log
//! adds who asked for it. It is written by the metadata node that leads, as lines of JSON in files of its own.
//!
//! Invariants
//! * A change is written after its entry is durable, with an LSN at or after the entry's; one that was refused is written, too, with
//!   the reason. What the node's own lanes delete, by the rules of a bucket, is written as theirs. Who hangs up before
//!   the answer is written down like who waits for it (`service/telling.rs`).
//! * Nothing is lost without being said: when lines can't be written as fast as they come, or the disk refuses them, the next line
//!   that is written says how many there are not. Each start writes a line that says at which LSN it begins.
//! * The log is bounded: [`FILE`] bytes a file, and so many files of each [`Book`]; the oldest goes. What costs nothing to bring about,
//!   as a refusal or a session, is in books of its own, and no line is longer than some kilobytes: else whoever wants something
//!   forgotten would ask for what he may not have until it is.
//! * No secret is in it: of policies and keys it has the names.

mod file;
mod told;

use crate::command::{Command, Outcome};
use crate::iam::Ask;
use crate::index::View;
use codec::id::Lsn;
use file::Log;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use storage_node::trace;
pub(crate) use told::Told;

/// Bytes of a file before the next one is begun.
pub const FILE: u64 = 64 << 20;

/// What a line is about. Each has files of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Book {
    /// Changes of access, lock, policy, keys, quotas and buckets.
    Changes,
    /// Versions that are gone, or can't be seen any more.
    Deletions,
    /// Temporary credentials that were given out.
    Sessions,
    /// What came to nothing: refusals, and deletions of what was not there.
    Refused,
}

impl Book {
    /// All of them.
    pub const ALL: [Book; 4] = [Book::Changes, Book::Deletions, Book::Sessions, Book::Refused];

    /// The file that is written to.
    pub fn name(self) -> &'static str {
        match self {
            Book::Changes => "audit.log",
            Book::Deletions => "deletions.log",
            Book::Sessions => "sessions.log",
            Book::Refused => "refused.log",
        }
    }

    /// Files that are kept.
    pub fn files(self) -> u32 {
        match self {
            Book::Changes | Book::Deletions => 6,
            Book::Sessions | Book::Refused => 2,
        }
    }
}

tokio::task_local! {
    static ASKER: Arc<OnceLock<AskedBy>>;
}

/// Who asks for what the calling task does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedBy {
    /// Its ARN; `operator` for one over the admin port; empty for nobody who says so.
    pub by: String,
    /// The access key that signed; empty for others.
    pub access_key: String,
    /// The address that it came from; empty where that is not known.
    pub from: String,
}

/// Runs a future that finds out in the course of things who asks.
pub fn scope<F: Future>(future: F) -> impl Future<Output = F::Output> {
    ASKER.scope(Arc::default(), future)
}

/// Runs a future for one who asks.
pub fn within<F: Future>(by: AskedBy, future: F) -> impl Future<Output = F::Output> {
    ASKER.scope(Arc::new(OnceLock::from(by)), future)
}

/// Says who asks for what the calling task does. Who was named first stays.
pub fn asks(by: AskedBy) {
    // Outside of a scope nobody wants to know.
    let _ = ASKER.try_with(|asker| drop(asker.set(by)));
}

/// Who asks, as far as it is known.
pub fn asker() -> Option<AskedBy> {
    ASKER.try_with(|asker| asker.get().cloned()).ok().flatten()
}

/// The log of a node, once it is opened. Until then nothing is written.
#[derive(Debug, Default)]
pub struct Audit {
    books: OnceLock<BTreeMap<Book, Log>>,
}

impl Audit {
    /// Writes to files in a directory from now on. A second call changes nothing.
    ///
    /// # Errors
    /// The directory can't be made, or the file not be opened.
    pub fn open(&self, directory: &Path, applied: Lsn) -> io::Result<()> {
        if self.books.get().is_none() {
            let open = |book| Ok((book, Log::open(directory, book, applied)?));
            let books: io::Result<_> = Book::ALL.into_iter().map(open).collect();
            // Another one that was opened meanwhile writes to the same files.
            let _ = self.books.set(books?);
        }
        Ok(())
    }

    /// Whether anything is written.
    pub(crate) fn is_open(&self) -> bool {
        self.books.get().is_some()
    }

    /// What there will be to tell of a command, over the rows as they are before it; empty where nothing is written of it.
    pub(crate) fn about(&self, command: &Command, view: &dyn View) -> Vec<Told> {
        match self.books.get() {
            Some(_) => told::of(command, view),
            None => Vec::new(),
        }
    }

    /// The same of temporary credentials that somebody asks for, which are no command.
    pub(crate) fn about_session(&self, account: &str, action: &str, ask: &Ask, access_key: &str) -> Vec<Told> {
        match self.books.get() {
            Some(_) => vec![told::session(account, action, ask, access_key)],
            None => Vec::new(),
        }
    }

    /// Writes what came of a command.
    pub(crate) fn note(
        &self,
        mut told: Vec<Told>,
        by: &AskedBy,
        applied: Lsn,
        wall_ms: u64,
        came: Result<&Outcome, String>,
    ) {
        let Some(books) = self.books.get() else { return };
        told.extend(told::of_outcome(&came));
        if told.is_empty() {
            return;
        }
        let trace = trace::current().map(|trace| trace.to_string()).unwrap_or_default();
        for (book, line) in told::lines(&told, by, &trace, (applied, wall_ms), came) {
            if let Some(log) = books.get(&book) {
                log.write(line);
            }
        }
    }
}
