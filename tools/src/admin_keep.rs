//! The admin port's routes for keeping: scrub, repair, reclaim and objects. All of them want the token.

use crate::admin::{AdminState, unavailable};
use crate::keep_answers::{
    FindingLine, FindingsAnswer, MAX_FINDINGS, PlanAnswer, ReclaimAnswer, RepairAnswer, ScrubAnswer, ScrubDrive,
};
use crate::object_map::{ObjectMapError, ObjectQuestion};
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::id::{BucketId, DriveId, Lsn};
use metadata::index::{self, Overlay};
use metadata::keep::Keeper;
use metadata::keep::dependents::{DependentsError, dependents};
use metadata::keep::reclaim::Reclaimer;
use metadata::keep::wounds;
use metadata::service::Metadata;
use std::sync::Arc;
use storage_node::client::ReadError;
use storage_node::keep::{Finding, ScrubOrder, Subject};

type Shared = State<Arc<AdminState>>;

/// Objects that are named at most for one finding.
const MAX_OBJECTS: usize = 1000;

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

/// Scrub on all drives. Findings about what nobody misses there are not counted, as they are not reported.
pub(crate) async fn scrub_of(metadata: &Metadata) -> ScrubAnswer {
    let mut drives = Vec::new();
    for status in metadata.node().scrub_status().await {
        let mut drive = ScrubDrive::new(&status);
        if status.findings.iter().any(|count| *count > 0)
            && let Ok((_, left_behind)) = findings_of(metadata, status.drive).await
        {
            for finding in left_behind {
                if let Some(count) = drive.findings.get_mut(finding.kind.name()) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        drives.push(drive);
    }
    ScrubAnswer { drives }
}

/// A drive's findings: those that matter; and those about what a move or a delete has left behind there, which is nothing that
/// anybody misses: reclaim frees it in time.
async fn findings_of(metadata: &Metadata, drive: DriveId) -> Result<(Vec<Finding>, Vec<Finding>), ReadError> {
    let findings = metadata.node().findings(drive).await?;
    let view = Overlay::new(&**metadata.kv());
    Ok(findings.into_iter().partition(|finding| wounds::is_current(&view, finding).unwrap_or(true)))
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

/// `?objects=N`: so many of the objects that depend on each finding are to be named.
async fn report(State(state): Shared, RawQuery(query): RawQuery) -> Response {
    let limit = query.as_deref().map(|query| query.strip_prefix("objects=").and_then(|n| n.parse::<usize>().ok()));
    if limit == Some(None) {
        return (StatusCode::BAD_REQUEST, "only objects=N can be asked for\n").into_response();
    }
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let mut answer = FindingsAnswer::default();
    let mut subjects = Vec::new();
    for status in metadata.node().scrub_status().await {
        match findings_of(&metadata, status.drive).await {
            Ok((findings, _)) => {
                let room = MAX_FINDINGS.saturating_sub(answer.findings.len());
                answer.more |= findings.len() > room;
                answer.findings.extend(findings.iter().take(room).map(FindingLine::new));
                subjects.extend(findings.iter().take(room).map(|finding| finding.subject));
            }
            Err(error) => answer.unasked.push(format!("drive {}: {error}", status.drive)),
        }
    }
    if let Some(limit) = limit.flatten().filter(|_| !subjects.is_empty())
        && let Err(error) = name_objects(&metadata, &mut answer, &subjects, limit.min(MAX_OBJECTS)).await
    {
        return unavailable(error);
    }
    Json(answer).into_response()
}

/// Adds which objects depend on each finding.
async fn name_objects(
    metadata: &Metadata,
    answer: &mut FindingsAnswer,
    subjects: &[Subject],
    limit: usize,
) -> Result<(), DependentsError> {
    let report = dependents(metadata, subjects, limit).await?;
    let view = Overlay::new(&**metadata.kv());
    let bucket = |id: u64| {
        let row = index::bucket_by_id(&view, BucketId(id)).ok().flatten();
        row.map_or_else(|| id.to_string(), |row| row.name)
    };
    for ((line, subject), of) in answer.findings.iter_mut().zip(subjects).zip(report.of) {
        if matches!(subject, Subject::Blocks { .. }) {
            continue;
        }
        let versions = of.versions.iter().map(|name| {
            let row =
                index::versions::version_at(&view, BucketId(name.bucket), &name.key, Lsn(name.seq)).ok().flatten();
            let id = row.map(|row| row.version_id).filter(|id| !id.is_empty());
            format!("{}/{}{}", bucket(name.bucket), name.key, id.map_or(String::new(), |id| format!("?versionId={id}")))
        });
        let parts = of.parts.iter().map(|(upload, number)| {
            format!("{}/{} (part {number} of upload {})", bucket(upload.bucket), upload.key, upload.upload_id)
        });
        line.objects = Some(versions.chain(parts).take(limit).collect());
        line.object_count = Some(of.version_count + of.part_count);
    }
    answer.unread_manifests = report.unread;
    Ok(())
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
    with_keeper(&state, |keeper| PlanAnswer::new(&keeper.plan(), &keeper.status()))
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
