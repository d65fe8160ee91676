//! The other endpoint: what is asked of it, and what its answers mean.
//!
//! Every call has a deadline, and none is repeated here: whoever calls knows whether it is worth it. Writes name what was there
//! when it was looked at (`If-None-Match: *`, `If-Match`): one that was given up and arrives late, or comes from a leader that
//! was superseded, can't replace what was written since. An endpoint that does not know these conditions is written to without.
//! That is learned of each operation by itself, and only when the same request is done without its condition: 501 may mean any other
//! header of it.

mod listing;

pub(crate) use listing::{FarLine, FarVersion};

use super::same::visible;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, EncodingType, ServerSideEncryption, Tagging,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use codec::effect::{Checksum, ChecksumAlgorithm, ObjectMeta, ReplicationRow, Tag, VersionRow};
use metadata::keys::Secret;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take whose request has no body.
const ANSWER: Duration = Duration::from_secs(60);
/// Bytes that a line carries in a second at least: what a body adds to [`ANSWER`].
const SLOWEST: u64 = 64 << 10;
/// The x-amz-meta- header that holds the entity tag which the object has here, where it can't have the same one there.
pub(crate) const MARK: &str = "stele-etag";
/// The x-amz-meta- header that names the version here of which this is a copy, under a rule that copies versions.
pub(crate) const VERSION: &str = "stele-version";
/// For so long it is believed that the bucket keeps versions.
const VERSIONED: Duration = Duration::from_secs(60);
/// An upload of somebody else that was begun so long ago is taken for one that was left.
const LEFT: Duration = Duration::from_secs(24 * 3600);
/// Own uploads that are remembered.
const MOST_BEGUN: usize = 1024;
/// Most bytes of an endpoint's text that are kept.
const MAX_TEXT: usize = 300;

/// Why the other endpoint did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No answer, or none in time: it may have been done. Try again later.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// The keys are wrong, or may not do this.
    #[error("access is denied: {0}")]
    Denied(String),
    /// It has too much to do, or is out of order: try again later.
    #[error("it can't at present: {0}")]
    Busy(String),
    /// There is no such bucket.
    #[error("the bucket does not exist there")]
    NoBucket,
    /// It keeps no versions: what is written would replace what is there.
    #[error("versioning is not enabled for the bucket there")]
    Unversioned,
    /// What is there is not what was there when it was looked at: look again.
    #[error("the object there has changed meanwhile")]
    Changed,
    /// It does not know something that was asked for.
    #[error("it does not implement this: {0}")]
    Unknown(String),
    /// It refuses this request: trying again is of no use before somebody did something about it.
    #[error("refused: {0}")]
    Refused(String),
}

/// An object on the other side.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Far {
    /// Entity tag as sent, with its quotes.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// Headers, as here; without the mark.
    pub meta: ObjectMeta,
    /// The value of [`MARK`]; empty without it.
    pub mark: String,
    /// The value of [`VERSION`]; empty without it.
    pub version: String,
    /// How many tags it says that it has; not every endpoint says.
    pub tags: u32,
}

/// What a write came to there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// As sent, with its quotes.
    pub etag: String,
    /// The id of its version; empty where none is kept.
    pub id: String,
}

/// What is written, besides bytes.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(super) meta: ObjectMeta,
    encrypted: bool,
    /// As the header `x-amz-tagging` has them; empty without any.
    tagging: String,
}

impl Described {
    /// `marked`: the entity tag will be another one, so the one from here goes along. `name`: the version's, if it does.
    pub(crate) fn new(version: &VersionRow, marked: bool, name: Option<String>) -> Described {
        let mut meta = visible(version.meta.clone().unwrap_or_default());
        let content = version.content.clone().unwrap_or_default();
        if marked {
            meta.user.push(codec::effect::UserMeta { name: MARK.to_owned(), value: content.etag });
        }
        meta.user.extend(name.map(|value| codec::effect::UserMeta { name: VERSION.to_owned(), value }));
        let pair = |tag: &Tag| format!("{}={}", encoded(&tag.key), encoded(&tag.value));
        let tagging = version.tags.iter().map(pair).collect::<Vec<_>>().join("&");
        Described { meta, encrypted: content.encrypted, tagging }
    }

