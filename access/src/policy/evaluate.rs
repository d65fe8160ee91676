//! Whether policies allow a request.
//!
//! Source: IAM User Guide, "Policy evaluation logic", with "Evaluating identity-based policies with resource-based policies",
//! "Permissions boundaries for IAM entities", "Session policies" and "Cross-account policy evaluation logic".
//!
//! 1. A Deny that applies, in any policy, decides.
//! 2. An account's own keys may do everything in their account.
//! 3. A user or session is allowed what its own policies allow, as far as its boundary and its session's policies allow it, too.
//! 4. The resource's policy allows its own account's callers by itself, if it names them and not just their account. By name it does
//!    so past boundary and session policies, as AWS has it; as everybody or by their role it does not.
//! 5. Callers of another account need both: the resource's policy and their own.
//! 6. Nothing else is allowed.

use super::context::Context;
use super::document::{Effect, Only, Policy, Statement};
use super::principal::{Caller, Named, Principal};
use super::work::{Budget, Work};

/// A request, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The action, such as `s3:GetObject`.
    pub action: &'a str,
    /// The ARN of the resource, from the key that the handler will use: there is one reading of it.
    pub resource: &'a str,
    /// The id of the account that the resource belongs to.
    pub owner: &'a str,
    /// What else is known.
    pub context: &'a Context,
}

/// The policies that bear on a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policies<'a> {
    /// The caller's own and its groups'.
    pub identity: &'a [&'a Policy],
    /// The bucket's.
    pub resource: Option<&'a Policy>,
    /// The permissions boundary of the caller's user or role.
    pub boundary: Option<&'a Policy>,
    /// The policy that a session was begun with.
    pub session: Option<&'a Policy>,
    /// What all decisions of the request may take together; without one, each what it may take at most.
    pub budget: Option<&'a Budget>,
}

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One of the caller's.
    Identity,
    /// The bucket's.
    Resource,
    /// The permissions boundary.
    Boundary,
    /// The session's.
    Session,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A statement denies it; its Sid. Without one also when the policies take more to judge than is left for it
    /// ([`super::work`]).
    Denied(Source, String),
    /// Nothing allows it.
    NotAllowed,
    /// The caller's own policies don't allow it, which it needs besides the resource's.
    NotAllowedBy(Source),
    /// An account's keys in their own account.
    OwnAccount,
    /// A statement allows it; its Sid.
    Allowed(Source, String),
    /// A grant of an access control list. Not from here: [`crate::authorise`].
    Granted,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go on.
    Allow(Reason),
    /// It may not.
    Deny(Reason),
}

impl Decision {
    /// Whether it may go on.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// Whether a statement denies it: then nothing else can allow it.
    pub fn is_explicit(&self) -> bool {
        matches!(self, Decision::Deny(Reason::Denied(..)))
    }
}

impl Statement {
    /// Whether it is about a request, and how it names the caller. [`Named::Directly`] where policies name no principal.
    fn applies(&self, request: &Request<'_>, work: &Work) -> Option<Named> {
        let named = self.names(request.caller)?;
        let applies = self.has_action(request.action, work)
            && self.has_resource(request, work)
            && self.conditions.iter().all(|condition| condition.holds(request.context, self.effect, work));
        applies.then_some(named)
    }

    /// Like [`Statement::applies`], for a service that asks by its name. Who allows everybody does not mean services.
    fn applies_to_service(&self, service: &str, request: &Request<'_>, work: &Work) -> bool {
        let is = |principal: &Principal| matches!(principal, Principal::Service(name) if name == service);
        let denies = self.effect == Effect::Deny;
        let named = match &self.principals {
            None => false,
            Some(Only::These(named)) => {
                named.iter().any(|principal| is(principal) || (denies && *principal == Principal::Everybody))
            }
            Some(Only::AllBut(named)) => denies && !named.iter().any(is),
        };
        named
            && self.has_action(request.action, work)
            && self.has_resource(request, work)
            && self.conditions.iter().all(|condition| condition.holds(request.context, self.effect, work))
    }

    fn names(&self, caller: &Caller) -> Option<Named> {
        match &self.principals {
            None => Some(Named::Directly),
            Some(Only::These(named)) => named.iter().filter_map(|principal| principal.names(caller)).max(),
            Some(Only::AllBut(named)) => {
                (!named.iter().any(|principal| principal.leaves_out(caller))).then_some(Named::Widely)
            }
        }
    }

    fn has_action(&self, action: &str, work: &Work) -> bool {
        let none = Context::default();
        let (Only::These(patterns) | Only::AllBut(patterns)) = &self.actions;
        let listed = patterns.iter().any(|pattern| pattern.matches_ignoring_case(action, &none, work) == Some(true));
        listed == matches!(self.actions, Only::These(_))
    }

    /// A variable without a value is no resource. So Allow with NotResource, which would then be about everything, is about nothing.
    fn has_resource(&self, request: &Request<'_>, work: &Work) -> bool {
        let Some(resources) = &self.resources else { return true };
        let (Only::These(arns) | Only::AllBut(arns)) = resources;
        let verdicts: Vec<Option<bool>> =
            arns.iter().map(|arn| arn.matches(request.resource, request.context, work)).collect();
        let listed = verdicts.contains(&Some(true));
        match resources {
            Only::These(_) => listed,
            Only::AllBut(_) if self.effect == Effect::Allow && verdicts.contains(&None) => false,
            Only::AllBut(_) => !listed,
        }
    }
}

