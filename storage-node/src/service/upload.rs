//! The two calls that carry a payload: shards and journal batches.
//!
//! Invariants:
//! * Room for the whole payload is taken before its first byte is read, so that any number of writers hold no more than
//!   [`ServiceConfig::uploads`](super::ServiceConfig::uploads), or one payload that is larger than that by itself; who waits
//!   is held back by HTTP/2's windows.
//! * Nothing is written that was not received whole and does not have the hash that the record's header names. The sender
//!   made that hash when it made the shard, so this finds what changed since, wherever it changed.

use super::call::{Answered, Asked, Once, Problem, late, room};
use super::fault::Fault;
use super::grants::NotGranted;
use super::identity::Role;
use super::message::drive_id;
use super::method::Method;
use super::rooms::Held;
use super::wire::{Done, MESSAGE_LIMIT, Upload, UploadHead, Wire};
use crate::client::{Reserve, WriteError};
use bytes::{Bytes, BytesMut};
use codec::journal::BatchHeader;
use codec::segment::MAX_RECORD_PAYLOAD;
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};

const UNREADABLE: WriteError = WriteError::Malformed("the header can't be read");
const OTHER_PAYLOAD: WriteError = WriteError::Malformed("the header does not describe the payload");
const OTHER_BYTES: WriteError = WriteError::Malformed("the payload is not what its header names");
const NEVER_GRANTED: WriteError = WriteError::Malformed("the stripe's epoch was never granted");
const OTHER_LENGTH: WriteError = WriteError::Malformed("the upload does not have the length that it names");

pub(crate) fn serve(asked: Asked, request: http::Request<Body>) -> Answered {
    let call = move |request: Request<Streaming<Upload>>| async move {
        // From here on each piece has its own time.
        asked.is_read();
        let deadline = asked.deadline;
        let written = timeout_at(deadline, take(asked, request.into_inner())).await;
        let fault = match written.unwrap_or_else(|_| Err(Problem::Status(late()))) {
            Ok(()) => None,
            Err(Problem::Fault(fault)) => Some(fault.to_message()),
            Err(Problem::Status(status)) => return Err(status),
        };
        Ok(Response::new(Done { fault }))
    };
    let codec = Wire::<Done, Upload>::default();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_LIMIT);
    async move { grpc.client_streaming(Once::new(call), request).await }.boxed()
}

enum Header {
    Shard(ShardHeader),
    Batch(BatchHeader),
}

impl Header {
    fn parse(method: Method, bytes: &[u8]) -> Result<Header, WriteError> {
        match method {
            Method::JournalAppend => BatchHeader::parse(bytes).map(Header::Batch).map_err(|_| UNREADABLE),
            _ => ShardHeader::parse(bytes).map(Header::Shard).map_err(|_| UNREADABLE),
        }
    }

    fn hash(&self) -> Option<[u8; 32]> {
        match self {
            Header::Shard(header) => header.descriptor.hashes.get(usize::from(header.index)).copied(),
            Header::Batch(header) => Some(header.hash),
        }
    }
}

async fn take(asked: Asked, mut stream: Streaming<Upload>) -> Result<(), Problem> {
    let stall = asked.shared.config.stall;
    let first = next(&mut stream, Instant::now() + stall).await?;
    let head = first.and_then(|upload| upload.head).ok_or_else(Problem::malformed)?;
    let drive = drive_id(&head.drive).ok_or_else(Problem::malformed)?;
    let header = Header::parse(asked.method, &head.header)?;
    check(&asked, &head, &header)?;
    let len = usize::try_from(head.len).map_err(|_| Problem::malformed())?;
    let node = &asked.shared.node;
    let _room = room_for(&asked, len).await.map_err(Problem::Status)?;
    let payload = receive(&mut stream, len, header.hash(), stall).await?;
    let _in_force = asked.in_force().await?;
    let reserve = match (head.reserve, head.restripe) {
        (true, _) => Reserve::Metadata,
        (false, true) => Reserve::Restripe,
        (false, false) => Reserve::Client,
    };
    match header {
        Header::Shard(header) => node.write_shard(drive, header, payload, reserve).await?,
        Header::Batch(header) => node.journal_append(drive, header, payload, reserve).await?,
    }
    Ok(())
}

/// Room for a payload.
#[expect(dead_code, reason = "held, not read")]
enum Taken {
    OfJournal(OwnedSemaphorePermit),
    OfShards(Held),
}

