//! Effects to index rows. Total: damaged effects and rows are errors.

use crate::index::replication::{self, When};
use crate::index::{
    self, ACCOUNTS, BUCKETS, CHUNKS, DRIVES, IndexError, META, OBJECTS, Overlay, STRIPES, UPLOADS, View,
    access_key_key, account_key, account_name_key, bucket_id_key, bucket_key, domain_key, domain_owner_key, part_key,
    setting_key, upload_key, version_key,
};
use codec::effect::{AccountRow, BucketRow, EffectKind, Effects, UploadName};
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use codec::stripe::StripeDescriptor;

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
    Field(&'static str),
}

impl From<IndexError> for Fault {
    fn from(error: IndexError) -> Self {
        Fault::Index(error)
    }
}

fn apply_one(overlay: &mut Overlay<'_>, at: When, kind: &EffectKind) -> Result<(), Fault> {
    let lsn = at.lsn;
    match kind {
        EffectKind::PutBucket(row) => {
            overlay.put(BUCKETS, bucket_key(&row.name), row);
            overlay.put_raw(BUCKETS, bucket_id_key(BucketId(row.id)), row.name.clone());
        }
        EffectKind::DeleteBucket(row) => delete_bucket(overlay, row)?,
        EffectKind::PutVersion(row) => {
            overlay.put(OBJECTS, version_key(BucketId(row.bucket), &row.key, Lsn(row.seq)), row);
            replication::note_change(overlay, BucketId(row.bucket), &row.key, at)?;
        }
        EffectKind::DeleteVersion(name) => {
            overlay.delete(OBJECTS, version_key(BucketId(name.bucket), &name.key, Lsn(name.seq)));
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
        EffectKind::DeleteAccount(row) => delete_account(overlay, &row.id)?,
        EffectKind::PutDomain(row) => {
            overlay.put(ACCOUNTS, domain_key(DomainId(row.id)), row);
            overlay.put_raw(ACCOUNTS, domain_owner_key(&row.account, row.encrypted), row.id.to_be_bytes().to_vec());
        }
        EffectKind::PutSetting(row) => overlay.put(META, setting_key(&row.name), row),
        EffectKind::StripeFreed(name) => {
            let id = StripeId { epoch: Epoch(name.epoch), counter: name.counter };
            index::reclaim::stripe_freed(overlay, id)?;
        }
        EffectKind::StartEpoch(row) => {
            index::put_epoch(overlay, Epoch(row.epoch));
            index::reclaim::grant(overlay, lsn, row)?;
        }
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
    }
    Ok(())
}

fn delete_bucket(overlay: &mut Overlay<'_>, row: &BucketRow) -> Result<(), Fault> {
    // The name may be another bucket's by now only if entries were lost; then it stays.
    if index::bucket(overlay, &row.name)?.is_some_and(|current| current.id == row.id) {
        overlay.delete(BUCKETS, bucket_key(&row.name));
    }
    overlay.delete(BUCKETS, bucket_id_key(BucketId(row.id)));
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
