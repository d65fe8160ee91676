//! Answers to what only asks.

use super::desk::{Desk, DeskError};
use super::value::{Value, date, fields, some};
use super::{Ask, Asker, IamError, Page, built_in, limits, views};
use crate::index::{View, access};
use codec::effect::{AccessKeyRow, UserRow};

/// Answers a question. What changes something, or gives temporary credentials, is none.
pub(crate) fn answer(
    view: &dyn View,
    account: &str,
    asker: &Asker,
    action: &str,
    ask: &Ask,
) -> Result<Value, DeskError> {
    let desk = &Desk::new(view, account, asker, action)?;
    match ask {
        Ask::GetUser { name } => get_user(desk, name.as_deref()),
        Ask::ListUsers { .. } | Ask::ListGroups { .. } | Ask::ListRoles { .. } => list(desk, ask),
        Ask::ListAccessKeys { user, page } => access_keys(desk, user.as_deref(), page),
        Ask::GetAccessKeyLastUsed { access_key } => last_used(desk, access_key),
        Ask::GetAccountSummary => summary(desk),
        Ask::ListAccountAliases => {
            desk.may("*")?;
            Ok(nothing("AccountAliases"))
        }
        Ask::ListNone { holder, list } => {
            desk.holder(holder, &[])?;
            Ok(nothing(list))
        }
        Ask::ListNoneOfUser { user, list } => {
            user_or_account(desk, user.as_deref())?;
            Ok(nothing(list))
        }
        Ask::ListPolicyTags { arn } => {
            desk.may(arn)?;
            desk.known_policy(arn)?;
            Ok(nothing("Tags"))
        }
        Ask::LoginProfile { user } => {
            let user = user_or_account(desk, user.as_deref())?;
            Err(IamError::missing("login profile", &user).into())
        }
        Ask::GetOwnPolicy { holder, policy } => {
            let holding = desk.holder(holder, &[])?;
            let found = holding.own().iter().find(|known| known.name == *policy);
            let found = found.ok_or_else(|| IamError::missing("policy", policy))?;
            let (kind, name) = holding.name();
            Ok(fields([
                (kind, Some(name.into())),
                ("PolicyName", Some(found.name.as_str().into())),
                ("PolicyDocument", Some(views::text(&found.document))),
            ]))
        }
        Ask::ListOwnPolicies { holder, page } => {
            let names = desk.holder(holder, &[])?.own().iter().map(|policy| policy.name.clone()).collect();
            Ok(listed("PolicyNames", names, page, |name| name.clone(), |name| Ok(name.as_str().into()))?)
        }
        Ask::ListAttached { holder, page } => {
            let names = desk.holder(holder, &[])?.attached().to_vec();
            listed("AttachedPolicies", names, page, |name| name.clone(), |name| Ok(views::attached(desk, name)?))
        }
        Ask::GetPolicy { .. } | Ask::GetPolicyVersion { .. } | Ask::ListPolicyVersions { .. } => policy(desk, ask),
        Ask::ListPolicies { built_in, own, page } => policies(desk, *built_in, *own, page),
        Ask::ListEntities { arn } => entities(desk, arn),
        Ask::GetGroup { name, page } => {
            let group = desk.group(name)?;
            let shown = views::group(desk, &group);
            let users =
                listed("Users", views::members(desk, &group.name)?, page, user_key, |row| views::user(desk, row))?;
            let Value::Fields(users) = users else { return Ok(users) };
            Ok(Value::Fields([vec![("Group".to_owned(), shown)], users].concat()))
        }
        Ask::ListGroupsOfUser { user, page } => {
            let mut groups = Vec::new();
            for name in desk.user(user)?.groups {
                groups.extend(access::group(desk.view, desk.account, &name)?);
            }
            listed("Groups", groups, page, |row| row.name.to_lowercase(), |row| Ok(views::group(desk, row)))
        }
        Ask::GetRole { name } => Ok(Value::one("Role", views::role(desk, &desk.role(name)?)?)),
        Ask::GetCallerIdentity => Ok(identity(desk)),
        other => Err(IamError::Invalid(format!("{other:?} asks nothing")).into()),
    }
}

fn user_key(row: &UserRow) -> String {
    row.name.to_lowercase()
}

/// One page of what there is, by name.
fn listed<T>(
    name: &str,
    all: Vec<T>,
    page: &Page,
    key: impl Fn(&T) -> String,
    show: impl Fn(&T) -> Result<Value, DeskError>,
) -> Result<Value, DeskError> {
    let mut behind = all.iter().filter(|row| page.after.is_empty() || key(row) > page.after);
    let shown: Vec<&T> = behind.by_ref().take(page.most).collect();
    let more = behind.next().is_some();
    let marker = shown.last().filter(|_| more).map(|row| key(row).into());
    let items = shown.into_iter().map(show).collect::<Result<_, _>>()?;
    Ok(fields([(name, Some(Value::List(items))), ("IsTruncated", Some(more.to_string().into())), ("Marker", marker)]))
}

