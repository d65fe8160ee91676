//! When scrub reads what.
use super::*;
