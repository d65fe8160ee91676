//! The keys of the key store: see [`crate::kms`].

use super::{DecideError, Draft};
use crate::command::{Outcome, Refusal, SetKmsKey};
use crate::index;
use crate::kms::{KmsFault, MAX_KEY_NAME, default_key, fault_of};
use bytes::Bytes;
use codec::effect::{EffectKind, KmsKeyRow, KmsKeyState, ProtectionClass};
use codec::id::DomainId;

/// Makes a key. One that the account has already stays as it is, whatever its state.
pub(super) fn create(draft: &mut Draft<'_>, row: &KmsKeyRow) -> Result<Outcome, DecideError> {
    // It stands in headers and in ARNs.
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let reserved = row.id.starts_with("aws/") && row.id != default_key(&row.account);
    if row.id.is_empty() || row.id.len() > MAX_KEY_NAME || !row.id.chars().all(fine) || reserved {
        return Err(Refusal::BadKmsKey.into());
    }
    index::account(draft.view, &row.account)?.ok_or(Refusal::NoSuchAccount)?;
    match index::access::kms_key(draft.view, &row.id)? {
        Some(known) if known.account == row.account => Ok(Outcome::Done),
        Some(_) => Err(Refusal::KmsKeyTaken.into()),
        None => {
            let state = KmsKeyState::Enabled.into();
            draft.rows.push(EffectKind::PutKmsKey(KmsKeyRow { state, since: draft.at.lsn.0, ..row.clone() }));
            Ok(Outcome::Done)
        }
    }
}

/// Changes a key's state: from one that it is still in, and has been in since it was looked at.
pub(super) fn set(draft: &mut Draft<'_>, set: &SetKmsKey) -> Result<Outcome, DecideError> {
    use KmsKeyState::{Destroyed, Disabled, Enabled, PendingDeletion};
    let refused = |fault| DecideError::from(Refusal::Kms { key: set.id.clone(), fault });
    let row = index::access::kms_key(draft.view, &set.id)?.ok_or_else(|| refused(KmsFault::Unknown))?;
    let is = KmsKeyState::try_from(row.state).unwrap_or(KmsKeyState::Unspecified);
    if is == set.state && set.since.is_none() {
        return Ok(Outcome::Done);
    }
    // Whoever looked found what is of this time in its state, and of no earlier one.
    let as_seen = set.since.is_none_or(|since| since == row.since);
    let may = match (is, set.state) {
        // Whoever wants it after all takes it back.
        (Enabled, Disabled) | (Disabled, Enabled | PendingDeletion) | (PendingDeletion, Enabled | Disabled) => true,
        (PendingDeletion, Destroyed) => set.since.is_some(),
        _ => false,
    } && as_seen;
    if !may {
        // A key in use is taken out of use first, so that whoever does it by mistake hears of it while it can be undone.
        return Err(fault_of(&row).map_or(Refusal::KmsKeyInUse(set.id.clone()).into(), refused));
    }
    let wrapped = if set.state == Destroyed { Bytes::new() } else { row.wrapped.clone() };
    let row = KmsKeyRow { state: set.state.into(), since: draft.at.lsn.0, wrapped, ..row };
    draft.rows.push(EffectKind::PutKmsKey(row));
    Ok(Outcome::Done)
}

/// Nothing new is committed under a key that is out of use: a gateway may hold its domain's keys from before.
pub(super) fn check_usable(draft: &Draft<'_>, domain: DomainId) -> Result<(), DecideError> {
    let Some(row) = index::domain(draft.view, domain)? else { return Ok(()) };
    if row.class() != ProtectionClass::Kms {
        return Ok(());
    }
    let key = index::access::kms_key(draft.view, &row.key)?;
    let fault = key.map_or(Some(KmsFault::Unknown), |key| fault_of(&key));
    fault.map_or(Ok(()), |fault| Err(Refusal::Kms { key: row.key, fault }.into()))
}

/// A bucket's default names a key of the bucket's owner that is in use: another one would refuse every write from now on, and one that
/// is destroyed meanwhile would do so for ever.
pub(super) fn check_default(draft: &Draft<'_>, owner: &str, key: &str) -> Result<(), DecideError> {
    let row = index::access::kms_key(draft.view, key)?.filter(|row| row.account == owner);
    let fault = row.map_or(Some(KmsFault::Unknown), |row| fault_of(&row));
    fault.map_or(Ok(()), |fault| Err(Refusal::Kms { key: key.to_owned(), fault }.into()))
}
