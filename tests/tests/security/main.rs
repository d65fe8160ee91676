//! The flaws that were published of other S3 stores, each by its name, against a running server; and what a signature must cover.
//!
//! Every test says what the flaw was. Where a store under test has two accounts, `office` owns what is attacked and `stranger`
//! attacks it.
#![allow(clippy::unwrap_used, missing_docs)]

mod access;
mod availability;
mod fuzz;
mod loss;
mod secrets;
mod signing;
mod store;
