//! Object Lock, at random: every way in which a version can go, against an oracle that knows nothing but what was promised, while
//! somebody plays with the clocks. After each step every version that is there is whole: its chunks are where drives hold them,
//! nobody has given them up, and whoever may read it still can.
//!
//! [`table`] says of each command whether it is played, or why it can't take anything from a version.
//! `STELE_LOCK_OPS=1000000 cargo test -p metadata --lib locks` runs a million of them.

mod admin;
mod keeping;
mod table;

use self::admin::{Admin, OWNER, admin};
use self::keeping::{Keep, Marking, Media, keep};
use self::table::Seen;
use super::world::*;
use crate::clock::{CATCH_UP_PER_YEAR_MS, Clock, RetentionClock};
use crate::command::*;
use crate::index::{self, Overlay, reclaim, versions as rows};
use crate::keep::lifecycle;
use crate::lifecycle::{body_of, rules};
use codec::effect::*;
use codec::id::*;
use codec::level::FormatLevel;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use storage_node::kv::Kv;
use storage_node::sabotage::Sabotage;

const KEYS: [&str; 3] = ["a", "a/b", "c"];
const DAY: u64 = 24 * 3600 * 1000;
const YEAR: u64 = 365 * DAY;
/// When the world begins, by every clock.
const BEGAN: u64 = 50 * YEAR + 100 * DAY;
/// Commands of one case.
const STEPS: usize = 100;
/// Plans that wait.
const PLANS: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Compliance, and how many days from now on.
    retention: Option<(bool, u16)>,
    hold: bool,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Current,
    Null,
    Nth(usize),
}

#[derive(Clone, Copy, Debug)]
enum Other {
    Tags,
    List,
    Restore,
    Expire,
}

#[derive(Clone, Debug)]
enum Op {
    /// Its chunks are looked for now, and it is committed now or later.
    Put {
        key: usize,
        chunk: u8,
        asked: Asked,
        later: bool,
    },
    /// With a manifest in a chunk of its own.
    PutNode {
        key: usize,
        children: Vec<u8>,
        asked: Asked,
    },
    /// So many days pass between its beginning and its end.
    Upload {
        key: usize,
        asked: Asked,
        days: u16,
    },
    Delete(Vec<(usize, Target, bool)>),
    OldDelete(Vec<usize>),
    /// Compliance and days from now on; or none at all.
    Retain {
        key: usize,
        target: Target,
        new: Option<(bool, i16)>,
        bypass: bool,
    },
    Hold {
        key: usize,
        target: Target,
        on: bool,
    },
    Change {
        key: usize,
        target: Target,
        what: Other,
    },
    Default(Option<(bool, u16)>),
    /// By a command, or by a row that somebody has forged.
    Suspend {
        forged: bool,
        enabled: bool,
    },
    Rules {
        days: u32,
        newer: Option<u32>,
        prefix: usize,
    },
    DropBucket,
    Keep(Keep),
    Admin(Admin),
    /// All clocks go on.
    Pass {
        days: u16,
    },
    /// The machine's clock is set, to so many days from where it should be.
    SetWall {
        days: i32,
    },
    /// Another leader, or another start, whose machine's clock is so wrong.
    Restart {
        days: i32,
    },
}

fn asked() -> impl Strategy<Value = Asked> {
    let retention = prop_oneof![3 => Just(None), 3 => (any::<bool>(), 0u16..40).prop_map(Some)];
    (retention, prop::bool::weighted(0.1)).prop_map(|(retention, hold)| Asked { retention, hold })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![2 => Just(Target::Current), 3 => Just(Target::Null), 6 => (0usize..8).prop_map(Target::Nth)]
}