    fn user(&self) -> Option<HashMap<String, String>> {
        let pairs = self.meta.user.iter().map(|user| (user.name.clone(), user.value.clone()));
        Some(pairs.collect()).filter(|map: &HashMap<_, _>| !map.is_empty())
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        self.encrypted.then_some(ServerSideEncryption::Aes256)
    }
}

/// Sets the headers of a PUT and of a new upload alike.
macro_rules! describe {
    ($request:expr, $what:expr) => {{
        let what: &Described = $what;
        let text = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
        let expires = what.meta.expires.clone();
        $request
            .set_content_type(text(&what.meta.content_type))
            .set_cache_control(text(&what.meta.cache_control))
            .set_content_disposition(text(&what.meta.content_disposition))
            .set_content_encoding(text(&what.meta.content_encoding))
            .set_content_language(text(&what.meta.content_language))
            .set_website_redirect_location(text(&what.meta.website_redirect))
            .set_metadata(what.user())
            .set_server_side_encryption(what.encryption())
            .set_tagging(text(&what.tagging))
            .customize()
            // As it was sent here, whether or not it is a date.
            .mutate_request(move |request| {
                if !expires.is_empty() {
                    let _unsendable = request.headers_mut().try_insert("expires", expires.clone());
                }
            })
    }};
}

/// What must be there for a write to happen: the entity tag of what was found, or nothing.
type Found<'a> = Option<&'a Far>;

/// `If-None-Match` and `If-Match`.
type Condition = (Option<String>, Option<String>);

/// One bucket of another endpoint.
pub(crate) struct Target {
    client: Client,
    bucket: String,
    /// Operations that are known not to know conditions.
    put_knows_none: AtomicBool,
    complete_knows_none: AtomicBool,
    delete_knows_none: AtomicBool,
    /// Uploads that were begun here and not ended, as far as is known.
    begun: Mutex<BTreeSet<String>>,
    /// When it last said that the bucket keeps versions.
    versioned: Mutex<Option<Instant>>,
}