/// A list of what nobody has here.
fn nothing(list: &str) -> Value {
    fields([(list, Some(Value::List(Vec::new()))), ("IsTruncated", Some("false".into()))])
}

/// The name of a user that there is, or of whoever asks, if that one may; empty: the account itself.
fn user_or_account(desk: &Desk<'_>, named: Option<&str>) -> Result<String, DeskError> {
    match desk.user_or_self(named)? {
        Some(name) => Ok(desk.user(&name)?.name),
        None => {
            desk.may(&format!("arn:aws:iam::{}:root", desk.account))?;
            Ok(String::new())
        }
    }
}

fn get_user(desk: &Desk<'_>, name: Option<&str>) -> Result<Value, DeskError> {
    if let Some(name) = desk.user_or_self(name)? {
        return Ok(Value::one("User", views::user(desk, &desk.user(&name)?)?));
    }
    // The account itself, as AWS shows its root user.
    let arn = format!("arn:aws:iam::{}:root", desk.account);
    desk.may(&arn)?;
    let account = crate::index::account(desk.view, desk.account)?;
    let root = fields([
        ("Path", Some("/".into())),
        ("UserName", account.map(|row| row.name.into())),
        ("UserId", Some(desk.account.into())),
        ("Arn", Some(arn.into())),
        ("CreateDate", Some(date(0).into())),
    ]);
    Ok(Value::one("User", root))
}

fn list(desk: &Desk<'_>, ask: &Ask) -> Result<Value, DeskError> {
    desk.may("*")?;
    let (view, account) = (desk.view, desk.account);
    match ask {
        Ask::ListUsers { page } => {
            let mut rows = access::users(view, account)?;
            rows.retain(|row| row.path.starts_with(&page.path));
            listed("Users", rows, page, user_key, |row| views::user(desk, row))
        }
        Ask::ListGroups { page } => {
            let mut rows = access::groups(view, account)?;
            rows.retain(|row| row.path.starts_with(&page.path));
            listed("Groups", rows, page, |row| row.name.to_lowercase(), |row| Ok(views::group(desk, row)))
        }
        Ask::ListRoles { page } => {
            let mut rows = access::roles(view, account)?;
            rows.retain(|row| row.path.starts_with(&page.path));
            listed("Roles", rows, page, |row| row.name.to_lowercase(), |row| views::role(desk, row))
        }
        other => Err(IamError::Invalid(format!("{other:?} lists nothing")).into()),
    }
}

fn access_keys(desk: &Desk<'_>, user: Option<&str>, page: &Page) -> Result<Value, DeskError> {
    let keys = match desk.user_or_self(user)? {
        Some(name) => {
            let user = desk.user(&name)?;
            access::access_keys_of(desk.view, desk.account, &user.name)?
        }
        None => {
            desk.may(&format!("arn:aws:iam::{}:root", desk.account))?;
            let first = crate::index::account(desk.view, desk.account)?;
            let first = first.map(|row| AccessKeyRow { access_key: row.access_key, ..AccessKeyRow::default() });
            first.into_iter().chain(access::access_keys_of(desk.view, desk.account, "")?).collect()
        }
    };
    listed("AccessKeyMetadata", keys, page, |row| row.access_key.clone(), |row| Ok(views::access_key(row)))
}

/// Whose an access key is. When it was used last is not kept.
fn last_used(desk: &Desk<'_>, access_key: &str) -> Result<Value, DeskError> {
    let row = access::access_key(desk.view, access_key)?.filter(|row| row.account == desk.account);
    let user = row.as_ref().map_or("", |row| &row.user);
    match user.is_empty() {
        true => desk.may(&format!("arn:aws:iam::{}:root", desk.account))?,
        false => drop(desk.user(user)?),
    }
    row.as_ref().ok_or_else(|| IamError::missing("Access Key", access_key))?;
    let never = fields([("ServiceName", Some("N/A".into())), ("Region", Some("N/A".into()))]);
    Ok(fields([("UserName", views::user_name(user)), ("AccessKeyLastUsed", Some(never))]))
}

