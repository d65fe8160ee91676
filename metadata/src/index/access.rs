//! Rows of who may do what: configurations of buckets; users, their keys, policies, roles and groups; keys of the key store.
//!
//! Invariants:
//! * Names of users, policies, roles and groups are unique in their account whatever their case, so the lower case is in the key.
//! * `U`, the account, the user and an access key: the key is the user's (an empty name: the account's own). Exactly one for each row
//!   of an access key. A user that goes takes its keys along.

use super::{
    ACCOUNTS, BUCKETS, IndexError, Overlay, View, access_key_row_key, bucket_config_key, bucket_configs_of,
    kms_key_key, named_key, prefix_end, read, read_all, user_key_key, user_keys_of,
};
use codec::effect::{
    AccessKeyRow, AccountName, BucketConfigName, BucketConfigRow, ConfigKind, GroupRow, KmsKeyRow, PolicyRow, RoleRow,
    UserRow,
};
use codec::id::BucketId;

/// What names in an account are of; the first letter of their rows' keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameKind {
    /// [`UserRow`].
    User,
    /// [`PolicyRow`].
    Policy,
    /// [`RoleRow`].
    Role,
    /// [`GroupRow`].
    Group,
}

impl NameKind {
    /// All of them.
    pub const ALL: [NameKind; 4] = [NameKind::User, NameKind::Policy, NameKind::Role, NameKind::Group];

    /// The tag of its rows' keys.
    pub(super) fn tag(self) -> u8 {
        match self {
            NameKind::User => b'u',
            NameKind::Policy => b'P',
            NameKind::Role => b'R',
            NameKind::Group => b'G',
        }
    }
}

/// A configuration of a bucket. `id`: an inventory's; empty for others.
pub fn bucket_config(
    view: &dyn View,
    bucket: BucketId,
    kind: ConfigKind,
    id: &str,
) -> Result<Option<BucketConfigRow>, IndexError> {
    read(view, BUCKETS, &bucket_config_key(bucket, kind as i32, id))
}

/// All configurations of a kind that a bucket has, by id.
pub fn bucket_configs(view: &dyn View, bucket: BucketId, kind: ConfigKind) -> Result<Vec<BucketConfigRow>, IndexError> {
    read_all(view, BUCKETS, &bucket_config_key(bucket, kind as i32, ""))
}

/// Buckets that have a configuration of a kind, in the order of their ids: those after `after`, at most `limit`.
pub fn buckets_with(
    view: &dyn View,
    kind: ConfigKind,
    after: Option<BucketId>,
    limit: usize,
) -> Result<Vec<BucketConfigRow>, IndexError> {
    let mut found = Vec::new();
    let mut start = after.map_or_else(|| vec![b'c'], |bucket| prefix_end(&bucket_configs_of(bucket)));
    while found.len() < limit {
        // Rows of one bucket are few; what lies between two of this kind is not many pages.
        let rows = view.rows(BUCKETS, &start, &prefix_end(b"c"), limit)?;
        let Some((last, _)) = rows.last() else { break };
        start = [&last[..], &[0]].concat();
        for (key, value) in rows {
            let row: BucketConfigRow = super::decode(BUCKETS, &key, value)?;
            if row.name.as_ref().is_some_and(|name| name.kind == kind as i32) {
                found.push(row);
            }
        }
    }
    found.truncate(limit);
    Ok(found)
}

pub(crate) fn put_bucket_config(overlay: &mut Overlay<'_>, name: &BucketConfigName, row: &BucketConfigRow) {
    overlay.put(BUCKETS, bucket_config_key(BucketId(name.bucket), name.kind, &name.id), row);
}

pub(crate) fn delete_bucket_config(overlay: &mut Overlay<'_>, name: &BucketConfigName) {
    overlay.delete(BUCKETS, bucket_config_key(BucketId(name.bucket), name.kind, &name.id));
}

/// Takes all configurations of a bucket away.
pub(crate) fn delete_bucket_configs(overlay: &mut Overlay<'_>, bucket: BucketId) -> Result<(), IndexError> {
    let start = bucket_configs_of(bucket);
    for (key, _) in overlay.rows(BUCKETS, &start, &prefix_end(&start), usize::MAX)? {
        overlay.delete(BUCKETS, key);
    }
    Ok(())
}

