//! Comparing both sides, a page at a time: the keys of the two listings, and of each object there what HEAD says and its tags, as
//! [`super::same`] compares them; if only a quick look is wanted, sizes and entity tags as the listings have them.
//!
//! Nothing is judged by one look: what seems to differ is looked up again here, and whatever waits in the queue or changed
//! meanwhile counts as waiting. For that an object is looked up here, then in the queue, then there, and at last here again: if it did not
//! wait before the look there and is the same here after it, nobody was writing it there in between. Nothing is ever deleted there
//! because of what is found: an object that is there and not here may be the only one that is left.

use super::answers::{Difference, Unlike, VerifyAnswer};
use super::copy::Copier;
use super::same;
use super::target::{Far, FarLine, TargetError};
use codec::effect::VersionRow;
use futures::stream::{self, Stream, StreamExt};
use metadata::client::{CommitError, LookupError, MetadataClient};
use metadata::command::{Command, MAX_REPLICATION_KEYS};
use metadata::index::IndexError;
use metadata::listing::{ListRequest, MAX_PAGE};
use std::cmp::Ordering;
use std::iter::Peekable;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Keys that are looked at there at once.
const AT_ONCE: usize = 16;
/// A page that has taken so long ends where it is: whoever asked for it waits for no more than 30 s.
const PAGE_TIME: Duration = Duration::from_secs(8);
/// For so long something is asked again there that can't be answered at present, with this pause between.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(500);

/// How sides are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// Queue what is missing or differs there.
    pub repair: bool,
    /// Keys, sizes and entity tags only.
    pub quick: bool,
}