fn wrong() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(0), 2 => -400i32..400, 1 => Just(-40_000), 1 => Just(200_000)]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    prop_oneof![
        16 => (key.clone(), 1u8..9, asked(), prop::bool::weighted(0.1))
            .prop_map(|(key, chunk, asked, later)| Op::Put { key, chunk, asked, later }),
        4 => (key.clone(), prop::collection::vec(1u8..9, 1..4), asked())
            .prop_map(|(key, children, asked)| Op::PutNode { key, children, asked }),
        3 => (key.clone(), asked(), 0u16..9).prop_map(|(key, asked, days)| Op::Upload { key, asked, days }),
        22 => prop::collection::vec((key.clone(), target(), any::<bool>()), 1..4).prop_map(Op::Delete),
        3 => prop::collection::vec(key.clone(), 1..3).prop_map(Op::OldDelete),
        10 => (key.clone(), target(), prop::option::weighted(0.8, (any::<bool>(), -3i16..60)), any::<bool>())
            .prop_map(|(key, target, new, bypass)| Op::Retain { key, target, new, bypass }),
        5 => (key.clone(), target(), prop::bool::weighted(0.3)).prop_map(|(key, target, on)| Op::Hold { key, target, on }),
        4 => (key.clone(), target(), 0..4usize).prop_map(|(key, target, what)| {
            Op::Change { key, target, what: [Other::Tags, Other::List, Other::Restore, Other::Expire][what] }
        }),
        3 => prop::option::of((any::<bool>(), 1u16..20)).prop_map(Op::Default),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(forged, enabled)| Op::Suspend { forged, enabled }),
        6 => (1u32..20, prop::option::of(1u32..3), key).prop_map(|(days, newer, prefix)| Op::Rules { days, newer, prefix }),
        1 => Just(Op::DropBucket),
        30 => keep().prop_map(Op::Keep),
        16 => admin().prop_map(Op::Admin),
        8 => (0u16..30).prop_map(|days| Op::Pass { days }),
        4 => wrong().prop_map(|days| Op::SetWall { days }),
        2 => wrong().prop_map(|days| Op::Restart { days }),
    ]
}

#[derive(Debug)]
struct Hands {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl Clock for Hands {
    fn wall_ms(&self) -> u64 {
        self.wall.load(Ordering::Relaxed)
    }
    fn monotonic_ms(&self) -> u64 {
        self.monotonic.load(Ordering::Relaxed)
    }
}

/// What the one who asks is allowed to do to versions, by their names. Everything else must stay as it is.
#[derive(Default)]
struct Allowed {
    /// May go in spite of governance.
    bypass: BTreeSet<Name>,
    /// May get another retention, and whether in spite of governance.
    retain: Option<(Name, bool)>,
    /// May lose its hold.
    unhold: Option<Name>,
}

struct Run {
    world: World,
    bucket: BucketId,
    hands: Hands,
    clock: RetentionClock,
    /// What time it is really.
    real_ms: u64,
    /// The last tick that was journaled.
    ticked_ms: u64,
    step: u8,
    /// The domain under the account's key.
    secret_domain: DomainId,
    /// The versions that there were after the last command.
    known: Rows,
    media: Media,
    /// What was planned, to be carried out later.
    plans: Vec<Command>,
    marking: Option<Marking>,
    /// Mark passes are torn by what happens meanwhile, and counts are only hints; else counts are right, and nobody looks.
    torn: bool,
    seen: Seen,
}

/// A key and a number: one entry may put a version of each of several keys.
type Name = (String, u64);
type Rows = BTreeMap<Name, VersionRow>;

fn name_of(row: &VersionRow) -> Name {
    (row.key.clone(), row.seq)
}

/// Whether what was promised forbids that a version goes. Written down once more, in other words than the code's.
fn is_promised(row: &VersionRow, bypass: bool, ticked_ms: u64, wall_ms: u64) -> bool {
    if row.hold {
        return true;
    }
    match row.retention {
        None => false,
        Some(kept) if ticked_ms >= kept.until_ms && wall_ms >= kept.until_ms => false,
        Some(kept) => kept.mode() != RetentionMode::Governance || !bypass,
    }
}

fn mode(compliance: bool) -> i32 {
    if compliance { RetentionMode::Compliance as i32 } else { RetentionMode::Governance as i32 }
}

impl Run {
    /// A bucket with two null versions from before it kept versions and had Object Lock.
    fn new(torn: bool, sabotage: Option<Sabotage>) -> Run {
        let hands = Hands { wall: BEGAN.into(), monotonic: 0.into() };
        let mut world = World { wall_ms: BEGAN, ..World::new() };
        world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
        assert_eq!(OWNER, "alice", "whose the world's buckets are");
        let bucket = world.bucket("docs");
        for (n, key) in ["a", "c"].into_iter().enumerate() {
            world.put(bucket, key, &ids(&[n as u8 + 1])).unwrap();
        }
        for change in [BucketChange::Versioning(true), BucketChange::Lock(None)] {
            world.run(Command::ChangeBucket { bucket, change }).unwrap();
        }
        if let Some(step) = sabotage {
            world.sabotage.set(step, true);
        }
        let clock = RetentionClock::resume(None, &hands);
        let mut run = Run {
            world,
            bucket,
            hands,
            clock,
            real_ms: BEGAN,
            ticked_ms: 0,
            step: 0,
            secret_domain: DOMAIN,
            known: Rows::new(),
            media: Media::default(),
            plans: Vec::new(),
            marking: None,
            torn,
            seen: Seen::new(),
        };
        run.known = run.rows();
        run.tick();
        run.settle();
        run
    }

