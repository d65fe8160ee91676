//! Who signs with an access key, and what that one's own policies are.

use super::built_in_policy;
use super::error::IamError;
use super::session::{PREFIX, Session};
use crate::client::LookupError;
use crate::index::{self, IndexError, View, access};
use crate::keys::{KeyError, Keys, Secret};
use ::access::policy::document::Only;
use ::access::policy::principal::Account as PolicyAccount;
use ::access::policy::{Caller, Context, Decision, Effect, Kind, Policies, Policy, Request, Statement, evaluate};
use bytes::Bytes;
use codec::effect::{AccessKeyRow, AccountRow, NamedPolicy};
use prost::Message;
use std::fmt;
use std::sync::Arc;

/// Who it is in its account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The account itself.
    Account,
    /// A user, by name.
    User(String),
    /// Whoever has taken temporary credentials.
    Session(Session),
}

/// Who asks for a change or an answer.
#[expect(clippy::large_enum_variant, reason = "there is one for each call, and never a list of them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// An operator, on an account's behalf: nothing is forbidden.
    Operator,
    /// Somebody who has signed.
    Signed {
        /// Who.
        who: Who,
        /// What else is known of the request, by condition keys.
        known: Vec<(String, String)>,
    },
}

/// Somebody who can sign requests.
#[derive(Debug)]
pub struct Signer {
    /// The account. Its secret is not there.
    pub account: AccountRow,
    /// The secret key.
    pub secret: Secret,
    /// Who it is in the account.
    pub who: Who,
    /// The same with its policies.
    pub held: Arc<Held>,
}

/// Who somebody is as policies know it, and its own policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// As policies name it.
    pub caller: Caller,
    /// `aws:userid`.
    pub user_id: String,
    /// Its own policies, and its groups'.
    pub identity: Vec<Policy>,
    /// What bounds it.
    pub boundary: Option<Policy>,
    /// What its session was begun with.
    pub session: Option<Policy>,
    /// When its session was begun, in milliseconds since the Unix epoch; 0 without one.
    pub begun_ms: u64,
}

/// What an access key, with or without a token, comes to.
#[derive(Clone, Debug)]
pub enum Signing {
    /// There is no such access key, or it signs nothing at present, or what it was for is gone.
    Unknown,
    /// This one.
    Known(Arc<Signer>),
    /// A temporary access key without its token: all that is known is the secret.
    NeedsToken(Secret),
    /// The token is not of this access key.
    InvalidToken,
    /// The session is over.
    Expired,
}

impl Held {
    /// Asks `decide` with these policies and the resource's.
    pub fn with_policies<T>(&self, resource: Option<&Policy>, decide: impl FnOnce(&Policies<'_>) -> T) -> T {
        let identity: Vec<&Policy> = self.identity.iter().collect();
        let (boundary, session) = (self.boundary.as_ref(), self.session.as_ref());
        decide(&Policies { identity: &identity, resource, boundary, session, budget: None })
    }

    /// All of these policies.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.identity.iter().chain(&self.boundary).chain(&self.session)
    }

    /// Whether what it may do depends on policies of its own.
    pub fn is_account(&self) -> bool {
        matches!(self.caller, Caller::Account(_))
    }

    /// What conditions may ask about it (IAM User Guide, "AWS global condition context keys").
    pub fn fill(&self, context: &mut Context) {
        let kind = match &self.caller {
            Caller::Anonymous => "Anonymous",
            Caller::Account(_) => "Account",
            Caller::User { .. } => "User",
            Caller::Session { .. } => "AssumedRole",
        };
        context.add("aws:PrincipalType", kind);
        context.add("aws:userid", self.user_id.as_str());
        if let Some(account) = self.caller.account() {
            context.add("aws:PrincipalAccount", account.id.as_str());
        }
        if let Some(arn) = self.caller.principal_arn() {
            context.add("aws:PrincipalArn", arn);
        }
        if let Caller::User { name, .. } = &self.caller {
            context.add("aws:username", name.rsplit('/').next().unwrap_or_default());
        }
        if self.begun_ms > 0 {
            context.add("aws:TokenIssueTime", super::value::date(self.begun_ms));
            // Said of temporary credentials only. There is no second factor, so none has one, and a denial of those without must hold.
            context.add("aws:MultiFactorAuthPresent", "false");
        }
    }

