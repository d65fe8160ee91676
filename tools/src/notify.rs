//! Telling webhooks what happened in buckets: notices ([`metadata::index::notices`]) are sent by the process that commits, behind the
//! acknowledgement and in no client's way.
//!
//! Invariants:
//! * Notices of one webhook are sent in the order in which they happened, each at least once: one waits until its webhook has answered
//!   2xx, also over a restart. A webhook that fails keeps only its own notices waiting.
//! * Only what an operator wrote into the file of webhooks is ever connected to, at addresses that [`webhook`] lets through; what
//!   it answers is not followed anywhere, and not shown to anybody.
//! * Nothing is remembered that a restart needs.

mod record;
pub mod webhook;

use crate::admin_webhooks;
use codec::effect::NoticeName;
use gateway::noted::Noted;
use metadata::client::MetadataClient;
use metadata::command::Command;
use metadata::index::{Overlay, notices};
use metadata::service::Metadata;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use webhook::{Webhook, Webhooks};

/// How often an empty queue is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Notices that are taken at once, and taken off the queue in one entry.
const BATCH: usize = 100;
/// The first pause after a failure, which is doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often the queues are looked over, for the log.
const WATCH: Duration = Duration::from_secs(60);

/// Tells for as long as it lives.
#[derive(Debug)]
pub(crate) struct Teller {
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Teller {
    /// Begins to send what waits in `meta`.
    pub(crate) fn start(meta: &Arc<Metadata>, webhooks: &Webhooks) -> Teller {
        meta.set_webhooks(webhooks.iter().map(|webhook| webhook.name.clone()).collect());
        let lanes = webhooks.iter().map(|webhook| {
            let lane = Lane { meta: Arc::clone(meta), webhook: Arc::clone(webhook), noted: Noted::default() };
            tokio::spawn(lane.run())
        });
        let mut tasks: Vec<JoinHandle<()>> = lanes.collect();
        tasks.push(tokio::spawn(watch(Arc::clone(meta))));
        Teller { tasks: Mutex::new(tasks) }
    }

    /// Ends. What was being sent is sent again by the next one.
    pub(crate) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            // Aborted: there is no result.
            let _ended = task.await;
        }
    }
}

/// What one webhook is told.
struct Lane {
    meta: Arc<Metadata>,
    webhook: Arc<Webhook>,
    noted: Noted,
}

impl Lane {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.step().await {
                Ok(true) => pause = FIRST_PAUSE,
                Ok(false) => sleep(LOOK).await,
                Err(failed) => {
                    if self.noted.is_news(&self.webhook.name) {
                        tracing::warn!(webhook = self.webhook.name, %failed, "a webhook is not told what happened; it waits");
                    }
                    sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Sends what waits. `false`: nothing did.
    async fn step(&self) -> Result<bool, String> {
        let waiting = notices::first(&Overlay::new(&**self.meta.kv()), &self.webhook.name, BATCH);
        let waiting = waiting.map_err(|failed| failed.to_string())?;
        if waiting.is_empty() {
            return Ok(false);
        }
        let (mut done, mut failed) = (Vec::new(), None);
        for notice in waiting {
            let Some(name) = notice.name.clone() else { continue };
            match self.webhook.tell(&name, &record::body(&notice)).await {
                Ok(()) => done.push(name),
                Err(why) => {
                    failed = Some(why.to_string());
                    break;
                }
            }
        }
        // What was sent is not sent again for what was not.
        if !done.is_empty() {
            self.told(done).await?;
        }
        failed.map_or(Ok(true), Err)
    }

    async fn told(&self, done: Vec<NoticeName>) -> Result<(), String> {
        let committed = self.meta.commit(self.meta.epoch(), Command::NoticesDone(done)).await;
        committed.map(drop).map_err(|failed| failed.to_string())
    }
}

/// Says in the log which webhooks somebody should look at, as `stele status` does.
async fn watch(meta: Arc<Metadata>) {
    let noted = Noted::default();
    loop {
        // An index that can't be read is said where it is read for more than this.
        for webhook in admin_webhooks::describe(&meta).unwrap_or_default() {
            for warning in admin_webhooks::warnings(std::slice::from_ref(&webhook)) {
                if noted.is_news(&webhook.name) {
                    tracing::warn!(webhook = webhook.name, "{warning}");
                }
            }
        }
        sleep(WATCH).await;
    }
}
