//! Why a request of IAM or STS came to nothing, in AWS's words.

/// Why there is no answer but this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IamError {
    /// There is no such thing (404).
    #[error("The {what} with name {name} cannot be found.")]
    NoSuchEntity {
        /// `user`, `group`, `role`, `policy`, `access key`.
        what: &'static str,
        /// As asked for.
        name: String,
    },
    /// There is one of this name (409).
    #[error("{what} with name {name} already exists.")]
    Exists {
        /// What it is.
        what: &'static str,
        /// As asked for.
        name: String,
    },
    /// More than there may be (409).
    #[error("Cannot exceed quota for {what}: {limit}")]
    Limit {
        /// What there would be too many of, or what would be too long.
        what: &'static str,
        /// The most.
        limit: usize,
    },
    /// Something still hangs on it (409).
    #[error("Cannot delete entity, must {first} first.")]
    InUse {
        /// What to do first.
        first: &'static str,
    },
    /// The document is no policy (400).
    #[error("{0}")]
    MalformedPolicy(String),
    /// A parameter is missing, or can't have its value (400).
    #[error("{0}")]
    Invalid(String),
    /// No policy allows it, or one denies it (403).
    #[error("{0}")]
    Denied(String),
    /// There is no such action here (400).
    #[error("The action {0} is not valid for this web service.")]
    NoSuchAction(String),
    /// What is asked for does not go together with what is (409).
    #[error("{0}")]
    Conflict(String),
}

impl IamError {
    /// AWS's code and HTTP status.
    pub fn code(&self) -> (&'static str, u16) {
        match self {
            IamError::NoSuchEntity { .. } => ("NoSuchEntity", 404),
            IamError::Exists { .. } => ("EntityAlreadyExists", 409),
            IamError::Limit { .. } => ("LimitExceeded", 409),
            IamError::InUse { .. } => ("DeleteConflict", 409),
            IamError::MalformedPolicy(_) => ("MalformedPolicyDocument", 400),
            IamError::Invalid(_) => ("ValidationError", 400),
            IamError::Denied(_) => ("AccessDenied", 403),
            IamError::NoSuchAction(_) => ("InvalidAction", 400),
            IamError::Conflict(_) => ("ConcurrentModification", 409),
        }
    }

    pub(crate) fn missing(what: &'static str, name: &str) -> IamError {
        IamError::NoSuchEntity { what, name: name.to_owned() }
    }

    pub(crate) fn exists(what: &'static str, name: &str) -> IamError {
        IamError::Exists { what, name: name.to_owned() }
    }
}
