//! `stele user`, `group`, `role`, `policy` and `key`: IAM as an operator asks for it, over the admin port.

use super::client;
use super::keep::{Asked, show};
use crate::accounts::FIRST;
use crate::admin_client::ClientError;
use crate::admin_iam::IamQuestion;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// On whose behalf, of which server, and how to report.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The account's id.
    #[arg(long, value_name = "ID", default_value = FIRST)]
    account: String,
    #[command(flatten)]
    asked: Asked,
}

/// `stele user`.
#[derive(Debug, Subcommand)]
pub(super) enum User {
    /// The users of an account.
    List(Of),
    /// Make a user. It may do nothing until a policy is attached to it.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Remove a user, with its keys and its own policies.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Let a user do what a policy allows.
    Attach(Attached),
    /// Let it do that no more.
    Detach(Attached),
    /// The policies that are attached to a user.
    Policies {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
}

/// `stele group`.
#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// The groups of an account.
    List(Of),
    /// Make a group.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Remove a group that has no users and no policies.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Put a user into a group.
    Join(Member),
    /// Take a user out of a group.
    Leave(Member),
    /// Let the users of a group do what a policy allows.
    Attach(Attached),
    /// Let them do that no more.
    Detach(Attached),
}

/// `stele role`.
#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// The roles of an account.
    List(Of),
    /// Make a role.
    Add {
        /// Its name.
        name: String,
        /// The policy that says who may take it.
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Remove a role. Its sessions end.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Let who has taken the role do what a policy allows.
    Attach(Attached),
    /// Let it do that no more.
    Detach(Attached),
    /// End all sessions of a role that have begun.
    Revoke {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
}

/// `stele policy`.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// The policies of an account, and those that all accounts have.
    List(Of),
    /// Show a policy.
    Show {
        /// Its name, or its ARN.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Make a policy, or with --replace give one another text.
    Put {
        /// Its name.
        name: String,
        /// The policy, in JSON.
        file: PathBuf,
        /// It is there, and gets this text.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Remove a policy that nothing has.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
}

/// `stele key`, but for `export`.
#[derive(Debug, Subcommand)]
pub(super) enum AccessKey {
    /// The access keys of a user, or of the account itself.
    List(OfUser),
    /// Make an access key. Without --access-key both keys are made up and printed, once.
    Add {
        /// The access key; the secret key is then that of --secret-file.
        #[arg(long, value_name = "KEY", requires = "secret_file")]
        access_key: Option<String>,
        /// A file that holds the secret key, which is never taken from the command line.
        #[arg(long, value_name = "FILE", requires = "access_key")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        of: OfUser,
    },
    /// Remove an access key. It signs nothing from then on.
    Remove(OneKey),
    /// Let an access key sign nothing.
    Disable(OneKey),
    /// Let it sign again.
    Enable(OneKey),
}

/// Whose keys.
#[derive(Debug, Args)]
pub(super) struct OfUser {
    /// The user [default: the account itself].
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    of: Of,
}

/// Which key.
#[derive(Debug, Args)]
pub(super) struct OneKey {
    /// The access key.
    access_key: String,
    #[command(flatten)]
    of: OfUser,
}

/// A user and a group.
#[derive(Debug, Args)]
pub(super) struct Member {
    /// The group.
    group: String,
    /// The user.
    user: String,
    #[command(flatten)]
    of: Of,
}

/// Something and a policy.
#[derive(Debug, Args)]
pub(super) struct Attached {
    /// The name of the user, group or role.
    name: String,
    /// The policy's name, or its ARN; AmazonS3FullAccess, AmazonS3ReadOnlyAccess, AdministratorAccess, IAMFullAccess and
    /// IAMReadOnlyAccess are there for all accounts.
    policy: String,
    #[command(flatten)]
    of: Of,
}

impl Of {
    fn question(&self, action: &str, parameters: &[(&str, &str)]) -> IamQuestion {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut question = IamQuestion::default();
        (question.account, question.action, question.parameters) =
            (self.account.clone(), action.to_owned(), parameters);
        question
    }

    async fn send(&self, question: &IamQuestion) -> Result<Value, ClientError> {
        client(&self.asked.server)?.send("/v1/iam", question).await
    }

    /// Asks, and says `done`.
    async fn change(&self, action: &str, parameters: &[(&str, &str)], done: String) -> Result<u8, ClientError> {
        let answer = self.send(&self.question(action, parameters)).await?;
        show(&answer, self.asked.json, |_| println!("{}", done.escape_debug()));
        Ok(0)
    }

    /// All rows of a list, page by page.
    async fn list(&self, action: &str, parameters: &[(&str, &str)], of: &str) -> Result<Vec<Value>, ClientError> {
        let (mut rows, mut marker) = (Vec::new(), String::new());
        loop {
            let mut question = self.question(action, parameters);
            question.parameters.insert("MaxItems".to_owned(), "1000".to_owned());
            if !marker.is_empty() {
                question.parameters.insert("Marker".to_owned(), marker.clone());
            }
            let page = self.send(&question).await?;
            rows.extend(page.get(of).and_then(Value::as_array).into_iter().flatten().cloned());
            match page.get("Marker").and_then(Value::as_str) {
                Some(next) if next != marker => marker = next.to_owned(),
                _ => return Ok(rows),
            }
        }
    }

    async fn show_list(
        &self,
        action: &str,
        parameters: &[(&str, &str)],
        of: &str,
        columns: [&str; 2],
    ) -> Result<u8, ClientError> {
        let rows = self.list(action, parameters, of).await?;
        show(&rows, self.asked.json, |rows| {
            for row in rows {
                let column =
                    |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().escape_debug().to_string();
                println!("{:<32}  {}", column(columns[0]), column(columns[1]));
            }
        });
        Ok(0)
    }

    /// The ARN of a policy that is given by its name.
    fn policy_arn(&self, name: &str) -> String {
        const BUILT_IN: [&str; 5] = [
            "AdministratorAccess",
            "AmazonS3FullAccess",
            "AmazonS3ReadOnlyAccess",
            "IAMFullAccess",
            "IAMReadOnlyAccess",
        ];
        match name {
            arn if arn.starts_with("arn:") => arn.to_owned(),
            name if BUILT_IN.contains(&name) => format!("arn:aws:iam::aws:policy/{name}"),
            name => format!("arn:aws:iam::{}:policy/{name}", self.account),
        }
    }
}

impl Attached {
    async fn set(&self, attach: bool, kind: &str) -> Result<u8, ClientError> {
        let (verb, done) = if attach { ("Attach", "attached to") } else { ("Detach", "detached from") };
        let arn = self.of.policy_arn(&self.policy);
        let name = format!("{kind}Name");
        let parameters = [(name.as_str(), self.name.as_str()), ("PolicyArn", arn.as_str())];
        let done = format!("{} was {done} {}", self.policy, self.name);
        self.of.change(&format!("{verb}{kind}Policy"), &parameters, done).await
    }
}

fn read(path: &Path) -> Result<String, ClientError> {
    std::fs::read_to_string(path).map_err(|source| ClientError::Secret { path: path.to_owned(), source })
}

/// Runs `stele user`.
pub(super) async fn user(command: User) -> Result<u8, ClientError> {
    match command {
        User::List(of) => of.show_list("ListUsers", &[], "Users", ["UserName", "Arn"]).await,
        User::Add { name, of } => {
            of.change("CreateUser", &[("UserName", &name)], format!("user {name} was made")).await
        }
        User::Remove { name, of } => {
            of.change("DeleteUser", &[("UserName", &name)], format!("user {name} was removed")).await
        }
        User::Attach(attached) => attached.set(true, "User").await,
        User::Detach(attached) => attached.set(false, "User").await,
        User::Policies { name, of } => {
            let columns = ["PolicyName", "PolicyArn"];
            of.show_list("ListAttachedUserPolicies", &[("UserName", &name)], "AttachedPolicies", columns).await
        }
    }
}

/// Runs `stele group`.
pub(super) async fn group(command: Group) -> Result<u8, ClientError> {
    match command {
        Group::List(of) => of.show_list("ListGroups", &[], "Groups", ["GroupName", "Arn"]).await,
        Group::Add { name, of } => {
            of.change("CreateGroup", &[("GroupName", &name)], format!("group {name} was made")).await
        }
        Group::Remove { name, of } => {
            of.change("DeleteGroup", &[("GroupName", &name)], format!("group {name} was removed")).await
        }
        Group::Join(Member { group, user, of }) => {
            let parameters = [("GroupName", group.as_str()), ("UserName", user.as_str())];
            of.change("AddUserToGroup", &parameters, format!("{user} is in {group}")).await
        }
        Group::Leave(Member { group, user, of }) => {
            let parameters = [("GroupName", group.as_str()), ("UserName", user.as_str())];
            of.change("RemoveUserFromGroup", &parameters, format!("{user} is not in {group} any more")).await
        }
        Group::Attach(attached) => attached.set(true, "Group").await,
        Group::Detach(attached) => attached.set(false, "Group").await,
    }
}

/// Runs `stele role`.
pub(super) async fn role(command: Role) -> Result<u8, ClientError> {
    match command {
        Role::List(of) => of.show_list("ListRoles", &[], "Roles", ["RoleName", "Arn"]).await,
        Role::Add { name, trust, of } => {
            let trust = read(&trust)?;
            let parameters = [("RoleName", name.as_str()), ("AssumeRolePolicyDocument", trust.as_str())];
            of.change("CreateRole", &parameters, format!("role {name} was made")).await
        }
        Role::Remove { name, of } => {
            of.change("DeleteRole", &[("RoleName", &name)], format!("role {name} was removed")).await
        }
        Role::Attach(attached) => attached.set(true, "Role").await,
        Role::Detach(attached) => attached.set(false, "Role").await,
        Role::Revoke { name, of } => {
            let done = format!("the sessions of {name} that have begun are over");
            of.change("RevokeRoleSessions", &[("RoleName", &name)], done).await
        }
    }
}

/// Runs `stele policy`.
pub(super) async fn policy(command: Policy) -> Result<u8, ClientError> {
    match command {
        Policy::List(of) => of.show_list("ListPolicies", &[], "Policies", ["PolicyName", "Arn"]).await,
        Policy::Show { name, of } => {
            let arn = of.policy_arn(&name);
            let parameters = [("PolicyArn", arn.as_str()), ("VersionId", "v1")];
            let answer = of.send(&of.question("GetPolicyVersion", &parameters)).await?;
            show(&answer, of.asked.json, |answer| {
                let text = answer.pointer("/PolicyVersion/Document").and_then(Value::as_str).unwrap_or_default();
                let pretty = serde_json::from_str::<Value>(text).and_then(|json| serde_json::to_string_pretty(&json));
                println!("{}", pretty.unwrap_or_else(|_| text.escape_debug().to_string()));
            });
            Ok(0)
        }
        Policy::Put { name, file, replace, of } => {
            let text = read(&file)?;
            if replace {
                let arn = of.policy_arn(&name);
                let parameters = [("PolicyArn", arn.as_str()), ("PolicyDocument", &text), ("SetAsDefault", "true")];
                return of.change("CreatePolicyVersion", &parameters, format!("policy {name} was replaced")).await;
            }
            let parameters = [("PolicyName", name.as_str()), ("PolicyDocument", text.as_str())];
            of.change("CreatePolicy", &parameters, format!("policy {name} was made")).await
        }
        Policy::Remove { name, of } => {
            let arn = of.policy_arn(&name);
            of.change("DeletePolicy", &[("PolicyArn", &arn)], format!("policy {name} was removed")).await
        }
    }
}

/// Runs `stele key`, but for `export`.
pub(super) async fn key(command: AccessKey) -> Result<u8, ClientError> {
    match command {
        AccessKey::List(OfUser { user, of }) => {
            let parameters: Vec<_> = user.iter().map(|user| ("UserName", user.as_str())).collect();
            of.show_list("ListAccessKeys", &parameters, "AccessKeyMetadata", ["AccessKeyId", "Status"]).await
        }
        AccessKey::Add { access_key, secret_file, of: OfUser { user, of } } => {
            let parameters: Vec<_> = user.iter().map(|user| ("UserName", user.as_str())).collect();
            let mut question = of.question("CreateAccessKey", &parameters);
            if let (Some(access_key), Some(path)) = (access_key, &secret_file) {
                question.access_key = access_key;
                question.secret_key = Zeroizing::new(read(path)?).trim().to_owned();
            }
            let mut answer = of.send(&question).await?;
            // A secret that its owner has given need not be shown again.
            if secret_file.is_some()
                && let Some(key) = answer.get_mut("AccessKey").and_then(Value::as_object_mut)
            {
                key.remove("SecretAccessKey");
            }
            show(&answer, of.asked.json, |answer| {
                let text = |name: &str| {
                    answer.pointer(&format!("/AccessKey/{name}")).and_then(Value::as_str).map(str::to_owned)
                };
                println!("access key {}", text("AccessKeyId").unwrap_or_default());
                if let Some(secret) = text("SecretAccessKey") {
                    println!("secret key {secret}");
                }
            });
            Ok(0)
        }
        AccessKey::Remove(key) => key.change("DeleteAccessKey", None, "was removed").await,
        AccessKey::Disable(key) => key.change("UpdateAccessKey", Some("Inactive"), "signs nothing").await,
        AccessKey::Enable(key) => key.change("UpdateAccessKey", Some("Active"), "signs again").await,
    }
}

impl OneKey {
    async fn change(&self, action: &str, status: Option<&str>, done: &str) -> Result<u8, ClientError> {
        let OfUser { user, of } = &self.of;
        let mut parameters = vec![("AccessKeyId", self.access_key.as_str())];
        parameters.extend(user.iter().map(|user| ("UserName", user.as_str())));
        parameters.extend(status.map(|status| ("Status", status)));
        of.change(action, &parameters, format!("access key {} {done}", self.access_key)).await
    }
}
