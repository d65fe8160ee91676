//! Keys of index rows. Byte order is the order that listings want.

use super::access::NameKind;
use bytes::BufMut;
use codec::effect::{DomainRow, ProtectionClass, UploadName};
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

/// Key of the row that says which domain an account has for plaintext, or for SSE-S3.
pub fn domain_owner_key(account: &str, encrypted: bool) -> Vec<u8> {
    let mut key = tagged(b'o', &[u8::from(encrypted)]);
    key.extend_from_slice(account.as_bytes());
    key
}

/// Key of the row that says which domain an account has for a protection class and key.
pub fn domain_class_key(account: &str, class: ProtectionClass, key: &str) -> Vec<u8> {
    match class {
        ProtectionClass::Unspecified => domain_owner_key(account, false),
        ProtectionClass::Managed => domain_owner_key(account, true),
        ProtectionClass::Customer | ProtectionClass::Kms => {
            let mut out = vec![b'o', class as u8];
            terminated_into(&mut out, account.as_bytes());
            out.extend_from_slice(key.as_bytes());
            out
        }
    }
}

/// The same, of a domain's row.
pub fn domain_row_key(row: &DomainRow) -> Vec<u8> {
    match row.class() {
        ProtectionClass::Unspecified | ProtectionClass::Managed => domain_owner_key(&row.account, row.encrypted),
        class => domain_class_key(&row.account, class, &row.key),
    }
}

/// What the keys of all configurations of a bucket start with.
pub fn bucket_configs_of(bucket: BucketId) -> Vec<u8> {
    tagged(b'c', &bucket.0.to_be_bytes())
}

/// Key of a configuration's row. `id`: an inventory's; empty for others.
pub fn bucket_config_key(bucket: BucketId, kind: i32, id: &str) -> Vec<u8> {
    let mut out = bucket_configs_of(bucket);
    out.put_i32(kind);
    out.extend_from_slice(id.as_bytes());
    out
}

/// Key of the row that says where a key's null version is.
pub fn null_pointer_key(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = tagged(b'z', &bucket.0.to_be_bytes());
    terminated_into(&mut out, key.as_bytes());
    out
}

/// Key of the row that says that a version is being restored.
pub fn restoring_key(bucket: BucketId, key: &str, seq: Lsn) -> Vec<u8> {
    let mut out = tagged(b'r', &bucket.0.to_be_bytes());
    terminated_into(&mut out, key.as_bytes());
    out.put_u64(seq.0);
    out
}

/// The bucket, key and `seq` of [`restoring_key`]; `None` when it is malformed.
pub fn restoring_of(row: &[u8]) -> Option<(BucketId, String, Lsn)> {
    let (bucket, rest) = row.strip_prefix(b"r")?.split_first_chunk::<8>()?;
    let (key, seq) = unescape(rest)?;
    let seq = Lsn(u64::from_be_bytes(seq.try_into().ok()?));
    Some((BucketId(u64::from_be_bytes(*bucket)), String::from_utf8(key).ok()?, seq))
}

/// Key of the row of a user, policy, role or group; without a name what the keys of all of an account start with.
pub fn named_key(kind: NameKind, account: &str, name: Option<&str>) -> Vec<u8> {
    let mut out = vec![kind.tag()];
    terminated_into(&mut out, account.as_bytes());
    out.extend_from_slice(name.unwrap_or_default().to_lowercase().as_bytes());
    out
}

/// Key of the row of an access key that is not an account's first one.
pub fn access_key_row_key(access_key: &str) -> Vec<u8> {
    tagged(b'K', access_key.as_bytes())
}

/// What the keys of the rows start with that say which access keys a user has.
pub fn user_keys_of(account: &str, user: &str) -> Vec<u8> {
    let mut out = vec![b'U'];
    terminated_into(&mut out, account.as_bytes());
    terminated_into(&mut out, user.to_lowercase().as_bytes());
    out
}

/// Key of the row that says that a user has an access key.
pub fn user_key_key(account: &str, user: &str, access_key: &str) -> Vec<u8> {
    [user_keys_of(account, user), access_key.as_bytes().to_vec()].concat()
}

/// Key of the row of a key of the key store.
pub fn kms_key_key(id: &str) -> Vec<u8> {
    tagged(b'M', id.as_bytes())
}
