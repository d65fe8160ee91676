//! Who asks, and whom a policy names.
//!
//! Source: IAM User Guide, "AWS JSON policy elements: Principal" and "NotPrincipal"; Amazon S3 User Guide, "Principals for bucket
//! policies".

use std::fmt;

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody who says so.
    Anonymous,
    /// The account itself, with its own keys: AWS's root user.
    Account(Account),
    /// A user of an account.
    User {
        /// The account.
        account: Account,
        /// Its path and name, without the first slash: `finance/anna`.
        name: String,
    },
    /// Somebody who has taken a role.
    Session {
        /// The role's account.
        account: Account,
        /// The role's path and name, without the first slash.
        role: String,
        /// The session's name.
        session: String,
    },
}

/// An account, as policies and as ACLs name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// As in ARNs.
    pub id: String,
    /// The canonical user id, as in ACLs and in Owner.
    pub canonical: String,
}

impl Caller {
    /// The account that the caller belongs to.
    pub fn account(&self) -> Option<&Account> {
        match self {
            Caller::Anonymous => None,
            Caller::Account(account) | Caller::User { account, .. } | Caller::Session { account, .. } => Some(account),
        }
    }

    /// Its ARN, as `aws:PrincipalArn` has it: of a session that of its role.
    pub fn principal_arn(&self) -> Option<String> {
        Some(match self {
            Caller::Anonymous => return None,
            Caller::Account(account) => format!("arn:aws:iam::{}:root", account.id),
            Caller::User { account, name } => format!("arn:aws:iam::{}:user/{name}", account.id),
            Caller::Session { account, role, .. } => format!("arn:aws:iam::{}:role/{role}", account.id),
        })
    }
}

/// Why a principal is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// A text that names nobody. Wildcards other than a `*` alone are not allowed here.
    #[error("{0:?} does not name a principal")]
    Unknown(String),
    /// A kind other than AWS, CanonicalUser, Federated and Service.
    #[error("there is no kind of principal {0:?}")]
    Kind(String),
}

/// Whom a policy names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// `*`: everybody, also anonymously.
    Everybody,
    /// An account, and what it leaves to its users.
    Account(String),
    /// An account by its canonical user id.
    CanonicalUser(String),
    /// A user.
    User {
        /// The account.
        account: String,
        /// Path and name.
        name: String,
    },
    /// Whoever has taken a role.
    Role {
        /// The account.
        account: String,
        /// Path and name.
        name: String,
    },
    /// One session of a role. Its ARN has the role's name without its path.
    Session {
        /// The account.
        account: String,
        /// The role's name.
        role: String,
        /// The session's.
        session: String,
    },
    /// An identity provider, in trust policies.
    Federated(String),
    /// A service, such as `logging.s3.amazonaws.com`.
    Service(String),
}

/// How a principal names a caller. The order is that of how much an Allow means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// As a member of its account.
    ByAccount,
    /// As everybody, or by its role.
    Widely,
    /// By its own ARN.
    Directly,
}

impl Principal {
    /// Reads one value of a Principal element; `kind` is `AWS`, `CanonicalUser`, `Federated` or `Service`.
    pub fn parse(kind: &str, text: &str) -> Result<Principal, PrincipalError> {
        let unknown = || PrincipalError::Unknown(text.to_owned());
        if text.is_empty() || text.len() > 2048 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(unknown());
        }
        if text == "*" && kind == "AWS" {
            return Ok(Principal::Everybody);
        }
        if text.contains(['*', '?']) {
            return Err(unknown());
        }
        match kind {
            "AWS" => aws(text).ok_or_else(unknown),
            "CanonicalUser" => Ok(Principal::CanonicalUser(text.to_owned())),
            "Federated" => Ok(Principal::Federated(text.to_owned())),
            "Service" => Ok(Principal::Service(text.to_owned())),
            other => Err(PrincipalError::Kind(other.to_owned())),
        }
    }

    /// Whether it names a caller, and how.
    pub fn names(&self, caller: &Caller) -> Option<Named> {
        let account = caller.account();
        let of = |id: &String| account.is_some_and(|account| account.id == *id);
        let named = |matched: bool, how| matched.then_some(how);
        let by_account = match caller {
            // The account's own keys are what its ARN names.
            Caller::Account(_) => Named::Directly,
            _ => Named::ByAccount,
        };
        match (self, caller) {
            (Principal::Everybody, _) => Some(Named::Widely),
            (Principal::Account(id), _) => named(of(id), by_account),
            (Principal::CanonicalUser(id), _) => {
                named(account.is_some_and(|account| account.canonical == *id), by_account)
            }
            (Principal::User { account, name }, Caller::User { name: asking, .. }) => {
                named(of(account) && name == asking, Named::Directly)
            }
            (Principal::Role { account, name }, Caller::Session { role, .. }) => {
                named(of(account) && name == role, Named::Widely)
            }
            (Principal::Session { account, role, session }, Caller::Session { role: taken, session: asking, .. }) => {
                let taken = taken.rsplit('/').next();
                named(of(account) && taken == Some(role.as_str()) && session == asking, Named::Directly)
            }
            _ => None,
        }
    }

    /// Whether a NotPrincipal that lists it leaves a caller out: by its own ARN only. An account that is listed leaves out its own keys,
    /// and neither its users nor its sessions; a role leaves out none of its sessions (IAM User Guide, "NotPrincipal").
    pub fn leaves_out(&self, caller: &Caller) -> bool {
        *self == Principal::Everybody || self.names(caller) == Some(Named::Directly)
    }
}

