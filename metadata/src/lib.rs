//! Metadata: the namespace, where every chunk lies, and the journal that both are made of.
//!
//! The pure half decides and never touches a clock, a random source, a disk or a socket: [`command`] (what is asked),
//! [`state`] (decide and apply), [`index`] (rows and their keys), [`listing`], [`lookup`], [`topology`] and [`placement`].
//! The thin half does what was decided. [`client::MetadataClient`] is all that a gateway sees of either.
//!
//! A command is *decided* against the index into *effects*; the effects are journaled, then *applied* to the index, then
//! acknowledged. Replaying the journal applies effects only, so newer code that decides otherwise rebuilds the same state.

pub mod audit;
pub mod checkpoint;
pub mod client;
pub mod clock;
pub mod command;
mod commit;
mod ensemble;
pub mod epochs;
pub mod fail_slow;
pub mod iam;
pub mod index;
pub mod journal;
pub mod keep;
pub mod keys;
pub mod kms;
mod ledger;
pub mod lifecycle;
pub mod listing;
pub mod lock;
pub mod lookup;
pub mod loss;
pub mod nodes;
pub mod placement;
pub mod raft;
pub mod remote;
mod replay;
pub mod replica;
pub mod rpc;
pub mod seal;
pub mod service;
pub mod start;
pub mod state;
mod store;
pub mod stripe_writer;
pub mod survey;
mod tasks;
pub mod topology;
