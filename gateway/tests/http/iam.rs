//! Who may ask what of IAM and STS: every action is asked for by those who may not, from the list of actions, so that none is forgotten.

use super::client::{Answer, Server};
use metadata::iam::Value;
use metadata::iam::ask::ACTIONS;

/// Who may take the role: everybody, as far as the role is asked.
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::alice:user/dora"},"Action":"sts:AssumeRole"}]}"#;
const DOCUMENT: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}]}"#;
const POLICY: &str = "arn:aws:iam::alice:policy/reads";
const OTHER: &str = "arn:aws:iam::alice:policy/other";
const ROLE: &str = "arn:aws:iam::alice:role/auditor";

/// What everybody may know and have: who he is, and temporary keys that may no more than he may.
const OF_EVERYBODY: [&str; 2] = ["GetCallerIdentity", "GetSessionToken"];
/// Nobody's but the operator's.
const OF_OPERATORS: &str = "RevokeRoleSessions";
/// What makes something in the account of whoever asks, and names nothing of another one's.
const MAKES: [&str; 4] = ["CreateUser", "CreateGroup", "CreateRole", "CreatePolicy"];
/// What shows an account to whoever asks in it.
const SHOWS: [&str; 6] =
    ["ListUsers", "ListGroups", "ListRoles", "ListPolicies", "GetAccountSummary", "ListAccountAliases"];

/// What an action is asked with: things of alice's that there are ([`server`]), so that nothing but a refusal keeps it from being done.
fn parameters(action: &str) -> Vec<(&'static str, &'static str)> {
    let user = ("UserName", "dora");
    let (group, role) = (("GroupName", "staff"), ("RoleName", "auditor"));
    let (own, document) = (("PolicyName", "own"), ("PolicyDocument", DOCUMENT));
    let (policy, key) = (("PolicyArn", POLICY), ("AccessKeyId", "AKdora"));
    let holder = if action.contains("User") {
        user
    } else if action.contains("Group") {
        group
    } else {
        role
    };
    match action {
        "ListUsers" | "ListGroups" | "ListRoles" | "ListPolicies" | "GetAccountSummary" | "ListAccountAliases"
        | "GetCallerIdentity" | "GetSessionToken" => vec![],
        "GetUser"
        | "ListAccessKeys"
        | "ListMFADevices"
        | "ListSSHPublicKeys"
        | "ListServiceSpecificCredentials"
        | "ListSigningCertificates"
        | "ListUserTags"
        | "GetLoginProfile"
        | "DeleteLoginProfile"
        | "ListGroupsForUser"
        | "DeleteUser"
        | "CreateAccessKey" => vec![user],
        "GetAccessKeyLastUsed" => vec![key],
        "DeleteAccessKey" => vec![user, key],
        "UpdateAccessKey" => vec![user, key, ("Status", "Inactive")],
        "UpdateUser" => vec![user, ("NewUserName", "eve")],
        "GetGroup" | "DeleteGroup" => vec![group],
        "AddUserToGroup" => vec![group, ("UserName", "carol")],
        "RemoveUserFromGroup" => vec![group, user],
        "GetRole" | "ListRoleTags" | "ListInstanceProfilesForRole" | "DeleteRole" | "RevokeRoleSessions" => vec![role],
        "UpdateRole" => vec![role, ("Description", "another")],
        "UpdateAssumeRolePolicy" => {
            vec![role, ("PolicyDocument", TRUST)]
        }
        "AssumeRole" => vec![("RoleArn", ROLE), ("RoleSessionName", "me")],
        "GetUserPolicy" | "GetGroupPolicy" | "GetRolePolicy" | "DeleteUserPolicy" | "DeleteGroupPolicy"
        | "DeleteRolePolicy" => vec![holder, own],
        "PutUserPolicy" | "PutGroupPolicy" | "PutRolePolicy" => vec![holder, ("PolicyName", "new"), document],
        "ListUserPolicies"
        | "ListGroupPolicies"
        | "ListRolePolicies"
        | "ListAttachedUserPolicies"
        | "ListAttachedGroupPolicies"
        | "ListAttachedRolePolicies" => vec![holder],
        "AttachUserPolicy" | "AttachGroupPolicy" | "AttachRolePolicy" => vec![holder, ("PolicyArn", OTHER)],
        "DetachUserPolicy" | "DetachGroupPolicy" | "DetachRolePolicy" => vec![holder, policy],
        "PutUserPermissionsBoundary" | "PutRolePermissionsBoundary" => vec![holder, ("PermissionsBoundary", POLICY)],
        "DeleteUserPermissionsBoundary" | "DeleteRolePermissionsBoundary" => vec![holder],
        "GetPolicy" | "ListPolicyVersions" | "ListEntitiesForPolicy" | "ListPolicyTags" | "DeletePolicy" => {
            vec![policy]
        }
        "GetPolicyVersion" => vec![policy, ("VersionId", "v1")],
        "CreatePolicyVersion" => vec![policy, document, ("SetAsDefault", "true")],
        "CreateUser" => vec![("UserName", "new")],
        "CreateGroup" => vec![("GroupName", "new")],
        "CreateRole" => vec![("RoleName", "new"), ("AssumeRolePolicyDocument", TRUST)],
        "CreatePolicy" => vec![("PolicyName", "new"), document],
        new => panic!("{new}: a new action has to be asked for here"),
    }
}

