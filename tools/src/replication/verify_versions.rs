//! Comparing both sides under a rule that copies versions: [`super::verify`], for all versions of each key.
//!
//! A key is the same when each version here that has content has a copy there with its bytes, headers, name and tags, and the current
//! one there is as the copier would leave it ([`super::versions`]). Where it lies there, and that there is more than one copy of it, does
//! not matter. A quick look compares sizes and entity tags as the listings have them, and looks closer only where they differ.

use super::answers::{Difference, Unlike, VerifyAnswer};
use super::copy::{Copier, CopyError};
use super::history::{LOOKS, Line, plain};
use super::same;
use super::target::{Far, FarVersion, TargetError};
use super::verify::{DIFFERS, EXTRA, How, MISSING, Page, UNKNOWN, Verdict, VerifyError, beyond, patiently, told};
use super::versions::{Plan, copies};
use futures::stream::{self, StreamExt, TryStreamExt};
use metadata::client::MetadataClient;
use metadata::listing::{MAX_PAGE, VersionsRequest};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Keys that are compared at once.
const AT_ONCE: usize = 8;
/// How long one key may take. Whoever asked would not wait longer, and nothing behind this key would ever be compared.
const KEY_TIME: Duration = Duration::from_secs(15);
/// Differences of one key that are told.
const TOLD: usize = 100;

/// Compares what sorts after a key, as far as one page of either side goes.
pub(super) async fn page(copier: &Copier, after: &str, how: How) -> Result<VerifyAnswer, VerifyError> {
    let begun = Instant::now();
    let bucket = copier.bucket();
    let request = VersionsRequest { bucket, key_marker: after.to_owned(), max: MAX_PAGE, ..VersionsRequest::default() };
    let here = copier.meta.list_versions(request).await?;
    let (there, more) = patiently(|| copier.target.keys_of_versions(after)).await?;
    let there = beyond(there, |key| key, more, after)?;
    let here_end = here.next.as_ref().and_then(|_| here.versions.last()).map(|(version, _)| version.key.clone());
    let far_end = there.last().filter(|_| more).cloned();
    // What lies behind the end of a page that goes on is not known yet.
    let bound = here_end.into_iter().chain(far_end).min();
    let keys: BTreeSet<String> = here.versions.into_iter().map(|(version, _)| version.key).chain(there).collect();
    let keys: Vec<String> = keys.into_iter().filter(|key| bound.as_ref().is_none_or(|bound| key <= bound)).collect();
    let count = keys.len();
    let looks = stream::iter(keys).map(move |key| judge(copier, key, how.quick)).buffered(AT_ONCE);
    told(copier, Page { begun, bound, count }, looks, how).await
}

async fn judge(copier: &Copier, key: String, quick: bool) -> Result<(String, Verdict), VerifyError> {
    let verdict = match look(copier, &key, quick).await {
        // Of this key, and not of the whole bucket: the others can be compared.
        Err(CopyError::TooMany) => unknown(&key, &CopyError::TooMany.to_string()),
        Err(CopyError::Target(
            error @ (TargetError::Denied(_) | TargetError::Refused(_) | TargetError::Unknown(_)),
        )) => unknown(&key, &error.to_string()),
        // It changed under the look.
        Err(CopyError::Target(TargetError::Changed) | CopyError::Superseded) => Verdict::Waits,
        Err(CopyError::Target(error)) => return Err(error.into()),
        Err(error) => return Err(VerifyError::Here(error.to_string())),
        Ok(verdict) => verdict,
    };
    Ok((key, verdict))
}

fn unknown(key: &str, why: &str) -> Verdict {
    let what = vec![Unlike { name: "head".to_owned(), here: None, there: Some(why.to_owned()) }];
    Verdict::Unlike(vec![Difference { key: key.to_owned(), kind: UNKNOWN.to_owned(), what, ..Difference::default() }])
}

async fn look(copier: &Copier, key: &str, quick: bool) -> Result<Verdict, CopyError> {
    let target = &copier.target;
    copier.current(key).await?;
    let here = copier.versions_here(key)?;
    let waits = copier.changed(key)?.is_some();
    let there = patiently(|| target.versions(key, super::history::MOST)).await?.ok_or(CopyError::TooMany)?;
    if here.is_empty() && there.is_empty() {
        return Ok(Verdict::Gone);
    }
    if here.is_empty() && !waits && !copier.rule.deletes {
        return Ok(Verdict::Kept);
    }
    if quick && !waits && is_listed(&here, &there, copier.rule.deletes) {
        return Ok(Verdict::Same);
    }
    let Ok(found) = tokio::time::timeout(KEY_TIME, differences(copier, key, &here, &there)).await else {
        return Ok(unknown(key, "it has more versions than can be looked at in time: compare it with --quick"));
    };
    let found = found?;
    if !found.is_empty() && (waits || copier.changed(key)?.is_some() || copier.versions_here(key)? != here) {
        return Ok(Verdict::Waits);
    }
    let content = |version: &FarVersion| !version.delete_marker;
    match found.is_empty() {
        false => Ok(Verdict::Unlike(found)),
        true if here.iter().any(|line| !line.delete_marker) => Ok(Verdict::Same),
        true if there.iter().any(content) && !copier.rule.deletes => Ok(Verdict::Kept),
        true => Ok(Verdict::Gone),
    }
}

