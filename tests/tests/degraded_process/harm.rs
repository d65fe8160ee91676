//! What happens to drives.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tests::process::ServerConfig;
use tests::s3::Random;

/// What happened to a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Its directory is gone. Open files still accept writes and syncs.
    Deleted,
    /// Its directory is empty: a mount that is missing.
    Emptied,
    /// Its directory is that of another cluster's drive; its own is elsewhere.
    Foreign,
    /// Every file is overwritten with noise.
    Noise,
}

/// Harms drive `n`. `other`: a stopped server of another cluster, whose drives are taken.
pub fn harm(config: &ServerConfig, n: usize, harm: Harm, other: Option<&ServerConfig>) {
    let drive = config.drive(n);
    match harm {
        Harm::Deleted => remove(&drive),
        Harm::Emptied => {
            for entry in fs::read_dir(&drive).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    remove(&path)
                } else {
                    unless_gone(fs::remove_file(&path));
                }
            }
        }
        Harm::Foreign => {
            fs::rename(&drive, aside(config, n)).unwrap();
            fs::rename(other.expect("another cluster").drive(n), &drive).unwrap();
        }
        Harm::Noise => noise(&drive, &mut Random::new(n as u64)),
    }
}

/// What a running server has removed or renamed meanwhile is harmed enough.
fn unless_gone<T>(result: std::io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        result => Some(result.unwrap()),
    }
}

/// A directory in which a server may still create files.
fn remove(path: &Path) {
    for _ in 0..30_000 {
        match fs::remove_dir_all(path) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
    fs::remove_dir_all(path).unwrap();
}

/// Where [`Harm::Foreign`] puts the drive.
pub fn aside(config: &ServerConfig, n: usize) -> PathBuf {
    config.data.join("drives").join(format!("aside-{n}"))
}

fn noise(directory: &Path, random: &mut Random) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            noise(&path, random);
            continue;
        }
        // What the reserve holds means nothing, and it is large.
        if path.file_name().is_some_and(|name| name == "reserve") {
            continue;
        }
        let Some(mut file) = unless_gone(fs::OpenOptions::new().write(true).open(&path)) else { continue };
        let mut left = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            for word in buffer.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            let now = left.min(buffer.len());
            file.write_all(&buffer[..now]).unwrap();
            left -= now;
        }
        file.sync_all().unwrap();
    }
}
