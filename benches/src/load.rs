//! Runs one operation with a number of workers for a bounded time, and reports.

use crate::LoadError;
use crate::client::{Connection, Endpoint};
use crate::data::{DataSource, mix};
use crate::process::ServerProcess;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Operation {
    /// Upload new objects.
    Put,
    /// Read whole objects that were put before.
    Get,
    /// Read a range from the middle of an object.
    Range,
    /// List the prefix, 1000 keys a page; one operation is one page.
    List,
}

/// One measurement's shape.
pub struct Plan {
    /// The bucket.
    pub bucket: String,
    /// Prefix of all keys.
    pub prefix: String,
    /// Bytes per object.
    pub size: u64,
    /// Number of the first object's content. What was put before under another key is stored once, and put faster.
    pub content: u64,
    /// Parallel clients.
    pub workers: usize,
    /// Bytes per ranged GET.
    pub range: u64,
    /// No operation starts after this time.
    pub limit: Duration,
    /// No more operations than this.
    pub max_ops: u64,
    /// Compare bytes on GET.
    pub verify: bool,
}

/// What was measured.
#[derive(Serialize)]
pub struct Report {
    /// What.
    pub operation: String,
    /// Bytes per object.
    pub size: u64,
    /// Parallel clients.
    pub workers: usize,
    /// How many operations ended.
    pub operations: u64,
    /// How long it took.
    pub seconds: f64,
    /// 10^6 bytes per second.
    pub megabytes_per_second: f64,
    /// Operations per second.
    pub operations_per_second: f64,
    keys_per_second: Option<f64>,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency in milliseconds.
    pub p99_ms: f64,
    cpu_seconds_per_gb: Option<f64>,
    cpu_ms_per_operation: Option<f64>,
    peak_rss_mib: Option<u64>,
}

struct Tally {
    latencies: Vec<Duration>,
    bytes: u64,
    keys: u64,
}

impl Plan {
    /// Runs `operation`, the workers in turn at these endpoints; `stored` is how many objects exist, and grows with PUT.
    pub async fn run(
        &self,
        operation: Operation,
        endpoints: &[Endpoint],
        data: &Arc<DataSource>,
        stored: &mut u64,
        server: Option<&ServerProcess>,
    ) -> Result<Report, LoadError> {
        if operation != Operation::Put && *stored == 0 {
            return Err(LoadError::NothingStored("get, range or list"));
        }
        let next = AtomicU64::new(if operation == Operation::Put { *stored } else { 0 });
        let first = next.load(Ordering::Relaxed);
        let cpu_before = server.and_then(ServerProcess::cpu_seconds);
        let started = Instant::now();
        let workers = endpoints.iter().cycle().take(self.workers);
        let workers = workers.map(|at| self.worker(operation, at, data, &next, first, *stored, started));
        let tallies = futures::future::try_join_all(workers).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let cpu = server.and_then(ServerProcess::cpu_seconds).zip(cpu_before).map(|(after, before)| after - before);
        if operation == Operation::Put {
            *stored = next.load(Ordering::Relaxed).min(first + self.max_ops);
        }
        Ok(self.report(operation, tallies, elapsed, cpu, server.and_then(ServerProcess::peak_rss_mib)))
    }

    #[allow(clippy::too_many_arguments)]
    async fn worker(
        &self,
        operation: Operation,
        endpoint: &Endpoint,
        data: &Arc<DataSource>,
        next: &AtomicU64,
        first: u64,
        stored: u64,
        started: Instant,
    ) -> Result<Tally, LoadError> {
        let mut connection = endpoint.connect().await?;
        let mut tally = Tally { latencies: Vec::new(), bytes: 0, keys: 0 };
        let mut token = None;
        loop {
            // The time is looked at before a number is taken: one that was taken and not used would look stored.
            if started.elapsed() >= self.limit && !tally.latencies.is_empty() {
                return Ok(tally);
            }
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n - first >= self.max_ops {
                return Ok(tally);
            }
            match operation {
                Operation::Put => self.put(&mut connection, data, n, &mut tally).await?,
                Operation::Get => self.get(&mut connection, data, mix(n) % stored, None, &mut tally).await?,
                Operation::Range => {
                    let start = mix(n ^ 1) % (self.size - self.range + 1);
                    self.get(&mut connection, data, mix(n) % stored, Some(start), &mut tally).await?;
                }
                Operation::List => {
                    let begun = Instant::now();
                    let (keys, following) = connection.list(&self.bucket, &self.prefix, token.as_deref()).await?;
                    tally.latencies.push(begun.elapsed());
                    tally.keys += keys;
                    token = following;
                }
            }
        }
    }

