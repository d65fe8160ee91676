//! Keeping: what was stored is still there, whole, and what nobody needs any more makes room.
//!
//! Planning is pure ([`plan`], [`lanes`], and [`simulate`] to try both on paper); [`watch`] and [`wounds`] say what is known
//! of drives and shards, [`repair`] does what was planned, [`inventory`] and [`rows`] compare what should be with what is.
//! The [`keeper`] drives them.

mod archive;
pub mod claims;
pub mod config;
pub mod dependents;
pub mod fixity;
pub mod frames;
pub mod inventory;
pub mod keeper;
pub mod lanes;
pub mod lifecycle;
pub mod manifests;
pub mod mark;
pub mod pace;
pub mod plan;
pub mod reclaim;
mod recompress;
pub mod repair;
pub mod restripe;
pub mod returning;
pub mod rows;
pub mod simulate;
pub mod spread;
pub mod status;
pub mod watch;
pub mod wounds;

pub use config::KeepConfig;
pub use keeper::{KeepError, Keeper};
pub use status::{Alarm, KeepStatus};

/// A drive that takes longer over one of the long questions of keeping (a page of headers, shards to be verified or freed) has
/// not answered: it must not hold up what is done for all the others.
pub(crate) const LONG_WORK: std::time::Duration = std::time::Duration::from_secs(300);

#[cfg(test)]
pub(crate) mod testing;
