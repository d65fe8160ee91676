//! A gateway of this release under a leader of the one before versions, as in the middle of an upgrade.

use super::*;
use crate::command::{BucketChange, Refusal};
use crate::iam::{IamCall, IamFailure, Signing};
use crate::index::META;
use crate::keys::{Purpose, Secret};
use codec::effect::ConfigKind;
use codec::level::FormatLevel;
use storage_node::kv::{Kv, KvBatch};
use storage_node::level::CurrentLevel;

/// The calls that came with versions.
const LATER: [Name; 7] = [
    Name::Version,
    Name::NewestVersions,
    Name::BucketConfig,
    Name::BucketConfigs,
    Name::Signer,
    Name::Iam,
    Name::AccountByEmail,
];

/// Knows the calls of the release before, and no other.
struct Before(Service);

#[async_trait]
impl Handler for Before {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn allows(&self, call: &str, role: Role) -> Option<bool> {
        if LATER.iter().any(|later| later.as_str() == call) { None } else { self.0.allows(call, role) }
    }

    async fn answer(&self, call: Call) -> Result<Bytes, Status> {
        self.0.answer(call).await
    }
}

/// A site whose store was begun before there were levels.
async fn site_before() -> Site {
    let mut world = World::new(4, "2+1");
    world.serving().await.shutdown().await;
    let mut batch = KvBatch::new();
    batch.delete(META, b"level".to_vec());
    world.home.kv.lock().unwrap().write(batch).unwrap();
    world.config.level = CurrentLevel::default();
    let meta = Arc::new(world.serving().await);
    Site { world, meta, ca: ClusterCa::create(CLUSTER).unwrap() }
}

/// Half of the gateways are of this release for as long as an upgrade takes, and nothing that they served may fail meanwhile.
#[test]
fn under_a_leader_of_the_release_before_everything_of_that_release_is_served() {
    test(async {
        let site = site_before().await;
        let switch = Arc::new(Switch(Mutex::new(Ok(site.meta.clone()))));
        let server = site.serve("m1", Arc::new(Before(Service::new(switch)))).await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        assert_eq!(gateway.level(), FormatLevel::BEFORE);
        let wrapped_secret = site.meta.keys().wrap_account("alice", &Secret::new("secret".into())).unwrap();
        let row = AccountRow { id: "alice".into(), access_key: "AK".into(), wrapped_secret, ..AccountRow::default() };
        site.meta.commit(site.meta.epoch(), Command::PutAccount(row)).await.unwrap();

        let bucket = bucket(&gateway).await;
        put_inline(&gateway, bucket, "k", &noise(1, 100)).await.unwrap();
        let current = gateway.current_version(bucket, "k").await.unwrap().unwrap();
        let named = |id: &'static str| gateway.version(bucket, "k", id);
        assert_eq!(named("").await.unwrap().as_ref(), Some(&current), "the null version");
        assert_eq!(named("2a").await.unwrap(), None);
        assert_eq!(gateway.newest_versions(bucket, "k", 5).await.unwrap(), [current]);
        assert_eq!(gateway.bucket_config(bucket, ConfigKind::Policy, "").await.unwrap(), None);
        assert_eq!(gateway.bucket_configs(bucket, ConfigKind::Inventory).await.unwrap(), []);
        assert_eq!(gateway.account_by_email("alice@example.org").await.unwrap(), None);
        assert!(matches!(gateway.signer("AK", None).await.unwrap(), Signing::Known(_)));
        assert!(matches!(gateway.signer("AK", Some("token")).await.unwrap(), Signing::InvalidToken));
        assert!(matches!(gateway.signer("nobody", None).await.unwrap(), Signing::Unknown));
        read_back(&gateway, bucket).await;
        what_came_later_is_refused(&gateway, bucket).await;
    });
}

async fn read_back(gateway: &RemoteMetadata, bucket: BucketId) {
    let chunk = store(gateway, &noise(2, 5000)).await;
    let put = put(bucket, "large", &chunk, false, Condition::None);
    gateway.commit(gateway.epoch(), put).await.unwrap();
    assert_eq!(read(gateway, chunk.id).await, noise(2, 5000));
    let (key, condition) = ("large".to_owned(), Condition::None);
    gateway.commit(gateway.epoch(), Command::DeleteObject { bucket, key, condition }).await.unwrap();
    assert_eq!(gateway.current_version(bucket, "large").await.unwrap(), None);
}

/// The leader would carry out what it knows of it, and drop the rest.
async fn what_came_later_is_refused(gateway: &RemoteMetadata, bucket: BucketId) {
    let needs = Refusal::NeedsLevel { needs: FormatLevel::VERSIONS, at: FormatLevel::BEFORE };
    let refused = |error: CommitError| matches!(error, CommitError::Refused(refusal) if refusal == needs);
    let change = BucketChange::Versioning(true);
    assert!(refused(gateway.commit(gateway.epoch(), Command::ChangeBucket { bucket, change }).await.unwrap_err()));
    let (chunk, _) = chunk(gateway, &noise(3, 100)).await;
    let Command::CommitObject(mut archived) = put(bucket, "cold", &chunk, true, Condition::None) else { panic!() };
    archived.meta.storage_class = "GLACIER".to_owned();
    assert!(refused(gateway.commit(gateway.epoch(), Command::CommitObject(archived)).await.unwrap_err()));
    assert!(refused(gateway.domain("alice", &Purpose::Customer).await.unwrap_err()));
    let call = IamCall {
        access_key: "AK".to_owned(),
        token: None,
        action: "CreateUser".to_owned(),
        parameters: Vec::new(),
        known: Vec::new(),
    };
    let Err(IamFailure::Commit(error)) = gateway.iam(call).await else { panic!("a user was made") };
    assert!(refused(error));
}
