//! One test per rule, most of them twice: with the rule, and with the step that keeps it taken away.

use super::world::*;
use crate::command::*;
use crate::index::{self, Overlay};
use crate::lookup::{self, Safety};
use crate::state::{ApplyError, apply};
use bytes::Bytes;
use codec::effect::*;
use codec::id::*;
use codec::stripe::{StripeClass, StripeDescriptor};
use proptest::prelude::*;
use storage_node::kv::{Kv, MemoryKv};
use storage_node::sabotage::Sabotage;

#[test]
fn r9_a_fenced_epoch_is_refused() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let (stripe, chunks) = world.stripe(&ids(&[1]));
    world.run(Command::StartEpoch { epoch: Epoch(8), journal: Epoch(8) }).unwrap();
    let fenced = Refusal::Fenced { writer: EPOCH, current: Epoch(8) };
    let late = put(bucket, "k", &ids(&[1]), vec![inline(id(1))], Condition::None);
    assert_eq!(world.run(late.clone()), Err(fenced.clone()));
    assert_eq!(world.run(Command::StartEpoch { epoch: EPOCH, journal: EPOCH }), Err(fenced));
    world.writer = Epoch(9);
    assert_eq!(world.run(late.clone()), Err(Refusal::Fenced { writer: Epoch(9), current: Epoch(8) }));
    // A writer of the new epoch can't commit a stripe of the old one: its shards may be collected.
    world.writer = Epoch(8);
    let stripe = Command::CommitStripe { stripe, chunks };
    assert_eq!(world.run(stripe.clone()), Err(Refusal::Fenced { writer: EPOCH, current: Epoch(8) }));
    world.run(late.clone()).unwrap();

    world.sabotage.set(Sabotage::EpochFence, true);
    world.writer = EPOCH;
    assert!(world.run(stripe).is_ok() && world.run(late).is_ok());
}

#[test]
fn r11_a_commit_revives_condemned_chunks() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "k", &ids(&[1])).unwrap();
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    let row = world.chunk(id(1)).unwrap();
    assert_eq!((row.state(), row.refs, row.condemned_lsn), (ChunkState::Condemned, 0, world.lsn.0));
    assert!(!lookup::is_hit(&world.view(), &row, DOMAIN, &world.losses).unwrap());

    world.sabotage.set(Sabotage::ReviveCondemned, true);
    let decided = world.decide(&put(bucket, "k", &ids(&[1]), vec![], Condition::None)).unwrap();
    let Some(EffectKind::PutChunk(row)) = &decided.effects.effects[0].kind else { panic!() };
    assert_eq!((row.state(), row.refs), (ChunkState::Condemned, 1), "referenced, and about to be deleted");
    world.sabotage.set(Sabotage::ReviveCondemned, false);

    world.put(bucket, "k", &ids(&[1])).unwrap();
    let row = world.chunk(id(1)).unwrap();
    assert_eq!((row.state(), row.refs, row.condemned_lsn), (ChunkState::Live, 1, 0));
    // Committing the chunk itself revives it too: its writer's object follows.
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    world.commit_stripe(&ids(&[1])).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().state(), ChunkState::Live);
    world.check_refs();
}

#[test]
fn r11_a_commit_on_deleted_chunks_is_refused_with_all_of_them() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "other", &ids(&[2])).unwrap();
    let late = put(bucket, "k", &ids(&[3, 1, 2, 3]), vec![], Condition::None);
    assert_eq!(world.run(late.clone()), Err(Refusal::MissingChunks(ids(&[1, 3]))));
    // Nor may a manifest chunk list what is not there.
    let (node, _) = world.node(&ids(&[2, 4]));
    let (stripe, _) = world.stripe(&[]);
    let frame = NewFrame::InStripe { shard: 1, offset: 0, len: 10 };
    let listed = Command::CommitStripe { stripe, chunks: vec![NewChunk { frame, ..node }] };
    assert_eq!(world.run(listed), Err(Refusal::MissingChunks(ids(&[4]))));
    world.sabotage.set(Sabotage::MissingChunks, true);
    assert!(world.run(late).is_ok(), "an object without its chunks");
}

