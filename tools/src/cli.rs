//! The command line. Every command ends with 0 or says in one line on standard error why not.

mod account;
mod drive;
mod fixity;
mod iam;
mod keep;
mod kms;
mod member;
mod node;
mod placement;
mod quota;
mod replication;
mod roles;
mod upgrade;
mod wait;
mod webhook;

use crate::admin_client::{AdminClient, ClientError, SealAnswer, StatusAnswer};
use crate::data_dir::DataDirError;
use crate::fixity::report::ReportError;
use crate::offline::OfflineError;
use crate::progress::{Progress, Unit};
use crate::rescue::{RescueError, RescueOptions};
use crate::roles::metadata::MetadataError;
use crate::s3_port::{NewBuckets, S3Port};
use crate::serve::{ServeError, ServeOptions};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::runtime::Runtime;

#[derive(Debug, Parser)]
#[command(name = "stele", version, about = "An S3-compatible archival object store.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve S3 from a data directory on this machine; the first start sets it up.
    Serve(Serve),
    /// Serve the drives of this machine to the other processes of a cluster.
    StorageNode(roles::StorageNode),
    /// Keep the namespace of a cluster whose drives storage nodes serve.
    Metadata(roles::Metadata),
    /// Serve S3 over metadata and storage nodes; any number of gateways may run side by side.
    Gateway(roles::Gateway),
    /// The cluster's certificate authority, and a certificate for each process.
    #[command(subcommand)]
    Ca(roles::Ca),
    /// Configuration files.
    #[command(subcommand)]
    Config(roles::Config),
    /// Show the condition of a running server.
    Status(Status),
    /// The journal of a running server.
    #[command(subcommand)]
    Journal(Journal),
    /// Throw the index away, so that the next start rebuilds it from the drives. The server must be stopped.
    RebuildIndex(Offline),
    /// The key-encryption key, and the access keys of accounts and their users.
    #[command(subcommand)]
    Key(Key),
    /// The users of accounts.
    #[command(subcommand)]
    User(iam::User),
    /// The groups of users.
    #[command(subcommand)]
    Group(iam::Group),
    /// The roles that users may take.
    #[command(subcommand)]
    Role(iam::Role),
    /// The policies that say what users, groups and roles may do.
    #[command(subcommand)]
    Policy(iam::Policy),
    /// The key store of SSE-KMS: keys that have a name.
    #[command(subcommand)]
    Kms(kms::Kms),
    /// Scrub: the drives are read and verified, all within the period.
    #[command(subcommand)]
    Scrub(keep::Scrub),
    /// Repair of stripes that are not whole.
    #[command(subcommand)]
    Repair(keep::Repair),
    /// Reclaim: what gives the space of deleted objects back.
    #[command(subcommand)]
    Reclaim(keep::Reclaim),
    /// The drives: add, empty, replace and remove them while the server runs.
    #[command(subcommand)]
    Drive(drive::Drive),
    /// The storage nodes of a cluster: add, empty and remove them while it serves.
    #[command(subcommand)]
    Node(node::Node),
    /// The accounts that S3 is served to.
    #[command(subcommand)]
    Account(account::Account),
    /// The buckets: how much they hold, and may hold.
    #[command(subcommand)]
    Bucket(quota::Bucket),
    /// Where the shards of new stripes may lie.
    #[command(subcommand)]
    Placement(placement::Placement),
    /// Upgrading to another release: who runs what, and the last step.
    #[command(subcommand)]
    Upgrade(upgrade::Upgrade),
    /// A cluster of metadata nodes.
    #[command(subcommand)]
    Cluster(member::Cluster),
    /// The metadata nodes of a cluster: add and remove them while it serves.
    #[command(subcommand)]
    Member(member::Member),
    /// Copies of buckets at other S3 endpoints.
    #[command(subcommand)]
    Replication(replication::Replication),
    /// Webhooks that are told what happens in buckets, and what waits for them.
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    /// Where an object lies, and whether it is good there.
    #[command(subcommand)]
    Object(keep::Object),
    /// Report when the shards of each object were last verified, and what that comes to. Exits with 2 unless all are ok.
    Fixity(fixity::Fixity),
    /// Read objects straight from drives, without index or server: the last resort. Nothing is written to the drives.
    Rescue(Rescue),
}

