//! The calls that ask: each message becomes the trait's arguments, and what the node answers becomes a message.

use super::call::{Answered, Asked, Problem, ask, range};
use super::gate::Refusal;
use super::message::{
    DriveList, DriveMessage, FindingList, FindingMessage, Nothing, Numbers, OfDrive, OfDrives, OfEpoch, OfJournal,
    OfList, OfPlace, OfShard, OfShards, Order, Register, ScrubList, ScrubMessage, ScrubTold, SegmentList,
    SegmentMessage, Settle, Strings, SubjectMessage, Taken, VerifiedList, VerifiedMessage, drive_bytes, drive_id,
    pack_refs, pack_shards, shard_id, unpack_refs, unpack_shards,
};
use super::method::Method;
use crate::client::{DriveHealth, DriveStatus, WriteError};
use crate::drive::{DriveError, ProbedState};
use crate::host::{DriveSource, NodeHost};
use crate::keep::{Authority, RebuildError};
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn};
use codec::level::FormatLevel;
use codec::segment::JournalHead;
use futures::FutureExt;
use prost::Message;
use std::sync::Arc;
use tonic::Status;
use tonic::body::Body;

/// Most shards that one answer lists; a client asks again for more.
pub(crate) const LIST: usize = 1000;

type Request = http::Request<Body>;
type Node = Arc<dyn NodeHost>;
type Answer = Result<Bytes, Problem>;

fn bytes(message: &impl Message) -> Answer {
    Ok(message.encode_to_vec().into())
}

fn drive(bytes: &[u8]) -> Result<DriveId, Problem> {
    drive_id(bytes).ok_or_else(Problem::malformed)
}

fn known<T>(value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(Problem::malformed)
}

/// Ranges of shards and of journal entries.
pub(crate) fn serve_range(asked: Asked, request: Request) -> Answered {
    let node = Arc::clone(&asked.shared.node);
    if asked.method == Method::JournalRead {
        return range(asked, request, |of: OfJournal| {
            let (drive, lsn) = (drive_id(&of.drive)?, Lsn(of.lsn));
            let read = move |range| {
                let node = Arc::clone(&node);
                async move { node.journal_read(drive, lsn, range).await }
            };
            Some((of.start..of.end, read))
        });
    }
    range(asked, request, |of: OfShard| {
        let (drive, shard, root) = (drive_id(&of.drive)?, shard_id(&of.shard)?, <[u8; 32]>::try_from(&*of.root).ok()?);
        let read = move |range| {
            let node = Arc::clone(&node);
            async move { node.read_shard(drive, shard, root, range).await }
        };
        Some((of.start..of.end, read))
    })
}

