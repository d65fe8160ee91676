//! A crash at every position of a workload, with every way in which the medium may have kept what was not synced: what
//! was acknowledged is there, what was not is there whole or not at all, and no torn tail is called bit rot.
use super::*;
use crate::sabotage::SabotageSet;
use codec::segment::JournalHead;

pub const SHARDS: [usize; 8] = [100, 9000, 20_000, 40, 30_000, 100, 4088, 60_000];
pub const ENTRIES: u64 = 6;

/// What was acknowledged, and the position of the acknowledgement.
#[derive(Default)]
pub struct Acks {
    pub shards: Vec<(u64, usize, u64)>,
    pub entries: Vec<(Lsn, Bytes, u64)>,
}

/// Small segments, so that several are begun; a restart in the middle.
fn small() -> NodeConfig {
    NodeConfig { data_segment: 64 << 10, journal_segment: 24 << 10, preallocate_step: 16 << 10, ..config() }
}

pub async fn workload(sabotage: SabotageSet) -> (Trace, Acks) {
    let trace = Trace::with_sabotage(1, sabotage);
    format_all(&trace);
    let (drive, all) = (drive_id(0), entries(ENTRIES, 3000));
    let mut acks = Acks::default();
    for round in 0..2 {
        let node = open_with(&trace, memory_kv(), small()).await;
        node.begin(EPOCH).await.unwrap();
        let first = round * ENTRIES / 2;
        node.journal_begin(drive, JournalHead { ensemble: round, first_lsn: Lsn(first + 1) }).await.unwrap();
        for i in 0..SHARDS.len() / 2 {
            let i = i + round as usize * SHARDS.len() / 2;
            put(&node, drive, i as u64, SHARDS[i]).await.unwrap();
            acks.shards.push((i as u64, SHARDS[i], trace.mark(format!("shard {i}")) + 1));
        }
        for lsn in first..first + ENTRIES / 2 {
            let entry = &all[lsn as usize];
            let (header, payload) = batch(std::slice::from_ref(entry));
            node.journal_append(drive, header, payload, Reserve::Client).await.unwrap();
            acks.entries.push((Lsn(lsn + 1), entry.clone(), trace.mark(format!("entry {lsn}")) + 1));
        }
        node.stop().await;
    }
    (trace, acks)
}

/// What is wrong with an image of a crash at `position`; `None` when nothing is.
pub async fn judge(image: &Trace, acks: &Acks, position: u64) -> Option<String> {
    let drive = drive_id(0);
    let node = open_with(image, memory_kv(), small()).await;
    let mut wrong = None;
    for (i, len, acked) in &acks.shards {
        match get(&node, drive, *i, *len).await {
            Ok(bytes) if bytes == noise(*i, *len) => {}
            Ok(_) => wrong = Some(format!("wrong bytes of shard {i}")),
            Err(error) if *acked <= position => wrong = Some(format!("shard {i} was acknowledged: {error}")),
            Err(ReadError::NotFound | ReadError::UnknownDrive(_)) => {}
            Err(error) => wrong = Some(format!("shard {i} was never acknowledged, and is not absent: {error}")),
        }
    }
    for (lsn, entry, acked) in &acks.entries {
        match node.journal_read(drive, *lsn, 0..entry.len() as u32).await {
            Ok(bytes) if bytes == *entry => {}
            Ok(_) => wrong = Some(format!("wrong bytes of entry {lsn}")),
            Err(error) if *acked <= position => wrong = Some(format!("entry {lsn} was acknowledged: {error}")),
            Err(_) => {}
        }
    }
    if let Ok(damage) = node.verify(drive).await
        && !damage.is_empty()
    {
        wrong = Some(format!("a crash was called bit rot: {damage:?}"));
    }
    node.stop().await;
    wrong
}

/// Tries every position with `random` random choices besides the systematic ones; the first thing that is wrong.
pub async fn explore(trace: &Trace, acks: &Acks, random: usize) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    for position in 0..=trace.position() {
        let point = trace.point(position);
        for choice in point.choices(random, 11) {
            let image = point.image(&choice);
            // The same image may have been acknowledged more at a later position.
            let acked = acks.shards.iter().filter(|a| a.2 <= position).count()
                + acks.entries.iter().filter(|a| a.2 <= position).count();
            if !seen.insert((image.fingerprint(), acked)) {
                continue;
            }
            if let Some(wrong) = judge(image.trace(), acks, position).await {
                return Some(format!("position {position}, {choice:?}: {wrong}"));
            }
        }
    }
    None
}

#[tokio::test]
async fn r5_r7_a_crash_anywhere_loses_nothing_acknowledged() {
    let (trace, acks) = workload(SabotageSet::default()).await;
    assert_eq!(explore(&trace, &acks, 6).await, None);
}

#[tokio::test]
async fn after_a_crash_the_node_writes_on_and_a_second_crash_loses_nothing_either() {
    let (trace, acks) = workload(SabotageSet::default()).await;
    let step = (trace.position() / 12).max(1);
    for position in (0..=trace.position()).step_by(step as usize) {
        let point = trace.point(position);
        for choice in point.choices(2, 5).take(12) {
            let image = point.image(&choice);
            let again = image.trace();
            if probe(again.disk(0) as Arc<dyn Disk>, Some(CLUSTER)).identity.is_none() {
                continue;
            }
            let node = open_with(again, memory_kv(), small()).await;
            node.begin(Epoch(EPOCH.0 + 1)).await.unwrap();
            put(&node, drive_id(0), 500, 30_000).await.unwrap();
            let acked = again.position();
            put(&node, drive_id(0), 501, 30_000).await.unwrap();
            node.stop().await;
            for second in again.point(acked).choices(2, 7).take(8) {
                let image = again.image(acked, &second);
                assert_eq!(judge(image.trace(), &acks, position).await, None, "{position} {choice:?} {second:?}");
                let node = open_with(image.trace(), memory_kv(), small()).await;
                assert_readable(&node, drive_id(0), 500, 30_000).await;
                node.stop().await;
            }
        }
    }
}
