//! The fault disk itself must be right, or every test built on it proves nothing.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::super::conformance;
use super::*;

fn read(disk: &dyn Disk, path: &str) -> Option<Vec<u8>> {
    match disk.read_small(path) {
        Ok(bytes) => Some(bytes),
        Err(DiskError::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Every content of a path that a crash at a position can leave, over many choices.
fn outcomes(trace: &Trace, position: u64, path: &str) -> HashSet<Option<Vec<u8>>> {
    let point = trace.point(position);
    point.choices(200, 1).map(|choice| read(point.image(&choice).disks()[0].as_ref(), path)).collect()
}

fn set<const N: usize>(values: [Option<&[u8]>; N]) -> HashSet<Option<Vec<u8>>> {
    values.into_iter().map(|value| value.map(<[u8]>::to_vec)).collect()
}

#[test]
fn conforms() {
    let trace = Trace::new(1);
    conformance::run(trace.disk(0).as_ref(), trace.disk(0).as_ref());
    // And again on a drive that came out of a crash.
    let fresh = Trace::new(1).restart();
    conformance::run(fresh.disks()[0].as_ref(), fresh.disks()[0].as_ref());
}

#[test]
fn a_file_needs_its_own_sync_and_its_directorys() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    let file = disk.create("f").unwrap();
    file.write_at(b"x", 0).unwrap();
    assert_eq!(outcomes(&trace, trace.position(), "f"), set([None, Some(b""), Some(b"\0"), Some(b"x")]));
    file.sync_data().unwrap();
    assert_eq!(outcomes(&trace, trace.position(), "f"), set([None, Some(b"x")]), "synced, but its name is not");
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&trace, trace.position(), "f"), set([Some(b"x")]));
    file.write_at(b"y", 0).unwrap();
    assert_eq!(outcomes(&trace, trace.position(), "f"), set([Some(b"x"), Some(b"y")]));
    file.truncate(0).unwrap();
    let all = set([Some(b"x"), Some(b"y"), Some(b"")]);
    assert_eq!(outcomes(&trace, trace.position(), "f"), all, "a lost truncation keeps the bytes");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&trace, trace.position(), "f"), set([Some(b"")]));
}

#[test]
fn synced_names_without_synced_bytes_are_empty_files() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.create_dir("d").unwrap();
    let file = disk.create("d/f").unwrap();
    file.write_at(b"x", 0).unwrap();
    disk.sync_dir("d").unwrap();
    let lost_dir = trace.image(trace.position(), &CrashChoice::Nothing);
    assert!(lost_dir.disks()[0].is_empty().unwrap(), "the directory's own name was not synced");
    disk.sync_dir("").unwrap();
    let nothing = trace.image(trace.position(), &CrashChoice::Nothing);
    assert_eq!(read(nothing.disks()[0].as_ref(), "d/f").unwrap(), b"");
}

#[test]
fn renames_and_removals_are_atomic_and_kept_or_lost() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.write_durably("a", b"old").unwrap();
    disk.write_durably("b", b"new").unwrap();
    disk.rename("b", "a").unwrap();
    let point = trace.point(trace.position());
    let both: HashSet<_> = point
        .choices(0, 0)
        .map(|choice| point.image(&choice).disks()[0].clone())
        .map(|disk| (read(disk.as_ref(), "a"), read(disk.as_ref(), "b")))
        .collect();
    let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    assert_eq!(both, HashSet::from([(old, new.clone()), (new, None)]));
    disk.sync_dir("").unwrap();
    disk.remove("a").unwrap();
    assert_eq!(outcomes(&trace, trace.position(), "a"), set([None, Some(b"new")]));
}

/// Whatever the moment and the choice, a durable replacement leaves the old content or the new one, and the new one
/// once it has been acknowledged. Without any one of its steps it does not.
fn durable_replacement_holds(sabotage: SabotageSet) -> bool {
    let trace = Trace::with_sabotage(1, sabotage);
    let disk = trace.disk(0);
    let contents = [vec![1; 3000], vec![2; 9000], vec![3; 10]];
    let mut acknowledged = vec![trace.position()];
    for content in &contents {
        disk.write_durably("register", content).unwrap();
        acknowledged.push(trace.mark("ack"));
    }
    (0..=trace.position()).all(|position| {
        let done = acknowledged.iter().filter(|ack| **ack < position).count().saturating_sub(1);
        let mut allowed = HashSet::from([done.checked_sub(1).map(|i| contents[i].clone())]);
        allowed.extend(contents.get(done).map(|next| Some(next.clone())));
        outcomes(&trace, position, "register").is_subset(&allowed)
    })
}

