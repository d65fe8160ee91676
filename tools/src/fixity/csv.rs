//! A fixity report as CSV (RFC 4180): UTF-8, a header, one record per object version, CRLF between them.
//!
//! A spreadsheet takes a cell that begins with `=` for a formula and runs it, and whoever may put an object chooses its key.
//! So a text that came from a client and begins with a character that may begin a formula gets an apostrophe in front, and so
//! does one that begins with an apostrophe: taking one apostrophe off the front, where there is one, gives the exact text.

use super::answers::ObjectLine;
use super::report::{checksum_name, moment};
use std::io::{self, Write};

/// The columns.
const COLUMNS: [&str; 20] = [
    "bucket",
    "key",
    "version",
    "modified",
    "size",
    "content_type",
    "etag",
    "checksums",
    "encrypted",
    "outcome",
    "slack",
    "oldest_verified",
    "shards",
    "verified",
    "unverified",
    "bad",
    "unreachable",
    "shard_states",
    "unlisted",
    "detail",
];

/// What may begin a formula in some spreadsheet, the wide forms included; and the apostrophe, so that it can be undone.
const DEFUSED: [char; 12] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\''];

/// Writes the header.
pub(super) fn begin(out: &mut dyn Write) -> io::Result<()> {
    record(out, COLUMNS.iter().map(|column| (*column).to_owned()))
}

/// Writes an object's record.
pub(super) fn object(out: &mut dyn Write, line: &ObjectLine) -> io::Result<()> {
    let checksums: Vec<String> =
        line.checksums.iter().map(|sum| format!("{}={}", checksum_name(sum), sum.hex)).collect();
    let fields = [
        defused(&line.bucket),
        defused(&line.key),
        defused(&line.version),
        moment(line.modified_ms),
        line.size.to_string(),
        defused(&line.content_type),
        defused(&line.etag),
        checksums.join(";"),
        line.encrypted.to_string(),
        line.outcome.clone(),
        line.slack.map(|slack| slack.to_string()).unwrap_or_default(),
        line.oldest_ms.map(moment).unwrap_or_default(),
        line.shards.to_string(),
        line.verified.to_string(),
        line.unverified.to_string(),
        line.bad.to_string(),
        line.unreachable.to_string(),
        states(line),
        line.unlisted.to_string(),
        defused(&line.detail),
    ];
    record(out, fields)
}

/// A text that no spreadsheet takes for a formula.
fn defused(text: &str) -> String {
    let quote = if text.starts_with(DEFUSED) { "'" } else { "" };
    format!("{quote}{text}")
}

/// Every listed shard and journal copy: `stripe/index@drive=state`, with `:time` where it was verified.
fn states(line: &ObjectLine) -> String {
    let mut states = Vec::new();
    for stripe in &line.stripes {
        for shard in &stripe.shards {
            let time = if shard.verified_ms == 0 { String::new() } else { format!(":{}", moment(shard.verified_ms)) };
            states.push(format!("{}/{}@{}={}{time}", stripe.stripe, shard.index, shard.drive, shard.state));
        }
    }
    for entry in &line.journal {
        states.extend(entry.copies.iter().map(|copy| format!("journal/{}@{}={}", entry.entry, copy.drive, copy.state)));
    }
    states.join(" ")
}

fn record(out: &mut dyn Write, fields: impl IntoIterator<Item = String>) -> io::Result<()> {
    for (n, field) in fields.into_iter().enumerate() {
        if n > 0 {
            out.write_all(b",")?;
        }
        match field.contains(['"', ',', '\r', '\n']) {
            true => write!(out, "\"{}\"", field.replace('"', "\"\""))?,
            false => out.write_all(field.as_bytes())?,
        }
    }
    out.write_all(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_commas_and_line_ends_are_quoted() {
        let mut out = Vec::new();
        let line = ObjectLine { bucket: "b".into(), key: "a,\"b\"\r\nc".into(), ..ObjectLine::default() };
        object(&mut out, &line).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("b,\"a,\"\"b\"\"\r\nc\",,"), "{text}");
        assert!(text.ends_with("\r\n"));
        let mut header = Vec::new();
        begin(&mut header).unwrap();
        let commas = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b',').count();
        // The key has a comma of its own.
        assert_eq!(commas(&header) + 1, commas(text.as_bytes()));
    }

    /// `=HYPERLINK(...)` as a key was a formula for whoever opened the report.
    #[test]
    fn no_text_of_a_client_is_a_formula() {
        for key in
            ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\u{ff1d}1", "'=1", "''", "a=1", "", "\u{e9}"]
        {
            let line =
                ObjectLine { key: key.into(), content_type: key.into(), slack: Some(-1), ..ObjectLine::default() };
            let mut out = Vec::new();
            object(&mut out, &line).unwrap();
            let text = String::from_utf8(out).unwrap();
            let cell = text.trim_start_matches(',').split(',').next().unwrap().trim_matches('"');
            if !key.is_empty() {
                assert_eq!(cell.strip_prefix('\'').unwrap_or(cell), key, "the exact key can be had: {cell:?}");
                assert!(!cell.starts_with(&DEFUSED[..11]), "{cell:?}");
            }
            assert!(text.contains(",-1,"), "numbers are left alone: {text}");
        }
    }
}
