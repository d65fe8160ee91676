//! `stele webhook`.

use super::client;
use super::keep::{Asked, show};
use crate::admin_client::ClientError;
use crate::admin_webhooks::{WebhookDrop, WebhookDropped, WebhookInfo, WebhooksAnswer};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum Webhook {
    /// The webhooks, how many events wait for each, and how many were lost because too many waited.
    List(Asked),
    /// Drop what waits for a webhook: it will not be told of it. What was lost of its events counts no more, either.
    Drop {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs `stele webhook`.
pub(super) async fn webhook(command: Webhook) -> Result<u8, ClientError> {
    match command {
        Webhook::List(asked) => {
            let answer: WebhooksAnswer = client(&asked.server)?.ask(Method::GET, "/v1/webhooks").await?;
            show(&answer, asked.json, |answer| answer.webhooks.iter().for_each(print));
        }
        Webhook::Drop { name, asked } => {
            let question = WebhookDrop { name: name.clone() };
            let answer: WebhookDropped = client(&asked.server)?.send("/v1/webhooks/drop", &question).await?;
            show(&answer, asked.json, |answer| {
                println!("{} events for {} were dropped", answer.dropped, name.escape_debug());
            });
        }
    }
    Ok(0)
}

fn print(webhook: &WebhookInfo) {
    let WebhookInfo { name, configured, waiting, lost } = webhook;
    let lost = if *lost > 0 { format!(", {lost} lost") } else { String::new() };
    let stranger = if *configured { "" } else { "  (not in the file of webhooks)" };
    println!("{:<32}  {waiting} waiting{lost}{stranger}", name.escape_debug().to_string());
}
