//! What is known of each drive: there, silent since when, back and not verified yet, to be emptied, gone for good.
//!
//! Invariants
//! * A drive is silent from the moment at which it was first seen so by this process. That moment is journaled once a drive was
//!   silent for [`NOTE_AFTER_MS`], and so is the moment at which a drive was removed: a restart neither makes a loss younger nor
//!   begins a wait again. Without it a server that is restarted more often than a wait is long never rebuilds.
//! * That a drive is back is journaled at once, and stays so until all of it was verified: another process that takes over goes on
//!   to verify it, or what it lost while it was away would count from then on.
//! * How often a drive was opened is compared with what it was when the service started: a process counts on from one service to
//!   the next, and what was opened again in an earlier one was verified there, or is journaled.
//! * A drive that was silent comes back *unverified*: its shards count again one by one, behind a cursor that only grows. One that was
//!   opened by nobody meanwhile was held by the same process all the time, and comes back as it was: a node that can't be reached for
//!   a minute has lost nothing, and to verify what is on it takes days.
//! * A drive that is back and can't be verified is silent again, and stays so until it was opened again, or for
//!   [`LEFT_ALONE_MS`]: what it should hold is rebuilt as if it had never come back.
//! * A drive that is silent again is so since the first time, unless it was back for longer than the grace: it has a grace of its
//!   own then. Without the first, one that comes and goes is never made good; without the second, one that hung for a moment
//!   after days is rebuilt at once.
//! * Time in which this process stood still is not held against a drive: an attempt to verify it counts as [`ATTEMPT_MS`] at most.
//! * Unknown is not missing (R13): a drive that can't be asked is silent, whatever it may hold.

use crate::index::{self, IndexError, View};
use crate::keep::LONG_WORK;
use bytes::Bytes;
use codec::effect::{DriveRow, DriveState, SettingRow};
use codec::id::{DriveId, StripeId};
use std::collections::BTreeMap;
use storage_node::client::{DriveHealth, DriveStatus};

/// A drive that does not answer for so long, in milliseconds, has that journaled. Less than the grace: each restart within it
/// would begin it again. More than it takes to pull a cable and put it back.
pub const NOTE_AFTER_MS: u64 = 60_000;
/// A drive that is back is given up when nothing of it could be verified for so long, in milliseconds.
pub const VERIFY_WITHIN_MS: u64 = 10 * 60_000;
/// The most that one attempt to verify a drive counts for, in milliseconds: one takes no longer, unless this process was stopped
/// meanwhile. So one alone never gives a drive up.
pub const ATTEMPT_MS: u64 = LONG_WORK.as_secs() * 1000;
const _: () = assert!(ATTEMPT_MS < VERIFY_WITHIN_MS);
/// How long a drive that could not be verified counts as silent although it answers, in milliseconds.
pub const LEFT_ALONE_MS: u64 = 24 * 3_600_000;

/// A drive, as repair sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It can be read.
    There,
    /// It does not answer.
    Silent {
        /// Since when, in milliseconds on the keeper's clock.
        since_ms: u64,
    },
    /// It was silent, and answers again.
    Back {
        /// Since when it was silent.
        since_ms: u64,
        /// Every shard of the stripes up to here was verified; `None`: none.
        verified: Option<StripeId>,
    },
    /// It will not come back.
    Removed {
        /// Since when that is known.
        since_ms: u64,
    },
}

/// A drive and what is to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How it is.
    pub sight: Sight,
    /// It is to be emptied.
    pub draining: bool,
    /// Since when it is silent, as it is journaled.
    noted: Option<u64>,
    /// Since when it is back, and was not away.
    back_ms: Option<u64>,
    /// How often its node had opened it ([`DriveStatus::opened`]).
    opened: u32,
    /// The attempts to verify it since one was good for anything.
    failing: Option<Failing>,
    /// It could not be verified: silent until this time, unless it is opened again.
    left_until_ms: Option<u64>,
    /// What was good when it fell silent.
    kept: Kept,
}

