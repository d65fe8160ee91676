//! Users, keys, policies, groups and roles: who may change what, and what hangs on what.

use super::world::*;
use crate::command::*;
use crate::iam::session::Session;
use crate::iam::signer::{Held, allowed, held};
use crate::iam::{Ask, Asker, IamCommand, IamError, Looked, NewKey, Value, Who, answer, begin};
use crate::index::{self, access};
use ::access::policy::Context;
use bytes::Bytes;
use codec::effect::*;
use std::sync::Arc;

const ALLOW_ALL: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
const READ: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#;

struct Desk {
    world: World,
}

fn parameters(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn user(name: &str) -> Asker {
    Asker::Signed { who: Who::User(name.to_owned()), known: Vec::new() }
}

fn root() -> Asker {
    Asker::Signed { who: Who::Account, known: Vec::new() }
}

impl Desk {
    fn new() -> Desk {
        let mut world = World::new();
        world.run(Command::RaiseLevel(codec::level::FormatLevel::NEWEST)).unwrap();
        for id in ["1", "2"] {
            let (name, access_key) = (format!("account-{id}"), format!("AK{id}"));
            world
                .run(Command::CreateAccount(AccountRow { id: id.into(), name, access_key, ..AccountRow::default() }))
                .unwrap();
        }
        Desk { world }
    }

    fn ask(&mut self, asker: &Asker, action: &str, given: &[(&str, &str)]) -> Result<Value, IamError> {
        self.ask_of("1", asker, action, given)
    }

    fn ask_of(
        &mut self,
        account: &str,
        asker: &Asker,
        action: &str,
        given: &[(&str, &str)],
    ) -> Result<Value, IamError> {
        let key = given
            .iter()
            .find(|(name, _)| *name == "-key")
            .map(|(_, key)| NewKey { access_key: (*key).to_owned(), wrapped_secret: Bytes::from_static(b"wrapped") });
        let given: Vec<_> = given.iter().copied().filter(|(name, _)| *name != "-key").collect();
        let ask = Ask::parse(action, &parameters(&given))?;
        if !ask.is_change() {
            return answer(&self.world.view(), account, asker, action, &ask).map_err(|error| match error {
                crate::iam::desk::DeskError::Iam(error) => error,
                error => panic!("{error}"),
            });
        }
        let (account, asker, action) = (account.to_owned(), asker.clone(), action.to_owned());
        let command = IamCommand { account, asker, looked: None, action, ask, key };
        match self.world.run(Command::Iam(Box::new(command))) {
            Ok(Outcome::Iam(value)) => Ok(value),
            Err(Refusal::Iam(error)) => Err(*error),
            other => panic!("{other:?}"),
        }
    }

    fn held(&self, who: &Who) -> Option<Arc<Held>> {
        held(&self.world.view(), "1", who, None).unwrap()
    }

    fn may(&self, name: &str, action: &str) -> bool {
        let held = self.held(&Who::User(name.to_owned())).expect("a user");
        allowed(&held, "1", action, "arn:aws:s3:::b/k", &Context::default()).is_allowed()
    }
}

fn denied(result: &Result<Value, IamError>) -> bool {
    matches!(result, Err(IamError::Denied(_)))
}

#[test]
fn a_user_may_nothing_until_a_policy_allows_it_and_no_more_when_it_is_gone() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    assert!(!desk.may("anna", "s3:GetObject"));
    assert!(denied(&desk.ask(&user("anna"), "CreateUser", &[("UserName", "eve")])));
    assert!(denied(&desk.ask(&user("anna"), "ListUsers", &[])));
    let put = [("UserName", "anna"), ("PolicyName", "p"), ("PolicyDocument", READ)];
    assert!(denied(&desk.ask(&user("anna"), "PutUserPolicy", &put)), "nobody gives himself rights");
    desk.ask(&root(), "PutUserPolicy", &put).unwrap();
    assert!(desk.may("anna", "s3:GetObject") && !desk.may("anna", "s3:PutObject"));
    desk.ask(&root(), "DeleteUserPolicy", &[("UserName", "anna"), ("PolicyName", "p")]).unwrap();
    assert!(!desk.may("anna", "s3:GetObject"));
    let again = desk.ask(&root(), "DeleteUserPolicy", &[("UserName", "anna"), ("PolicyName", "p")]);
    assert!(matches!(again, Err(IamError::NoSuchEntity { .. })));
    assert!(matches!(desk.ask(&root(), "CreateUser", &[("UserName", "ANNA")]), Err(IamError::Exists { .. })));
    // Of another account nothing is seen.
    assert!(matches!(
        desk.ask_of("2", &root(), "GetUser", &[("UserName", "anna")]),
        Err(IamError::NoSuchEntity { .. })
    ));
}