#[test]
fn conditions_answer_as_s3_does() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let attempt = |world: &mut World, n: u8, condition: Condition| {
        let chunks = world.missing_inline(&ids(&[n]));
        world.run(put(bucket, "k", &ids(&[n]), chunks, condition)).map(|_| ())
    };
    let (one, two) = (content(&ids(&[1])).etag, content(&ids(&[2])).etag);
    let failed = Err(Refusal::PreconditionFailed);
    assert_eq!(attempt(&mut world, 1, Condition::IfMatch(one.clone())), Err(Refusal::NoSuchKey));
    assert_eq!(attempt(&mut world, 1, Condition::IfMatchAny), Err(Refusal::NoSuchKey));
    assert_eq!(attempt(&mut world, 1, Condition::IfNoneMatchAny), Ok(()));
    assert_eq!(attempt(&mut world, 1, Condition::IfNoneMatchAny), failed);
    assert_eq!(attempt(&mut world, 2, Condition::IfMatch(two.clone())), failed);
    assert_eq!(attempt(&mut world, 2, Condition::IfMatch(one.clone())), Ok(()));
    assert_eq!(attempt(&mut world, 2, Condition::IfNoneMatch(two.clone())), failed);
    assert_eq!(attempt(&mut world, 2, Condition::IfNoneMatch(one.clone())), Ok(()));
    let gone = |world: &mut World, key: &str, condition| world.run(delete(bucket, key, condition)).map(|_| ());
    assert_eq!(gone(&mut world, "k", Condition::IfMatch(one.clone())), failed);
    world.sabotage.set(Sabotage::CommitCondition, true);
    assert!(world.decide(&delete(bucket, "k", Condition::IfMatch(one))).is_ok());
    assert!(world.decide(&put(bucket, "k", &ids(&[2]), vec![], Condition::IfNoneMatchAny)).is_ok());
    world.sabotage.set(Sabotage::CommitCondition, false);
    assert_eq!(gone(&mut world, "k", Condition::IfMatch(two)), Ok(()));
    for condition in [Condition::IfMatchAny, Condition::IfMatch("x".to_owned()), Condition::None] {
        assert_eq!(gone(&mut world, "k", condition), Ok(()), "a missing key is no error");
    }
    world.check_refs();
}

#[test]
fn bucket_names_are_unique_over_all_accounts() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    assert_eq!(world.run(create_bucket("b", "alice")), Err(Refusal::BucketOwnedByYou));
    assert_eq!(world.run(create_bucket("b", "bob")), Err(Refusal::BucketExists));
    world.put(bucket, "k", &ids(&[1])).unwrap();
    assert_eq!(world.run(Command::DeleteBucket { bucket }), Err(Refusal::BucketNotEmpty));
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    world.run(Command::DeleteBucket { bucket }).unwrap();
    assert_eq!(world.run(Command::DeleteBucket { bucket }), Err(Refusal::NoSuchBucket));
    assert_eq!(world.put(bucket, "k", &ids(&[1])), Err(Refusal::NoSuchBucket));
    // The name is free, and the new bucket is another one.
    assert_ne!(world.bucket("b"), bucket);
    world.check_replay();
}

#[test]
fn open_uploads_go_with_their_bucket() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let upload = world.upload(bucket, "k");
    world.part(&upload, 1, &ids(&[1, 2])).unwrap();
    let gone = world.run(Command::DeleteBucket { bucket });
    assert_eq!(gone, Ok(Outcome::BucketDeleted { uploads_left: false }));
    assert_eq!(world.chunk(id(1)).unwrap().state(), ChunkState::Condemned);
    assert_eq!(index::upload(&world.view(), &upload).unwrap(), None);
    assert_eq!(index::parts(&world.view(), &upload).unwrap(), []);
    world.check_refs();
    world.check_replay();
}

#[test]
fn uploads_too_many_for_one_entry_are_found_and_aborted() {
    let mut world = World::new();
    let (kept, bucket) = (world.bucket("kept"), world.bucket("b"));
    world.upload(kept, "k");
    for n in 0..1003 {
        world.upload(bucket, &format!("k{n}"));
    }
    let gone = world.run(Command::DeleteBucket { bucket });
    assert_eq!(gone, Ok(Outcome::BucketDeleted { uploads_left: true }));
    let left = index::orphan_uploads(&world.view(), 10).unwrap();
    assert_eq!(left.len(), 3);
    let dead = left[0].clone();
    assert_eq!(world.part(&dead, 1, &ids(&[1])), Err(Refusal::NoSuchBucket));
    for upload in left {
        world.run(Command::AbortUpload { upload }).unwrap();
    }
    assert_eq!(index::orphan_uploads(&world.view(), 10).unwrap(), []);
    assert_eq!(index::uploads(&world.view(), kept, 10).unwrap().len(), 1);
}

