//! Every crash of every operation: the store starts by itself, and has everything that was acknowledged.
//!
//! What is enumerated, and what is checked on each image, is told in `tests/src/crash.rs` and `tests/src/oracle.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::future::Future;
use std::time::{Duration, Instant};
use tests::crash::{Finding, Plan, Recording, Report, enumerate};
use tests::workloads::{self, Death};
use tests::world::Shape;

/// Distinct images of each operation in `cargo test`, at least.
const EACH: usize = 1_000;
/// Distinct images in all, at least.
const ALL: usize = 20_000;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The operations, and their recordings: each on few drives and on more, with one parity shard and with two.
fn operations(seed: u64) -> Vec<(&'static str, Vec<Recording>)> {
    let extra = (seed % 2) as usize;
    let shapes = [(3 + extra, Shape::small("1+1")), (4 + extra, Shape::small("2+1")), (5 + extra, Shape::small("1+2"))];
    let on_each = |record: Record| shapes.iter().map(|(drives, shape)| record(*drives, shape)).collect::<Vec<_>>();
    let mut all: Vec<(&'static str, Vec<Recording>)> = vec![
        ("first start", first_starts()),
        ("put small", on_each(|n, s| recorded(workloads::put_small(n, s)))),
        ("put large", on_each(|n, s| recorded(workloads::put_large(n, s)))),
        ("overwrite", on_each(|n, s| recorded(workloads::overwrite(n, s)))),
        ("delete", on_each(|n, s| recorded(workloads::delete(n, s)))),
        ("multi-delete", on_each(|n, s| recorded(workloads::multi_delete(n, s)))),
        ("multipart", on_each(|n, s| recorded(workloads::multipart(n, s)))),
        ("sealing", on_each(|n, s| recorded(workloads::sealing(n, s)))),
        ("ensemble change", Vec::new()),
        ("recovery", Vec::new()),
    ];
    for death in [Death::Errors, Death::Removed, Death::OneSync, Death::JournalWrites] {
        let changes = shapes.iter().filter(|(drives, _)| *drives != 4);
        all[8].1.extend(changes.map(|(n, s)| recorded(workloads::ensemble_change(*n, s, death))));
    }
    let crashed = [&all[7].1[0], &all[3].1[1], &all[8].1[0], &all[1].1[2], &all[4].1[2]];
    let runtime = runtime();
    let recoveries =
        crashed.into_iter().flat_map(|of| runtime.block_on(workloads::recoveries(of, 3)).unwrap()).collect();
    all[9].1 = recoveries;
    all
}

type Record = fn(usize, &Shape) -> Recording;

fn recorded(workload: impl Future<Output = Result<Recording, tests::oracle::Wrong>>) -> Recording {
    runtime().block_on(workload).unwrap()
}

/// Few writes are pending at a time while drives are formatted, so several numbers of drives make up for that.
fn first_starts() -> Vec<Recording> {
    let shapes =
        [(2, "1+1"), (3, "1+1"), (3, "1+2"), (4, "2+2"), (5, "2+2"), (6, "4+2"), (7, "4+2"), (8, "4+3"), (9, "5+3")];
    shapes.iter().map(|(drives, geometry)| recorded(workloads::first_start(*drives, &Shape::small(geometry)))).collect()
}

fn run(name: &str, recordings: &[Recording], plan: Plan) -> (Report, Vec<(String, Finding)>) {
    let mut sum = Report::default();
    let mut findings = Vec::new();
    for recording in recordings {
        let report = enumerate(recording, Plan { distinct: plan.distinct.div_ceil(recordings.len()), ..plan });
        sum.images += report.images;
        sum.distinct += report.distinct;
        sum.old_indexes += report.old_indexes;
        sum.losses += report.losses;
        sum.positions += report.positions;
        sum.took += report.took;
        findings.extend(report.findings.into_iter().map(|finding| (recording.name.clone(), finding)));
    }
    println!(
        "{name:16} {:6} images of {:4} positions, {:5} distinct and mounted ({} with older indexes, {} with a drive lost too), {:.1?}",
        sum.images, sum.positions, sum.distinct, sum.old_indexes, sum.losses, sum.took
    );
    (sum, findings)
}

fn show(findings: &[(String, Finding)]) {
    for (name, finding) in findings.iter().take(12) {
        println!("VIOLATION {name}: {finding}");
    }
}

#[test]
fn acknowledged_operations_survive_every_crash() {
    let begin = Instant::now();
    let operations = operations(tests::crash::seed());
    println!("recorded in {:.1?}", begin.elapsed());
    let (mut all, mut findings, mut few) = (0, Vec::new(), Vec::new());
    let only = std::env::var("STELE_CRASH_ONLY").ok();
    for (name, recordings) in operations.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let (report, found) = run(name, recordings, Plan::distinct(ALL / 10 + ALL / 100));
        all += report.distinct;
        few.extend((report.distinct < EACH).then_some((*name, report.distinct)));
        findings.extend(found);
    }
    println!("{all} distinct crash images mounted in {:.1?}", begin.elapsed());
    show(&findings);
    assert!(findings.is_empty(), "{} violations, the first: {} {}", findings.len(), findings[0].0, findings[0].1);
    assert!(few.is_empty(), "too few images: {few:?}");
    assert!(only.is_some() || all >= ALL, "{all} distinct images");
}

/// The same for as long as STELE_SOAK_MINUTES says, with other seeds and other numbers of drives each time round.
#[test]
#[ignore = "make soak"]
fn soak_crash_images() {
    let minutes: u64 = std::env::var("STELE_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let (mut all, mut round) = (0, 0);
    while Instant::now() < end {
        let seed = tests::crash::seed() + round;
        let operations = operations(seed);
        let recordings: usize = operations.iter().map(|(_, recordings)| recordings.len()).sum();
        // Every recording has its share of the time, so that a short soak is about all of them too.
        let share = (end.saturating_duration_since(Instant::now()) / recordings as u32).min(Duration::from_secs(60));
        for (name, recordings) in operations {
            for recording in recordings {
                let deadline = Some(end.min(Instant::now() + share));
                let plan = Plan { distinct: 20_000, seed, stop_at_first: false, deadline, rounds: 1000 };
                let (report, findings) = run(name, &[recording], plan);
                all += report.distinct;
                show(&findings);
                assert!(findings.is_empty(), "seed {seed}");
            }
        }
        round += 1;
    }
    println!("{all} distinct crash images mounted in {round} rounds");
}
