//! How much buckets and accounts hold. Rows of no effect: they follow from PutVersion, DeleteVersion, PutPart and DeleteUpload.
//!
//! Invariants:
//! * `q` and a bucket, in the family `buckets`, and `q` and an account, in the family `accounts`: a [`UsageRow`]. The account's is the
//!   sum over its buckets that are there. Without a row it is nothing.
//! * What counts is the length of objects and parts as clients see it, never what is stored of it: two accounts that put the same
//!   bytes pay the same, and neither learns that the other has them. Delete markers count for nothing, so a DELETE is never refused.
//! * An index of before there were these rows is counted in steps, in the order of keys. Each step is an entry that names its end
//!   ([`USAGE_SETTING`]): what lies before that end is counted, and followed by every change; what lies behind it is neither. So every
//!   process and every rebuild come to the same rows. A store that is empty when level 4 is reached is counted from the beginning.

use super::{
    ACCOUNTS, BUCKETS, IndexError, META, OBJECTS, Overlay, RowFault, UPLOADS, View, bucket_by_id, damaged, decode,
    part, part_key, parts, read, setting, setting_key, tagged, version_key, versions,
};
use codec::effect::{BucketRow, Content, EffectKind, PartRow, SettingRow, UploadName, UsageRow, VersionRow};
use codec::id::{BucketId, Lsn};
use std::collections::BTreeMap;

/// Name of the setting that says how far an index is counted: [`Counted`].
pub const USAGE_SETTING: &str = "usage";
/// Rows that one step counts at most.
pub const STEP_ROWS: usize = 5_000;

const OF_VERSIONS: u8 = 0;
const OF_PARTS: u8 = 1;
const ALL: u8 = 2;

/// How far an index is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Nothing is: the format level is below 4.
    Not,
    /// Versions before this key are.
    Versions(Vec<u8>),
    /// All versions, and parts before this key.
    Parts(Vec<u8>),
    /// Everything.
    All,
}

impl Counted {
    fn parse(value: &[u8]) -> Option<Counted> {
        let (kind, key) = value.split_first()?;
        match *kind {
            OF_VERSIONS => Some(Counted::Versions(key.to_vec())),
            OF_PARTS => Some(Counted::Parts(key.to_vec())),
            ALL if key.is_empty() => Some(Counted::All),
            _ => None,
        }
    }

    /// As the setting has it.
    fn value(&self) -> Vec<u8> {
        match self {
            Counted::Not => Vec::new(),
            Counted::Versions(key) => [&[OF_VERSIONS], &key[..]].concat(),
            Counted::Parts(key) => [&[OF_PARTS], &key[..]].concat(),
            Counted::All => vec![ALL],
        }
    }

    fn has_version(&self, key: &[u8]) -> bool {
        match self {
            Counted::Not => false,
            Counted::Versions(end) => key < &end[..],
            Counted::Parts(_) | Counted::All => true,
        }
    }

    fn has_part(&self, key: &[u8]) -> bool {
        match self {
            Counted::Not | Counted::Versions(_) => false,
            Counted::Parts(end) => key < &end[..],
            Counted::All => true,
        }
    }
}

/// What a change adds to a bucket, or takes from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Versions.
    pub objects: i128,
    /// Bytes of versions.
    pub bytes: i128,
    /// Bytes of parts of open uploads.
    pub part_bytes: i128,
}

impl Change {
    fn of_version(version: &VersionRow) -> Change {
        let objects = i128::from(!version.delete_marker);
        Change { objects, bytes: size(version.content.as_ref()), part_bytes: 0 }
    }

    fn of_part(part: &PartRow) -> Change {
        Change { part_bytes: size(part.content.as_ref()), ..Change::default() }
    }

    pub(crate) fn plus(self, other: Change) -> Change {
        Change {
            objects: self.objects + other.objects,
            bytes: self.bytes + other.bytes,
            part_bytes: self.part_bytes + other.part_bytes,
        }
    }

    fn minus(self, other: Change) -> Change {
        let Change { objects, bytes, part_bytes } = other;
        self.plus(Change { objects: -objects, bytes: -bytes, part_bytes: -part_bytes })
    }

    fn is_none(self) -> bool {
        self == Change::default()
    }
}

fn size(content: Option<&Content>) -> i128 {
    content.map_or(0, |content| content.size.into())
}

fn bucket_key(bucket: BucketId) -> Vec<u8> {
    tagged(b'q', &bucket.0.to_be_bytes())
}

fn account_key(account: &str) -> Vec<u8> {
    tagged(b'q', account.as_bytes())
}

/// How much a bucket holds.
pub fn of_bucket(view: &dyn View, bucket: BucketId) -> Result<UsageRow, IndexError> {
    Ok(read(view, BUCKETS, &bucket_key(bucket))?.unwrap_or_default())
}