/// MinIO GHSA-xx33-vw4h and RustFS GHSA-566f: users that made keys of others, or of the account.
#[test]
fn a_user_that_may_all_of_users_does_not_become_the_account() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "all"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    let anna = user("anna");
    desk.ask(&anna, "CreateAccessKey", &[("-key", "STEL1")]).unwrap();
    let row = access::access_key(&desk.world.view(), "STEL1").unwrap().unwrap();
    assert_eq!((row.account.as_str(), row.user.as_str()), ("1", "anna"), "without a name it is its own");
    // A temporary access key, one that is taken, and those of the account.
    for taken in ["AK1", "AK2", "STEL1", "ASIA1"] {
        assert!(desk.ask(&anna, "CreateAccessKey", &[("-key", taken)]).is_err(), "{taken}");
    }
    let first = desk.ask(&anna, "DeleteAccessKey", &[("AccessKeyId", "AK1")]);
    assert!(matches!(first, Err(IamError::NoSuchEntity { .. })));
    assert!(matches!(
        desk.world.run(Command::PutAccount(AccountRow {
            id: "3".into(),
            name: "c".into(),
            access_key: "STEL1".into(),
            ..AccountRow::default()
        })),
        Err(Refusal::AccountTaken)
    ));
    // What only a denial was said of is not allowed by it.
    let deny = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"s3:PutObject","Resource":"*"}}"#;
    desk.ask(&root(), "CreateUser", &[("UserName", "eve")]).unwrap();
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "eve"), ("PolicyName", "d"), ("PolicyDocument", deny)]).unwrap();
    assert!(!desk.may("eve", "s3:GetObject"));
    assert!(denied(&desk.ask(&user("eve"), "CreateAccessKey", &[("UserName", "anna"), ("-key", "STEL2")])));
}

#[test]
fn keys_go_with_their_user_and_with_the_account() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    let of_anna = |key: &'static str| [("UserName", "anna"), ("-key", key)];
    desk.ask(&root(), "CreateAccessKey", &of_anna("STEL1")).unwrap();
    desk.ask(&root(), "CreateAccessKey", &of_anna("STEL2")).unwrap();
    assert!(matches!(desk.ask(&root(), "CreateAccessKey", &of_anna("STEL3")), Err(IamError::Limit { .. })));
    let off = [("UserName", "anna"), ("AccessKeyId", "STEL1"), ("Status", "Inactive")];
    desk.ask(&root(), "UpdateAccessKey", &off).unwrap();
    assert!(access::access_key(&desk.world.view(), "STEL1").unwrap().unwrap().inactive);
    desk.ask(&root(), "UpdateUser", &[("UserName", "anna"), ("NewUserName", "berta")]).unwrap();
    assert_eq!(access::access_key(&desk.world.view(), "STEL2").unwrap().unwrap().user, "berta");
    assert!(access::user(&desk.world.view(), "1", "anna").unwrap().is_none());
    assert!(matches!(desk.ask(&root(), "DeleteUser", &[("UserName", "berta")]), Err(IamError::InUse { .. })));
    desk.ask(&Asker::Operator, "DeleteUser", &[("UserName", "berta")]).unwrap();
    assert!(access::access_key(&desk.world.view(), "STEL2").unwrap().is_none());

    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    desk.ask(&root(), "CreateAccessKey", &of_anna("STEL4")).unwrap();
    desk.ask(&root(), "CreateAccessKey", &[("-key", "STEL5")]).unwrap();
    desk.ask(&root(), "CreateGroup", &[("GroupName", "g")]).unwrap();
    desk.world.run(Command::DeleteAccount { id: "1".into() }).unwrap();
    let view = desk.world.view();
    assert!(access::users(&view, "1").unwrap().is_empty() && access::groups(&view, "1").unwrap().is_empty());
    for key in ["STEL4", "STEL5"] {
        assert!(access::access_key(&view, key).unwrap().is_none(), "{key}");
    }
    assert!(index::account_by_access_key(&view, "AK1").unwrap().is_none());
}

