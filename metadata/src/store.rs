//! From frames to committed stripes: the one home of how a writer packs, places and commits, in metadata's own process and in a
//! gateway's.

use crate::client::{CommitError, StripeFrame};
use crate::command::{Command, NewChunk, NewFrame};
use crate::stripe_writer::{StoreError, Stored, StripeWriter};
use crate::topology::Topology;
use async_trait::async_trait;
use codec::id::Epoch;
use codec::stripe::StripeClass;
use storage_node::client::Reserve;
use storage_node::stripe_io::StripeWriteError;

/// Who stores stripes.
#[async_trait]
pub(crate) trait Storing: Send + Sync {
    /// Its writer.
    fn stripes(&self) -> &StripeWriter;

    /// The drives as they are now.
    async fn topology(&self) -> Result<Topology, CommitError>;

    /// Commits a stripe that is durable.
    async fn commit_stripe(&self, writer: Epoch, command: Command) -> Result<(), CommitError>;
}

/// Why frames were not stored, as a client is told.
pub(crate) fn store_error(error: StoreError) -> CommitError {
    match error {
        StoreError::Full => CommitError::Full,
        StoreError::TooFewDrives { .. } | StoreError::Rule(_) => CommitError::ReadOnly { reason: error.to_string() },
        error => CommitError::Unavailable { reason: error.to_string() },
    }
}

/// Packs frames into stripes, places and writes them, and commits them: `Ok` means that all of them are known.
pub(crate) async fn store_stripes(
    store: &dyn Storing,
    writer: Epoch,
    mut frames: Vec<StripeFrame>,
) -> Result<(), CommitError> {
    let stripes = store.stripes();
    let mut failed: Option<(u8, StoreError)> = None;
    while !frames.is_empty() {
        let topology = store.topology().await?;
        let width = stripes.width(&topology).map_err(store_error)?;
        // Drives that turned out to have failed while a stripe was written leave too few for its width: shrink k, never m.
        if let Some((before, error)) = failed.take_if(|(before, _)| width >= *before) {
            tracing::warn!(before, width, "no narrower stripe is left to try");
            return Err(store_error(error));
        }
        let mut stripe = stripes.open(width, false);
        let mut inside = 0;
        while let Some(frame) = frames.get(inside).filter(|frame| stripe.fits(&frame.frame)) {
            stripe.add(frame.frame.clone());
            inside += 1;
        }
        match stripes.store(stripe, StripeClass::Data, None, &topology, Reserve::Client).await {
            Ok(stored) => {
                let rest = frames.split_off(inside);
                let command = commit_of(stored, std::mem::replace(&mut frames, rest));
                store.commit_stripe(writer, command).await?;
                failed = None;
            }
            Err(error @ StoreError::Write(StripeWriteError::NoDrives { .. })) => failed = Some((width, error)),
            Err(error) => return Err(store_error(error)),
        }
    }
    Ok(())
}

/// What makes the chunks of a stored stripe known.
fn commit_of(stored: Stored, frames: Vec<StripeFrame>) -> Command {
    let chunk = |(frame, place): (StripeFrame, &codec::effect::Place)| NewChunk {
        id: frame.id,
        domain: frame.domain,
        plain_len: frame.plain_len,
        frame: NewFrame::InStripe {
            shard: u8::try_from(place.shard).unwrap_or(u8::MAX),
            offset: place.offset,
            len: place.len,
        },
        is_manifest: frame.is_manifest,
        children: frame.children,
    };
    let chunks = frames.into_iter().zip(&stored.places).map(chunk).collect();
    Command::CommitStripe { stripe: stored.row, chunks }
}
