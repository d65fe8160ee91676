//! An upgrade to the next release (`stele-next`) in real processes, under load: one process after the other, forth and back, without
//! a request that fails; finished by an operator; and from then on the release before is refused by name.

#![allow(clippy::unwrap_used, missing_docs)]

mod media;
mod serve;

use media::Found;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tests::cluster::load::Worker;
use tests::cluster::run::Run;
use tests::cluster::site::{Layout, PATIENCE, Shape};
use tests::process::{binary, next_binary};
use tests::s3::Random;
use tokio::task::JoinHandle;

const LAYOUT: Layout = Layout { nodes: 6, drives: 2, metadata: 3, gateways: 2 };
/// Clients that try what fails again, none of whose requests may fail, and others that use everything there is.
const PERSISTENT: u64 = 4;
const MIXED: u64 = 2;
/// How long a process may take to end that was told to.
const GONE: Duration = Duration::from_secs(100);
/// Within this time all is whole that was out of order, and for how long it must be.
const WHOLE: Duration = Duration::from_secs(240);
const QUIET: Duration = Duration::from_secs(2);
/// For how long a leader has to have led before it raises the level, and a little more.
const LED: Duration = Duration::from_secs(17);
/// Pause before the same is asked again.
const AGAIN: Duration = Duration::from_millis(300);

/// What a refusal says, whoever says it: the level that is needed, the release that knows it, this one, and what to do.
const NAMED_LEVEL: [&str; 4] = ["format level 5", "stele 0.1.0-next", "knows levels up to 4", "or a later release"];

/// How a process ends that is too old for what it finds.
const TOO_OLD: i32 = 4;