#[test]
fn write_durably_needs_each_of_its_steps() {
    assert!(durable_replacement_holds(SabotageSet::default()));
    for step in [Sabotage::DurableFileSync, Sabotage::DurableDirSync, Sabotage::DurableRename] {
        assert!(!durable_replacement_holds(SabotageSet::only(step)), "{step:?} is never needed");
    }
}

#[test]
fn a_failed_sync_dooms_what_waited_for_it() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.write_durably("f", b"old").unwrap();
    let file = disk.open("f", Access::ReadWrite).unwrap();
    let fault = trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).nth(1));
    file.write_at(b"bad", 0).unwrap();
    assert!(matches!(file.sync_data(), Err(DiskError::Io { errno: Errno::IO, .. })));
    assert_eq!(trace.hits(fault), 1);
    file.write_at(b"!", 3).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read(disk.as_ref(), "f").unwrap(), b"bad!", "the page cache shows it");
    assert_eq!(outcomes(&trace, trace.position(), "f"), set([Some(b"old!"), Some(b"bad!")]));
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncDir));
    disk.rename("f", "g").unwrap();
    assert!(disk.sync_dir("").is_err());
    trace.heal_all();
    disk.sync_dir("").unwrap();
    assert!(outcomes(&trace, trace.position(), "g").contains(&None));
}

#[test]
fn writes_are_reordered_and_torn() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.write_durably("f", &[0; 8192]).unwrap();
    let file = disk.open("f", Access::ReadWrite).unwrap();
    file.write_at(&[1; 8192], 0).unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    let seen = outcomes(&trace, trace.position(), "f");
    let mut one = vec![1; 8192];
    assert!(seen.contains(&Some(vec![0; 8192])) && seen.contains(&Some(one.clone())));
    one[..512].fill(2);
    assert!(seen.contains(&Some(one)));
    let second_only = [vec![2; 512], vec![0; 7680]].concat();
    assert!(seen.contains(&Some(second_only)), "the second without the first");
    assert!(seen.contains(&Some([vec![1; 4096], vec![0; 4096]].concat())), "torn between pages");
    assert!(seen.iter().flatten().any(|bytes| bytes[512..4096].iter().collect::<HashSet<_>>().len() == 2), "in a page");
    assert!(
        seen.iter().flatten().all(|bytes| bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0]))),
        "never a sector"
    );
}

#[test]
fn an_image_can_go_on_and_crash_again() {
    let trace = Trace::new(2);
    trace.disk(1).write_durably("f", b"first").unwrap();
    let image = trace.restart();
    let (trace, disk) = (image.trace(), image.disks()[1].clone());
    assert_eq!(read(disk.as_ref(), "f").unwrap(), b"first");
    let at_start = trace.image(0, &CrashChoice::Nothing);
    disk.open("f", Access::ReadWrite).unwrap().write_at(b"SECOND", 0).unwrap();
    let lost = trace.image(trace.position(), &CrashChoice::Nothing);
    assert_eq!(read(lost.disks()[1].as_ref(), "f").unwrap(), b"first");
    assert_eq!(lost.fingerprint(), at_start.fingerprint());
    let kept = trace.restart();
    assert_eq!(read(kept.disks()[1].as_ref(), "f").unwrap(), b"SECOND");
    assert_ne!(kept.fingerprint(), lost.fingerprint());
    assert_eq!(read(disk.as_ref(), "f").unwrap(), b"SECOND", "images do not change the trace");
}

#[test]
fn later_events_do_not_change_earlier_images() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    let file = disk.create("f").unwrap();
    let mut seen = Vec::new();
    for i in 0..20u64 {
        file.write_at(&[i as u8; 700], i * 600).unwrap();
        if i % 3 == 0 {
            file.sync_data().unwrap();
        }
        if i % 5 == 0 {
            disk.sync_dir("").unwrap();
            disk.create(&format!("other{i}")).unwrap();
        }
        let prints = |trace: &Trace, position| {
            let point = trace.point(position);
            point.choices(20, 7).map(|choice| point.image(&choice).fingerprint()).collect::<Vec<_>>()
        };
        let position = trace.position();
        seen.push((position, prints(&trace, position)));
        for (position, before) in &seen {
            assert_eq!(&prints(&trace, *position), before, "at {position}");
        }
    }
}

