//! The admin port's routes for drives, and what they answer. All of them want the token.
//!
//! A change runs on its own task: a client that goes away must not leave it half way.

use crate::admin::{AdminState, unavailable};
use crate::drive_set::{DriveSet, DriveSetError};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::id::DriveId;
use metadata::client::CommitError;
use metadata::service::{DriveChangeError, DriveDetail, NodeChangeError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage_node::drive::DriveError;
use tokio::task::JoinHandle;

/// How long a change may take before whoever did not want to wait is answered.
const SOON: Duration = Duration::from_secs(10);

type Shared = State<Arc<AdminState>>;

/// `GET /v1/drives`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrivesAnswer {
    /// All drives that ever were registered, and those that are being added.
    pub drives: Vec<DriveInfo>,
}

/// A drive in [`DrivesAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DriveInfo {
    /// Its identity, in hex.
    pub id: String,
    /// Where it is, or was seen last.
    pub path: String,
    /// `serving`, `read-only`, `absent`, `failed`, `draining`, `drained`, `removed`, or `adding`.
    pub state: String,
    /// Why it is read-only or failed, and what waits for it; empty otherwise.
    pub reason: String,
    /// It keeps the journal at present.
    pub journal: bool,
    /// Bytes of its file system; 0 when it can't be asked.
    pub total: u64,
    /// Bytes of it that are in use, by whomever.
    pub used: u64,
    /// Bytes that clients' data may still take.
    pub free: u64,
    /// Shards that its node finds on it, copies that nothing refers to any more included.
    pub shards: u64,
    /// Bytes of its segments.
    pub segment_bytes: u64,
    /// Failed reads and writes since it was opened.
    pub errors: u64,
    /// Milliseconds that 99 of 100 recent reads or writes did not exceed.
    pub p99_ms: Option<u32>,
    /// Things that are not as they should be there.
    pub findings: u64,
    /// It takes far longer than the others.
    pub slow: bool,
    /// It gets no new shards because it is slow.
    pub spared: bool,
    /// Shards that are still to be moved or rebuilt elsewhere, of a drive that is being emptied or was removed.
    pub left_shards: Option<u64>,
    /// Their bytes.
    pub left_bytes: Option<u64>,
}

impl DriveInfo {
    fn new(drive: &DriveDetail) -> DriveInfo {
        let status = drive.status.as_ref().filter(|_| drive.state != "removed");
        let total = status.map_or(0, |status| status.total);
        let free = status.map_or(0, |status| status.free);
        let scrub = drive.scrub.as_ref();
        DriveInfo {
            id: drive.id.to_string(),
            path: drive.path.clone(),
            state: drive.state.to_owned(),
            reason: drive.reason.clone(),
            journal: drive.journal,
            total,
            used: total.saturating_sub(free),
            free,
            shards: scrub.map_or(0, |scrub| scrub.shards),
            segment_bytes: scrub.map_or(0, |scrub| scrub.total_bytes),
            errors: status.map_or(0, |status| status.errors),
            p99_ms: status.and_then(|status| status.p99_ms),
            findings: scrub.map_or(0, |scrub| scrub.findings.iter().sum()),
            slow: drive.slow.is_some(),
            spared: drive.slow.is_some_and(|slow| slow.spared),
            left_shards: drive.left.map(|left| left.shards),
            left_bytes: drive.left.map(|left| left.bytes),
        }
    }
}

/// `POST /v1/drives/add` and `/v1/drives/replace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddQuestion {
    /// The drive to be replaced: its id, the beginning of it, or its directory. Only for `replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// The directory of the new drive, absolute; `NODE:PATH` where storage nodes have the drives.
    pub path: PathBuf,
    /// Answer when it is done, however long that takes.
    #[serde(default)]
    pub wait: bool,
}

/// `POST /v1/drives/drain` and `/v1/drives/remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveQuestion {
    /// Its id, the beginning of it, or its directory.
    pub drive: String,
    /// `drain`: take new shards again instead.
    #[serde(default)]
    pub cancel: bool,
    /// `remove`: a drive that does not answer is given up, with what lies there.
    #[serde(default)]
    pub lost: bool,
}

/// What a change of the drives has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveChanged {
    /// The drive that was added, or is being emptied or was removed; absent when that is not known yet.
    pub drive: Option<String>,
    /// The drive that is replaced.
    pub replaced: Option<String>,
    /// It goes on in the background.
    pub running: bool,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/drives", get(list))
        .route("/v1/drives/add", post(add))
        .route("/v1/drives/drain", post(drain))
        .route("/v1/drives/replace", post(replace))
        .route("/v1/drives/remove", post(remove))
}

