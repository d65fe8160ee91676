//! Epochs are renewed while a service runs (R9).
//!
//! A stripe that was written and never committed is collected when its epoch is fenced, never by its age. Were a start's epoch
//! held until the next start, what failed writes leave behind would stay for as long as the service runs. So every hour a new
//! epoch is granted; stripes that are begun from then on are numbered in it.
//!
//! A gateway that is a process of its own has epochs of its own ([`Epochs::grant`]), and takes another one every hour. Nobody
//! watches whether it is alive. Requests may begin in its epoch for two hours ([`EPOCH_HOLD_MS`](crate::command::EPOCH_HOLD_MS)), by the steady count, which is
//! journaled; a request lives for twelve; so fourteen hours after the grant nothing that began in it is under way, whether its
//! holder renewed, ended or was cut off, and it is fenced with the next epoch that anybody takes. A gateway that could not renew
//! for so long, or stood still, is refused (503) and takes a new one at once. Its own clock decides nothing.
//!
//! All epochs are one sequence, and one number says which are fenced: those before it. So an epoch that stays open keeps open what
//! was granted after it. That costs the orphans of those some hours, and no more.
//!
//! Invariants
//! * No two processes number stripes in one epoch. An epoch is committed for one holder and told to this one alone; one whose grant
//!   was answered as in doubt is nobody's. The service takes up only what it proposed itself: a node that was deposed applies the
//!   start of its successor, and that one's epoch is the index's then ([`index::epoch`]).
//! * Storage nodes take stripes of a gateway only in its own epochs ([`NodeHost::granted`]): they are told before the gateway is.
//! * Neither a start nor a new leader fences the epoch of a gateway before its time: what the gateway stores at present would be
//!   refused, on all gateways at once, each time that the leader changes.
//! * An epoch is granted by an entry on 1+m drives that is applied, and only then is a stripe numbered in it. The other way
//!   round a crash would leave a stripe of an epoch that nobody granted, which holds reclaim as a witness of another history
//!   (R10). A crash between the two leaves an epoch that nobody uses.
//! * An epoch stays open for as long as a request may live after the next one was granted; the commit that renews decides
//!   that, by the steady count (`state/cluster.rs`). Were it fenced earlier, a request that is still storing would be refused;
//!   later, and what it left would stay longer than it has to.
//! * It stays open too while work of the service's own that began in it is unfinished (a checkpoint, a seal, stripes that are
//!   written again): that commits the stripes of hours at its end, and a checkpoint that takes longer than a request may live
//!   could never be committed ([`StripeWriter::begin_work`]).
//! * A commit of a fenced epoch is refused, so what is not known of it can't become known, and is free to go. The client of
//!   such a request is told to send it again (503), and then it holds the new epoch.
//! * The epoch of the journal is another number and is not renewed: recovery compares the last entries of the copies by it. It
//!   is taken before the journal is replayed, so a start may find that later epochs than that were granted for stripes. Then it
//!   holds one above those, and the journal keeps its own (`start/serve.rs`).

use crate::client::CommitError;
use crate::clock::{Entropy, random};
use crate::command::{Command, Refusal};
use crate::commit::Request;
use crate::index::reclaim::{gateways, last_granted};
use crate::index::{self, IndexError, Overlay};
use crate::service::Shared;
use crate::stripe_writer::StripeWriter;
use codec::id::Epoch;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::host::{Grants, NodeHost};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// How often an epoch is asked for, when others are granted theirs at the same time.
const TRIES: u32 = 5;

/// Why an epoch was not renewed. The one that is held goes on, and what it left behind waits.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// No random numbers can be had: an epoch without them could be that of another history (R1).
    #[error("the system has no random numbers")]
    Entropy,
    /// No epoch follows the highest one (R1): a drive names one that is forged or rotten.
    #[error("epoch {0} is named by a drive, and no epoch follows it: it is forged or rotten")]
    Last(Epoch),
    /// The new epoch was not committed, or nobody knows whether it was: it is not used.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The committer has ended.
    #[error("the service is stopping")]
    Stopping,
}

/// Renews the epoch.
pub struct Epochs {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: Arc<dyn NodeHost>,
    pub(crate) stripes: Arc<StripeWriter>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) proposed: Proposed,
}

/// The epochs that this service asked for as its own, and of which it is not known whether they were granted.
#[derive(Debug, Default)]
pub(crate) struct Proposed(Mutex<BTreeSet<Epoch>>);

