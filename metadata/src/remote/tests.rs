//! Gateways over loopback, with metadata on fault disks at the other end.
#![allow(clippy::unwrap_used)]

mod before;

use super::*;
use crate::client::{MetadataClient, StripeFrame};
use crate::command::{
    Command, CommitObject, Condition, CreateBucket, CreateUpload, EPOCH_HOLD_MS, NewChunk, NewFrame, Outcome,
    REQUEST_LIFE_MS, Refusal,
};
use crate::index::{self, Overlay};
use crate::listing::{ListRequest, PartsRequest, UploadsRequest, VersionsRequest};
use crate::raft::{Member, Peer};
use crate::replica::{Leading, NotLeading};
use crate::rpc::{Name, SERVICE, Service};
use crate::service::Metadata;
use crate::start::tests::world::{World, noise};
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{AccountRow, ClockTick, Content, ObjectMeta, StripeRow};
use codec::frame::{Expect, FIRST_VERSION, FrameSpec, chunk_id, decode, encode};
use codec::id::{BucketId, ChunkId, ClusterId, StripeId};
use codec::manifest::{Entry, Manifest};
use codec::stripe::{StripeClass, StripeDescriptor};
use std::sync::atomic::{AtomicBool, Ordering};
use storage_node::rpc::{Call, Handler, RpcConfig, Server, Status};
use storage_node::service::identity::{Identity, Role};
use storage_node::service::issue::ClusterCa;
use tokio::net::TcpListener;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that leads when a test says so.
struct Switch(Mutex<Result<Arc<Metadata>, Option<Peer>>>);

impl Switch {
    fn set(&self, to: Result<Arc<Metadata>, Option<Peer>>) {
        *self.0.lock().unwrap() = to;
    }
}

#[async_trait]
impl Leading for Switch {
    fn serving(&self) -> Result<Arc<Metadata>, NotLeading> {
        self.0.lock().unwrap().clone().map_err(|leader| NotLeading { leader })
    }

    async fn linearizable(&self) -> Result<(), NotLeading> {
        self.serving().map(drop)
    }

    fn member(&self) -> Option<Arc<Member>> {
        None
    }
}

/// A node that, once told so, never answers a commit, after or before it was carried out.
struct Hanging {
    service: Service,
    hangs: AtomicBool,
    carries_out: bool,
    /// A commit hangs.
    met: AtomicBool,
}

#[async_trait]
impl Handler for Hanging {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn allows(&self, call: &str, role: Role) -> Option<bool> {
        self.service.allows(call, role)
    }

