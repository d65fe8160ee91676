//! Canned lists, and lists in headers.
//!
//! Source: Amazon S3 User Guide, "Access control list (ACL) overview", "Canned ACL"; API Reference, PutObjectAcl, request headers.

use super::{Acl, AclError, Grant, Grantee, Permission};

/// A list that has a name: `x-amz-acl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canned {
    /// The owner alone.
    Private,
    /// Everybody reads.
    PublicRead,
    /// Everybody reads and writes.
    PublicReadWrite,
    /// Amazon EC2 reads: nobody here.
    AwsExecRead,
    /// Everybody who signs reads.
    AuthenticatedRead,
    /// The bucket's owner reads an object.
    BucketOwnerRead,
    /// The bucket's owner may do everything with an object.
    BucketOwnerFullControl,
    /// Access logs may be delivered to a bucket.
    LogDeliveryWrite,
}

impl Canned {
    /// By its name.
    pub fn parse(name: &str) -> Result<Canned, AclError> {
        Ok(match name {
            "private" => Canned::Private,
            "public-read" => Canned::PublicRead,
            "public-read-write" => Canned::PublicReadWrite,
            "aws-exec-read" => Canned::AwsExecRead,
            "authenticated-read" => Canned::AuthenticatedRead,
            "bucket-owner-read" => Canned::BucketOwnerRead,
            "bucket-owner-full-control" => Canned::BucketOwnerFullControl,
            "log-delivery-write" => Canned::LogDeliveryWrite,
            _ => return Err(AclError::Canned(name.to_owned())),
        })
    }

    /// The list: of an object of `owner` in a bucket of `bucket_owner`, or of the bucket itself, where they are the same.
    pub fn list(self, owner: &str, bucket_owner: &str) -> Acl {
        let mut acl = Acl::private(owner);
        let mut grant = |grantee, permission| acl.grants.push(Grant { grantee, permission });
        let theirs = owner != bucket_owner;
        let bucket_owner = Grantee::Account(bucket_owner.to_owned());
        match self {
            Canned::Private | Canned::AwsExecRead => {}
            Canned::PublicRead => grant(Grantee::AllUsers, Permission::Read),
            Canned::PublicReadWrite => {
                grant(Grantee::AllUsers, Permission::Read);
                grant(Grantee::AllUsers, Permission::Write);
            }
            Canned::AuthenticatedRead => grant(Grantee::AuthenticatedUsers, Permission::Read),
            Canned::BucketOwnerRead if theirs => grant(bucket_owner, Permission::Read),
            Canned::BucketOwnerFullControl if theirs => grant(bucket_owner, Permission::FullControl),
            Canned::BucketOwnerRead | Canned::BucketOwnerFullControl => {}
            Canned::LogDeliveryWrite => {
                grant(Grantee::LogDelivery, Permission::Write);
                grant(Grantee::LogDelivery, Permission::ReadAcp);
            }
        }
        acl
    }
}

/// How a header names a grantee, before it is known whether there is such a one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedGrantee {
    /// `id="..."`
    Id(String),
    /// `uri="..."`
    Uri(String),
    /// `emailAddress="..."`
    Email(String),
}

/// Reads the value of an `x-amz-grant-*` header: `id="...", uri="...", emailAddress="..."`, with or without quotation marks.
pub fn grantees(value: &str) -> Result<Vec<NamedGrantee>, AclError> {
    let bad = || AclError::Header(value.to_owned());
    let mut found = Vec::new();
    for item in value.split(',') {
        let (kind, name) = item.split_once('=').ok_or_else(bad)?;
        let name = name.trim();
        let name = match name.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').ok_or_else(bad)?,
            None => name,
        };
        if name.is_empty() || name.contains('"') || found.len() == super::MAX_GRANTS {
            return Err(bad());
        }
        found.push(match kind.trim().to_ascii_lowercase().as_str() {
            "id" => NamedGrantee::Id(name.to_owned()),
            "uri" => NamedGrantee::Uri(name.to_owned()),
            "emailaddress" => NamedGrantee::Email(name.to_owned()),
            _ => return Err(bad()),
        });
    }
    Ok(found)
}

