//! The pool of the open stripe: frames of all requests meet here, and leave as whole stripes.
//!
//! Invariants:
//! * A frame is in the pool only with room held for it, and gives it back when its stripe is durable or has failed.
//! * A stripe closes when the next frame has no place in it; or when somebody waits for it, or for room, and no stripe is
//!   being written, or one that was has returned. There is no timer, and everything that was added is written in the end,
//!   whether or not somebody still waits: so room always comes back.
//! * A chunk is at most once in the stripes that are open or being written: who adds it again gets the same ticket.
//! * A ticket says `Ok` only after the stripe was committed: all its shards durable, and its chunks known.

use crate::budget::{Bytesful, Held};
use codec::id::{ChunkId, Epoch};
use metadata::client::{CommitError, MetadataClient, StripeFrame};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage_node::trace;
use tokio::sync::watch;

/// What became of a stripe.
type Written = Result<(), Arc<CommitError>>;

/// A stripe from its opening until it is durable.
struct Batch {
    done: watch::Sender<Option<Written>>,
}

/// A claim to a frame's stripe.
#[derive(Clone)]
pub struct Ticket {
    batch: Arc<Batch>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("done", &*self.batch.done.borrow()).finish()
    }
}

impl Ticket {
    /// Whether both are for the same stripe.
    pub fn same(&self, other: &Ticket) -> bool {
        Arc::ptr_eq(&self.batch, &other.batch)
    }
}

/// Bytes in each data shard, as the packer will fill them: least full first.
struct Fill {
    shards: Vec<usize>,
    target: usize,
}

impl Fill {
    fn new(data_shards: usize, bytes: usize) -> Fill {
        let count = data_shards.max(1);
        Fill { shards: vec![0; count], target: bytes / count }
    }

    fn least(&mut self) -> Option<&mut usize> {
        self.shards.iter_mut().min()
    }

    /// A frame that is longer than a shard has a stripe of its own.
    fn fits(&mut self, len: usize) -> bool {
        let target = self.target;
        self.least().is_none_or(|least| *least == 0 || *least + len <= target)
    }

    fn add(&mut self, len: usize) {
        if let Some(least) = self.least() {
            *least += len;
        }
    }
}

struct Open {
    batch: Arc<Batch>,
    /// The newest epoch among those whose frames are in it.
    writer: Epoch,
    frames: Vec<StripeFrame>,
    room: Vec<Held>,
    fill: Fill,
    wanted: bool,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Stripes being written.
    writing: usize,
    /// Requests that wait for room.
    short_of_room: usize,
    /// Where chunks are that are in the open stripe or in one being written.
    known: HashMap<ChunkId, Arc<Batch>>,
}

/// See the module.
pub struct StripePool {
    meta: Arc<dyn MetadataClient>,
    room: Bytesful,
    /// Data bytes of a stripe at most.
    target: usize,
    state: Mutex<State>,
}

impl fmt::Debug for StripePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripePool").field("target", &self.target).finish_non_exhaustive()
    }
}

impl StripePool {
    /// A pool whose stripes have at most `target` data bytes (one longer frame excepted).
    pub fn new(meta: Arc<dyn MetadataClient>, room: Bytesful, target: usize) -> Arc<StripePool> {
        Arc::new(StripePool { meta, room, target, state: Mutex::default() })
    }

    /// The state is changed only by code that can't panic halfway; a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for `bytes`.
    pub async fn room(self: &Arc<Self>, bytes: usize) -> Held {
        if let Some(held) = self.room.try_hold(bytes) {
            return held;
        }
        let _short = ShortOfRoom::new(self);
        self.room.hold(bytes).await
    }

    /// The stripe that already has this chunk, if it is open or being written.
    pub fn find(&self, id: &ChunkId) -> Option<Ticket> {
        self.state().known.get(id).map(|batch| Ticket { batch: Arc::clone(batch) })
    }

