//! Drives, segments, and the service that a node offers over them.
//!
//! Bytes reach a drive through [`write`] (one thread per drive, group commit) and come back through [`read`]
//! (verified ranged reads). [`segment`] knows what a segment file holds and where it ends, [`drive`] what makes a
//! directory a drive, [`index`] where each shard lies. [`node`] ties them together behind [`client::NodeClient`],
//! and [`stripe_io`] writes and reads whole stripes over any such client. [`service`] offers a node to other processes
//! over gRPC, and [`remote`] is the client of such a node: the same trait, over the network.

pub mod client;
pub mod clock;
pub mod disk;
pub mod drive;
pub mod host;
pub mod index;
pub mod keep;
pub mod kv;
pub mod leader;
pub mod level;
pub mod node;
pub mod read;
pub mod rebuild;
pub mod remote;
pub mod rpc;
pub mod sabotage;
pub mod segment;
pub mod service;
pub mod stripe_io;
pub mod trace;
pub mod write;

mod free;
mod free_log;
mod journal;
mod lane;
mod latency;
mod mend;
mod open;
mod reserve;
pub mod scrub;
mod unanswered;

#[cfg(test)]
mod tests;
