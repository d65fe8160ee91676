//! Keys of index rows. Byte order is the order that listings want.

use bytes::BufMut;
use codec::effect::UploadName;
use codec::id::{BucketId, DomainId, Lsn};

/// Appends an object key (or any byte string) escaped, without its end.
pub fn escape_into(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

/// Appends an object key escaped, with its end.
pub(super) fn terminated_into(out: &mut Vec<u8>, bytes: &[u8]) {
    escape_into(out, bytes);
    out.extend_from_slice(&[0, 1]);
}

/// Splits an escaped and ended string off the front: (the string, what follows). `None` when malformed.
pub fn unescape(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::with_capacity(bytes.len());
    loop {
        let (&byte, rest) = bytes.split_first()?;
        bytes = rest;
        if byte != 0 {
            out.push(byte);
            continue;
        }
        let (&next, rest) = bytes.split_first()?;
        bytes = rest;
        match next {
            0xff => out.push(0),
            1 => return Some((out, bytes)),
            _ => return None,
        }
    }
}

/// The first key after every key that starts with `prefix`; `None` when there is no such key.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// The exclusive end of the rows that start with `prefix`, for prefixes that are never all 0xff (every prefix here begins
/// with a letter or with a bucket id, which is an LSN).
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    after_prefix(prefix).unwrap_or_else(|| vec![0xff; prefix.len() + 1])
}

pub(super) fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

/// Key of a bucket's row.
pub fn bucket_key(name: &str) -> Vec<u8> {
    tagged(b'n', name.as_bytes())
}

/// Key of the row that names the bucket with an id.
pub fn bucket_id_key(id: BucketId) -> Vec<u8> {
    tagged(b'i', &id.0.to_be_bytes())
}

/// What the keys of all versions in a bucket start with.
pub fn bucket_objects(bucket: BucketId) -> Vec<u8> {
    bucket.0.to_be_bytes().to_vec()
}

/// What the keys of all versions of an object key start with.
pub fn versions_of(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = bucket_objects(bucket);
    terminated_into(&mut out, key.as_bytes());
    out
}

/// Key of a version's row.
pub fn version_key(bucket: BucketId, key: &str, seq: Lsn) -> Vec<u8> {
    let mut out = versions_of(bucket, key);
    out.put_u64(!seq.0);
    out
}

/// What the keys of all uploads in a bucket start with.
pub fn bucket_uploads(bucket: BucketId) -> Vec<u8> {
    tagged(b'u', &bucket.0.to_be_bytes())
}

pub(super) fn upload_name_key(tag: u8, name: &UploadName) -> Vec<u8> {
    let mut out = tagged(tag, &name.bucket.to_be_bytes());
    terminated_into(&mut out, name.key.as_bytes());
    terminated_into(&mut out, name.upload_id.as_bytes());
    out
}

/// Key of an upload's row.
pub fn upload_key(name: &UploadName) -> Vec<u8> {
    upload_name_key(b'u', name)
}

/// What the keys of all parts of an upload start with.
pub fn upload_parts(name: &UploadName) -> Vec<u8> {
    upload_name_key(b'p', name)
}

/// Key of a part's row.
pub fn part_key(name: &UploadName, number: u32) -> Vec<u8> {
    let mut out = upload_parts(name);
    out.put_u32(number);
    out
}

/// Key of a setting's row.
pub fn setting_key(name: &str) -> Vec<u8> {
    tagged(b's', name.as_bytes())
}

/// Key of an account's row.
pub fn account_key(id: &str) -> Vec<u8> {
    tagged(b'a', id.as_bytes())
}

/// Key of the row that says whose an access key is.
pub fn access_key_key(access_key: &str) -> Vec<u8> {
    tagged(b'k', access_key.as_bytes())
}

/// Key of the row that says whose an account name is.
pub fn account_name_key(name: &str) -> Vec<u8> {
    tagged(b'n', name.as_bytes())
}

/// Key of a dedup domain's row.
pub fn domain_key(id: DomainId) -> Vec<u8> {
    tagged(b'd', &id.0.to_be_bytes())
}

/// Key of the row that says which domain an account and protection class have.
pub fn domain_owner_key(account: &str, encrypted: bool) -> Vec<u8> {
    let mut key = tagged(b'o', &[u8::from(encrypted)]);
    key.extend_from_slice(account.as_bytes());
    key
}
