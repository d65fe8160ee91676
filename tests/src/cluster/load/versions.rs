//! Clients of buckets that keep versions: one whose versions are removed now and then, and one where nothing that was acknowledged
//! may ever go, whoever asks.
//!
//! Two kinds of registers are in the [`History`](crate::cluster::history::History): what a key shows (`bucket|key`), and each
//! version by itself (`bucket|key|version`). A version is removed by its id only where a later one is never removed, so it is not the
//! one that the key shows, and what a key shows changes by puts and deletions alone.

use super::{Failed, TIME, Worker};
use crate::cluster::history::{Content, Version};
use crate::cluster::linear::Act;
use crate::s3::refused;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, DefaultRetention, Delete, ExpirationStatus, LifecycleRule,
    LifecycleRuleFilter, NoncurrentVersionExpiration, ObjectIdentifier, ObjectLockConfiguration, ObjectLockEnabled,
    ObjectLockRetention, ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// The bucket that keeps versions.
pub const VERSIONED: &str = "versions";
/// The bucket where every version is locked for longer than any test lasts.
pub const LOCKED: &str = "locked";
/// Keys of each that all clients use.
const KEYS: u64 = 6;
/// For how long versions are locked: no fault makes clocks jump as far.
const LOCKED_DAYS: i32 = 30;

/// A version as a listing shows it: its bytes and ETag, or that it is a deletion; and whether it is the latest.
pub type ListedVersion = (Option<(usize, String)>, bool);
/// All of them, by key and version.
pub type ListedVersions = BTreeMap<(String, String), ListedVersion>;

/// What a register is of: the key of a bucket, or one version of it.
pub(super) struct Register<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) version: Option<&'a str>,
}

impl Register<'_> {
    /// `None`: of the bucket that keeps no versions.
    pub(super) fn of(name: &str) -> Option<Register<'_>> {
        let mut parts = name.split('|');
        let (bucket, key, version) = (parts.next()?, parts.next()?, parts.next());
        Some(Register { bucket, key, version })
    }
}

fn name_of(bucket: &str, key: &str) -> String {
    format!("{bucket}|{key}")
}

