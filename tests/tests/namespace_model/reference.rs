//! The model: S3 as maps.

use crate::ops::When;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// S3's least size of a part that is not the last.
const MIN_PART: usize = 5 << 20;

/// Why the model refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Precondition,
    NoSuchKey,
    NoSuchUpload,
    NoParts,
    PartTooSmall,
}

/// A part's number, etag and bytes.
pub type Part = (u32, String, Bytes);

type Parts = BTreeMap<u32, (String, Bytes)>;

/// What there should be.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    objects: BTreeMap<String, (Bytes, String)>,
    uploads: BTreeMap<String, (String, Parts)>,
}

impl Reference {
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.objects.get(key).map(|(bytes, _)| bytes)
    }

    pub fn etag(&self, key: &str) -> Option<String> {
        self.objects.get(key).map(|(_, etag)| etag.clone())
    }

    pub fn objects(&self) -> impl Iterator<Item = (&String, &Bytes, &String)> {
        self.objects.iter().map(|(key, (bytes, etag))| (key, bytes, etag))
    }

    pub fn allows(&self, key: &str, when: When) -> Result<(), Refused> {
        match (when, self.objects.contains_key(key)) {
            (When::Always, _) | (When::Absent, false) | (When::Present | When::Same, true) => Ok(()),
            (When::Absent, true) | (When::Other, true) => Err(Refused::Precondition),
            (When::Present | When::Same | When::Other, false) => Err(Refused::NoSuchKey),
        }
    }

    /// Of a delete: what is not there is gone already whatever was asked of it, as S3 has it, and nobody asks for a delete of
    /// what is not there.
    pub fn allows_delete(&self, key: &str, when: When) -> Result<(), Refused> {
        match (when, self.objects.contains_key(key)) {
            (When::Absent, _) | (When::Other, true) => Err(Refused::Precondition),
            (When::Always | When::Present | When::Same | When::Other, _) => Ok(()),
        }
    }

    pub fn put(&mut self, key: &str, bytes: Bytes, etag: String) {
        self.objects.insert(key.to_owned(), (bytes, etag));
    }

    pub fn note_etag(&mut self, key: &str, etag: &Option<String>) {
        if let (Some((_, old)), Some(etag)) = (self.objects.get_mut(key), etag) {
            old.clone_from(etag);
        }
    }

    pub fn delete(&mut self, key: &str) {
        self.objects.remove(key);
    }

    pub fn copy(&mut self, from: &str, to: &str) -> bool {
        let Some(source) = self.objects.get(from).cloned() else { return false };
        self.objects.insert(to.to_owned(), source);
        true
    }

    /// Keys and common prefixes.
    pub fn list(&self, prefix: &str, delimiter: &str) -> (Vec<String>, Vec<String>) {
        let (mut keys, mut prefixes) = (Vec::new(), BTreeSet::new());
        for key in self.objects.keys().filter(|key| key.starts_with(prefix)) {
            match key[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => drop(prefixes.insert(key[..prefix.len() + at + delimiter.len()].to_owned())),
                None => keys.push(key.clone()),
            }
        }
        (keys, prefixes.into_iter().collect())
    }

    pub fn open(&mut self, id: &str, key: &str) {
        self.uploads.insert(id.to_owned(), (key.to_owned(), Parts::new()));
    }

    pub fn is_open(&self, id: &str) -> bool {
        self.uploads.contains_key(id)
    }

    pub fn put_part(&mut self, id: &str, number: u32, bytes: Bytes, etag: String) {
        if let Some((_, parts)) = self.uploads.get_mut(id) {
            parts.insert(number, (etag, bytes));
        }
    }

    pub fn parts(&self, id: &str) -> Vec<(u32, String)> {
        let parts = self.uploads.get(id).map(|(_, parts)| parts);
        parts.into_iter().flatten().map(|(number, (etag, _))| (*number, etag.clone())).collect()
    }

    pub fn complete(&mut self, id: &str) -> Result<String, Refused> {
        let (key, parts) = self.uploads.get(id).ok_or(Refused::NoSuchUpload)?;
        let last = *parts.keys().last().ok_or(Refused::NoParts)?;
        if parts.iter().any(|(number, (_, bytes))| *number != last && bytes.len() < MIN_PART) {
            return Err(Refused::PartTooSmall);
        }
        let whole = parts.values().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>().concat();
        let key = key.clone();
        self.objects.insert(key.clone(), (whole.into(), String::new()));
        self.uploads.remove(id);
        Ok(key)
    }

    pub fn abort(&mut self, id: &str) -> bool {
        self.uploads.remove(id).is_some()
    }

    /// Open uploads with their parts, by id.
    pub fn uploads(&self) -> Vec<(String, Vec<Part>)> {
        let parts = |parts: &Parts| parts.iter().map(|(n, (etag, bytes))| (*n, etag.clone(), bytes.clone())).collect();
        self.uploads.iter().map(|(id, (_, stored))| (id.clone(), parts(stored))).collect()
    }
}