impl Target {
    /// The bucket that a rule names.
    pub(crate) fn new(rule: &ReplicationRow, secret: &Secret) -> Target {
        let credentials = Credentials::new(&rule.access_key, secret.expose(), None, None, "stele replication");
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(rule.region.clone()))
            .credentials_provider(credentials)
            .endpoint_url(&rule.endpoint)
            .force_path_style(!rule.virtual_host)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            // Content-MD5 is known everywhere; what newer SDKs add by themselves is not.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let (put_knows_none, complete_knows_none, delete_knows_none, begun, versioned) = Default::default();
        let (client, bucket) = (Client::from_conf(config), rule.target.clone());
        Target { client, bucket, put_knows_none, complete_knows_none, delete_knows_none, begun, versioned }
    }

    fn begun(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the bucket is there and the keys open it.
    pub(crate) async fn look(&self) -> Result<(), TargetError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
        within(0, request.send()).await.map(drop)
    }

    fn versioned(&self) -> MutexGuard<'_, Option<Instant>> {
        self.versioned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails unless the bucket keeps versions, as it said a moment ago.
    pub(crate) async fn keeps_versions(&self) -> Result<(), TargetError> {
        if self.versioned().is_some_and(|at| at.elapsed() < VERSIONED) {
            return Ok(());
        }
        let answer = within(0, self.client.get_bucket_versioning().bucket(&self.bucket).send()).await?;
        if answer.status() != Some(&BucketVersioningStatus::Enabled) {
            return Err(TargetError::Unversioned);
        }
        *self.versioned() = Some(Instant::now());
        Ok(())
    }

    /// A write made no version of its own there: nothing more is written before the bucket was asked again.
    pub(crate) fn lost_a_version(&self) -> TargetError {
        self.asks_again();
        TargetError::Unversioned
    }

    /// What the bucket said of versions last does not count any more.
    pub(crate) fn asks_again(&self) {
        *self.versioned() = None;
    }

    /// An object, or this version of it; `None` when the answer is 404, which a proxy or a missing bucket give as well: see
    /// [`Target::lacks`].
    pub(crate) async fn head(&self, key: &str, id: Option<&str>) -> Result<Option<Far>, TargetError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key).set_version_id(id.map(str::to_owned));
        let head = match within(0, request.send()).await {
            Ok(head) => head,
            // There is no body that could tell a missing bucket: the write will, or [`Target::lacks`].
            Err(TargetError::NoBucket | TargetError::Changed) => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let mut user = head.metadata().cloned().unwrap_or_default();
        let [mark, version] = [MARK, VERSION].map(|name| user.remove(name).unwrap_or_default());
        let mut user: Vec<_> = user.into_iter().map(|(name, value)| codec::effect::UserMeta { name, value }).collect();
        user.sort_by(|a, b| a.name.cmp(&b.name));
        let meta = ObjectMeta {
            content_type: text(head.content_type()),
            cache_control: text(head.cache_control()),
            content_disposition: text(head.content_disposition()),
            content_encoding: text(head.content_encoding()),
            content_language: text(head.content_language()),
            expires: text(head.expires_string()),
            user,
            storage_class: String::new(),
            website_redirect: text(head.website_redirect_location()),
        };
        let size = head.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let tags = head.tag_count().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        Ok(Some(Far { etag: text(head.e_tag()), size, meta: visible(meta), mark, version, tags }))
    }

    /// The tags of an object, or of this version of it.
    pub(crate) async fn tags(&self, key: &str, id: Option<&str>) -> Result<BTreeMap<String, String>, TargetError> {
        let request = self.client.get_object_tagging().bucket(&self.bucket).key(key);
        let answer = within(0, request.set_version_id(id.map(str::to_owned)).send()).await?;
        Ok(answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect())
    }

    /// Gives an object, or this version of it, other tags.
    pub(crate) async fn set_tags(
        &self,
        key: &str,
        id: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), TargetError> {
        let tag = |(key, value)| aws_sdk_s3::types::Tag::builder().key(key).value(value).build();
        let tags: Result<Vec<_>, _> = tags.iter().map(tag).collect();
        let tagging = tags.and_then(|tags| Tagging::builder().set_tag_set(Some(tags)).build());
        let tagging = tagging.map_err(|error| TargetError::Refused(error.to_string()))?;
        let request = self.client.put_object_tagging().bucket(&self.bucket).key(key).tagging(tagging);
        within(0, request.set_version_id(id.map(str::to_owned)).send()).await.map(drop)
    }

    /// Fails unless the bucket is there and its listing lacks this key: nothing else tells that a delete has been copied.
    pub(crate) async fn lacks(&self, key: &str) -> Result<(), TargetError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).encoding_type(EncodingType::Url);
        let page = within(0, request.prefix(key).max_keys(1).send()).await?;
        let encoded = page.encoding_type() == Some(&EncodingType::Url);
        // What the key is a prefix of sorts behind it.
        let first = page.contents().first().and_then(|object| object.key());
        match first.and_then(|name| if encoded { decoded(name) } else { Some(name.to_owned()) }) {
            Some(name) if name == key => Err(TargetError::Changed),
            _ => Ok(()),
        }
    }

    /// Writes an object in one piece.
    pub(crate) async fn put(
        &self,
        key: &str,
        what: &Described,
        body: Piece,
        checksum: Option<&Checksum>,
        found: Found<'_>,
    ) -> Result<Written, TargetError> {
        let send = |condition| self.put_if(key, what, body.clone(), checksum, condition);
        conditional(&self.put_knows_none, found, send).await
    }

    async fn put_if(
        &self,
        key: &str,
        what: &Described,
        body: Piece,
        checksum: Option<&Checksum>,
        (none, tag): Condition,
    ) -> Result<Written, TargetError> {
        let size = body.bytes.len() as u64;
        let mut request = self.client.put_object().bucket(&self.bucket).key(key);
        request = request.content_md5(BASE64.encode(body.md5)).set_if_none_match(none).set_if_match(tag);
        if let Some(checksum) = checksum {
            let value = BASE64.encode(&checksum.value);
            request = match checksum.algorithm() {
                ChecksumAlgorithm::Crc32 => request.checksum_crc32(value),
                ChecksumAlgorithm::Crc32c => request.checksum_crc32_c(value),
                ChecksumAlgorithm::Crc64Nvme => request.checksum_crc64_nvme(value),
                ChecksumAlgorithm::Sha1 => request.checksum_sha1(value),
                ChecksumAlgorithm::Sha256 => request.checksum_sha256(value),
                ChecksumAlgorithm::Unspecified => request,
            };
        }
        let request = describe!(request.body(stream(body.bytes)), what);
        let answer = within(size, request.send()).await?;
        Ok(written(answer.e_tag(), answer.version_id()))
    }

    /// Opens an upload.
    pub(crate) async fn begin(&self, key: &str, what: &Described) -> Result<String, TargetError> {
        let request = describe!(self.client.create_multipart_upload().bucket(&self.bucket).key(key), what);
        let answer = within(0, request.send()).await?;
        let upload = answer.upload_id().map(str::to_owned);
        let upload = upload.ok_or_else(|| TargetError::Refused("an upload without an id".to_owned()))?;
        let mut begun = self.begun();
        if begun.len() >= MOST_BEGUN {
            begun.pop_first();
        }
        begun.insert(upload.clone());
        Ok(upload)
    }

    /// Writes a part; gives its entity tag.
    pub(crate) async fn part(&self, key: &str, upload: &str, number: i32, body: Piece) -> Result<String, TargetError> {
        let size = body.bytes.len() as u64;
        let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(upload).part_number(number);
        let request = request.content_md5(BASE64.encode(body.md5)).body(stream(body.bytes));
        let part = within(size, request.send()).await?;
        Ok(part.e_tag().unwrap_or_default().to_owned())
    }

    /// Makes an object of the parts with these entity tags.
    pub(crate) async fn complete(
        &self,
        key: &str,
        upload: &str,
        tags: Vec<String>,
        found: Found<'_>,
    ) -> Result<Written, TargetError> {
        let part = |(tag, number): (String, i32)| CompletedPart::builder().e_tag(tag).part_number(number).build();
        let count = tags.len() as u64;
        let parts: Vec<CompletedPart> = tags.into_iter().zip(1..).map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let send = |(none, tag): Condition| {
            let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
            let request = request.multipart_upload(parts.clone()).set_if_none_match(none).set_if_match(tag);
            // Some endpoints put the parts together one after the other before they answer.
            async move { within(count * SLOWEST, request.send()).await }
        };
        let answer = conditional(&self.complete_knows_none, found, send).await?;
        self.begun().remove(upload);
        Ok(written(answer.e_tag(), answer.version_id()))
    }

    /// Gives an upload up. That it is gone already is no failure, and one that stays costs space there, nothing else.
    pub(crate) async fn abort(&self, key: &str, upload: &str) {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        match within(0, request.send()).await {
            Err(error) if error != TargetError::Changed => {
                tracing::debug!(%error, key, "an upload to the other endpoint was not given up");
            }
            _ => {
                self.begun().remove(upload);
            }
        }
    }

    /// Gives up what is left of uploads of this key: those that were begun here, and any that is older than [`LEFT`]. A younger one
    /// may be somebody's who is at it.
    pub(crate) async fn abort_others(&self, key: &str) {
        let request = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(key);
        let Ok(listed) = within(0, request.send()).await else { return };
        let of_key = listed.uploads().iter().filter(|upload| upload.key() == Some(key));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = i64::try_from(now.saturating_sub(LEFT).as_secs()).unwrap_or(i64::MAX);
        let old = of_key.filter(|upload| {
            upload.initiated().is_some_and(|at| at.secs() < left)
                || upload.upload_id().is_some_and(|upload| self.begun().contains(upload))
        });
        for upload in old.filter_map(|upload| upload.upload_id()) {
            self.abort(key, upload).await;
        }
    }

    /// Deletes an object that was found.
    pub(crate) async fn delete(&self, key: &str, found: &Far) -> Result<(), TargetError> {
        let send = |(_, tag): Condition| {
            let request = self.client.delete_object().bucket(&self.bucket).key(key).set_if_match(tag);
            async move { within(0, request.send()).await.map(drop) }
        };
        conditional(&self.delete_knows_none, Some(found), send).await
    }

    /// Deletes one version for good.
    pub(crate) async fn remove(&self, key: &str, id: &str) -> Result<(), TargetError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key).version_id(id);
        within(0, request.send()).await.map(drop)
    }
}

