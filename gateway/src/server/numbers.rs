//! Numbers, times and names of operations in a query that hold a control character. `s3s` refuses what is no number and no operation, and
//! repeats it in its answer; but XML has no way to write these characters, and what the client did wrong would become a failure of the
//! server's own.

use super::error_response;
use crate::s3::request::{is_sayable, query_pairs};
use http::Uri;
use s3s::{HttpResponse, s3_error};

/// The parameters that are numbers, times or switches, and that which names the operation.
const NUMBERS: [&str; 10] = [
    "fetch-owner",
    "list-type",
    "max-buckets",
    "max-keys",
    "max-parts",
    "max-uploads",
    "part-number-marker",
    "partNumber",
    "response-expires",
    "x-id",
];

/// The answer to a request with such a number.
pub fn refused(uri: &Uri) -> Option<HttpResponse> {
    let pairs = query_pairs(uri.query().unwrap_or_default());
    let wrong = |(name, value): &&(String, String)| NUMBERS.contains(&name.as_str()) && !value.chars().all(is_sayable);
    let (name, _) = pairs.iter().find(wrong)?;
    Some(error_response(s3_error!(InvalidArgument, "The value of {name} has a control character.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_can_not_say_is_not_repeated() {
        let of = |text: &'static str| refused(&Uri::from_static(text)).is_some();
        assert!(of("/b/k?partNumber=%00") && of("/b?max-keys=1%1B") && of("/b?prefix=a&list-type=%01"));
        assert!(of("/?x-id=a%01"));
        assert!(!of("/b/k?partNumber=1") && !of("/b?prefix=%01") && !of("/b") && !of("/b?max-keys=x"));
    }
}
