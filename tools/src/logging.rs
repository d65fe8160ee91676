//! Logs: to standard error, by RUST_LOG if that is set.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What is logged where RUST_LOG says nothing. `s3s` reports each answer above 399 as an error, the client's own mistakes
/// included; ours are logged where they are consumed, in the gateway.
/// `openraft` reports every attempt to reach a node that is away, several times a second; that a node is away is logged once.
const DEFAULT: &str = "info,s3s=off,openraft=off";

/// Starts logging. A second call in one process changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let _already = logs.try_init();
}
