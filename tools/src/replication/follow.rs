//! Replication where the service is: it begins when this process serves metadata, and ends when it no longer does.

use super::Replicator;
use crate::admin::AdminState;
use gateway::engine::{Config, Gateway};
use metadata::client::MetadataClient;
use metadata::replica::{Alone, Leading};
use metadata::service::Metadata;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How often is looked whether the service is still the same. A service that is gone commits nothing, so work that goes on for
/// so long is done again by its successor, and what it still writes there can't replace what the successor wrote.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes that reading may have in flight, beside what is on its way out.
const MEMORY: usize = 64 << 20;
/// Reads at once.
const READS: usize = 32;

/// Replicates for as long as it lives, whenever this process serves metadata.
#[derive(Debug)]
pub struct Following {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Following {
    /// Looks at what `state` says of the service, and tells it of the [`Replicator`].
    pub fn start(state: Arc<AdminState>) -> Following {
        let (end, ended) = watch::channel(false);
        Following { end, task: tokio::spawn(follow(state, ended)) }
    }

    /// Ends all work. To be waited for before the service is shut down.
    pub async fn stop(self) {
        // An error means that it has ended already.
        let _ended = self.end.send(true);
        let _ended = self.task.await;
    }
}

async fn follow(state: Arc<AdminState>, mut ended: watch::Receiver<bool>) {
    let mut current: Option<Arc<Replicator>> = None;
    loop {
        let service = state.metadata().ok();
        let same = match (&current, &service) {
            (Some(current), Some(service)) => current.is_of(service),
            (None, None) => true,
            _ => false,
        };
        if !same {
            stop(&state, current.take()).await;
            current = service.map(|service| {
                let leading = state.seat().map(|seat| seat as Arc<dyn Leading>);
                start(service, leading)
            });
            state.replicating(current.clone());
        }
        // Until it is time to look again, or the end: also when nobody can say it any more.
        if timeout(LOOK, ended.wait_for(|ended| *ended)).await.is_ok() {
            return stop(&state, current).await;
        }
    }
}

async fn stop(state: &AdminState, replicator: Option<Arc<Replicator>>) {
    state.replicating(None);
    if let Some(replicator) = replicator {
        replicator.stop().await;
    }
}

/// `leading`: where this process is one of several.
fn start(meta: Arc<Metadata>, leading: Option<Arc<dyn Leading>>) -> Arc<Replicator> {
    // An engine of its own: clients and replication don't wait for each other's places.
    let limits = Config { memory: MEMORY, gets: READS, ..Config::default() };
    let engine = Gateway::new(Arc::clone(&meta) as Arc<dyn MetadataClient>, limits);
    let leading = leading.unwrap_or_else(|| Arc::new(Alone(Arc::clone(&meta))));
    Replicator::start(meta, leading, engine)
}
