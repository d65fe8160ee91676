//! The admin port's routes for keeping: scrub and repair. All of them want the token.

use crate::admin::{AdminState, unavailable};
use crate::keep_answers::{
    FindingLine, FindingsAnswer, MAX_FINDINGS, PlanAnswer, RepairAnswer, ScrubAnswer, ScrubDrive,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::keep::Keeper;
use metadata::service::Metadata;
use std::sync::Arc;
use storage_node::client::NodeClient;
use storage_node::keep::ScrubOrder;

type Shared = State<Arc<AdminState>>;

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/scrub", get(scrub))
        .route("/v1/scrub/report", get(report))
        .route("/v1/scrub/start", post(|state: Shared| order(state, ScrubOrder::Start)))
        .route("/v1/scrub/pause", post(|state: Shared| order(state, ScrubOrder::Pause)))
        .route("/v1/scrub/resume", post(|state: Shared| order(state, ScrubOrder::Resume)))
        .route("/v1/repair", get(repair))
        .route("/v1/repair/plan", get(plan))
        .route("/v1/repair/pause", post(|state: Shared| pause(state, true)))
        .route("/v1/repair/resume", post(|state: Shared| pause(state, false)))
}

/// Scrub on all drives.
pub(crate) async fn scrub_of(metadata: &Metadata) -> ScrubAnswer {
    ScrubAnswer { drives: metadata.node().scrub_status().await.iter().map(ScrubDrive::new).collect() }
}

async fn scrub(State(state): Shared) -> Response {
    match state.metadata() {
        Ok(metadata) => Json(scrub_of(&metadata).await).into_response(),
        Err(stage) => unavailable(stage),
    }
}

async fn order(State(state): Shared, order: ScrubOrder) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let node = metadata.node();
    let mut failed = Vec::new();
    for status in node.scrub_status().await {
        // A drive that can't be asked must not keep the order from the others.
        if let Err(error) = node.scrub_order(status.drive, order).await {
            failed.push(format!("drive {}: {error}", status.drive));
        }
    }
    match failed.is_empty() {
        true => Json(scrub_of(&metadata).await).into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", failed.join("; "))).into_response(),
    }
}

async fn report(State(state): Shared) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let node = metadata.node();
    let mut answer = FindingsAnswer { findings: Vec::new(), more: false, unasked: Vec::new() };
    for status in node.scrub_status().await {
        match node.findings(status.drive).await {
            Ok(findings) => {
                let room = MAX_FINDINGS.saturating_sub(answer.findings.len());
                answer.more |= findings.len() > room;
                answer.findings.extend(findings.iter().take(room).map(FindingLine::new));
            }
            Err(error) => answer.unasked.push(format!("drive {}: {error}", status.drive)),
        }
    }
    Json(answer).into_response()
}

/// Does something with the keeper, which there is while writes are served.
fn with_keeper<T: serde::Serialize>(state: &AdminState, act: impl FnOnce(&Arc<Keeper>) -> T) -> Response {
    match state.metadata() {
        Ok(metadata) => match metadata.keeper() {
            Some(keeper) => Json(act(keeper)).into_response(),
            None => unavailable("only reads are served: nothing is repaired"),
        },
        Err(stage) => unavailable(stage),
    }
}

async fn repair(State(state): Shared) -> Response {
    with_keeper(&state, |keeper| RepairAnswer::new(&keeper.status()))
}

async fn plan(State(state): Shared) -> Response {
    with_keeper(&state, |keeper| PlanAnswer::new(&keeper.plan()))
}

async fn pause(State(state): Shared, paused: bool) -> Response {
    with_keeper(&state, |keeper| {
        keeper.pause(paused);
        RepairAnswer::new(&keeper.status())
    })
}
