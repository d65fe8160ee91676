//! What it means that an object there is the same as one here. The copier asks this before it sends anything, and so does whoever
//! compares both sides: what the one takes for a copy the other must not find wanting, and what is found wanting the copier must mend.
//!
//! The same are: size, entity tag (or the mark, where the tag can't be the same), the headers that go in with PUT and come out with
//! HEAD, `x-amz-meta-*`, and tags. Not compared is what is each side's own: storage class, locks, lists, versions, and how it
//! encrypts, which many endpoints do with everything and say nothing of.

use super::answers::Unlike;
use super::target::{Far, MARK, Target, TargetError, VERSION};
use codec::effect::{ObjectMeta, VersionRow};
use std::collections::{BTreeMap, BTreeSet};

/// What an object's type is when nobody said.
const DEFAULT_TYPE: &str = "binary/octet-stream";
/// Characters of a value that are shown.
const MOST_SHOWN: usize = 200;

/// Tags by their keys.
pub(super) type Tags = BTreeMap<String, String>;

/// Headers as the other side shows them: an object always has a type, and the storage class is that side's own. Without the marks:
/// a client can send them, and would make another object's bytes pass for those of its own; where two buckets are copied into each
/// other it is there on one side only.
pub(super) fn visible(mut meta: ObjectMeta) -> ObjectMeta {
    if meta.content_type.is_empty() {
        meta.content_type = DEFAULT_TYPE.to_owned();
    }
    meta.storage_class.clear();
    meta.user.retain(|user| user.name != MARK && user.name != VERSION);
    meta.user.sort_by(|a, b| a.name.cmp(&b.name));
    meta
}

/// Headers by their names; those that are not there have none.
fn headers(meta: ObjectMeta) -> BTreeMap<String, String> {
    // All of them named: one that is new is not forgotten here.
    let ObjectMeta {
        content_type,
        cache_control,
        content_disposition,
        content_encoding,
        content_language,
        expires,
        user,
        storage_class: _,
        website_redirect,
    } = meta;
    let plain = [
        ("content-type", content_type),
        ("cache-control", cache_control),
        ("content-disposition", content_disposition),
        ("content-encoding", content_encoding),
        ("content-language", content_language),
        ("expires", expires),
        ("x-amz-website-redirect-location", website_redirect),
    ];
    let plain = plain.into_iter().filter(|(_, value)| !value.is_empty());
    let plain = plain.map(|(name, value)| (name.to_owned(), value));
    plain.chain(user.into_iter().map(|user| (format!("x-amz-meta-{}", user.name), user.value))).collect()
}

fn shown(value: Option<&String>) -> Option<String> {
    value.map(|value| value.chars().take(MOST_SHOWN).collect())
}

fn unlike(name: &str, here: impl ToString, there: impl ToString) -> Unlike {
    let (here, there) = (here.to_string(), there.to_string());
    Unlike { name: name.to_owned(), here: shown(Some(&here)), there: shown(Some(&there)) }
}

