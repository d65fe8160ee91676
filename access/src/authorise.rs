//! The one decision: policies, lists, ownership and the public access block together.
//!
//! Source: Amazon S3 User Guide, "How Amazon S3 authorizes a request", "...for a bucket operation", "...for an object operation";
//! the account's own keys and bucket policies: API Reference, PutBucketPolicy.
//!
//! Invariants:
//! * It is asked once for a request and before anything of the object is looked at, but for its owner, its list and its tags.
//! * A Deny decides. Lists are asked only when policies have not denied.
//! * A key is read once: the resource's ARN is made of the key that the handler uses.

use crate::acl::block::Block;
use crate::acl::ownership::Ownership;
use crate::acl::{Acl, Needs, Permission, needs};
use crate::policy::action::{self, Subject};
use crate::policy::public::is_public;
use crate::policy::{Caller, Decision, Policies, Policy, Reason, Request, Source, evaluate};

/// What is known of the bucket, and of the object if the request names one that exists.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The bucket's list.
    pub bucket_acl: &'a Acl,
    /// The object version's list; `None` of an object that is not there.
    pub object_acl: Option<&'a Acl>,
    /// The bucket's rule.
    pub ownership: Ownership,
    /// The bucket's and its account's, together.
    pub block: Block,
}

/// What an account may always do with its own bucket's policy, so that a policy can't lock its owner out.
const NEVER_LOCKED_OUT: [&str; 3] = ["s3:DeleteBucketPolicy", "s3:GetBucketPolicy", "s3:PutBucketPolicy"];

/// Decides.
pub fn authorise(request: &Request<'_>, policies: &Policies<'_>, resource: &Resource<'_>) -> Decision {
    if owns_bucket(request) && NEVER_LOCKED_OUT.contains(&request.action) {
        return Decision::Allow(Reason::OwnAccount);
    }
    let decided = evaluate(request, policies);
    if decided.is_explicit() {
        return decided;
    }
    let foreign = is_foreign(request, resource);
    let counts = match &decided {
        Decision::Allow(_) => !foreign && !is_restricted(request, policies, resource),
        Decision::Deny(_) => false,
    };
    if counts {
        return decided;
    }
    let by_list = granted(request, resource) && own_side_allows(request, policies);
    match (by_list, decided) {
        (true, _) => Decision::Allow(Reason::Granted),
        (false, Decision::Allow(_)) => Decision::Deny(Reason::NotAllowed),
        (false, denied) => denied,
    }
}

/// An object of another account, where lists count: the bucket's policy and the rights of its owner don't reach it. What no list can
/// grant, such as to change its tags, they allow to whose it is, and to the bucket's owner whom its list gives everything.
fn is_foreign(request: &Request<'_>, resource: &Resource<'_>) -> bool {
    let Some(acl) = resource.object_acl.filter(|acl| acl.owner != resource.bucket_acl.owner) else { return false };
    if !resource.ownership.uses_lists() || !asks_whose(request.action) {
        return false;
    }
    let is_his = || {
        request.caller.account().is_some_and(|account| {
            let at_home = account.canonical == resource.bucket_acl.owner;
            account.canonical == acl.owner || (at_home && acl.allows(request.caller, Permission::FullControl, false))
        })
    };
    needs(request.action).is_some() || !is_his()
}

/// Whether it matters for an action whose the object is that is there. To replace, delete or restore it, it does not (S3 User Guide,
/// "Granting permissions to objects that the bucket owner does not own").
pub fn asks_whose(action: &str) -> bool {
    let of_bucket = [
        "s3:AbortMultipartUpload",
        "s3:BypassGovernanceRetention",
        "s3:DeleteObject",
        "s3:DeleteObjectVersion",
        "s3:ListMultipartUploadParts",
        "s3:ObjectOwnerOverrideToBucketOwner",
        "s3:PutObject",
        "s3:RestoreObject",
    ];
    action::subject(action) == Some(Subject::Object) && !of_bucket.contains(&action)
}

/// A public policy counts only for the bucket's own account where that is asked for.
fn is_restricted(request: &Request<'_>, policies: &Policies<'_>, resource: &Resource<'_>) -> bool {
    let at_home = request.caller.account().is_some_and(|account| account.id == request.owner);
    resource.block.restrict && !at_home && policies.resource.is_some_and(is_public)
}

fn granted(request: &Request<'_>, resource: &Resource<'_>) -> bool {
    if !resource.ownership.uses_lists() {
        return false;
    }
    let public = !resource.block.ignore_acls;
    match needs(request.action) {
        Some(Needs::Bucket(permission)) => resource.bucket_acl.allows(request.caller, permission, public),
        Some(Needs::Object(permission)) => {
            resource.object_acl.is_some_and(|acl| acl.allows(request.caller, permission, public))
        }
        None => false,
    }
}

/// A list grants to accounts; what of that a user of the account may use, the account's own policies say.
pub fn own_side_allows(request: &Request<'_>, policies: &Policies<'_>) -> bool {
    let Some(account) = request.caller.account() else { return true };
    let at_home = Request { owner: &account.id, ..*request };
    let own = Policies { resource: None, ..*policies };
    evaluate(&at_home, &own).is_allowed()
}

/// Whether whoever sets a bucket policy could not set another one afterwards. S3 refuses it without
/// `x-amz-confirm-remove-self-bucket-access: true` (API Reference, PutBucketPolicy). An account's own keys are never locked out.
pub fn locks_out(request: &Request<'_>, policies: &Policies<'_>, new: &Policy) -> bool {
    if owns_bucket(request) {
        return false;
    }
    let asked = Request { action: "s3:PutBucketPolicy", ..*request };
    let after = Policies { resource: Some(new), ..*policies };
    matches!(evaluate(&asked, &after), Decision::Deny(Reason::Denied(Source::Resource, _)))
}

/// The keys of the account that the bucket belongs to.
fn owns_bucket(request: &Request<'_>) -> bool {
    matches!(request.caller, Caller::Account(account) if account.id == request.owner)
}

#[cfg(test)]
#[path = "authorise_tests.rs"]
mod tests;