#[test]
fn policies_come_from_groups_and_attachments_and_do_not_go_while_they_are_attached() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    desk.ask(&root(), "CreateGroup", &[("GroupName", "readers")]).unwrap();
    desk.ask(&root(), "AddUserToGroup", &[("GroupName", "readers"), ("UserName", "anna")]).unwrap();
    desk.ask(&root(), "CreatePolicy", &[("PolicyName", "read"), ("PolicyDocument", READ)]).unwrap();
    let arn = "arn:aws:iam::1:policy/read";
    let attach = [("GroupName", "readers"), ("PolicyArn", arn)];
    assert!(!desk.may("anna", "s3:GetObject"));
    desk.ask(&root(), "AttachGroupPolicy", &attach).unwrap();
    assert!(desk.may("anna", "s3:GetObject"));
    assert!(matches!(desk.ask(&root(), "DeletePolicy", &[("PolicyArn", arn)]), Err(IamError::InUse { .. })));
    assert!(matches!(desk.ask(&root(), "DeleteGroup", &[("GroupName", "readers")]), Err(IamError::InUse { .. })));
    let of = desk.ask(&root(), "ListEntitiesForPolicy", &[("PolicyArn", arn)]).unwrap();
    assert_eq!(of.get("PolicyGroups").unwrap().items().len(), 1);
    desk.ask(&root(), "RemoveUserFromGroup", &[("GroupName", "readers"), ("UserName", "anna")]).unwrap();
    assert!(!desk.may("anna", "s3:GetObject"));
    desk.ask(&root(), "DetachGroupPolicy", &attach).unwrap();
    desk.ask(&root(), "DeleteGroup", &[("GroupName", "readers")]).unwrap();
    // A boundary is an attachment, too.
    let bound = [("UserName", "anna"), ("PermissionsBoundary", arn)];
    desk.ask(&root(), "PutUserPermissionsBoundary", &bound).unwrap();
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "a"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    assert!(desk.may("anna", "s3:GetObject") && !desk.may("anna", "s3:PutObject"));
    assert!(matches!(desk.ask(&root(), "DeletePolicy", &[("PolicyArn", arn)]), Err(IamError::InUse { .. })));
    desk.ask(&root(), "DeleteUserPermissionsBoundary", &[("UserName", "anna")]).unwrap();
    assert!(desk.may("anna", "s3:PutObject"));
    desk.ask(&root(), "DeletePolicy", &[("PolicyArn", arn)]).unwrap();
    let built_in = [("UserName", "anna"), ("PolicyArn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")];
    desk.ask(&root(), "AttachUserPolicy", &built_in).unwrap();
    let listed = desk.ask(&root(), "ListAttachedUserPolicies", &[("UserName", "anna")]).unwrap();
    let first = &listed.get("AttachedPolicies").unwrap().items()[0];
    assert_eq!(first.get("PolicyName").unwrap().text(), Some("AmazonS3ReadOnlyAccess"));
    assert!(desk.ask(&root(), "DeletePolicy", &built_in[1..]).is_err());
}

