//! Making all versions of one key the same on both sides, under a rule that copies versions. What is to be done says
//! [`super::versions`]; here is looked, and done.
//!
//! Invariants, besides those of [`super::copy`]:
//! * Each version is written with the name that it has here ([`VERSION`](super::target::VERSION)). One there is taken for a copy if it says
//!   that name and has that version's bytes and headers; a client here can't send that header through.
//! * Nothing is written where the bucket there does not keep versions: it would replace what is there. That is asked once a minute, and
//!   again when a write made no version.
//! * One version there is deleted by its id, and only if the index says that the version which it is a copy of was deleted here
//!   ([`replication::is_gone`]): that it is not here says nothing, it may have been lost.
//! * What cannot be read here, or is refused there, keeps no other version back, and the key fails at the end.
//! * What a version there is never changes, its tags aside. So each is asked for once ([`Known`]), the current one each time.
//! * Memory is bounded: a key with more than [`MOST`] versions on either side fails, and says so.

use super::copy::{Copied, Copier, CopyError, Done};
use super::same::{self, Tags};
use super::target::{Far, FarVersion, TargetError, Written};
use super::versions::{Here, Is, Plan, Step, There, copies};
use codec::effect::VersionRow;
use codec::id::Lsn;
use futures::TryFutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use md5::{Digest, Md5};
use metadata::index::{IndexError, Overlay, reclaim, replication, versions};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most versions of a key, delete markers included, on either side.
pub(super) const MOST: usize = 20_000;
/// Versions of one key that are asked for there at once.
pub(super) const LOOKS: usize = 4;
/// So long it counts that this process leads, within one plan.
const LEADS: Duration = Duration::from_secs(1);
/// Versions that are read from the index at once.
const PAGE: usize = 100;
/// Versions there that are remembered, of all keys of a rule.
const MOST_KNOWN: usize = 65_536;
/// A key is looked at so often in one turn: where what was the current one there is deleted, what is below it is seen only then.
const ROUNDS: usize = 4;
/// Copies of a version that have its bytes and not its headers: with so many it is the endpoint that changes them, and one more would
/// be no better.
const ENOUGH: usize = 2;

/// What is known of a version there.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact {
    /// Of which version here it says to be a copy; empty: of none.
    pub name: String,
    /// Whether it has that version's bytes, and its headers, too. `None`: that version is not here.
    pub like: Option<(bool, bool)>,
    /// It says that it has tags.
    pub tagged: bool,
    /// The tags that it is known to have.
    tags: Option<[u8; 16]>,
}

/// What is known of versions there, by key and id.
type Facts = HashMap<String, Fact>;

#[derive(Default)]
struct Remembered {
    keys: HashMap<String, Facts>,
    count: usize,
    /// How often somebody said that it may be wrong.
    doubts: u64,
}

/// What versions there are known to be. Lost at the end of the process, which costs a HEAD for each.
#[derive(Default)]
pub(super) struct Known(Mutex<Remembered>);

impl Known {
    fn known(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a key's versions is the caller's now.
    fn take(&self, key: &str) -> (Facts, u64) {
        let mut known = self.known();
        let facts = known.keys.remove(key).unwrap_or_default();
        known.count -= facts.len();
        (facts, known.doubts)
    }

    /// To be known until it is taken again, unless somebody doubts since `doubts`.
    fn keep(&self, key: &str, facts: Facts, doubts: u64) {
        let mut known = self.known();
        // Nothing is not worth remembering: the names of keys that come and go would fill the memory.
        if known.doubts != doubts || facts.is_empty() || facts.len() > MOST_KNOWN {
            return;
        }
        while known.count + facts.len() > MOST_KNOWN
            && let Some(other) = known.keys.keys().next().cloned()
        {
            known.count -= known.keys.remove(&other).map_or(0, |facts| facts.len());
        }
        known.count += facts.len();
        if let Some(before) = known.keys.insert(key.to_owned(), facts) {
            known.count -= before.len();
        }
    }

    /// A key was found to differ: all of it is looked at again.
    pub(super) fn doubt(&self, key: &str) {
        let mut known = self.known();
        known.doubts += 1;
        let facts = known.keys.remove(key).unwrap_or_default();
        known.count -= facts.len();
    }
}

/// A version here, as much of it as is kept of all versions of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub seq: u64,
    /// [`versions::name_of`].
    pub name: String,
    pub delete_marker: bool,
    pub size: u64,
    pub etag: String,
    tags: [u8; 16],
    tagged: bool,
}