#[test]
fn completion_checks_its_parts() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let upload = world.upload(bucket, "k");
    let (big, small) = (ids(&[2, 4]), ids(&[1]));
    assert_eq!(world.part(&upload, 0, &small), Err(Refusal::InvalidPart { number: 0 }));
    assert_eq!(world.part(&upload, 10_001, &small), Err(Refusal::InvalidPart { number: 10_001 }));
    world.part(&upload, 1, &small).unwrap();
    world.part(&upload, 1, &big).unwrap();
    world.part(&upload, 3, &small).unwrap();
    world.part(&upload, 5, &small).unwrap();
    let (one, three) = ((1, big.clone()), (3, small.clone()));
    assert_eq!(world.run(complete(&upload, &[])), Err(Refusal::InvalidPartOrder));
    assert_eq!(world.run(complete(&upload, &[three.clone(), one.clone()])), Err(Refusal::InvalidPartOrder));
    assert_eq!(world.run(complete(&upload, &[one.clone(), one.clone()])), Err(Refusal::InvalidPartOrder));
    let absent = complete(&upload, &[one.clone(), (2, small.clone())]);
    assert_eq!(world.run(absent), Err(Refusal::InvalidPart { number: 2 }));
    let other = complete(&upload, &[(1, small.clone())]);
    assert_eq!(world.run(other), Err(Refusal::InvalidPart { number: 1 }));
    let short = complete(&upload, &[three.clone(), (5, small.clone())]);
    let etag = content(&small).etag;
    assert_eq!(world.run(short), Err(Refusal::PartTooSmall { number: 3, size: 1000, etag }));
    world.run(complete(&upload, &[one.clone(), three.clone()])).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().refs, 1, "the part that was not listed is released too");
    assert_eq!(world.run(complete(&upload, &[one, three])), Err(Refusal::NoSuchUpload));
    assert_eq!(world.run(Command::AbortUpload { upload }), Err(Refusal::NoSuchUpload));
    world.check_refs();
    world.check_replay();
}

#[test]
fn a_manifest_must_fit_its_object() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let attempt = |world: &World, content: Content| {
        world.decide(&put_content(bucket, "x", content, vec![], Condition::None)).map(|_| ())
    };
    let good = content(&ids(&[1]));
    assert_eq!(attempt(&world, good.clone()), Ok(()));
    let cut = Content { manifest: good.manifest.slice(..20), ..good.clone() };
    assert_eq!(attempt(&world, cut), Err(Refusal::BadManifest(ManifestFault::Malformed)));
    let longer = Content { size: good.size + 1, ..good.clone() };
    assert_eq!(attempt(&world, longer), Err(Refusal::BadManifest(ManifestFault::Length)));
    let foreign = Content { domain: 1, ..good };
    assert_eq!(attempt(&world, foreign), Err(Refusal::BadManifest(ManifestFault::Chunk)));
    let node = codec::manifest::Entry { id: id(1), len: 1000, leaf: false };
    assert_eq!(attempt(&world, content_of(vec![node])), Err(Refusal::BadManifest(ManifestFault::Chunk)));
}

/// The entry of a domain was lost, and that was accepted: what is stored under its keys nobody else could read.
#[test]
fn nothing_is_stored_in_a_domain_that_does_not_exist() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let lost = DomainId(99);
    let of_lost = |chunk: NewChunk| NewChunk { domain: lost, ..chunk };
    let gone = Err(Refusal::NoSuchDomain(lost));
    let object = Content { domain: lost.0, ..content(&ids(&[1])) };
    let put = put_content(bucket, "k", object, vec![of_lost(inline(id(1)))], Condition::None);
    assert_eq!(world.run(put).map(drop), gone);
    let Command::CreateUpload(create) = create_upload(bucket, "k") else { panic!() };
    assert_eq!(world.run(Command::CreateUpload(CreateUpload { domain: lost, ..create })).map(drop), gone);
    let row = stripe_row(StripeId { epoch: EPOCH, counter: 50 }, StripeClass::Data, None);
    let frame = NewFrame::InStripe { shard: 0, offset: 0, len: 10 };
    let chunk = NewChunk { frame, ..of_lost(inline(id(1))) };
    assert_eq!(world.run(Command::CommitStripe { stripe: row, chunks: vec![chunk] }).map(drop), gone);
    assert_eq!(world.chunk(id(1)), None);
}

