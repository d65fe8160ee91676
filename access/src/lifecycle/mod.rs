//! Lifecycle rules: [`rule`] what they may say, [`plan`] what becomes of the versions of a key, [`restore`] when an archived version can
//! be read.
//!
//! Source: Amazon S3 User Guide, "Managing the lifecycle of objects", with "Lifecycle configuration elements", "Expiring objects",
//! "Lifecycle and other bucket configurations", "Restoring an archived object".
//!
//! Invariant: nothing here deletes. What is planned goes the way of every other delete, through what Object Lock allows at that
//! moment; a plan that is carried out late or twice does no harm.

pub mod plan;
pub mod restore;
pub mod rule;