    /// Its ARN, as the STS API says it.
    pub fn arn(&self) -> String {
        match &self.caller {
            Caller::Session { account, role, session } => {
                let role = role.rsplit('/').next().unwrap_or_default();
                format!("arn:aws:sts::{}:assumed-role/{role}/{session}", account.id)
            }
            caller => caller.principal_arn().unwrap_or_default(),
        }
    }
}

/// Who an access key belongs to, and with what secret. `now_ms` is the time of day: a session ends by it.
///
/// # Errors
/// The index failed, or a secret does not unwrap.
pub(crate) fn signing(
    view: &dyn View,
    keys: &Keys,
    now_ms: u64,
    access_key: &str,
    token: Option<&str>,
) -> Result<SigningMessage, LookupError> {
    let Some((account, row)) = permanent(view, access_key).map_err(failed)? else {
        return match access_key.starts_with(PREFIX) {
            true => temporary(view, keys, now_ms, access_key, token),
            false => Ok(plain(0)),
        };
    };
    // A key that lasts has no token: who sends one means another key.
    if token.is_some() {
        return Ok(plain(3));
    }
    let (who, account, secret) = match row {
        None => {
            let account = keys.unwrap_account(account).map_err(damaged)?;
            (Who::Account, account.row, account.secret)
        }
        Some(row) if row.inactive => return Ok(plain(0)),
        Some(row) => {
            let secret = keys.unwrap_access_key(&row).map_err(damaged)?;
            let who = if row.user.is_empty() { Who::Account } else { Who::User(row.user) };
            (who, account, secret)
        }
    };
    known(view, account, &secret, who)
}

fn temporary(
    view: &dyn View,
    keys: &Keys,
    now_ms: u64,
    access_key: &str,
    token: Option<&str>,
) -> Result<SigningMessage, LookupError> {
    let key = keys.session_key().map_err(damaged)?;
    let secret = key.secret(access_key);
    let Some(token) = token else { return Ok(SigningMessage { secret: secret.expose().to_owned(), ..plain(2) }) };
    let Some(session) = key.open(access_key, token) else { return Ok(plain(3)) };
    if now_ms >= session.ends_ms {
        return Ok(plain(4));
    }
    if session.role.is_empty() && !is_signed_for(view, &session).map_err(failed)? {
        return Ok(plain(3));
    }
    match index::account(view, &session.account).map_err(failed)? {
        Some(account) => known(view, account, &secret, Who::Session(session)),
        None => Ok(plain(3)),
    }
}

/// Whether the access key with which somebody has taken a session for himself still signs for him.
fn is_signed_for(view: &dyn View, session: &Session) -> Result<bool, IndexError> {
    Ok(permanent(view, &session.access_key)?.is_some_and(|(account, row)| {
        let user = row.as_ref().map_or("", |row| &row.user);
        let active = row.as_ref().is_none_or(|row| !row.inactive);
        active && account.id == session.account && user == session.user
    }))
}

fn plain(kind: u32) -> SigningMessage {
    SigningMessage { kind, ..SigningMessage::default() }
}

fn known(view: &dyn View, account: AccountRow, secret: &Secret, who: Who) -> Result<SigningMessage, LookupError> {
    let Some(held) = rows_of(view, &account.id, &who).map_err(failed)? else {
        return Ok(plain(if matches!(who, Who::Session(_)) { 3 } else { 0 }));
    };
    let (user, session) = match who {
        Who::Account => (String::new(), None),
        Who::User(name) => (name, None),
        Who::Session(session) => (String::new(), Some(session)),
    };
    let account = Some(AccountRow { wrapped_secret: Bytes::new(), ..account });
    Ok(SigningMessage { account, secret: secret.expose().to_owned(), user, session, held: Some(held), ..plain(1) })
}