#[test]
fn of_two_places_the_safer_stays() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let journal = world.chunk(id(1)).unwrap().place.unwrap();
    // The same frame again in the journal: dead on arrival, so it is not even journaled.
    let again = world.decide(&put(bucket, "l", &ids(&[1]), vec![inline(id(1))], Condition::None)).unwrap();
    assert!(again.frames.is_empty());
    // A whole stripe is safer than the journal, a second whole stripe is not safer than the first.
    world.commit_stripe(&ids(&[1])).unwrap();
    let first = world.chunk(id(1)).unwrap().place.unwrap();
    assert!(journal.stripe().is_none() && first.stripe().is_some());
    world.commit_stripe(&ids(&[1])).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().place, Some(first));
    assert_eq!(world.chunk(id(1)).unwrap().refs, 1);
    // With m = 1, one lost drive puts the stripe at risk: no hit, and what is stored again replaces it.
    world.losses.drives.insert(DriveId([0; 16]));
    let row = world.chunk(id(1)).unwrap();
    assert_eq!(lookup::safety(&world.view(), &first, &world.losses), Ok(Safety::AtRisk));
    assert!(!lookup::is_hit(&world.view(), &row, DOMAIN, &world.losses).unwrap());
    world.run(put(bucket, "l", &ids(&[1]), vec![inline(id(1))], Condition::None)).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().place.unwrap().lsn(), Some(world.lsn));
    world.check_refs();
    world.check_replay();
}

#[test]
fn r1_a_stripe_id_means_one_stripe() {
    let mut world = World::new();
    let (stripe, chunks) = world.stripe(&ids(&[1, 2]));
    let id = StripeId { epoch: EPOCH, counter: world.stripes };
    let commit = |stripe: &StripeRow, chunks: &[NewChunk]| Command::CommitStripe {
        stripe: stripe.clone(),
        chunks: chunks.to_vec(),
    };
    world.run(commit(&stripe, &chunks[..1])).unwrap();
    world.run(commit(&stripe, &chunks[1..])).unwrap();
    let mut other = stripe_row(id, StripeClass::Data, None);
    let mut descriptor = StripeDescriptor::parse(&other.descriptor).unwrap();
    descriptor.lengths = vec![9_000; 3];
    other.descriptor = descriptor.encode();
    assert_eq!(world.run(commit(&other, &[])), Err(Refusal::BadStripe(id)));
    let mut elsewhere = stripe.clone();
    elsewhere.drives.swap(0, 1);
    world.run(commit(&elsewhere, &chunks)).unwrap();
    assert_eq!(index::stripe(&world.view(), id).unwrap(), Some(stripe), "a commit moves nothing");
    world.stripes += 1;
    let mut doubled = stripe_row(StripeId { counter: world.stripes, ..id }, StripeClass::Data, None);
    doubled.drives[1] = doubled.drives[0].clone();
    assert!(matches!(world.run(commit(&doubled, &[])), Err(Refusal::BadStripe(_))), "two shards on one drive");
    doubled.drives[1] = Bytes::from(vec![77; 16]);
    assert!(matches!(world.run(commit(&doubled, &[])), Err(Refusal::BadStripe(_))), "an unknown drive");
}

fn seal_of(world: &World, counter: u64, first: u64, moves: Vec<Move>) -> Seal {
    let id = |counter| StripeId { epoch: EPOCH, counter };
    let last = world.lsn.0;
    Seal {
        sealed: SealedRow {
            first,
            last,
            stripes: vec![StripeName { epoch: EPOCH.0, counter }],
            last_hash: Bytes::from(vec![1; 32]),
        },
        stripes: vec![
            stripe_row(id(counter), StripeClass::Ledger, Some((Lsn(first), Lsn(last)))),
            stripe_row(id(counter + 1), StripeClass::Data, None),
        ],
        moves,
    }
}

