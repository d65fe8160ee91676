//! What a later release left on the drives ends a start before anything is claimed, and is never taken for absent (R16).

use super::failures::{member, numbers};
use super::world::{World, new_node_index, run};
use crate::client::MetadataClient;
use crate::index::{self, Overlay};
use crate::service::Metadata;
use crate::start::StartError;
use codec::effect::{EffectKind, Effects, LevelRow};
use codec::id::Epoch;
use codec::journal::{encode_batch, encode_entry};
use codec::level::FormatLevel;
use codec::register::REGISTER_VERSION;
use codec::segment::JournalHead;
use std::sync::Arc;
use storage_node::client::{NodeClient, Reserve};
use storage_node::disk::Disk;
use storage_node::drive::{IDENTITY_FILE, probe, read_register, write_register};
use storage_node::node::{NodeConfig, StorageNode};

/// Ends the service, and raises the level as a later release does, with one entry on every member of the ensemble, which the release
/// before reads. Returns the members' numbers.
async fn raised_by_a_later_release(world: &World, metadata: Metadata) -> Vec<usize> {
    let members = [member(world, &metadata, 0).await, member(world, &metadata, 1).await];
    let (ids, ensemble) = (numbers(world, &metadata).await, metadata.status().ensemble);
    let (last, hash) = index::applied(&Overlay::new(&**metadata.kv())).unwrap();
    let epoch = Epoch(metadata.epoch().0 + (1 << 32));
    metadata.shutdown().await;
    let raise = LevelRow { level: FormatLevel::NEWEST.0 + 1, by: "stele 9.9".to_owned() };
    let effects = Effects { effects: vec![EffectKind::PutLevel(raise).into()], wall_ms: 1 };
    let entry = encode_entry(last.next(), epoch, hash, &effects, &[]).unwrap();
    let (header, payload) = encode_batch(&[entry.bytes]).unwrap();

    let probed: Vec<_> = world.trace.disks().into_iter().map(|disk| probe(disk as Arc<dyn Disk>, None)).collect();
    let cluster = probed[0].identity.unwrap().cluster;
    let how = NodeConfig {
        data_segment: world.config.data_segment,
        journal_segment: world.config.journal_segment,
        preallocate_step: world.config.preallocate_step,
        ..NodeConfig::new(cluster)
    };
    let node = StorageNode::open(how, probed, new_node_index()).await.unwrap();
    node.begin(epoch).await.unwrap();
    for (drive, _) in ids.iter().filter(|(drive, _)| ensemble.contains(drive)) {
        node.journal_begin(*drive, JournalHead { ensemble: 1, first_lsn: last.next() }).await.unwrap();
        node.journal_append(*drive, header, payload.clone(), Reserve::Metadata).await.unwrap();
    }
    node.stop().await;
    members.to_vec()
}

fn too_old(world: &World, error: &StartError, before: u64) {
    assert!(error.is_too_old(), "{error}");
    let first: Vec<String> =
        world.trace.events().iter().skip(before as usize).take(3).map(ToString::to_string).collect();
    assert_eq!(world.trace.position(), before, "the drives are as they were: {first:?}");
}

/// Nothing but the entry that raised the level says that there is a later release. The drives were claimed in a higher epoch, and
/// whoever served over them was superseded, before the replay met that entry.
#[test]
fn a_start_without_an_index_sees_the_level_before_it_claims_the_drives() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, _) = world.filled(0..10, 3000).await;
        raised_by_a_later_release(&world, metadata).await;
        world.lose_index();
        let before = world.trace.position();
        let error = world.try_start().await.map(drop).unwrap_err();
        too_old(&world, &error, before);
        assert!(error.to_string().contains("raised by stele 9.9"), "{error}");
    });
}

/// The loss was accepted, in a register that leaps over what the absent drives have, before the replay met that entry.
#[test]
fn no_loss_is_accepted_over_drives_of_a_later_level() {
    run(async {
        let world = World::new(5, "2+1");
        let (metadata, _) = world.filled(0..10, 3000).await;
        let members = raised_by_a_later_release(&world, metadata).await;
        for drive in (0..5).filter(|drive| !members.contains(drive)) {
            world.trace.remove_drive(drive);
        }
        let before = world.trace.position();
        let error = world.accept_loss().await.map(drop).unwrap_err();
        too_old(&world, &error, before);
        assert!(world.home.aside.lock().unwrap().is_empty(), "the index stays in its place");
    });
}

/// One drive is missed like any other by those that can do without it: it counted as absent, and was rebuilt elsewhere.
#[test]
fn a_drive_of_a_later_release_ends_the_start_and_is_not_done_without() {
    run(async {
        let world = World::new(5, "2+1");
        let (metadata, client) = world.filled(0..5, 1000).await;
        metadata.shutdown().await;
        let disk = world.trace.disk(4);
        let refused = async |what: &str| {
            let before = world.trace.position();
            for error in [world.try_start().await.map(drop), world.accept_loss().await.map(drop)] {
                let error = error.unwrap_err();
                too_old(&world, &error, before);
                let said = error.to_string();
                assert!(said.contains(what) && said.contains("version 2") && said.contains("fault-disk/4"), "{said}");
            }
        };
        let identity = disk.read_small(IDENTITY_FILE).unwrap();
        let text = String::from_utf8(identity.to_vec()).unwrap().replace("version 1\n", "version 2\n");
        let (body, _) = text.split_at(text.find("check ").unwrap());
        let newer = format!("{body}check {}\n", blake3::hash(body.as_bytes()).to_hex());
        disk.write_durably(IDENTITY_FILE, newer.as_bytes()).unwrap();
        refused("drive identity").await;
        disk.write_durably(IDENTITY_FILE, &identity).unwrap();

        let register = read_register(&*disk).unwrap();
        let mut newer = register[..register.len() - 32].to_vec();
        newer[8..10].copy_from_slice(&(REGISTER_VERSION + 1).to_le_bytes());
        newer.extend_from_slice(blake3::hash(&newer).as_bytes());
        write_register(&*disk, &newer).unwrap();
        refused("ensemble register").await;
        write_register(&*disk, &register).unwrap();

        let metadata = world.serving().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
