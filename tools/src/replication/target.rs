//! The other endpoint: what is asked of it, and what its answers mean.
//!
//! Every call has a deadline, and none is repeated here: whoever calls knows whether it is worth it. Writes name what was there
//! when it was looked at (`If-None-Match: *`, `If-Match`): one that was given up and arrives late, or comes from a leader that
//! was superseded, can't replace what was written since. An endpoint that does not know these conditions is written to without.
//! That is learned of each operation by itself, and only when the same request is done without its condition: 501 may mean any other
//! header of it.

use super::same::visible;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, EncodingType, ServerSideEncryption, Tagging,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use codec::effect::{Checksum, ChecksumAlgorithm, ObjectMeta, ReplicationRow, Tag, VersionRow};
use metadata::keys::Secret;
use std::cmp::Ordering;
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
/// Versions in a page of one key's: most keys have few, and what a longer page has more is of other keys.
const FEW: i32 = 20;
/// An upload of somebody else that was begun so long ago is taken for one that was left.
const LEFT: Duration = Duration::from_secs(24 * 3600);
/// Own uploads that are remembered.
const MOST_BEGUN: usize = 1024;
/// Most bytes of an endpoint's text that are kept.
const MAX_TEXT: usize = 300;
/// Pages of a listing that show nothing and are passed over, of ten million deleted keys with Stele.
const EMPTY_PAGES: usize = 100;

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

/// An object in a listing of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FarLine {
    pub key: String,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
}

/// A version in a listing of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FarVersion {
    pub id: String,
    pub latest: bool,
    pub delete_marker: bool,
    pub size: u64,
    /// As sent, with its quotes.
    pub etag: String,
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

    /// All versions of a key from the oldest to the newest; `None` when they are more than `most`. Where a delete marker and a version are
    /// of the same second, which of them is older may be told wrongly, unless one of them is the latest.
    pub(crate) async fn versions(&self, key: &str, most: usize) -> Result<Option<Vec<FarVersion>>, TargetError> {
        let (mut found, mut max) = (Vec::<FarVersion>::new(), FEW);
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self.client.list_object_versions().bucket(&self.bucket).prefix(key).max_keys(max);
            let request = request.encoding_type(EncodingType::Url);
            let request = request.set_key_marker(key_marker.clone()).set_version_id_marker(id_marker.clone());
            let page = within(0, request.send()).await?;
            let lines = version_lines(&page)?;
            let all = lines.len();
            for (_, version) in lines.into_iter().filter(|(name, _)| name == key) {
                // Of delete markers that lie together the newest stands for all: nothing here takes one away, so where versions come
                // and go they would grow beyond any bound.
                let hides = |above: &FarVersion| above.delete_marker && version.delete_marker;
                if !found.last().is_some_and(hides) {
                    found.push(version);
                }
            }
            if found.len() > most {
                return Ok(None);
            }
            let next = (next_key(&page)?, page.next_version_id_marker().map(str::to_owned));
            // What the key is a prefix of sorts behind it.
            let more = page.is_truncated() == Some(true) && next.0.as_deref() == Some(key);
            if !more {
                found.reverse();
                return Ok(Some(found));
            }
            if all == 0 || (next.0 == key_marker && next.1 == id_marker) {
                return Err(TargetError::Refused("a listing that does not go on".to_owned()));
            }
            (key_marker, id_marker) = next;
            max = 1000;
        }
    }

    /// A page of the keys behind one that have versions, and whether there is more.
    pub(crate) async fn keys_of_versions(&self, after: &str) -> Result<(Vec<String>, bool), TargetError> {
        let request = self.client.list_object_versions().bucket(&self.bucket).encoding_type(EncodingType::Url);
        let request = request.set_key_marker(Some(after.to_owned()).filter(|after| !after.is_empty()));
        let page = within(0, request.send()).await?;
        let mut keys: Vec<String> = version_lines(&page)?.into_iter().map(|(key, _)| key).collect();
        keys.dedup();
        Ok((keys, page.is_truncated() == Some(true)))
    }

    /// A page of the listing behind a key, and whether there is more. Pages that show nothing and go on are passed over: an endpoint
    /// that keeps versions may look at so many deleted keys and no more for one answer, as Stele does.
    pub(crate) async fn list(&self, after: &str) -> Result<(Vec<FarLine>, bool), TargetError> {
        let after = Some(after.to_owned()).filter(|after| !after.is_empty());
        let mut token = None;
        for _ in 0..EMPTY_PAGES {
            let request = self.client.list_objects_v2().bucket(&self.bucket).encoding_type(EncodingType::Url);
            let request = request.set_start_after(after.clone()).set_continuation_token(token.clone());
            let page = within(0, request.send()).await?;
            let more = page.is_truncated() == Some(true);
            let next = page.next_continuation_token().map(str::to_owned);
            if !page.contents().is_empty() || !more || next.is_none() || next == token {
                return Ok((lines(&page)?, more));
            }
            token = next;
        }
        Ok((Vec::new(), true))
    }
}

