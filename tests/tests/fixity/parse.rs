//! Each format, read back by a parser that is not ours: Python's for CSV, xmllint for PREMIS.

use super::ODD;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use tests::process::ServerConfig;

/// Whether a program is there. One that is not is skipped; with CI=true that fails.
fn there(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(there || !required, "{program} is not installed, and CI=true (make clients)");
    if !there {
        println!("{program} is not installed (make clients): its part is skipped");
    }
    there
}

/// All formats say the same of the same objects.
pub async fn formats(config: &ServerConfig, work: &Path, bucket: &str, objects: &BTreeMap<String, Value>) {
    let keys: BTreeSet<&str> = objects.keys().map(String::as_str).collect();
    assert!(ODD.iter().all(|key| keys.contains(key)));
    let file = |name: &str| work.join(name);
    for format in ["csv", "premis", "text"] {
        let path = file(format);
        let words = ["fixity", bucket, "--format", format, "--out", path.to_str().unwrap()];
        let output = config.stele(&words).await;
        assert_eq!(output.status.code(), Some(0), "{format}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "the summary is told");
        let piped = config.stele(&["fixity", bucket, "--format", format]).await.stdout;
        if format != "premis" {
            assert_eq!(piped, std::fs::read(&path).unwrap(), "a file has what standard output has");
        }
    }
    let text = std::fs::read_to_string(file("text")).unwrap();
    assert_eq!(text.lines().count(), 1, "all is well: {text}");
    csv(&file("csv"), objects);
    premis(&file("premis"), &keys);
    // A report on nothing is valid too.
    let empty = file("empty");
    let s3 = tests::s3::client(config);
    s3.create_bucket().bucket("empty").send().await.unwrap();
    let output = config.stele(&["fixity", "empty", "--format", "premis", "--out", empty.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0));
    premis(&empty, &BTreeSet::new());
}

fn csv(path: &Path, objects: &BTreeMap<String, Value>) {
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.starts_with(b"bucket,key,version,") && bytes.ends_with(b"\r\n"));
    if !there("python3", &["-c", "import csv"]) {
        return;
    }
    let script = "import csv,json,sys\n\
                  with open(sys.argv[1],newline='',encoding='utf-8') as f: print(json.dumps(list(csv.DictReader(f,strict=True))))";
    let output = Command::new("python3").args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<BTreeMap<String, String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.len(), objects.len());
    for row in rows {
        let object = &objects[&row["key"]];
        assert_eq!(row["outcome"], "ok");
        for (column, field) in [("size", "size"), ("shards", "shards"), ("verified", "verified")] {
            assert_eq!(row[column], object[field].to_string(), "{row:?}");
        }
        assert_eq!(row["etag"], object["etag"].as_str().unwrap());
        let shards = row["shard_states"].split(' ').filter(|state| !state.is_empty()).count();
        assert_eq!(shards.to_string(), row["shards"], "{row:?}");
    }
}

fn premis(path: &Path, keys: &BTreeSet<&str>) {
    if there("xmllint", &["--version"]) {
        let schema = tests::process::package().join("tests/fixity/premis-v3-0.xsd");
        let output = Command::new("xmllint").arg("--noout").arg("--schema").arg(schema).arg(path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = std::fs::read_to_string(path).unwrap();
    let names: BTreeSet<String> = between(&text, "<premis:originalName>", "</premis:originalName>")
        .into_iter()
        .filter(|name| !name.starts_with("s3://"))
        .map(|name| decoded(&name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))
        .collect();
    assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), *keys, "every key comes back");
    // One event each, and one for the report.
    assert_eq!(between(&text, "<premis:event>", "</premis:event>").len(), keys.len() + 1);
    assert_eq!(between(&text, "<premis:eventOutcome>", "</premis:eventOutcome>").len(), keys.len() + 1);
    assert!(between(&text, "<premis:eventOutcome>", "</premis:eventOutcome>").iter().all(|word| *word == "success"));
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Vec<&'t str> {
    text.split(start).skip(1).map(|rest| rest.split_once(end).unwrap().0).collect()
}

/// Percent-decoding, as documented.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, more)) = rest.split_first() {
        rest = more;
        if *byte == b'%' {
            let (digits, more) = rest.split_at(2);
            out.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
            rest = more;
        } else {
            out.push(*byte);
        }
    }
    String::from_utf8(out).unwrap()
}
