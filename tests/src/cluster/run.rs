//! A cluster with a load on it, and what is asked of it while that goes on and when it is over.

use crate::cluster::faults::{Deck, Means};
use crate::cluster::load::versions::{LOCKED, ListedVersions, VERSIONED};
use crate::cluster::load::{Listed, Shared, Worker};
use crate::cluster::site::{Layout, Shape, Site};
use crate::s3::Random;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes that a run puts into larger objects: the tests must not fill a disk.
const BUDGET: i64 = 500 << 20;
/// Within this time of the end of a fault every S3 port serves again, on a busy machine.
pub const RECOVERED: Duration = Duration::from_secs(120);
/// Within this time all is whole that was out of order.
const WHOLE: Duration = Duration::from_secs(240);
/// How long nothing must be out of order: longer than metadata takes to look at the drives.
const QUIET: Duration = Duration::from_secs(6);
/// Load between two faults.
const BETWEEN: Duration = Duration::from_millis(1500);
/// Clients that read everything at once.
const READERS: u64 = 8;
/// Pause before the same is asked again.
const AGAIN: Duration = Duration::from_millis(300);
/// Said of a fault that was not possible at its moment.
const LESS: &str = "only killed";

/// What one fault came to.
#[derive(Debug)]
pub struct Outcome {
    /// In words.
    pub what: String,
    /// The kinds of what was done; of one or two.
    pub kinds: Vec<String>,
    /// The longest time without an acknowledged change while it lasted.
    pub gap: Duration,
    /// From its end until every port served.
    pub recovered: Duration,
}

/// A cluster, and the history of its use.
#[derive(Debug)]
pub struct Run {
    /// The cluster.
    pub site: Arc<Site>,
    /// What its clients share.
    pub shared: Arc<Shared>,
    probes: u64,
    /// The kinds of faults that may come, and those that this machine can't bring about.
    kinds: Vec<String>,
    left_out: Vec<String>,
}

impl Run {
    /// A cluster that serves, with a bucket.
    pub async fn start(layout: Layout, shape: Shape) -> Run {
        let begun = Instant::now();
        let site = Site::start_as(layout, shape).await.unwrap_or_else(|failed| panic!("{failed}"));
        println!("set up in {:.1?}", begun.elapsed());
        let shared = Shared::new(BUDGET);
        let (site, kinds, left_out) = (Arc::new(site), Vec::new(), Vec::new());
        let run = Run { site, shared, probes: 0, kinds, left_out };
        let mut first = Worker::new(0, &run.site.endpoints(), Random::new(0), &run.shared);
        let begun = Instant::now();
        // Who leads may still change on a busy machine.
        while first.make_bucket().await.is_err() || first.make_versioned_buckets().await.is_err() {
            let history = &run.shared.history;
            assert!(begun.elapsed() < RECOVERED, "no buckets: {:?}, {:?}", history.figures(), history.judge());
            tokio::time::sleep(AGAIN).await;
        }
        run
    }

    /// So many clients use the cluster, until [`Run::end`].
    pub fn load(&self, workers: u64, seed: u64) -> Vec<JoinHandle<Worker>> {
        let (endpoints, mut random) = (self.site.endpoints(), Random::new(seed));
        let worker = |number| Worker::new(number, &endpoints, Random::new(random.next()), &self.shared);
        (1..=workers).map(worker).map(|worker| tokio::spawn(worker.run())).collect()
    }

