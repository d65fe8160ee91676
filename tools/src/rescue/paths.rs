//! Where a rescued object goes: a path below the output directory that no bucket name and no key can lead out of.
//!
//! A key's slashes become directories. What a file system has another meaning for is written as `%` and something that
//! `%XX` never is, or as `%XX`:
//!
//! | in the key | in the path |
//! |---|---|
//! | a control character, or `%` | `%XX` for each byte, upper case |
//! | a component `.` or `..` | `%2E`, `%2E%2E` |
//! | an empty component (a leading, trailing or double slash) | `%` |
//! | a component longer than 200 bytes | `%h` and the BLAKE3 of the component, in hex |
//! | a component that is a directory here and an object's name as well | `%dir` behind the directory's name |
//! | a path longer than 3000 bytes, or a name that is taken | `%h` and the BLAKE3 of the key, directly below the bucket |

use std::io;
use std::path::{Path, PathBuf};

/// The longest component, in bytes: file systems take 255.
const MAX_COMPONENT: usize = 200;
/// The longest path below the bucket, in bytes: systems take 4096 in all.
const MAX_PATH: usize = 3000;

/// One component as a file name.
pub fn component(text: &str) -> String {
    let encoded = match text {
        "" => "%".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => escape(text),
    };
    if encoded.len() > MAX_COMPONENT { hashed(text) } else { encoded }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || c == '%' || c == '/' {
            let mut buffer = [0; 4];
            c.encode_utf8(&mut buffer).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        } else {
            out.push(c);
        }
    }
    out
}

fn hashed(text: &str) -> String {
    format!("%h{}", blake3::hash(text.as_bytes()).to_hex())
}

/// Makes the directories for a key below `bucket`, and says where the object goes: a name that is not there yet.
pub fn place(bucket: &Path, key: &str) -> io::Result<PathBuf> {
    let parts: Vec<String> = key.split('/').map(component).collect();
    let fallback = || bucket.join(hashed(key));
    if parts.iter().map(|part| part.len() + 1).sum::<usize>() > MAX_PATH {
        return Ok(fallback());
    }
    let mut path = bucket.to_owned();
    let (name, directories) = match parts.split_last() {
        Some(split) => split,
        None => return Ok(fallback()),
    };
    for directory in directories {
        path = match make_directory(&path, directory)? {
            Some(made) => made,
            None => return Ok(fallback()),
        };
    }
    path.push(name);
    // Taken by a directory, or, where the file system ignores case, by another key.
    Ok(if path.symlink_metadata().is_ok() { fallback() } else { path })
}

fn make_directory(parent: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    for name in [name.to_owned(), format!("{name}%dir")] {
        let path = parent.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if path.symlink_metadata()?.is_dir() {
                    return Ok(Some(path));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_key_leaves_its_bucket_and_no_two_share_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join(component("documents"));
        std::fs::create_dir(&bucket).unwrap();
        let long = "x".repeat(255);
        let deep = format!("{}end", "y/".repeat(510));
        let long_path = format!("{0}/{0}/{0}/{0}", "ü\u{1}".repeat(60));
        let keys = [
            "a",
            "a/b",
            "a/b/c",
            "a/",
            "a%dir/b",
            "/etc/passwd",
            "../../etc/passwd",
            "..",
            ".",
            "...",
            "a/../../b",
            "//",
            "%",
            "%2E",
            "x\ny",
            "x\u{0}y",
            "x\u{7f}",
            "%h",
            "a\\b",
            "~",
            "-rf",
            &long,
            &deep,
            &long_path,
            "A",
        ];
        let mut seen = HashSet::new();
        for key in keys {
            let path = place(&bucket, key).unwrap();
            assert!(path.starts_with(&bucket) && path != bucket, "{key:?} -> {path:?}");
            assert!(path.components().all(|c| !matches!(c, std::path::Component::ParentDir)), "{key:?}");
            assert!(seen.insert(path.clone()), "{key:?} -> {path:?} twice");
            std::fs::write(&path, key).unwrap();
            assert!(path.canonicalize().unwrap().starts_with(bucket.canonicalize().unwrap()));
        }
        for (key, path) in keys.iter().zip(["a", "a%dir/b", "a%dir/b%dir/c"]) {
            assert_eq!(std::fs::read_to_string(bucket.join(path)).unwrap(), *key);
        }
        assert_eq!(component(".."), "%2E%2E");
        assert_eq!(component("year 2026.pdf"), "year 2026.pdf");
    }
}
