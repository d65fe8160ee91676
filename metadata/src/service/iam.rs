//! Users, keys, policies and sessions: what is asked of them is answered, or committed.

use super::Metadata;
use crate::audit::{self, AskedBy};
use crate::client::{CommitError, LookupError, MetadataClient};
use crate::clock::{SystemEntropy, random};
use crate::command::{Command, Outcome, Refusal};
use crate::iam::desk::DeskError;
use crate::iam::session::SessionKey;
use crate::iam::{
    Ask, Asker, IamCall, IamCommand, IamError, IamFailure, Looked, NewKey, Signing, SigningMessage, Value, answer,
    begin, credentials, is_for_session, signing,
};
use crate::index::{IndexError, Overlay};
use crate::keys::Secret;
use crate::lookup::Losses;
use crate::state::{At, DecideError, rehearse};
use storage_node::kv::Kv;

/// Access keys that last begin so.
const ACCESS_KEY: &str = "STEL";

fn failed(error: IndexError) -> IamFailure {
    match error {
        IndexError::Store(error) => LookupError::Unavailable { reason: error.to_string() },
        error @ IndexError::Damaged { .. } => LookupError::Damaged { reason: error.to_string() },
    }
    .into()
}

fn desk_failed(error: DeskError) -> IamFailure {
    match error {
        DeskError::Iam(error) => error.into(),
        DeskError::Index(error) => failed(error),
    }
}

fn no_random() -> IamFailure {
    CommitError::Unavailable { reason: "the system has no random numbers".to_owned() }.into()
}

fn key_failed(error: impl std::fmt::Display) -> IamFailure {
    CommitError::Unavailable { reason: error.to_string() }.into()
}

/// A refusal of a change, as whoever asked for it hears it.
fn refused(refusal: Refusal, account: String) -> IamFailure {
    match refusal {
        Refusal::Iam(error) => (*error).into(),
        Refusal::NoSuchAccount => IamError::NoSuchEntity { what: "account", name: account }.into(),
        other => CommitError::Refused(other).into(),
    }
}

/// What somebody asks for.
struct Asked {
    /// The account that it is about.
    account: String,
    asker: Asker,
    /// AWS's name of it, without its service.
    action: String,
    ask: Ask,
}

impl Metadata {
    /// What an access key comes to, on its way to a gateway.
    pub(crate) fn signing(&self, access_key: &str, token: Option<&str>) -> Result<SigningMessage, LookupError> {
        signing(&self.view(), &self.keys, self.shared.clock.wall_ms(), access_key, token)
    }

    /// Carries out what an operator asks for on an account's behalf, by AWS's names. CreateAccessKey makes `key`, if one is given.
    ///
    /// # Errors
    /// It can't be understood, does not go together with what is there, or was not committed.
    pub async fn iam_as_operator(
        &self,
        account: &str,
        action: &str,
        parameters: &[(String, String)],
        key: Option<(String, Secret)>,
    ) -> Result<Value, IamFailure> {
        let ask = Ask::parse(action, parameters)?;
        let by = AskedBy { by: "operator".to_owned(), ..AskedBy::default() };
        let asked = Asked { account: account.to_owned(), asker: Asker::Operator, action: action.to_owned(), ask };
        audit::within(by, self.asked(asked, key)).await
    }

    /// Carries out what somebody asks for whose signature was verified.
    pub(crate) async fn iam_call(&self, call: IamCall) -> Result<Value, IamFailure> {
        let IamCall { access_key, token, action, parameters, known } = call;
        let signer = match self.signer(&access_key, token.as_deref()).await? {
            Signing::Known(signer) => signer,
            // It was another thing when the signature was verified, a moment ago.
            _ => {
                return Err(
                    IamError::Denied("The security token included in the request is invalid.".to_owned()).into()
                );
            }
        };
        let ask = Ask::parse(&action, &parameters)?;
        if matches!(ask, Ask::RevokeSessions { .. }) {
            return Err(IamError::NoSuchAction(action).into());
        }
        let from = known.iter().find(|(key, _)| key == "aws:SourceIp").map(|(_, from)| from.clone());
        let by = AskedBy { by: signer.held.arn(), access_key, from: from.unwrap_or_default() };
        let asker = Asker::Signed { who: signer.who.clone(), known };
        audit::within(by, self.asked(Asked { account: signer.account.id.clone(), asker, action, ask }, None)).await
    }

