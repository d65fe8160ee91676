//! The lifecycle rules of a bucket, as [`super::BucketConfigRow::body`] has them: the leader follows them, and clients get them back
//! as they were sent.

use super::Tag;
use prost::Message;

/// A bucket's lifecycle.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LifecycleRow {
    /// The rules, in the order in which they were sent.
    #[prost(message, repeated, tag = "1")]
    pub rules: Vec<LifecycleRuleRow>,
    /// `x-amz-transition-default-minimum-object-size` as sent; may be empty.
    #[prost(string, tag = "2")]
    pub minimum_size: String,
}

/// Where a rule says which objects it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FilterPlace {
    /// In the rule itself: a prefix, as the first version of the API had it.
    Rule = 0,
    /// In its filter.
    Filter = 1,
    /// In the conjunction of its filter.
    And = 2,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LifecycleRuleRow {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// It is followed.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
    /// Where what follows stood.
    #[prost(enumeration = "FilterPlace", tag = "3")]
    pub place: i32,
    /// Keys begin so.
    #[prost(string, optional, tag = "4")]
    pub prefix: Option<String>,
    /// Objects have these tags.
    #[prost(message, repeated, tag = "5")]
    pub tags: Vec<Tag>,
    /// Objects are larger, in bytes.
    #[prost(uint64, optional, tag = "6")]
    pub larger_than: Option<u64>,
    /// Objects are smaller, in bytes.
    #[prost(uint64, optional, tag = "7")]
    pub smaller_than: Option<u64>,
    /// When current versions expire.
    #[prost(message, optional, tag = "8")]
    pub expiration: Option<LifecycleWhen>,
    /// `ExpiredObjectDeleteMarker` as sent.
    #[prost(bool, optional, tag = "9")]
    pub lone_markers: Option<bool>,
    /// When noncurrent versions go.
    #[prost(message, optional, tag = "10")]
    pub noncurrent: Option<LifecycleNoncurrent>,
    /// Moves of current versions.
    #[prost(message, repeated, tag = "11")]
    pub transitions: Vec<LifecycleTransition>,
    /// Moves of noncurrent versions.
    #[prost(message, repeated, tag = "12")]
    pub noncurrent_transitions: Vec<LifecycleNoncurrentTransition>,
    /// Uploads are dropped so many days after they were opened.
    #[prost(uint32, optional, tag = "13")]
    pub abort_days: Option<u32>,
}

/// When something happens: one of the two.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LifecycleWhen {
    /// So many days after the version was put.
    #[prost(uint32, optional, tag = "1")]
    pub days: Option<u32>,
    /// At midnight of a day in UTC, in milliseconds since the Unix epoch.
    #[prost(uint64, optional, tag = "2")]
    pub date_ms: Option<u64>,
}

/// When something happens to noncurrent versions.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LifecycleNoncurrent {
    /// So many days after they became noncurrent.
    #[prost(uint32, tag = "1")]
    pub days: u32,
    /// But the newest so many stay.
    #[prost(uint32, optional, tag = "2")]
    pub newer: Option<u32>,
}

/// A move of current versions.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LifecycleTransition {
    /// When.
    #[prost(message, optional, tag = "1")]
    pub when: Option<LifecycleWhen>,
    /// The storage class, by its S3 name.
    #[prost(string, tag = "2")]
    pub class: String,
}

/// A move of noncurrent versions.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LifecycleNoncurrentTransition {
    /// When, and which stay.
    #[prost(message, optional, tag = "1")]
    pub when: Option<LifecycleNoncurrent>,
    /// The storage class, by its S3 name.
    #[prost(string, tag = "2")]
    pub class: String,
}
