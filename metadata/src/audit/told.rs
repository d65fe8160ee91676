//! What is written of a command.

use super::{AskedBy, Book};
use crate::command::{
    Attached, BucketChange, Command, CompleteUpload, CreateBucket, Gone, MAX_KEY, Made, Named, Outcome, QuotaOf,
    Refusal, Replaced, RuleStep, VersionChange,
};
use crate::iam::Ask;
use crate::iam::value::date;
use crate::index::{self, View};
use access::lifecycle::plan::Action;
use codec::effect::{
    AclGrantRow, AclRow, ConfigKind, GrantedPermission, GranteeKind, OwnershipRule, RetentionRow, UploadName,
    VersionRow,
};
use codec::id::{BucketId, Lsn};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The longest text that is written, in bytes; of what is longer the beginning is written, and how long it was.
const LONGEST: usize = 256;
/// Grants of a list that are written: a list may have a hundred, and a line is to be no longer than some kilobytes.
const GRANTS: usize = 20;

/// A change to be told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// Where, if it is done.
    book: Book,
    /// Where in the outcome it is said what came of it, if that says it of each.
    at: usize,
    what: &'static str,
    /// More of it, by name.
    more: Vec<(&'static str, Value)>,
}

fn told(what: &'static str, more: impl Into<Vec<(&'static str, Value)>>) -> Told {
    Told { book: Book::Changes, at: 0, what, more: more.into() }
}

fn of_bucket(what: &'static str, bucket: BucketId) -> Told {
    told(what, [("bucket", bucket.0.into())])
}

fn version(named: &Named) -> Value {
    match named {
        Named::Current => Value::Null,
        Named::Null => "null".into(),
        Named::Id(id) => id.as_str().into(),
    }
}

