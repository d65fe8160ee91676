//! The S3 API on `s3s`: parsing, routing and signatures are that library's; meaning is ours.
//!
//! [`service`] lists the operations that exist (every other one is refused before its body is read), [`bucket`],
//! [`object`], [`attributes`], [`multipart`] and [`list`] are their handlers, [`copy`] the copying ones, [`unconfigured`]
//! answers for settings that nothing can be set to yet, [`request`] and [`answer`] turn headers into the engine's words and
//! back, and [`error`] is the only place where an error becomes an S3 code.
//!
//! Invariants:
//! * A handler runs only after [`crate::auth`] has let the caller through to the bucket.
//! * A header that asks for a protection which is not given is refused, never ignored.

pub mod answer;
pub mod attributes;
pub mod bucket;
pub mod conditions;
pub mod copy;
pub mod error;
pub mod list;
pub mod multipart;
pub mod object;
pub mod request;
pub mod service;
pub mod unconfigured;