fn damaged(error: KeyError) -> LookupError {
    LookupError::Damaged { reason: error.to_string() }
}

fn failed(error: IndexError) -> LookupError {
    match error {
        IndexError::Store(error) => LookupError::Unavailable { reason: error.to_string() },
        error @ IndexError::Damaged { .. } => LookupError::Damaged { reason: error.to_string() },
    }
}

/// The account of a key that lasts, and the key's row unless it is the account's first one.
fn permanent(view: &dyn View, access_key: &str) -> Result<Option<(AccountRow, Option<AccessKeyRow>)>, IndexError> {
    if let Some(account) = index::account_by_access_key(view, access_key)? {
        return Ok(Some((account, None)));
    }
    let Some(row) = access::access_key(view, access_key)? else { return Ok(None) };
    // An account that is gone takes its keys along: a row that is left opens nothing.
    Ok(index::account(view, &row.account)?.map(|account| (account, Some(row))))
}

/// Who somebody is at present, and its policies as they are kept. It shows nothing of itself in `Debug`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct HeldMessage {
    /// 0: the account itself, 1: a user, 2: a session of a role.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Path and name of the user or role, without the first slash.
    #[prost(string, tag = "2")]
    pub path_and_name: String,
    /// The session's name.
    #[prost(string, tag = "3")]
    pub session_name: String,
    #[prost(string, tag = "4")]
    pub user_id: String,
    /// Documents.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub identity: Vec<Bytes>,
    /// A document.
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub boundary: Option<Bytes>,
    /// A document; empty without one.
    #[prost(string, tag = "7")]
    pub session_policy: String,
    #[prost(uint64, tag = "8")]
    pub begun_ms: u64,
}

impl HeldMessage {
    /// How many bytes its policies have.
    pub(super) fn documents(&self) -> usize {
        let identity: usize = self.identity.iter().map(Bytes::len).sum();
        identity + self.boundary.as_ref().map_or(0, Bytes::len) + self.session_policy.len()
    }
}

impl fmt::Debug for HeldMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldMessage")
    }
}

impl Signer {
    /// An account itself, as it signs in a cluster that knows of no users.
    pub(crate) fn of_account(account: AccountRow, secret: Secret) -> Signing {
        let message = HeldMessage { user_id: account.id.clone(), ..HeldMessage::default() };
        let held = Arc::new(Held::new(&account.id, message));
        let account = AccountRow { wrapped_secret: Bytes::new(), ..account };
        Signing::Known(Arc::new(Signer { account, secret, who: Who::Account, held }))
    }
}

/// Who somebody was when it was looked, with the policies read. Whoever looks again takes them over where nothing has changed since:
/// reading them costs much more than seeing that they are the same.
#[derive(Clone)]
pub struct Looked {
    message: Arc<HeldMessage>,
    held: Arc<Held>,
}

impl Looked {
    /// Looks who somebody is; `None`: the user, role or session is gone.
    pub(crate) fn at(view: &dyn View, account: &str, who: &Who) -> Result<Option<Looked>, IndexError> {
        let message = rows_of(view, account, who)?;
        Ok(message.map(|message| {
            let held = Arc::new(Held::new(account, message.clone()));
            Looked { message: Arc::new(message), held }
        }))
    }

    #[cfg(test)]
    pub(crate) fn with_held(self, held: Held) -> Looked {
        Looked { held: Arc::new(held), ..self }
    }
}

impl PartialEq for Looked {
    fn eq(&self, other: &Looked) -> bool {
        self.message == other.message
    }
}

impl Eq for Looked {}

impl fmt::Debug for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looked")
    }
}

impl Held {
    pub(super) fn new(account: &str, message: HeldMessage) -> Held {
        let account = PolicyAccount { id: account.to_owned(), canonical: account.to_owned() };
        let name = message.path_and_name;
        let caller = match message.kind {
            0 => Caller::Account(account),
            1 => Caller::User { account, name },
            _ => Caller::Session { account, role: name, session: message.session_name },
        };
        Held {
            caller,
            user_id: message.user_id,
            identity: message.identity.iter().map(|document| policy(document)).collect(),
            boundary: message.boundary.map(|document| policy(&document)),
            session: (!message.session_policy.is_empty()).then(|| policy(message.session_policy.as_bytes())),
            begun_ms: message.begun_ms,
        }
    }
}

