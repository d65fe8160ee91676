//! The admin port's routes for webhooks: what waits for them, and an end of it. They want the token.

use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::client::CommitError;
use metadata::index::IndexError;
use metadata::index::notices::{MANY, Queue};
use metadata::service::{Metadata, WebhookError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Webhooks, and what waits for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhooksAnswer {
    /// By name.
    pub webhooks: Vec<WebhookInfo>,
}

/// A webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookInfo {
    /// Its name.
    pub name: String,
    /// It is in the file of webhooks.
    pub configured: bool,
    /// Events that wait until they can be told.
    pub waiting: u64,
    /// Events that are not told, because too many waited; since somebody last dropped what waits.
    pub lost: u64,
}

/// What is to be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookDrop {
    /// The webhook's name.
    pub name: String,
}

/// What was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookDropped {
    /// Events that waited.
    pub dropped: u64,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/webhooks", get(list)).route("/v1/webhooks/drop", post(drop_waiting))
}

/// All webhooks: those that are configured, and those that something waits for.
pub(crate) fn describe(metadata: &Metadata) -> Result<Vec<WebhookInfo>, IndexError> {
    let fresh = |name: String| (name.clone(), WebhookInfo { name, configured: true, ..WebhookInfo::default() });
    let mut all: BTreeMap<String, WebhookInfo> = metadata.webhooks().into_iter().map(fresh).collect();
    for Queue { webhook, waiting, lost } in metadata.notices()? {
        let of = all.entry(webhook.clone()).or_insert(WebhookInfo { name: webhook, ..WebhookInfo::default() });
        (of.waiting, of.lost) = (waiting, lost);
    }
    Ok(all.into_values().collect())
}

/// What somebody should look at.
pub(crate) fn warnings(webhooks: &[WebhookInfo]) -> Vec<String> {
    let mut warnings = Vec::new();
    for WebhookInfo { name, configured, waiting, lost } in webhooks {
        if *lost > 0 {
            warnings.push(format!(
                "{lost} events were not told to webhook {name}, because too many waited: let it look at the buckets itself, then \
                 stele webhook drop {name}"
            ));
        }
        if !configured && *waiting > 0 {
            warnings.push(format!(
                "{waiting} events wait for webhook {name}, which is not in the file of webhooks: stele webhook drop {name}"
            ));
        } else if *waiting >= MANY {
            warnings.push(format!("{waiting} events wait for webhook {name}: does it answer?"));
        }
    }
    warnings
}

async fn list(State(state): State<Arc<AdminState>>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    match describe(&metadata) {
        Ok(webhooks) => Json(WebhooksAnswer { webhooks }).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn drop_waiting(State(state): State<Arc<AdminState>>, Json(question): Json<WebhookDrop>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    match metadata.drop_notices(&question.name).await {
        Ok(dropped) => Json(WebhookDropped { dropped }).into_response(),
        Err(error) => {
            let status = match &error {
                WebhookError::NoWebhook(_) => StatusCode::NOT_FOUND,
                WebhookError::Commit(CommitError::Refused(_)) => StatusCode::CONFLICT,
                WebhookError::Commit(_) => StatusCode::SERVICE_UNAVAILABLE,
                WebhookError::Index(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_waits_for_long_is_said() {
        let of = |configured, waiting, lost| WebhookInfo { name: "a".to_owned(), configured, waiting, lost };
        assert!(warnings(&[of(true, MANY - 1, 0), of(false, 0, 0)]).is_empty());
        assert_eq!(warnings(&[of(true, MANY, 0)]).len(), 1);
        assert_eq!(warnings(&[of(true, 0, 1)]).len(), 1);
        assert_eq!(warnings(&[of(false, MANY, 1)]).len(), 2);
    }
}
