//! Who a request is from, as far as the decision needs to know.
//!
//! Invariant: a caller that is not anonymous comes from [`signer`] and from nowhere else, after its signature was verified.

use super::denied;
use crate::s3::error;
use access::policy::{self, Context, Policies, Policy};
use codec::effect::AccountRow;
use metadata::audit::{self, AskedBy};
use metadata::client::MetadataClient;
use metadata::iam::{Signer, Signing};
use s3s::auth::SecretKey;
use s3s::{S3Result, s3_error};
use std::sync::Arc;

/// Who asks.
#[derive(Debug)]
pub struct Caller {
    /// `None`: nobody who says so.
    signer: Option<Arc<Signer>>,
    access_key: String,
}

impl Caller {
    /// Nobody who says so.
    pub fn anonymous() -> Caller {
        Caller { signer: None, access_key: String::new() }
    }

    /// As policies and lists know it.
    pub fn principal(&self) -> &policy::Caller {
        self.signer.as_ref().map_or(&policy::Caller::Anonymous, |signer| &signer.held.caller)
    }

    /// As access logs name it: an account by its canonical id, its users by their ARN; empty for nobody.
    pub fn named_in_logs(&self) -> String {
        match (self.principal(), self.account()) {
            (policy::Caller::Account(_), Some(account)) => account.id.clone(),
            (principal, _) => principal.principal_arn().unwrap_or_default(),
        }
    }

    /// The account's row; `None` when anonymous.
    pub fn account(&self) -> Option<&AccountRow> {
        self.signer.as_ref().map(|signer| &signer.account)
    }

    /// The account's row, where nobody may be anonymous.
    pub fn signed(&self) -> S3Result<&AccountRow> {
        self.account().ok_or_else(denied)
    }

    /// The access key that signed; empty when anonymous.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Says for the audit log that what is done now is asked for by this caller. `from`: the address that it came from.
    pub(super) fn asks(&self, from: String) {
        let by = self.signer.as_ref().map_or_else(|| "anonymous".to_owned(), |signer| signer.held.arn());
        audit::asks(AskedBy { by, access_key: self.access_key.clone(), from });
    }

    /// What conditions may ask about it.
    pub(super) fn fill(&self, context: &mut Context) {
        match &self.signer {
            None => context.add("aws:PrincipalType", "Anonymous"),
            Some(signer) => signer.held.fill(context),
        }
    }

    /// Asks `decide` with the caller's policies and the bucket's.
    pub(super) fn with_policies<T>(&self, resource: Option<&Policy>, decide: impl FnOnce(&Policies<'_>) -> T) -> T {
        match &self.signer {
            None => decide(&Policies { resource, ..Policies::default() }),
            Some(signer) => signer.held.with_policies(resource, decide),
        }
    }

    /// Whether a policy of its own depends on a condition key that begins like this, in lower case.
    pub(super) fn names_key(&self, start: &str) -> bool {
        self.policies().any(|policy| policy.names_key(start))
    }

    /// Policies of its own.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.signer.iter().flat_map(|signer| signer.held.policies())
    }

    /// Whether there are policies of its own that may allow it something.
    pub(super) fn has_own_policies(&self) -> bool {
        self.signer.as_ref().is_some_and(|signer| !signer.held.identity.is_empty())
    }

    /// Whether it has policies of its own to be asked.
    pub(super) fn has_policies(&self) -> bool {
        self.signer.as_ref().is_some_and(|signer| !signer.held.is_account())
    }
}

/// Who signs with an access key. `token` is what the request says in `x-amz-security-token`.
pub async fn signer(metadata: &dyn MetadataClient, access_key: &str, token: Option<&str>) -> S3Result<Arc<Caller>> {
    match metadata.signer(access_key, token).await.map_err(error::lookup)? {
        Signing::Known(signer) => Ok(Arc::new(Caller { signer: Some(signer), access_key: access_key.to_owned() })),
        Signing::Unknown => Err(no_such_access_key()),
        Signing::Expired => Err(s3_error!(ExpiredToken, "The provided token has expired.")),
        Signing::NeedsToken(_) | Signing::InvalidToken => {
            Err(s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."))
        }
    }
}

/// The secret that a request must be signed with. That of a temporary access key is known without its token, which [`signer`] wants.
pub async fn secret(metadata: &dyn MetadataClient, access_key: &str) -> S3Result<SecretKey> {
    match metadata.signer(access_key, None).await.map_err(error::lookup)? {
        Signing::Known(signer) => Ok(SecretKey::from(signer.secret.expose())),
        Signing::NeedsToken(secret) => Ok(SecretKey::from(secret.expose())),
        Signing::Unknown | Signing::Expired | Signing::InvalidToken => Err(no_such_access_key()),
    }
}

/// 403 for an access key.
pub fn no_such_access_key() -> s3s::S3Error {
    s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
}