#[test]
fn r12_a_seal_moves_only_what_is_still_there() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "k", &ids(&[1, 2])).unwrap();
    let place = |world: &World, n| world.chunk(id(n)).unwrap().place.unwrap();
    let to = |n| Place::in_stripe(StripeId { epoch: EPOCH, counter: 101 }, 1, 50 * n, 50);
    let moves: Vec<Move> = (1..=2).map(|n| Move { id: id(n), from: place(&world, n), to: to(u32::from(n)) }).collect();
    // Another stripe wins chunk 1 before the seal commits.
    world.commit_stripe(&ids(&[1])).unwrap();
    let won = place(&world, 1);
    let seal = seal_of(&world, 100, 1, moves.clone());
    let outcome = world.run(Command::Seal(seal.clone())).unwrap();
    assert_eq!(outcome, Outcome::Sealed { moved: 1, skipped: 1 });
    assert_eq!((place(&world, 1), place(&world, 2)), (won, to(2)));
    assert_eq!(index::last_sealed(&world.view()).unwrap().unwrap(), seal.sealed);
    assert_eq!(world.run(Command::Seal(seal.clone())), Err(Refusal::BadSeal), "sealed twice");

    let mut beyond = seal_of(&world, 200, seal.sealed.last + 1, vec![]);
    beyond.sealed.last = world.lsn.0 + 1;
    assert_eq!(world.run(Command::Seal(beyond)), Err(Refusal::BadSeal));
    let stray = seal_of(&world, 200, seal.sealed.last + 1, moves.clone());
    assert_eq!(world.run(Command::Seal(stray)), Err(Refusal::BadSeal), "a move to a stripe that it does not bring");

    world.sabotage.set(Sabotage::SealCondition, true);
    let to = Place::in_stripe(StripeId { epoch: EPOCH, counter: 301 }, 1, 0, 50);
    let blind = seal_of(&world, 300, seal.sealed.last + 1, vec![Move { id: id(1), from: moves[0].from, to }]);
    world.run(Command::Seal(blind)).unwrap();
    assert_ne!(place(&world, 1), won, "without the condition the winner's place is lost");
    world.check_replay();
}

#[test]
fn r15_the_retention_clock_does_not_run_backwards() {
    let mut world = World::new();
    let tick = |retention_ms| Command::ClockTick(ClockTick { retention_ms, ..ClockTick::default() });
    world.run(tick(100)).unwrap();
    assert_eq!(world.run(tick(99)), Err(Refusal::ClockBackwards));
    world.run(tick(100)).unwrap();
    world.sabotage.set(Sabotage::ClockMonotonic, true);
    assert!(world.run(tick(1)).is_ok());
}

#[test]
fn r18_a_removed_drive_does_not_come_back() {
    let mut world = World::new();
    let row = |state| DriveRow { id: Bytes::from(vec![0; 16]), state, ..DriveRow::default() };
    world.run(Command::RegisterDrive(row(DriveState::Removed as i32))).unwrap();
    let back = world.run(Command::RegisterDrive(row(DriveState::Active as i32)));
    assert_eq!(back, Err(Refusal::BadDrive));
    assert_eq!(world.run(Command::RegisterDrive(row(0))), Err(Refusal::BadDrive));
}

/// A configuration that named other nodes than the cluster has decided over who is asked.
#[test]
fn the_journal_says_which_storage_nodes_there_are() {
    use crate::nodes::{list, seed, to_ask};
    use storage_node::host::NodeSight;
    use storage_node::remote::NodeAddress;
    use storage_node::service::identity::NodeName;
    let mut world = World::new();
    let at =
        |name: &str, address: &str| NodeAddress { name: NodeName::new(name).unwrap(), address: address.to_owned() };
    let sight = |at: NodeAddress| NodeSight {
        at,
        number: 1,
        silent: true,
        problem: String::new(),
        answered: None,
        other: false,
        release: None,
    };
    let configured = [sight(at("n1", "a:1")), sight(at("n2", "b:1"))];
    let seeds = seed(&world.view(), &configured).unwrap();
    for command in seeds {
        world.run(command).unwrap();
    }
    assert_eq!(list(&world.view()).unwrap(), [at("n1", "a:1"), at("n2", "b:1")]);
    let row = |name: &str, address: &str, state: NodeState| {
        Command::PutNode(NodeRow { name: name.to_owned(), address: address.to_owned(), state: state as i32 })
    };
    world.run(row("n1", "a:2", NodeState::Active)).unwrap();
    world.run(row("n2", "b:1", NodeState::Removed)).unwrap();
    world.run(row("n3", "c:1", NodeState::Draining)).unwrap();
    assert_eq!(seed(&world.view(), &configured).unwrap(), [], "only once");
    assert_eq!(list(&world.view()).unwrap(), [at("n1", "a:2"), at("n3", "c:1")]);
    // A start asks whom it does not know, too: there may be drives that say more.
    let configured = [sight(at("n1", "a:1")), sight(at("n2", "b:1")), sight(at("n4", "d:1"))];
    assert_eq!(to_ask(&world.view(), &configured).unwrap(), [at("n1", "a:2"), at("n3", "c:1"), at("n4", "d:1")]);
    for bad in
        [row("", "a:1", NodeState::Active), row("n1", "", NodeState::Active), row("n1", "a 1", NodeState::Active)]
    {
        assert_eq!(world.run(bad), Err(Refusal::BadNode));
    }
    assert_eq!(world.run(row("n1", "a:1", NodeState::Unspecified)), Err(Refusal::BadNode));
}