fn owned(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn operator(server: &Server, action: &str, given: &[(&str, &str)]) -> Value {
    let key = ("AKdora".to_owned(), metadata::keys::Secret::new("secret-of-dora".to_owned()));
    let key = (action == "CreateAccessKey").then_some(key);
    let came = server.metadata.iam_as_operator("alice", action, &owned(given), key).await;
    came.unwrap_or_else(|error| panic!("{action} {given:?}: {error}"))
}

/// With a user, a group, a role and policies of alice's.
async fn server() -> Server {
    let server = Server::start().await;
    let (user, group, role) = (("UserName", "dora"), ("GroupName", "staff"), ("RoleName", "auditor"));
    let (own, document) = (("PolicyName", "own"), ("PolicyDocument", DOCUMENT));
    for (action, given) in [
        ("CreateUser", vec![user]),
        ("CreateAccessKey", vec![user]),
        ("CreateGroup", vec![group]),
        ("AddUserToGroup", vec![group, user]),
        ("CreateRole", vec![role, ("AssumeRolePolicyDocument", TRUST)]),
        ("CreatePolicy", vec![("PolicyName", "reads"), document]),
        ("CreatePolicy", vec![("PolicyName", "other"), document]),
        ("PutUserPolicy", vec![user, own, document]),
        ("PutGroupPolicy", vec![group, own, document]),
        ("PutRolePolicy", vec![role, own, document]),
        ("AttachUserPolicy", vec![user, ("PolicyArn", POLICY)]),
        ("AttachGroupPolicy", vec![group, ("PolicyArn", POLICY)]),
        ("AttachRolePolicy", vec![role, ("PolicyArn", POLICY)]),
    ] {
        operator(&server, action, &given).await;
    }
    server
}

/// All that there is of alice's, but for carol's policies.
async fn state(server: &Server) -> Vec<Value> {
    let mut state = Vec::new();
    let (user, group, role) = (("UserName", "dora"), ("GroupName", "staff"), ("RoleName", "auditor"));
    let own = ("PolicyName", "own");
    for (action, given) in [
        ("ListUsers", vec![]),
        ("ListGroups", vec![]),
        ("ListRoles", vec![]),
        ("ListPolicies", vec![("Scope", "Local")]),
        ("GetPolicyVersion", vec![("PolicyArn", POLICY), ("VersionId", "v1")]),
        ("ListEntitiesForPolicy", vec![("PolicyArn", POLICY)]),
        ("ListEntitiesForPolicy", vec![("PolicyArn", OTHER)]),
        ("ListAccessKeys", vec![]),
        ("ListAccessKeys", vec![user]),
        ("ListAccessKeys", vec![("UserName", "carol")]),
        ("ListGroupsForUser", vec![("UserName", "carol")]),
        ("GetGroup", vec![group]),
        ("ListUserPolicies", vec![user]),
        ("ListGroupPolicies", vec![group]),
        ("ListRolePolicies", vec![role]),
        ("GetUserPolicy", vec![user, own]),
        ("GetGroupPolicy", vec![group, own]),
        ("GetRolePolicy", vec![role, own]),
        ("ListAttachedUserPolicies", vec![user]),
        ("ListAttachedGroupPolicies", vec![group]),
        ("ListAttachedRolePolicies", vec![role]),
    ] {
        state.push(operator(server, action, &given).await);
    }
    state
}

async fn ask(server: &Server, who: &str, action: &str, given: &[(&str, &str)]) -> Answer {
    let mut form = format!("Action={action}");
    for (name, value) in given {
        let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        form.push_str(&format!("&{name}={value}"));
    }
    let service = match action {
        "AssumeRole" | "GetCallerIdentity" | "GetSessionToken" => "sts",
        _ => "iam",
    };
    server.form(who, service, &form).await
}

fn is_refused(answer: &Answer, codes: &[&str], what: &str) {
    assert!(answer.status >= 400 && codes.contains(&answer.code().as_str()), "{what}: {}", answer.text());
}

/// Nothing at all may be done by whoever has no policy, and each action needs itself: who may do all the others may not do it.
#[tokio::test]
async fn every_action_needs_a_policy_that_allows_it() {
    let server = server().await;
    let before = state(&server).await;
    for action in ACTIONS {
        let given = parameters(action);
        let denied = async |who: &str, given: &[(&str, &str)]| {
            let answer = ask(&server, "carol", action, given).await;
            if OF_EVERYBODY.contains(action) {
                assert_eq!(answer.status, 200, "{action}: {}", answer.text());
            } else if *action == OF_OPERATORS {
                is_refused(&answer, &["InvalidAction"], action);
            } else {
                is_refused(&answer, &["AccessDenied"], &format!("{action} {given:?} of carol {who}"));
            }
        };
        denied("without a policy", &given).await;
        // Nor to himself, where nobody is named.
        let of_self = matches!(*action, "GetUser" | "GetLoginProfile" | "DeleteLoginProfile" | "ListMFADevices")
            || action.ends_with("AccessKey")
            || *action == "ListAccessKeys";
        if of_self {
            let unnamed: Vec<_> = given.iter().copied().filter(|(name, _)| *name != "UserName").collect();
            denied("without a policy, of himself", &unnamed).await;
        }
        let others = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","NotAction":["iam:{action}","sts:{action}"],"Resource":"*"}}]}}"#
        );
        let carols = [("UserName", "carol"), ("PolicyName", "others")];
        operator(&server, "PutUserPolicy", &[&carols[..], &[("PolicyDocument", others.as_str())]].concat()).await;
        denied("who may do all else", &given).await;
        operator(&server, "DeleteUserPolicy", &carols).await;
        assert_eq!(state(&server).await, before, "{action}");
    }
}

