//! The policy language: IAM policies, bucket policies, trust policies, session policies, permissions boundaries.
//!
//! Source: IAM User Guide, "Grammar of the IAM JSON policy language", "IAM JSON policy elements reference" and "Policy evaluation
//! logic"; Amazon S3 User Guide, "Bucket policies", "Actions, resources, and condition keys for Amazon S3".
//!
//! [`document`] reads a policy, [`pattern`], [`arn`], [`principal`] and [`condition`] are its parts, [`context`] is what is known of a
//! request, [`evaluate`] decides, [`public`] says whether a policy gives access to everybody, [`action`] names what there is to allow,
//! [`keys`] what conditions may ask of it.
//!
//! Invariants:
//! * Nothing is allowed that no policy allows, and a denial always wins.
//! * What can be read in two ways is read in the way that gives less: a key with several values under an operator for one, a variable
//!   without a value.

pub mod action;
pub mod arn;
pub mod condition;
pub mod context;
pub mod document;
pub mod evaluate;
pub mod keys;
mod parse;
pub mod pattern;
pub mod principal;
pub mod public;
pub mod value;
pub mod work;

pub use context::Context;
pub use document::{Effect, Kind, Policy, PolicyError, Statement};
pub use evaluate::{Decision, Policies, Reason, Request, Source, allows_service, evaluate};
pub use principal::Caller;
