//! The admin port's routes for replication. All of them want the token.

use super::answers::{BucketQuestion, SetQuestion, VerifyQuestion};
use super::{How, ReplicationError, Replicator};
use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::client::{CommitError, LookupError};
use metadata::command::Refusal;
use serde::Serialize;
use std::sync::Arc;

type Shared = State<Arc<AdminState>>;

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/replication", get(status))
        .route("/v1/replication/set", post(set))
        .route("/v1/replication/unset", post(unset))
        .route("/v1/replication/pause", post(|state: Shared, question| pause(state, question, true)))
        .route("/v1/replication/resume", post(|state: Shared, question| pause(state, question, false)))
        .route("/v1/replication/verify", post(verify))
}

fn failed(error: &ReplicationError) -> Response {
    let status = match error {
        ReplicationError::NoBucket(_) | ReplicationError::NoRule(_) => StatusCode::NOT_FOUND,
        ReplicationError::Wrong(_)
        | ReplicationError::Commit(CommitError::Refused(
            Refusal::ReplicationTargetTaken | Refusal::NeedsLevel { .. },
        )) => StatusCode::BAD_REQUEST,
        ReplicationError::Commit(CommitError::Refused(Refusal::NoSuchBucket | Refusal::NoSuchReplication)) => {
            StatusCode::NOT_FOUND
        }
        ReplicationError::Target(_) | ReplicationError::Verify(_) => StatusCode::BAD_GATEWAY,
        ReplicationError::Lookup(LookupError::Unavailable { .. }) | ReplicationError::Commit(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ReplicationError::Key(_) | ReplicationError::Index(_) | ReplicationError::Lookup(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    (status, format!("{error}\n")).into_response()
}

fn answer<T: Serialize>(result: Result<T, ReplicationError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failed(&error),
    }
}

/// Changes a rule, and says how things are then.
async fn changed(replicator: &Replicator, change: impl Future<Output = Result<(), ReplicationError>>) -> Response {
    match change.await {
        Ok(()) => answer(replicator.status().map_err(ReplicationError::from)),
        Err(error) => failed(&error),
    }
}

async fn status(State(state): Shared) -> Response {
    match state.replicator() {
        Ok(replicator) => answer(replicator.status().map_err(ReplicationError::from)),
        Err(stage) => unavailable(stage),
    }
}

async fn set(State(state): Shared, Json(question): Json<SetQuestion>) -> Response {
    match state.replicator() {
        Ok(replicator) => changed(&replicator, replicator.set(question)).await,
        Err(stage) => unavailable(stage),
    }
}

async fn unset(State(state): Shared, Json(question): Json<BucketQuestion>) -> Response {
    match state.replicator() {
        Ok(replicator) => changed(&replicator, replicator.unset(&question.bucket)).await,
        Err(stage) => unavailable(stage),
    }
}

async fn pause(State(state): Shared, Json(question): Json<BucketQuestion>, paused: bool) -> Response {
    match state.replicator() {
        Ok(replicator) => changed(&replicator, replicator.pause(&question.bucket, paused)).await,
        Err(stage) => unavailable(stage),
    }
}

async fn verify(State(state): Shared, Json(question): Json<VerifyQuestion>) -> Response {
    let VerifyQuestion { bucket, after, repair, quick } = question;
    match state.replicator() {
        Ok(replicator) => answer(replicator.verify(&bucket, &after, How { repair, quick }).await),
        Err(stage) => unavailable(stage),
    }
}
