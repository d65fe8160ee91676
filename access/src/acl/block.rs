//! The public access block.
//!
//! Source: Amazon S3 User Guide, "Blocking public access to your Amazon S3 storage", "Block public access settings".

/// The four settings of a bucket. Those of its account and of the bucket count together ([`Block::and`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// A list that is public is not taken: AccessDenied.
    pub block_acls: bool,
    /// What lists grant to everybody counts for nothing.
    pub ignore_acls: bool,
    /// A policy that is public is not taken: AccessDenied.
    pub block_policy: bool,
    /// A policy that is public counts only for callers of the bucket's own account.
    pub restrict: bool,
}

/// A public list or policy is not taken. S3: AccessDenied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("public access is blocked here")]
pub struct Blocked;

impl Block {
    /// Both at once: the stricter of each.
    pub fn and(self, other: Block) -> Block {
        Block {
            block_acls: self.block_acls || other.block_acls,
            ignore_acls: self.ignore_acls || other.ignore_acls,
            block_policy: self.block_policy || other.block_policy,
            restrict: self.restrict || other.restrict,
        }
    }

    /// Whether a list may be set, by any request that sets one.
    pub fn check_acl(self, public: bool) -> Result<(), Blocked> {
        if self.block_acls && public { Err(Blocked) } else { Ok(()) }
    }

    /// Whether a policy may be set.
    pub fn check_policy(self, public: bool) -> Result<(), Blocked> {
        if self.block_policy && public { Err(Blocked) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let acls = Block { block_acls: true, ..Block::default() };
        let policy = Block { block_policy: true, ..Block::default() };
        assert!(acls.check_acl(true).is_err() && acls.check_acl(false).is_ok() && acls.check_policy(true).is_ok());
        assert!(policy.check_policy(true).is_err() && policy.check_policy(false).is_ok());
        let both = acls.and(policy);
        assert!(both.block_acls && both.block_policy && !both.restrict && !both.ignore_acls);
    }
}
