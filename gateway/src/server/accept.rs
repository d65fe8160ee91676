//! Taking connections, and turning them away when there are too many, or no descriptors left for them.
//!
//! A connection that can't be accepted waits in the kernel's queue: its client has connected, sends its request and waits, and
//! nothing that it could log or repeat ever comes. So one descriptor is kept for telling such clients to come back.
//!
//! Invariants:
//! * What can't be accepted is tried again, at longer and longer intervals up to [`LONGEST`], and never in a loop that spins.
//! * Only who lacks descriptors or memory turns anybody away; other errors of accept(2) are about a connection that is gone.
//! * The log has one line for it in [`SILENCE`], however many connections it is about.
//! * At most [`TURNED_AWAY`] are being told to come back at once.

use super::Port;
use super::tls::{Stream, Tls};
use crate::s3::error;
use http::header::CONTENT_TYPE;
use s3s::S3Error;
use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The first interval.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest interval.
const LONGEST: Duration = Duration::from_secs(1);
/// The log is silent for this long after a line.
const SILENCE: Duration = Duration::from_secs(30);
/// For the request of a client that is turned away, and as much again for its end of the connection.
const POLITE: Duration = Duration::from_millis(250);
/// Connections that are being told to come back at once.
pub(super) const TURNED_AWAY: usize = 64;

/// Where connections come from.
pub trait Incoming: Send + Sync {
    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Incoming for TcpListener {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

impl Incoming for &TcpListener {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// See the module.
#[derive(Debug)]
pub struct Acceptor<L> {
    listener: L,
    /// The certificate of the port, if it has one.
    tls: Option<Arc<Tls>>,
    /// A descriptor for telling somebody that there are none.
    spare: Option<File>,
    pause: Duration,
    told: Option<Instant>,
    /// Connections turned away since the last line.
    turned_away: u64,
}

impl<L: Incoming> Acceptor<L> {
    /// Takes connections from `listener`.
    pub fn new(listener: L, tls: Option<Arc<Tls>>) -> Acceptor<L> {
        Acceptor { listener, tls, spare: spare(), pause: SHORTEST, told: None, turned_away: 0 }
    }

    /// The next connection that can be served.
    pub async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = SHORTEST;
                    if self.spare.is_none() {
                        self.spare = spare();
                    }
                    return accepted;
                }
                Err(error) => error,
            };
            if !is_shortage(&error) {
                // A client that hung up in the queue, or its network: nothing is lacking here.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(SHORTEST).await;
                continue;
            }
            let away = self.turn_away().await;
            self.tell(u64::from(away), &error);
            if !away {
                tokio::time::sleep(self.pause).await;
                self.pause = (2 * self.pause).min(LONGEST);
            }
        }
    }

    /// A connection is turned away because there are as many as there may be.
    pub fn one_too_many(&mut self) {
        self.tell(1, &"as many as there may be are open");
    }

    fn tell(&mut self, turned_away: u64, why: &dyn fmt::Display) {
        self.turned_away += turned_away;
        if self.told.is_none_or(|told| told.elapsed() >= SILENCE) {
            let turned_away = std::mem::take(&mut self.turned_away);
            tracing::error!(%why, turned_away, "connections are not served: too many, or too few open files are allowed");
            self.told = Some(Instant::now());
        }
    }

    /// Answers the next client with the spare descriptor. `false`: that could not be had either.
    async fn turn_away(&mut self) -> bool {
        if self.spare.take().is_none() {
            self.spare = spare();
            return false;
        }
        // Nobody may be there any more: then there is nobody to tell.
        let accepted = tokio::time::timeout(SHORTEST, self.listener.accept()).await;
        let away = match accepted {
            Ok(Ok((stream, _))) => {
                refuse(stream, self.tls.as_deref()).await;
                true
            }
            _ => false,
        };
        self.spare = spare();
        away
    }
}

/// Whether descriptors or memory are lacking; accept(2) hands on errors of the connection, too.
fn is_shortage(error: &io::Error) -> bool {
    let lacking = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|code| lacking.contains(&code))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Tells a client to come back. Its request is read first, and the connection until its end, both for a moment: a client that
