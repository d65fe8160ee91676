//! A fixity report for people: what is not well, and a summary.

use super::answers::ObjectLine;
use super::report::{Tally, moment};
use std::io::{self, Write};

/// Writes a line for an object that is not well.
pub(super) fn object(out: &mut dyn Write, line: &ObjectLine) -> io::Result<()> {
    if line.outcome == "ok" {
        return Ok(());
    }
    let slack = line.slack.map(|slack| format!(", slack {slack}")).unwrap_or_default();
    let detail = if line.detail.is_empty() { String::new() } else { format!("  {}", line.detail) };
    let version = match line.version.as_str() {
        "null" | "" => String::new(),
        id => format!("?versionId={id}"),
    };
    writeln!(
        out,
        "{:<10}  {}/{}{}  {} shards: {} verified, {} not verified, {} bad, {} can't be asked{slack}{}",
        line.outcome,
        line.bucket,
        printable(&line.key),
        version,
        line.shards,
        line.verified,
        line.unverified,
        line.bad,
        line.unreachable,
        printable(&detail),
    )
}

/// Writes the summary.
pub(super) fn end(out: &mut dyn Write, tally: &Tally) -> io::Result<()> {
    writeln!(out, "{}", summary(tally))
}

/// The summary in one line.
pub(super) fn summary(tally: &Tally) -> String {
    let outcomes: Vec<String> = tally.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let oldest = match tally.oldest_ms {
        Some(oldest) => format!("; oldest verification {}", moment(oldest)),
        None => String::new(),
    };
    let outcomes = if outcomes.is_empty() { String::new() } else { format!(": {}", outcomes.join(", ")) };
    format!("{} objects, {} bytes{outcomes}{oldest}", tally.objects, tally.bytes)
}

/// Control characters, which a key may have, do not reach a terminal.
fn printable(words: &str) -> String {
    words.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
