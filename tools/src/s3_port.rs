//! The S3 port of whatever process serves one, besides its address.

use gateway::server::{Port, Tls, TlsError, TlsFiles};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// What new buckets let others do, until their owners say something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum NewBuckets {
    /// What their lists and policies say, as buckets of S3 did until April 2023.
    #[default]
    Open,
    /// Nothing by lists, and nothing to everybody, as buckets of S3 do since.
    Enforced,
}

/// What the port shows its clients, and what it takes from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Port {
    /// The certificate; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Clients may send their own keys (SSE-C) over plain HTTP from other machines, too.
    pub sse_c_without_tls: bool,
    /// What new buckets have.
    pub new_buckets: NewBuckets,
    /// How long a day of lifecycle is, in seconds; for tests. `None`: 24 hours.
    pub lifecycle_day: Option<u64>,
}

impl S3Port {
    /// `None`: one of the two files is named without the other.
    pub fn new(certificate: Option<PathBuf>, key: Option<PathBuf>, sse_c_without_tls: bool) -> Option<S3Port> {
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return None,
        };
        Some(S3Port { tls, sse_c_without_tls, new_buckets: NewBuckets::default(), lifecycle_day: None })
    }

    /// Reads the certificate.
    pub fn open(&self, listener: TcpListener) -> Result<Port, TlsError> {
        let tls: Option<Arc<Tls>> = self.tls.clone().map(Tls::open).transpose()?;
        Ok(Port { listener, tls })
    }

    /// How its addresses begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The engine's configuration behind it.
    pub fn engine(&self) -> gateway::engine::Config {
        let default = gateway::engine::Config::default();
        gateway::engine::Config {
            lifecycle_day: self.lifecycle_day.map_or(default.lifecycle_day, Duration::from_secs),
            sse_c_without_tls: self.sse_c_without_tls,
            enforced_buckets: self.new_buckets == NewBuckets::Enforced,
            ..default
        }
    }
}
