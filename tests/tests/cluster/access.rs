//! Who may do what, which keys encrypt, and what is locked are the cluster's: the same through every gateway, under whichever
//! metadata node leads, also when the one that was told is dead.

use super::seen::Seen;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::create_bucket::{CreateBucketError, CreateBucketOutput};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ObjectLockMode, ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration,
    ServerSideEncryptionRule,
};
use bytes::Bytes;
use std::cell::Cell;
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime};
use tests::cluster::site::{Layout, PATIENCE, Site};
use tests::process::{ACCESS_KEY, SECRET_KEY};
use tests::s3::{client_with, document, refused};

const LAYOUT: Layout = Layout { nodes: 6, drives: 1, metadata: 3, gateways: 2 };
const BUCKET: &str = "records";
const DEED: &str = "deed";
const KEY: &str = "records-2026";
const USER: &str = "clerk";
const POLICY: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject"], "Resource": "arn:aws:s3:::records/*"},
    {"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::records/sealed/*"}]}"#;

/// Repeats a request until it is answered as it should be: nobody may lead at first, and a gateway may remember for a moment.
pub(super) async fn until<T: Debug, E: ProvideErrorMetadata + Debug>(
    what: &str,
    code: Option<&str>,
    ask: impl AsyncFn() -> Result<T, SdkError<E>>,
) -> Option<T> {
    let begun = Instant::now();
    loop {
        let answer = ask().await;
        let said = answer.as_ref().err().map(|error| refused(error).map(|refused| refused.code).unwrap_or_default());
        if said.as_deref() == code {
            return answer.ok();
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {answer:?} where {code:?} should be");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Makes a bucket. Who leads may change at any time on a busy machine, and an attempt that nobody answered may have made it.
pub(super) async fn make_bucket(make: impl AsyncFn() -> Result<CreateBucketOutput, SdkError<CreateBucketError>>) {
    let begun = Instant::now();
    while let Err(error) = make().await {
        if refused(&error).is_some_and(|refused| refused.code == "BucketAlreadyOwnedByYou") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no bucket: {error:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the archive holds, and who may do what with it.
struct Archive<'a> {
    site: &'a Site,
    owner: Vec<Client>,
    clerk: Vec<Client>,
    /// Versions of the deed, oldest first, and their bytes.
    deeds: Vec<(String, Bytes)>,
    /// Attempts at a deposit that failed: who led may have carried them out all the same.
    doubtful: usize,
}

impl Archive<'_> {
    async fn founded(site: &Site) -> Archive<'_> {
        let seen = Seen(site);
        seen.changes(&["user", "add", USER]).await;
        let policy = site.path("policy.json");
        std::fs::write(&policy, POLICY).unwrap();
        seen.changes(&["policy", "put", "clerks", &policy]).await;
        seen.changes(&["user", "attach", USER, "clerks"]).await;
        let made = seen.changes(&["key", "add", "--user", USER]).await;
        let key = |name: &str| made["AccessKey"][name].as_str().unwrap().to_owned();
        let (access, secret) = (key("AccessKeyId"), key("SecretAccessKey"));
        seen.changes(&["kms", "create", KEY, "--account", "admin"]).await;
        let clients = |access: &str, secret: &str| {
            let client = |endpoint: String| client_with(&endpoint, access, secret, Duration::from_secs(60));
            site.endpoints().into_iter().map(client).collect::<Vec<Client>>()
        };
        let (owner, clerk) = (clients(ACCESS_KEY, SECRET_KEY), clients(&access, &secret));
        make_bucket(async || owner[0].create_bucket().bucket(BUCKET).object_lock_enabled_for_bucket(true).send().await)
            .await;
        let by_default = ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::AwsKms);
        let by_default = by_default.kms_master_key_id(KEY).build().unwrap();
        let rule = ServerSideEncryptionRule::builder().apply_server_side_encryption_by_default(by_default).build();
        let rules = ServerSideEncryptionConfiguration::builder().rules(rule).build().unwrap();
        let set = async || {
            let set = owner[1].put_bucket_encryption().bucket(BUCKET);
            set.server_side_encryption_configuration(rules.clone()).send().await
        };
        until("the bucket's key", None, set).await;
        Archive { site, owner, clerk, deeds: Vec::new(), doubtful: 0 }
    }

    /// A version that rides in the journal, or one that goes into a stripe, locked by the owner through one gateway.
    async fn deposit(&mut self, gateway: usize, len: usize) {
        let body = document(self.deeds.len() as u64, len);
        let until_then = DateTime::from(SystemTime::now() + Duration::from_secs(24 * 3600));
        let attempts = Cell::new(0);
        let put = until("a deposit", None, async || {
            attempts.set(attempts.get() + 1);
            let put = self.owner[gateway].put_object().bucket(BUCKET).key(DEED).body(ByteStream::from(body.clone()));
            let put = put.object_lock_mode(ObjectLockMode::Compliance);
            put.object_lock_retain_until_date(until_then).send().await
        });
        let put = put.await.unwrap();
        self.doubtful += attempts.get() - 1;
        assert_eq!(put.ssekms_key_id(), Some(KEY), "the bucket's default");
        self.deeds.push((put.version_id().unwrap().to_owned(), body));
    }

    /// Everything that was settled, through each of the gateways.
    async fn holds(&self, when: &str) {
        for (owner, clerk) in self.owner.iter().zip(&self.clerk) {
            for (version, body) in &self.deeds {
                let got = until(when, None, async || {
                    clerk.get_object().bucket(BUCKET).key(DEED).version_id(version).send().await
                });
                let got = got.await.unwrap();
                assert_eq!(got.server_side_encryption(), Some(&ServerSideEncryption::AwsKms), "{when}");
                assert!(got.body.collect().await.unwrap().into_bytes() == *body, "{when}: version {version}");
                let locked = async || {
                    let remove = owner.delete_object().bucket(BUCKET).key(DEED).version_id(version);
                    remove.bypass_governance_retention(true).send().await
                };
                until(when, Some("AccessDenied"), locked).await;
            }
            let denied = Some("AccessDenied");
            let body = || ByteStream::from_static(b"by a clerk");
            until(when, None, async || clerk.put_object().bucket(BUCKET).key("note").body(body()).send().await).await;
            let sealed = async || clerk.put_object().bucket(BUCKET).key("sealed/note").body(body()).send().await;
            until(when, denied, sealed).await;
            until(when, denied, async || clerk.delete_object().bucket(BUCKET).key("note").send().await).await;
            until(when, denied, async || clerk.list_objects_v2().bucket(BUCKET).send().await).await;
            self.versions_are_all_there(owner, when).await;
        }
    }

    async fn versions_are_all_there(&self, owner: &Client, when: &str) {
        let list = async || owner.list_object_versions().bucket(BUCKET).prefix(DEED).send().await;
        let listed = until(when, None, list).await.unwrap();
        let ids: Vec<&str> = listed.versions().iter().rev().filter_map(|version| version.version_id()).collect();
        let deeds: Vec<&str> = self.deeds.iter().map(|(id, _)| id.as_str()).collect();
        let (known, others): (Vec<&str>, Vec<&str>) = ids.iter().partition(|id| deeds.contains(id));
        assert!(known == deeds && others.len() <= self.doubtful, "{when}: {ids:?}, {deeds:?}, {}", self.doubtful);
    }

    /// The clerk's reads are answered so, through each of the gateways.
    async fn clerk_is_told(&self, code: Option<&str>) {
        for clerk in &self.clerk {
            until("a clerk's read", code, async || clerk.get_object().bucket(BUCKET).key(DEED).send().await).await;
        }
    }

    /// Kills the leader; returns its name.
    async fn leader_dies(&self) -> String {
        let leader = self.site.leader().await;
        self.site.supervisor.kill(&leader);
        leader
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_keys_versions_and_locks_hold_through_every_gateway_and_under_every_leader() {
    let site = Site::start(LAYOUT).await.unwrap();
    let mut archive = Archive::founded(&site).await;
    archive.deposit(0, 2_000).await;
    archive.deposit(1, 400_000).await;
    archive.holds("at first").await;

    let dead = archive.leader_dies().await;
    archive.deposit(1, 3_000).await;
    archive.holds("under another leader").await;

    // What is taken away now is taken away through both gateways, and comes back so.
    let seen = Seen(&site);
    seen.changes(&["kms", "disable", KEY]).await;
    archive.clerk_is_told(Some("KMS.DisabledException")).await;
    seen.changes(&["kms", "enable", KEY]).await;
    archive.clerk_is_told(None).await;
    seen.changes(&["user", "detach", USER, "clerks"]).await;
    archive.clerk_is_told(Some("AccessDenied")).await;
    seen.changes(&["user", "attach", USER, "clerks"]).await;
    archive.holds("after it was taken away and given back").await;
    seen.changes(&["user", "detach", USER, "clerks"]).await;

    site.supervisor.start(&dead);
    site.supervisor.ready(&dead, PATIENCE).await.unwrap();
    archive.leader_dies().await;
    archive.clerk_is_told(Some("AccessDenied")).await;
    seen.changes(&["user", "attach", USER, "clerks"]).await;
    archive.holds("under a third leader").await;
}
