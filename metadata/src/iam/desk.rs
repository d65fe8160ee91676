//! Where questions and changes are taken: who asks, whether that one may, and what it is about.

use super::error::IamError;
use super::signer::{Asker, Held, Looked, Who, authorise, context, held};
use super::{Holder, limits, names, views};
use crate::index::{IndexError, View, access};
use ::access::policy::Context;
use codec::effect::{GroupRow, NamedPolicy, PolicyRow, RoleRow, UserRow};
use std::sync::Arc;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// An answer for the one who asked.
    #[error(transparent)]
    Iam(#[from] IamError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// What holds policies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Holding {
    User(UserRow),
    Group(GroupRow),
    Role(RoleRow),
}

impl Holding {
    /// AWS's word for its name, and the name.
    pub(crate) fn name(&self) -> (&'static str, &str) {
        match self {
            Holding::User(row) => ("UserName", &row.name),
            Holding::Group(row) => ("GroupName", &row.name),
            Holding::Role(row) => ("RoleName", &row.name),
        }
    }

    /// Its own policies.
    pub(crate) fn own(&self) -> &[NamedPolicy] {
        match self {
            Holding::User(row) => &row.inline,
            Holding::Group(row) => &row.inline,
            Holding::Role(row) => &row.inline,
        }
    }

    pub(crate) fn own_mut(&mut self) -> &mut Vec<NamedPolicy> {
        match self {
            Holding::User(row) => &mut row.inline,
            Holding::Group(row) => &mut row.inline,
            Holding::Role(row) => &mut row.inline,
        }
    }

    /// Names of the policies attached to it.
    pub(crate) fn attached(&self) -> &[String] {
        match self {
            Holding::User(row) => &row.attached,
            Holding::Group(row) => &row.attached,
            Holding::Role(row) => &row.attached,
        }
    }

    pub(crate) fn attached_mut(&mut self) -> &mut Vec<String> {
        match self {
            Holding::User(row) => &mut row.attached,
            Holding::Group(row) => &mut row.attached,
            Holding::Role(row) => &mut row.attached,
        }
    }

    /// Characters that its own policies may have together, without white space.
    pub(crate) fn own_limit(&self) -> usize {
        match self {
            Holding::User(_) => limits::INLINE_OF_USER,
            Holding::Group(_) => limits::INLINE_OF_GROUP,
            Holding::Role(_) => limits::INLINE_OF_ROLE,
        }
    }
}

/// The condition key of the boundary that somebody has, or is to have.
pub(crate) const BOUNDARY: &str = "iam:PermissionsBoundary";

/// Temporary credentials without a role. They are given out without a second factor, and AWS lets those call nothing of IAM: who got
/// hold of them would make himself a key that lasts (STS API Reference, GetSessionToken, "Permissions").
fn is_own_session(who: &Who) -> bool {
    matches!(who, Who::Session(session) if session.role.is_empty())
}

/// One who asks for one thing.
pub(crate) struct Desk<'a> {
    pub(crate) view: &'a dyn View,
    /// The account that it is about.
    pub(crate) account: &'a str,
    /// AWS's name, with its service.
    action: String,
    /// `None`: an operator.
    asker: Option<(Arc<Held>, &'a Who, Context)>,
}

