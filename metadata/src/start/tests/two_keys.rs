//! Two key-encryption keys: either is enough for every kind of start, also when one of them was replaced.

use super::world::{Client, World, run};
use crate::client::{MetadataClient, Mode};
use crate::index;
use crate::keys::{KEY_CHECK_SETTING, KeyError, Keys, Purpose, coming_path, former_path, second_path};
use crate::service::Metadata;
use crate::start::StartError;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A cluster with two key files, an encrypted domain and some objects.
struct Two {
    dir: TempDir,
    world: World,
    client: Client,
}

impl Two {
    async fn new(drives: usize, geometry: &str, seal: bool) -> Two {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(drives, geometry);
        world.key_file = Some(dir.path().join("kek"));
        let (metadata, client) = world.filled(0..5, 3000).await;
        metadata.domain("alice", &Purpose::Managed).await.unwrap();
        if seal {
            metadata.seal_now().await.unwrap();
        }
        metadata.shutdown().await;
        Two { dir, world, client }
    }

    fn first(&self) -> PathBuf {
        self.dir.path().join("kek")
    }

    /// Replaces the first key as the page for operators says, and returns after the start that wraps everything by the new one.
    async fn replace_first(&self) -> Metadata {
        let first = self.first();
        std::fs::rename(second_path(&first), &first).unwrap();
        Keys::make_second(&first).unwrap().unwrap();
        let metadata = self.world.serving().await;
        assert!(second_path(&first).exists() && !coming_path(&first).exists(), "it has come");
        metadata
    }

    /// Takes all members of the journal's ensemble away.
    async fn lose_members(&mut self, metadata: Metadata) {
        let members = metadata.status().ensemble;
        let drives = super::failures::numbers(&self.world, &metadata).await;
        metadata.shutdown().await;
        self.world.given.retain(|n| !drives.iter().any(|(id, at)| at == n && members.contains(id)));
    }

    /// Everything opens by each key that is here.
    async fn check(&self, metadata: &Metadata) {
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        assert!(metadata.domain("alice", &Purpose::Managed).await.unwrap().seals());
        let view = index::Overlay::new(&**metadata.kv());
        let check = index::setting(&view, KEY_CHECK_SETTING).unwrap().unwrap();
        metadata.keys().check(&check).unwrap();
    }
}

/// Another directory of key files with some of those.
fn only(from: &Path, names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// The check was looked for from the front: it is wrapped by the first key alone, or by one that was destroyed long ago.
#[test]
fn an_index_is_rebuilt_with_either_key_and_after_a_key_was_replaced() {
    run(async {
        for (replace, seal) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut two = Two::new(4, "2+1", seal).await;
            if replace {
                let metadata = two.replace_first().await;
                metadata.shutdown().await;
            }
            let all = two.dir.path().to_owned();
            for names in [&["kek"][..], &["kek2"], &["kek", "kek2"]] {
                let some = only(&all, names);
                two.world.key_file = Some(some.path().join("kek"));
                two.world.lose_index();
                let metadata = two.world.serving().await;
                two.check(&metadata).await;
                two.client.check(&metadata).await;
                metadata.shutdown().await;
            }
        }
    });
}

#[test]
fn a_loss_is_accepted_after_a_key_was_replaced() {
    run(async {
        for rebuild in [false, true] {
            let mut two = Two::new(7, "3+2", true).await;
            let metadata = two.replace_first().await;
            metadata.seal_now().await.unwrap();
            two.lose_members(metadata).await;
            if rebuild {
                two.world.lose_index();
            }
            let (metadata, _) = two.world.accept_loss().await.unwrap();
            two.check(&metadata).await;
            metadata.shutdown().await;
        }
    });
}

