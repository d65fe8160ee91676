//! Tests of the state machine: rule by rule, and at random against a reference model.

mod cells;
mod format;
mod iam;
mod keys;
mod lifecycle;
mod locks;
mod model;
mod notices;
mod quota;
mod reclaim;
mod replication;
mod rules;
mod versions;
mod world;
