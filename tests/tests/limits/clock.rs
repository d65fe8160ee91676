//! A clock that is set ahead and back again.

use super::*;
use std::time::{SystemTime, UNIX_EPOCH};
use tests::cluster::clock::Clocks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DAYS: i64 = 40;

/// The `Date` line of an answer.
async fn date(config: &ServerConfig) -> String {
    let mut stream = TcpStream::connect(config.s3()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let line = answer.lines().find_map(|line| line.to_lowercase().strip_prefix("date: ").map(str::to_owned));
    line.unwrap_or_else(|| panic!("no date: {answer}"))
}

/// Whether a line says today's day, or that of a minute ago.
fn is_today(line: &str) -> bool {
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let days = [now, now - 60_000]
        .map(|ms| gateway::s3::answer::http_date(ms).unwrap().to_str().unwrap()[..16].to_lowercase());
    days.iter().any(|day| line.starts_with(day))
}

/// SDKs correct their clocks by that line: were it that of a time that is over, all that they sign would be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_says_the_time_after_the_clock_was_set_back() {
    let directory = tempfile::tempdir().unwrap();
    let Some(clocks) = Clocks::new(directory.path()) else { return };
    let mut config = ServerConfig::new(directory.path().join("data"), 1);
    config.environment.extend(clocks.environment("server"));
    let server = config.start().await;
    let set = |days: i64| clocks.set("server", days * 86_400);
    set(DAYS);
    // Each thread of the server remembers a time of its own.
    for _ in 0..20 {
        assert!(!is_today(&date(&config).await), "the clock was not set");
    }
    set(0);
    for _ in 0..20 {
        let line = date(&config).await;
        assert!(is_today(&line), "{line}");
    }
    assert!(server.stop().await.success());
}
