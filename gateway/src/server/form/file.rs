//! The file of a form: its bytes, held to the length that the policy wants.

use super::Lengths;
use super::fields::{Source, fault};
use crate::s3::error;
use access::post::FormError;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::{Body, S3Result, StdError};
use s3s_multipart::PartDataStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A file up to this length is had whole before the request goes on, in bytes: then its length is known, and it can ride in the
/// journal. A connection has a buffer of as much anyway.
pub(super) const SHORT: usize = 64 << 10;

/// What is wrong with a file, once somebody has found out.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<FormError>>>);

impl Fault {
    fn set(&self, error: FormError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn take(&self) -> Option<FormError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The bytes of a file, counted.
pub(super) struct File {
    rest: PartDataStream<Source>,
    lengths: Lengths,
    got: u64,
    ended: bool,
    fault: Fault,
}

impl File {
    pub(super) fn new(rest: PartDataStream<Source>, lengths: Lengths) -> File {
        File { rest, lengths, got: 0, ended: false, fault: Fault::default() }
    }

    /// Reads the beginning.
    pub(super) async fn begin(mut self, patience: Duration) -> S3Result<Begun> {
        let (mut pieces, mut held) = (Vec::new(), 0);
        let reading = async {
            while held <= SHORT {
                let Some(piece) = self.rest.next().await.transpose().map_err(fault)? else { return Ok(true) };
                held += piece.len();
                pieces.push(piece);
            }
            Ok(false)
        };
        let whole = tokio::time::timeout(patience, reading).await.unwrap_or_else(|_| Err(error::too_slow()))?;
        let begun = Bytes::from(pieces.concat());
        self.got = begun.len() as u64;
        self.ended = whole;
        self.check().map_err(|refused| super::form_error(&refused))?;
        Ok(Begun { begun, file: self })
    }

    /// Whether what has come may go on, and if it has ended, end.
    fn check(&self) -> Result<(), FormError> {
        match self.got {
            got if got > self.lengths.max => Err(FormError::TooLarge),
            got if self.ended && got < self.lengths.min => Err(FormError::TooSmall),
            _ => Ok(()),
        }
    }
}

impl Stream for File {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = match ready!(Pin::new(&mut self.rest).poll_next(cx)) {
            Some(Err(broken)) => {
                self.ended = true;
                return Poll::Ready(Some(Err(broken.into())));
            }
            Some(Ok(piece)) => Some(piece),
            None => None,
        };
        self.got += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.ended = piece.is_none();
        if let Err(refused) = self.check() {
            self.ended = true;
            self.fault.set(refused.clone());
            return Poll::Ready(Some(Err(refused.into())));
        }
        Poll::Ready(piece.map(Ok))
    }
}

/// A file whose beginning has been read.
pub(super) struct Begun {
    begun: Bytes,
    file: File,
}

impl Begun {
    /// Its length in bytes, if all of it has been read.
    pub(super) fn length(&self) -> Option<u64> {
        self.file.ended.then_some(self.file.got)
    }

    pub(super) fn fault(&self) -> Fault {
        self.file.fault.clone()
    }

    /// As a request's body.
    pub(super) fn into_body(self) -> Body {
        if self.file.ended {
            return Body::from(self.begun);
        }
        let bytes = futures::stream::iter([Ok::<_, StdError>(self.begun)]).chain(self.file);
        Body::http_body_unsync(StreamBody::new(bytes.map(|piece| piece.map(Frame::data))))
    }
}
