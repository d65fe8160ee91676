//! A fixity report as PREMIS 3.0 (namespace `http://www.loc.gov/premis/v3`): an object of type `file` and an event of type
//! `fixity check` for each object version, one more of each for the report as a whole, and the agent Stele.
//!
//! The schema wants all objects before all events, and the report comes object by object: events go to a file without a name
//! until the objects are through.
//!
//! XML 1.0 can't hold most control characters, and readers change others. So in names (`objectIdentifierValue`,
//! `originalName`) the characters `%`, `?` and `#`, control characters, U+FFFE and U+FFFF are percent-encoded as UTF-8;
//! percent-decoding gives the key back. In other text such characters become U+FFFD.

use super::answers::{ChecksumLine, ObjectLine};
use super::report::{Scope, Tally, moment};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};

/// A report in the making.
#[derive(Debug)]
pub(super) struct Premis {
    /// Names this report in its events' identifiers.
    id: String,
    scope: String,
    began_ms: u64,
    events: BufWriter<File>,
    count: u64,
}

const AGENT: &str = "stele";

impl Premis {
    /// Begins the document. `events`: an empty file that is deleted when it is closed.
    pub fn begin(out: &mut dyn Write, scope: &Scope, began_ms: u64, id: String, events: File) -> io::Result<Premis> {
        let scope = format!("s3://{}/{}", scope.bucket, encoded(&scope.prefix));
        out.write_all(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")?;
        out.write_all(
            b"<premis:premis xmlns:premis=\"http://www.loc.gov/premis/v3\" \
              xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
              xsi:schemaLocation=\"http://www.loc.gov/premis/v3 https://www.loc.gov/standards/premis/v3/premis-v3-0.xsd\" \
              version=\"3.0\">\n",
        )?;
        // There is always this one: a document without an object is not valid, and an empty bucket has a report as well.
        let mut text = String::new();
        text.push_str("<premis:object xsi:type=\"premis:intellectualEntity\">");
        identifier(&mut text, "object", "S3 prefix", &scope);
        element(&mut text, "originalName", &scope);
        text.push_str("</premis:object>\n");
        out.write_all(text.as_bytes())?;
        Ok(Premis { id, scope, began_ms, events: BufWriter::new(events), count: 0 })
    }

    /// Writes an object, and keeps its event.
    pub fn object(&mut self, out: &mut dyn Write, line: &ObjectLine) -> io::Result<()> {
        let name = format!("s3://{}/{}?versionId={}", line.bucket, encoded(&line.key), encoded(&line.version));
        let mut text = String::new();
        text.push_str("<premis:object xsi:type=\"premis:file\">");
        identifier(&mut text, "object", "S3 URI", &name);
        text.push_str("<premis:objectCharacteristics>");
        let (algorithm, digest) = match line.etag.contains('-') {
            true => ("MD5 of the parts' MD5 (S3 multipart ETag)", &line.etag),
            false => ("MD5", &line.etag),
        };
        if !line.etag.is_empty() && !line.random_tag {
            fixity(&mut text, algorithm, digest);
        }
        for checksum in &line.checksums {
            fixity(&mut text, &digest_name(checksum), &checksum.hex);
        }
        element(&mut text, "size", &line.size.to_string());
        let format = if line.content_type.is_empty() { "application/octet-stream" } else { &line.content_type };
        text.push_str("<premis:format><premis:formatDesignation>");
        element(&mut text, "formatName", format);
        text.push_str("</premis:formatDesignation></premis:format></premis:objectCharacteristics>");
        element(&mut text, "originalName", &encoded(&line.key));
        text.push_str("</premis:object>\n");
        out.write_all(text.as_bytes())?;
        self.event(line, &name)
    }

    fn event(&mut self, line: &ObjectLine, name: &str) -> io::Result<()> {
        // Where every shard was verified, the check as a whole is as old as the oldest of them.
        let when = if line.outcome == "ok" { line.oldest_ms } else { None };
        let mut notes = vec![format!(
            "{}: {} shards and journal copies, {} verified, {} not verified since written, {} missing or damaged, \
             {} on drives that can't be asked{}{}{}",
            line.outcome,
            line.shards,
            line.verified,
            line.unverified,
            line.bad,
            line.unreachable,
            line.slack.map(|slack| format!("; {slack} more may be lost")).unwrap_or_default(),
            line.oldest_ms.map(|oldest| format!("; oldest verification {}", moment(oldest))).unwrap_or_default(),
            if line.detail.is_empty() { String::new() } else { format!("; {}", line.detail) },
        )];
        if line.unlisted > 0 {
            notes.push(format!("{} shards are counted and not listed", line.unlisted));
        }
        for stripe in &line.stripes {
            let mut note = format!("stripe {}, any {} shards are enough:", stripe.stripe, stripe.needed);
            for shard in &stripe.shards {
                let time =
                    if shard.verified_ms == 0 { String::new() } else { format!(" {}", moment(shard.verified_ms)) };
                let _ = write!(note, " shard {} on drive {} {}{time};", shard.index, shard.drive, shard.state);
            }
            notes.push(note);
        }
        for entry in &line.journal {
            let copies: Vec<String> =
                entry.copies.iter().map(|copy| format!("on drive {} {}", copy.drive, copy.state)).collect();
            notes.push(format!("journal entry {}: {}", entry.entry, copies.join("; ")));
        }
        self.count += 1;
        let mut text = String::new();
        event(&mut text, &self.id, self.count, when.unwrap_or(self.began_ms), outcome(&line.outcome), &notes);
        linking_object(&mut text, "S3 URI", name);
        text.push_str("</premis:event>\n");
        self.events.write_all(text.as_bytes())
    }

    /// Writes the events, the agent, and the end of the document.
    pub fn end(self, out: &mut dyn Write, tally: &Tally) -> io::Result<()> {
        let mut events = self.events.into_inner().map_err(io::IntoInnerError::into_error)?;
        events.rewind()?;
        io::copy(&mut BufReader::new(events), out)?;
        let mut text = String::new();
        let worst = tally.outcomes.keys().map(|word| outcome(word)).max_by_key(|word| rank(word)).unwrap_or("success");
        event(&mut text, &self.id, 0, self.began_ms, worst, &[super::text::summary(tally)]);
        linking_object(&mut text, "S3 prefix", &self.scope);
        text.push_str("</premis:event>\n<premis:agent>");
        identifier(&mut text, "agent", "local", AGENT);
        element(&mut text, "agentName", "Stele");
        element(&mut text, "agentType", "software");
        element(&mut text, "agentVersion", env!("CARGO_PKG_VERSION"));
        text.push_str("</premis:agent>\n</premis:premis>\n");
        out.write_all(text.as_bytes())
    }
}

/// PREMIS's words for our outcomes.
fn outcome(word: &str) -> &'static str {
    match word {
        "ok" => "success",
        "unverified" | "degraded" | "unknown" => "warning",
        _ => "fail",
    }
}

