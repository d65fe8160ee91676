use super::*;
use crate::acl::canned::Canned;
use crate::policy::principal::Account;
use crate::policy::{Context, Kind};
use proptest::prelude::*;

fn account(id: &str) -> Account {
    Account { id: id.into(), canonical: format!("c{id}") }
}

fn root(id: &str) -> Caller {
    Caller::Account(account(id))
}

fn user(id: &str) -> Caller {
    Caller::User { account: account(id), name: "anna".into() }
}

/// A bucket of account 1 with everything that can be said of it.
struct World {
    bucket_acl: Acl,
    object_acl: Option<Acl>,
    ownership: Ownership,
    block: Block,
    policy: Option<Policy>,
    identity: Option<Policy>,
}

impl World {
    fn new() -> World {
        World {
            bucket_acl: Acl::private("c1"),
            object_acl: Some(Acl::private("c1")),
            ownership: Ownership::ObjectWriter,
            block: Block::default(),
            policy: None,
            identity: None,
        }
    }

    fn policy(self, statement: &str) -> World {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
        World { policy: Some(Policy::parse(&text, Kind::Bucket("b")).expect("a policy")), ..self }
    }

    fn object(self, canned: Canned, owner: &str) -> World {
        World { object_acl: Some(canned.list(owner, "c1")), ..self }
    }

    fn bucket(self, canned: Canned) -> World {
        World { bucket_acl: canned.list("c1", "c1"), ..self }
    }

    fn may(&self, caller: &Caller, action: &str) -> bool {
        let context = Context::default();
        let resource = if action.contains("Object") { "arn:aws:s3:::b/k" } else { "arn:aws:s3:::b" };
        let request = Request { caller, action, resource, owner: "1", context: &context };
        let identity: Vec<&Policy> = self.identity.iter().collect();
        let policies = Policies { identity: &identity, resource: self.policy.as_ref(), ..Policies::default() };
        let resource = Resource {
            bucket_acl: &self.bucket_acl,
            object_acl: self.object_acl.as_ref(),
            ownership: self.ownership,
            block: self.block,
        };
        authorise(&request, &policies, &resource).is_allowed()
    }
}

fn identity(statement: &str) -> Option<Policy> {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
    Some(Policy::parse(&text, Kind::Identity).expect("a policy"))
}

const EVERYTHING: &str = r#"{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#;
const FOR_ALL: &str =
    r#"{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]}"#;

#[test]
fn private_means_the_owner() {
    let world = World::new();
    for action in ["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:PutBucketPolicy", "s3:GetObjectAcl"] {
        assert!(world.may(&root("1"), action), "{action}");
        for other in [root("2"), user("1"), user("2"), Caller::Anonymous] {
            assert!(!world.may(&other, action), "{action} {other:?}");
        }
    }
}

/// The suite's table: what others may do with buckets and objects of each canned list.
#[test]
fn canned_lists() {
    for (bucket, object, lists, reads, writes) in [
        (Canned::Private, Canned::Private, false, false, false),
        (Canned::Private, Canned::PublicRead, false, true, false),
        (Canned::Private, Canned::PublicReadWrite, false, true, false),
        (Canned::PublicRead, Canned::Private, true, false, false),
        (Canned::PublicRead, Canned::PublicRead, true, true, false),
        (Canned::PublicReadWrite, Canned::Private, true, false, true),
        (Canned::PublicReadWrite, Canned::PublicRead, true, true, true),
    ] {
        let world = World::new().bucket(bucket).object(object, "c1");
        for caller in [root("2"), Caller::Anonymous] {
            assert_eq!(world.may(&caller, "s3:ListBucket"), lists, "{bucket:?} {object:?}");
            assert_eq!(world.may(&caller, "s3:GetObject"), reads, "{bucket:?} {object:?}");
            assert_eq!(world.may(&caller, "s3:PutObject"), writes, "{bucket:?} {object:?}");
            assert!(!world.may(&caller, "s3:PutObjectAcl") && !world.may(&caller, "s3:DeleteBucket"));
        }
    }
    let signed = World::new().object(Canned::AuthenticatedRead, "c1");
    assert!(signed.may(&root("2"), "s3:GetObject") && !signed.may(&Caller::Anonymous, "s3:GetObject"));
}

#[test]
fn lists_count_for_nothing_where_the_bucket_owner_is_enforced() {
    let world = World { ownership: Ownership::BucketOwnerEnforced, ..World::new() };
    let world = world.bucket(Canned::PublicReadWrite).object(Canned::PublicRead, "c2");
    for action in ["s3:GetObject", "s3:ListBucket", "s3:PutObject"] {
        assert!(!world.may(&Caller::Anonymous, action) && !world.may(&root("2"), action), "{action}");
        assert!(world.may(&root("1"), action), "{action}");
    }
}