#[test]
fn settings_accounts_and_domains() {
    let mut world = World::new();
    let geometry = |value: &'static str| {
        Command::PutSetting(SettingRow { name: GEOMETRY_SETTING.to_owned(), value: Bytes::from(value) })
    };
    world.run(geometry("4+2")).unwrap();
    let lsn = world.lsn;
    world.run(geometry("4+2")).unwrap();
    assert_eq!(world.lsn, lsn, "what changes nothing takes no entry");
    assert_eq!(world.run(geometry("5+2")), Err(Refusal::GeometryDiffers { journaled: "4+2".to_owned() }));

    let account = |id: &str, name: &str, access_key: &str| AccountRow {
        id: id.to_owned(),
        name: name.to_owned(),
        access_key: access_key.to_owned(),
        ..AccountRow::default()
    };
    world.run(Command::PutAccount(account("1", "alice", "AK1"))).unwrap();
    assert_eq!(world.run(Command::PutAccount(account("2", "alice", "AK2"))), Err(Refusal::AccountTaken));
    assert_eq!(world.run(Command::PutAccount(account("2", "bob", "AK1"))), Err(Refusal::AccountTaken));
    world.run(Command::PutAccount(account("1", "alice", "AK9"))).unwrap();
    let by_key = |world: &World, key: &str| index::account_by_access_key(&world.view(), key).unwrap();
    assert_eq!(by_key(&world, "AK1"), None, "the old access key is gone");
    assert_eq!(by_key(&world, "AK9").unwrap().id, "1");
    world.run(Command::PutAccount(account("2", "bob", "AK1"))).unwrap();
    world.run(Command::DeleteAccount { id: "2".to_owned() }).unwrap();
    assert_eq!(by_key(&world, "AK1"), None);
    assert_eq!(world.run(Command::DeleteAccount { id: "2".to_owned() }), Err(Refusal::NoSuchAccount));

    // Two who make the same account, and whoever replaces the keys of one that is not there.
    world
        .run(Command::CreateAccount(AccountRow { display_name: "Cee".to_owned(), ..account("3", "cee", "AK3") }))
        .unwrap();
    assert_eq!(world.run(Command::CreateAccount(account("3", "cee", "AK4"))), Err(Refusal::AccountExists));
    assert_eq!(by_key(&world, "AK3").unwrap().id, "3", "the first one's keys");
    assert_eq!(world.run(Command::ReplaceAccount(account("cee", "cee", "AK4"))), Err(Refusal::NoSuchAccount));
    assert_eq!(world.run(Command::ReplaceAccount(account("3", "alice", "AK4"))), Err(Refusal::AccountTaken));
    world.run(Command::ReplaceAccount(account("3", "", "AK4"))).unwrap();
    let changed = by_key(&world, "AK4").unwrap();
    assert_eq!((changed.name.as_str(), changed.display_name.as_str()), ("cee", "Cee"), "what was not said stays");
    // A bucket was made after its owner's were counted, and was nobody's.
    let Outcome::BucketCreated(made) = world.run(create_bucket("b", "3")).unwrap() else { panic!() };
    let remove = || Command::DeleteAccount { id: "3".to_owned() };
    assert_eq!(world.run(remove()), Err(Refusal::AccountOwns { buckets: 1 }));
    world.run(Command::DeleteBucket { bucket: BucketId(made.id) }).unwrap();
    world.run(remove()).unwrap();

    let domain = DomainRow { account: "1".to_owned(), encrypted: true, ..DomainRow::default() };
    let Outcome::Domain(made) = world.run(Command::PutDomain(domain.clone())).unwrap() else { panic!() };
    let Outcome::Domain(again) = world.run(Command::PutDomain(domain)).unwrap() else { panic!() };
    assert_eq!(made, again);
    assert_eq!(made.id, world.lsn.0);
    world.check_replay();
}