/// is still sending when the connection ends sees a reset and not the answer.
pub async fn refuse(stream: TcpStream, tls: Option<&Tls>) {
    let mut piece = vec![0; 16 << 10];
    let exchange = async {
        // In the clear its client could make nothing of it.
        let mut stream = Stream::of(stream, tls).await?;
        let _request = tokio::time::timeout(POLITE, stream.read(&mut piece)).await;
        stream.write_all(answer(error::out_of_descriptors()).as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut piece).await? > 0 {}
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(2 * POLITE, exchange).await {
        tracing::debug!(%error, "a client that was turned away");
    }
}

/// Tells every client of a port to come back, for as long as it is polled: for a server that has nothing to serve from yet.
/// Without it they would wait in the kernel's queue for as long as that lasts, and a balancer would take that for slow.
pub async fn turn_all_away(Port { listener, tls }: &Port) -> Infallible {
    let (mut acceptor, turns) = (Acceptor::new(listener, tls.clone()), Arc::new(Semaphore::new(TURNED_AWAY)));
    loop {
        // First a turn, then a client: between the two, who was taken from the queue would be dropped when serving begins.
        let turn = Arc::clone(&turns).acquire_owned().await;
        let (stream, _) = acceptor.next().await;
        // By itself: who has been taken from the queue is answered, also when serving begins. It ends in a moment.
        let tls = tls.clone();
        tokio::spawn(async move {
            refuse(stream, tls.as_deref()).await;
            drop(turn);
        });
    }
}

/// An answer, written without what makes answers otherwise: that may want descriptors.
fn answer(refused: S3Error) -> String {
    let (code, message) = (refused.code().as_str(), refused.message().unwrap_or_default());
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\n{CONTENT_TYPE}: application/xml\r\nserver: Stele\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Fails for the first so many times, as if there were no descriptors.
    struct Scarce {
        listener: TcpListener,
        code: i32,
        fails: AtomicU32,
        asked: AtomicU32,
    }

    impl Incoming for Scarce {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let fails = self.fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fails| fails.checked_sub(1));
            match fails {
                Ok(_) => Err(io::Error::from_raw_os_error(self.code)),
                Err(_) => self.listener.accept().await,
            }
        }
    }

    async fn scarce(code: i32, fails: u32) -> (Acceptor<Scarce>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Acceptor::new(Scarce { listener, code, fails: fails.into(), asked: 0.into() }, None), address)
    }

    /// Its request was never answered, and its client waited for a minute and tried again.
    #[tokio::test]
    async fn a_client_that_there_is_no_descriptor_for_is_told_to_come_back() {
        let (mut acceptor, address) = scarce(libc::EMFILE, 1).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET /b/k HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let told = tokio::spawn(async move {
            let mut told = String::new();
            first.read_to_string(&mut told).await.map(|_| told)
        });
        let served = tokio::spawn(async move { acceptor.next().await });
        let told = told.await.unwrap().unwrap();
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("<Code>SlowDown</Code>"), "{told}");
        let second = TcpStream::connect(address).await.unwrap();
        assert_eq!(served.await.unwrap().1, second.local_addr().unwrap());
    }

    #[tokio::test]
    async fn who_can_accept_nothing_does_not_spin() {
        let (mut acceptor, _address) = scarce(libc::EMFILE, u32::MAX).await;
        let began = Instant::now();
        let mut asked = 0;
        // It asks again, and no more often than it may in the time that was.
        while asked < 4 {
            assert!(began.elapsed() < Duration::from_secs(60), "{asked} times in a minute");
            let _never = tokio::time::timeout(Duration::from_millis(500), acceptor.next()).await;
            asked = acceptor.listener.asked.load(Ordering::Relaxed);
        }
        let took = began.elapsed();
        assert!(u128::from(asked) <= took.as_millis() / 25, "{asked} times in {took:?}");
    }

    /// The next client was told to come back, because the one before it had hung up.
    #[tokio::test]
    async fn a_client_that_hung_up_costs_the_next_one_nothing() {
        let (mut acceptor, address) = scarce(libc::ECONNABORTED, 3).await;
        let client = TcpStream::connect(address).await.unwrap();
        let served = tokio::time::timeout(240 * POLITE, acceptor.next()).await.expect("the next one is served");
        assert_eq!(served.1, client.local_addr().unwrap());
    }

    /// Clients of a gateway that found no metadata waited in the queue for ever.
    #[tokio::test]
    async fn who_comes_before_there_is_anything_to_serve_is_told_to_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port::from(listener);
        let asked = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET /b/k HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut told = String::new();
            client.read_to_string(&mut told).await.map(|_| told)
        };
        let told = tokio::select! {
            told = asked => told.unwrap(),
            never = turn_all_away(&port) => match never {},
        };
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("<Code>SlowDown</Code>"), "{told}");
        let next = TcpStream::connect(address).await.unwrap();
        assert_eq!(
            port.listener.accept().await.unwrap().1,
            next.local_addr().unwrap(),
            "the port is still there to be served"
        );
    }
}
