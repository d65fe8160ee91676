//! Accepting a loss: the journal is cut where what is left of it ends, and the service starts from there.

use super::key::{Basis, Key};
use super::serve::{begin_drives, next_epoch, serve};
use super::{AnyParts, Config, Means, PutAside, Scene, StartError, empty_index, open, or_stop};
use crate::journal::{Journal, JournalStart};
use crate::loss::{self, LossReport};
use crate::replay::{self, ReplayError};
use crate::service::Metadata;
use crate::survey::{IndexMark, ReadOnlyReason, best_chain, survey};
use codec::effect::{AcceptedLossRow, SealedRow};
use codec::id::{DriveId, Epoch, Lsn};
use codec::journal::NO_ENTRY;
use std::sync::Arc;

/// By how much an accepted loss raises the epoch's count.
const LEAP: u64 = 1 << 16;
/// By how much it raises the ensemble's sequence: more than so many starts and changes of the ensemble do.
const SEQUENCE_LEAP: u64 = LEAP << 16;

/// Accepts the loss that keeps the service from writing, and starts it. The old index is kept aside; the new one is built from
/// what the drives have; the report lists what the old one knew and the new one does not.
pub async fn accept_loss(parts: impl Into<AnyParts>, config: Config) -> Result<(Metadata, LossReport), StartError> {
    let (means, source) = parts.into().split();
    let (opened, key) = open(&means, &config, source).await?;
    let node = opened.node.clone();
    let accepted = async {
        let scene = opened.look(&config).await?;
        accept(means, config, scene, key).await
    };
    or_stop(&node, accepted.await).await
}

async fn accept(
    parts: Means,
    config: Config,
    mut scene: Scene,
    key: Key,
) -> Result<(Metadata, LossReport), StartError> {
    let Err(reason) = scene.judge(&config) else { return Err(StartError::NoLoss) };
    if matches!(reason, ReadOnlyReason::TooFewDrives { .. }) {
        return Err(StartError::NoLoss);
    }
    if scene.refused.is_some() {
        return Err(scene.refusal());
    }
    tracing::warn!(%reason, "accepting a loss");
    // What the index says to be sealed may be among what is lost, so the drives alone are asked what is left. All of this is
    // known before anything changes: what comes to nothing must leave the old index in its place, to be read from.
    scene.copies = survey(&*scene.node, Lsn(0), config.patience.deadline, &config.sabotage).await?;
    let reach = replay::reach(&*scene.node).await?;
    scene.chain = best_chain(&scene.copies, IndexMark { sealed: reach.sealed, ..IndexMark::NONE }, &config.sabotage);
    let (mut loss, sealed) =
        loss::cut(&mut scene.chain, &reach, scene.mark, &scene.copies).map_err(ReplayError::from)?;
    // The register knows, too: from the last change of the ensemble, or from an acceptance that was interrupted.
    loss.known = loss.known.max(scene.register.first_lsn.0.saturating_sub(1));
    let register = loss::surviving_register(&scene.register, &scene.copies);
    let removed = scene.register.registered.iter().filter(|d| !register.registered.contains(d)).copied().collect();
    scene.register = register;
    let old = scene.kv.clone().ok_or(StartError::NoRegister)?;
    let keys = key.check(&scene, Basis::Ledger(&reach, &*old), config.patience).await?;
    drop(old);
    let epoch = announce(&parts, &config, &mut scene, Lsn(loss.known)).await?;
    // From here on the old index is only read for the report.
    let lost = scene.kv.take().map(|old| loss::newer_than(&*old, Lsn(loss.kept))).unwrap_or_default();
    let aside = parts.index.set_aside(PutAside::Loss)?;
    scene.kv = Some(empty_index(&*parts.index, scene.cluster)?);
    scene.mark = IndexMark::NONE;
    let accepted = Accepted { row: loss.clone(), sealed, removed, epoch };
    let metadata = serve(parts, config, scene, Key::Checked(keys), Some(accepted)).await?;
    Ok((metadata, LossReport { kept: Lsn(loss.kept), known: Lsn(loss.known), index_kept_at: aside, lost }))
}

/// An accepted loss on its way into the journal.
pub(super) struct Accepted {
    pub(super) row: AcceptedLossRow,
    pub(super) sealed: Option<SealedRow>,
    pub(super) removed: Vec<DriveId>,
    pub(super) epoch: Epoch,
}

/// Writes a register that begins behind everything that is known to have existed: until the loss is journaled no member is
/// complete under it. So a crash after the old index is put aside leaves a service that reads only, and not one that sees
/// nothing wrong and gives the lost entries' LSNs to others. Epoch and sequence leap, since drives that are not here may have
/// seen more starts and ensembles than those that are: should they come back, theirs must not be the newer history.
async fn announce(parts: &Means, config: &Config, scene: &mut Scene, known: Lsn) -> Result<Epoch, StartError> {
    let kv = scene.kv.clone().ok_or(StartError::NoRegister)?;
    let next = next_epoch(scene, &kv, &*parts.entropy, None).await?;
    let epoch = Epoch(next.0.saturating_add(LEAP << 32));
    begin_drives(scene, epoch, config.patience.deadline).await?;
    let mut journal = Journal::new(JournalStart {
        node: scene.node.clone(),
        map: Arc::default(),
        register: scene.register.clone(),
        epoch,
        last: (known, NO_ENTRY),
        sabotage: config.sabotage.clone(),
    });
    let mut register = scene.register.clone();
    register.sequence = register.sequence.saturating_add(SEQUENCE_LEAP);
    register.epoch = epoch;
    register.first_lsn = known.next();
    let written = journal.replace_register(register.clone()).await;
    written.map_err(|stopped| StartError::Journal(stopped.to_string()))?;
    scene.register = register;
    Ok(epoch)
}
