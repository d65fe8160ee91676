//! Who signs, and what is asked of IAM and STS, on their way between gateways and metadata.

use super::Name;
use super::answer::{Answer, ErrorMessage};
use super::service::{Trouble, known, read};
use crate::client::{LookupError, MetadataClient};
use crate::iam::{IamCall, IamFailure, SigningMessage, Value, ValueMessage};
use crate::service::Metadata;
use bytes::Bytes;
use prost::Message;

/// An access key, with a token if the request has one.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct OfSigner {
    #[prost(string, tag = "1")]
    pub access_key: String,
    #[prost(string, optional, tag = "2")]
    pub token: Option<String>,
}

/// A name and a value.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct Pair {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A request of IAM or STS.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct IamQuestion {
    #[prost(message, optional, tag = "1")]
    pub signer: Option<OfSigner>,
    #[prost(string, tag = "2")]
    pub action: String,
    #[prost(message, repeated, tag = "3")]
    pub parameters: Vec<Pair>,
    #[prost(message, repeated, tag = "4")]
    pub known: Vec<Pair>,
}

/// What it came to: an answer, or AWS's words for why not. It may hold a secret.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct IamAnswer {
    #[prost(message, optional, tag = "1")]
    pub value: Option<ValueMessage>,
    #[prost(string, tag = "2")]
    pub code: String,
    #[prost(uint32, tag = "3")]
    pub status: u32,
    #[prost(string, tag = "4")]
    pub message: String,
}

macro_rules! shows_nothing {
    ($($name:ident),*) => {
        $(impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        })*
    };
}

shows_nothing!(OfSigner, Pair, IamQuestion, IamAnswer);

fn pairs(pairs: Vec<(String, String)>) -> Vec<Pair> {
    pairs.into_iter().map(|(name, value)| Pair { name, value }).collect()
}

fn unpaired(pairs: Vec<Pair>) -> Vec<(String, String)> {
    pairs.into_iter().map(|pair| (pair.name, pair.value)).collect()
}

impl From<IamCall> for IamQuestion {
    fn from(call: IamCall) -> IamQuestion {
        let IamCall { access_key, token, action, parameters, known } = call;
        let signer = Some(OfSigner { access_key, token });
        IamQuestion { signer, action, parameters: pairs(parameters), known: pairs(known) }
    }
}

impl IamQuestion {
    fn value(self) -> Option<IamCall> {
        let OfSigner { access_key, token } = self.signer?;
        let (parameters, known) = (unpaired(self.parameters), unpaired(self.known));
        Some(IamCall { access_key, token, action: self.action, parameters, known })
    }
}

impl IamAnswer {
    /// The answer, or why there is none.
    pub(crate) fn value(self) -> Result<Value, IamFailure> {
        let unreadable = || LookupError::Unavailable { reason: "what metadata answered can't be read".to_owned() };
        match self.value {
            Some(value) => Ok(value.value().ok_or_else(unreadable)?),
            None => {
                let status = u16::try_from(self.status).map_err(|_| unreadable())?;
                Err(IamFailure::Said { code: self.code, status, message: self.message })
            }
        }
    }
}

/// Answers a question of either kind.
pub(super) async fn answer(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    if name == Name::Signer {
        let OfSigner { access_key, token } = read(question)?;
        let signing: SigningMessage = meta.signing(&access_key, token.as_deref())?;
        return Ok(Answer::done(&signing));
    }
    let call = known(read::<IamQuestion>(question)?.value())?;
    Ok(match meta.iam(call).await {
        Ok(value) => Answer::done(&IamAnswer { value: Some((&value).into()), ..IamAnswer::default() }),
        Err(IamFailure::Said { code, status, message }) => {
            Answer::done(&IamAnswer { value: None, code, status: status.into(), message })
        }
        Err(IamFailure::Commit(error)) => Answer::error(ErrorMessage::from(error)),
        Err(IamFailure::Lookup(error)) => Answer::error(ErrorMessage::from(error)),
    })
}
