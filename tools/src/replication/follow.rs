//! Replication, webhooks and inventories where the service is: they begin when this process serves metadata, and end when it no
//! longer does.

use super::Replicator;
use crate::admin::AdminState;
use crate::notify::Teller;
use crate::notify::webhook::Webhooks;
use gateway::engine::{Config, Gateway};
use gateway::inventory::Inventories;
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
    /// Looks at what `state` says of the service, and tells it of the [`Replicator`]. What happens is told to `webhooks` by the same
    /// process.
    pub fn start(state: Arc<AdminState>, webhooks: Webhooks) -> Following {
        let (end, ended) = watch::channel(false);
        Following { end, task: tokio::spawn(follow(state, webhooks, ended)) }
    }

    /// Ends all work. To be waited for before the service is shut down.
    pub async fn stop(self) {
        // An error means that it has ended already.
        let _ended = self.end.send(true);
        let _ended = self.task.await;
    }
}

async fn follow(state: Arc<AdminState>, webhooks: Webhooks, mut ended: watch::Receiver<bool>) {
    let mut current: Option<Arc<Replicator>> = None;
    let mut beside: Option<Beside> = None;
    loop {
        let service = state.metadata().ok();
        let same = match (&current, &service) {
            (Some(current), Some(service)) => current.is_of(service),
            (None, None) => true,
            _ => false,
        };
        if !same {
            stop(&state, current.take(), beside.take()).await;
            (current, beside) = service.map(|service| start(&state, service, &webhooks)).unzip();
            state.replicating(current.clone());
        }
        // Until it is time to look again, or the end: also when nobody can say it any more.
        if timeout(LOOK, ended.wait_for(|ended| *ended)).await.is_ok() {
            return stop(&state, current, beside).await;
        }
    }
}

/// What runs beside replication for as long as the same service is there.
struct Beside {
    teller: Teller,
    inventories: JoinHandle<()>,
}

async fn stop(state: &AdminState, replicator: Option<Arc<Replicator>>, beside: Option<Beside>) {
    state.replicating(None);
    if let Some(Beside { teller, inventories }) = beside {
        teller.stop().await;
        inventories.abort();
        // Aborted: there is no result. One that was begun is made by the next service.
        let _ended = inventories.await;
    }
    if let Some(replicator) = replicator {
        replicator.stop().await;
    }
}

fn start(state: &AdminState, meta: Arc<Metadata>, webhooks: &Webhooks) -> (Arc<Replicator>, Beside) {
    // An engine of its own: clients and what is done beside them don't wait for each other's places.
    let limits = Config { memory: MEMORY, gets: READS, ..Config::default() };
    let engine = Gateway::new(Arc::clone(&meta) as Arc<dyn MetadataClient>, limits);
    let inventories = Inventories::new(Arc::clone(&meta), Arc::clone(&engine));
    let beside = Beside { teller: Teller::start(&meta, webhooks), inventories: tokio::spawn(inventories.run()) };
    // Where this process is one of several.
    let seat = state.seat().map(|seat| seat as Arc<dyn Leading>);
    let leading = seat.unwrap_or_else(|| Arc::new(Alone(Arc::clone(&meta))));
    (Replicator::start(meta, leading, engine), beside)
}
