//! A cluster in real processes on loopback, the faults that befall it, and the judges of what its clients saw.
//!
//! [`site`] sets it up, [`supervisor`] runs its processes, [`links`] is the network between them, [`load`] uses it and writes a
//! [`history`], which [`linear`] judges key by key; [`faults`] draws what goes wrong, from a seed, [`changes`] are what operators do
//! meanwhile, [`copy`] is what replication has elsewhere, [`sound`] looks at every shard at the end, and [`run`] puts all of that together.

mod build;
pub mod changes;
pub mod clock;
pub mod copy;
pub mod faults;
pub mod history;
mod inflict;
pub mod linear;
pub mod links;
pub mod load;
pub mod run;
pub mod site;
pub mod sound;
pub mod supervisor;