/// The grants of a request's headers: each permission with its header's value. `known` finds an account's canonical id, by id or by
/// address.
pub fn from_headers(
    owner: &str,
    headers: &[(Permission, &str)],
    known: impl Fn(&NamedGrantee) -> Option<String>,
) -> Result<Acl, AclError> {
    let mut acl = Acl { owner: owner.to_owned(), grants: Vec::new() };
    for (permission, value) in headers {
        for named in grantees(value)? {
            let grantee = match &named {
                NamedGrantee::Uri(uri) => Grantee::group(uri).ok_or_else(|| AclError::Group(uri.clone()))?,
                NamedGrantee::Id(text) | NamedGrantee::Email(text) => {
                    Grantee::Account(known(&named).ok_or_else(|| AclError::Unknown(text.clone()))?)
                }
            };
            acl.grants.push(Grant { grantee, permission: *permission });
            acl.check()?;
        }
    }
    Ok(acl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(canned: &str, owner: &str, bucket_owner: &str) -> Vec<(Option<&'static str>, Permission)> {
        let acl = Canned::parse(canned).expect(canned).list(owner, bucket_owner);
        acl.grants.iter().skip(1).map(|grant| (grant.grantee.uri(), grant.permission)).collect()
    }

    /// The table of the guide.
    #[test]
    fn canned_lists() {
        use Permission::{FullControl, Read, ReadAcp, Write};
        let (all, signed, logs) =
            (Some(super::super::ALL_USERS), Some(super::super::AUTHENTICATED_USERS), Some(super::super::LOG_DELIVERY));
        assert!(list("private", "o", "b").is_empty() && list("aws-exec-read", "o", "b").is_empty());
        assert_eq!(list("public-read", "o", "b"), [(all, Read)]);
        assert_eq!(list("public-read-write", "o", "b"), [(all, Read), (all, Write)]);
        assert_eq!(list("authenticated-read", "o", "b"), [(signed, Read)]);
        assert_eq!(list("bucket-owner-read", "o", "b"), [(None, Read)]);
        assert_eq!(list("bucket-owner-full-control", "o", "b"), [(None, FullControl)]);
        assert!(
            list("bucket-owner-full-control", "o", "o").is_empty() && list("bucket-owner-read", "o", "o").is_empty()
        );
        assert_eq!(list("log-delivery-write", "b", "b"), [(logs, Write), (logs, ReadAcp)]);
        assert!(Canned::parse("public").is_err() && Canned::parse("").is_err() && Canned::parse("Private").is_err());
    }

    #[test]
    fn lists_in_headers() {
        let known = |named: &NamedGrantee| match named {
            NamedGrantee::Id(id) if id == "a" => Some("a".to_owned()),
            NamedGrantee::Email(address) if address == "a@example.org" => Some("a".to_owned()),
            _ => None,
        };
        let of = |value: &str| from_headers("o", &[(Permission::Read, value)], known);
        assert_eq!(of("id=a, id=\"a\",emailAddress=a@example.org").expect("grants").grants.len(), 3);
        assert_eq!(
            of(&format!("uri=\"{}\"", super::super::ALL_USERS)).expect("a grant").grants[0].grantee,
            Grantee::AllUsers
        );
        assert_eq!(of("id=b"), Err(AclError::Unknown("b".into())));
        assert_eq!(of("uri=x"), Err(AclError::Group("x".into())));
        for bad in ["", "a", "id=", "id=\"a", "name=a", "id=a,,id=a", "id=a\"b"] {
            assert!(matches!(of(bad), Err(AclError::Header(_))), "{bad}");
        }
        let many = vec!["id=a"; 101].join(",");
        assert!(of(&many).is_err());
        assert_eq!(from_headers("o", &[(Permission::Read, "id=a"); 101], known), Err(AclError::TooMany));
    }

    proptest! {
        #[test]
        fn nothing_panics(value in ".{0,60}") {
            let _ = grantees(&value);
        }
    }
}