fn aws(text: &str) -> Option<Principal> {
    let plain = |part: &str| !part.is_empty() && !part.contains([':', '/']);
    let Some(rest) = text.strip_prefix("arn:") else {
        return plain(text).then(|| Principal::Account(text.to_owned()));
    };
    let mut parts = rest.splitn(5, ':');
    let (partition, service, region) = (parts.next()?, parts.next()?, parts.next()?);
    let (account, resource) = (parts.next()?.to_owned(), parts.next()?);
    if !partition.starts_with("aws") || !region.is_empty() || !plain(&account) {
        return None;
    }
    let path = |name: &str| {
        let well_formed = name.split('/').all(|part| !part.is_empty()) && !name.contains(':');
        well_formed.then(|| name.to_owned())
    };
    match (service, resource.split_once('/')) {
        ("iam", None) if resource == "root" => Some(Principal::Account(account)),
        ("iam", Some(("user", name))) => Some(Principal::User { account, name: path(name)? }),
        ("iam", Some(("role", name))) => Some(Principal::Role { account, name: path(name)? }),
        ("sts", Some(("assumed-role", rest))) => {
            let (role, session) = rest.split_once('/')?;
            let (role, session) = (role.to_owned(), session.to_owned());
            (plain(&role) && plain(&session)).then_some(Principal::Session { account, role, session })
        }
        _ => None,
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Everybody => f.write_str("*"),
            Principal::Account(account) => write!(f, "arn:aws:iam::{account}:root"),
            Principal::User { account, name } => write!(f, "arn:aws:iam::{account}:user/{name}"),
            Principal::Role { account, name } => write!(f, "arn:aws:iam::{account}:role/{name}"),
            Principal::Session { account, role, session } => {
                write!(f, "arn:aws:sts::{account}:assumed-role/{role}/{session}")
            }
            Principal::CanonicalUser(text) | Principal::Federated(text) | Principal::Service(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str) -> Account {
        Account { id: id.into(), canonical: format!("canonical-{id}") }
    }

    fn named(text: &str, caller: &Caller) -> Option<Named> {
        Principal::parse("AWS", text).expect(text).names(caller)
    }

    #[test]
    fn names() {
        let root = Caller::Account(account("1"));
        let anna = Caller::User { account: account("1"), name: "x/anna".into() };
        let session = Caller::Session { account: account("1"), role: "p/reader".into(), session: "s".into() };
        for caller in [&root, &anna, &session, &Caller::Anonymous] {
            assert_eq!(named("*", caller), Some(Named::Widely));
            assert_eq!(named("2", caller), None);
            assert_eq!(named("arn:aws:iam::2:user/x/anna", caller), None);
        }
        assert_eq!(named("1", &root), Some(Named::Directly));
        assert_eq!(named("arn:aws:iam::1:root", &anna), Some(Named::ByAccount));
        assert_eq!(named("arn:aws:iam::1:root", &session), Some(Named::ByAccount));
        assert_eq!(named("arn:aws:iam::1:user/x/anna", &anna), Some(Named::Directly));
        assert_eq!(named("arn:aws:iam::1:user/anna", &anna), None, "the path belongs to the name");
        assert_eq!(named("arn:aws:iam::1:role/p/reader", &session), Some(Named::Widely));
        assert_eq!(named("arn:aws:sts::1:assumed-role/reader/s", &session), Some(Named::Directly));
        assert_eq!(named("arn:aws:sts::1:assumed-role/reader/t", &session), None);
        assert_eq!(named("arn:aws:iam::1:root", &Caller::Anonymous), None);
        let canonical = Principal::parse("CanonicalUser", "canonical-1").expect("a principal");
        assert_eq!(canonical.names(&anna), Some(Named::ByAccount));
        assert!(Named::ByAccount < Named::Widely && Named::Widely < Named::Directly);
    }

    #[test]
    fn left_out() {
        let root = Caller::Account(account("1"));
        let anna = Caller::User { account: account("1"), name: "anna".into() };
        let session = Caller::Session { account: account("1"), role: "r".into(), session: "s".into() };
        let out = |text, caller| Principal::parse("AWS", text).expect(text).leaves_out(caller);
        assert!(out("1", &root) && !out("1", &anna) && !out("1", &session));
        assert!(out("arn:aws:iam::1:user/anna", &anna) && out("arn:aws:sts::1:assumed-role/r/s", &session));
        assert!(!out("arn:aws:iam::1:role/r", &session), "a role is not its sessions");
        assert!(out("*", &Caller::Anonymous));
    }

    #[test]
    fn what_names_nobody() {
        for bad in [
            "",
            "a*",
            "arn:aws:iam::1:user/*",
            "arn:aws:iam::*:root",
            "arn:aws:iam::1:user/",
            "arn:aws:iam::1:user//x",
            "arn:aws:iam::1:group/g",
            "arn:aws:s3:::b",
            "arn:gcp:iam::1:root",
            "arn:aws:iam:eu:1:root",
            "arn:aws:iam::1",
            "arn:aws:sts::1:assumed-role/r",
            "a b",
            "a/b",
        ] {
            assert!(Principal::parse("AWS", bad).is_err(), "{bad}");
        }
        assert!(Principal::parse("Service", "*").is_err() && Principal::parse("User", "x").is_err());
        for good in ["*", "arn:aws:iam::1:root", "arn:aws:iam::1:user/a/b", "arn:aws:sts::1:assumed-role/r/s"] {
            assert_eq!(Principal::parse("AWS", good).expect(good).to_string(), good);
        }
    }
}
