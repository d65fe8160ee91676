//! The S3 side of Stele: what happens between an S3 client and the words of `metadata`.
//!
//! [`engine`] has the types; the data path reads from the file names: [`put`] (body to chunks to frames),
//! [`stripe_pool`] (frames to stripes), [`commit`] (manifest and commit), [`get`] (manifest to verified bytes),
//! [`multipart`] and [`copy`] on top of them. [`digest`] has S3's entity tags and checksums. [`s3`], [`auth`] and
//! [`server`] speak HTTP. Nothing here touches a drive: frames go to, and come from, [`metadata`].

pub mod access_log;
pub mod auth;
pub mod budget;
pub mod commit;
pub mod configs;
pub mod copy;
pub mod cpu;
pub mod digest;
pub mod encode;
pub mod engine;
pub mod error;
pub mod get;
pub mod iam;
pub mod inventory;
mod leaves;
pub mod multipart;
pub mod noted;
mod percent;
pub mod protect;
pub mod put;
pub mod s3;
pub mod server;
pub mod stripe_pool;