/// Changes of access, lock and policy, and deletions. Empty for all else, which is named here, so that it is decided of each new
/// command whether it is told.
pub(super) fn of(command: &Command, view: &dyn View) -> Vec<Told> {
    let one = match command {
        Command::CreateBucket(create) => of_new_bucket(create),
        Command::DeleteBucket { bucket } => {
            // An index that can't be read is no reason to write nothing: what is asked for is refused, or the id is all there is.
            let name = index::bucket_by_id(view, *bucket).ok().flatten().map_or(Value::Null, |row| row.name.into());
            told("delete-bucket", [("bucket", bucket.0.into()), ("name", name)])
        }
        Command::ConfigureBucket { bucket, encrypt, .. } => {
            told("set-encryption", [("bucket", bucket.0.into()), ("to", (*encrypt).into())])
        }
        Command::CommitObject(commit) => {
            let with = match commit.attached.made {
                Made::Put => "put",
                Made::Copy => "copy",
                Made::Post => "form",
            };
            return of_attached(&commit.attached, commit.bucket.0, &commit.key, with, None);
        }
        Command::CreateUpload(create) => {
            return of_attached(&create.attached, create.bucket.0, &create.key, "upload", None);
        }
        Command::CompleteUpload(complete) => return of_completed(complete, view),
        Command::ChangeBucket { bucket, change } => of_change(*bucket, change),
        // The lane's own, of no configuration that anybody set.
        Command::PutBucketConfig(put) if put.kind == ConfigKind::InventoryState => return Vec::new(),
        Command::PutBucketConfig(put) => told(
            if put.body.is_some() { "put-bucket-config" } else { "delete-bucket-config" },
            [
                ("bucket", put.bucket.0.into()),
                ("kind", format!("{:?}", put.kind).into()),
                ("id", put.id.as_str().into()),
            ],
        ),
        Command::DeleteObject { bucket, key, .. } => deletion(*bucket, key, &Named::Current, false),
        Command::DeleteObjects { bucket, keys } => {
            return each(keys.iter().map(|(key, _)| deletion(*bucket, key, &Named::Current, false))).collect();
        }
        Command::DeleteVersions(delete) => {
            let one = |of: &crate::command::DeleteVersion| deletion(delete.bucket, &of.key, &of.named, of.bypass);
            return each(delete.versions.iter().map(one)).collect();
        }
        Command::AbortUpload { upload } => aborted(upload),
        Command::FollowRules(follow) => {
            let steps = follow.steps.iter().map(|step| of_step(follow.bucket, step));
            let told = each(steps.chain(follow.uploads.iter().map(aborted)));
            // Moves are no deletions.
            return told.filter(|told| told.book == Book::Deletions).collect();
        }
        Command::ChangeVersion(change) => {
            let Some((what, to)) = of_version(&change.change) else { return Vec::new() };
            let (bucket, key) = (change.bucket.0.into(), change.key.as_str().into());
            let which = version(&change.named);
            told(
                what,
                [("bucket", bucket), ("key", key), ("version", which), ("to", to), ("bypass", change.bypass.into())],
            )
        }
        Command::PutAccount(row) | Command::CreateAccount(row) | Command::ReplaceAccount(row) => {
            told("put-account", [("account", row.id.as_str().into()), ("access_key", row.access_key.as_str().into())])
        }
        Command::DeleteAccount { id } => told("delete-account", [("account", id.as_str().into())]),
        Command::SetQuota { of, quota } => {
            let whose = match of {
                QuotaOf::Bucket(bucket) => json!({ "bucket": bucket.0 }),
                QuotaOf::Account(account) => json!({ "account": account }),
            };
            told("set-quota", [("of", whose), ("bytes", quota.max_bytes.into()), ("objects", quota.max_objects.into())])
        }
        Command::CreateKmsKey(row) => told("create-kms-key", [("id", row.id.as_str().into())]),
        Command::SetKmsKey(set) => {
            told("set-kms-key", [("id", set.id.as_str().into()), ("state", format!("{:?}", set.state).into())])
        }
        Command::Iam(command) => told(
            "iam",
            [
                ("account", command.account.as_str().into()),
                ("action", command.action.as_str().into()),
                ("of", command.ask.about().into()),
                ("key", command.key.as_ref().map_or(Value::Null, |key| key.access_key.as_str().into())),
            ],
        ),
        Command::SetReplication(row) => {
            told("set-replication", [("bucket", row.bucket.into()), ("target", row.target.as_str().into())])
        }
        Command::UnsetReplication { bucket } => of_bucket("unset-replication", *bucket),
        Command::ReleaseReclaim { .. } => told("release-reclaim", []),
        // Bytes, which are not what this log is about: that they take another version's place is in the outcome.
        Command::CommitStripe { .. } | Command::CommitPart { .. } => return Vec::new(),
        // What the cluster does with its own: where bytes lie, what nothing needs any more, what was copied or told elsewhere.
        Command::CountUsage
        | Command::PutDomain(_)
        | Command::Rewrap(_)
        | Command::PutSetting(_)
        | Command::StartEpoch { .. }
        | Command::RenewEpoch { .. }
        | Command::GrantEpoch { .. }
        | Command::RegisterDrive(_)
        | Command::SeeDrive(_)
        | Command::SettleCells
        | Command::PutNode(_)
        | Command::RaiseLevel(_)
        | Command::ClockTick(_)
        | Command::Seal(_)
        | Command::MoveShards { .. }
        | Command::ReplaceLedger(_)
        | Command::MoveFrames { .. }
        | Command::DeleteChunks(_)
        | Command::SpareChunks(_)
        | Command::RecountChunks(_)
        | Command::CondemnChunks(_)
        | Command::DropStripes(_)
        | Command::StripesFreed(_)
        | Command::HoldReclaim { .. }
        | Command::PutCheckpoint { .. }
        | Command::PauseReplication { .. }
        | Command::WalkReplication(_)
        | Command::QueueReplication { .. }
        | Command::Replicated { .. }
        | Command::NoticesDone(_)
        | Command::LostNoticesSeen { .. } => return Vec::new(),
        // Asked of itself by a service that starts, which serves nobody yet: its log is not open.
        Command::AcceptLoss { .. } => return Vec::new(),
    };
    vec![one]
}

