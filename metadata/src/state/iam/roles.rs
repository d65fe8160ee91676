//! Roles.

use super::super::DecideError;
use super::Change;
use super::policies::document;
use crate::iam::desk::BOUNDARY;
use crate::iam::value::fields;
use crate::iam::{Ask, IamError, Value, limits, unique_id, views};
use crate::index::access;
use ::access::policy::Kind;
use codec::effect::{EffectKind, RoleRow};

pub(super) fn create(change: &mut Change<'_>, ask: &Ask) -> Result<Value, DecideError> {
    let Ask::CreateRole { name, path, description, trust, longest_s, boundary } = ask else {
        return Err(IamError::Invalid("no role".to_owned()).into());
    };
    let desk = &change.desk;
    let more: Vec<_> = boundary.iter().map(|arn| (BOUNDARY, arn.as_str())).collect();
    desk.may_with(&desk.arn("role", path, name), &more)?;
    let trust = document(trust, Kind::Trust, "ACLSizePerRole", limits::TRUST)?;
    if access::role(desk.view, desk.account, name)?.is_some() {
        return Err(IamError::exists("Role", name).into());
    }
    if access::roles(desk.view, desk.account)?.len() >= limits::ROLES {
        return Err(IamError::Limit { what: "RolesPerAccount", limit: limits::ROLES }.into());
    }
    let boundary = boundary.as_deref().map(|arn| desk.known_policy(arn)).transpose()?.unwrap_or_default();
    let row = RoleRow {
        account: desk.account.to_owned(),
        name: name.clone(),
        path: path.clone(),
        id: unique_id("AROA", change.lsn),
        trust,
        boundary,
        max_session_s: *longest_s,
        created_ms: change.now_ms,
        description: description.clone(),
        ..RoleRow::default()
    };
    let answer = fields([("Role", Some(views::role(desk, &row)?))]);
    change.push(EffectKind::PutRole(row));
    Ok(answer)
}

pub(super) fn update(
    change: &mut Change<'_>,
    name: &str,
    description: Option<&str>,
    longest_s: Option<u32>,
) -> Result<Value, DecideError> {
    let mut row = change.desk.role(name)?;
    row.description = description.map_or(row.description, str::to_owned);
    row.max_session_s = longest_s.unwrap_or(row.max_session_s);
    change.push(EffectKind::PutRole(row));
    Ok(Value::empty())
}

pub(super) fn update_trust(change: &mut Change<'_>, name: &str, text: &str) -> Result<Value, DecideError> {
    let row = change.desk.role(name)?;
    let trust = document(text, Kind::Trust, "ACLSizePerRole", limits::TRUST)?;
    change.push(EffectKind::PutRole(RoleRow { trust, ..row }));
    Ok(Value::empty())
}

pub(super) fn delete(change: &mut Change<'_>, name: &str) -> Result<Value, DecideError> {
    let row = change.desk.role(name)?;
    let left = [(!row.inline.is_empty(), "delete policies"), (!row.attached.is_empty(), "detach all policies")];
    if let Some((_, first)) = left.into_iter().find(|(is_left, _)| *is_left)
        && !change.desk.is_operator()
    {
        return Err(IamError::InUse { first }.into());
    }
    change.push(EffectKind::DeleteRole(change.name(&row.name)));
    Ok(Value::empty())
}

/// What was begun before now is over. The clock of the leader says when that is, as it says when a session begins.
pub(super) fn revoke(change: &mut Change<'_>, name: &str) -> Result<Value, DecideError> {
    let row = change.desk.role(name)?;
    let sessions_from_ms = row.sessions_from_ms.max(change.now_ms.saturating_add(1));
    change.push(EffectKind::PutRole(RoleRow { sessions_from_ms, ..row }));
    Ok(Value::empty())
}
