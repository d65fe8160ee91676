//! The forms of IAM and STS: how they are read, and what they say.
//!
//! Invariant: nobody who sends slowly keeps others from being read. A form takes its place among those of its address until it is
//! there, and only then a turn to be looked at; what all of them hold is bounded.

use super::sigv4::Refused;
use crate::server::sign_in::counted;
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Body;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest form, in bytes.
const MAX_FORM: usize = 64 << 10;
/// Forms that are being read.
const AT_A_TIME: usize = 2048;
/// The same from one address, or one network of IPv6.
const OF_PEER: usize = 64;
/// How long a form may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Forms that are being read, by whence they come.
#[derive(Debug, Default)]
pub(super) struct Forms {
    reading: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The place of a form that is being read.
struct Place {
    reading: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let left = reading.get(&self.peer).map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => drop(reading.remove(&self.peer)),
            left => drop(reading.insert(self.peer, left)),
        }
    }
}

impl Forms {
    fn place(&self, peer: Option<IpAddr>) -> Option<Place> {
        let peer = peer.map_or(Ipv6Addr::UNSPECIFIED.into(), counted);
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_peer) = (reading.values().sum::<usize>(), reading.get(&peer).copied().unwrap_or_default());
        if all >= AT_A_TIME || of_peer >= OF_PEER {
            return None;
        }
        reading.insert(peer, of_peer + 1);
        Some(Place { reading: Arc::clone(&self.reading), peer })
    }

    /// Reads a form that comes from an address.
    pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(
        &self,
        peer: Option<IpAddr>,
        body: B,
    ) -> Result<Bytes, Refused> {
        let many = || Refused::new(503, "Throttling", "Too many requests are being sent. Try again later.");
        let _place = self.place(peer).ok_or_else(many)?;
        let late = |_| Refused::new(400, "RequestTimeout", "The request was not received in time.");
        tokio::time::timeout(PATIENCE, read(body)).await.map_err(late)?
    }
}

async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, Refused> {
    let mut form = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Refused::new(400, "IncompleteBody", "The request's body did not come whole."))?;
        if let Ok(data) = frame.into_data() {
            if form.len() + data.remaining() > MAX_FORM {
                return Err(Refused::new(413, "RequestEntityTooLarge", "The request is longer than it may be."));
            }
            form.extend_from_slice(&data);
        }
    }
    Ok(form.freeze())
}

/// Names and values of a form; `None`: it is not in UTF-8, or an encoding is broken.
pub(super) fn fields(form: &[u8]) -> Option<Vec<(String, String)>> {
    let pairs = form.split(|b| *b == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = match pair.iter().position(|b| *b == b'=') {
                Some(at) => (pair.get(..at)?, pair.get(at + 1..)?),
                None => (pair, &[][..]),
            };
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).ok()?;
                out.extend_from_slice(&byte);
                rest = after;
            }
            other => out.push(*other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    #[test]
    fn forms() {
        let read = |form: &str| fields(form.as_bytes());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let both = vec![pair("Action", "Get User"), pair("P", "{\"a\": 1}&\u{e4}")];
        assert_eq!(read("Action=Get+User&P=%7B%22a%22%3a+1%7D%26%C3%A4"), Some(both));
        assert_eq!(read(""), Some(Vec::new()));
        assert_eq!(read("a&&b="), Some(vec![pair("a", ""), pair("b", "")]));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_form_panics(form: Vec<u8>) {
            let _ = fields(&form);
        }
    }

    /// A body that never ends, or ends at once.
    struct Sent {
        ends: bool,
    }

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.ends { Poll::Ready(None) } else { Poll::Pending }
        }
    }

    #[tokio::test]
    async fn who_sends_slowly_keeps_nobody_else_from_being_read() {
        let forms = Arc::new(Forms::default());
        let peer = |n: u8| Some(IpAddr::from([10, 0, 0, n]));
        let mut slow = Vec::new();
        for _ in 0..300 {
            let forms = Arc::clone(&forms);
            slow.push(tokio::spawn(async move { forms.read(peer(1), Sent { ends: false }).await.is_ok() }));
            tokio::task::yield_now().await;
        }
        while forms.reading.lock().unwrap().values().sum::<usize>() < OF_PEER {
            tokio::task::yield_now().await;
        }
        assert!(forms.read(peer(2), Sent { ends: true }).await.is_ok());
        assert!(forms.read(peer(1), Sent { ends: true }).await.is_err(), "his own are too many");
        for slow in &slow {
            slow.abort();
        }
        for slow in slow {
            let _ = slow.await;
        }
        assert!(forms.read(peer(1), Sent { ends: true }).await.is_ok());
        assert!(forms.reading.lock().unwrap().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_has_the_places_of_one_address() {
        let forms = Forms::default();
        let peer = |n: usize| format!("2001:db8::{n:x}").parse().ok();
        let taken: Vec<_> = (0..OF_PEER).filter_map(|n| forms.place(peer(n))).collect();
        assert!(taken.len() == OF_PEER && forms.place(peer(OF_PEER)).is_none());
        assert!(forms.place("2001:db8:0:1::1".parse().ok()).is_some() && forms.place(None).is_some());
    }
}
