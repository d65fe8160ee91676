//! `stele replication`. Exit codes: 0 all is well, 1 the command failed, 2 something fails, is far behind, or differs.

use super::keep::{Asked, show};
use super::{NOT_WELL, client};
use crate::admin_client::{AdminClient, ClientError};
use crate::replication::BEHIND;
use crate::replication::answers::{
    BucketQuestion, Difference, ReplicationAnswer, RuleAnswer, SetQuestion, VerifyAnswer, VerifyQuestion,
};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Where the secret key of the other endpoint comes from, without `--secret-file`.
const SECRET: &str = "STELE_REPLICATION_SECRET_KEY";
/// Differences that a report keeps; it counts all.
const LISTED: usize = 10_000;

#[derive(Debug, Subcommand)]
pub(super) enum Replication {
    /// Copy a bucket to another S3 endpoint from now on, what it holds included. The secret key there comes from
    /// STELE_REPLICATION_SECRET_KEY, or from a file.
    Set(Set),
    /// Copy it no more. The copy stays.
    Unset(Named),
    /// Let what changes wait until told otherwise; survives restarts.
    Pause(Named),
    /// Go on.
    Resume(Named),
    /// What waits, and how far behind the copies are. Exits with 2 when something fails, or has waited for more than an hour.
    Status(Asked),
    /// Compare both sides: keys, sizes, entity tags, headers and tags. Asks the endpoint once or twice for each object, and exits with 2
    /// unless both are the same.
    Verify {
        #[command(flatten)]
        named: Named,
        /// Copy again what is missing or differs there. Nothing is deleted.
        #[arg(long)]
        repair: bool,
        /// Compare keys, sizes and entity tags only, as listings have them.
        #[arg(long)]
        quick: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The bucket here.
    #[arg(value_name = "BUCKET")]
    bucket: String,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    named: Named,
    /// http:// or https://, host and port of the other endpoint.
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// The region that requests are signed for.
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// The bucket there [default: the same name].
    #[arg(long, value_name = "BUCKET")]
    target: Option<String>,
    /// The access key there.
    #[arg(long, value_name = "KEY")]
    access_key: String,
    /// A file that holds the secret key there and nothing else.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Delete there what is deleted here; without this, deleted objects stay there.
    #[arg(long)]
    deletes: bool,
    /// Copy older versions, too. The bucket there must keep versions, and must not be copied back to here: that would never end.
    #[arg(long)]
    versions: bool,
    /// Buckets are host names there (bucket.host).
    #[arg(long)]
    virtual_host: bool,
    /// Don't ask the endpoint first whether the keys open the bucket, nor whether it keeps versions.
    #[arg(long)]
    unchecked: bool,
}

/// Runs it.
pub(super) async fn replication(command: Replication) -> Result<u8, ClientError> {
    let (path, Named { bucket, asked }) = match command {
        Replication::Set(set) => return self::set(set).await,
        Replication::Status(asked) => {
            let answer = status(&client(&asked.server)?).await?;
            show(&answer, asked.json, print);
            return Ok(if answer.rules.iter().all(|rule| rule.is_well(BEHIND)) { 0 } else { NOT_WELL });
        }
        Replication::Verify { named, repair, quick } => return verify(named, repair, quick).await,
        Replication::Unset(named) => ("/v1/replication/unset", named),
        Replication::Pause(named) => ("/v1/replication/pause", named),
        Replication::Resume(named) => ("/v1/replication/resume", named),
    };
    let answer: ReplicationAnswer = client(&asked.server)?.send(path, &BucketQuestion { bucket }).await?;
    show(&answer, asked.json, print);
    Ok(0)
}

/// Every rule's condition.
pub(super) async fn status(client: &AdminClient) -> Result<ReplicationAnswer, ClientError> {
    client.ask(Method::GET, "/v1/replication").await
}

async fn set(set: Set) -> Result<u8, ClientError> {
    let secret = secret(set.secret_file)?;
    let Named { bucket, asked } = set.named;
    let question = SetQuestion {
        target: set.target.unwrap_or_else(|| bucket.clone()),
        bucket,
        endpoint: set.endpoint.trim_end_matches('/').to_owned(),
        region: set.region,
        access_key: set.access_key,
        secret_key: secret.to_string(),
        deletes: set.deletes,
        versions: set.versions,
        virtual_host: set.virtual_host,
        unchecked: set.unchecked,
    };
    let answer: ReplicationAnswer = client(&asked.server)?.send("/v1/replication/set", &question).await?;
    show(&answer, asked.json, print);
    Ok(0)
}

/// Never from the command line, where every user of the machine could read it.
fn secret(file: Option<PathBuf>) -> Result<Zeroizing<String>, ClientError> {
    let text = match file {
        Some(path) => std::fs::read_to_string(&path).map_err(|source| ClientError::Secret { path, source })?,
        None => std::env::var(SECRET).map_err(|_| ClientError::NoSecret(SECRET))?,
    };
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// What comparing a whole bucket came to.
#[derive(Debug, Default, Serialize)]
struct Verified {
    same: u64,
    waiting: u64,
    kept: u64,
    /// How many keys are not the same.
    different: u64,
    queued: u64,
    /// The first of them.
    differences: Vec<Difference>,
}

impl Verified {
    fn add(&mut self, page: VerifyAnswer) {
        self.same += page.same;
        self.waiting += page.waiting;
        self.kept += page.kept;
        self.queued += page.queued;
        self.different += page.differences.len() as u64;
        let room = LISTED.saturating_sub(self.differences.len());
        self.differences.extend(page.differences.into_iter().take(room));
    }
}

async fn verify(Named { bucket, asked }: Named, repair: bool, quick: bool) -> Result<u8, ClientError> {
    let client = client(&asked.server)?;
    let (mut all, mut after) = (Verified::default(), String::new());
    loop {
        let question = VerifyQuestion { bucket: bucket.clone(), after, repair, quick };
        let mut page: VerifyAnswer = client.send("/v1/replication/verify", &question).await?;
        let next = page.next.take();
        all.add(page);
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    show(&all, asked.json, print_verified);
    Ok(if all.different == 0 && all.waiting == 0 { 0 } else { NOT_WELL })
}

fn print_verified(all: &Verified) {
    for difference in &all.differences {
        let here = if difference.here.is_empty() { "not here" } else { &difference.here };
        let there = if difference.there.is_empty() { "not there" } else { &difference.there };
        // A key may hold anything, also what a terminal obeys.
        let version = match difference.version.as_str() {
            "" => String::new(),
            version => format!("  version {}", version.escape_debug()),
        };
        let (kind, key) = (&difference.kind, difference.key.escape_debug());
        println!("{kind:<8} {key}{version}  here: {here}  there: {there}");
        // Sizes and entity tags are in the line above.
        for what in difference.what.iter().filter(|what| what.name != "size" && what.name != "etag") {
            let side = |value: &Option<String>| value.as_ref().map_or("nothing".to_owned(), |text| format!("{text:?}"));
            let name = what.name.escape_debug();
            println!("         {name}  here: {}  there: {}", side(&what.here), side(&what.there));
        }
    }
    match all.different.saturating_sub(all.differences.len() as u64) {
        0 => {}
        more => println!("... and {more} more"),
    }
    println!("{} keys are the same, {} differ, {} wait to be copied", all.same, all.different, all.waiting);
    if all.kept > 0 {
        println!("{} are there and not here: deletes are not copied", all.kept);
    }
    if all.queued > 0 {
        println!("{} were queued to be copied again", all.queued);
    }
}

/// Every rule, in a line or two.
pub(super) fn print(answer: &ReplicationAnswer) {
    if answer.rules.is_empty() {
        println!("no bucket is replicated");
    }
    answer.rules.iter().for_each(print_rule);
}

fn print_rule(rule: &RuleAnswer) {
    println!(
        "{} -> {}/{}  {}: {} keys wait{}, {} s behind; deletes are {}{}",
        rule.bucket,
        rule.endpoint,
        rule.target,
        rule.state,
        rule.waiting,
        if rule.walked { "" } else { " (and not all are queued yet)" },
        rule.lag_seconds,
        if rule.deletes { "copied" } else { "not copied" },
        if rule.versions { ", and so are versions" } else { "" }
    );
    println!(
        "  since the start: {} copied ({} MiB), {} were the same, {} deleted there",
        rule.copied,
        rule.copied_bytes >> 20,
        rule.same,
        rule.deleted
    );
    if !rule.failing.is_empty() {
        let by_reason: Vec<String> = rule.failing.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        println!("  failing: {}; last: {}", by_reason.join(", "), rule.error.escape_debug());
    }
}
