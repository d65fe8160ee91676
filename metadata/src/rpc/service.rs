//! The answering end: each message becomes a call of [`MetadataClient`], and what comes of it becomes a message.

use super::answer::{Answer, ErrorMessage};
use super::callers::Callers;
use super::command::{CommitMessage, OutcomeMessage};
use super::message::{
    AccountWithSecret, BucketList, ConfigList, DomainMessage, Granted, HitList, KeysPage, LocatedList, MaybeAccount,
    MaybeBucket, MaybePart, MaybeUpload, MaybeVersion, OfChunks, OfDomain, OfGrant, OfKey, OfName, OfNumber, OfPage,
    OfSession, OfUpload, OfVersion, PartList, PartsAnswer, UploadsAnswer, VersionsAnswer, unpack_chunks,
};
use super::sessions::Sessions;
use super::{MOST_ASKED, Name, SERVICE};
use crate::audit::{self, AskedBy};
use crate::client::{CommitError, FrameReadError, LookupError, MetadataClient};
use crate::command::Command;
use crate::keys::{Domain, Purpose};
use crate::listing::MAX_PAGE;
use crate::replica::{Leading, NotLeading};
use crate::service::Metadata;
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{AccountRow, BucketConfigName, ConfigKind};
use codec::id::{BucketId, ChunkId, DomainId, Epoch};
use codec::level::FormatLevel;
use codec::stripe::StripeDescriptor;
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::rpc::{Call, Handler, Status};
use storage_node::service::identity::{Identity, Role};
use tokio::sync::watch;
use tokio::time::Instant;

/// A gateway is granted one epoch in this time: each is remembered for hours, and a gateway that ends and starts again and again
/// must not fill the index with them.
const GRANT_PAUSE: Duration = Duration::from_secs(1);
/// How long it is known which epoch a wish was granted: for much longer than a gateway waits, so that one that asks again gets the
/// epoch that it did not hear of. Were it given another one each time, a journal that is slow would only get more to do.
const GRANT_KEPT: Duration = Duration::from_secs(600);

/// What came of a wish; `None` while nothing has.
type Granting = watch::Receiver<Option<Result<Epoch, ErrorMessage>>>;

/// A gateway's last wish for an epoch.
struct Wish {
    nonce: Bytes,
    asked: Instant,
    granting: Granting,
}

/// Metadata's service over a node that leads, or does not.
pub struct Service {
    leading: Arc<dyn Leading>,
    /// Each gateway's last wish for an epoch, as far as that matters.
    wishes: Mutex<HashMap<Identity, Wish>>,
    callers: Arc<Callers>,
    sessions: Sessions,
}

impl Service {
    /// The service of a node.
    pub fn new(leading: Arc<dyn Leading>) -> Service {
        Service { leading, wishes: Mutex::default(), callers: Arc::default(), sessions: Sessions::default() }
    }

    /// Who asked for a session lately, while this node led.
    pub fn callers(&self) -> Arc<Callers> {
        Arc::clone(&self.callers)
    }

    async fn answered(
        &self,
        name: Name,
        (peer, level): (&Identity, FormatLevel),
        question: Bytes,
    ) -> Result<Answer, Trouble> {
        let mut meta = self.leading.serving()?;
        if name.is_fresh() {
            self.leading.linearizable().await?;
            // This node may have followed meanwhile, and lead again: then the service is another one, over another index.
            meta = self.leading.serving()?;
        }
        match name {
            Name::Grant => {
                let OfGrant { nonce } = read(question)?;
                let mut granting = self.granting(meta, peer, nonce)?;
                let said = granting.wait_for(Option::is_some).await.ok().and_then(|said| said.clone());
                let ended = || CommitError::Unavailable { reason: "the grant came to no end".to_owned() };
                let epoch = said.ok_or_else(ended)?.map_err(|error| Trouble::Error(Box::new(error)))?;
                Ok(Answer::done(&Granted { epoch: epoch.0 }))
            }
            Name::Commit => commit(&meta, peer, question).await,
            Name::Session => {
                let OfSession { software, known } = read(question)?;
                self.callers.asks(peer, &software, level);
                let session = self.sessions.answer(&meta, &known);
                Ok(session.map_err(|error| LookupError::Unavailable { reason: error.to_string() })?)
            }
            _ => answer(&meta, name, question).await,
        }
    }

    /// Has an epoch granted, unless that wish is known already. It goes on when the asker waits no longer.
    fn granting(&self, meta: Arc<Metadata>, peer: &Identity, nonce: Bytes) -> Result<Granting, CommitError> {
        let now = Instant::now();
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.retain(|_, wish| now.duration_since(wish.asked) < GRANT_KEPT);
        if let Some(wish) = wishes.get(peer) {
            let failed = matches!(&*wish.granting.borrow(), Some(Err(_)));
            if wish.nonce == nonce && !failed {
                return Ok(wish.granting.clone());
            }
            if now.duration_since(wish.asked) < GRANT_PAUSE {
                return Err(CommitError::Unavailable { reason: format!("{peer} was granted an epoch a moment ago") });
            }
        }
        let (told, granting) = watch::channel(None);
        wishes.insert(peer.clone(), Wish { nonce, asked: now, granting: granting.clone() });
        let holder = peer.name.to_string();
        tokio::spawn(async move {
            let granted = meta.grant_epoch(holder).await;
            told.send_replace(Some(granted.map_err(ErrorMessage::from)));
        });
        Ok(granting)
    }
}