/// Whether each version here has one there of its size and entity tag, and so has the current one.
fn is_listed(here: &[Line], there: &[FarVersion], deletes: bool) -> bool {
    let mut listed: HashMap<(u64, &str), usize> = HashMap::new();
    for version in there.iter().filter(|version| !version.delete_marker) {
        *listed.entry((version.size, version.etag.trim_matches('"'))).or_default() += 1;
    }
    for line in here.iter().filter(|line| !line.delete_marker) {
        match listed.get_mut(&(line.size, line.etag.as_str())) {
            Some(left) if *left > 0 => *left -= 1,
            _ => return false,
        }
    }
    match (here.last(), there.last()) {
        (Some(line), Some(version)) if !line.delete_marker => {
            !version.delete_marker && version.size == line.size && version.etag.trim_matches('"') == line.etag
        }
        (Some(line), None) if !line.delete_marker => false,
        (_, version) => !deletes || version.is_none_or(|version| version.delete_marker),
    }
}

async fn differences(
    copier: &Copier,
    key: &str,
    here: &[Line],
    there: &[FarVersion],
) -> Result<Vec<Difference>, CopyError> {
    let target = &copier.target;
    let heads = there.iter().filter(|version| !version.delete_marker);
    let look = |version: &FarVersion| {
        let id = version.id.clone();
        async move {
            let far = patiently(|| target.head(key, Some(&id))).await?.ok_or(TargetError::Changed)?;
            Ok::<_, CopyError>((id, far))
        }
    };
    let ids: Vec<FarVersion> = heads.cloned().collect();
    let (mut facts, mut unlike) = (HashMap::new(), HashMap::<String, (String, Vec<Unlike>)>::new());
    let mut looks = std::pin::pin!(stream::iter(&ids).map(look).buffer_unordered(LOOKS));
    while let Some((id, far)) = looks.try_next().await? {
        let (fact, row) = copier.fact(key, &far)?;
        if let Some(row) = row {
            let what = same::unlike_head(&row, &far);
            if !what.is_empty() {
                unlike.insert(fact.name.clone(), (shown(&far), what));
            }
        }
        facts.insert(id, fact);
    }
    let judged = copier.judge(key, here, there, &facts)?;
    let copied = copies(&judged);
    let mut found = Vec::new();
    let difference = |line: &Line, kind: &str, there: String, what: Vec<Unlike>| Difference {
        key: key.to_owned(),
        version: line.name.clone(),
        kind: kind.to_owned(),
        here: format!("{} {}", line.size, line.etag),
        there,
        what,
    };
    for line in here.iter().filter(|line| !line.delete_marker) {
        let copy = copied.get(&line.seq).and_then(|copy| Some((copy, facts.get(&copy.id)?)));
        match copy {
            Some((copy, fact)) if fact.like == Some((true, true)) => {
                let Some(row) = copier.named(key, &line.name)? else { continue };
                let far = Far { tags: u32::from(fact.tagged), ..Far::default() };
                if same::has_tags(&row, &far) {
                    let what = patiently(|| same::unlike_tags(target, &row, Some(&copy.id))).await?;
                    if !what.is_empty() {
                        found.push(difference(line, DIFFERS, format!("{} {}", line.size, line.etag), what));
                    }
                }
            }
            _ => match unlike.remove(&line.name) {
                Some((there, what)) => found.push(difference(line, DIFFERS, there, what)),
                None => found.push(difference(line, MISSING, String::new(), Vec::new())),
            },
        }
    }
    if found.is_empty() && Plan::new(&plain(here), &judged, copier.rule.deletes).next().is_some() {
        found.push(current(key, here, there));
    }
    // Of a version that is not here, and was not deleted since: it is nobody's to delete.
    if copier.rule.deletes {
        let names: BTreeSet<&str> = here.iter().map(|line| line.name.as_str()).collect();
        for version in there {
            let fact = facts.get(&version.id).filter(|fact| !fact.name.is_empty());
            if let Some(fact) = fact.filter(|fact| !names.contains(fact.name.as_str())) {
                found.push(Difference {
                    key: key.to_owned(),
                    version: fact.name.clone(),
                    kind: EXTRA.to_owned(),
                    there: format!("{} {}", version.size, version.etag.trim_matches('"')),
                    ..Difference::default()
                });
            }
        }
    }
    found.truncate(TOLD);
    Ok(found)
}

fn shown(far: &Far) -> String {
    format!("{} {}", far.size, far.etag.trim_matches('"'))
}

/// All versions are there, and the current one is another one than here.
fn current(key: &str, here: &[Line], there: &[FarVersion]) -> Difference {
    let newest = here.last().filter(|line| !line.delete_marker);
    let seen = there.last().filter(|version| !version.delete_marker);
    let far = seen.map(|version| format!("{} {}", version.size, version.etag.trim_matches('"')));
    let kind = if here.is_empty() { EXTRA } else { DIFFERS };
    let what = Unlike {
        name: "current".to_owned(),
        here: newest.map(|line| line.name.clone()),
        there: seen.map(|version| version.id.clone()),
    };
    Difference {
        key: key.to_owned(),
        version: String::new(),
        kind: kind.to_owned(),
        here: newest.map(|line| format!("{} {}", line.size, line.etag)).unwrap_or_default(),
        there: far.unwrap_or_default(),
        what: vec![what],
    }
}
