//! `stele metadata`: the namespace, over drives that storage nodes serve.
//!
//! Here one process keeps it alone; one among several is [`super::replicated`]'s. With an `[s3]` section it serves S3 as well. Its index is disposable and its keys are not: they
//! are in the data directory, as with `stele serve`. The order of a start and of an end are those of [`crate::serve`], too.

use super::seat::SeatError;
use crate::accounts::{NewAccount, first, from_file};
use crate::admin::{self, AdminState};
use crate::config_file::{MetadataConfig, Peer};
use crate::data_dir::{Config, DataDir, DataDirError};
use crate::drive_set::DriveSet;
use crate::index_home::Indexes;
use crate::notify::webhook;
use crate::open_files::OpenFiles;
use crate::replication::Following;
use crate::s3_port::S3Port;
use crate::serve::{STOP_LIMIT, ServeError, ends_in_time, lifecycle, listen, start, stop_signal};
use crate::set_accounts::put_accounts;
use gateway::engine::Gateway;
use gateway::server::{Domains, Port};
use metadata::client::{MetadataClient, Mode};
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::keys::Keys;
use metadata::service::Metadata;
use metadata::start::NodeParts;
use std::sync::Arc;
use std::time::Duration;
use storage_node::host::NodeHost;
use storage_node::remote::{NodeAddress, Nodes, RemoteError};
use storage_node::service::tls::Credentials;
use tokio::sync::watch;

/// How long storage nodes that do not answer are waited for at a start: machines that begin together.
pub(super) const NODES: Duration = Duration::from_secs(60);

