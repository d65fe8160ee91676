//! The log, the state machine, and three nodes that agree by way of them.

mod ahead;
mod cluster;
mod gate;
mod handover;
mod log;
mod machine;
pub(crate) mod net;
mod network;
mod wire;
