//! The processes of a cluster on the command line, their certificates and their configuration files.

use crate::ca::CaError;
use crate::config_file::{AnyConfig, ConfigError};
use crate::config_place::{self, Places};
use crate::member_answers::{FAR, RENEW};
use crate::roles::gateway::GatewayError;
use crate::roles::metadata::MetadataError;
use crate::roles::storage_node::NodeError;
use clap::{Args, Subcommand};
use codec::id::ClusterId;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage_node::service::identity::Role;
use storage_node::service::tls::Credentials;

/// How long a certificate is valid unless somebody says otherwise, in days.
const DAYS: u32 = 825;
/// How often a process looks at its certificate.
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Args)]
pub(super) struct StorageNode {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Make the empty directories of the configuration drives, and end. Nothing that holds anything is formatted, and no
    /// directory where a drive was seen before.
    #[arg(long)]
    format: bool,
    /// With --format: the drive that was at PATH will not come back, and the empty directory there becomes a new one.
    #[arg(long, value_name = "PATH", requires = "format")]
    replace: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Metadata {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Put the state of this metadata node aside, which is damaged or lacks a part, and wait to be added anew. Once, by hand: a
    /// node without state that others count on must not come back as if nothing had happened.
    #[arg(long)]
    rejoin: bool,
}

#[derive(Debug, Args)]
pub(super) struct Gateway {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ca {
    /// Make the cluster's CA. Keep its directory where certificates are issued, and nowhere else.
    Init {
        /// A directory without a CA.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster's id, if drives have one already [default: a new one].
        #[arg(long, value_name = "ID", value_parser = crate::ca::cluster)]
        cluster: Option<ClusterId>,
    },
    /// Issue a certificate, with a new key.
    Issue {
        /// The CA's directory.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What the process may do: storage-node, metadata, gateway or repair.
        #[arg(long, value_parser = crate::ca::role)]
        role: Role,
        /// The process's name: lower-case letters, digits and hyphens. It is known by this name, wherever it runs.
        #[arg(long)]
        name: String,
        /// How long the certificate is valid.
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=7300))]
        days: u32,
        /// A directory without a certificate.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Check a configuration file and the certificate that it names.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RolesError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("{0}")]
    Node(InFile<NodeError>),
    #[error("{0}")]
    Metadata(InFile<MetadataError>),
    #[error("{0}")]
    Gateway(InFile<GatewayError>),
}

/// Why a process ended, with the line of its configuration that the path or address in question comes from.
#[derive(Debug)]
pub(super) struct InFile<E> {
    error: Box<E>,
    from: config_place::From,
}

impl<E: fmt::Display> InFile<E> {
    fn new(file: &Path, error: E) -> InFile<E> {
        InFile { from: Places::of(file).named_in(&error.to_string()), error: Box::new(error) }
    }
}

impl<E> InFile<E> {
    /// Why it ended.
    pub(super) fn error(&self) -> &E {
        &self.error
    }
}

impl<E: fmt::Display> fmt::Display for InFile<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.error, self.from)
    }
}

/// Says in time that a certificate runs out, and again each day: nothing shows of it until a connection or a start fails.
fn watch_certificate(file: &Path, credentials: &Credentials) {
    let (file, credentials) = (file.to_owned(), credentials.clone());
    tokio::spawn(async move {
        loop {
            let days = credentials.days_left(RENEW);
            if days < RENEW {
                let config = file.display();
                tracing::warn!(days, %config, "the certificate of this process runs out in so many days: renew it, and restart");
            }
            tokio::time::sleep(DAY).await;
        }
    });
}

pub(super) async fn storage_node(StorageNode { config, format, replace }: StorageNode) -> Result<(), RolesError> {
    crate::logging::start();
    let file = config;
    let (config, credentials) = crate::config_file::storage_node(&file)?;
    if !format {
        watch_certificate(&file, &credentials);
        let run = crate::roles::storage_node::run(file.clone(), config, credentials).await;
        return run.map_err(|error| RolesError::Node(InFile::new(&file, error)));
    }
    let new = crate::roles::storage_node::format_drives(&config, &credentials, &replace);
    let new = new.map_err(|error| RolesError::Node(InFile::new(&file, error)))?;
    for (path, drive) in &new {
        println!("{}: drive {drive}", path.display());
    }
    if new.is_empty() {
        println!("All directories are drives already.");
    }
    Ok(())
}

pub(super) async fn metadata(Metadata { config: file, rejoin }: Metadata) -> Result<(), RolesError> {
    crate::logging::start();
    let (config, credentials) = crate::config_file::metadata(&file)?;
    watch_certificate(&file, &credentials);
    let run = crate::roles::metadata::run(config, credentials, rejoin).await;
    run.map_err(|error| RolesError::Metadata(InFile::new(&file, error)))
}

pub(super) async fn gateway(Gateway { config: file }: Gateway) -> Result<(), RolesError> {
    crate::logging::start();
    let (config, credentials) = crate::config_file::gateway(&file)?;
    watch_certificate(&file, &credentials);
    let run = crate::roles::gateway::run(config, credentials).await;
    run.map_err(|error| RolesError::Gateway(InFile::new(&file, error)))
}

pub(super) fn ca(ca: Ca) -> Result<(), RolesError> {
    match ca {
        Ca::Init { dir, cluster } => {
            let cluster = crate::ca::init(&dir, cluster)?;
            println!(
                "The CA of cluster {cluster} is in {}. Keep ca-key.pem off the machines of the cluster.",
                dir.display()
            );
        }
        Ca::Issue { dir, role, name, days, out } => {
            let identity = crate::ca::issue(&dir, role, &name, days, &out)?;
            println!("{identity}: valid for {days} days, in {}", out.display());
        }
    }
    Ok(())
}

pub(super) fn check(file: &Path) -> Result<(), RolesError> {
    let credentials = match crate::config_file::read(file)? {
        AnyConfig::StorageNode(_, credentials)
        | AnyConfig::Metadata(_, credentials)
        | AnyConfig::Gateway(_, credentials) => credentials,
    };
    let days = credentials.days_left(FAR);
    println!(
        "{}: good, for {}, whose certificate is valid for {days} more days",
        file.display(),
        credentials.identity()
    );
    Ok(())
}
