//! What can be asked: the actions of IAM and STS, read from their parameters.
//!
//! Source: IAM API Reference (2010-05-08) and STS API Reference (2011-06-15). A parameter that is not understood here is refused by
//! name: who sets tags or a boundary must not be told that it was done.

use super::error::IamError;
use super::{limits, names};
use std::collections::BTreeMap;
use std::fmt;

/// AWS's names of all that can be asked. What is not among them is not read ([`Ask::parse`]), so that whoever asks for all of them, as
/// the tests of who may, asks for each.
pub const ACTIONS: &[&str] = &[
    "GetUser",
    "ListUsers",
    "ListAccessKeys",
    "GetAccessKeyLastUsed",
    "GetAccountSummary",
    "ListAccountAliases",
    "ListMFADevices",
    "ListSSHPublicKeys",
    "ListServiceSpecificCredentials",
    "ListSigningCertificates",
    "ListUserTags",
    "GetLoginProfile",
    "GetUserPolicy",
    "GetGroupPolicy",
    "GetRolePolicy",
    "ListUserPolicies",
    "ListGroupPolicies",
    "ListRolePolicies",
    "ListAttachedUserPolicies",
    "ListAttachedGroupPolicies",
    "ListAttachedRolePolicies",
    "GetPolicy",
    "GetPolicyVersion",
    "ListPolicyVersions",
    "ListPolicies",
    "ListEntitiesForPolicy",
    "ListPolicyTags",
    "GetGroup",
    "ListGroups",
    "ListGroupsForUser",
    "GetRole",
    "ListRoles",
    "ListRoleTags",
    "ListInstanceProfilesForRole",
    "GetCallerIdentity",
    "GetSessionToken",
    "AssumeRole",
    "CreateUser",
    "CreateGroup",
    "CreateRole",
    "CreatePolicy",
    "CreatePolicyVersion",
    "CreateAccessKey",
    "UpdateAccessKey",
    "UpdateUser",
    "UpdateRole",
    "UpdateAssumeRolePolicy",
    "PutUserPolicy",
    "PutGroupPolicy",
    "PutRolePolicy",
    "AttachUserPolicy",
    "AttachGroupPolicy",
    "AttachRolePolicy",
    "PutUserPermissionsBoundary",
    "PutRolePermissionsBoundary",
    "AddUserToGroup",
    "RevokeRoleSessions",
    "RemoveUserFromGroup",
    "DeleteUserPermissionsBoundary",
    "DeleteRolePermissionsBoundary",
    "DetachUserPolicy",
    "DetachGroupPolicy",
    "DetachRolePolicy",
    "DeleteUserPolicy",
    "DeleteGroupPolicy",
    "DeleteRolePolicy",
    "DeleteLoginProfile",
    "DeleteAccessKey",
    "DeletePolicy",
    "DeleteRole",
    "DeleteGroup",
    "DeleteUser",
];

/// Whose policies are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A user's.
    User(String),
    /// A group's.
    Group(String),
    /// A role's.
    Role(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Holder::User(name) | Holder::Group(name) | Holder::Role(name)) = self;
        f.write_str(name)
    }
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Those whose path begins so.
    pub path: String,
    /// Those behind this name.
    pub after: String,
    /// No more than so many.
    pub most: usize,
}

