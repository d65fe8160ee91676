//! The start of a leader: metadata nodes have agreed on what happened, and the drives may lack the end of it.
//!
//! It is a start like any other (`start.rs`), with these differences:
//! * The index is the state machine's. Nothing but committed entries is ever written to it, so it is not replayed from the
//!   drives, not destroyed and not put aside; a node whose index is damaged joins anew.
//! * Nothing is looked at before an entry of this leader's own term is applied here: by then everything that any earlier leader
//!   can have committed, and so journaled, is applied here, too.
//! * The index may be ahead of the drives, if the Raft log has every entry in between and they follow, by hash, the last one that
//!   the drives have. They are journaled first, before anything is decided: on the same LSNs, with the same bytes and epochs.
//! * The drives may lack the `Seal` of all that they have: a leader ended between the agreement on it and the journal. Then they
//!   seem to be empty to an index that has it. They are looked at again, as if nothing were sealed: segments are freed only after
//!   their `Seal` is journaled.
//! * Drives may have been put back to an older copy of themselves (`past.rs`): they are verified, and nothing is deleted. That is
//!   agreed on before the drives are written to, which takes away what it was told by.
//! * Drives that are ahead of the index, or have other entries, are not these metadata nodes' drives any more: they were restored from an older state, or
//!   others were begun from the drives in the meantime. Nothing is served then, not even reads.
//!
//! What a crash, or the loss of leadership, leaves between two steps: what the next leader finds by the same steps. A leader that
//! was superseded while it started may begin the nodes in an epoch above its successor's; so it makes sure that it leads right
//! before that, and the successor starts again when its orders are refused (`replica/run.rs`).

use super::past::{self, PutBack};
use super::serve::{read_only, serve};
use super::{Config, Drives, IndexHome, Means, PutAside, Scene, StartError, open};
use crate::clock::{Clock, Entropy};
use crate::commit::Agreement;
use crate::keys::{KeyError, Keys};
use crate::raft::{Member, RecordError, Tail, proposed, record};
use crate::replica::NotLeading;
use crate::service::Metadata;
use crate::survey::{Chain, IndexMark, best_chain, survey};
use codec::id::{ClusterId, Lsn};
use codec::level::FormatLevel;
use std::sync::Arc;
use storage_node::host::NodeHost;
use storage_node::kv::{Kv, KvError};

/// Gives the keys, each time that this node begins to lead.
pub type LeaderKeys = Arc<dyn Fn() -> Result<Keys, KeyError> + Send + Sync>;

/// What a leader's service is made of.
#[derive(Clone)]
pub struct LeaderParts {
    /// The storage nodes.
    pub nodes: Arc<dyn NodeHost>,
    /// The cluster that they belong to, by their certificates.
    pub cluster: ClusterId,
    /// The key-encryption key.
    pub keys: LeaderKeys,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// How a leader goes on from where the drives end.
pub(super) struct Lead {
    pub member: Arc<Member>,
    /// The term in which this start began to look.
    pub term: u64,
    /// The end of what the drives have.
    pub journaled: Tail,
    /// The drives that are from before that.
    pub put_back: PutBack,
}

impl Lead {
    /// What the committer needs.
    pub fn agreement(&self) -> Agreement {
        Agreement::new(self.member.clone(), self.journaled)
    }

    /// Has it agreed on what follows from drives that were put back, before this start writes over what says that they were.
    pub async fn remember(&self, clock: &dyn Clock, level: FormatLevel) -> Result<(), StartError> {
        self.put_back.agree(&self.member, self.term, clock.wall_ms(), level).await
    }

    /// Makes sure that this node leads, and has led all the time since this start began to look.
    pub async fn confirm(&self) -> Result<(), NotLeading> {
        self.member.leads_in(self.term).await
    }
}

/// The state machine's index, which only committed entries change.
struct Applied(Arc<dyn Kv>);

impl Applied {
    fn kept<T>() -> Result<T, KvError> {
        let detail = "it is a metadata node's, which gets another one only by joining anew".to_owned();
        Err(KvError::Io { path: "of the state machine".to_owned(), detail })
    }
}

impl IndexHome for Applied {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        Ok(self.0.clone())
    }
    fn destroy(&self) -> Result<(), KvError> {
        Self::kept()
    }
    fn set_aside(&self, _: PutAside) -> Result<String, KvError> {
        Self::kept()
    }
}

