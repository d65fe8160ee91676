//! Keeping: what was stored is still there, whole, and what nobody needs any more makes room.

pub mod lanes;
pub mod plan;
pub mod simulate;
