//! What of a version changes while its bytes stay: tags, lists, restores, storage classes. Its lock changes in [`super::protect`].
//!
//! Invariant: a change puts the version's row again under its own `seq`, and touches no reference: it holds no chunk and releases none.

use super::{DecideError, Draft, bucket, protect};
use crate::command::{ChangeVersion, Named, Outcome, Refusal, VersionChange};
use crate::index::{self, IndexError, versions};
use crate::lifecycle::class_name;
use access::lifecycle::rule::Class;
use codec::effect::{EffectKind, VersionRow};
use codec::id::BucketId;

/// Most tags of an object, as in S3.
const MAX_OBJECT_TAGS: usize = 10;

/// [`Command::ChangeVersion`](crate::command::Command::ChangeVersion).
pub(super) fn version(draft: &mut Draft<'_>, change: &ChangeVersion) -> Result<Outcome, DecideError> {
    let bucket = bucket::existing(draft, change.bucket)?;
    let mut row = found(draft, change.bucket, &change.key, &change.named)?;
    if change.seq.is_some_and(|seq| seq.0 != row.seq) {
        return Err(Refusal::PreconditionFailed.into());
    }
    let before = row.clone();
    match &change.change {
        VersionChange::Tags(tags) if tags.len() > MAX_OBJECT_TAGS => return Err(Refusal::TooLarge.into()),
        VersionChange::Tags(tags) => row.tags.clone_from(tags),
        VersionChange::Acl(acl) => row.acl.clone_from(acl),
        VersionChange::Restore { from, .. } if row.restore != *from => {
            return Err(Refusal::PreconditionFailed.into());
        }
        VersionChange::Restore { to, .. } => row.restore = *to,
        VersionChange::Retention(_) | VersionChange::Hold(_) => {
            protect::change(draft, &bucket, &mut row, &change.change, change.bypass)?;
        }
    }
    if row != before {
        draft.rows.push(EffectKind::PutVersion(row.clone()));
    }
    Ok(Outcome::Committed(Box::new(row), None))
}

/// Moves a version to another storage class. A copy that was promised until a day stays as long.
pub(super) fn class(draft: &mut Draft<'_>, mut row: VersionRow, class: Class) {
    class_name(class).clone_into(&mut row.meta.get_or_insert_default().storage_class);
    draft.rows.push(EffectKind::PutVersion(row));
}

/// The version that is named, which must be no delete marker.
fn found(draft: &Draft<'_>, bucket: BucketId, key: &str, named: &Named) -> Result<VersionRow, DecideError> {
    let row: Result<_, IndexError> = match named {
        Named::Current => index::current_version(draft.view, bucket, key),
        Named::Null => index::null_version(draft.view, bucket, key),
        Named::Id(id) => versions::version(draft.view, bucket, key, id),
    };
    match row? {
        Some(row) if !row.delete_marker => Ok(row),
        None if *named != Named::Current => Err(Refusal::NoSuchVersion.into()),
        Some(_) if *named != Named::Current => Err(Refusal::IsDeleteMarker.into()),
        _ => Err(Refusal::NoSuchKey.into()),
    }
}
