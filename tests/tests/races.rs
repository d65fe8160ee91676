//! The classic races of an archive, each as a deterministic test: whoever comes late meets what has changed meanwhile.
//!
//! Those that need metadata alone, or drives alone, are told there: `metadata/src/start/tests/reclaim.rs` (also a crash anywhere
//! in reclaim and restripe), `metadata/src/start/tests/keeping.rs` and `returning.rs` (drives that come back). Here are those
//! that go through a gateway, from a client's body to the bytes that it reads.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use codec::effect::ObjectMeta;
use codec::id::StripeId;
use codec::stripe::StripeClass;
use futures::{StreamExt, TryStreamExt};
use gateway::engine::{Claims, PutDone, PutRequest};
use gateway::error::{BodyError, PutError};
use metadata::command::Condition;
use metadata::index::{self, Overlay, STRIPES, View};
use metadata::lookup;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use storage_node::disk::DiskOp;
use storage_node::disk::faulty::{Fault, Trace};
use storage_node::kv::memory::MemorySnapshot;
use tests::keeping::{self, DAY, Still};
use tests::world::{Indexes, RecordedKv, World, meta_families, node_families, noise};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const BUCKET: &str = "b";
const LARGE: usize = 120_000;

struct Store {
    trace: Trace,
    clock: Arc<Still>,
    node: Arc<RecordedKv>,
    meta: Arc<RecordedKv>,
    world: Arc<World>,
    /// How long the last put took, milliseconds: how busy the machine is.
    put_ms: AtomicU64,
}

impl Store {
    async fn new() -> Store {
        let (trace, clock) = (Trace::new(5), Arc::new(Still::default()));
        let (node, meta) = (RecordedKv::new(node_families(), None), RecordedKv::new(meta_families(), None));
        let world = serving(&trace, &clock, &node, &meta).await;
        world.create_bucket(BUCKET).await.unwrap();
        Store { trace, clock, node, meta, world, put_ms: AtomicU64::new(0) }
    }

    /// Ends, and starts with this state of metadata's index.
    async fn restart(&mut self, index: MemorySnapshot) {
        self.world.metadata.shutdown().await;
        self.meta = RecordedKv::from_snapshot(&index, None);
        self.world = serving(&self.trace, &self.clock, &self.node, &self.meta).await;
    }

    async fn pass(&self, ms: u64) {
        keeping::pass(&self.world, &self.clock, ms).await.unwrap();
    }

    async fn reclaim(&self) -> metadata::keep::reclaim::ReclaimReport {
        self.world.metadata.reclaimer().unwrap().round().await.unwrap()
    }

    async fn quiet(&self) {
        for _ in 0..4 {
            self.reclaim().await;
            self.pass(8 * DAY).await;
        }
        self.reclaim().await;
    }

    fn stripes(&self) -> BTreeSet<StripeId> {
        let rows = Overlay::new(&**self.world.metadata.kv()).rows(STRIPES, &[], &[0xff; 17], usize::MAX).unwrap();
        let id = |(key, value)| {
            let id = StripeId::from_slice(&Bytes::clone(&key)).unwrap();
            let row = index::decode(STRIPES, &key, value).unwrap();
            (lookup::descriptor(id, &row).unwrap().class == StripeClass::Data).then_some(id)
        };
        rows.into_iter().filter_map(id).collect()
    }