/// What is known to be good of a drive that is silent, should nobody have opened it meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// All that it should hold.
    All,
    /// Every shard of the stripes up to here; `None`: none.
    Upto(Option<StripeId>),
}

/// Attempts to verify a drive that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failing {
    /// When the last of them ended, in milliseconds on the keeper's clock.
    last_ms: u64,
    /// For how long there was nothing else, in milliseconds.
    for_ms: u64,
}

/// All registered drives.
#[derive(Clone, Debug, Default)]
pub struct Drives {
    seen: BTreeMap<DriveId, Seen>,
    /// How often each had been opened when the service started.
    at_start: BTreeMap<DriveId, u32>,
    /// A drive was given up since the last look.
    given_up: bool,
}

fn setting_name(drive: DriveId) -> String {
    format!("silent-since/{drive}")
}

/// What is to be journaled so that all on a drive is verified before it counts, whoever looks first: it is back from the past. `None`
/// where that is journaled already.
pub(crate) fn to_be_verified(view: &dyn View, drive: DriveId, now_ms: u64) -> Result<Option<SettingRow>, IndexError> {
    let name = setting_name(drive);
    let noted = index::setting(view, &name)?.is_some_and(|row| !row.value.is_empty());
    Ok((!noted).then(|| SettingRow { name, value: Bytes::copy_from_slice(&now_ms.to_be_bytes()) }))
}

/// What a look at the drives came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Some drive's stripes have to be looked at (again).
    pub changed: bool,
    /// Settings that are to be journaled.
    pub notes: Vec<SettingRow>,
}

impl Drives {
    /// For a service that has just started, with the drives as they were then.
    pub fn since(start: &[DriveStatus]) -> Drives {
        Drives { at_start: start.iter().map(|status| (status.id, status.opened)).collect(), ..Drives::default() }
    }

    /// Takes in how the drives are now.
    pub fn look(
        &mut self,
        view: &dyn View,
        rows: &[DriveRow],
        status: &[DriveStatus],
        now_ms: u64,
        grace_ms: u64,
    ) -> Result<Look, IndexError> {
        let mut look = Look { changed: std::mem::take(&mut self.given_up), ..Look::default() };
        for row in rows {
            let Some(id) = DriveId::from_slice(&row.id) else { continue };
            let status = status.iter().find(|status| status.id == id);
            let answers = status.is_some_and(|status| !matches!(status.health, DriveHealth::Failed { .. }));
            let opened = status.map_or(0, |status| status.opened);
            let before = self.seen.get(&id).copied();
            let seen = match before {
                Some(before) => step(before, row, (answers, opened), now_ms, grace_ms),
                None => {
                    let at_start = self.at_start.get(&id).copied().unwrap_or(1);
                    first(view, id, row, (answers, opened, opened > at_start), now_ms)?
                }
            };
            let seen = note(&mut look, id, seen, now_ms, grace_ms);
            look.changed |= before.map(class) != Some(class(seen)) && !(before.is_none() && class(seen) == THERE);
            self.seen.insert(id, seen);
        }
        Ok(look)
    }

    /// How a drive is; `None` for one that is not registered.
    pub fn get(&self, drive: DriveId) -> Option<Seen> {
        self.seen.get(&drive).copied()
    }

