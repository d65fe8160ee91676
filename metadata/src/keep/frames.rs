//! The frames of a stripe as they lie in it. Their headers name their chunks, so no index from stripe to chunks is needed.

use bytes::Bytes;
use codec::effect::Place;
use codec::frame::{MAX_HEADER, parse_header, verify_stored};
use codec::id::{ChunkId, StripeId};
use storage_node::client::NodeClient;
use storage_node::stripe_io::{ReadOptions, StripeLayout, StripeReadError, read_range};

/// A frame, verified.
#[derive(Clone, Debug)]
pub struct Laid {
    /// The chunk that its header names.
    pub id: ChunkId,
    /// Where it lies.
    pub place: Place,
    /// The whole frame.
    pub frame: Bytes,
}

/// Why nobody knows all frames of a stripe. Unknown is not absent (R13): such a stripe is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// A data shard can neither be read nor decoded.
    #[error(transparent)]
    Read(#[from] StripeReadError),
    /// What lies there is no frame.
    #[error("stripe {stripe}, shard {shard}: no frame at offset {offset}")]
    NoFrame {
        /// The stripe.
        stripe: StripeId,
        /// The data shard.
        shard: u8,
        /// Where a frame should begin.
        offset: u32,
    },
}

/// Every frame of a data stripe: its data shards are frames from end to end. Each shard is read whole, and compared with the
/// hash in the descriptor on the way.
pub async fn frames_of(node: &dyn NodeClient, layout: &StripeLayout) -> Result<Vec<Laid>, FramesError> {
    let mut laid = Vec::new();
    for shard in layout.descriptor.data_present() {
        laid.extend(frames_in(node, layout, shard).await?);
    }
    Ok(laid)
}

/// The frames of one data shard.
pub async fn frames_in(node: &dyn NodeClient, layout: &StripeLayout, shard: u8) -> Result<Vec<Laid>, FramesError> {
    let stripe = layout.descriptor.id;
    let mut laid = Vec::new();
    let whole = 0..layout.descriptor.shard_len(shard);
    let bytes = read_range(node, layout, shard, whole, ReadOptions::default()).await?;
    let mut offset = 0usize;
    while offset < bytes.len() {
        let at = u32::try_from(offset).unwrap_or(u32::MAX);
        let no_frame = || FramesError::NoFrame { stripe, shard, offset: at };
        let rest = bytes.slice(offset..);
        let header = parse_header(&rest[..rest.len().min(MAX_HEADER)]).map_err(|_| no_frame())?;
        let len = header.frame_len();
        if len > rest.len() {
            return Err(no_frame());
        }
        let frame = rest.slice(..len);
        let header = verify_stored(&frame).map_err(|_| no_frame())?;
        let place = Place::in_stripe(stripe, shard, at, u32::try_from(len).map_err(|_| no_frame())?);
        laid.push(Laid { id: header.id, place, frame });
        offset += len;
    }
    Ok(laid)
}