impl Line {
    fn new(row: &VersionRow) -> Line {
        let (size, etag) = row.content.as_ref().map_or((0, String::new()), |found| (found.size, found.etag.clone()));
        Line {
            seq: row.seq,
            name: versions::name_of(row),
            delete_marker: row.delete_marker,
            size,
            etag,
            tags: digest(&same::tags_of(row)),
            tagged: !row.tags.is_empty(),
        }
    }
}

/// What a plan needs of them.
pub(super) fn plain(lines: &[Line]) -> Vec<Here> {
    lines.iter().map(|line| Here { seq: line.seq, delete_marker: line.delete_marker }).collect()
}

fn digest(tags: &Tags) -> [u8; 16] {
    let mut digest = Md5::new();
    for (key, value) in tags {
        for text in [key, value] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
    }
    digest.finalize().into()
}

/// What was done in a turn.
#[derive(Clone, Copy, Default)]
struct Sum {
    put: u64,
    bytes: u64,
    deleted: u64,
    tagged: u64,
}

/// Versions there, with their entity tags, as they lie when all that was done so far is done.
struct Top(Vec<FarVersion>);

impl Top {
    /// What a write is to find.
    fn found(&self) -> Option<Far> {
        let top = self.0.last().filter(|version| !version.delete_marker)?;
        Some(Far { etag: top.etag.clone(), ..Far::default() })
    }

    fn is(&self, id: &str) -> bool {
        self.0.last().is_some_and(|version| version.id == id)
    }
}

/// Whether this failed for a reason that lies in the version and in nothing else.
fn is_of_a_version(error: &CopyError) -> bool {
    matches!(error, CopyError::Unreadable(_) | CopyError::Target(TargetError::Refused(_) | TargetError::Unknown(_)))
}

fn is_denied(error: &CopyError) -> bool {
    matches!(error, CopyError::Target(TargetError::Denied(_)))
}

impl Copier {
    /// The versions of a key here from the oldest to the newest.
    pub(super) fn versions_here(&self, key: &str) -> Result<Vec<Line>, CopyError> {
        let (view, mut lines, mut before) = (Overlay::new(&**self.meta.kv()), Vec::new(), Lsn(u64::MAX));
        loop {
            let page = versions::older_versions(&view, self.bucket(), key, before, PAGE)?;
            lines.extend(page.iter().map(Line::new));
            if lines.len() > MOST {
                return Err(CopyError::TooMany);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => before = Lsn(last.seq),
                _ => break,
            }
        }
        lines.reverse();
        Ok(lines)
    }

    /// The versions of a key there from the oldest to the newest.
    pub(super) async fn versions_there(&self, key: &str) -> Result<Vec<FarVersion>, CopyError> {
        self.target.versions(key, MOST).await?.ok_or(CopyError::TooMany)
    }

    /// The version of this name, if it is here and has content.
    pub(super) fn named(&self, key: &str, name: &str) -> Result<Option<VersionRow>, IndexError> {
        let Some(seq) = versions::seq_of_name(name) else { return Ok(None) };
        let row = versions::version_at(&Overlay::new(&**self.meta.kv()), self.bucket(), key, seq)?;
        Ok(row.filter(|row| !row.delete_marker && versions::name_of(row) == name))
    }

