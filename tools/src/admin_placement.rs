//! The admin port's routes for the rule of placement. They want the token.

use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::client::CommitError;
use metadata::service::RuleError;
use metadata::topology::Level;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

type Shared = State<Arc<AdminState>>;

/// `GET /v1/placement`, and the answer to a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementAnswer {
    /// What new stripes have to survive the loss of: `drive` (no rule), `node`, `rack` or `site`.
    pub survive: String,
}

/// Which rule is to be in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlacementQuestion {
    /// As in [`PlacementAnswer`].
    pub survive: String,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/placement", get(show)).route("/v1/placement/survive", post(survive))
}

async fn show(State(state): Shared) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    match metadata.survive() {
        Ok(level) => Json(PlacementAnswer { survive: level.to_string() }).into_response(),
        Err(error) => unavailable(error),
    }
}

async fn survive(State(state): Shared, Json(question): Json<PlacementQuestion>) -> Response {
    let Ok(level) = question.survive.parse::<Level>() else {
        return (StatusCode::BAD_REQUEST, "survive is drive, node, rack or site\n").into_response();
    };
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    if state.seat().is_none() {
        // Its next start would set the file's again.
        let why =
            "this process is all of metadata: [placement] survive in its configuration, and a restart, set the rule\n";
        return (StatusCode::CONFLICT, why).into_response();
    }
    match metadata.set_survive(level).await {
        Ok(()) => Json(PlacementAnswer { survive: level.to_string() }).into_response(),
        Err(error @ RuleError::Unmet(_)) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
        Err(RuleError::Commit(CommitError::Refused(why))) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        Err(error) => unavailable(error),
    }
}