    /// All drives, by id.
    pub fn iter(&self) -> impl Iterator<Item = (DriveId, Seen)> + '_ {
        self.seen.iter().map(|(id, seen)| (*id, *seen))
    }

    /// Whether stripes with a shard on this drive need a look.
    pub fn concerns(&self, drive: DriveId) -> bool {
        self.seen.get(&drive).is_none_or(|seen| class(*seen) != THERE)
    }

    /// Whether any drive's stripes need a look.
    pub fn any_concern(&self) -> bool {
        self.seen.values().any(|seen| class(*seen) != THERE)
    }

    /// Drives that can't be read and are to be.
    pub fn lost(&self) -> usize {
        self.seen.values().filter(|seen| matches!(seen.sight, Sight::Silent { .. })).count()
    }

    /// Everything on the drive up to `upto` was verified; `None`: the drive is done.
    pub fn verified(&mut self, drive: DriveId, upto: Option<StripeId>) {
        if let Some(seen) = self.seen.get_mut(&drive)
            && let Sight::Back { verified, .. } = &mut seen.sight
        {
            seen.failing = None;
            match upto {
                Some(upto) => *verified = Some(upto),
                None => seen.sight = Sight::There,
            }
        }
    }

    /// An attempt to verify something on the drive, begun at `began_ms`, came to nothing. When nothing else did for long
    /// enough, the drive is silent again: else its shards would be neither counted on nor rebuilt, for ever.
    pub fn not_verified(&mut self, drive: DriveId, began_ms: u64, now_ms: u64) {
        let Some(seen) = self.seen.get_mut(&drive) else { return };
        let Sight::Back { since_ms, .. } = seen.sight else { return };
        let before = seen.failing.unwrap_or(Failing { last_ms: began_ms, for_ms: 0 });
        let more_ms = now_ms.saturating_sub(before.last_ms).min(ATTEMPT_MS);
        let failing = Failing { last_ms: now_ms, for_ms: before.for_ms.saturating_add(more_ms) };
        seen.failing = Some(failing);
        if failing.for_ms >= VERIFY_WITHIN_MS {
            tracing::error!(%drive, "a drive that is back can't be verified; it counts as silent");
            seen.sight = Sight::Silent { since_ms };
            (seen.failing, seen.back_ms, seen.kept) = (None, None, Kept::Upto(None));
            seen.left_until_ms = Some(now_ms.saturating_add(LEFT_ALONE_MS));
            self.given_up = true;
        }
    }

    /// How often a drive had been opened when it was looked at last; 0: never looked at.
    pub fn opened(&self, drive: DriveId) -> u32 {
        self.seen.get(&drive).map_or(0, |seen| seen.opened)
    }

    /// Drives whose shards are not known to be good, and up to which stripe they are.
    pub fn unverified(&self) -> impl Iterator<Item = (DriveId, Option<StripeId>)> + '_ {
        self.seen.iter().filter_map(|(id, seen)| match seen.sight {
            Sight::There => None,
            Sight::Back { verified, .. } => Some((*id, verified)),
            Sight::Silent { .. } | Sight::Removed { .. } => Some((*id, None)),
        })
    }

    /// The drives that are back, with how far they are verified.
    pub fn back(&self) -> Vec<(DriveId, Option<StripeId>)> {
        let back = |(id, seen): (&DriveId, &Seen)| match seen.sight {
            Sight::Back { verified, .. } => Some((*id, verified)),
            _ => None,
        };
        self.seen.iter().filter_map(back).collect()
    }
}

const THERE: (u8, bool) = (0, false);

/// What decides whether a drive's stripes are looked at again; not how far a drive that is back is verified.
fn class(seen: Seen) -> (u8, bool) {
    let sight = match seen.sight {
        Sight::There => 0,
        Sight::Silent { .. } => 1,
        Sight::Back { .. } => 2,
        Sight::Removed { .. } => 3,
    };
    (sight, seen.draining)
}

/// A drive that this service sees for the first time. One that was silent before the start, or was opened `again` since, is verified
/// before it counts.
fn first(
    view: &dyn View,
    id: DriveId,
    row: &DriveRow,
    (answers, opened, again): (bool, u32, bool),
    now_ms: u64,
) -> Result<Seen, IndexError> {
    let noted = index::setting(view, &setting_name(id))?;
    let noted = noted.and_then(|row| row.value[..].try_into().ok().map(u64::from_be_bytes));
    let sight = match (answers, noted) {
        (_, noted) if row.state == DriveState::Removed as i32 => {
            Sight::Removed { since_ms: noted.unwrap_or(now_ms).min(now_ms) }
        }
        (true, None) if again => Sight::Back { since_ms: now_ms, verified: None },
        (true, None) => Sight::There,
        (true, Some(since_ms)) => Sight::Back { since_ms: since_ms.min(now_ms), verified: None },
        (false, noted) => Sight::Silent { since_ms: noted.unwrap_or(now_ms).min(now_ms) },
    };
    Ok(Seen {
        sight,
        draining: row.state == DriveState::Draining as i32,
        noted: noted.map(|since_ms| since_ms.min(now_ms)),
        back_ms: matches!(sight, Sight::Back { .. }).then_some(now_ms),
        opened,
        failing: None,
        left_until_ms: None,
        kept: Kept::Upto(None),
    })
}

