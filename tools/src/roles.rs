//! The processes of a cluster: each is started with `--config FILE` and shows who it is by its certificate.
//!
//! [`storage_node`] serves drives; [`metadata`] keeps the namespace over the drives of storage nodes and may serve S3 as well
//! ([`replicated`]: one node of several, whose place is [`seat`]'s);
//! [`gateway`] serves S3 and keeps nothing.

pub mod gateway;
pub mod health;
pub mod metadata;
pub mod node_state;
pub mod replicated;
pub mod seat;
pub mod storage_node;
