//! `stele serve`: one server on one machine, from its data directory to its end.
//!
//! Order of a start: data directory (locked), admin port (alive, not ready), drives and metadata (recovery), accounts, S3
//! port, ready. Order of an end: not ready, S3 drained, metadata closed. Whatever fails on the way ends the start with one
//! line that says what to do about it.

use crate::accounts::{AccountsError, NewAccount, Origin, first, from_file};
use crate::admin::{self, AdminState};
use crate::data_dir::{Config, DataDir, DataDirError};
use crate::drive_set::DriveSet;
use crate::drives::{DrivesError, Wanted, find, plan, record_cluster};
use crate::index_home::Indexes;
use crate::notify::webhook::{self, WebhooksError};
use crate::open_files::OpenFiles;
use crate::process::{TooFewFiles, check_open_files};
use crate::replication::Following;
use crate::s3_port::S3Port;
use crate::set_accounts::put_accounts;
use codec::erasure::{ErasureError, Geometry};
use gateway::engine::Gateway;
use gateway::server::{Domains, TlsError};
use metadata::client::{CommitError, LookupError, MetadataClient, Mode, Status};
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::keep::lifecycle::LifecycleConfig;
use metadata::keys::{KeyError, Keys};
use metadata::loss::{LossReport, Lost};
use metadata::service::Metadata;
use metadata::start::{AnyParts, Parts, StartError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
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
    /// `--webhooks`.
    pub webhooks: Option<PathBuf>,
    /// `--domain`.
    pub domains: Vec<String>,
    /// `--archive-level`.
    pub archive_level: Option<i32>,
    /// `--tls-cert`, `--tls-key`, `--sse-c-without-tls`.
    pub port: S3Port,
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
    /// The webhooks.
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
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
    Key(KeyError),
    /// The key file is another cluster's.
    #[error(
        "the key in {path} is not this cluster's ({source}): put this cluster's key file there (stele key export made a copy)"
    )]
    WrongKey {
        /// The key file.
        path: PathBuf,
        /// What did not unwrap.
        source: KeyError,
    },
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
    /// The certificate of the S3 port.
    #[error("the certificate of the S3 port: {0}")]
    Tls(TlsError),
    /// A name that is no domain.
    #[error("--domain: {0}")]
    Domain(String),
    /// The system allows too few open files.
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    /// It was asked to end, and something in it does not.
    #[error("it did not end within {} s and is cut off: the next start recovers", .limit.as_secs())]
    CutOff {
        /// How long it may take.
        limit: Duration,
    },
    /// Signals can't be waited for.
    #[error("signals: {0}")]
    Signal(std::io::Error),
}

impl ServeError {
    /// Whether this program is too old for what is there.
    pub fn is_too_old(&self) -> bool {
        matches!(self, ServeError::Start(error) if error.is_too_old())
    }

    /// A key that does not fit, with the name of its file.
    pub(crate) fn key(data: &DataDir, error: KeyError) -> ServeError {
        match error {
            source @ KeyError::Unwrap { .. } => ServeError::WrongKey { path: data.key_path(), source },
            other => ServeError::Key(other),
        }
    }

    fn start(data: &DataDir, error: StartError) -> ServeError {
        match error {
            StartError::Key(error) => ServeError::key(data, error),
            other => ServeError::Start(other),
        }
    }
}

/// An address to serve on: an IP address or a name of this machine, and a port. For the command line.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let form = "give an IP address or a name of this machine, and a port: 127.0.0.1:9000, localhost:9000, [::]:9000";
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        return Err(format!("there is no port in it; {form}"));
    }
    let found = std::net::ToSocketAddrs::to_socket_addrs(text).map_err(|error| format!("{error}; {form}"))?;
    // A name may have addresses of both kinds; most clients try the older kind, or both.
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("the name has no address; {form}"))
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(options: ServeOptions) -> Result<(), ServeError> {
    // Before anything else: a signal during a long recovery must end it, too.
    let stop = stop_signal()?;
    ends_in_time(STOP_LIMIT, stop.clone(), serve(&options, stop)).await
}

/// Cuts off what has not ended so long after it was told to. A start writes nothing that a crash could not interrupt at
/// any point; a service that runs drains by itself. Whoever waits for the end is told that it was none.
pub(crate) async fn ends_in_time<E: From<ServeError>>(
    limit: Duration,
    mut stop: watch::Receiver<bool>,
    served: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let over = async {
        // An error means that nobody can say it any more.
        let _either_way = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        served = served => served,
        () = over => Err(ServeError::CutOff { limit }.into()),
    }
}