#[derive(Debug, Args)]
struct Serve {
    /// Directory that holds everything of a single-machine set-up.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// First start: how many drive directories to make below DIR [default: 6].
    #[arg(long, value_name = "N", conflicts_with = "drive")]
    drives: Option<usize>,
    /// A drive's directory; once per drive.
    #[arg(long, value_name = "PATH")]
    drive: Vec<PathBuf>,
    /// First start: data and parity shards of a stripe [default: by the number of drives].
    #[arg(long, value_name = "K+M")]
    geometry: Option<codec::erasure::Geometry>,
    /// Where to serve S3: IP address or host name, and port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9000", value_parser = crate::serve::address)]
    s3: SocketAddr,
    /// Where to serve health checks and operators' commands.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9001", value_parser = crate::serve::address)]
    admin: SocketAddr,
    /// Accounts to create or change: [[account]] with name, access_key, secret_key, and id and display_name if wanted.
    #[arg(long, value_name = "FILE")]
    accounts: Option<PathBuf>,
    /// Webhooks that buckets may have told what happens in them: [[webhook]] with name and url, and secret and private if wanted.
    #[arg(long, value_name = "FILE")]
    webhooks: Option<PathBuf>,
    /// A domain under which buckets are host names (bucket.NAME); once per domain.
    #[arg(long, value_name = "NAME")]
    domain: Vec<String>,
    /// The zstd level, 1 to 22, at which data is compressed again when its stripe is rewritten; not at all without this.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=22))]
    archive_level: Option<i32>,
    /// Serve S3 over TLS: the certificate and those between it and the root, in PEM. Read again when it changes, and at SIGHUP.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Take clients' own keys (SSE-C) over plain HTTP from other machines, too.
    #[arg(long)]
    sse_c_without_tls: bool,
    /// What new buckets let others do: what their lists and policies say, or (as S3 does since April 2023) nothing by lists and nothing
    /// to everybody.
    #[arg(long, value_enum, default_value_t)]
    new_buckets: NewBuckets,
    /// For tests only: a day of lifecycle rules and of restores lasts so many seconds. What is stored expires in seconds instead of
    /// days.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    lifecycle_day: Option<u64>,
}

/// How a command finds its server.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Server {
    /// The server's data directory, on the same machine.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The server's admin address, such as http://host:9001; the token comes from STELE_ADMIN_TOKEN.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    server: Server,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Journal {
    /// Seal the journal into erasure-coded stripes now.
    Seal {
        #[command(flatten)]
        server: Server,
        /// Wait until it is done.
        #[arg(long)]
        wait: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Go on without changes that are lost, after a start that could serve reads only. The server must be stopped; its
    /// next start keeps the old index aside, says what is lost, and serves writes again.
    AcceptLoss {
        /// The server's data directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Offline {
    /// The server's data directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Key {
    /// Print a key in hex, to be kept in another place than the drives.
    Export {
        #[command(flatten)]
        offline: Offline,
        /// The second one.
        #[arg(long)]
        second: bool,
    },
    /// Make a second key, where there is one only: from the next start on either of the two opens everything.
    Second(Offline),
    #[command(flatten)]
    Access(iam::AccessKey),
}

#[derive(Debug, Args)]
struct Rescue {
    /// A drive's directory; once per drive. Up to m of the cluster's drives may be missing or damaged.
    #[arg(long, value_name = "PATH", required = true)]
    drive: Vec<PathBuf>,
    /// Where to write the objects: a directory that is empty or not there yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only this bucket, or only its keys that begin so.
    #[arg(long, value_name = "BUCKET[/PREFIX]")]
    prefix: Option<String>,
    /// The key-encryption key (`stele key export`), mode 0600. Without it, encrypted objects are left out.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Why a command failed: one line for standard error.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Roles(#[from] roles::RolesError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error(transparent)]
    Data(#[from] DataDirError),
    #[error(transparent)]
    Rescue(#[from] RescueError),
    #[error(transparent)]
    Fixity(#[from] ReportError),
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
}

/// Runs the command line of this process. Returns its exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("stele: {error}");
            if error.is_too_old() { crate::process::TOO_OLD } else { 1 }
        }
    }
}

impl CommandError {
    fn is_too_old(&self) -> bool {
        match self {
            CommandError::Serve(error) => error.is_too_old(),
            CommandError::Offline(error) => matches!(error, OfflineError::TooNew(_)),
            CommandError::Rescue(error) => matches!(error, RescueError::Later(_)),
            CommandError::Roles(roles::RolesError::Metadata(ended)) => match ended.error() {
                MetadataError::Serve(error) => error.is_too_old(),
                error => error.is_too_old(),
            },
            _ => false,
        }
    }
}

/// Says what is wrong with the command line, or shows the help that was asked for. Ends with 1 and not, as clap would, with 2:
/// to a script that would say that the command did its work and found something.
fn misused(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody reads it any more: that is no failure.
            let _unread = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _unread = error.print();
            1
        }
        _ => {
            eprintln!("stele: {} (see --help)", in_a_line(&error.render().to_string()));
            1
        }
    }
}

