//! The admin port's route for quotas. It wants the token.

use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use metadata::client::CommitError;
use metadata::command::{Quota, QuotaOf};
use metadata::service::{Metadata, QuotaError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Whose quota, and what of it is to change. Exactly one of `bucket` and `account`; without a limit nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaQuestion {
    /// A bucket's name.
    pub bucket: Option<String>,
    /// An account's canonical id.
    pub account: Option<String>,
    /// Most bytes; 0: no limit.
    pub max_bytes: Option<u64>,
    /// Most versions; 0: no limit.
    pub max_objects: Option<u64>,
}

/// How much is held, and may be held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaAnswer {
    /// Versions; delete markers do not count.
    pub objects: u64,
    /// Their bytes, as clients see them.
    pub bytes: u64,
    /// Bytes of the parts of open uploads.
    pub upload_bytes: u64,
    /// Most bytes of both; 0: no limit.
    pub max_bytes: u64,
    /// Most versions; 0: no limit.
    pub max_objects: u64,
    /// All of it was counted.
    pub counted: bool,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/quota", post(quota))
}

async fn quota(State(state): State<Arc<AdminState>>, Json(question): Json<QuotaQuestion>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let of = match (&question.bucket, &question.account) {
        (Some(name), None) => metadata.quota_of_bucket(name),
        (None, Some(id)) => Ok(QuotaOf::Account(id.clone())),
        _ => return (StatusCode::BAD_REQUEST, "say one of bucket and account\n").into_response(),
    };
    let answered = match of {
        Ok(of) => change_and_show(&metadata, of, &question).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failed(&error),
    }
}

async fn change_and_show(
    metadata: &Metadata,
    of: QuotaOf,
    question: &QuotaQuestion,
) -> Result<QuotaAnswer, QuotaError> {
    let mut shown = metadata.holding(&of)?;
    if question.max_bytes.is_some() || question.max_objects.is_some() {
        let max_bytes = question.max_bytes.unwrap_or(shown.quota.max_bytes);
        let max_objects = question.max_objects.unwrap_or(shown.quota.max_objects);
        metadata.set_quota(of.clone(), Quota { max_bytes, max_objects }).await?;
        shown = metadata.holding(&of)?;
    }
    let (held, Quota { max_bytes, max_objects }) = (shown.held, shown.quota);
    let (objects, bytes, upload_bytes) = (held.objects, held.bytes, held.part_bytes);
    Ok(QuotaAnswer { objects, bytes, upload_bytes, max_bytes, max_objects, counted: shown.counted })
}

fn failed(error: &QuotaError) -> Response {
    let status = match error {
        QuotaError::NoBucket(_) | QuotaError::NoAccount(_) => StatusCode::NOT_FOUND,
        QuotaError::Commit(CommitError::Refused(_)) => StatusCode::CONFLICT,
        QuotaError::Commit(_) => StatusCode::SERVICE_UNAVAILABLE,
        QuotaError::Index(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}