fn written(etag: Option<&str>, id: Option<&str>) -> Written {
    Written { etag: etag.unwrap_or_default().to_owned(), id: id.unwrap_or_default().to_owned() }
}

/// Does a write with its condition. After 501 it is repeated without; if that does it, the operation knows no conditions.
async fn conditional<T, F: Future<Output = Result<T, TargetError>>>(
    knows_none: &AtomicBool,
    found: Found<'_>,
    send: impl Fn(Condition) -> F,
) -> Result<T, TargetError> {
    let condition = match found {
        _ if knows_none.load(Relaxed) => (None, None),
        None => (Some("*".to_owned()), None),
        Some(far) => (None, Some(far.etag.clone()).filter(|tag| !tag.is_empty())),
    };
    let with_one = condition != (None, None);
    let result = send(condition).await;
    if !with_one || !matches!(result, Err(TargetError::Unknown(_))) {
        return result;
    }
    let again = send((None, None)).await;
    if again.is_ok() && !knows_none.swap(true, Relaxed) {
        tracing::info!("the other endpoint does not know a conditional write: late ones can't be told");
    }
    again
}

/// Bytes, and their MD5.
#[derive(Clone)]
pub(crate) struct Piece {
    pub bytes: Bytes,
    pub md5: [u8; 16],
}

