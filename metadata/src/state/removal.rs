//! The one place where a version goes for good: by its id, by a PUT that takes the place of the null version, by a rule.
//!
//! Invariants:
//! * Nothing else makes the effect [`EffectKind::DeleteVersion`], so no way to lose a version passes by its lock (a test reads the
//!   sources for it). A lock that is asked for on some paths only is the hole that stores like this one have been broken by: a
//!   version is put on top, and the one below then goes through another door.
//! * Whether it may go is judged on the row as it is when the entry is decided, never on one that somebody read earlier.

use super::{DecideError, Draft};
use crate::command::Refusal;
use crate::lock;
use access::lock::{Protection, may_delete};
use codec::effect::{EffectKind, VersionName, VersionRow};
use storage_node::sabotage::Sabotage;

/// Why a version goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody asked for just that, or a rule of its bucket, which bypasses nothing.
    Request {
        /// The caller asked to bypass governance retention, and may.
        bypass: bool,
    },
    /// Another null version takes its place. Nobody bypasses anything by a PUT.
    Overwrite,
}

/// Takes a version away, if its lock lets it go. When it is refused the draft is as it was.
pub(super) fn remove(draft: &mut Draft<'_>, old: &VersionRow, why: Why) -> Result<(), DecideError> {
    let protection = lock::protection_of(old);
    if protection != Protection::default() && !draft.at.sabotage.is(Sabotage::VersionLock) {
        let bypass = matches!(why, Why::Request { bypass: true });
        may_delete(&protection, bypass, lock::now(draft.view, draft.at.wall_ms)?).map_err(Refusal::Locked)?;
    }
    draft.release(old.content.as_ref())?;
    let name = VersionName { bucket: old.bucket, key: old.key.clone(), seq: old.seq };
    draft.rows.push(EffectKind::DeleteVersion(name));
    Ok(())
}