/// Why there is no answer of the call's own.
pub(super) enum Trouble {
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
        let question = call.whole(name.question_limit()).await?;
        let bytes = name.answer_bytes(question.len(), page(name, &question));
        match name.is_page() {
            true => call.room_for_page(bytes).await?,
            false => call.room_for_answer(bytes).await?,
        }
        // Nothing is asked before the handshake.
        let level = call.release.as_ref().map_or(FormatLevel::BEFORE, |release| release.level);
        let answer = match self.answered(name, (&call.peer, level), question).await {
            Ok(answer) => answer,
            Err(Trouble::NotLeading(error)) => error.into(),
            Err(Trouble::Error(error)) => Answer::error(*error),
            Err(Trouble::Malformed) => return Err(Status::invalid_argument("the question can't be understood")),
        };
        Ok(answer.encode_to_vec().into())
    }
}

pub(super) fn read<Q: Message + Default>(question: Bytes) -> Result<Q, Trouble> {
    Q::decode(question).map_err(|_| Trouble::Malformed)
}

/// Most rows that a page may have; 0 where no page is asked for.
fn page(name: Name, question: &Bytes) -> usize {
    let asked = match name {
        Name::List | Name::ListVersions | Name::ListUploads => OfPage::decode(&question[..]).map(|page| page.max),
        Name::ListParts => OfUpload::decode(&question[..]).map(|page| page.max),
        Name::NewestVersions => OfVersion::decode(&question[..]).map(|page| page.max),
        _ => Ok(0),
    };
    // What can't be understood is refused later.
    asked.map_or(0, |rows| (rows as usize).min(MAX_PAGE))
}

pub(super) fn known<T>(value: Option<T>) -> Result<T, Trouble> {
    value.ok_or(Trouble::Malformed)
}

async fn answer(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    match name {
        // Those that need to know who asks are answered by then.
        Name::Session | Name::Grant | Name::Commit => Err(Trouble::Malformed),
        Name::List | Name::ListVersions | Name::ListUploads | Name::ListParts => list(meta, name, question).await,
        Name::Bucket | Name::Buckets | Name::CurrentVersion | Name::Upload | Name::Parts => {
            row(meta, name, question).await
        }
        Name::Version | Name::NewestVersions => version(meta, name, question).await,
        Name::BucketConfig | Name::BucketConfigs => config(meta, name, question).await,
        Name::AccountByAccessKey | Name::Account | Name::AccountByEmail | Name::Domain | Name::DomainById => {
            secret(meta, name, question).await
        }
        Name::FindChunks | Name::Locate | Name::ReadFrame => chunk(meta, name, question).await,
        Name::Signer | Name::Iam => super::iam::answer(meta, name, question).await,
    }
}

async fn commit(meta: &Metadata, peer: &Identity, question: Bytes) -> Result<Answer, Trouble> {
    let message = read::<CommitMessage>(question)?;
    let by = message.by.clone().map(AskedBy::from).unwrap_or_default();
    let (writer, command) = known(message.value())?;
    if peer.role == Role::Gateway {
        for epoch in [Some(writer), stripe_epoch(&command)].into_iter().flatten() {
            meta.check_held(peer.name.as_str(), epoch)?;
        }
    }
    let outcome = OutcomeMessage::new(audit::within(by, meta.commit(writer, command)).await?);
    Ok(Answer::done(&known(outcome)?))
}

/// The epoch that the stripe of a command is numbered in. One that does not decode is refused by the commit.
fn stripe_epoch(command: &Command) -> Option<Epoch> {
    let Command::CommitStripe { stripe, .. } = command else { return None };
    StripeDescriptor::parse(&stripe.descriptor).ok().map(|descriptor| descriptor.id.epoch)
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
            if numbers.len() > MOST_ASKED {
                return Err(Trouble::Malformed);
            }
            let parts = meta.parts(&known(upload)?, &numbers).await?;
            Answer::done(&PartList { parts: parts.into_iter().map(|row| MaybePart { row }).collect() })
        }
    })
}

async fn version(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    let OfVersion { bucket, key, id, max } = read(question)?;
    if name == Name::Version {
        return Ok(Answer::done(&MaybeVersion { row: meta.version(BucketId(bucket), &key, &id).await? }));
    }
    let rows = meta.newest_versions(BucketId(bucket), &key, max as usize).await?;
    Ok(Answer::done(&VersionsAnswer { rows, ..VersionsAnswer::default() }))
}

async fn config(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    let BucketConfigName { bucket, kind, id } = read(question)?;
    let (bucket, kind) = (BucketId(bucket), known(ConfigKind::try_from(kind).ok())?);
    let rows = match name {
        Name::BucketConfig => meta.bucket_config(bucket, kind, &id).await?.into_iter().collect(),
        _ => meta.bucket_configs(bucket, kind).await?,
    };
    Ok(Answer::done(&ConfigList { rows }))
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
        Name::AccountByEmail => {
            let OfName { name } = read(question)?;
            Answer::done(&MaybeAccount { row: meta.account_by_email(&name).await?.map(shown) })
        }
        Name::Domain => {
            let OfDomain { account, encrypted, class, key } = read(question)?;
            let purpose = Purpose::said(class, encrypted, &key).ok_or(Trouble::Malformed)?;
            Answer::done(&domain_message(&*meta.domain(&account, &purpose).await?))
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
        class: domain.purpose.class().into(),
        key: domain.purpose.key().to_owned(),
        node_key: domain.node_key.as_ref().map(|key| key.expose().to_vec()).unwrap_or_default(),
    }
}

async fn chunk(meta: &Metadata, name: Name, question: Bytes) -> Result<Answer, Trouble> {
    let OfChunks { domain, ids } = read(question)?;
    let ids: Vec<ChunkId> = known(unpack_chunks(&ids).filter(|ids| ids.len() <= MOST_ASKED))?;
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
