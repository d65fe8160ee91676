//! A signature's time where `s3s` does not look for it: SigV4 allows it in the Date header, some clients send it there, and `s3s`
//! reads only `x-amz-date`. The time is part of what is signed whichever header it came in (it is in the string to sign), so one
//! that was changed on the way makes the signature wrong. That is why `x-amz-date` need not be among the signed headers.

use http::{HeaderMap, HeaderValue};

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
