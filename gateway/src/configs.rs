//! Configurations of buckets: as they are kept, and remembered as they are understood.
//!
//! Invariants:
//! * What is remembered of a bucket counts only while its row names the same [`BucketRow::config_seq`]. The row is read for the
//!   request anyway, so a configuration that was changed or taken away is never followed by who reads the row afterwards.
//! * What is remembered of one kind weighs [`MOST`] at most: who has many buckets with long configurations asked for makes the
//!   older ones be forgotten, and no more.
//! * A configuration that is kept and can't be read any more is an error, never taken for none: rules that close something
//!   would be open.

use crate::s3::error;
use bytes::Bytes;
use codec::effect::{BucketRow, ConfigKind};
use metadata::client::MetadataClient;
use metadata::command::{Command, PutBucketConfig};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};
use s3s::{S3Result, StdError};
use std::fmt;
use std::sync::Arc;

/// About as many buckets are remembered of one kind.
const REMEMBERED: usize = 4096;
/// Bytes that the remembered configurations of one kind may take, by estimate.
const MOST: u64 = 32 << 20;
/// Parts of the memory, each behind a lock of its own. A part holds many of the longest configurations.
const SHARDS: usize = 4;
/// Memory of one that is remembered, without what it says.
const EMPTY: u64 = 512;
/// A configuration that is understood takes so many times the bytes that it is kept as: small strings, each in memory of its own.
const UNDERSTOOD: u64 = 6;

/// A configuration that a bucket has, or does not have, understood.
struct Known<T> {
    seq: u64,
    /// By estimate, in bytes of memory.
    weight: u64,
    found: Option<Arc<T>>,
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Known<T> {
        Known { seq: self.seq, weight: self.weight, found: self.found.clone() }
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl<T> Weighter<u64, Known<T>> for Weight {
    fn weight(&self, _bucket: &u64, known: &Known<T>) -> u64 {
        known.weight
    }
}

/// The configurations of one kind, one per bucket, understood.
pub struct Remembered<T> {
    kind: ConfigKind,
    read: fn(&[u8]) -> Result<T, StdError>,
    known: Cache<u64, Known<T>, Weight>,
}

impl<T> fmt::Debug for Remembered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<T> Remembered<T> {
    /// Configurations of `kind`; `read` understands what is kept.
    pub fn new(kind: ConfigKind, read: fn(&[u8]) -> Result<T, StdError>) -> Remembered<T> {
        let options =
            OptionsBuilder::new().estimated_items_capacity(REMEMBERED).weight_capacity(MOST).shards(SHARDS).build();
        let known = match options {
            Ok(options) => {
                Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default())
            }
            // Both capacities are there.
            Err(_) => Cache::with_weighter(REMEMBERED, MOST, Weight),
        };
        Remembered { kind, read, known }
    }

    /// What the bucket of this row has. The row must have been read for this request.
    pub async fn get(&self, meta: &dyn MetadataClient, bucket: &BucketRow) -> S3Result<Option<Arc<T>>> {
        // Nothing was ever configured.
        if bucket.config_seq == 0 {
            return Ok(None);
        }
        if let Some(known) = self.known.get(&bucket.id).filter(|known| known.seq == bucket.config_seq) {
            return Ok(known.found);
        }
        let row = meta.bucket_config(bucket.bucket_id(), self.kind, "").await.map_err(error::lookup)?;
        let kept = row.as_ref().map_or(0, |row| row.body.len() as u64);
        let found = match row {
            None => None,
            Some(row) => Some(Arc::new((self.read)(&row.body).map_err(|fault| error::internal(&fault))?)),
        };
        self.remember(bucket.id, bucket.config_seq, kept, found.clone());
        Ok(found)
    }
}

impl<T> Remembered<T> {
    /// `kept`: bytes of the configuration as it is kept.
    fn remember(&self, bucket: u64, seq: u64, kept: u64, found: Option<Arc<T>>) {
        let weight = EMPTY + UNDERSTOOD * kept;
        self.known.insert(bucket, Known { seq, weight, found });
    }
}

/// The configuration of a kind that a bucket has, as it is kept.
pub async fn read(
    meta: &dyn MetadataClient,
    bucket: &BucketRow,
    kind: ConfigKind,
    id: &str,
) -> S3Result<Option<Bytes>> {
    let row = meta.bucket_config(bucket.bucket_id(), kind, id).await.map_err(error::lookup)?;
    Ok(row.map(|row| row.body))
}

/// Gives a bucket a configuration in place of the one it has.
pub async fn put(
    meta: &dyn MetadataClient,
    bucket: &BucketRow,
    kind: ConfigKind,
    id: &str,
    body: Bytes,
) -> S3Result<()> {
    commit(meta, bucket, kind, id, Some(body)).await
}

/// Takes a bucket's configuration away. None is no error.
pub async fn delete(meta: &dyn MetadataClient, bucket: &BucketRow, kind: ConfigKind, id: &str) -> S3Result<()> {
    commit(meta, bucket, kind, id, None).await
}

async fn commit(
    meta: &dyn MetadataClient,
    bucket: &BucketRow,
    kind: ConfigKind,
    id: &str,
    body: Option<Bytes>,
) -> S3Result<()> {
    let command = PutBucketConfig { bucket: bucket.bucket_id(), kind, id: id.to_owned(), body };
    meta.commit(meta.epoch(), Command::PutBucketConfig(command)).await.map_err(error::commit)?;
    Ok(())
}

/// A configuration as XML of its own element.
pub fn to_xml(configuration: &impl Serialize) -> S3Result<Bytes> {
    let mut text = Vec::new();
    configuration.serialize(&mut Serializer::new(&mut text)).map_err(|fault| error::internal(&fault))?;
    Ok(text.into())
}

/// What [`to_xml`] wrote.
pub fn of_xml<T: for<'xml> Deserialize<'xml>>(text: &[u8]) -> Result<T, StdError> {
    let mut xml = Deserializer::new(text);
    let read = T::deserialize(&mut xml)?;
    xml.expect_eof()?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Preflights, which nobody signs, could fill the memory with the longest configurations of a tenant's buckets.
    #[test]
    fn long_configurations_push_each_other_out() {
        let remembered: Remembered<()> = Remembered::new(ConfigKind::Cors, |_| Ok(()));
        let long = 64 << 10;
        for bucket in 0..4096 {
            remembered.remember(bucket, 1, long, Some(Arc::new(())));
        }
        let many = remembered.known.len() as u64;
        assert!(many * UNDERSTOOD * long <= MOST && remembered.known.weight() <= MOST, "{many}");
        assert!(many > 16, "{many}");
        let short: Remembered<()> = Remembered::new(ConfigKind::Cors, |_| Ok(()));
        (0..4096).for_each(|bucket| short.remember(bucket, 1, 200, None));
        assert!(short.known.len() > 3000, "{}", short.known.len());
    }
}