    async fn put(&self, key: &str, bytes: &Bytes) {
        let began = Instant::now();
        self.world.put(BUCKET, key, bytes).await.unwrap();
        self.put_ms.store(u64::try_from(began.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
    }

    async fn delete(&self, key: &str) {
        self.world.delete(BUCKET, key).await.unwrap();
    }

    async fn holds(&self, key: &str, bytes: &Bytes) {
        assert!(self.world.get(BUCKET, key).await.unwrap().as_ref() == Some(bytes), "{key}");
    }
}

async fn serving(trace: &Trace, clock: &Arc<Still>, node: &Arc<RecordedKv>, meta: &Arc<RecordedKv>) -> Arc<World> {
    let indexes = Indexes { node: node.clone(), meta: meta.clone() };
    let config = keeping::config("2+1".parse().ok());
    Arc::new(keeping::serve(keeping::parts_of(trace, &indexes, clock), config).await.unwrap())
}

/// A PUT whose body comes when the test sends it.
struct Slow {
    body: mpsc::UnboundedSender<Bytes>,
    /// Longer than the gateway takes to look up what has come.
    pause: Duration,
    put: JoinHandle<Result<PutDone, PutError>>,
}

impl Slow {
    async fn begin(store: &Store, key: &str, length: usize) -> Slow {
        let (body, pieces) = mpsc::unbounded_channel::<Bytes>();
        let request = PutRequest {
            attached: Default::default(),
            bucket: store.world.bucket(BUCKET).await.unwrap(),
            key: key.to_owned(),
            meta: ObjectMeta::default(),
            length: Some(length as u64),
            encrypt: gateway::protect::Protection::Plain,
            condition: Condition::None,
            claims: Claims::default(),
        };
        let pieces = futures::stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
        let world = Arc::clone(&store.world);
        let put =
            tokio::spawn(
                async move { world.gateway.put_object(request, Box::pin(pieces.map(Ok::<_, BodyError>))).await },
            );
        let pause = Duration::from_millis(150 + 10 * store.put_ms.load(Ordering::Relaxed));
        Slow { body, pause, put }
    }

    /// Sends a piece, and gives the gateway the time to look its chunks up.
    async fn send(&self, piece: Bytes) {
        self.body.send(piece).unwrap();
        tokio::time::sleep(self.pause).await;
    }

    async fn end(self, rest: Bytes) -> Result<PutDone, PutError> {
        self.body.send(rest).unwrap();
        drop(self.body);
        self.put.await.unwrap()
    }
}

/// R11. A small object: what was a hit when it was looked up is gone by the commit, and is stored again from what the gateway
/// still has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedup_hit_against_reclaim_is_stored_again() {
    let store = Store::new().await;
    let bytes = noise(1, 3_000);
    store.put("old", &bytes).await;
    let late = Slow::begin(&store, "late", bytes.len()).await;
    // All but the end of the body: its chunks that are whole are looked up.
    late.send(bytes.slice(..2_999)).await;
    store.delete("old").await;
    store.pass(8 * DAY).await;
    assert_eq!(store.reclaim().await.deleted, 1);
    late.end(bytes.slice(2_999..)).await.unwrap();
    store.holds("late", &bytes).await;
    store.quiet().await;
    store.holds("late", &bytes).await;
}

/// R11. A large object: its bytes are gone by then, so its client is told to send it again, and nothing half is visible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_dedup_hit_against_reclaim_is_sent_again() {
    let store = Store::new().await;
    let bytes = noise(2, LARGE);
    store.put("old", &bytes).await;
    let late = Slow::begin(&store, "late", bytes.len()).await;
    late.send(bytes.slice(..LARGE / 2)).await;
    store.delete("old").await;
    store.pass(8 * DAY).await;
    assert!(store.reclaim().await.deleted > 10);
    match late.end(bytes.slice(LARGE / 2..)).await {
        Ok(_) => store.holds("late", &bytes).await,
        Err(PutError::Unavailable(_)) => assert_eq!(store.world.get(BUCKET, "late").await.unwrap(), None),
        Err(other) => panic!("{other:?}"),
    }
    store.put("late", &bytes).await;
    store.quiet().await;
    store.holds("late", &bytes).await;
}

/// R11. What a PUT has found is condemned, and not deleted yet, when it commits: the commit revives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedup_hit_that_is_condemned_meanwhile_is_revived() {
    let store = Store::new().await;
    let bytes = noise(3, LARGE);
    store.put("old", &bytes).await;
    let before = store.stripes();
    let late = Slow::begin(&store, "late", bytes.len()).await;
    late.send(bytes.slice(..LARGE - 1)).await;
    store.delete("old").await;
    store.pass(DAY).await;
    store.reclaim().await;
    late.end(bytes.slice(LARGE - 1..)).await.unwrap();
    store.quiet().await;
    store.holds("late", &bytes).await;
    assert!(store.stripes().is_superset(&before), "nothing was stored twice, and nothing moved");
}

