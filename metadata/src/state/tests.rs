//! Tests of the state machine: rule by rule, and at random against a reference model.

mod cells;
mod model;
mod reclaim;
mod replication;
mod rules;
mod world;
