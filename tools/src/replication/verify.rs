//! Comparing both sides, a page at a time: keys, sizes and entity tags of the two listings, and the mark of objects that can't
//! have the same entity tag there.
//!
//! Nothing is judged by one look: what seems to differ is looked up again here, and whatever waits in the queue or changed
//! meanwhile counts as waiting. Nothing is ever deleted there because of what is found: an object that is there and not here may
//! be the only one that is left.

use super::answers::{Difference, VerifyAnswer};
use super::copy::Copier;
use super::target::{FarLine, TargetError};
use codec::effect::VersionRow;
use codec::id::BucketId;
use metadata::client::{CommitError, LookupError, MetadataClient};
use metadata::command::Command;
use metadata::index::{IndexError, Overlay, replication};
use metadata::listing::{ListRequest, MAX_PAGE};
use std::cmp::Ordering;
use std::iter::Peekable;

/// Why the sides could not be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// The other side.
    #[error("the other endpoint: {0}")]
    Target(#[from] TargetError),
    /// Its listing does not go on: it ignores where the next page is to begin.
    #[error("the other endpoint's listing does not go on behind {0:?}")]
    Endless(String),
    /// This side.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// This side's queue.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What differs could not be queued.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// A key that one of the sides has, or both.
#[derive(Debug, PartialEq)]
enum Pair {
    Here(Box<VersionRow>),
    There(FarLine),
    Both(Box<VersionRow>, FarLine),
}

/// Merges two listings in key order up to `bound`.
fn pairs(here: Vec<VersionRow>, there: Vec<FarLine>, bound: Option<&str>) -> Vec<Pair> {
    let within = |key: &str| bound.is_none_or(|bound| key <= bound);
    let mut here: Peekable<_> = here.into_iter().filter(|version| within(&version.key)).peekable();
    let mut there: Peekable<_> = there.into_iter().filter(|line| within(&line.key)).peekable();
    let mut out = Vec::new();
    loop {
        let order = match (here.peek(), there.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(version), Some(line)) => version.key.cmp(&line.key),
        };
        let version = if order.is_le() { here.next() } else { None };
        let line = if order.is_ge() { there.next() } else { None };
        out.extend(match (version, line) {
            (Some(version), Some(line)) => Some(Pair::Both(Box::new(version), line)),
            (Some(version), None) => Some(Pair::Here(Box::new(version))),
            (None, Some(line)) => Some(Pair::There(line)),
            (None, None) => None,
        });
    }
}

/// What of a page lies behind `after`. Without this, an endpoint that gives the same page again and again would keep a comparison
/// going for ever.
fn beyond(mut there: Vec<FarLine>, more: bool, after: &str) -> Result<Vec<FarLine>, VerifyError> {
    there.retain(|line| line.key.as_str() > after);
    if there.is_empty() && more { Err(VerifyError::Endless(after.to_owned())) } else { Ok(there) }
}

/// Compares what sorts after a key, as far as one page of either side goes.
pub(super) async fn page(copier: &Copier, after: &str, repair: bool) -> Result<VerifyAnswer, VerifyError> {
    let bucket = BucketId(copier.rule.bucket);
    let request = ListRequest { bucket, after: after.to_owned(), max: MAX_PAGE, ..ListRequest::default() };
    let here = copier.meta.list(request).await?;
    let (there, more) = copier.target.list(after).await?;
    let there = beyond(there, more, after)?;
    // What lies behind the end of a page that goes on is not known yet.
    let far_end = there.last().filter(|_| more).map(|line| line.key.clone());
    let bound = match (here.next.clone(), far_end) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let mut answer = VerifyAnswer { next: bound.clone(), ..VerifyAnswer::default() };
    let mut again = Vec::new();
    for pair in pairs(here.objects, there, bound.as_deref()) {
        judge(copier, pair, &mut answer, &mut again).await?;
    }
    if repair && !again.is_empty() {
        answer.queued = again.len() as u64;
        let command = Command::QueueReplication { bucket, keys: again };
        copier.meta.commit(copier.meta.epoch(), command).await?;
    }
    Ok(answer)
}

