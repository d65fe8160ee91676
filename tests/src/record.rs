//! Recording a workload: a store on fault disks, and every operation noted in the trace and in the oracle.

use crate::crash::{Losable, Recording};
use crate::oracle::{Oracle, THERE, Thing, Value, Wrong};
use crate::world::{Indexes, RecordedKv, Shape, World, disks, meta_families, node_families};
use bytes::Bytes;
use codec::effect::UploadName;
use gateway::error::PutError;
use metadata::client::{CommitError, MetadataClient, Mode};
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage_node::disk::faulty::Trace;
use storage_node::kv::Kv;

/// The bucket of the workloads.
pub const BUCKET: &str = "bucket";

/// A store that is being recorded.
pub struct Recorder {
    /// The drives.
    pub trace: Trace,
    /// The store.
    pub world: World,
    /// How it was made.
    pub shape: Shape,
    node_index: Arc<RecordedKv>,
    meta_index: Arc<RecordedKv>,
    oracle: Mutex<Oracle>,
    offset: u64,
    from: Mutex<u64>,
    losable: Mutex<Vec<Losable>>,
}

impl Recorder {
    /// A first start on so many drives; recorded from its first step.
    pub async fn format(drives: usize, shape: Shape) -> Result<Recorder, Wrong> {
        let trace = Trace::with_sabotage(drives, shape.sabotage.clone());
        Self::over(trace, shape, Oracle::default(), 0).await
    }

    /// A start from what a crash left: `oracle` is what may be there, `offset` the position of the crash.
    pub async fn over(trace: Trace, shape: Shape, oracle: Oracle, offset: u64) -> Result<Recorder, Wrong> {
        let node_index = RecordedKv::new(node_families(), Some(trace.clone()));
        let meta_index = RecordedKv::new(meta_families(), Some(trace.clone()));
        let indexes =
            Indexes { node: Arc::clone(&node_index) as Arc<dyn Kv>, meta: Arc::clone(&meta_index) as Arc<dyn Kv> };
        let world = World::start(disks(&trace), &indexes, &shape).await;
        let world = world.map_err(|error| Wrong::new("no start", error.to_string()))?;
        let status = world.metadata.status();
        if status.mode != Mode::Serving {
            world.stop().await;
            return Err(Wrong::new("not serving", status.reason));
        }
        let (oracle, from, losable) = (Mutex::new(oracle), Mutex::new(0), Mutex::default());
        Ok(Recorder { trace, world, shape, node_index, meta_index, oracle, offset, from, losable })
    }

    /// The oracle.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Crashes are of interest only from here on.
    pub fn from_here(&self) {
        *self.from.lock().unwrap_or_else(PoisonError::into_inner) = self.trace.position();
    }

    /// Notes what the store shows now: whatever was in flight when it crashed is decided.
    pub async fn settle(&self) -> Result<(), Wrong> {
        let oracle = self.oracle().clone();
        let state = oracle.read(&self.world).await?;
        let at = self.trace.mark("settled") + self.offset;
        oracle.check(at, &state)?;
        self.oracle().observed(at, &state);
        Ok(())
    }

    /// How many drives may be lost: m.
    pub fn spare(&self) -> usize {
        usize::from(self.world.metadata.status().geometry.m())
    }

    /// From here on `count` of these drives (default: all) may be lost on top of a crash.
    pub fn may_lose(&self, count: usize, drives: Option<Vec<usize>>) {
        let drives = drives.unwrap_or_else(|| (0..self.trace.disks().len()).collect());
        let mut losable = self.losable.lock().unwrap_or_else(PoisonError::into_inner);
        losable.push(Losable { from: self.trace.position(), drives, count });
    }

    /// From here on this recording may lose what another one could at a position.
    pub fn may_lose_as(&self, of: &[Losable], position: u64) {
        let rule = of.iter().rev().find(|rule| rule.from <= position).cloned();
        let mut losable = self.losable.lock().unwrap_or_else(PoisonError::into_inner);
        // A start that is recorded has begun before anybody could say so.
        let from = if losable.is_empty() { 0 } else { self.trace.position() };
        losable.extend(rule.map(|rule| Losable { from, ..rule }));
    }

    /// Ends the recording.
    pub async fn finish(self, name: &str) -> Recording {
        let to = self.trace.position();
        let Recorder { trace, world, shape, node_index, meta_index, oracle, offset, from, losable } = self;
        let from = from.into_inner().unwrap_or_else(PoisonError::into_inner);
        world.stop().await;
        Recording {
            name: name.to_owned(),
            trace,
            from,
            to,
            offset,
            oracle: oracle.into_inner().unwrap_or_else(PoisonError::into_inner),
            shape,
            losable: losable.into_inner().unwrap_or_else(PoisonError::into_inner),
            node_index: node_index.history(),
            meta_index: meta_index.history(),
        }
    }