    async fn answer(&self, call: Call) -> Result<Bytes, Status> {
        if !self.hangs.load(Ordering::SeqCst) || call.name != Name::Commit.as_str() {
            return self.service.answer(call).await;
        }
        if self.carries_out {
            self.service.answer(call).await?;
        }
        self.met.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

struct Site {
    world: World,
    meta: Arc<Metadata>,
    ca: ClusterCa,
}

impl Site {
    async fn new() -> Site {
        let world = World::new(4, "2+1");
        let meta = Arc::new(world.serving().await);
        Site { world, meta, ca: ClusterCa::create(CLUSTER).unwrap() }
    }

    fn credentials(&self, role: Role, name: &str) -> Arc<Credentials> {
        let identity = Identity { cluster: CLUSTER, role, name: NodeName::new(name).unwrap() };
        let issued = self.ca.issue(&identity, YEAR).unwrap();
        Arc::new(Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap())
    }

    async fn serve(&self, name: &str, handler: Arc<dyn Handler>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let credentials = self.credentials(Role::Metadata, name);
        Server::start(listener, &credentials, vec![handler], RpcConfig::default()).unwrap()
    }

    /// A node that leads.
    async fn leading(&self, name: &str) -> (Arc<Switch>, Server) {
        let switch = Arc::new(Switch(Mutex::new(Ok(self.meta.clone()))));
        let server = self.serve(name, Arc::new(Service::new(switch.clone()))).await;
        (switch, server)
    }

    async fn gateway(&self, name: &str, peers: &[(&str, &Server)]) -> RemoteMetadata {
        let peers = peers.iter().map(|(name, server)| at(name, server)).collect();
        let refresh_every = Duration::from_millis(50);
        let config = RemoteMetadataConfig { refresh_every, ..RemoteMetadataConfig::new(peers) };
        let (credentials, nodes) = (self.credentials(Role::Gateway, name), self.meta.node().clone());
        RemoteMetadata::connect(credentials, nodes, config).await.unwrap()
    }

    /// Lets time pass for the steady count.
    async fn pass(&self, ms: u64) {
        for ms in [index::reclaim::TICK_STEP_MS, ms] {
            let last = index::clock(&Overlay::new(&**self.meta.kv())).unwrap().unwrap_or_default();
            let (retention_ms, steady_ms) = (last.retention_ms + ms, last.steady_ms + ms);
            let tick = Command::ClockTick(ClockTick { retention_ms, steady_ms, ..last });
            self.meta.commit(self.meta.epoch(), tick).await.unwrap();
        }
    }
}

fn at(name: &str, server: &Server) -> NodeAddress {
    NodeAddress { name: NodeName::new(name).unwrap(), address: server.address().to_string() }
}

fn peer(name: &str, server: &Server) -> Peer {
    Peer { name: name.to_owned(), address: server.address().to_string() }
}

fn create_bucket() -> Command {
    Command::CreateBucket(CreateBucket {
        name: "bucket".to_owned(),
        owner: "alice".to_owned(),
        location: String::new(),
        encrypt: false,
        zstd_level: 0,
        now_ms: 1,
        with: Default::default(),
    })
}

async fn bucket(client: &dyn MetadataClient) -> BucketId {
    match client.commit(client.epoch(), create_bucket()).await.unwrap() {
        Outcome::BucketCreated(row) => row.bucket_id(),
        other => panic!("{other:?}"),
    }
}

/// A chunk as a gateway makes it, and its frame.
async fn chunk(client: &dyn MetadataClient, bytes: &[u8]) -> (NewChunk, Bytes) {
    let domain = client.domain("alice", &crate::keys::Purpose::Plain).await.unwrap();
    let id = chunk_id(&domain.chunk_key, bytes);
    let frame: Bytes =
        encode(&FrameSpec { version: FIRST_VERSION, domain: domain.id, id, level: 1, data_key: None }, bytes)
            .unwrap()
            .into();
    let chunk = NewChunk {
        id,
        domain: domain.id,
        plain_len: bytes.len() as u32,
        frame: NewFrame::Inline(frame.clone()),
        is_manifest: false,
        children: Vec::new(),
    };
    (chunk, frame)
}

fn content(chunk: &NewChunk, etag: &str) -> Content {
    let len = u64::from(chunk.plain_len);
    let manifest = Manifest::new(vec![Entry { id: chunk.id, len, leaf: true }]).unwrap();
    let (manifest, domain) = (manifest.encode(), chunk.domain.0);
    Content { size: len, etag: etag.to_owned(), domain, manifest, ..Content::default() }
}

fn put(bucket: BucketId, key: &str, chunk: &NewChunk, inline: bool, condition: Condition) -> Command {
    Command::CommitObject(CommitObject {
        bucket,
        key: key.to_owned(),
        condition,
        meta: ObjectMeta::default(),
        content: content(chunk, key),
        chunks: if inline { vec![chunk.clone()] } else { Vec::new() },
        now_ms: 1,
        attached: Default::default(),
    })
}

async fn put_inline(client: &dyn MetadataClient, bucket: BucketId, key: &str, bytes: &[u8]) -> Result<(), CommitError> {
    let (chunk, _) = chunk(client, bytes).await;
    client.commit(client.epoch(), put(bucket, key, &chunk, true, Condition::None)).await.map(drop)
}

async fn store(client: &dyn MetadataClient, bytes: &[u8]) -> NewChunk {
    let (chunk, frame) = chunk(client, bytes).await;
    let NewChunk { id, domain, plain_len, .. } = chunk;
    let frame = StripeFrame { id, domain, plain_len, is_manifest: false, children: Vec::new(), frame };
    client.store_stripe(client.epoch(), vec![frame]).await.unwrap();
    chunk
}

async fn read(client: &dyn MetadataClient, id: ChunkId) -> Vec<u8> {
    let located = client.locate(&[id]).await.unwrap().pop().unwrap().unwrap();
    let domain = client.domain_by_id(located.domain).await.unwrap();
    let frame = client.read_frame(&located).await.unwrap();
    let (plain_len, chunk_key) = (located.plain_len, &domain.chunk_key);
    decode(&frame, &Expect { id, domain: domain.id, plain_len, chunk_key, data_key: None }).unwrap()
}

fn test(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, work).await.expect("the test hangs") });
}

