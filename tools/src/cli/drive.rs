//! `stele drive`. Exit codes: 0 all is well, 1 the command failed, 2 it found what is not well.

use super::keep::{Asked, show};
use super::{NOT_WELL, Server, client, wait};
use crate::admin_client::{AdminClient, ClientError};
use crate::admin_drives::{AddQuestion, DriveChanged, DriveInfo, DriveQuestion, DrivesAnswer};
use crate::node_drives::PlaceOnNode;
use crate::progress::{Progress, Unit};
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum Drive {
    /// Every drive, and how it is. Exits with 2 when one is not as it should be.
    List(Asked),
    /// Format a directory, which must be empty or not there yet, and take it into the cluster.
    Add {
        /// The directory. With --admin, absolute and on the server's machine. NODE:PATH for a storage node, whose configuration
        /// must name it.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Wait until it takes new data, however long that takes.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Empty a drive: its data moves to the others, and new data goes elsewhere.
    Drain {
        /// Its id, the beginning of it, or its directory.
        #[arg(value_name = "DRIVE")]
        drive: String,
        /// Wait until nothing is left there.
        #[arg(long, conflicts_with = "cancel")]
        wait: bool,
        /// Take new data there again.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Put a new drive in the place of another: one that does not answer is given up and rebuilt at once, one that does is
    /// emptied.
    Replace {
        /// The old drive: its id, the beginning of it, or its directory.
        #[arg(value_name = "OLD")]
        old: String,
        /// The directory of the new drive: empty or not there yet; NODE:PATH on a storage node. The place of an old one that is
        /// lost will do.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Wait until nothing is left on the old one, or all of it is rebuilt.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Take a drained drive out of the cluster for good.
    Remove {
        /// Its id, the beginning of it, or its directory.
        #[arg(value_name = "DRIVE")]
        drive: String,
        /// It does not answer and will not come back: what lay there is rebuilt at once.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs `stele drive`.
pub(super) async fn drive(command: Drive) -> Result<u8, ClientError> {
    match command {
        Drive::List(asked) => list(asked).await,
        Drive::Add { path, wait, asked } => {
            let question = AddQuestion { drive: None, path: absolute(&path, &asked.server), wait };
            let changed = ask(&asked, "/v1/drives/add", &question, "adding a drive").await?;
            show(&changed, asked.json, |changed| match &changed.drive {
                Some(drive) => println!("drive {drive} takes new data"),
                None => println!("it is being added; stele drive list shows how far it is"),
            });
            Ok(0)
        }
        Drive::Drain { drive, wait, cancel, asked } => {
            let question = DriveQuestion { drive: named(drive, &asked.server), cancel, lost: false };
            let changed = ask(&asked, "/v1/drives/drain", &question, "draining").await?;
            if wait {
                emptied(&asked, changed.drive.as_deref()).await?;
            }
            show(&changed, asked.json, |changed| {
                let drive = changed.drive.as_deref().unwrap_or_default();
                match (cancel, wait) {
                    (true, _) => println!("drive {drive} takes new data again"),
                    (_, true) => println!("drive {drive} is drained; stele drive remove {drive} takes it out for good"),
                    _ => println!("drive {drive} is being drained; stele drive list shows how far it is"),
                }
            });
            Ok(0)
        }
        Drive::Replace { old, path, wait, asked } => {
            let question =
                AddQuestion { drive: Some(named(old, &asked.server)), path: absolute(&path, &asked.server), wait };
            let changed = ask(&asked, "/v1/drives/replace", &question, "adding a drive").await?;
            let state = match wait {
                true => emptied(&asked, changed.replaced.as_deref()).await?,
                false => None,
            };
            show(&changed, asked.json, |changed| {
                let old = changed.replaced.as_deref().unwrap_or_default();
                match (&changed.drive, state.as_deref()) {
                    (None, _) => println!("it is being added; stele drive list shows how far it is"),
                    (Some(new), Some("drained")) => {
                        println!("drive {new} takes new data; drive {old} is drained: stele drive remove {old}")
                    }
                    (Some(new), Some(_)) => println!("drive {new} takes new data; what drive {old} had is rebuilt"),
                    (Some(new), None) => println!("drive {new} takes new data; drive {old} is being replaced"),
                }
            });
            Ok(0)
        }
        Drive::Remove { drive, lost, asked } => {
            let question = DriveQuestion { drive: named(drive, &asked.server), cancel: false, lost };
            let changed = ask(&asked, "/v1/drives/remove", &question, "removing").await?;
            show(&changed, asked.json, |changed| {
                println!("drive {} was removed and may be pulled", changed.drive.as_deref().unwrap_or_default())
            });
            Ok(0)
        }
    }
}

/// A path on this machine is where the command was given; one on the server's, or on a storage node, is what was written.
fn absolute(path: &Path, server: &Server) -> PathBuf {
    match server.data {
        Some(_) if PlaceOnNode::parse(&path.to_string_lossy()).is_some() => path.to_owned(),
        Some(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        None => path.to_owned(),
    }
}

/// A drive's name; where it is a directory of this machine, the whole of it.
fn named(drive: String, server: &Server) -> String {
    match drive.contains('/') {
        true => absolute(Path::new(&drive), server).display().to_string(),
        false => drive,
    }
}

async fn ask(
    asked: &Asked,
    path: &str,
    question: &impl Serialize,
    what: &'static str,
) -> Result<DriveChanged, ClientError> {
    let _bar = Progress::new(what, Unit::Nothing, asked.json);
    client(&asked.server)?.send(path, question).await
}

/// Waits until nothing is left on a drive; its state then.
async fn emptied(asked: &Asked, drive: Option<&str>) -> Result<Option<String>, ClientError> {
    let Some(drive) = drive else { return Ok(None) };
    let client = client(&asked.server)?;
    let bar = Progress::new("moving", Unit::Bytes, asked.json);
    let mut most = 0;
    loop {
        let found = wait::answer(|| drives(&client)).await?.into_iter().find(|found| found.id == drive);
        let Some(found) = found else { return Ok(None) };
        let left = found.left_bytes.unwrap_or(0);
        most = most.max(left);
        bar.set(most.saturating_sub(left), most);
        let rebuilt = found.state == "removed" && found.left_shards == Some(0);
        let cancelled = !matches!(found.state.as_str(), "draining" | "removed" | "absent" | "failed");
        if rebuilt || cancelled {
            return Ok(Some(found.state));
        }
        tokio::time::sleep(wait::EVERY).await;
    }
}

async fn drives(client: &AdminClient) -> Result<Vec<DriveInfo>, ClientError> {
    Ok(client.ask::<DrivesAnswer>(Method::GET, "/v1/drives").await?.drives)
}

async fn list(asked: Asked) -> Result<u8, ClientError> {
    let answer = DrivesAnswer { drives: drives(&client(&asked.server)?).await? };
    show(&answer, asked.json, |answer| answer.drives.iter().for_each(print));
    let bad = |drive: &DriveInfo| {
        matches!(drive.state.as_str(), "read-only" | "absent" | "failed") || drive.slow || drive.findings > 0
    };
    Ok(if answer.drives.iter().any(bad) { NOT_WELL } else { 0 })
}

fn print(drive: &DriveInfo) {
    println!("{}  {:<9}  {}{}", drive.id, drive.state, drive.path, if drive.journal { "  journal" } else { "" });
    if !drive.reason.is_empty() {
        println!("  {}", drive.reason);
    }
    if let Some(shards) = drive.left_shards {
        println!("  {shards} shards, {} MiB are still to be moved or rebuilt", drive.left_bytes.unwrap_or(0) >> 20);
    }
    if drive.total > 0 {
        let p99 = drive.p99_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        println!(
            "  {} of {} MiB free; {} shards, {} MiB of segments; p99 {p99}, {} errors, {} findings",
            drive.free >> 20,
            drive.total >> 20,
            drive.shards,
            drive.segment_bytes >> 20,
            drive.errors,
            drive.findings
        );
    }
    if drive.slow {
        let spared = if drive.spared { "it gets no new shards" } else { "it can't be spared" };
        println!("  far slower than the others: {spared}");
    }
}
