//! Settings that a bucket does not have, as S3 answers for a bucket that never had them. Clients ask for these before they
//! copy, mirror or take over a bucket, and give up on an answer that they don't know.
//!
//! Invariant: an answer here is true of the bucket. What always answers from here can't be set: [`super::support::OPERATIONS`] has no
//! operation that does, or it takes the one value that is answered ([`put_payer`]). Who adds such an operation answers from what was
//! set, as it is done with tags, CORS and lifecycles: they come to [`unset`] only where the bucket has none.

use super::error;
use crate::auth;
use http::StatusCode;
use s3s::dto::{
    GetBucketAccelerateConfigurationOutput, GetBucketRequestPaymentOutput, Payer, PutBucketRequestPaymentInput,
    PutBucketRequestPaymentOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// A setting that S3 answers with 404 until it is set.
#[derive(Clone, Copy, Debug)]
pub struct Unset {
    code: &'static str,
    message: &'static str,
}

macro_rules! unset {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $message:literal; )*) => {
        $( $(#[$doc])* pub const $name: Unset = Unset { code: $code, message: $message }; )*
    };
}

unset! {
    /// GetBucketTagging.
    TAGS = "NoSuchTagSet", "The TagSet does not exist";
    /// GetBucketCors.
    CORS = "NoSuchCORSConfiguration", "The CORS configuration does not exist";
    /// GetBucketLifecycleConfiguration.
    LIFECYCLE = "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist";
    /// GetBucketWebsite.
    WEBSITE = "NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration";
    /// GetBucketReplication.
    REPLICATION = "ReplicationConfigurationNotFoundError", "The replication configuration was not found";
}

/// The answer for a setting that S3 answers with 404 until it is set.
pub fn unset<T, O>(req: &S3Request<T>, what: Unset) -> S3Result<S3Response<O>> {
    auth::bucket(req)?;
    Err(error::custom(what.code, StatusCode::NOT_FOUND, what.message))
}

/// GetBucketRequestPayment.
pub fn payer<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    auth::bucket(req)?;
    let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
}

/// PutBucketRequestPayment. Nobody is billed for requests here, so it is the owner who pays; another payer is refused, as he would
/// be asked for nothing.
pub fn put_payer(req: &S3Request<PutBucketRequestPaymentInput>) -> S3Result<S3Response<PutBucketRequestPaymentOutput>> {
    auth::bucket(req)?;
    match req.input.request_payment_configuration.payer.as_str() {
        Payer::BUCKET_OWNER => Ok(S3Response::new(PutBucketRequestPaymentOutput {})),
        Payer::REQUESTER => Err(s3_error!(NotImplemented, "Only the bucket's owner can be the payer here.")),
        _ => Err(s3_error!(MalformedXML)),
    }
}

/// GetBucketAccelerateConfiguration.
pub fn acceleration<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketAccelerateConfigurationOutput>> {
    auth::bucket(req)?;
    Ok(S3Response::new(GetBucketAccelerateConfigurationOutput::default()))
}
