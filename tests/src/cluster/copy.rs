//! The second copy of the load's bucket: a `stele serve` that replication writes to, through a gate, as one of the processes.

use crate::cluster::load::{BUCKET, PROBE_TIME, Shared, Worker};
use crate::cluster::site::{AGAIN, PATIENCE, Site};
use crate::process::{ACCESS_KEY, SECRET_KEY};
use crate::s3::Random;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name of its process.
pub const COPY: &str = "copy";
/// Drives of it.
const DRIVES: usize = 3;
/// How long the copy may take to have everything once nothing happens any more.
const COPIED: Duration = Duration::from_secs(300);

impl Site {
    /// Starts the other server, and lets the bucket be copied there from now on, deletes included.
    pub async fn copied_elsewhere(&self) -> Result<(), String> {
        let place = self.place(COPY).await;
        let program = self.builder().server(&place, DRIVES);
        self.supervisor.add(COPY, program);
        self.supervisor.start(COPY);
        self.supervisor.ready(COPY, PATIENCE).await?;
        let nothing = Shared::new(0);
        let mut there = Worker::with(0, &[format!("http://{}", place.listen)], Random::new(0), &nothing, PATIENCE);
        there.make_bucket().await.map_err(|_| format!("no bucket there: {:?}", nothing.history.figures().failures))?;
        let endpoint = format!("http://{}", place.gate);
        let set = ["replication", "set", BUCKET, "--endpoint", &endpoint, "--access-key", ACCESS_KEY, "--deletes"];
        let begun = Instant::now();
        loop {
            let leader = self.path(&self.leader().await);
            let environment = [("STELE_REPLICATION_SECRET_KEY", SECRET_KEY)];
            let output = self.stele_with(&[&set[..], &["--data", &leader]].concat(), &environment).await;
            if output.status.success() {
                self.builder().copy = Some(place.listen);
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("replication set: {}", String::from_utf8_lossy(&output.stderr)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether there is one.
    pub fn has_copy(&self) -> bool {
        self.builder().copy.is_some()
    }

    async fn replication(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let leader = self.path(&self.leader().await);
        let all = [&["replication"], arguments, &["--json", "--data", &leader]].concat();
        let output = self.stele(&all).await;
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// Waits until nothing waits to be copied, and compares both sides. `Err`: what is not the same, or waits. Nothing may be changed
    /// meanwhile.
    pub async fn is_copied(&self, shared: &Arc<Shared>) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let (_, answer) = self.replication(&["status"]).await;
            let rule = &answer["rules"][0];
            if rule["walked"] == true && rule["waiting"] == 0 {
                break;
            }
            if begun.elapsed() > COPIED {
                return Err(format!("it is not copied: {answer:#}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
        let copied = begun.elapsed();
        let (code, answer) = self.replication(&["verify", BUCKET]).await;
        if code != Some(0) {
            return Err(format!("verify ends with {code:?}: {answer:#}"));
        }
        let copy = self.builder().copy.map(|address| format!("http://{address}")).unwrap_or_default();
        let (here, there) = (self.listed(&self.endpoints(), shared).await?, self.listed(&[copy], shared).await?);
        for key in here.keys().chain(there.keys()) {
            if here.get(key) != there.get(key) {
                return Err(format!("{key} is {:?} here and {:?} there", here.get(key), there.get(key)));
            }
        }
        println!("{} objects are the same elsewhere, {copied:.1?} after the last change", here.len());
        Ok(())
    }

    async fn listed(&self, at: &[String], shared: &Arc<Shared>) -> Result<super::load::Listed, String> {
        let lister = Worker::with(0, at, Random::new(0), shared, PROBE_TIME);
        let begun = Instant::now();
        loop {
            if let Ok(listed) = lister.listed("").await {
                return Ok(listed);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no listing through {at:?}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