/// What a change that was refused, or failed, is answered with.
pub(crate) fn status_of(error: &DriveChangeError) -> StatusCode {
    match error {
        DriveChangeError::Unknown(_) => StatusCode::NOT_FOUND,
        DriveChangeError::Removed(_)
        | DriveChangeError::Rule { .. }
        | DriveChangeError::Silent(_)
        | DriveChangeError::PlaceOf { .. }
        | DriveChangeError::NotLost(_)
        | DriveChangeError::TooFewDrives { .. }
        | DriveChangeError::NoRoom { .. }
        | DriveChangeError::NotEmpty { .. }
        | DriveChangeError::InUse(_)
        | DriveChangeError::KeepsJournal(_)
        | DriveChangeError::LastHope { .. }
        | DriveChangeError::LastJournal(_)
        | DriveChangeError::Drive(DriveError::NotTaken { .. })
        | DriveChangeError::Majority { .. } => StatusCode::CONFLICT,
        DriveChangeError::Commit(CommitError::ReadOnly { .. } | CommitError::Unavailable { .. })
        | DriveChangeError::Drive(DriveError::Unreachable) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(error: &DriveSetError) -> Response {
    let status = match error {
        DriveSetError::NoSuchDrive(_) => StatusCode::NOT_FOUND,
        DriveSetError::Change(error) | DriveSetError::Node(NodeChangeError::Drive(error)) => status_of(error),
        DriveSetError::Node(NodeChangeError::Unknown(_)) => StatusCode::NOT_FOUND,
        DriveSetError::Place(_)
        | DriveSetError::Ambiguous(_)
        | DriveSetError::NotOnNode(_)
        | DriveSetError::Node(_)
        | DriveSetError::StillThere(..) => StatusCode::CONFLICT,
        DriveSetError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

/// Every drive, as the list shows it.
pub(crate) async fn drives_of(set: &DriveSet) -> Result<Vec<DriveInfo>, DriveSetError> {
    let details = set.details().await?;
    let mut drives: Vec<DriveInfo> = details.iter().map(DriveInfo::new).collect();
    // One that is being added may hold the list of pending ones for long.
    if let Ok(pending) = tokio::time::timeout(Duration::from_millis(100), set.pending()).await {
        for pending in pending.iter().filter(|pending| !pending.lost) {
            let waits = |drive: &&mut DriveInfo| {
                Some(&drive.id) == pending.replaces.as_ref() && ["absent", "failed"].contains(&drive.state.as_str())
            };
            if let Some(old) = drives.iter_mut().find(waits) {
                let words = format!("to be emptied for {}; waited for", pending.drive);
                old.reason =
                    [&*old.reason, &words].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ");
            }
        }
        let unknown = pending.into_iter().filter(|pending| !details.iter().any(|d| d.id.to_string() == pending.drive));
        drives.extend(unknown.map(|pending| DriveInfo {
            id: pending.drive,
            path: pending.path.display().to_string(),
            state: "adding".to_owned(),
            ..DriveInfo::default()
        }));
    }
    Ok(drives)
}

async fn list(State(state): Shared) -> Response {
    let set = match state.drives() {
        Ok(set) => set,
        Err(stage) => return unavailable(stage),
    };
    match drives_of(&set).await {
        Ok(drives) => Json(DrivesAnswer { drives }).into_response(),
        Err(error) => refused(&error),
    }
}

/// Answers what a change has come to, or, where nobody waits, that it goes on.
async fn answer(
    mut change: JoinHandle<Result<DriveId, DriveSetError>>,
    wait: bool,
    replaced: Option<DriveId>,
) -> Response {
    let replaced = replaced.map(|drive| drive.to_string());
    let limit = if wait { Duration::MAX } else { SOON };
    match tokio::time::timeout(limit, &mut change).await {
        Err(_) => {
            tokio::spawn(async move {
                if let Ok(Err(error)) = change.await {
                    tracing::error!(%error, "the drives were not changed");
                }
            });
            (StatusCode::ACCEPTED, Json(DriveChanged { drive: None, replaced, running: true })).into_response()
        }
        Ok(Ok(Ok(drive))) => {
            Json(DriveChanged { drive: Some(drive.to_string()), replaced, running: false }).into_response()
        }
        Ok(Ok(Err(error))) => refused(&error),
        Ok(Err(_)) => refused(&DriveSetError::Stopping),
    }
}

async fn add(State(state): Shared, Json(question): Json<AddQuestion>) -> Response {
    let set = match state.drives() {
        Ok(set) => set,
        Err(stage) => return unavailable(stage),
    };
    let AddQuestion { drive, path, wait } = question;
    if drive.is_some() {
        return (StatusCode::BAD_REQUEST, "a drive is replaced at /v1/drives/replace\n").into_response();
    }
    answer(tokio::spawn(async move { set.add(&path).await }), wait, None).await
}

async fn replace(State(state): Shared, Json(question): Json<AddQuestion>) -> Response {
    let set = match state.drives() {
        Ok(set) => set,
        Err(stage) => return unavailable(stage),
    };
    let AddQuestion { drive, path, wait } = question;
    let old = match set.find(&drive.unwrap_or_default()).await {
        Ok(old) => old,
        Err(error) => return refused(&error),
    };
    let replaced = old.id;
    answer(tokio::spawn(async move { set.replace(&old, &path).await }), wait, Some(replaced)).await
}

async fn drain(State(state): Shared, Json(question): Json<DriveQuestion>) -> Response {
    change(&state, question, |set, drive, question| async move {
        set.drain(drive.id, question.cancel).await.map(|()| drive.id)
    })
    .await
}

async fn remove(State(state): Shared, Json(question): Json<DriveQuestion>) -> Response {
    change(&state, question, |set, drive, question| async move {
        set.remove(&drive, question.lost).await.map(|()| drive.id)
    })
    .await
}

async fn change<F: Future<Output = Result<DriveId, DriveSetError>> + Send + 'static>(
    state: &AdminState,
    question: DriveQuestion,
    act: impl FnOnce(Arc<DriveSet>, DriveDetail, DriveQuestion) -> F,
) -> Response {
    let set = match state.drives() {
        Ok(set) => set,
        Err(stage) => return unavailable(stage),
    };
    match set.find(&question.drive).await {
        Ok(drive) => answer(tokio::spawn(act(set, drive, question)), true, None).await,
        Err(error) => refused(&error),
    }
}
