//! What those ask for who may ask for anything: of accounts, keys, quotas, epochs, drives, of what holds reclaim, and of a loss.

use super::{Asked, KEYS, Run};
use crate::command::*;
use crate::index::reclaim::{self, RECLAIM_SETTING};
use crate::index::{self, access};
use crate::keys::rewrap::{Rewrapped, SecretOf};
use crate::kms::needed_by;
use crate::state::tests::world::*;
use bytes::Bytes;
use codec::effect::*;
use codec::id::*;
use codec::level::FormatLevel;
use proptest::prelude::*;

/// Whose the bucket is, and the key.
pub(super) const OWNER: &str = "alice";
const KEY: &str = "vault";

#[derive(Clone, Debug)]
pub(super) enum Admin {
    /// The account is deleted, created, put or replaced.
    Account(u8),
    Quota {
        account: bool,
        objects: u64,
    },
    Configure(bool),
    Count,
    HoldReclaim,
    /// Reclaim is switched off, or on.
    Switch(bool),
    /// What holds reclaim is released, and it is switched on.
    Release,
    /// So many entries are lost that nobody has seen.
    AcceptLoss(u64),
    Start,
    Renew,
    Grant,
    /// The retention clock is set back.
    Backwards(u16),
    Drain {
        drive: u8,
        on: bool,
    },
    Level,
    /// A version under the key.
    PutSecret {
        key: usize,
        chunk: u8,
        asked: Asked,
    },
    /// The key is taken out of use, given back, or put on the way to be destroyed.
    Key(KmsKeyState),
    /// What needs the key is looked for; what it comes to is done now or later.
    Destroy {
        later: bool,
    },
    /// The key is to be destroyed, is wanted after all, used, and is to be destroyed again: then comes what the first search found.
    Regret {
        key: usize,
        asked: Asked,
    },
    /// The key is destroyed without anybody having looked.
    DestroyBlind,
    /// A secret is wrapped anew, from what it is or from something else.
    Rewrap {
        which: usize,
        stale: bool,
    },
    /// All versions of all keys are deleted, with all that may be bypassed; then the bucket, and then the account.
    Raze,
}

pub(super) fn admin() -> impl Strategy<Value = Admin> {
    let key = 0..KEYS.len();
    let states = vec![KmsKeyState::Enabled, KmsKeyState::Enabled, KmsKeyState::Disabled, KmsKeyState::PendingDeletion];
    prop_oneof![
        4 => (0u8..4).prop_map(Admin::Account),
        2 => (any::<bool>(), prop::sample::select(vec![0u64, 0, 0, 3, 8]))
            .prop_map(|(account, objects)| Admin::Quota { account, objects }),
        1 => any::<bool>().prop_map(Admin::Configure),
        1 => Just(Admin::Count),
        1 => Just(Admin::HoldReclaim),
        1 => any::<bool>().prop_map(Admin::Switch),
        4 => Just(Admin::Release),
        1 => (0u64..5).prop_map(Admin::AcceptLoss),
        1 => Just(Admin::Start),
        2 => Just(Admin::Renew),
        1 => Just(Admin::Grant),
        2 => (0u16..99).prop_map(Admin::Backwards),
        2 => (0u8..8, any::<bool>()).prop_map(|(drive, on)| Admin::Drain { drive, on }),
        1 => Just(Admin::Level),
        3 => (key.clone(), super::asked()).prop_map(|(key, asked)| Admin::Regret { key, asked }),
        8 => (key, 20u8..24, super::asked()).prop_map(|(key, chunk, asked)| Admin::PutSecret { key, chunk, asked }),
        8 => prop::sample::select(states).prop_map(Admin::Key),
        6 => any::<bool>().prop_map(|later| Admin::Destroy { later }),
        1 => Just(Admin::DestroyBlind),
        4 => (0usize..4, prop::bool::weighted(0.3)).prop_map(|(which, stale)| Admin::Rewrap { which, stale }),
        4 => Just(Admin::Raze),
    ]
}