impl<'a> Desk<'a> {
    /// Somebody of `account` asks for `action`.
    pub(crate) fn new(
        view: &'a dyn View,
        account: &'a str,
        asker: &'a Asker,
        action: &str,
    ) -> Result<Desk<'a>, DeskError> {
        Desk::with(view, account, asker, action, None)
    }

    /// The same, of somebody who was looked at before.
    pub(crate) fn with(
        view: &'a dyn View,
        account: &'a str,
        asker: &'a Asker,
        action: &str,
        looked: Option<&Looked>,
    ) -> Result<Desk<'a>, DeskError> {
        let service = match action {
            "AssumeRole" | "GetSessionToken" | "GetCallerIdentity" => "sts",
            _ => "iam",
        };
        let asker = match asker {
            Asker::Operator => None,
            Asker::Signed { who, known } => {
                let gone = || IamError::Denied("The user or role that asks is gone.".to_owned());
                if service == "iam" && is_own_session(who) {
                    let why =
                        "Temporary credentials that somebody has taken for himself change and show nothing of IAM.";
                    return Err(IamError::Denied(why.to_owned()).into());
                }
                let held = held(view, account, who, looked)?.ok_or_else(gone)?;
                let context = context(&held, known);
                Some((held, who, context))
            }
        };
        Ok(Desk { view, account, action: format!("{service}:{action}"), asker })
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.asker.is_none()
    }

    /// Who asks, unless it is an operator.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.asker.as_ref().map(|(held, ..)| held.as_ref())
    }

    /// Who asks, unless it is an operator.
    pub(crate) fn who(&self) -> Option<&Who> {
        self.asker.as_ref().map(|(_, who, _)| *who)
    }

    /// What is known of the request.
    pub(crate) fn context(&self) -> Context {
        self.asker.as_ref().map(|(_, _, context)| context.clone()).unwrap_or_default()
    }

    /// Refuses what nobody allowed.
    pub(crate) fn may(&self, resource: &str) -> Result<(), IamError> {
        self.may_with(resource, &[])
    }

    /// The same, with more condition keys.
    pub(crate) fn may_with(&self, resource: &str, more: &[(&str, &str)]) -> Result<(), IamError> {
        let Some((held, _, context)) = &self.asker else { return Ok(()) };
        let mut context = context.clone();
        for (key, value) in more {
            context.add(key, *value);
        }
        authorise(held, self.account, &self.action, resource, &context)
    }

    pub(crate) fn arn(&self, kind: &str, path: &str, name: &str) -> String {
        names::arn(self.account, kind, path, name)
    }

    /// Who is meant where no user is named; `None`: the account itself.
    pub(crate) fn user_or_self(&self, named: Option<&str>) -> Result<Option<String>, IamError> {
        match (named, self.who()) {
            (Some(name), _) => Ok(Some(name.to_owned())),
            (None, None | Some(Who::Account)) => Ok(None),
            (None, Some(Who::User(name))) => Ok(Some(name.clone())),
            (None, Some(Who::Session(_))) => {
                Err(IamError::Invalid("Must specify userName when calling with non-User credentials".to_owned()))
            }
        }
    }

    /// A user that there is, if the one who asks may do to it what is asked for. Who may not does not learn whether it is there.
    pub(crate) fn user(&self, name: &str) -> Result<UserRow, DeskError> {
        let row = access::user(self.view, self.account, name)?;
        let (path, known) = row.as_ref().map_or(("/", name), |row| (&row.path, &row.name));
        self.may(&self.arn("user", path, known))?;
        Ok(row.ok_or_else(|| IamError::missing("user", name))?)
    }

    /// The same of a group.
    pub(crate) fn group(&self, name: &str) -> Result<GroupRow, DeskError> {
        let row = access::group(self.view, self.account, name)?;
        let (path, known) = row.as_ref().map_or(("/", name), |row| (&row.path, &row.name));
        self.may(&self.arn("group", path, known))?;
        Ok(row.ok_or_else(|| IamError::missing("group", name))?)
    }

    /// The same of a role.
    pub(crate) fn role(&self, name: &str) -> Result<RoleRow, DeskError> {
        self.role_with(name, &[])
    }

    pub(crate) fn role_with(&self, name: &str, more: &[(&str, &str)]) -> Result<RoleRow, DeskError> {
        let row = access::role(self.view, self.account, name)?;
        let (path, known) = row.as_ref().map_or(("/", name), |row| (&row.path, &row.name));
        self.may_with(&self.arn("role", path, known), more)?;
        Ok(row.ok_or_else(|| IamError::missing("role", name))?)
    }

    /// The same of a policy of the account, by its ARN. One that everybody has is nobody's to change.
    pub(crate) fn policy(&self, arn: &str) -> Result<PolicyRow, DeskError> {
        self.may(arn)?;
        let name = names::policy_name_of(self.account, arn)?;
        if name == arn {
            return Err(IamError::Denied(format!("{arn} is a policy of all accounts.")).into());
        }
        let row = access::policy(self.view, self.account, &name)?;
        // The path is part of the name that was judged.
        let row = row.filter(|row| self.policy_arn(row) == arn);
        Ok(row.ok_or_else(|| IamError::missing("policy", arn))?)
    }

    pub(crate) fn policy_arn(&self, row: &PolicyRow) -> String {
        self.arn("policy", &row.path, row.policy.as_ref().map_or("", |policy| &policy.name))
    }

    /// The name under which rows know a policy that there is.
    pub(crate) fn known_policy(&self, arn: &str) -> Result<String, DeskError> {
        let name = names::policy_name_of(self.account, arn)?;
        let missing = || IamError::missing("policy", arn);
        if name == arn {
            super::built_in_policy(arn).ok_or_else(missing)?;
            return Ok(name);
        }
        let row = access::policy(self.view, self.account, &name)?.ok_or_else(missing)?;
        if self.policy_arn(&row) != arn {
            return Err(missing().into());
        }
        Ok(row.policy.map_or(name, |policy| policy.name))
    }

    /// What holds policies, if the one who asks may change of it what is asked for. The boundary that it has is a condition key,
    /// unless `more` says which one it is to have: who may give rights to those only that are bounded is told so by it (Service
    /// Authorization Reference, "Condition keys for AWS IAM", `iam:PermissionsBoundary`).
    pub(crate) fn changed(&self, holder: &Holder, more: &[(&str, &str)]) -> Result<Holding, DeskError> {
        let (view, account) = (self.view, self.account);
        let present = match holder {
            Holder::User(name) => access::user(view, account, name)?.map(|row| row.boundary),
            Holder::Role(name) => access::role(view, account, name)?.map(|row| row.boundary),
            Holder::Group(_) => None,
        };
        let said = more.iter().any(|(key, _)| *key == BOUNDARY);
        let arn = match present.filter(|name| !said && !name.is_empty()) {
            Some(name) => views::attached_arn(self, &name)?,
            None => return self.holder(holder, more),
        };
        self.holder(holder, &[more, &[(BOUNDARY, &arn)]].concat())
    }

    /// What holds policies, if the one who asks may do to it what is asked for.
    pub(crate) fn holder(&self, holder: &Holder, more: &[(&str, &str)]) -> Result<Holding, DeskError> {
        Ok(match holder {
            Holder::User(name) => {
                let row = access::user(self.view, self.account, name)?;
                let (path, known) = row.as_ref().map_or(("/", name.as_str()), |row| (&row.path, &row.name));
                self.may_with(&self.arn("user", path, known), more)?;
                Holding::User(row.ok_or_else(|| IamError::missing("user", name))?)
            }
            Holder::Group(name) => {
                let row = access::group(self.view, self.account, name)?;
                let (path, known) = row.as_ref().map_or(("/", name.as_str()), |row| (&row.path, &row.name));
                self.may_with(&self.arn("group", path, known), more)?;
                Holding::Group(row.ok_or_else(|| IamError::missing("group", name))?)
            }
            Holder::Role(name) => Holding::Role(self.role_with(name, more)?),
        })
    }
}