/// What says that a key was replaced is among what is lost: then the other one is still right, and the index knows that the new one
/// is no other cluster's. Without an index, its operator has to say so.
#[test]
fn a_loss_that_takes_the_last_wrapping_away_is_accepted_with_the_key_that_is_left() {
    run(async {
        for rebuild in [false, true] {
            let mut two = Two::new(7, "3+2", true).await;
            let metadata = two.replace_first().await;
            two.lose_members(metadata).await;
            if rebuild {
                two.world.lose_index();
                let refused = two.world.accept_loss().await.map(|_| ());
                let first = two.first();
                match refused {
                    Err(StartError::Key(KeyError::Second { coming, .. })) => assert_eq!(coming, coming_path(&first)),
                    other => panic!("{other:?}"),
                }
                // Reading does no harm meanwhile.
                let metadata = two.world.start().await;
                assert_eq!(metadata.status().mode, Mode::ReadOnly);
                metadata.shutdown().await;
                std::fs::rename(second_path(&first), coming_path(&first)).unwrap();
            }
            let (metadata, _) = two.world.accept_loss().await.unwrap();
            two.check(&metadata).await;
            metadata.shutdown().await;
            let metadata = two.world.serving().await;
            two.check(&metadata).await;
            metadata.shutdown().await;
        }
    });
}

/// A domain was made while one of the two keys was not there, and then the other one was not: nobody was told, and a key that took the
/// place of the missing one was never put to use.
#[test]
fn what_is_under_a_key_that_is_not_here_is_said_and_keeps_nothing_else_from_both_keys() {
    run(async {
        let two = Two::new(4, "2+1", false).await;
        let (first, away) = (two.first(), two.dir.path().join("away"));
        std::fs::rename(&first, &away).unwrap();
        let metadata = two.world.serving().await;
        assert!(metadata.keys_status().one_is_missing && metadata.keys_status().closed == 0);
        assert!(metadata.status().warnings.iter().any(|warning| warning.contains("is missing")));
        let late = metadata.domain("late", &Purpose::Managed).await.unwrap().id;
        metadata.shutdown().await;

        // The other medium.
        std::fs::rename(&away, &first).unwrap();
        std::fs::rename(second_path(&first), &away).unwrap();
        let metadata = two.world.serving().await;
        assert_eq!(metadata.keys_status().closed, 2, "its two keys");
        let named = format!("the chunk key of domain {late}");
        assert!(metadata.status().warnings.iter().any(|warning| warning.contains(&named)), "{:?}", metadata.status());
        let round = metadata.reclaimer().unwrap().round().await;
        assert!(round.is_ok(), "no space was given back any more: {round:?}");
        metadata.shutdown().await;

        // Another key in its place: everything that opens is under both.
        Keys::make_second(&first).unwrap().unwrap();
        let metadata = two.world.serving().await;
        assert!(second_path(&first).exists(), "it has come");
        let state = metadata.keys_status();
        assert_eq!((state.there, state.one_is_missing, state.closed), (2, false, 2));
        two.check(&metadata).await;
        metadata.shutdown().await;
        std::fs::remove_file(&first).unwrap();
        let metadata = two.world.serving().await;
        assert!(metadata.domain("alice", &Purpose::Managed).await.unwrap().seals(), "by the new one alone");
        assert_eq!(metadata.keys_status().closed, 2);
        metadata.shutdown().await;

        // The key that is missed is found.
        std::fs::rename(second_path(&first), &first).unwrap();
        Keys::make_second(&first).unwrap().unwrap();
        std::fs::rename(&away, former_path(&first)).unwrap();
        let metadata = two.world.serving().await;
        assert_eq!(metadata.keys_status().closed, 0);
        metadata.shutdown().await;
        std::fs::remove_file(former_path(&first)).unwrap();
        let metadata = two.world.serving().await;
        assert_eq!(metadata.keys_status().closed, 0, "it was wrapped by both");
        assert!(metadata.domain("late", &Purpose::Managed).await.unwrap().seals());
        metadata.shutdown().await;
    });
}

/// Temporary credentials ended where the first key went missing.
#[test]
fn temporary_credentials_outlast_either_key() {
    run(async {
        let two = Two::new(4, "2+1", false).await;
        let secret = |metadata: &Metadata| metadata.keys().session_key().unwrap().secret("ASIAX").expose().to_owned();
        let metadata = two.world.serving().await;
        let both = secret(&metadata);
        metadata.shutdown().await;
        let all = two.dir.path().to_owned();
        for name in ["kek", "kek2"] {
            let mut world = World::over(two.world.trace.clone(), two.world.home.clone(), "2+1", Default::default());
            let some = only(&all, &[name]);
            world.key_file = Some(some.path().join("kek"));
            let metadata = world.serving().await;
            assert_eq!(secret(&metadata), both, "{name}");
            metadata.shutdown().await;
        }
    });
}
