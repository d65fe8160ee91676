//! What the admin port says about replication, and what it is asked.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationAnswer {
    /// One for each bucket that is copied elsewhere, by name.
    pub rules: Vec<RuleAnswer>,
}

/// How a bucket is copied elsewhere, and how far that is. Never its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAnswer {
    /// The bucket; its number when it was deleted.
    pub bucket: String,
    /// The other endpoint.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket there.
    pub target: String,
    /// The access key there.
    pub access_key: String,
    /// What is deleted here is deleted there.
    pub deletes: bool,
    /// Older versions are copied, too.
    pub versions: bool,
    /// `copying`, `paused`, `failing` or `idle`.
    pub state: String,
    /// All that the bucket held when this was set is in the queue, or was copied.
    pub walked: bool,
    /// Keys that wait.
    pub waiting: u64,
    /// Seconds that the copy is behind: the age of the oldest change that it may lack; 0 when it lacks none.
    pub lag_seconds: u64,
    /// Keys that failed, by reason, and are tried again.
    pub failing: BTreeMap<String, u64>,
    /// What failed last; empty when nothing fails.
    pub error: String,
    /// Objects copied since the start.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Objects deleted there since the start.
    pub deleted: u64,
    /// Keys that were the same already, since the start.
    pub same: u64,
}

impl RuleAnswer {
    /// Nothing fails, and nothing waits for longer than `limit_seconds`.
    pub fn is_well(&self, limit_seconds: u64) -> bool {
        self.failing.is_empty() && (self.state == "paused" || self.lag_seconds <= limit_seconds)
    }
}

/// `POST /v1/replication/set`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetQuestion {
    /// The bucket.
    pub bucket: String,
    /// `http://` or `https://`, host and port.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket there.
    pub target: String,
    /// The access key there.
    pub access_key: String,
    /// The secret key there.
    pub secret_key: String,
    /// Delete there what is deleted here.
    #[serde(default)]
    pub deletes: bool,
    /// Copy older versions, too: the bucket there must keep versions.
    #[serde(default)]
    pub versions: bool,
    /// Buckets are host names there.
    #[serde(default)]
    pub virtual_host: bool,
    /// Don't ask the endpoint first whether the keys open the bucket.
    #[serde(default)]
    pub unchecked: bool,
}

impl std::fmt::Debug for SetQuestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetQuestion").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// `POST /v1/replication/unset`, `pause` and `resume`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketQuestion {
    /// The bucket; a number for one that was deleted.
    pub bucket: String,
}

/// `POST /v1/replication/verify`: compares a page of both sides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyQuestion {
    /// The bucket.
    pub bucket: String,
    /// Only what sorts after this key; empty: from the start.
    #[serde(default)]
    pub after: String,
    /// Queue what is missing or differs there.
    #[serde(default)]
    pub repair: bool,
    /// Compare keys, sizes and entity tags only, as the listings have them.
    #[serde(default)]
    pub quick: bool,
}

/// What comparing a page came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// Keys that are the same on both sides.
    pub same: u64,
    /// Keys that changed lately and wait to be copied.
    pub waiting: u64,
    /// Keys that are there and not here, and stay there, as the rule says.
    pub kept: u64,
    /// Keys that are not the same.
    pub differences: Vec<Difference>,
    /// Those of them that were queued to be copied again.
    pub queued: u64,
    /// To be the `after` of the next page, if there is one.
    pub next: Option<String>,
}

/// A key that is not the same on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// The version here that this is about, where versions are copied; empty for the key.
    #[serde(default)]
    pub version: String,
    /// `missing` (there), `extra` (there and not here), `differs`, or `unknown`: the other endpoint does not let it be looked at.
    pub kind: String,
    /// Bytes and entity tag here; empty when it is not.
    pub here: String,
    /// Bytes and entity tag there; empty when it is not.
    pub there: String,
    /// In what it differs; why it can't be looked at.
    #[serde(default)]
    pub what: Vec<Unlike>,
}

/// Something of an object that is not the same on both sides. Long values are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlike {
    /// `size`, `etag`, a header's name, `tag ` and the key of a tag, `tags` where none can be read there, or `head`.
    pub name: String,
    /// What it is here; nothing when it is not.
    pub here: Option<String>,
    /// What it is there; nothing when it is not.
    pub there: Option<String>,
}
