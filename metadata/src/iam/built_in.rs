//! Policies that every account has, under AWS's names.

/// Everything.
const ADMINISTRATOR: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
/// All of S3.
const S3: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
/// Reading of S3.
const S3_READ: &str = concat!(
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*","s3:Describe*"],"#,
    r#""Resource":"*"}]}"#
);
/// All of IAM.
const IAM: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:*","Resource":"*"}]}"#;
/// Reading of IAM.
const IAM_READ: &str = concat!(
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:Get*","iam:List*"],"#,
    r#""Resource":"*"}]}"#
);

/// Their names and documents.
pub(super) const POLICIES: [(&str, &str); 5] = [
    ("AdministratorAccess", ADMINISTRATOR),
    ("AmazonS3FullAccess", S3),
    ("AmazonS3ReadOnlyAccess", S3_READ),
    ("IAMFullAccess", IAM),
    ("IAMReadOnlyAccess", IAM_READ),
];

/// The document of a policy that everybody has, by its ARN.
pub(crate) fn document(arn: &str) -> Option<&'static str> {
    let name = arn.strip_prefix("arn:aws:iam::aws:policy/")?;
    POLICIES.iter().find(|(known, _)| *known == name).map(|(_, document)| *document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use access::policy::{Kind, Policy};

    #[test]
    fn all_of_them_are_policies() {
        for (name, text) in POLICIES {
            assert!(Policy::parse(text, Kind::Identity).is_ok(), "{name}");
            assert_eq!(document(&format!("arn:aws:iam::aws:policy/{name}")), Some(text));
        }
        assert_eq!(document("arn:aws:iam::aws:policy/Other"), None);
        assert_eq!(document("AmazonS3FullAccess"), None);
    }
}
