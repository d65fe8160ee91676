//! A metadata node whose data directory has no room: it ends and says why, the others go on, and with room again it is who it was,
//! with its log and vote. And one that has the data directory of another.

use super::access::make_bucket;
use super::writing::Writing;
use aws_sdk_s3::primitives::ByteStream;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::cluster::site::{Layout, PATIENCE, Site};
use tests::s3::{client_at, document};

const BUCKET: &str = "room";
/// Small enough to be journaled: every put goes through the Raft logs.
const SIZE: usize = 60_000;
/// What the node's data directory may take, in MiB.
const MIB: usize = 192;

/// A small file system with what was in a directory, in its place; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, with a word on the terminal, where mounting is not permitted.
    fn over(directory: &Path) -> Option<Mounted> {
        let aside = directory.with_extension("aside");
        std::fs::rename(directory, &aside).unwrap();
        std::fs::create_dir(directory).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={MIB}m,mode=700"), "stele-test"]).arg(directory);
        match mount.output() {
            Ok(output) if output.status.success() => {}
            other => {
                println!("SKIPPED: no file system can be mounted here: {other:?}");
                return None;
            }
        }
        let mounted = Mounted(directory.to_owned());
        let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(directory).status();
        assert!(copied.unwrap().success(), "cp");
        Some(mounted)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut filler = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![7; size];
            loop {
                match filler.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have it open.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
    }
}

/// Waits until the process has said this so often.
async fn says(site: &Site, name: &str, what: &str, times: usize) {
    let begun = Instant::now();
    while site.supervisor.said(name).matches(what).count() < times {
        assert!(begun.elapsed() < PATIENCE, "{name} does not say {what}:\n{}", site.supervisor.last_words(name, 60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn number_of(site: &Site, name: &str) -> String {
    let begun = Instant::now();
    loop {
        let leader = site.path(&site.leader().await);
        let answer = site.json(&["member", "list", "--json", "--data", &leader]).await;
        let of = answer["members"].as_array().into_iter().flatten().find(|one| one["name"] == name);
        if let Some(number) = of.and_then(|one| one["number"].as_str()) {
            return number.to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{answer:#}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// It lived on without Raft and without a word, and stayed so when there was room again; where disks filled alike, nobody led any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_node_without_room_ends_and_comes_back_as_who_it_was() {
    let site = Site::start(Layout { nodes: 3, drives: 2, metadata: 3, gateways: 1 }).await.unwrap();
    let client = client_at(&site.endpoints()[0], Duration::from_secs(60));
    make_bucket(async || client.create_bucket().bucket(BUCKET).send().await).await;
    let name = "m3";
    let number = number_of(&site, name).await;
    assert!(site.supervisor.stop(name, PATIENCE).await, "{}", site.supervisor.said(name));
    let Some(mounted) = Mounted::over(&site.root().join(name)) else { return };
    site.supervisor.start(name);
    site.supervisor.ready(name, PATIENCE).await.unwrap();
    let begun = Instant::now();
    loop {
        let leader = site.path(&site.leader().await);
        let warned = site.stele(&["status", "--data", &leader]).await;
        let warned = String::from_utf8_lossy(&warned.stdout).into_owned();
        if warned.contains("the data directory of metadata node m3 has") {
            break;
        }
        // The leader asks the others now and then.
        assert!(begun.elapsed() < PATIENCE, "{warned}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    let writing = Writing::begin(&client, BUCKET, SIZE);
    for round in 1..=2 {
        site.supervisor.surprises();
        mounted.fill();
        // It is started again and again, as systemd does, and ends each time, for as long as there is no room.
        let begun = Instant::now();
        let mut ended = Vec::new();
        let ends = || site.supervisor.said(name).matches("this metadata node ends: its state in").count();
        while ended.is_empty() || ends() < round {
            ended.extend(site.supervisor.surprises());
            // What the process itself has removed meanwhile is room, too.
            mounted.fill();
            assert!(begun.elapsed() < PATIENCE, "{name} does not end:\n{}", site.supervisor.last_words(name, 60));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(ended.iter().all(|end| end.starts_with("m3 ended by itself: exit status: 1")), "{ended:?}");
        if round == 2 {
            // Whatever it was at: in a start, or on its way out.
            site.supervisor.kill(name);
            // Files that it had open and that were removed are gone only now: with their room a start would go on for ever.
            mounted.fill();
            let output = site.stele(&["metadata", "--config", &site.path("m3.toml")]).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("No space left on device") && said.contains("/m3"), "{said}");
        }
        mounted.make_room();
        site.supervisor.start(name);
        site.supervisor.ready(name, PATIENCE).await.unwrap();
    }
    let said = site.supervisor.said(name);
    assert!(said.contains("No space left on device"), "{said}");
    for wrong in ["--rejoin", "state of this metadata node is gone", "damaged", "panicked"] {
        assert!(!said.contains(wrong), "{wrong}: {said}");
    }
    assert_eq!(number_of(&site, name).await, number, "it is another member");

    // What it holds counts: it is one of the two that are left.
    let other = ["m1", "m2"][usize::from(site.leader().await == "m1")];
    site.supervisor.kill(other);
    let last = || ByteStream::from(document(u64::MAX, SIZE));
    let begun = Instant::now();
    while client.put_object().bucket(BUCKET).key("last").body(last()).send().await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "{}", site.supervisor.last_words(name, 60));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    writing.ends_with_all_there().await;
    site.supervisor.kill(name);
}

/// The others refuse what it says, and it said nothing of that to those who look after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_node_with_the_data_directory_of_another_says_so() {
    let site = Site::start(Layout { nodes: 3, drives: 1, metadata: 3, gateways: 1 }).await.unwrap();
    // One that has just been added does not know its own name yet.
    site.all_ready(&site.layout.metadata_names()).await.unwrap();
    for name in ["m2", "m3"] {
        assert!(site.supervisor.stop(name, PATIENCE).await, "{}", site.supervisor.said(name));
    }
    // m2's, copied to m3.
    std::fs::rename(site.root().join("m3"), site.root().join("m3.own")).unwrap();
    let copied = Command::new("cp").arg("-a").arg(site.root().join("m2")).arg(site.root().join("m3")).status();
    assert!(copied.unwrap().success(), "cp");
    site.supervisor.start("m2");
    site.supervisor.start("m3");
    let told =
        format!("the data directory {} is that of metadata node m2, and the certificate names m3", site.path("m3"));
    says(&site, "m3", &told, 1).await;
    site.supervisor.ready("m2", PATIENCE).await.unwrap();
    let begun = Instant::now();
    loop {
        let answer = site.json(&["member", "list", "--json", "--data", &site.path("m3")]).await;
        if answer["condition"].as_str().is_some_and(|said| said.contains(&told)) {
            break;
        }
        // It says so before it takes its place.
        assert!(begun.elapsed() < PATIENCE, "{answer:#}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(!site.supervisor.is_ready("m3").await);
    site.supervisor.kill("m3");
    std::fs::remove_dir_all(site.root().join("m3")).unwrap();
    std::fs::rename(site.root().join("m3.own"), site.root().join("m3")).unwrap();
    site.supervisor.start("m3");
    site.supervisor.ready("m3", PATIENCE).await.unwrap();
}