/// A question or a change. A user that is `None` is whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants and fields are AWS's actions and parameters, by their names")]
pub enum Ask {
    CreateUser {
        name: String,
        path: String,
        boundary: Option<String>,
    },
    GetUser {
        name: Option<String>,
    },
    ListUsers {
        page: Page,
    },
    UpdateUser {
        name: String,
        new_name: Option<String>,
        new_path: Option<String>,
    },
    DeleteUser {
        name: String,
    },
    CreateAccessKey {
        user: Option<String>,
    },
    ListAccessKeys {
        user: Option<String>,
        page: Page,
    },
    UpdateAccessKey {
        user: Option<String>,
        access_key: String,
        active: bool,
    },
    DeleteAccessKey {
        user: Option<String>,
        access_key: String,
    },
    GetAccessKeyLastUsed {
        access_key: String,
    },
    GetAccountSummary,
    ListAccountAliases,
    /// What a user or a role may have with AWS and has not here: an empty list under this name. Tools ask for it before they take the
    /// user or the role away.
    ListNone {
        holder: Holder,
        list: &'static str,
    },
    /// The same of a user, or of whoever asks.
    ListNoneOfUser {
        user: Option<String>,
        list: &'static str,
    },
    ListPolicyTags {
        arn: String,
    },
    /// GetLoginProfile, DeleteLoginProfile: nobody has one.
    LoginProfile {
        user: Option<String>,
    },
    PutPolicy {
        holder: Holder,
        policy: String,
        document: String,
    },
    GetOwnPolicy {
        holder: Holder,
        policy: String,
    },
    DeleteOwnPolicy {
        holder: Holder,
        policy: String,
    },
    ListOwnPolicies {
        holder: Holder,
        page: Page,
    },
    Attach {
        holder: Holder,
        arn: String,
    },
    Detach {
        holder: Holder,
        arn: String,
    },
    ListAttached {
        holder: Holder,
        page: Page,
    },
    /// Of users and roles; `None` takes it away.
    SetBoundary {
        holder: Holder,
        arn: Option<String>,
    },
    CreatePolicy {
        name: String,
        path: String,
        description: String,
        document: String,
    },
    GetPolicy {
        arn: String,
    },
    GetPolicyVersion {
        arn: String,
        version: String,
    },
    ListPolicyVersions {
        arn: String,
    },
    /// CreatePolicyVersion: there is one version, which this replaces.
    ReplacePolicy {
        arn: String,
        document: String,
    },
    DeletePolicy {
        arn: String,
    },
    ListPolicies {
        built_in: bool,
        own: bool,
        page: Page,
    },
    ListEntities {
        arn: String,
    },
    CreateGroup {
        name: String,
        path: String,
    },
    GetGroup {
        name: String,
        page: Page,
    },
    ListGroups {
        page: Page,
    },
    DeleteGroup {
        name: String,
    },
    AddToGroup {
        group: String,
        user: String,
    },
    RemoveFromGroup {
        group: String,
        user: String,
    },
    ListGroupsOfUser {
        user: String,
        page: Page,
    },
    CreateRole {
        name: String,
        path: String,
        description: String,
        trust: String,
        longest_s: u32,
        boundary: Option<String>,
    },
    GetRole {
        name: String,
    },
    ListRoles {
        page: Page,
    },
    UpdateRole {
        name: String,
        description: Option<String>,
        longest_s: Option<u32>,
    },
    UpdateTrust {
        name: String,
        trust: String,
    },
    DeleteRole {
        name: String,
    },
    /// Not AWS's: all sessions of the role that were begun before now end.
    RevokeSessions {
        name: String,
    },
    AssumeRole {
        arn: String,
        session: String,
        policy: String,
        seconds: Option<u32>,
        external_id: String,
    },
    GetSessionToken {
        seconds: Option<u32>,
    },
    GetCallerIdentity,
}

/// Parameters of a request, by name.
struct Parameters<'a> {
    left: BTreeMap<&'a str, &'a str>,
}

impl<'a> Parameters<'a> {
    fn new(given: &'a [(String, String)]) -> Result<Parameters<'a>, IamError> {
        let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
        if given.len() > limits::PARAMETER_COUNT || bytes > limits::PARAMETERS {
            return Err(IamError::Invalid("The request has more parameters than it may have.".to_owned()));
        }
        let mut left = BTreeMap::new();
        for (name, value) in given {
            if left.insert(name.as_str(), value.as_str()).is_some() {
                return Err(IamError::Invalid(format!("The parameter {name} is there twice.")));
            }
        }
        left.remove("Action");
        left.remove("Version");
        Ok(Parameters { left })
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.left.remove(name).filter(|value| !value.is_empty())
    }

    fn need(&mut self, name: &str) -> Result<&'a str, IamError> {
        self.take(name).ok_or_else(|| IamError::Invalid(format!("The request must contain the parameter {name}.")))
    }

