//! A start makes the accounts that it is given what they are to be, with their keys and users.
//!
//! Invariant: a start that changes nothing journals nothing; and nothing that was done to accounts while the service ran keeps a later
//! start from serving: what can't be set is said, and left as it is.

use crate::accounts::{NewAccount, NewKey, NewUser};
use crate::data_dir::DataDir;
use crate::serve::ServeError;
use codec::effect::AccountRow;
use metadata::client::{CommitError, MetadataClient, Mode};
use metadata::command::{Command, Refusal};
use metadata::iam::{IamFailure, Signer, Signing, Value, Who};
use metadata::keys::Secret;
use metadata::service::Metadata;
use std::sync::Arc;

/// The user's own policy that a file of accounts gives.
const POLICY: &str = "of-the-accounts-file";

/// Makes the accounts of a start what they are to be.
pub(crate) async fn put_accounts(
    data: &DataDir,
    meta: &Arc<Metadata>,
    accounts: impl Iterator<Item = &NewAccount>,
) -> Result<(), ServeError> {
    if meta.status().mode == Mode::ReadOnly {
        tracing::warn!("read-only: accounts stay as they are");
        return Ok(());
    }
    for account in accounts {
        if !is_stored(meta, account).await? {
            put(data, meta, account).await?;
        }
        for key in &account.keys {
            said(account, key_of(meta, account, None, key).await);
        }
        for user in &account.users {
            said(account, user_of(meta, account, user).await);
        }
        for id in &account.kms_keys {
            said(account, kms_key(meta, account, id).await);
        }
    }
    Ok(())
}

async fn put(data: &DataDir, meta: &Arc<Metadata>, account: &NewAccount) -> Result<(), ServeError> {
    let lookup = |source| ServeError::AccountLookup { name: account.name.clone(), source };
    let secret = Secret::new(account.secret_key.to_string());
    let wrapped = meta.keys().wrap_account(&account.id, &secret);
    let known = meta.account(&account.id).await.map_err(lookup)?;
    let row = AccountRow {
        id: account.id.clone(),
        name: account.name.clone(),
        display_name: account.display_name.clone(),
        email: account.email.clone(),
        access_key: account.access_key.clone(),
        wrapped_secret: wrapped.map_err(|error| ServeError::key(data, error))?,
        // What was set while the service ran stays.
        ..known.unwrap_or_default()
    };
    match meta.commit(meta.epoch(), Command::PutAccount(row)).await {
        Ok(_) => Ok(()),
        Err(CommitError::Refused(Refusal::AccountTaken)) => {
            tracing::warn!(
                account = account.name,
                "not set: another account has its name, access key or e-mail address"
            );
            Ok(())
        }
        Err(source) => Err(ServeError::Account { name: account.name.clone(), source }),
    }
}

/// Whether the account is there as it should be.
async fn is_stored(meta: &Arc<Metadata>, account: &NewAccount) -> Result<bool, ServeError> {
    let found = signer(meta, &account.access_key)
        .await
        .map_err(|source| ServeError::AccountLookup { name: account.name.clone(), source })?;
    Ok(found.is_some_and(|found| {
        found.account.id == account.id
            && found.account.access_key == account.access_key
            && found.account.name == account.name
            && found.account.display_name == account.display_name
            && found.account.email == account.email
            && found.secret.expose() == account.secret_key.as_str()
    }))
}

async fn signer(meta: &Arc<Metadata>, access_key: &str) -> Result<Option<Arc<Signer>>, metadata::client::LookupError> {
    Ok(match meta.signer(access_key, None).await? {
        Signing::Known(signer) => Some(signer),
        _ => None,
    })
}

fn said(account: &NewAccount, result: Result<(), IamFailure>) {
    if let Err(error) = result {
        tracing::warn!(account = account.name, %error, "not everything of the accounts file was set");
    }
}

async fn ask(
    meta: &Arc<Metadata>,
    account: &NewAccount,
    action: &str,
    parameters: &[(&str, &str)],
    key: Option<&NewKey>,
) -> Result<Value, IamFailure> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let key = key.map(|key| (key.access_key.clone(), Secret::new(key.secret_key.to_string())));
    meta.iam_as_operator(&account.id, action, &parameters, key).await
}

/// An access key of the account itself, or of a user.
async fn key_of(
    meta: &Arc<Metadata>,
    account: &NewAccount,
    user: Option<&str>,
    key: &NewKey,
) -> Result<(), IamFailure> {
    let whose: Vec<_> = user.into_iter().map(|user| ("UserName", user)).collect();
    if let Some(found) = signer(meta, &key.access_key).await? {
        let same = match (&found.who, user) {
            (Who::Account, None) => true,
            (Who::User(known), Some(user)) => known.eq_ignore_ascii_case(user),
            _ => false,
        };
        if found.account.id == account.id && same {
            if found.secret.expose() == key.secret_key.as_str() {
                return Ok(());
            }
            let which = [&whose[..], &[("AccessKeyId", key.access_key.as_str())]].concat();
            ask(meta, account, "DeleteAccessKey", &which, None).await?;
        }
    }
    ask(meta, account, "CreateAccessKey", &whose, Some(key)).await.map(drop)
}

async fn user_of(meta: &Arc<Metadata>, account: &NewAccount, user: &NewUser) -> Result<(), IamFailure> {
    let name = ("UserName", user.name.as_str());
    match ask(meta, account, "GetUser", &[name], None).await {
        Err(IamFailure::Said { status: 404, .. }) => drop(ask(meta, account, "CreateUser", &[name], None).await?),
        other => drop(other?),
    }
    if let Some(policy) = &user.policy {
        let known = ask(meta, account, "GetUserPolicy", &[name, ("PolicyName", POLICY)], None).await.ok();
        let known = known.as_ref().and_then(|known| known.get("PolicyDocument")).and_then(Value::text);
        if known != Some(policy.as_str()) {
            let put = [name, ("PolicyName", POLICY), ("PolicyDocument", policy.as_str())];
            ask(meta, account, "PutUserPolicy", &put, None).await?;
        }
    }
    for key in &user.keys {
        key_of(meta, account, Some(&user.name), key).await?;
    }
    Ok(())
}

/// A key of the key store. One that is there stays what it is.
async fn kms_key(meta: &Arc<Metadata>, account: &NewAccount, id: &str) -> Result<(), IamFailure> {
    let failed = |reason: String| IamFailure::Commit(CommitError::Unavailable { reason });
    let known = metadata::index::access::kms_key(&metadata::index::Overlay::new(&**meta.kv()), id);
    if known.map_err(|error| failed(error.to_string()))?.is_some() {
        return Ok(());
    }
    let row = meta.keys().new_kms_key(&account.id, id).map_err(|error| failed(error.to_string()))?;
    meta.commit(meta.epoch(), Command::CreateKmsKey(row)).await?;
    Ok(())
}
