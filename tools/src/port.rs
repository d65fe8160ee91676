//! The plain HTTP ports for operators and for whoever watches: health and admin.
//!
//! Anybody who reaches such a port may connect to it, with no token, so nobody may hold it for nothing: descriptors are what the
//! drives need, too.
//!
//! Invariants:
//! * At most [`Bounds::connections`] are open; the next one waits in the kernel's queue.
//! * The head of a request comes within [`Bounds::head`], counted from the connection's begin or the last answer's end: who
//!   says nothing is gone then. How long an answer may take is not bounded: some wait for hours of work.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// After an error of accept(2), which is about a connection that is gone, or about descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the end of a port waits for its last answers.
const DRAIN: Duration = Duration::from_secs(2);

/// What connections to a port may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Open connections.
    connections: usize,
    /// For the head of a request, the wait for it included.
    head: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections: 128, head: Duration::from_secs(10) }
    }
}

/// A port that is being served.
#[derive(Debug)]
pub struct Port {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Port {
    /// Serves on `listener`.
    pub fn start(listener: TcpListener, router: Router) -> Port {
        let (stop, stopped) = oneshot::channel();
        Port { stop, task: tokio::spawn(serve(listener, router, Bounds::default(), stopped)) }
    }

    /// Ends it.
    pub async fn stop(self) {
        let _gone = self.stop.send(());
        let mut task = self.task;
        if tokio::time::timeout(DRAIN, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Serves until `stopped` is told to, or its sender is gone; then until the requests that run have ended.
async fn serve(listener: TcpListener, router: Router, bounds: Bounds, mut stopped: oneshot::Receiver<()>) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let ending = GracefulShutdown::new();
    // Ended with this future: nothing outlives the port.
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(bounds.head);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = ending.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    ending.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(LIVE).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Whoever opened connections and said nothing kept them, and all descriptors of the server with them.
    #[tokio::test]
    async fn who_says_nothing_is_gone_and_others_are_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/live", get(|| async { "live\n" }));
        let (stop, stopped) = oneshot::channel();
        let bounds = Bounds { connections: 2, head: Duration::from_millis(300) };
        let port = tokio::spawn(serve(listener, router, bounds, stopped));
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // A head that never ends is none either.
        silent[1].write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(60), ask(address)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("live\n"), "{answer}");
        for mut stream in silent {
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "still open");
        }
        // One that is kept alive is closed when it is not used any more.
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), kept.read_to_string(&mut answer)).await;
        assert!(ended.is_ok() && answer.ends_with("live\n"), "{answer}");
        stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(60), port).await.unwrap().unwrap();
    }
}