/// A new bucket, with what of access and lock it is given at once. Its id is in the outcome.
fn of_new_bucket(create: &CreateBucket) -> Told {
    let mut told =
        told("create-bucket", [("name", create.name.as_str().into()), ("owner", create.owner.as_str().into())]);
    let with = &create.with;
    let given = [
        ("lock", with.lock.then(|| true.into())),
        ("ownership", (with.ownership != OwnershipRule::Unset).then(|| format!("{:?}", with.ownership).into())),
        ("public_access_block", with.block.as_ref().map(|block| format!("{block:?}").into())),
        ("acl", with.acl.as_ref().map(|acl| grants(Some(acl)))),
    ];
    told.more.extend(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
    told
}

/// What an upload gives a version of access and lock, as if it were given to it afterwards. One that gives it none of these, as nearly
/// all do, is not told.
fn of_attached(
    attached: &Attached,
    bucket: u64,
    key: &str,
    with: &'static str,
    upload: Option<&UploadName>,
) -> Vec<Told> {
    let Attached { acl, retention, hold, .. } = attached;
    let given = [
        acl.as_ref().map(|acl| ("set-acl", grants(Some(acl)))),
        retention.as_ref().map(|row| ("set-retention", retained(row))),
        hold.then(|| ("set-legal-hold", true.into())),
    ];
    let line = |(what, to): (&'static str, Value)| {
        let mut told = told(what, [("bucket", bucket.into()), ("key", key.into()), ("to", to), ("with", with.into())]);
        told.more.extend(upload.map(|name| ("upload", name.upload_id.as_str().into())));
        told
    };
    given.into_iter().flatten().map(line).collect()
}

/// The same of an upload in parts, to which it was given when it was begun: it counts from now on, and who ends an upload need not be
/// the one who began it.
fn of_completed(complete: &CompleteUpload, view: &dyn View) -> Vec<Told> {
    let Some(row) = index::upload(view, &complete.upload).ok().flatten() else { return Vec::new() };
    let attached = Attached { acl: row.acl, retention: row.retention, hold: row.hold, ..Attached::default() };
    let UploadName { bucket, key, .. } = &complete.upload;
    of_attached(&attached, *bucket, key, "complete-upload", Some(&complete.upload))
}

/// Whom a list gives what, those first who are not one account: of more than [`GRANTS`] it is said how many there are. `null`: the owner
/// alone has everything.
fn grants(acl: Option<&AclRow>) -> Value {
    let Some(acl) = acl else { return Value::Null };
    let group = |grant: &&AclGrantRow| grant.grantee() != GranteeKind::Account;
    let ordered = acl.grants.iter().filter(group).chain(acl.grants.iter().filter(|grant| !group(grant)));
    let mut shown: Vec<Value> = ordered.take(GRANTS).map(|row| grant(row).into()).collect();
    let more = acl.grants.len() - shown.len();
    if more > 0 {
        shown.push(format!("and {more} more").into());
    }
    Value::Array(shown)
}

fn grant(row: &AclGrantRow) -> String {
    let what = match row.permission() {
        GrantedPermission::Unspecified => "nothing",
        GrantedPermission::Read => "READ",
        GrantedPermission::Write => "WRITE",
        GrantedPermission::ReadAcp => "READ_ACP",
        GrantedPermission::WriteAcp => "WRITE_ACP",
        GrantedPermission::FullControl => "FULL_CONTROL",
    };
    let whom = match row.grantee() {
        GranteeKind::Unspecified => "nobody",
        GranteeKind::Account => row.id.as_str(),
        GranteeKind::AllUsers => "AllUsers",
        GranteeKind::AuthenticatedUsers => "AuthenticatedUsers",
        GranteeKind::LogDelivery => "LogDelivery",
    };
    format!("{what} {whom}")
}

fn retained(row: &RetentionRow) -> Value {
    json!({ "mode": format!("{:?}", row.mode()), "until": date(row.until_ms) })
}

fn deletion(bucket: BucketId, key: &str, named: &Named, bypass: bool) -> Told {
    let more =
        [("bucket", bucket.0.into()), ("key", key.into()), ("version", version(named)), ("bypass", bypass.into())];
    Told { book: Book::Deletions, ..told("delete", more) }
}

fn each(told: impl Iterator<Item = Told>) -> impl Iterator<Item = Told> {
    told.enumerate().map(|(at, told)| Told { at, ..told })
}

/// What a rule does to a version: puts a delete marker over it (where versions are kept), or has it gone for good.
fn of_step(bucket: BucketId, step: &RuleStep) -> Told {
    let id = &step.version_id;
    let named = if id.is_empty() { Named::Null } else { Named::Id(id.clone()) };
    let mut told = deletion(bucket, &step.key, &named, false);
    match step.action {
        Action::Expire => told.more.push(("rule", "expire".into())),
        Action::Delete => told.more.push(("rule", "delete".into())),
        Action::Move(_) => told.book = Book::Changes,
    }
    told
}

fn aborted(upload: &UploadName) -> Told {
    let more = [
        ("bucket", upload.bucket.into()),
        ("key", upload.key.as_str().into()),
        ("upload", upload.upload_id.as_str().into()),
    ];
    Told { book: Book::Deletions, ..told("abort-upload", more) }
}

/// What can be told of a command only when it is done: that a null version is gone, since another one took its place. Nothing is made
/// of a command beforehand that most of the time has nothing to be told of it.
pub(super) fn of_outcome(came: &Result<&Outcome, String>) -> Vec<Told> {
    let Ok(Outcome::Committed(row, Some(replaced))) = came else { return Vec::new() };
    let Replaced { lsn, etag, size, delete_marker } = &**replaced;
    let more = [
        ("bucket", row.bucket.into()),
        ("key", row.key.as_str().into()),
        ("version", "null".into()),
        ("was", json!({ "lsn": lsn.0, "etag": etag, "bytes": size, "marker": delete_marker })),
    ];
    vec![Told { book: Book::Deletions, ..told("replace", more) }]
}

/// Temporary credentials that somebody asks for, who would sign with an access key.
pub(super) fn session(account: &str, action: &str, ask: &Ask, access_key: &str) -> Told {
    let more = [
        ("account", account.into()),
        ("action", action.into()),
        ("of", ask.about().into()),
        ("key", access_key.into()),
    ];
    Told { book: Book::Sessions, ..told("session", more) }
}

fn of_change(bucket: BucketId, change: &BucketChange) -> Told {
    let (what, to) = match change {
        BucketChange::Versioning(enabled) => ("set-versioning", (*enabled).into()),
        BucketChange::Lock(default) => ("set-object-lock", format!("{default:?}").into()),
        BucketChange::Ownership(rule) => ("set-ownership", format!("{rule:?}").into()),
        BucketChange::Block(block) => ("set-public-access-block", format!("{block:?}").into()),
        BucketChange::Acl(acl) => ("set-bucket-acl", grants(acl.as_ref())),
        BucketChange::Encryption { encrypt, default } => ("set-encryption", format!("{encrypt} {default:?}").into()),
        BucketChange::Tags(tags) => ("set-bucket-tags", tags.len().into()),
    };
    told(what, [("bucket", bucket.0.into()), ("to", to)])
}

/// What changes of a version, if that is of its access or its lock.
fn of_version(change: &VersionChange) -> Option<(&'static str, Value)> {
    Some(match change {
        VersionChange::Acl(acl) => ("set-acl", grants(acl.as_ref())),
        VersionChange::Retention(None) => ("set-retention", Value::Null),
        VersionChange::Retention(Some(row)) => ("set-retention", retained(row)),
        VersionChange::Hold(hold) => ("set-legal-hold", (*hold).into()),
        // Policies may go by them.
        VersionChange::Tags(tags) => ("set-tags", tags.len().into()),
        VersionChange::Restore { .. } => return None,
    })
}

/// What came of one of a command's changes.
enum Came<'a> {
    Done,
    /// A bucket was made, with this id.
    Bucket(u64),
    /// A version was put.
    Version(&'a VersionRow),
    /// An upload was begun.
    Upload(&'a UploadName),
    /// A deletion, with what became of it.
    Gone(&'a Gone),
    /// It was about something that was not there.
    Nothing,
    Refused(String),
}

fn came_of<'a>(at: usize, came: &Result<&'a Outcome, String>) -> Came<'a> {
    let refused = |refusal: &Refusal| Came::Refused(refusal.to_string());
    match came {
        Err(refused) => Came::Refused(refused.clone()),
        Ok(Outcome::VersionsDeleted(each)) => match each.get(at) {
            Some(Err(refusal)) => refused(refusal),
            Some(Ok(gone)) if *gone == Gone::default() => Came::Nothing,
            Some(Ok(gone)) => Came::Gone(gone),
            None => Came::Done,
        },
        Ok(Outcome::RulesFollowed(each)) => match each.get(at) {
            Some(Err(refusal)) => refused(refusal),
            _ => Came::Done,
        },
        Ok(Outcome::DeletedMany(each)) => match each.get(at) {
            Some(Err(refusal)) => refused(refusal),
            Some(Ok(false)) => Came::Nothing,
            _ => Came::Done,
        },
        Ok(Outcome::Deleted(None)) => Came::Nothing,
        Ok(Outcome::BucketCreated(row)) => Came::Bucket(row.id),
        Ok(Outcome::Committed(row, _)) => Came::Version(row),
        Ok(Outcome::UploadCreated(name)) => Came::Upload(name),
        Ok(_) => Came::Done,
    }
}

/// The lines, with what came of each. Of those that came to nothing for the same reason there is one, which is the first one's and
/// says how many there are: a request names a thousand keys.
pub(super) fn lines(
    told: &[Told],
    by: &AskedBy,
    trace: &str,
    (applied, wall_ms): (Lsn, u64),
    came: Result<&Outcome, String>,
) -> Vec<(Book, String)> {
    let mut lines = Vec::new();
    let mut in_vain: BTreeMap<String, (&Told, u64)> = BTreeMap::new();
    let mut write = |told: &Told, more: Vec<(&'static str, Value)>, book: Book, result: &str| {
        let mut line = Map::new();
        line.insert("time".to_owned(), date(wall_ms).into());
        line.insert("lsn".to_owned(), applied.0.into());
        line.insert("what".to_owned(), told.what.into());
        line.extend(told.more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        line.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let who = [("by", &by.by), ("key_used", &by.access_key), ("from", &by.from)];
        line.extend(who.into_iter().map(|(name, value)| (name.to_owned(), value.as_str().into())));
        line.insert("trace".to_owned(), trace.into());
        line.insert("result".to_owned(), result.into());
        let cut = line.into_iter().map(|(name, value)| {
            let longest = if name == "key" { MAX_KEY } else { LONGEST };
            let value = cut(value, longest);
            (name, value)
        });
        lines.push((book, Value::Object(cut.collect()).to_string()));
    };
    let id = |id: &String| if id.is_empty() { "null".into() } else { Value::from(id.as_str()) };
    for told in told {
        match came_of(told.at, &came) {
            Came::Done => write(told, Vec::new(), told.book, "done"),
            Came::Bucket(made) => write(told, vec![("bucket", made.into())], told.book, "done"),
            Came::Version(row) => write(told, vec![("version", id(&row.version_id))], told.book, "done"),
            Came::Upload(name) => write(told, vec![("upload", name.upload_id.as_str().into())], told.book, "done"),
            Came::Gone(gone) => {
                let removed = gone.removed.as_ref().map_or(Value::Null, |(removed, _)| id(removed));
                let marker = gone.marker.as_ref().map_or(Value::Null, id);
                write(told, vec![("removed", removed), ("marker", marker)], told.book, "done");
            }
            Came::Nothing => in_vain.entry("nothing was there".to_owned()).or_insert((told, 0)).1 += 1,
            Came::Refused(why) => in_vain.entry(why).or_insert((told, 0)).1 += 1,
        }
    }
    for (why, (told, count)) in in_vain {
        let more = if count > 1 { vec![("count", count.into())] } else { Vec::new() };
        write(told, more, Book::Refused, &why);
    }
    lines
}

/// A value without what is too long: some are as long as whoever asked for it pleased, also where he may not have it.
fn cut(value: Value, longest: usize) -> Value {
    match value {
        Value::String(text) if text.len() > longest => {
            let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            format!("{}... ({} bytes)", text.get(..end).unwrap_or_default(), text.len()).into()
        }
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, cut(value, longest))).collect(),
        Value::Array(items) => items.into_iter().map(|item| cut(item, longest)).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{DeleteCondition, DeleteVersion, DeleteVersions, Gone, Refusal};
    use crate::index::{FAMILIES, Overlay};
    use storage_node::kv::MemoryKv;

    /// A list of a hundred accounts is no line of ten kilobytes, and whoever lets everybody in does not hide it behind them.
    #[test]
    fn of_a_long_list_so_much_is_told_as_counts_most() {
        let row = |grantee: GranteeKind, id: String| AclGrantRow {
            grantee: grantee as i32,
            id,
            permission: GrantedPermission::FullControl as i32,
        };
        let accounts = (0..99).map(|n| row(GranteeKind::Account, format!("{n}{}", "i".repeat(1000))));
        let grants = accounts.chain([row(GranteeKind::AllUsers, String::new())]).collect();
        let told = [of_change(BucketId(7), &BucketChange::Acl(Some(AclRow { grants })))];
        let written = lines(&told, &AskedBy::default(), "T", (Lsn(9), 1000), Ok(&Outcome::Done));
        let line: Value = serde_json::from_str(&written[0].1).unwrap();
        let to = line["to"].as_array().unwrap();
        assert_eq!((to.len(), &to[0], &to[GRANTS]), (21, &json!("FULL_CONTROL AllUsers"), &json!("and 80 more")));
        assert!(written[0].1.len() < 8 << 10);
        assert_eq!(of_change(BucketId(7), &BucketChange::Acl(None)).more[1], ("to", Value::Null));
    }

    #[test]
    fn each_deletion_has_its_line_with_what_came_of_it() {
        let of_key = |key: &str| DeleteVersion {
            key: key.to_owned(),
            named: Named::Null,
            condition: DeleteCondition::default(),
            bypass: true,
        };
        let index = MemoryKv::new(&FAMILIES);
        let delete = DeleteVersions {
            bucket: BucketId(7),
            versions: vec![of_key("a\n\"b"), of_key("c")],
            owner: String::new(),
            nonce: [0; 8],
            now_ms: 0,
        };
        let told = of(&Command::DeleteVersions(delete), &Overlay::new(&index));
        let by = AskedBy { by: "arn:x".to_owned(), access_key: "AK".to_owned(), from: "10.0.0.1".to_owned() };
        let gone = Gone { removed: Some((String::new(), false)), marker: None };
        let came = Outcome::VersionsDeleted(vec![Ok(gone), Err(Refusal::PreconditionFailed)]);
        let (books, lines): (Vec<_>, Vec<_>) = lines(&told, &by, "T", (Lsn(9), 1000), Ok(&came)).into_iter().unzip();
        let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(books, [Book::Deletions, Book::Refused]);
        assert_eq!((&parsed[0]["removed"], &parsed[0]["marker"]), (&json!("null"), &Value::Null));
        assert_eq!(parsed[0]["key"], "a\n\"b");
        assert_eq!(
            (&parsed[0]["result"], &parsed[0]["by"], &parsed[0]["from"]),
            (&json!("done"), &json!("arn:x"), &json!("10.0.0.1"))
        );
        assert_eq!(parsed[1]["result"], Refusal::PreconditionFailed.to_string());
        assert!(lines.iter().all(|line| !line.contains('\n')));
    }

    /// Who is refused, and who asks for what is not there, pushes nothing out: it is written elsewhere, once a request, and short.
    #[test]
    fn what_comes_to_nothing_is_one_short_line_in_a_book_of_its_own() {
        let by = AskedBy { by: "b".repeat(100_000), ..AskedBy::default() };
        let index = MemoryKv::new(&FAMILIES);
        let keys: Vec<_> = (0..1000).map(|n| (format!("{n}{}", "\u{1}".repeat(1000)), Default::default())).collect();
        let told = of(&Command::DeleteObjects { bucket: BucketId(7), keys }, &Overlay::new(&index));
        let mut each: Vec<_> = (0..1000).map(|_| Ok(false)).collect();
        each[7] = Ok(true);
        each[8] = Err(Refusal::PreconditionFailed);
        let came = Outcome::DeletedMany(each);
        let written = lines(&told, &by, "T", (Lsn(9), 1000), Ok(&came));
        let books: Vec<_> = written.iter().map(|(book, _)| *book).collect();
        assert_eq!(books, [Book::Deletions, Book::Refused, Book::Refused]);
        assert!(written.iter().all(|(_, line)| line.len() < 8 << 10));
        let counts: Vec<Value> =
            written.iter().map(|(_, line)| serde_json::from_str::<Value>(line).unwrap()["count"].clone()).collect();
        assert_eq!(counts, [Value::Null, Value::Null, json!(998)]);

        let arn = format!("arn:aws:iam::1:policy/{}", "\u{e4}".repeat(1000));
        let ask = Ask::SetBoundary { holder: crate::iam::Holder::User("anna".into()), arn: Some(arn) };
        let told = [session("1", "AssumeRole", &ask, "ASIA1")];
        for (came, book) in [(Ok(&Outcome::Done), Book::Sessions), (Err("no ".repeat(100_000)), Book::Refused)] {
            let written = lines(&told, &by, "T", (Lsn(9), 1000), came);
            assert!(written.len() == 1 && written[0].0 == book && written[0].1.len() < 2 << 10);
        }
    }
}