#[test]
fn documents_that_can_t_be_read_are_refused_and_one_that_was_kept_denies() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    let put = |document| [("UserName", "anna"), ("PolicyName", "p"), ("PolicyDocument", document)];
    assert!(matches!(desk.ask(&root(), "PutUserPolicy", &put("{}")), Err(IamError::MalformedPolicy(_))));
    let long = format!("{READ}{}", " ".repeat(3000)).replace("s3:GetObject", &format!("s3:{}", "G".repeat(2100)));
    assert!(matches!(desk.ask(&root(), "PutUserPolicy", &put(&long)), Err(IamError::Limit { .. })));
    desk.ask(&root(), "PutUserPolicy", &put(READ)).unwrap();
    assert!(desk.may("anna", "s3:GetObject"));
    // As a release that reads more would have kept it.
    let mut row = access::user(&desk.world.view(), "1", "anna").unwrap().unwrap();
    row.inline
        .push(NamedPolicy { name: "later".into(), document: Bytes::from_static(b"{\"Version\":\"2099-01-01\"}") });
    let mut overlay = desk.world.view();
    overlay.put(index::ACCOUNTS, index::named_key(access::NameKind::User, "1", Some("anna")), &row);
    let batch = overlay.into_batch();
    storage_node::kv::Kv::write(&desk.world.kv, batch).unwrap();
    assert!(!desk.may("anna", "s3:GetObject"));
}

#[test]
fn pages_go_on_where_they_ended() {
    let mut desk = Desk::new();
    for name in ["c", "A", "b", "D"] {
        desk.ask(&root(), "CreateUser", &[("UserName", name)]).unwrap();
    }
    let names = |page: &Value| -> Vec<String> {
        page.get("Users")
            .unwrap()
            .items()
            .iter()
            .filter_map(|user| user.get("UserName")?.text().map(str::to_owned))
            .collect()
    };
    let first = desk.ask(&root(), "ListUsers", &[("MaxItems", "3")]).unwrap();
    assert_eq!(names(&first), ["A", "b", "c"]);
    assert_eq!(first.get("IsTruncated").unwrap().text(), Some("true"));
    let marker = first.get("Marker").unwrap().text().unwrap().to_owned();
    let second = desk.ask(&root(), "ListUsers", &[("Marker", &marker)]).unwrap();
    assert_eq!((names(&second), second.get("IsTruncated").unwrap().text()), (vec!["D".to_owned()], Some("false")));
}

