//! Encryption in S3's headers: what a request asks for, and what its answer says.
//!
//! Invariants:
//! * What is asked for is given or refused: no header of this family is passed over where it would mean something.
//! * A client's key is in no answer and no log. It is taken over TLS, or from this machine, unless the operator says otherwise.
//! * Answers are made in one place ([`said`]), by what the object is under and not by what was asked for.

use super::{error, request};
use crate::engine::Gateway;
use crate::protect::{CustomerKey, Protection};
use crate::server::Peer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use codec::effect::{BucketRow, Content, ProtectionClass, UploadRow};
use codec::id::DomainId;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use md5::{Digest, Md5};
use metadata::keys::Purpose;
use metadata::kms::default_key;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use zeroize::Zeroizing;

const METHOD: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const ALGORITHM: &str = "x-amz-server-side-encryption-customer-algorithm";
const KEY: &str = "x-amz-server-side-encryption-customer-key";
const KEY_MD5: &str = "x-amz-server-side-encryption-customer-key-md5";
const SOURCE_ALGORITHM: &str = "x-amz-copy-source-server-side-encryption-customer-algorithm";
const SOURCE_KEY: &str = "x-amz-copy-source-server-side-encryption-customer-key";
const SOURCE_KEY_MD5: &str = "x-amz-copy-source-server-side-encryption-customer-key-md5";

const SSE_S3: &str = "AES256";
const SSE_KMS: &str = "aws:kms";
/// The one algorithm that SSE-C has.
const SSE_C: &str = "AES256";

/// A client's key, and the digest of it that the answer repeats.
#[derive(Clone, Debug)]
struct Customer {
    key: CustomerKey,
    md5: String,
}

/// What a request says of encryption.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `x-amz-server-side-encryption`, and the key if there is one.
    method: Option<Method>,
    customer: Option<Customer>,
    source: Option<Customer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Method {
    Managed,
    /// With the key, if it is named.
    Kms(Option<String>),
}

/// What a request asks for. Everything that is wrong in itself is refused here.
pub fn asked<T>(gateway: &Gateway, req: &S3Request<T>) -> S3Result<Asked> {
    asked_in(gateway, &req.headers, &req.extensions)
}

/// [`asked`] of headers, and of what is known of where they came from.
pub fn asked_in(gateway: &Gateway, headers: &HeaderMap, extensions: &Extensions) -> S3Result<Asked> {
    let value = |name| request::header(headers, name);
    let asked = Asked {
        method: method(value(METHOD), value(KMS_KEY))?,
        customer: customer(value(ALGORITHM), value(KEY), value(KEY_MD5))?,
        source: customer(value(SOURCE_ALGORITHM), value(SOURCE_KEY), value(SOURCE_KEY_MD5))?,
    };
    if asked.method.is_some() && asked.customer.is_some() {
        return Err(s3_error!(
            InvalidArgument,
            "Server Side Encryption with Customer provided key is incompatible with the encryption method specified"
        ));
    }
    let has_key = asked.customer.is_some() || asked.source.is_some();
    if has_key && !gateway.config().sse_c_without_tls && !is_private(extensions.get::<Peer>()) {
        return Err(s3_error!(
            InvalidRequest,
            "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection."
        ));
    }
    Ok(asked)
}

/// Whether nobody on the way can read what the peer sends.
fn is_private(peer: Option<&Peer>) -> bool {
    peer.is_some_and(|peer| peer.tls.is_some() || peer.address.ip().to_canonical().is_loopback())
}

fn method(method: Option<&str>, key: Option<&str>) -> S3Result<Option<Method>> {
    match (method, key) {
        (None, None) => Ok(None),
        (Some(SSE_S3), None) => Ok(Some(Method::Managed)),
        (Some(SSE_KMS), key) => key.map(kms_key).transpose().map(|key| Some(Method::Kms(key))),
        (Some(SSE_S3) | None, Some(_)) => Err(s3_error!(
            InvalidArgument,
            "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms"
        )),
        (Some(other), _) if other.starts_with("aws:") => Err(error::not_implemented("This kind of encryption")),
        (Some(_), _) => Err(s3_error!(InvalidArgument, "The encryption method specified is not supported")),
    }
}

