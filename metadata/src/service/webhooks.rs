//! Which webhooks there are, and what waits for them.
//!
//! Invariant: no bucket's rules name a webhook that nobody configured. What is queued for such a name would wait for ever, and names are
//! as many as whoever sets rules invents.

use super::Metadata;
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, MAX_REPLICATION_KEYS, Refusal};
use crate::index::notices::{self, Queue};
use crate::index::{IndexError, Overlay};
use codec::effect::{ConfigKind, NotificationRow};
use std::collections::BTreeSet;

/// Why notices are not dropped.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// There is none of this name, and nothing waits for it.
    #[error("there is no webhook {0:?}, and nothing waits for it")]
    NoWebhook(String),
    /// It was not committed. What was dropped before stays dropped.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Metadata {
    /// Says which webhooks there are. The first time counts; until then no rules that name any are taken.
    pub fn set_webhooks(&self, names: BTreeSet<String>) {
        self.webhooks.get_or_init(|| names);
    }

    /// The webhooks that there are; none as long as nobody has said so.
    pub fn webhooks(&self) -> BTreeSet<String> {
        self.webhooks.get().cloned().unwrap_or_default()
    }

    /// Refuses rules that name a webhook that there is not.
    pub(super) fn check_webhooks(&self, command: &Command) -> Result<(), CommitError> {
        let Command::PutBucketConfig(put) = command else { return Ok(()) };
        let (ConfigKind::Notification, Some(body)) = (put.kind, &put.body) else { return Ok(()) };
        let Ok(row) = NotificationRow::of_body(body.clone()) else { return Err(Refusal::TooLarge.into()) };
        if row.rules.is_empty() {
            return Ok(());
        }
        let Some(known) = self.webhooks.get() else {
            return Err(CommitError::Unavailable { reason: "the file of webhooks was not read yet".to_owned() });
        };
        match row.rules.into_iter().find(|rule| !known.contains(&rule.webhook)) {
            Some(rule) => Err(Refusal::NoSuchWebhook(rule.webhook).into()),
            None => Ok(()),
        }
    }

    /// What waits for webhooks, and what was lost, by their names.
    ///
    /// # Errors
    /// The index failed.
    pub fn notices(&self) -> Result<Vec<Queue>, IndexError> {
        notices::queues(&Overlay::new(&**self.kv()))
    }

    /// Drops what waits for a webhook: nobody will be told of it. What was lost of its notices counts no more. How many were dropped.
    ///
    /// # Errors
    /// There is no such webhook, or it was not committed.
    pub async fn drop_notices(&self, webhook: &str) -> Result<u64, WebhookError> {
        let known = self.webhooks().contains(webhook);
        if !known && self.notices()?.iter().all(|queue| queue.webhook != webhook) {
            return Err(WebhookError::NoWebhook(webhook.to_owned()));
        }
        let mut dropped = 0;
        // No more than there are now: what is queued meanwhile as fast as it is dropped would keep this going for ever.
        let most = notices::length(&Overlay::new(&**self.kv()), webhook)?;
        while dropped < most {
            let waiting = notices::first(&Overlay::new(&**self.kv()), webhook, MAX_REPLICATION_KEYS)?;
            let names: Vec<_> = waiting.into_iter().filter_map(|notice| notice.name).collect();
            if names.is_empty() {
                break;
            }
            dropped += names.len() as u64;
            self.commit(self.epoch(), Command::NoticesDone(names)).await?;
        }
        self.commit(self.epoch(), Command::LostNoticesSeen { webhook: webhook.to_owned() }).await?;
        Ok(dropped)
    }
}