fn step(before: Seen, row: &DriveRow, (answers, opened): (bool, u32), now_ms: u64, grace_ms: u64) -> Seen {
    // It was away and is back, though nobody looked in between. One that was not there before was seen to be silent.
    let again = answers && opened > before.opened;
    let left_until_ms = before.left_until_ms.filter(|until| now_ms < *until);
    let sight = match (before.sight, answers) {
        (removed @ Sight::Removed { .. }, _) => removed,
        // What it held is missed since it was silent.
        (Sight::Silent { since_ms } | Sight::Back { since_ms, .. }, _) if row.state == DriveState::Removed as i32 => {
            Sight::Removed { since_ms }
        }
        _ if row.state == DriveState::Removed as i32 => Sight::Removed { since_ms: now_ms },
        (Sight::There, true) if again => Sight::Back { since_ms: now_ms, verified: None },
        (Sight::Back { since_ms, .. }, true) if again => Sight::Back { since_ms, verified: None },
        (Sight::There, true) => Sight::There,
        (Sight::There, false) => Sight::Silent { since_ms: now_ms },
        (silent @ Sight::Silent { .. }, true) if !again && left_until_ms.is_some() => silent,
        (Sight::Silent { since_ms }, true) if again => Sight::Back { since_ms, verified: None },
        (Sight::Silent { since_ms }, true) => match before.kept {
            Kept::All => Sight::There,
            Kept::Upto(verified) => Sight::Back { since_ms, verified },
        },
        (silent @ Sight::Silent { .. }, false) => silent,
        (back @ Sight::Back { .. }, true) => back,
        // What comes back for so long has not been away all the time.
        (Sight::Back { .. }, false)
            if before.back_ms.is_some_and(|back_ms| now_ms.saturating_sub(back_ms) > grace_ms) =>
        {
            Sight::Silent { since_ms: now_ms }
        }
        (Sight::Back { since_ms, .. }, false) => Sight::Silent { since_ms },
    };
    let kept = match before.sight {
        Sight::There => Kept::All,
        Sight::Back { verified, .. } => Kept::Upto(verified),
        Sight::Silent { .. } | Sight::Removed { .. } => before.kept,
    };
    let left_until_ms = left_until_ms.filter(|_| matches!(sight, Sight::Silent { .. }));
    let is_back = matches!(sight, Sight::Back { .. });
    let failing = before.failing.filter(|_| is_back && !again);
    let back_ms = is_back.then(|| before.back_ms.filter(|_| !again).unwrap_or(now_ms));
    let opened = before.opened.max(opened);
    let draining = row.state == DriveState::Draining as i32;
    Seen { sight, draining, back_ms, opened, failing, left_until_ms, kept, noted: before.noted }
}

