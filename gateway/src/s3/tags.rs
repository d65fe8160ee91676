//! Tags of buckets and objects: what they may be, and the forms that they come in.
//!
//! Source: Amazon S3 User Guide, "Categorizing your storage using tags", and "Tagging restrictions" of the AWS Billing guide.

use super::error;
use super::request::query_pairs;
use codec::effect::Tag;
use http::StatusCode;
use s3s::{S3Error, S3Result, dto};
use std::collections::HashSet;

/// Most tags of an object.
pub const MOST_OF_OBJECT: usize = 10;
/// Most tags of a bucket.
pub const MOST_OF_BUCKET: usize = 50;
/// Longest key, in characters.
const MAX_KEY: usize = 128;
/// Longest value, in characters.
const MAX_VALUE: usize = 256;

fn invalid(message: &'static str) -> S3Error {
    error::custom("InvalidTag", StatusCode::BAD_REQUEST, message)
}

/// Letters, numbers and spaces of any script, and a few signs.
fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() && !c.is_control() || "+-=._:/@".contains(c)
}

/// Refuses tags that S3 would refuse.
pub fn check(tags: &[Tag], most: usize) -> S3Result<()> {
    if tags.len() > most {
        let message = match most {
            MOST_OF_OBJECT => "Object tags cannot be greater than 10",
            _ => "Bucket tag count cannot be greater than 50",
        };
        // The conformance suite's code; AWS says BadRequest.
        return Err(invalid(message));
    }
    let mut seen = HashSet::new();
    for tag in tags {
        if tag.key.is_empty() || tag.key.chars().count() > MAX_KEY || !tag.key.chars().all(is_allowed) {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if tag.value.chars().count() > MAX_VALUE || !tag.value.chars().all(is_allowed) {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        if tag.key.starts_with("aws:") {
            return Err(invalid("System tags cannot be added/updated by requester"));
        }
        if !seen.insert(tag.key.as_str()) {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(())
}

/// Tags of an XML body, checked.
pub fn of_dto(sent: &[dto::Tag], most: usize) -> S3Result<Vec<Tag>> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let tags: Vec<Tag> = sent.iter().map(|tag| Tag { key: text(&tag.key), value: text(&tag.value) }).collect();
    check(&tags, most)?;
    Ok(tags)
}

/// Tags of the header x-amz-tagging, which are written like a query, checked.
pub fn of_header(value: &str, most: usize) -> S3Result<Vec<Tag>> {
    let tags: Vec<Tag> = query_pairs(value).into_iter().map(|(key, value)| Tag { key, value }).collect();
    check(&tags, most)?;
    Ok(tags)
}

/// Tags that the request for a new object asks for.
pub fn of_request(header: Option<&str>) -> S3Result<Vec<Tag>> {
    header.map_or(Ok(Vec::new()), |value| of_header(value, MOST_OF_OBJECT))
}

/// Tags as answers have them.
pub fn to_dto(tags: &[Tag]) -> Vec<dto::Tag> {
    tags.iter().map(|tag| dto::Tag { key: Some(tag.key.clone()), value: Some(tag.value.clone()) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str, value: &str) -> Tag {
        Tag { key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn tags_that_are_not_taken() {
        let code = |tags: &[Tag]| check(tags, MOST_OF_OBJECT).err().map(|refused| refused.code().as_str().to_owned());
        assert_eq!(code(&[tag(&"k".repeat(128), &"v".repeat(256)), tag("Größe", "+-=._:/@ ü"), tag("a", "")]), None);
        for bad in [
            [tag(&"k".repeat(129), "")],
            [tag("k", &"v".repeat(257))],
            [tag("", "v")],
            [tag("aws:k", "v")],
            [tag("k&", "v")],
            [tag("k", "<v>")],
            [tag("k", "\n")],
        ] {
            assert_eq!(code(&bad).as_deref(), Some("InvalidTag"), "{bad:?}");
        }
        assert_eq!(code(&[tag("a", "b"), tag("a", "c")]).as_deref(), Some("InvalidTag"));
        let eleven: Vec<Tag> = (0..11).map(|n| tag(&n.to_string(), "")).collect();
        assert_eq!(code(&eleven).as_deref(), Some("InvalidTag"));
        assert!(check(&eleven, MOST_OF_BUCKET).is_ok());
    }

    #[test]
    fn tags_of_the_header() {
        let of = |value| of_header(value, MOST_OF_OBJECT).ok();
        assert_eq!(of("a=b&c%20d=e+f&g"), Some(vec![tag("a", "b"), tag("c d", "e f"), tag("g", "")]));
        assert_eq!(of(""), Some(Vec::new()));
        assert_eq!(of("a=b&a=c"), None);
        assert_eq!(of("a=%3Cb"), None);
    }
}