/// A secret under another cover: what is before the bar is the secret.
fn wrapped(secret: &str, cover: u64) -> Bytes {
    Bytes::from(format!("{secret}|{cover}"))
}

fn is_wrapped(bytes: &[u8], secret: &str) -> bool {
    bytes.strip_prefix(secret.as_bytes()).is_some_and(|rest| rest.starts_with(b"|"))
}

fn account(cover: u64) -> AccountRow {
    AccountRow {
        id: OWNER.to_owned(),
        name: OWNER.to_owned(),
        access_key: "AKALICE".to_owned(),
        wrapped_secret: wrapped("account", cover),
        ..AccountRow::default()
    }
}

fn kms_key() -> KmsKeyRow {
    KmsKeyRow { id: KEY.to_owned(), account: OWNER.to_owned(), wrapped: wrapped("key", 0), ..KmsKeyRow::default() }
}

impl Run {
    /// The account, its key, and a domain under the key.
    pub(super) fn settle(&mut self) {
        self.go(Command::CreateAccount(account(0))).unwrap();
        self.go(Command::CreateKmsKey(kms_key())).unwrap();
        let row = DomainRow {
            account: OWNER.to_owned(),
            encrypted: true,
            wrapped_chunk_key: wrapped("chunks", 0),
            wrapped_data_key: wrapped("data", 0),
            class: ProtectionClass::Kms.into(),
            key: KEY.to_owned(),
            ..DomainRow::default()
        };
        let Ok(Outcome::Domain(row)) = self.go(Command::PutDomain(row)) else { unreachable!() };
        self.secret_domain = DomainId(row.id);
        for n in 3..super::keeping::DRIVES {
            self.register(n, DriveState::Active);
        }
    }

    fn register(&mut self, n: u8, state: DriveState) {
        let id = Bytes::from(vec![n; 16]);
        self.go(Command::RegisterDrive(DriveRow { id, state: state.into(), ..DriveRow::default() })).unwrap();
    }

    fn next_epoch(&self) -> Epoch {
        Epoch(reclaim::last_granted(&self.world.view()).unwrap().0 + 1)
    }

