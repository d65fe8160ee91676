//! Keeping, end to end.
