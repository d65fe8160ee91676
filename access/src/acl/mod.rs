//! Access control lists, object ownership and the public access block.
//!
//! Source: Amazon S3 User Guide, "Access control list (ACL) overview", "Controlling ownership of objects and disabling ACLs for your
//! bucket", "Blocking public access to your Amazon S3 storage".
//!
//! Invariant: a list only ever adds. What a policy denies no grant allows.

pub mod block;
pub mod canned;
pub mod ownership;

use crate::policy::Caller;

/// Most grants of a list.
pub const MAX_GRANTS: usize = 100;

/// The group of everybody.
pub const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
/// The group of everybody who signs.
pub const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
/// The group that delivers access logs.
pub const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// Whom a grant is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grantee {
    /// An account, by its canonical user id.
    Account(String),
    /// Everybody.
    AllUsers,
    /// Everybody who signs, of any account.
    AuthenticatedUsers,
    /// Who delivers access logs.
    LogDelivery,
}

impl Grantee {
    /// The group of a URI.
    pub fn group(uri: &str) -> Option<Grantee> {
        match uri {
            ALL_USERS => Some(Grantee::AllUsers),
            AUTHENTICATED_USERS => Some(Grantee::AuthenticatedUsers),
            LOG_DELIVERY => Some(Grantee::LogDelivery),
            _ => None,
        }
    }

    /// The URI of a group; `None` for an account.
    pub fn uri(&self) -> Option<&'static str> {
        match self {
            Grantee::Account(_) => None,
            Grantee::AllUsers => Some(ALL_USERS),
            Grantee::AuthenticatedUsers => Some(AUTHENTICATED_USERS),
            Grantee::LogDelivery => Some(LOG_DELIVERY),
        }
    }

    /// Whether a grant for it is a public one.
    pub fn is_public(&self) -> bool {
        matches!(self, Grantee::AllUsers | Grantee::AuthenticatedUsers)
    }

    fn is(&self, caller: &Caller) -> bool {
        match self {
            Grantee::Account(id) => caller.account().is_some_and(|account| account.canonical == *id),
            Grantee::AllUsers => true,
            Grantee::AuthenticatedUsers => caller.account().is_some(),
            Grantee::LogDelivery => false,
        }
    }
}

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// To list a bucket, to read an object.
    Read,
    /// To create, replace and delete the objects of a bucket. Nothing on an object.
    Write,
    /// To read the list itself.
    ReadAcp,
    /// To change the list itself.
    WriteAcp,
    /// All of these.
    FullControl,
}

impl Permission {
    /// By its name in XML.
    pub fn parse(name: &str) -> Option<Permission> {
        Some(match name {
            "READ" => Permission::Read,
            "WRITE" => Permission::Write,
            "READ_ACP" => Permission::ReadAcp,
            "WRITE_ACP" => Permission::WriteAcp,
            "FULL_CONTROL" => Permission::FullControl,
            _ => return None,
        })
    }

    /// Its name in XML.
    pub fn name(self) -> &'static str {
        match self {
            Permission::Read => "READ",
            Permission::Write => "WRITE",
            Permission::ReadAcp => "READ_ACP",
            Permission::WriteAcp => "WRITE_ACP",
            Permission::FullControl => "FULL_CONTROL",
        }
    }
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// For whom.
    pub grantee: Grantee,
    /// What.
    pub permission: Permission,
}

/// An access control list. The owner has no rights from it but those that it grants, and may always read and change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Canonical user id of the owner of the bucket or object.
    pub owner: String,
    /// The grants.
    pub grants: Vec<Grant>,
}

/// Why a list is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// More than [`MAX_GRANTS`]. S3: MalformedACLError.
    #[error("an access control list has at most {MAX_GRANTS} grants")]
    TooMany,
    /// It names another owner. S3: AccessDenied.
    #[error("the owner can't be changed")]
    Owner,
    /// A name of a canned list that there is not. S3: InvalidArgument.
    #[error("there is no canned ACL {0:?}")]
    Canned(String),
    /// A canned list together with grants. S3: InvalidRequest.
    #[error("specifying both canned ACLs and header grants is not allowed")]
    Both,
    /// A value of `x-amz-grant-*` that is none. S3: InvalidArgument.
    #[error("{0:?} is no list of grantees")]
    Header(String),
    /// A group that there is not. S3: InvalidArgument.
    #[error("there is no group {0:?}")]
    Group(String),
    /// Somebody whom nobody knows. S3: InvalidArgument, or UnresolvableGrantByEmailAddress.
    #[error("there is no grantee {0:?}")]
    Unknown(String),
}

/// The permission of a list by which an action is allowed, and on whose list it is looked for (S3 User Guide, "Mapping of ACL
/// permissions and access policy permissions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// On the bucket's.
    Bucket(Permission),
    /// On the object's.
    Object(Permission),
}

/// What an action needs of a list; `None` of one that no list allows.
pub fn needs(action: &str) -> Option<Needs> {
    Some(match action {
        "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => Needs::Bucket(Permission::Read),
        "s3:PutObject" | "s3:DeleteObject" | "s3:AbortMultipartUpload" | "s3:ListMultipartUploadParts" => {
            Needs::Bucket(Permission::Write)
        }
        "s3:GetBucketAcl" => Needs::Bucket(Permission::ReadAcp),
        "s3:PutBucketAcl" => Needs::Bucket(Permission::WriteAcp),
        "s3:GetObject" | "s3:GetObjectVersion" => Needs::Object(Permission::Read),
        "s3:GetObjectAcl" | "s3:GetObjectVersionAcl" => Needs::Object(Permission::ReadAcp),
        "s3:PutObjectAcl" | "s3:PutObjectVersionAcl" => Needs::Object(Permission::WriteAcp),
        _ => return None,
    })
}