/// How much the buckets of an account hold.
pub fn of_account(view: &dyn View, account: &str) -> Result<UsageRow, IndexError> {
    Ok(read(view, ACCOUNTS, &account_key(account))?.unwrap_or_default())
}

/// How far an index is counted.
pub fn counted(view: &dyn View) -> Result<Counted, IndexError> {
    let Some(row) = setting(view, USAGE_SETTING)? else { return Ok(Counted::Not) };
    Counted::parse(&row.value).ok_or_else(|| damaged(META, &setting_key(USAGE_SETTING), RowFault::Field))
}

/// The value of the setting after the next step; `None` where everything is counted.
pub fn next_step(view: &dyn View) -> Result<Option<SettingRow>, IndexError> {
    next_step_of(view, STEP_ROWS)
}

/// The same, of a step of so many rows at most.
pub(crate) fn next_step_of(view: &dyn View, rows: usize) -> Result<Option<SettingRow>, IndexError> {
    let (family, start) = match counted(view)? {
        Counted::All => return Ok(None),
        Counted::Not => (OBJECTS, Vec::new()),
        Counted::Versions(key) => (OBJECTS, key),
        Counted::Parts(key) => (UPLOADS, key),
    };
    let end = super::prefix_end(if family == OBJECTS { &[0xff; 8] } else { b"p" });
    let last = view.rows(family, &start, &end, rows)?;
    let next = match (last.len() == rows, last.last(), family) {
        (true, Some((key, _)), OBJECTS) => Counted::Versions([&key[..], &[0]].concat()),
        (true, Some((key, _)), _) => Counted::Parts([&key[..], &[0]].concat()),
        (_, _, OBJECTS) => Counted::Parts(vec![b'p']),
        _ => Counted::All,
    };
    Ok(Some(SettingRow { name: USAGE_SETTING.to_owned(), value: next.value().into() }))
}

/// What changes of an entry add to buckets, or take from them, as far as those are counted: of rows as they are before the entry.
pub(crate) fn changes_of<'a>(
    view: &dyn View,
    kinds: impl IntoIterator<Item = &'a EffectKind>,
) -> Result<BTreeMap<BucketId, Change>, IndexError> {
    let mut found: BTreeMap<BucketId, Change> = BTreeMap::new();
    let mut known = None;
    for kind in kinds {
        if !matches!(
            kind,
            EffectKind::PutVersion(_)
                | EffectKind::DeleteVersion(_)
                | EffectKind::PutPart(_)
                | EffectKind::DeleteUpload(_)
        ) {
            continue;
        }
        let counted = match &mut known {
            Some(counted) => counted,
            None => known.insert(counted(view)?),
        };
        if let Some((bucket, change)) = change_of(view, counted, kind)? {
            let sum = found.entry(bucket).or_default();
            *sum = sum.plus(change);
        }
    }
    Ok(found)
}

fn change_of(view: &dyn View, counted: &Counted, kind: &EffectKind) -> Result<Option<(BucketId, Change)>, IndexError> {
    let version = |bucket: u64, key: &str, seq: u64| versions::version_at(view, BucketId(bucket), key, Lsn(seq));
    let of_version = |row: Option<VersionRow>| row.as_ref().map_or_else(Change::default, Change::of_version);
    Ok(match kind {
        EffectKind::PutVersion(row) => {
            let bucket = BucketId(row.bucket);
            if !counted.has_version(&version_key(bucket, &row.key, Lsn(row.seq))) {
                return Ok(None);
            }
            let old = of_version(version(row.bucket, &row.key, row.seq)?);
            Some((bucket, Change::of_version(row).minus(old)))
        }
        EffectKind::DeleteVersion(name) => {
            let bucket = BucketId(name.bucket);
            if !counted.has_version(&version_key(bucket, &name.key, Lsn(name.seq))) {
                return Ok(None);
            }
            let old = of_version(version(name.bucket, &name.key, name.seq)?);
            Some((bucket, Change::default().minus(old)))
        }
        EffectKind::PutPart(row) => {
            let Some(name) = &row.upload else { return Ok(None) };
            if !counted.has_part(&part_key(name, row.number)) {
                return Ok(None);
            }
            let old = part(view, name, row.number)?.as_ref().map_or_else(Change::default, Change::of_part);
            Some((BucketId(name.bucket), Change::of_part(row).minus(old)))
        }
        EffectKind::DeleteUpload(name) => Some((BucketId(name.bucket), parts_of(view, counted, name)?)),
        _ => None,
    })
}

fn parts_of(view: &dyn View, counted: &Counted, name: &UploadName) -> Result<Change, IndexError> {
    let parts = parts(view, name)?;
    let held = parts.iter().filter(|part| counted.has_part(&part_key(name, part.number)));
    Ok(held.fold(Change::default(), |sum, part| sum.minus(Change::of_part(part))))
}

