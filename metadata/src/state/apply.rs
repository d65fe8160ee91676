//! Effects to index rows. Total: damaged effects and rows are errors.

use crate::index::access::{self, NameKind};
use crate::index::replication::{self, When};
use crate::index::usage::{self, USAGE_SETTING};
use crate::index::{
    self, ACCOUNTS, BUCKETS, CHUNKS, DRIVES, IndexError, META, Overlay, STRIPES, UPLOADS, View, access_key_key,
    account_key, account_name_key, bucket_id_key, bucket_key, domain_key, domain_row_key, named_key, part_key,
    setting_key, upload_key, versions,
};
use codec::effect::{AccountRow, BucketRow, EffectKind, Effects, LevelRow, UploadName};
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use codec::level::{FormatLevel, TooNew};
use codec::stripe::StripeDescriptor;
use prost::Message;

/// Why effects were not applied. The overlay is then of no use: drop it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The index failed or is damaged: rebuild it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The entry is not the next one.
    #[error("entry {lsn} can't be applied after entry {applied}")]
    Gap {
        /// The last applied.
        applied: Lsn,
        /// The entry's.
        lsn: Lsn,
    },
    /// An effect that lacks a field, or has one out of range.
    #[error("entry {lsn} has a damaged effect ({what})")]
    Damaged {
        /// The entry's.
        lsn: Lsn,
        /// Which field.
        what: &'static str,
    },
    /// The entry raises the format level to one that this program does not know: it must neither apply it nor what follows.
    #[error(transparent)]
    TooNew(#[from] TooNew),
}

/// Applies an entry's effects, and notes the entry as the last applied.
pub fn apply(overlay: &mut Overlay<'_>, lsn: Lsn, hash: &[u8; 32], effects: &Effects) -> Result<(), ApplyError> {
    let (applied, _) = index::applied(overlay)?;
    if applied.0.checked_add(1) != Some(lsn.0) && !accepts_loss_after(effects, applied, lsn) {
        return Err(ApplyError::Gap { applied, lsn });
    }
    for effect in &effects.effects {
        let kind = effect.kind.as_ref().ok_or(Fault::Field("kind"));
        kind.and_then(|kind| apply_one(overlay, When { lsn, wall_ms: effects.wall_ms }, kind)).map_err(|fault| {
            match fault {
                Fault::Index(error) => ApplyError::Index(error),
                Fault::TooNew(error) => ApplyError::TooNew(error),
                Fault::Field(what) => ApplyError::Damaged { lsn, what },
            }
        })?;
    }
    index::put_applied(overlay, lsn, hash);
    Ok(())
}

/// Whether an entry accepts the loss of everything between the last applied one and itself: an LSN that was given to a lost
/// entry is never given to another one.
fn accepts_loss_after(effects: &Effects, applied: Lsn, lsn: Lsn) -> bool {
    let accepts = |kind: &EffectKind| match kind {
        EffectKind::AcceptedLoss(loss) => loss.kept == applied.0 && loss.known.checked_add(1) == Some(lsn.0),
        _ => false,
    };
    effects.effects.iter().filter_map(|effect| effect.kind.as_ref()).any(accepts)
}

