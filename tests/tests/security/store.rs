//! A server with two accounts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tests::process::{ACCESS_KEY, SECRET_KEY, ServerConfig, ServerProcess};
use tests::s3::Answer;
use tests::sigv4::{Ask, Key, ask};

pub const STRANGER_KEY: &str = "STRANGERACCESSKEY001";
pub const STRANGER_SECRET: &str = "the-secret-of-the-stranger-0123456789";

pub struct Store {
    pub config: ServerConfig,
    pub server: ServerProcess,
    pub office: Key,
    pub stranger: Key,
    pub dir: tempfile::TempDir,
}

impl Store {
    pub async fn start() -> Store {
        Store::start_with(&[]).await
    }

    /// A server with further arguments of `serve`.
    pub async fn start_with(arguments: &[&str]) -> Store {
        let dir = tempfile::tempdir().unwrap();
        let accounts = accounts_file(&dir.path().join("accounts.toml"));
        let mut all = vec!["--drives", "3", "--accounts", accounts.to_str().unwrap()];
        all.extend_from_slice(arguments);
        let config = ServerConfig::new(dir.path().join("data"), 3).arguments(&all);
        let server = config.start().await;
        Store {
            config,
            server,
            office: Key::new(ACCESS_KEY, SECRET_KEY),
            stranger: Key::new(STRANGER_KEY, STRANGER_SECRET),
            dir,
        }
    }

    /// Sends it as it is.
    pub async fn send(&self, request: Ask) -> Answer {
        let what = format!("{} {}", request.method, request.path);
        request.send(self.config.s3()).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends it in the name of `key`.
    pub async fn by(&self, key: &Key, request: Ask) -> Answer {
        self.send(request.signed(self.config.s3(), key)).await
    }

    /// Sends it in the name of `office`, who may.
    pub async fn office(&self, request: Ask) -> Answer {
        let what = format!("{} {}", request.method, request.path);
        let answer = self.by(&self.office, request).await;
        assert!(answer.status < 300, "{what}: {} {}", answer.status, answer.text());
        answer
    }

    /// A bucket of `office`.
    pub async fn bucket(&self, name: &str) {
        self.office(ask("PUT", &format!("/{name}"))).await;
    }

    /// An object of `office`.
    pub async fn object(&self, path: &str, body: &[u8]) -> Answer {
        self.office(ask("PUT", path).body(body)).await
    }

    /// What `office` reads there.
    pub async fn read(&self, path: &str) -> Vec<u8> {
        self.office(ask("GET", path)).await.body
    }

    /// The keys of a bucket.
    pub async fn keys(&self, bucket: &str) -> Vec<String> {
        let listed = self.office(ask("GET", &format!("/{bucket}")).query("list-type", "2")).await.text();
        listed.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
    }

    /// A bucket's policy with these statements.
    pub async fn policy(&self, bucket: &str, statements: &str) {
        let text = format!("{{\"Version\":\"2012-10-17\",\"Statement\":[{statements}]}}");
        self.office(ask("PUT", &format!("/{bucket}")).query("policy", "").body(text)).await;
    }

    /// Ends the server cleanly: nothing panicked.
    pub async fn end(self) {
        let output = self.server.output();
        assert!(self.server.stop().await.success(), "the server ends cleanly:\n{output}");
        assert!(!output.contains("panicked"), "something panicked:\n{output}");
    }
}

/// A file of accounts with the stranger, that nobody else may read.
fn accounts_file(path: &Path) -> PathBuf {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    writeln!(
        file,
        "[[account]]\nname = \"stranger\"\nid = \"stranger-id\"\ndisplay_name = \"Stranger\"\naccess_key = \"{STRANGER_KEY}\"\nsecret_key = \"{STRANGER_SECRET}\""
    )
    .unwrap();
    path.to_owned()
}

/// Refused for want of a right, whatever is there.
#[track_caller]
pub fn denied(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "{}", answer.text());
}

/// Refused, with no success and no failure of the server's own; what there is not is refused, too.
#[track_caller]
pub fn refused(answer: &Answer) {
    assert!((400..500).contains(&answer.status) || answer.status == 501, "{} {}", answer.status, answer.text());
}

/// Which of the needles lie in files below a directory, and where. The index removes files while they are looked through.
pub fn found_below<'a>(dir: &Path, needles: &[(&'a str, &[u8])]) -> Vec<(&'a str, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(found_below(&path, needles));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            found.extend(held(&bytes, needles).into_iter().map(|what| (what, path.clone())));
        }
    }
    found
}

/// The needles that lie in these bytes, which are looked through once.
fn held<'a>(bytes: &[u8], needles: &[(&'a str, &[u8])]) -> BTreeSet<&'a str> {
    let mut first = [false; 256];
    for (_, needle) in needles {
        first[usize::from(needle[0])] = true;
    }
    let begins = bytes.iter().enumerate().filter(|(_, byte)| first[usize::from(**byte)]);
    begins
        .flat_map(|(at, _)| needles.iter().filter(move |(_, needle)| bytes[at..].starts_with(needle)))
        .map(|(what, _)| *what)
        .collect()
}
