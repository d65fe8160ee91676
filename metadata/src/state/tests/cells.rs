//! Cells of drives, as commands decide and journal them.

use super::world::World;
use crate::command::{Command, Refusal, SURVIVE_SETTING};
use crate::index::{self, Overlay};
use crate::placement::cells::{LEAST, MOST};
use crate::state::apply;
use bytes::Bytes;
use codec::effect::{DriveRow, DriveState, Effect, EffectKind, Effects, SettingRow};
use codec::id::DriveId;
use std::collections::BTreeMap;
use storage_node::kv::Kv;

fn row(n: u8, state: DriveState) -> DriveRow {
    // Whoever sends the command knows nothing of cells, or what was true a moment ago.
    DriveRow {
        id: Bytes::from(vec![n; 16]),
        state: state as i32,
        node: u32::from(n) / 10,
        cell: 77,
        ..DriveRow::default()
    }
}

fn cells(world: &World) -> BTreeMap<u32, usize> {
    let mut cells = BTreeMap::new();
    for row in index::drives(&world.view()).unwrap().iter().filter(|row| row.state != DriveState::Removed as i32) {
        *cells.entry(row.cell).or_default() += 1;
    }
    cells
}

#[test]
fn a_cell_is_halved_by_the_entry_that_registers_one_drive_too_many_and_replay_comes_to_the_same() {
    let mut world = World::new();
    for n in 0..100 {
        world.run(Command::RegisterDrive(row(n, DriveState::Active))).unwrap();
    }
    assert_eq!(cells(&world), BTreeMap::from([(0, MOST)]));
    world.run(Command::RegisterDrive(row(100, DriveState::Active))).unwrap();
    assert_eq!(cells(&world), BTreeMap::from([(0, 51), (1, 50)]));
    let before = index::drive(&world.view(), DriveId([7; 16])).unwrap().unwrap();
    world.run(Command::RegisterDrive(row(7, DriveState::Draining))).unwrap();
    let after = index::drive(&world.view(), DriveId([7; 16])).unwrap().unwrap();
    assert_eq!(
        (after.cell, after.state),
        (before.cell, DriveState::Draining as i32),
        "its cell is not the command's to say"
    );
    // Half of the drives go: what is left of a cell joins the other.
    for n in 0..51 {
        world.run(Command::RegisterDrive(row(n, DriveState::Removed))).unwrap();
        assert!(cells(&world).values().all(|drives| *drives >= LEAST), "{:?}", cells(&world));
    }
    assert_eq!(cells(&world).len(), 1);
    world.check_replay();
}

/// A look at the drives wrote whole rows that it had read before: a drive of which a drain was committed in between was Active
/// again, and one that was removed made the next start fail.
#[test]
fn a_drive_that_is_seen_elsewhere_keeps_the_state_that_it_got_meanwhile() {
    let mut world = World::new();
    let first = |state| DriveRow { cell: 0, ..row(1, state) };
    let seen = DriveRow { node: 9, path: "n9:/a".to_owned(), rack: "b".to_owned(), ..first(DriveState::Active) };
    world.run(Command::RegisterDrive(row(1, DriveState::Draining))).unwrap();
    world.run(Command::SeeDrive(seen.clone())).unwrap();
    let now = |world: &World| index::drive(&world.view(), DriveId([1; 16])).unwrap().unwrap();
    assert_eq!(now(&world), DriveRow { state: DriveState::Draining as i32, ..seen.clone() });
    world.run(Command::RegisterDrive(row(1, DriveState::Removed))).unwrap();
    world.run(Command::SeeDrive(seen)).unwrap();
    assert_eq!(now(&world), first(DriveState::Removed));
    assert_eq!(
        world.run(Command::SeeDrive(row(200, DriveState::Active))),
        Err(Refusal::BadDrive),
        "nobody registered it"
    );
    world.check_replay();
}

/// A start shared drives out by writing one of the rows that it had read before its own commands.
#[test]
fn cells_are_settled_by_a_command_that_brings_no_row() {
    let mut world = World::new();
    (0..60).for_each(|n| drop(world.run(Command::RegisterDrive(row(n, DriveState::Active))).unwrap()));
    world.run(Command::SettleCells).unwrap();
    assert_eq!(cells(&world), BTreeMap::from([(0, 60)]));
    let old = (0..=120).map(|n| EffectKind::PutDrive(DriveRow { cell: 0, ..row(n, DriveState::Active) }));
    let old = Effects { effects: old.map(Effect::from).collect(), wall_ms: 1 };
    let mut overlay = Overlay::new(&world.kv);
    let lsn = world.lsn.next();
    apply(&mut overlay, lsn, &[0; 32], &old).unwrap();
    world.kv.write(overlay.into_batch()).unwrap();
    world.lsn = lsn;
    world.run(Command::SettleCells).unwrap();
    assert_eq!(cells(&world), BTreeMap::from([(0, 61), (1, 60)]));
}

#[test]
fn a_rule_is_the_name_of_a_level() {
    let mut world = World::new();
    let rule = |value: &'static str| {
        Command::PutSetting(SettingRow { name: SURVIVE_SETTING.to_owned(), value: Bytes::from(value) })
    };
    world.run(rule("rack")).unwrap();
    assert!(matches!(world.run(rule("planet")), Err(Refusal::BadSetting { .. })));
    assert_eq!(index::survive(&world.view()).unwrap().name(), "rack");
}