/// R12. A GET that began before its stripes were rewritten ends with the right bytes, from the old shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restripe_against_read() {
    let store = Store::new().await;
    let bytes = noise(4, LARGE);
    store.put("read", &bytes).await;
    let version = store.world.version(BUCKET, "read").await.unwrap().unwrap();
    let mut stream = store.world.gateway.get(&version.content.unwrap(), None).await.unwrap().bytes;
    let first = stream.next().await.unwrap().unwrap();
    let old: Vec<StripeId> = store.stripes().into_iter().collect();
    assert!(store.world.metadata.reclaimer().unwrap().rewrite(&old).await.unwrap().moved > 10);
    assert_eq!(store.reclaim().await.dropped as usize, old.len());
    assert!(store.stripes().is_disjoint(&old.iter().copied().collect()));
    let rest: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!([first].into_iter().chain(rest).collect::<Vec<_>>().concat() == bytes);
    store.holds("read", &bytes).await;
    store.quiet().await;
    store.holds("read", &bytes).await;
}

/// R12. What is deleted, and put again, while its stripe is being read for a rewrite is where the rows say in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restripe_against_delete() {
    let store = Store::new().await;
    let (gone, back) = (noise(5, LARGE), noise(6, LARGE));
    store.put("gone", &gone).await;
    store.put("back", &back).await;
    let old: Vec<StripeId> = store.stripes().into_iter().collect();
    let held = store.trace.inject(Fault::hang().on(DiskOp::Read).path("segments/"));
    let world = Arc::clone(&store.world);
    let rewriting = tokio::spawn(async move { world.metadata.reclaimer().unwrap().rewrite(&old).await });
    while store.trace.hits(held) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    store.delete("gone").await;
    store.delete("back").await;
    store.put("again", &back).await;
    assert!(!rewriting.is_finished(), "the rewrite was over before the deletes");
    store.trace.heal_all();
    rewriting.await.unwrap().unwrap();
    store.holds("again", &back).await;
    store.quiet().await;
    store.holds("again", &back).await;
    store.delete("again").await;
    store.quiet().await;
    assert_eq!(store.stripes(), BTreeSet::new(), "nothing is left of what was moved while it was condemned");
}

/// Two clients put the same bytes at the same time: neither finds what the other has not committed yet. One place is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_commits_of_one_chunk() {
    let store = Store::new().await;
    let bytes = noise(7, LARGE);
    let (one, two) = (Slow::begin(&store, "1", LARGE).await, Slow::begin(&store, "2", LARGE).await);
    for half in [bytes.slice(..1000), bytes.slice(1000..LARGE - 1)] {
        one.body.send(half.clone()).unwrap();
        two.body.send(half).unwrap();
    }
    let end = bytes.slice(LARGE - 1..);
    let (one, two) = tokio::join!(one.end(end.clone()), two.end(end));
    assert_eq!(one.unwrap().etag, two.unwrap().etag);
    store.quiet().await;
    let stored: usize = store.stripes().len();
    store.holds("1", &bytes).await;
    store.delete("1").await;
    store.quiet().await;
    store.holds("2", &bytes).await;
    assert_eq!(store.stripes().len(), stored, "they were the same chunks");
    store.delete("2").await;
    store.quiet().await;
    assert_eq!(store.stripes(), BTreeSet::new());
}

/// R10. A copy of metadata's index from the past is put back, while the drives have gone on: it is rolled forward from the
/// journal and the ledger before anything is deleted, and then says what it said before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_old_index() {
    let mut store = Store::new().await;
    let (kept, gone, new) = (noise(8, LARGE), noise(9, LARGE), noise(10, LARGE));
    store.put("kept", &kept).await;
    store.put("gone", &gone).await;
    store.world.metadata.seal_now().await.unwrap();
    let backup = store.meta.snapshot();
    store.delete("gone").await;
    store.put("new", &new).await;
    store.quiet().await;
    store.world.metadata.seal_now().await.unwrap();
    store.world.metadata.checkpoint_now().await.unwrap();
    store.put("newer", &kept).await;
    let stripes = store.stripes();
    store.restart(backup).await;
    assert_eq!(store.stripes(), stripes, "rolled forward");
    for (key, bytes) in [("kept", &kept), ("new", &new), ("newer", &kept)] {
        store.holds(key, bytes).await;
    }
    assert_eq!(store.world.get(BUCKET, "gone").await.unwrap(), None);
    assert_eq!(store.reclaim().await.held, None, "nothing is missing, so nobody has to look");
    store.quiet().await;
    for (key, bytes) in [("kept", &kept), ("new", &new), ("newer", &kept)] {
        store.holds(key, bytes).await;
    }
}
