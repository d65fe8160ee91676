//! Inventories: lists of what a bucket has, put into another bucket once a day or a week.
//!
//! Source: Amazon S3 User Guide, "Cataloging and analyzing your data with S3 Inventory" (layout, manifest, columns).
//!
//! Below `PREFIX/SOURCE/ID/` there are `data/*.csv.gz`, and for each inventory `YYYY-MM-DDTHH-MMZ/manifest.json` and then
//! `manifest.checksum`, the MD5 of the former. An inventory is there when its checksum is.
//!
//! Invariants:
//! * One process makes inventories: the one whose service commits. What another one still wants to put, that was it before, is refused
//!   with its commit. So no inventory is made by two of several gateways.
//! * That one is begun is journaled before the first byte of it ([`ConfigKind::InventoryState`]), with the time that its keys are made
//!   of; that it is done, after the last. Who comes after a crash begins the same one from the start, under the same keys: it leaves
//!   either what it left, data files that no manifest names, or a whole inventory that is put once more. Without the row there would
//!   be a second one beside it, and files that belong to none.
//! * The destination's policy is asked before each object, and nothing is put for a configuration that was changed or taken away.
//! * A pass holds a few pages, whatever the bucket has ([`file`]). It is no snapshot: what changes while it runs may be in it or not.
//! * The time is lifecycle's, the earlier of two clocks: one that was set forward makes no inventories.

mod csv;
pub mod file;
pub mod plan;

use crate::engine::{Body, Claims, Gateway, PutRequest};
use crate::error::PutError;
use crate::noted::Noted;
use crate::s3::{encryption, inventory};
use bytes::Bytes;
use codec::effect::{BucketConfigRow, BucketRow, ConfigKind, ObjectMeta};
use codec::id::BucketId;
use file::At;
use md5::{Digest, Md5};
use metadata::client::{CommitError, LookupError, MetadataClient};
use metadata::command::{Attached, Command, Condition, PutBucketConfig};
use metadata::index::access::{bucket_config, bucket_configs, buckets_with};
use metadata::index::{self, IndexError, Overlay};
use metadata::service::Metadata;
use plan::Plan;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often is looked whether one is due; with short days more often.
const LOOK: Duration = Duration::from_secs(60);
/// Rows of configurations that are read at once.
const PAGE: usize = 1000;
/// For a data file: reading its rows and storing them.
const FILE_PATIENCE: Duration = Duration::from_secs(3 * 3600);
/// For one of the small objects.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most data files of one inventory, as many as a manifest of a few MiB names.
const FILES: usize = 20_000;

/// Why an inventory was not made. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A row could not be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What is begun or done was not journaled.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// An object was not stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// Rows could not be packed.
    #[error("packing: {0}")]
    Pack(#[source] std::io::Error),
    /// The configuration or the destination's policy can't be followed, or the destination does not let it in.
    #[error("{0}")]
    Refused(s3s::S3Error),
    /// The configuration, or its bucket, was changed or taken away meanwhile.
    #[error("its configuration was changed meanwhile")]
    Changed,
    /// An object took too long.
    #[error("an object was not stored in {} s", .0.as_secs())]
    Late(Duration),
    /// There would be more files than a manifest names.
    #[error("it would have more than {FILES} data files")]
    TooLarge,
}

/// How far an inventory is, as it is journaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The day or week that it is of.
    period: u64,
    /// Its time: milliseconds since the Unix epoch.
    began_ms: u64,
    done: bool,
}

impl State {
    fn of(row: &BucketConfigRow) -> Option<State> {
        let mut words = std::str::from_utf8(&row.body).ok()?.split(' ');
        let mut number = || words.next()?.parse().ok();
        let (period, began_ms, done) = (number()?, number()?, number()?);
        Some(State { period, began_ms, done: done != 0 })
    }

    fn body(self) -> Bytes {
        format!("{} {} {}", self.period, self.began_ms, u8::from(self.done)).into()
    }
}

/// What is made of one configuration.
struct Job {
    source: BucketRow,
    plan: Plan,
    /// The configuration's [`BucketConfigRow::seq`].
    seq: u64,
}

/// Makes inventories of the buckets of one service.
pub struct Inventories {
    meta: Arc<Metadata>,
    gateway: Arc<Gateway>,
    noted: Noted,
}

impl fmt::Debug for Inventories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inventories")
    }
}

impl Inventories {
    /// `gateway` stores what is made, and is one over `meta`. There must be one of these per service.
    pub fn new(meta: Arc<Metadata>, gateway: Arc<Gateway>) -> Inventories {
        Inventories { meta, gateway, noted: Noted::default() }
    }