/// The last line that says anything.
fn one_line(text: &str) -> String {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

struct Upgrade {
    run: Run,
    persistent: Vec<JoinHandle<u64>>,
    mixed: Vec<JoinHandle<Worker>>,
    /// The format level at first.
    before: u64,
}

impl Upgrade {
    async fn start() -> Upgrade {
        let run = Run::start(LAYOUT, Shape::default()).await;
        let (endpoints, shared) = (run.site.endpoints(), run.shared.clone());
        let persist = |number| Worker::new(number, &endpoints, Random::new(number), &shared).persist();
        let persistent = (1..=PERSISTENT).map(|number| tokio::spawn(persist(number))).collect();
        let mixed = |number| Worker::new(number, &endpoints, Random::new(number), &shared).run();
        let mixed = (100..100 + MIXED).map(|number| tokio::spawn(mixed(number))).collect();
        let mut upgrade = Upgrade { run, persistent, mixed, before: 0 };
        upgrade.before = upgrade.level().await;
        upgrade
    }

    /// Stops a process as a service manager does, and starts it from a build of `stele`.
    async fn restart(&mut self, name: &str, of: &Path) {
        let (begun, supervisor) = (Instant::now(), &self.run.site.supervisor);
        let ended = supervisor.stop(name, GONE).await;
        assert!(ended, "{name} does not end well: {}", supervisor.last_words(name, 40));
        supervisor.build(name, of);
        supervisor.start(name);
        let ready = supervisor.ready(name, PATIENCE).await;
        ready.unwrap_or_else(|failed| panic!("{failed}"));
        let took = begun.elapsed();
        let served = self.run.recovered().await;
        println!("{name} is {} after {took:.1?}, served after {served:.1?}", of.file_name().unwrap().display());
        if !name.starts_with('n') {
            return;
        }
        // What it could not be given while it was away is nowhere else as safe as it should be: the next one has to wait.
        let whole = self.run.site.whole(WHOLE, QUIET).await;
        whole.unwrap_or_else(|answer| panic!("not whole: {answer:#}\n{}", self.run.last_words()));
    }

    /// `stele upgrade`, asked of the leader until it answers at all.
    async fn upgrade(&self, what: &str) -> (bool, Value, String) {
        let data = self.run.site.path(&self.run.site.leader().await);
        let output = self.run.site.stele_of(next_binary(), &["upgrade", what, "--json", "--data", &data]).await;
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.success(), answer, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What `stele upgrade status` says, once a leader says it.
    async fn status(&self) -> Value {
        let begun = Instant::now();
        loop {
            let (_, answer, error) = self.upgrade("status").await;
            if answer["level"].is_u64() {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "no status: {error}\n{}", self.run.last_words());
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn level(&self) -> u64 {
        self.status().await["level"].as_u64().unwrap()
    }

    /// Finishing must be refused, and name these; unless the leader does not know of anything to be finished.
    async fn not_finished(&self, named: &[&str]) {
        let begun = Instant::now();
        loop {
            let (done, answer, error) = self.upgrade("finish").await;
            assert!(!done || answer["level"] == self.before, "finished: {answer:#}");
            if done {
                return println!("the leader is of the release before, and knows no other level");
            }
            if named.iter().all(|name| error.contains(name)) {
                return println!("refused as it should be: {}", one_line(&error));
            }
            // A process that has just changed may not be known yet.
            assert!(begun.elapsed() < PATIENCE, "{named:?} are not named: {error}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn media(&self) -> Vec<PathBuf> {
        self.run.site.layout.names().iter().map(|name| self.run.site.root().join(name)).collect()
    }

    fn nothing_new(&self, when: &str) {
        assert_eq!(
            Found::below(&self.media()),
            Found::default(),
            "{when}: layouts of a level that is not the cluster's"
        );
    }

    /// Finishes it, while the leader is killed at moments that chance chooses.
    async fn finish_over_kills(&mut self, before: u64) {
        let mut random = Random::new(before);
        for attempt in 0..2 {
            // Earlier it refuses: not every gateway has asked it for anything yet.
            tokio::time::sleep(LED).await;
            let leader = self.run.site.leader().await;
            let asked = self.upgrade("finish");
            let killed = async {
                tokio::time::sleep(Duration::from_millis(random.below(400))).await;
                self.run.site.supervisor.kill(&leader);
            };
            let ((done, ..), ()) = tokio::join!(asked, killed);
            self.run.site.supervisor.start(&leader);
            let ready = self.run.site.supervisor.ready(&leader, PATIENCE).await;
            ready.unwrap_or_else(|failed| panic!("{failed}"));
            let level = self.level().await;
            println!("attempt {attempt}: {leader} killed, answered {done}, the level is {level}");
            assert!(level == before || level == before + 1, "{level}");
            assert!(!done || level == before + 1, "it was answered that it is done");
            if level > before {
                break;
            }
        }
        let begun = Instant::now();
        loop {
            let (done, _, error) = self.upgrade("finish").await;
            if done {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "not finished: {error}\n{}", self.run.last_words());
            tokio::time::sleep(AGAIN).await;
        }
        assert_eq!(self.level().await, before + 1);
    }

    /// Waits until there is something on media that only the next release writes.
    async fn something_new(&self) {
        let begun = Instant::now();
        loop {
            let found = Found::below(&self.media());
            if found.frames > 0 && found.effects > 0 {
                return println!("on media: {found:?}");
            }
            assert!(begun.elapsed() < PATIENCE, "{found:?}\n{}", self.run.last_words());
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A process is started from the release before: it must be said why not, and the cluster goes on.
    async fn is_refused(&mut self, name: &str) {
        let supervisor = &self.run.site.supervisor;
        assert!(supervisor.stop(name, GONE).await, "{name} does not end well: {}", supervisor.last_words(name, 40));
        let before = supervisor.said(name).len();
        supervisor.surprises();
        supervisor.build(name, binary());
        supervisor.start(name);
        let line = self.refusal(name, before).await;
        println!("{name} of the release before: {line}");
        let mut probe = Worker::new(2000, &self.others(name), Random::new(7), &self.run.shared);
        let served = probe.served(PATIENCE).await;
        assert!(served.is_some(), "nothing is served while {name} is refused: {}", self.run.last_words());
        let supervisor = &self.run.site.supervisor;
        if name.starts_with('g') {
            assert!(!supervisor.is_ready(name).await, "a gateway that nobody works with says that it is ready");
        }
        if name.starts_with('m') {
            // It says why before it ends: the line may be read while the process is still there.
            let code = format!("exit status: {TOO_OLD}");
            let begun = Instant::now();
            let mut ends = Vec::new();
            while !ends.iter().any(|end: &String| end.contains(name)) {
                assert!(begun.elapsed() < PATIENCE, "{name} said why and did not end: {ends:?}");
                tokio::time::sleep(AGAIN).await;
                ends.extend(supervisor.surprises());
            }
            assert!(ends.iter().any(|end| end.contains(name) && end.contains(&code)), "{ends:?}");
        }
        supervisor.kill(name);
        supervisor.build(name, next_binary());
        supervisor.start(name);
        let ready = supervisor.ready(name, PATIENCE).await;
        ready.unwrap_or_else(|failed| panic!("{failed}"));
        let whole = self.run.site.whole(WHOLE, QUIET).await;
        whole.unwrap_or_else(|answer| panic!("not whole: {answer:#}\n{}", self.run.last_words()));
    }

    /// The line that says why a process is not worked with: a metadata node and a gateway say it themselves, of a storage node the
    /// leader does.
    async fn refusal(&self, name: &str, before: usize) -> String {
        let who = format!("{name} (stele 0.1.0) knows levels up to 4");
        let words: Vec<&str> = match name.starts_with('m') {
            true => NAMED_LEVEL.to_vec(),
            false => vec!["the cluster is at format level 5", &who, "start a later release"],
        };
        let begun = Instant::now();
        loop {
            let said = match name.starts_with('n') {
                true => {
                    let data = self.run.site.path(&self.run.site.leader().await);
                    let output = self.run.site.stele_of(next_binary(), &["node", "list", "--data", &data]).await;
                    String::from_utf8_lossy(&output.stdout).into_owned()
                }
                false => self.run.site.supervisor.said(name).split_off(before),
            };
            if let Some(line) = said.lines().find(|line| words.iter().all(|words| line.contains(words))) {
                return line.trim().to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "{name} is not refused by name: {said}\n{}", self.run.last_words());
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// S3 ports but that of this process.
    fn others(&self, name: &str) -> Vec<String> {
        let ports = self.run.site.layout.s3_names().into_iter().zip(self.run.site.endpoints());
        ports.filter(|(port, _)| port != name).map(|(_, endpoint)| endpoint).collect()
    }

    async fn end(&mut self) {
        self.run.shared.stop.store(true, Ordering::Relaxed);
        let mut failed = 0;
        for worker in self.persistent.drain(..) {
            failed += worker.await.unwrap();
        }
        for worker in self.mixed.drain(..) {
            worker.await.unwrap();
        }
        let failures = self.run.shared.history.figures().failures;
        println!("attempts that failed: {failures:?}");
        assert_eq!(failed, 0, "requests that failed with their retries: {failures:?}\n{}", self.run.last_words());
        self.run.read_all().await;
        self.run.judge("after the upgrade");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_under_load_and_back_until_it_is_finished() {
    let begun = Instant::now();
    let mut upgrade = Upgrade::start().await;
    let (old, next) = (binary(), next_binary());
    let before = upgrade.before;

    for name in LAYOUT.node_names() {
        upgrade.restart(&name, next).await;
    }
    // Any of them may go back.
    upgrade.restart("n2", old).await;
    upgrade.not_finished(&["n2"]).await;
    upgrade.restart("n2", next).await;

    // The leader last, so that there is one of the release before as long as can be; then it goes back, and leads or follows.
    let leader = upgrade.run.site.leader().await;
    let mut members = LAYOUT.metadata_names();
    members.sort_by_key(|name| *name == leader);
    for name in &members {
        upgrade.restart(name, next).await;
    }
    let leader = upgrade.run.site.leader().await;
    upgrade.restart(&leader, old).await;
    upgrade.not_finished(&[&leader, "g1", "g2"]).await;
    upgrade.restart(&leader, next).await;

    for name in ["g1", "g2"] {
        upgrade.restart(name, next).await;
    }
    upgrade.restart("g1", old).await;
    upgrade.not_finished(&["g1"]).await;
    upgrade.nothing_new("before the upgrade is finished");
    upgrade.restart("g1", next).await;
    println!("every process is of the next release after {:.0?}", begun.elapsed());
    upgrade.nothing_new("before the upgrade is finished");
    assert_eq!(upgrade.level().await, before);

    upgrade.finish_over_kills(before).await;
    upgrade.something_new().await;
    for name in ["n3", "m2", "g2"] {
        upgrade.is_refused(name).await;
    }
    upgrade.end().await;

    // What the load wrote last may be short of a shard on a busy machine, and the next step counts them.
    upgrade.run.whole().await;
    // The level is in the journal: it comes back with everything else.
    upgrade.run.metadata_is_lost().await;
    assert_eq!(upgrade.level().await, before + 1);
    println!("all of it after {:.0?}", begun.elapsed());
}
