//! Policies: those of one user, group or role, and those that are attached to several.

use super::super::DecideError;
use super::Change;
use crate::iam::desk::{BOUNDARY, Holding};
use crate::iam::value::fields;
use crate::iam::{Holder, IamError, Value, limits, views};
use crate::index::access;
use ::access::policy::{Kind, Policy};
use bytes::Bytes;
use codec::effect::{EffectKind, NamedPolicy, PolicyRow, RoleRow, UserRow};

/// Characters without white space: so AWS counts.
pub(super) fn length(document: &[u8]) -> usize {
    String::from_utf8_lossy(document).chars().filter(|c| !c.is_whitespace()).count()
}

/// Takes a document that can be read, and is not too long.
pub(super) fn document(text: &str, kind: Kind<'_>, what: &'static str, limit: usize) -> Result<Bytes, IamError> {
    if length(text.as_bytes()) > limit {
        return Err(IamError::Limit { what, limit });
    }
    let checked = Policy::parse(text, kind).and_then(|policy| policy.check_new());
    checked.map_err(|error| IamError::MalformedPolicy(error.to_string()))?;
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn put(change: &mut Change<'_>, holding: Holding) {
    change.push(match holding {
        Holding::User(row) => EffectKind::PutUser(row),
        Holding::Group(row) => EffectKind::PutGroup(row),
        Holding::Role(row) => EffectKind::PutRole(row),
    });
}

pub(super) fn put_own(change: &mut Change<'_>, holder: &Holder, name: &str, text: &str) -> Result<Value, DecideError> {
    let mut holding = change.desk.changed(holder, &[])?;
    let limit = holding.own_limit();
    let document = document(text, Kind::Identity, "policy size", limit)?;
    let own = holding.own_mut();
    own.retain(|policy| policy.name != name);
    own.push(NamedPolicy { name: name.to_owned(), document });
    own.sort_by(|a, b| a.name.cmp(&b.name));
    if own.iter().map(|policy| length(&policy.document)).sum::<usize>() > limit {
        return Err(IamError::Limit { what: "policy size", limit }.into());
    }
    put(change, holding);
    Ok(Value::empty())
}

pub(super) fn delete_own(change: &mut Change<'_>, holder: &Holder, name: &str) -> Result<Value, DecideError> {
    let mut holding = change.desk.changed(holder, &[])?;
    let before = holding.own().len();
    holding.own_mut().retain(|policy| policy.name != name);
    if holding.own().len() == before {
        return Err(IamError::missing("policy", name).into());
    }
    put(change, holding);
    Ok(Value::empty())
}

pub(super) fn attach(change: &mut Change<'_>, holder: &Holder, arn: &str) -> Result<Value, DecideError> {
    let mut holding = change.desk.changed(holder, &[("iam:PolicyARN", arn)])?;
    let name = change.desk.known_policy(arn)?;
    if holding.attached().contains(&name) {
        return Ok(Value::empty());
    }
    if holding.attached().len() >= limits::ATTACHED {
        return Err(IamError::Limit { what: "PoliciesPerUser", limit: limits::ATTACHED }.into());
    }
    holding.attached_mut().push(name);
    holding.attached_mut().sort();
    put(change, holding);
    Ok(Value::empty())
}

pub(super) fn detach(change: &mut Change<'_>, holder: &Holder, arn: &str) -> Result<Value, DecideError> {
    let mut holding = change.desk.changed(holder, &[("iam:PolicyARN", arn)])?;
    let name = change.desk.known_policy(arn)?;
    let before = holding.attached().len();
    holding.attached_mut().retain(|known| *known != name);
    if holding.attached().len() == before {
        return Err(IamError::missing("policy", arn).into());
    }
    put(change, holding);
    Ok(Value::empty())
}

pub(super) fn bound(change: &mut Change<'_>, holder: &Holder, arn: Option<&str>) -> Result<Value, DecideError> {
    let more: Vec<_> = arn.map(|arn| (BOUNDARY, arn)).into_iter().collect();
    let holding = change.desk.changed(holder, &more)?;
    let boundary = arn.map(|arn| change.desk.known_policy(arn)).transpose()?.unwrap_or_default();
    match holding {
        Holding::User(row) => change.push(EffectKind::PutUser(UserRow { boundary, ..row })),
        Holding::Role(row) => change.push(EffectKind::PutRole(RoleRow { boundary, ..row })),
        Holding::Group(_) => return Err(IamError::Invalid("A group has no boundary.".to_owned()).into()),
    }
    Ok(Value::empty())
}

pub(super) fn create(
    change: &mut Change<'_>,
    (name, path): (&str, &str),
    description: &str,
    text: &str,
) -> Result<Value, DecideError> {
    let desk = &change.desk;
    desk.may(&desk.arn("policy", path, name))?;
    let document = document(text, Kind::Identity, "PolicySize", limits::DOCUMENT)?;
    if access::policy(desk.view, desk.account, name)?.is_some() {
        return Err(IamError::exists("A policy called", name).into());
    }
    if access::policies(desk.view, desk.account)?.len() >= limits::POLICIES {
        return Err(IamError::Limit { what: "PoliciesPerAccount", limit: limits::POLICIES }.into());
    }
    let row = PolicyRow {
        account: desk.account.to_owned(),
        path: path.to_owned(),
        policy: Some(NamedPolicy { name: name.to_owned(), document }),
        created_ms: change.now_ms,
        description: description.to_owned(),
    };
    let answer = fields([("Policy", Some(views::policy(desk, &row, 0)))]);
    change.push(EffectKind::PutPolicy(row));
    Ok(answer)
}

pub(super) fn replace(change: &mut Change<'_>, arn: &str, text: &str) -> Result<Value, DecideError> {
    let row = change.desk.policy(arn)?;
    let document = document(text, Kind::Identity, "PolicySize", limits::DOCUMENT)?;
    let policy = row.policy.clone().map(|policy| NamedPolicy { document, ..policy });
    let row = PolicyRow { policy, ..row };
    let answer = fields([("PolicyVersion", Some(views::policy_version(&row, false)))]);
    change.push(EffectKind::PutPolicy(row));
    Ok(answer)
}

pub(super) fn delete(change: &mut Change<'_>, arn: &str) -> Result<Value, DecideError> {
    let desk = &change.desk;
    let row = desk.policy(arn)?;
    let name = row.policy.map(|policy| policy.name).unwrap_or_default();
    let attached = views::entities(desk, &name)?;
    if attached.count() > 0 {
        return Err(IamError::InUse { first: "detach the policy from everything that has it" }.into());
    }
    change.push(EffectKind::DeletePolicy(change.name(&name)));
    Ok(Value::empty())
}
