//! The key-encryption key, checked before anything is written.
//!
//! A start with the wrong key used to find that out when it had taken an epoch and begun new journal segments on every member;
//! each attempt left more of them, and the right key found a journal that others had gone on with.

use super::{KeySource, Scene, StartError};
use crate::index::{self, Overlay};
use crate::journal::{JournalMap, Patience};
use crate::keys::{KEY_CHECK_SETTING, Keys};
use crate::replay::key_check_in;
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

impl Key {
    /// The keys, checked against what is journaled: a key that does not unwrap this cluster's secrets is refused. `journaled` is
    /// the check, if somebody has found it already; else it is looked for in the index and in the unsealed journal. Where
    /// nothing at all is journaled, and only if `serving`, it is still a first start: one that ended behind its registers.
    pub(super) async fn check(
        self,
        scene: &Scene,
        kv: &dyn Kv,
        journaled: Option<SettingRow>,
        serving: bool,
        patience: Patience,
    ) -> Result<Keys, StartError> {
        let source = match self {
            Key::Checked(keys) => return Ok(keys),
            Key::Source(source) => source,
        };
        let journaled = match journaled.or(index::setting(&Overlay::new(kv), KEY_CHECK_SETTING)?) {
            Some(check) => Some(check),
            None => in_journal(scene, patience).await,
        };
        let first = journaled.is_none() && serving && scene.chain.last.0 == Lsn(0);
        let keys = source(first)?;
        match journaled {
            Some(check) => keys.check(&check)?,
            None if !first => tracing::warn!("nothing that is left says which key is the right one"),
            None => {}
        }
        Ok(keys)
    }
}

/// The check among the unsealed entries: one of the first, when nothing was sealed yet.
async fn in_journal(scene: &Scene, patience: Patience) -> Option<SettingRow> {
    let map = JournalMap::new(scene.chain.held.clone(), patience);
    for lsn in scene.chain.held.keys() {
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