/// How long an end may take, draining included, before the process is cut off.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn stop_signal() -> Result<watch::Receiver<bool>, ServeError> {
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
    let data = Arc::new(DataDir::open(&options.data, true)?);
    let accounts = options.accounts.as_deref().map(from_file).transpose()?.unwrap_or_default();
    let webhooks = webhook::from_file(options.webhooks.as_deref())?;
    let (mut config, first_start) = set_up(&data, options)?;
    let s3_listener = listen("S3", "--s3", options.s3).await?;
    let admin_listener = listen("the admin port", "--admin", options.admin).await?;
    // After the addresses: credentials made by a start that ends at once would never be shown.
    let (first_account, origin) = first(&data, |name| std::env::var(name).ok())?;
    let s3_address = s3_listener.local_addr().unwrap_or(options.s3);
    let s3_port = options.port.open(s3_listener).map_err(ServeError::Tls)?;
    let admin_address = admin_listener.local_addr().unwrap_or(options.admin);
    data.write_admin_address(admin_address)?;
    let state = Arc::new(AdminState::default());
    state.accounts_of_file(&accounts);
    let admin = admin::start(admin_listener, Arc::clone(&state), data.admin_token()?);

    let wanted = Wanted { count: options.drives, paths: options.drive_paths.clone() };
    let disks = find(&data, &mut config, &wanted)?;
    check_open_files(disks.len())?;
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

    let engine = Gateway::new(Arc::clone(&meta) as Arc<dyn MetadataClient>, options.port.engine());
    let service = gateway::server::service(&engine, domains);
    let drives = DriveSet::new(Arc::clone(&data), config, Arc::clone(&meta));
    // Aside: what an interruption left may take long to complete, and nobody needs it to be served.
    let resuming = tokio::spawn({
        let drives = Arc::clone(&drives);
        async move { drives.resume().await }
    });
    state.ready(Arc::clone(&meta), drives);
    let replication = Following::start(Arc::clone(&state), webhooks);
    let said = Announcement {
        data: &data,
        s3: format!("{}://{s3_address}", options.port.scheme()),
        admin: admin_address,
        account: &first_account,
        origin,
        first_start,
    };
    print!("{}", said.text(&meta.status()));

    let drained = gateway::server::serve(s3_port, service, OpenFiles::limits(), stop).await;
    state.stopping();
    resuming.abort();
    replication.stop().await;
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

pub(crate) async fn listen(
    what: &'static str,
    flag: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { what, flag, address, source })
}

/// How the rules of buckets are followed, where a day lasts so many seconds.
pub(crate) fn lifecycle(day: Option<u64>) -> LifecycleConfig {
    let default = LifecycleConfig::default();
    LifecycleConfig { day: day.map_or(default.day, Duration::from_secs), ..default }
}

async fn metadata(
    data: &DataDir,
    config: &Config,
    options: &ServeOptions,
    disks: Vec<Arc<dyn Disk>>,
) -> Result<Metadata, ServeError> {
    let planned = config.geometry.as_deref().map(str::parse::<Geometry>).transpose()?;
    let mut reclaim = metadata::keep::reclaim::ReclaimConfig::default();
    reclaim.restripe.recompress_level = options.archive_level.unwrap_or(0);
    let how = metadata::start::Config {
        reclaim,
        lifecycle: lifecycle(options.port.lifecycle_day),
        cluster: config.cluster_id(),
        audit: Some(data.audit_path()),
        geometry: options.geometry.or(planned),
        reserve: config.reserve,
        ..metadata::start::Config::default()
    };
    start(data, how, || Ok(parts(data, disks.clone())?.into())).await
}

/// Starts metadata, and accepts a loss first if an operator has said so.
pub(crate) async fn start(
    data: &DataDir,
    how: metadata::start::Config,
    parts: impl Fn() -> Result<AnyParts, ServeError>,
) -> Result<Metadata, ServeError> {
    let accept = data.accept_loss_path();
    if !accept.exists() {
        return started(data, metadata::start::start(parts()?, how).await);
    }
    let accepted = metadata::start::accept_loss(parts()?, how.clone()).await;
    let metadata = match accepted {
        Ok((metadata, report)) => {
            log_loss(&report);
            metadata
        }
        Err(StartError::NoLoss) => {
            tracing::warn!("a loss was accepted, but there is none: everything is there");
            started(data, metadata::start::start(parts()?, how).await)?
        }
        // The wish stays, and the next start with the right key follows it. Until then what there is can be read.
        Err(StartError::Key(error)) => {
            tracing::error!(%error, "the loss is not accepted with these keys");
            return started(data, metadata::start::start(parts()?, how).await);
        }
        Err(error) => return Err(ServeError::start(data, error)),
    };
    // Only now: a start that was cut off before must accept the loss again.
    std::fs::remove_file(&accept).map_err(|source| DataDirError::Io { path: accept, source })?;
    Ok(metadata)
}