    /// Ends the load, and waits until it has ended.
    pub async fn end(&self, load: Vec<JoinHandle<Worker>>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in load {
            worker.await.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Puts and gets through every port, until all have succeeded.
    pub async fn recovered(&mut self) -> Duration {
        let begun = Instant::now();
        let mut probes = JoinSet::new();
        for endpoint in self.site.endpoints() {
            self.probes += 1;
            let mut probe = Worker::probe(self.probes, &endpoint, &self.shared);
            probes.spawn(async move { (probe.served(RECOVERED).await, endpoint) });
        }
        while let Some(served) = probes.join_next().await {
            let (served, endpoint) = served.unwrap_or_else(|error| panic!("{error}"));
            assert!(served.is_some(), "{endpoint} does not serve {RECOVERED:?} after a fault\n{}", self.last_words());
        }
        begun.elapsed()
    }

    /// The end of what every process has printed.
    pub fn last_words(&self) -> String {
        let names = self.site.supervisor.names();
        names.iter().map(|name| format!("--- {name}\n{}\n", self.site.supervisor.last_words(name, 25))).collect()
    }

    /// The faults that this cluster can have. With `CI=true` all that it should have must be possible.
    pub fn means(&mut self, is_long: bool) -> Means {
        let means = Means {
            layout: self.site.layout,
            shape: self.site.shape,
            can_fill: self.site.small().is_some(),
            can_jump: self.site.clocks().is_some(),
            has_copy: self.site.has_copy(),
            is_long,
        };
        self.left_out = means.left_out();
        let required = std::env::var("CI").is_ok_and(|value| value == "true");
        if let Err(why) = all_possible(&self.left_out, required) {
            panic!("{why}");
        }
        means
    }

    /// Draws, inflicts and relieves faults until `more` says no.
    pub async fn faults(&mut self, mut deck: Deck, mut more: impl FnMut(usize) -> bool) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        self.kinds = deck.kinds();
        while more(outcomes.len()) {
            tokio::time::sleep(BETWEEN).await;
            let faults = deck.draw();
            let what = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let begun = Instant::now();
            let (mut ongoing, mut kinds) = (Vec::new(), Vec::new());
            for fault in &faults {
                let inflicted = self.site.inflict(fault).await;
                kinds.push(if inflicted.is_less() { format!("{} ({LESS})", fault.kind) } else { fault.kind.clone() });
                ongoing.push((begun + fault.lasts, inflicted));
            }
            // What needs the others to be over comes last.
            ongoing.sort_by_key(|(until, fault)| (fault.needs_the_cluster(), *until));
            for (until, fault) in ongoing {
                tokio::time::sleep_until(until.into()).await;
                self.site.relieve(fault).await;
            }
            let ended = Instant::now();
            let recovered = self.recovered().await;
            let gap = self.shared.history.longest_gap(begun, ended);
            println!("{:3} {what}: {gap:.1?} without an answer, {recovered:.1?} to recover", outcomes.len() + 1);
            for surprise in self.site.supervisor.surprises() {
                println!("      {surprise}");
            }
            outcomes.push(Outcome { what, kinds, gap, recovered });
        }
        outcomes
    }

    /// Waits until no stripe is short of a shard, that is known of all of them, and has been so for a while: what has just happened
    /// may not have been noticed yet.
    pub async fn whole(&self) {
        let begun = Instant::now();
        if let Err(answer) = self.site.whole(WHOLE, QUIET).await {
            panic!("not whole: {answer:#}\n{}", self.last_words());
        }
        println!("      whole after {:.1?}", begun.elapsed());
    }

    /// Reads every key that was ever written.
    pub async fn read_all(&self) {
        let endpoints = self.site.endpoints();
        let keys = Arc::new(Mutex::new(self.shared.history.keys()));
        let mut readers = JoinSet::new();
        for number in 0..READERS {
            let mut reader = Worker::new(number, &endpoints, Random::new(number), &self.shared);
            let keys = Arc::clone(&keys);
            readers.spawn(async move {
                loop {
                    let Some(key) = keys.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
                    let begun = Instant::now();
                    while reader.read_first(&key, None).await.is_err() {
                        assert!(begun.elapsed() < RECOVERED, "{key} can't be read");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            });
        }
        while let Some(done) = readers.join_next().await {
            done.unwrap_or_else(|error| panic!("{error}\n{}", self.last_words()));
        }
    }

    /// Every key with its size and ETag, and every version.
    pub async fn namespace(&self) -> (Listed, [ListedVersions; 2]) {
        let lister = Worker::new(0, &self.site.endpoints(), Random::new(0), &self.shared);
        let begun = Instant::now();
        loop {
            let versions = async |bucket| lister.listed_versions(bucket).await;
            let all = tokio::join!(lister.listed(""), versions(VERSIONED), versions(LOCKED));
            if let (Ok(listed), Ok(versions), Ok(locked)) = all {
                return (listed, [versions, locked]);
            }
            assert!(begun.elapsed() < RECOVERED, "no listing\n{}", self.last_words());
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Looks at every shard of every object, once all is whole that metadata knows of: what it does not know it can't mend, and the next
    /// loss may be one too many. Rot that nobody has met yet is mended first.
    async fn sound(&self) {
        let begun = Instant::now();
        let verified = async || match self.site.verified(RECOVERED).await {
            Ok(unsound) => unsound,
            Err(failed) => panic!("{failed}\n{}", self.last_words()),
        };
        let mut found = verified().await;
        if !found.rotten.is_empty() {
            println!("      rot is mended: {:?}", found.rotten);
            assert!(found.wrong.is_empty(), "not where the rows say: {found:#?}\n{}", self.last_words());
            self.whole().await;
            found = verified().await;
        }
        let is_sound = found.rotten.is_empty() && found.wrong.is_empty();
        assert!(is_sound, "not as the rows say: {found:#?}\n{}", self.last_words());
        if self.site.shape.racks > 0
            && let Err(crowded) = self.site.apart(WHOLE).await
        {
            panic!("{crowded}\n{}", self.last_words());
        }
        println!("      every shard verified after {:.1?}", begun.elapsed());
    }

    /// All of metadata is lost. What storage nodes hold brings it back, the same as it was: which is first looked at.
    pub async fn metadata_is_lost(&self) {
        self.sound().await;
        let before = self.namespace().await;
        for name in self.site.layout.metadata_names() {
            self.site.supervisor.kill(&name);
        }
        self.site.wipe_metadata();
        let wiped = Instant::now();
        self.site.rebuild_metadata().await.unwrap_or_else(|failed| panic!("{failed}"));
        println!("metadata rebuilt in {:.1?}", wiped.elapsed());
        assert!(self.namespace().await == before, "the namespace is another one after metadata was wiped");
        let mut remover = Worker::new(0, &self.site.endpoints(), Random::new(0), &self.shared);
        let held = remover.locks_hold(RECOVERED).await.unwrap_or_default();
        println!("      {held} locked versions are held");
        self.read_all().await;
        self.judge("after metadata was wiped");
        assert!(held > 0, "no locked version was asked for\n{}", self.last_words());
    }

    /// Waits until the second copy has everything, and compares it. The load has ended.
    pub async fn copied(&self) {
        let copied = self.site.is_copied(&self.shared).await;
        copied.unwrap_or_else(|failed| panic!("{failed}\n{}", self.last_words()));
    }

    /// Fails unless one copy of each object could have shown what was seen, and no process panicked.
    pub fn judge(&self, when: &str) {
        let wrong = self.shared.history.judge();
        let list = wrong.join("\n");
        assert!(wrong.is_empty(), "{when}: {} things are wrong:\n{list}\n{}", wrong.len(), self.last_words());
        let supervisor = &self.site.supervisor;
        let panicked = |name: &String| supervisor.said(name).contains("panicked at");
        let panics: Vec<String> = supervisor.names().into_iter().filter(panicked).collect();
        assert!(panics.is_empty(), "{when}: panics in {panics:?}\n{}", self.last_words());
    }

    /// Prints what a run came to. Fails when too little was done to mean anything.
    pub fn report(&self, outcomes: &[Outcome], took: Duration) {
        let figures = self.shared.history.figures();
        let mut times: Vec<Duration> = outcomes.iter().map(|outcome| outcome.recovered).collect();
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        println!(
            "{} faults in {took:.0?}: recovered within {:.1?} (half), {:.1?} (nine of ten), {:.1?} (all)",
            outcomes.len(),
            at(50),
            at(90),
            times.last().copied().unwrap_or_default()
        );
        if let Some(slowest) = outcomes.iter().max_by_key(|outcome| outcome.gap) {
            println!("the longest time without an acknowledged change: {:.1?}, while {}", slowest.gap, slowest.what);
        }
        println!("{}", tally(outcomes, &self.kinds, &self.left_out));
        println!(
            "{} operations on {} keys, {} versions, {} changes acknowledged, {} open, {} MiB sent; failures: {:?}",
            figures.operations,
            figures.keys,
            figures.versions,
            self.shared.history.acknowledged(),
            figures.open,
            figures.written >> 20,
            figures.failures
        );
        assert!(self.shared.history.acknowledged() > 10 * outcomes.len(), "too little was done to mean anything");
    }
}

/// Fails for kinds of faults that can't be brought about, where all are required.
fn all_possible(left_out: &[String], required: bool) -> Result<(), String> {
    if left_out.is_empty() || !required {
        return Ok(());
    }
    Err(format!("these faults can't be brought about here, and CI=true: {}", left_out.join(", ")))
}

/// Which kinds were inflicted how often, which not at all, and which could not be.
fn tally(outcomes: &[Outcome], possible: &[String], left_out: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = possible.iter().map(|kind| (kind.as_str(), 0)).collect();
    for kind in outcomes.iter().flat_map(|outcome| &outcome.kinds) {
        *counts.entry(kind).or_default() += 1;
    }
    let inflicted: Vec<String> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(kind, count)| format!("{kind} {count}")).collect();
    let never: Vec<&str> = counts.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| *kind).collect();
    let or_none = |names: String| if names.is_empty() { "none".to_owned() } else { names };
    format!(
        "inflicted: {}; never drawn: {}; not possible here: {}",
        or_none(inflicted.join(", ")),
        or_none(never.join(", ")),
        or_none(left_out.join(", "))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_summary_says_which_faults_came_how_often() {
        let outcome = |kinds: &[&str]| Outcome {
            what: String::new(),
            kinds: names(kinds),
            gap: Duration::ZERO,
            recovered: Duration::ZERO,
        };
        let outcomes = [outcome(&["Rot", "KillNode"]), outcome(&["Rot"]), outcome(&["LoseFollower (only killed)"])];
        assert_eq!(
            tally(&outcomes, &names(&["KillNode", "Rot", "LoseFollower"]), &names(&["FillDrive"])),
            "inflicted: KillNode 1, LoseFollower (only killed) 1, Rot 2; never drawn: LoseFollower; not possible here: FillDrive"
        );
        assert_eq!(tally(&[], &[], &[]), "inflicted: none; never drawn: none; not possible here: none");
    }

    #[test]
    fn with_ci_all_kinds_of_faults_must_be_possible() {
        let left_out = names(&["FillDrive", "JumpClock"]);
        assert_eq!(all_possible(&left_out, false), Ok(()));
        assert!(all_possible(&left_out, true).unwrap_err().contains("FillDrive, JumpClock"));
        assert_eq!(all_possible(&[], true), Ok(()));
    }
}
