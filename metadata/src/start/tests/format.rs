//! The format level of a store: founded at the newest, kept by one from before there were levels, raised by one entry, and a later
//! one refused before anything is touched.

use super::world::{World, run};
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, Refusal};
use crate::index::{self, META, Overlay};
use crate::service::Metadata;
use crate::start::StartError;
use codec::effect::{LevelRow, NodeRow, NodeState};
use codec::level::{FormatLevel, SOFTWARE};
use storage_node::kv::{Kv, KvBatch};
use storage_node::level::CurrentLevel;

fn journaled(metadata: &Metadata) -> LevelRow {
    metadata.level_row().unwrap()
}

fn newest() -> LevelRow {
    LevelRow { level: FormatLevel::NEWEST.0, by: SOFTWARE.to_owned() }
}

/// The index as a release from before there were levels left it.
fn forget_level(world: &mut World) {
    let mut batch = KvBatch::new();
    batch.delete(META, b"level".to_vec());
    world.home.kv.lock().unwrap().write(batch).unwrap();
    world.config.level = CurrentLevel::default();
}

#[test]
fn a_first_start_founds_the_newest_level_and_a_rebuilt_index_has_it() {
    run(async {
        let mut world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..10, 3000).await;
        assert_eq!((journaled(&metadata), metadata.format_level()), (newest(), FormatLevel::NEWEST));
        assert_eq!(metadata.frame_version(), FormatLevel::NEWEST.versions().unwrap().frame);
        world.config.level = CurrentLevel::default();
        let metadata = world.rebuilt(metadata).await;
        assert_eq!((journaled(&metadata), metadata.format_level()), (newest(), FormatLevel::NEWEST));
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_store_from_before_levels_stays_there_until_the_level_is_raised_and_keeps_it_then() {
    run(async {
        let mut world = World::new(4, "2+1");
        let (metadata, mut client) = world.filled(0..10, 3000).await;
        metadata.shutdown().await;
        forget_level(&mut world);

        let metadata = world.serving().await;
        assert_eq!((journaled(&metadata).level, metadata.format_level()), (FormatLevel::BEFORE.0, FormatLevel::BEFORE));
        assert_eq!(metadata.frame_version(), 1);
        // What its releases wrote, this one writes there.
        let row = NodeRow { name: "n1".into(), address: "a:1".into(), state: NodeState::Active as i32 };
        metadata.commit(metadata.epoch(), Command::PutNode(row)).await.unwrap();
        client.puts(&metadata, 10..15, 3000).await;
        assert_eq!(metadata.format_level(), FormatLevel::BEFORE);

        metadata.raise_level(FormatLevel::NEWEST).await.unwrap();
        assert_eq!((journaled(&metadata), metadata.format_level()), (newest(), FormatLevel::NEWEST));
        let applied = metadata.status().applied;
        for level in [FormatLevel::NEWEST, FormatLevel::BEFORE] {
            metadata.raise_level(level).await.unwrap();
        }
        assert_eq!((journaled(&metadata), metadata.status().applied), (newest(), applied), "nothing to journal");
        metadata.shutdown().await;
        world.config.level = CurrentLevel::default();
        let metadata = world.serving().await;
        assert_eq!(metadata.format_level(), FormatLevel::NEWEST);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn an_index_of_a_later_level_ends_the_start_and_nothing_of_it_changes() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..10, 3000).await;
        metadata.shutdown().await;
        let kv = world.home.kv.lock().unwrap().clone();
        let later = LevelRow { level: FormatLevel::NEWEST.0 + 1, by: "stele 9.9".to_owned() };
        let mut overlay = Overlay::new(&*kv);
        index::put_level(&mut overlay, &later);
        // What a later release keeps in another form would be damage by itself.
        overlay.put_raw(META, b"applied".to_vec(), vec![9]);
        kv.write(overlay.into_batch()).unwrap();
        let (before, drives) = (index::digest_all(&*kv).unwrap(), world.trace.position());
        let error = world.try_start().await.unwrap_err();
        assert!(matches!(&error, StartError::TooNew(new) if new.level.0 == later.level) && error.is_too_old());
        let said = error.to_string();
        let known = FormatLevel::NEWEST;
        assert!(said.contains(&format!("format level {}, raised by stele 9.9", later.level)), "{said}");
        assert!(said.contains(&format!("this is {SOFTWARE}, which knows levels up to {known}")), "{said}");
        assert!(said.ends_with("start stele 9.9 or a later release"), "{said}");
        assert_eq!(index::digest_all(&**world.home.kv.lock().unwrap()).unwrap(), before, "the index is as it was");
        assert_eq!(world.trace.position(), drives, "and so are the drives");
        drop(client);
    });
}

#[test]
fn effects_beyond_the_level_are_refused_by_name() {
    run(async {
        let mut world = World::new(4, "2+1");
        let (metadata, _) = world.filled(0..1, 100).await;
        metadata.shutdown().await;
        forget_level(&mut world);
        let metadata = world.serving().await;
        // No command of this release is beyond the level of the one before it, but for the raise itself; so a later one is asked for.
        let refused = metadata.raise_level(FormatLevel(FormatLevel::NEWEST.0 + 1)).await.unwrap_err();
        let CommitError::Refused(Refusal::NeedsLevel { at, .. }) = refused else { panic!("{refused}") };
        assert_eq!(at, FormatLevel::BEFORE);
        assert_eq!(journaled(&metadata).level, FormatLevel::BEFORE.0);
        metadata.shutdown().await;
    });
}
