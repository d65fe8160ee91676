//! Faults of all types, in data stripes, ledger stripes and the unsealed journal: all are found and called what they are,
//! nothing else is, all are mended, and every object is what it was.
//!
//! In rounds: damage, a whole scrub and an inventory, a comparison of what was found with what was done, repair until it is
//! quiet, and a second scrub. No round takes more of a stripe, or of a journal entry, than the code can mend.
#![allow(clippy::unwrap_used, missing_docs)]

mod faults;
mod medium;
mod store;

use codec::id::DriveId;
use codec::shard::ShardHeader;
use faults::{Counts, Expected, Fault, Injection, M, ON_RECORDS};
use medium::{Medium, Region, named, stripes};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};
use storage_node::client::Reserve;
use storage_node::disk::Disk;
use storage_node::keep::{Finding, FindingKind, ScrubOrder, ScrubState, ShardRef, Subject};
use storage_node::sabotage::Defect;
use store::Store;

/// How much of everything.
struct Size {
    objects: u64,
    rounds: u64,
    /// Objects that are put in each round, and stay in the journal until repair.
    unsealed: u64,
    /// Faults of each type in each region and round.
    each: usize,
    /// Segments that are cut off, and as many that are removed, in each round.
    segments: usize,
    /// Every second round begins with a drive that is gone.
    drives: bool,
}

#[derive(Default)]
struct Tally {
    counts: Counts,
    on_dead: BTreeMap<Fault, u64>,
    /// Findings about shards that no row names any more: what repair moved away from a bad place.
    left_behind: u64,
    /// Findings that say of a removed segment that it is not there, as of the last scrub: none once all that was in it has been
    /// made good.
    segments_gone: u64,
    /// Segments whose file this test removed.
    removed: HashSet<(DriveId, u64)>,
    /// Everything that was ever damaged.
    ever: HashSet<(DriveId, Subject)>,
    /// What must not have been, by what it is: how often, and one example.
    wrong: BTreeMap<String, (u64, String)>,
}

impl Tally {
    fn wrong(&mut self, what: String, example: impl std::fmt::Debug) {
        self.wrong.entry(what).or_insert_with(|| (0, format!("{example:?}"))).0 += 1;
    }
}

async fn drive_numbers(store: &Store) -> BTreeMap<DriveId, usize> {
    let drives = store.world.metadata.node().drives().await;
    let number = |path: &str| path.rsplit('/').next().and_then(|text| text.parse().ok());
    drives.iter().filter_map(|drive| Some((drive.id, number(&drive.path)?))).collect()
}