    pub(super) fn admin(&mut self, admin: Admin) {
        let cover = self.world.lsn.0;
        let unfinished = self.world.writer;
        match admin {
            Admin::Account(0) => {
                let result = self.go(Command::DeleteAccount { id: OWNER.to_owned() });
                assert_eq!(result, Err(Refusal::AccountOwns { buckets: 1 }));
            }
            Admin::Account(1) => {
                assert_eq!(self.go(Command::CreateAccount(account(cover))), Err(Refusal::AccountExists));
            }
            Admin::Account(2) => drop(self.go(Command::ReplaceAccount(account(cover))).unwrap()),
            Admin::Account(_) => drop(self.go(Command::PutAccount(account(cover))).unwrap()),
            Admin::Quota { account, objects } => {
                let of = if account { QuotaOf::Account(OWNER.to_owned()) } else { QuotaOf::Bucket(self.bucket) };
                let quota = Quota { max_objects: objects, max_bytes: 0 };
                self.go(Command::SetQuota { of, quota }).unwrap();
            }
            Admin::Configure(encrypt) => {
                self.go(Command::ConfigureBucket { bucket: self.bucket, encrypt, zstd_level: 3 }).unwrap();
            }
            Admin::Count => drop(self.go(Command::CountUsage).unwrap()),
            Admin::HoldReclaim => drop(self.go(Command::HoldReclaim { reason: "a doubt".to_owned() }).unwrap()),
            Admin::Switch(on) => self.switch(on),
            Admin::Release => {
                self.go(Command::ReleaseReclaim { floor: self.world.lsn }).unwrap();
                self.switch(true);
            }
            Admin::AcceptLoss(lost) => {
                let kept = self.world.lsn.0;
                let loss = AcceptedLossRow { kept, known: kept + lost };
                // The entry has the LSN behind what was lost.
                self.world.lsn = Lsn(loss.known);
                self.go(Command::AcceptLoss { loss, sealed: None }).unwrap();
            }
            Admin::Start => {
                let epoch = self.next_epoch();
                self.go(Command::StartEpoch { epoch, journal: epoch }).unwrap();
                self.world.writer = epoch;
                self.marking = None;
            }
            Admin::Renew => {
                let epoch = self.next_epoch();
                self.go(Command::RenewEpoch { epoch, unfinished }).unwrap();
                self.world.writer = epoch;
            }
            Admin::Grant => {
                let (epoch, holder) = (self.next_epoch(), "gateway".to_owned());
                self.go(Command::GrantEpoch { epoch, holder, unfinished }).unwrap();
            }
            Admin::Backwards(days) => {
                let last = index::clock(&self.world.view()).unwrap().unwrap();
                let retention_ms = last.retention_ms - 1 - u64::from(days) * super::DAY;
                let result = self.go(Command::ClockTick(ClockTick { retention_ms, ..last }));
                assert_eq!(result, Err(Refusal::ClockBackwards));
            }
            Admin::Drain { drive, on } => {
                let state = if on { DriveState::Draining } else { DriveState::Active };
                self.register(drive % super::keeping::DRIVES, state);
            }
            Admin::Level => {
                for level in [FormatLevel::BEFORE, FormatLevel::VERSIONS] {
                    self.go(Command::RaiseLevel(level)).unwrap();
                }
            }
            Admin::PutSecret { key, chunk, asked } => self.put_secret(key, chunk, asked),
            Admin::Key(state) => drop(self.set_key(state, None)),
            Admin::Destroy { later } => {
                if let Some(found) = self.search() {
                    self.plan(found, later);
                }
            }
            Admin::Regret { key, asked } => {
                let _ = self.set_key(KmsKeyState::Disabled, None);
                let _ = self.set_key(KmsKeyState::PendingDeletion, None);
                let found = self.search();
                let _ = self.set_key(KmsKeyState::Enabled, None);
                self.put_secret(key, 20, asked);
                let _ = self.set_key(KmsKeyState::Disabled, None);
                let _ = self.set_key(KmsKeyState::PendingDeletion, None);
                found.into_iter().for_each(|found| self.plan(found, false));
                let _ = self.set_key(KmsKeyState::Enabled, None);
            }
            Admin::DestroyBlind => {
                let is = access::kms_key(&self.world.view(), KEY).unwrap().unwrap().state;
                let result = self.set_key(KmsKeyState::Destroyed, None);
                assert!(result.is_err() || is == KmsKeyState::Destroyed as i32, "{result:?}");
            }
            Admin::Rewrap { which, stale } => self.rewrap(which, stale),
            Admin::Raze => self.raze(),
        }
    }

    fn switch(&mut self, on: bool) {
        let value = Bytes::from_static(if on { b"on" } else { b"off" });
        self.go(Command::PutSetting(SettingRow { name: RECLAIM_SETTING.to_owned(), value })).unwrap();
    }

    fn set_key(&mut self, state: KmsKeyState, since: Option<u64>) -> Result<Outcome, Refusal> {
        self.go(Command::SetKmsKey(SetKmsKey { id: KEY.to_owned(), state, since }))
    }

    /// What the search for what needs the key comes to, where it is to be destroyed.
    fn search(&self) -> Option<Command> {
        let row = access::kms_key(&self.world.view(), KEY).unwrap().unwrap();
        if row.state != KmsKeyState::PendingDeletion as i32 {
            return None;
        }
        let needed = needed_by(&self.world.kv, &row).unwrap().is_some();
        let state = if needed { KmsKeyState::Disabled } else { KmsKeyState::Destroyed };
        Some(Command::SetKmsKey(SetKmsKey { id: row.id, state, since: Some(row.since) }))
    }

    fn put_secret(&mut self, key: usize, chunk: u8, asked: Asked) {
        let ids = ids(&[chunk]);
        let domain = self.secret_domain;
        let missing = self.world.missing_inline(&ids);
        let chunks = missing.into_iter().map(|chunk| NewChunk { domain, ..chunk }).collect();
        let content = Content { domain: domain.0, encrypted: true, ..content(&ids) };
        let command = put_content(self.bucket, KEYS[key], content, chunks, Condition::None);
        self.commit(command, asked, false);
    }