async fn room_for(asked: &Asked, len: usize) -> Result<Taken, Status> {
    let (shared, deadline) = (&asked.shared, asked.deadline);
    match asked.method {
        Method::JournalAppend => {
            // Who may never have as much is let in alone.
            let permit = room(Arc::clone(&shared.journal), len.min(shared.config.journal), deadline);
            permit.await.map(Taken::OfJournal)
        }
        _ => shared.uploads.take(&asked.gate.peer, len, deadline).await.map(Taken::OfShards),
    }
}

fn check(asked: &Asked, head: &UploadHead, header: &Header) -> Result<(), Problem> {
    if head.len > MAX_RECORD_PAYLOAD {
        return Err(WriteError::TooLarge { len: head.len, limit: MAX_RECORD_PAYLOAD }.into());
    }
    if let Header::Shard(header) = header {
        if u64::from(header.payload_len()) != head.len {
            return Err(OTHER_PAYLOAD.into());
        }
        // A gateway writes clients' bytes: no ledger, no checkpoint, nothing from the reserve.
        let clients = header.descriptor.class == StripeClass::Data && !head.reserve && !head.restripe;
        if asked.gate.peer.role == Role::Gateway && !clients {
            return Err(Problem::Status(asked.gate.refuse_role(asked.method)));
        }
        match asked.shared.gates.may_write(&asked.gate.peer, header.id().stripe.epoch) {
            Ok(()) => {}
            Err(NotGranted::ToAnybody) => return Err(NEVER_GRANTED.into()),
            Err(NotGranted::ToThis) => {
                tracing::warn!(peer = %asked.gate.peer, stripe = %header.id().stripe, "its epoch is not granted to its writer here");
                return Err(Problem::Status(Status::unavailable(
                    "the stripe's epoch is not granted to you, as far as is known here",
                )));
            }
        }
        if header.descriptor.cluster != asked.gate.peer.cluster {
            return Err(Problem::Status(super::gate::Refusal::WrongCluster.status("a stripe of another cluster")));
        }
    }
    Ok(())
}

/// Bytes for which an upload is given as long as for a piece that is on its way.
const PACE: usize = 256 << 10;

/// The next part of an upload. A sender that is silent gives back the room that was made for it.
async fn next(stream: &mut Streaming<Upload>, until: Instant) -> Result<Option<Upload>, Problem> {
    let part = timeout_at(until, stream.message()).await.map_err(|_| Problem::Status(late()))?;
    part.map_err(Problem::Status)
}

/// How long an upload may have taken that has come so far.
fn paced(stall: Duration, had: usize) -> Duration {
    stall.saturating_mul(u32::try_from(had / PACE).unwrap_or(u32::MAX).saturating_add(1))
}

/// Takes `len` bytes, hashing each piece as it comes.
async fn receive(
    stream: &mut Streaming<Upload>,
    len: usize,
    hash: Option<[u8; 32]>,
    stall: Duration,
) -> Result<Bytes, Problem> {
    let mut hasher = blake3::Hasher::new();
    let (mut only, mut all) = (Bytes::new(), BytesMut::new());
    let began = Instant::now();
    let mut had = 0;
    // No piece may be late, and neither may all of them: one byte at a time would hold the room for hours.
    while let Some(upload) = next(stream, (Instant::now() + stall).min(began + paced(stall, had))).await? {
        // A part without bytes says nothing, and would keep the sender from counting as silent.
        if upload.head.is_some() || upload.data.is_empty() {
            return Err(Problem::malformed());
        }
        if upload.data.len() > len.saturating_sub(had) {
            return Err(Fault::from(OTHER_LENGTH).into());
        }
        let before = had;
        had += upload.data.len();
        hasher.update(&upload.data);
        if upload.data.len() == len {
            // In one piece: taken as it is, without a copy.
            only = upload.data;
            continue;
        }
        if before == 0 {
            all.reserve(len);
        }
        all.extend_from_slice(&upload.data);
    }
    let payload = if only.is_empty() { all.freeze() } else { only };
    if payload.len() != len {
        return Err(Fault::from(OTHER_LENGTH).into());
    }
    if hash != Some(*hasher.finalize().as_bytes()) {
        return Err(Fault::from(OTHER_BYTES).into());
    }
    Ok(payload)
}