/// Waits until something holds.
async fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_gateway_does_over_the_wire_what_metadata_does_itself() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        assert!(gateway.condition().is_ready(), "{:?}", gateway.condition());
        let bucket = bucket(&gateway).await;
        let again = gateway.commit(gateway.epoch(), create_bucket()).await;
        assert!(matches!(again, Err(CommitError::Refused(Refusal::BucketOwnedByYou))), "{again:?}");
        assert_eq!(gateway.bucket("bucket").await.unwrap().unwrap().bucket_id(), bucket);
        assert_eq!(gateway.bucket("none").await.unwrap(), None);
        assert_eq!(gateway.buckets("alice").await.unwrap().len(), 1);

        // Inline, in a stripe, and as what is there already.
        put_inline(&gateway, bucket, "inline", &noise(1, 3000)).await.unwrap();
        let striped = store(&gateway, &noise(2, 60_000)).await;
        let commit = put(bucket, "striped", &striped, false, Condition::None);
        let Outcome::Committed(row, _) = gateway.commit(gateway.epoch(), commit).await.unwrap() else { panic!() };
        assert_eq!(gateway.current_version(bucket, "striped").await.unwrap(), Some(*row));
        assert_eq!(gateway.current_version(bucket, "none").await.unwrap(), None);
        let (inline, _) = chunk(&gateway, &noise(1, 3000)).await;
        let asked = [inline.id, striped.id, ChunkId([9; 32])];
        let hits = gateway.find_chunks(striped.domain, &asked).await.unwrap();
        assert_eq!(hits.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        let located = gateway.locate(&asked).await.unwrap();
        assert_eq!(located[1].as_ref().unwrap().place.stripe().unwrap().epoch, gateway.epoch());
        assert!(located[2].is_none() && located[0].as_ref().unwrap().stripe.is_none());
        assert_eq!(read(&gateway, inline.id).await, noise(1, 3000));
        assert_eq!(read(&gateway, striped.id).await, noise(2, 60_000));
        site.meta.seal_now().await.unwrap();
        let moved = located[0].clone().unwrap();
        assert!(gateway.read_frame(&moved).await.is_ok(), "a seal has moved it since");
        let taken =
            gateway.commit(gateway.epoch(), put(bucket, "inline", &inline, true, Condition::IfNoneMatchAny)).await;
        assert!(matches!(taken, Err(CommitError::Refused(Refusal::PreconditionFailed))), "{taken:?}");

        let page = gateway.list(ListRequest { bucket, max: 1, ..ListRequest::default() }).await.unwrap();
        assert_eq!((page.objects.len(), page.next.as_deref()), (1, Some("inline")));
        let versions = gateway.list_versions(VersionsRequest { bucket, max: 9, ..VersionsRequest::default() }).await;
        assert_eq!(versions.unwrap().versions.len(), 2);

        let create = Command::CreateUpload(CreateUpload {
            bucket,
            key: "parts".into(),
            nonce: [1; 16],
            initiator: "alice".into(),
            meta: ObjectMeta::default(),
            checksum: 0,
            full_object_checksum: false,
            domain: striped.domain,
            encrypted: false,
            now_ms: 1,
            attached: Default::default(),
            sealed: None,
        });
        let Outcome::UploadCreated(upload) = gateway.commit(gateway.epoch(), create).await.unwrap() else { panic!() };
        let part = Command::CommitPart {
            upload: upload.clone(),
            number: 3,
            content: content(&striped, "p"),
            chunks: Vec::new(),
            now_ms: 1,
        };
        gateway.commit(gateway.epoch(), part).await.unwrap();
        let parts = gateway.parts(&upload, &[2, 3]).await.unwrap();
        assert!(parts[0].is_none() && parts[1].as_ref().unwrap().number == 3);
        assert!(gateway.upload(&upload).await.unwrap().is_some());
        let page = gateway.list_parts(PartsRequest { upload: upload.clone(), after: 0, max: 9 }).await.unwrap();
        assert_eq!(page.unwrap().parts.len(), 1);
        let uploads = gateway.list_uploads(UploadsRequest { bucket, max: 9, ..UploadsRequest::default() }).await;
        assert_eq!(uploads.unwrap().uploads.len(), 1);
        gateway.commit(gateway.epoch(), Command::AbortUpload { upload: upload.clone() }).await.unwrap();
        assert!(gateway.list_parts(PartsRequest { upload, after: 0, max: 9 }).await.unwrap().is_none());
        let other = Condition::IfMatch("other".to_owned());
        let keys = [("inline", Condition::None), ("none", Condition::None), ("striped", other)];
        let keys = keys.map(|(key, condition)| (key.to_owned(), condition)).into();
        let many = gateway.commit(gateway.epoch(), Command::DeleteObjects { bucket, keys }).await.unwrap();
        assert_eq!(many, Outcome::DeletedMany(vec![Ok(true), Ok(false), Err(Refusal::PreconditionFailed)]));

        let status = gateway.status();
        assert_eq!((status.drives.len(), status.geometry), (4, site.meta.status().geometry));
        assert!(status.drives.iter().all(|drive| drive.state == "healthy"));
        assert_eq!(gateway.stripe_shape().unwrap(), site.meta.stripe_shape().unwrap());
    });
}

