//! The workloads that are crashed at every step: one for each operation that changes what a store holds.

use crate::crash::{Losable, Recording, mix};
use crate::oracle::Wrong;
use crate::record::Recorder;
use crate::world::{Shape, noise, text};
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use rustix::io::Errno;
use storage_node::disk::DiskOp;
use storage_node::disk::faulty::{CrashChoice, Fault, What};

fn failed(error: impl std::fmt::Display) -> Wrong {
    Wrong::new("the workload failed", error.to_string())
}

/// A small object: it rides in the journal.
pub fn small(seed: u64) -> Bytes {
    match seed % 3 {
        0 => text(seed, 300 + (seed as usize * 977) % 2500),
        _ => noise(seed, 100 + (seed as usize * 613) % 2000),
    }
}

/// A large object: it goes into stripes.
pub fn large(seed: u64) -> Bytes {
    noise(seed, 9_000 + (seed as usize * 7919) % 22_000)
}

/// A store with a bucket and `small` small and `large` large objects, named s0.. and l0...
async fn prepared(drives: usize, shape: &Shape, smalls: u64, larges: u64) -> Result<Recorder, Wrong> {
    let recorder = Recorder::format(drives, shape.clone()).await?;
    recorder.bucket().await.map_err(failed)?;
    let (recorder_ref, puts) = (&recorder, 0..smalls);
    let puts = puts.map(|i| async move { recorder_ref.put_as(&format!("s{i}"), &small(1000 + i), i % 5 == 4).await });
    try_join_all(puts).await.map_err(failed)?;
    for i in 0..larges {
        recorder.put(&format!("l{i}"), &large(2000 + i)).await.map_err(failed)?;
    }
    recorder.from_here();
    recorder.may_lose(recorder.spare(), None);
    Ok(recorder)
}

/// The first start: formatting, register, first entries.
pub async fn first_start(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = Recorder::format(drives, shape.clone()).await?;
    recorder.bucket().await.map_err(failed)?;
    Ok(recorder.finish("first start").await)
}

/// PUT of small objects: one by one, then several at once.
pub async fn put_small(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 3, 1).await?;
    for i in 0..8 {
        recorder.put_as(&format!("new{i}"), &small(i), i == 3).await.map_err(failed)?;
    }
    for round in 0..4u64 {
        let keys: Vec<String> = (0..4).map(|i| format!("many{round}-{i}")).collect();
        let puts = keys.iter().zip(0u64..).map(|(key, i)| {
            let bytes = small(100 + round * 10 + i);
            let recorder = &recorder;
            async move { recorder.put(key, &bytes).await }
        });
        try_join_all(puts).await.map_err(failed)?;
    }
    Ok(recorder.finish("put small").await)
}

/// PUT of large objects: one by one, then several at once, some of them with chunks that are there already.
pub async fn put_large(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 3, 1).await?;
    for i in 0..5 {
        recorder.put_as(&format!("new{i}"), &large(i), i == 3).await.map_err(failed)?;
    }
    let twice: Bytes = [large(0), large(900)].concat().into();
    let bodies = [("one", large(50)), ("two", twice), ("three", large(52)), ("same", large(50))];
    let puts = bodies.iter().map(|(key, bytes)| recorder.put(key, bytes));
    try_join_all(puts).await.map_err(failed)?;
    Ok(recorder.finish("put large").await)
}

/// Overwrites, of small by large and the reverse, several of one key at once at the end.
pub async fn overwrite(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 4, 2).await?;
    for i in 0..10 {
        let bytes = if i % 3 == 2 { large(300 + i) } else { small(300 + i) };
        let key = if i % 2 == 0 { "s1".to_owned() } else { format!("l{}", i % 2) };
        recorder.put(&key, &bytes).await.map_err(failed)?;
    }
    let bodies: Vec<Bytes> = (0..4).map(|i| if i == 2 { large(400) } else { small(400 + i) }).collect();
    try_join_all(bodies.iter().map(|bytes| recorder.put("s0", bytes))).await.map_err(failed)?;
    Ok(recorder.finish("overwrite").await)
}

/// DELETE, and PUT again of what was deleted.
pub async fn delete(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 12, 3).await?;
    for i in 0..8 {
        recorder.delete(&format!("s{i}")).await.map_err(failed)?;
    }
    for i in 0..3 {
        recorder.delete(&format!("l{i}")).await.map_err(failed)?;
    }
    // The same bytes again: their chunks are condemned by now and must be revived.
    recorder.put("s0", &small(1000)).await.map_err(failed)?;
    recorder.put("l0", &large(2000)).await.map_err(failed)?;
    let keys: Vec<String> = (8..12).map(|i| format!("s{i}")).collect();
    try_join_all(keys.iter().map(|key| recorder.delete(key))).await.map_err(failed)?;
    Ok(recorder.finish("delete").await)
}

