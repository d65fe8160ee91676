//! A data file: rows as they are read, packed, and put while they come. Of a bucket of any size a few pages are in memory.

use super::Failure;
use super::csv;
use super::plan::{Field, Plan};
use crate::engine::Body;
use crate::error::BodyError;
use bytes::Bytes;
use codec::effect::{BucketRow, Content, VersionRow};
use codec::id::DomainId;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};
use metadata::client::{LookupError, MetadataClient};
use metadata::keys::Purpose;
use metadata::listing::{ListRequest, MAX_PAGE, VersionsRequest};
use std::io::Write;
use tokio::sync::mpsc;

/// Rows of one data file. Even with the longest keys a file is far below what one PUT may have.
const ROWS: usize = 500_000;
/// Packed bytes that are handed on at once.
const PIECE: usize = 128 << 10;
/// Pieces that wait to be stored.
const WAITING: usize = 2;

/// Where the next row is.
#[derive(Clone, Debug, Default)]
pub struct At {
    key: String,
    version: Option<String>,
}

/// What became of a file's rows.
#[derive(Debug)]
pub struct Written {
    /// MD5 of the file, in hex.
    pub md5: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// How many rows it has.
    pub rows: usize,
    /// Where the next file begins; `None`: this was the last.
    pub next: Option<At>,
}

struct Pieces {
    to: mpsc::Sender<Result<Bytes, BodyError>>,
    packed: GzEncoder<Vec<u8>>,
    digest: Md5,
    bytes: u64,
}

impl Pieces {
    /// `false`: nobody takes it any more.
    async fn send(&mut self, piece: Vec<u8>) -> bool {
        self.digest.update(&piece);
        self.bytes += piece.len() as u64;
        piece.is_empty() || self.to.send(Ok(piece.into())).await.is_ok()
    }

    async fn add(&mut self, text: &str) -> Result<bool, Failure> {
        self.packed.write_all(text.as_bytes()).map_err(Failure::Pack)?;
        if self.packed.get_ref().len() < PIECE {
            return Ok(true);
        }
        let piece = std::mem::take(self.packed.get_mut());
        Ok(self.send(piece).await)
    }
}

/// The body of a file, and where its rows go.
pub fn body() -> (Rows, Body) {
    let (to, mut from) = mpsc::channel(WAITING);
    (Rows { to }, Box::pin(futures::stream::poll_fn(move |context| from.poll_recv(context))))
}

/// The end of a [`body`] that rows are written to.
#[derive(Debug)]
pub struct Rows {
    to: mpsc::Sender<Result<Bytes, BodyError>>,
}

impl Rows {
    /// Writes rows from `at` on, to the end of the file. A failure ends the body with an error: no file is taken for whole that is not.
    pub async fn write(
        self,
        meta: &dyn MetadataClient,
        source: &BucketRow,
        plan: &Plan,
        at: At,
    ) -> Result<Written, Failure> {
        let packed = GzEncoder::new(Vec::new(), Compression::default());
        let mut pieces = Pieces { to: self.to, packed, digest: Md5::new(), bytes: 0 };
        let written = fill(&mut pieces, meta, source, plan, at).await;
        let (rows, next) = match written {
            Ok(written) => written,
            Err(failed) => {
                // Whoever takes it may be gone, and has failed then anyway.
                let _gone = pieces.to.send(Err(BodyError::Truncated(failed.to_string()))).await;
                return Err(failed);
            }
        };
        pieces.packed.try_finish().map_err(Failure::Pack)?;
        let last = std::mem::take(pieces.packed.get_mut());
        pieces.send(last).await;
        Ok(Written { md5: hex::encode(pieces.digest.finalize()), bytes: pieces.bytes, rows, next })
    }
}

async fn fill(
    pieces: &mut Pieces,
    meta: &dyn MetadataClient,
    source: &BucketRow,
    plan: &Plan,
    mut at: At,
) -> Result<(usize, Option<At>), Failure> {
    let mut rows = 0;
    loop {
        let (page, next) = page(meta, source, plan, at).await?;
        let mut text = String::new();
        for (version, latest) in &page {
            let encryption = match &version.content {
                Some(content) if plan.fields.contains(&Field::Encryption) => encryption(meta, content).await?,
                _ => "",
            };
            csv::row(&mut text, plan, (&source.name, &source.owner), version, *latest, encryption);
        }
        rows += page.len();
        // Who stores it says why he no longer does.
        if !pieces.add(&text).await? {
            return Ok((rows, None));
        }
        match next {
            Some(next) if rows < ROWS => at = next,
            next => return Ok((rows, next)),
        }
    }
}

type Page = (Vec<(VersionRow, bool)>, Option<At>);

async fn page(meta: &dyn MetadataClient, source: &BucketRow, plan: &Plan, at: At) -> Result<Page, Failure> {
    let (bucket, prefix, delimiter, max) = (source.bucket_id(), plan.filter.clone(), String::new(), MAX_PAGE);
    if plan.all_versions {
        let request =
            VersionsRequest { bucket, prefix, delimiter, key_marker: at.key, version_marker: at.version, max };
        let page = meta.list_versions(request).await?;
        return Ok((page.versions, page.next.map(|(key, version)| At { key, version })));
    }
    let page = meta.list(ListRequest { bucket, prefix, delimiter, after: at.key, max }).await?;
    let current = page.objects.into_iter().map(|version| (version, true)).collect();
    Ok((current, page.next.map(|key| At { key, version: None })))
}

/// How S3 says what an object is under.
async fn encryption(meta: &dyn MetadataClient, content: &Content) -> Result<&'static str, Failure> {
    if content.sealed.is_some() {
        return Ok("SSE-C");
    }
    if !content.encrypted {
        return Ok("NOT-SSE");
    }
    match meta.domain_by_id(DomainId(content.domain)).await {
        Ok(domain) => Ok(match domain.purpose {
            Purpose::Plain => "NOT-SSE",
            Purpose::Managed => "SSE-S3",
            Purpose::Customer => "SSE-C",
            Purpose::Kms(_) => "SSE-KMS",
        }),
        // That its key can't be used now does not change what it is under.
        Err(LookupError::Kms { .. }) => Ok("SSE-KMS"),
        Err(failed) => Err(failed.into()),
    }
}