#[test]
fn an_account_and_the_keys_of_a_domain_come_and_what_they_are_wrapped_in_stays() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        let wrapped_secret =
            site.meta.keys().wrap_account("alice", &crate::keys::Secret::new("secret".into())).unwrap();
        let row = AccountRow {
            id: "alice".into(),
            name: "Alice".into(),
            access_key: "AK".into(),
            wrapped_secret,
            ..AccountRow::default()
        };
        site.meta.commit(site.meta.epoch(), Command::PutAccount(row.clone())).await.unwrap();
        let account = gateway.account_by_access_key("AK").await.unwrap().unwrap();
        assert_eq!((account.secret.expose(), account.row.name.as_str()), ("secret", "Alice"));
        assert!(account.row.wrapped_secret.is_empty());
        assert!(gateway.account("alice").await.unwrap().unwrap().wrapped_secret.is_empty());
        assert!(gateway.account_by_access_key("none").await.unwrap().is_none());
        for purpose in [crate::keys::Purpose::Plain, crate::keys::Purpose::Managed, crate::keys::Purpose::Customer] {
            let encrypted = purpose == crate::keys::Purpose::Managed;
            let (ours, theirs) = (gateway.domain("alice", &purpose).await, site.meta.domain("alice", &purpose).await);
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!((ours.id, &ours.account), (theirs.id, &theirs.account));
            assert_eq!(ours.chunk_key.expose(), theirs.chunk_key.expose());
            let key = |domain: &Domain| domain.data_key.as_ref().map(|key| key.expose().to_vec());
            assert_eq!((key(&ours).is_some(), key(&ours)), (encrypted, key(&theirs)));
        }
        let unknown = gateway.domain_by_id(DomainId(999)).await;
        assert!(matches!(unknown, Err(crate::client::LookupError::Unknown { .. })), "{unknown:?}");
        // An account that is dropped is known for no longer than a moment, also to who asks all the time.
        assert!(gateway.account_by_access_key("AK").await.unwrap().is_some());
        site.meta.commit(site.meta.epoch(), Command::DeleteAccount { id: "alice".into() }).await.unwrap();
        let dropped = Instant::now();
        while dropped.elapsed() < ACCOUNT_LIFE {
            gateway.account_by_access_key("AK").await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        assert!(gateway.account_by_access_key("AK").await.unwrap().is_none());
    });
}