    /// What a version there is, as its HEAD says.
    pub(super) fn fact(&self, key: &str, far: &Far) -> Result<(Fact, Option<VersionRow>), IndexError> {
        let row = self.named(key, &far.version)?;
        let like =
            row.as_ref().map(|row| (same::unlike_bytes(row, far).is_empty(), same::unlike_head(row, far).is_empty()));
        let fact = Fact { name: far.version.clone(), like, tagged: far.tags > 0, tags: None };
        Ok((fact, row))
    }

    /// What the versions there are, by what is known of each.
    pub(super) fn judge(
        &self,
        key: &str,
        here: &[Line],
        there: &[FarVersion],
        facts: &Facts,
    ) -> Result<Vec<There>, IndexError> {
        let names: HashMap<&str, u64> =
            here.iter().filter(|line| !line.delete_marker).map(|line| (line.name.as_str(), line.seq)).collect();
        let mut alike: HashMap<&str, usize> = HashMap::new();
        for fact in facts.values().filter(|fact| fact.like.is_some_and(|(bytes, _)| bytes)) {
            *alike.entry(&fact.name).or_default() += 1;
        }
        let view = Overlay::new(&**self.meta.kv());
        let is = |version: &FarVersion| {
            let fact = facts.get(&version.id).filter(|fact| !fact.name.is_empty());
            Ok::<_, IndexError>(match fact {
                _ if version.delete_marker => Is::Marker,
                None => Is::Other,
                Some(fact) => match names.get(fact.name.as_str()) {
                    Some(seq) => match fact.like {
                        Some((true, true)) => Is::Copy(*seq),
                        Some((true, false)) if alike.get(fact.name.as_str()) >= Some(&ENOUGH) => Is::Copy(*seq),
                        _ => Is::Other,
                    },
                    None if replication::is_gone(&view, self.bucket(), key, &fact.name)? => Is::Gone,
                    None => Is::Other,
                },
            })
        };
        let there = there.iter().map(|version| Ok(There { id: version.id.clone(), is: is(version)? }));
        there.collect()
    }

    /// Makes the versions of a key there what they are here. `lsn`: its last change that is known.
    pub(super) async fn copy_versions(&self, key: &str, lsn: u64) -> Result<Done, CopyError> {
        self.target.keeps_versions().await?;
        let (mut facts, doubts) = self.known.take(key);
        let mut sum = Sum::default();
        let mut result = Ok(None);
        for _ in 0..ROUNDS {
            result = self.round(key, &mut facts, &mut sum).await;
            if !matches!(result, Ok(None)) {
                break;
            }
        }
        self.known.keep(key, facts, doubts);
        let again = match result? {
            Some(again) => again,
            None => return Err(TargetError::Changed.into()),
        };
        let copied = match sum {
            Sum { put: 0, deleted: 0, tagged: 0, .. } => Copied::Same,
            Sum { put, bytes, deleted, tagged } => Copied::Versions { put: put + tagged, bytes, deleted },
        };
        Ok(Done { lsn, copied, again })
    }

