//! Access keys.

use super::super::DecideError;
use super::Change;
use crate::iam::desk::Desk;
use crate::iam::session::PREFIX;
use crate::iam::value::{date, fields};
use crate::iam::{IamError, NewKey, Value, limits, views};
use crate::index::{self, access};
use codec::effect::{AccessKeyRow, EffectKind};

/// Whose keys are meant, if the one who asks may do to them what is asked for; an empty name: the account's own.
fn whose(desk: &Desk<'_>, user: Option<&str>) -> Result<String, DecideError> {
    match desk.user_or_self(user)? {
        Some(user) => Ok(desk.user(&user)?.name),
        None => {
            desk.may(&format!("arn:aws:iam::{}:root", desk.account))?;
            Ok(String::new())
        }
    }
}

pub(super) fn create(change: &mut Change<'_>, user: Option<&str>, key: Option<&NewKey>) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let user = whose(desk, user)?;
    let NewKey { access_key, wrapped_secret } =
        key.ok_or_else(|| IamError::Invalid("An access key is made by metadata.".to_owned()))?;
    if access_key.starts_with(PREFIX) {
        return Err(IamError::Invalid(format!("An access key that lasts does not begin with {PREFIX}.")).into());
    }
    let taken = index::account_by_access_key(desk.view, access_key)?.is_some()
        || access::access_key(desk.view, access_key)?.is_some();
    if taken {
        return Err(IamError::exists("Access key", access_key).into());
    }
    let known = access::access_keys_of(desk.view, desk.account, &user)?;
    // The file of accounts may give more of them.
    if known.len() >= limits::ACCESS_KEYS && !desk.is_operator() || known.len() >= limits::ACCESS_KEYS_GIVEN {
        return Err(IamError::Limit { what: "AccessKeysPerUser", limit: limits::ACCESS_KEYS }.into());
    }
    let row = AccessKeyRow {
        access_key: access_key.clone(),
        account: desk.account.to_owned(),
        user,
        wrapped_secret: wrapped_secret.clone(),
        inactive: false,
        created_ms: change.now_ms,
    };
    let answer = fields([
        ("UserName", views::user_name(&row.user)),
        ("AccessKeyId", Some(access_key.as_str().into())),
        ("Status", Some("Active".into())),
        ("CreateDate", Some(date(row.created_ms).into())),
    ]);
    change.push(EffectKind::PutAccessKey(row));
    Ok(fields([("AccessKey", Some(answer))]))
}

fn known(desk: &Desk<'_>, user: Option<&str>, access_key: &str) -> Result<AccessKeyRow, DecideError> {
    let user = whose(desk, user)?;
    let row = access::access_key(desk.view, access_key)?;
    let row = row.filter(|row| row.account == desk.account && row.user.to_lowercase() == user.to_lowercase());
    Ok(row.ok_or_else(|| IamError::missing("Access Key", access_key))?)
}

pub(super) fn update(
    change: &mut Change<'_>,
    user: Option<&str>,
    access_key: &str,
    active: bool,
) -> Result<Value, DecideError> {
    let row = known(&change.desk, user, access_key)?;
    change.push(EffectKind::PutAccessKey(AccessKeyRow { inactive: !active, ..row }));
    Ok(Value::empty())
}

pub(super) fn delete(change: &mut Change<'_>, user: Option<&str>, access_key: &str) -> Result<Value, DecideError> {
    let row = known(&change.desk, user, access_key)?;
    change.push(EffectKind::DeleteAccessKey(row));
    Ok(Value::empty())
}