/// The entry of a domain was lost, and that was accepted: what is stored in it nobody else could read.
#[test]
fn a_gateway_that_holds_the_keys_of_a_lost_domain_asks_for_it_again() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        let bucket = bucket(&gateway).await;
        let keys = &site.meta.keys().new_domain("alice", &crate::keys::Purpose::Plain).unwrap();
        let lost = site.meta.keys().unwrap_domain(&codec::effect::DomainRow { id: 999, ..keys.clone() }).unwrap();
        let lost = gateway.inner.know(Arc::new(lost), Instant::now());
        assert_eq!(gateway.domain("alice", &crate::keys::Purpose::Plain).await.unwrap().id, lost.id);
        let refused = put_inline(&gateway, bucket, "k", &noise(1, 100)).await;
        assert!(
            matches!(refused, Err(CommitError::Refused(Refusal::NoSuchDomain(id))) if id == lost.id),
            "{refused:?}"
        );
        put_inline(&gateway, bucket, "k", &noise(1, 100)).await.unwrap();
        assert_ne!(gateway.domain("alice", &crate::keys::Purpose::Plain).await.unwrap().id, lost.id);
        // A loss that is heard of is enough.
        gateway.inner.know(lost.clone(), Instant::now());
        let heard = |seen: &Seen| Session { lost: Lsn(7), ..seen.session.clone() };
        let seen = gateway.inner.seen();
        *gateway.inner.seen.write().unwrap() =
            Arc::new(Seen { session: heard(&seen), mark: Bytes::new(), at: seen.at });
        until(|| gateway.inner.domains_by_id.get(&lost.id).is_none()).await;
        assert_ne!(gateway.domain("alice", &crate::keys::Purpose::Plain).await.unwrap().id, lost.id);
    });
}

#[test]
fn r1_a_gateway_commits_nothing_in_an_epoch_of_somebody_else() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let one = site.gateway("g1", &[("m1", &server)]).await;
        let two = site.gateway("g2", &[("m1", &server)]).await;
        for foreign in [one.epoch(), site.meta.epoch()] {
            let of_foreign = |said: &Result<_, _>| matches!(said, Err(CommitError::Refused(Refusal::Fenced { writer, .. })) if *writer == foreign);
            let begun = two.commit(foreign, create_bucket()).await;
            assert!(of_foreign(&begun), "{begun:?}");
            let id = StripeId { epoch: foreign, counter: 1 };
            let descriptor = StripeDescriptor {
                id,
                class: StripeClass::Data,
                geometry: two.inner.geometry,
                present: 0b111,
                lengths: vec![100; 3],
                hashes: vec![[1; 32]; 3],
                lsn_range: None,
                cluster: CLUSTER,
            };
            let drives = site.meta.status().drives;
            let drives = drives.iter().take(3).map(|drive| Bytes::copy_from_slice(drive.id.as_bytes())).collect();
            let stripe = StripeRow { descriptor: descriptor.encode(), drives };
            let numbered = two.commit(two.epoch(), Command::CommitStripe { stripe, chunks: Vec::new() }).await;
            assert!(of_foreign(&numbered), "{numbered:?}");
        }
        bucket(&two).await;
    });
}

#[test]
fn a_wish_for_an_epoch_is_granted_once() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        let inner = &gateway.inner;
        let wish = async |nonce: &'static [u8]| {
            let begun = Instant::now();
            loop {
                let granted: Result<Granted, _> = inner.ask(Name::Grant, &OfGrant { nonce: nonce.into() }).await;
                match granted {
                    Ok(granted) => return granted.epoch,
                    Err(_) => assert!(begun.elapsed() < PATIENCE),
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let (first, again) = tokio::join!(wish(b"one"), wish(b"one"));
        assert_eq!(first, again);
        assert_eq!(wish(b"one").await, first);
        assert!(wish(b"two").await > first);
        let rows = index::reclaim::gateways(&Overlay::new(&**site.meta.kv())).unwrap();
        assert_eq!(rows.len(), 3, "{rows:?}");
    });
}

#[test]
fn questions_are_short_and_what_is_longer_is_asked_in_pieces() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        let stored = store(&gateway, &noise(1, 50_000)).await;
        let mut ids = vec![ChunkId([9; 32]); 20_001];
        ids[15_000] = stored.id;
        let known = |found: Vec<bool>| assert_eq!(found, ids.iter().map(|id| *id == stored.id).collect::<Vec<_>>());
        known(gateway.locate(&ids).await.unwrap().iter().map(Option::is_some).collect());
        known(gateway.find_chunks(stored.domain, &ids).await.unwrap().iter().map(Option::is_some).collect());
        let many = crate::rpc::message::OfChunks { domain: 0, ids: vec![9; 32 * 10_001].into() };
        let refused = gateway.inner.peers.ask(Name::Locate, many.encode_to_vec().into()).await;
        assert!(refused.is_err());
    });
}