    fn user(&mut self) -> Result<String, IamError> {
        names::name(self.need("UserName")?, "UserName", 64)
    }

    /// A new user; the limit is AWS's, and names in questions are not judged by it.
    fn maybe_user(&mut self) -> Result<Option<String>, IamError> {
        self.take("UserName").map(|name| names::name(name, "UserName", 64)).transpose()
    }

    fn group(&mut self) -> Result<String, IamError> {
        names::name(self.need("GroupName")?, "GroupName", 128)
    }

    fn role(&mut self) -> Result<String, IamError> {
        names::name(self.need("RoleName")?, "RoleName", 64)
    }

    fn policy(&mut self) -> Result<String, IamError> {
        names::name(self.need("PolicyName")?, "PolicyName", 128)
    }

    fn path(&mut self) -> Result<String, IamError> {
        names::path(self.take("Path").unwrap_or("/"), "Path")
    }

    fn arn(&mut self, name: &str) -> Result<String, IamError> {
        plain_arn(self.need(name)?)
    }

    fn boundary(&mut self) -> Result<Option<String>, IamError> {
        self.take("PermissionsBoundary").map(plain_arn).transpose()
    }

    fn description(&mut self) -> Result<Option<String>, IamError> {
        let text = self.take("Description");
        if text.is_some_and(|text| text.chars().count() > limits::DESCRIPTION || text.chars().any(char::is_control)) {
            return Err(IamError::Invalid("The specified value for description is invalid.".to_owned()));
        }
        Ok(text.map(str::to_owned))
    }

    fn number(&mut self, name: &str) -> Result<Option<u32>, IamError> {
        let number = |text: &str| text.parse().map_err(|_| IamError::Invalid(format!("{name} must be a number.")));
        self.take(name).map(number).transpose()
    }

    fn access_key(&mut self) -> Result<String, IamError> {
        let key = self.need("AccessKeyId")?;
        if key.len() <= 128 && key.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(key.to_owned());
        }
        Err(IamError::Invalid("The specified value for accessKeyId is invalid.".to_owned()))
    }

    fn page(&mut self) -> Result<Page, IamError> {
        let (most, default) = limits::PAGE;
        let asked = self.number("MaxItems")?.map_or(default, |asked| asked as usize);
        if !(1..=most).contains(&asked) {
            return Err(IamError::Invalid(format!("MaxItems must be between 1 and {most}.")));
        }
        let path = self.take("PathPrefix").unwrap_or("/").to_owned();
        Ok(Page { path, after: self.take("Marker").unwrap_or_default().to_owned(), most: asked })
    }

    /// What an action is about whose name says it: `PutUserPolicy`, `AttachRolePolicy`.
    fn holder(&mut self, action: &str) -> Result<Holder, IamError> {
        if action.contains("User") {
            return Ok(Holder::User(self.user()?));
        }
        if action.contains("Group") {
            return Ok(Holder::Group(self.group()?));
        }
        Ok(Holder::Role(self.role()?))
    }
}

fn plain_arn(arn: &str) -> Result<String, IamError> {
    if arn.len() > limits::ARN {
        return Err(IamError::Invalid(format!("An ARN has at most {} characters.", limits::ARN)));
    }
    let plain = arn.starts_with("arn:") && arn.bytes().all(|b| b.is_ascii_graphic());
    if plain { Ok(arn.to_owned()) } else { Err(IamError::Invalid(format!("ARN {arn} is not valid."))) }
}

