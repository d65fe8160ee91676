//! What the load generator uploads: random bytes, text from a folder, or zeros. Objects differ from each other, so that
//! deduplication does not flatter the figures.

use crate::LoadError;
use bytes::{Bytes, BytesMut};
use std::path::Path;

/// The kind of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DataKind {
    /// Incompressible.
    Random,
    /// The files of a folder, from a different place for each object.
    Text,
    /// Zeros: the best case for compression and deduplication.
    Zero,
}

/// Makes the bytes of object number `n`, the same every time.
pub struct DataSource {
    kind: DataKind,
    size: usize,
    pool: Bytes,
}

/// Enough that objects of up to 64 MiB start at different places of it.
const TEXT_POOL: usize = 192 << 20;

impl DataSource {
    /// Prepares a source for objects of `size` bytes.
    pub fn load(kind: DataKind, corpus: &Path, size: u64) -> Result<DataSource, LoadError> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let pool = match kind {
            DataKind::Random => random_pool(size.saturating_add(1 << 20)),
            DataKind::Text => text_pool(corpus)?,
            DataKind::Zero => Bytes::from(vec![0; size]),
        };
        Ok(DataSource { kind, size, pool })
    }

    /// The bytes of object `n`.
    pub fn object(&self, n: u64) -> Bytes {
        match self.kind {
            DataKind::Zero => self.pool.clone(),
            DataKind::Random => self.random(n),
            DataKind::Text => self.text(n),
        }
    }

    /// A window of the pool, every 4 KiB of which is changed by a stream of its own: unique at any chunk size, and far
    /// cheaper than a fresh random object.
    fn random(&self, n: u64) -> Bytes {
        let start = usize::try_from(mix(n) % (1 << 20)).unwrap_or(0);
        let mut out = BytesMut::from(&self.pool[start..start + self.size]);
        let mut state = mix(n ^ 0x9e37_79b9_7f4a_7c15);
        for block in out.chunks_mut(4096) {
            state = mix(state);
            let word = state.to_le_bytes();
            let length = block.len().min(8);
            block[..length].copy_from_slice(&word[..length]);
        }
        out.freeze()
    }

    /// Text from a place of its own, with a line that names the object on top.
    fn text(&self, n: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size);
        out.extend_from_slice(format!("object {n}\n").as_bytes());
        out.truncate(self.size);
        let mut at = usize::try_from(mix(n) % self.pool.len() as u64).unwrap_or(0);
        while out.len() < self.size {
            let take = (self.size - out.len()).min(self.pool.len() - at);
            out.extend_from_slice(&self.pool[at..at + take]);
            at = 0;
        }
        out.freeze()
    }
}

fn random_pool(size: usize) -> Bytes {
    let mut state = 0x5eed;
    let mut out = BytesMut::with_capacity(size + 8);
    while out.len() < size {
        state = mix(state);
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.freeze()
}

fn text_pool(folder: &Path) -> Result<Bytes, LoadError> {
    let failed = |source| LoadError::Corpus { path: folder.to_owned(), source };
    let mut out = BytesMut::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&next).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        entries.sort_by_key(std::fs::DirEntry::path);
        for entry in entries {
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && out.len() < TEXT_POOL {
                out.extend_from_slice(&std::fs::read(entry.path()).map_err(failed)?);
            }
        }
    }
    if out.is_empty() {
        return Err(LoadError::EmptyCorpus(folder.to_owned()));
    }
    Ok(out.freeze())
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A size such as 4k, 64k, 1m or 64m, in bytes; the error is for whoever typed it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, unit) = match lower.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => lower.split_at(at),
        None => (lower.as_str(), ""),
    };
    let factor: u64 = match unit {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        other => return Err(format!("unknown unit '{other}': use k, m or g")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is not a size"))?;
    number.checked_mul(factor).ok_or_else(|| format!("'{text}' is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_repeatable_and_differ() {
        for size in [0, 5, 4096, 70_000] {
            let source = DataSource::load(DataKind::Random, Path::new("/"), size).unwrap();
            assert_eq!(source.object(3), source.object(3));
            assert_eq!(source.object(3).len() as u64, size);
            assert!(size == 0 || source.object(3) != source.object(4));
        }
    }
}
