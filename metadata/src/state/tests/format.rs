//! The format level in the state machine.

use super::world::World;
use crate::command::{Command, Outcome, Refusal};
use crate::index::{self, FAMILIES, Overlay};
use crate::state::{ApplyError, At, DecideError, apply, decide};
use codec::effect::{Effect, EffectKind, Effects, LevelRow, NodeRow, NodeState};
use codec::id::Lsn;
use codec::level::FormatLevel;
use storage_node::kv::{Kv, MemoryKv};

fn node() -> Command {
    Command::PutNode(NodeRow { name: "n1".into(), address: "a:1".into(), state: NodeState::Active as i32 })
}

fn put(level: u32) -> Effects {
    let row = LevelRow { level, by: "stele 9.9".to_owned() };
    Effects { effects: vec![Effect::from(EffectKind::PutLevel(row))], wall_ms: 1 }
}

#[test]
fn effects_of_a_version_above_the_level_are_refused_and_those_that_raise_it_are_not() {
    let mut world = World::new();
    assert_eq!(world.at().level, FormatLevel::BEFORE, "none was journaled");
    let first = At { level: FormatLevel(1), ..world.at() };
    let refused = decide(&world.view(), world.writer, &node(), &first).unwrap_err();
    let needs = Refusal::NeedsLevel { needs: FormatLevel(2), at: FormatLevel(1) };
    assert_eq!(refused, DecideError::Refused(needs.clone()));
    assert!(needs.to_string().starts_with("this needs format level 2; the cluster is at 1: `stele upgrade finish`"));
    assert!(world.run(node()).is_ok());
    assert_eq!(world.run(Command::RaiseLevel(FormatLevel::NEWEST)), Ok(Outcome::Done));
    assert_eq!(index::level(&world.view()).unwrap().level, FormatLevel::NEWEST.0);
    for level in [FormatLevel::NEWEST, FormatLevel::BEFORE] {
        assert!(world.decide(&Command::RaiseLevel(level)).unwrap().is_noop(), "{level}");
    }
    let beyond = FormatLevel(FormatLevel::NEWEST.0 + 1);
    assert!(matches!(world.run(Command::RaiseLevel(beyond)), Err(Refusal::NeedsLevel { .. })));
    world.check_replay();
}

#[test]
fn the_level_never_goes_down_and_one_that_is_not_known_is_not_applied() {
    let kv = MemoryKv::new(&FAMILIES);
    let mut lsn = Lsn(0);
    let mut level_after = |effects: &Effects| {
        let mut overlay = Overlay::new(&kv);
        apply(&mut overlay, lsn.next(), &[1; 32], effects)?;
        kv.write(overlay.into_batch()).unwrap();
        lsn = lsn.next();
        Ok::<u32, ApplyError>(index::level(&Overlay::new(&kv)).unwrap().level)
    };
    let newest = FormatLevel::NEWEST.0;
    assert_eq!(level_after(&put(1)), Ok(FormatLevel::BEFORE.0));
    assert_eq!(level_after(&put(newest)), Ok(newest));
    assert_eq!(level_after(&put(newest)), Ok(newest));
    assert_eq!(level_after(&put(0)), Ok(newest));
    let later = level_after(&put(newest + 1)).unwrap_err();
    assert!(matches!(&later, ApplyError::TooNew(new) if new.level.0 == newest + 1 && new.by == "stele 9.9"), "{later}");
    assert_eq!(index::applied(&Overlay::new(&kv)).unwrap().0, Lsn(4));
}