/// Who somebody is at present, with its policies; `None`: the user, role or session is gone.
pub(crate) fn held(
    view: &dyn View,
    account: &str,
    who: &Who,
    looked: Option<&Looked>,
) -> Result<Option<Arc<Held>>, IndexError> {
    Ok(rows_of(view, account, who)?.map(|message| match looked {
        Some(looked) if *looked.message == message => Arc::clone(&looked.held),
        _ => Arc::new(Held::new(account, message)),
    }))
}

fn rows_of(view: &dyn View, account: &str, who: &Who) -> Result<Option<HeldMessage>, IndexError> {
    let own = |begun_ms| HeldMessage { user_id: account.to_owned(), begun_ms, ..HeldMessage::default() };
    match who {
        Who::Account => Ok(Some(own(0))),
        Who::User(name) => of_user(view, account, name, None),
        Who::Session(session) if !session.role.is_empty() => of_role(view, account, session),
        Who::Session(session) if session.user.is_empty() => Ok(Some(own(session.begun_ms))),
        Who::Session(session) => of_user(view, account, &session.user, Some(session)),
    }
}

fn of_user(
    view: &dyn View,
    account: &str,
    name: &str,
    session: Option<&Session>,
) -> Result<Option<HeldMessage>, IndexError> {
    let Some(user) = access::user(view, account, name)? else { return Ok(None) };
    if session.is_some_and(|session| session.holder != user.id) {
        return Ok(None);
    }
    let mut identity = own(&user.inline);
    attached(view, account, &user.attached, &mut identity)?;
    for group in &user.groups {
        if let Some(group) = access::group(view, account, group)? {
            identity.extend(own(&group.inline));
            attached(view, account, &group.attached, &mut identity)?;
        }
    }
    Ok(Some(HeldMessage {
        kind: 1,
        path_and_name: format!("{}{}", user.path.trim_start_matches('/'), user.name),
        boundary: boundary(view, account, &user.boundary)?,
        user_id: user.id,
        identity,
        begun_ms: session.map_or(0, |session| session.begun_ms),
        ..HeldMessage::default()
    }))
}

fn of_role(view: &dyn View, account: &str, session: &Session) -> Result<Option<HeldMessage>, IndexError> {
    let Some(role) = access::role(view, account, &session.role)? else { return Ok(None) };
    if session.holder != role.id || session.begun_ms < role.sessions_from_ms {
        return Ok(None);
    }
    let mut identity = own(&role.inline);
    attached(view, account, &role.attached, &mut identity)?;
    Ok(Some(HeldMessage {
        kind: 2,
        path_and_name: format!("{}{}", role.path.trim_start_matches('/'), role.name),
        session_name: session.name.clone(),
        user_id: format!("{}:{}", role.id, session.name),
        identity,
        boundary: boundary(view, account, &role.boundary)?,
        session_policy: session.policy.clone(),
        begun_ms: session.begun_ms,
    }))
}

fn own(policies: &[NamedPolicy]) -> Vec<Bytes> {
    policies.iter().map(|named| named.document.clone()).collect()
}

/// A policy that can't be read denies everything: it was taken once, so it may be one that denied something.
fn policy(document: &[u8]) -> Policy {
    let text = std::str::from_utf8(document).ok();
    text.and_then(|text| Policy::parse(text, Kind::Identity).ok()).unwrap_or_else(|| {
        let statement = Statement {
            sid: "UnreadablePolicy".to_owned(),
            effect: Effect::Deny,
            principals: None,
            actions: Only::AllBut(Vec::new()),
            resources: Some(Only::AllBut(Vec::new())),
            conditions: Vec::new(),
        };
        Policy { id: String::new(), statements: vec![statement] }
    })
}