fn stream(bytes: Bytes) -> ByteStream {
    ByteStream::new(SdkBody::from(bytes))
}

/// Everything but letters, digits and `-._~` as `%XX`.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// `%XX` decoded, and `+` as a space: what endpoints make of a key that XML could not hold. `None` when it is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// Waits for an answer as long as one whose request carries so many bytes may take.
async fn within<T, E: ProvideErrorMetadata>(
    bytes: u64,
    call: impl Future<Output = Result<T, SdkError<E>>>,
) -> Result<T, TargetError> {
    let limit = ANSWER + Duration::from_secs(bytes / SLOWEST);
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| meaning(&error)),
        Err(_) => Err(TargetError::Unreachable(format!("none within {} s", limit.as_secs()))),
    }
}

fn meaning<E: ProvideErrorMetadata>(error: &SdkError<E>) -> TargetError {
    let SdkError::ServiceError(answer) = error else {
        let text = match error {
            SdkError::DispatchFailure(failure) => {
                failure.as_connector_error().map_or_else(String::new, |error| innermost(error))
            }
            SdkError::ConstructionFailure(_) => {
                return TargetError::Refused("the request can't be expressed".to_owned());
            }
            SdkError::TimeoutError(_) => "the connection takes too long".to_owned(),
            _ => "an answer that is not understood".to_owned(),
        };
        return TargetError::Unreachable(short(&text));
    };
    let (status, code) = (answer.raw().status().as_u16(), answer.err().code().unwrap_or_default());
    let text = short(&format!("{status} {code} {}", answer.err().message().unwrap_or_default()));
    match status {
        401 | 403 => TargetError::Denied(text),
        // What a write was to replace or to complete is gone.
        404 if matches!(code, "NoSuchKey" | "NoSuchUpload" | "NoSuchVersion") => TargetError::Changed,
        404 => TargetError::NoBucket,
        412 => TargetError::Changed,
        409 if code == "ConditionalRequestConflict" => TargetError::Changed,
        501 => TargetError::Unknown(text),
        408 | 409 | 429 | 500.. => TargetError::Busy(text),
        _ => TargetError::Refused(text),
    }
}

/// The innermost cause says what happened ("Connection refused"), those around it only where.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn short(text: &str) -> String {
    let line: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().to_owned()
}

#[cfg(test)]
#[path = "target/endpoint.rs"]
mod endpoint;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_as_endpoints_encode_them() {
        assert_eq!(decoded("a%20b+c%2B%C3%BC%01").as_deref(), Some("a b c+ü\u{1}"));
        assert_eq!((decoded("%"), decoded("%zz"), decoded("%FF")), (None, None, None));
    }

    #[test]
    fn what_an_endpoint_says_is_one_short_line() {
        assert_eq!(short("a\nb\u{1b}[2J "), "a b [2J");
        assert_eq!(short(&"x".repeat(1000)).len(), MAX_TEXT);
    }
}