/// What a page lists.
fn lines(page: &ListObjectsV2Output) -> Result<Vec<FarLine>, TargetError> {
    let encoded = page.encoding_type() == Some(&EncodingType::Url);
    let mut lines = Vec::new();
    for object in page.contents() {
        let name = object.key().unwrap_or_default();
        let key = match encoded {
            true => decoded(name).ok_or_else(|| TargetError::Refused("a key that is no text".to_owned()))?,
            false => name.to_owned(),
        };
        let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        lines.push(FarLine { key, size, etag: object.e_tag().unwrap_or_default().trim_matches('"').to_owned() });
    }
    Ok(lines)
}

fn written(etag: Option<&str>, id: Option<&str>) -> Written {
    Written { etag: etag.unwrap_or_default().to_owned(), id: id.unwrap_or_default().to_owned() }
}

fn named(name: &str, encoded: bool) -> Result<String, TargetError> {
    let plain = if encoded { decoded(name) } else { Some(name.to_owned()) };
    plain.ok_or_else(|| TargetError::Refused("a key that is no text".to_owned()))
}

/// A delete without an id would delete whatever is the current version.
fn version_id(id: Option<&str>) -> Result<String, TargetError> {
    let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
    id.ok_or_else(|| TargetError::Refused("a listing of versions without their ids".to_owned()))
}

fn next_key(page: &ListObjectVersionsOutput) -> Result<Option<String>, TargetError> {
    let encoded = page.encoding_type() == Some(&EncodingType::Url);
    page.next_key_marker().map(|name| named(name, encoded)).transpose()
}

/// What a page lists: by key, newest first. Versions and delete markers come apart, and only their times say how they lie.
fn version_lines(page: &ListObjectVersionsOutput) -> Result<Vec<(String, FarVersion)>, TargetError> {
    let encoded = page.encoding_type() == Some(&EncodingType::Url);
    let at = |time: Option<&DateTime>| time.map_or((0, 0), |time| (time.secs(), time.subsec_nanos()));
    let mut lines = Vec::new();
    for version in page.versions() {
        let line = FarVersion {
            id: version_id(version.version_id())?,
            latest: version.is_latest() == Some(true),
            delete_marker: false,
            size: version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            etag: version.e_tag().unwrap_or_default().to_owned(),
        };
        lines.push((named(version.key().unwrap_or_default(), encoded)?, at(version.last_modified()), line));
    }
    // As they come: two versions of the same time lie as they are listed.
    let mut markers = Vec::new();
    for marker in page.delete_markers() {
        let line = FarVersion {
            id: version_id(marker.version_id())?,
            latest: marker.is_latest() == Some(true),
            delete_marker: true,
            size: 0,
            etag: String::new(),
        };
        markers.push((named(marker.key().unwrap_or_default(), encoded)?, at(marker.last_modified()), line));
    }
    let (mut lines, mut markers) = (lines.into_iter().peekable(), markers.into_iter().peekable());
    let mut out = Vec::new();
    loop {
        let marker_first = match (lines.peek(), markers.peek()) {
            (None, None) => return Ok(out),
            (version, None) | (None, version) => version.is_some_and(|(_, _, line)| line.delete_marker),
            (Some((key, at, version)), Some((other, then, marker))) => match key.cmp(other) {
                Ordering::Equal => marker.latest || (!version.latest && then >= at),
                order => order.is_gt(),
            },
        };
        let next = if marker_first { markers.next() } else { lines.next() };
        out.extend(next.map(|(key, _, line)| (key, line)));
    }
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

    /// They come in two lists, and only what is the latest is said.
    #[test]
    fn versions_and_delete_markers_lie_as_their_times_say() {
        use aws_sdk_s3::types::{DeleteMarkerEntry, ObjectVersion};
        let version = |key: &str, id: &str, at: i64, latest: bool| {
            let at = DateTime::from_secs(at);
            ObjectVersion::builder().key(key).version_id(id).last_modified(at).is_latest(latest).build()
        };
        let marker = |key: &str, id: &str, at: i64, latest: bool| {
            let at = DateTime::from_secs(at);
            DeleteMarkerEntry::builder().key(key).version_id(id).last_modified(at).is_latest(latest).build()
        };
        let page = ListObjectVersionsOutput::builder()
            .versions(version("a", "5", 9, true))
            .versions(version("a", "3", 7, false))
            .versions(version("a", "1", 7, false))
            .versions(version("c%20d", "2", 9, false))
            .delete_markers(marker("a", "4", 8, false))
            .delete_markers(marker("b", "2", 5, true))
            .delete_markers(marker("c%20d", "3", 9, true))
            .encoding_type(EncodingType::Url)
            .build();
        let lines = version_lines(&page).unwrap();
        let found: Vec<(&str, &str)> = lines.iter().map(|(key, line)| (key.as_str(), line.id.as_str())).collect();
        let wanted = [("a", "5"), ("a", "4"), ("a", "3"), ("a", "1"), ("b", "2"), ("c d", "3"), ("c d", "2")];
        assert_eq!(found, wanted);
        assert!(lines[1].1.delete_marker && lines[0].1.latest);
    }

    #[test]
    fn what_an_endpoint_says_is_one_short_line() {
        assert_eq!(short("a\nb\u{1b}[2J "), "a b [2J");
        assert_eq!(short(&"x".repeat(1000)).len(), MAX_TEXT);
    }
}