    fn wall(&self) -> u64 {
        self.hands.wall_ms()
    }

    /// The later clock, from which periods count.
    fn later(&self) -> u64 {
        self.wall().max(self.ticked_ms)
    }

    fn tick(&mut self) {
        let tick = self.clock.tick(&self.hands);
        // No clock that anybody set makes this one run faster than time, but for what it may catch up with.
        let years = (tick.retention_ms / YEAR).saturating_sub(BEGAN / YEAR) + 1;
        assert!(tick.retention_ms <= self.real_ms + years * CATCH_UP_PER_YEAR_MS, "the retention clock ran ahead");
        assert!(tick.retention_ms >= self.ticked_ms, "the retention clock ran backwards");
        self.ticked_ms = tick.retention_ms;
        self.go(Command::ClockTick(tick)).unwrap();
    }

    fn pass(&mut self, days: u16) {
        let ms = u64::from(days) * DAY + 1;
        self.real_ms += ms;
        self.hands.monotonic.fetch_add(ms, Ordering::Relaxed);
        self.set_wall(self.wall().saturating_add(ms));
        self.tick();
    }

    fn set_wall(&mut self, ms: u64) {
        self.hands.wall.store(ms, Ordering::Relaxed);
        self.world.wall_ms = ms;
    }

    fn wrong(&self, days: i32) -> u64 {
        self.real_ms.saturating_add_signed(i64::from(days) * DAY as i64)
    }

    fn rows(&self) -> Rows {
        let view = self.world.view();
        let of_key = |key| rows::newest_versions(&view, self.bucket, key, usize::MAX).unwrap();
        KEYS.into_iter().flat_map(of_key).map(|row| (name_of(&row), row)).collect()
    }

    fn find(&self, key: usize, target: Target) -> (Named, Option<Name>) {
        let rows = rows::newest_versions(&self.world.view(), self.bucket, KEYS[key], usize::MAX).unwrap();
        match target {
            Target::Current => (Named::Current, rows.first().map(name_of)),
            Target::Null => (Named::Null, rows.iter().find(|row| row.version_id.is_empty()).map(name_of)),
            Target::Nth(n) if !rows.is_empty() => {
                let row = &rows[n % rows.len()];
                let null = row.version_id.is_empty();
                (if null { Named::Null } else { Named::Id(row.version_id.clone()) }, Some(name_of(row)))
            }
            Target::Nth(_) => (Named::Null, None),
        }
    }

