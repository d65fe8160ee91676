//! What the end-to-end tests share: servers in processes of their own, and clients for them.

pub mod process;
pub mod s3;