#[test]
fn marks_and_operations_share_one_order_over_all_drives() {
    let trace = Trace::new(4);
    std::thread::scope(|scope| {
        for disk in trace.disks() {
            scope.spawn(move || {
                for i in 0..50 {
                    let trace = disk.trace().clone();
                    let begin = trace.mark(format!("begin {i}"));
                    disk.write_durably("f", &[i; 100]).unwrap();
                    assert!(trace.mark(format!("ack {i}")) > begin);
                }
            });
        }
    });
    let events = trace.events();
    assert_eq!(events.len() as u64, trace.position());
    assert!(events.iter().enumerate().all(|(i, event)| event.position == i as u64));
    for event in events.iter().filter(|event| matches!(&event.what, What::Mark(text) if text.starts_with("ack"))) {
        let image = trace.image(event.position + 1, &CrashChoice::Nothing);
        assert!(image.disks().iter().any(|disk| read(disk.as_ref(), "f").is_some()));
    }
}

#[test]
fn faults_hit_what_they_are_aimed_at() {
    let trace = Trace::new(2);
    let (zero, one) = (trace.disk(0), trace.disk(1));
    let second = trace.inject(Fault::error(Errno::IO).on(DiskOp::Write).drive(1).path("f").nth(2));
    let files = [zero.create("f").unwrap(), one.create("f").unwrap(), one.create("g").unwrap()];
    let results: Vec<bool> = (0..3).flat_map(|_| files.iter().map(|file| file.write_at(b"x", 0).is_ok())).collect();
    assert_eq!(results, [true, true, true, true, false, true, true, true, true]);
    assert_eq!(trace.hits(second), 1);
    let dead = trace.inject(Fault::error(Errno::IO).drive(1));
    assert!(one.list("").is_err() && one.create("h").is_err() && one.read_small("g").is_err() && one.space().is_err());
    assert!(one.same_directory().is_err() && files[1].read_at(&mut [0], 0).is_err() && files[1].len().is_err());
    assert!(zero.list("").is_ok());
    trace.heal(dead);
    assert!(one.list("").is_ok());
    trace.inject(Fault::partial_write(2, Errno::IO).times(1));
    assert!(files[0].write_at(b"abc", 0).is_err());
    assert_eq!(read(zero.as_ref(), "f").unwrap(), b"ab");
    trace.inject(Fault::slow(Duration::from_millis(30)).on(DiskOp::Read).times(1));
    let begin = Instant::now();
    files[0].read_at(&mut [0], 0).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(30));
}

#[test]
fn lost_and_misdirected_writes_are_acknowledged() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.write_durably("f", b"0123456789").unwrap();
    disk.write_durably("g", b"0123456789").unwrap();
    let file = disk.open("f", Access::ReadWrite).unwrap();
    for fault in [Fault::lost_write(), Fault::shifted_write(-2), Fault::write_elsewhere("g")] {
        trace.inject(fault.nth(1));
        file.write_at(b"XY", 4).unwrap();
        trace.heal_all();
    }
    file.sync_data().unwrap();
    assert_eq!(read(disk.as_ref(), "f").unwrap(), b"01XY456789");
    assert_eq!(read(disk.as_ref(), "g").unwrap(), b"0123XY6789");
}

