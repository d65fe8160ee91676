//! The long runs: racks of which one may be lost, metadata nodes and storage nodes that come and go, drives that are lost for good,
//! S3 from metadata processes as well, and a second copy elsewhere, all of it under load and under all the other faults.

use super::{TURN, WORKERS, number, seed};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::cluster::changes::Done;
use tests::cluster::faults::Deck;
use tests::cluster::run::Run;
use tests::cluster::site::{Layout, Shape};
use tokio::task::JoinHandle;

/// Metadata is one process at first, and becomes three, five, three ...
const LAYOUT: Layout = Layout { nodes: 6, drives: 2, metadata: 5, gateways: 2 };
const SHAPE: Shape = Shape { racks: 3, founders: 1, s3_everywhere: true };

type Changing = JoinHandle<Result<Done, String>>;

async fn ended(run: &Run, changing: Changing) -> Done {
    let done = changing.await.unwrap_or_else(|error| panic!("{error}"));
    done.unwrap_or_else(|failed| panic!("{failed}\n{}", run.last_words()))
}

async fn befall(seed: u64, more: impl FnMut(usize) -> bool) {
    let _turn = TURN.lock().await;
    println!("seed {seed}");
    let begun = Instant::now();
    let mut run = Run::start(LAYOUT, SHAPE).await;
    run.site.copied_elsewhere().await.unwrap();
    let load = run.load(WORKERS, seed.wrapping_add(1));
    let stop = Arc::new(AtomicBool::new(false));
    let members = tokio::spawn(Arc::clone(&run.site).members_come_and_go(seed, Arc::clone(&stop)));
    let nodes = tokio::spawn(Arc::clone(&run.site).nodes_come_and_go(seed, Arc::clone(&stop)));
    let deck = Deck::new(seed, run.means(true));
    let outcomes = run.faults(deck, more).await;
    stop.store(true, Ordering::Relaxed);
    let (members, nodes) = (ended(&run, members).await, ended(&run, nodes).await);
    run.end(load).await;
    println!("the load has ended after {:.1?}", begun.elapsed());
    run.read_all().await;
    run.judge("after the faults");
    run.whole().await;
    run.copied().await;
    run.metadata_is_lost().await;
    run.copied().await;
    run.report(&outcomes, begun.elapsed());
    println!(
        "metadata nodes: {} added, {} removed, in {} rounds from three to five and back; storage nodes replaced: {}",
        members.added,
        members.removed,
        members.rounds(),
        nodes.replaced
    );
    assert!(members.rounds() >= 1, "metadata nodes did not become five and three again: {members:?}");
    assert!(nodes.replaced >= 1, "no storage node was replaced");
}

/// As many faults as `STELE_SOAK_MINUTES` has room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: some minutes"]
async fn a_cluster_that_is_changed_under_load_survives_faults_for_long() {
    let end = Instant::now() + Duration::from_secs(60 * number("STELE_SOAK_MINUTES").unwrap_or(10));
    befall(seed(), |_| Instant::now() < end).await;
}

/// The same without the wide part, so that what is only seen in one of them tells where to look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: some minutes"]
async fn a_cluster_under_load_survives_faults_for_long() {
    let end = Instant::now() + Duration::from_secs(60 * number("STELE_SOAK_MINUTES").unwrap_or(10));
    super::befall(seed(), |done| done < 30 || Instant::now() < end).await;
}
