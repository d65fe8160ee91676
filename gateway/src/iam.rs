//! IAM and STS on the S3 port: `POST /` with a form, signed for the service `iam` or `sts`.
//!
//! Source: IAM API Reference, "Making query requests"; STS API Reference, "Common parameters".
//!
//! Invariants
//! * A signature opens the service that it was made for and no other: what was signed for S3 never comes here, and the other way
//!   round. Everything that is asked for is signed: the form is hashed, and a query is refused.
//! * Here it is only decided who asks. Whether that one may, metadata decides, where it is carried out.
//! * What a request holds is bounded, and so is how many are read and answered at a time.

mod answer;
mod form;
mod sigv4;

use crate::s3::request::header;
use crate::server::{Peer, sign_in};
use answer::{Api, failure, refusal};
use bytes::Bytes;
use form::{Forms, fields};
use http::{HeaderMap, Method, Request};
use hyper::body::Body;
use metadata::client::MetadataClient;
use metadata::iam::{IamCall, Signing};
use s3s::HttpResponse;
use sigv4::{Refused, Signed};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// Requests that are looked at and answered at a time. The next one waits.
const AT_A_TIME: usize = 256;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// IAM and STS.
pub struct Iam {
    metadata: Arc<dyn MetadataClient>,
    forms: Forms,
    turns: Semaphore,
}

impl std::fmt::Debug for Iam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Iam")
    }
}

/// Which of the two a request is signed for, if for one of them.
fn api(headers: &HeaderMap) -> Option<Api> {
    match sigv4::service(header(headers, "authorization")?)? {
        "iam" => Some(Api::Iam),
        "sts" => Some(Api::Sts),
        _ => None,
    }
}

/// Whether a request is one of these. Its signature is not looked at yet.
pub fn is_for<B>(req: &Request<B>) -> bool {
    req.method() == Method::POST && req.uri().path() == "/" && api(req.headers()).is_some()
}

impl Iam {
    /// Carried out by `metadata`.
    pub fn new(metadata: Arc<dyn MetadataClient>) -> Iam {
        Iam { metadata, forms: Forms::default(), turns: Semaphore::new(AT_A_TIME) }
    }

    /// Answers a request for which [`is_for`] is true.
    pub async fn answer<B>(&self, req: Request<B>) -> HttpResponse
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let api = api(req.headers()).unwrap_or(Api::Iam);
        let (parts, body) = req.into_parts();
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
        let form = match self.forms.read(peer, body).await {
            Ok(form) => form,
            Err(refused) => return refused.response(api),
        };
        // Not before the form is there: who sends slowly takes no turn from others.
        let Ok(_turn) = tokio::time::timeout(PATIENCE, self.turns.acquire()).await else {
            return refusal(api, 503, "Throttling", "Too many requests are being answered. Try again later.");
        };
        match self.carried_out(api, &parts, &form).await {
            Ok(response) => response,
            Err(refused) => refused.response(api),
        }
    }

    async fn carried_out(&self, api: Api, parts: &http::request::Parts, form: &[u8]) -> Result<HttpResponse, Refused> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let signed = Signed::read(parts, api.service(), form, now)?;
        let token = header(&parts.headers, "x-amz-security-token");
        sign_in::tries(signed.access_key()).map_err(|refused| Refused::new(503, "SlowDown", refused.to_string()))?;
        let found = self.metadata.signer(signed.access_key(), token).await;
        let signer = match found.map_err(|error| Refused::unavailable(&error))? {
            Signing::Known(signer) => signer,
            Signing::Expired => {
                return Err(Refused::new(403, "ExpiredToken", "The security token included in the request is expired"));
            }
            Signing::Unknown | Signing::NeedsToken(_) | Signing::InvalidToken => return Err(sigv4::invalid_token()),
        };
        signed.verify(&signer.secret)?;
        let parameters =
            fields(form).ok_or_else(|| Refused::new(400, "MalformedQueryString", "The form is malformed."))?;
        let of =
            |name: &str| parameters.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        let action = of("Action").to_owned();
        let missing = || Refused::new(400, "MissingAction", "The request has no Action.");
        if action.is_empty() {
            return Err(missing());
        }
        if !api.has(&action) || !matches!(of("Version"), "" | "2010-05-08" | "2011-06-15") {
            let text = format!("Could not find operation {action} for version {}", of("Version"));
            return Err(Refused::new(400, "InvalidAction", text));
        }
        let call = IamCall {
            access_key: signed.access_key().to_owned(),
            token: token.map(str::to_owned),
            action: action.clone(),
            parameters,
            known: known(parts, now),
        };
        Ok(match self.metadata.iam(call).await {
            Ok(value) => answer::success(api, &action, &value),
            Err(error) => failure(api, &error),
        })
    }
}

/// What conditions may ask about a request.
fn known(parts: &http::request::Parts, now: u64) -> Vec<(String, String)> {
    let mut known = Vec::new();
    let mut add = |name: &str, value: String| known.push((name.to_owned(), value));
    if let Some(peer) = parts.extensions.get::<Peer>() {
        add("aws:SourceIp", peer.address.ip().to_canonical().to_string());
        add("aws:SecureTransport", peer.tls.is_some().to_string());
    }
    add("aws:EpochTime", now.to_string());
    if let Some(at) = i64::try_from(now).ok().and_then(|now| jiff::Timestamp::from_second(now).ok()) {
        add("aws:CurrentTime", at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    for (key, name) in [("aws:UserAgent", "user-agent"), ("aws:Referer", "referer")] {
        if let Some(value) = header(&parts.headers, name) {
            add(key, value.to_owned());
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_signed_for_iam_or_sts_comes_here() {
        let req = |service: &str, path: &str, method: Method| {
            let credential = format!(
                "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
            );
            let req = Request::builder().method(method).uri(path).header("authorization", credential);
            is_for(&req.body(()).expect("a request"))
        };
        assert!(req("iam", "/", Method::POST) && req("sts", "/", Method::POST));
        assert!(!req("s3", "/", Method::POST) && !req("iam", "/bucket", Method::POST) && !req("iam", "/", Method::GET));
    }
}