/// The name of a key: as it is, or at the end of an ARN.
fn kms_key(text: &str) -> S3Result<String> {
    let name = match text.strip_prefix("arn:") {
        Some(rest) => rest.splitn(5, ':').nth(4).and_then(|resource| resource.strip_prefix("key/")).unwrap_or_default(),
        None => text,
    };
    if name.is_empty() {
        return Err(s3_error!(InvalidArgument, "The key is neither the name of one nor its ARN."));
    }
    Ok(name.to_owned())
}

fn customer(algorithm: Option<&str>, key: Option<&str>, md5: Option<&str>) -> S3Result<Option<Customer>> {
    let lacks = |what: &str| {
        s3_error!(
            InvalidArgument,
            "Requests specifying Server Side Encryption with Customer provided keys must provide {what}."
        )
    };
    if (algorithm, key, md5) == (None, None, None) {
        return Ok(None);
    }
    match algorithm.ok_or_else(|| lacks("a valid encryption algorithm"))? {
        SSE_C => {}
        _ => {
            return Err(error::custom(
                "InvalidEncryptionAlgorithmError",
                http::StatusCode::BAD_REQUEST,
                "The encryption request you specified is not valid. The valid value is AES256.",
            ));
        }
    }
    let key = key.ok_or_else(|| lacks("an appropriate secret key"))?;
    let md5 = md5.ok_or_else(|| lacks("the client calculated MD5 of the secret key"))?;
    let invalid = || s3_error!(InvalidArgument, "The secret key was invalid for the specified algorithm.");
    let bytes = Zeroizing::new(BASE64.decode(key).map_err(|_| invalid())?);
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(bytes.as_slice().try_into().map_err(|_| invalid())?);
    if BASE64.decode(md5).ok().as_deref() != Some(&Md5::digest(&bytes[..])[..]) {
        return Err(s3_error!(
            InvalidArgument,
            "The calculated MD5 hash of the key did not match the hash that was provided."
        ));
    }
    Ok(Some(Customer { key: CustomerKey::new(&bytes), md5: md5.to_owned() }))
}

impl Asked {
    /// How a new object of a bucket is to be protected.
    pub fn protection(&self, bucket: &BucketRow) -> S3Result<Protection> {
        let default = default_of(bucket);
        if let Some(customer) = &self.customer {
            return Ok(Protection::Customer(customer.key.clone()));
        }
        match (&self.method, default) {
            (None, default) => Ok(default),
            (Some(Method::Managed), _) => Ok(Protection::Managed),
            (Some(Method::Kms(Some(key))), _) => Ok(Protection::Kms(key.clone())),
            (Some(Method::Kms(None)), default @ Protection::Kms(_)) => Ok(default),
            (Some(Method::Kms(None)), _) => Ok(Protection::Kms(default_key(&bucket.owner))),
        }
    }

    /// How a copy of `source` is to be protected: no less than the source, which is not lost by the way.
    pub fn protection_of_copy(&self, bucket: &BucketRow, source: &Content) -> S3Result<Protection> {
        match self.protection(bucket)? {
            Protection::Plain if source.encrypted => Ok(Protection::Managed),
            protection => Ok(protection),
        }
    }

    /// Whether anything is said that a copy onto the same key changes.
    pub fn changes(&self) -> bool {
        self.method.is_some() || self.customer.is_some()
    }

    /// For a read of an object.
    pub fn of_read(&self, content: &Content) -> S3Result<Option<&CustomerKey>> {
        self.refuse_method()?;
        checked(self.customer.as_ref(), content)
    }

    /// For a read of a copy's source.
    pub fn of_source(&self, content: &Content) -> S3Result<Option<CustomerKey>> {
        checked(self.source.as_ref(), content).map(Option::<&CustomerKey>::cloned)
    }

