//! The health port of a storage node: plain HTTP, for whoever watches; it tells nothing that is anybody's secret.
//!
//! `GET /health/live`: 200 as long as the process answers. `GET /health/ready`: 200 while at least one drive can be read, 503
//! otherwise, while it starts and while it stops; a line says how the drives are.

use crate::port::{Bounds, serve};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long the drives may take to say how they are.
const ASK: Duration = Duration::from_secs(5);
/// How long the end of the port waits for its last answers.
const DRAIN: Duration = Duration::from_secs(2);

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

/// The running port.
#[derive(Debug)]
pub struct HealthPort {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl HealthPort {
    /// Serves on `listener`.
    pub fn start(listener: TcpListener, health: Arc<NodeHealth>) -> HealthPort {
        let (stop, stopped) = oneshot::channel::<()>();
        let ready = |State(health): State<Arc<NodeHealth>>| async move { health.ready().await };
        let router = Router::new()
            .route("/health/live", get(|| async { "live\n" }))
            .route("/health/ready", get(ready))
            .with_state(health);
        let task = tokio::spawn(serve(listener, router, Bounds::default(), stopped));
        HealthPort { stop, task }
    }

    /// Ends it.
    pub async fn stop(self) {
        let _gone = self.stop.send(());
        let mut task = self.task;
        if tokio::time::timeout(DRAIN, &mut task).await.is_err() {
            task.abort();
        }
    }
}
