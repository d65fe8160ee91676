//! `stele fixity`. Exit codes: 0 every object is ok, 1 the command failed, 2 some are not ok.

use super::{CommandError, NOT_WELL, Server, client};
use crate::fixity::report::{Format, ReportOptions, Scope, report};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Fixity {
    /// A bucket, or its keys that begin so; s3:// may stand before it.
    #[arg(value_name = "BUCKET[/PREFIX]")]
    scope: Scope,
    #[command(flatten)]
    server: Server,
    /// How the report is written.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write it to a file, which gets this name when it is whole [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// First seal the journal, and verify every shard that is reported on from its medium.
    #[arg(long)]
    verify: bool,
}

/// Runs it.
pub(super) async fn fixity(command: Fixity) -> Result<u8, CommandError> {
    let Fixity { scope, server, format, json, out, verify } = command;
    let format = if json { Format::Json } else { format };
    let tally = report(&client(&server)?, &ReportOptions { scope, format, out, verify }).await?;
    Ok(if tally.is_well() { 0 } else { NOT_WELL })
}