/// DeleteObjects.
pub async fn multi_delete(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 30, 3).await?;
    for round in 0..8u64 {
        let mut keys: Vec<String> = (0..3).map(|i| format!("s{}", round * 3 + i)).collect();
        keys.extend((round < 3).then(|| format!("l{round}")));
        keys.push("never-there".to_owned());
        recorder.delete_many(&keys).await.map_err(failed)?;
        if round % 3 == 1 {
            recorder.put(&format!("between{round}"), &small(round)).await.map_err(failed)?;
        }
    }
    let both = [vec!["s24".to_owned(), "s25".to_owned()], vec!["s26".to_owned(), "s27".to_owned()]];
    try_join_all(both.iter().map(|keys| recorder.delete_many(keys))).await.map_err(failed)?;
    Ok(recorder.finish("multi-delete").await)
}

/// Multipart: created, parts stored and replaced, completed, aborted.
pub async fn multipart(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 2, 1).await?;
    for round in 0..3u64 {
        let upload = recorder.create_upload(&format!("up{round}")).await.map_err(failed)?;
        let first = if round == 1 { large(500 + round) } else { small(500 + round) };
        recorder.put_part(&upload, 1, &small(600 + round)).await.map_err(failed)?;
        let etag = recorder.put_part(&upload, 1, &first).await.map_err(failed)?;
        recorder.complete(&upload, &[(1, etag, first)]).await.map_err(failed)?;
    }
    for round in 0..3u64 {
        let upload = recorder.create_upload(&format!("gone{round}")).await.map_err(failed)?;
        let bodies = [large(700 + round), small(700 + round)];
        let parts = bodies.iter().zip([3, 5]).map(|(bytes, number)| recorder.put_part(&upload, number, bytes));
        try_join_all(parts).await.map_err(failed)?;
        recorder.abort(&upload, &[3, 5]).await.map_err(failed)?;
    }
    // Two parts; the first has the least size that S3 allows, and compresses to nothing.
    let upload = recorder.create_upload("two").await.map_err(failed)?;
    let (zeros, rest) = (Bytes::from(vec![0; 5 << 20]), large(800));
    let first = recorder.put_part(&upload, 1, &zeros).await.map_err(failed)?;
    let second = recorder.put_part(&upload, 2, &rest).await.map_err(failed)?;
    recorder.complete(&upload, &[(1, first, zeros), (2, second, rest)]).await.map_err(failed)?;
    // Small again at the end, so that most images are cheap to read.
    recorder.put("two", &small(801)).await.map_err(failed)?;
    Ok(recorder.finish("multipart").await)
}

/// Sealing, alone and while others write, read and delete.
pub async fn sealing(drives: usize, shape: &Shape) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 10, 1).await?;
    recorder.seal().await.map_err(failed)?;
    for i in 0..4 {
        recorder.put(&format!("s{i}"), &small(1100 + i)).await.map_err(failed)?;
    }
    recorder.delete("s5").await.map_err(failed)?;
    recorder.seal().await.map_err(failed)?;
    let writes = async {
        for i in 0..4 {
            recorder.put(&format!("beside{i}"), &small(1200 + i)).await.map_err(failed)?;
            recorder.delete(&format!("s{}", 6 + i)).await.map_err(failed)?;
        }
        Ok::<(), Wrong>(())
    };
    let seal = async { recorder.seal().await.map_err(failed) };
    let (writes, sealed) = futures::future::join(writes, seal).await;
    writes.and(sealed)?;
    recorder.seal().await.map_err(failed)?;
    // What is sealed already is sealed data for a new object too.
    recorder.put("again", &small(1100)).await.map_err(failed)?;
    Ok(recorder.finish("sealing").await)
}

/// The mark of a fault.
const FAULT: &str = "fault";

/// How a drive dies in the middle of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its directory is gone, for good.
    Removed,
    /// Every operation fails; after the crash it is there again, with what it had.
    Errors,
    /// One sync of a journal segment fails.
    OneSync,
    /// Writes of the journal fail from some time on.
    JournalWrites,
}

