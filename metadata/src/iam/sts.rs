//! Temporary credentials: who may have which.
//!
//! Source: STS API Reference, AssumeRole and GetSessionToken; IAM User Guide, "Methods to assume a role", "Requesting temporary
//! security credentials".

use super::desk::{Desk, DeskError};
use super::session::{Session, SessionKey};
use super::signer::Who;
use super::value::{Value, date, fields};
use super::{Ask, Asker, IamError, limits, names};
use crate::index::{View, access};
use ::access::policy::{Kind, Policies, Policy, Request, evaluate};
use codec::effect::RoleRow;

/// A session to be begun, and what is told of it besides its keys.
#[derive(Debug, PartialEq)]
pub(crate) struct Begun {
    pub(crate) session: Session,
    /// What AssumeRole answers besides credentials.
    assumed: Option<(String, String)>,
}

impl Begun {
    /// The answer, with the credentials.
    pub(crate) fn answer(self, access_key: &str, secret: &str, token: &str) -> Value {
        let credentials = fields([
            ("AccessKeyId", Some(access_key.into())),
            ("SecretAccessKey", Some(secret.into())),
            ("SessionToken", Some(token.into())),
            ("Expiration", Some(date(self.session.ends_ms).into())),
        ]);
        let assumed =
            self.assumed.map(|(arn, id)| fields([("AssumedRoleId", Some(id.into())), ("Arn", Some(arn.into()))]));
        let size = (!self.session.policy.is_empty())
            .then(|| (100 * self.session.policy.len() / limits::SESSION_POLICY).min(100).to_string().into());
        fields([("Credentials", Some(credentials)), ("AssumedRoleUser", assumed), ("PackedPolicySize", size)])
    }
}

/// Whether a question is one for temporary credentials.
pub(crate) fn is_for_session(ask: &Ask) -> bool {
    matches!(ask, Ask::AssumeRole { .. } | Ask::GetSessionToken { .. })
}

/// Decides over a wish for temporary credentials, which was signed with an access key at a time in milliseconds since the Unix epoch.
pub(crate) fn begin(
    view: &dyn View,
    account: &str,
    asker: &Asker,
    action: &str,
    ask: &Ask,
    (now_ms, access_key): (u64, &str),
) -> Result<Begun, DeskError> {
    let desk = &Desk::new(view, account, asker, action)?;
    match ask {
        Ask::AssumeRole { arn, session, policy, seconds, external_id } => {
            assume(desk, (arn, session), policy, *seconds, external_id, now_ms)
        }
        Ask::GetSessionToken { seconds } => own(desk, *seconds, now_ms, access_key),
        other => Err(IamError::Invalid(format!("{other:?} begins no session")).into()),
    }
}

/// Who refuses a role does not say whether there is one.
fn refused(desk: &Desk<'_>, arn: &str) -> IamError {
    let who = desk.held().map(super::signer::Held::arn).unwrap_or_default();
    IamError::Denied(format!("User: {who} is not authorized to perform: sts:AssumeRole on resource: {arn}"))
}

fn assume(
    desk: &Desk<'_>,
    (arn, name): (&str, &str),
    policy: &str,
    seconds: Option<u32>,
    external_id: &str,
    now_ms: u64,
) -> Result<Begun, DeskError> {
    let invalid = |text: String| DeskError::from(IamError::Invalid(text));
    let (of, role) = names::role_of(arn).ok_or_else(|| invalid(format!("{arn} is invalid")))?;
    if name.len() < 2 {
        return Err(invalid("RoleSessionName has at least 2 characters.".to_owned()));
    }
    let row = access::role(desk.view, of, role)?.filter(|row| names::arn(of, "role", &row.path, &row.name) == arn);
    let row = row.filter(|row| may_assume(desk, row, arn, name, external_id)).ok_or_else(|| refused(desk, arn))?;
    if policy.chars().count() > limits::SESSION_POLICY {
        return Err(IamError::Limit { what: "PackedPolicySize", limit: limits::SESSION_POLICY }.into());
    }
    if !policy.is_empty() {
        Policy::parse(policy, Kind::Identity).map_err(|error| IamError::MalformedPolicy(error.to_string()))?;
    }
    let (least, default, _) = limits::SESSION_S;
    // A session that was taken by one is no longer than an hour.
    let chained = matches!(desk.who(), Some(Who::Session(session)) if !session.role.is_empty());
    let most = if chained { default } else { row.max_session_s.max(default) };
    let seconds = seconds.unwrap_or(default);
    if !(least..=most).contains(&seconds) {
        return Err(invalid(format!(
            "The requested DurationSeconds must be between {least} and {most} for this role."
        )));
    }
    let arn = format!("arn:aws:sts::{of}:assumed-role/{}/{name}", row.name);
    let assumed = Some((arn, format!("{}:{name}", row.id)));
    let session = Session {
        account: of.to_owned(),
        user: String::new(),
        role: row.name,
        holder: row.id,
        name: name.to_owned(),
        policy: policy.to_owned(),
        begun_ms: now_ms,
        ends_ms: now_ms.saturating_add(1000 * u64::from(seconds)),
        access_key: String::new(),
    };
    Ok(Begun { session, assumed })
}