/// In what the names and values of two sides differ; `prefix` goes before the names.
fn unlike_in(prefix: &str, here: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<Unlike> {
    let names: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let differing = names.into_iter().filter(|name| here.get(*name) != there.get(*name));
    let line = |name: &String| Unlike {
        name: format!("{prefix}{name}"),
        here: shown(here.get(name)),
        there: shown(there.get(name)),
    };
    differing.map(line).collect()
}

/// In what the bytes there are not those of a version here, as far as sizes and entity tags tell.
pub(super) fn unlike_bytes(version: &VersionRow, far: &Far) -> Vec<Unlike> {
    let Some(content) = &version.content else { return vec![unlike("size", "none", far.size)] };
    let tag = far.etag.trim_matches('"');
    if far.size != content.size {
        return vec![unlike("size", content.size, far.size)];
    }
    if tag != content.etag && far.mark != content.etag {
        return vec![unlike("etag", &content.etag, tag)];
    }
    Vec::new()
}

/// In what an object there is not a copy of a version here, its tags aside, of which HEAD says at most how many they are.
pub(super) fn unlike_head(version: &VersionRow, far: &Far) -> Vec<Unlike> {
    let here = headers(visible(version.meta.clone().unwrap_or_default()));
    let there = headers(visible(far.meta.clone()));
    [unlike_bytes(version, far), unlike_in("", &here, &there)].concat()
}

/// Whether tags are to be asked for: the version has some here, or HEAD says that there are some there.
pub(super) fn has_tags(version: &VersionRow, far: &Far) -> bool {
    !version.tags.is_empty() || far.tags > 0
}

/// The tags of a version here.
pub(super) fn tags_of(version: &VersionRow) -> Tags {
    version.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
}

/// In what an object there is not a copy of a version here.
pub(super) async fn unlike_all(target: &Target, version: &VersionRow, far: &Far) -> Result<Vec<Unlike>, TargetError> {
    let mut found = unlike_head(version, far);
    if has_tags(version, far) {
        found.extend(unlike_tags(target, version, None).await?);
    }
    Ok(found)
}

/// In what the tags of an object there, or of this version of it, are not those of a version here.
pub(super) async fn unlike_tags(
    target: &Target,
    version: &VersionRow,
    id: Option<&str>,
) -> Result<Vec<Unlike>, TargetError> {
    let here = tags_of(version);
    match target.tags(&version.key, id).await {
        Ok(there) => Ok(unlike_in("tag ", &here, &there)),
        // It says no tags of this object: as far as anybody can read them there, they are not there.
        Err(error @ (TargetError::Denied(_) | TargetError::Unknown(_) | TargetError::Refused(_))) => {
            Ok(vec![unlike("tags", here.len(), error)])
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::target::Described;
    use codec::effect::{Content, UserMeta};

    fn version(etag: &str, user: &[(&str, &str)]) -> VersionRow {
        let user = user.iter().map(|(n, v)| UserMeta { name: (*n).to_owned(), value: (*v).to_owned() }).collect();
        let meta = ObjectMeta { user, storage_class: "GLACIER".to_owned(), ..ObjectMeta::default() };
        let content = Content { size: 5, etag: etag.to_owned(), ..Content::default() };
        VersionRow { meta: Some(meta), content: Some(content), ..VersionRow::default() }
    }

    fn far(version: &VersionRow, marked: bool) -> Far {
        let mut meta = Described::new(version, marked, None).meta;
        let mark = meta.user.iter().position(|user| user.name == MARK).map(|at| meta.user.remove(at).value);
        let etag = if marked { "\"other-2\"".to_owned() } else { "\"abc\"".to_owned() };
        Far { etag, size: 5, meta, mark: mark.unwrap_or_default(), ..Far::default() }
    }

    fn names(found: &[Unlike]) -> Vec<&str> {
        found.iter().map(|unlike| unlike.name.as_str()).collect()
    }

    #[test]
    fn a_copy_is_known_by_its_tag_or_its_mark_and_by_its_headers() {
        let here = version("abc", &[("b", "2"), ("a", "1")]);
        assert_eq!((unlike_head(&here, &far(&here, false)), unlike_head(&here, &far(&here, true))), (vec![], vec![]));
        let newer = version("abd", &[("b", "2"), ("a", "1")]);
        assert_eq!(names(&unlike_head(&newer, &far(&here, false))), ["etag"]);
        assert_eq!(names(&unlike_head(&newer, &far(&here, true))), ["etag"]);
        let other = version("abc", &[("b", "3"), ("c", "1")]);
        assert_eq!(unlike_bytes(&other, &far(&here, false)), vec![]);
        let found = unlike_head(&other, &far(&here, false));
        assert_eq!(names(&found), ["x-amz-meta-a", "x-amz-meta-b", "x-amz-meta-c"]);
        let side = |text: &str| Some(text.to_owned());
        assert_eq!((&found[0].here, &found[0].there), (&None, &side("1")));
        assert_eq!((&found[1].here, &found[1].there), (&side("3"), &side("2")));
        assert_eq!(names(&unlike_head(&here, &Far { size: 6, ..far(&here, false) })), ["size"]);
    }

    /// Each of them: one that is not compared is lost there, and nobody is told.
    #[test]
    fn every_header_counts() {
        let here = version("abc", &[]);
        let all = ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language"];
        for (n, name) in all.into_iter().chain(["expires", "x-amz-website-redirect-location"]).enumerate() {
            let mut there = far(&here, false);
            let meta = &mut there.meta;
            let fields = [
                &mut meta.content_type,
                &mut meta.cache_control,
                &mut meta.content_disposition,
                &mut meta.content_encoding,
                &mut meta.content_language,
                &mut meta.expires,
                &mut meta.website_redirect,
            ];
            fields.into_iter().nth(n).unwrap().push_str("other");
            assert_eq!(names(&unlike_head(&here, &there)), [name]);
        }
    }

    /// Else a client could have its next version taken for copied, and the copy would keep the one before for ever.
    #[test]
    fn a_mark_of_a_client_is_none() {
        let first = version("abc", &[(MARK, "abd"), ("a", "1")]);
        let copy = far(&first, false);
        assert_eq!(copy.mark, "");
        assert_eq!(unlike_head(&first, &copy), vec![], "it does not settle");
        assert_eq!(names(&unlike_bytes(&version("abd", &[("a", "1")]), &copy)), ["etag"]);
        assert_eq!(far(&first, true).mark, "abc");
    }
}