impl Ask {
    /// Reads an action with its parameters. Those of the protocol itself (`Action`, `Version`) are passed over.
    ///
    /// # Errors
    /// There is no such action; a parameter is missing, unknown, or can't have its value.
    pub fn parse(action: &str, parameters: &[(String, String)]) -> Result<Ask, IamError> {
        let mut of = Parameters::new(parameters)?;
        if !ACTIONS.contains(&action) {
            return Err(IamError::NoSuchAction(action.to_owned()));
        }
        let ask = read_users(action, &mut of)
            .or_else(|| read_policies(action, &mut of))
            .or_else(|| read_groups_and_roles(action, &mut of))
            .unwrap_or_else(|| Err(IamError::NoSuchAction(action.to_owned())))?;
        match of.left.keys().next() {
            None => Ok(ask),
            Some(name) => Err(IamError::Invalid(format!("The parameter {name} is not supported by {action}."))),
        }
    }

    /// What it is about, for people: a name, or an access key.
    pub fn about(&self) -> String {
        use Ask::*;
        match self {
            CreateUser { name, .. } | UpdateUser { name, .. } | DeleteUser { name } => name.clone(),
            CreateGroup { name, .. } | DeleteGroup { name } | CreatePolicy { name, .. } => name.clone(),
            CreateRole { name, .. } | UpdateRole { name, .. } | UpdateTrust { name, .. } => name.clone(),
            DeleteRole { name } | RevokeSessions { name } => name.clone(),
            CreateAccessKey { user } => user.clone().unwrap_or_default(),
            UpdateAccessKey { access_key, .. } | DeleteAccessKey { access_key, .. } => access_key.clone(),
            PutPolicy { holder, policy, .. } | DeleteOwnPolicy { holder, policy } => format!("{holder}: {policy}"),
            Attach { holder, arn } | Detach { holder, arn } => format!("{holder}: {arn}"),
            SetBoundary { holder, arn } => format!("{holder}: {}", arn.as_deref().unwrap_or_default()),
            ReplacePolicy { arn, .. } | DeletePolicy { arn } => arn.clone(),
            AddToGroup { group, user } | RemoveFromGroup { group, user } => format!("{group}: {user}"),
            AssumeRole { arn, session, .. } => format!("{arn}: {session}"),
            _ => String::new(),
        }
    }

    /// Whether it changes something that is kept.
    pub fn is_change(&self) -> bool {
        use Ask::*;
        !matches!(
            self,
            GetUser { .. }
                | ListUsers { .. }
                | ListAccessKeys { .. }
                | GetAccessKeyLastUsed { .. }
                | GetAccountSummary
                | ListAccountAliases
                | ListNone { .. }
                | ListNoneOfUser { .. }
                | ListPolicyTags { .. }
                | LoginProfile { .. }
                | GetOwnPolicy { .. }
                | ListOwnPolicies { .. }
                | ListAttached { .. }
                | GetPolicy { .. }
                | GetPolicyVersion { .. }
                | ListPolicyVersions { .. }
                | ListPolicies { .. }
                | ListEntities { .. }
                | GetGroup { .. }
                | ListGroups { .. }
                | ListGroupsOfUser { .. }
                | GetRole { .. }
                | ListRoles { .. }
                | AssumeRole { .. }
                | GetSessionToken { .. }
                | GetCallerIdentity
        )
    }
}

type Read = Option<Result<Ask, IamError>>;