/// A change of the ensemble: a drive that keeps the journal dies in the middle.
pub async fn ensemble_change(drives: usize, shape: &Shape, death: Death) -> Result<Recording, Wrong> {
    let recorder = prepared(drives, shape, 4, 1).await?;
    recorder.put("before", &small(1)).await.map_err(failed)?;
    let member = journal_member(&recorder);
    recorder.trace.mark(FAULT);
    match death {
        Death::Removed => recorder.trace.remove_drive(member),
        Death::Errors => drop(recorder.trace.inject(Fault::error(Errno::IO).drive(member))),
        Death::OneSync => {
            let fault = Fault::error(Errno::IO).drive(member).on(DiskOp::SyncData).path("journal/").nth(2);
            recorder.trace.inject(fault);
        }
        Death::JournalWrites => {
            let fault = Fault::error(Errno::IO).drive(member).on(DiskOp::Write).path("journal/").from(2);
            recorder.trace.inject(fault);
        }
    }
    for i in 0..3 {
        recorder.put(&format!("during{i}"), &small(20 + i)).await.map_err(failed)?;
    }
    recorder.put("large", &large(30)).await.map_err(failed)?;
    recorder.delete("s0").await.map_err(failed)?;
    let keys: Vec<String> = (0..3).map(|i| format!("after{i}")).collect();
    let puts = keys.iter().zip(40u64..).map(|(key, seed)| {
        let (bytes, recorder) = (small(seed), &recorder);
        async move { recorder.put(key, &bytes).await }
    });
    for result in join_all(puts).await {
        result.map_err(failed)?;
    }
    recorder.trace.heal_all();
    let spare = recorder.spare();
    let mut recording = recorder.finish(&format!("ensemble change ({death:?})")).await;
    recording.losable.extend(while_changing(&recording, member, spare, death == Death::Removed));
    Ok(recording)
}

/// From a failure until the tail is on the new member (the next acknowledgement says so), one of the m losses that the store
/// survives is this one; and the loss of a drive that is gone for good counts for ever.
fn while_changing(recording: &Recording, member: usize, spare: usize, gone: bool) -> Vec<Losable> {
    let all: Vec<usize> = (0..recording.trace.disks().len()).collect();
    let fewer = |from| match spare {
        1 if gone => Losable { from, drives: Vec::new(), count: 0 },
        1 => Losable { from, drives: vec![member], count: 1 },
        _ => Losable { from, drives: all.clone(), count: spare - 1 },
    };
    let mut rules: Vec<Losable> = Vec::new();
    let mut changing = false;
    for event in recording.trace.events() {
        match event.what {
            What::Damage { .. } if gone => rules.push(fewer(event.position)),
            What::Mark(ref text) if text == FAULT && !gone => {
                changing = true;
                rules.push(fewer(event.position));
            }
            What::Op { ok: false, drive, ref path, .. } if drive == member && path.starts_with("journal/") && !gone => {
                changing = true;
                rules.push(fewer(event.position));
            }
            What::Mark(ref text) if changing && text.starts_with("ack ") => {
                changing = false;
                rules.push(Losable { from: event.position + 1, drives: all.clone(), count: spare });
            }
            _ => {}
        }
    }
    rules
}

/// The number of a drive that keeps the journal: the one that was written to last, as the trace has it.
fn journal_member(recorder: &Recorder) -> usize {
    let events = recorder.trace.events();
    let write = events.iter().rev().find_map(|event| match &event.what {
        What::Op { drive, op: DiskOp::Write, path, .. } if path.starts_with("journal/") => Some(*drive),
        _ => None,
    });
    write.unwrap_or(0)
}

/// Recoveries from crashes of another recording, and some work after each: to be crashed again.
pub async fn recoveries(of: &Recording, count: u64) -> Result<Vec<Recording>, Wrong> {
    let mut recordings = Vec::new();
    for i in 0..count {
        let position = of.from + (of.to - of.from) * (i + 1) / (count + 1);
        let choice = CrashChoice::Random(mix(crate::crash::seed(), i));
        let image = of.trace.image(position, &choice);
        let oracle = of.oracle.crashed(position + of.offset);
        let offset = position + of.offset;
        let recorder = Recorder::over(image.trace().clone(), of.shape.clone(), oracle, offset).await?;
        recorder.may_lose_as(&of.losable, position);
        recorder.settle().await?;
        recorder.may_lose_as(&of.losable, of.to);
        if i % 2 == 0 {
            recorder.put("recovered", &small(9000 + i)).await.map_err(failed)?;
        }
        let name = format!("recovery of {} at {position}", of.name);
        recordings.push(recorder.finish(&name).await);
    }
    Ok(recordings)
}
