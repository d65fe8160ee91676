//! `stele kms`.

use super::client;
use super::keep::{Asked, show};
use crate::admin_client::ClientError;
use crate::admin_kms::{KmsAnswer, KmsChange, KmsKeyInfo};
use clap::Subcommand;
use hyper::Method;
use std::time::Duration;

/// How often a wait for a key's end looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Kms {
    /// The keys, whose they are, and whether they may be used.
    List(Asked),
    /// Make a key. Buckets of the account can then encrypt by it (x-amz-server-side-encryption: aws:kms).
    Create {
        /// Its name: what requests say in x-amz-server-side-encryption-aws-kms-key-id. aws/s3 makes the account's default key, for
        /// requests that name none.
        #[arg(value_name = "KEY")]
        key: String,
        /// The id of the account that it is for.
        #[arg(long, value_name = "ID")]
        account: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Let a key be used again.
    Enable {
        /// Its name.
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Let a key be used no more: what is under it can't be read until it is enabled again.
    Disable {
        /// Its name.
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Destroy a disabled key for ever, unless any version of any object, an upload or a bucket's default needs it. The server looks for
    /// that in the background; enabling or disabling the key takes it back.
    Destroy {
        /// Its name.
        #[arg(value_name = "KEY")]
        key: String,
        /// Wait until it is destroyed, or found to be needed.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs `stele kms`.
pub(super) async fn kms(command: Kms) -> Result<u8, ClientError> {
    match command {
        Kms::List(asked) => {
            let answer: KmsAnswer = client(&asked.server)?.ask(Method::GET, "/v1/kms").await?;
            show(&answer, asked.json, |answer| answer.keys.iter().for_each(print));
        }
        Kms::Create { key, account, asked } => change("create", key, account, "was made", &asked).await?,
        Kms::Enable { key, asked } => change("enable", key, String::new(), "is enabled", &asked).await?,
        Kms::Disable { key, asked } => change("disable", key, String::new(), "is disabled", &asked).await?,
        Kms::Destroy { key, wait, asked } => return destroy(key, wait, &asked).await,
    }
    Ok(0)
}

async fn change(action: &str, id: String, account: String, done: &str, asked: &Asked) -> Result<(), ClientError> {
    let question = KmsChange { id: id.clone(), account, action: action.to_owned() };
    let answer: KmsAnswer = client(&asked.server)?.send("/v1/kms/change", &question).await?;
    show(&answer, asked.json, |_| println!("key {} {done}", id.escape_debug()));
    Ok(())
}

/// Destroys a key; 1 where it is known to be needed.
async fn destroy(id: String, wait: bool, asked: &Asked) -> Result<u8, ClientError> {
    let server = client(&asked.server)?;
    let question = KmsChange { id: id.clone(), account: String::new(), action: "destroy".to_owned() };
    let mut answer: KmsAnswer = server.send("/v1/kms/change", &question).await?;
    let state = |answer: &KmsAnswer| answer.keys.iter().find(|key| key.id == id).cloned().unwrap_or_default();
    while wait && state(&answer).state == "pending deletion" {
        tokio::time::sleep(LOOK).await;
        answer = server.ask(Method::GET, "/v1/kms").await?;
    }
    let key = state(&answer);
    let name = id.escape_debug();
    let is_kept = !matches!(key.state.as_str(), "pending deletion" | "destroyed");
    show(&answer, asked.json, |_| match key.state.as_str() {
        "destroyed" => println!("key {name} was destroyed"),
        "pending deletion" => println!("key {name} is destroyed if nothing needs it: see stele kms list"),
        _ => {}
    });
    if is_kept {
        let by = if key.needed_by.is_empty() { "it was taken back" } else { &key.needed_by };
        eprintln!("stele: key {name} stays, {}: {}", key.state, by.escape_debug());
    }
    Ok(u8::from(is_kept))
}

fn print(key: &KmsKeyInfo) {
    let needed = if key.needed_by.is_empty() { String::new() } else { format!("  needed: {}", key.needed_by) };
    println!(
        "{:<32}  {:<16}  {}{}",
        key.id.escape_debug().to_string(),
        key.state,
        key.account.escape_debug(),
        needed.escape_debug()
    );
}
