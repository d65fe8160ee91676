//! What the end-to-end tests share: a whole store in one process, and the means to crash, damage and judge it.

pub mod cluster;
pub mod crash;
pub mod keeping;
pub mod openapi;
pub mod oracle;
pub mod process;
pub mod record;
pub mod s3;
pub mod sigv4;
pub mod workloads;
pub mod world;