/// Starts the service of the metadata node that leads. With a reason against writing it serves reads only, and says why in its
/// status. Not to be cancelled: what it has begun would go on.
///
/// # Errors
/// [`StartError::NotLeading`] where this node does not lead, or no more. Nothing is released: the nodes stay as they are.
pub async fn lead(parts: LeaderParts, config: Config, member: Arc<Member>) -> Result<Metadata, StartError> {
    let term = member.term();
    member.leads_in(term).await?;
    let LeaderParts { nodes, cluster, keys, clock, entropy } = parts;
    let index = Arc::new(Applied(member.machine().kv()));
    let mut means = Means { drives: Drives::Far(nodes, cluster), index, clock, entropy, lead: None };
    let (opened, key) = open(&means, &config, Box::new(move |_| keys())).await?;
    let mut scene = opened.look(&config).await?;
    if scene.chain.last.0 > scene.mark.applied {
        return Err(StartError::DrivesAhead { index: scene.mark.applied, drives: scene.chain.last.0 });
    }
    let mut end = drives_end(&member, &scene)?;
    let bridged = match end {
        Some(end) => bridges(&member, end, scene.mark).await?,
        None => {
            end = look_behind_seal(&member, &mut scene, &config).await?;
            end.is_some()
        }
    };
    if let (false, Some(end)) = (bridged, end)
        && agreed_on(&member, end.lsn, scene.mark).await?.is_some_and(|hash| hash != end.hash)
    {
        return Err(StartError::DrivesDiffer(end.lsn));
    }
    // Where the log has what the drives lack, the index counts as being where they are.
    let mark = match end.filter(|_| bridged) {
        Some(end) => IndexMark { applied: end.lsn, hash: end.hash, ..scene.mark },
        None => scene.mark,
    };
    match (scene.judge_index(&config, mark), end) {
        (Ok(()), Some(journaled)) => {
            let last = member.machine().tail()?;
            let ticks = past::ticks_behind(&member, journaled, scene.mark.applied).await?;
            let put_back = past::find(&scene.copies, &scene.register, &last, ticks);
            means.lead = Some(Lead { member, term, journaled, put_back });
            serve(means, config, scene, key, None).await
        }
        (Ok(()), None) => Err(StartError::NoRegister),
        (Err(reason), _) => read_only(means, config, scene, key, reason).await,
    }
}

/// The last entry that the drives have; `None` where it is neither among the unsealed ones nor the index's last.
fn drives_end(member: &Member, scene: &Scene) -> Result<Option<Tail>, StartError> {
    let Chain { held, last: (lsn, hash), .. } = &scene.chain;
    let applied = member.machine().tail()?;
    let held = held.get(lsn).map(|held| Tail { lsn: *lsn, epoch: held.epoch, hash: *hash });
    Ok(held.or(Some(applied).filter(|applied| (applied.lsn, applied.hash) == (*lsn, *hash))))
}

/// Looks for what the drives have as if nothing were sealed, where they seem to have nothing: what the index's last `Seal` seals is
/// still there, if the drives lack that `Seal`. Where the log leads from its end to the index, it is what the start goes on from,
/// and is kept for a member that lacks it, until the `Seal` is journaled.
async fn look_behind_seal(
    member: &Arc<Member>,
    scene: &mut Scene,
    config: &Config,
) -> Result<Option<Tail>, StartError> {
    let copies = survey(&*scene.node, Lsn(0), config.patience.deadline, &config.sabotage).await?;
    let chain = best_chain(&copies, IndexMark { sealed: Lsn(0), ..scene.mark }, &config.sabotage);
    let (lsn, hash) = chain.last;
    let end = chain.held.get(&lsn).map(|held| Tail { lsn, epoch: held.epoch, hash });
    let Some(end) = end.filter(|end| end.lsn <= scene.mark.applied) else { return Ok(None) };
    if !bridges(member, end, scene.mark).await? {
        return Ok(None);
    }
    tracing::warn!(journal = %lsn, index = %scene.mark.applied, "the drives lack the entry that seals all that they have");
    (scene.copies, scene.chain) = (copies, chain);
    Ok(Some(end))
}

/// The hash of the entry that the metadata nodes have agreed on at `lsn`; `None` where the log can't tell. A first proposal gives
/// the end from which the others follow, and it is one that counts if they lead to where the index is.
async fn agreed_on(member: &Arc<Member>, lsn: Lsn, index: IndexMark) -> Result<Option<[u8; 32]>, StartError> {
    let log = member.log().clone();
    let walked = tokio::task::spawn_blocking(move || {
        let (mut tail, mut found) = (None::<Tail>, None);
        for entry in log.committed(log.first_index()?, index.applied.0) {
            let entry = entry?;
            tail = match tail {
                Some(before) => record(&entry, &before).map_err(StartError::Log)?.map(|record| record.tail()),
                None => proposed(&entry),
            };
            found = found.or(tail.filter(|tail| tail.lsn == lsn).map(|tail| tail.hash));
        }
        let leads_there = tail.is_some_and(|tail| (tail.lsn, tail.hash) == (index.applied, index.hash));
        Ok(found.filter(|_| leads_there))
    });
    walked.await.map_err(|error| StartError::Journal(error.to_string()))?
}

/// Whether the Raft log leads, entry by entry, from `end` to where the index is.
async fn bridges(member: &Arc<Member>, end: Tail, index: IndexMark) -> Result<bool, StartError> {
    let (log, mut tail) = (member.log().clone(), end);
    let walked = tokio::task::spawn_blocking(move || {
        for entry in log.committed(tail.lsn.next().0, index.applied.0) {
            match record(&entry?, &tail) {
                Ok(Some(record)) => tail = record.tail(),
                Ok(None) | Err(RecordError::Gap { .. }) => return Ok(false),
                Err(error @ RecordError::Damaged { .. }) => return Err(StartError::Log(error)),
            }
        }
        Ok((tail.lsn, tail.hash) == (index.applied, index.hash))
    });
    walked.await.map_err(|error| StartError::Journal(error.to_string()))?
}