    /// For a part of an upload. Methods may be sent again if they are the upload's.
    pub async fn of_part(&self, gateway: &Gateway, upload: &UploadRow) -> S3Result<Option<CustomerKey>> {
        let differs = || {
            s3_error!(
                InvalidArgument,
                "The encryption of the part is not that with which the multipart upload was begun."
            )
        };
        let key = self.customer.as_ref().map(|customer| customer.key.clone());
        match (&upload.sealed, &key) {
            (None, None) => {}
            (None, Some(_)) | (Some(_), None) => return Err(no_such_parameters()),
            (Some(sealed), Some(key)) if !key.opens(DomainId(upload.domain), sealed) => return Err(differs()),
            (Some(_), Some(_)) => {}
        }
        if self.repeats(gateway, upload).await? { Ok(key) } else { Err(differs()) }
    }

    /// Whether a method that is sent is the upload's: then it asks for what is given anyway.
    async fn repeats(&self, gateway: &Gateway, upload: &UploadRow) -> S3Result<bool> {
        let Some(method) = &self.method else { return Ok(true) };
        Ok(match (method, &purpose_of_upload(gateway, upload).await?) {
            (Method::Managed, Purpose::Managed) | (Method::Kms(None), Purpose::Kms(_)) => true,
            (Method::Kms(Some(asked)), Purpose::Kms(key)) => asked == key,
            _ => false,
        })
    }

    /// For completing an upload. Its client's key is not needed; one that is sent has to be the right one, and S3 wants it where the
    /// upload has checksums. Methods may be sent again if they are the upload's: some clients send their headers with each request.
    pub async fn of_complete(&self, gateway: &Gateway, upload: &UploadRow) -> S3Result<()> {
        if !self.repeats(gateway, upload).await? {
            return self.refuse_method();
        }
        match (&upload.sealed, &self.customer) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(no_such_parameters()),
            (Some(_), None) if upload.checksum != 0 => Err(s3_error!(
                InvalidArgument,
                "The multipart upload is encrypted with a key of the client, and has checksums: the request must have the key."
            )),
            (Some(_), None) => Ok(()),
            (Some(sealed), Some(customer)) if customer.key.opens(DomainId(upload.domain), sealed) => Ok(()),
            (Some(_), Some(_)) => Err(wrong_key()),
        }
    }

    fn refuse_method(&self) -> S3Result<()> {
        match self.method {
            None => Ok(()),
            Some(_) => Err(s3_error!(
                InvalidArgument,
                "x-amz-server-side-encryption header is not supported for this operation."
            )),
        }
    }
}

/// How new objects of a bucket are protected if the request says nothing.
pub fn default_of(bucket: &BucketRow) -> Protection {
    match &bucket.encryption {
        Some(default) if default.class() == ProtectionClass::Kms => Protection::Kms(default.key.clone()),
        _ => Protection::from(bucket.encrypt),
    }
}

/// A default, as PutBucketEncryption asks for it, for a bucket of `owner`.
pub fn default_asked(algorithm: &str, key: Option<&str>, owner: &str) -> S3Result<Protection> {
    match (algorithm, key) {
        (SSE_S3, None) => Ok(Protection::Managed),
        (SSE_KMS, Some(key)) => Ok(Protection::Kms(kms_key(key)?)),
        (SSE_KMS, None) => Ok(Protection::Kms(default_key(owner))),
        (other, _) if other.starts_with("aws:kms:") => Err(error::not_implemented("This kind of encryption")),
        (SSE_S3, Some(_)) => Err(s3_error!(
            InvalidArgument,
            "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse"
        )),
        _ => Err(s3_error!(MalformedXML)),
    }
}

fn checked<'a>(customer: Option<&'a Customer>, content: &Content) -> S3Result<Option<&'a CustomerKey>> {
    match (&content.sealed, customer) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(no_such_parameters()),
        (Some(_), None) => Err(key_missing()),
        (Some(sealed), Some(customer)) if customer.key.opens(content.domain_id(), sealed) => Ok(Some(&customer.key)),
        (Some(_), Some(_)) => Err(wrong_key()),
    }
}

