//! The admin port's routes about the metadata nodes: who they are, adding and removing one, beginning a cluster. All of them want
//! the token.

use crate::admin::{AdminState, unavailable};
use crate::roles::seat::{Seat, SeatError};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::raft::{ChangeError, Peer};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use storage_node::service::identity::NodeName;

type Shared = State<Arc<AdminState>>;

/// `GET /v1/members`, and the answer to every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAnswer {
    /// The name of the node that answers.
    pub me: String,
    /// Raft's term; absent while it waits to be added.
    pub term: Option<u64>,
    /// The name of the leader; absent while none is known.
    pub leader: Option<String>,
    /// How the node that answers is: why it is ready, or is not.
    pub condition: String,
    /// The metadata nodes, as this one knows them; none while it waits.
    pub members: Vec<MemberInfo>,
}

/// A metadata node in [`MembersAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// Its number, in hex.
    pub number: String,
    /// It votes; one that does not is catching up.
    pub voter: bool,
    /// It leads.
    pub leader: bool,
    /// The last entry that it is known to have; known to the leader only.
    pub matched: Option<u64>,
    /// Entries that it lacks; known to the leader only.
    pub lag: Option<u64>,
}

/// What to do with which metadata node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberQuestion {
    /// Its name.
    pub name: String,
    /// Where it is; to add it.
    #[serde(default)]
    pub address: String,
}

/// How a cluster is begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginQuestion {
    /// Over drives that hold data.
    #[serde(default)]
    pub existing: bool,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/members", get(members))
        .route("/v1/members/add", post(add))
        .route("/v1/members/remove", post(remove))
        .route("/v1/cluster/begin", post(begin))
}

/// The metadata nodes as one of them knows them.
pub(crate) fn describe(seat: &Seat) -> MembersAnswer {
    let lines = seat.members();
    let last = lines.iter().filter_map(|line| line.matched).max();
    let line = |line: &metadata::raft::MemberLine| MemberInfo {
        name: line.peer.name.clone(),
        address: line.peer.address.clone(),
        number: format!("{:016x}", line.id),
        voter: line.voter,
        leader: line.leader,
        matched: line.matched,
        lag: line.matched.and_then(|matched| Some(last?.saturating_sub(matched))),
    };
    MembersAnswer {
        me: seat.name().to_owned(),
        term: seat.term().map(|(term, _)| term),
        leader: lines.iter().find(|line| line.leader).map(|line| line.peer.name.clone()),
        condition: seat.condition(false).unwrap_or_else(|why| why),
        members: lines.iter().map(line).collect(),
    }
}

fn failed(error: &SeatError) -> Response {
    let status = match error {
        SeatError::Malformed(_) => StatusCode::BAD_REQUEST,
        SeatError::Unknown(_) => StatusCode::NOT_FOUND,
        SeatError::Taken | SeatError::Waiting | SeatError::Existing | SeatError::Known(_) => StatusCode::CONFLICT,
        SeatError::Change(ChangeError::Last(_) | ChangeError::Taken { .. }) => StatusCode::CONFLICT,
        SeatError::Join { .. } => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n")).into_response()
}

/// The place of this process, where it has one.
fn seat(state: &AdminState) -> Result<Arc<Seat>, (StatusCode, &'static str)> {
    state.seat().ok_or_else(|| {
        let why = "this process is all of metadata: with `listen` in its configuration it is one node among several\n";
        (StatusCode::CONFLICT, why)
    })
}

async fn members(State(state): Shared) -> Response {
    match seat(&state) {
        Ok(seat) => Json(describe(&seat)).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// Carries a change out in a task of its own: a client that goes away must not leave it half way.
async fn changed<F>(state: &AdminState, change: impl FnOnce(Arc<Seat>) -> F) -> Response
where
    F: Future<Output = Result<(), SeatError>> + Send + 'static,
{
    let seat = match seat(state) {
        Ok(seat) => seat,
        Err(refused) => return refused.into_response(),
    };
    match tokio::spawn(change(Arc::clone(&seat))).await {
        Ok(Ok(())) => Json(describe(&seat)).into_response(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a change of the metadata nodes came to nothing");
            failed(&error)
        }
        Err(error) => unavailable(error),
    }
}

async fn add(State(state): Shared, Json(question): Json<MemberQuestion>) -> Response {
    changed(&state, |seat| async move {
        NodeName::new(&question.name).map_err(|error| SeatError::Malformed(error.to_string()))?;
        let port = question.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            return Err(SeatError::Malformed(format!("`{}` is not of the form host:port", question.address)));
        }
        seat.add(Peer { address: question.address, name: question.name }).await
    })
    .await
}

async fn remove(State(state): Shared, Json(question): Json<MemberQuestion>) -> Response {
    changed(&state, |seat| async move { seat.remove(&question.name).await.map(|_| ()) }).await
}

async fn begin(State(state): Shared, Json(question): Json<BeginQuestion>) -> Response {
    changed(&state, |seat| async move { seat.begin(question.existing).await }).await
}
