//! The server access log: a line for each request to a bucket that has a target for it, delivered into that target as objects.
//!
//! Source: Amazon S3 User Guide, "Logging requests with server access logging" and "Amazon S3 server access log format".
//!
//! Lines wait in memory, and become an object when they are many or old. As with S3, a line may be lost (with the process, or when
//! its target can't be written for long) and may come late: whoever must know what happened has the audit log.
//!
//! Invariants:
//! * All that waits is at most [`MOST`] bytes, and of one bucket never more than is left for the others; what comes beyond that is
//!   lost, and counted in the log.
//! * A line is delivered only where the target's policy lets the logging service in at the time of delivery, and nothing is logged
//!   about a delivery.
//! * No lock is held across an await.

pub mod line;

use crate::configs::Remembered;
use crate::engine::{Body, Claims, Gateway, PutRequest};
use crate::error::PutError;
use crate::s3::logging;
use bytes::Bytes;
use codec::effect::{BucketRow, ConfigKind, ObjectMeta};
use line::Line;
use metadata::client::MetadataClient;
use metadata::command::{Attached, Condition};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Bytes of lines of one bucket that become an object at once.
const FULL: usize = 1 << 20;
/// Bytes of lines that wait, of all buckets.
const MOST: usize = 32 << 20;
/// How often a delivery that fails is tried again, at the pace of deliveries.
const TRIES: u32 = 5;
/// For one delivery.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the lines of a bucket go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The bucket.
    pub bucket: String,
    /// What keys begin with.
    pub prefix: String,
    /// Keys are `PREFIX ACCOUNT/REGION/BUCKET/YYYY/MM/DD/...`.
    pub partitioned: bool,
}

/// What is found out about a request while it is decided about: an extension of it.
#[derive(Debug, Default)]
pub struct Slot {
    requester: OnceLock<String>,
    bucket: OnceLock<Option<Arc<BucketRow>>>,
}

impl Slot {
    /// Who asks, as the log has it: a canonical id or an ARN; empty for nobody. The first one counts.
    pub fn set_requester(&self, requester: impl Into<String>) {
        self.requester.get_or_init(|| requester.into());
    }

    /// The bucket. The first one counts.
    pub fn set_bucket(&self, bucket: &BucketRow) {
        // One that has no configuration has no log, either.
        self.bucket.get_or_init(|| (bucket.config_seq > 0).then(|| Arc::new(bucket.clone())));
    }

    /// Who asks; empty as long as that is not known.
    pub fn requester(&self) -> &str {
        self.requester.get().map_or("", String::as_str)
    }

    /// The bucket: `None` as long as it is not known, `Some(None)` if it has nothing configured.
    pub fn bucket(&self) -> Option<Option<Arc<BucketRow>>> {
        self.bucket.get().cloned()
    }
}

/// Where the lines of one bucket come from and go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Way {
    source: String,
    /// The account that the source belongs to.
    owner: String,
    region: String,
    target: Target,
}

#[derive(Debug)]
struct Waiting {
    lines: String,
    since: Instant,
    tries: u32,
}

impl Waiting {
    /// Whether it is enough for an object. What could not be delivered is not tried again because it is much, but when its time has
    /// come: a target that is away for a while would be given up after a few tries in a row.
    fn is_full(&self) -> bool {
        self.tries == 0 && self.lines.len() >= FULL
    }
}

#[derive(Debug, Default)]
struct Waits {
    by: HashMap<Way, Waiting>,
    bytes: usize,
    lost: u64,
}

impl Waits {
    /// Keeps a line, if there is room. Whether it is enough for an object now.
    fn add(&mut self, way: Way, line: &str) -> bool {
        let own = self.by.get(&way).map_or(0, |waiting| waiting.lines.len());
        // Whoever is asked most must leave room: lines that nobody takes would be all that there are.
        if self.bytes + own + line.len() > MOST {
            self.lost += 1;
            return false;
        }
        self.bytes += line.len();
        let fresh = || Waiting { lines: String::new(), since: Instant::now(), tries: 0 };
        let waiting = self.by.entry(way).or_insert_with(fresh);
        waiting.lines.push_str(line);
        waiting.is_full()
    }
}

/// The lines of one process that wait. See the module.
pub struct AccessLog {
    gateway: Weak<Gateway>,
    targets: Remembered<Target>,
    waits: Mutex<Waits>,
    /// Somebody's lines are many.
    full: Notify,
    every: Duration,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLog")
    }
}

impl AccessLog {
    /// Lines are delivered through `gateway`, at the latest after [`crate::engine::Config::access_log_every`].
    pub fn new(gateway: &Arc<Gateway>) -> AccessLog {
        AccessLog {
            gateway: Arc::downgrade(gateway),
            targets: Remembered::new(ConfigKind::Logging, logging::kept),
            waits: Mutex::default(),
            full: Notify::new(),
            every: gateway.config().access_log_every,
        }
    }

