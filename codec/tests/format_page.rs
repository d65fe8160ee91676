//! docs/FORMAT.md says what the code does: a layout described in a page that drifted from its constants is worse than none.

#![allow(missing_docs)]

#[path = "../src/golden.rs"]
mod golden;

use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(golden::package().join(path)).expect(path)
}

/// The value of `attribute = "..."` in a line.
fn quoted<'a>(line: &'a str, attribute: &str) -> Option<&'a str> {
    line.split_once(&format!("{attribute} = \""))?.1.split_once('"').map(|(value, _)| value)
}

/// The part of the page about one message.
fn section<'a>(page: &'a str, message: &str) -> &'a str {
    let start = page.find(&format!("\n**{message}**:")).unwrap_or_else(|| panic!("no section on {message}"));
    let rest = &page[start + 3..];
    &rest[..rest.find("\n**").or_else(|| rest.find("\n###")).unwrap_or(rest.len())]
}

#[test]
fn every_tag_of_every_row_is_in_the_page() {
    let page = read("../docs/FORMAT.md");
    let rows = fs::read_dir(golden::package().join("src/effect")).expect("src/effect").map(|file| {
        let name = file.expect("a file").file_name();
        format!("src/effect/{}", name.to_str().expect("a name"))
    });
    let code: String = ["src/effect.rs".to_owned()].into_iter().chain(rows).map(|file| read(&file)).collect();
    let (mut message, mut tag, mut checked) = (String::new(), None, 0);
    let mut before = "";
    for line in code.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum ")) {
            message = name.trim_end_matches([' ', '{']).to_owned();
        } else if line.starts_with("#[prost(") {
            // The page is of this release: a field of the one that the upgrade test makes up is on no medium of it.
            tag = quoted(line, "tag").filter(|_| before != "#[cfg(feature = \"next-release\")]");
        } else if let Some(tag) = tag.take() {
            let name = line.trim_start_matches("pub ").split([':', '(']).next().expect("a field");
            let row = format!("| {tag} | {name} |");
            let part = if message == "EffectKind" { &page[..] } else { section(&page, &message) };
            assert!(part.contains(&row), "docs/FORMAT.md, {message}: no row `{row}`");
            checked += 1;
        }
        before = line;
    }
    assert!(checked > 100, "only {checked} fields were found");
}

#[test]
fn every_magic_and_context_is_in_the_page() {
    let page = read("../docs/FORMAT.md");
    for file in ["block", "segment", "shard", "stripe", "journal", "register"] {
        for line in read(&format!("src/{file}.rs")).lines() {
            let value = match line.split_once(" = ") {
                Some((name, value)) if name.contains("MAGIC:") => {
                    value.trim_start_matches("b\"").trim_end_matches("\";")
                }
                Some((name, value)) if name.contains("CONTEXT:") => value.trim_matches(['"', ';']),
                _ => continue,
            };
            assert!(page.contains(value), "docs/FORMAT.md does not name {value} of {file}.rs");
        }
    }
}
