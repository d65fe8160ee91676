//! Questions of operators that one metadata node passes on to another, over the port for the other processes (mutual TLS): whoever
//! is asked answers for the cluster, and the leader asks each how it is.
//!
//! Invariants
//! * Only what looks is passed on (GET), and only metadata nodes may ask: they all have the cluster's key, and an operator's token
//!   was shown to the one that asks.
//! * What was passed on is not passed on again: the router behind [`Asked`] answers itself or says that it can't.
//! * A question has a deadline, and its answer a limit.

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::{BufMut, Bytes, BytesMut};
use hyper_util::service::TowerToHyperService;
use metadata::raft::Peer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::remote::RemoteError;
use storage_node::rpc::{self, Call, CallError, Client, Handler, Lane, Status};
use storage_node::service::identity::{IdentityError, NodeName, Role};
use storage_node::service::tls::Credentials;

/// The gRPC service, and its only call: the path that is asked for there, three digits of status and the body back.
const SERVICE: &str = "stele.metadata.v1.Admin";
const GET: &str = "Get";
/// Bytes of the status.
const STATUS: usize = 3;
/// Longest path, in bytes.
const MAX_PATH: usize = 16 << 10;
/// Longest answer, in bytes: what commands take.
const MAX_ANSWER: usize = 16 << 20;
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Clients that are kept: of more nodes than there are ever.
const KEPT: usize = 16;

/// Why another node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PassingError {
    /// Not a name.
    #[error(transparent)]
    Name(#[from] IdentityError),
    /// The client can't be made.
    #[error(transparent)]
    Client(Box<RemoteError>),
    /// It was not reached, or did not answer in time.
    #[error(transparent)]
    Call(Box<CallError>),
    /// Its answer is none.
    #[error("{0} gave an answer that can't be read")]
    Answer(NodeName),
}

impl From<RemoteError> for PassingError {
    fn from(error: RemoteError) -> PassingError {
        PassingError::Client(Box::new(error))
    }
}

impl From<CallError> for PassingError {
    fn from(error: CallError) -> PassingError {
        PassingError::Call(Box::new(error))
    }
}

/// Asks other metadata nodes.
pub struct Passing {
    credentials: Credentials,
    clients: Mutex<HashMap<Peer, Arc<Client>>>,
}

impl Passing {
    /// Shows these credentials, which are a metadata node's.
    pub fn new(credentials: Credentials) -> Passing {
        Passing { credentials, clients: Mutex::default() }
    }

    fn client(&self, peer: &Peer) -> Result<Arc<Client>, PassingError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(peer) {
            return Ok(Arc::clone(client));
        }
        let to = rpc::Peer { role: Role::Metadata, name: NodeName::new(&peer.name)?, address: peer.address.clone() };
        let client = Arc::new(Client::new(&self.credentials, SERVICE, to, CONNECT)?);
        if clients.len() >= KEPT {
            clients.clear();
        }
        clients.insert(peer.clone(), Arc::clone(&client));
        Ok(client)
    }

    /// What a node answers to a GET of its admin port, within `time`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get(&self, peer: &Peer, path: &str, time: Duration) -> Result<(StatusCode, Bytes), PassingError> {
        let client = self.client(peer)?;
        let question = Bytes::copy_from_slice(path.as_bytes());
        let answer = client.ask(Lane::Slow, GET, question, MAX_ANSWER, time).await?;
        let unreadable = || PassingError::Answer(client.identity().name.clone());
        let status = answer.get(..STATUS).and_then(|status| StatusCode::from_bytes(status).ok());
        Ok((status.ok_or_else(unreadable)?, answer.slice(STATUS..)))
    }
}

/// The names of the metadata nodes, as this one knows them; none while it waits to be added.
type Members = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Answers other metadata nodes: those that belong to the cluster. A certificate outlives the node that was removed.
pub struct Asked {
    router: Router,
    members: Members,
}

impl Asked {
    /// What is asked for is answered by these routes.
    pub fn by(router: Router, members: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Asked {
        Asked { router, members: Box::new(members) }
    }

    fn belongs(&self, name: &str) -> bool {
        let members = (self.members)();
        members.is_empty() || members.iter().any(|member| member == name)
    }
}

#[async_trait]
impl Handler for Asked {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn allows(&self, call: &str, role: Role) -> Option<bool> {
        (call == GET).then_some(role == Role::Metadata)
    }

