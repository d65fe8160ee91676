//! Fixity reports: `stele fixity` and `POST /v1/fixity`.
//!
//! The server makes pages ([`route`], from `metadata::keep::fixity`), the command asks for one after the other and writes
//! each object as it comes ([`report`]), as text, CSV ([`csv`]), JSON Lines or PREMIS 3.0 ([`premis`]). Neither holds more
//! than a page.

pub mod answers;
mod csv;
mod premis;
pub mod report;
pub(crate) mod route;
mod text;
