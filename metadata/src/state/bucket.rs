//! Buckets.

use super::upload::release_upload;
use super::{DecideError, Draft, kms, protect};
use crate::command::{
    BucketChange, CreateBucket, MAX_BUCKET_CONFIG, MAX_INVENTORIES, MAX_INVENTORY_CONFIG, Outcome, PutBucketConfig,
    Refusal,
};
use crate::index::{self, access as rows};
use access::versions;
use codec::effect::{
    BucketConfigName, BucketConfigRow, BucketRow, ConfigKind, EffectKind, ProtectionClass, Versioning,
};
use codec::id::BucketId;

/// An entry that deletes a bucket takes open uploads with it as long as it touches fewer chunks than this, and fewer parts: ten thousand
/// parts of an upload may be of one chunk.
const DELETE_BUCKET_ROWS: usize = 50_000;
/// Uploads that it looks at, at most.
const DELETE_BUCKET_UPLOADS: usize = 1000;

/// The bucket, which every command on its contents needs.
pub(super) fn existing(draft: &Draft<'_>, id: BucketId) -> Result<BucketRow, DecideError> {
    Ok(index::bucket_by_id(draft.view, id)?.ok_or(Refusal::NoSuchBucket)?)
}

pub(super) fn create(draft: &mut Draft<'_>, create: &CreateBucket) -> Result<Outcome, DecideError> {
    if let Some(taken) = index::bucket(draft.view, &create.name)? {
        let yours = taken.owner == create.owner;
        return Err(if yours { Refusal::BucketOwnedByYou } else { Refusal::BucketExists }.into());
    }
    let with = &create.with;
    let row = BucketRow {
        id: draft.at.lsn.0,
        name: create.name.clone(),
        owner: create.owner.clone(),
        created_ms: create.now_ms,
        location: create.location.clone(),
        encrypt: create.encrypt,
        zstd_level: create.zstd_level,
        versioning: if with.lock { Versioning::Enabled } else { Versioning::Never }.into(),
        lock: with.lock,
        ownership: with.ownership.into(),
        block: with.block,
        acl: with.acl.clone(),
        tags: with.tags.clone(),
        ..BucketRow::default()
    };
    draft.rows.push(EffectKind::PutBucket(row.clone()));
    Ok(Outcome::BucketCreated(row))
}

/// Open uploads don't keep a bucket, as in S3. A bucket's id is never used again, so uploads that are too many for this
/// entry are out of reach at once and can be aborted afterwards.
pub(super) fn delete(draft: &mut Draft<'_>, id: BucketId) -> Result<Outcome, DecideError> {
    let row = existing(draft, id)?;
    if index::has_versions(draft.view, id)? {
        return Err(Refusal::BucketNotEmpty.into());
    }
    let uploads = index::uploads(draft.view, id, DELETE_BUCKET_UPLOADS + 1)?;
    let mut uploads_left = uploads.len() > DELETE_BUCKET_UPLOADS;
    let mut parts = 0;
    for upload in uploads.into_iter().take(DELETE_BUCKET_UPLOADS) {
        if draft.chunks.len() >= DELETE_BUCKET_ROWS || parts >= DELETE_BUCKET_ROWS {
            uploads_left = true;
            break;
        }
        parts += release_upload(draft, upload.name.unwrap_or_default())?;
    }
    draft.rows.push(EffectKind::DeleteBucket(row));
    Ok(Outcome::BucketDeleted { uploads_left })
}

pub(super) fn configure(
    draft: &mut Draft<'_>,
    id: BucketId,
    encrypt: bool,
    zstd_level: i32,
) -> Result<Outcome, DecideError> {
    let row = existing(draft, id)?;
    let changed = BucketRow { encrypt, zstd_level, ..row.clone() };
    if changed != row {
        draft.rows.push(EffectKind::PutBucket(changed));
    }
    Ok(Outcome::Done)
}

/// Changes one thing of a bucket's row. Decided on the row as it is now, so two who change different things don't undo each other.
pub(super) fn change(draft: &mut Draft<'_>, id: BucketId, change: &BucketChange) -> Result<Outcome, DecideError> {
    let row = existing(draft, id)?;
    let mut changed = row.clone();
    match change {
        BucketChange::Versioning(enabled) => {
            let state = versions::may_set(*enabled, row.lock).map_err(|_| Refusal::VersioningLocked)?;
            let enabled = matches!(state, access::lifecycle::plan::Versioning::Enabled);
            changed.versioning = if enabled { Versioning::Enabled } else { Versioning::Suspended }.into();
        }
        BucketChange::Lock(default) => {
            if row.versioning() != Versioning::Enabled {
                return Err(Refusal::NotVersioned.into());
            }
            protect::check_default(default.as_ref())?;
            (changed.lock, changed.default_retention) = (true, *default);
        }
        BucketChange::Ownership(rule) => changed.ownership = (*rule).into(),
        BucketChange::Block(block) => changed.block = *block,
        BucketChange::Acl(acl) => changed.acl.clone_from(acl),
        BucketChange::Encryption { encrypt, default } => {
            if let Some(default) = default.as_ref().filter(|default| default.class() == ProtectionClass::Kms) {
                kms::check_default(draft, &row.owner, &default.key)?;
            }
            (changed.encrypt, changed.encryption) = (*encrypt, default.clone());
        }
        BucketChange::Tags(tags) => changed.tags.clone_from(tags),
    }
    if changed != row {
        draft.rows.push(EffectKind::PutBucket(changed));
    }
    Ok(Outcome::Done)
}

/// Sets a configuration, or takes it away. The bucket's row says that one of them changed: who remembers a policy that he has read
/// looks at the row with every request, so a policy that denies counts from the next request on.
pub(super) fn put_config(draft: &mut Draft<'_>, put: &PutBucketConfig) -> Result<Outcome, DecideError> {
    let row = existing(draft, put.bucket)?;
    let known = rows::bucket_config(draft.view, put.bucket, put.kind, &put.id)?;
    if known.as_ref().map(|known| &known.body) == put.body.as_ref() {
        return Ok(Outcome::Done);
    }
    let lsn = draft.at.lsn.0;
    let name = BucketConfigName { bucket: put.bucket.0, kind: put.kind.into(), id: put.id.clone() };
    draft.rows.push(match &put.body {
        Some(body) => {
            let more = known.is_none() && put.kind == ConfigKind::Inventory;
            let full = more && rows::bucket_configs(draft.view, put.bucket, put.kind)?.len() >= MAX_INVENTORIES;
            let longest = if put.kind == ConfigKind::Inventory { MAX_INVENTORY_CONFIG } else { MAX_BUCKET_CONFIG };
            if full || body.len() > longest {
                return Err(Refusal::TooLarge.into());
            }
            EffectKind::PutBucketConfig(BucketConfigRow { name: Some(name), seq: lsn, body: body.clone() })
        }
        None => EffectKind::DeleteBucketConfig(name),
    });
    draft.rows.push(EffectKind::PutBucket(BucketRow { config_seq: lsn, ..row }));
    Ok(Outcome::Done)
}