/// Journals since when a drive is silent, if it was for a while, or is back or removed, and that it is silent no more.
fn note(look: &mut Look, id: DriveId, mut seen: Seen, now_ms: u64, grace_ms: u64) -> Seen {
    let setting = |value| SettingRow { name: setting_name(id), value };
    let is_due = |since_ms: u64| match seen.noted {
        // A moment that is journaled and was not the last would be taken for it after a restart.
        Some(noted) => noted != since_ms,
        None => since_ms.saturating_add(grace_ms.min(NOTE_AFTER_MS)) <= now_ms,
    };
    let note = match seen.sight {
        Sight::Silent { since_ms } if is_due(since_ms) => Some(since_ms),
        Sight::Back { since_ms, .. } | Sight::Removed { since_ms } if seen.noted.is_none() => Some(since_ms),
        _ => None,
    };
    if let Some(since_ms) = note {
        look.notes.push(setting(Bytes::copy_from_slice(&since_ms.to_be_bytes())));
        seen.noted = note;
    } else if seen.sight == Sight::There && seen.noted.take().is_some() {
        look.notes.push(setting(Bytes::new()));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{FAMILIES, Overlay};
    use codec::id::Epoch;
    use storage_node::kv::MemoryKv;

    const DRIVE: DriveId = DriveId([1; 16]);

    fn row(state: DriveState) -> DriveRow {
        DriveRow { id: Bytes::copy_from_slice(DRIVE.as_bytes()), state: state as i32, ..DriveRow::default() }
    }

    fn status(health: DriveHealth) -> DriveStatus {
        DriveStatus { id: DRIVE, health, ..crate::keep::testing::drive_status() }
    }

    fn note_all(overlay: &mut Overlay<'_>, look: Look) {
        look.notes.iter().for_each(|note| overlay.put(index::META, index::setting_key(&note.name), note));
    }

    /// A process that took over while drives were being verified took them for good: it had opened its own clients of the nodes, which
    /// had seen no drive go. One that led for a second time verified all drives whose nodes had ever been started anew.
    #[test]
    fn a_process_that_takes_over_goes_on_to_verify_what_is_back_and_begins_nothing_anew() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let active = [row(DriveState::Active)];
        let there = |opened| [DriveStatus { opened, ..status(DriveHealth::Healthy) }];
        let mut first = Drives::since(&there(1));
        first.look(&overlay, &active, &there(1), 10, 100).unwrap();
        let look = first.look(&overlay, &active, &there(2), 20, 100).unwrap();
        assert_eq!((first.back(), look.notes.len()), (vec![(DRIVE, None)], 1));
        note_all(&mut overlay, look);
        let mut second = Drives::since(&there(1));
        second.look(&overlay, &active, &there(1), 30, 100).unwrap();
        assert_eq!(second.get(DRIVE).unwrap().sight, Sight::Back { since_ms: 20, verified: None });
        second.verified(DRIVE, None);
        let look = second.look(&overlay, &active, &there(1), 40, 100).unwrap();
        note_all(&mut overlay, look);
        // The first process again, whose client has counted two.
        let mut again = Drives::since(&there(2));
        let look = again.look(&overlay, &active, &there(2), 50, 100).unwrap();
        assert_eq!((look, again.any_concern()), (Look::default(), false));
    }

    /// A server that was restarted within the grace, each time, began it again and never rebuilt; what a removed drive had held
    /// was missed since the last start, and so was never made narrower.
    #[test]
    fn a_restart_within_a_wait_does_not_begin_it_again() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let grace = 15 * NOTE_AFTER_MS;
        let mut drives = Drives::default();
        let active = [row(DriveState::Active)];
        drives.look(&overlay, &active, &[], 20, grace).unwrap();
        let look = drives.look(&overlay, &active, &[], 20 + NOTE_AFTER_MS - 1, grace).unwrap();
        assert_eq!(look.notes, [], "a cable that is put back at once is nothing to journal");
        let take = |overlay: &mut Overlay<'_>, look: Look| {
            look.notes.iter().for_each(|note| overlay.put(index::META, index::setting_key(&note.name), note));
        };
        let look = drives.look(&overlay, &active, &[], 20 + NOTE_AFTER_MS, grace).unwrap();
        take(&mut overlay, look);
        for restart in 1..4 {
            let mut again = Drives::default();
            let look = again.look(&overlay, &active, &[], restart * 5 * NOTE_AFTER_MS, grace).unwrap();
            take(&mut overlay, look);
            assert_eq!(again.get(DRIVE).unwrap().sight, Sight::Silent { since_ms: 20 });
            drives = again;
        }
        let removed = [row(DriveState::Removed)];
        let look = drives.look(&overlay, &removed, &[], 2 * grace, grace).unwrap();
        take(&mut overlay, look);
        let mut again = Drives::default();
        let look = again.look(&overlay, &removed, &[], 3 * grace, grace).unwrap();
        take(&mut overlay, look);
        assert_eq!(again.get(DRIVE).unwrap().sight, Sight::Removed { since_ms: 20 });

        // One that was removed while it answered.
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let healthy = [status(DriveHealth::Healthy)];
        let mut drives = Drives::default();
        drives.look(&overlay, &active, &healthy, 10, grace).unwrap();
        let look = drives.look(&overlay, &removed, &[], 30, grace).unwrap();
        take(&mut overlay, look);
        let mut again = Drives::default();
        let look = again.look(&overlay, &removed, &[], 3 * grace, grace).unwrap();
        assert_eq!((look.notes.len(), again.get(DRIVE).unwrap().sight), (0, Sight::Removed { since_ms: 30 }));
    }

    #[test]
    fn a_drive_that_comes_back_is_verified_before_it_counts_and_a_restart_forgets_nothing() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let healthy = [status(DriveHealth::Healthy)];
        let gone = [status(DriveHealth::Failed { reason: String::new() })];
        let mut drives = Drives::default();
        let active = [row(DriveState::Active)];
        assert_eq!(drives.look(&overlay, &active, &healthy, 10, 100).unwrap(), Look::default());
        assert!(drives.look(&overlay, &active, &gone, 20, 100).unwrap().changed);
        assert_eq!(drives.get(DRIVE).unwrap().sight, Sight::Silent { since_ms: 20 });
        assert_eq!(drives.look(&overlay, &active, &[], 119, 100).unwrap(), Look::default());
        let look = drives.look(&overlay, &active, &[], 120, 100).unwrap();
        assert_eq!((look.changed, look.notes.len()), (false, 1));
        assert_eq!(drives.look(&overlay, &active, &[], 130, 100).unwrap(), Look::default(), "noted once");

        // A restart: silent since the same moment, and then back.
        let note = &look.notes[0];
        overlay.put(index::META, index::setting_key(&note.name), note);
        let mut again = Drives::default();
        assert!(again.look(&overlay, &active, &[], 500, 100).unwrap().changed);
        assert_eq!(again.get(DRIVE).unwrap().sight, Sight::Silent { since_ms: 20 });
        let mut later = Drives::default();
        assert!(later.look(&overlay, &active, &healthy, 500, 100).unwrap().changed);
        assert_eq!(later.back(), [(DRIVE, None)]);
        let upto = StripeId { epoch: Epoch(1), counter: 7 };
        later.verified(DRIVE, Some(upto));
        assert_eq!(later.look(&overlay, &active, &healthy, 510, 100).unwrap(), Look::default());
        assert_eq!(later.back(), [(DRIVE, Some(upto))]);
        later.verified(DRIVE, None);
        let look = later.look(&overlay, &active, &healthy, 520, 100).unwrap();
        assert_eq!((look.notes.len(), look.notes[0].value.len()), (1, 0), "no longer silent");
        assert!(!later.any_concern());

        // Away and back between two looks: verified anew all the same.
        let again = |opened| [DriveStatus { opened, ..status(DriveHealth::Healthy) }];
        assert!(later.look(&overlay, &active, &again(2), 521, 100).unwrap().changed);
        assert_eq!(later.back(), [(DRIVE, None)]);
        later.verified(DRIVE, Some(upto));
        later.look(&overlay, &active, &again(3), 522, 100).unwrap();
        assert_eq!(later.back(), [(DRIVE, None)]);
        later.verified(DRIVE, None);
        let look = later.look(&overlay, &active, &again(3), 523, 100).unwrap();
        assert_eq!((look.notes.len(), look.notes[0].value.len()), (1, 0), "no longer to be verified");
        assert!(!later.any_concern());
        note_all(&mut overlay, look);
        let mut late = Drives::since(&again(1));
        late.look(&overlay, &active, &again(2), 524, 100).unwrap();
        assert_eq!(late.back(), [(DRIVE, None)], "opened again before the first look");

        // It answers, is opened, and nothing of it can be verified.
        later.look(&overlay, &active, &again(4), 525, 100).unwrap();
        later.not_verified(DRIVE, 525, 525 + ATTEMPT_MS);
        later.not_verified(DRIVE, 526 + ATTEMPT_MS, 525 + VERIFY_WITHIN_MS - 1);
        assert_eq!(later.back(), [(DRIVE, None)]);
        later.not_verified(DRIVE, 600, 525 + VERIFY_WITHIN_MS);
        assert_eq!(later.get(DRIVE).unwrap().sight, Sight::Silent { since_ms: 525 });
        let at = 526 + VERIFY_WITHIN_MS;
        let look = later.look(&overlay, &active, &again(4), at, 100).unwrap();
        assert_eq!((look.changed, look.notes.len(), later.lost()), (true, 0, 1), "its stripes are walked over");
        assert!(!later.look(&overlay, &active, &again(4), at + 1, 100).unwrap().changed);
        assert!(later.look(&overlay, &active, &again(4), at + LEFT_ALONE_MS, 100).unwrap().changed);
        assert_eq!(later.back(), [(DRIVE, None)], "another chance");
        let at = at + LEFT_ALONE_MS;
        later.not_verified(DRIVE, at, at + ATTEMPT_MS);
        later.not_verified(DRIVE, at, at + VERIFY_WITHIN_MS);
        assert_eq!(later.lost(), 1);
        let at = at - LEFT_ALONE_MS + VERIFY_WITHIN_MS;
        later.look(&overlay, &active, &again(5), at + LEFT_ALONE_MS + 1, 100).unwrap();
        assert_eq!(later.back(), [(DRIVE, None)], "it was opened again");
        later.verified(DRIVE, None);
        later.look(&overlay, &active, &again(5), at + LEFT_ALONE_MS + 2, 100).unwrap();

        let healthy = again(5);
        assert!(later.look(&overlay, &[row(DriveState::Draining)], &healthy, 530, 100).unwrap().changed);
        assert!(later.concerns(DRIVE) && later.get(DRIVE).unwrap().draining);
        assert!(later.look(&overlay, &[row(DriveState::Removed)], &healthy, 540, 100).unwrap().changed);
        assert_eq!(later.get(DRIVE).unwrap().sight, Sight::Removed { since_ms: 540 });
    }

    /// A node that could not be reached for a minute had all its drives verified anew, which takes days, and its stripes went through
    /// repair meanwhile as if they could not lose another shard.
    #[test]
    fn r13_a_node_that_was_only_away_brings_its_drives_back_as_they_were() {
        let kv = MemoryKv::new(&FAMILIES);
        let overlay = Overlay::new(&kv);
        let grace = 15 * NOTE_AFTER_MS;
        let active = [row(DriveState::Active)];
        let there = |opened| [DriveStatus { opened, ..status(DriveHealth::Healthy) }];
        let gone = |opened| [DriveStatus { opened, ..status(DriveHealth::Failed { reason: String::new() }) }];
        let see = |drives: &mut Drives, status: &[DriveStatus], at| {
            let look = drives.look(&overlay, &active, status, at, grace).unwrap();
            (drives.get(DRIVE).unwrap().sight, look)
        };
        let mut drives = Drives::default();
        see(&mut drives, &there(1), 1);
        assert_eq!(see(&mut drives, &gone(1), 10).0, Sight::Silent { since_ms: 10 });
        see(&mut drives, &gone(1), 10 + NOTE_AFTER_MS);
        let (sight, look) = see(&mut drives, &there(1), 20 + NOTE_AFTER_MS);
        assert_eq!((sight, look.changed), (Sight::There, true));
        assert_eq!((look.notes.len(), look.notes[0].value.len()), (1, 0), "no longer silent");
        // Started anew while it was away: what it holds now is not known.
        see(&mut drives, &gone(1), 3 * NOTE_AFTER_MS);
        assert!(matches!(see(&mut drives, &there(2), 4 * NOTE_AFTER_MS).0, Sight::Back { verified: None, .. }));
        // Away in the middle of being verified: goes on from there, unless it was opened again.
        let upto = Some(StripeId { epoch: Epoch(1), counter: 7 });
        drives.verified(DRIVE, upto);
        see(&mut drives, &gone(2), 5 * NOTE_AFTER_MS);
        see(&mut drives, &[], 6 * NOTE_AFTER_MS);
        let (sight, _) = see(&mut drives, &there(2), 7 * NOTE_AFTER_MS);
        assert!(matches!(sight, Sight::Back { verified, .. } if verified == upto));
        see(&mut drives, &gone(2), 8 * NOTE_AFTER_MS);
        assert!(matches!(see(&mut drives, &there(3), 9 * NOTE_AFTER_MS).0, Sight::Back { verified: None, .. }));
        // One that could not be verified is no better for having been away.
        let at = 9 * NOTE_AFTER_MS;
        drives.not_verified(DRIVE, at, at + ATTEMPT_MS);
        drives.not_verified(DRIVE, at, at + VERIFY_WITHIN_MS);
        assert_eq!(drives.lost(), 1);
        see(&mut drives, &gone(3), at + VERIFY_WITHIN_MS + 1);
        let at = at + VERIFY_WITHIN_MS + LEFT_ALONE_MS + 1;
        assert!(matches!(see(&mut drives, &there(3), at).0, Sight::Back { verified: None, .. }));
    }

    /// A server that was stopped (or its machine put to sleep) while drives were being verified found the time up for all of them
    /// when it went on, and left them alone for a day.
    #[test]
    fn time_in_which_the_server_stood_still_gives_no_drive_up() {
        let kv = MemoryKv::new(&FAMILIES);
        let overlay = Overlay::new(&kv);
        let (active, again) = ([row(DriveState::Active)], [DriveStatus { opened: 2, ..status(DriveHealth::Healthy) }]);
        let mut drives = Drives::default();
        drives.look(&overlay, &active, &again, 10, 100).unwrap();
        drives.not_verified(DRIVE, 10, 10 + LEFT_ALONE_MS);
        assert_eq!(drives.back(), [(DRIVE, None)]);
        drives.verified(DRIVE, Some(StripeId { epoch: Epoch(1), counter: 1 }));
        let resumed = 2 * LEFT_ALONE_MS;
        drives.not_verified(DRIVE, resumed, resumed + ATTEMPT_MS);
        assert_eq!(drives.lost(), 0, "what went before is forgotten with what was verified");
        drives.not_verified(DRIVE, resumed, resumed + 2 * ATTEMPT_MS);
        assert_eq!(drives.lost(), 1);
    }

    /// A drive that hung once, was being verified for days and then hung for a moment had no grace left.
    #[test]
    fn a_drive_that_was_back_for_longer_than_the_grace_has_another_and_one_that_comes_and_goes_has_not() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let grace = 15 * NOTE_AFTER_MS;
        let active = [row(DriveState::Active)];
        let there = |opened| [DriveStatus { opened, ..status(DriveHealth::Healthy) }];
        let mut drives = Drives::default();
        let mut see = |drives: &mut Drives, status: &[DriveStatus], at| {
            for note in drives.look(&overlay, &active, status, at, grace).unwrap().notes {
                overlay.put(index::META, index::setting_key(&note.name), &note);
            }
            // And as a restart would find it.
            let mut again = Drives::default();
            again.look(&overlay, &active, &[], at, grace).unwrap();
            (drives.get(DRIVE).unwrap().sight, again.get(DRIVE).unwrap().sight)
        };
        see(&mut drives, &there(1), 1);
        see(&mut drives, &[], 10);
        see(&mut drives, &[], 10 + NOTE_AFTER_MS);
        // Back for a while, twice: silent since the first time.
        let silent = Sight::Silent { since_ms: 10 };
        for (opened, at) in [(2, 2 * NOTE_AFTER_MS), (3, 2 * grace)] {
            see(&mut drives, &there(opened), at);
            assert_eq!(see(&mut drives, &[], at + grace), (silent, silent));
        }
        see(&mut drives, &there(4), 4 * grace);
        let at = 5 * grace + 1;
        see(&mut drives, &there(4), at - 1);
        let silent = Sight::Silent { since_ms: at };
        assert_eq!(see(&mut drives, &[], at), (silent, silent));
    }
}
