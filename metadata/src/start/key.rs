//! The key-encryption key, checked before anything is written.
//!
//! A start with the wrong key used to find that out when it had taken an epoch and begun new journal segments on every member;
//! each attempt left more of them, and the right key found a journal that others had gone on with.
//!
//! Invariant: what a key is checked against is the last check of what the service will go on from. The first one of a cluster is
//! wrapped by its very first key, which its operator has destroyed once it was replaced: checked against that one, nobody could
//! rebuild an index or accept a loss any more.

use super::{KeySource, Scene, StartError};
use crate::index::{self, Overlay};
use crate::journal::{JournalMap, Patience};
use crate::keys::{KEY_CHECK_SETTING, KeyError, Keys};
use crate::replay::{self, Reach, key_check_in};
use codec::effect::SettingRow;
use codec::id::Lsn;
use storage_node::kv::Kv;

/// The key on its way.
pub(super) enum Key {
    /// Not asked for yet.
    Source(KeySource),
    /// There, and it fits what is journaled.
    Checked(Keys),
}

/// What a start goes on from, beside the unsealed journal.
pub(super) enum Basis<'a> {
    /// The index, for a service that writes; a first start where nothing at all is journaled.
    Index(&'a dyn Kv),
    /// The index, for a service that reads.
    Reading(&'a dyn Kv),
    /// The ledger as far as it leads, where a loss is accepted; and the index, which knows of what is lost.
    Ledger(&'a Reach, &'a dyn Kv),
}

impl Key {
    /// The keys, checked against what is journaled: keys that do not unwrap this cluster's secrets are refused.
    pub(super) async fn check(self, scene: &Scene, from: Basis<'_>, patience: Patience) -> Result<Keys, StartError> {
        let source = match self {
            Key::Checked(keys) => return Ok(keys),
            Key::Source(source) => source,
        };
        let in_index = |kv: &dyn Kv| index::setting(&Overlay::new(kv), KEY_CHECK_SETTING);
        let (after, before) = match &from {
            Basis::Index(kv) | Basis::Reading(kv) => (replay::index_mark(*kv)?.applied, in_index(*kv)?),
            Basis::Ledger(reach, _) => (reach.last.0, reach.key_check.clone()),
        };
        let journaled = in_journal(scene, after, patience).await.or(before);
        let first = journaled.is_none() && matches!(from, Basis::Index(_)) && scene.chain.last.0 == Lsn(0);
        let keys = source(first)?;
        let Some(journaled) = journaled else {
            if !first {
                tracing::warn!("nothing that is left says which key is the right one");
            }
            return Ok(keys);
        };
        match (keys.check(&journaled), &from) {
            (Ok(()), _) => {}
            // What says which of two keys is the right one may be what is missing.
            (Err(error @ (KeyError::First(_) | KeyError::Second { .. })), Basis::Reading(_)) => {
                tracing::warn!(%error, "one of the two keys does not fit what is left of the journal");
            }
            // One of the two has replaced another one, and that is among what is lost. What is left is under the other, and is
            // wrapped by both again before anything is served.
            (Err(error @ (KeyError::First(_) | KeyError::Second { .. })), Basis::Ledger(_, old))
                if in_index(*old)?.is_some_and(|known| keys.check(&known).is_ok()) =>
            {
                tracing::warn!(%error, "one of the two keys came with what is lost: what is left is wrapped by it again");
            }
            (Err(error), _) => return Err(error.into()),
        }
        Ok(keys)
    }
}

/// The last check among the unsealed entries after `after`.
async fn in_journal(scene: &Scene, after: Lsn, patience: Patience) -> Option<SettingRow> {
    let map = JournalMap::new(scene.chain.held.clone(), patience);
    for (lsn, _) in scene.chain.held.range(after.next()..).rev() {
        match map.entry(&*scene.node, *lsn).await {
            Ok(entry) => match key_check_in(&entry) {
                None => {}
                found => return found,
            },
            Err(error) => tracing::warn!(%error, "an entry can't be read while the key is checked"),
        }
    }
    None
}
