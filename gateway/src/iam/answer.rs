//! Answers in the XML of IAM and STS.

use crate::percent;
use http::{HeaderValue, StatusCode, header};
use metadata::client::CommitError;
use metadata::command::Refusal;
use metadata::iam::{IamFailure, Value};
use s3s::{Body, HttpResponse};
use std::fmt::Write as _;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Users, keys, policies, groups, roles.
    Iam,
    /// Temporary credentials.
    Sts,
}

impl Api {
    /// As in the scope of a signature.
    pub fn service(self) -> &'static str {
        match self {
            Api::Iam => "iam",
            Api::Sts => "sts",
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Api::Iam => "https://iam.amazonaws.com/doc/2010-05-08/",
            Api::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
        }
    }

    /// Whether an action belongs to it. A signature for one opens nothing of the other.
    pub fn has(self, action: &str) -> bool {
        let of_sts = matches!(action, "AssumeRole" | "GetSessionToken" | "GetCallerIdentity");
        of_sts == (self == Api::Sts)
    }
}

fn response(status: u16, xml: String) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from(xml));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    response
}

fn request_id() -> String {
    storage_node::trace::current().map(|trace| trace.to_string()).unwrap_or_default()
}

/// What an action came to.
pub fn success(api: Api, action: &str, value: &Value) -> HttpResponse {
    let mut xml = format!("<{action}Response xmlns=\"{}\">", api.namespace());
    // Actions that have nothing to tell have no result element, and SDKs look for none: but for this one, whose result is empty.
    if *value != Value::empty() || action == "UpdateRole" {
        let _ = write!(xml, "<{action}Result>");
        write_value(&mut xml, value);
        let _ = write!(xml, "</{action}Result>");
    }
    let id = request_id();
    let _ = write!(xml, "<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>");
    response(200, xml)
}

fn write_value(xml: &mut String, value: &Value) {
    match value {
        Value::Text(text) => escape(xml, text),
        // IAM sends documents as URLs have them (IAM API Reference, GetUserPolicy).
        Value::Document(text) => percent::push(xml, text),
        Value::List(items) => {
            for item in items {
                xml.push_str("<member>");
                write_value(xml, item);
                xml.push_str("</member>");
            }
        }
        Value::Fields(fields) => {
            for (name, value) in fields {
                let _ = write!(xml, "<{name}>");
                write_value(xml, value);
                let _ = write!(xml, "</{name}>");
            }
        }
    }
}

fn escape(xml: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') => xml.push('\u{fffd}'),
            c => xml.push(c),
        }
    }
}

/// Why an action came to nothing.
pub fn failure(api: Api, error: &IamFailure) -> HttpResponse {
    match error {
        IamFailure::Said { code, status, message } => refusal(api, *status, code, message),
        IamFailure::Commit(CommitError::Refused(refused @ Refusal::NeedsLevel { .. })) => {
            refusal(api, 501, "NotImplemented", &refused.to_string())
        }
        IamFailure::Commit(CommitError::Full) => refusal(api, 507, "InsufficientStorage", "The cluster is full."),
        IamFailure::Commit(_) | IamFailure::Lookup(_) => {
            tracing::warn!(%error, "a request of IAM was not carried out");
            refusal(api, 503, "ServiceUnavailable", "The service is not available. Try again.")
        }
    }
}

/// An error.
pub fn refusal(api: Api, status: u16, code: &str, message: &str) -> HttpResponse {
    let kind = if status < 500 { "Sender" } else { "Receiver" };
    let mut xml =
        format!("<ErrorResponse xmlns=\"{}\"><Error><Type>{kind}</Type><Code>{code}</Code><Message>", api.namespace());
    escape(&mut xml, message);
    let _ = write!(xml, "</Message></Error><RequestId>{}</RequestId></ErrorResponse>", request_id());
    response(status, xml)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_xml() {
        let value = Value::Fields(vec![
            ("User".into(), Value::one("UserName", "a<&b".into())),
            ("Users".into(), Value::List(vec!["x".into(), Value::one("P", Value::Document("{\"a\"}".into()))])),
        ]);
        let body = success(Api::Iam, "GetUser", &value).body().bytes().expect("a body");
        let text = String::from_utf8_lossy(&body).into_owned();
        let inside = "<GetUserResult><User><UserName>a&lt;&amp;b</UserName></User><Users><member>x</member>\
                      <member><P>%7B%22a%22%7D</P></member></Users></GetUserResult>";
        assert!(text.contains(inside), "{text}");
        let error = refusal(Api::Sts, 403, "AccessDenied", "no <x>").body().bytes().expect("a body");
        assert!(String::from_utf8_lossy(&error).contains("<Code>AccessDenied</Code><Message>no &lt;x&gt;</Message>"));
        assert!(Api::Sts.has("AssumeRole") && !Api::Iam.has("AssumeRole") && Api::Iam.has("CreateUser"));
    }
}