fn started(data: &DataDir, started: Result<Metadata, StartError>) -> Result<Metadata, ServeError> {
    started.map_err(|error| ServeError::start(data, error))
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
pub(crate) fn reserve(disks: &[Arc<dyn Disk>]) -> u64 {
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

/// What whoever started it needs to know.
struct Announcement<'a> {
    data: &'a DataDir,
    /// Its URL.
    s3: String,
    admin: SocketAddr,
    account: &'a NewAccount,
    origin: Origin,
    first_start: bool,
}

impl Announcement<'_> {
    fn text(&self, status: &Status) -> String {
        let Announcement { data, s3, admin, .. } = self;
        let mut lines = vec![format!(
            "Stele serves S3 on {s3} (geometry {}, {} drives); admin on http://{admin}",
            status.geometry,
            status.drives.len()
        )];
        let read_only = status.mode == Mode::ReadOnly;
        if read_only {
            lines.push(format!("READ-ONLY: {}", status.reason));
        }
        lines.extend(status.warnings.iter().map(|warning| format!("warning: {warning}")));
        let credentials = data.credentials_path();
        // A read-only start stores no account: a secret made by it opens nothing.
        let secret = match self.origin {
            Origin::Generated if !read_only => {
                lines.push(format!("The secret key below is shown once; it is kept in {}.", credentials.display()));
                self.account.secret_key.as_str()
            }
            _ => {
                lines.push(format!("The secret key is in {}.", credentials.display()));
                "..."
            }
        };
        if self.first_start {
            lines.push(format!(
                "Keep copies of both keys elsewhere: stele key export --data {0} (and --second)",
                data.root().display()
            ));
        }
        lines.push("Try:".to_owned());
        let access_key = &self.account.access_key;
        lines.push(format!(
            "  export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION=us-east-1"
        ));
        let aws = format!("aws --endpoint-url {s3} s3");
        match read_only {
            true => lines.push(format!("  {aws} ls")),
            false => lines.extend([
                format!("  {aws} mb s3://documents"),
                // Not a directory: the one it is pasted in may hold the drives, which grow by what is copied.
                format!("  echo 'cut in stone' | {aws} cp - s3://documents/first.txt"),
                format!("  {aws} ls s3://documents/"),
            ]),
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::AccountRow;
    use codec::id::{Epoch, Lsn};
    use metadata::keys::Secret;
    use zeroize::Zeroizing;

    fn status(mode: Mode) -> Status {
        Status {
            mode,
            reason: "a loss".to_owned(),
            geometry: Geometry::new(4, 2).unwrap(),
            epoch: Epoch(1),
            applied: Lsn(1),
            sealed: Lsn(0),
            ensemble: Vec::new(),
            drives: Vec::new(),
            survives: String::new(),
            warnings: Vec::new(),
        }
    }

    /// It ended with 0, as if everything had been drained.
    #[tokio::test]
    async fn an_end_that_is_cut_off_is_a_failure() {
        let (stop, stopped) = watch::channel(false);
        let limit = Duration::from_millis(20);
        let mut running = Box::pin(ends_in_time::<ServeError>(limit, stopped.clone(), std::future::pending()));
        assert!(tokio::time::timeout(2 * limit, &mut running).await.is_err(), "nobody told it to end");
        stop.send(true).unwrap();
        assert!(matches!(running.await, Err(ServeError::CutOff { .. })));
        assert!(ends_in_time::<ServeError>(limit, stopped, std::future::ready(Ok(()))).await.is_ok());
    }

    #[test]
    fn a_read_only_start_proposes_no_writes() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        let account = NewAccount {
            id: "admin".to_owned(),
            name: "admin".to_owned(),
            display_name: "admin".to_owned(),
            email: String::new(),
            access_key: "AKADMIN".to_owned(),
            secret_key: Zeroizing::new("very secret".to_owned()),
            keys: Vec::new(),
            users: Vec::new(),
            kms_keys: Vec::new(),
        };
        let at = SocketAddr::from(([127, 0, 0, 1], 9000));
        let said = |origin, mode| {
            let said = Announcement {
                data: &data,
                s3: format!("http://{at}"),
                admin: at,
                account: &account,
                origin,
                first_start: false,
            };
            said.text(&status(mode))
        };
        let writes = said(Origin::Generated, Mode::Serving);
        assert!(
            writes.contains("very secret") && writes.contains(" mb s3://") && writes.ends_with("s3://documents/\n")
        );
        let reads = said(Origin::Generated, Mode::ReadOnly);
        assert!(reads.contains("READ-ONLY: a loss\n") && reads.ends_with("s3 ls\n"), "{reads}");
        assert!(!reads.contains(" mb ") && !reads.contains(" cp ") && !reads.contains("very secret"), "{reads}");
        assert!(!said(Origin::Stored, Mode::Serving).contains("very secret"));
    }

    #[test]
    fn a_key_that_does_not_fit_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        let keys = |byte| Keys::new(codec::encrypt::KeyEncryptionKey::new([byte; 32]));
        let wrapped = keys(1).wrap_account("a", &Secret::new("secret".to_owned())).unwrap();
        let row = AccountRow { id: "a".to_owned(), wrapped_secret: wrapped, ..AccountRow::default() };
        let error = keys(2).unwrap_account(row).unwrap_err();
        let text = ServeError::start(&data, StartError::Key(error)).to_string();
        assert!(text.contains(&data.key_path().display().to_string()) && text.contains("put this cluster's"), "{text}");
    }

    #[test]
    fn addresses_may_be_names() {
        assert_eq!(address("127.0.0.1:9000").unwrap().port(), 9000);
        assert!(address("[::1]:0").unwrap().is_ipv6());
        assert!(address("localhost:9000").unwrap().ip().is_loopback());
        for wrong in ["localhost", "9000", ":", "localhost:http", "localhost:99999", "no such name:1"] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains("localhost:9000"), "{wrong}: {error}");
        }
    }
}
