//! Rows as AWS shows them.

use super::desk::{Desk, DeskError};
use super::value::{Value, date, fields, some};
use super::{arn_of_policy, unique_id};
use crate::index::{IndexError, access};
use codec::effect::{AccessKeyRow, GroupRow, PolicyRow, RoleRow, UserRow};

/// The only version of a policy.
pub(crate) const VERSION: &str = "v1";

fn boundary(desk: &Desk<'_>, name: &str) -> Result<Option<Value>, IndexError> {
    if name.is_empty() {
        return Ok(None);
    }
    let arn = attached_arn(desk, name)?;
    let kind = Some("Policy".into());
    Ok(Some(fields([("PermissionsBoundaryType", kind), ("PermissionsBoundaryArn", Some(arn.into()))])))
}

pub(crate) fn user(desk: &Desk<'_>, row: &UserRow) -> Result<Value, DeskError> {
    Ok(fields([
        ("Path", Some(row.path.as_str().into())),
        ("UserName", Some(row.name.as_str().into())),
        ("UserId", Some(row.id.as_str().into())),
        ("Arn", Some(desk.arn("user", &row.path, &row.name).into())),
        ("CreateDate", Some(date(row.created_ms).into())),
        ("PermissionsBoundary", boundary(desk, &row.boundary)?),
    ]))
}

/// The name of a user; the account's own keys have none.
pub(crate) fn user_name(name: &str) -> Option<Value> {
    some(name)
}

pub(crate) fn access_key(row: &AccessKeyRow) -> Value {
    fields([
        ("UserName", user_name(&row.user)),
        ("AccessKeyId", Some(row.access_key.as_str().into())),
        ("Status", Some(if row.inactive { "Inactive" } else { "Active" }.into())),
        ("CreateDate", Some(date(row.created_ms).into())),
    ])
}

/// An id for what has none of its own: of its name and when it was made.
fn made_up(prefix: &str, account: &str, name: &str, created_ms: u64) -> String {
    let hash = blake3::hash(format!("{account}\0{name}\0{created_ms}").as_bytes());
    let number = hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    unique_id(prefix, number)
}

pub(crate) fn policy(desk: &Desk<'_>, row: &PolicyRow, attached: usize) -> Value {
    let name = row.policy.as_ref().map_or("", |policy| policy.name.as_str());
    fields([
        ("PolicyName", Some(name.into())),
        ("PolicyId", Some(made_up("ANPA", &row.account, name, row.created_ms).into())),
        ("Arn", Some(desk.policy_arn(row).into())),
        ("Path", Some(row.path.as_str().into())),
        ("DefaultVersionId", Some(VERSION.into())),
        ("AttachmentCount", Some(attached.to_string().into())),
        ("PermissionsBoundaryUsageCount", Some("0".into())),
        ("IsAttachable", Some("true".into())),
        ("Description", some(&row.description)),
        ("CreateDate", Some(date(row.created_ms).into())),
        ("UpdateDate", Some(date(row.created_ms).into())),
    ])
}

/// A policy that everybody has.
pub(crate) fn built_in(name: &str) -> Value {
    fields([
        ("PolicyName", Some(name.into())),
        ("PolicyId", Some(made_up("ANPA", "aws", name, 0).into())),
        ("Arn", Some(format!("arn:aws:iam::aws:policy/{name}").into())),
        ("Path", Some("/".into())),
        ("DefaultVersionId", Some(VERSION.into())),
        ("AttachmentCount", Some("0".into())),
        ("IsAttachable", Some("true".into())),
        ("CreateDate", Some(date(0).into())),
        ("UpdateDate", Some(date(0).into())),
    ])
}

pub(crate) fn text(document: &[u8]) -> Value {
    Value::Document(String::from_utf8_lossy(document).into_owned())
}

pub(crate) fn policy_version(row: &PolicyRow, whole: bool) -> Value {
    let document = row.policy.as_ref().filter(|_| whole).map(|policy| text(&policy.document));
    version(document, row.created_ms)
}

pub(crate) fn version(document: Option<Value>, created_ms: u64) -> Value {
    fields([
        ("Document", document),
        ("VersionId", Some(VERSION.into())),
        ("IsDefaultVersion", Some("true".into())),
        ("CreateDate", Some(date(created_ms).into())),
    ])
}

pub(crate) fn group(desk: &Desk<'_>, row: &GroupRow) -> Value {
    fields([
        ("Path", Some(row.path.as_str().into())),
        ("GroupName", Some(row.name.as_str().into())),
        ("GroupId", Some(made_up("AGPA", &row.account, &row.name, row.created_ms).into())),
        ("Arn", Some(desk.arn("group", &row.path, &row.name).into())),
        ("CreateDate", Some(date(row.created_ms).into())),
    ])
}

pub(crate) fn role(desk: &Desk<'_>, row: &RoleRow) -> Result<Value, DeskError> {
    Ok(fields([
        ("Path", Some(row.path.as_str().into())),
        ("RoleName", Some(row.name.as_str().into())),
        ("RoleId", Some(row.id.as_str().into())),
        ("Arn", Some(desk.arn("role", &row.path, &row.name).into())),
        ("CreateDate", Some(date(row.created_ms).into())),
        ("AssumeRolePolicyDocument", Some(text(&row.trust))),
        ("Description", some(&row.description)),
        ("MaxSessionDuration", Some(row.max_session_s.to_string().into())),
        ("PermissionsBoundary", boundary(desk, &row.boundary)?),
    ]))
}

/// The ARN of a policy by the name under which rows know it.
pub(super) fn attached_arn(desk: &Desk<'_>, name: &str) -> Result<String, IndexError> {
    let row = access::policy(desk.view, desk.account, name)?;
    Ok(arn_of_policy(desk.account, row.as_ref().map_or("/", |row| &row.path), name))
}

/// A policy as attached to something.
pub(crate) fn attached(desk: &Desk<'_>, name: &str) -> Result<Value, IndexError> {
    let short = name.rsplit('/').next().unwrap_or_default();
    Ok(fields([("PolicyName", Some(short.into())), ("PolicyArn", Some(attached_arn(desk, name)?.into()))]))
}

/// What a policy is attached to, or bounds.
#[derive(Debug, Default)]
pub(crate) struct Entities {
    pub(crate) users: Vec<UserRow>,
    pub(crate) groups: Vec<GroupRow>,
    pub(crate) roles: Vec<RoleRow>,
}

impl Entities {
    pub(crate) fn count(&self) -> usize {
        self.users.len() + self.groups.len() + self.roles.len()
    }
}

/// What has the policy of a name.
pub(crate) fn entities(desk: &Desk<'_>, name: &str) -> Result<Entities, IndexError> {
    let has = |attached: &[String], boundary: &str| attached.iter().any(|known| known == name) || boundary == name;
    let (mut users, mut groups) = (access::users(desk.view, desk.account)?, access::groups(desk.view, desk.account)?);
    let mut roles = access::roles(desk.view, desk.account)?;
    users.retain(|row| has(&row.attached, &row.boundary));
    groups.retain(|row| has(&row.attached, ""));
    roles.retain(|row| has(&row.attached, &row.boundary));
    Ok(Entities { users, groups, roles })
}

/// The users of a group.
pub(crate) fn members(desk: &Desk<'_>, group: &str) -> Result<Vec<UserRow>, IndexError> {
    let mut users = access::users(desk.view, desk.account)?;
    users.retain(|user| user.groups.iter().any(|known| known == group));
    Ok(users)
}
