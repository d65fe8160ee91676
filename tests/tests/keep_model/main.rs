//! Keeping against a model: objects put, overwritten, copied, deleted and put again, while stripes are sealed, rewritten,
//! reclaimed, scrubbed and repaired, drives go and come back, bits rot, indexes are lost, and the power fails anywhere.
//!
//! A history is made by a seed ([`ops`]) and carried out ([`steps`]) over fault disks ([`store`]). After each step every object
//! reads as it was put ([`reference`]), and no shard that a row names is gone. When all drives are back and the graces are
//! over, every stripe is at full strength, and nothing is left that nobody needs ([`quiet`]).
//!
//! `STELE_KEEP_SEED` carries out one seed, `STELE_KEEP_SHRINK=1` then looks for a shorter history that fails as well.
#![allow(missing_docs)]

mod ops;
mod quiet;
mod reference;
mod steps;
mod store;

use ops::{Op, history};
use std::fmt;
use std::time::{Duration, Instant};
use steps::Run;

/// What is wrong, and where that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    check: &'static str,
    detail: String,
    step: usize,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after step {}: {}: {}", self.step, self.check, self.detail)
    }
}

pub fn wrong(check: &'static str, detail: impl fmt::Display) -> Wrong {
    Wrong { check, detail: detail.to_string(), step: 0 }
}

/// A history that takes longer hangs.
const HANGS: Duration = Duration::from_secs(600);

async fn carry_out(seed: u64, ops: &[Op]) -> Result<u64, Wrong> {
    let mut run = Run::new(seed).await?;
    let result = steps(&mut run, ops).await;
    run.store.stop().await;
    result.map(|()| run.compared)
}

async fn steps(run: &mut Run, ops: &[Op]) -> Result<(), Wrong> {
    for (step, op) in ops.iter().enumerate() {
        run.step(op).await.map_err(|wrong| Wrong { step, ..wrong })?;
    }
    let rest = async {
        quiet::come_to_rest(run).await?;
        quiet::check(run).await
    };
    rest.await.map_err(|wrong| Wrong { step: ops.len(), ..wrong })
}

fn play(seed: u64, ops: &[Op]) -> Result<u64, Wrong> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| wrong("no runtime", error))?;
    let played = runtime.block_on(async { tokio::time::timeout(HANGS, carry_out(seed, ops)).await });
    // What hangs is not waited for.
    runtime.shutdown_background();
    played.unwrap_or_else(|_| Err(wrong("hangs", "")))
}

/// Leaves out what the failure does not need, as long as it fails by the same check.
fn shrink(seed: u64, mut ops: Vec<Op>, found: &Wrong) -> Vec<Op> {
    ops.truncate(found.step + 1);
    let mut piece = ops.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < ops.len() {
            let shorter: Vec<Op> =
                ops.iter().enumerate().filter(|(n, _)| *n < at || *n >= at + piece).map(|(_, op)| op.clone()).collect();
            match play(seed, &shorter) {
                Err(wrong) if wrong.check == found.check => ops = shorter,
                _ => at += piece,
            }
        }
        piece /= 2;
    }
    ops
}

fn fail(seed: u64, ops: Vec<Op>, wrong: &Wrong) -> ! {
    let ops = if std::env::var_os("STELE_KEEP_SHRINK").is_some() { shrink(seed, ops, wrong) } else { ops };
    let lines: Vec<String> = ops.iter().enumerate().map(|(n, op)| format!("{n}: {op:?}")).collect();
    panic!("STELE_KEEP_SEED={seed}: {wrong}\n{}", lines.join("\n"));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Histories of seeds from `first` on, until the time is over.
fn histories(first: u64, steps: usize, time: Duration) {
    let (began, mut done, mut compared) = (Instant::now(), 0, 0);
    for seed in first.. {
        let ops = history(seed, steps);
        match play(seed, &ops) {
            Ok(objects) => compared += objects,
            Err(wrong) => fail(seed, ops, &wrong),
        }
        done += 1;
        if began.elapsed() >= time {
            break;
        }
    }
    println!(
        "{done} histories of {steps} steps from seed {first}, {compared} objects compared, {:.1?}",
        began.elapsed()
    );
}

/// Steps of a history in `cargo test`.
const STEPS: usize = 40;

#[test]
fn what_is_reachable_stays_and_what_is_not_goes() {
    match number("STELE_KEEP_SEED") {
        Some(seed) => histories(seed, number("STELE_KEEP_STEPS").map_or(STEPS, |steps| steps as usize), Duration::ZERO),
        None => histories(1, STEPS, Duration::from_secs(40)),
    }
}

/// The same with other seeds and longer histories, for as long as `STELE_SOAK_MINUTES` says.
#[test]
#[ignore = "a soak"]
fn soak() {
    let minutes = number("STELE_SOAK_MINUTES").unwrap_or(10);
    let first = number("STELE_KEEP_SEED").unwrap_or_else(|| 1000 * u64::from(std::process::id()));
    histories(first, 120, Duration::from_secs(60 * minutes));
}
