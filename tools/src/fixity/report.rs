//! `stele fixity`: asks the server for one page after the other, and writes what comes.

use super::answers::{ChecksumLine, FixityAnswer, FixityQuestion, ObjectLine};
use super::{csv, premis, text};
use crate::admin_client::{AdminClient, ClientError};
use crate::progress::{Progress, Unit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The bucket.
    pub bucket: String,
    /// Only keys that start so.
    pub prefix: String,
}

/// Not a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected BUCKET, BUCKET/PREFIX or s3://BUCKET/PREFIX")]
pub struct NoScope;

impl FromStr for Scope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Scope, NoScope> {
        let text = text.strip_prefix("s3://").unwrap_or(text);
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        match bucket.is_empty() {
            true => Err(NoScope),
            false => Ok(Scope { bucket: bucket.to_owned(), prefix: prefix.to_owned() }),
        }
    }
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: what is not well, and a summary.
    Text,
    /// RFC 4180, one record per object; the summary goes to standard error.
    Csv,
    /// JSON Lines: one line per object, and a summary in the last line.
    Json,
    /// A PREMIS 3.0 document: objects, fixity check events, and the agent.
    Premis,
}

/// What a report is to be.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// What it is about.
    pub scope: Scope,
    /// How it is written.
    pub format: Format,
    /// Where; `None`: standard output.
    pub out: Option<PathBuf>,
    /// Seal the journal and verify shards first.
    pub verify: bool,
}

/// Why there is no report. What was written until then does not look like a whole one: a file keeps its old content, CSV and
/// text have no summary, JSON Lines no last line, and the XML no end.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The output.
    #[error("{path}: {error}", path = path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Nothing was asked about: more likely a mistake in the prefix than a good end.
    #[error("no object of bucket {bucket} has a key that begins with {prefix:?}")]
    Nothing {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// No random bytes for the report's name.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// What a report comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Object versions.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many there are of each outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// When the shard that was verified longest ago was; absent while one was never verified.
    pub oldest_ms: Option<u64>,
    #[serde(skip)]
    unverified: bool,
}

impl Tally {
    fn add(&mut self, line: &ObjectLine) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(line.size);
        *self.outcomes.entry(line.outcome.clone()).or_default() += 1;
        self.unverified |= line.unverified > 0;
        self.oldest_ms = match self.unverified {
            true => None,
            false => self.oldest_ms.into_iter().chain(line.oldest_ms).min(),
        };
    }

    /// Every object is `ok`.
    pub fn is_well(&self) -> bool {
        self.outcomes.keys().all(|outcome| outcome == "ok")
    }
}