#[test]
fn entries_apply_in_order_without_gaps() {
    let kv = MemoryKv::new(&index::FAMILIES);
    let mut overlay = Overlay::new(&kv);
    let none = Effects::default();
    let gap = Err(ApplyError::Gap { applied: Lsn(0), lsn: Lsn(2) });
    assert_eq!(apply(&mut overlay, Lsn(2), &[0; 32], &none), gap);
    apply(&mut overlay, Lsn(1), &[5; 32], &none).unwrap();
    kv.write(overlay.into_batch()).unwrap();
    assert_eq!(index::applied(&Overlay::new(&kv)), Ok((Lsn(1), [5; 32])));
}

proptest! {
    /// Whatever stands in the store, and whatever the effects hold, the answer is an error or a result (R17).
    #[test]
    fn r17_damaged_rows_and_effects_are_errors(damage: Vec<u8>, effects: Vec<u8>, at in 0usize..40) {
        let mut world = World::new();
        let bucket = world.bucket("b");
        world.put(bucket, "k", &ids(&[1])).unwrap();
        let upload = world.upload(bucket, "k");
        world.part(&upload, 1, &ids(&[2])).unwrap();
        let mut overlay = world.view();
        let mut keys = Vec::new();
        for family in index::FAMILIES {
            let rows = crate::index::View::rows(&overlay, family, &[], &[0xff; 40], 100).unwrap();
            keys.extend(rows.into_iter().map(|(key, _)| (family, key)));
        }
        let (family, key) = keys[at % keys.len()].clone();
        overlay.put_raw(family, key, damage);
        for command in [
            put(bucket, "k", &ids(&[1]), vec![], Condition::IfMatchAny),
            delete(bucket, "k", Condition::None),
            complete(&upload, &[(1, ids(&[2]))]),
            Command::DeleteBucket { bucket },
        ] {
            if let Ok(decided) = crate::state::decide(&overlay, EPOCH, &command, &world.at()) {
                let mut after = world.view();
                let _ = apply(&mut after, world.lsn.next(), &[0; 32], &decided.effects);
            }
        }
        if let Ok(effects) = Effects::parse(&effects) {
            let _ = apply(&mut overlay, world.lsn.next(), &[0; 32], &effects);
        }
    }
}

/// A stripe of very many chunks is committed in pieces. A repair in between used to make the second piece a stripe of a
/// known id with another row, and refused it.
#[test]
fn a_repair_between_two_pieces_of_a_stripe_stays() {
    let mut world = World::new();
    let row = DriveRow { id: Bytes::from(vec![3; 16]), state: DriveState::Active as i32, ..DriveRow::default() };
    world.run(Command::RegisterDrive(row)).unwrap();
    let (stripe, chunks) = world.stripe(&ids(&[1, 2]));
    let piece = |n: usize| Command::CommitStripe { stripe: stripe.clone(), chunks: vec![chunks[n].clone()] };
    world.run(piece(0)).unwrap();
    let id = StripeId { epoch: world.writer, counter: world.stripes };
    let moves = vec![ShardMove { index: 2, from: Some(DriveId([2; 16])), to: DriveId([3; 16]) }];
    let command = Command::MoveShards { stripe: id, moves };
    world.run(command).unwrap();
    world.run(piece(1)).unwrap();
    let row = index::stripe(&world.view(), id).unwrap().unwrap();
    assert_eq!(row.drive(2), Some(DriveId([3; 16])));
    assert!(world.chunk(super::world::id(2)).is_some());
    let late = |to: u8| {
        let moves = vec![ShardMove { index: 2, from: Some(DriveId([2; 16])), to: DriveId([to; 16]) }];
        Command::MoveShards { stripe: id, moves }
    };
    assert_eq!(world.run(late(3)), Err(Refusal::StripeChanged(id)), "planned from where it no longer is");
    // Without the condition the row would point back at a drive whose copy may be freed by now.
    world.sabotage.set(Sabotage::RepairCondition, true);
    world.run(late(2)).unwrap();
    assert_eq!(index::stripe(&world.view(), id).unwrap().unwrap().drive(2), Some(DriveId([2; 16])));
    world.check_replay();
}