/// All others.
pub(crate) fn serve(asked: Asked, request: Request) -> Answered {
    let node = Arc::clone(&asked.shared.node);
    match asked.method {
        Method::Drives => {
            let context = asked.clone();
            ask(asked, request, move |of: OfDrives| drives(context, of))
        }
        Method::Begin => {
            let context = asked.clone();
            ask(asked, request, move |of: OfEpoch| begin_node(context, of))
        }
        Method::TakeDrive => {
            let context = asked.clone();
            ask(asked, request, move |of: OfPlace| take_drive(context, of))
        }
        Method::Reopen => ask(asked, request, move |of: OfDrive| reopen(node, of)),
        Method::ReadShardHeader => ask(asked, request, move |of: OfShard| shard_header(node, of)),
        Method::ListShards => ask(asked, request, move |of: OfList| list(node, of)),
        Method::Inventory => ask(asked, request, move |of: OfList| inventory(node, of)),
        Method::JournalBegin => ask(asked, request, move |of: OfJournal| begin(node, of)),
        Method::JournalSegments => ask(asked, request, move |of: OfDrive| segments(node, of)),
        Method::JournalScan => ask(asked, request, move |of: OfJournal| scan(node, of)),
        Method::JournalFree => ask(asked, request, move |of: OfJournal| free_journal(node, of)),
        Method::ReadRegister => ask(asked, request, move |of: OfDrive| read_register(node, of)),
        Method::WriteRegister => {
            let context = asked.clone();
            ask(asked, request, move |of: Register| register(context, of))
        }
        Method::ScrubOrder => ask(asked, request, move |of: ScrubTold| scrub_order(node, of)),
        Method::ScrubStatus => ask(asked, request, move |_: Nothing| scrub_status(node)),
        Method::Findings => ask(asked, request, move |of: OfDrive| findings(node, of)),
        Method::VerifyShards => ask(asked, request, move |of: OfShards| verify(node, of)),
        Method::Verified => ask(asked, request, move |of: OfShards| verified(node, of)),
        Method::Rebuild => {
            // Through the service's peers: the sources may be on other nodes.
            let peers = Arc::clone(&asked.shared.peers);
            ask(asked, request, move |of: Order| rebuild(peers, of))
        }
        Method::FreeShards => ask(asked, request, move |of: OfShards| free(node, of)),
        Method::SettleUnnamed => ask(asked, request, move |of: Settle| settle_unnamed(node, of)),
        Method::RenewFrees => ask(asked, request, move |of: OfShards| renew_frees(node, of)),
        Method::Authority => ask(asked, request, move |of: OfDrive| authority(node, of)),
        Method::Hello | Method::WriteShard | Method::JournalAppend | Method::ReadShard | Method::JournalRead => {
            std::future::ready(Status::internal("a call of another shape").into_http()).boxed()
        }
    }
}

async fn drives(asked: Asked, of: OfDrives) -> Answer {
    let (gates, from) = (&asked.shared.gates, &asked.gate.peer);
    gates.hear_of_level(from, Epoch(of.leader), FormatLevel(of.level));
    if let Some(grants) = of.grants {
        gates.hear(from, grants);
    }
    if let Some(list) = of.too_many {
        gates.hear_of_too_many(from, &list);
    }
    let (node, epoch) = (&asked.shared.node, |epoch: Option<Epoch>| epoch.map_or(0, |epoch| epoch.0));
    // Before the drives are asked: one that is begun meanwhile is asked again.
    let begun = epoch(asked.shared.gates.begun());
    let drives = node.drives().await.iter().map(DriveMessage::new).collect();
    // Also the epoch of a start that ended before it wrote anything: no drive has seen it, and a lower one is refused.
    let highest = epoch(node.highest_epoch().await.max(asked.shared.gates.told()));
    let granted = asked.shared.gates.heard();
    bytes(&DriveList { drives, incarnation: asked.shared.incarnation, begun, highest, granted })
}

async fn begin_node(asked: Asked, of: OfEpoch) -> Answer {
    let epoch = Epoch(of.epoch);
    let leader = asked.gate.lead(epoch, asked.shared.node.leader()).map_err(Problem::Status)?;
    asked.shared.gates.taken_over().await;
    // One with a higher epoch may have come meanwhile.
    let not_begun = |error| match error {
        DriveError::NotBegun { reason, .. } => Problem::Status(Refusal::Superseded.status(reason)),
        error => Problem::Status(Status::internal(format!("the node could not begin: {error}"))),
    };
    asked.shared.node.led_by(&leader).map_err(not_begun)?;
    asked.shared.gates.taken(epoch);
    asked.shared.gates.hear_of_level(&asked.gate.peer, epoch, FormatLevel(of.level));
    asked.shared.node.begin_for(leader).await.map_err(not_begun)?;
    asked.shared.gates.has_begun(epoch);
    bytes(&Nothing {})
}

async fn reopen(node: Node, of: OfDrive) -> Answer {
    let drive = drive(&of.drive)?;
    let failed = |error: crate::drive::DriveError| match error {
        crate::drive::DriveError::Unknown { drive } => WriteError::UnknownDrive(drive),
        other => WriteError::DriveFailed { drive, reason: other.to_string() },
    };
    node.reopen(drive).await.map_err(failed)?;
    bytes(&Nothing {})
}

