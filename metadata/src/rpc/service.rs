//! The answering end: each message becomes a call of [`MetadataClient`], and what comes of it becomes a message.

use super::answer::{Answer, ErrorMessage};
use super::command::{CommitMessage, OutcomeMessage};
use super::message::{
    AccountWithSecret, BucketList, DomainMessage, Granted, HitList, KeysPage, LocatedList, MaybeAccount, MaybeBucket,
    MaybePart, MaybeUpload, MaybeVersion, OfChunks, OfDomain, OfKey, OfName, OfNumber, OfPage, OfUpload, PartList,
    PartsAnswer, UploadsAnswer, VersionsAnswer, unpack_chunks,
};
use super::{Name, QUESTION_LIMIT, SERVICE};
use crate::client::{CommitError, FrameReadError, LookupError, MetadataClient};
use crate::keys::Domain;
use crate::replica::{Leading, NotLeading};
use crate::service::Metadata;
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::AccountRow;
use codec::id::{BucketId, ChunkId, DomainId};
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::rpc::{Call, Handler, Status};
use storage_node::service::identity::{Identity, Role};
use tokio::time::Instant;

/// A gateway is granted one epoch in this time: each is remembered for hours, and a gateway that ends and starts again and again
/// must not fill the index with them.
const GRANT_PAUSE: Duration = Duration::from_secs(1);

/// Metadata's service over a node that leads, or does not.
pub struct Service {
    leading: Arc<dyn Leading>,
    /// When each gateway was last granted an epoch, as far as that matters.
    granted: Mutex<HashMap<Identity, Instant>>,
}

impl Service {
    /// The service of a node.
    pub fn new(leading: Arc<dyn Leading>) -> Service {
        Service { leading, granted: Mutex::default() }
    }

    async fn answered(&self, name: Name, peer: &Identity, question: Bytes) -> Result<Answer, Trouble> {
        let meta = self.leading.serving()?;
        if name.is_fresh() {
            self.leading.linearizable().await?;
        }
        match name {
            Name::Grant => {
                let meta = self.may_grant(peer).map(|()| meta)?;
                let epoch = meta.grant_epoch(peer.name.to_string()).await?;
                Ok(Answer::done(&Granted { epoch: epoch.0 }))
            }
            _ => answer(&*meta, name, question).await,
        }
    }

    fn may_grant(&self, peer: &Identity) -> Result<(), CommitError> {
        let now = Instant::now();
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.retain(|_, last| now.duration_since(*last) < GRANT_PAUSE);
        match granted.contains_key(peer) {
            true => Err(CommitError::Unavailable { reason: format!("{peer} was granted an epoch a moment ago") }),
            false => {
                granted.insert(peer.clone(), now);
                Ok(())
            }
        }
    }
}

/// Why there is no answer of the call's own.
enum Trouble {
    /// Nothing was done.
    NotLeading(NotLeading),
    /// An error of the call.
    Error(Box<ErrorMessage>),
    /// The question can't be understood.
    Malformed,
}

impl From<NotLeading> for Trouble {
    fn from(error: NotLeading) -> Trouble {
        Trouble::NotLeading(error)
    }
}

macro_rules! errors {
    ($($error:ty),*) => {
        $(impl From<$error> for Trouble {
            fn from(error: $error) -> Trouble {
                Trouble::Error(Box::new(error.into()))
            }
        })*
    };
}

errors!(CommitError, LookupError, FrameReadError);

#[async_trait]
impl Handler for Service {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn allows(&self, call: &str, role: Role) -> Option<bool> {
        Name::parse(call).map(|name| name.allows(role))
    }

    async fn answer(&self, mut call: Call) -> Result<Bytes, Status> {
        let name = Name::parse(&call.name).ok_or_else(|| Status::unimplemented("metadata has no such call"))?;
        let question = call.whole(QUESTION_LIMIT).await?;
        let answer = match self.answered(name, &call.peer, question).await {
            Ok(answer) => answer,
            Err(Trouble::NotLeading(error)) => error.into(),
            Err(Trouble::Error(error)) => Answer::error(*error),
            Err(Trouble::Malformed) => return Err(Status::invalid_argument("the question can't be understood")),
        };
        Ok(answer.encode_to_vec().into())
    }
}

fn read<Q: Message + Default>(question: Bytes) -> Result<Q, Trouble> {
    Q::decode(question).map_err(|_| Trouble::Malformed)
}

fn known<T>(value: Option<T>) -> Result<T, Trouble> {
    value.ok_or(Trouble::Malformed)
}