/// A line of JSON Lines.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum JsonLine<'a> {
    Object(&'a ObjectLine),
    Summary(&'a Tally),
}

/// Makes a report.
///
/// # Errors
/// The server, or the output. What is wrong with objects is in the report, and in what is returned.
pub async fn report(client: &AdminClient, options: &ReportOptions) -> Result<Tally, ReportError> {
    let mut question = FixityQuestion {
        bucket: options.scope.bucket.clone(),
        prefix: options.scope.prefix.clone(),
        verify: options.verify,
        ..FixityQuestion::default()
    };
    // A bar would be written over what goes to the same terminal.
    let on_terminal = io::IsTerminal::is_terminal(&io::stdout());
    let quiet = options.out.is_none() && (on_terminal || options.format == Format::Json);
    let progress = Progress::new("fixity", Unit::Things, quiet);
    if options.verify {
        progress.note("sealing the journal");
        // Journal copies have no shards that could be verified. A server that can't seal now still reports; what stays in
        // the journal is then not verified, and the report says so.
        if let Err(error @ ClientError::Refused { .. }) = client.seal(true).await {
            eprintln!("stele: the journal was not sealed: {error}");
        }
    }
    let mut page: FixityAnswer = client.send("/v1/fixity", &question).await?;
    let nothing = || {
        let Scope { bucket, prefix } = options.scope.clone();
        ReportError::Nothing { bucket, prefix }
    };
    if page.objects.is_empty() && page.next.is_none() && !options.scope.prefix.is_empty() {
        return Err(nothing());
    }
    let mut sink = Sink::open(options.out.as_deref())?;
    let mut writer = Writer::begin(options, &mut sink, page.began_ms)?;
    let mut tally = Tally::default();
    loop {
        for line in &page.objects {
            tally.add(line);
            writer.object(&mut sink, line)?;
        }
        progress.set(tally.objects, 0);
        if let Some(last) = page.objects.last() {
            progress.note(&last.key);
        }
        let Some(next) = page.next.take() else { break };
        question.after = Some(next);
        question.began_ms = Some(page.began_ms);
        page = client.send("/v1/fixity", &question).await?;
    }
    if tally.objects == 0 && !options.scope.prefix.is_empty() {
        return Err(nothing());
    }
    writer.end(&mut sink, &tally)?;
    sink.finish()?;
    progress.finish();
    let told = matches!(options.format, Format::Text | Format::Json) && options.out.is_none();
    if !told {
        eprintln!("{}", text::summary(&tally));
    }
    Ok(tally)
}

enum Writer {
    Text,
    Csv,
    Json,
    Premis(Box<premis::Premis>),
}

impl Writer {
    fn begin(options: &ReportOptions, sink: &mut Sink, began_ms: u64) -> Result<Writer, ReportError> {
        Ok(match options.format {
            Format::Text => Writer::Text,
            Format::Json => Writer::Json,
            Format::Csv => {
                sink.write(|out| csv::begin(out))?;
                Writer::Csv
            }
            Format::Premis => {
                let mut id = [0; 16];
                getrandom::fill(&mut id).map_err(ReportError::Random)?;
                // Beside the report there is room for it, which a small /tmp may not have.
                let beside = options.out.as_deref().map(directory_of).unwrap_or_else(std::env::temp_dir);
                let events = tempfile::tempfile_in(&beside);
                let events = events.map_err(|error| ReportError::Write { path: beside, error })?;
                let begin =
                    |out: &mut dyn Write| premis::Premis::begin(out, &options.scope, began_ms, hex::encode(id), events);
                Writer::Premis(Box::new(sink.write(begin)?))
            }
        })
    }

    fn object(&mut self, sink: &mut Sink, line: &ObjectLine) -> Result<(), ReportError> {
        sink.write(|out| match self {
            Writer::Text => text::object(out, line),
            Writer::Csv => csv::object(out, line),
            Writer::Json => json(out, &JsonLine::Object(line)),
            Writer::Premis(premis) => premis.object(out, line),
        })
    }

    fn end(self, sink: &mut Sink, tally: &Tally) -> Result<(), ReportError> {
        sink.write(|out| match self {
            Writer::Text => text::end(out, tally),
            Writer::Csv => Ok(()),
            Writer::Json => json(out, &JsonLine::Summary(tally)),
            Writer::Premis(premis) => premis.end(out, tally),
        })
    }
}

fn json(out: &mut dyn Write, line: &JsonLine<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Where a report goes. A file gets its name when the report is whole and durable. It names keys, so it stays what a temporary
/// file is: its owner's alone (mode 0600), whatever was there before.
struct Sink {
    out: Box<dyn Write>,
    path: PathBuf,
    part: Option<tempfile::NamedTempFile>,
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Sink, ReportError> {
        let Some(path) = path else {
            let out = Box::new(BufWriter::new(io::stdout()));
            return Ok(Sink { out, path: PathBuf::from("standard output"), part: None });
        };
        let failed = |error| ReportError::Write { path: path.to_owned(), error };
        // A device or a pipe must not be replaced.
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Sink { out: Box::new(BufWriter::new(file)), path: path.to_owned(), part: None });
        }
        let directory = directory_of(path);
        // What is most often wrong, said without the name of the file beside the report.
        std::fs::metadata(&directory).map_err(failed)?;
        let part = tempfile::Builder::new().prefix(".fixity-").tempfile_in(directory).map_err(failed)?;
        let file = part.as_file().try_clone().map_err(failed)?;
        Ok(Sink { out: Box::new(BufWriter::new(file)), path: path.to_owned(), part: Some(part) })
    }

    fn write<T>(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> Result<T, ReportError> {
        let done = write(&mut *self.out);
        done.map_err(|error| ReportError::Write { path: self.path.clone(), error })
    }

    fn finish(mut self) -> Result<(), ReportError> {
        let failed = |error| ReportError::Write { path: self.path.clone(), error };
        self.out.flush().map_err(failed)?;
        let Some(part) = self.part else { return Ok(()) };
        part.as_file().sync_all().map_err(failed)?;
        part.persist(&self.path).map_err(|error| failed(error.error))?;
        // Without it a power cut could bring the report before this one back.
        File::open(directory_of(&self.path)).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A time, in UTC.
pub(super) fn moment(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// A checksum's algorithm, and whether it is one of the parts' checksums.
pub(super) fn checksum_name(checksum: &ChecksumLine) -> String {
    match checksum.kind.as_str() {
        "COMPOSITE" => format!("{}-COMPOSITE", checksum.algorithm),
        _ => checksum.algorithm.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Option<(String, String)> {
        text.parse::<Scope>().ok().map(|scope| (scope.bucket, scope.prefix))
    }

    #[test]
    fn a_scope_is_a_bucket_and_perhaps_a_prefix() {
        let of = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(scope("b"), of("b", ""));
        assert_eq!(scope("b/"), of("b", ""));
        assert_eq!(scope("s3://b/2026/x y"), of("b", "2026/x y"));
        assert_eq!(scope("s3://"), None);
        assert_eq!(scope("/x"), None);
    }

    #[test]
    fn a_tally_has_an_oldest_time_only_if_everything_was_verified() {
        let line = |outcome: &str, oldest_ms, unverified| ObjectLine {
            outcome: outcome.to_owned(),
            oldest_ms,
            unverified,
            ..ObjectLine::default()
        };
        let mut tally = Tally::default();
        tally.add(&line("ok", Some(7), 0));
        tally.add(&line("ok", None, 0));
        tally.add(&line("ok", Some(5), 0));
        assert!(tally.is_well() && tally.oldest_ms == Some(5));
        tally.add(&line("unverified", None, 2));
        tally.add(&line("ok", Some(5), 0));
        assert!(!tally.is_well() && tally.oldest_ms.is_none());
    }

    #[test]
    fn a_file_keeps_its_content_until_the_report_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report");
        std::fs::write(&path, "old").unwrap();
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.write(|out| out.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(sink);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.write(|out| out.write_all(b"new")).unwrap();
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "others could read every key");
    }
}