/// The node's own configuration has the last word (R18), in plain words for the operator.
async fn take_drive(asked: Asked, of: OfPlace) -> Answer {
    let replaces = if of.replaces.is_empty() { None } else { Some(drive(&of.replaces)?) };
    let taken = match &asked.shared.config.drives {
        // What it is to be a drive of is known to whoever leads.
        _ if asked.shared.gates.begun().is_none() => {
            let reason = "no metadata process has begun this node".to_owned();
            Err(DriveError::NotTaken { path: of.path.clone(), reason })
        }
        Some(source) => take(&asked.shared.node, &**source, &of.path, replaces).await,
        None => Err(DriveError::Elsewhere { path: of.path.clone() }),
    };
    bytes(&match taken {
        Ok(drive) => Taken { drive: drive_bytes(drive), refused: String::new() },
        Err(DriveError::NotTaken { reason, .. }) => Taken { drive: Bytes::new(), refused: reason },
        Err(error) => Taken { drive: Bytes::new(), refused: error.to_string() },
    })
}

async fn take(
    node: &Node,
    source: &dyn DriveSource,
    path: &str,
    replaces: Option<DriveId>,
) -> Result<DriveId, DriveError> {
    let drives = node.drives().await;
    if let Some(open) = drives.iter().find(|open| open.path == path && Some(open.id) != replaces) {
        return Ok(open.id);
    }
    // One that has failed may have come to another path; one that is in use has not.
    let is_used = |drive: &&DriveStatus| !matches!(drive.health, DriveHealth::Failed { .. }) && drive.path != path;
    let elsewhere: Vec<DriveId> = drives.iter().filter(is_used).map(|drive| drive.id).collect();
    let probed = source.take(path, replaces, &elsewhere).await?;
    let ours = probed.identity.filter(|_| probed.state == ProbedState::Ours);
    let not_ours = || DriveError::NotOurs { path: path.to_owned(), state: probed.state.clone() };
    let drive = ours.ok_or_else(not_ours)?.drive;
    if elsewhere.contains(&drive) {
        return Err(DriveError::Twice { path: path.to_owned(), drive });
    }
    match node.add_drive(probed).await {
        // Who looks at the directories all the time may have found it in between: here, and nowhere else.
        Err(twice @ DriveError::Twice { .. }) => {
            let is_here = |open: &DriveStatus| open.id == drive && open.path == path;
            if node.drives().await.iter().any(is_here) { Ok(drive) } else { Err(twice) }
        }
        added => added.map(|()| drive),
    }
}

async fn shard_header(node: Node, of: OfShard) -> Answer {
    let header = node.read_shard_header(drive(&of.drive)?, known(shard_id(&of.shard))?).await?;
    Ok(header.encode())
}

async fn list(node: Node, of: OfList) -> Answer {
    let (class, after, limit) = (known(of.class())?, known(of.after_shard())?, (of.limit as usize).min(LIST));
    let headers = node.list_shards(drive(&of.drive)?, class, after, limit).await?;
    bytes(&Strings { strings: headers.iter().map(|header| header.encode()).collect(), ..Strings::default() })
}

async fn inventory(node: Node, of: OfList) -> Answer {
    let (after, limit) = (known(of.after_shard())?, (of.limit as usize).min(LIST));
    Ok(pack_refs(&node.inventory(drive(&of.drive)?, after, limit).await?))
}

async fn begin(node: Node, of: OfJournal) -> Answer {
    let head = JournalHead { ensemble: of.ensemble, first_lsn: Lsn(of.lsn) };
    let number = node.journal_begin(drive(&of.drive)?, head).await?;
    bytes(&Numbers { a: number, ..Numbers::default() })
}