    /// Runs a command, and compares what it did with what was promised.
    fn run(&mut self, command: Command, allowed: &Allowed) -> Result<Outcome, Refusal> {
        let before = std::mem::take(&mut self.known);
        let (name, lsn) = (table::name_of(&command), self.world.lsn);
        let gives_up = matches!(command, Command::DeleteChunks(_) | Command::DropStripes(_) | Command::FollowRules(_));
        let held = gives_up && reclaim::hold(&self.world.view()).unwrap().is_some();
        let result = self.world.run(command);
        assert!(!held || matches!(result, Err(Refusal::ReclaimHeld(_))), "while reclaim is held: {result:?}");
        if result.is_ok() && self.world.lsn > lsn {
            *self.seen.entry(name).or_default() += 1;
        }
        let after = self.rows();
        for (seq, old) in &before {
            let bypass = allowed.bypass.contains(seq);
            match after.get(seq) {
                None => assert!(
                    !is_promised(old, bypass, self.ticked_ms, self.wall()),
                    "gone, and promised: {old:?} at {} and {}",
                    self.ticked_ms,
                    self.wall()
                ),
                Some(new) => self.check_change(old, new, allowed),
            }
        }
        self.known = after;
        result
    }

    /// The same, of what nobody has asked to weaken anything with.
    fn go(&mut self, command: Command) -> Result<Outcome, Refusal> {
        self.run(command, &Allowed::default())
    }

    fn check_change(&self, old: &VersionRow, new: &VersionRow, allowed: &Allowed) {
        assert_eq!((&old.content, &old.version_id), (&new.content, &new.version_id), "another version in its place");
        if old.hold && !new.hold {
            assert_eq!(allowed.unhold, Some(name_of(old)), "the hold was lost");
        }
        if old.retention == new.retention {
            return;
        }
        let bypass = match &allowed.retain {
            Some((name, bypass)) if *name == name_of(old) => *bypass,
            _ => panic!("the retention changed by itself: {old:?} became {new:?}"),
        };
        let free = VersionRow { hold: false, ..old.clone() };
        let longer = match (old.retention, new.retention) {
            (Some(old), Some(new)) => new.mode == old.mode && new.until_ms >= old.until_ms,
            _ => old.retention.is_none(),
        };
        assert!(
            longer || !is_promised(&free, bypass, self.ticked_ms, self.wall()),
            "weaker, and promised: {old:?} became {new:?}"
        );
    }

    fn asked(&self, asked: Asked) -> (Attached, Option<RetentionRow>) {
        let until = |days: u16| self.later() + u64::from(days) * DAY;
        let retention =
            asked.retention.map(|(strict, days)| RetentionRow { mode: mode(strict), until_ms: until(days) });
        let nonce = [self.step; 8];
        (Attached { retention, hold: asked.hold, nonce, ..Attached::default() }, retention)
    }

    /// What a new version has to be kept by.
    fn check_new(&self, row: &VersionRow, asked: Option<RetentionRow>, hold: bool) {
        let bucket = index::bucket(&self.world.view(), "docs").unwrap().unwrap();
        assert_eq!(row.hold, hold);
        match (asked, bucket.default_retention) {
            (Some(asked), _) => assert_eq!(row.retention, Some(asked)),
            (None, None) => assert_eq!(row.retention, None),
            (None, Some(default)) => {
                let kept = row.retention.unwrap();
                assert_eq!(kept.mode, default.mode);
                assert_eq!(kept.until_ms, self.later() + u64::from(default.days) * DAY);
            }
        }
    }

    fn put(&mut self, key: usize, chunk: u8, asked: Asked, later: bool) {
        let ids = ids(&[chunk]);
        let missing = self.world.missing_inline(&ids);
        self.commit(put(self.bucket, KEYS[key], &ids, missing, Condition::None), asked, later);
    }

