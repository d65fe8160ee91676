//! The S3 API on `s3s`: parsing, routing and signatures are that library's; meaning is ours.
//!
//! [`support`] says what there is of S3 (every other operation is refused before its body is read), [`service`], [`bucket`],
//! [`object`], [`attributes`], [`multipart`] and [`list`] are their handlers, [`acl`], [`policy`] and [`public_access`] those of who
//! may do what, [`copy`] the copying ones, [`unconfigured`]
//! answers for settings that nothing can be set to yet, [`request`] and [`answer`] turn headers into the engine's words and
//! back, and [`error`] is the only place where an error becomes an S3 code.
//!
//! Invariants:
//! * A handler runs only after [`crate::auth`] has let the caller through to the bucket.
//! * A header that asks for a protection which is not given is refused, never ignored.

pub mod acl;
pub mod answer;
pub mod archive;
pub mod attributes;
pub mod bucket;
pub mod bucket_tags;
pub mod conditions;
pub mod copy;
pub mod cors;
pub mod delete;
pub mod encryption;
pub mod error;
pub mod inventory;
pub mod lifecycle;
pub mod list;
pub mod lock;
pub mod logging;
pub mod multipart;
pub mod notification;
pub mod object;
pub mod policy;
pub mod public_access;
pub mod request;
pub mod service;
pub mod support;
pub mod tagging;
pub mod tags;
pub mod unconfigured;
pub mod version;
