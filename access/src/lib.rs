//! Who may do what with a bucket and its objects: the decisions, without a network, a clock or an index.
//!
//! [`policy`] is the policy language, [`acl`] are access control lists, object ownership and the public access block, and
//! [`authorise`] is the one decision that they make together. [`post`] are the policies of browser uploads, [`cors`] the rules for
//! requests of other origins, [`lifecycle`] when versions expire, [`lock`] what retention and legal holds forbid, and [`versions`]
//! what puts and deletes do to the versions of a key.
//!
//! Everything here is pure: what is decided depends on the arguments alone. All input counts as hostile; it is bounded, and what
//! can't be understood is an error or a denial, never a panic.

pub mod acl;
pub mod authorise;
pub mod cors;
pub mod json;
pub mod lifecycle;
pub mod lock;
pub mod policy;
pub mod post;
pub mod versions;
