//! Names, paths and ARNs.

use super::error::IamError;

/// Characters of a name besides letters and digits (IAM API Reference, CreateUser and others).
const NAME: &[u8] = b"_+=,.@-";

/// Checks the name of a user, group, role or policy.
pub(super) fn name(text: &str, parameter: &str, most: usize) -> Result<String, IamError> {
    let known = |b: u8| b.is_ascii_alphanumeric() || NAME.contains(&b);
    if (1..=most).contains(&text.len()) && text.bytes().all(known) {
        return Ok(text.to_owned());
    }
    let rule = format!("{parameter} has 1 to {most} letters, digits and characters of _+=,.@-");
    Err(IamError::Invalid(format!("The specified value for {parameter} is invalid. {rule}.")))
}

/// Checks a path: `/`, or names with a slash before, between and behind them.
pub(super) fn path(text: &str, parameter: &str) -> Result<String, IamError> {
    let known = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'?' && b != b':')
    };
    let inside = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
    let well_formed = text == "/" || inside.is_some_and(|inside| inside.split('/').all(known));
    if well_formed && text.len() <= 512 {
        return Ok(text.to_owned());
    }
    Err(IamError::Invalid(format!("The specified value for {parameter} is invalid. It must begin and end with /.")))
}

/// ARN of a user, group, role or policy.
pub(super) fn arn(account: &str, kind: &str, path: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:{kind}{path}{name}")
}

/// What comes before the name of a policy that everybody has.
const BUILT_IN: &str = "arn:aws:iam::aws:policy/";

/// The name under which rows know the policy of an ARN: a policy of the account by its name, one that everybody has by its ARN.
pub(crate) fn policy_name_of(account: &str, arn: &str) -> Result<String, IamError> {
    if arn.starts_with(BUILT_IN) {
        return Ok(arn.to_owned());
    }
    let own = format!("arn:aws:iam::{account}:policy/");
    let name = arn.strip_prefix(&own).and_then(|rest| rest.rsplit('/').next()).filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| IamError::Invalid(format!("ARN {arn} is not valid.")))
}

/// The ARN of a policy by the name under which rows know it.
pub(crate) fn arn_of_policy(account: &str, path: &str, name: &str) -> String {
    match name.starts_with(BUILT_IN) {
        true => name.to_owned(),
        false => arn(account, "policy", path, name),
    }
}

/// The name of a role, and its account, by the role's ARN.
pub(super) fn role_of(arn: &str) -> Option<(&str, &str)> {
    let (account, rest) = arn.strip_prefix("arn:aws:iam::")?.split_once(':')?;
    let name = rest.strip_prefix("role/")?.rsplit('/').next()?;
    (!account.is_empty() && !name.is_empty()).then_some((account, name))
}

/// An id that nothing else has, and nothing had before: of the entry that makes it.
pub(crate) fn unique_id(prefix: &str, lsn: u64) -> String {
    format!("{prefix}{lsn:016X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        assert!(name("anna.b+c=d,e@f-g_H1", "UserName", 64).is_ok());
        for bad in ["", "a b", "a/b", "a:b", "a*", "\u{e4}", &"a".repeat(65)] {
            assert!(name(bad, "UserName", 64).is_err(), "{bad}");
        }
        for good in ["/", "/a/", "/a/b.c/"] {
            assert!(path(good, "Path").is_ok(), "{good}");
        }
        for bad in ["", "a", "/a", "a/", "//", "/a//b/", "/*/", "/a b/"] {
            assert!(path(bad, "Path").is_err(), "{bad}");
        }
    }

    #[test]
    fn arns() {
        assert_eq!(policy_name_of("1", "arn:aws:iam::1:policy/x/y/P").as_deref(), Ok("P"));
        let built_in = "arn:aws:iam::aws:policy/AmazonS3FullAccess";
        assert_eq!(policy_name_of("1", built_in).as_deref(), Ok(built_in));
        assert_eq!(arn_of_policy("1", "/", built_in), built_in);
        assert_eq!(arn_of_policy("1", "/x/", "P"), "arn:aws:iam::1:policy/x/P");
        for bad in ["P", "arn:aws:iam::2:policy/P", "arn:aws:iam::1:policy/", "arn:aws:iam::1:role/P"] {
            assert!(policy_name_of("1", bad).is_err(), "{bad}");
        }
        assert_eq!(role_of("arn:aws:iam::1:role/x/R"), Some(("1", "R")));
        assert_eq!(role_of("arn:aws:iam::1:user/R"), None);
    }
}
