//! Which line of a configuration file a failing path or address comes from.
//!
//! Errors of the system name a path; whoever has to mend it edits a line. This is for messages only: where a file can't be read any
//! more, they are as they were.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Values shorter than this are not looked for: a message has them for other reasons.
const SHORTEST: usize = 4;

/// A value of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    /// The key, with those of the tables around it.
    key: String,
    /// The line, from 1.
    line: usize,
    /// As it is written there; empty of a table.
    text: String,
}

/// The lines of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    file: PathBuf,
    values: Vec<Value>,
}

/// Where something comes from: ` (KEY in FILE:LINE)`, or nothing where that is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct From(Option<(String, PathBuf, usize)>);

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((key, file, line)) => write!(f, " ({key} in {}:{line})", file.display()),
            None => Ok(()),
        }
    }
}

impl Places {
    /// Of a file; none where it can't be read, or is no TOML.
    pub fn of(file: &Path) -> Places {
        let text = crate::config_file::text(file).unwrap_or_default();
        let mut values = Vec::new();
        if let Ok(table) = DeTable::parse(&text) {
            let line = |span: Range<usize>| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
            walk(table.get_ref(), "", &line, &mut values);
        }
        Places { file: file.to_owned(), values }
    }

    /// The line of a key, such as `placement.survive`; of the first, where there are several.
    pub fn line(&self, key: &str) -> Option<usize> {
        self.values.iter().find(|value| value.key == key).map(|value| value.line)
    }

    /// The path or address of the file that a message names, the longest if it names several. A message that names the file itself
    /// needs no more.
    pub fn named_in(&self, message: &str) -> From {
        if self.values.is_empty() || message.contains(&*self.file.to_string_lossy()) {
            return From::default();
        }
        let values = self.values.iter().filter(|value| !value.text.is_empty());
        let found = values.map(|value| (self.len_in(message, value), value)).filter(|(len, _)| *len > 0);
        let longest = found.max_by_key(|(len, _)| *len);
        From(longest.map(|(_, value)| (value.key.clone(), self.file.clone(), value.line)))
    }

    /// How much of a message is this value, as it is written or as a path beside the file; 0: it is not there.
    fn len_in(&self, message: &str, value: &Value) -> usize {
        let beside = crate::config_file::beside(&self.file, Path::new(&value.text));
        let as_used = [value.text.clone(), beside.to_string_lossy().into_owned()];
        as_used.iter().filter(|text| is_named(message, text)).map(String::len).max().unwrap_or(0)
    }
}

fn walk(table: &DeTable<'_>, within: &str, line: &impl Fn(Range<usize>) -> usize, values: &mut Vec<Value>) {
    for (name, value) in table {
        let key = if within.is_empty() { name.get_ref().to_string() } else { format!("{within}.{}", name.get_ref()) };
        found(&key, value, line(name.span()), line, values);
    }
}

fn found(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    at: usize,
    line: &impl Fn(Range<usize>) -> usize,
    values: &mut Vec<Value>,
) {
    let mut add = |text: &str| values.push(Value { key: key.to_owned(), line: at, text: text.to_owned() });
    match value.get_ref() {
        DeValue::String(text) => add(text),
        DeValue::Table(table) => {
            add("");
            walk(table, key, line, values);
        }
        DeValue::Array(items) => {
            add("");
            items.iter().for_each(|item| found(key, item, line(item.span()), line, values));
        }
        _ => add(""),
    }
}

/// Whether a message has this path or address in it, and not as a part of another one's name. What is below a directory belongs to it.
fn is_named(message: &str, text: &str) -> bool {
    let is_place = text.contains('/') || text.contains(':');
    let of_a_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let alone = |at: usize| {
        let (before, after) =
            (message.get(..at).unwrap_or_default(), message.get(at + text.len()..).unwrap_or_default());
        let mut after = after.chars();
        let next = after.next();
        // A full stop ends the sentence, or goes on with a name.
        let ends = match next {
            Some('.') => !after.next().is_some_and(of_a_name),
            next => !next.is_some_and(of_a_name),
        };
        ends && !before.ends_with(|c: char| of_a_name(c) || c == '/')
    };
    is_place && text.len() >= SHORTEST && message.match_indices(text).any(|(at, _)| alone(at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r#"role = "storage-node"
listen = "127.0.0.1:9100"
state = "state"
drives = [
    "/mnt/d1",
    "/mnt/d10",
]

[placement]
survive = "rack"

[[node]]
name = "n2"
address = "localhost:9100"
"#;

    #[test]
    fn a_path_is_followed_to_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, TEXT).unwrap();
        let places = Places::of(&file);
        let line = |key: &str| places.line(key);
        assert_eq!(
            (line("drives"), line("placement.survive"), line("node"), line("rack")),
            (Some(4), Some(10), Some(12), None)
        );
        let named = |message: &str| places.named_in(message).to_string().replace(&*file.to_string_lossy(), "FILE");
        assert_eq!(named("/mnt/d1: no such directory"), " (drives in FILE:5)");
        assert_eq!(named("/mnt/d10/identity: permission denied"), " (drives in FILE:6)");
        assert_eq!(named("the drive is at /mnt/d1."), " (drives in FILE:5)");
        for other in ["/mnt/d11: no", "/srv/mnt/d1: no", "/mnt/d1.old: no", "state", "rack", "n2 does not answer", ""] {
            assert_eq!(named(other), "", "{other}");
        }
        let state = dir.path().join("state").display().to_string();
        assert_eq!(named(&format!("{state}/used.toml: {state} is read-only")), " (state in FILE:3)");
        assert_eq!(named("127.0.0.1:9100: address in use"), " (listen in FILE:2)");
        assert_eq!(named("localhost:9100 refuses"), " (node.address in FILE:14)");
        assert_eq!(named(&format!("{}:5: drives: /mnt/d1", file.display())), "", "it is named already");
        std::fs::write(&file, "role = ").unwrap();
        assert_eq!(Places::of(&file).named_in("/mnt/d1: no").to_string(), "");
        assert_eq!(Places::of(Path::new("/nowhere/x")).named_in("/mnt/d1: no").to_string(), "");
    }
}
