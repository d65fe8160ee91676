//! ARNs with wildcards: in Resource elements and in ARN conditions.

use super::context::Context;
use super::pattern::{Pattern, PatternError, Syntax};
use super::value::arn_parts;
use super::work::Work;

/// Why a text is no ARN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArnError {
    /// Not `arn:partition:service:region:account:resource`.
    #[error("{0:?} is not an ARN")]
    Shape(String),
    /// One of its parts is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// An ARN. Each of its six parts may have wildcards, and none stands for more than its part (IAM User Guide, "Using wildcards in
/// resource ARNs"). A single `*` is every ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArnPattern {
    /// `*`
    Every,
    /// Part by part.
    Parts(Box<[Pattern; 6]>),
}

impl ArnPattern {
    /// Reads an ARN.
    pub fn parse(text: &str, variables: bool) -> Result<ArnPattern, ArnError> {
        if text == "*" {
            return Ok(ArnPattern::Every);
        }
        let shape = || ArnError::Shape(text.to_owned());
        let syntax = Syntax { wildcards: true, variables };
        let parts = split(text, variables).ok_or_else(shape)?;
        if parts[0] != "arn" || parts[5].is_empty() {
            return Err(shape());
        }
        let mut patterns = Vec::with_capacity(6);
        for part in parts {
            patterns.push(Pattern::parse(part, syntax)?);
        }
        let patterns: Box<[Pattern; 6]> = patterns.into_boxed_slice().try_into().map_err(|_| shape())?;
        Ok(ArnPattern::Parts(patterns))
    }

    /// Whether it is the ARN; `None` when a variable has no value, or the work is spent. A text that is no ARN is none.
    pub fn matches(&self, text: &str, context: &Context, work: &Work) -> Option<bool> {
        let ArnPattern::Parts(patterns) = self else { return Some(true) };
        let Some(parts) = arn_parts(text) else { return Some(false) };
        // Each is tried, so that a variable without a value is found also where an earlier part differs.
        let mut all = true;
        for (pattern, part) in patterns.iter().zip(parts) {
            all &= pattern.matches(part, context, work)?;
        }
        Some(all)
    }

    /// Its parts; nothing of every ARN.
    pub fn parts(&self) -> &[Pattern] {
        match self {
            ArnPattern::Every => &[],
            ArnPattern::Parts(parts) => parts.as_slice(),
        }
    }

    /// Region and account; nothing of every ARN.
    pub fn place(&self) -> &[Pattern] {
        self.parts().get(3..5).unwrap_or_default()
    }

    /// Whether a variable of it is of a key that begins like this, in lower case.
    pub fn names_key(&self, start: &str) -> bool {
        match self {
            ArnPattern::Every => false,
            ArnPattern::Parts(parts) => parts.iter().any(|part| part.names_key(start)),
        }
    }

    /// The part of the resource, unless it is every ARN.
    pub fn resource(&self) -> Option<&Pattern> {
        match self {
            ArnPattern::Every => None,
            ArnPattern::Parts(parts) => Some(&parts[5]),
        }
    }

    /// The part of the service, unless it is every ARN.
    pub fn service(&self) -> Option<&Pattern> {
        match self {
            ArnPattern::Every => None,
            ArnPattern::Parts(parts) => Some(&parts[2]),
        }
    }

    /// Without wildcards and variables.
    pub fn is_fixed(&self) -> bool {
        match self {
            ArnPattern::Every => false,
            ArnPattern::Parts(parts) => parts.iter().all(Pattern::is_fixed),
        }
    }
}

/// Six parts, apart at colons that are not in a variable.
fn split(text: &str, variables: bool) -> Option<[&str; 6]> {
    let mut found = [""; 6];
    let (mut start, mut part, mut inside) = (0, 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '{' if variables && text[..at].ends_with('$') => inside = true,
            '}' => inside = false,
            ':' if !inside && part < 5 => {
                found[part] = &text[start..at];
                (part, start) = (part + 1, at + 1);
            }
            _ => {}
        }
    }
    found[part] = &text[start..];
    (part == 5).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(pattern: &str, text: &str) -> Option<bool> {
        let context = Context::from_iter([("aws:username", "anna")]);
        ArnPattern::parse(pattern, true).expect("an ARN").matches(text, &context, &Work::default())
    }

    #[test]
    fn part_by_part() {
        assert_eq!(is("*", "arn:aws:s3:::b/k"), Some(true));
        assert_eq!(is("arn:aws:s3:::b/*", "arn:aws:s3:::b/k:with:colons"), Some(true));
        assert_eq!(is("arn:aws:s3:::b/*", "arn:aws:s3:::b"), Some(false));
        assert_eq!(is("arn:aws:s3:::b", "arn:aws:s3:::b/k"), Some(false));
        assert_eq!(is("arn:aws:s3:::b*", "arn:aws:s3:::bb/k"), Some(true));
        assert_eq!(is("arn:*:s3:*:*:*", "arn:aws:s3:::b/k"), Some(true));
        assert!(ArnPattern::parse("arn:aws:s*:b", true).is_err(), "a wildcard does not stand for several parts");
        assert_eq!(is("arn:aws:iam::1:user/${aws:username}", "arn:aws:iam::1:user/anna"), Some(true));
        assert_eq!(is("arn:aws:s3:::${aws:absent}/*", "arn:aws:s3:::x/y"), None);
        assert_eq!(is("arn:aws:s3:::b/*", "no arn"), Some(false));
    }

    #[test]
    fn shapes() {
        for bad in ["", "b/k", "arn:aws:s3", "arn:aws:s3:::", "aws:s3:::::b", "**"] {
            assert!(ArnPattern::parse(bad, true).is_err(), "{bad}");
        }
        assert!(ArnPattern::parse("arn:aws:s3:::${aws:username", true).is_err());
    }
}