    /// Where requests to this bucket are logged, if they are.
    pub async fn target(&self, meta: &dyn MetadataClient, bucket: &BucketRow) -> Option<Arc<Target>> {
        // What can't be read now has been logged where it failed, and no request waits for its log.
        self.targets.get(meta, bucket).await.ok().flatten()
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a line until it is delivered.
    pub fn add(&self, bucket: &BucketRow, target: &Target, line: &Line) {
        let way = Way {
            source: bucket.name.clone(),
            owner: bucket.owner.clone(),
            region: crate::s3::bucket::region(bucket),
            target: target.clone(),
        };
        if self.waits().add(way, &line.to_string()) {
            self.full.notify_one();
        }
    }

    /// Takes what is due: all of it with `all`.
    fn due(&self, all: bool) -> Vec<(Way, Waiting)> {
        let mut waits = self.waits();
        if std::mem::take(&mut waits.lost) > 0 {
            tracing::warn!("lines of access logs were lost: more of them wait than are kept");
        }
        let is_due = |waiting: &Waiting| all || waiting.is_full() || waiting.since.elapsed() >= self.every;
        let ways: Vec<Way> = waits.by.iter().filter(|(_, w)| is_due(w)).map(|(way, _)| way.clone()).collect();
        ways.into_iter().filter_map(|way| waits.by.remove(&way).map(|waiting| (way, waiting))).collect()
    }

    /// Puts back what could not be delivered, before what has come since.
    fn put_back(&self, way: Way, mut waiting: Waiting) {
        let mut waits = self.waits();
        waiting.tries += 1;
        waiting.since = Instant::now();
        if let Some(newer) = waits.by.remove(&way) {
            waiting.lines.push_str(&newer.lines);
        }
        waits.by.insert(way, waiting);
    }

    /// Delivers what is due, until `stop` is true; then everything.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let step = (self.every / 4).clamp(Duration::from_millis(50), Duration::from_secs(30));
            let ended = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => true,
                () = self.full.notified() => false,
                () = tokio::time::sleep(step) => false,
            };
            self.deliver(ended).await;
            if ended {
                return;
            }
        }
    }

    /// Delivers what is due: all of it with `all`.
    pub async fn deliver(&self, all: bool) {
        for (way, waiting) in self.due(all) {
            let (bytes, lines) = (waiting.lines.len(), Bytes::copy_from_slice(waiting.lines.as_bytes()));
            let delivered =
                tokio::time::timeout(PATIENCE, self.deliver_one(&way, lines)).await.unwrap_or(Outcome::Later);
            if delivered == Outcome::Later && waiting.tries + 1 < TRIES && !all {
                self.put_back(way, waiting);
                continue;
            }
            if delivered != Outcome::Done {
                tracing::warn!(
                    source = way.source,
                    target = way.target.bucket,
                    bytes,
                    ?delivered,
                    "lines of an access log were not delivered"
                );
            }
            let mut waits = self.waits();
            waits.bytes = waits.bytes.saturating_sub(bytes);
        }
    }

    async fn deliver_one(&self, way: &Way, lines: Bytes) -> Outcome {
        let Some(gateway) = self.gateway.upgrade() else { return Outcome::Later };
        let meta = gateway.metadata().as_ref();
        let bucket = match meta.bucket(&way.target.bucket).await {
            Ok(Some(bucket)) => bucket,
            Ok(None) => return Outcome::Refused,
            Err(_) => return Outcome::Later,
        };
        let key = key(way);
        match logging::lets_in(meta, &bucket, &key, &way.source, &way.owner).await {
            Ok(true) => {}
            Ok(false) => return Outcome::Refused,
            Err(_) => return Outcome::Later,
        }
        match store(&gateway, bucket, key, lines).await {
            Ok(()) => Outcome::Done,
            Err(PutError::Unavailable(_) | PutError::Busy | PutError::ReadOnly(_) | PutError::Full) => Outcome::Later,
            Err(_) => Outcome::Refused,
        }
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It may be tried again.
    Later,
    /// It makes no sense to.
    Refused,
}

/// A key that sorts by time.
fn key(way: &Way) -> String {
    let now = jiff::Timestamp::now();
    let mut random = [0; 8];
    // Without randomness the time alone has to do: two of one second would be one object.
    let unique = match getrandom::fill(&mut random) {
        Ok(()) => hex::encode_upper(random),
        Err(_) => format!("{:016X}", now.subsec_nanosecond()),
    };
    let stamp = now.strftime("%Y-%m-%d-%H-%M-%S");
    match way.target.partitioned {
        false => format!("{}{stamp}-{unique}", way.target.prefix),
        true => format!(
            "{}{}/{}/{}/{}/{stamp}-{unique}",
            way.target.prefix,
            way.owner,
            way.region,
            way.source,
            now.strftime("%Y/%m/%d")
        ),
    }
}

/// Stores what the server itself has to say, as the bucket's owner's own.
pub async fn store(gateway: &Gateway, bucket: BucketRow, key: String, bytes: Bytes) -> Result<(), PutError> {
    let request = PutRequest {
        encrypt: crate::s3::encryption::default_of(&bucket),
        bucket,
        key,
        meta: ObjectMeta { content_type: "text/plain".to_owned(), ..ObjectMeta::default() },
        length: Some(bytes.len() as u64),
        condition: Condition::None,
        claims: Claims::default(),
        attached: Attached::default(),
    };
    let body: Body = Box::pin(futures::stream::iter([Ok(bytes)]));
    gateway.put_object(request, body).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(source: &str) -> Way {
        let target = Target { bucket: "logs".to_owned(), prefix: String::new(), partitioned: false };
        Way { source: source.to_owned(), owner: String::new(), region: String::new(), target }
    }

    #[test]
    fn who_is_asked_most_leaves_room_for_the_others() {
        let (mut waits, line) = (Waits::default(), "x".repeat(16 << 10));
        for _ in 0..2 * MOST / line.len() {
            waits.add(way("busy"), &line);
        }
        assert!(waits.bytes <= MOST / 2 && waits.lost > 0, "{}", waits.bytes);
        let lost = waits.lost;
        for _ in 0..100 {
            waits.add(way("quiet"), &line);
        }
        assert_eq!(waits.lost, lost);
    }

    #[test]
    fn what_could_not_be_delivered_waits_for_its_time() {
        let mut waiting = Waiting { lines: "x".repeat(FULL), since: Instant::now(), tries: 0 };
        assert!(waiting.is_full());
        waiting.tries = 1;
        assert!(!waiting.is_full());
    }
}