    fn key(&self, n: u64) -> String {
        // Spread over 256 folders, as documents are.
        format!("{}{:02x}/{n:010}", self.prefix, mix(n) & 0xff)
    }

    async fn put(
        &self,
        connection: &mut Connection,
        data: &Arc<DataSource>,
        n: u64,
        tally: &mut Tally,
    ) -> Result<(), LoadError> {
        let body = data.object(self.content + n);
        let begun = Instant::now();
        connection.put(&self.bucket, &self.key(n), body).await?;
        tally.latencies.push(begun.elapsed());
        tally.bytes += self.size;
        Ok(())
    }

    async fn get(
        &self,
        connection: &mut Connection,
        data: &Arc<DataSource>,
        n: u64,
        start: Option<u64>,
        tally: &mut Tally,
    ) -> Result<(), LoadError> {
        let key = self.key(n);
        let range = start.filter(|_| self.range > 0).map(|start| (start, start + self.range - 1));
        let wanted = self.verify.then(|| {
            let whole = data.object(self.content + n);
            match range {
                Some((first, last)) => whole.slice(first as usize..=last as usize),
                None => whole,
            }
        });
        let mut got = Vec::new();
        let begun = Instant::now();
        let length = connection
            .get(&self.bucket, &key, range, |piece| {
                if wanted.is_some() {
                    got.extend_from_slice(piece);
                }
            })
            .await?;
        tally.latencies.push(begun.elapsed());
        tally.bytes += length;
        let expected = range.map_or(self.size, |(first, last)| last - first + 1);
        if length != expected || wanted.is_some_and(|wanted| wanted != got) {
            return Err(LoadError::WrongBytes { key });
        }
        Ok(())
    }

    fn report(
        &self,
        operation: Operation,
        tallies: Vec<Tally>,
        seconds: f64,
        cpu: Option<f64>,
        rss: Option<u64>,
    ) -> Report {
        let bytes: u64 = tallies.iter().map(|t| t.bytes).sum();
        let keys: u64 = tallies.iter().map(|t| t.keys).sum();
        let mut latencies: Vec<Duration> = tallies.into_iter().flat_map(|t| t.latencies).collect();
        latencies.sort_unstable();
        let operations = latencies.len() as u64;
        let quantile = |q: f64| {
            let at = ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
            latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        Report {
            operation: format!("{operation:?}").to_uppercase(),
            size: self.size,
            workers: self.workers,
            operations,
            seconds,
            megabytes_per_second: bytes as f64 / 1e6 / seconds,
            operations_per_second: operations as f64 / seconds,
            keys_per_second: (operation == Operation::List).then_some(keys as f64 / seconds),
            p50_ms: quantile(0.50),
            p99_ms: quantile(0.99),
            cpu_seconds_per_gb: cpu.filter(|_| bytes > 0).map(|cpu| cpu / (bytes as f64 / 1e9)),
            cpu_ms_per_operation: cpu.filter(|_| operations > 0).map(|cpu| cpu * 1e3 / operations as f64),
            peak_rss_mib: rss,
        }
    }
}

impl Report {
    /// The heading of the table that [`fmt::Display`] prints the rows of.
    pub fn heading() -> String {
        format!(
            "{:<6} {:>9} {:>7} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
            "op", "bytes", "clients", "ops", "MB/s", "ops/s", "p50 ms", "p99 ms", "CPU s/GB", "CPU ms/op", "RSS MiB"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
        write!(
            f,
            "{:<6} {:>9} {:>7} {:>8} {:>9.1} {:>9.1} {:>9.2} {:>9.2} {:>9} {:>9} {:>8}",
            self.operation,
            self.size,
            self.workers,
            self.operations,
            self.megabytes_per_second,
            self.operations_per_second,
            self.p50_ms,
            self.p99_ms,
            number(self.cpu_seconds_per_gb),
            number(self.cpu_ms_per_operation),
            self.peak_rss_mib.map_or("-".to_owned(), |v| v.to_string()),
        )?;
        if let Some(keys) = self.keys_per_second {
            write!(f, "  {keys:.0} keys/s")?;
        }
        Ok(())
    }
}