async fn answer(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    match name {
        Name::Session | Name::Grant | Name::Commit => change(meta, name, question).await,
        Name::List | Name::ListVersions | Name::ListUploads | Name::ListParts => list(meta, name, question).await,
        Name::Bucket | Name::Buckets | Name::CurrentVersion | Name::Upload | Name::Parts => {
            row(meta, name, question).await
        }
        Name::AccountByAccessKey | Name::Account | Name::Domain | Name::DomainById => {
            secret(meta, name, question).await
        }
        Name::FindChunks | Name::Locate | Name::ReadFrame => chunk(meta, name, question).await,
    }
}

async fn change(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    if name != Name::Commit {
        let session = meta.session().map_err(|error| LookupError::Unavailable { reason: error.to_string() })?;
        return Ok(Answer::done(&session.to_message()));
    }
    let (writer, command) = known(read::<CommitMessage>(question)?.value())?;
    let outcome = OutcomeMessage::new(meta.commit(writer, command).await?);
    Ok(Answer::done(&known(outcome)?))
}

async fn list(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    if name == Name::ListParts {
        let asked = known(read::<OfUpload>(question)?.parts())?;
        return Ok(Answer::done(&PartsAnswer::from(meta.list_parts(asked).await?)));
    }
    let asked: OfPage = read(question)?;
    Ok(match name {
        Name::ListVersions => Answer::done(&VersionsAnswer::from(meta.list_versions(asked.versions()).await?)),
        Name::ListUploads => Answer::done(&UploadsAnswer::from(meta.list_uploads(asked.uploads()).await?)),
        _ => Answer::done(&KeysPage::from(meta.list(asked.keys()).await?)),
    })
}

async fn row(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    Ok(match name {
        Name::Bucket => {
            let OfName { name } = read(question)?;
            Answer::done(&MaybeBucket { row: meta.bucket(&name).await? })
        }
        Name::Buckets => {
            let OfName { name } = read(question)?;
            Answer::done(&BucketList { rows: meta.buckets(&name).await? })
        }
        Name::CurrentVersion => {
            let OfKey { bucket, key } = read(question)?;
            Answer::done(&MaybeVersion { row: meta.current_version(BucketId(bucket), &key).await? })
        }
        Name::Upload => {
            let upload = known(read::<OfUpload>(question)?.upload)?;
            Answer::done(&MaybeUpload { row: meta.upload(&upload).await? })
        }
        _ => {
            let OfUpload { upload, numbers, .. } = read(question)?;
            let parts = meta.parts(&known(upload)?, &numbers).await?;
            Answer::done(&PartList { parts: parts.into_iter().map(|row| MaybePart { row }).collect() })
        }
    })
}

async fn secret(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    Ok(match name {
        Name::AccountByAccessKey => {
            let OfName { name } = read(question)?;
            let account = meta.account_by_access_key(&name).await?;
            Answer::done(&account.map_or_else(AccountWithSecret::default, |account| AccountWithSecret {
                row: Some(shown(account.row.clone())),
                secret: account.secret.expose().to_owned(),
            }))
        }
        Name::Account => {
            let OfName { name } = read(question)?;
            Answer::done(&MaybeAccount { row: meta.account(&name).await?.map(shown) })
        }
        Name::Domain => {
            let OfDomain { account, encrypted } = read(question)?;
            Answer::done(&domain_message(&*meta.domain(&account, encrypted).await?))
        }
        _ => {
            let OfNumber { number } = read(question)?;
            Answer::done(&domain_message(&*meta.domain_by_id(DomainId(number)).await?))
        }
    })
}

/// What is wrapped is of no use to who does not have the key, and stays here.
fn shown(row: AccountRow) -> AccountRow {
    AccountRow { wrapped_secret: Bytes::new(), ..row }
}

fn domain_message(domain: &Domain) -> DomainMessage {
    DomainMessage {
        id: domain.id.0,
        account: domain.account.clone(),
        chunk_key: domain.chunk_key.expose().to_vec(),
        data_key: domain.data_key.as_ref().map(|key| key.expose().to_vec()).unwrap_or_default(),
    }
}

async fn chunk(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    let OfChunks { domain, ids } = read(question)?;
    let ids: Vec<ChunkId> = known(unpack_chunks(&ids))?;
    Ok(match name {
        Name::FindChunks => Answer::done(&HitList::from(meta.find_chunks(DomainId(domain), &ids).await?)),
        Name::Locate => {
            let holders = |lsn| meta.journal_entry(lsn).map(|held| held.holders);
            Answer::done(&LocatedList::new(meta.locate(&ids).await?, holders))
        }
        _ => {
            let [id] = ids[..] else { return Err(Trouble::Malformed) };
            let located = meta.locate(&[id]).await?.pop().flatten().ok_or(FrameReadError::Unknown(id))?;
            Answer { said: Some(super::answer::Said::Done(meta.read_frame(&located).await?)) }
        }
    })
}
