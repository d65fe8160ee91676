//! What is in deploy/: the units are good, and the configuration files are those that the programs read.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use tests::process::{binary, package};

fn deployed(ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(package().parent().unwrap().join("deploy")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == ending));
    files.sort();
    files
}

/// `systemd-analyze verify` knows every directive, and the program that a unit starts is put where it looks for it.
#[test]
fn units_are_verified() {
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: systemd-analyze is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let units = deployed("service");
    assert!(units.len() >= 2, "{units:?}");
    for unit in units {
        let text = std::fs::read_to_string(&unit).unwrap();
        let here = text.replace("/usr/local/bin/stele", binary().canonicalize().unwrap().to_str().unwrap());
        // The manual is installed with the program.
        let here: String =
            here.lines().filter(|line| !line.starts_with("Documentation=")).map(|line| format!("{line}\n")).collect();
        let copy = directory.path().join(unit.file_name().unwrap());
        std::fs::write(&copy, here).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&copy).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let about: Vec<&str> = said.lines().filter(|line| line.contains(copy.to_str().unwrap())).collect();
        assert!(output.status.success() && about.is_empty(), "{}: {}\n{said}", unit.display(), output.status);
    }
}

/// The examples are configurations: whatever `stele config check` says against them is about the certificate, which is not there.
#[test]
fn examples_are_read() {
    for file in deployed("toml") {
        let output = Command::new(binary()).args(["config", "check"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("credentials: /etc/stele"), "{}: {said}", file.display());
    }
}