/// What a row would be after a change.
pub(crate) fn after(row: &UsageRow, change: Change) -> UsageRow {
    let add = |value: u64, change: i128| u64::try_from((i128::from(value) + change).max(0)).unwrap_or(u64::MAX);
    UsageRow {
        objects: add(row.objects, change.objects),
        bytes: add(row.bytes, change.bytes),
        part_bytes: add(row.part_bytes, change.part_bytes),
    }
}

fn put(overlay: &mut Overlay<'_>, bucket: BucketId, owner: &str, change: Change) -> Result<(), IndexError> {
    let (of_bucket, of_account) = (of_bucket(overlay, bucket)?, of_account(overlay, owner)?);
    overlay.put(BUCKETS, bucket_key(bucket), &after(&of_bucket, change));
    overlay.put(ACCOUNTS, account_key(owner), &after(&of_account, change));
    Ok(())
}

/// Notes what an effect changes; before it is applied.
pub(crate) fn note(overlay: &mut Overlay<'_>, kind: &EffectKind) -> Result<(), IndexError> {
    for (bucket, change) in changes_of(overlay, [kind])? {
        if change.is_none() {
            continue;
        }
        // Uploads of a bucket that is gone are nobody's: what they held was taken from the account with the bucket.
        if let Some(row) = bucket_by_id(overlay, bucket)? {
            put(overlay, bucket, &row.owner, change)?;
        }
    }
    Ok(())
}

/// Takes a bucket that goes out of its account.
pub(crate) fn drop_bucket(overlay: &mut Overlay<'_>, row: &BucketRow) -> Result<(), IndexError> {
    let held = of_bucket(overlay, row.bucket_id())?;
    let change = Change { objects: held.objects.into(), bytes: held.bytes.into(), part_bytes: held.part_bytes.into() };
    if !change.is_none() {
        put(overlay, row.bucket_id(), &row.owner, Change::default().minus(change))?;
    }
    overlay.delete(BUCKETS, bucket_key(row.bucket_id()));
    Ok(())
}

/// An account that goes owns no bucket any more.
pub(crate) fn drop_account(overlay: &mut Overlay<'_>, id: &str) {
    overlay.delete(ACCOUNTS, account_key(id));
}

/// The format level reaches that of these rows: an empty store is counted.
pub(crate) fn begin(overlay: &mut Overlay<'_>) -> Result<(), IndexError> {
    if counted(overlay)? != Counted::Not {
        return Ok(());
    }
    let empty = |family| Ok::<_, IndexError>(overlay.rows(family, &[], &[0xff; 9], 1)?.is_empty());
    let counted = if empty(OBJECTS)? && empty(UPLOADS)? { Counted::All } else { Counted::Versions(Vec::new()) };
    let row = SettingRow { name: USAGE_SETTING.to_owned(), value: counted.value().into() };
    overlay.put(META, setting_key(USAGE_SETTING), &row);
    Ok(())
}

/// Counts what lies between where the index is counted to and where a step says; before the step's own row is put.
pub(crate) fn step(overlay: &mut Overlay<'_>, row: &SettingRow) -> Result<(), IndexError> {
    let to = Counted::parse(&row.value).ok_or_else(|| damaged(META, &setting_key(USAGE_SETTING), RowFault::Field))?;
    let mut sums: BTreeMap<BucketId, Change> = BTreeMap::new();
    let mut add = |bucket: u64, change: Change| {
        let sum = sums.entry(BucketId(bucket)).or_default();
        *sum = sum.plus(change);
    };
    let (family, start) = match counted(overlay)? {
        Counted::Not => (OBJECTS, Vec::new()),
        Counted::Versions(key) => (OBJECTS, key),
        Counted::Parts(key) => (UPLOADS, key),
        Counted::All => return Ok(()),
    };
    let end = match (&to, family) {
        (Counted::Versions(end), OBJECTS) => end.clone(),
        (_, OBJECTS) => super::prefix_end(&[0xff; 8]),
        (Counted::Parts(end), _) => end.clone(),
        _ => super::prefix_end(b"p"),
    };
    for (key, value) in overlay.rows(family, &start, &end, usize::MAX)? {
        if family == OBJECTS {
            let row: VersionRow = decode(OBJECTS, &key, value)?;
            add(row.bucket, Change::of_version(&row));
        } else if key.first() == Some(&b'p') {
            let row: PartRow = decode(UPLOADS, &key, value)?;
            add(row.upload.as_ref().map_or(0, |name| name.bucket), Change::of_part(&row));
        }
    }
    for (bucket, change) in sums {
        if let Some(row) = bucket_by_id(overlay, bucket)? {
            put(overlay, bucket, &row.owner, change)?;
        }
    }
    Ok(())
}
