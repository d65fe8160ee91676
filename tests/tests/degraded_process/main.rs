//! Any m drives may go, while the server runs or while it is stopped: every object reads back identical, writes go on, and
//! the next start works. When more are gone, whoever needs them gets an error that says nothing of the inside, and nobody
//! gets wrong bytes.
#![allow(clippy::unwrap_used, missing_docs)]

mod harm;
mod store;

use harm::{Harm, aside, harm};
use std::time::{Duration, Instant};
use store::{Outcome, Store};

/// Six drives, 3+2 with a spare: two are lost, two of those that carry the journal.
async fn lost_while_running(what: Harm) {
    let mut store = Store::new(6);
    let other = store.other_cluster(what).await;
    let server = store.start().await;
    store.fill().await;
    let victims = store.journal_drives().await;
    for n in &victims[..2] {
        harm(&store.config, *n, what, other.as_ref());
    }
    store.verify("with two drives gone").await;
    store.put_more("after the loss").await;
    store.verify("after writing on").await;
    store.config.seal().await;
    store.verify("after sealing").await;
    let status = server.stop().await;
    assert_eq!(status.code(), Some(0), "SIGTERM with two drives gone ends cleanly");

    let server = store.start().await;
    store.verify("started again").await;
    store.put_more("started again").await;
    server.kill().await;
    std::fs::remove_dir_all(store.config.index()).unwrap();
    let server = store.start().await;
    store.verify("without an index").await;
    drop(server);
    store.foreign_is_untouched(what, &victims[..2]);
}

/// The same while the server is stopped; the index is gone, too, at the second start.
async fn lost_while_stopped(what: Harm) {
    let mut store = Store::new(6);
    let other = store.other_cluster(what).await;
    let server = store.start().await;
    store.fill().await;
    let victims = store.journal_drives().await;
    server.kill().await;
    for n in &victims[1..] {
        harm(&store.config, *n, what, other.as_ref());
    }
    let server = store.start().await;
    store.verify("started with two drives gone").await;
    store.put_more("after the loss").await;
    store.config.seal().await;
    store.verify("after sealing").await;
    server.kill().await;
    std::fs::remove_dir_all(store.config.index()).unwrap();
    let server = store.start().await;
    store.verify("without an index").await;
    store.put_more("without an index").await;
    store.verify("after writing on").await;
    drop(server);
    store.foreign_is_untouched(what, &victims[1..]);
}

macro_rules! harms {
    ($($name:ident: $path:ident($harm:ident);)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                $path(Harm::$harm).await;
            }
        )*
    };
}

harms! {
    two_drives_deleted_while_running: lost_while_running(Deleted);
    two_drives_emptied_while_running: lost_while_running(Emptied);
    two_drives_replaced_while_running: lost_while_running(Foreign);
    two_drives_overwritten_while_running: lost_while_running(Noise);
    two_drives_deleted_while_stopped: lost_while_stopped(Deleted);
    two_drives_emptied_while_stopped: lost_while_stopped(Emptied);
    two_drives_replaced_while_stopped: lost_while_stopped(Foreign);
    two_drives_overwritten_while_stopped: lost_while_stopped(Noise);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_three_of_six_gone_what_can_be_read_is_read_and_the_rest_is_an_error() {
    let mut store = Store::new(6);
    let mut server = store.start().await;
    store.fill().await;
    let victims = store.journal_drives().await;
    // Noise, because open files of deleted directories can still be read.
    for n in &victims {
        harm(&store.config, *n, Harm::Noise, None);
    }
    let (read, refused) = store.read_or_refused("three gone while running").await;
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
    let put = store.try_put("never/a", 100).await;
    assert!(matches!(put, Outcome::Refused(503)), "PUT without a journal: {put:?}");
    let put = store.try_put("never/b", 3 << 20).await;
    assert!(matches!(put, Outcome::Refused(503)), "PUT without a journal: {put:?}");
    server.signal("KILL");
    server.ended().await;

    let mut server = store.config.spawn();
    server.readable().await.unwrap_or_else(|failed| panic!("reads are served with half of the drives: {failed}"));
    let (read, refused) = store.read_or_refused("three gone at the start").await;
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
    let put = store.try_put("never/c", 100).await;
    assert!(matches!(put, Outcome::Refused(503)), "PUT in a start that reads only: {put:?}");
    let deleted = store.try_delete("sealed/0").await;
    assert!(matches!(deleted, Outcome::Refused(503)), "DELETE in a start that reads only: {deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fewer_than_1_plus_m_drives_there_are_reads_only_until_one_comes_back() {
    let mut store = Store::new(3); // 1+2: three journal copies
    let server = store.start().await;
    store.fill().await;
    let gone = aside(&store.config, 1);
    std::fs::rename(store.config.drive(1), &gone).unwrap();
    // The loss is noticed with the first write that meets it, or before.
    let put = store.try_put("journal/late", 100).await;
    assert!(matches!(put, Outcome::Refused(503)), "PUT with two of three: {put:?}");
    let put = store.try_put("stripe/late", 3 << 20).await;
    assert!(matches!(put, Outcome::Refused(503)), "PUT with two of three: {put:?}");
    store.verify("with two of three").await;
    server.kill().await;

    let mut server = store.config.spawn();
    server.readable().await.unwrap_or_else(|failed| panic!("reads are served with two of three: {failed}"));
    store.verify("started with two of three").await;
    let put = store.try_put("journal/late", 100).await;
    assert!(matches!(put, Outcome::Refused(503)), "PUT with two of three: {put:?}");
    server.kill().await;

    std::fs::rename(gone, store.config.drive(1)).unwrap();
    let server = store.start().await;
    store.verify("with all three").await;
    store.put_more("with all three").await;
    store.verify("after writing on").await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_that_come_back_are_used_again() {
    let mut store = Store::new(6);
    let server = store.start().await;
    store.fill().await;
    let victims = store.journal_drives().await;
    server.stop().await;
    for n in &victims[..2] {
        std::fs::rename(store.config.drive(*n), aside(&store.config, *n)).unwrap();
    }
    let server = store.start().await;
    store.put_more("while two were away").await;
    store.verify("while two were away").await;
    server.stop().await;
    for n in &victims[..2] {
        std::fs::rename(aside(&store.config, *n), store.config.drive(*n)).unwrap();
    }
    let server = store.start().await;
    store.verify("after they came back").await;
    let begun = Instant::now();
    while store.status().await.iter().filter(|drive| drive.state == "healthy").count() < 6 {
        assert!(begun.elapsed() < Duration::from_secs(120), "all are used again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Each stripe leaves one of the six out, by chance.
    let mut written = Vec::new();
    for _ in 0..20 {
        store.put_more("after they came back").await;
        written = victims[..2].iter().map(|n| store.writes_to(*n)).collect();
        if written == [true, true] {
            break;
        }
    }
    assert_eq!(written, [true, true], "new shards lie on the drives that came back");
    server.kill().await;
    // Now two others may go: what was written meanwhile lies on the four that stayed, two of which are left.
    let others: Vec<usize> = (0..6).filter(|n| !victims[..2].contains(n)).collect();
    for n in &others[..2] {
        harm(&store.config, *n, Harm::Deleted, None);
    }
    let server = store.start().await;
    store.verify("with two others gone").await;
    drop(server);
}
