//! `stele serve`: one server on one machine, from its data directory to its end.
//!
//! Order of a start: data directory (locked), admin port (alive, not ready), drives and metadata (recovery), accounts, S3
//! port, ready. Order of an end: not ready, S3 drained, metadata closed. Whatever fails on the way ends the start with one
//! line that says what to do about it.

use crate::accounts::{AccountsError, NewAccount, Origin, first, from_file};
use crate::admin::{Admin, AdminState};
use crate::data_dir::{Config, DataDir, DataDirError};
use crate::drives::{DrivesError, Wanted, find, plan, record_cluster};
use crate::index_home::Indexes;
use codec::effect::AccountRow;
use codec::erasure::{ErasureError, Geometry};
use gateway::engine::Gateway;
use gateway::server::{Domains, Limits};
use metadata::client::{CommitError, LookupError, MetadataClient, Mode};
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::command::Command;
use metadata::keys::{KeyError, Keys, Secret};
use metadata::loss::{LossReport, Lost};
use metadata::service::Metadata;
use metadata::start::{Parts, StartError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use storage_node::disk::Disk;
use storage_node::kv::KvError;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A file system's free space at first start is divided by this to get what is kept back of it (R14): 5 %.
const RESERVE_PART: u64 = 20;
/// The most that is kept back of a file system that is shared with other things, in bytes (R14).
const RESERVE_LIMIT: u64 = 4 << 30;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The data directory.
    pub data: PathBuf,
    /// `--drives`.
    pub drives: Option<usize>,
    /// `--drive`.
    pub drive_paths: Vec<PathBuf>,
    /// `--geometry`.
    pub geometry: Option<Geometry>,
    /// Where to serve S3.
    pub s3: SocketAddr,
    /// Where to serve operators.
    pub admin: SocketAddr,
    /// `--accounts`.
    pub accounts: Option<PathBuf>,
    /// `--domain`.
    pub domains: Vec<String>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The drives.
    #[error(transparent)]
    Drives(#[from] DrivesError),
    /// The accounts.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The stored geometry is none.
    #[error(transparent)]
    Geometry(#[from] ErasureError),
    /// The node's index.
    #[error(transparent)]
    Index(#[from] KvError),
    /// Recovery.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An account was not stored.
    #[error("account {name}: {source}")]
    Account {
        /// Its name.
        name: String,
        /// Why.
        source: CommitError,
    },
    /// An account can't be looked up.
    #[error("account {name}: {source}")]
    AccountLookup {
        /// Its name.
        name: String,
        /// Why.
        source: LookupError,
    },
    /// An address that can't be served on.
    #[error("{what} can't be served on {address}: {source} ({flag} chooses another address)")]
    Listen {
        /// S3 or admin.
        what: &'static str,
        /// What sets the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A name that is no domain.
    #[error("--domain: {0}")]
    Domain(String),
    /// Signals can't be waited for.
    #[error("signals: {0}")]
    Signal(std::io::Error),
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(options: ServeOptions) -> Result<(), ServeError> {
    // Before anything else: a signal during a long recovery must end it, too.
    let stop = stop_signal()?;
    let mut ended = stop.clone();
    tokio::select! {
        served = serve(&options, stop) => served,
        // The start writes nothing that a crash could not interrupt at any point; a service that runs drains by itself.
        () = async { drop(ended.wait_for(|stop| *stop).await); tokio::time::sleep(STOP_LIMIT).await } => {
            tracing::error!("the server did not end in time and is cut off");
            Ok(())
        }
    }
}

/// How long an end may take, draining included, before the process is cut off.
const STOP_LIMIT: std::time::Duration = std::time::Duration::from_secs(90);

fn stop_signal() -> Result<watch::Receiver<bool>, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        let _nobody_left = sender.send(true);
        // A second signal: whoever sends it does not want to wait.
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        crate::process::end(130);
    });
    Ok(receiver)
}

async fn serve(options: &ServeOptions, mut stop: watch::Receiver<bool>) -> Result<(), ServeError> {
    // What the command line alone can be wrong about comes first: nothing is written for it, and no drive is begun.
    let domains = Domains::new(&options.domains).map_err(|error| ServeError::Domain(error.to_string()))?;
    let data = DataDir::open(&options.data, true)?;
    let accounts = options.accounts.as_deref().map(from_file).transpose()?.unwrap_or_default();
    let (mut config, first_start) = set_up(&data, options)?;
    let s3_listener = listen("S3", "--s3", options.s3).await?;
    let admin_listener = listen("the admin port", "--admin", options.admin).await?;
    // After the addresses: credentials made by a start that ends at once would never be shown.
    let (first_account, origin) = first(&data, |name| std::env::var(name).ok())?;
    let s3_address = s3_listener.local_addr().unwrap_or(options.s3);
    let admin_address = admin_listener.local_addr().unwrap_or(options.admin);
    data.write_admin_address(admin_address)?;
    let state = Arc::new(AdminState::default());
    let admin = Admin::start(admin_listener, Arc::clone(&state), data.admin_token()?);

    let wanted = Wanted { count: options.drives, paths: options.drive_paths.clone() };
    let disks = find(&data, &mut config, &wanted)?;
    if first_start {
        config.reserve = reserve(&disks);
        data.write_config(&config)?;
    }
    let started = tokio::select! {
        started = metadata(&data, &config, options, disks.clone()) => started?,
        _ = stop.wait_for(|stop| *stop) => {
            admin.stop().await;
            return Ok(());
        }
    };
    let meta = Arc::new(started);
    let all = std::iter::once(&first_account).chain(&accounts);
    let recorded = async {
        record_cluster(&data, &mut config, &disks)?;
        put_accounts(&data, &meta, all).await
    };
    if let Err(error) = recorded.await {
        // Drives and indexes are being written to: a start that fails this late ends like a server that is stopped.
        meta.shutdown().await;
        admin.stop().await;
        return Err(error);
    }

    let engine = Gateway::new(Arc::clone(&meta) as Arc<dyn MetadataClient>, gateway::engine::Config::default());
    let service = gateway::server::service(&engine, domains);
    state.ready(Arc::clone(&meta));
    announce(&data, s3_address, admin_address, &first_account, origin, first_start, &meta);

    let drained = gateway::server::serve(s3_listener, service, Limits::default(), stop).await;
    state.stopping();
    if drained.cut > 0 {
        tracing::warn!(connections = drained.cut, "cut off while draining");
    }
    meta.shutdown().await;
    admin.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// `config`, made on the first start.
fn set_up(data: &DataDir, options: &ServeOptions) -> Result<(Config, bool), ServeError> {
    if let Some(config) = data.config()? {
        let first_start = config.cluster.is_none();
        return Ok((config, first_start));
    }
    let wanted = Wanted { count: options.drives, paths: options.drive_paths.clone() };
    let config = plan(&wanted, options.geometry.map(|geometry| geometry.to_string()))?;
    data.write_config(&config)?;
    Ok((config, true))
}

async fn listen(what: &'static str, flag: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { what, flag, address, source })
}

async fn metadata(
    data: &DataDir,
    config: &Config,
    options: &ServeOptions,
    disks: Vec<Arc<dyn Disk>>,
) -> Result<Metadata, ServeError> {
    let planned = config.geometry.as_deref().map(str::parse::<Geometry>).transpose()?;
    let how = metadata::start::Config {
        cluster: config.cluster_id(),
        geometry: options.geometry.or(planned),
        reserve: config.reserve,
        ..metadata::start::Config::default()
    };
    let accept = data.accept_loss_path();
    if !accept.exists() {
        return Ok(metadata::start::start(parts(data, disks)?, how).await?);
    }
    let accepted = metadata::start::accept_loss(parts(data, disks.clone())?, how.clone()).await;
    let metadata = match accepted {
        Ok((metadata, report)) => {
            log_loss(&report);
            metadata
        }
        Err(StartError::NoLoss) => {
            tracing::warn!("a loss was accepted, but there is none: everything is there");
            metadata::start::start(parts(data, disks)?, how).await?
        }
        Err(error) => return Err(error.into()),
    };
    // Only now: a start that was cut off before must accept the loss again.
    std::fs::remove_file(&accept).map_err(|source| DataDirError::Io { path: accept, source })?;
    Ok(metadata)
}

fn parts(data: &DataDir, disks: Vec<Arc<dyn Disk>>) -> Result<Parts, ServeError> {
    let indexes = Arc::new(Indexes::new(data.index_path()));
    let key_path = data.key_path();
    Ok(Parts {
        disks,
        node_index: indexes.open_node()?,
        index: indexes,
        keys: Box::new(move |first_start| Keys::open(&key_path, first_start).map(|(keys, _created)| keys)),
        clock: Arc::new(SystemClock::default()),
        entropy: Arc::new(SystemEntropy),
    })
}

/// Bytes to keep back per file system: a part of what is free on the fullest one, limited (R14).
fn reserve(disks: &[Arc<dyn Disk>]) -> u64 {
    let least = disks.iter().filter_map(|disk| disk.space().ok()).map(|space| space.free).min();
    least.map_or(0, |free| (free / RESERVE_PART).min(RESERVE_LIMIT))
}

fn log_loss(report: &LossReport) {
    tracing::warn!(kept = %report.kept, known = %report.known, old_index = report.index_kept_at, "a loss was accepted");
    for lost in &report.lost {
        match lost {
            Lost::Bucket { name, lsn } => tracing::warn!(bucket = name, %lsn, "lost bucket"),
            Lost::Version { bucket, key, size, lsn } => tracing::warn!(bucket, key, size, %lsn, "lost object"),
        }
    }
}

async fn put_accounts(
    data: &DataDir,
    meta: &Arc<Metadata>,
    accounts: impl Iterator<Item = &NewAccount>,
) -> Result<(), ServeError> {
    if meta.status().mode == Mode::ReadOnly {
        tracing::warn!("read-only: accounts stay as they are");
        return Ok(());
    }
    let (keys, _created) = Keys::open(&data.key_path(), false)?;
    for account in accounts {
        if is_stored(meta, account).await? {
            continue;
        }
        let row = AccountRow {
            id: account.id.clone(),
            name: account.name.clone(),
            display_name: account.display_name.clone(),
            access_key: account.access_key.clone(),
            wrapped_secret: keys.wrap_account(&account.id, &Secret::new(account.secret_key.to_string()))?,
        };
        let stored = meta.commit(meta.epoch(), Command::PutAccount(row)).await;
        stored.map_err(|source| ServeError::Account { name: account.name.clone(), source })?;
    }
    Ok(())
}

/// Whether the account is there as it should be: a start that changes nothing journals nothing.
async fn is_stored(meta: &Arc<Metadata>, account: &NewAccount) -> Result<bool, ServeError> {
    let found = meta
        .account_by_access_key(&account.access_key)
        .await
        .map_err(|source| ServeError::AccountLookup { name: account.name.clone(), source })?;
    Ok(found.is_some_and(|found| {
        found.row.id == account.id
            && found.row.name == account.name
            && found.row.display_name == account.display_name
            && found.secret.expose() == account.secret_key.as_str()
    }))
}

/// What whoever started it needs to know, on standard output.
fn announce(
    data: &DataDir,
    s3: SocketAddr,
    admin: SocketAddr,
    account: &NewAccount,
    origin: Origin,
    first_start: bool,
    meta: &Arc<Metadata>,
) {
    let status = meta.status();
    println!(
        "Stele serves S3 on http://{s3} (geometry {}, {} drives); admin on http://{admin}",
        status.geometry,
        status.drives.len()
    );
    if status.mode == Mode::ReadOnly {
        println!("READ-ONLY: {}", status.reason);
    }
    for warning in &status.warnings {
        println!("warning: {warning}");
    }
    let secret = match origin {
        Origin::Generated => {
            println!("The secret key below is shown once; it is kept in {}.", data.credentials_path().display());
            account.secret_key.as_str()
        }
        Origin::Given | Origin::Stored => {
            println!("The secret key is in {}.", data.credentials_path().display());
            "..."
        }
    };
    if first_start {
        println!("Keep a copy of the key elsewhere: stele key export --data {}", data.root().display());
    }
    println!("Try:");
    println!(
        "  export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION=us-east-1",
        account.access_key
    );
    println!("  aws --endpoint-url http://{s3} s3 mb s3://documents");
    // Not a directory: the one it is pasted in may hold the drives, which grow by what is copied.
    println!("  echo 'cut in stone' | aws --endpoint-url http://{s3} s3 cp - s3://documents/first.txt");
    println!("  aws --endpoint-url http://{s3} s3 ls s3://documents/");
}