fn read_users(action: &str, of: &mut Parameters<'_>) -> Read {
    let mut read = || {
        Ok(Some(match action {
            "CreateUser" => Ask::CreateUser { name: of.user()?, path: of.path()?, boundary: of.boundary()? },
            "GetUser" => Ask::GetUser { name: of.maybe_user()? },
            "ListUsers" => Ask::ListUsers { page: of.page()? },
            "UpdateUser" => {
                let new_name = of.take("NewUserName").map(|name| names::name(name, "NewUserName", 64)).transpose()?;
                let new_path = of.take("NewPath").map(|path| names::path(path, "NewPath")).transpose()?;
                Ask::UpdateUser { name: of.user()?, new_name, new_path }
            }
            "DeleteUser" => Ask::DeleteUser { name: of.user()? },
            "CreateAccessKey" => Ask::CreateAccessKey { user: of.maybe_user()? },
            "ListAccessKeys" => Ask::ListAccessKeys { user: of.maybe_user()?, page: of.page()? },
            "UpdateAccessKey" => {
                let active = match of.need("Status")? {
                    "Active" => true,
                    "Inactive" => false,
                    _ => return Err(IamError::Invalid("Status is Active or Inactive.".to_owned())),
                };
                Ask::UpdateAccessKey { user: of.maybe_user()?, access_key: of.access_key()?, active }
            }
            "DeleteAccessKey" => Ask::DeleteAccessKey { user: of.maybe_user()?, access_key: of.access_key()? },
            "GetAccessKeyLastUsed" => Ask::GetAccessKeyLastUsed { access_key: of.access_key()? },
            "GetAccountSummary" => Ask::GetAccountSummary,
            "ListAccountAliases" => {
                of.page()?;
                Ask::ListAccountAliases
            }
            "ListMFADevices" => none_of_user(of, "MFADevices")?,
            "ListSSHPublicKeys" => none_of_user(of, "SSHPublicKeys")?,
            "ListServiceSpecificCredentials" => {
                of.take("ServiceName");
                none_of_user(of, "ServiceSpecificCredentials")?
            }
            "ListSigningCertificates" => none_of_user(of, "Certificates")?,
            "ListUserTags" => none(of, Parameters::user, Holder::User, "Tags")?,
            "GetLoginProfile" | "DeleteLoginProfile" => Ask::LoginProfile { user: of.maybe_user()? },
            _ => return Ok(None),
        }))
    };
    read().transpose()
}

fn read_policies(action: &str, of: &mut Parameters<'_>) -> Read {
    let mut read = || {
        Ok(Some(match action {
            "PutUserPolicy" | "PutGroupPolicy" | "PutRolePolicy" => {
                let (holder, policy) = (of.holder(action)?, of.policy()?);
                Ask::PutPolicy { holder, policy, document: of.need("PolicyDocument")?.to_owned() }
            }
            "GetUserPolicy" | "GetGroupPolicy" | "GetRolePolicy" => {
                Ask::GetOwnPolicy { holder: of.holder(action)?, policy: of.policy()? }
            }
            "DeleteUserPolicy" | "DeleteGroupPolicy" | "DeleteRolePolicy" => {
                Ask::DeleteOwnPolicy { holder: of.holder(action)?, policy: of.policy()? }
            }
            "ListUserPolicies" | "ListGroupPolicies" | "ListRolePolicies" => {
                Ask::ListOwnPolicies { holder: of.holder(action)?, page: of.page()? }
            }
            "AttachUserPolicy" | "AttachGroupPolicy" | "AttachRolePolicy" => {
                Ask::Attach { holder: of.holder(action)?, arn: of.arn("PolicyArn")? }
            }
            "DetachUserPolicy" | "DetachGroupPolicy" | "DetachRolePolicy" => {
                Ask::Detach { holder: of.holder(action)?, arn: of.arn("PolicyArn")? }
            }
            "ListAttachedUserPolicies" | "ListAttachedGroupPolicies" | "ListAttachedRolePolicies" => {
                Ask::ListAttached { holder: of.holder(action)?, page: of.page()? }
            }
            "PutUserPermissionsBoundary" | "PutRolePermissionsBoundary" => {
                let arn = of.arn("PermissionsBoundary")?;
                Ask::SetBoundary { holder: of.holder(action)?, arn: Some(arn) }
            }
            "DeleteUserPermissionsBoundary" | "DeleteRolePermissionsBoundary" => {
                Ask::SetBoundary { holder: of.holder(action)?, arn: None }
            }
            "CreatePolicy" => Ask::CreatePolicy {
                name: of.policy()?,
                path: of.path()?,
                description: of.description()?.unwrap_or_default(),
                document: of.need("PolicyDocument")?.to_owned(),
            },
            "GetPolicy" => Ask::GetPolicy { arn: of.arn("PolicyArn")? },
            "GetPolicyVersion" => {
                Ask::GetPolicyVersion { arn: of.arn("PolicyArn")?, version: of.need("VersionId")?.to_owned() }
            }
            "ListPolicyVersions" => {
                of.page()?;
                Ask::ListPolicyVersions { arn: of.arn("PolicyArn")? }
            }
            "CreatePolicyVersion" => {
                if of.take("SetAsDefault") != Some("true") {
                    let why = "A policy has one version here: SetAsDefault must be true.";
                    return Err(IamError::Invalid(why.to_owned()));
                }
                Ask::ReplacePolicy { arn: of.arn("PolicyArn")?, document: of.need("PolicyDocument")?.to_owned() }
            }
            "DeletePolicy" => Ask::DeletePolicy { arn: of.arn("PolicyArn")? },
            "ListPolicies" => {
                let scope = of.take("Scope").unwrap_or("All");
                Ask::ListPolicies { built_in: scope != "Local", own: scope != "AWS", page: of.page()? }
            }
            "ListEntitiesForPolicy" => {
                of.page()?;
                Ask::ListEntities { arn: of.arn("PolicyArn")? }
            }
            "ListPolicyTags" => {
                of.page()?;
                Ask::ListPolicyTags { arn: of.arn("PolicyArn")? }
            }
            _ => return Ok(None),
        }))
    };
    read().transpose()
}

