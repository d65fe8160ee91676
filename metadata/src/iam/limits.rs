//! The most that there may be. Source: IAM User Guide, "IAM and AWS STS quotas".

/// Users of an account.
pub const USERS: usize = 5000;
/// Groups of an account.
pub const GROUPS: usize = 300;
/// Roles of an account.
pub const ROLES: usize = 1000;
/// Policies of an account.
pub const POLICIES: usize = 1500;
/// Groups of a user.
pub const GROUPS_OF_USER: usize = 10;
/// Policies attached to a user, group or role.
pub const ATTACHED: usize = 10;
/// Access keys of a user, or of an account besides its first one.
pub const ACCESS_KEYS: usize = 2;
/// The same, where an operator gives them.
pub const ACCESS_KEYS_GIVEN: usize = 10;
/// Characters of a user's own policies, without white space.
pub const INLINE_OF_USER: usize = 2048;
/// Characters of a group's own policies, without white space.
pub const INLINE_OF_GROUP: usize = 5120;
/// Characters of a role's own policies, without white space.
pub const INLINE_OF_ROLE: usize = 10_240;
/// Characters of a policy, without white space.
pub const DOCUMENT: usize = 6144;
/// Characters of the policy that says who may take a role, without white space.
pub const TRUST: usize = 4096;
/// Characters of the policy that a session is begun with.
pub const SESSION_POLICY: usize = 2048;
/// Characters of an ARN.
pub const ARN: usize = 2048;
/// Characters of a description.
pub const DESCRIPTION: usize = 1000;
/// Bytes of all names and values of a request's parameters.
pub const PARAMETERS: usize = 64 << 10;
/// Parameters of a request.
pub const PARAMETER_COUNT: usize = 64;
/// Rows on a page, at most and by default.
pub const PAGE: (usize, usize) = (1000, 100);
/// Seconds of a session: fewest, most for a role that says nothing, most for any role.
pub const SESSION_S: (u32, u32, u32) = (900, 3600, 43_200);
/// Seconds of a session that a user or an account takes for itself: by default and at most (STS API Reference, GetSessionToken).
pub const OWN_SESSION_S: (u32, u32) = (43_200, 129_600);