async fn segments(node: Node, of: OfDrive) -> Answer {
    let segments = node.journal_segments(drive(&of.drive)?).await?;
    bytes(&SegmentList { segments: segments.iter().map(SegmentMessage::new).collect() })
}

async fn scan(node: Node, of: OfJournal) -> Answer {
    bytes(&Strings::of_scan(&node.journal_scan(drive(&of.drive)?, of.number, Lsn(of.lsn)).await?))
}

async fn free_journal(node: Node, of: OfJournal) -> Answer {
    node.journal_free(drive(&of.drive)?, of.number).await?;
    bytes(&Nothing {})
}

async fn read_register(node: Node, of: OfDrive) -> Answer {
    Ok(node.read_register(drive(&of.drive)?).await?)
}

async fn register(asked: Asked, of: Register) -> Answer {
    let drive = drive(&of.drive)?;
    asked.gate.admit_register(drive, asked.order).map_err(Problem::Status)?;
    asked.shared.node.write_register(drive, of.bytes).await?;
    bytes(&Nothing {})
}

async fn scrub_order(node: Node, of: ScrubTold) -> Answer {
    node.scrub_order(drive(&of.drive)?, known(of.order())?).await?;
    bytes(&Nothing {})
}

async fn scrub_status(node: Node) -> Answer {
    bytes(&ScrubList { drives: node.scrub_status().await.iter().map(ScrubMessage::new).collect() })
}

async fn findings(node: Node, of: OfDrive) -> Answer {
    let findings = node.findings(drive(&of.drive)?).await?;
    bytes(&FindingList { findings: findings.iter().map(FindingMessage::new).collect() })
}

async fn verify(node: Node, of: OfShards) -> Answer {
    let checked = node.verify_shards(drive(&of.drive)?, known(unpack_refs(&of.shards))?).await?;
    bytes(&VerifiedList { shards: checked.iter().map(VerifiedMessage::of_check).collect() })
}

async fn verified(node: Node, of: OfShards) -> Answer {
    let verified = node.verified(drive(&of.drive)?, known(unpack_shards(&of.shards))?).await?;
    bytes(&VerifiedList { shards: verified.iter().map(VerifiedMessage::of_verified).collect() })
}

async fn rebuild(peers: Node, of: Order) -> Answer {
    let order = known(of.value())?.map_err(|_| RebuildError::Malformed("the descriptor is no descriptor"))?;
    if let Err(error) = peers.meet(&order.at) {
        tracing::warn!(%error, "where an order's drives are is not known");
    }
    let rebuilt = crate::rebuild::rebuild(&*peers, &order).await?;
    bytes(&Numbers { a: rebuilt.read, b: rebuilt.written, ..Numbers::default() })
}

async fn free(node: Node, of: OfShards) -> Answer {
    let authority = Authority { epoch: Epoch(of.epoch), lsn: Lsn(of.lsn) };
    let freed = node.free_shards(drive(&of.drive)?, authority, known(unpack_refs(&of.shards))?).await?;
    bytes(&Numbers { a: freed.shards, b: freed.bytes, refused: pack_shards(&freed.refused) })
}

async fn settle_unnamed(node: Node, of: Settle) -> Answer {
    let unnamed = of.unnamed.into_iter().map(SubjectMessage::value).collect();
    let settled = node.settle_unnamed(drive(&of.drive)?, known(unnamed)?).await?;
    bytes(&Numbers { a: settled, ..Numbers::default() })
}

async fn renew_frees(node: Node, of: OfShards) -> Answer {
    let authority = Authority { epoch: Epoch(of.epoch), lsn: Lsn(of.lsn) };
    node.renew_frees(drive(&of.drive)?, authority).await?;
    bytes(&Nothing {})
}

async fn authority(node: Node, of: OfDrive) -> Answer {
    let Authority { epoch, lsn } = node.authority(drive(&of.drive)?).await?;
    bytes(&Numbers { a: epoch.0, b: lsn.0, ..Numbers::default() })
}