    fn commit(&mut self, command: Command, asked: Asked, later: bool) {
        let (attached, retention) = self.asked(asked);
        let Command::CommitObject(put) = command else { unreachable!() };
        let command = Command::CommitObject(CommitObject { attached, ..put });
        if later {
            self.plans.push(command);
            return;
        }
        match self.go(command) {
            Ok(Outcome::Committed(row, _)) => self.check_new(&row, retention, asked.hold),
            // A date that is over already, or a null version in the way that is kept; too much, or under a key that is out of use.
            Err(Refusal::Retention(_) | Refusal::Locked(_) | Refusal::QuotaExceeded { .. } | Refusal::Kms { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    fn upload(&mut self, key: usize, asked: Asked, days: u16) {
        let (attached, retention) = self.asked(asked);
        let Command::CreateUpload(create) = create_upload(self.bucket, KEYS[key]) else { unreachable!() };
        let opened = self.go(Command::CreateUpload(CreateUpload { attached, ..create }));
        let upload = match opened {
            Ok(Outcome::UploadCreated(name)) => name,
            Err(Refusal::Retention(_)) => return,
            other => panic!("{other:?}"),
        };
        let part_ids = ids(&[9]);
        let (chunks, content) = (self.world.missing_inline(&part_ids), content(&part_ids));
        let etag = content.etag.clone();
        let part =
            Command::CommitPart { upload: upload.clone(), number: 1, content: content.clone(), chunks, now_ms: 5 };
        if let Err(refusal) = self.go(part) {
            assert!(matches!(refusal, Refusal::QuotaExceeded { .. }), "{refusal:?}");
            self.go(Command::AbortUpload { upload }).unwrap();
            return;
        }
        self.pass(days);
        if days == 8 {
            // It stays open.
            return;
        }
        let content = Content { part_sizes: vec![content.size], ..content };
        let (nonce, now_ms) = ([self.step; 8], 6);
        let complete = CompleteUpload {
            upload: upload.clone(),
            parts: vec![(1, etag)],
            content,
            chunks: Vec::new(),
            condition: Condition::None,
            now_ms,
            nonce,
        };
        match self.go(Command::CompleteUpload(complete)) {
            Ok(Outcome::Committed(row, _)) => self.check_new(&row, retention, asked.hold),
            Err(Refusal::Locked(_) | Refusal::QuotaExceeded { .. }) => {
                self.go(Command::AbortUpload { upload }).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, targets: &[(usize, Target, bool)]) {
        let mut allowed = Allowed::default();
        let mut versions = Vec::new();
        let mut free = None;
        for &(key, target, bypass) in targets {
            let (named, seq) = self.find(key, target);
            if bypass && named != Named::Current {
                allowed.bypass.extend(seq.clone());
            }
            if named != Named::Current {
                free = seq.map(|seq| (seq, bypass));
            }
            let condition = DeleteCondition::default();
            versions.push(DeleteVersion { key: KEYS[key].to_owned(), named, condition, bypass });
        }
        let of_free = free.and_then(|(name, bypass): (Name, bool)| {
            let row = self.rows().get(&name)?.clone();
            Some((name, bypass, row))
        });
        let (bucket, nonce) = (self.bucket, [self.step; 8]);
        let delete = DeleteVersions { bucket, versions, owner: String::new(), nonce, now_ms: 9 };
        let result = self.run(Command::DeleteVersions(delete), &allowed);
        assert!(matches!(result, Ok(_) | Err(Refusal::Locked(_))), "{result:?}");
        // What nothing keeps goes: a lock that never lets go is no lock either.
        if let ([_], Some((seq, bypass, row))) = (targets, of_free)
            && !is_promised(&row, bypass, self.ticked_ms, self.wall())
        {
            assert!(!self.rows().contains_key(&seq), "kept, and not promised: {row:?}");
        }
    }

    fn change(&mut self, key: usize, target: Target, change: VersionChange, bypass: bool) {
        let (named, seq) = self.find(key, target);
        let mut allowed = Allowed::default();
        match &change {
            VersionChange::Retention(_) => allowed.retain = seq.map(|seq| (seq, bypass)),
            VersionChange::Hold(false) => allowed.unhold = seq,
            _ => {}
        }
        let (bucket, key) = (self.bucket, KEYS[key].to_owned());
        let _ =
            self.run(Command::ChangeVersion(ChangeVersion { bucket, key, named, change, bypass, seq: None }), &allowed);
    }

    fn rules(&mut self, days: u32, newer: Option<u32>, prefix: usize) {
        let at_once = Some(LifecycleNoncurrent { days: 0, newer: None });
        let rule = LifecycleRuleRow {
            enabled: true,
            prefix: Some(KEYS[prefix].to_owned()),
            expiration: Some(LifecycleWhen { days: Some(days), date_ms: None }),
            noncurrent: Some(LifecycleNoncurrent { days, newer }),
            noncurrent_transitions: vec![LifecycleNoncurrentTransition { when: at_once, class: "GLACIER".to_owned() }],
            ..LifecycleRuleRow::default()
        };
        let row = LifecycleRow { rules: vec![rule], ..LifecycleRow::default() };
        let rules = rules(&row).unwrap();
        let (kind, body) = (ConfigKind::Lifecycle, Some(body_of(&row)));
        let put = PutBucketConfig { bucket: self.bucket, kind, id: String::new(), body };
        self.run(Command::PutBucketConfig(put), &Allowed::default()).unwrap();
        let now_ms = self.ticked_ms.min(self.wall());
        let bucket = index::bucket(&self.world.view(), "docs").unwrap().unwrap();
        for command in lifecycle::commands(&self.world.view(), bucket, rules, now_ms).unwrap() {
            let _ = self.run(command, &Allowed::default());
        }
    }

    fn step(&mut self, op: Op) {
        self.step = self.step.wrapping_add(1);
        let bucket = self.bucket;
        match op {
            Op::Put { key, chunk, asked, later } => self.put(key, chunk, asked, later),
            Op::PutNode { key, children, asked } => self.put_node(key, &children, asked),
            Op::Upload { key, asked, days } => self.upload(key, asked, days),
            Op::Delete(targets) => self.delete(&targets),
            Op::OldDelete(keys) if keys.len() == 1 => {
                let _ = self.run(delete(bucket, KEYS[keys[0]], Condition::None), &Allowed::default());
            }
            Op::OldDelete(keys) => {
                let keys = keys.into_iter().map(|key| (KEYS[key].to_owned(), Condition::None)).collect();
                self.run(Command::DeleteObjects { bucket, keys }, &Allowed::default()).unwrap();
            }
            Op::Retain { key, target, new, bypass } => {
                let until = |days: i16| self.later().saturating_add_signed(i64::from(days) * DAY as i64);
                let new = new.map(|(strict, days)| RetentionRow { mode: mode(strict), until_ms: until(days) });
                self.change(key, target, VersionChange::Retention(new), bypass);
            }
            Op::Hold { key, target, on } => self.change(key, target, VersionChange::Hold(on), true),
            Op::Change { key, target, what } => {
                let restore = self.find(key, target).1.and_then(|name| self.rows().get(&name)?.restore);
                let change = match what {
                    Other::Tags => VersionChange::Tags(vec![Tag { key: "k".into(), value: self.step.to_string() }]),
                    Other::List => VersionChange::Acl(Some(AclRow::default())),
                    Other::Restore => {
                        VersionChange::Restore { from: None, to: Some(RestoreRow { days: 3, until_ms: 0 }) }
                    }
                    Other::Expire => VersionChange::Restore { from: restore, to: None },
                };
                self.change(key, target, change, true);
            }
            Op::Default(default) => {
                let row = |(strict, days): (bool, u16)| DefaultRetentionRow {
                    mode: mode(strict),
                    days: days.into(),
                    years: 0,
                };
                let change = BucketChange::Lock(default.map(row));
                let result = self.run(Command::ChangeBucket { bucket, change }, &Allowed::default());
                assert!(matches!(result, Ok(_) | Err(Refusal::NotVersioned)), "{result:?}");
            }
            Op::Suspend { forged: false, enabled } => {
                let change = BucketChange::Versioning(enabled);
                let result = self.run(Command::ChangeBucket { bucket, change }, &Allowed::default());
                assert_eq!(result.is_ok(), enabled);
            }
            Op::Suspend { forged: true, enabled } => {
                let versioning = if enabled { Versioning::Enabled } else { Versioning::Suspended }.into();
                let row = index::bucket(&self.world.view(), "docs").unwrap().unwrap();
                let mut overlay = Overlay::new(&self.world.kv);
                overlay.put(index::BUCKETS, index::bucket_key("docs"), &BucketRow { versioning, ..row });
                let batch = overlay.into_batch();
                self.world.kv.write(batch).unwrap();
            }
            Op::Rules { days, newer, prefix } => self.rules(days, newer, prefix),
            Op::DropBucket => {
                let kept = !self.rows().is_empty();
                if kept {
                    let result = self.run(Command::DeleteBucket { bucket }, &Allowed::default());
                    assert_eq!(result, Err(Refusal::BucketNotEmpty));
                }
            }
            Op::Keep(keep) => self.keep(keep),
            Op::Admin(admin) => self.admin(admin),
            Op::Pass { days } => self.pass(days),
            Op::SetWall { days } => self.set_wall(self.wrong(days)),
            Op::Restart { days } => {
                self.set_wall(self.wrong(days));
                let last = index::clock(&self.world.view()).unwrap();
                self.clock = RetentionClock::resume(last, &self.hands);
                self.tick();
            }
        }
        self.plans.drain(..self.plans.len().saturating_sub(PLANS));
        for row in self.known.values() {
            self.check_whole(row);
            self.check_keys(row);
        }
        // What it holds of the journal is not asked for here.
        self.world.log.drain(..self.world.log.len().saturating_sub(1));
    }
}

/// What versions, and what they need, are kept by.
const STEPS_TAKEN: [Sabotage; 7] = [
    Sabotage::VersionLock,
    Sabotage::ClockMonotonic,
    Sabotage::ReclaimState,
    Sabotage::ReclaimHold,
    Sabotage::ReviveCondemned,
    Sabotage::DropCheck,
    Sabotage::RepairCondition,
];

fn cases() -> u32 {
    let ops: Option<usize> = std::env::var("STELE_LOCK_OPS").ok().and_then(|ops| ops.parse().ok());
    u32::try_from(ops.unwrap_or(20_000).div_ceil(STEPS)).unwrap_or(u32::MAX)
}

fn play(torn: bool, ops: Vec<Op>, sabotage: Option<Sabotage>) -> Seen {
    let mut run = Run::new(torn, sabotage);
    for op in ops {
        run.step(op);
    }
    if !torn {
        run.world.check_refs();
    }
    run.seen
}

fn ops() -> impl Strategy<Value = (bool, Vec<Op>)> {
    (any::<bool>(), prop::collection::vec(op(), STEPS..=STEPS))
}

#[test]
fn r15_what_is_promised_stays_whoever_asks_and_whatever_the_clocks_say() {
    let mut runner = TestRunner::new(Config { cases: cases(), failure_persistence: None, ..Config::default() });
    let seen = RefCell::new(Seen::new());
    let result = runner.run(&ops(), |(torn, ops)| {
        for (name, count) in play(torn, ops, None) {
            *seen.borrow_mut().entry(name).or_default() += count;
        }
        Ok(())
    });
    if let Err(found) = result {
        panic!("{found}");
    }
    println!("{:?}", seen.borrow());
    // Of a few nobody can say what they have not played.
    if cases() >= 200 {
        table::check(&seen.borrow());
    }
}

/// The same, with a step taken away that a version is kept by: the oracle must notice.
#[test]
fn the_oracle_notices_versions_that_go_unasked() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut unnoticed = Vec::new();
    for step in STEPS_TAKEN {
        let config = Config { cases: 400, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let found = TestRunner::new(config).run(&ops(), |(torn, ops)| {
            let played = std::panic::catch_unwind(|| play(torn, ops, Some(step)));
            played.map(drop).map_err(|_| TestCaseError::fail("noticed"))
        });
        unnoticed.extend(found.is_ok().then_some(step));
    }
    std::panic::set_hook(hook);
    assert!(unnoticed.is_empty(), "taken away, and nothing was noticed: {unnoticed:?}");
}