fn read_groups_and_roles(action: &str, of: &mut Parameters<'_>) -> Read {
    let mut read = || {
        Ok(Some(match action {
            "CreateGroup" => Ask::CreateGroup { name: of.group()?, path: of.path()? },
            "GetGroup" => Ask::GetGroup { name: of.group()?, page: of.page()? },
            "ListGroups" => Ask::ListGroups { page: of.page()? },
            "DeleteGroup" => Ask::DeleteGroup { name: of.group()? },
            "AddUserToGroup" => Ask::AddToGroup { group: of.group()?, user: of.user()? },
            "RemoveUserFromGroup" => Ask::RemoveFromGroup { group: of.group()?, user: of.user()? },
            "ListGroupsForUser" => Ask::ListGroupsOfUser { user: of.user()?, page: of.page()? },
            "CreateRole" => Ask::CreateRole {
                name: of.role()?,
                path: of.path()?,
                description: of.description()?.unwrap_or_default(),
                trust: of.need("AssumeRolePolicyDocument")?.to_owned(),
                longest_s: longest(of)?.unwrap_or(limits::SESSION_S.1),
                boundary: of.boundary()?,
            },
            "GetRole" => Ask::GetRole { name: of.role()? },
            "ListRoles" => Ask::ListRoles { page: of.page()? },
            "ListRoleTags" => none(of, Parameters::role, Holder::Role, "Tags")?,
            "ListInstanceProfilesForRole" => none(of, Parameters::role, Holder::Role, "InstanceProfiles")?,
            "UpdateRole" => {
                Ask::UpdateRole { name: of.role()?, description: of.description()?, longest_s: longest(of)? }
            }
            "UpdateAssumeRolePolicy" => {
                Ask::UpdateTrust { name: of.role()?, trust: of.need("PolicyDocument")?.to_owned() }
            }
            "DeleteRole" => Ask::DeleteRole { name: of.role()? },
            "RevokeRoleSessions" => Ask::RevokeSessions { name: of.role()? },
            "AssumeRole" => Ask::AssumeRole {
                arn: of.arn("RoleArn")?,
                session: names::name(of.need("RoleSessionName")?, "RoleSessionName", 64)?,
                policy: of.take("Policy").unwrap_or_default().to_owned(),
                seconds: of.number("DurationSeconds")?,
                external_id: of.take("ExternalId").unwrap_or_default().to_owned(),
            },
            "GetSessionToken" => Ask::GetSessionToken { seconds: of.number("DurationSeconds")? },
            "GetCallerIdentity" => Ask::GetCallerIdentity,
            _ => return Ok(None),
        }))
    };
    read().transpose()
}

fn none_of_user(of: &mut Parameters<'_>, list: &'static str) -> Result<Ask, IamError> {
    of.page()?;
    Ok(Ask::ListNoneOfUser { user: of.maybe_user()?, list })
}