#[test]
fn a_session_ends_with_its_role_and_when_it_is_revoked() {
    let mut desk = Desk::new();
    let trust =
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"1"},"Action":"sts:AssumeRole"}}"#;
    let create = [("RoleName", "r"), ("AssumeRolePolicyDocument", trust)];
    desk.ask(&root(), "CreateRole", &create).unwrap();
    desk.ask(&root(), "PutRolePolicy", &[("RoleName", "r"), ("PolicyName", "p"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    let row = access::role(&desk.world.view(), "1", "r").unwrap().unwrap();
    let session = |begun_ms, holder: &str| {
        Who::Session(Session {
            account: "1".into(),
            role: "r".into(),
            holder: holder.into(),
            begun_ms,
            name: "s".into(),
            ..Session::default()
        })
    };
    assert!(desk.held(&session(1, &row.id)).is_some());
    assert!(desk.held(&session(1, "AROA")).is_none(), "another role had the name then");
    desk.ask(&Asker::Operator, "RevokeRoleSessions", &[("RoleName", "r")]).unwrap();
    assert!(desk.held(&session(1, &row.id)).is_none());
    assert!(desk.held(&session(2, &row.id)).is_some(), "one that was begun later");
    desk.ask(&Asker::Operator, "DeleteRole", &[("RoleName", "r")]).unwrap();
    assert!(desk.held(&session(2, &row.id)).is_none());
}

#[test]
fn at_an_earlier_level_it_is_refused_by_name() {
    let mut desk = Desk { world: World::new() };
    let row = AccountRow { id: "1".into(), name: "a".into(), access_key: "AK1".into(), ..AccountRow::default() };
    desk.world.run(Command::CreateAccount(row)).unwrap();
    let ask = Ask::parse("CreateUser", &parameters(&[("UserName", "anna")])).unwrap();
    let (account, asker, action) = ("1".to_owned(), root(), "CreateUser".to_owned());
    let command = Command::Iam(Box::new(IamCommand { account, asker, looked: None, action, ask, key: None }));
    assert!(matches!(desk.world.run(command), Err(Refusal::NeedsLevel { .. })));
}

impl Desk {
    fn role(&mut self, name: &str, principal: &str, more: &str) {
        let trust = format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":"sts:AssumeRole"{more}}}}}"#
        );
        let create = [("RoleName", name), ("AssumeRolePolicyDocument", trust.as_str())];
        self.ask(&root(), "CreateRole", &create).unwrap();
    }

    fn assume(&self, account: &str, who: Who, role: &str, more: &[(&str, &str)]) -> Result<Session, IamError> {
        let arn = format!("arn:aws:iam::1:role/{role}");
        let given = [&[("RoleArn", arn.as_str()), ("RoleSessionName", "me")], more].concat();
        let ask = Ask::parse("AssumeRole", &parameters(&given))?;
        let asker = Asker::Signed { who, known: Vec::new() };
        match begin(&self.world.view(), account, &asker, "AssumeRole", &ask, (1_000_000, "")) {
            Ok(begun) => Ok(begun.session),
            Err(crate::iam::desk::DeskError::Iam(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_role_is_taken_by_whom_it_trusts_and_whose_own_policies_allow_it() {
    let mut desk = Desk::new();
    let is_denied = |result: Result<Session, IamError>| matches!(result, Err(IamError::Denied(_)));
    let anna = || Who::User("anna".to_owned());
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    desk.ask_of("2", &root(), "CreateUser", &[("UserName", "ben")]).unwrap();
    desk.role("by_account", "1", "");
    desk.role("by_name", "arn:aws:iam::1:user/anna", "");
    desk.role("of_others", "arn:aws:iam::2:user/ben", "");
    desk.role("external", "2", r#","Condition":{"StringEquals":{"sts:ExternalId":"x"}}"#);
    // The account is trusted, and has not allowed anna anything; by its own name it needs no more.
    assert!(is_denied(desk.assume("1", anna(), "by_account", &[])));
    let session = desk.assume("1", anna(), "by_name", &[]).unwrap();
    assert_eq!((session.role.as_str(), session.begun_ms, session.ends_ms), ("by_name", 1_000_000, 4_600_000));
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "a"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    assert!(desk.assume("1", anna(), "by_account", &[]).is_ok());
    // Whatever the own side allows, the role has to trust: also of the account itself.
    assert!(is_denied(desk.assume("1", anna(), "of_others", &[])));
    assert!(is_denied(desk.assume("1", Who::Account, "of_others", &[])));
    assert!(is_denied(desk.assume("1", anna(), "absent", &[])));
    // Of another account both are needed.
    let ben = || Who::User("ben".to_owned());
    assert!(is_denied(desk.assume("2", ben(), "of_others", &[])));
    let allow = [("UserName", "ben"), ("PolicyName", "a"), ("PolicyDocument", ALLOW_ALL)];
    desk.ask_of("2", &root(), "PutUserPolicy", &allow).unwrap();
    assert!(desk.assume("2", ben(), "of_others", &[]).is_ok());
    assert!(is_denied(desk.assume("2", ben(), "external", &[])));
    assert!(is_denied(desk.assume("2", ben(), "external", &[("ExternalId", "y")])));
    assert!(desk.assume("2", ben(), "external", &[("ExternalId", "x")]).is_ok());
    // A denial of its own decides.
    let deny = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"sts:*","Resource":"*"}}"#;
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "d"), ("PolicyDocument", deny)]).unwrap();
    assert!(
        is_denied(desk.assume("1", anna(), "by_name", &[])) && is_denied(desk.assume("1", anna(), "by_account", &[]))
    );
}

#[test]
fn a_session_is_no_longer_and_no_mightier_than_it_may_be() {
    let mut desk = Desk::new();
    desk.role("r", "1", "");
    desk.ask(&root(), "PutRolePolicy", &[("RoleName", "r"), ("PolicyName", "p"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    let refused = |more: &[(&str, &str)]| desk.assume("1", Who::Account, "r", more).is_err();
    assert!(refused(&[("DurationSeconds", "899")]) && refused(&[("DurationSeconds", "3601")]));
    assert!(refused(&[("Policy", "{}")]));
    let session = desk.assume("1", Who::Account, "r", &[("Policy", READ), ("DurationSeconds", "900")]).unwrap();
    assert_eq!(session.ends_ms, 1_900_000);
    let held = desk.held(&Who::Session(session.clone())).unwrap();
    let may = |action| allowed(&held, "1", action, "arn:aws:s3:::b/k", &Context::default()).is_allowed();
    assert!(may("s3:GetObject") && !may("s3:PutObject"), "what it was begun with bounds it");
    // Who has taken a role may not make it longer by taking it again, nor take another kind of session.
    let again = desk.assume("1", Who::Session(session.clone()), "r", &[("DurationSeconds", "3601")]);
    assert!(again.is_err());
    let ask = Ask::parse("GetSessionToken", &[]).unwrap();
    let asker = Asker::Signed { who: Who::Session(session), known: Vec::new() };
    assert!(begin(&desk.world.view(), "1", &asker, "GetSessionToken", &ask, (1, "")).is_err());
}

/// What somebody has taken for himself is given out without a second factor: it must not become something that lasts.
#[test]
fn temporary_credentials_do_not_become_keys_that_last() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "all"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    for who in [Who::Account, Who::User("anna".to_owned())] {
        let ask = Ask::parse("GetSessionToken", &[]).unwrap();
        let asker = Asker::Signed { who, known: Vec::new() };
        let begun = begin(&desk.world.view(), "1", &asker, "GetSessionToken", &ask, (1_000_000, "AK1")).unwrap();
        assert_eq!(begun.session.access_key, "AK1");
        let taken = Asker::Signed { who: Who::Session(begun.session), known: Vec::new() };
        for (action, given) in [
            ("CreateAccessKey", &[("-key", "STEL1")][..]),
            ("CreateAccessKey", &[("UserName", "anna"), ("-key", "STEL1")]),
            ("CreateUser", &[("UserName", "eve")]),
            ("ListUsers", &[]),
        ] {
            assert!(denied(&desk.ask(&taken, action, given)), "{action} {given:?}");
        }
        assert!(desk.ask(&taken, "GetCallerIdentity", &[]).is_ok());
    }
    // A role is given what it may do for those who take it.
    desk.role("r", "1", "");
    desk.ask(&root(), "PutRolePolicy", &[("RoleName", "r"), ("PolicyName", "p"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    let session = desk.assume("1", Who::Account, "r", &[]).unwrap();
    assert_eq!(session.access_key, "");
    let taken = Asker::Signed { who: Who::Session(session), known: Vec::new() };
    desk.ask(&taken, "CreateUser", &[("UserName", "eve")]).unwrap();
}

/// Who may give rights to those only that are bounded: of every change the boundary that there is, or is to be, is a condition key.
#[test]
fn who_manages_bounded_users_is_told_by_their_boundary() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreatePolicy", &[("PolicyName", "bound"), ("PolicyDocument", READ)]).unwrap();
    let bound = "arn:aws:iam::1:policy/bound";
    let manage = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"iam:*","Resource":"*","Condition":{{"StringEquals":{{"iam:PermissionsBoundary":"{bound}"}}}}}}}}"#
    );
    desk.ask(&root(), "CreateUser", &[("UserName", "boss")]).unwrap();
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "boss"), ("PolicyName", "m"), ("PolicyDocument", &manage)])
        .unwrap();
    for (name, boundary) in [("free", None), ("bounded", Some(bound))] {
        let boundary = boundary.map(|arn| ("PermissionsBoundary", arn));
        let given: Vec<_> = [("UserName", name)].into_iter().chain(boundary).collect();
        desk.ask(&root(), "CreateUser", &given).unwrap();
    }
    let built_in = ("PolicyArn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess");
    let (policy, text) = (("PolicyName", "p"), ("PolicyDocument", READ));
    let changes: [(&str, &[(&str, &str)]); 5] = [
        ("PutUserPolicy", &[policy, text]),
        ("DeleteUserPolicy", &[policy]),
        ("AttachUserPolicy", &[built_in]),
        ("DetachUserPolicy", &[built_in]),
        ("DeleteUserPermissionsBoundary", &[]),
    ];
    for (action, given) in changes {
        let of = |name| [&[("UserName", name)], given].concat();
        assert!(denied(&desk.ask(&user("boss"), action, &of("free"))), "{action}");
        desk.ask(&user("boss"), action, &of("bounded")).unwrap();
    }
    assert!(denied(&desk.ask(&user("boss"), "PutUserPolicy", &[("UserName", "bounded"), policy, text])), "no more");
}

