//! The admin port's routes for keeping: scrub, repair, reclaim and objects. All of them want the token.

use crate::admin::{AdminState, unavailable};
use crate::keep_answers::{
    FindingLine, FindingsAnswer, MAX_FINDINGS, PlanAnswer, ReclaimAnswer, RepairAnswer, ScrubAnswer, ScrubDrive,
};
use crate::object_map::{ObjectMapError, ObjectQuestion};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::index::Overlay;
use metadata::keep::Keeper;
use metadata::keep::reclaim::Reclaimer;
use metadata::keep::wounds;
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
        .route("/v1/reclaim", get(reclaim))
        .route("/v1/reclaim/hold", post(hold))
        .route("/v1/reclaim/release", post(release))
        .route("/v1/object/locate", post(|state: Shared, question| object(state, question, false)))
        .route("/v1/object/verify", post(|state: Shared, question| object(state, question, true)))
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
    let view = Overlay::new(&**metadata.kv());
    let mut answer = FindingsAnswer { findings: Vec::new(), more: false, unasked: Vec::new() };
    for status in node.scrub_status().await {
        match node.findings(status.drive).await {
            Ok(mut findings) => {
                // What a move or a delete has left behind is nothing that anybody misses; reclaim frees it in time.
                findings.retain(|finding| wounds::is_current(&view, finding).unwrap_or(true));
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

/// What gives space back, which there is while writes are served.
#[allow(clippy::result_large_err)]
fn reclaimer(state: &AdminState) -> Result<Arc<Reclaimer>, Response> {
    let metadata = state.metadata().map_err(unavailable)?;
    let reclaimer = metadata.reclaimer().map(Arc::clone);
    reclaimer.ok_or_else(|| unavailable("only reads are served: nothing is reclaimed"))
}

async fn reclaim(State(state): Shared) -> Response {
    match reclaimer(&state) {
        Ok(reclaimer) => Json(ReclaimAnswer::new(&reclaimer.status())).into_response(),
        Err(answer) => answer,
    }
}

async fn hold(State(state): Shared) -> Response {
    let reclaimer = match reclaimer(&state) {
        Ok(reclaimer) => reclaimer,
        Err(answer) => return answer,
    };
    match reclaimer.hold("an operator holds it").await {
        Ok(()) => Json(ReclaimAnswer::new(&reclaimer.status())).into_response(),
        Err(error) => unavailable(error),
    }
}

async fn release(State(state): Shared) -> Response {
    let reclaimer = match reclaimer(&state) {
        Ok(reclaimer) => reclaimer,
        Err(answer) => return answer,
    };
    match reclaimer.release().await {
        Ok(()) => Json(ReclaimAnswer::new(&reclaimer.status())).into_response(),
        Err(error) => unavailable(error),
    }
}

async fn object(State(state): Shared, question: Json<ObjectQuestion>, verify: bool) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    match crate::object_map::object(&metadata, &question, verify).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error @ ObjectMapError::NotFound(_)) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