fn none<'a>(
    of: &mut Parameters<'a>,
    name: fn(&mut Parameters<'a>) -> Result<String, IamError>,
    holder: fn(String) -> Holder,
    list: &'static str,
) -> Result<Ask, IamError> {
    of.page()?;
    Ok(Ask::ListNone { holder: holder(name(of)?), list })
}

fn longest(of: &mut Parameters<'_>) -> Result<Option<u32>, IamError> {
    let seconds = of.number("MaxSessionDuration")?;
    let (_, least, most) = limits::SESSION_S;
    if seconds.is_some_and(|seconds| !(least..=most).contains(&seconds)) {
        return Err(IamError::Invalid(format!("MaxSessionDuration must be between {least} and {most}.")));
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(action: &str, given: &[(&str, &str)]) -> Result<Ask, IamError> {
        let given: Vec<_> = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ask::parse(action, &given)
    }

    #[test]
    fn actions_and_their_parameters() {
        let user = Ask::CreateUser { name: "anna".into(), path: "/x/".into(), boundary: None };
        let given = [("Action", "CreateUser"), ("Version", "2010-05-08"), ("UserName", "anna"), ("Path", "/x/")];
        assert_eq!(parse("CreateUser", &given), Ok(user));
        assert_eq!(parse("GetUser", &[]), Ok(Ask::GetUser { name: None }));
        let put = parse("PutRolePolicy", &[("RoleName", "r"), ("PolicyName", "p"), ("PolicyDocument", "{}")]);
        let holder = Holder::Role("r".into());
        assert_eq!(put, Ok(Ask::PutPolicy { holder, policy: "p".into(), document: "{}".into() }));
        assert!(put.is_ok_and(|ask| ask.is_change()));
        assert!(matches!(parse("ListUsers", &[("MaxItems", "7")]), Ok(Ask::ListUsers { page: Page { most: 7, .. } })));
    }

    /// An action that is listed and not read would be asked for in vain by every test of who may.
    #[test]
    fn each_action_that_is_listed_is_read() {
        for action in ACTIONS {
            assert_ne!(parse(action, &[]), Err(IamError::NoSuchAction((*action).to_owned())), "{action}");
        }
        let listed: std::collections::BTreeSet<_> = ACTIONS.iter().collect();
        assert_eq!(listed.len(), ACTIONS.len());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let invalid = |action, given: &[(&str, &str)]| {
            assert!(matches!(parse(action, given), Err(IamError::Invalid(_))), "{action} {given:?}");
        };
        assert_eq!(parse("CreateVirtualMFADevice", &[]), Err(IamError::NoSuchAction("CreateVirtualMFADevice".into())));
        invalid("CreateUser", &[]);
        invalid("CreateUser", &[("UserName", "a/b")]);
        let long = format!("arn:aws:iam::1:policy/{}", "p".repeat(2048));
        invalid("PutUserPermissionsBoundary", &[("UserName", "a"), ("PermissionsBoundary", &long)]);
        invalid("AssumeRole", &[("RoleArn", &long), ("RoleSessionName", "me")]);
        invalid("CreateUser", &[("UserName", "a"), ("Tags.member.1.Key", "k")]);
        invalid("ListUsers", &[("MaxItems", "0")]);
        invalid("ListUsers", &[("MaxItems", "1001")]);
        invalid("UpdateAccessKey", &[("AccessKeyId", "A"), ("Status", "off")]);
        invalid("CreateRole", &[("RoleName", "r"), ("AssumeRolePolicyDocument", "{}"), ("MaxSessionDuration", "1")]);
        invalid("CreatePolicyVersion", &[("PolicyArn", "arn:aws:iam::1:policy/p"), ("PolicyDocument", "{}")]);
        let twice = vec![("UserName".to_owned(), "a".to_owned()); 2];
        assert!(Ask::parse("GetUser", &twice).is_err());
        let many: Vec<_> = (0..65).map(|n| (format!("P{n}"), String::new())).collect();
        assert!(Ask::parse("GetUser", &many).is_err());
    }
}