/// What the account has, and how much it may have: a map, as IAM writes one (IAM API Reference, GetAccountSummary).
fn summary(desk: &Desk<'_>) -> Result<Value, DeskError> {
    desk.may("*")?;
    let (view, account) = (desk.view, desk.account);
    let counts = [
        ("Users", access::users(view, account)?.len()),
        ("UsersQuota", limits::USERS),
        ("Groups", access::groups(view, account)?.len()),
        ("GroupsQuota", limits::GROUPS),
        ("Roles", access::roles(view, account)?.len()),
        ("RolesQuota", limits::ROLES),
        ("Policies", access::policies(view, account)?.len()),
        ("PoliciesQuota", limits::POLICIES),
        ("GroupsPerUserQuota", limits::GROUPS_OF_USER),
        ("AccessKeysPerUserQuota", limits::ACCESS_KEYS),
        ("AttachedPoliciesPerUserQuota", limits::ATTACHED),
        ("AttachedPoliciesPerGroupQuota", limits::ATTACHED),
        ("AttachedPoliciesPerRoleQuota", limits::ATTACHED),
        ("UserPolicySizeQuota", limits::INLINE_OF_USER),
        ("GroupPolicySizeQuota", limits::INLINE_OF_GROUP),
        ("RolePolicySizeQuota", limits::INLINE_OF_ROLE),
        ("PolicySizeQuota", limits::DOCUMENT),
    ];
    let entry = |(name, count): (&str, usize)| {
        let pair = fields([("key", Some(name.into())), ("value", Some(count.to_string().into()))]);
        ("entry".to_owned(), pair)
    };
    Ok(Value::one("SummaryMap", Value::Fields(counts.into_iter().map(entry).collect())))
}

fn policy(desk: &Desk<'_>, ask: &Ask) -> Result<Value, DeskError> {
    let (Ask::GetPolicy { arn } | Ask::GetPolicyVersion { arn, .. } | Ask::ListPolicyVersions { arn }) = ask else {
        return Err(IamError::Invalid(format!("{ask:?} is about no policy")).into());
    };
    if let Ask::GetPolicyVersion { version, .. } = ask
        && version != views::VERSION
    {
        return Err(IamError::missing("policy version", version).into());
    }
    if let Some(text) = super::built_in_policy(arn) {
        desk.may(arn)?;
        let name = arn.rsplit('/').next().unwrap_or_default();
        return Ok(match ask {
            Ask::GetPolicy { .. } => Value::one("Policy", views::built_in(name)),
            Ask::GetPolicyVersion { .. } => {
                Value::one("PolicyVersion", views::version(Some(views::text(text.as_bytes())), 0))
            }
            _ => Value::one("Versions", Value::List(vec![views::version(None, 0)])),
        });
    }
    let row = desk.policy(arn)?;
    let name = row.policy.as_ref().map_or("", |policy| &policy.name);
    Ok(match ask {
        Ask::GetPolicy { .. } => Value::one("Policy", views::policy(desk, &row, views::entities(desk, name)?.count())),
        Ask::GetPolicyVersion { .. } => Value::one("PolicyVersion", views::policy_version(&row, true)),
        _ => fields([
            ("Versions", Some(Value::List(vec![views::policy_version(&row, false)]))),
            ("IsTruncated", Some("false".into())),
        ]),
    })
}

fn policies(desk: &Desk<'_>, all: bool, own: bool, page: &Page) -> Result<Value, DeskError> {
    desk.may("*")?;
    let mut found = Vec::new();
    if own {
        for row in access::policies(desk.view, desk.account)? {
            let name = row.policy.as_ref().map_or("", |policy| &policy.name).to_lowercase();
            if row.path.starts_with(&page.path) {
                found.push((name, views::policy(desk, &row, 0)));
            }
        }
    }
    if all && page.path == "/" {
        found.extend(built_in::POLICIES.iter().map(|(name, _)| (name.to_lowercase(), views::built_in(name))));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    listed("Policies", found, page, |(name, _)| name.clone(), |(_, shown)| Ok(shown.clone()))
}

fn entities(desk: &Desk<'_>, arn: &str) -> Result<Value, DeskError> {
    desk.may(arn)?;
    let name = desk.known_policy(arn)?;
    let found = views::entities(desk, &name)?;
    let user = |row: &UserRow| fields([("UserName", some(&row.name)), ("UserId", some(&row.id))]);
    let list = |values: Vec<Value>| Some(Value::List(values));
    Ok(fields([
        ("PolicyGroups", list(found.groups.iter().map(|row| fields([("GroupName", some(&row.name))])).collect())),
        ("PolicyUsers", list(found.users.iter().map(user).collect())),
        (
            "PolicyRoles",
            list(
                found
                    .roles
                    .iter()
                    .map(|row| fields([("RoleName", some(&row.name)), ("RoleId", some(&row.id))]))
                    .collect(),
            ),
        ),
        ("IsTruncated", Some("false".into())),
    ]))
}

/// Everybody may know who he is (STS API Reference, GetCallerIdentity: no permissions are required).
fn identity(desk: &Desk<'_>) -> Value {
    let (arn, id) = match desk.held() {
        Some(held) => (held.arn(), held.user_id.clone()),
        None => (format!("arn:aws:iam::{}:root", desk.account), desk.account.to_owned()),
    };
    fields([("Arn", Some(arn.into())), ("UserId", Some(id.into())), ("Account", Some(desk.account.into()))])
}