#[test]
fn a_denial_wins_over_a_grant() {
    let deny = r#"{"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}"#;
    let world = World::new().object(Canned::PublicRead, "c1").policy(deny);
    assert!(!world.may(&Caller::Anonymous, "s3:GetObject") && !world.may(&root("1"), "s3:GetObject"));
}

#[test]
fn the_owner_can_always_mend_the_policy() {
    let deny = r#"{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]}"#;
    let world = World { identity: identity(EVERYTHING), ..World::new().policy(deny) };
    for action in NEVER_LOCKED_OUT {
        assert!(world.may(&root("1"), action) && !world.may(&user("1"), action) && !world.may(&root("2"), action));
    }
    assert!(!world.may(&root("1"), "s3:ListBucket"));
}

#[test]
fn objects_of_others_are_theirs() {
    let theirs = World::new().object(Canned::Private, "c2").policy(FOR_ALL);
    assert!(!theirs.may(&root("1"), "s3:GetObject"), "the bucket is mine, the object is not");
    assert!(theirs.may(&root("1"), "s3:DeleteObject") && theirs.may(&root("2"), "s3:GetObject"));
    assert!(!theirs.may(&Caller::Anonymous, "s3:GetObject"), "nor does the bucket's policy reach it");
    let given = World::new().object(Canned::BucketOwnerFullControl, "c2");
    assert!(given.may(&root("1"), "s3:GetObject") && given.may(&root("1"), "s3:PutObjectAcl"));
    // What no list grants the bucket's policy allows to the object's owner, and to the bucket's whom the list gives everything.
    for action in ["s3:GetObjectTagging", "s3:PutObjectTagging", "s3:PutObjectRetention", "s3:PutObjectLegalHold"] {
        assert!(!theirs.may(&root("1"), action) && theirs.may(&root("2"), action), "{action}");
        assert!(!theirs.may(&root("3"), action) && !theirs.may(&Caller::Anonymous, action), "{action}");
        assert!(!theirs.may(&user("2"), action), "{action}: a user needs its account's word");
        assert!(given.may(&root("1"), action) && !given.may(&root("2"), action), "{action}");
    }
    let public = World::new().object(Canned::PublicReadWrite, "c2");
    assert!(!public.may(&root("1"), "s3:PutObjectTagging") && !public.may(&Caller::Anonymous, "s3:GetObjectTagging"));
    let enforced = World { ownership: Ownership::BucketOwnerEnforced, ..World::new().object(Canned::Private, "c2") };
    assert!(enforced.may(&root("1"), "s3:GetObject") && !enforced.may(&root("2"), "s3:GetObject"));
}

#[test]
fn users_need_their_own_policies_besides_a_grant() {
    let world = World::new().object(Canned::PublicRead, "c1");
    assert!(!world.may(&user("2"), "s3:GetObject"));
    let allowed = World { identity: identity(EVERYTHING), ..World::new().object(Canned::PublicRead, "c1") };
    assert!(allowed.may(&user("2"), "s3:GetObject") && !allowed.may(&user("2"), "s3:PutObject"));
}