async fn judge(
    copier: &Copier,
    pair: Pair,
    answer: &mut VerifyAnswer,
    again: &mut Vec<String>,
) -> Result<(), VerifyError> {
    let (version, line) = match pair {
        Pair::Here(version) => (Some(version), None),
        Pair::There(line) => (None, Some(line)),
        Pair::Both(version, line) => (Some(version), Some(line)),
    };
    if let (Some(version), Some(line)) = (&version, &line)
        && has_bytes(copier, version, line).await?
    {
        answer.same += 1;
        return Ok(());
    }
    let Some(key) = version.as_ref().map(|version| &version.key).or(line.as_ref().map(|line| &line.key)).cloned()
    else {
        return Ok(());
    };
    let waits = {
        let view = Overlay::new(&**copier.meta.kv());
        replication::waiting(&view, BucketId(copier.rule.bucket), &key)?.is_some()
    };
    let now = copier.meta.current_version(BucketId(copier.rule.bucket), &key).await?;
    let seq =
        |version: Option<&VersionRow>| version.filter(|version| !version.delete_marker).map(|version| version.seq);
    if waits || seq(now.as_ref()) != seq(version.as_deref()) {
        answer.waiting += 1;
        return Ok(());
    }
    if version.is_none() && (!copier.rule.deletes || copier.keeps_a_version::<VerifyError>(&key).await?) {
        answer.kept += 1;
        return Ok(());
    }
    let kind = match (&version, &line) {
        (Some(_), None) => "missing",
        (None, _) => "extra",
        (Some(_), Some(_)) => "differs",
    };
    if version.is_some() {
        again.push(key.clone());
    }
    let here = version.and_then(|version| version.content).map(|content| format!("{} {}", content.size, content.etag));
    let there = line.map(|line| format!("{} {}", line.size, line.etag));
    let (here, there) = (here.unwrap_or_default(), there.unwrap_or_default());
    answer.differences.push(Difference { key, kind: kind.to_owned(), here, there });
    Ok(())
}

/// Asks for the mark only where the listing does not tell.
async fn has_bytes(copier: &Copier, version: &VersionRow, line: &FarLine) -> Result<bool, VerifyError> {
    let Some(content) = &version.content else { return Ok(false) };
    if line.size != content.size || line.etag == content.etag {
        return Ok(line.size == content.size);
    }
    let far = copier.target.head(&version.key).await?;
    Ok(far.is_some_and(|far| far.has_bytes_of(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(key: &str) -> VersionRow {
        VersionRow { key: key.to_owned(), ..VersionRow::default() }
    }

    fn line(key: &str) -> FarLine {
        FarLine { key: key.to_owned(), size: 0, etag: String::new() }
    }

    #[test]
    fn a_listing_that_does_not_go_on_is_an_error() {
        let keys = |lines: Vec<FarLine>| lines.into_iter().map(|line| line.key).collect::<Vec<_>>();
        assert_eq!(keys(beyond(vec![line("a"), line("b"), line("c")], true, "b").unwrap()), ["c"]);
        assert!(matches!(beyond(vec![line("a"), line("b")], true, "b"), Err(VerifyError::Endless(_))));
        assert!(beyond(vec![line("a")], false, "b").unwrap().is_empty());
    }

    #[test]
    fn two_listings_are_merged_as_far_as_both_are_known() {
        let merge =
            |bound| pairs(vec![version("a"), version("b"), version("d")], vec![line("b"), line("c"), line("e")], bound);
        let all = merge(None);
        assert_eq!(all.len(), 5);
        assert!(matches!(&all[1], Pair::Both(version, line) if version.key == "b" && line.key == "b"));
        assert!(matches!(&all[2], Pair::There(line) if line.key == "c"));
        assert_eq!(merge(Some("c")).len(), 3);
        assert!(matches!(merge(Some("a"))[..], [Pair::Here(_)]));
    }
}