macro_rules! named {
    ($(($one:ident, $all:ident, $row:ty, $kind:expr, $what:literal)),* $(,)?) => {
        $(
            #[doc = concat!("The ", $what, " of an account with this name, whatever its case.")]
            pub fn $one(view: &dyn View, account: &str, name: &str) -> Result<Option<$row>, IndexError> {
                read(view, ACCOUNTS, &named_key($kind, account, Some(name)))
            }

            #[doc = concat!("Each ", $what, " of an account, by name in lower case.")]
            pub fn $all(view: &dyn View, account: &str) -> Result<Vec<$row>, IndexError> {
                read_all(view, ACCOUNTS, &named_key($kind, account, None))
            }
        )*
    };
}

named!(
    (user, users, UserRow, NameKind::User, "user"),
    (policy, policies, PolicyRow, NameKind::Policy, "policy"),
    (role, roles, RoleRow, NameKind::Role, "role"),
    (group, groups, GroupRow, NameKind::Group, "group"),
);

/// An access key besides the one in an account's row.
pub fn access_key(view: &dyn View, access_key: &str) -> Result<Option<AccessKeyRow>, IndexError> {
    read(view, ACCOUNTS, &access_key_row_key(access_key))
}

/// All access keys but accounts' first ones.
pub fn all_access_keys(view: &dyn View) -> Result<Vec<AccessKeyRow>, IndexError> {
    read_all(view, ACCOUNTS, b"K")
}

/// The access keys of a user; of the account itself where `user` is empty. Not the one in the account's row.
pub fn access_keys_of(view: &dyn View, account: &str, user: &str) -> Result<Vec<AccessKeyRow>, IndexError> {
    let start = user_keys_of(account, user);
    let rows = view.rows(ACCOUNTS, &start, &prefix_end(&start), usize::MAX)?;
    let mut found = Vec::with_capacity(rows.len());
    for (pointer, _) in rows {
        let name = pointer.get(start.len()..).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.ok_or_else(|| super::damaged(ACCOUNTS, &pointer, super::RowFault::Key))?;
        let row = access_key(view, name)?;
        found.push(row.ok_or_else(|| super::damaged(ACCOUNTS, &pointer, super::RowFault::Dangling))?);
    }
    Ok(found)
}

pub(crate) fn put_access_key(overlay: &mut Overlay<'_>, row: &AccessKeyRow) -> Result<(), IndexError> {
    delete_access_key(overlay, &row.access_key)?;
    overlay.put(ACCOUNTS, access_key_row_key(&row.access_key), row);
    overlay.put_raw(ACCOUNTS, user_key_key(&row.account, &row.user, &row.access_key), Vec::new());
    Ok(())
}

pub(crate) fn delete_access_key(overlay: &mut Overlay<'_>, name: &str) -> Result<(), IndexError> {
    if let Some(old) = access_key(overlay, name)? {
        overlay.delete(ACCOUNTS, user_key_key(&old.account, &old.user, &old.access_key));
        overlay.delete(ACCOUNTS, access_key_row_key(name));
    }
    Ok(())
}

pub(crate) fn delete_user(overlay: &mut Overlay<'_>, name: &AccountName) -> Result<(), IndexError> {
    for key in access_keys_of(overlay, &name.account, &name.name)? {
        delete_access_key(overlay, &key.access_key)?;
    }
    delete_named(overlay, NameKind::User, name);
    Ok(())
}

pub(crate) fn delete_named(overlay: &mut Overlay<'_>, kind: NameKind, name: &AccountName) {
    overlay.delete(ACCOUNTS, named_key(kind, &name.account, Some(&name.name)));
}

/// A key of the key store.
pub fn kms_key(view: &dyn View, id: &str) -> Result<Option<KmsKeyRow>, IndexError> {
    read(view, ACCOUNTS, &kms_key_key(id))
}

/// All keys of the key store, by id.
pub fn kms_keys(view: &dyn View) -> Result<Vec<KmsKeyRow>, IndexError> {
    read_all(view, ACCOUNTS, b"M")
}

pub(crate) fn put_kms_key(overlay: &mut Overlay<'_>, row: &KmsKeyRow) {
    overlay.put(ACCOUNTS, kms_key_key(&row.id), row);
}