impl Acl {
    /// What a new bucket or object has: the owner may do everything, nobody else anything.
    pub fn private(owner: &str) -> Acl {
        let grantee = Grantee::Account(owner.to_owned());
        Acl { owner: owner.to_owned(), grants: vec![Grant { grantee, permission: Permission::FullControl }] }
    }

    /// Refuses what can't be stored.
    pub fn check(&self) -> Result<(), AclError> {
        if self.grants.len() > MAX_GRANTS { Err(AclError::TooMany) } else { Ok(()) }
    }

    /// Whether it lets a caller do something. `public` is false where grants to everybody are ignored.
    pub fn allows(&self, caller: &Caller, wanted: Permission, public: bool) -> bool {
        let owns = caller.account().is_some_and(|account| account.canonical == self.owner);
        if owns && matches!(wanted, Permission::ReadAcp | Permission::WriteAcp) {
            return true;
        }
        self.grants.iter().any(|grant| {
            (public || !grant.grantee.is_public())
                && (grant.permission == wanted || grant.permission == Permission::FullControl)
                && grant.grantee.is(caller)
        })
    }

    /// Whether it grants anything to everybody (S3 User Guide, "The meaning of public": ACLs).
    pub fn is_public(&self) -> bool {
        self.grants.iter().any(|grant| grant.grantee.is_public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::principal::Account;
    use proptest::prelude::*;

    fn caller(canonical: &str) -> Caller {
        Caller::Account(Account { id: canonical.into(), canonical: canonical.into() })
    }

    fn grants(list: &[(Grantee, Permission)]) -> Acl {
        let grants =
            list.iter().map(|(grantee, permission)| Grant { grantee: grantee.clone(), permission: *permission });
        Acl { owner: "o".into(), grants: grants.collect() }
    }

    const ALL: [Permission; 4] = [Permission::Read, Permission::Write, Permission::ReadAcp, Permission::WriteAcp];

    #[test]
    fn a_private_list() {
        let acl = Acl::private("o");
        for permission in ALL {
            assert!(acl.allows(&caller("o"), permission, true));
            assert!(!acl.allows(&caller("x"), permission, true) && !acl.allows(&Caller::Anonymous, permission, true));
        }
        assert!(!acl.is_public());
    }

    #[test]
    fn an_owner_may_give_up_everything_but_the_list() {
        let acl = grants(&[]);
        assert!(
            acl.allows(&caller("o"), Permission::WriteAcp, true) && acl.allows(&caller("o"), Permission::ReadAcp, true)
        );
        assert!(!acl.allows(&caller("o"), Permission::Read, true));
    }

    #[test]
    fn groups() {
        let everybody = grants(&[(Grantee::AllUsers, Permission::Read)]);
        let signed = grants(&[(Grantee::AuthenticatedUsers, Permission::Read)]);
        assert!(everybody.allows(&Caller::Anonymous, Permission::Read, true) && everybody.is_public());
        assert!(!everybody.allows(&Caller::Anonymous, Permission::Write, true));
        assert!(!everybody.allows(&Caller::Anonymous, Permission::Read, false), "ignored");
        assert!(signed.allows(&caller("x"), Permission::Read, true) && signed.is_public());
        assert!(!signed.allows(&Caller::Anonymous, Permission::Read, true));
        let logs = grants(&[(Grantee::LogDelivery, Permission::Write)]);
        assert!(!logs.allows(&caller("x"), Permission::Write, true) && !logs.is_public());
        for group in [Grantee::AllUsers, Grantee::AuthenticatedUsers, Grantee::LogDelivery] {
            assert_eq!(group.uri().and_then(Grantee::group), Some(group));
        }
        assert_eq!(Grantee::group("http://acs.amazonaws.com/groups/global/allusers"), None);
    }

    #[test]
    fn actions() {
        assert_eq!(needs("s3:ListBucket"), Some(Needs::Bucket(Permission::Read)));
        assert_eq!(needs("s3:GetObjectVersion"), Some(Needs::Object(Permission::Read)));
        for none in [
            "s3:DeleteBucket",
            "s3:PutBucketPolicy",
            "s3:PutObjectRetention",
            "s3:DeleteObjectVersion",
            "s3:GetObjectTagging",
        ] {
            assert_eq!(needs(none), None, "{none}");
        }
    }

    fn any_permission() -> impl Strategy<Value = Permission> {
        prop::sample::select(vec![
            Permission::Read,
            Permission::Write,
            Permission::ReadAcp,
            Permission::WriteAcp,
            Permission::FullControl,
        ])
    }

    fn any_grantee() -> impl Strategy<Value = Grantee> {
        prop::sample::select(vec![
            Grantee::Account("a".into()),
            Grantee::Account("b".into()),
            Grantee::AllUsers,
            Grantee::AuthenticatedUsers,
            Grantee::LogDelivery,
        ])
    }

    proptest! {
        /// More grants never allow less, and what is ignored never allows more.
        #[test]
        fn grants_add(list in prop::collection::vec((any_grantee(), any_permission()), 0..8), cut in 0usize..8) {
            let (more, less) = (grants(&list), grants(&list[..cut.min(list.len())]));
            for caller in [caller("a"), caller("o"), Caller::Anonymous] {
                for permission in ALL {
                    prop_assert!(!less.allows(&caller, permission, true) || more.allows(&caller, permission, true));
                    prop_assert!(!more.allows(&caller, permission, false) || more.allows(&caller, permission, true));
                    if !more.is_public() {
                        prop_assert!(!more.allows(&Caller::Anonymous, permission, true));
                    }
                }
            }
        }

        #[test]
        fn names(permission in any_permission()) {
            prop_assert_eq!(Permission::parse(permission.name()), Some(permission));
        }
    }
}
