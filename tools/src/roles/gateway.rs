//! `stele gateway`: S3, over metadata and drives that other processes serve.
//!
//! It keeps nothing: no directory, no index, no key. Any number of them may run side by side, and one that ends, however it
//! ends, leaves nothing behind but what was never acknowledged.
//!
//! Order of a start: health port (alive, not ready), S3 port (bound, so that a wrong address is said at once), a leader of
//! metadata and an epoch, S3, ready. It waits for metadata for as long as it takes; clients that come meanwhile do so for ten
//! seconds, and are then told to come back. Order of an end: not ready, S3 drained.

use crate::config_file::{GatewayConfig, Peer};
use crate::open_files::OpenFiles;
use crate::port::Port;
use crate::s3_port::S3Port;
use crate::serve::{STOP_LIMIT, ServeError, ends_in_time, listen, stop_signal};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use gateway::engine::Gateway;
use gateway::server::Domains;
use metadata::client::{MetadataClient, Mode};
use metadata::remote::{RemoteMetadata, RemoteMetadataConfig, RemoteMetadataError};
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use storage_node::remote::{NodeAddress, Nodes, RemoteError};
use storage_node::service::tls::Credentials;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The pause between two attempts to find a leader.
const PAUSE: Duration = Duration::from_millis(500);
/// How long clients wait at a gateway that starts, as at one that has lost its metadata.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// What a server on one machine may fail at, too.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The client of the storage nodes or of metadata.
    #[error(transparent)]
    Client(#[from] RemoteError),
}

#[derive(Default)]
enum Stage {
    #[default]
    Starting,
    /// Metadata was asked, and this came of it.
    Waiting(String),
    Serving(Arc<RemoteMetadata>),
    Stopping,
}

/// What the health port knows of the gateway.
#[derive(Default)]
pub struct Health(RwLock<Stage>);

impl Health {
    fn set(&self, stage: Stage) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Whether requests are served, and a line about it.
    pub fn ready(&self) -> (StatusCode, String) {
        let no = StatusCode::SERVICE_UNAVAILABLE;
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Stage::Starting => (no, "starting\n".to_owned()),
            Stage::Waiting(reason) => (no, format!("waiting: {reason}\n")),
            Stage::Stopping => (no, "stopping\n".to_owned()),
            Stage::Serving(meta) => {
                let is = meta.condition();
                let leader = is.leader.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
                let words = format!(
                    "{leader} leads metadata, heard {} s ago; epoch {} held for {} s{}\n",
                    is.heard.as_secs(),
                    is.epoch,
                    is.held.as_secs(),
                    is.read_only.as_ref().map(|reason| format!("; read only: {reason}")).unwrap_or_default()
                );
                (if is.is_ready() { StatusCode::OK } else { no }, words)
            }
        }
    }
}

fn health_port(listener: TcpListener, health: Arc<Health>) -> Port {
    let ready = |State(health): State<Arc<Health>>| async move { health.ready() };
    let router = Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .with_state(health);
    Port::start(listener, router)
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: GatewayConfig, credentials: Credentials) -> Result<(), GatewayError> {
    let stop = stop_signal()?;
    ends_in_time(STOP_LIMIT, stop.clone(), serve(&config, credentials, stop)).await
}

async fn serve(
    config: &GatewayConfig,
    credentials: Credentials,
    stop: watch::Receiver<bool>,
) -> Result<(), GatewayError> {
    let domains = Domains::new(&config.s3.domains).map_err(|error| ServeError::Domain(error.to_string()))?;
    let settings = S3Port { lifecycle_day: config.test.lifecycle_day, ..config.s3.port() };
    let health = Arc::new(Health::default());
    let port = health_port(listen("the health port", "health", config.health).await?, Arc::clone(&health));
    let listener = listen("S3", "s3.listen", config.s3.listen).await?;
    let served_at = settings.open(listener).map_err(ServeError::Tls)?;
    println!(
        "Stele gateway {} of cluster {}: S3 on {}://{}, health on http://{}",
        credentials.identity().name,
        credentials.identity().cluster,
        settings.scheme(),
        config.s3.listen,
        config.health
    );
    let at = |peers: &[Peer]| -> Vec<NodeAddress> { peers.iter().filter_map(Peer::at).collect() };
    let (metadata, nodes) = (at(&config.metadata), at(&config.nodes));
    let served = serve_s3(S3 { credentials, metadata, nodes, port: served_at, domains, settings }, health, stop).await;
    port.stop().await;
    tracing::info!("stopped");
    Ok(served?)
}

/// An S3 port over metadata and drives of other processes.
pub struct S3 {
    /// Of a gateway, or of a metadata process that serves S3 as well.
    pub credentials: Credentials,
    /// Metadata nodes to begin with.
    pub metadata: Vec<NodeAddress>,
    /// Storage nodes to begin with.
    pub nodes: Vec<NodeAddress>,
    /// Where it is served.
    pub port: gateway::server::Port,
    /// Domains under which buckets are host names.
    pub domains: Domains,
    /// What it takes from its clients.
    pub settings: S3Port,
}

/// Waits for metadata, serves until `stop` is told, and drains. How it is, `health` says.
///
/// # Errors
/// The credentials can't be used.
pub async fn serve_s3(s3: S3, health: Arc<Health>, mut stop: watch::Receiver<bool>) -> Result<(), RemoteError> {
    let nodes = Nodes::connecting(s3.credentials.clone(), &s3.nodes)?;
    let credentials = Arc::new(s3.credentials);
    let peers = RemoteMetadataConfig::new(s3.metadata);
    let found = tokio::select! {
        found = find(&credentials, &nodes, &peers, &health) => Arc::new(found?),
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
        never = turn_away(&s3.port) => match never {},
    };
    health.set(Stage::Serving(Arc::clone(&found)));
    let status = found.status();
    tracing::info!(geometry = %status.geometry, drives = status.drives.len(), "metadata answers: S3 is served");
    if status.mode == Mode::ReadOnly {
        tracing::warn!(reason = status.reason, "only reads are served");
    }
    let engine = Gateway::new(found as Arc<dyn MetadataClient>, s3.settings.engine());
    let service = gateway::server::service(&engine, s3.domains);
    let (ending, mut told) = (Arc::clone(&health), stop.clone());
    let unready = tokio::spawn(async move {
        // An error means that nobody can say it any more.
        let _either_way = told.wait_for(|stop| *stop).await;
        ending.set(Stage::Stopping);
    });
    let drained = gateway::server::serve(s3.port, service, OpenFiles::limits(), stop).await;
    if drained.cut > 0 {
        tracing::warn!(connections = drained.cut, "cut off while draining");
    }
    unready.abort();
    health.set(Stage::Stopping);
    Ok(())
}

/// Keeps clients waiting in the port's queue for a while, from which they are served if metadata answers by then, and tells them
/// to come back from then on.
async fn turn_away(port: &gateway::server::Port) -> Infallible {
    tokio::time::sleep(PATIENCE).await;
    gateway::server::turn_all_away(port).await
}

/// Waits until metadata answers.
async fn find(
    credentials: &Arc<Credentials>,
    nodes: &Arc<Nodes>,
    config: &RemoteMetadataConfig,
    health: &Health,
) -> Result<RemoteMetadata, RemoteError> {
    loop {
        match RemoteMetadata::connect(Arc::clone(credentials), nodes.clone(), config.clone()).await {
            Ok(meta) => return Ok(meta),
            Err(RemoteMetadataError::Client(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "waiting for metadata");
                health.set(Stage::Waiting(error.to_string()));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
