//! Who a request is from, and whether it may go on.
//!
//! Invariants:
//! * Default deny: a request goes on only if it is signed by a known account, asks for an operation that exists, and names
//!   no bucket but the account's own. All of that is decided before its input is parsed, so no condition and no body of an
//!   unauthorised request is ever looked at.
//! * A request that comes a second time with mended headers ([`Verified`]) is let through by the very same rules, except that
//!   its signature was verified the first time.
//! * A handler gets the account and the bucket from here and from nowhere else; without them it refuses.
//! * The bucket of a copy's source goes through [`authorise`] like the bucket of a read.

use crate::s3::{conditions, error, request, service};
use crate::server::xml::Watch;
use async_trait::async_trait;
use codec::effect::BucketRow;
use http::HeaderMap;
use metadata::client::MetadataClient;
use metadata::keys::Account;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::Owner;
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::fmt;
use std::sync::Arc;

/// Operations that name a bucket which need not exist yet.
const CREATES_ITS_BUCKET: &str = "CreateBucket";

/// Looks secrets up for the signature check.
pub struct Authenticator {
    metadata: Arc<dyn MetadataClient>,
}

impl Authenticator {
    /// Accounts come from `metadata`.
    pub fn new(metadata: Arc<dyn MetadataClient>) -> Authenticator {
        Authenticator { metadata }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator")
    }
}

async fn account(metadata: &dyn MetadataClient, access_key: &str) -> S3Result<Arc<Account>> {
    let found = metadata.account_by_access_key(access_key).await.map_err(error::lookup)?;
    found.ok_or_else(|| {
        s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
    })
}

#[async_trait]
impl S3Auth for Authenticator {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let account = account(self.metadata.as_ref(), access_key).await?;
        Ok(SecretKey::from(account.secret.expose()))
    }
}

/// Lets requests through, or not.
pub struct Gatekeeper {
    metadata: Arc<dyn MetadataClient>,
}

impl Gatekeeper {
    /// Accounts and buckets come from `metadata`.
    pub fn new(metadata: Arc<dyn MetadataClient>) -> Gatekeeper {
        Gatekeeper { metadata }
    }
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gatekeeper")
    }
}

#[async_trait]
impl S3Access for Gatekeeper {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let verified = cx.extensions_mut().get::<Verified>().cloned();
        let access_key = match (cx.credentials(), &verified) {
            (Some(credentials), _) => &credentials.access_key,
            (None, Some(verified)) => &verified.access_key,
            (None, None) => return Err(denied()),
        };
        let caller = account(self.metadata.as_ref(), access_key).await?;
        let operation = cx.s3_op().name().to_owned();
        if !service::OPERATIONS.contains(&operation.as_str()) {
            return Err(error::not_implemented(&operation));
        }
        let query = request::query_pairs(cx.uri().query().unwrap_or_default());
        if verified.is_none() {
            check_host_signed(cx.headers(), &query)?;
        }
        request::refuse_headers(cx.headers())?;
        request::refuse_query(&query)?;
        request::refuse_mistaken(&operation, &query, cx.headers())?;
        request::refuse_unsized(&operation, cx.headers())?;
        if let Some(name) = cx.s3_path().get_bucket_name().map(str::to_owned)
            && operation != CREATES_ITS_BUCKET
        {
            let bucket = authorise(self.metadata.as_ref(), &caller, &name).await?;
            check_expected_owner(&bucket, request::header(cx.headers(), "x-amz-expected-bucket-owner"))?;
            for (_, owner) in query.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-expected-bucket-owner"))
            {
                check_expected_owner(&bucket, Some(owner))?;
            }
            cx.extensions_mut().insert(Arc::new(bucket));
        }
        // Only now: nobody learns of a condition what he may not see.
        conditions::refuse_unjudged(&operation, cx.method(), cx.headers())?;
        if let Some(watch) = cx.extensions_mut().get::<Arc<Watch>>() {
            watch.counts_for(&caller.row.id);
        }
        cx.extensions_mut().insert(caller);
        Ok(())
    }
}

/// An extension of a request whose signature was verified before its headers were changed, and covered its host.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    /// Who signed it.
    pub(crate) access_key: String,
}

fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

/// The signature must cover the host, which can name the bucket: `s3s` verifies the headers that the client says it has
/// signed, and would let whoever holds such a request send it to another of the account's buckets.
pub(crate) fn check_host_signed(headers: &HeaderMap, query: &[(String, String)]) -> S3Result<()> {
    let parameter = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let signed = match parameter("X-Amz-Signature") {
        Some(_) => parameter("X-Amz-SignedHeaders"),
        None => request::header(headers, "authorization")
            .and_then(|value| value.split_once("SignedHeaders="))
            .and_then(|(_, rest)| rest.split([',', ' ']).next()),
    };
    if signed.unwrap_or_default().split(';').any(|name| name.eq_ignore_ascii_case("host")) {
        return Ok(());
    }
    Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed"))
}

/// The bucket of a name, if it is the caller's.
pub async fn authorise(metadata: &dyn MetadataClient, caller: &Account, name: &str) -> S3Result<BucketRow> {
    let bucket = metadata.bucket(name).await.map_err(error::lookup)?.ok_or_else(error::no_such_bucket)?;
    if bucket.owner != caller.row.id {
        return Err(denied());
    }
    Ok(bucket)
}

/// x-amz-expected-bucket-owner: the client wants to fail rather than reach another account's bucket.
pub fn check_expected_owner(bucket: &BucketRow, expected: Option<&str>) -> S3Result<()> {
    match expected {
        Some(expected) if expected != bucket.owner => Err(denied()),
        _ => Ok(()),
    }
}

/// The account that sent a request.
pub fn caller<T>(req: &S3Request<T>) -> S3Result<Arc<Account>> {
    req.extensions.get::<Arc<Account>>().cloned().ok_or_else(denied)
}

/// The bucket that a request was let through to.
pub fn bucket<T>(req: &S3Request<T>) -> S3Result<Arc<BucketRow>> {
    req.extensions.get::<Arc<BucketRow>>().cloned().ok_or_else(denied)
}

/// An account as S3 shows it.
pub fn owner(account: &Account) -> Owner {
    crate::s3::answer::owner(&account.row.id, Some(&account.row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_always_signed() {
        let header = |value: &'static str| {
            let value = http::HeaderValue::from_static(value);
            check_host_signed(&HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]), &[]).is_ok()
        };
        assert!(header("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=00"));
        assert!(header("AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=x-amz-date;Host,Signature=00"));
        assert!(!header("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=x-amz-date, Signature=00"));
        assert!(!header("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=x-amz-host;ghost, Signature=00"));
        let query = |text| check_host_signed(&HeaderMap::new(), &request::query_pairs(text)).is_ok();
        assert!(query("X-Amz-SignedHeaders=content-type%3Bhost&X-Amz-Signature=00"));
        assert!(!query("X-Amz-SignedHeaders=content-type&X-Amz-Signature=00"));
        assert!(!query("host"));
    }
}
