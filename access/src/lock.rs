//! Object Lock: what retention and legal holds forbid.
//!
//! Source: Amazon S3 User Guide, "Locking objects with Object Lock" ("Retention modes", "Legal holds", "Retention periods"), "Managing
//! Object Lock"; API Reference, PutObjectRetention, PutObjectLockConfiguration.
//!
//! Invariants:
//! * A version is released only when two clocks are past its date: the one whose ticks are journaled, which never runs backwards and
//!   can't be set, and the machine's. Whoever sets a clock forward frees nothing; whoever sets it back keeps what is kept.
//! * Compliance retention is never shortened, removed or changed to another mode while it lasts, by nobody.
//! * A legal hold has no date and knows no bypass.
//! * What is checked here is checked where the change is decided, on the row as it is then, and nowhere else.

/// How strictly a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Those with the permission to bypass it may change it, and delete the version.
    Governance,
    /// Nobody may.
    Compliance,
}

impl Mode {
    /// By its S3 name.
    pub fn parse(name: &str) -> Option<Mode> {
        match name {
            "GOVERNANCE" => Some(Mode::Governance),
            "COMPLIANCE" => Some(Mode::Compliance),
            _ => None,
        }
    }

    /// Its S3 name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Governance => "GOVERNANCE",
            Mode::Compliance => "COMPLIANCE",
        }
    }
}

/// Until when a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How strictly.
    pub mode: Mode,
    /// Milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// What protects a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Its retention.
    pub retention: Option<Retention>,
    /// A legal hold.
    pub hold: bool,
}

/// The two clocks, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The retention clock: the last tick that is journaled.
    pub retention_ms: u64,
    /// The machine's.
    pub wall_ms: u64,
}

impl Now {
    /// Whether both clocks are past a date. At the date itself it is over.
    pub fn is_past(self, until_ms: u64) -> bool {
        self.earlier() >= until_ms
    }

    fn earlier(self) -> u64 {
        self.retention_ms.min(self.wall_ms)
    }

    /// From when periods count: the later clock, or a machine whose clock was set back would promise less than it was asked for.
    fn later(self) -> u64 {
        self.retention_ms.max(self.wall_ms)
    }
}

/// Why a version stays as it is. S3: AccessDenied, 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Locked {
    /// A legal hold.
    #[error("the version is under a legal hold")]
    Hold,
    /// Compliance retention.
    #[error("the version is retained in COMPLIANCE mode")]
    Compliance,
    /// Governance retention, and the caller does not bypass it.
    #[error("the version is retained in GOVERNANCE mode")]
    Governance,
}

/// Why a retention is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// The one that there is forbids it.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// It would be over already. S3: InvalidArgument.
    #[error("The retain until date must be in the future!")]
    Past,
    /// Later than 200 years from now. S3: InvalidArgument.
    #[error("The retain until date is too far in the future")]
    TooFar,
}

const DAY_MS: u64 = 24 * 3600 * 1000;
/// The longest period, in days: 100 years, as in S3.
pub const MAX_DAYS: u64 = 36_500;
/// The longest period, in years.
pub const MAX_YEARS: u64 = 100;
/// How far a date may be, in days: 200 years. What is later was not meant (milliseconds taken for seconds), and COMPLIANCE would keep it
/// for ever; the public conformance suite sets one that is 114 years away.
pub const MAX_DATE_DAYS: u64 = 73_050;

/// Whether a version may be deleted for good, or replaced: also by lifecycle, by a new null version, with its bucket, by an operator.
/// `bypass`: the caller asked to bypass governance and is allowed to.
pub fn may_delete(protection: &Protection, bypass: bool, now: Now) -> Result<(), Locked> {
    if protection.hold {
        return Err(Locked::Hold);
    }
    match in_force(protection, now) {
        Some(Retention { mode: Mode::Compliance, .. }) => Err(Locked::Compliance),
        Some(Retention { mode: Mode::Governance, .. }) if !bypass => Err(Locked::Governance),
        _ => Ok(()),
    }
}

/// The retention that still lasts.
pub fn in_force(protection: &Protection, now: Now) -> Option<Retention> {
    protection.retention.filter(|retention| !now.is_past(retention.until_ms))
}

