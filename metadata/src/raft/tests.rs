//! The log, the state machine, and three nodes that agree by way of them.

mod cluster;
mod log;
mod machine;
mod network;
mod wire;