    fn rewrap(&mut self, which: usize, stale: bool) {
        let (view, domain) = (self.world.view(), self.secret_domain);
        let row = index::domain(&view, domain).unwrap().unwrap();
        let (of, was, secret) = match which {
            0 => (SecretOf::ChunkKey(domain), row.wrapped_chunk_key, "chunks"),
            1 => (SecretOf::DataKey(domain), row.wrapped_data_key, "data"),
            2 => (SecretOf::KmsKey(KEY.to_owned()), access::kms_key(&view, KEY).unwrap().unwrap().wrapped, "key"),
            _ => {
                let row = index::account(&view, OWNER).unwrap().unwrap();
                (SecretOf::Account(OWNER.to_owned()), row.wrapped_secret, "account")
            }
        };
        if was.is_empty() {
            return;
        }
        // One that was found long ago, and was of something else.
        let (was, secret) = if stale { (wrapped(secret, u64::MAX), "old") } else { (was, secret) };
        let is = wrapped(secret, self.world.lsn.0);
        self.go(Command::Rewrap(vec![Rewrapped { of, was, is }])).unwrap();
    }

    /// Of what is promised nothing goes; what is left keeps the bucket, and the bucket the account.
    fn raze(&mut self) {
        for (key, wanted) in KEYS.iter().enumerate() {
            let count = self.rows().keys().filter(|(name, _)| name == wanted).count();
            for n in (0..count).rev() {
                self.delete(&[(key, super::Target::Nth(n), true)]);
            }
        }
        let bucket = self.bucket;
        let result = self.go(Command::DeleteBucket { bucket });
        if !self.rows().is_empty() {
            assert_eq!(result, Err(Refusal::BucketNotEmpty));
            let result = self.go(Command::DeleteAccount { id: OWNER.to_owned() });
            assert_eq!(result, Err(Refusal::AccountOwns { buckets: 1 }));
            return;
        }
        assert!(matches!(result, Ok(Outcome::BucketDeleted { .. })), "{result:?}");
        self.go(Command::DeleteAccount { id: OWNER.to_owned() }).unwrap();
        self.go(Command::CreateAccount(account(0))).unwrap();
        let Command::CreateBucket(create) = create_bucket("docs", OWNER) else { unreachable!() };
        let with = BucketWith { lock: true, ..BucketWith::default() };
        let made = self.go(Command::CreateBucket(CreateBucket { with, ..create }));
        let Ok(Outcome::BucketCreated(row)) = made else { panic!("{made:?}") };
        self.bucket = row.bucket_id();
    }

    /// What a version hangs on besides its chunks: its bucket, whose that is, and the keys that it is read with.
    pub(super) fn check_keys(&self, row: &VersionRow) {
        let view = self.world.view();
        let bucket = index::bucket_by_id(&view, BucketId(row.bucket)).unwrap();
        let bucket = bucket.unwrap_or_else(|| panic!("the bucket is gone: {row:?}"));
        assert_eq!(
            index::bucket(&view, &bucket.name).unwrap().as_ref(),
            Some(&bucket),
            "the bucket has no name: {row:?}"
        );
        assert!(index::account(&view, &bucket.owner).unwrap().is_some(), "the bucket is nobody's: {row:?}");
        let Some(content) = &row.content else { return };
        let domain = index::domain(&view, content.domain_id()).unwrap();
        let domain = domain.unwrap_or_else(|| panic!("the domain is gone: {row:?}"));
        if domain.class() != ProtectionClass::Kms {
            return;
        }
        assert!(is_wrapped(&domain.wrapped_chunk_key, "chunks"), "another key of chunks: {domain:?}");
        assert!(is_wrapped(&domain.wrapped_data_key, "data"), "another key of data: {domain:?}");
        let key = access::kms_key(&view, &domain.key).unwrap();
        let key = key.unwrap_or_else(|| panic!("the key is gone: {row:?}"));
        assert!(is_wrapped(&key.wrapped, "key"), "{key:?} is destroyed, and {row:?} is under it");
    }
}
