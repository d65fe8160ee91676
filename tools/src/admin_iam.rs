//! The admin port's route for users, keys, policies, groups and roles: an operator asks on an account's behalf, by AWS's names.
//!
//! It wants the token. A secret key is in an answer once: where it was made up.

use crate::accounts::check_access_key;
use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use metadata::client::CommitError;
use metadata::iam::{IamFailure, Value};
use metadata::keys::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What an operator asks for. It shows nothing of its secret.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IamQuestion {
    /// The account's id.
    pub account: String,
    /// AWS's name of what is asked for, such as `CreateUser`.
    pub action: String,
    /// AWS's parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Of CreateAccessKey: the access key; empty, and both are made up.
    #[serde(default)]
    pub access_key: String,
    /// The secret key of `access_key`.
    #[serde(default)]
    pub secret_key: String,
}

impl fmt::Debug for IamQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IamQuestion { account, action, .. } = self;
        f.debug_struct("IamQuestion").field("account", account).field("action", action).finish_non_exhaustive()
    }
}

impl Drop for IamQuestion {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret_key);
    }
}

/// The route.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/iam", post(ask))
}

fn failed(error: &IamFailure) -> Response {
    let status = match error {
        IamFailure::Said { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST),
        IamFailure::Commit(CommitError::Refused(_)) => StatusCode::CONFLICT,
        IamFailure::Commit(_) | IamFailure::Lookup(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n")).into_response()
}

/// The tree of an answer, as JSON.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Text(text) | Value::Document(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Fields(fields) => fields.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
    }
}

async fn ask(State(state): State<Arc<AdminState>>, Json(question): Json<IamQuestion>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let given = !question.access_key.is_empty();
    if given && let Err(error) = check_access_key(&question.account, &question.access_key, &question.secret_key) {
        return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
    }
    let key = given.then(|| (question.access_key.clone(), Secret::new(question.secret_key.clone())));
    let parameters: Vec<(String, String)> =
        question.parameters.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    match metadata.iam_as_operator(&question.account, &question.action, &parameters, key).await {
        Ok(value) => Json(json(&value)).into_response(),
        Err(error) => failed(&error),
    }
}
