//! Who a request is from, and whether it may go on.
//!
//! Invariants:
//! * Default deny: a request goes on only if it asks for an operation that exists and [`door`] allows it that, whoever it is from,
//!   also nobody in particular. That is decided before its input is parsed, so no condition and no body of an unauthorised request is
//!   ever looked at.
//! * A request that comes a second time with mended headers ([`Verified`]) is let through by the very same rules, except that
//!   its signature was verified the first time.
//! * A handler gets the caller and the bucket from here and from nowhere else; without them it refuses.
//! * What was a form is let through to the bucket and the key that its policy was held against, and to no other.
//! * The bucket of a copy's source goes through [`door::Authorised::source`] like the bucket of a read.

pub mod caller;
pub mod door;
pub mod facts;
pub mod lists;
pub mod owners;
pub mod rows;
mod uploads;

use crate::access_log::Slot;
use crate::s3::{conditions, error, request, support};
use crate::server::Peer;
use crate::server::form::OfForm;
use crate::server::sign_in;
use crate::server::xml::Watch;
use async_trait::async_trait;
use caller::Caller;
use codec::effect::{AccountRow, BucketRow};
use door::Door;
pub use door::{Authorised, Found, Object};
use facts::{Facts, Signed};
use http::HeaderMap;
use metadata::client::MetadataClient;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::Owner;
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::fmt;
use std::sync::Arc;

/// Operations that name a bucket which need not exist yet.
const CREATES_ITS_BUCKET: &str = "CreateBucket";
/// Parameters of signed URLs that may be said twice: the signature check reads the first two, of the last each is compared.
const MAY_DIFFER: [&str; 3] = ["x-amz-content-sha256", "x-amz-date", "x-amz-expected-bucket-owner"];
/// The session token of temporary credentials, in a header or in a query.
const TOKEN: &str = "x-amz-security-token";

/// Looks secrets up for the signature check, for who has not tried too many.
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

#[async_trait]
impl S3Auth for Authenticator {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        sign_in::tries(access_key).map_err(|refused| s3_error!(SlowDown, "{refused}"))?;
        caller::secret(self.metadata.as_ref(), access_key).await
    }
}

/// Lets requests through, or not.
pub struct Gatekeeper {
    metadata: Arc<dyn MetadataClient>,
    door: Arc<Door>,
}

impl Gatekeeper {
    /// Accounts and buckets come from `metadata`.
    pub fn new(metadata: Arc<dyn MetadataClient>) -> Gatekeeper {
        Gatekeeper { door: Arc::new(Door::new(Arc::clone(&metadata))), metadata }
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
        self.judge(cx).await.map_err(error::sayable)
    }
}

impl Gatekeeper {
    async fn judge(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = cx.s3_op().name().to_owned();
        let query = request::query_pairs(cx.uri().query().unwrap_or_default());
        let verified = cx.extensions_mut().get::<Verified>().cloned();
        let signed = match &verified {
            Some(verified) => verified.clone(),
            None => Verified::of(cx, &query)?,
        };
        let caller = match &signed.by {
            None => Arc::new(Caller::anonymous()),
            Some(by) => caller::signer(self.metadata.as_ref(), &by.access_key, by.token.as_deref()).await?,
        };
        sign_in::verified();
        let from = cx.extensions_mut().get::<Peer>().map(|peer| peer.address.ip().to_canonical().to_string());
        caller.asks(from.unwrap_or_default());
        let slot = cx.extensions_mut().get::<Arc<Slot>>().cloned();
        if let Some(slot) = &slot {
            slot.set_requester(caller.named_in_logs());
        }
        if !support::is_supported(&operation) {
            return Err(error::not_implemented(&operation));
        }
        refuse_unclear(cx.headers(), &query)?;
        let peer = cx.extensions_mut().get::<Peer>().copied();
        let of_form = cx.extensions_mut().get::<OfForm>().cloned();
        let facts = Facts {
            operation: &operation,
            headers: cx.headers(),
            query: &query,
            peer,
            signed: signed.by.as_ref().map(|by| &by.signed),
        };
        let path = cx.s3_path();
        if of_form.as_ref().is_some_and(|form| !form.is_for(&operation, path)) {
            return Err(denied());
        }
        let authorised = match path.get_bucket_name() {
            Some(bucket) if operation != CREATES_ITS_BUCKET => {
                let object = path.get_object_key().map(|key| Object { key, version_id: facts.version_id() });
                self.door.authorise(Arc::clone(&caller), &facts, bucket, object).await?
            }
            named => self.door.authorise_account(Arc::clone(&caller), &facts, named.unwrap_or("*"))?,
        };
        if let Some(bucket) = authorised.undecided() {
            if let Some(slot) = &slot {
                slot.set_bucket(bucket);
            }
            check_expected_owner(bucket, request::header(cx.headers(), "x-amz-expected-bucket-owner"))?;
            for (_, owner) in query.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-expected-bucket-owner"))
            {
                check_expected_owner(bucket, Some(owner))?;
            }
        }
        if signed.by.is_none() {
            refuse_signed_framing(cx.headers())?;
        }
        // Only now: nobody learns of a condition, or of what there is here, what he may not see.
        request::refuse_headers(cx.headers())?;
        request::refuse_query(&query)?;
        request::refuse_mistaken(&operation, &query, cx.headers())?;
        if of_form.is_none() {
            request::refuse_unsized(&operation, cx.headers())?;
        }
        conditions::refuse_unjudged(&operation, cx.method(), cx.headers())?;
        if let Some(watch) = cx.extensions_mut().get::<Arc<Watch>>() {
            // What nobody signed takes no account's share.
            if let Some(account) = caller.account() {
                watch.counts_for(&account.id);
            }
        }
        cx.extensions_mut().insert(Arc::new(authorised));
        Ok(())
    }
}