    async fn asked(&self, asked: Asked, key: Option<(String, Secret)>) -> Result<Value, IamFailure> {
        if is_for_session(&asked.ask) {
            return self.temporary(asked).await;
        }
        if !asked.ask.is_change() {
            let said = move |kv: &dyn Kv| {
                Ok(answer(&Overlay::new(kv), &asked.account, &asked.asker, &asked.action, &asked.ask))
            };
            return self.apart(said).await?.map_err(desk_failed);
        }
        let key = match (&asked.ask, key) {
            (Ask::CreateAccessKey { .. }, Some(key)) => Some(key),
            (Ask::CreateAccessKey { .. }, None) => Some(Self::make_key()?),
            _ => None,
        };
        let Asked { account, asker, action, ask } = asked;
        let wrapped = |(access_key, secret): &(String, Secret)| {
            let wrapped_secret = self.keys.wrap_access_key(&account, access_key, secret).map_err(key_failed)?;
            Ok::<_, IamFailure>(NewKey { access_key: access_key.clone(), wrapped_secret })
        };
        let new_key = key.as_ref().map(wrapped).transpose()?;
        let looked = None;
        let command = IamCommand { account: account.clone(), asker, looked, action, ask, key: new_key };
        let command = self.rehearsed(command).await?;
        match self.commit(self.epoch(), Command::Iam(Box::new(command))).await {
            Ok(Outcome::Iam(value)) => Ok(with_secret(value, key.as_ref())),
            Ok(_) => Err(key_failed("a change of users came to something else")),
            Err(CommitError::Refused(refusal)) => Err(refused(refusal, account)),
            Err(error) => Err(error.into()),
        }
    }

    /// Decides a change before it goes to the one who commits, who decides it again. What is refused here goes no further.
    async fn rehearsed(&self, mut command: IamCommand) -> Result<IamCommand, IamFailure> {
        let shared = &self.shared;
        let (lsn, wall_ms, level) = (shared.volatile().applied.next(), shared.clock.wall_ms(), shared.level());
        let at = At { lsn, wall_ms, level, losses: Losses::default(), sabotage: shared.sabotage.clone() };
        let decide = move |kv: &dyn Kv| {
            let view = Overlay::new(kv);
            if let Asker::Signed { who, .. } = &command.asker {
                command.looked = Looked::at(&view, &command.account, who)?;
            }
            Ok(match rehearse(&view, &at, &command) {
                Ok(()) => Ok(command),
                Err(error) => Err((error, command)),
            })
        };
        let (error, command) = match self.apart(decide).await? {
            Ok(command) => return Ok(command),
            Err(refused) => refused,
        };
        let refusal = match error {
            DecideError::Index(error) => return Err(failed(error)),
            DecideError::Refused(refusal) => refusal,
        };
        let account = command.account.clone();
        let told = shared.audit.about(&Command::Iam(Box::new(command)), &self.view());
        shared.note(told, &audit::asker().unwrap_or_default(), Err(refusal.to_string()));
        Err(refused(refusal, account))
    }

    /// Temporary credentials.
    async fn temporary(&self, asked: Asked) -> Result<Value, IamFailure> {
        let (now_ms, by) = (self.shared.clock.wall_ms(), audit::asker().unwrap_or_default());
        let random = random(&SystemEntropy).ok_or_else(no_random)?;
        let new_key = SessionKey::access_key(random);
        let told = self.shared.audit.about_session(&asked.account, &asked.action, &asked.ask, &new_key);
        let signed_with = by.access_key.clone();
        let decide = move |kv: &dyn Kv| {
            let (view, Asked { account, asker, action, ask }) = (Overlay::new(kv), &asked);
            Ok(begin(&view, account, asker, action, ask, (now_ms, &signed_with)))
        };
        let begun = self.apart(decide).await?;
        let came = begun.as_ref().map(|_| &Outcome::Done).map_err(ToString::to_string);
        self.shared.note(told, &by, came);
        let key = self.keys.session_key().map_err(key_failed)?;
        credentials(&key, &new_key, begun.map_err(desk_failed)?).map_err(key_failed)
    }

    fn make_key() -> Result<(String, Secret), IamFailure> {
        let access: [u8; 8] = random(&SystemEntropy).ok_or_else(no_random)?;
        let secret: [u8; 20] = random(&SystemEntropy).ok_or_else(no_random)?;
        Ok((format!("{ACCESS_KEY}{}", hex::encode_upper(access)), Secret::new(hex::encode(secret))))
    }
}

/// The secret of a new key is told once, to whoever asked for it. It is in no command and no outcome.
fn with_secret(value: Value, key: Option<&(String, Secret)>) -> Value {
    let (Some((_, secret)), Value::Fields(fields)) = (key, &value) else { return value };
    let fields = fields.iter().map(|(name, value)| match value {
        Value::Fields(shown) if name == "AccessKey" => {
            let mut shown = shown.clone();
            shown.push(("SecretAccessKey".to_owned(), secret.expose().into()));
            (name.clone(), Value::Fields(shown))
        }
        value => (name.clone(), value.clone()),
    });
    Value::Fields(fields.collect())
}
