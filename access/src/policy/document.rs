//! Policies as documents.
//!
//! Source: IAM User Guide, "Grammar of the IAM JSON policy language"; limits from "IAM and AWS STS quotas" and, for bucket policies,
//! Amazon S3 User Guide, "Bucket policies" (20 KB).

use super::arn::{ArnError, ArnPattern};
use super::condition::{Condition, ConditionError};
use super::pattern::{Pattern, PatternError};
use super::principal::{Principal, PrincipalError};
use super::{keys, parse};
use crate::json::{JsonError, Limits};

/// What a policy belongs to. It decides which elements it may have, and how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// To a user, group or role, or it bounds one: it names no principal.
    Identity,
    /// To the bucket of this name: it names principals, and nothing outside the bucket.
    Bucket(&'a str),
    /// To a bucket, as it is kept: that it names nothing outside the bucket was found when it was set.
    Kept,
    /// To a role, and says who may take it: it names principals, and no resource.
    Trust,
}

impl Kind<'_> {
    pub(super) fn limits(self) -> Limits {
        // S3 allows 20 KB, IAM 10,240 characters at most (of a role's own policies).
        let bytes = match self {
            Kind::Bucket(_) | Kind::Kept => 20 * 1024,
            Kind::Identity | Kind::Trust => 10 * 1024,
        };
        Limits { bytes, depth: 8 }
    }
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It allows.
    Allow,
    /// It denies, whatever allows.
    Deny,
}

/// Whom, what or which a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Only<T> {
    /// These.
    These(Vec<T>),
    /// All but these: NotPrincipal, NotAction, NotResource.
    AllBut(Vec<T>),
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its name; empty without one.
    pub sid: String,
    /// What it does.
    pub effect: Effect,
    /// Whom it is about; `None` where policies name no principal.
    pub principals: Option<Only<Principal>>,
    /// Which actions. They have no case.
    pub actions: Only<Pattern>,
    /// Which resources; `None` where policies name none.
    pub resources: Option<Only<ArnPattern>>,
    /// What must hold, all of it.
    pub conditions: Vec<Condition>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name; empty without one.
    pub id: String,
    /// Its statements.
    pub statements: Vec<Statement>,
}