fn rank(word: &str) -> u8 {
    match word {
        "success" => 0,
        "warning" => 1,
        _ => 2,
    }
}

fn event(text: &mut String, report: &str, number: u64, when_ms: u64, outcome: &str, notes: &[String]) {
    text.push_str("<premis:event>");
    identifier(text, "event", "Stele fixity report", &format!("{report}/{number}"));
    element(text, "eventType", "fixity check");
    element(text, "eventDateTime", &moment(when_ms));
    text.push_str("<premis:eventDetailInformation>");
    element(
        text,
        "eventDetail",
        "From the object's shards: each is verified on the drive that holds it, read from the medium, against its block \
         checksums and the content hash in its stripe.",
    );
    text.push_str("</premis:eventDetailInformation><premis:eventOutcomeInformation>");
    element(text, "eventOutcome", outcome);
    for note in notes {
        text.push_str("<premis:eventOutcomeDetail>");
        element(text, "eventOutcomeDetailNote", note);
        text.push_str("</premis:eventOutcomeDetail>");
    }
    text.push_str("</premis:eventOutcomeInformation><premis:linkingAgentIdentifier>");
    element(text, "linkingAgentIdentifierType", "local");
    element(text, "linkingAgentIdentifierValue", AGENT);
    text.push_str("</premis:linkingAgentIdentifier>");
}

