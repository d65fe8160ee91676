//! The health port of a storage node: plain HTTP, for whoever watches; it tells nothing that is anybody's secret.
//!
//! `GET /health/live`: 200 as long as the process answers. `GET /health/ready`: 200 while at least one drive can be read, 503
//! otherwise, while it starts and while it stops; a line says how the drives are.

use crate::port::Port;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient};
use tokio::net::TcpListener;

/// How long the drives may take to say how they are.
const ASK: Duration = Duration::from_secs(5);

#[derive(Default)]
enum Stage {
    #[default]
    Starting,
    Serving(Arc<dyn NodeClient>),
    Stopping,
}

/// What the port knows of the node.
#[derive(Default)]
pub struct NodeHealth(RwLock<Stage>);

impl NodeHealth {
    /// The node serves.
    pub fn serving(&self, node: Arc<dyn NodeClient>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Stage::Serving(node);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Stage::Stopping;
    }

    async fn ready(&self) -> (StatusCode, String) {
        let node = match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Stage::Starting => return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
            Stage::Stopping => return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
            Stage::Serving(node) => Arc::clone(node),
        };
        let Ok(drives) = tokio::time::timeout(ASK, node.drives()).await else {
            return (StatusCode::SERVICE_UNAVAILABLE, "the drives do not answer\n".to_owned());
        };
        let count = |is: fn(&DriveHealth) -> bool| drives.iter().filter(|drive| is(&drive.health)).count();
        let writable = count(|health| *health == DriveHealth::Healthy);
        let failed = count(|health| matches!(health, DriveHealth::Failed { .. }));
        let read_only = drives.len() - writable - failed;
        let code = if writable + read_only > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, format!("drives: {writable} read and written, {read_only} read only, {failed} failed\n"))
    }
}

/// Serves the health port on `listener`.
pub fn start(listener: TcpListener, health: Arc<NodeHealth>) -> Port {
    let ready = |State(health): State<Arc<NodeHealth>>| async move { health.ready().await };
    let router = Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .with_state(health);
    Port::start(listener, router)
}
