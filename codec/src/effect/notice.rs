//! What happens in buckets and is to be told to others: the rules, and what waits to be told.

use super::EffectError;
use bytes::Bytes;
use prost::Message;

/// What of a bucket is told to whom, as [`super::BucketConfigRow::body`] has it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NotificationRow {
    /// The rules, in the order in which they were sent.
    #[prost(message, repeated, tag = "1")]
    pub rules: Vec<NotificationRuleRow>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NotificationRuleRow {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The webhook's name, as operators gave it.
    #[prost(string, tag = "2")]
    pub webhook: String,
    /// Names of events, such as `s3:ObjectCreated:Put`; `*` at the end stands for the rest.
    #[prost(string, repeated, tag = "3")]
    pub events: Vec<String>,
    /// Keys begin so.
    #[prost(string, tag = "4")]
    pub prefix: String,
    /// Keys end so.
    #[prost(string, tag = "5")]
    pub suffix: String,
}

/// Something that happened to a key and waits to be told to one webhook.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NoticeRow {
    /// Which one it is.
    #[prost(message, optional, tag = "1")]
    pub name: Option<NoticeName>,
    /// [`NotificationRuleRow::id`].
    #[prost(string, tag = "2")]
    pub rule: String,
    /// The bucket's name.
    #[prost(string, tag = "3")]
    pub bucket: String,
    /// Canonical id of its owner.
    #[prost(string, tag = "4")]
    pub owner: String,
    /// The key.
    #[prost(string, tag = "5")]
    pub key: String,
    /// Such as `s3:ObjectCreated:Put`.
    #[prost(string, tag = "6")]
    pub event: String,
    /// Bytes of the version; 0 where it has none.
    #[prost(uint64, tag = "7")]
    pub size: u64,
    /// Its entity tag, without quotes; may be empty.
    #[prost(string, tag = "8")]
    pub etag: String,
    /// Its id; empty: the null version.
    #[prost(string, tag = "9")]
    pub version_id: String,
    /// Milliseconds since the Unix epoch, for people.
    #[prost(uint64, tag = "10")]
    pub at_ms: u64,
}

/// Names a notice. Those of one webhook are told in this order.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NoticeName {
    /// The webhook.
    #[prost(string, tag = "1")]
    pub webhook: String,
    /// The LSN of the entry in which it happened.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// Tells those of one entry apart.
    #[prost(uint32, tag = "3")]
    pub number: u32,
}

/// Changes of what waits to be told.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NoticesRow {
    /// What waits from now on.
    #[prost(message, repeated, tag = "1")]
    pub queued: Vec<NoticeRow>,
    /// What was told, or never will be.
    #[prost(message, repeated, tag = "2")]
    pub done: Vec<NoticeName>,
    /// What happened and is not told, because too much waits already. Each webhook once.
    #[prost(message, repeated, tag = "3")]
    pub lost: Vec<LostNoticesRow>,
    /// Webhooks of which what was lost counts no more: an operator has seen it.
    #[prost(string, repeated, tag = "4")]
    pub seen: Vec<String>,
}

/// Notices that were not queued.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LostNoticesRow {
    /// The webhook.
    #[prost(string, tag = "1")]
    pub webhook: String,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

impl NotificationRow {
    /// As [`super::BucketConfigRow::body`] has it.
    pub fn to_body(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// What [`NotificationRow::to_body`] made.
    pub fn of_body(body: Bytes) -> Result<NotificationRow, EffectError> {
        Ok(NotificationRow::decode(body)?)
    }
}
