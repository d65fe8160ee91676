//! Carrying out a history, and what must be true after each step.

use crate::ops::{Body, Found, Op, Random, UPLOADS};
use crate::reference::{Change, Reference};
use crate::store::{BUCKET, Store};
use crate::{Wrong, quiet, wrong};
use codec::effect::UploadName;
use codec::id::StripeId;
use futures::future::join_all;
use gateway::engine::CopyRequest;
use metadata::command::Condition;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tests::keeping::{self, HOUR};

/// A store, what must be in it, and what is under way.
pub struct Run {
    pub store: Store,
    pub reference: Reference,
    /// Open uploads.
    uploads: Mutex<BTreeMap<u8, Upload>>,
    /// Objects read and compared.
    pub compared: u64,
}

/// An open upload, and the entity tag of its part.
#[derive(Clone, Debug, Default)]
struct Upload {
    name: UploadName,
    etag: String,
}

/// What operations of one step did.
#[derive(Default)]
struct Log {
    changes: Vec<Change>,
    /// Uploads that were written to or ended, with the part that they have then.
    uploads: Vec<(u8, Option<Body>)>,
}

fn key(n: u8) -> String {
    format!("key-{n}")
}

fn upload_key(n: u8) -> String {
    format!("upload-{n}")
}

impl Run {
    pub async fn new(seed: u64) -> Result<Run, Wrong> {
        let store = Store::start(seed).await?;
        Ok(Run { store, reference: Reference::default(), uploads: Mutex::default(), compared: 0 })
    }

    fn uploads(&self) -> MutexGuard<'_, BTreeMap<u8, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step, and a look at everything.
    pub async fn step(&mut self, op: &Op) -> Result<(), Wrong> {
        match op {
            Op::Restart(found) => self.store.restart(*found).await?,
            Op::Backup => self.store.take_backup(),
            Op::Heal => self.heal().await?,
            Op::Together(ops) => self.together(ops).await?,
            Op::Crash { ops, seed, found } => self.crash(ops, *seed, *found).await?,
            op => self.together(std::slice::from_ref(op)).await?,
        }
        self.check().await
    }

    async fn together(&mut self, ops: &[Op]) -> Result<(), Wrong> {
        let log = self.act(ops).await?;
        self.reference.apply(log.changes);
        for (upload, part) in log.uploads {
            match part {
                Some(body) => drop(self.reference.parts.insert(upload, body)),
                None => drop(self.reference.parts.remove(&upload)),
            }
        }
        Ok(())
    }