/// What was read before the one who commits had his turn counts only while the rows are the same.
#[test]
fn policies_that_were_looked_at_count_until_they_change() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "all"), ("PolicyDocument", ALLOW_ALL)])
        .unwrap();
    let who = Who::User("anna".to_owned());
    let before = Looked::at(&desk.world.view(), "1", &who).unwrap().unwrap();
    let as_before = |desk: &Desk| held(&desk.world.view(), "1", &who, Some(&before)).unwrap().unwrap();
    // Nothing is read again: what the policies are said to be, they are.
    let none = Held { identity: Vec::new(), ..(*as_before(&desk)).clone() };
    let taken_over = held(&desk.world.view(), "1", &who, Some(&before.clone().with_held(none.clone()))).unwrap();
    assert_eq!(*taken_over.unwrap(), none);
    desk.ask(&root(), "DeleteUserPolicy", &[("UserName", "anna"), ("PolicyName", "all")]).unwrap();
    assert!(as_before(&desk).identity.is_empty(), "a policy that was taken away meanwhile");
    desk.ask(&root(), "DeleteUser", &[("UserName", "anna")]).unwrap();
    assert!(held(&desk.world.view(), "1", &who, Some(&before)).unwrap().is_none());
}

/// IAM User Guide, "AWS: Denies access to AWS based on the source IP": who has stolen a key must not make himself another one with it.
#[test]
fn a_denial_by_address_holds_for_users_and_keys_too() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},
        {"Effect":"Deny","Action":"*","Resource":"*","Condition":{"NotIpAddress":{"aws:SourceIp":["192.0.2.0/24"]},
        "Bool":{"aws:ViaAWSService":"false"}}}]}"#;
    desk.ask(&root(), "PutUserPolicy", &[("UserName", "anna"), ("PolicyName", "p"), ("PolicyDocument", policy)])
        .unwrap();
    let from = |address: &str| Asker::Signed {
        who: Who::User("anna".to_owned()),
        known: parameters(&[("aws:SourceIp", address)]),
    };
    let key = [("UserName", "anna"), ("-key", "AKANNA")];
    assert!(denied(&desk.ask(&from("198.51.100.7"), "CreateAccessKey", &key)));
    assert!(denied(&desk.ask(&from("198.51.100.7"), "ListUsers", &[])));
    desk.ask(&from("192.0.2.9"), "CreateAccessKey", &key).unwrap();
}

/// IAM User Guide, "AWS global condition context keys", `aws:MultiFactorAuthPresent`: of keys that last nothing is said.
#[test]
fn temporary_credentials_say_that_they_have_no_second_factor() {
    let mut desk = Desk::new();
    desk.ask(&root(), "CreateUser", &[("UserName", "anna")]).unwrap();
    let ask = Ask::GetSessionToken { seconds: None };
    let begun = begin(&desk.world.view(), "1", &user("anna"), "GetSessionToken", &ask, (1000, "AKANNA")).unwrap();
    let said = |who: &Who| {
        let mut context = Context::default();
        desk.held(who).expect("somebody").fill(&mut context);
        context.single("aws:MultiFactorAuthPresent").map(str::to_owned)
    };
    assert_eq!(said(&Who::User("anna".to_owned())), None);
    assert_eq!(said(&Who::Session(begun.session)).as_deref(), Some("false"));
}
