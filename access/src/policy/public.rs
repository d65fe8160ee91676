//! Whether a bucket policy gives access to everybody.
//!
//! Source: Amazon S3 User Guide, "Blocking public access to your Amazon S3 storage", "The meaning of public": a policy counts as
//! public until it is shown that each Allow names fixed principals, or is confined by a condition with fixed values on one of the
//! keys that say who or whence. What can't be told counts as public.

use super::document::{Effect, Only, Policy, Statement};
use super::principal::Principal;

/// Keys that say whose or whence a request is.
const CONFINING: [&str; 12] = [
    "aws:sourceip",
    "aws:sourcearn",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:sourceowner",
    "aws:sourceaccount",
    "aws:principalorgid",
    "aws:principalarn",
    "aws:principalaccount",
    "aws:userid",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:dataaccesspointarn",
];

/// Whether a bucket policy gives access to everybody.
pub fn is_public(policy: &Policy) -> bool {
    policy.statements.iter().any(allows_everybody)
}

fn allows_everybody(statement: &Statement) -> bool {
    if statement.effect == Effect::Deny {
        return false;
    }
    let named = match &statement.principals {
        Some(Only::These(named)) => named,
        Some(Only::AllBut(_)) => return true,
        // Not the policy of a bucket.
        None => return false,
    };
    let confined = || {
        let confines = |key: &str| CONFINING.contains(&key);
        statement.conditions.iter().any(|condition| confines(condition.key()) && condition.confines())
    };
    named.contains(&Principal::Everybody) && !confined()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::Kind;

    fn public(principal: &str, condition: &str) -> bool {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"s3:ListBucket",
            "Resource":"arn:aws:s3:::b","Condition":{{{condition}}}}}]}}"#
        );
        is_public(&Policy::parse(&text, Kind::Bucket("b")).expect("a policy"))
    }

    #[test]
    fn the_meaning_of_public() {
        let all = r#""*""#;
        assert!(public(all, "") && public(r#"{"AWS":["1","*"]}"#, ""));
        assert!(!public(r#"{"AWS":"arn:aws:iam::1:root"}"#, ""));
        assert!(!public(all, r#""IpAddress":{"aws:SourceIp":"10.0.0.0/32"}"#));
        assert!(public(all, r#""IpAddress":{"aws:SourceIp":"0.0.0.0/0"}"#));
        assert!(public(all, r#""IpAddress":{"aws:SourceIp":["10.0.0.1","0.0.0.0/1"]}"#));
        assert!(public(all, r#""NotIpAddress":{"aws:SourceIp":"10.0.0.1"}"#), "everybody but one");
        assert!(public(all, r#""IpAddressIfExists":{"aws:SourceIp":"10.0.0.1"}"#));
        assert!(!public(all, r#""StringEquals":{"aws:SourceVpc":"vpc-91237329"}"#));
        assert!(public(all, r#""StringLike":{"aws:SourceVpc":"vpc-*"}"#));
        assert!(public(all, r#""StringEquals":{"aws:Referer":"https://example.org"}"#), "anybody can say that");
        assert!(public(all, r#""Bool":{"aws:SecureTransport":"true"}"#));
        assert!(!public(
            all,
            r#""Bool":{"aws:SecureTransport":"true"},"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::1:root"}"#
        ));
    }

    #[test]
    fn denials_are_not_public() {
        let text = r#"{"Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::b"}]}"#;
        assert!(!is_public(&Policy::parse(text, Kind::Bucket("b")).expect("a policy")));
    }
}
