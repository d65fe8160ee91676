//! Rows in the words of [`access`], and back.
//!
//! Invariant: a row that says what nobody knows gives less, never more: a grant of it counts for nothing, an ownership rule makes
//! lists count for nothing.

use access::acl::block::Block;
use access::acl::ownership::Ownership;
use access::acl::{Acl, Grant, Grantee, Permission};
use codec::effect::{
    AclGrantRow, AclRow, GrantedPermission, GranteeKind, OwnershipRule, PublicAccessBlockRow, VersionRow,
};

/// The canonical user id of an account: its id. There is no other one.
pub fn canonical(account: &str) -> &str {
    account
}

/// A list. Without a row the owner may do everything, and nobody else anything.
pub fn acl(row: Option<&AclRow>, owner: &str) -> Acl {
    let Some(row) = row else { return Acl::private(owner) };
    let grants = row.grants.iter().filter_map(grant).collect();
    Acl { owner: owner.to_owned(), grants }
}

/// The owner of a version: the bucket's, unless it says another one.
pub fn owner<'a>(version: &'a VersionRow, bucket_owner: &'a str) -> &'a str {
    if version.owner.is_empty() { bucket_owner } else { &version.owner }
}

fn grant(row: &AclGrantRow) -> Option<Grant> {
    let grantee = match GranteeKind::try_from(row.grantee).ok()? {
        GranteeKind::Unspecified => return None,
        GranteeKind::Account => Grantee::Account(row.id.clone()),
        GranteeKind::AllUsers => Grantee::AllUsers,
        GranteeKind::AuthenticatedUsers => Grantee::AuthenticatedUsers,
        GranteeKind::LogDelivery => Grantee::LogDelivery,
    };
    let permission = match GrantedPermission::try_from(row.permission).ok()? {
        GrantedPermission::Unspecified => return None,
        GrantedPermission::Read => Permission::Read,
        GrantedPermission::Write => Permission::Write,
        GrantedPermission::ReadAcp => Permission::ReadAcp,
        GrantedPermission::WriteAcp => Permission::WriteAcp,
        GrantedPermission::FullControl => Permission::FullControl,
    };
    Some(Grant { grantee, permission })
}

/// The row of a list; none of the one that every new thing has.
pub fn acl_row(acl: &Acl) -> Option<AclRow> {
    (*acl != Acl::private(&acl.owner)).then(|| AclRow { grants: acl.grants.iter().map(grant_row).collect() })
}

fn grant_row(grant: &Grant) -> AclGrantRow {
    let (grantee, id) = match &grant.grantee {
        Grantee::Account(id) => (GranteeKind::Account, id.clone()),
        Grantee::AllUsers => (GranteeKind::AllUsers, String::new()),
        Grantee::AuthenticatedUsers => (GranteeKind::AuthenticatedUsers, String::new()),
        Grantee::LogDelivery => (GranteeKind::LogDelivery, String::new()),
    };
    let permission = match grant.permission {
        Permission::Read => GrantedPermission::Read,
        Permission::Write => GrantedPermission::Write,
        Permission::ReadAcp => GrantedPermission::ReadAcp,
        Permission::WriteAcp => GrantedPermission::WriteAcp,
        Permission::FullControl => GrantedPermission::FullControl,
    };
    AclGrantRow { grantee: grantee as i32, id, permission: permission as i32 }
}

/// A bucket's rule. Where none was set, lists count and who puts an object owns it.
pub fn ownership(rule: i32) -> Ownership {
    match OwnershipRule::try_from(rule) {
        Ok(OwnershipRule::Unset | OwnershipRule::ObjectWriter) => Ownership::ObjectWriter,
        Ok(OwnershipRule::BucketOwnerPreferred) => Ownership::BucketOwnerPreferred,
        Ok(OwnershipRule::BucketOwnerEnforced) | Err(_) => Ownership::BucketOwnerEnforced,
    }
}

/// The row of a rule.
pub fn ownership_rule(ownership: Ownership) -> OwnershipRule {
    match ownership {
        Ownership::BucketOwnerEnforced => OwnershipRule::BucketOwnerEnforced,
        Ownership::BucketOwnerPreferred => OwnershipRule::BucketOwnerPreferred,
        Ownership::ObjectWriter => OwnershipRule::ObjectWriter,
    }
}

/// A public access block; nothing is blocked where none was set.
pub fn block(row: Option<&PublicAccessBlockRow>) -> Block {
    row.map_or_else(Block::default, |row| Block {
        block_acls: row.block_acls,
        ignore_acls: row.ignore_acls,
        block_policy: row.block_policy,
        restrict: row.restrict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back() {
        let permissions =
            [Permission::Read, Permission::Write, Permission::ReadAcp, Permission::WriteAcp, Permission::FullControl];
        let grantees =
            [Grantee::Account("a".into()), Grantee::AllUsers, Grantee::AuthenticatedUsers, Grantee::LogDelivery];
        let all = grantees
            .iter()
            .flat_map(|grantee| permissions.map(|permission| Grant { grantee: grantee.clone(), permission }));
        let list = Acl { owner: "o".into(), grants: all.collect() };
        assert_eq!(acl(acl_row(&list).as_ref(), "o"), list);
        let none = Acl { owner: "o".into(), grants: Vec::new() };
        assert_eq!(acl(acl_row(&none).as_ref(), "o"), none, "an empty list is not the list that nobody set");
        assert_eq!(acl_row(&Acl::private("o")), None);
        assert_eq!(acl(None, "o"), Acl::private("o"));
    }

    #[test]
    fn what_nobody_knows_gives_nothing() {
        let row = AclRow { grants: vec![AclGrantRow { grantee: 9, id: String::new(), permission: 5 }] };
        assert!(acl(Some(&row), "o").grants.is_empty());
        let row = AclRow { grants: vec![AclGrantRow { grantee: 2, id: String::new(), permission: 0 }] };
        assert!(acl(Some(&row), "o").grants.is_empty());
        assert_eq!(ownership(77), Ownership::BucketOwnerEnforced);
        assert_eq!(ownership(0), Ownership::ObjectWriter);
        for rule in [Ownership::BucketOwnerEnforced, Ownership::BucketOwnerPreferred, Ownership::ObjectWriter] {
            assert_eq!(ownership(ownership_rule(rule) as i32), rule);
        }
    }
}