    /// One look, and what follows from it. `None`: it is to be looked at once more.
    async fn round(&self, key: &str, facts: &mut Facts, sum: &mut Sum) -> Result<Option<Option<Instant>>, CopyError> {
        // Before the look: what arrives after it must not be taken for what it saw.
        let looked = Instant::now();
        let there = self.versions_there(key).await?;
        let ids: HashSet<&str> =
            there.iter().filter(|version| !version.latest).map(|version| version.id.as_str()).collect();
        facts.retain(|id, _| ids.contains(id.as_str()));
        self.look_up(key, &there, facts).await?;
        self.leads().await?;
        let mut led = Instant::now();
        // Also: whether the index can be asked now.
        self.current(key).await?;
        let here = self.versions_here(key)?;
        let names: HashSet<&str> = here.iter().map(|line| line.name.as_str()).collect();
        let before = facts.len();
        facts.retain(|_, fact| fact.like.is_some() || !names.contains(fact.name.as_str()));
        if facts.len() < before {
            self.look_up(key, &there, facts).await?;
        }
        let hold = reclaim::unreleased(&Overlay::new(&**self.meta.kv()))?;
        // Also where something is to be there: a late write of a version that was deleted here since would be the current one for good,
        // and once the key is off the queue nothing says any more that it was deleted.
        let again = self.late.until(key, true, looked);
        if again.is_some() {
            // Tags have no condition: those of a late write may have come since.
            facts.values_mut().for_each(|fact| fact.tags = None);
        }
        let mut judged = self.judge(key, &here, &there, facts)?;
        let plain = plain(&here);
        let mut plan = Plan::new(&plain, &judged, self.rule.deletes);
        if let Some(hold) = &hold
            && !there.is_empty()
            && plan.next().is_some()
        {
            return Err(CopyError::Held(hold.clone()));
        }
        let (mut top, mut failed, mut unseen) = (Top(there), None, false);
        while let Some(step) = plan.next() {
            // A plan may be long, and conditions don't tell versions with the same bytes apart.
            if led.elapsed() > LEADS {
                self.leads().await?;
                led = Instant::now();
            }
            match self.step(key, &step, &top).await {
                Ok(Some((row, bytes, written))) => {
                    let line = Line::new(&row);
                    let fact =
                        Fact { name: line.name, like: Some((true, true)), tagged: line.tagged, tags: Some(line.tags) };
                    facts.insert(written.id.clone(), fact);
                    judged.push(There { id: written.id.clone(), is: Is::Copy(row.seq) });
                    let Written { etag, id } = written;
                    top.0.push(FarVersion { id, latest: true, delete_marker: false, size: bytes, etag });
                    (sum.put, sum.bytes) = (sum.put + 1, sum.bytes.saturating_add(bytes));
                }
                Ok(None) => {
                    sum.deleted += 1;
                    match &step {
                        Step::Delete(id) => {
                            unseen |= top.is(id);
                            facts.remove(id);
                            top.0.retain(|version| version.id != *id);
                        }
                        _ => top.0.push(FarVersion {
                            id: String::new(),
                            latest: true,
                            delete_marker: true,
                            size: 0,
                            etag: String::new(),
                        }),
                    }
                }
                // What is denied of one version may be allowed of every other, unless the bucket is closed.
                Err(error) if is_of_a_version(&error) || (is_denied(&error) && self.target.look().await.is_ok()) => {
                    plan.failed(&step);
                    failed.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            plan.done(&step);
        }
        let held = hold.filter(|_| !top.0.is_empty());
        let lines: HashMap<u64, &Line> = here.iter().map(|line| (line.seq, line)).collect();
        for (seq, version) in copies(&judged) {
            let Some(line) = lines.get(&seq) else { continue };
            match self.tags_of_version(key, line, &version.id, facts, held.is_some()).await {
                Ok(true) => sum.tagged += 1,
                Ok(false) => {}
                Err(CopyError::Superseded) if held.is_some() => {
                    return Err(held.map_or(CopyError::Superseded, CopyError::Held));
                }
                Err(error) if is_of_a_version(&error) => _ = failed.get_or_insert(error),
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None if unseen => Ok(None),
            None => Ok(Some(again)),
        }
    }

    /// Asks what each version there is of which that is not known.
    async fn look_up(&self, key: &str, there: &[FarVersion], facts: &mut Facts) -> Result<(), CopyError> {
        let unknown: Vec<&str> = {
            let lacks = |version: &&FarVersion| !version.delete_marker && !facts.contains_key(&version.id);
            there.iter().filter(lacks).map(|version| version.id.as_str()).collect()
        };
        let look = |id: &str| {
            let id = id.to_owned();
            async move {
                let far = self.target.head(key, Some(&id)).await?.ok_or(TargetError::Changed)?;
                Ok::<_, CopyError>((id, self.fact(key, &far)?.0))
            }
        };
        let mut looks = std::pin::pin!(stream::iter(unknown).map(look).buffer_unordered(LOOKS));
        while let Some((id, fact)) = looks.try_next().await? {
            facts.insert(id, fact);
        }
        Ok(())
    }

    /// Does a step; what it put.
    async fn step(&self, key: &str, step: &Step, top: &Top) -> Result<Option<(VersionRow, u64, Written)>, CopyError> {
        let found = top.found();
        match step {
            Step::Put(seq) => {
                let row = versions::version_at(&Overlay::new(&**self.meta.kv()), self.bucket(), key, Lsn(*seq))?;
                let row = row.filter(|row| !row.delete_marker).ok_or(CopyError::Superseded)?;
                let (bytes, written) = self.answered(key, self.put(&row, found.as_ref(), 0)).await?;
                match written.id.as_str() {
                    "null" => return Err(self.target.lost_a_version().into()),
                    // An endpoint may not say it of what was put together from parts: the next look finds it.
                    "" => {
                        self.target.asks_again();
                        self.target.keeps_versions().await?;
                        return Err(TargetError::Changed.into());
                    }
                    _ => {}
                }
                Ok(Some((row, bytes, written)))
            }
            Step::Mark => {
                let found = found.unwrap_or_default();
                self.answered(key, self.target.delete(key, &found).map_err(CopyError::from)).await?;
                Ok(None)
            }
            Step::Delete(id) => {
                self.target.remove(key, id).await?;
                Ok(None)
            }
        }
    }

    /// Gives a version there the tags that it has here; whether it had others. [`CopyError::Superseded`]: it would have to, and is held.
    async fn tags_of_version(
        &self,
        key: &str,
        line: &Line,
        id: &str,
        facts: &mut Facts,
        held: bool,
    ) -> Result<bool, CopyError> {
        let Some(fact) = facts.get_mut(id) else { return Ok(false) };
        if fact.tags == Some(line.tags) {
            return Ok(false);
        }
        if fact.tags.is_none() && !line.tagged && !fact.tagged {
            fact.tags = Some(line.tags);
            return Ok(false);
        }
        if fact.tags.is_none() {
            fact.tags = Some(digest(&self.target.tags(key, Some(id)).await?));
        }
        if fact.tags == Some(line.tags) {
            return Ok(false);
        }
        if held {
            return Err(CopyError::Superseded);
        }
        let Some(row) = self.named(key, &line.name)? else { return Err(CopyError::Superseded) };
        let tags = same::tags_of(&row);
        fact.tags = None;
        self.answered(key, self.target.set_tags(key, Some(id), &tags).map_err(CopyError::from)).await?;
        fact.tags = Some(digest(&tags));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(count: usize) -> Facts {
        (0..count).map(|n| (n.to_string(), Fact::default())).collect()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_doubted() {
        let known = Known::default();
        let counts = || {
            let known = known.known();
            (known.keys.len(), known.count)
        };
        for n in 0..10 {
            let (none, doubts) = known.take(&n.to_string());
            assert!(none.is_empty());
            known.keep(&n.to_string(), facts(MOST_KNOWN / 4), doubts);
        }
        assert_eq!(counts(), (4, MOST_KNOWN));
        known.keep("large", facts(MOST_KNOWN + 1), 0);
        assert_eq!(counts(), (4, MOST_KNOWN));
        let key = known.known().keys.keys().next().unwrap().clone();
        let (taken, doubts) = known.take(&key);
        assert_eq!((taken.len(), counts()), (MOST_KNOWN / 4, (3, 3 * MOST_KNOWN / 4)));
        known.keep("empty", Facts::new(), doubts);
        assert!(!known.known().keys.contains_key("empty"), "a name for each key that ever was");
        known.doubt(&key);
        known.keep(&key, taken, doubts);
        assert!(known.take(&key).0.is_empty(), "what was doubted meanwhile");
    }

    #[test]
    fn tags_are_told_apart() {
        let of = |pairs: &[(&str, &str)]| {
            digest(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[]), of(&[("", "")]));
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
    }
}
