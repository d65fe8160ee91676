//! Secrets that are wrapped anew: see [`crate::keys::rewrap`].

use super::{DecideError, Draft};
use crate::command::Outcome;
use crate::index::{self, access, replication};
use crate::keys::rewrap::{Rewrapped, SecretOf};
use crate::keys::{KEY_CHECK_SETTING, SESSION_SETTING};
use bytes::Bytes;
use codec::effect::{DomainRow, EffectKind, SettingRow};
use std::collections::BTreeMap;

/// Puts what is still as it was found. What somebody changed meanwhile is wrapped as it should be already, or found again.
pub(super) fn rewrap(draft: &mut Draft<'_>, secrets: &[Rewrapped]) -> Result<Outcome, DecideError> {
    // A domain has two secrets, and an entry puts a row once.
    let mut domains: BTreeMap<u64, DomainRow> = BTreeMap::new();
    for Rewrapped { of, was, is } in secrets {
        let replace = |field: &mut Bytes| {
            *field == *was && {
                field.clone_from(is);
                true
            }
        };
        let view = draft.view;
        let effect = match of {
            SecretOf::Check | SecretOf::Session => {
                let name = if *of == SecretOf::Check { KEY_CHECK_SETTING } else { SESSION_SETTING };
                index::setting(view, name)?
                    .filter(|row| row.value == *was)
                    .map(|row| EffectKind::PutSetting(SettingRow { value: is.clone(), ..row }))
            }
            SecretOf::Account(id) => index::account(view, id)?
                .and_then(|mut row| replace(&mut row.wrapped_secret).then(|| EffectKind::PutAccount(row))),
            SecretOf::AccessKey(key) => access::access_key(view, key)?
                .and_then(|mut row| replace(&mut row.wrapped_secret).then(|| EffectKind::PutAccessKey(row))),
            SecretOf::KmsKey(id) => access::kms_key(view, id)?
                .and_then(|mut row| replace(&mut row.wrapped).then(|| EffectKind::PutKmsKey(row))),
            SecretOf::Replication(bucket) => replication::rule(view, *bucket)?
                .and_then(|mut row| replace(&mut row.wrapped_secret).then(|| EffectKind::PutReplication(row))),
            SecretOf::ChunkKey(id) | SecretOf::DataKey(id) => {
                let known = match domains.remove(&id.0) {
                    Some(row) => Some(row),
                    None => index::domain(view, *id)?,
                };
                if let Some(mut row) = known {
                    match of {
                        SecretOf::ChunkKey(_) => replace(&mut row.wrapped_chunk_key),
                        _ => replace(&mut row.wrapped_data_key),
                    };
                    domains.insert(id.0, row);
                }
                None
            }
        };
        draft.rows.extend(effect);
    }
    draft.rows.extend(domains.into_values().map(EffectKind::PutDomain));
    Ok(Outcome::Done)
}
