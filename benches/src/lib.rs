//! The parts of the load generator `stele-load`; the micro benchmarks are in `benches/benches`.

pub mod client;
pub mod data;
pub mod load;
pub mod process;

/// What stops a measurement.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The endpoint is not a URL of the form `http://host:port`.
    #[error("'{0}' is not an endpoint: use http://host:port (TLS is not spoken)")]
    Endpoint(String),
    /// The connection could not be made or broke.
    #[error("connection to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// HTTP failed.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// A request could not be built.
    #[error("request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The server answered with an error.
    #[error("{method} {path} answered {status}: {body}")]
    Status {
        /// The method.
        method: String,
        /// The path and query.
        path: String,
        /// The status code.
        status: u16,
        /// The start of the body.
        body: String,
    },
    /// A GET returned other bytes than were put.
    #[error("{key}: the bytes differ from what was put")]
    WrongBytes {
        /// The object key.
        key: String,
    },
    /// A GET, ranged GET or LIST was asked for and nothing had been put.
    #[error("nothing was put before '{0}': name put first in --ops")]
    NothingStored(&'static str),
    /// The corpus could not be read.
    #[error("corpus {path}: {source}")]
    Corpus {
        /// The folder.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The corpus has no usable file.
    #[error("corpus {0} holds no files")]
    EmptyCorpus(std::path::PathBuf),
    /// The report could not be written as JSON.
    #[error("report: {0}")]
    Json(#[from] serde_json::Error),
}