/// Whether a version's retention may become another one, or none. A legal hold has no say in it.
///
/// To make it longer in the same mode anybody may who may set one at all. Whatever else changes a governance retention needs the
/// bypass, also to make it compliance; of a compliance retention nothing else may be changed.
pub fn may_retain(
    protection: &Protection,
    new: Option<Retention>,
    bypass: bool,
    now: Now,
) -> Result<(), RetentionError> {
    if let Some(current) = in_force(protection, now) {
        let longer = new.is_some_and(|new| new.mode == current.mode && new.until_ms >= current.until_ms);
        match current.mode {
            _ if longer => {}
            Mode::Compliance => return Err(Locked::Compliance.into()),
            Mode::Governance if !bypass => return Err(Locked::Governance.into()),
            Mode::Governance => {}
        }
    }
    new.map_or(Ok(()), |new| check_new(new, now))
}

/// Whether a retention may begin. A date that either clock is past protects nothing for sure.
pub fn check_new(new: Retention, now: Now) -> Result<(), RetentionError> {
    if new.until_ms <= now.later() {
        return Err(RetentionError::Past);
    }
    if new.until_ms > now.later().saturating_add(MAX_DATE_DAYS * DAY_MS) {
        return Err(RetentionError::TooFar);
    }
    Ok(())
}

/// How long a bucket keeps new versions unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRetention {
    /// How strictly.
    pub mode: Mode,
    /// How long.
    pub period: Period,
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Of 24 hours each.
    Days(u64),
    /// Of 365 days each, as S3 counts them.
    Years(u64),
}

/// Why a bucket's default is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefaultError {
    /// Both days and years, or neither. S3: MalformedXML.
    #[error("a default retention has either days or years")]
    Period,
    /// Zero, negative, or more than 100 years. S3: InvalidRetentionPeriod.
    #[error("Default retention period must be a positive integer value, and at most 100 years.")]
    Length,
}

impl Period {
    /// What a configuration says.
    pub fn new(days: Option<i64>, years: Option<i64>) -> Result<Period, DefaultError> {
        let (given, most, period): (i64, u64, fn(u64) -> Period) = match (days, years) {
            (Some(days), None) => (days, MAX_DAYS, Period::Days),
            (None, Some(years)) => (years, MAX_YEARS, Period::Years),
            _ => return Err(DefaultError::Period),
        };
        let length = u64::try_from(given).ok().filter(|length| (1..=most).contains(length));
        length.map(period).ok_or(DefaultError::Length)
    }

    fn ms(self) -> u64 {
        match self {
            Period::Days(days) => days.saturating_mul(DAY_MS),
            Period::Years(years) => years.saturating_mul(365 * DAY_MS),
        }
    }
}

impl DefaultRetention {
    /// The retention of a version that is put now.
    pub fn begin(&self, now: Now) -> Retention {
        Retention { mode: self.mode, until_ms: now.later().saturating_add(self.period.ms()) }
    }
}

/// What a request says of a new version's protection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `x-amz-object-lock-mode`.
    pub mode: Option<Mode>,
    /// `x-amz-object-lock-retain-until-date`.
    pub until_ms: Option<u64>,
    /// `x-amz-object-lock-legal-hold`.
    pub hold: Option<bool>,
}

/// Why a new version's protection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskedError {
    /// The bucket has no Object Lock. S3: InvalidRequest.
    #[error("Bucket is missing Object Lock Configuration")]
    NoLock,
    /// One of the two without the other. S3: InvalidArgument.
    #[error("x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied")]
    Half,
    /// The date.
    #[error(transparent)]
    Retention(#[from] RetentionError),
}

/// The protection of a version that is put, copied or completed now. `bucket`: `None` without Object Lock, and then its default.
///
/// Decide it where the version is committed: a default that was read earlier may have become longer.
pub fn of_new_version(
    asked: Asked,
    bucket: Option<Option<DefaultRetention>>,
    now: Now,
) -> Result<Protection, AskedError> {
    let Some(default) = bucket else {
        let nothing = asked == Asked::default() || asked == Asked { hold: Some(false), ..Asked::default() };
        return if nothing { Ok(Protection::default()) } else { Err(AskedError::NoLock) };
    };
    let retention = match (asked.mode, asked.until_ms) {
        (Some(mode), Some(until_ms)) => {
            let new = Retention { mode, until_ms };
            check_new(new, now)?;
            Some(new)
        }
        (None, None) => default.map(|default| default.begin(now)),
        _ => return Err(AskedError::Half),
    };
    Ok(Protection { retention, hold: asked.hold.unwrap_or(false) })
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