    async fn answer(&self, mut call: Call) -> Result<Bytes, Status> {
        if !self.belongs(call.peer.name.as_str()) {
            return Err(Status::permission_denied("this metadata node does not belong to the cluster"));
        }
        let question = call.whole(MAX_PATH).await?;
        let path = std::str::from_utf8(&question).ok().filter(|path| path.starts_with('/'));
        let request = path.and_then(|path| Request::get(path).body(Body::empty()).ok());
        let request = request.ok_or_else(|| Status::invalid_argument("the question can't be understood"))?;
        let Ok(response) = hyper::service::Service::call(&TowerToHyperService::new(self.router.clone()), request).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), MAX_ANSWER - STATUS).await;
        let body = body.map_err(|_| Status::resource_exhausted("the answer is too long to be passed on"))?;
        let mut answer = BytesMut::with_capacity(STATUS + body.len());
        answer.put_slice(status.as_str().as_bytes());
        answer.put(body);
        Ok(answer.freeze())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::routing::{get, post};
    use codec::id::ClusterId;
    use storage_node::rpc::{RpcConfig, Server};
    use storage_node::service::identity::Identity;
    use storage_node::service::issue::ClusterCa;
    use tokio::net::TcpListener;

    const CLUSTER: ClusterId = ClusterId([1; 16]);

    fn credentials(ca: &ClusterCa, role: Role, name: &str) -> Credentials {
        let identity = Identity { cluster: CLUSTER, role, name: NodeName::new(name).unwrap() };
        let issued = ca.issue(&identity, Duration::from_secs(3600)).unwrap();
        Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap()
    }

    #[tokio::test]
    async fn a_metadata_node_looks_through_another_and_nobody_else_does() {
        let ca = ClusterCa::create(CLUSTER).unwrap();
        let long = "x".repeat(3 << 20);
        let changes = post(|| async { "changed" });
        let none = get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "not now") });
        let routes = Router::new().route("/v1/x", get(move || async { long }));
        let members = Arc::new(Mutex::new(vec!["m1".to_owned(), "m2".to_owned()]));
        let known = Arc::clone(&members);
        let routes = routes.route("/v1/change", changes).route("/v1/none", none);
        let asked = Asked::by(routes, move || known.lock().unwrap().clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = credentials(&ca, Role::Metadata, "m1");
        let server = Server::start(listener, &own, vec![Arc::new(asked)], RpcConfig::default()).unwrap();
        let peer = Peer { name: "m1".to_owned(), address: server.address().to_string() };
        let passing = Passing::new(credentials(&ca, Role::Metadata, "m2"));
        let ask = async |path: &str| passing.get(&peer, path, Duration::from_secs(60)).await;
        let (status, body) = ask("/v1/x?y=z").await.unwrap();
        assert_eq!((status, body.len()), (StatusCode::OK, 3 << 20));
        let (status, body) = ask("/v1/none").await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::SERVICE_UNAVAILABLE, &b"not now"[..]));
        assert_eq!(ask("/v1/change").await.unwrap().0, StatusCode::METHOD_NOT_ALLOWED);
        for bad in ["v1/x", "", "/ x"] {
            assert!(matches!(ask(bad).await, Err(PassingError::Call(_))), "{bad:?}");
        }
        for role in [Role::Gateway, Role::StorageNode, Role::Repair] {
            let other = Passing::new(credentials(&ca, role, "x1"));
            let refused = other.get(&peer, "/v1/x", Duration::from_secs(60)).await.unwrap_err().to_string();
            assert!(refused.contains("may not call Get"), "{refused}");
        }
        let elsewhere = Peer { name: "m3".to_owned(), ..peer.clone() };
        assert!(passing.get(&elsewhere, "/v1/x", Duration::from_secs(60)).await.is_err(), "another node answers there");
        // Its certificate is good for longer than it belongs to the cluster.
        members.lock().unwrap().pop();
        let removed = ask("/v1/none").await.unwrap_err().to_string();
        assert!(removed.contains("does not belong to the cluster"), "{removed}");
        members.lock().unwrap().clear();
        assert_eq!(ask("/v1/none").await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE, "who waits knows of nobody");
        server.stop(Duration::ZERO).await;
    }
}
