//! A signature's time where `s3s` does not look for it: SigV4 allows it in the Date header, some clients send it there, and `s3s`
//! reads only `x-amz-date`. The time is part of what is signed whichever header it came in (it is in the string to sign), so one
//! that was changed on the way makes the signature wrong. That is why `x-amz-date` need not be among the signed headers.
//!
//! And the order of parameters: what is signed has those of one name in the order of their values (IAM User Guide, "Create a signed
//! AWS API request"), and `s3s` takes them as they came.

use crate::percent;
use crate::s3::request::query_pairs;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use std::collections::HashSet;

/// The header that `s3s` reads.
pub const AMZ_DATE: &str = "x-amz-date";

/// Says the Date of a signed request in the header that `s3s` reads, if that is not there.
pub fn tell(headers: &mut HeaderMap) {
    let signed = headers.get("authorization").is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"));
    if !signed || headers.contains_key(AMZ_DATE) {
        return;
    }
    let mut dates = headers.get_all("date").iter();
    let (Some(date), None) = (dates.next(), dates.next()) else { return };
    if let Some(value) = date.to_str().ok().and_then(in_amz_form) {
        headers.insert(AMZ_DATE, value);
    }
}

/// Brings the parameters of a query into the order in which they are signed, if a name is there more than once.
pub fn order(uri: &mut Uri) {
    let Some(query) = uri.query().filter(|query| query.contains('&')) else { return };
    let read =
        |pair| query_pairs(pair).pop().map(|(name, value)| (encoded(&name), encoded(&value))).unwrap_or_default();
    let mut pairs: Vec<((String, String), &str)> = query.split('&').map(|pair| (read(pair), pair)).collect();
    let names: HashSet<&str> = pairs.iter().map(|((name, _), _)| name.as_str()).collect();
    if names.len() == pairs.len() {
        return;
    }
    pairs.sort();
    let query: Vec<&str> = pairs.into_iter().map(|(_, pair)| pair).collect();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{}?{}", uri.path(), query.join("&")).parse::<PathAndQuery>().ok();
    // The same bytes in another order are a URI, too.
    if let Ok(ordered) = Uri::from_parts(parts) {
        *uri = ordered;
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    percent::push(&mut out, text);
    out
}

fn in_amz_form(date: &str) -> Option<HeaderValue> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date.trim()).ok()?;
    time.strftime("%Y%m%dT%H%M%SZ").to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers: HeaderMap =
            pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        tell(&mut headers);
        headers.get(AMZ_DATE).map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn parameters_of_one_name_are_in_the_order_of_their_values() {
        let ordered = |text: &'static str| {
            let mut uri = Uri::from_static(text);
            order(&mut uri);
            uri.to_string()
        };
        assert_eq!(ordered("/b/k?a=2&B=1&a=%31&%61=+"), "/b/k?B=1&%61=+&a=%31&a=2");
        assert_eq!(ordered("http://h/b?a=~&a=%2F&a"), "http://h/b?a&a=%2F&a=~");
        for same in ["/b/k", "/b?b=2&a=1", "/b?uploads", "/?&&a"] {
            assert_eq!(ordered(same), same, "each name is there once");
        }
    }

    #[test]
    fn a_date_is_told_only_where_it_is_the_time_of_a_signature() {
        let auth = ("authorization", "AWS4-HMAC-SHA256 Credential=a");
        for date in ["Sun, 22 Nov 2026 19:07:32 GMT", "Sun, 22 Nov 2026 19:07:32 -0000"] {
            assert_eq!(told(&[auth, ("date", date)]).as_deref(), Some("20261122T190732Z"), "{date}");
            assert_eq!(told(&[("date", date)]), None, "nobody signed");
            assert_eq!(told(&[auth, ("date", date), ("date", date)]), None, "which of them?");
            assert_eq!(told(&[auth, ("date", date), (AMZ_DATE, "x")]).as_deref(), Some("x"));
        }
        for none in ["", "yesterday", "Sun, 32 Nov 2026 19:07:32 GMT", "99999999999999999999"] {
            assert_eq!(told(&[auth, ("date", none)]), None, "{none}");
        }
    }
}