    async fn act(&self, ops: &[Op]) -> Result<Log, Wrong> {
        let log = Mutex::new(Log::default());
        let alone = ops.len() == 1;
        let all = join_all(ops.iter().map(|op| self.one(op, &log, alone))).await;
        all.into_iter().collect::<Result<(), Wrong>>()?;
        Ok(log.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn crash(&mut self, ops: &[Op], seed: u64, found: Found) -> Result<(), Wrong> {
        self.store.record(true);
        let from = self.store.position();
        let log = self.act(ops).await?;
        let to = self.store.position();
        let position = from + Random::new(seed ^ 1).below(to - from + 1);
        self.store.crash(position, seed, found).await?;
        self.reference.crashed(log.changes, position);
        let doubtful: Vec<(String, Vec<Option<Body>>)> = self
            .reference
            .possible()
            .filter(|(_, possible)| possible.len() > 1)
            .map(|(key, possible)| (key.to_owned(), possible.to_vec()))
            .collect();
        for (key, possible) in doubtful {
            let got = self.store.world().get(BUCKET, &key).await;
            let got = got.map_err(|error| wrong("can't be read after a crash", format!("{key}: {error}")))?;
            let is = |body: &&Option<Body>| body.as_ref().map(Body::bytes) == got;
            let Some(body) = possible.iter().find(is).cloned() else {
                return Err(wrong("another object after a crash", format!("{key}, {possible:?}")));
            };
            self.reference.settle(&key, body);
        }
        for (upload, _) in log.uploads {
            self.reference.parts.remove(&upload);
            self.uploads().remove(&upload);
        }
        self.forget_uploads().await
    }

    /// Ends uploads that a crash left in doubt: it may have undone that they were opened, or that they ended.
    async fn forget_uploads(&self) -> Result<(), Wrong> {
        let world = self.store.world();
        let bucket = world.bucket(BUCKET).await.map_err(|error| wrong("no bucket", error))?.bucket_id();
        for (upload, _) in world.uploads(bucket).await.map_err(|error| wrong("no uploads", error))? {
            let name = upload.name.unwrap_or_default();
            let known = self.uploads().values().any(|open| open.name == name);
            if !known {
                world.abort(&name).await.map_err(|error| wrong("not aborted", error))?;
            }
        }
        Ok(())
    }

    /// One operation, beside others unless it is `alone`.
    async fn one(&self, op: &Op, log: &Mutex<Log>, alone: bool) -> Result<(), Wrong> {
        let world = self.store.world();
        let metadata = &world.metadata;
        let refused = |error: &dyn std::fmt::Display| wrong("refused", format!("{op:?}: {error}"));
        match op {
            Op::Put { key: n, body, encrypt } => {
                let change = self.begin(key(*n), Some(body.clone()));
                let put = world.put_with(BUCKET, &key(*n), &body.bytes(), *encrypt, Condition::None).await;
                put.map_err(|error| refused(&error))?;
                self.end(change, log);
            }
            Op::Get(n) => {
                let got = world.get(BUCKET, &key(*n)).await.map_err(|error| refused(&error))?;
                if got != self.reference.get(&key(*n)).map(Body::bytes) {
                    return Err(wrong("another object", key(*n)));
                }
            }
            Op::Delete(n) => {
                let change = self.begin(key(*n), None);
                world.delete(BUCKET, &key(*n)).await.map_err(|error| refused(&error))?;
                self.end(change, log);
            }
            Op::Copy { from, to } => {
                let Some(body) = self.reference.get(&key(*from)).cloned() else { return Ok(()) };
                let change = self.begin(key(*to), Some(body));
                world.copy(BUCKET, &key(*from), &key(*to), false).await.map_err(|error| refused(&error))?;
                self.end(change, log);
            }
            Op::LateCopy { from, to, reclaimed } => self.late_copy(*from, *to, *reclaimed, log, alone).await?,
            Op::Part { upload, body } => self.put_part(*upload, body, log).await?,
            Op::Complete(upload) => self.complete(*upload, log).await?,
            Op::Abort(upload) => {
                let Some(open) = self.uploads().remove(upload) else { return Ok(()) };
                log_of(log).uploads.push((*upload, None));
                world.abort(&open.name).await.map_err(|error| refused(&error))?;
            }
            Op::Hours(hours) => self.pass(hours * HOUR).await?,
            Op::Reclaim => {
                let round = metadata.reclaimer().ok_or_else(|| wrong("reads only", ""))?.round().await;
                // Beside a drive that goes, a pass may end early; alone it has no reason to.
                if alone || round.as_ref().is_ok_and(|report| report.held.is_some()) {
                    let report = round.map_err(|error| refused(&error))?;
                    if let Some(held) = report.held {
                        return Err(wrong("reclaim is held", held));
                    }
                }
            }
            Op::Rewrite(n) => {
                let ids: Vec<StripeId> = quiet::stripes(&self.store)?
                    .into_iter()
                    .filter(|(descriptor, _)| descriptor.class == codec::stripe::StripeClass::Data)
                    .map(|(descriptor, _)| descriptor.id)
                    .collect();
                if let Some(id) = ids.get(*n as usize % ids.len().max(1)) {
                    let rewritten = metadata.reclaimer().ok_or_else(|| wrong("reads only", ""))?.rewrite(&[*id]).await;
                    if alone {
                        rewritten.map_err(|error| refused(&error))?;
                    }
                }
            }
            Op::Repair => {
                metadata.check_drives().await;
                let keeper = metadata.keeper().ok_or_else(|| wrong("reads only", ""))?;
                keeper.run_once().await.map_err(|error| refused(&error))?;
            }
            Op::Inventory => {
                let keeper = metadata.keeper().ok_or_else(|| wrong("reads only", ""))?;
                keeper.take_inventory().await.map_err(|error| refused(&error))?;
            }
            Op::Scrub => quiet::scrub(&self.store).await?,
            // A drive that turns out to be gone while what is on it is read back ends a seal; the next one goes on without it.
            Op::Seal => {
                if metadata.seal_now().await.is_err() {
                    metadata.check_drives().await;
                    metadata.seal_now().await.map_err(|error| refused(&error))?;
                }
            }
            Op::Checkpoint => {
                if metadata.checkpoint_now().await.is_err() {
                    metadata.check_drives().await;
                    metadata.checkpoint_now().await.map_err(|error| refused(&error))?;
                }
            }
            Op::Lose(drive) => {
                if !alone {
                    // The others are in the middle of something then.
                    tokio::time::sleep(std::time::Duration::from_millis(u64::from(*drive))).await;
                }
                self.store.lose(*drive).await;
            }
            Op::Return(drive) => self.store.give_back(*drive).await?,
            Op::Rot { drive, seed } => self.store.rot(*drive, *seed),
            Op::Heal | Op::Backup | Op::Restart(_) | Op::Together(_) | Op::Crash { .. } => {}
        }
        Ok(())
    }

    fn begin(&self, key: String, body: Option<Body>) -> Change {
        Change { key, body, asked: self.store.position(), done: None }
    }

    fn end(&self, change: Change, log: &Mutex<Log>) {
        let done = Some(self.store.position());
        log_of(log).changes.push(Change { done, ..change });
    }

    /// Lets time pass, for the drives' keeper and for the steady count.
    pub async fn pass(&self, ms: u64) -> Result<(), Wrong> {
        keeping::pass(self.store.world(), &self.store.clock, ms).await.map_err(|error| wrong("no tick", error))
    }

    /// R11: between a lookup and its commit, what was found is deleted. The commit revives it, or is told that it is gone.
    async fn late_copy(&self, from: u8, to: u8, reclaimed: bool, log: &Mutex<Log>, alone: bool) -> Result<(), Wrong> {
        let world = self.store.world();
        let Some(body) = self.reference.get(&key(from)).cloned() else { return Ok(()) };
        let source = world.version(BUCKET, &key(from)).await.map_err(|error| wrong("no version", error))?;
        let source = source.ok_or_else(|| wrong("no version", key(from)))?;
        let change = self.begin(key(from), None);
        world.delete(BUCKET, &key(from)).await.map_err(|error| wrong("not deleted", error))?;
        self.end(change, log);
        if reclaimed && alone {
            self.pass(8 * 24 * HOUR).await?;
            let reclaimer = world.metadata.reclaimer().ok_or_else(|| wrong("reads only", ""))?;
            reclaimer.round().await.map_err(|error| wrong("no round", error))?;
        }
        let bucket = world.bucket(BUCKET).await.map_err(|error| wrong("no bucket", error))?;
        let change = self.begin(key(to), Some(body));
        let request = CopyRequest {
            attached: Default::default(),
            source,
            bucket,
            key: key(to),
            meta: None,
            encrypt: gateway::protect::Protection::Plain,
            source_key: None,
            condition: Condition::None,
            checksum: None,
        };
        match world.gateway.copy_object(request).await {
            Ok(_) => self.end(change, log),
            Err(_) if reclaimed => {}
            Err(error) => return Err(wrong("a late copy was refused", error)),
        }
        Ok(())
    }

    async fn put_part(&self, upload: u8, body: &Body, log: &Mutex<Log>) -> Result<(), Wrong> {
        let world = self.store.world();
        let known = self.uploads().get(&upload).map(|open| open.name.clone());
        let name = match known {
            Some(name) => name,
            None => {
                let opened = world.create_upload(BUCKET, &upload_key(upload)).await;
                let name = opened.map_err(|error| wrong("no upload", error))?;
                self.uploads().insert(upload, Upload { name: name.clone(), etag: String::new() });
                name
            }
        };
        log_of(log).uploads.push((upload, Some(body.clone())));
        let put = world.put_part(&name, 1, &body.bytes()).await.map_err(|error| wrong("a part was refused", error))?;
        self.uploads().insert(upload, Upload { name, etag: put.etag });
        Ok(())
    }

    async fn complete(&self, upload: u8, log: &Mutex<Log>) -> Result<(), Wrong> {
        let world = self.store.world();
        let Some(body) = self.reference.parts.get(&upload).cloned() else { return Ok(()) };
        let Some(open) = self.uploads().remove(&upload) else { return Ok(()) };
        log_of(log).uploads.push((upload, None));
        let change = self.begin(upload_key(upload), Some(body));
        world.complete(&open.name, &[(1, open.etag)]).await.map_err(|error| wrong("not completed", error))?;
        self.end(change, log);
        Ok(())
    }

    /// What must be true at every moment.
    pub async fn check(&mut self) -> Result<(), Wrong> {
        let world = self.store.world();
        for (key, possible) in self.reference.possible() {
            let got =
                world.get(BUCKET, key).await.map_err(|error| wrong("can't be read", format!("{key}: {error}")))?;
            if possible.last().and_then(Option::as_ref).map(Body::bytes) != got {
                return Err(wrong("another object", key));
            }
            self.compared += 1;
        }
        let bucket = world.bucket(BUCKET).await.map_err(|error| wrong("no bucket", error))?.bucket_id();
        let listed = world.list(bucket).await.map_err(|error| wrong("no list", error))?;
        let listed: Vec<String> = listed.into_iter().map(|version| version.key).collect();
        if listed != self.reference.keys() {
            return Err(wrong("the list", format!("{listed:?}, and not {:?}", self.reference.keys())));
        }
        for (upload, parts) in world.uploads(bucket).await.map_err(|error| wrong("no uploads", error))? {
            let name = upload.name.unwrap_or_default();
            let number = (0..UPLOADS).find(|number| self.uploads().get(number).is_some_and(|open| open.name == name));
            let expected = number.and_then(|number| self.reference.parts.get(&number)).map(Body::bytes);
            for part in parts {
                let content = part.content.unwrap_or_default();
                let got = world.read(&content, None).await.map_err(|error| wrong("a part can't be read", error))?;
                if Some(got) != expected {
                    return Err(wrong("another part", upload_key(number.unwrap_or(UPLOADS))));
                }
            }
        }
        quiet::nothing_reachable_is_gone(&self.store).await
    }

    /// Drives are back, and repair has ended.
    pub async fn heal(&mut self) -> Result<(), Wrong> {
        // A start closes all segments: scrub reads those. It also opens drives anew that take no writes any more.
        self.store.give_all_back().await?;
        self.store.restart(Found::Both).await?;
        quiet::mend(self).await?;
        // A segment's own header is written again when the next pass begins.
        quiet::mend(self).await?;
        self.store.all_is_well();
        Ok(())
    }
}

fn log_of(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