fn linking_object(text: &mut String, kind: &str, value: &str) {
    text.push_str("<premis:linkingObjectIdentifier>");
    element(text, "linkingObjectIdentifierType", kind);
    element(text, "linkingObjectIdentifierValue", value);
    text.push_str("</premis:linkingObjectIdentifier>");
}

fn identifier(text: &mut String, of: &str, kind: &str, value: &str) {
    let _ = write!(text, "<premis:{of}Identifier>");
    element(text, &format!("{of}IdentifierType"), kind);
    element(text, &format!("{of}IdentifierValue"), value);
    let _ = write!(text, "</premis:{of}Identifier>");
}

fn fixity(text: &mut String, algorithm: &str, digest: &str) {
    text.push_str("<premis:fixity>");
    element(text, "messageDigestAlgorithm", algorithm);
    element(text, "messageDigest", digest);
    text.push_str("</premis:fixity>");
}

fn digest_name(checksum: &ChecksumLine) -> String {
    let name = match checksum.algorithm.as_str() {
        "SHA1" => "SHA-1",
        "SHA256" => "SHA-256",
        other => other,
    };
    match checksum.kind.as_str() {
        "COMPOSITE" => format!("{name} of the parts' {name} (S3 COMPOSITE)"),
        _ => name.to_owned(),
    }
}

fn element(text: &mut String, name: &str, value: &str) {
    let _ = write!(text, "<premis:{name}>");
    for c in value.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            c if is_unfit(c) => text.push('\u{fffd}'),
            c => text.push(c),
        }
    }
    let _ = write!(text, "</premis:{name}>");
}

/// What XML 1.0 does not allow, or readers change: all control characters, and two that are no characters.
fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// A name, percent-encoded where it has to be.
fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if is_unfit(c) || matches!(c, '%' | '?' | '#') {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                }
                byte => out.push(byte),
            }
        }
        out
    }

    #[test]
    fn every_character_comes_back_from_a_name_and_none_of_it_is_unfit_for_xml() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let name = format!("a{c}b");
            let encoded = encoded(&name);
            assert_eq!(decoded(&encoded), name.as_bytes(), "{:x}", c as u32);
            assert!(!encoded.chars().any(is_unfit));
        }
        assert_eq!(encoded("grün/100%?\u{1}"), "grün/100%25%3F%01");
    }

    #[test]
    fn a_report_on_nothing_has_an_object() {
        let scope = Scope { bucket: "b".into(), prefix: String::new() };
        let mut out = Vec::new();
        let spool = tempfile::tempfile().unwrap();
        let premis = Premis::begin(&mut out, &scope, 0, "r".into(), spool).unwrap();
        premis.end(&mut out, &Tally::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("<premis:object ") && text.contains("1970-01-01T00:00:00Z"), "{text}");
        assert!(text.find("<premis:event>").unwrap() < text.find("<premis:agent>").unwrap());
    }

    /// A record that is kept for ever said that random bytes were an MD5, and every later check would have contradicted it.
    #[test]
    fn a_random_tag_is_no_digest() {
        let scope = Scope { bucket: "b".into(), prefix: String::new() };
        let text = |random_tag| {
            let mut out = Vec::new();
            let mut premis = Premis::begin(&mut out, &scope, 0, "r".into(), tempfile::tempfile().unwrap()).unwrap();
            let etag = "0123456789abcdef0123456789abcdef".to_owned();
            premis.object(&mut out, &ObjectLine { etag, random_tag, ..ObjectLine::default() }).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(text(false).contains("MD5"));
        assert!(!text(true).contains("MD5") && !text(true).contains("0123456789abcdef"));
    }

    #[test]
    fn what_the_text_has_is_escaped() {
        let mut text = String::new();
        element(&mut text, "x", "a<b>&\u{0}c");
        assert_eq!(text, "<premis:x>a&lt;b&gt;&amp;\u{fffd}c</premis:x>");
    }
}
