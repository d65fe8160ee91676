//! The key-encryption keys of a service that runs: what is under them, and what is not.

use super::{Alarm, Metadata};
use crate::client::{CommitError, MetadataClient};
use crate::command::Command;
use crate::index::{self, IndexError};
use crate::keys::rewrap::{Looked, RewrapError};
use crate::keys::{KeyError, SESSION_SETTING};
use codec::level::FormatLevel;

/// Secrets that one entry puts.
const REWRAPS: usize = 500;

/// The key-encryption keys, as a status shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeysStatus {
    /// Key files that are there: one or two.
    pub there: u32,
    /// There are two, by what is journaled, and one of them is not there.
    pub one_is_missing: bool,
    /// Secrets that no key opens that is there, when the service began.
    pub closed: u64,
}

/// Why not everything was wrapped by both keys.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Look(#[from] RewrapError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Metadata {
    /// What is known of the key-encryption keys.
    pub fn keys_status(&self) -> KeysStatus {
        let volatile = self.shared.volatile();
        let there = if self.keys.are_two() { 2 } else { 1 };
        KeysStatus { there, one_is_missing: volatile.alarms.contains_key(&Alarm::KeyMissing), closed: volatile.closed }
    }

    /// Tries all secrets with the keys that are here, says what does not open, and wraps by both keys what is not yet, where there are
    /// two and the format level allows it. A start does it before it serves; what fails is tried again by the next one.
    pub(crate) async fn look_at_keys(&self) {
        let writes = self.writing.is_some() && self.shared.level() >= FormatLevel::VERSIONS;
        if writes {
            self.keys.wrap_twice();
        }
        let looked = match self.keys.look(&self.view()) {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!(%error, "it is not known whether everything is wrapped by the keys that are here");
                return;
            }
        };
        self.say(&looked);
        if writes && let Err(error) = self.wrap_again(looked).await {
            tracing::error!(%error, "not everything is wrapped by both keys; the next start tries again");
        }
        if let Err(error) = self.begin_sessions(writes).await {
            tracing::error!(%error, "temporary credentials end where the first key goes missing");
        }
    }

    /// Alarms, by name: whoever throws a key away that is missed here has lost what is under it.
    fn say(&self, looked: &Looked) {
        self.shared.volatile_mut().closed = looked.closed;
        let missing = looked.one_is_missing.then(|| {
            "one of this cluster's two key files is missing, and what is new is under the other one alone: put it back; where it is \
             lost, make another (stele key second)"
                .to_owned()
        });
        if let Some(words) = &missing {
            tracing::warn!(words);
        }
        self.shared.set_alarm(Alarm::KeyMissing, missing);
        let closed = looked.first.as_ref().map(|first| {
            let (closed, place) = (looked.closed, self.keys.former_place());
            format!(
                "{closed} secrets open with no key that is here, {first} among them, and what is under them can't be read: put back the key \
                 file that was here when they were made, or call it {} where another one has its place",
                place.display()
            )
        });
        self.shared.set_alarm(Alarm::Closed, closed);
    }

    async fn wrap_again(&self, looked: Looked) -> Result<(), Failed> {
        for some in looked.found.chunks(REWRAPS) {
            self.commit(self.epoch(), Command::Rewrap(some.to_vec())).await?;
        }
        if !looked.found.is_empty() {
            let (secrets, closed) = (looked.found.len(), looked.closed);
            tracing::info!(secrets, closed, "secrets were wrapped by both keys");
        }
        Ok(self.keys.second_has_come()?)
    }

    /// What temporary credentials are made of is journaled, under both keys: so they outlast either.
    async fn begin_sessions(&self, writes: bool) -> Result<(), Failed> {
        let setting = match index::setting(&self.view(), SESSION_SETTING)? {
            None if writes => {
                let setting = self.keys.new_session_setting()?;
                self.commit(self.epoch(), Command::PutSetting(setting.clone())).await?;
                Some(setting)
            }
            setting => setting,
        };
        Ok(setting.map_or(Ok(()), |setting| self.keys.take_session(&setting))?)
    }
}
