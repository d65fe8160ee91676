//! Changes of users, access keys, policies, groups and roles ([`crate::iam`]).
//!
//! Invariants
//! * Whether the one who asks may is decided here, first, over the rows as they are: also where it was rehearsed before.
//! * What something still hangs on does not go: a policy that is attached, a group with users, a user with keys. A policy that went
//!   would take its denials along.
//! * No access key belongs to two, and none that lasts looks like a temporary one.

mod groups;
mod keys;
mod policies;
mod roles;
mod users;

use super::chunks::ChunkChanges;
use super::{At, DecideError, Draft};
use crate::command::{Outcome, Refusal};
use crate::iam::desk::{Desk, DeskError};
use crate::iam::{Ask, IamCommand, IamError, Value};
use crate::index::{View, access};
use codec::effect::{AccountName, EffectKind};

impl From<DeskError> for DecideError {
    fn from(error: DeskError) -> DecideError {
        match error {
            DeskError::Iam(error) => error.into(),
            DeskError::Index(error) => error.into(),
        }
    }
}

impl From<IamError> for DecideError {
    fn from(error: IamError) -> DecideError {
        DecideError::Refused(Refusal::Iam(Box::new(error)))
    }
}

/// Decides a change.
pub(super) fn change(draft: &mut Draft<'_>, command: &IamCommand) -> Result<Outcome, DecideError> {
    let view = draft.view;
    // An account that is gone has no users, and gets none.
    crate::index::account(view, &command.account)?.ok_or(Refusal::NoSuchAccount)?;
    let desk = Desk::with(view, &command.account, &command.asker, &command.action, command.looked.as_ref())?;
    let mut change = Change { desk, lsn: draft.at.lsn.0, now_ms: draft.at.wall_ms, rows: Vec::new() };
    let answer = decided(&mut change, command)?;
    draft.rows.append(&mut change.rows);
    Ok(Outcome::Iam(answer))
}

/// Decides a change over the rows as they are, for the sake of its refusal. What is refused never reaches the one who commits, and so
/// holds up nobody: there, a tenant's policies are looked through before anybody else's change.
///
/// # Errors
/// It would be refused.
pub(crate) fn rehearse(view: &dyn View, at: &At, command: &IamCommand) -> Result<(), DecideError> {
    let mut draft = Draft { view, at, chunks: ChunkChanges::new(view, at), rows: Vec::new() };
    change(&mut draft, command).map(drop)
}

/// Takes all that an account has away, with the account: one that is made anew under its id must not find users of the old one who
/// can still sign.
pub(super) fn forget(draft: &mut Draft<'_>, account: &str) -> Result<(), DecideError> {
    let name = |name: &str| AccountName { account: account.to_owned(), name: name.to_owned() };
    let mut rows = Vec::new();
    for row in access::users(draft.view, account)? {
        rows.push(EffectKind::DeleteUser(name(&row.name)));
    }
    for row in access::access_keys_of(draft.view, account, "")? {
        rows.push(EffectKind::DeleteAccessKey(row));
    }
    for row in access::groups(draft.view, account)? {
        rows.push(EffectKind::DeleteGroup(name(&row.name)));
    }
    for row in access::roles(draft.view, account)? {
        rows.push(EffectKind::DeleteRole(name(&row.name)));
    }
    for row in access::policies(draft.view, account)? {
        rows.push(EffectKind::DeletePolicy(name(row.policy.as_ref().map_or("", |policy| &policy.name))));
    }
    draft.rows.append(&mut rows);
    Ok(())
}

/// A change in the making.
struct Change<'a> {
    desk: Desk<'a>,
    lsn: u64,
    /// For display.
    now_ms: u64,
    rows: Vec<EffectKind>,
}

impl Change<'_> {
    fn push(&mut self, row: EffectKind) {
        self.rows.push(row);
    }

    fn name(&self, name: &str) -> AccountName {
        AccountName { account: self.desk.account.to_owned(), name: name.to_owned() }
    }
}

fn decided(change: &mut Change<'_>, command: &IamCommand) -> Result<Value, DecideError> {
    match &command.ask {
        Ask::CreateUser { name, path, boundary } => users::create(change, name, path, boundary.as_deref()),
        Ask::UpdateUser { name, new_name, new_path } => {
            users::update(change, name, new_name.as_deref(), new_path.as_deref())
        }
        Ask::DeleteUser { name } => users::delete(change, name),
        Ask::CreateAccessKey { user } => keys::create(change, user.as_deref(), command.key.as_ref()),
        Ask::UpdateAccessKey { user, access_key, active } => keys::update(change, user.as_deref(), access_key, *active),
        Ask::DeleteAccessKey { user, access_key } => keys::delete(change, user.as_deref(), access_key),
        Ask::PutPolicy { holder, policy, document } => policies::put_own(change, holder, policy, document),
        Ask::DeleteOwnPolicy { holder, policy } => policies::delete_own(change, holder, policy),
        Ask::Attach { holder, arn } => policies::attach(change, holder, arn),
        Ask::Detach { holder, arn } => policies::detach(change, holder, arn),
        Ask::SetBoundary { holder, arn } => policies::bound(change, holder, arn.as_deref()),
        Ask::CreatePolicy { name, path, description, document } => {
            policies::create(change, (name, path), description, document)
        }
        Ask::ReplacePolicy { arn, document } => policies::replace(change, arn, document),
        Ask::DeletePolicy { arn } => policies::delete(change, arn),
        Ask::CreateGroup { name, path } => groups::create(change, name, path),
        Ask::DeleteGroup { name } => groups::delete(change, name),
        Ask::AddToGroup { group, user } => groups::add(change, group, user),
        Ask::RemoveFromGroup { group, user } => groups::remove(change, group, user),
        Ask::CreateRole { .. } => roles::create(change, &command.ask),
        Ask::UpdateRole { name, description, longest_s } => {
            roles::update(change, name, description.as_deref(), *longest_s)
        }
        Ask::UpdateTrust { name, trust } => roles::update_trust(change, name, trust),
        Ask::DeleteRole { name } => roles::delete(change, name),
        Ask::RevokeSessions { name } => roles::revoke(change, name),
        other => Err(IamError::Invalid(format!("{other:?} changes nothing")).into()),
    }
}