#[test]
fn r1_two_gateways_and_metadata_number_their_stripes_in_epochs_of_their_own() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let one = site.gateway("g1", &[("m1", &server)]).await;
        let two = site.gateway("g2", &[("m1", &server)]).await;
        // The service's own renewal takes up neither.
        let own = site.meta.renew_epoch().await.unwrap();
        let epochs = [one.epoch(), two.epoch(), own];
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != epochs[2], "{epochs:?}");
        assert_eq!(site.meta.epoch(), own);
        let bucket = bucket(&one).await;
        let clients: [&dyn MetadataClient; 3] = [&one, &two, &*site.meta];
        for (n, client) in (0..).zip(clients) {
            let chunk = store(client, &noise(n, 50_000)).await;
            client.commit(client.epoch(), put(bucket, &n.to_string(), &chunk, false, Condition::None)).await.unwrap();
            let located = client.locate(&[chunk.id]).await.unwrap().pop().unwrap().unwrap();
            assert_eq!(located.place.stripe().unwrap().epoch, client.epoch());
        }
        // One chunk by both at the same time, and one key.
        let same = noise(77, 40_000);
        let (a, b) = tokio::join!(store(&one, &same), store(&two, &same));
        assert_eq!(a.id, b.id);
        let by = async |client: &dyn MetadataClient| {
            client.commit(client.epoch(), put(bucket, "same", &a, false, Condition::IfNoneMatchAny)).await
        };
        let (first, second) = tokio::join!(by(&one), by(&two));
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        for client in clients {
            assert_eq!(read(client, a.id).await, same);
        }
    });
}

#[test]
fn r9_a_gateway_whose_epoch_is_fenced_takes_another_one() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let gateway = site.gateway("g1", &[("m1", &server)]).await;
        let (bucket, first) = (bucket(&gateway).await, gateway.epoch());
        let left = store(&gateway, &noise(1, 50_000)).await;
        // It stood still for longer than requests may begin in an epoch and live.
        site.meta.renew_epoch().await.unwrap();
        site.pass(EPOCH_HOLD_MS + REQUEST_LIFE_MS).await;
        site.meta.renew_epoch().await.unwrap();
        let late = gateway.commit(first, put(bucket, "late", &left, false, Condition::None)).await;
        assert!(
            matches!(late, Err(CommitError::Refused(Refusal::Fenced { writer, .. })) if writer == first),
            "{late:?}"
        );
        until(|| gateway.epoch() > first).await;
        put_inline(&gateway, bucket, "again", &noise(2, 100)).await.unwrap();
        let stripe = store(&gateway, &noise(3, 50_000)).await;
        gateway.commit(gateway.epoch(), put(bucket, "k", &stripe, false, Condition::None)).await.unwrap();
        assert_eq!(index::reclaim::hold(&Overlay::new(&**site.meta.kv())).unwrap(), None);
    });
}

#[test]
fn requests_follow_the_leader() {
    test(async {
        let site = Site::new().await;
        let (first, m1) = site.leading("m1").await;
        let (second, m2) = site.leading("m2").await;
        first.set(Err(Some(peer("m2", &m2))));
        // Only the one that does not lead is known, and it names the other.
        let gateway = site.gateway("g1", &[("m1", &m1)]).await;
        assert_eq!(gateway.condition().leader.unwrap().as_str(), "m2");
        let bucket = bucket(&gateway).await;
        for round in 0..6 {
            let (from, to, led) = if round % 2 == 0 { (&second, &first, &m1) } else { (&first, &second, &m2) };
            // For a moment nobody leads, as while they vote.
            from.set(Err(None));
            let turn = async {
                sleep(Duration::from_millis(300)).await;
                to.set(Ok(site.meta.clone()));
                from.set(Err(Some(peer(if round % 2 == 0 { "m1" } else { "m2" }, led))));
            };
            let key = format!("key-{round}");
            let bytes = noise(round, 100);
            let (put, ()) = tokio::join!(put_inline(&gateway, bucket, &key, &bytes), turn);
            put.unwrap();
            assert!(gateway.current_version(bucket, &key).await.unwrap().is_some());
        }
        first.set(Err(None));
        second.set(Err(None));
        let nobody = gateway.bucket("bucket").await;
        assert!(matches!(nobody, Err(crate::client::LookupError::Unavailable { .. })), "{nobody:?}");
        second.set(Ok(site.meta.clone()));
        assert!(gateway.bucket("bucket").await.unwrap().is_some());
        // One that ends is one that does not lead.
        first.set(Ok(site.meta.clone()));
        m2.stop(Duration::ZERO).await;
        // What was on its way while the connection closed is in doubt, and said to be; the next one goes to the other.
        if let Err(doubt) = put_inline(&gateway, bucket, "last", &noise(99, 100)).await {
            assert!(matches!(doubt, CommitError::Unavailable { .. }), "{doubt:?}");
            put_inline(&gateway, bucket, "last", &noise(99, 100)).await.unwrap();
        }
        assert_eq!(gateway.condition().leader.unwrap().as_str(), "m1");
    });
}

