//! The engine over metadata in memory: what it stores, shares, refuses and gives back.
#![allow(clippy::unwrap_used, missing_docs)]

mod copy;
mod encryption;
mod fake;
mod get;
mod load;
mod multipart;
mod put;

use bytes::Bytes;
use codec::effect::{BucketRow, ObjectMeta, VersionRow};
use fake::Fake;
use futures::{StreamExt, TryStreamExt, stream};
use gateway::engine::{Body, Claims, Config, Gateway, PutDone, PutRequest};
use gateway::error::{BodyError, GetError, PutError};
use metadata::client::MetadataClient;
use metadata::command::Condition;
use std::ops::Range;
use std::sync::Arc;

/// An engine and what is below it.
pub struct World {
    pub fake: Arc<Fake>,
    pub gateway: Arc<Gateway>,
}

pub fn world() -> World {
    world_with(Config::default())
}

pub fn world_with(config: Config) -> World {
    let fake = Arc::new(Fake::default());
    let gateway = Gateway::new(Arc::clone(&fake) as Arc<dyn MetadataClient>, config);
    World { fake, gateway }
}

/// Bytes that don't compress, by seed.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

/// Bytes that compress well and don't repeat at the distance of a chunk.
pub fn text(len: usize) -> Bytes {
    let mut out = Vec::with_capacity(len + 32);
    for line in 0u64.. {
        if out.len() >= len {
            break;
        }
        out.extend_from_slice(format!("line {line} of a document\n").as_bytes());
    }
    out.truncate(len);
    out.into()
}

/// A body in pieces of odd sizes.
pub fn body(bytes: &Bytes) -> Body {
    let (mut rest, mut sizes) = (bytes.clone(), [1, 70_001, 8192, 3, 300_007].into_iter().cycle());
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let len = sizes.next().unwrap_or(1).min(rest.len());
        pieces.push(Ok(rest.split_to(len)));
    }
    Box::pin(stream::iter(pieces))
}

/// A body that breaks after its bytes.
pub fn broken(bytes: &Bytes) -> Body {
    let end = stream::iter([Err(BodyError::Truncated("reset".to_owned()))]);
    Box::pin(body(bytes).chain(end))
}

pub fn bucket() -> BucketRow {
    BucketRow { id: 1, name: "b".to_owned(), owner: "alice".to_owned(), ..BucketRow::default() }
}

pub fn request(key: &str, length: Option<u64>) -> PutRequest {
    PutRequest {
        attached: Default::default(),
        bucket: bucket(),
        key: key.to_owned(),
        meta: ObjectMeta::default(),
        length,
        encrypt: gateway::protect::Protection::Plain,
        condition: Condition::None,
        claims: Claims::default(),
    }
}

impl World {
    pub async fn put(&self, key: &str, bytes: &Bytes) -> Result<PutDone, PutError> {
        self.gateway.put_object(request(key, Some(bytes.len() as u64)), body(bytes)).await
    }

    pub fn version(&self, key: &str) -> VersionRow {
        self.fake.version(1, key).expect("a version")
    }

    pub async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, GetError> {
        let content = self.version(key).content.expect("content");
        let stream = self.gateway.get(&content, range).await?;
        let pieces: Vec<Bytes> = stream.bytes.try_collect().await?;
        Ok(pieces.concat().into())
    }
}
