//! Cells of drives, as commands decide and journal them.

use super::world::World;
use crate::command::{Command, Refusal, SURVIVE_SETTING};
use crate::index;
use crate::placement::cells::{LEAST, MOST};
use bytes::Bytes;
use codec::effect::{DriveRow, DriveState, SettingRow};
use codec::id::DriveId;
use std::collections::BTreeMap;

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