/// A whole pass over every drive that can be read, and what is known to be wrong then.
async fn scrub(store: &Store, drives: &[DriveId]) -> Vec<Finding> {
    let node = store.world.metadata.node();
    tokio::time::sleep(Duration::from_millis(3)).await;
    let before: BTreeMap<_, _> = node.scrub_status().await.into_iter().map(|s| (s.drive, s.last_pass_ms)).collect();
    for drive in drives {
        node.scrub_order(*drive, ScrubOrder::Start).await.unwrap();
    }
    let began = Instant::now();
    loop {
        let status = node.scrub_status().await;
        let is_done = |drive: &DriveId| {
            let status = status.iter().find(|status| status.drive == *drive).unwrap();
            status.state == ScrubState::Waiting && status.last_pass_ms > before[drive]
        };
        if drives.iter().all(is_done) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "scrub does not end: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut found = Vec::new();
    for drive in drives {
        found.extend(node.findings(*drive).await.unwrap());
    }
    found
}

/// What counts of what was found; the rest must have been damaged by this test, and be of no use to anybody.
fn that_count(store: &Store, found: Vec<Finding>, tally: &mut Tally) -> Vec<Finding> {
    let named = named(store);
    let mut counts = Vec::new();
    (tally.left_behind, tally.segments_gone) = (0, 0);
    for finding in found {
        let is_live = match finding.subject {
            Subject::Shard(id) => named.get(&id).is_some_and(|(drive, ..)| *drive == finding.drive),
            Subject::Blocks { segment, .. } if tally.removed.contains(&(finding.drive, segment)) => {
                tally.segments_gone += 1;
                continue;
            }
            Subject::Entries(..) | Subject::Blocks { .. } => true,
        };
        if is_live {
            counts.push(finding);
        } else {
            if !tally.ever.contains(&(finding.drive, finding.subject)) {
                tally.wrong(format!("never damaged: {}", finding.kind.name()), &finding);
            }
            tally.left_behind += 1;
        }
    }
    counts
}

/// Compares what was found with what was done.
fn compare(found: Vec<Finding>, injection: &Injection, tally: &mut Tally) {
    let mut seen = HashSet::new();
    for finding in found {
        let key = (finding.drive, finding.subject);
        match injection.expected.get(&key) {
            None => tally.wrong(format!("not injected: {}", finding.kind.name()), &finding),
            Some(expected) if expected.kind != finding.kind => {
                let Expected { fault, region, kind } = expected;
                let what = format!("{fault:?} in {region:?}: {}, and not {}", finding.kind.name(), kind.name());
                tally.wrong(what, &finding);
            }
            Some(expected) => {
                *tally.counts.entry((expected.fault, expected.region, finding.kind.name())).or_default() += 1;
            }
        }
        seen.insert(key);
    }
    for (key, Expected { fault, region, kind }) in &injection.expected {
        if !seen.contains(key) {
            tally.wrong(format!("{fault:?} in {region:?}, {}: not found", kind.name()), key);
        }
    }
}

/// Rounds of the keeper until nothing is left to be done.
async fn settle(store: &Store) {
    let keeper = store.keeper();
    let mut quiet = 0;
    for _ in 0..400 {
        let round = keeper.run_once().await.unwrap();
        let status = keeper.status();
        quiet = if round.is_busy() || !status.wounded.is_empty() { 0 } else { quiet + 1 };
        if quiet > 2 {
            return;
        }
        if !round.is_busy() && !status.wounded.is_empty() {
            // Those that wait for a drive, or leave one alone, go on.
            store.pass(61_000);
        }
    }
    panic!("repair does not come to rest: {:?}\n{}", keeper.status(), keeper.plan());
}

/// Every stripe at full strength, on distinct drives that are there, each shard verified from its medium.
async fn check_stripes(store: &Store, healthy: &[DriveId]) {
    let node = store.world.metadata.node();
    let mut asked: BTreeMap<DriveId, Vec<ShardRef>> = BTreeMap::new();
    for (descriptor, row) in stripes(store) {
        let mut drives = BTreeSet::new();
        for index in (0..descriptor.width()).filter(|&index| descriptor.is_present(index)) {
            let drive = row.drive(index).unwrap();
            assert!(healthy.contains(&drive), "a shard on a drive that is not there");
            assert!(drives.insert(drive), "two shards on one drive");
            let id = codec::id::ShardId { stripe: descriptor.id, index };
            asked.entry(drive).or_default().push(ShardRef { id, root: descriptor.root() });
        }
    }
    for (drive, shards) in asked {
        for batch in shards.chunks(512) {
            let answers = node.verify_shards(drive, batch.to_vec()).await.unwrap();
            answers.into_iter().for_each(|answer| assert_eq!(answer, Ok(())));
        }
    }
}

/// Shards of other stripes under the names of these.
async fn wrong_roots(store: &Store, injection: &mut Injection, away: &[DriveId], each: usize) {
    let node = store.world.metadata.node();
    // A drive refuses them; this is what one holds that did not.
    store.broken.inflict(Defect::AnotherRoot, true);
    for region in [Region::Data, Region::Ledger] {
        let mut all: Vec<_> = named(store).into_iter().filter(|(_, (_, _, of))| *of == region).collect();
        let mut done = 0;
        while done < each && !all.is_empty() {
            let (id, (drive, root, _)) = all.swap_remove(injection.below(all.len() as u64) as usize);
            if away.contains(&drive) || !injection.claim(&[Subject::Shard(id)]) {
                continue;
            }
            let header = node.read_shard_header(drive, id).await.unwrap();
            let len = header.payload_len();
            let payload = node.read_shard(drive, id, root, 0..len).await.unwrap();
            let mut descriptor = header.descriptor.clone();
            // The hash of another shard that exists: those of the others are no part of the root.
            let other =
                (0..descriptor.width()).find(|&index| index != id.index && descriptor.is_present(index)).unwrap();
            descriptor.hashes[usize::from(other)][0] ^= 1;
            let header = ShardHeader { descriptor, index: id.index };
            node.write_shard(drive, header, payload, Reserve::Client).await.unwrap();
            injection.expect((drive, Subject::Shard(id)), Fault::WrongRoot, region, FindingKind::WrongGeneration);
            done += 1;
        }
    }
    store.broken.inflict(Defect::AnotherRoot, false);
}

/// A drive that is away, or in whose place another one is.
struct Away {
    id: DriveId,
    number: usize,
    files: Vec<(String, Vec<u8>)>,
    foreign: bool,
}

const DIRS: [&str; 3] = ["", "segments", "journal"];

async fn take_away(store: &Store, injection: &mut Injection, round: u64) -> Away {
    let numbers: Vec<_> = drive_numbers(store).await.into_iter().collect();
    let (id, number) = numbers[injection.below(numbers.len() as u64) as usize];
    let away = Away { id, number, files: store.files(number, &DIRS), foreign: round % 4 == 3 };
    match away.foreign {
        true => {
            let text = "not a drive of anybody's\n";
            store.trace.replace_drive(number, &[("identity", text.as_bytes())]).unwrap();
        }
        false => store.trace.remove_drive(number),
    }
    store.world.metadata.check_drives().await;
    away
}

impl Away {
    /// Puts it back where it was.
    async fn back(self, store: &Store) {
        let node = store.world.metadata.node();
        if self.foreign {
            assert!(node.reopen(self.id).await.is_err(), "another drive was taken for it");
            let text = store.files(self.number, &DIRS);
            assert_eq!(text.len(), 1, "somebody wrote to a drive that is not ours");
        }
        let files: Vec<(&str, &[u8])> = self.files.iter().map(|(path, bytes)| (&path[..], &bytes[..])).collect();
        store.trace.replace_drive(self.number, &files).unwrap();
        let disk = store.trace.disk(self.number);
        for dir in ["segments", "journal"] {
            // Empty ones are not among its files.
            let _there_already = disk.create_dir(dir);
        }
        disk.sync_dir("").unwrap();
        node.reopen(self.id).await.unwrap();
        store.world.metadata.check_drives().await;
    }
}

async fn round(store: &mut Store, size: &Size, number: u64, tally: &mut Tally) {
    let mut injection = Injection::new(number + 1);
    store.put(size.unsealed, true).await;
    let all: Vec<DriveId> = drive_numbers(store).await.into_keys().collect();
    let away = if number % 2 == 1 && size.drives { Some(take_away(store, &mut injection, number).await) } else { None };
    let gone: Vec<DriveId> = away.iter().map(|away| away.id).collect();
    let there: Vec<DriveId> = all.iter().filter(|drive| !gone.contains(drive)).copied().collect();
    let mut lost: BTreeMap<(Fault, Region), u64> = BTreeMap::new();
    if let Some(away) = &away {
        let fault = if away.foreign { Fault::ForeignDrive } else { Fault::MissingDrive };
        for (id, (_, _, region)) in named(store).into_iter().filter(|(_, (drive, ..))| *drive == away.id) {
            assert!(injection.claim(&[Subject::Shard(id)]));
            *lost.entry((fault, region)).or_default() += 1;
        }
    }
    wrong_roots(store, &mut injection, &gone, size.each).await;
    let medium = Medium::read(store);
    if away.is_none() {
        for fault in [Fault::Truncated, Fault::MissingSegment] {
            injection.on_files(store, &medium, fault, "segments", size.segments);
            injection.on_files(store, &medium, fault, "journal", 1);
        }
    }
    for region in [Region::Ledger, Region::Journal, Region::Data, Region::Dead] {
        // A drive that is away takes its copy of each entry with it: two faults more are one too many.
        if region == Region::Journal && away.is_some() {
            continue;
        }
        // Each round begins with another fault: the last ones find few stripes that may lose another shard.
        let mut faults = ON_RECORDS;
        faults.rotate_left(usize::try_from(number).unwrap() % ON_RECORDS.len());
        for fault in faults {
            injection.on_records(store, &medium, fault, region, size.each);
        }
    }
    tally.removed.extend(&injection.removed);
    tally.ever.extend(injection.expected.keys().copied());
    let dead = medium.records.iter().filter(|record| record.region == Region::Dead);
    tally.ever.extend(dead.map(|record| (record.drive, record.subject)));
    for (fault, count) in &injection.on_dead {
        *tally.on_dead.entry(*fault).or_default() += count;
    }

    scrub(store, &there).await;
    let report = store.keeper().take_inventory().await.unwrap();
    assert_eq!(report.bad_rows, 0);
    // What lies on a drive that is away, or in whose place another one is, is unreachable: all of it, and nothing else.
    assert_eq!(report.unasked, lost.values().sum::<u64>());
    for ((fault, region), count) in lost {
        *tally.counts.entry((fault, region, FindingKind::Unreachable.name())).or_default() += count;
    }
    let mut found = Vec::new();
    for drive in &there {
        found.extend(store.world.metadata.node().findings(*drive).await.unwrap());
    }
    compare(that_count(store, found, tally), &injection, tally);

    if !gone.is_empty() {
        store.keeper().run_once().await.unwrap();
        store.pass(16 * 60_000);
    }
    settle(store).await;
    check_stripes(store, &there).await;
    if let Some(away) = away {
        away.back(store).await;
        settle(store).await;
    }
    // With the shards whole again, damage to what nobody can name (a segment that is gone, with all that was in it) is settled.
    scrub(store, &all).await;
    store.keeper().take_inventory().await.unwrap();
    let again = scrub(store, &all).await;
    let again = that_count(store, again, tally);
    if tally.segments_gone > 0 {
        tally.wrong("after repair: a segment that is gone is still a finding".to_owned(), tally.segments_gone);
    }
    for finding in again {
        let subject = match finding.subject {
            Subject::Shard(_) => "a shard",
            Subject::Entries(..) => "journal entries",
            Subject::Blocks { .. } => "blocks",
        };
        let before = injection.expected.get(&(finding.drive, finding.subject));
        let what = format!("round {}: after repair {subject} {}: {before:?}", number % 2, finding.kind.name());
        tally.wrong(what, &finding);
    }
    check_stripes(store, &all).await;
    store.check_objects().await;
}

async fn rounds(size: Size) {
    let began = Instant::now();
    let mut store = Store::start().await;
    let mut left = size.objects - size.rounds * size.unsealed;
    while left > 0 {
        let some = left.min(100);
        store.put(some, false).await;
        store.world.metadata.seal_now().await.unwrap();
        left -= some;
        // No crash is asked for here.
        store.trace.forget();
    }
    println!("{} objects put: {:.1?}", store.objects, began.elapsed());
    let all: Vec<DriveId> = drive_numbers(&store).await.into_keys().collect();
    assert_eq!(scrub(&store, &all).await, [], "nothing is wrong yet");
    let mut tally = Tally::default();
    let mut number = 0;
    // How many shards a lost drive holds depends on when segments were sealed, so on how busy the machine is: rounds go on until
    // each kind of damage was seen often enough, and that must not take twice as many.
    while number < size.rounds || (number < 2 * size.rounds && !too_few(&tally, &size).is_empty()) {
        round(&mut store, &size, number, &mut tally).await;
        store.trace.forget();
        for (what, (times, example)) in &tally.wrong {
            println!("    WRONG {times} times {what}, such as {example}");
        }
        println!("round {number}: {:.1?}, {} stripes", began.elapsed(), stripes(&store).len());
        number += 1;
    }
    assert_eq!(store.objects, size.objects + (number - size.rounds) * size.unsealed);
    print(&tally, &store);
    let few = too_few(&tally, &size);
    assert!(few.is_empty(), "found fewer than 100 times: {few:#?}");
    store.world.stop().await;
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
}

/// The kinds of damage that were not yet found 100 times wherever they apply: in data, in the ledger and in the unsealed journal.
/// What hits a file hits data and ledger alike.
fn too_few(tally: &Tally, size: &Size) -> Vec<String> {
    let count = |fault: Fault, regions: &[Region]| {
        let of_it = tally.counts.iter().filter(|((f, region, _), _)| *f == fault && regions.contains(region));
        of_it.map(|(_, count)| *count).sum::<u64>()
    };
    let on_files: [&[Region]; 2] = [&[Region::Data, Region::Ledger], &[Region::Journal]];
    let mut few = Vec::new();
    let mut check = |fault, regions: &[Region]| {
        let found = count(fault, regions);
        if found < 100 {
            few.push(format!("{fault:?} in {regions:?}: {found}"));
        }
    };
    if size.drives {
        [Fault::MissingDrive, Fault::ForeignDrive].into_iter().for_each(|fault| check(fault, on_files[0]));
    } else {
        for fault in ON_RECORDS {
            [Region::Data, Region::Ledger, Region::Journal].into_iter().for_each(|region| check(fault, &[region]));
        }
        [Region::Data, Region::Ledger].into_iter().for_each(|region| check(Fault::WrongRoot, &[region]));
        for fault in [Fault::Truncated, Fault::MissingSegment] {
            // One journal segment is hit in a round: the soak's four are too few.
            let regions = if size.rounds < 10 { &on_files[..1] } else { &on_files[..] };
            regions.iter().for_each(|regions| check(fault, regions));
        }
    }
    few
}

fn print(tally: &Tally, store: &Store) {
    println!(
        "{} objects, {} stripes, up to {M} faults in each and in each journal entry",
        store.objects,
        stripes(store).len()
    );
    for ((fault, region, kind), count) in &tally.counts {
        println!("{:>6} {fault:?} in {region:?}: {kind}", count);
    }
    for (fault, count) in &tally.on_dead {
        println!("{count:>6} {fault:?} on bytes that nobody needs");
    }
    println!("{:>6} findings stand about shards that no row names any more", tally.left_behind);
}

#[test]
fn all_faults_are_found_and_mended() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(rounds(Size { objects: 2_000, rounds: 16, unsealed: 80, each: 8, segments: 8, drives: false }));
}

#[test]
fn drives_that_are_gone_or_others_are_made_good() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(rounds(Size { objects: 800, rounds: 4, unsealed: 80, each: 2, segments: 4, drives: true }));
}

/// The same with 100,000 objects, or as many as `STELE_SOAK_OBJECTS` says.
#[test]
#[ignore = "a soak"]
fn soak() {
    let objects = std::env::var("STELE_SOAK_OBJECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(rounds(Size { objects, rounds: 4, unsealed: 200, each: 30, segments: 40, drives: false }));
}
