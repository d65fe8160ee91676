//! codec
pub mod effect;
pub mod id;
