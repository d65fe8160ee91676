//! A cluster in real processes on loopback, the faults that befall it, and the judges of what its clients saw.
//!
//! [`site`] sets it up, [`supervisor`] runs its processes, [`links`] is the network between them, [`load`] uses it and writes a
//! [`history`], which [`linear`] judges key by key; [`faults`] draws what goes wrong, from a seed.

pub mod clock;
pub mod faults;
pub mod history;
pub mod linear;
pub mod links;
pub mod load;
pub mod site;
pub mod supervisor;