/// The sentence of clap's message, without the usage below it.
fn in_a_line(message: &str) -> String {
    let sentence =
        message.split("\n\n").take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let words: Vec<&str> = sentence.flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// What a command ends with that did its work and found that not all is well.
const NOT_WELL: u8 = 2;

fn run(command: Command) -> Result<u8, CommandError> {
    if !matches!(command, Command::Serve(_) | Command::StorageNode(_) | Command::Metadata(_) | Command::Gateway(_)) {
        crate::process::end_with_the_pipe();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let result = run_on(&runtime, command);
    // A call that hangs in a drive would be waited for without end, after the server has said that it is cut off.
    runtime.shutdown_background();
    result
}

fn run_on(runtime: &Runtime, command: Command) -> Result<u8, CommandError> {
    match command {
        Command::Serve(serve) => {
            crate::logging::start();
            runtime.block_on(crate::serve::run(options(serve)))?;
        }
        Command::StorageNode(node) => runtime.block_on(roles::storage_node(node))?,
        Command::Metadata(metadata) => runtime.block_on(roles::metadata(metadata))?,
        Command::Gateway(gateway) => runtime.block_on(roles::gateway(gateway))?,
        Command::Ca(ca) => roles::ca(ca)?,
        Command::Config(roles::Config::Check { file }) => roles::check(&file)?,
        Command::Status(Status { server, json }) => {
            let (status, scrub) = runtime.block_on(async {
                let client = client(&server)?;
                let status = client.status().await?;
                // A second question only for people: programs ask `stele scrub status --json`.
                let scrub = if json { None } else { Some(keep::scrub_status(&client).await?) };
                Ok::<_, ClientError>((status, scrub))
            })?;
            print_status(&status, json);
            if let Some(scrub) = scrub {
                keep::print_scrub_line(&scrub);
            }
        }
        Command::Journal(Journal::Seal { server, wait, json }) => {
            let progress = Progress::new("sealing the journal", Unit::Nothing, json || !wait);
            let answer = runtime.block_on(async { client(&server)?.seal(wait).await })?;
            progress.finish();
            print_seal(&answer, json);
        }
        Command::Journal(Journal::AcceptLoss { data }) => {
            crate::offline::accept_loss(&data)?;
            println!("The next start accepts the loss. Start the server now; it lists what is lost.");
        }
        Command::RebuildIndex(Offline { data }) => {
            let kept = crate::offline::rebuild_index(&data)?;
            match kept {
                Some(path) => {
                    println!("The index was moved to {}. The next start rebuilds it from the drives.", path.display())
                }
                None => println!("There was no index. The next start rebuilds it from the drives."),
            }
        }
        Command::Key(Key::Export { offline: Offline { data }, second }) => {
            println!("{}", crate::offline::export_key(&data, second)?.as_str());
        }
        Command::Key(Key::Second(Offline { data })) => {
            println!("{}", crate::offline::second_key(&data)?.display());
            println!("The next start wraps everything by it, too. Keep a copy of it: stele key export --second");
        }
        Command::Key(Key::Access(command)) => return Ok(runtime.block_on(iam::key(command))?),
        Command::User(command) => return Ok(runtime.block_on(iam::user(command))?),
        Command::Group(command) => return Ok(runtime.block_on(iam::group(command))?),
        Command::Role(command) => return Ok(runtime.block_on(iam::role(command))?),
        Command::Policy(command) => return Ok(runtime.block_on(iam::policy(command))?),
        Command::Rescue(rescue) => return run_rescue(rescue),
        Command::Scrub(scrub) => return Ok(runtime.block_on(keep::scrub(scrub))?),
        Command::Reclaim(reclaim) => return Ok(runtime.block_on(keep::reclaim(reclaim))?),
        Command::Drive(drive) => return Ok(runtime.block_on(drive::drive(drive))?),
        Command::Bucket(command) => return Ok(runtime.block_on(quota::bucket(command))?),
        Command::Account(command) => return Ok(runtime.block_on(account::account(command))?),
        Command::Kms(command) => return Ok(runtime.block_on(kms::kms(command))?),
        Command::Placement(command) => return Ok(runtime.block_on(placement::placement(command))?),
        Command::Upgrade(command) => return Ok(runtime.block_on(upgrade::upgrade(command))?),
        Command::Node(node) => return Ok(runtime.block_on(node::node(node))?),
        Command::Cluster(command) => return Ok(runtime.block_on(member::cluster(command))?),
        Command::Member(command) => return Ok(runtime.block_on(member::member(command))?),
        Command::Webhook(command) => return Ok(runtime.block_on(webhook::webhook(command))?),
        Command::Replication(command) => return Ok(runtime.block_on(replication::replication(command))?),
        Command::Object(object) => return Ok(runtime.block_on(keep::object(object))?),
        Command::Fixity(fixity) => return runtime.block_on(fixity::fixity(fixity)),
        Command::Repair(repair) => return Ok(runtime.block_on(keep::repair(repair))?),
    }
    Ok(0)
}

fn run_rescue(rescue: Rescue) -> Result<u8, CommandError> {
    let (bucket, prefix) = match rescue.prefix.as_deref().map(|text| text.split_once('/').unwrap_or((text, ""))) {
        Some((bucket, prefix)) => (Some(bucket.to_owned()), prefix.to_owned()),
        None => (None, String::new()),
    };
    let Rescue { drive: drives, out, key_file, json, .. } = rescue;
    let progress = Progress::new("rescue", Unit::Bytes, json);
    let report = crate::rescue::rescue(&RescueOptions { drives, out, bucket, prefix, key_file }, &progress)?;
    progress.finish();
    if json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        crate::rescue::print::report(&report);
    }
    if !report.complete {
        eprintln!(
            "stele: not everything was rescued: {} objects are lost, {} are under keys of their clients, {} gaps in the journal",
            report.lost,
            report.sealed,
            report.gaps.len()
        );
    }
    Ok(if report.complete { 0 } else { NOT_WELL })
}

fn options(serve: Serve) -> ServeOptions {
    ServeOptions {
        data: serve.data,
        drives: serve.drives,
        drive_paths: serve.drive,
        geometry: serve.geometry,
        s3: serve.s3,
        admin: serve.admin,
        accounts: serve.accounts,
        webhooks: serve.webhooks,
        domains: serve.domain,
        archive_level: serve.archive_level,
        // Neither is there without the other: the command line is checked for that.
        port: S3Port {
            new_buckets: serve.new_buckets,
            lifecycle_day: serve.lifecycle_day,
            ..S3Port::new(serve.tls_cert, serve.tls_key, serve.sse_c_without_tls).unwrap_or_default()
        },
    }
}

fn client(server: &Server) -> Result<AdminClient, ClientError> {
    match (&server.data, &server.admin) {
        (Some(data), _) => AdminClient::for_data_dir(data),
        (None, Some(url)) => AdminClient::for_url(url),
        (None, None) => Err(ClientError::NoServer),
    }
}

fn print_status(status: &StatusAnswer, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(status).unwrap_or_default());
        return;
    }
    match status.reason.as_str() {
        "" => println!("{}", status.mode),
        reason => println!("{}: {reason}", status.mode),
    }
    println!(
        "geometry {}  format level {}  epoch {}  journal {} (sealed up to {})",
        status.geometry, status.format_level, status.epoch, status.applied, status.sealed
    );
    for drive in &status.drives {
        let journal = if drive.journal { "  journal" } else { "" };
        let free = drive.free >> 20;
        let total = drive.total >> 20;
        println!(
            "drive {}  {:<9}  {free} of {total} MiB free  {}{journal}",
            &drive.id[..8.min(drive.id.len())],
            drive.state,
            drive.path
        );
    }
    if let Some(members) = &status.metadata {
        member::print_in_status(members);
    }
    let room = &status.capacity;
    println!("capacity: {} of {} MiB free, parity included", room.free >> 20, room.total >> 20);
    if !status.survives.is_empty() {
        println!("{}", status.survives);
    }
    if let Some(repair) = &status.repair {
        keep::print_repair(repair);
    }
    if let Some(reclaim) = &status.reclaim {
        keep::print_reclaim(reclaim);
    }
    if let Some(lifecycle) = &status.lifecycle {
        print!("{}", keep::lifecycle_text(lifecycle));
    }
    if let Some(replication) = status.replication.as_ref().filter(|answer| !answer.rules.is_empty()) {
        replication::print(replication);
    }
    for old in &status.old_indexes {
        let why = if old.why.is_empty() { "put aside" } else { &old.why };
        println!("old index: {}  {} MiB  {why}", old.path, old.bytes >> 20);
    }
    for warning in &status.warnings {
        println!("warning: {warning}");
    }
}