#[test]
fn a_cache_hides_what_the_medium_lost_until_a_restart() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.write_durably("f", b"0123456789").unwrap();
    disk.write_durably("g", b"0123456789").unwrap();
    let file = disk.open("f", Access::ReadWrite).unwrap();
    let medium = |disk: &FaultDisk, name: &str| {
        let (file, _) = disk.open_medium(name).unwrap();
        let mut bytes = vec![0; 10];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    for (fault, at) in [(Fault::lost_write(), 0), (Fault::shifted_write(-2), 4), (Fault::write_elsewhere("g"), 8)] {
        trace.inject(fault.under_cache().nth(1));
        file.write_at(b"XY", at).unwrap();
        trace.heal_all();
    }
    file.sync_data().unwrap();
    disk.open("g", Access::ReadWrite).unwrap().sync_data().unwrap();
    trace.flip_under_cache(0, "f", 6, 1).unwrap();
    file.write_at(b"Z", 7).unwrap();
    assert_eq!(read(disk.as_ref(), "f").unwrap(), b"XY23XY6ZXY");
    assert_eq!(read(disk.as_ref(), "g").unwrap(), b"0123456789");
    assert_eq!((medium(&disk, "f"), medium(&disk, "g")), (b"01XY457Z89".to_vec(), b"01234567XY".to_vec()));
    let image = trace.restart();
    let again = &image.disks()[0];
    assert_eq!(read(again.as_ref(), "f").unwrap(), b"01XY457Z89");
    assert_eq!(read(again.as_ref(), "g").unwrap(), b"01234567XY");
    trace.make_unreadable(0, "f", 3..4).unwrap();
    assert!(disk.read_small("f").is_err() && disk.read_small("g").is_ok());
    trace.make_readable(0);
    assert!(disk.read_small("f").is_ok());
}

#[test]
fn a_full_drive_says_so_and_space_comes_back() {
    let trace = Trace::new(2);
    trace.set_filesystem(1, 1);
    let disk = trace.disk(0);
    assert_eq!(disk.space().unwrap().filesystem_id, trace.disk(1).space().unwrap().filesystem_id);
    let file = disk.create("f").unwrap();
    file.preallocate(0, 8192).unwrap();
    trace.set_room(0, 4096);
    file.write_at(&[1; 8192], 0).unwrap();
    assert!(file.write_at(&[1; 8192], 8192).unwrap_err().is_full());
    assert_eq!(file.len().unwrap(), 12288, "what fits is stored");
    assert!(file.preallocate(0, 16384).unwrap_err().is_full());
    file.punch(0, 4096).unwrap();
    assert_eq!(disk.space().unwrap().free, 4096);
    disk.remove("f").unwrap();
    assert_eq!(disk.space().unwrap().free, 3 * 4096);
    let space = trace.disk(0).space().unwrap();
    assert_eq!(trace.restart().disks()[0].space().unwrap(), space);
}

#[test]
fn a_removed_drive_accepts_writes_and_syncs() {
    let trace = Trace::new(2);
    let disk = trace.disk(0);
    let file = disk.create("f").unwrap();
    trace.remove_drive(0);
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert!(!file.still_named().unwrap() && !disk.same_directory().unwrap() && !disk.exists().unwrap());
    assert!(matches!(disk.create("g"), Err(DiskError::Gone { .. })));
    assert!(matches!(disk.read_small("identity"), Err(DiskError::Gone { .. })));
    assert!(matches!(disk.lock().map(|_| ()), Err(DiskError::Gone { .. })));
    let image = trace.restart();
    assert!(!image.disks()[0].exists().unwrap() && image.disks()[1].exists().unwrap());
    assert!(matches!(image.disks()[0].is_empty(), Err(DiskError::Gone { .. })));
    assert!(trace.image(1, &CrashChoice::Everything).disks()[0].exists().unwrap(), "it was there before");
}

#[test]
fn a_replaced_drive_is_another_directory() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    let file = disk.create("f").unwrap();
    trace.replace_drive(0, &[("identity", b"foreign"), ("segments/1.seg", b"theirs")]).unwrap();
    assert!(disk.exists().unwrap() && !disk.same_directory().unwrap());
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.list("").unwrap(), ["f"], "the held directory is still the old one");
    let reopened = trace.disk(0);
    assert!(reopened.same_directory().unwrap());
    assert_eq!(reopened.read_small("identity").unwrap(), b"foreign");
    let image = trace.image(trace.position(), &CrashChoice::Nothing);
    assert_eq!(image.disks()[0].list("").unwrap(), ["identity", "segments"]);
    assert_eq!(image.disks()[0].read_small("segments/1.seg").unwrap(), b"theirs");
}

