//! What web pages of other origins are told: the answers to preflights, and the headers that every answer to such a page has.
//!
//! Browsers ask without a signature (Fetch Standard, "CORS-preflight request"), and the answer gives nothing away but what the
//! bucket's rules say to everybody; whether the request itself goes on is decided elsewhere, as for any other.
//!
//! Invariants:
//! * Nothing is told of a bucket whose rules can't be read now: the browser then keeps the answer from the page.
//! * An answer waits no longer than [`PATIENCE`] for the rules.

use super::error_response;
use crate::configs::Remembered;
use crate::s3::error;
use crate::s3::request::header;
use access::cors::{self, Answer, Rule};
use codec::effect::ConfigKind;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use metadata::client::MetadataClient;
use s3s::{Body, HttpResponse, S3Result, s3_error};
use std::sync::Arc;
use std::time::Duration;

/// For the rules of a bucket, when an answer waits for them.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the answer depends on: caches must not give it to who asked otherwise.
const VARIES: &str = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";

/// See the module.
#[derive(Debug)]
pub(super) struct Origins {
    rules: Remembered<Vec<Rule>>,
}

/// What a request says about where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    bucket: Option<String>,
    origin: Option<String>,
    /// The method that a preflight asks for, if it says one.
    wanted: Option<String>,
    method: Method,
    headers: String,
}

impl Asked {
    /// Of a request to this bucket. `None` if it is not about origins.
    pub(super) fn of(method: &Method, headers: &HeaderMap, bucket: Option<String>) -> Option<Asked> {
        let text = |name| header(headers, name).map(str::to_owned);
        let origin = text("origin");
        let listed: Vec<&str> = headers
            .get_all("access-control-request-headers")
            .iter()
            // What is not text is no header's name, and fits no rule.
            .map(|value| value.to_str().unwrap_or("\u{fffd}"))
            .collect();
        (origin.is_some() || method == Method::OPTIONS).then(|| Asked {
            bucket,
            origin,
            wanted: text("access-control-request-method"),
            method: method.clone(),
            headers: listed.join(","),
        })
    }
}

impl Origins {
    pub(super) fn new() -> Origins {
        Origins { rules: Remembered::new(ConfigKind::Cors, crate::s3::cors::kept) }
    }

    async fn rules_of(&self, meta: &dyn MetadataClient, bucket: &str) -> S3Result<Option<Arc<Vec<Rule>>>> {
        let look = async {
            let row = meta.bucket(bucket).await.map_err(error::lookup)?.ok_or_else(error::no_such_bucket)?;
            self.rules.get(meta, &row).await
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| Err(s3_error!(SlowDown, "Please try again.")))
    }

    /// The answer to OPTIONS.
    pub(super) async fn preflight(&self, meta: &dyn MetadataClient, asked: &Asked) -> HttpResponse {
        let bad = |message| error_response(error::custom("BadRequest", StatusCode::BAD_REQUEST, message));
        let forbidden = |message| error_response(error::custom("AccessForbidden", StatusCode::FORBIDDEN, message));
        let Some(origin) = &asked.origin else {
            return bad("Insufficient information. Origin request header needed.");
        };
        let wanted = asked.wanted.as_deref().filter(|wanted| cors::METHODS.contains(wanted));
        let Some(wanted) = wanted else { return bad("Invalid Access-Control-Request-Method") };
        let rules = match &asked.bucket {
            None => Ok(None),
            Some(bucket) => self.rules_of(meta, bucket).await,
        };
        let rules = match rules {
            Ok(Some(rules)) => rules,
            Ok(None) => return forbidden("CORSResponse: CORS is not enabled for this bucket."),
            Err(refused) => return error_response(refused),
        };
        let answer = cors::requested_headers(&asked.headers)
            .and_then(|headers| cors::preflight(&rules, origin, wanted, &headers));
        let mut response = match answer {
            Some(answer) => {
                let mut response = Response::new(Body::empty());
                tell(response.headers_mut(), &answer);
                response
            }
            None => forbidden(
                "CORSResponse: This CORS request is not allowed. This is usually because the evaluation of Origin, request \
                 method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the \
                 resource's CORS spec.",
            ),
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static(VARIES));
        response
    }

    /// Adds to an answer what its page may do with it.
    pub(super) async fn add(&self, meta: &dyn MetadataClient, asked: &Asked, response: &mut HttpResponse) {
        let (Some(bucket), Some(origin)) = (&asked.bucket, &asked.origin) else { return };
        let Ok(Some(rules)) = self.rules_of(meta, bucket).await else { return };
        // S3 judges by the header where there is one, also when the request is no preflight.
        let method = asked.wanted.as_deref().unwrap_or(asked.method.as_str());
        if let Some(answer) = cors::answer(&rules, origin, method) {
            tell(response.headers_mut(), &answer);
        }
        response.headers_mut().append(VARY, HeaderValue::from_static(VARIES));
    }
}

fn tell(headers: &mut HeaderMap, answer: &Answer) {
    let mut set = |name: HeaderName, value: &str| {
        // The rules were checked when they were set; what is no header's value all the same is left out.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(ACCESS_CONTROL_ALLOW_ORIGIN, &answer.origin);
    set(ACCESS_CONTROL_ALLOW_METHODS, &answer.methods.join(", "));
    if answer.credentials {
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    if !answer.headers.is_empty() {
        set(ACCESS_CONTROL_ALLOW_HEADERS, &answer.headers.join(", "));
    }
    if !answer.expose.is_empty() {
        set(ACCESS_CONTROL_EXPOSE_HEADERS, &answer.expose.join(", "));
    }
    if let Some(seconds) = answer.max_age_seconds {
        set(ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_ask() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
        };
        let of = |method, pairs: &[_]| Asked::of(&method, &headers(pairs), Some("b".into()));
        assert!(of(Method::GET, &[("accept", "*/*")]).is_none() && of(Method::OPTIONS, &[]).is_some());
        let asked = of(
            Method::OPTIONS,
            &[
                ("origin", "https://a"),
                ("access-control-request-headers", "a, b"),
                ("access-control-request-headers", "c"),
            ],
        )
        .expect("about origins");
        assert_eq!(cors::requested_headers(&asked.headers), Some(vec!["a", "b", "c"]));
        let mut odd = headers(&[("origin", "a")]);
        odd.insert("access-control-request-headers", HeaderValue::from_bytes(b"\xff").expect("a value"));
        let asked = Asked::of(&Method::OPTIONS, &odd, None).expect("about origins");
        let everything = Rule {
            origins: vec!["*".into()],
            methods: vec!["GET".into()],
            headers: vec!["*".into()],
            ..Rule::default()
        };
        let requested = cors::requested_headers(&asked.headers).expect("one name");
        assert_eq!(cors::preflight(&[everything], "a", "GET", &requested), None);
    }
}