/// A commit at a node that hangs is not repeated, whether it was carried out or not: that is in doubt, and said so as soon as
/// another node leads.
#[test]
fn a_commit_in_doubt_says_so_and_is_not_repeated() {
    for carries_out in [false, true] {
        test(async {
            let site = Site::new().await;
            let switch = Arc::new(Switch(Mutex::new(Ok(site.meta.clone()))));
            let service = Service::new(switch.clone());
            let hanging =
                Arc::new(Hanging { service, hangs: AtomicBool::new(false), carries_out, met: AtomicBool::new(false) });
            let m1 = site.serve("m1", hanging.clone()).await;
            let (_second, m2) = site.leading("m2").await;
            let gateway = site.gateway("g1", &[("m1", &m1), ("m2", &m2)]).await;
            gateway.inner.peers.leads_at("m1");
            let bucket = bucket(&gateway).await;
            hanging.hangs.store(true, Ordering::SeqCst);
            let deposed = async {
                until(|| hanging.met.load(Ordering::SeqCst)).await;
                switch.set(Err(Some(peer("m2", &m2))));
            };
            let bytes = noise(1, 100);
            let (doubtful, ()) = tokio::join!(put_inline(&gateway, bucket, "k", &bytes), deposed);
            assert!(matches!(doubtful, Err(CommitError::Unavailable { .. })), "{doubtful:?}");
            let there = gateway.current_version(bucket, "k").await.unwrap();
            assert_eq!(there.is_some(), carries_out);
            let seq = there.map(|row| row.seq);
            sleep(Duration::from_millis(300)).await;
            let later = gateway.current_version(bucket, "k").await.unwrap();
            assert_eq!(later.map(|row| row.seq), seq, "it was carried out once, or never");
            put_inline(&gateway, bucket, "k", &noise(1, 100)).await.unwrap();
        });
    }
}

#[test]
fn only_a_gateway_of_the_cluster_is_served() {
    test(async {
        let site = Site::new().await;
        let (_switch, server) = site.leading("m1").await;
        let peers = vec![at("m1", &server)];
        let config = RemoteMetadataConfig { patience: Duration::from_secs(1), ..RemoteMetadataConfig::new(peers) };
        for role in [Role::StorageNode, Role::Repair] {
            let begun = Instant::now();
            loop {
                let (credentials, nodes) = (site.credentials(role, "x1"), site.meta.node().clone());
                match RemoteMetadata::connect(credentials, nodes, config.clone()).await {
                    Err(RemoteMetadataError::Unavailable(why)) if why.contains("role") => break,
                    // A busy machine may take longer to connect than that.
                    Err(_) => assert!(begun.elapsed() < PATIENCE),
                    Ok(_) => panic!("a process of role {role} is served"),
                }
            }
        }
        let other = ClusterCa::create(ClusterId([8; 16])).unwrap();
        let identity =
            Identity { cluster: ClusterId([8; 16]), role: Role::Gateway, name: NodeName::new("g1").unwrap() };
        let issued = other.issue(&identity, YEAR).unwrap();
        let foreign = Arc::new(Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap());
        let refused = RemoteMetadata::connect(foreign, site.meta.node().clone(), config).await;
        assert!(matches!(refused, Err(RemoteMetadataError::Unavailable(_))), "{refused:?}");
        drop(site.world);
    });
}