impl Worker {
    /// Makes both buckets, as far as they are not there.
    pub async fn make_versioned_buckets(&mut self) -> Result<(), Failed> {
        let client = self.client();
        self.made(client.create_bucket().bucket(VERSIONED).send().await)?;
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let set = client.put_bucket_versioning().bucket(VERSIONED).versioning_configuration(enabled).send().await;
        set.map_err(|error| self.failed("versioning", &error))?;
        self.made(client.create_bucket().bucket(LOCKED).object_lock_enabled_for_bucket(true).send().await)?;
        let of = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(LOCKED_DAYS).build();
        let rule = ObjectLockRule::builder().default_retention(of).build();
        let rule = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).rule(rule);
        let set = client.put_object_lock_configuration().bucket(LOCKED).object_lock_configuration(rule.build());
        set.send().await.map_err(|error| self.failed("lock", &error))?;
        // The cluster itself wants to remove them, all the time: a day of such a rule is short in a test.
        let after = NoncurrentVersionExpiration::builder().noncurrent_days(1).build();
        let rule = LifecycleRule::builder().id("all").status(ExpirationStatus::Enabled);
        let all = LifecycleRuleFilter::builder().prefix("").build();
        let rule = rule.filter(all).noncurrent_version_expiration(after).build();
        let rule = rule.map_err(|error| self.wrong(format!("no rule: {error}")))?;
        let rules = BucketLifecycleConfiguration::builder().rules(rule).build();
        let rules = rules.map_err(|error| self.wrong(format!("no rules: {error}")))?;
        let set = client.put_bucket_lifecycle_configuration().bucket(LOCKED).lifecycle_configuration(rules);
        set.send().await.map(drop).map_err(|error| self.failed("lifecycle", &error))
    }

    fn wrong(&self, what: String) -> Failed {
        self.shared.history.wrong(what);
        Failed
    }

    /// One request of one of the two buckets.
    pub(super) async fn use_versions(&mut self) -> Result<(), Failed> {
        let bucket = [VERSIONED, LOCKED][usize::from(self.random.below(2) == 1)];
        let key = format!("hot/{:02}", self.random.below(KEYS));
        match self.random.below(100) {
            0..=31 => self.put_version(bucket, &key).await,
            32..=39 => self.mark_deleted(bucket, &key).await,
            40..=54 if bucket == LOCKED => self.attack(&key).await,
            40..=54 => self.remove_version(&key).await,
            55..=69 => self.read_register(&name_of(bucket, &key)).await,
            70..=91 => self.read_some_version(bucket, &key).await,
            _ => self.list_versions(bucket).await,
        }
    }

    async fn put_version(&mut self, bucket: &str, key: &str) -> Result<(), Failed> {
        let len = self.length();
        let content = self.shared.content(len, false);
        let name = name_of(bucket, key);
        let ticket = self.shared.history.begin(&name, Act::Put(content.id));
        let put = self.client().put_object().bucket(bucket).key(key).metadata("content", content.id.to_string());
        let sent = put.body(ByteStream::from(content.bytes())).send().await;
        let id = sent.as_ref().ok().and_then(|put| put.version_id()).map(str::to_owned);
        self.changed(&ticket, "put version", sent)?;
        match id {
            Some(id) => self.shared.history.version_made(&ticket, &id, content.id),
            None => return Err(self.wrong(format!("{name}: a put made no version"))),
        }
        Ok(())
    }

    /// A deletion that says no version hides what there is.
    async fn mark_deleted(&mut self, bucket: &str, key: &str) -> Result<(), Failed> {
        let ticket = self.shared.history.begin(&name_of(bucket, key), Act::Delete);
        let sent = self.client().delete_object().bucket(bucket).key(key).send().await;
        if let Ok(deleted) = &sent
            && (deleted.delete_marker() != Some(true) || deleted.version_id().is_none())
        {
            return Err(self.wrong(format!("{bucket}|{key}: a deletion without a delete marker: {deleted:?}")));
        }
        self.changed(&ticket, "delete", sent)
    }

    /// Removes a version that the key does not show, by one request or by that for many.
    async fn remove_version(&mut self, key: &str) -> Result<(), Failed> {
        let removable = self.shared.history.removable(&name_of(VERSIONED, key));
        let Some(version) = self.one_of(&removable) else { return Ok(()) };
        let ticket = self.shared.history.begin(&format!("{VERSIONED}|{key}|{}", version.id), Act::Delete);
        if self.random.below(2) == 0 {
            let remove = self.client().delete_object().bucket(VERSIONED).key(key).version_id(&version.id);
            return self.changed(&ticket, "remove version", remove.send().await);
        }
        let object = ObjectIdentifier::builder().key(key).version_id(&version.id).build();
        let object = object.map_err(|error| self.wrong(format!("no name: {error}")))?;
        let many = Delete::builder().objects(object).build();
        let many = many.map_err(|error| self.wrong(format!("no names: {error}")))?;
        let sent = self.client().delete_objects().bucket(VERSIONED).delete(many).send().await;
        match sent {
            Ok(done) if !done.errors().is_empty() => {
                self.shared.history.failed(format!("remove versions: {:?}", done.errors()[0].code()));
                Err(Failed)
            }
            sent => self.changed(&ticket, "remove versions", sent),
        }
    }

    /// Asks for what must never be granted: the end of a locked version.
    async fn attack(&mut self, key: &str) -> Result<(), Failed> {
        let all = self.shared.history.versions(&name_of(LOCKED, key));
        let Some(version) = self.one_of(&all) else { return Ok(()) };
        let (client, what) = (self.client(), self.random.below(3));
        let (what, refused) = match what {
            0 => {
                let remove = client.delete_object().bucket(LOCKED).key(key).version_id(&version.id);
                ("remove", self.denied(remove.send().await))
            }
            1 => {
                let remove = client.delete_object().bucket(LOCKED).key(key).version_id(&version.id);
                ("bypass", self.denied(remove.bypass_governance_retention(true).send().await))
            }
            _ => {
                let soon = DateTime::from(SystemTime::now() + Duration::from_secs(3600));
                let of = ObjectLockRetention::builder().mode(ObjectLockRetentionMode::Compliance);
                let shorter = of.retain_until_date(soon).build();
                let shorten = client.put_object_retention().bucket(LOCKED).key(key).version_id(&version.id);
                ("shorten", self.denied(shorten.retention(shorter).bypass_governance_retention(true).send().await))
            }
        };
        match refused {
            Some(true) => Ok(()),
            Some(false) => Err(self.wrong(format!("{LOCKED}|{key}|{}: {what} was granted", version.id))),
            None => Err(Failed),
        }
    }

    /// Asks for the end of every version that is locked, until each was refused. What was granted is noted as wrong.
    pub async fn locks_hold(&mut self, within: Duration) -> Result<usize, Failed> {
        let (begun, mut asked) = (Instant::now(), 0);
        for key in (0..KEYS).map(|number| format!("hot/{number:02}")) {
            for version in self.shared.history.versions(&name_of(LOCKED, &key)) {
                loop {
                    let remove = self.client().delete_object().bucket(LOCKED).key(&key).version_id(&version.id);
                    match self.denied(remove.bypass_governance_retention(true).send().await) {
                        Some(true) => break,
                        Some(false) => return Err(self.wrong(format!("{LOCKED}|{key}|{} was removed", version.id))),
                        None if begun.elapsed() > within => return Err(Failed),
                        None => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
                asked += 1;
            }
        }
        Ok(asked)
    }

    /// Whether it was refused as something that is locked; `None`: it failed.
    fn denied<T, E>(&self, sent: Result<T, aws_sdk_s3::error::SdkError<E>>) -> Option<bool>
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::fmt::Debug,
    {
        match sent {
            Ok(_) => Some(false),
            Err(error) if refused(&error).is_some_and(|answer| answer.code == "AccessDenied") => Some(true),
            Err(error) => {
                let Failed = self.failed("attack", &error);
                None
            }
        }
    }

    fn one_of(&mut self, versions: &[Version]) -> Option<Version> {
        let at = usize::try_from(self.random.below(versions.len() as u64)).ok()?;
        versions.get(at).cloned()
    }

    async fn read_some_version(&mut self, bucket: &str, key: &str) -> Result<(), Failed> {
        let all = self.shared.history.versions(&name_of(bucket, key));
        match self.one_of(&all) {
            Some(version) => self.read_register(&format!("{bucket}|{key}|{}", version.id)).await,
            None => Ok(()),
        }
    }

    /// Reads what a register is of.
    pub(super) async fn read_register(&mut self, name: &str) -> Result<(), Failed> {
        let Some(register) = Register::of(name) else { return Ok(()) };
        let history = &self.shared.history;
        let begun = history.tick();
        let get = self.client().get_object().bucket(register.bucket).key(register.key);
        let got = match get.set_version_id(register.version.map(str::to_owned)).send().await {
            Ok(got) => got,
            Err(error) => {
                let code = refused(&error).map(|refused| refused.code).unwrap_or_default();
                if code == if register.version.is_some() { "NoSuchVersion" } else { "NoSuchKey" } {
                    history.seen(name, begun, None);
                    return Ok(());
                }
                return Err(self.failed("get version", &error));
            }
        };
        let id = got.version_id().map(str::to_owned);
        let content = self.body_of(name, got).await?;
        let Some(content) = content else { return Ok(()) };
        history.seen(name, begun, Some(content.id));
        match (id, register.version) {
            (Some(id), None) => history.version_seen(name, &id, begun, content.id),
            (Some(id), Some(asked)) if id == asked => {}
            (id, _) => history.wrong(format!("{name}: the answer says version {id:?}")),
        }
        Ok(())
    }

    /// The content that came, if it is what was put; what is wrong with it is noted.
    async fn body_of(&self, name: &str, got: GetObjectOutput) -> Result<Option<Content>, Failed> {
        let history = &self.shared.history;
        let id = got.metadata().and_then(|named| named.get("content")).and_then(|id| id.parse().ok());
        let Some(content) = id.and_then(|id| history.content_of(id)) else {
            history.wrong(format!("{name}: user metadata that nobody sent: {:?}", got.metadata()));
            return Ok(None);
        };
        // The client's own limit ends with the head of the answer.
        let Ok(Ok(body)) = tokio::time::timeout(TIME, got.body.collect()).await else {
            history.failed("get version: the body broke off".to_owned());
            return Err(Failed);
        };
        let body = body.into_bytes();
        if body != content.bytes() {
            history.wrong(format!("{name}: {} bytes that are not those of {content:?}", body.len()));
            return Ok(None);
        }
        Ok(Some(content))
    }

    /// Lists all versions, which is an observation of each that is known, and of each key.
    async fn list_versions(&mut self, bucket: &str) -> Result<(), Failed> {
        let history = &self.shared.history;
        let known = history.below(&name_of(bucket, ""));
        let begun = history.tick();
        let listed = self.listed_versions(bucket).await?;
        let mut seen = BTreeMap::new();
        for ((key, id), (version, is_latest)) in &listed {
            let name = name_of(bucket, key);
            let content = version.as_ref().map(|(size, _)| history.of_len(*size));
            if content == Some(None) {
                history.wrong(format!("{name}|{id} is listed with {version:?}, which nobody wrote"));
                continue;
            }
            let content = content.flatten();
            if let Some(content) = content {
                history.version_seen(&name, id, begun, content);
            }
            seen.insert(format!("{name}|{id}"), content);
            if *is_latest && seen.insert(name.clone(), content).is_some() {
                history.wrong(format!("{name} has two latest versions"));
            }
        }
        for name in known {
            let is_version = Register::of(&name).is_some_and(|register| register.version.is_some());
            match seen.get(&name) {
                // Noted above.
                Some(Some(_)) if is_version => {}
                content => history.seen(&name, begun, content.copied().flatten()),
            }
        }
        Ok(())
    }

    /// Every version and every delete marker of a bucket. Pages are of one moment each, and so is what is said of one key.
    pub async fn listed_versions(&self, bucket: &str) -> Result<ListedVersions, Failed> {
        let mut listed = BTreeMap::new();
        let (mut key, mut version) = (None, None);
        loop {
            let page = self.client().list_object_versions().bucket(bucket);
            let page = page.set_key_marker(key).set_version_id_marker(version).send().await;
            let page = page.map_err(|error| self.failed("list versions", &error))?;
            let name = |key: Option<&str>, id: Option<&str>| {
                (key.unwrap_or_default().to_owned(), id.unwrap_or_default().to_owned())
            };
            for object in page.versions() {
                let size = object.size().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
                let of = (size, object.e_tag().unwrap_or_default().to_owned());
                let is_latest = object.is_latest() == Some(true);
                listed.insert(name(object.key(), object.version_id()), (Some(of), is_latest));
            }
            for marker in page.delete_markers() {
                let is_latest = marker.is_latest() == Some(true);
                listed.insert(name(marker.key(), marker.version_id()), (None, is_latest));
            }
            if page.is_truncated() != Some(true) {
                return Ok(listed);
            }
            key = page.next_key_marker().map(str::to_owned);
            version = page.next_version_id_marker().map(str::to_owned);
        }
    }
}