#[test]
fn public_access_blocks() {
    let ignore = Block { ignore_acls: true, ..Block::default() };
    let world = World { block: ignore, ..World::new().bucket(Canned::PublicRead).object(Canned::PublicRead, "c1") };
    assert!(!world.may(&Caller::Anonymous, "s3:GetObject") && !world.may(&root("2"), "s3:ListBucket"));
    assert!(world.may(&root("1"), "s3:GetObject"));
    let restrict = Block { restrict: true, ..Block::default() };
    let world = World { block: restrict, ..World::new().policy(FOR_ALL) };
    assert!(!world.may(&Caller::Anonymous, "s3:GetObject") && !world.may(&root("2"), "s3:GetObject"));
    assert!(world.may(&root("1"), "s3:GetObject") && world.may(&user("1"), "s3:GetObject"));
    let to_two = FOR_ALL.replace(r#""*""#, r#"{"AWS":"2"}"#);
    let world = World { block: restrict, ..World::new().policy(&to_two) };
    assert!(world.may(&root("2"), "s3:GetObject"), "a policy that is not public counts");
}

#[test]
fn missing_objects_are_decided_by_policies_and_the_bucket() {
    let world = World { object_acl: None, ..World::new().bucket(Canned::PublicRead) };
    assert!(!world.may(&Caller::Anonymous, "s3:GetObject"));
    assert!(world.may(&root("1"), "s3:GetObject") && world.policy(FOR_ALL).may(&Caller::Anonymous, "s3:GetObject"));
}

#[test]
fn policies_that_lock_out() {
    let context = Context::default();
    let of = |caller: &Caller, statement: &str| {
        let request =
            Request { caller, action: "s3:PutBucketPolicy", resource: "arn:aws:s3:::b", owner: "1", context: &context };
        let text = format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
        locks_out(&request, &Policies::default(), &Policy::parse(&text, Kind::Bucket("b")).expect("a policy"))
    };
    let deny = r#"{"Effect":"Deny","Principal":"*","Action":"s3:PutBucketPolicy","Resource":"arn:aws:s3:::b"}"#;
    assert!(of(&user("1"), deny) && !of(&user("1"), FOR_ALL));
    assert!(!of(&root("1"), deny), "an account's own keys can always mend it");
    assert!(!of(&user("1"), &deny.replace(r#""*""#, r#"{"AWS":"2"}"#)));
}

fn any_canned() -> impl Strategy<Value = Canned> {
    prop::sample::select(vec![
        Canned::Private,
        Canned::PublicRead,
        Canned::PublicReadWrite,
        Canned::AuthenticatedRead,
        Canned::BucketOwnerRead,
        Canned::BucketOwnerFullControl,
    ])
}

fn any_ownership() -> impl Strategy<Value = Ownership> {
    prop::sample::select(vec![Ownership::BucketOwnerEnforced, Ownership::BucketOwnerPreferred, Ownership::ObjectWriter])
}

fn any_policy() -> impl Strategy<Value = Option<String>> {
    let principal = prop::sample::select(vec![r#""*""#, r#"{"AWS":"1"}"#, r#"{"AWS":"arn:aws:iam::2:user/anna"}"#]);
    let action = prop::sample::select(vec!["s3:*", "s3:GetObject", "s3:ListBucket", "s3:Put*"]);
    prop::option::of((principal, action).prop_map(|(principal, action)| {
        format!(
            r#"{{"Effect":"Allow","Principal":{principal},"Action":"{action}","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]}}"#
        )
    }))
}

const ACTIONS: [&str; 8] = [
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:ListBucket",
    "s3:GetObjectAcl",
    "s3:PutBucketPolicy",
    "s3:PutObjectRetention",
    "s3:DeleteBucket",
];

proptest! {
    /// Whatever the lists, the policy and the ownership are: a Deny for everybody leaves nobody anything but the owner's policy, and each
    /// setting of the block only takes away.
    #[test]
    fn what_takes_away_only_takes_away(
        bucket in any_canned(), object in any_canned(), owner in prop::sample::select(vec!["c1", "c2"]),
        ownership in any_ownership(), policy in any_policy(), all in any::<bool>(),
    ) {
        let make = |block: Block, deny: bool| {
            let world = World { ownership, block, identity: all.then(|| identity(EVERYTHING)).flatten(), ..World::new() };
            let world = world.bucket(bucket).object(object, owner);
            let mut statements: Vec<String> = policy.iter().cloned().collect();
            if deny {
                statements.push(FOR_ALL.replace("Allow", "Deny"));
            }
            if statements.is_empty() { world } else { world.policy(&format!("[{}]", statements.join(","))) }
        };
        let open = make(Block::default(), false);
        let ignoring = make(Block { ignore_acls: true, ..Block::default() }, false);
        let restricted = make(Block { restrict: true, ..Block::default() }, false);
        let denied = make(Block::default(), true);
        for caller in [root("1"), root("2"), user("1"), user("2"), Caller::Anonymous] {
            for action in ACTIONS {
                prop_assert!(!ignoring.may(&caller, action) || open.may(&caller, action), "{caller:?} {action}");
                prop_assert!(!restricted.may(&caller, action) || open.may(&caller, action), "{caller:?} {action}");
                let owner = caller == root("1") && NEVER_LOCKED_OUT.contains(&action);
                prop_assert!(!denied.may(&caller, action) || owner, "{caller:?} {action}");
            }
            // No list gives these.
            if policy.is_none() && caller != root("1") && !(all && caller == user("1")) {
                for action in ["s3:PutBucketPolicy", "s3:PutObjectRetention", "s3:DeleteBucket"] {
                    prop_assert!(!open.may(&caller, action), "{caller:?} {action}");
                }
            }
        }
    }
}
