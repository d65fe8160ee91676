//! The admin port's routes for accounts. They want the token, and never show a secret.

use crate::accounts::{FIRST, NewAccount};
use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::effect::AccountRow;
use metadata::client::CommitError;
use metadata::index::IndexError;
use metadata::keys::Secret;
use metadata::service::{AccountError, Metadata};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

type Shared = State<Arc<AdminState>>;

/// `GET /v1/accounts`, and the answer to every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountsAnswer {
    /// All accounts.
    pub accounts: Vec<AccountInfo>,
}

/// An account in [`AccountsAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// The canonical id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Shown in Owner.
    pub display_name: String,
    /// The access key.
    pub access_key: String,
}

/// An account to make or to change. It shows nothing of its secret.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutAccount {
    /// Its name.
    pub name: String,
    /// The canonical id; the name, if it is empty: with `replace` the account then keeps the name that it has.
    #[serde(default)]
    pub id: String,
    /// Shown in Owner; the name, if it is empty, or with `replace` what it was.
    #[serde(default)]
    pub display_name: String,
    /// By which grants may name it; none, if it is empty, or with `replace` what it was.
    #[serde(default)]
    pub email: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// It is there, and gets other keys.
    #[serde(default)]
    pub replace: bool,
}

impl fmt::Debug for PutAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutAccount").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for PutAccount {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret_key);
    }
}

/// Which account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhichAccount {
    /// Its id.
    pub id: String,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/accounts", get(list))
        .route("/v1/accounts/put", post(put))
        .route("/v1/accounts/remove", post(remove))
}

fn failed(error: &AccountError) -> Response {
    let status = match error {
        AccountError::Known(_) | AccountError::Owns { .. } | AccountError::Commit(CommitError::Refused(_)) => {
            StatusCode::CONFLICT
        }
        AccountError::Unknown(_) => StatusCode::NOT_FOUND,
        AccountError::Commit(_) => StatusCode::SERVICE_UNAVAILABLE,
        AccountError::Key(_) | AccountError::Index(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

fn listed(metadata: &Metadata) -> Result<AccountsAnswer, IndexError> {
    let line = |row: AccountRow| AccountInfo {
        id: row.id,
        name: row.name,
        display_name: row.display_name,
        access_key: row.access_key,
    };
    Ok(AccountsAnswer { accounts: metadata.accounts()?.into_iter().map(line).collect() })
}

fn answer(metadata: &Metadata, changed: Result<(), AccountError>) -> Response {
    match changed.and_then(|()| Ok(listed(metadata)?)) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failed(&error),
    }
}

async fn list(State(state): Shared) -> Response {
    match state.metadata() {
        Ok(metadata) => answer(&metadata, Ok(())),
        Err(stage) => unavailable(stage),
    }
}

/// Accounts whose keys are those of a file or of the environment: the next start would put those again, also keys that were
/// replaced because somebody else knows them.
fn is_set_elsewhere(state: &AdminState, id: &str) -> Option<Response> {
    let why = if id == FIRST && state.seat().is_none() {
        format!("the account {FIRST} is the first one: STELE_ACCESS_KEY and STELE_SECRET_KEY of a start set it\n")
    } else if state.is_of_file(id) {
        format!("every start sets the account {id}, from the file of accounts: change it there, and start anew\n")
    } else {
        return None;
    };
    Some((StatusCode::CONFLICT, why).into_response())
}

async fn put(State(state): Shared, Json(question): Json<PutAccount>) -> Response {
    let or_name = |text: &str| if text.is_empty() { question.name.clone() } else { text.to_owned() };
    // Who only replaces keys says nothing of what the account is called.
    let keeps = |text: &str, given: String| if question.replace && text.is_empty() { String::new() } else { given };
    let account = NewAccount {
        id: or_name(&question.id),
        name: question.name.clone(),
        display_name: or_name(&question.display_name),
        email: question.email.clone(),
        access_key: question.access_key.clone(),
        secret_key: Zeroizing::new(question.secret_key.clone()),
        keys: Vec::new(),
        users: Vec::new(),
        kms_keys: Vec::new(),
    };
    if let Err(error) = account.check() {
        return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
    }
    if let Some(refused) = is_set_elsewhere(&state, &account.id) {
        return refused;
    }
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let NewAccount { id, name, display_name, email, access_key, secret_key, .. } = account;
    let (name, display_name) = (keeps(&question.id, name), keeps(&question.display_name, display_name));
    let row = AccountRow { id, name, display_name, email, access_key, ..AccountRow::default() };
    let put = metadata.put_account(row, &Secret::new(secret_key.to_string()), question.replace).await;
    answer(&metadata, put)
}

async fn remove(State(state): Shared, Json(WhichAccount { id }): Json<WhichAccount>) -> Response {
    if let Some(refused) = is_set_elsewhere(&state, &id) {
        return refused;
    }
    match state.metadata() {
        Ok(metadata) => {
            let removed = metadata.remove_account(&id).await;
            answer(&metadata, removed)
        }
        Err(stage) => unavailable(stage),
    }
}
