//! What a node says about shards when it is asked.
use super::*;