#[test]
fn damage_is_at_once_and_for_good() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.write_durably("f", &[7; 5000]).unwrap();
    let before = trace.position();
    trace.flip(0, "f", 4500, 0x81).unwrap();
    let bytes = read(trace.image(trace.position(), &CrashChoice::Nothing).disks()[0].as_ref(), "f").unwrap();
    assert_eq!(bytes.iter().enumerate().filter(|(_, b)| **b != 7).collect::<Vec<_>>(), [(4500, &(7 ^ 0x81))]);
    trace.noise(0, 3);
    let noisy = read(disk.as_ref(), "f").unwrap();
    assert!(noisy.len() == 5000 && noisy.iter().filter(|byte| **byte == 7).count() < 100);
    assert_eq!(read(trace.image(trace.position(), &CrashChoice::Nothing).disks()[0].as_ref(), "f").unwrap(), noisy);
    assert_eq!(read(trace.image(before, &CrashChoice::Nothing).disks()[0].as_ref(), "f").unwrap(), [7; 5000]);
}

#[test]
fn identity_checks_can_be_sabotaged() {
    let sabotage = SabotageSet::default();
    let trace = Trace::with_sabotage(1, sabotage.clone());
    let disk = trace.disk(0);
    let file = disk.create("f").unwrap();
    let _guard = disk.lock().unwrap();
    trace.remove_drive(0);
    for step in [Sabotage::FileIdentity, Sabotage::DirectoryIdentity, Sabotage::DriveLock] {
        sabotage.set(step, true);
    }
    assert!(file.still_named().unwrap() && disk.same_directory().unwrap() && disk.lock().is_ok());
}

/// A workload like a node's: six drives, segments of 256 KiB, a few hundred writes with syncs.
fn node_like_workload() -> Trace {
    let trace = Trace::new(6);
    let disks = trace.disks();
    let mut files = Vec::new();
    for disk in &disks {
        disk.write_durably("identity", &[1; 200]).unwrap();
        disk.create_dir("segments").unwrap();
        for number in 0..4 {
            let file = disk.create(&format!("segments/{number}.seg")).unwrap();
            file.preallocate(0, 256 << 10).unwrap();
            file.sync_data().unwrap();
            files.push(file);
        }
        disk.sync_dir("segments").unwrap();
        disk.sync_dir("").unwrap();
    }
    for i in 0..400u64 {
        let file = &files[(i % files.len() as u64) as usize];
        file.write_at(&vec![i as u8; 12288], (i / 24) * 12288).unwrap();
        if i % 24 >= 18 {
            file.sync_data().unwrap();
        }
    }
    trace
}

/// What this thread has had of a processor, where the system says so; a busy machine gives it none for a while.
fn worked() -> Option<Duration> {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    said.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[test]
fn thousands_of_images_are_cheap_and_distinct() {
    let trace = node_like_workload();
    let before = worked();
    let mut images = 0u32;
    let mut distinct = HashSet::new();
    for position in (0..=trace.position()).rev().step_by(29) {
        let point = trace.point(position);
        for choice in point.choices(100, 5).take(400) {
            distinct.insert(point.image(&choice).fingerprint());
            images += 1;
        }
    }
    let each = worked().zip(before).map_or(Duration::ZERO, |(now, before)| now.saturating_sub(before)) / images;
    println!("{images} images, {} distinct, {each:?} each with its fingerprint", distinct.len());
    let begin = Instant::now();
    let last = trace.position();
    (0..300).for_each(|seed| drop(trace.image(last, &CrashChoice::Random(seed))));
    println!("{:?} each with its point", begin.elapsed() / 300);
    assert!(distinct.len() > 1000, "{} distinct", distinct.len());
    // The aim is 0.3 ms; the bound allows for a loaded machine.
    assert!(each < Duration::from_millis(3), "{each:?} for each image");
}

#[test]
fn what_was_forgotten_is_durable_and_the_rest_goes_on_as_before() {
    let trace = Trace::new(1);
    let disk = trace.disk(0);
    disk.create("kept").unwrap().write_at(b"kept", 0).unwrap();
    disk.create("gone").unwrap().write_at(b"gone", 0).unwrap();
    disk.remove("gone").unwrap();
    trace.forget();
    let at = trace.position();
    assert_eq!(outcomes(&trace, at, "kept"), set([Some(b"kept")]));
    assert_eq!(outcomes(&trace, at, "gone"), set([None]));
    disk.open("kept", Access::ReadWrite).unwrap().write_at(b"more", 0).unwrap();
    assert_eq!(read(disk.as_ref(), "kept").as_deref(), Some(&b"more"[..]));
    assert!(outcomes(&trace, trace.position(), "kept").contains(&Some(b"kept".to_vec())), "not synced since");
}