    /// Adds a frame with the room held for it.
    pub fn add(self: &Arc<Self>, writer: Epoch, frame: StripeFrame, room: Held) -> Ticket {
        let mut state = self.state();
        if let Some(batch) = state.known.get(&frame.id) {
            return Ticket { batch: Arc::clone(batch) };
        }
        let len = frame.frame.len();
        if state.open.as_mut().is_some_and(|open| !open.fill.fits(len)) {
            self.close(&mut state);
        }
        let fill = || self.new_fill();
        let open = state.open.get_or_insert_with(|| Open {
            batch: Arc::new(Batch { done: watch::Sender::new(None) }),
            writer,
            frames: Vec::new(),
            room: Vec::new(),
            fill: fill(),
            wanted: false,
        });
        // Requests keep their epoch for up to twelve hours and a new one is granted each hour, so several write at a time. A stripe
        // for each would be a few chunks long. What an epoch is asked for at the end is the commit of the object.
        open.writer = open.writer.max(writer);
        open.fill.add(len);
        let (id, batch) = (frame.id, Arc::clone(&open.batch));
        open.frames.push(frame);
        open.room.push(room);
        state.known.insert(id, Arc::clone(&batch));
        self.close_if_wanted(&mut state);
        Ticket { batch }
    }

    fn new_fill(&self) -> Fill {
        // Without drives to write to, the write itself says why; any measure does until then.
        match self.meta.stripe_shape() {
            Ok(shape) => {
                let shards = usize::from(shape.max_data_shards);
                Fill::new(shards, self.target.min(shards.saturating_mul(shape.shard_target as usize)))
            }
            Err(_) => Fill::new(1, self.target),
        }
    }

    /// Waits until the ticket's stripe is durable and known.
    pub async fn wait(self: &Arc<Self>, ticket: &Ticket) -> Written {
        let mut done = ticket.batch.done.subscribe();
        {
            let mut state = self.state();
            if let Some(open) = state.open.as_mut().filter(|open| Arc::ptr_eq(&open.batch, &ticket.batch)) {
                open.wanted = true;
                self.close_if_wanted(&mut state);
            }
        }
        let gone = || Err(Arc::new(CommitError::Unavailable { reason: "the stripe pool has ended".to_owned() }));
        match done.wait_for(Option::is_some).await {
            Ok(value) => value.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Closes the open stripe if somebody waits and nothing is being written.
    fn close_if_wanted(self: &Arc<Self>, state: &mut State) {
        let short = state.short_of_room > 0;
        if state.writing == 0 && state.open.as_ref().is_some_and(|open| open.wanted || short) {
            self.close(state);
        }
    }

    fn close(self: &Arc<Self>, state: &mut State) {
        let Some(open) = state.open.take() else { return };
        state.writing += 1;
        let ids = open.frames.iter().map(|frame| frame.id).collect();
        let writing = Writing { pool: Arc::clone(self), batch: open.batch, ids, room: open.room, result: None };
        // It has frames of many requests, and is logged as the work of the one that closed it.
        tokio::spawn(trace::carry(async move {
            let stored = writing.pool.meta.store_stripe(open.writer, open.frames).await;
            writing.finish(stored.map_err(Arc::new));
        }));
    }

    /// A stripe has returned: whoever waited for it to do so has waited long enough.
    fn returned(self: &Arc<Self>, ids: &[ChunkId]) {
        let mut state = self.state();
        state.writing = state.writing.saturating_sub(1);
        for id in ids {
            state.known.remove(id);
        }
        let short = state.short_of_room > 0;
        if state.open.as_ref().is_some_and(|open| open.wanted || short) {
            self.close(&mut state);
        }
    }
}

/// A stripe being written. When this goes, whatever the reason, those who wait hear of it.
struct Writing {
    pool: Arc<StripePool>,
    batch: Arc<Batch>,
    ids: Vec<ChunkId>,
    room: Vec<Held>,
    result: Option<Written>,
}

impl Writing {
    fn finish(mut self, result: Written) {
        self.result = Some(result);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.room.clear();
        // First out of `known`, then the news: who looks after the news asks the index, which has the chunks by now.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.pool.returned(&self.ids);
        }
        let ended = || Err(Arc::new(CommitError::Unavailable { reason: "the write of a stripe was ended".to_owned() }));
        self.batch.done.send_replace(Some(self.result.take().unwrap_or_else(ended)));
    }
}

/// Says for its lifetime that somebody waits for room.
struct ShortOfRoom<'a>(&'a Arc<StripePool>);

impl<'a> ShortOfRoom<'a> {
    fn new(pool: &'a Arc<StripePool>) -> ShortOfRoom<'a> {
        let mut state = pool.state();
        state.short_of_room += 1;
        pool.close_if_wanted(&mut state);
        drop(state);
        ShortOfRoom(pool)
    }
}

impl Drop for ShortOfRoom<'_> {
    fn drop(&mut self) {
        self.0.state().short_of_room -= 1;
    }
}
