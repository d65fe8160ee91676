//! `stele account`.

use super::client;
use super::keep::{Asked, show};
use super::quota::{self, Limits};
use crate::accounts::generate;
use crate::admin_accounts::{AccountInfo, AccountsAnswer, PutAccount, WhichAccount};
use crate::admin_client::ClientError;
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;
use std::path::PathBuf;
use zeroize::Zeroizing;

#[derive(Debug, Subcommand)]
pub(super) enum Account {
    /// The accounts and their access keys.
    List(Asked),
    /// Make an account, or with --replace give one other keys. Without --access-key both keys are made up and printed, once.
    Put {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
        /// Its canonical id [default: its name; with --replace, an account found by it gets this name].
        #[arg(long)]
        id: Option<String>,
        /// Shown in Owner [default: its name, or with --replace what it was].
        #[arg(long)]
        display_name: Option<String>,
        /// By which grants may name it.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// The access key; the secret key is then that of --secret-file.
        #[arg(long, value_name = "KEY", requires = "secret_file")]
        access_key: Option<String>,
        /// A file that holds the secret key, which is never taken from the command line.
        #[arg(long, value_name = "FILE", requires = "access_key")]
        secret_file: Option<PathBuf>,
        /// The account is there, and its keys are replaced: the old ones end within a second.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// How much the buckets of an account hold, and may hold together.
    Quota {
        /// Its id.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        asked: Asked,
    },
    /// Remove an account that owns no bucket.
    Remove {
        /// Its id.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        asked: Asked,
    },
}

/// What was made, for programs. A secret is in it only if it was made up.
#[derive(Serialize)]
struct Made {
    name: String,
    access_key: String,
    secret_key: Option<String>,
}

/// Runs `stele account`.
pub(super) async fn account(command: Account) -> Result<u8, ClientError> {
    match command {
        Account::List(asked) => {
            let answer: AccountsAnswer = client(&asked.server)?.ask(Method::GET, "/v1/accounts").await?;
            show(&answer, asked.json, |answer| answer.accounts.iter().for_each(print));
        }
        Account::Put { name, id, display_name, email, access_key, secret_file, replace, asked } => {
            let (access_key, secret_key, made_up) = match (access_key, secret_file) {
                (Some(access_key), Some(path)) => {
                    let text = Zeroizing::new(
                        std::fs::read_to_string(&path).map_err(|source| ClientError::Secret { path, source })?,
                    );
                    (access_key, Zeroizing::new(text.trim().to_owned()), false)
                }
                _ => {
                    let (access_key, secret_key) = generate().ok_or(ClientError::Random)?;
                    (access_key, secret_key, true)
                }
            };
            let question = PutAccount {
                name: name.clone(),
                id: id.unwrap_or_default(),
                display_name: display_name.unwrap_or_default(),
                email: email.unwrap_or_default(),
                access_key: access_key.clone(),
                secret_key: secret_key.to_string(),
                replace,
            };
            let _now: AccountsAnswer = client(&asked.server)?.send("/v1/accounts/put", &question).await?;
            let made = Made { name, access_key, secret_key: made_up.then(|| secret_key.to_string()) };
            show(&made, asked.json, |made| {
                println!("account {}", made.name.escape_debug());
                println!("access key {}", made.access_key);
                if let Some(secret) = &made.secret_key {
                    println!("secret key {secret}");
                }
            });
        }
        Account::Quota { id, limits, asked } => return quota::account(id, limits, &asked).await,
        Account::Remove { id, asked } => {
            let question = WhichAccount { id: id.clone() };
            let answer: AccountsAnswer = client(&asked.server)?.send("/v1/accounts/remove", &question).await?;
            show(&answer, asked.json, |_| println!("account {} was removed", id.escape_debug()));
        }
    }
    Ok(0)
}

fn print(account: &AccountInfo) {
    let AccountInfo { id, name, access_key, .. } = account;
    let id = if id == name { String::new() } else { format!("  (id {})", id.escape_debug()) };
    println!("{:<24}  {access_key}{id}", name.escape_debug().to_string());
}
