//! Commands that wait for long work, with a progress bar where somebody looks.

use crate::admin_client::{AdminClient, ClientError};
use crate::keep_answers::{RepairAnswer, ScrubAnswer, ScrubDrive};
use crate::progress::{Progress, Unit};
use hyper::{Method, StatusCode};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a server is asked.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// So long it may be away.
const AWAY: Duration = Duration::from_secs(300);

/// Asks how far something is. A server that is started again meanwhile, or another one that comes to lead, does not end the wait.
pub(super) async fn answer<T>(ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(error) if is_away(&error) && begun.elapsed() < AWAY => tokio::time::sleep(EVERY).await,
            answer => return answer,
        }
    }
}

/// Whether time may mend it.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
        _ => false,
    }
}

/// Orders a pass on every drive and waits for its end. A drive that can't be read any more has no end to wait for: its scrub
/// is then `stopped`.
pub(super) async fn scrub(client: &AdminClient, json: bool) -> Result<ScrubAnswer, ClientError> {
    let before: ScrubAnswer = client.ask(Method::GET, "/v1/scrub").await?;
    let before: BTreeMap<String, u64> = before.drives.into_iter().map(|d| (d.drive, d.pass_began_ms)).collect();
    let mut answer: ScrubAnswer = client.ask(Method::POST, "/v1/scrub/start").await?;
    let progress = Progress::new("scrub", Unit::Bytes, json);
    loop {
        // An order begins a pass anew, also where one is under way.
        let begun = |drive: &ScrubDrive| before.get(&drive.drive) != Some(&drive.pass_began_ms);
        let ended = |drive: &ScrubDrive| {
            drive.state == "stopped" || (begun(drive) && drive.last_pass_ms >= drive.pass_began_ms)
        };
        let done = |drive: &ScrubDrive| match () {
            () if ended(drive) => drive.total_bytes,
            () if begun(drive) => drive.pass_bytes.min(drive.total_bytes),
            () => 0,
        };
        if answer.drives.iter().all(ended) {
            return Ok(answer);
        }
        let paused = answer.drives.iter().any(|drive| drive.state == "paused");
        progress.note(if paused { "paused: stele scrub resume" } else { "" });
        progress.set(answer.drives.iter().map(done).sum(), answer.drives.iter().map(|drive| drive.total_bytes).sum());
        tokio::time::sleep(EVERY).await;
        answer = client.ask(Method::GET, "/v1/scrub").await?;
    }
}

/// Waits until every stripe is whole, or repair can do nothing about those that are not: it is paused, or all of them wait.
pub(super) async fn repair(client: &AdminClient, json: bool) -> Result<RepairAnswer, ClientError> {
    let progress = Progress::new("repair", Unit::Things, json);
    let mut most = 0;
    loop {
        let answer = answer(|| client.ask::<RepairAnswer>(Method::GET, "/v1/repair")).await?;
        let wounded: u64 = answer.by_slack.iter().map(|line| line.stripes).sum();
        if answer.whole_walk && !answer.walking && (answer.paused || wounded <= answer.waiting) {
            return Ok(answer);
        }
        most = most.max(wounded);
        progress.note(if answer.walking { "stripes are being counted" } else { "stripes" });
        progress.set(most - wounded, most);
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Without this a wait of hours ended with the first restart of the server that was asked.
    #[tokio::test]
    async fn a_server_may_be_away_for_a_while_and_what_is_wrong_is_said_at_once() {
        let refused = |status| ClientError::Refused { status, message: "no".to_owned() };
        let asked = Cell::new(0);
        let answered = answer(async || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => Err(ClientError::Unreachable { url: String::new(), reason: String::new() }),
                2 => Err(refused(StatusCode::SERVICE_UNAVAILABLE)),
                n => Ok(n),
            }
        });
        assert_eq!(answered.await.unwrap(), 3);
        let wrong = answer(async || Err::<(), _>(refused(StatusCode::NOT_FOUND))).await;
        assert!(matches!(wrong, Err(ClientError::Refused { .. })));
    }
}
