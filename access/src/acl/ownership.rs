//! Object ownership: whether lists count in a bucket, and whose an object is that another account puts there.
//!
//! Source: Amazon S3 User Guide, "Controlling ownership of objects and disabling ACLs for your bucket".

use super::canned::Canned;

/// A bucket's rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Lists count for nothing; the bucket's owner owns everything in it. What new buckets have.
    #[default]
    BucketOwnerEnforced,
    /// The bucket's owner owns what is put with `bucket-owner-full-control`.
    BucketOwnerPreferred,
    /// Who puts an object owns it.
    ObjectWriter,
}

/// A request sets a list where lists count for nothing. S3: AccessControlListNotSupported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bucket does not allow ACLs")]
pub struct ListsDisabled;

impl Ownership {
    /// By its name.
    pub fn parse(name: &str) -> Option<Ownership> {
        Some(match name {
            "BucketOwnerEnforced" => Ownership::BucketOwnerEnforced,
            "BucketOwnerPreferred" => Ownership::BucketOwnerPreferred,
            "ObjectWriter" => Ownership::ObjectWriter,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Ownership::BucketOwnerEnforced => "BucketOwnerEnforced",
            Ownership::BucketOwnerPreferred => "BucketOwnerPreferred",
            Ownership::ObjectWriter => "ObjectWriter",
        }
    }

    /// Whether lists count.
    pub fn uses_lists(self) -> bool {
        self != Ownership::BucketOwnerEnforced
    }

    /// Canonical id of the account that owns a new object. What nobody signed for belongs to the bucket's owner.
    pub fn owner<'a>(self, writer: Option<&'a str>, bucket_owner: &'a str, canned: Option<Canned>) -> &'a str {
        let Some(writer) = writer else { return bucket_owner };
        match self {
            Ownership::BucketOwnerEnforced => bucket_owner,
            Ownership::BucketOwnerPreferred if canned == Some(Canned::BucketOwnerFullControl) => bucket_owner,
            Ownership::BucketOwnerPreferred | Ownership::ObjectWriter => writer,
        }
    }

    /// Whether the list of a put may be taken. Where lists count for nothing, S3 takes the one that says no more than that, and the
    /// owner's own full control; `grants` says that the request has grants other than those.
    pub fn check_put(self, canned: Option<Canned>, grants: bool) -> Result<(), ListsDisabled> {
        let harmless = matches!(canned, None | Some(Canned::BucketOwnerFullControl)) && !grants;
        if self.uses_lists() || harmless { Ok(()) } else { Err(ListsDisabled) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        use Ownership::{BucketOwnerEnforced, BucketOwnerPreferred, ObjectWriter};
        let full = Some(Canned::BucketOwnerFullControl);
        assert_eq!(BucketOwnerEnforced.owner(Some("w"), "b", None), "b");
        assert_eq!(BucketOwnerPreferred.owner(Some("w"), "b", None), "w");
        assert_eq!(BucketOwnerPreferred.owner(Some("w"), "b", full), "b");
        assert_eq!(ObjectWriter.owner(Some("w"), "b", full), "w");
        assert_eq!(ObjectWriter.owner(None, "b", full), "b");
    }

    #[test]
    fn lists_that_count_for_nothing_are_refused() {
        let enforced = Ownership::default();
        assert!(enforced.check_put(None, false).is_ok());
        assert!(enforced.check_put(Some(Canned::BucketOwnerFullControl), false).is_ok());
        for canned in [Canned::Private, Canned::PublicRead, Canned::AuthenticatedRead] {
            assert_eq!(enforced.check_put(Some(canned), false), Err(ListsDisabled));
            assert!(Ownership::ObjectWriter.check_put(Some(canned), true).is_ok());
        }
        assert_eq!(enforced.check_put(None, true), Err(ListsDisabled));
    }

    #[test]
    fn names() {
        for ownership in [Ownership::BucketOwnerEnforced, Ownership::BucketOwnerPreferred, Ownership::ObjectWriter] {
            assert_eq!(Ownership::parse(ownership.name()), Some(ownership));
        }
        assert_eq!(Ownership::parse("objectwriter"), None);
    }
}