    /// Makes what is due, until the task is ended.
    pub async fn run(self) {
        loop {
            let pause = self.day_ms().map_or(LOOK, |day| LOOK.min(Duration::from_millis(day / 10)));
            sleep(pause.max(Duration::from_millis(100))).await;
            let Some(lifecycle) = self.meta.lifecycle() else { continue };
            if let Err(error) = self.round(lifecycle.now_ms()).await {
                tracing::warn!(%error, "inventories were not looked at, and are later");
            }
        }
    }

    /// Makes what is due at a time, in milliseconds since the Unix epoch. How many were made; those that failed are in the log.
    pub async fn round(&self, now_ms: u64) -> Result<usize, Failure> {
        self.forget().await?;
        let (Some(day_ms), mut made, mut after) = (self.day_ms(), 0, None) else { return Ok(0) };
        loop {
            let rows = self.buckets(ConfigKind::Inventory, after)?;
            for bucket in &rows.0 {
                let configs = bucket_configs(&self.view(), *bucket, ConfigKind::Inventory)?;
                for config in configs {
                    match self.made(*bucket, &config, now_ms, now_ms / day_ms.max(1)).await {
                        Ok(done) => made += usize::from(done),
                        Err(error) => self.warn(&config, &error),
                    }
                }
            }
            after = rows.0.last().copied();
            if !rows.1 {
                return Ok(made);
            }
        }
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&**self.meta.kv())
    }

    fn day_ms(&self) -> Option<u64> {
        self.meta.lifecycle().map(|lifecycle| lifecycle.calendar().day_ms)
    }

    fn warn(&self, config: &BucketConfigRow, error: &Failure) {
        let (bucket, id) = config.name.as_ref().map_or((0, ""), |name| (name.bucket, &name.id));
        if self.noted.is_news(&format!("{bucket}/{id}")) {
            tracing::warn!(bucket, id, %error, "an inventory was not made; it is tried again");
        }
    }

    /// Buckets with configurations of a kind, after one of them, and whether there may be more.
    fn buckets(&self, kind: ConfigKind, after: Option<BucketId>) -> Result<(Vec<BucketId>, bool), IndexError> {
        let rows = buckets_with(&self.view(), kind, after, PAGE)?;
        let more = rows.len() == PAGE;
        let mut ids: Vec<BucketId> = rows.into_iter().filter_map(|row| Some(BucketId(row.name?.bucket))).collect();
        ids.dedup();
        Ok((ids, more))
    }

    /// Takes the states of inventories away that are no longer configured: one of the same name begins anew.
    async fn forget(&self) -> Result<(), Failure> {
        let (mut gone, mut after) = (Vec::new(), None);
        loop {
            let (buckets, more) = self.buckets(ConfigKind::InventoryState, after)?;
            for bucket in &buckets {
                for state in bucket_configs(&self.view(), *bucket, ConfigKind::InventoryState)? {
                    let Some(name) = state.name else { continue };
                    if bucket_config(&self.view(), *bucket, ConfigKind::Inventory, &name.id)?.is_none() {
                        gone.push((*bucket, name.id));
                    }
                }
            }
            after = buckets.last().copied();
            // The rest is for the next round.
            if !more || gone.len() >= PAGE {
                break;
            }
        }
        for (bucket, id) in gone {
            self.note(bucket, &id, None).await?;
        }
        Ok(())
    }

    async fn note(&self, bucket: BucketId, id: &str, state: Option<State>) -> Result<(), Failure> {
        let (kind, id, body) = (ConfigKind::InventoryState, id.to_owned(), state.map(State::body));
        let command = Command::PutBucketConfig(PutBucketConfig { bucket, kind, id, body });
        self.meta.commit(self.meta.epoch(), command).await?;
        Ok(())
    }

    /// Makes the inventory of a configuration if it is due. `false`: it is not.
    async fn made(&self, bucket: BucketId, config: &BucketConfigRow, now_ms: u64, day: u64) -> Result<bool, Failure> {
        let plan = inventory::kept(&config.body).map_err(Failure::Refused)?;
        let known = bucket_config(&self.view(), bucket, ConfigKind::InventoryState, &plan.id)?;
        let (known, period) = (known.as_ref().and_then(State::of), plan.period(day));
        let state = match known {
            // What was begun is finished as it was begun, as long as it is not overdue itself.
            Some(state) if state.period >= period && !state.done => state,
            Some(state) if state.period >= period => return Ok(false),
            Some(_) | None => State { period, began_ms: now_ms, done: false },
        };
        let Some(source) = index::bucket_by_id(&self.view(), bucket)?.filter(|_| plan.enabled) else {
            return Ok(false);
        };
        let job = Job { source, plan, seq: config.seq };
        // Before it is begun: where nothing may be put there is nothing to begin, however often it is tried.
        self.target(&job).await?;
        if known != Some(state) {
            self.note(bucket, &job.plan.id, Some(state)).await?;
        }
        let files = self.make(&job, state.began_ms).await?;
        self.note(bucket, &job.plan.id, Some(State { done: true, ..state })).await?;
        tracing::info!(bucket = job.source.name, id = job.plan.id, files, "an inventory was made");
        Ok(true)
    }

    /// All objects of one, in the order in which a reader may trust them.
    async fn make(&self, job: &Job, began_ms: u64) -> Result<usize, Failure> {
        let directory = job.plan.directory(&job.source.name);
        let (mut files, mut at) = (Vec::new(), Some(At::default()));
        while let Some(from) = at {
            if files.len() == FILES {
                return Err(Failure::TooLarge);
            }
            let key = format!("{directory}/data/{}.csv.gz", file_name(job, began_ms, files.len()));
            let (rows, body) = file::body();
            let meta = self.meta.as_ref();
            let stored = async { self.put(job, &key, "application/gzip", body).await };
            let both = async { tokio::join!(rows.write(meta, &job.source, &job.plan, from), stored) };
            let late = |_| Failure::Late(FILE_PATIENCE);
            let (written, stored) = timeout(FILE_PATIENCE, both).await.map_err(late)?;
            // What was not stored ends the writing without a fault of its own.
            stored?;
            let written = written?;
            files.push(json!({ "key": key, "size": written.bytes, "MD5checksum": written.md5 }));
            at = written.next;
        }
        let count = files.len();
        let manifest = Bytes::from(manifest(job, began_ms, files).to_string());
        let sum = hex::encode(Md5::digest(&manifest));
        let at = format!("{directory}/{}", stamp(began_ms));
        self.put_small(job, &format!("{at}/manifest.json"), "application/json", manifest).await?;
        self.put_small(job, &format!("{at}/manifest.checksum"), "text/plain", sum.into()).await?;
        Ok(count)
    }

    async fn put_small(&self, job: &Job, key: &str, content_type: &str, bytes: Bytes) -> Result<(), Failure> {
        let body: Body = Box::pin(futures::stream::iter([Ok(bytes)]));
        let stored = timeout(PATIENCE, self.put(job, key, content_type, body)).await;
        stored.map_err(|_| Failure::Late(PATIENCE))?
    }

    async fn put(&self, job: &Job, key: &str, content_type: &str, body: Body) -> Result<(), Failure> {
        let bucket = self.target(job).await?;
        let default = || encryption::default_of(&bucket);
        let request = PutRequest {
            encrypt: job.plan.protection.clone().unwrap_or_else(default),
            bucket,
            key: key.to_owned(),
            meta: ObjectMeta { content_type: content_type.to_owned(), ..ObjectMeta::default() },
            length: None,
            condition: Condition::None,
            claims: Claims::default(),
            attached: Attached::default(),
        };
        self.gateway.put_object(request, body).await?;
        Ok(())
    }

    /// The destination as it is now, if it lets the inventory in and that is still wanted.
    async fn target(&self, job: &Job) -> Result<BucketRow, Failure> {
        let now = bucket_config(&self.view(), job.source.bucket_id(), ConfigKind::Inventory, &job.plan.id)?;
        if now.is_none_or(|row| row.seq != job.seq) {
            return Err(Failure::Changed);
        }
        let meta: &dyn MetadataClient = self.meta.as_ref();
        inventory::target(meta, &job.source, &job.plan).await.map_err(Failure::Refused)
    }
}

/// The same for the same file of the same inventory, whoever makes it.
fn file_name(job: &Job, began_ms: u64, number: usize) -> String {
    let named = format!("{} {} {began_ms} {number}", job.source.id, job.plan.id);
    hex::encode(&blake3::hash(named.as_bytes()).as_bytes()[..16])
}

/// A time in names, to the minute.
fn stamp(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default().strftime("%Y-%m-%dT%H-%MZ").to_string()
}

fn manifest(job: &Job, began_ms: u64, files: Vec<Value>) -> Value {
    json!({
        "sourceBucket": job.source.name,
        "destinationBucket": format!("arn:aws:s3:::{}", job.plan.bucket),
        "version": "2016-11-30",
        "creationTimestamp": began_ms.to_string(),
        "fileFormat": "CSV",
        "fileSchema": job.plan.schema(),
        "files": files,
    })
}