/// What an account's keys may do, which is all, is all of that account and nothing of another's.
#[tokio::test]
async fn no_action_reaches_into_another_account() {
    let server = server().await;
    let before = state(&server).await;
    for action in ACTIONS {
        let given = parameters(action);
        let answer = ask(&server, "bob", action, &given).await;
        if OF_EVERYBODY.contains(action) || SHOWS.contains(action) || MAKES.contains(action) {
            assert_eq!(answer.status, 200, "{action}: {}", answer.text());
            let text = answer.text();
            let shown = ["dora", "staff", "auditor", "reads", "alice"].iter().any(|of| text.contains(of));
            assert!(!shown || !SHOWS.contains(action), "{text}");
        } else if *action == OF_OPERATORS {
            is_refused(&answer, &["InvalidAction"], action);
        } else {
            // A name is one of bob's own account, and an ARN of another account's policy is none that may stand there.
            let codes: &[&str] =
                match given.iter().any(|(name, _)| matches!(*name, "PolicyArn" | "PermissionsBoundary")) {
                    true => &["AccessDenied", "NoSuchEntity", "ValidationError"],
                    false => &["AccessDenied", "NoSuchEntity"],
                };
            is_refused(&answer, codes, action);
        }
        assert_eq!(state(&server).await, before, "{action}");
    }
}

/// What the tests above ask for is what would be done: whoever may does it, so it is for want of a policy that it is not.
#[tokio::test]
async fn whoever_may_does_all_of_it() {
    let server = server().await;
    for action in ACTIONS {
        let who = if *action == "AssumeRole" { "dora" } else { "alice" };
        let answer = ask(&server, who, action, &parameters(action)).await;
        // What still hangs on it is not looked for here.
        let codes: &[&str] = match *action {
            "GetLoginProfile" | "DeleteLoginProfile" => &["NoSuchEntity"],
            "DeletePolicy" | "DeleteRole" | "DeleteGroup" | "DeleteUser" => &["DeleteConflict", "NoSuchEntity", ""],
            action if action == OF_OPERATORS => &["InvalidAction"],
            _ => &[""],
        };
        assert!(codes.contains(&answer.code().as_str()), "{action}: {}", answer.text());
        if *action == "UpdateUser" {
            let back = ask(&server, "alice", action, &[("UserName", "eve"), ("NewUserName", "dora")]).await;
            assert_eq!(back.status, 200, "{}", back.text());
        }
    }
}

/// Terraform asks for all that a role or a user may have with AWS before it takes it away: what there never is here is an empty list.
#[tokio::test]
async fn what_nobody_has_is_an_empty_list() {
    let server = server().await;
    for (action, given, list) in [
        ("ListInstanceProfilesForRole", ("RoleName", "auditor"), "InstanceProfiles"),
        ("ListRoleTags", ("RoleName", "auditor"), "Tags"),
        ("ListUserTags", ("UserName", "dora"), "Tags"),
        ("ListPolicyTags", ("PolicyArn", POLICY), "Tags"),
        ("ListMFADevices", ("UserName", "dora"), "MFADevices"),
        ("ListSSHPublicKeys", ("UserName", "dora"), "SSHPublicKeys"),
        ("ListServiceSpecificCredentials", ("UserName", "dora"), "ServiceSpecificCredentials"),
        ("ListSigningCertificates", ("UserName", "dora"), "Certificates"),
        ("ListAccountAliases", ("MaxItems", "10"), "AccountAliases"),
    ] {
        let answer = ask(&server, "alice", action, &[given]).await;
        let expected = format!("<{action}Result><{list}></{list}><IsTruncated>false</IsTruncated></{action}Result>");
        assert!(answer.status == 200 && answer.text().contains(&expected), "{action}: {}", answer.text());
        let absent = match given {
            ("PolicyArn", _) => "arn:aws:iam::alice:policy/absent",
            ("MaxItems", _) => continue,
            _ => "absent",
        };
        is_refused(&ask(&server, "alice", action, &[(given.0, absent)]).await, &["NoSuchEntity"], action);
    }
    for action in ["GetLoginProfile", "DeleteLoginProfile"] {
        for user in ["dora", "absent"] {
            is_refused(&ask(&server, "alice", action, &[("UserName", user)]).await, &["NoSuchEntity"], action);
        }
    }
}