/// The document of a policy by the name under which rows know it.
pub(super) fn document(view: &dyn View, account: &str, name: &str) -> Result<Option<Bytes>, IndexError> {
    if let Some(text) = built_in_policy(name) {
        return Ok(Some(Bytes::from_static(text.as_bytes())));
    }
    let row = access::policy(view, account, name)?;
    Ok(row.and_then(|row| row.policy).map(|policy| policy.document))
}

fn attached(view: &dyn View, account: &str, names: &[String], into: &mut Vec<Bytes>) -> Result<(), IndexError> {
    for name in names {
        into.extend(document(view, account, name)?);
    }
    Ok(())
}

/// A boundary that is gone bounds everything: to be without it would be to be let out.
fn boundary(view: &dyn View, account: &str, name: &str) -> Result<Option<Bytes>, IndexError> {
    Ok(match name.is_empty() {
        true => None,
        false => Some(document(view, account, name)?.unwrap_or_default()),
    })
}

/// Whether somebody may do something in its own account.
pub(crate) fn allowed(held: &Held, account: &str, action: &str, resource: &str, context: &Context) -> Decision {
    let request = Request { caller: &held.caller, action, resource, owner: account, context };
    held.with_policies(None, |policies| evaluate(&request, policies))
}

/// What is known of a request, with who makes it.
pub(crate) fn context(held: &Held, known: &[(String, String)]) -> Context {
    let mut context: Context = known.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    // Nobody here asks on somebody's behalf. Denials ask for it besides an address (IAM User Guide, "Denies access to AWS based on the
    // source IP"), and without it would deny nothing.
    for key in ["aws:PrincipalIsAWSService", "aws:ViaAWSService"] {
        context.set(key, "false");
    }
    held.fill(&mut context);
    context
}

/// Refuses what nobody allowed, in AWS's words.
pub(crate) fn authorise(
    held: &Held,
    account: &str,
    action: &str,
    resource: &str,
    context: &Context,
) -> Result<(), IamError> {
    let decision = allowed(held, account, action, resource, context);
    if decision.is_allowed() {
        return Ok(());
    }
    let because = match decision.is_explicit() {
        true => "with an explicit deny in a policy",
        false => "because no policy allows the action",
    };
    let who = held.arn();
    Err(IamError::Denied(format!(
        "User: {who} is not authorized to perform: {action} on resource: {resource} {because}"
    )))
}

/// What an access key comes to, on its way to a gateway. It shows nothing of itself in `Debug`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct SigningMessage {
    /// 0: unknown, 1: known, 2: needs its token, 3: the token is invalid, 4: expired.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Without the wrapped secret.
    #[prost(message, optional, tag = "2")]
    pub account: Option<AccountRow>,
    #[prost(string, tag = "3")]
    pub secret: String,
    /// Of a user: its name.
    #[prost(string, tag = "4")]
    pub user: String,
    #[prost(message, optional, tag = "5")]
    pub session: Option<Session>,
    #[prost(message, optional, tag = "6")]
    pub held: Option<HeldMessage>,
}

impl fmt::Debug for SigningMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningMessage")
    }
}

impl SigningMessage {
    /// `None`: nothing that this version understands.
    pub fn value(self) -> Option<Signing> {
        self.value_by(|account, held| Arc::new(Held::new(account, held)))
    }

    /// The same, with policies that `read` has read.
    pub fn value_by(self, read: impl FnOnce(&str, HeldMessage) -> Arc<Held>) -> Option<Signing> {
        Some(match self.kind {
            0 => Signing::Unknown,
            1 => {
                let (account, held) = (self.account?, self.held?);
                let who = match (self.session, self.user.is_empty()) {
                    (Some(session), _) => Who::Session(session),
                    (None, true) => Who::Account,
                    (None, false) => Who::User(self.user),
                };
                let held = read(&account.id, held);
                Signing::Known(Arc::new(Signer { account, secret: Secret::new(self.secret), who, held }))
            }
            2 => Signing::NeedsToken(Secret::new(self.secret)),
            3 => Signing::InvalidToken,
            4 => Signing::Expired,
            _ => return None,
        })
    }
}