/// Why the sides could not be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// The other side.
    #[error("the other endpoint: {0}")]
    Target(#[from] TargetError),
    /// Its listing does not go on: it ignores where the next page is to begin.
    #[error("the other endpoint's listing does not go on behind {0:?}")]
    Endless(String),
    /// This side, under a rule that copies versions.
    #[error("{0}")]
    Here(String),
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
pub(super) fn beyond<T>(
    mut there: Vec<T>,
    key: impl Fn(&T) -> &str,
    more: bool,
    after: &str,
) -> Result<Vec<T>, VerifyError> {
    there.retain(|line| key(line) > after);
    if there.is_empty() && more { Err(VerifyError::Endless(after.to_owned())) } else { Ok(there) }
}

/// Compares what sorts after a key, as far as one page of either side goes.
pub(super) async fn page(copier: &Copier, after: &str, how: How) -> Result<VerifyAnswer, VerifyError> {
    let begun = Instant::now();
    let bucket = copier.bucket();
    let request = ListRequest { bucket, after: after.to_owned(), max: MAX_PAGE, ..ListRequest::default() };
    let here = copier.meta.list(request).await?;
    let (there, more) = copier.target.list(after).await?;
    let there = beyond(there, |line| &line.key, more, after)?;
    // What lies behind the end of a page that goes on is not known yet.
    let far_end = there.last().filter(|_| more).map(|line| line.key.clone());
    let bound = match (here.next.clone(), far_end) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let pairs = pairs(here.objects, there, bound.as_deref());
    let count = pairs.len();
    let looks = stream::iter(pairs).map(move |pair| judge(copier, pair, how.quick)).buffered(AT_ONCE);
    told(copier, Page { begun, bound, count }, looks, how).await
}

/// A page of keys that is compared.
pub(super) struct Page {
    /// When that began.
    pub begun: Instant,
    /// The last key that both sides are known up to; `None`: all are.
    pub bound: Option<String>,
    /// How many keys are looked at.
    pub count: usize,
}

/// What comes of the looks at the keys of a page, in their order, and queues what is to be repaired.
pub(super) async fn told(
    copier: &Copier,
    page: Page,
    looks: impl Stream<Item = Result<(String, Verdict), VerifyError>>,
    how: How,
) -> Result<VerifyAnswer, VerifyError> {
    let (mut answer, mut again) = (VerifyAnswer { next: page.bound, ..VerifyAnswer::default() }, Vec::new());
    let mut left = page.count;
    let mut looks = std::pin::pin!(looks);
    while let Some(judged) = looks.next().await {
        let (key, verdict) = judged?;
        left -= 1;
        if left > 0 && page.begun.elapsed() > PAGE_TIME {
            answer.next = Some(key.clone());
            left = 0;
        }
        match verdict {
            Verdict::Same => answer.same += 1,
            Verdict::Waits => answer.waiting += 1,
            Verdict::Kept => answer.kept += 1,
            Verdict::Gone => {}
            Verdict::Unlike(differences) => {
                if differences.iter().any(|difference| matches!(difference.kind.as_str(), MISSING | DIFFERS)) {
                    again.push(key);
                }
                answer.differences.extend(differences);
            }
        }
        if left == 0 {
            break;
        }
    }
    for keys in again.chunks(MAX_REPLICATION_KEYS).filter(|_| how.repair) {
        // What the copier knows of their versions is not true.
        keys.iter().for_each(|key| copier.known.doubt(key));
        let command = Command::QueueReplication { bucket: copier.bucket(), keys: keys.to_vec() };
        copier.meta.commit(copier.meta.epoch(), command).await?;
        answer.queued += keys.len() as u64;
    }
    Ok(answer)
}

pub(super) const MISSING: &str = "missing";
pub(super) const DIFFERS: &str = "differs";
pub(super) const EXTRA: &str = "extra";
pub(super) const UNKNOWN: &str = "unknown";

/// What is true of a key.
pub(super) enum Verdict {
    Same,
    /// It changed lately.
    Waits,
    /// It is there and not here, as the rule says.
    Kept,
    /// It was on one side, and is on neither any more.
    Gone,
    /// In what it differs, in this version or that.
    Unlike(Vec<Difference>),
}

async fn judge(copier: &Copier, pair: Pair, quick: bool) -> Result<(String, Verdict), VerifyError> {
    let key = match pair {
        Pair::Both(version, line) => {
            let content = version.content.as_ref();
            let listed = content.is_some_and(|content| content.size == line.size && content.etag == line.etag);
            if quick && listed {
                return Ok((line.key, Verdict::Same));
            }
            line.key
        }
        Pair::Here(version) => version.key,
        Pair::There(line) => line.key,
    };
    let verdict = look(copier, &key, quick).await?;
    Ok((key, verdict))
}

async fn look(copier: &Copier, key: &str, quick: bool) -> Result<Verdict, VerifyError> {
    let here = copier.current(key).await?;
    let waits = copier.changed(key)?.is_some();
    if here.is_none() && !waits && (!copier.rule.deletes || copier.keeps_a_version::<VerifyError>(key).await?) {
        return Ok(Verdict::Kept);
    }
    let (far, what) = match there(copier, key, here.as_ref(), quick).await {
        Ok((None, _)) if here.is_none() => return Ok(Verdict::Gone),
        Ok((Some(_), what)) if here.is_some() && what.is_empty() => return Ok(Verdict::Same),
        Ok((far, what)) => (Ok(far), what),
        // Of this object, and not of the whole bucket: the others can be compared.
        Err(error @ (TargetError::Denied(_) | TargetError::Refused(_) | TargetError::Unknown(_))) => {
            let said = Unlike { name: "head".to_owned(), here: None, there: Some(error.to_string()) };
            (Err(()), vec![said])
        }
        Err(error) => return Err(error.into()),
    };
    if waits || copier.current(key).await? != here {
        return Ok(Verdict::Waits);
    }
    let kind = match (&here, &far) {
        (_, Err(())) => UNKNOWN,
        (Some(_), Ok(None)) => MISSING,
        (None, Ok(_)) => EXTRA,
        (Some(_), Ok(Some(_))) => DIFFERS,
    };
    let here = here.and_then(|version| version.content).map(|content| format!("{} {}", content.size, content.etag));
    let there = far.unwrap_or(None).map(|far| format!("{} {}", far.size, far.etag.trim_matches('"')));
    let (here, there) = (here.unwrap_or_default(), there.unwrap_or_default());
    Ok(Verdict::Unlike(vec![Difference {
        key: key.to_owned(),
        version: String::new(),
        kind: kind.to_owned(),
        here,
        there,
        what,
    }]))
}

/// What is there, and in what it differs.
async fn there(
    copier: &Copier,
    key: &str,
    here: Option<&VersionRow>,
    quick: bool,
) -> Result<(Option<Far>, Vec<Unlike>), TargetError> {
    let target = &copier.target;
    let far = patiently(|| target.head(key, None)).await?;
    let what = match (here, &far) {
        (Some(version), Some(far)) if quick => same::unlike_bytes(version, far),
        (Some(version), Some(far)) => patiently(|| same::unlike_all(target, version, far)).await?,
        (None, None) => match patiently(|| target.lacks(key)).await {
            // HEAD does not find what is listed: it is there all the same.
            Err(TargetError::Changed) => return Ok((Some(Far::default()), Vec::new())),
            lacks => lacks.map(|()| Vec::new())?,
        },
        _ => Vec::new(),
    };
    Ok((far, what))
}

/// Asks again what an endpoint can't answer at present: one such answer among a million would end the whole comparison.
pub(super) async fn patiently<T, F: Future<Output = Result<T, TargetError>>>(
    ask: impl Fn() -> F,
) -> Result<T, TargetError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(TargetError::Unreachable(_) | TargetError::Busy(_)) if begun.elapsed() < PATIENCE => sleep(PAUSE).await,
            answer => return answer,
        }
    }
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
        assert_eq!(keys(beyond(vec![line("a"), line("b"), line("c")], |line| &line.key, true, "b").unwrap()), ["c"]);
        assert!(matches!(
            beyond(vec![line("a"), line("b")], |line| &line.key, true, "b"),
            Err(VerifyError::Endless(_))
        ));
        assert!(beyond(vec![line("a")], |line| &line.key, false, "b").unwrap().is_empty());
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