enum Fault {
    Index(IndexError),
    TooNew(TooNew),
    Field(&'static str),
}

impl From<IndexError> for Fault {
    fn from(error: IndexError) -> Self {
        Fault::Index(error)
    }
}

fn apply_one(overlay: &mut Overlay<'_>, at: When, kind: &EffectKind) -> Result<(), Fault> {
    let lsn = at.lsn;
    usage::note(overlay, kind)?;
    match kind {
        EffectKind::PutBucket(row) => {
            overlay.put(BUCKETS, bucket_key(&row.name), row);
            overlay.put_raw(BUCKETS, bucket_id_key(BucketId(row.id)), row.name.clone());
        }
        EffectKind::DeleteBucket(row) => delete_bucket(overlay, row)?,
        EffectKind::PutVersion(row) => {
            versions::put_version(overlay, row)?;
            replication::note_change(overlay, BucketId(row.bucket), &row.key, at)?;
        }
        EffectKind::DeleteVersion(name) => {
            replication::note_gone(overlay, name, at)?;
            versions::delete_version(overlay, name)?;
            replication::note_change(overlay, BucketId(name.bucket), &name.key, at)?;
        }
        EffectKind::PutUpload(row) => {
            let name = row.name.as_ref().ok_or(Fault::Field("upload.name"))?;
            overlay.put(UPLOADS, upload_key(name), row);
        }
        EffectKind::DeleteUpload(name) => delete_upload(overlay, name)?,
        EffectKind::PutPart(row) => {
            let name = row.upload.as_ref().ok_or(Fault::Field("part.upload"))?;
            overlay.put(UPLOADS, part_key(name, row.number), row);
        }
        EffectKind::PutChunk(row) => {
            let id = row.chunk_id().ok_or(Fault::Field("chunk.id"))?;
            overlay.put(CHUNKS, id.as_bytes().to_vec(), row);
        }
        EffectKind::DeleteChunk(name) => {
            let id = ChunkId::from_slice(&name.id).ok_or(Fault::Field("chunk.id"))?;
            overlay.delete(CHUNKS, id.as_bytes().to_vec());
        }
        EffectKind::PutStripe(row) => {
            let descriptor = StripeDescriptor::parse(&row.descriptor).map_err(|_| Fault::Field("stripe.descriptor"))?;
            overlay.put(STRIPES, descriptor.id.to_bytes().to_vec(), row);
        }
        EffectKind::DeleteStripe(name) => {
            let id = StripeId { epoch: Epoch(name.epoch), counter: name.counter };
            index::reclaim::drop_stripe(overlay, lsn, id)?;
        }
        EffectKind::PutDrive(row) => {
            let id = DriveId::from_slice(&row.id).ok_or(Fault::Field("drive.id"))?;
            overlay.put(DRIVES, id.as_bytes().to_vec(), row);
        }
        EffectKind::PutNode(row) if row.name.is_empty() => return Err(Fault::Field("node.name")),
        EffectKind::PutNode(row) => index::put_node(overlay, row),
        EffectKind::PutAccount(row) => put_account(overlay, row)?,
        EffectKind::DeleteAccount(row) => {
            delete_account(overlay, &row.id)?;
            usage::drop_account(overlay, &row.id);
        }
        EffectKind::PutDomain(row) => {
            overlay.put(ACCOUNTS, domain_key(DomainId(row.id)), row);
            overlay.put_raw(ACCOUNTS, domain_row_key(row), row.id.to_be_bytes().to_vec());
        }
        EffectKind::PutSetting(row) => {
            if row.name == USAGE_SETTING {
                usage::step(overlay, row)?;
            }
            overlay.put(META, setting_key(&row.name), row);
        }
        EffectKind::StripeFreed(name) => {
            let id = StripeId { epoch: Epoch(name.epoch), counter: name.counter };
            index::reclaim::stripe_freed(overlay, id)?;
        }
        EffectKind::StartEpoch(row) => {
            index::put_epoch(overlay, Epoch(row.epoch));
            index::reclaim::grant(overlay, lsn, row)?;
        }
        EffectKind::PutLevel(row) => put_level(overlay, row)?,
        EffectKind::GrantEpoch(row) => index::reclaim::grant_to_gateway(overlay, lsn, row)?,
        EffectKind::ClockTick(tick) => {
            index::reclaim::note_tick(overlay, lsn, tick)?;
            index::put_clock(overlay, tick);
        }
        EffectKind::Sealed(row) => index::put_sealed(overlay, row)?,
        EffectKind::PutCheckpoint(row) => index::put_checkpoint(overlay, row),
        EffectKind::DeleteCheckpoint(row) => index::delete_checkpoint(overlay, row),
        EffectKind::PutReplication(row) => replication::put_rule(overlay, row),
        EffectKind::DeleteReplication(name) => replication::delete_rule(overlay, BucketId(name.bucket)),
        EffectKind::ReplicationQueue(row) => replication::change_queue(overlay, row, at)?,
        EffectKind::AcceptedLoss(row) => {
            index::put_accepted_loss(overlay, row);
        }
        EffectKind::PutBucketConfig(row) => {
            let name = row.name.as_ref().ok_or(Fault::Field("config.name"))?;
            access::put_bucket_config(overlay, name, row);
        }
        EffectKind::DeleteBucketConfig(name) => access::delete_bucket_config(overlay, name),
        EffectKind::PutUser(row) => put_named(overlay, NameKind::User, (&row.account, &row.name), row)?,
        EffectKind::DeleteUser(name) => access::delete_user(overlay, name)?,
        EffectKind::PutAccessKey(row) if row.access_key.is_empty() => return Err(Fault::Field("access_key")),
        EffectKind::PutAccessKey(row) => access::put_access_key(overlay, row)?,
        EffectKind::DeleteAccessKey(row) => access::delete_access_key(overlay, &row.access_key)?,
        EffectKind::PutPolicy(row) => {
            let name = row.policy.as_ref().map_or("", |policy| &policy.name);
            put_named(overlay, NameKind::Policy, (&row.account, name), row)?;
        }
        EffectKind::DeletePolicy(name) => access::delete_named(overlay, NameKind::Policy, name),
        EffectKind::PutRole(row) => put_named(overlay, NameKind::Role, (&row.account, &row.name), row)?,
        EffectKind::DeleteRole(name) => access::delete_named(overlay, NameKind::Role, name),
        EffectKind::PutGroup(row) => put_named(overlay, NameKind::Group, (&row.account, &row.name), row)?,
        EffectKind::DeleteGroup(name) => access::delete_named(overlay, NameKind::Group, name),
        EffectKind::PutKmsKey(row) if row.id.is_empty() => return Err(Fault::Field("kms.id")),
        EffectKind::PutKmsKey(row) => access::put_kms_key(overlay, row),
        EffectKind::Notices(row) => index::notices::change(overlay, row)?,
    }
    Ok(())
}

fn delete_bucket(overlay: &mut Overlay<'_>, row: &BucketRow) -> Result<(), Fault> {
    usage::drop_bucket(overlay, row)?;
    // The name may be another bucket's by now only if entries were lost; then it stays.
    if index::bucket(overlay, &row.name)?.is_some_and(|current| current.id == row.id) {
        overlay.delete(BUCKETS, bucket_key(&row.name));
    }
    overlay.delete(BUCKETS, bucket_id_key(BucketId(row.id)));
    access::delete_bucket_configs(overlay, BucketId(row.id))?;
    Ok(())
}

/// Sets the row of a user, policy, role or group.
fn put_named(
    overlay: &mut Overlay<'_>,
    kind: NameKind,
    (account, name): (&str, &str),
    row: &impl Message,
) -> Result<(), Fault> {
    if account.is_empty() || name.is_empty() {
        return Err(Fault::Field("name"));
    }
    overlay.put(ACCOUNTS, named_key(kind, account, Some(name)), row);
    Ok(())
}

fn put_level(overlay: &mut Overlay<'_>, row: &LevelRow) -> Result<(), Fault> {
    TooNew::check(FormatLevel(row.level), &row.by).map_err(Fault::TooNew)?;
    if row.level > index::level(overlay)?.level {
        index::put_level(overlay, row);
    }
    if FormatLevel(row.level) >= FormatLevel::VERSIONS {
        usage::begin(overlay)?;
    }
    Ok(())
}

fn delete_upload(overlay: &mut Overlay<'_>, name: &UploadName) -> Result<(), Fault> {
    let start = index::upload_parts(name);
    let mut end = start.clone();
    end.extend_from_slice(&[0xff; 5]);
    for (key, _) in overlay.rows(UPLOADS, &start, &end, usize::MAX)? {
        overlay.delete(UPLOADS, key);
    }
    overlay.delete(UPLOADS, upload_key(name));
    Ok(())
}

fn put_account(overlay: &mut Overlay<'_>, row: &AccountRow) -> Result<(), Fault> {
    delete_account(overlay, &row.id)?;
    overlay.put(ACCOUNTS, account_key(&row.id), row);
    overlay.put_raw(ACCOUNTS, access_key_key(&row.access_key), row.id.clone());
    overlay.put_raw(ACCOUNTS, account_name_key(&row.name), row.id.clone());
    Ok(())
}

fn delete_account(overlay: &mut Overlay<'_>, id: &str) -> Result<(), Fault> {
    if let Some(old) = index::account(overlay, id)? {
        overlay.delete(ACCOUNTS, access_key_key(&old.access_key));
        overlay.delete(ACCOUNTS, account_name_key(&old.name));
        overlay.delete(ACCOUNTS, account_key(id));
    }
    Ok(())
}
