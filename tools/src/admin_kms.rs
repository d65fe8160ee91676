//! The admin port's routes for the key store. They want the token, and no key ever leaves it.

use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::effect::{KmsKeyRow, KmsKeyState};
use metadata::client::CommitError;
use metadata::service::{KmsChangeError, Metadata};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

type Shared = State<Arc<AdminState>>;

/// `GET /v1/kms`, and the answer to every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsAnswer {
    /// All keys.
    pub keys: Vec<KmsKeyInfo>,
}

/// A key in [`KmsAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsKeyInfo {
    /// Its name.
    pub id: String,
    /// The id of the account whose it is.
    pub account: String,
    /// `enabled`, `disabled`, `pending deletion` or `destroyed`.
    pub state: String,
    /// What needed it when it was last to be destroyed, for people; empty where nothing did, or nobody remembers.
    #[serde(default)]
    pub needed_by: String,
}

/// What is to become of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KmsChange {
    /// Its name.
    pub id: String,
    /// For `create`: the id of the account whose it is.
    #[serde(default)]
    pub account: String,
    /// `create`, `enable`, `disable` or `destroy`, which goes on in the background.
    pub action: String,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/kms", get(list)).route("/v1/kms/change", post(change))
}

fn state_name(row: &KmsKeyRow) -> &'static str {
    match KmsKeyState::try_from(row.state).unwrap_or(KmsKeyState::Unspecified) {
        KmsKeyState::Enabled => "enabled",
        KmsKeyState::PendingDeletion => "pending deletion",
        KmsKeyState::Destroyed => "destroyed",
        KmsKeyState::Disabled | KmsKeyState::Unspecified => "disabled",
    }
}

fn failed(error: &KmsChangeError) -> Response {
    let status = match error {
        KmsChangeError::NoSuchKey(_) => StatusCode::NOT_FOUND,
        KmsChangeError::State { .. } | KmsChangeError::Enabled(_) | KmsChangeError::Commit(CommitError::Refused(_)) => {
            StatusCode::CONFLICT
        }
        KmsChangeError::Commit(_) => StatusCode::SERVICE_UNAVAILABLE,
        KmsChangeError::Key(_) | KmsChangeError::Index(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

fn answer(metadata: &Metadata, changed: Result<(), KmsChangeError>) -> Response {
    let listed = || -> Result<KmsAnswer, KmsChangeError> {
        let line = |row: KmsKeyRow| {
            let state = state_name(&row).to_owned();
            let needed_by = metadata.kms_key_needed_by(&row.id).unwrap_or_default();
            KmsKeyInfo { id: row.id, account: row.account, state, needed_by }
        };
        Ok(KmsAnswer { keys: metadata.kms_keys()?.into_iter().map(line).collect() })
    };
    match changed.and_then(|()| listed()) {
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

async fn change(State(state): Shared, Json(question): Json<KmsChange>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let changed = match question.action.as_str() {
        "create" => metadata.create_kms_key(&question.account, &question.id).await,
        "enable" => metadata.enable_kms_key(&question.id, true).await,
        "disable" => metadata.enable_kms_key(&question.id, false).await,
        "destroy" => metadata.destroy_kms_key(&question.id).await,
        _ => {
            let words = "action: create, enable, disable or destroy\n";
            return (StatusCode::BAD_REQUEST, words).into_response();
        }
    };
    answer(&metadata, changed)
}
