//! The admin port's routes about the metadata nodes: who they are, adding and removing one, beginning a cluster. All of them want
//! the token.

use crate::admin::{AdminState, NotReady, unavailable};
use crate::member_answers::{describe, describe_all, describe_self};
use crate::roles::seat::{Seat, SeatError};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metadata::raft::{ChangeError, Peer};
use metadata::replica::NotLeading;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use storage_node::service::identity::NodeName;

type Shared = State<Arc<AdminState>>;

/// How long the leader may take over what is passed on to it: looking at all objects of a damaged drive takes its time.
const PASSED_ON: Duration = Duration::from_secs(300);
/// What a node answers by itself, whoever leads.
const OWN: [&str; 3] = ["/v1/members", "/v1/members/self", "/metrics"];

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
        .route("/v1/members/self", get(own))
        .route("/v1/members/add", post(add))
        .route("/v1/members/remove", post(remove))
        .route("/v1/cluster/begin", post(begin))
}

/// Has the leader answer what only it can, if this node follows one.
pub(crate) async fn pass_on(State(state): Shared, request: Request, next: Next) -> Response {
    let leader = match (state.seat(), state.metadata()) {
        (Some(seat), Err(NotReady::NotLeading(NotLeading { leader: Some(leader) }))) => Some((seat, leader)),
        _ => None,
    };
    let uri = request.uri();
    let looks = request.method() == Method::GET && !OWN.contains(&uri.path());
    let Some((seat, leader)) = leader.filter(|_| looks) else { return next.run(request).await };
    let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
    match seat.passing().get(&leader, path, PASSED_ON).await {
        Ok((StatusCode::OK, body)) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Ok((status, body)) => (status, body).into_response(),
        Err(error) => unavailable(format_args!("metadata node {leader} leads, and can't be asked: {error}")),
    }
}

fn failed(error: &SeatError) -> Response {
    let status = match error {
        SeatError::Malformed(_) => StatusCode::BAD_REQUEST,
        SeatError::Unknown(_) => StatusCode::NOT_FOUND,
        SeatError::Taken | SeatError::Waiting | SeatError::Existing => StatusCode::CONFLICT,
        SeatError::Known(_) | SeatError::Lost { .. } => StatusCode::CONFLICT,
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
        Ok(seat) => Json(describe_all(&seat, &state.callers()).await).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn own(State(state): Shared) -> Response {
    match seat(&state) {
        Ok(seat) => Json(describe_self(&seat)).into_response(),
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
        Ok(Ok(())) => Json(describe(&seat, &state.callers())).into_response(),
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