/// What a policy says of a request.
struct Verdict<'a> {
    denied: Option<&'a str>,
    allowed: Option<(Named, &'a str)>,
}

fn ask<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
    request: &Request<'_>,
    budget: Option<&Budget>,
) -> Verdict<'a> {
    let work = budget.map_or_else(Work::default, Budget::work);
    let mut verdict = Verdict { denied: None, allowed: None };
    for statement in policies.into_iter().flat_map(|policy| &policy.statements) {
        if work.is_spent() {
            break;
        }
        let Some(named) = statement.applies(request, &work) else { continue };
        match statement.effect {
            Effect::Deny => verdict.denied = verdict.denied.or(Some(&statement.sid)),
            Effect::Allow if verdict.allowed.is_none_or(|(before, _)| before < named) => {
                verdict.allowed = Some((named, &statement.sid));
            }
            Effect::Allow => {}
        }
    }
    // A denial may be among what could not be judged.
    if work.is_spent() {
        verdict.denied = verdict.denied.or(Some(""));
    }
    if let Some(budget) = budget {
        budget.used(&work);
    }
    verdict
}

/// Decides.
pub fn evaluate(request: &Request<'_>, policies: &Policies<'_>) -> Decision {
    let budget = policies.budget;
    let identity = ask(policies.identity.iter().copied(), request, budget);
    let resource = ask(policies.resource, request, budget);
    let boundary = policies.boundary.map(|policy| ask([policy], request, budget));
    let session = policies.session.map(|policy| ask([policy], request, budget));
    let all = [
        (Source::Identity, Some(&identity)),
        (Source::Resource, Some(&resource)),
        (Source::Boundary, boundary.as_ref()),
        (Source::Session, session.as_ref()),
    ];
    for (source, verdict) in all {
        if let Some(sid) = verdict.and_then(|verdict| verdict.denied) {
            return Decision::Deny(Reason::Denied(source, sid.to_owned()));
        }
    }
    let own = own_side(request.caller, &identity, boundary.as_ref(), session.as_ref());
    match request.caller.account() {
        None => match resource.allowed {
            Some((_, sid)) => Decision::Allow(Reason::Allowed(Source::Resource, sid.to_owned())),
            None => Decision::Deny(Reason::NotAllowed),
        },
        Some(account) if account.id == request.owner => {
            same_account(own, &resource, boundary.as_ref(), session.as_ref())
        }
        Some(_) => match (resource.allowed, own) {
            (None, _) => Decision::Deny(Reason::NotAllowed),
            (Some(_), Decision::Deny(reason)) => Decision::Deny(reason),
            (Some((_, sid)), Decision::Allow(_)) => Decision::Allow(Reason::Allowed(Source::Resource, sid.to_owned())),
        },
    }
}

/// Whether a resource's policy lets a service of the store itself, such as `logging.s3.amazonaws.com`, do something. The caller of the
/// request counts for nothing.
pub fn allows_service(policy: &Policy, service: &str, request: &Request<'_>) -> bool {
    let work = Work::default();
    let of = |effect| {
        let mut statements = policy.statements.iter().filter(move |statement| statement.effect == effect);
        statements.any(|statement| statement.applies_to_service(service, request, &work))
    };
    let (denied, allowed) = (of(Effect::Deny), of(Effect::Allow));
    !denied && allowed && !work.is_spent()
}

/// What the caller's own side allows: its policies, its boundary, its session.
fn own_side(
    caller: &Caller,
    identity: &Verdict<'_>,
    boundary: Option<&Verdict<'_>>,
    session: Option<&Verdict<'_>>,
) -> Decision {
    if matches!(caller, Caller::Account(_)) {
        return Decision::Allow(Reason::OwnAccount);
    }
    let Some((_, sid)) = identity.allowed else { return Decision::Deny(Reason::NotAllowedBy(Source::Identity)) };
    match beyond(boundary, session) {
        Some(source) => Decision::Deny(Reason::NotAllowedBy(source)),
        None => Decision::Allow(Reason::Allowed(Source::Identity, sid.to_owned())),
    }
}

/// What keeps a caller from what others allow it.
fn beyond(boundary: Option<&Verdict<'_>>, session: Option<&Verdict<'_>>) -> Option<Source> {
    let stops = |verdict: Option<&Verdict<'_>>| verdict.is_some_and(|verdict| verdict.allowed.is_none());
    if stops(boundary) {
        return Some(Source::Boundary);
    }
    stops(session).then_some(Source::Session)
}

fn same_account(
    own: Decision,
    resource: &Verdict<'_>,
    boundary: Option<&Verdict<'_>>,
    session: Option<&Verdict<'_>>,
) -> Decision {
    if own.is_allowed() {
        return own;
    }
    let allowed = |sid: &str| Decision::Allow(Reason::Allowed(Source::Resource, sid.to_owned()));
    match resource.allowed {
        Some((Named::Directly, sid)) => allowed(sid),
        Some((Named::Widely, sid)) => match beyond(boundary, session) {
            Some(source) => Decision::Deny(Reason::NotAllowedBy(source)),
            None => allowed(sid),
        },
        Some((Named::ByAccount, _)) | None => own,
    }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