async fn purpose_of_upload(gateway: &Gateway, upload: &UploadRow) -> S3Result<Purpose> {
    gateway.purpose_in(DomainId(upload.domain), upload.encrypted).await.map_err(error::lookup)
}

/// 400: the object is under a client's key, and the request has none.
pub fn key_missing() -> s3s::S3Error {
    s3_error!(
        InvalidRequest,
        "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve \
         the object."
    )
}

/// 400: the request has another key than the object's.
pub fn wrong_key() -> s3s::S3Error {
    s3_error!(InvalidRequest, "The provided encryption parameters did not match the ones used originally.")
}

fn no_such_parameters() -> s3s::S3Error {
    s3_error!(InvalidRequest, "The encryption parameters are not applicable to this object.")
}

/// A new bucket is asked to encrypt, in headers that S3 has for objects only: whoever sent them would believe that it does.
pub fn refuse_on_bucket(headers: &HeaderMap) -> S3Result<()> {
    match headers.keys().any(|name| name.as_str().starts_with(METHOD)) {
        false => Ok(()),
        true => Err(s3_error!(
            InvalidArgument,
            "x-amz-server-side-encryption header is not supported for this operation: use PutBucketEncryption."
        )),
    }
}

/// Puts into an answer what the object is under.
pub fn said<T>(mut response: S3Response<T>, purpose: &Purpose, asked: &Asked) -> S3Response<T> {
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers.insert(HeaderName::from_static(name), value);
        }
    };
    match purpose {
        Purpose::Plain => {}
        Purpose::Managed => put(METHOD, SSE_S3),
        Purpose::Kms(key) => {
            put(METHOD, SSE_KMS);
            put(KMS_KEY, key);
        }
        Purpose::Customer => {
            put(ALGORITHM, SSE_C);
            if let Some(customer) = &asked.customer {
                put(KEY_MD5, &customer.md5);
            }
        }
    }
    response
}

/// What an object is under.
pub async fn purpose_of(gateway: &Gateway, content: &Content) -> S3Result<Purpose> {
    gateway.purpose_of(content).await.map_err(error::lookup)
}

/// What an upload is under.
pub async fn purpose_of_parts(gateway: &Gateway, upload: &UploadRow) -> S3Result<Purpose> {
    purpose_of_upload(gateway, upload).await
}