/// Who signed a request.
#[derive(Clone, Debug)]
pub(crate) struct By {
    /// The access key.
    pub(crate) access_key: String,
    /// The session token that came with it.
    pub(crate) token: Option<String>,
    /// How, and when.
    pub(crate) signed: Signed,
}

/// An extension of a request whose signature was verified before its headers were changed, and covered its host; or that had none.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    /// Who signed it; `None`: nobody.
    pub(crate) by: Option<By>,
}

impl Verified {
    /// What `s3s` has verified.
    fn of(cx: &S3AccessContext<'_>, query: &[(String, String)]) -> S3Result<Verified> {
        Verified::new(cx.credentials().map(|credentials| credentials.access_key.as_str()), cx.headers(), query)
    }

    /// A request whose signature was verified to be of this access key, or that has none.
    pub(crate) fn new(access_key: Option<&str>, headers: &HeaderMap, query: &[(String, String)]) -> S3Result<Verified> {
        let Some(access_key) = access_key else { return Ok(Verified { by: None }) };
        check_host_signed(headers, query)?;
        let in_query = query.iter().find(|(name, _)| name.eq_ignore_ascii_case(TOKEN)).map(|(_, value)| value.as_str());
        let token = request::header(headers, TOKEN).or(in_query).map(str::to_owned);
        let by = By { access_key: access_key.to_owned(), token, signed: Signed::of(headers, query) };
        Ok(Verified { by: Some(by) })
    }
}

/// 403.
pub fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

/// A body whose chunks are signed needs somebody who signs: of others `s3s` leaves the frames in, and they would be stored.
fn refuse_signed_framing(headers: &HeaderMap) -> S3Result<()> {
    match request::header(headers, "x-amz-content-sha256") {
        Some(value) if value.starts_with("STREAMING-") => {
            Err(s3_error!(InvalidRequest, "A request without a signature can't have a body of signed chunks."))
        }
        _ => Ok(()),
    }
}

/// What a decision goes by must be there once: of two the handler may read the other one.
fn refuse_unclear(headers: &HeaderMap, query: &[(String, String)]) -> S3Result<()> {
    for name in ["versionId", "prefix", "delimiter", "max-keys"] {
        if query.iter().filter(|(parameter, _)| parameter == name).count() > 1 {
            return Err(s3_error!(InvalidArgument, "The query parameter {name} is there more than once."));
        }
    }
    for (name, value) in query {
        let lower = name.to_ascii_lowercase();
        if !lower.starts_with("x-amz-") || MAY_DIFFER.contains(&lower.as_str()) {
            continue;
        }
        let other = query.iter().any(|(other, said)| other.eq_ignore_ascii_case(name) && said != value);
        let header = headers.get_all(&lower).iter().any(|said| said.as_bytes() != value.as_bytes());
        if other || header {
            return Err(s3_error!(InvalidArgument, "The request says two things of {name}."));
        }
    }
    Ok(())
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

/// x-amz-expected-bucket-owner: the client wants to fail rather than reach another account's bucket.
pub fn check_expected_owner(bucket: &BucketRow, expected: Option<&str>) -> S3Result<()> {
    match expected {
        Some(expected) if expected != bucket.owner => Err(denied()),
        _ => Ok(()),
    }
}

/// What a request may do.
pub fn authorised<T>(req: &S3Request<T>) -> S3Result<Arc<Authorised>> {
    req.extensions.get::<Arc<Authorised>>().cloned().ok_or_else(denied)
}

/// Who sent a request.
pub fn caller<T>(req: &S3Request<T>) -> S3Result<Arc<Caller>> {
    authorised(req).map(|authorised| Arc::clone(authorised.caller()))
}

/// The bucket that a request was let through to.
pub fn bucket<T>(req: &S3Request<T>) -> S3Result<Arc<BucketRow>> {
    authorised(req)?.bucket()
}

/// An account as S3 shows it.
pub fn owner(account: &AccountRow) -> Owner {
    crate::s3::answer::owner(&account.id, Some(account))
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
