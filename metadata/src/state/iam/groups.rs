//! Groups.

use super::super::DecideError;
use super::Change;
use crate::iam::value::fields;
use crate::iam::{IamError, Value, limits, views};
use crate::index::access;
use codec::effect::{EffectKind, GroupRow};

pub(super) fn create(change: &mut Change<'_>, name: &str, path: &str) -> Result<Value, DecideError> {
    let desk = &change.desk;
    desk.may(&desk.arn("group", path, name))?;
    if access::group(desk.view, desk.account, name)?.is_some() {
        return Err(IamError::exists("Group", name).into());
    }
    if access::groups(desk.view, desk.account)?.len() >= limits::GROUPS {
        return Err(IamError::Limit { what: "GroupsPerAccount", limit: limits::GROUPS }.into());
    }
    let row = GroupRow {
        account: desk.account.to_owned(),
        name: name.to_owned(),
        path: path.to_owned(),
        created_ms: change.now_ms,
        ..GroupRow::default()
    };
    let answer = fields([("Group", Some(views::group(desk, &row)))]);
    change.push(EffectKind::PutGroup(row));
    Ok(answer)
}

pub(super) fn delete(change: &mut Change<'_>, name: &str) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let row = desk.group(name)?;
    let left = [
        (!views::members(desk, &row.name)?.is_empty(), "remove users from group"),
        (!row.inline.is_empty(), "delete policies"),
        (!row.attached.is_empty(), "detach all policies"),
    ];
    if let Some((_, first)) = left.into_iter().find(|(is_left, _)| *is_left) {
        return Err(IamError::InUse { first }.into());
    }
    change.push(EffectKind::DeleteGroup(change.name(&row.name)));
    Ok(Value::empty())
}

pub(super) fn add(change: &mut Change<'_>, group: &str, user: &str) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let group = desk.group(group)?;
    let mut row = access::user(desk.view, desk.account, user)?.ok_or_else(|| IamError::missing("user", user))?;
    if row.groups.contains(&group.name) {
        return Ok(Value::empty());
    }
    if row.groups.len() >= limits::GROUPS_OF_USER {
        return Err(IamError::Limit { what: "GroupsPerUser", limit: limits::GROUPS_OF_USER }.into());
    }
    row.groups.push(group.name);
    row.groups.sort();
    change.push(EffectKind::PutUser(row));
    Ok(Value::empty())
}

pub(super) fn remove(change: &mut Change<'_>, group: &str, user: &str) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let group = desk.group(group)?;
    let mut row = access::user(desk.view, desk.account, user)?.ok_or_else(|| IamError::missing("user", user))?;
    let before = row.groups.len();
    row.groups.retain(|known| *known != group.name);
    if row.groups.len() == before {
        return Err(IamError::missing("user", user).into());
    }
    change.push(EffectKind::PutUser(row));
    Ok(Value::empty())
}