/// `x-amz-server-side-encryption`, for the table of headers.
pub fn check_method(value: &str) -> S3Result<()> {
    method(Some(value), None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::support;

    const RAW: [u8; 32] = [7; 32];

    fn pair() -> (String, String) {
        (BASE64.encode(RAW), BASE64.encode(Md5::digest(RAW)))
    }

    fn code<T>(result: S3Result<T>) -> Option<String> {
        result.err().map(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn a_clients_key_comes_whole_or_not_at_all() {
        let (key, md5) = pair();
        assert!(customer(Some("AES256"), Some(&key), Some(&md5)).unwrap().is_some());
        assert!(customer(None, None, None).unwrap().is_none());
        let short = BASE64.encode([7; 31]);
        for (algorithm, key, md5) in [
            (None, Some(key.as_str()), Some(md5.as_str())),
            (Some("AES256"), None, Some(&md5)),
            (Some("AES256"), Some(&key), None),
            (Some("AES256"), Some(&key), Some("AAAAAAAAAAAAAAAAAAAAAA==")),
            (Some("AES256"), Some(&short), Some(&md5)),
            (Some("AES256"), Some("no base64"), Some(&md5)),
            (None, None, Some(&md5)),
        ] {
            assert_eq!(code(customer(algorithm, key, md5)).as_deref(), Some("InvalidArgument"));
        }
        let other = code(customer(Some("AES192"), Some(&key), Some(&md5)));
        assert_eq!(other.as_deref(), Some("InvalidEncryptionAlgorithmError"));
    }

    #[test]
    fn methods_and_their_keys() {
        assert_eq!(method(Some("aws:kms"), Some("k1")).unwrap(), Some(Method::Kms(Some("k1".to_owned()))));
        let arn = "arn:aws:kms:us-east-1:123:key/archive/2026";
        assert_eq!(kms_key(arn).unwrap(), "archive/2026");
        for (name, key, refused) in [
            (Some("AES256"), Some("k1"), "InvalidArgument"),
            (None, Some("k1"), "InvalidArgument"),
            (Some("aes:kms"), Some("k1"), "InvalidArgument"),
            (Some(""), None, "InvalidArgument"),
            (Some("aws:kms"), Some("arn:aws:kms:us-east-1:123:alias/x"), "InvalidArgument"),
            (Some("aws:kms"), Some(""), "InvalidArgument"),
            (Some("aws:kms:dsse"), Some("k1"), "NotImplemented"),
        ] {
            assert_eq!(code(method(name, key)).as_deref(), Some(refused), "{name:?} {key:?}");
        }
    }

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        let peer = |address: &str, tls| Peer { address: address.parse().unwrap(), tls };
        assert!(is_private(Some(&peer("127.0.0.1:1", None))) && is_private(Some(&peer("[::1]:1", None))));
        assert!(
            is_private(Some(&peer("[::ffff:127.0.0.1]:1", None))) && is_private(Some(&peer("10.0.0.1:1", Some("1.3"))))
        );
        assert!(!is_private(Some(&peer("10.0.0.1:1", None))) && !is_private(None));
    }

    #[test]
    fn the_defaults_of_buckets() {
        let bucket = |encrypt, key: Option<&str>| BucketRow {
            encrypt,
            encryption: key.map(|key| codec::effect::DefaultEncryptionRow {
                class: ProtectionClass::Kms.into(),
                key: key.to_owned(),
            }),
            ..BucketRow::default()
        };
        let purpose = |asked: &Asked, bucket: &BucketRow| asked.protection(bucket).map(|how| how.purpose());
        let asks = |method| Asked { method, ..Asked::default() };
        let (plain, managed, kms) = (bucket(false, None), bucket(true, None), bucket(false, Some("k1")));
        assert_eq!(purpose(&asks(None), &plain).unwrap(), Purpose::Plain);
        assert_eq!(purpose(&asks(None), &managed).unwrap(), Purpose::Managed);
        assert_eq!(purpose(&asks(None), &kms).unwrap(), Purpose::Kms("k1".to_owned()));
        assert_eq!(purpose(&asks(Some(Method::Managed)), &kms).unwrap(), Purpose::Managed);
        assert_eq!(purpose(&asks(Some(Method::Kms(None))), &kms).unwrap(), Purpose::Kms("k1".to_owned()));
        let theirs = BucketRow { owner: "alice".to_owned(), ..managed.clone() };
        assert_eq!(purpose(&asks(Some(Method::Kms(None))), &theirs).unwrap(), Purpose::Kms("aws/s3/alice".to_owned()));
        let encrypted = Content { encrypted: true, ..Content::default() };
        let copied = asks(None).protection_of_copy(&plain, &encrypted).unwrap();
        assert_eq!(copied.purpose(), Purpose::Managed, "a copy must not be the way to lose it");
    }

    #[test]
    fn a_bucket_is_not_made_with_headers_of_objects() {
        let mut headers = HeaderMap::new();
        assert!(refuse_on_bucket(&headers).is_ok());
        headers.insert(ALGORITHM, HeaderValue::from_static("AES256"));
        assert_eq!(code(refuse_on_bucket(&headers)).as_deref(), Some("InvalidArgument"));
    }

    #[test]
    fn an_unknown_header_of_the_family_is_refused() {
        for name in [ALGORITHM, KEY, KEY_MD5, SOURCE_ALGORITHM, SOURCE_KEY, SOURCE_KEY_MD5, KMS_KEY] {
            assert!(support::check_header(name, "x").is_ok(), "{name} is read here");
        }
        assert!(support::check_header("x-amz-server-side-encryption-context", "e30=").is_err());
        assert!(support::check_header(METHOD, "rot13").is_err() && support::check_header(METHOD, "aws:kms").is_ok());
    }
}