    /// Runs an operation between its marks.
    async fn op<T, E: Display>(
        &self,
        name: String,
        changes: Vec<(Thing, Option<Value>)>,
        act: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begin = self.trace.mark(format!("begin {name}")) + self.offset;
        let op = self.oracle().begin(name.clone(), begin, changes);
        let result = act.await;
        match &result {
            Ok(_) => {
                let ack = self.trace.mark(format!("ack {name}")) + self.offset;
                self.oracle().ack(op, ack);
            }
            Err(error) => {
                self.trace.mark(format!("failed {name}: {error}"));
            }
        }
        result
    }

    fn value(&self, bytes: &Bytes) -> Value {
        self.oracle().content(bytes)
    }

    /// Creates the workloads' bucket.
    pub async fn bucket(&self) -> Result<(), CommitError> {
        let changes = vec![(Thing::Bucket(BUCKET.to_owned()), Some(THERE))];
        self.op("create bucket".to_owned(), changes, self.world.create_bucket(BUCKET)).await
    }

    /// Puts an object.
    pub async fn put(&self, key: &str, bytes: &Bytes) -> Result<(), PutError> {
        self.put_as(key, bytes, false).await
    }

    /// Puts an object, encrypted if asked to.
    pub async fn put_as(&self, key: &str, bytes: &Bytes, encrypt: bool) -> Result<(), PutError> {
        let changes = vec![(object(key), Some(self.value(bytes)))];
        let put = self.world.put_with(BUCKET, key, bytes, encrypt, Default::default());
        self.op(format!("put {key} ({})", bytes.len()), changes, put).await.map(drop)
    }

    /// Deletes an object.
    pub async fn delete(&self, key: &str) -> Result<(), CommitError> {
        self.op(format!("delete {key}"), vec![(object(key), None)], self.world.delete(BUCKET, key)).await.map(drop)
    }

    /// Deletes objects in one entry.
    pub async fn delete_many(&self, keys: &[String]) -> Result<(), CommitError> {
        let changes = keys.iter().map(|key| (object(key), None)).collect();
        self.op(format!("delete {keys:?}"), changes, self.world.delete_many(BUCKET, keys)).await.map(drop)
    }

    /// Opens an upload.
    pub async fn create_upload(&self, key: &str) -> Result<UploadName, PutError> {
        let changes = vec![(upload(key), Some(THERE))];
        self.op(format!("create upload {key}"), changes, self.world.create_upload(BUCKET, key)).await
    }

    /// Puts a part; gives its etag.
    pub async fn put_part(&self, name: &UploadName, number: u32, bytes: &Bytes) -> Result<String, PutError> {
        let changes = vec![(part(&name.key, number), Some(self.value(bytes)))];
        let put = self.world.put_part(name, number, bytes);
        self.op(format!("part {number} of {}", name.key), changes, put).await.map(|done| done.etag)
    }

    /// Completes an upload of these parts.
    pub async fn complete(&self, name: &UploadName, parts: &[(u32, String, Bytes)]) -> Result<(), PutError> {
        let whole: Bytes = parts.iter().map(|(_, _, bytes)| bytes.clone()).collect::<Vec<_>>().concat().into();
        let mut changes = vec![(object(&name.key), Some(self.value(&whole))), (upload(&name.key), None)];
        changes.extend(parts.iter().map(|(number, _, _)| (part(&name.key, *number), None)));
        let listed: Vec<(u32, String)> = parts.iter().map(|(number, etag, _)| (*number, etag.clone())).collect();
        self.op(format!("complete {}", name.key), changes, self.world.complete(name, &listed)).await.map(drop)
    }

    /// Aborts an upload that has these parts.
    pub async fn abort(&self, name: &UploadName, parts: &[u32]) -> Result<(), PutError> {
        let mut changes = vec![(upload(&name.key), None)];
        changes.extend(parts.iter().map(|number| (part(&name.key, *number), None)));
        self.op(format!("abort {}", name.key), changes, self.world.abort(name)).await
    }

    /// Seals; changes nothing that anybody sees.
    pub async fn seal(&self) -> Result<(), metadata::seal::SealError> {
        self.op("seal".to_owned(), Vec::new(), self.world.metadata.seal_now()).await.map(drop)
    }
}

fn object(key: &str) -> Thing {
    Thing::Object(BUCKET.to_owned(), key.to_owned())
}

fn upload(key: &str) -> Thing {
    Thing::Upload(BUCKET.to_owned(), key.to_owned())
}

fn part(key: &str, number: u32) -> Thing {
    Thing::Part(BUCKET.to_owned(), key.to_owned(), number)
}