/// Why there is no metadata process.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// What a server on one machine may fail at, too.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A client of a storage node.
    #[error(transparent)]
    Node(#[from] RemoteError),
    /// The place among the metadata nodes.
    #[error(transparent)]
    Seat(#[from] Box<SeatError>),
    /// The port for the other processes.
    #[error(transparent)]
    Port(#[from] storage_node::service::StartError),
    /// There is one metadata process: it can't join itself.
    #[error("--rejoin is for a metadata node among several: there is no `listen` in the configuration")]
    Alone,
    /// The data directory is that of `stele serve`.
    #[error("{0} is the data directory of stele serve, which has its own drives")]
    NotOurs(std::path::PathBuf),
}

impl MetadataError {
    /// Whether this program is too old for what is there.
    pub fn is_too_old(&self) -> bool {
        match self {
            MetadataError::Serve(error) => error.is_too_old(),
            MetadataError::Seat(error) => error.is_too_old(),
            _ => false,
        }
    }
}

impl From<DataDirError> for MetadataError {
    fn from(error: DataDirError) -> MetadataError {
        MetadataError::Serve(error.into())
    }
}

/// Serves until SIGTERM or SIGINT. With `rejoin` a metadata node among several puts its state aside first, and waits to be added.
pub async fn run(config: MetadataConfig, credentials: Credentials, rejoin: bool) -> Result<(), MetadataError> {
    let stop = stop_signal()?;
    if rejoin && config.listen.is_none() {
        return Err(MetadataError::Alone);
    }
    match config.listen {
        Some(listen) => {
            let served = super::replicated::serve(&config, listen, &credentials, rejoin, stop.clone());
            ends_in_time(STOP_LIMIT, stop, served).await
        }
        None => ends_in_time(STOP_LIMIT, stop.clone(), serve(&config, &credentials, stop)).await,
    }
}

/// The S3 port, before it serves.
pub(super) struct S3 {
    pub port: Port,
    pub domains: Domains,
    pub settings: S3Port,
}

async fn serve(
    config: &MetadataConfig,
    credentials: &Credentials,
    mut stop: watch::Receiver<bool>,
) -> Result<(), MetadataError> {
    let data = Arc::new(DataDir::open(&config.data, true)?);
    let mut stored = set_up(&data, config)?;
    let s3 = s3(config).await?;
    let admin_listener = listen("the admin port", "admin", config.admin).await?;
    data.write_admin_address(admin_listener.local_addr().unwrap_or(config.admin))?;
    let state = Arc::new(AdminState::default());
    state.accounts_of_file(&named(config)?);
    let webhooks = webhook::from_file(config.webhooks.as_deref()).map_err(ServeError::Webhooks)?;
    let admin = admin::start(admin_listener, Arc::clone(&state), data.admin_token()?);
    let nodes = nodes(config, credentials)?;
    let started = tokio::select! {
        started = metadata(&data, config, &stored, credentials, Arc::clone(&nodes)) => started?,
        _ = stop.wait_for(|stop| *stop) => {
            admin.stop().await;
            return Ok(());
        }
    };
    let meta = Arc::new(started);
    if let Err(error) = record(&data, config, &mut stored, credentials, &meta, false).await {
        meta.shutdown().await;
        admin.stop().await;
        return Err(error);
    }
    state.ready(Arc::clone(&meta), DriveSet::new(Arc::clone(&data), stored, Arc::clone(&meta)));
    announce(config, credentials, &meta);
    let replication = Following::start(Arc::clone(&state), webhooks);
    match s3 {
        Some(S3 { port, domains, settings }) => {
            let client = Arc::clone(&meta) as Arc<dyn MetadataClient>;
            let engine = Gateway::new(client, settings.engine());
            let service = gateway::server::service(&engine, domains);
            let drained = gateway::server::serve(port, service, OpenFiles::limits(), stop).await;
            if drained.cut > 0 {
                tracing::warn!(connections = drained.cut, "cut off while draining");
            }
        }
        None => drop(stop.wait_for(|stop| *stop).await),
    }
    state.stopping();
    replication.stop().await;
    meta.shutdown().await;
    admin.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// The data directory's record, made on the first start.
pub(super) fn set_up(data: &DataDir, config: &MetadataConfig) -> Result<Config, MetadataError> {
    match data.config()? {
        Some(stored) if stored.on_nodes => Ok(stored),
        Some(_) => Err(MetadataError::NotOurs(data.root().to_owned())),
        None => {
            let mut stored = Config::new(config.geometry.clone(), Vec::new());
            stored.on_nodes = true;
            data.write_config(&stored)?;
            Ok(stored)
        }
    }
}

pub(super) async fn s3(config: &MetadataConfig) -> Result<Option<S3>, MetadataError> {
    let Some(s3) = &config.s3 else { return Ok(None) };
    let domains = Domains::new(&s3.domains).map_err(|error| ServeError::Domain(error.to_string()))?;
    let settings = S3Port { lifecycle_day: config.test.lifecycle_day, ..s3.port() };
    let listener = listen("S3", "s3.listen", s3.listen).await?;
    let port = settings.open(listener).map_err(ServeError::Tls)?;
    Ok(Some(S3 { port, domains, settings }))
}

pub(super) fn nodes(config: &MetadataConfig, credentials: &Credentials) -> Result<Arc<dyn NodeHost>, RemoteError> {
    let list: Vec<NodeAddress> = config.nodes.iter().filter_map(Peer::at).collect();
    Ok(Nodes::connecting(credentials.clone(), &list)?)
}

/// How a start over the drives goes.
pub(super) fn start_config(
    config: &MetadataConfig,
    stored: &Config,
    credentials: &Credentials,
) -> Result<metadata::start::Config, ServeError> {
    let planned = stored.geometry.as_deref().map(str::parse).transpose()?;
    Ok(metadata::start::Config {
        cluster: stored.cluster_id(),
        audit: Some(config.data.join("audit")),
        geometry: config.geometry().or(planned),
        survive: config.placement.survive(),
        wait_for_nodes: NODES,
        lifecycle: lifecycle(config.test.lifecycle_day),
        // Whom this process meets is told by what level it writes.
        level: credentials.level().clone(),
        ..metadata::start::Config::default()
    })
}

pub(super) async fn metadata(
    data: &DataDir,
    config: &MetadataConfig,
    stored: &Config,
    credentials: &Credentials,
    nodes: Arc<dyn NodeHost>,
) -> Result<Metadata, ServeError> {
    let how = start_config(config, stored, credentials)?;
    let cluster = credentials.identity().cluster;
    let indexes = Arc::new(Indexes::new(data.index_path()));
    start(data, how, || {
        let key_path = data.key_path();
        let parts = NodeParts {
            nodes: Arc::clone(&nodes),
            cluster,
            index: indexes.clone(),
            keys: Box::new(move |first_start| Keys::open(&key_path, first_start).map(|(keys, _created)| keys)),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
        };
        Ok(parts.into())
    })
    .await
}

/// What a start writes down once it serves: whose cluster it is, and the accounts. Over a cluster that is taken over `existing` no
/// first account is made up: it would take the place of the one that clients have the keys of.
pub(super) async fn record(
    data: &DataDir,
    config: &MetadataConfig,
    stored: &mut Config,
    credentials: &Credentials,
    meta: &Arc<Metadata>,
    existing: bool,
) -> Result<(), MetadataError> {
    if stored.cluster.is_none() {
        stored.cluster = Some(credentials.identity().cluster.to_string());
        data.write_config(stored)?;
    }
    // Among several metadata nodes gateways serve S3, and an account is needed all the same.
    if config.s3.is_none() && config.listen.is_none() {
        return Ok(());
    }
    let named = named(config)?;
    let given =
        data.credentials_path().exists() || std::env::var_os("STELE_ACCESS_KEY").is_some_and(|key| !key.is_empty());
    let first_account = (given || !existing).then(|| first(data, |name| std::env::var(name).ok())).transpose();
    let first_account = first_account.map_err(ServeError::Accounts)?.map(|(account, _origin)| account);
    Ok(put_accounts(data, meta, first_account.iter().chain(&named)).await?)
}

/// The accounts of the file that the configuration names.
fn named(config: &MetadataConfig) -> Result<Vec<NewAccount>, ServeError> {
    let named = config.s3.as_ref().and_then(|s3| s3.accounts.as_deref()).map(from_file).transpose();
    Ok(named.map_err(ServeError::Accounts)?.unwrap_or_default())
}

fn announce(config: &MetadataConfig, credentials: &Credentials, meta: &Metadata) {
    let status = meta.status();
    println!(
        "Stele metadata {} of cluster {} (geometry {}, {} drives on {} nodes); admin on http://{}",
        credentials.identity().name,
        credentials.identity().cluster,
        status.geometry,
        status.drives.len(),
        meta.node_list().map_or(0, |nodes| nodes.len()),
        config.admin
    );
    if let Some(s3) = &config.s3 {
        println!(
            "S3 on {}://{}; the first account's keys are in {}",
            s3.port().scheme(),
            s3.listen,
            config.data.join("credentials").display()
        );
    }
    if status.mode == Mode::ReadOnly {
        println!("READ-ONLY: {}", status.reason);
    }
    for warning in &status.warnings {
        println!("warning: {warning}");
    }
}
