//! `stele upgrade`. Exit codes: 0 all is well, 1 the command failed.

use super::client;
use super::keep::{Asked, show};
use crate::admin_client::ClientError;
use crate::admin_upgrade::{ProcessInfo, UpgradeAnswer};
use crate::progress::{Progress, Unit};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum Upgrade {
    /// Which release every process runs, the format level that is written, and who does not know the newest one yet.
    Status(Asked),
    /// Write the newest format level from now on, when every process knows it. There is no way back to a release that does not.
    Finish(Asked),
}

/// Runs `stele upgrade`.
pub(super) async fn upgrade(command: Upgrade) -> Result<u8, ClientError> {
    match command {
        Upgrade::Status(asked) => {
            let answer: UpgradeAnswer = client(&asked.server)?.ask(Method::GET, "/v1/upgrade").await?;
            show(&answer, asked.json, print);
        }
        Upgrade::Finish(asked) => {
            let progress = Progress::new("asking every process", Unit::Nothing, asked.json);
            let answer: UpgradeAnswer = client(&asked.server)?.ask(Method::POST, "/v1/upgrade/finish").await?;
            progress.finish();
            show(&answer, asked.json, |answer| {
                println!("the cluster writes format level {} from now on", answer.level)
            });
        }
    }
    Ok(0)
}

fn print(answer: &UpgradeAnswer) {
    let by = if answer.raised_by.is_empty() { String::new() } else { format!(" (raised by {})", answer.raised_by) };
    println!("format level {}{by}; the newest that the metadata service knows is {}", answer.level, answer.newest);
    for ProcessInfo { role, name, software, knows, problem, .. } in &answer.processes {
        let knows = knows.map_or_else(|| "level not known".to_owned(), |knows| format!("knows level {knows}"));
        let software = if software.is_empty() { "-" } else { software };
        let line = format!("{role:<12}  {name:<16}  {software:<20}  {knows}  {problem}");
        println!("{}", line.trim_end());
    }
    let behind = answer.behind();
    match (answer.level < answer.newest, behind.is_empty()) {
        (false, _) => println!("nothing is to be done"),
        (true, true) => {
            println!("every process knows level {}: stele upgrade finish lets it be written", answer.newest)
        }
        (true, false) => println!("not yet: {}", behind.join("; ")),
    }
}