/// So many are remembered. One that is forgotten is not taken up: its service renews later, and that is all.
const PROPOSED: usize = 64;

impl Proposed {
    fn epochs(&self) -> MutexGuard<'_, BTreeSet<Epoch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, epoch: Epoch) {
        let mut epochs = self.epochs();
        epochs.insert(epoch);
        if epochs.len() > PROPOSED {
            epochs.pop_first();
        }
    }

    /// Whether `granted` is one of them. What is before it can't be granted any more.
    fn is_ours(&self, granted: Epoch) -> bool {
        let mut epochs = self.epochs();
        epochs.retain(|epoch| *epoch >= granted);
        epochs.contains(&granted)
    }
}

impl Epochs {
    /// Renews it every so often, until the task is ended.
    pub async fn run(self: Arc<Self>, every: Duration) {
        self.tell().await;
        loop {
            sleep(every).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the epoch was not renewed; what was left behind in it waits");
            }
        }
    }

    /// Takes a new epoch, and has those fenced whose time is over.
    pub async fn renew(&self) -> Result<Epoch, EpochError> {
        // A renewal that was answered as in doubt may have come true. It is held from now on: were it not, the one that is held
        // instead would be fenced by those that follow, and then this service would refuse everything, renewals too.
        // One of a gateway, or of the service that leads by now, is nothing to take up: two would number stripes in it (R1).
        let granted = index::epoch(&Overlay::new(&*self.shared.kv))?;
        if self.proposed.is_ours(granted) {
            self.stripes.renew(granted);
        }
        let propose = |epoch, unfinished| {
            self.proposed.add(epoch);
            Command::RenewEpoch { epoch, unfinished }
        };
        let epoch = self.take(propose).await?;
        self.stripes.renew(epoch);
        tracing::info!(%epoch, "the epoch was renewed");
        Ok(epoch)
    }

    /// Grants a gateway an epoch of its own.
    ///
    /// # Errors
    /// It was not committed, or nobody knows whether it was: then it is nobody's, and the gateway asks again.
    pub async fn grant(&self, holder: String) -> Result<Epoch, EpochError> {
        let of = holder.clone();
        let epoch =
            self.take(|epoch, unfinished| Command::GrantEpoch { epoch, holder: of.clone(), unfinished }).await?;
        tracing::info!(%epoch, holder, "a gateway was granted an epoch");
        self.tell().await;
        Ok(epoch)
    }

    /// Tells the storage nodes which gateway may write in which epochs. A gateway that was answered before would find them closed.
    async fn tell(&self) {
        let view = Overlay::new(&*self.shared.kv);
        // In this order: what is read then has all grants up to that one, and no list that is told as older has more.
        let (as_of, granted) = match last_granted(&view).and_then(|last| Ok((last, gateways(&view)?))) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "the storage nodes are not told which epochs were granted");
                return;
            }
        };
        let epochs = granted.into_iter().map(|row| (Epoch(row.epoch), row.holder)).collect();
        self.node.granted(Arc::new(Grants::new(epochs, as_of))).await;
    }

    /// Commits the command that is made of an epoch above all others, and returns the epoch.
    async fn take(&self, command: impl Fn(Epoch, Epoch) -> Command) -> Result<Epoch, EpochError> {
        let mut tries = 0;
        loop {
            let epoch = self.next().await?;
            tries += 1;
            match self.commit(command(epoch, self.stripes.oldest_unfinished())).await {
                Ok(()) => return Ok(epoch),
                // Somebody else was granted a higher one meanwhile.
                Err(EpochError::Commit(CommitError::Refused(Refusal::Fenced { .. }))) if tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// An epoch above all that were ever granted.
    async fn next(&self) -> Result<Epoch, EpochError> {
        let granted = last_granted(&Overlay::new(&*self.shared.kv))?;
        // A drive that came back may know of more.
        let highest = self.node.highest_epoch().await.unwrap_or_default().max(granted).max(self.stripes.epoch());
        let random = u32::from_le_bytes(random(&*self.entropy).ok_or(EpochError::Entropy)?);
        highest.next(random).ok_or(EpochError::Last(highest))
    }

    async fn commit(&self, command: Command) -> Result<(), EpochError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.stripes.epoch(), Box::new(command), reply);
        self.requests.send(request).await.map_err(|_| EpochError::Stopping)?;
        answer.await.map_err(|_| EpochError::Stopping)??;
        Ok(())
    }
}
