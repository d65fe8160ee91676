//! The parts of the load generator `stele-load`, of `stele-keep-cost` and of `stele-cluster-bench`; the micro benchmarks are in `benches/benches`.

pub mod client;
pub mod cluster;
pub mod data;
pub mod load;
pub mod process;
pub mod server;

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
    /// A program could not be run.
    #[error("{program}: {source}")]
    Program {
        /// The program.
        program: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A server ended before it was ready, or took too long.
    #[error("no server is ready on {0}")]
    NotReady(std::path::PathBuf),
    /// An operator's command failed.
    #[error("stele {command}: {message}")]
    Command {
        /// Its arguments.
        command: String,
        /// What it printed.
        message: String,
    },
    /// The data directory of a benchmark is there already.
    #[error("{0} exists: name a directory that does not")]
    Exists(std::path::PathBuf),
    /// A drive could not be taken away.
    #[error("{path}: {source}")]
    Remove {
        /// Its directory.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A client of the load has ended by itself.
    #[error("a client has ended")]
    ClientEnded,
    /// Something could not be written or read as JSON.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}