/// The role's trust policy has to allow it, and the caller's own policies, too, unless the trust policy names just this caller of the
/// role's own account. An operator takes no roles.
fn may_assume(desk: &Desk<'_>, row: &RoleRow, arn: &str, name: &str, external_id: &str) -> bool {
    let Some(held) = desk.held() else { return false };
    let trust = std::str::from_utf8(&row.trust).ok().and_then(|text| Policy::parse(text, Kind::Trust).ok());
    let Some(trust) = trust else { return false };
    let mut context = desk.context();
    context.add("sts:RoleSessionName", name);
    if !external_id.is_empty() {
        context.add("sts:ExternalId", external_id);
    }
    let request =
        |owner| Request { caller: &held.caller, action: "sts:AssumeRole", resource: arn, owner, context: &context };
    // As one of another account: both sides have to allow it.
    let both = held.with_policies(Some(&trust), |policies| evaluate(&request(""), policies));
    if both.is_allowed() || both.is_explicit() {
        return both.is_allowed();
    }
    // By its own ARN, with no policies of its own: what is left is what the trust policy says. An account's own keys are allowed
    // everything at home by themselves, which says nothing of the role.
    let at_home = held.caller.account().is_some_and(|account| account.id == row.account);
    let denied = held.with_policies(None, |policies| evaluate(&request(&row.account), policies)).is_explicit();
    let alone = Policies {
        resource: Some(&trust),
        boundary: held.boundary.as_ref(),
        session: held.session.as_ref(),
        ..Policies::default()
    };
    at_home && !denied && !held.is_account() && evaluate(&request(&row.account), &alone).is_allowed()
}

/// Temporary credentials of a user, or an account, for itself.
fn own(desk: &Desk<'_>, seconds: Option<u32>, now_ms: u64, access_key: &str) -> Result<Begun, DeskError> {
    let (user, holder) = match (desk.who(), desk.held()) {
        (Some(Who::Account), Some(_)) => (String::new(), String::new()),
        (Some(Who::User(name)), Some(held)) => (name.clone(), held.user_id.clone()),
        _ => {
            let why = "Cannot call GetSessionToken with session credentials";
            return Err(IamError::Denied(why.to_owned()).into());
        }
    };
    let (least, (default, most)) = (limits::SESSION_S.0, limits::OWN_SESSION_S);
    // An account's own are an hour at most.
    let most = if user.is_empty() { limits::SESSION_S.1 } else { most };
    let seconds = seconds.unwrap_or(default.min(most));
    if !(least..=limits::OWN_SESSION_S.1).contains(&seconds) {
        return Err(IamError::Invalid(format!("DurationSeconds must be between {least} and {most}.")).into());
    }
    let session = Session {
        account: desk.account.to_owned(),
        user,
        holder,
        begun_ms: now_ms,
        ends_ms: now_ms.saturating_add(1000 * u64::from(seconds.min(most))),
        access_key: access_key.to_owned(),
        ..Session::default()
    };
    Ok(Begun { session, assumed: None })
}

/// The answer with keys for a session.
///
/// # Errors
/// Nothing can be sealed at present.
pub(crate) fn credentials(
    key: &SessionKey,
    access_key: &str,
    begun: Begun,
) -> Result<Value, codec::encrypt::WrapError> {
    let token = key.seal(access_key, &begun.session)?;
    Ok(begun.answer(access_key, key.secret(access_key).expose(), &token))
}
