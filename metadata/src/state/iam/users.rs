//! Users.

use super::super::DecideError;
use super::Change;
use crate::iam::desk::BOUNDARY;
use crate::iam::value::fields;
use crate::iam::{IamError, Value, limits, unique_id, views};
use crate::index::access;
use codec::effect::{AccessKeyRow, EffectKind, UserRow};

pub(super) fn create(
    change: &mut Change<'_>,
    name: &str,
    path: &str,
    boundary: Option<&str>,
) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let more: Vec<_> = boundary.map(|arn| (BOUNDARY, arn)).into_iter().collect();
    desk.may_with(&desk.arn("user", path, name), &more)?;
    if access::user(desk.view, desk.account, name)?.is_some() {
        return Err(IamError::exists("User", name).into());
    }
    if access::users(desk.view, desk.account)?.len() >= limits::USERS {
        return Err(IamError::Limit { what: "UsersPerAccount", limit: limits::USERS }.into());
    }
    let boundary = boundary.map(|arn| desk.known_policy(arn)).transpose()?.unwrap_or_default();
    let row = UserRow {
        account: desk.account.to_owned(),
        name: name.to_owned(),
        path: path.to_owned(),
        id: unique_id("AIDA", change.lsn),
        created_ms: change.now_ms,
        boundary,
        ..UserRow::default()
    };
    let answer = fields([("User", Some(views::user(&change.desk, &row)?))]);
    change.push(EffectKind::PutUser(row));
    Ok(answer)
}

/// A user under another name is the same one: it keeps its id, keys and groups.
pub(super) fn update(
    change: &mut Change<'_>,
    name: &str,
    new_name: Option<&str>,
    new_path: Option<&str>,
) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let old = desk.user(name)?;
    let name = new_name.unwrap_or(&old.name);
    let path = new_path.unwrap_or(&old.path);
    desk.may(&desk.arn("user", path, name))?;
    let is_other = name.to_lowercase() != old.name.to_lowercase();
    if is_other && access::user(desk.view, desk.account, name)?.is_some() {
        return Err(IamError::exists("User", name).into());
    }
    let keys = access::access_keys_of(desk.view, desk.account, &old.name)?;
    let row = UserRow { name: name.to_owned(), path: path.to_owned(), ..old.clone() };
    if is_other {
        // Its keys go with it, and come back under the new name.
        change.push(EffectKind::DeleteUser(change.name(&old.name)));
    }
    let renamed = row.name != old.name;
    change.push(EffectKind::PutUser(row));
    for key in keys.into_iter().filter(|_| renamed) {
        change.push(EffectKind::PutAccessKey(AccessKeyRow { user: name.to_owned(), ..key }));
    }
    Ok(Value::empty())
}

/// An operator takes it away with all that it has; everybody else empties it first, as with AWS.
pub(super) fn delete(change: &mut Change<'_>, name: &str) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let row = desk.user(name)?;
    if !desk.is_operator() {
        let keys = access::access_keys_of(desk.view, desk.account, &row.name)?;
        let left = [
            (!keys.is_empty(), "delete access keys"),
            (!row.inline.is_empty(), "delete policies"),
            (!row.attached.is_empty(), "detach all policies"),
            (!row.groups.is_empty(), "remove users from group"),
        ];
        if let Some((_, first)) = left.into_iter().find(|(is_left, _)| *is_left) {
            return Err(IamError::InUse { first }.into());
        }
    }
    change.push(EffectKind::DeleteUser(change.name(&row.name)));
    Ok(Value::empty())
}