fn print_seal(answer: &SealAnswer, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(answer).unwrap_or_default());
        return;
    }
    match &answer.report {
        Some(report) => println!(
            "sealed up to {}: {} frames moved into {} stripes, {} journal segments freed",
            report.upto, report.moved, report.stripes, report.freed
        ),
        None => println!("sealing has begun"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn what_is_wrong_with_a_command_line_is_told_in_one_line() {
        let line = |line: &str| in_a_line(&Cli::try_parse_from(line.split(' ')).unwrap_err().render().to_string());
        assert_eq!(
            line("stele status"),
            "the following required arguments were not provided: <--data <DIR>|--admin <URL>>"
        );
        assert_eq!(line("stele frobnicate"), "unrecognized subcommand 'frobnicate'");
        assert!(line("stele serve --data d --geometry 99+9").ends_with("k is at least 1 and k+m at most 32"));
        let both = line("stele status --data d --admin http://h:1");
        assert!(both.contains("cannot be used with") && !both.contains('\n'), "{both}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for line in [
            "stele serve --data d --drives 6 --geometry 4+2 --s3 127.0.0.1:0 --admin 127.0.0.1:0",
            "stele serve --data d --drive a --drive b --domain s3.example.org --accounts f.toml --archive-level 19",
            "stele status --data d --json",
            "stele status --admin http://h:1",
            "stele journal seal --data d --wait",
            "stele journal accept-loss --data d",
            "stele rebuild-index --data d",
            "stele key export --data d",
            "stele scrub start --data d",
            "stele scrub start --data d --wait --json",
            "stele repair wait --data d",
            "stele scrub pause --data d --json",
            "stele scrub resume --data d",
            "stele scrub status --admin http://h:1 --json",
            "stele scrub report --data d",
            "stele repair status --data d --json",
            "stele repair plan --data d",
            "stele repair pause --data d",
            "stele repair resume --data d",
            "stele reclaim status --data d --json",
            "stele reclaim hold --data d",
            "stele reclaim release --data d",
            "stele drive list --data d --json",
            "stele drive add /mnt/7 --data d --wait",
            "stele drive drain 0a1b2c3d --data d --wait --json",
            "stele drive drain 0a1b2c3d --data d --cancel",
            "stele drive replace 0a1b2c3d /mnt/8 --admin http://h:1",
            "stele drive remove 0a1b2c3d --data d --lost",
            "stele replication set b --endpoint https://far:9000 --access-key K --deletes --data d",
            "stele replication set b --endpoint http://far --region eu --target c --access-key K --secret-file f --data d",
            "stele replication pause b --data d",
            "stele replication resume b --data d --json",
            "stele replication unset b --data d",
            "stele replication status --data d --json",
            "stele replication verify b --repair --admin http://h:1",
            "stele replication verify b --quick --data d",
            "stele webhook list --data d --json",
            "stele webhook drop archive --data d",
            "stele upgrade status --data d --json",
            "stele upgrade finish --admin http://h:1",
            "stele account list --data d --json",
            "stele account put scans --data d",
            "stele account put scans --access-key SCANS --secret-file f --replace --data d",
            "stele account remove scans --data d",
            "stele bucket quota b --bytes 10G --objects none --data d",
            "stele account quota scans --data d --json",
            "stele user list --data d --json",
            "stele user add anna --account scans --data d",
            "stele user attach anna AmazonS3ReadOnlyAccess --data d",
            "stele group join readers anna --data d",
            "stele role add auditor --trust f --data d",
            "stele role revoke auditor --data d",
            "stele policy put readers f --replace --data d",
            "stele key add --user anna --data d",
            "stele key add --user anna --access-key KEY --secret-file f --data d",
            "stele key disable KEY --user anna --data d",
            "stele key export --data d",
            "stele placement survive --data d --json",
            "stele placement survive rack --data d",
            "stele object locate bucket/a/key --data d",
            "stele object verify bucket/key --data d --json",
            "stele fixity bucket --data d",
            "stele fixity s3://bucket/a/prefix --data d --format premis --out f --verify",
            "stele fixity bucket --admin http://h:1 --json",
            "stele rescue --drive a --drive b --out o --prefix bucket/2026/ --key-file k --json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "stele serve",
            "stele serve --data d --drives 2 --drive a",
            "stele serve --data d --geometry 4",
            "stele status",
            "stele fixity --data d",
            "stele fixity s3:// --data d",
            "stele fixity b --data d --format xml",
            "stele fixity b --data d --format csv --json",
            "stele placement survive room --data d",
            "stele account put scans --access-key SCANS --data d",
            "stele rescue --out o",
            "stele rescue --drive a",
            "stele status --data d --admin http://h:1",
            "stele replication set b --endpoint https://far --data d",
            "stele drive drain 0a1b2c3d --data d --wait --cancel",
            "stele drive replace 0a1b2c3d --data d",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