/// Why a document is no policy. S3 answers MalformedPolicy with the text, IAM MalformedPolicyDocument.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// No JSON, or too long.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// An element that there is not, or not here.
    #[error("the element {0:?} is unknown here")]
    Element(String),
    /// An element that has to be there.
    #[error("the element {0} is missing")]
    Missing(&'static str),
    /// An element whose value is of another type, or empty.
    #[error("the element {0} has a value of the wrong type")]
    Type(&'static str),
    /// Both an element and its opposite.
    #[error("a statement has either {0} or Not{0}")]
    Both(&'static str),
    /// A version of the language that there is not.
    #[error("there is no version {0:?} of the policy language")]
    Version(String),
    /// Neither Allow nor Deny.
    #[error("the effect {0:?} is neither Allow nor Deny")]
    Effect(String),
    /// Two statements with one Sid, or one with characters that it can't have.
    #[error("the Sid {0:?} is not unique, or not well-formed")]
    Sid(String),
    /// More of something than a policy may have.
    #[error("more than {0} {1}")]
    TooMany(usize, &'static str),
    /// A principal.
    #[error("invalid principal: {0}")]
    Principal(#[from] PrincipalError),
    /// Allow with NotPrincipal would let in everybody whom nobody thought of.
    #[error("Allow with NotPrincipal is not supported")]
    AllowNotPrincipal,
    /// An action that belongs to no service, or not to this one.
    #[error("invalid action {0:?}")]
    Action(String),
    /// A resource that is no ARN.
    #[error("invalid resource: {0}")]
    Resource(#[from] ArnError),
    /// A resource outside the bucket.
    #[error("the resource {0:?} is not in the bucket")]
    Elsewhere(String),
    /// A condition.
    #[error("invalid condition: {0}")]
    Condition(#[from] ConditionError),
    /// A condition key that there is not, or that no action of the statement has: a denial under it would deny nothing.
    #[error("the condition key {0:?} is unknown, or no action of the statement has it")]
    ConditionKey(String),
    /// A pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Most statements of a policy.
pub const MAX_STATEMENTS: usize = 200;
/// Most values of all lists of a policy together.
pub const MAX_VALUES: usize = 2000;

impl Policy {
    /// Reads a policy, and refuses what it can't be sure to have understood.
    pub fn parse(text: &str, kind: Kind<'_>) -> Result<Policy, PolicyError> {
        parse::policy(text, kind)
    }

    /// Refuses a new policy of a user, group, role or session that asks for a condition key of S3 which there is not. One that is kept
    /// may: it was taken by a release that knew the key.
    pub fn check_new(&self) -> Result<(), PolicyError> {
        let conditions = self.statements.iter().flat_map(|statement| &statement.conditions);
        for key in conditions.flat_map(Condition::keys) {
            if key.starts_with("s3:") && !keys::is_of_s3(key) {
                return Err(PolicyError::ConditionKey(key.to_owned()));
            }
        }
        Ok(())
    }

    /// Whether what it says depends on a condition key that begins like this, in lower case: who decides by it has to find out the
    /// values of that key first.
    pub fn names_key(&self, start: &str) -> bool {
        self.statements.iter().any(|statement| {
            let of_resources = statement.resources.as_ref().is_some_and(|resources| {
                let (Only::These(arns) | Only::AllBut(arns)) = resources;
                arns.iter().any(|arn| arn.names_key(start))
            });
            of_resources || statement.conditions.iter().any(|condition| condition.names_key(start))
        })
    }

    /// Everybody whom the policy names, for those who know which accounts, users and roles there are.
    pub fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.statements.iter().filter_map(|statement| statement.principals.as_ref()).flat_map(|principals| {
            let (Only::These(named) | Only::AllBut(named)) = principals;
            named
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text, Kind::Bucket("b"))
    }

    fn statement(inside: &str) -> Result<Policy, PolicyError> {
        bucket(&format!(r#"{{"Version":"2012-10-17","Statement":{{{inside}}}}}"#))
    }

    const GOOD: &str = r#""Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*""#;

    #[test]
    fn the_least_and_the_most() {
        let least = statement(GOOD).expect("a policy");
        assert_eq!(least.statements.len(), 1);
        assert_eq!(least.statements[0].principals, Some(Only::These(vec![Principal::Everybody])));
        let most = bucket(
            r#"{"Version":"2012-10-17","Id":"x","Statement":[
                {"Sid":"A1","Effect":"Deny","NotPrincipal":{"AWS":["arn:aws:iam::1:root","2"],"CanonicalUser":"c"},
                 "NotAction":["s3:Get*","s3:ListBucket"],"NotResource":["arn:aws:s3:::b/x","arn:aws:s3:::b"],
                 "Condition":{"Bool":{"aws:SecureTransport":false},"NumericLessThan":{"s3:max-keys":[10,"11"]}}},
                {"Effect":"Allow","Principal":{"AWS":"*"},"Action":"*","Resource":"*"}]}"#,
        )
        .expect("a policy");
        assert_eq!((most.id.as_str(), most.statements.len()), ("x", 2));
        assert_eq!(most.statements[0].conditions.len(), 2);
        assert_eq!(most.principals().count(), 4);
    }

    #[test]
    fn what_is_no_policy() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"Statement":[]}"#,
            r#"{"Statement":{}}"#,
            r#"{"Statement":[1]}"#,
            r#"{"Version":"2013-01-01","Statement":[]}"#,
            r#"{"Version":1,"Statement":[]}"#,
            r#"{"statement":[]}"#,
        ] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
        for (from, to) in [
            (r#""Effect":"Allow""#, r#""Effect":"allow""#),
            (r#""Effect":"Allow","#, ""),
            (r#""Principal":"*","#, ""),
            (r#""Principal":"*""#, r#""Principal":"1""#),
            (r#""Principal":"*""#, r#""Principal":{}"#),
            (r#""Principal":"*""#, r#""Principal":{"AWS":[]}"#),
            (r#""Principal":"*""#, r#""Principal":{"Aws":"*"}"#),
            (r#""Principal":"*""#, r#""NotPrincipal":{"AWS":"1"}"#),
            (r#""Principal":"*""#, r#""Principal":"*","NotPrincipal":{"AWS":"1"}"#),
            (r#""Action":"s3:GetObject""#, r#""Action":[]"#),
            (r#""Action":"s3:GetObject""#, r#""Action":"GetObject""#),
            (r#""Action":"s3:GetObject""#, r#""Action":"iam:GetUser""#),
            (r#""Action":"s3:GetObject""#, r#""Action":"s3:NoSuchThing""#),
            (r#""Action":"s3:GetObject""#, r#""Action":"s3:GetObject","NotAction":"s3:PutObject""#),
            (r#""Resource":"arn:aws:s3:::b/*""#, r#""Resource":"arn:aws:s3:::c/*""#),
            (r#""Resource":"arn:aws:s3:::b/*""#, r#""Resource":"b/*""#),
            (r#""Resource":"arn:aws:s3:::b/*""#, r#""Resource":"arn:aws:sqs:::b/*""#),
            (r#""Resource":"arn:aws:s3:::b/*""#, r#""Resource":{}"#),
            (r#","Resource":"arn:aws:s3:::b/*""#, ""),
            (r#""Resource""#, r#""Recourse""#),
            (r#""Resource""#, r#""Condition":{"Bool":{"aws:SecureTransport":"x"}},"Resource""#),
            (r#""Resource""#, r#""Condition":{"Bool":"x"},"Resource""#),
            (r#""Resource""#, r#""Condition":{"Bool":{"aws:SecureTransport":{}}},"Resource""#),
            (r#""Resource""#, r#""Condition":[],"Resource""#),
            (r#""Resource""#, r#""Sid":"a\tb","Resource""#),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD, "{from}");
            assert!(statement(&bad).is_err(), "{bad}");
        }
        let twice = format!(r#"{{"Statement":[{{"Sid":"A",{GOOD}}},{{"Sid":"A",{GOOD}}}]}}"#);
        assert!(matches!(bucket(&twice), Err(PolicyError::Sid(_))));
        let doubled = GOOD
            .replace(r#""Resource""#, r#""Condition":{"Bool":{"aws:SecureTransport":true}},"Condition":{},"Resource""#);
        assert!(statement(&doubled).is_err(), "a condition that is overwritten would be lost");
    }

    #[test]
    fn resources_that_may_be_in_the_bucket() {
        for good in [
            "*",
            "arn:aws:s3:::*",
            "arn:aws:s3::*:b/*",
            "arn:aws:s3:::*/*",
            "arn:aws:s3:::b*",
            "arn:aws:s3:::b",
            "arn:aws:s3:::?/x",
        ] {
            let text = GOOD.replace("arn:aws:s3:::b/*", good);
            assert!(statement(&text).is_ok(), "{good}");
        }
        for bad in [
            "arn:aws:s3:::bb/*",
            "arn:aws:s3:::a*",
            "arn:aws:s3:::??/x",
            "arn:aws:s3::123:b/*",
            "arn:aws:s3:eu-west-1::b/*",
        ] {
            assert!(
                matches!(statement(&GOOD.replace("arn:aws:s3:::b/*", bad)), Err(PolicyError::Elsewhere(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn keys_that_it_depends_on() {
        let plain = statement(GOOD).expect("a policy");
        assert!(!plain.names_key("s3:existingobjecttag"));
        let asked = GOOD
            .replace(r#""Resource""#, r#""Condition":{"StringEquals":{"s3:\u0045xistingObjectTag/a":"b"}},"Resource""#);
        assert!(statement(&asked).expect("a policy").names_key("s3:existingobjecttag"));
        let in_value = GOOD.replace(
            r#""Resource""#,
            r#""Condition":{"StringLike":{"aws:Referer":"x${s3:ExistingObjectTag/a}*"}},"Resource""#,
        );
        assert!(statement(&in_value).expect("a policy").names_key("s3:existingobjecttag"));
        let in_resource = GOOD.replace("b/*", "b/${S3:existingobjecttag/a}");
        assert!(statement(&in_resource).expect("a policy").names_key("s3:existingobjecttag"));
    }

    #[test]
    fn keys_that_no_request_has() {
        let asks = |action: &str, key: &str| {
            let inside = GOOD
                .replace("s3:GetObject", action)
                .replace(r#""Resource""#, &format!(r#""Condition":{{"StringEquals":{{"{key}":"x"}}}},"Resource""#));
            statement(&inside)
        };
        for (action, key) in [
            ("s3:GetObject", "aws:PrincipalTag/team"),
            ("s3:GetObject", "aws:SourceVpce"),
            ("s3:GetObject", "s3:ExistingObjectTag/a"),
            ("s3:GetObject", "s3:DataAccessPointAccount"),
            ("s3:Put*", "s3:x-amz-acl"),
            ("*", "s3:prefix"),
            ("s3:PutObject", "s3:RequestObjectTag/\u{e4}"),
        ] {
            assert!(asks(action, key).is_ok(), "{action} {key}");
        }
        for (action, key) in [
            ("s3:GetObject", "s3:prefix"),
            ("s3:PutObject", "s3:x-amz-server-side-encryptoin"),
            ("s3:PutObject", "s3:ResourceTag/x"),
            ("s3:DeleteObject", "s3:ExistingObjectTag/a"),
            ("s3:GetObject", "aws:SorceIp"),
            ("s3:GetObject", "kms:ViaService"),
        ] {
            assert!(matches!(asks(action, key), Err(PolicyError::ConditionKey(_))), "{action} {key}");
        }
        let in_value =
            GOOD.replace(r#""Resource""#, r#""Condition":{"StringLike":{"aws:Referer":"${s3:prefex}*"}},"Resource""#);
        assert!(matches!(statement(&in_value), Err(PolicyError::ConditionKey(_))));
        let but = GOOD
            .replace("\"Action\"", "\"NotAction\"")
            .replace(r#""Resource""#, r#""Condition":{"StringEquals":{"s3:prefix":"x"}},"Resource""#);
        assert!(statement(&but).is_ok() && statement(&but.replace("s3:GetObject", "s3:List*")).is_err());
        let kept = |inside: &str| Policy::parse(&format!(r#"{{"Statement":{{{inside}}}}}"#), Kind::Kept);
        assert!(kept(&GOOD.replace(r#""Resource""#, r#""Condition":{"Null":{"s3:x":true}},"Resource""#)).is_ok());
    }

    #[test]
    fn keys_of_new_policies_of_users() {
        let asks = |key: &str| {
            let text = format!(
                r#"{{"Statement":{{"Effect":"Deny","Action":"*","Resource":"*","Condition":{{"Null":{{"{key}":true}}}}}}}}"#
            );
            Policy::parse(&text, Kind::Identity).expect("a policy is read as it was kept").check_new()
        };
        for good in ["s3:prefix", "aws:SomethingNew", "iam:PolicyARN", "s3:RequestObjectTag/x"] {
            assert!(asks(good).is_ok(), "{good}");
        }
        assert!(matches!(asks("s3:prefex"), Err(PolicyError::ConditionKey(_))));
    }

    #[test]
    fn other_kinds() {
        let of = |text: &str, kind| Policy::parse(text, kind).is_ok();
        let identity =
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:*","iam:Get*"],"Resource":"*"}}"#;
        let elsewhere = GOOD.replace("b/*", "c/*");
        let kept = |inside: &str| of(&format!(r#"{{"Statement":{{{inside}}}}}"#), Kind::Kept);
        assert!(kept(GOOD) && kept(&elsewhere) && !kept(&GOOD.replace(r#""Principal":"*","#, "")));
        assert!(of(identity, Kind::Identity) && !of(identity, Kind::Trust) && !of(identity, Kind::Bucket("b")));
        let trust = r#"{"Statement":{"Effect":"Allow","Principal":{"AWS":"1"},"Action":"sts:AssumeRole"}}"#;
        assert!(of(trust, Kind::Trust) && !of(trust, Kind::Identity) && !of(trust, Kind::Bucket("b")));
    }

    #[test]
    fn limits() {
        let many = vec![format!("{{{GOOD}}}"); MAX_STATEMENTS + 1].join(",");
        assert!(bucket(&format!(r#"{{"Statement":[{many}]}}"#)).is_err());
        let long = GOOD.replace("b/*", &format!("b/{}", "x".repeat(3000)));
        assert!(statement(&long).is_err());
        let padded = format!(r#"{{"Statement":{{{GOOD}}}{}}}"#, " ".repeat(20 * 1024));
        assert!(matches!(bucket(&padded), Err(PolicyError::Json(JsonError::TooLong { .. }))));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,300}") {
            let _ = bucket(&text);
        }

        /// A byte that is changed gives another policy or an error, and never a panic.
        #[test]
        fn nor_do_damaged_policies(at in 0usize..140, byte in 0x20u8..0x7f) {
            let mut bytes = format!(r#"{{"Version":"2012-10-17","Statement":{{{GOOD}}}}}"#).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = bucket(&String::from_utf8_lossy(&bytes));
        }
    }
}
