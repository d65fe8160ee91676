//! The admin port's routes for storage nodes, and what they answer. All of them want the token.
//!
//! A change runs on its own task: a client that goes away must not leave it half way.

use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::id::DriveId;
use metadata::client::CommitError;
use metadata::service::{Metadata, NodeAdded, NodeChangeError, NodeDetail};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use storage_node::remote::NodeAddress;
use storage_node::service::identity::NodeName;

type Shared = State<Arc<AdminState>>;

/// `GET /v1/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodesAnswer {
    /// All storage nodes that ever belonged to the cluster.
    pub nodes: Vec<NodeInfo>,
}

/// A storage node in [`NodesAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// `serving`, `silent`, `draining`, `drained` or `removed`.
    pub state: String,
    /// Why it does not answer, or what it refuses; empty otherwise.
    pub problem: String,
    /// Its drives that belong to the cluster.
    pub drives: usize,
    /// Those of them that can be read now.
    pub readable: usize,
    /// Drives that it has formatted and that are none of the cluster's.
    pub spare: usize,
    /// Bytes of its drives.
    pub total: u64,
    /// Bytes that clients' data may still take there.
    pub free: u64,
}

impl NodeInfo {
    fn new(node: NodeDetail) -> NodeInfo {
        NodeInfo {
            name: node.name,
            address: node.address,
            state: node.state.to_owned(),
            problem: node.problem,
            drives: node.drives.0,
            readable: node.drives.1,
            spare: node.spare,
            total: node.space.0,
            free: node.space.1,
        }
    }
}

/// `POST /v1/nodes/add`, `/v1/nodes/drain` and `/v1/nodes/remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeQuestion {
    /// The node's name, as in its certificate.
    pub name: String,
    /// `add`: where it is reached, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `add`: leave its drives alone.
    #[serde(default)]
    pub no_drives: bool,
    /// `drain`: take new data there again instead.
    #[serde(default)]
    pub cancel: bool,
    /// `remove`: a node that does not answer is given up, with what lies there.
    #[serde(default)]
    pub lost: bool,
}

/// What a change of the storage nodes has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChanged {
    /// The node.
    pub name: String,
    /// The drives that were taken in, or are being emptied, or were removed.
    pub drives: Vec<String>,
    /// Drives that were left alone, each with the reason.
    pub left: Vec<String>,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/nodes", get(list))
        .route("/v1/nodes/add", post(add))
        .route("/v1/nodes/drain", post(drain))
        .route("/v1/nodes/remove", post(remove))
}

fn refused(error: &NodeChangeError) -> Response {
    let status = match error {
        NodeChangeError::Unknown(_) => StatusCode::NOT_FOUND,
        NodeChangeError::NoNodes
        | NodeChangeError::Unusable { .. }
        | NodeChangeError::Elsewhere { .. }
        | NodeChangeError::Draining(_)
        | NodeChangeError::InUse { .. }
        | NodeChangeError::NotLost(_) => StatusCode::CONFLICT,
        NodeChangeError::Drive(error) => crate::admin_drives::status_of(error),
        NodeChangeError::Commit(CommitError::ReadOnly { .. } | CommitError::Unavailable { .. }) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

async fn list(State(state): Shared) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    match metadata.node_details().await {
        Ok(nodes) => Json(NodesAnswer { nodes: nodes.into_iter().map(NodeInfo::new).collect() }).into_response(),
        Err(error) => refused(&error.into()),
    }
}

async fn add(State(state): Shared, Json(question): Json<NodeQuestion>) -> Response {
    let port = |address: &String| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let Some(address) = question.address.clone().filter(port) else {
        return (StatusCode::BAD_REQUEST, "the address of a storage node is of the form host:port\n").into_response();
    };
    let take = !question.no_drives;
    change(&state, question, move |metadata, name| async move {
        metadata.add_node(NodeAddress { name, address }, take).await
    })
    .await
}

async fn drain(State(state): Shared, Json(question): Json<NodeQuestion>) -> Response {
    let cancel = question.cancel;
    change(&state, question, move |metadata, name| async move { metadata.drain_node(&name, cancel).await.map(changed) })
        .await
}

async fn remove(State(state): Shared, Json(question): Json<NodeQuestion>) -> Response {
    let lost = question.lost;
    change(&state, question, move |metadata, name| async move { metadata.remove_node(&name, lost).await.map(changed) })
        .await
}

fn changed(drives: Vec<DriveId>) -> NodeAdded {
    NodeAdded { drives, left: Vec::new() }
}

async fn change<F: Future<Output = Result<NodeAdded, NodeChangeError>> + Send + 'static>(
    state: &AdminState,
    question: NodeQuestion,
    act: impl FnOnce(Arc<Metadata>, NodeName) -> F,
) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let name = match NodeName::new(&question.name) {
        Ok(name) => name,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match tokio::spawn(act(metadata, name)).await {
        Ok(Ok(NodeAdded { drives, left })) => {
            let drives = drives.iter().map(ToString::to_string).collect();
            let left = left.into_iter().map(|(drive, why)| format!("{drive}: {why}")).collect();
            Json(NodeChanged { name: question.name, drives, left }).into_response()
        }
        Ok(Err(error)) => refused(&error),
        Err(_) => unavailable("stopping"),
    }
}
