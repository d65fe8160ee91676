//! Rules for requests that web pages of other origins make.
//!
//! Source: Amazon S3 User Guide, "Using cross-origin resource sharing (CORS)" and "CORS configuration"; Fetch Standard, "CORS protocol".
//!
//! Invariants:
//! * An answer names an origin only if a rule does. `*` comes without credentials; an origin that is named comes with them.
//! * Nothing of a configuration gets into a header that is no token: a line end in it would begin another header.

/// Most rules of a bucket.
pub const MAX_RULES: usize = 100;
/// Most values of one list in a rule.
const MAX_VALUES: usize = 100;
/// Longest value, in bytes.
const MAX_VALUE: usize = 1024;
/// Most names in one Access-Control-Request-Headers: each is held against every pattern of every rule, for somebody who has not
/// signed anything.
const MAX_REQUESTED: usize = 100;

/// The methods that a rule may name.
pub const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its name; empty without one. At most 255 characters.
    pub id: String,
    /// Origins, each with one `*` at most.
    pub origins: Vec<String>,
    /// Methods, of [`METHODS`].
    pub methods: Vec<String>,
    /// Headers that may be sent, each with one `*` at most.
    pub headers: Vec<String>,
    /// Headers that the page may read.
    pub expose: Vec<String>,
    /// How long a browser may remember the answer.
    pub max_age_seconds: Option<u32>,
}

/// What of a value is repeated to whoever sent it, in characters.
const REPEATED: usize = 256;

/// Why rules are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorsError {
    /// No rule, or too many. S3: MalformedXML.
    #[error("a CORS configuration has 1 to {MAX_RULES} rules")]
    Rules,
    /// A rule without an origin or without a method, or a list that is too long. S3: MalformedXML.
    #[error("a CORS rule needs origins and methods, and at most {MAX_VALUES} of each")]
    Lists,
    /// S3: InvalidRequest.
    #[error("Found unsupported HTTP method in CORS config. Unsupported method is {0}")]
    Method(String),
    /// S3: InvalidRequest.
    #[error("{what} {value:?} can not have more than one wildcard.")]
    Wildcards {
        /// `AllowedOrigin` or `AllowedHeader`.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// S3: InvalidRequest.
    #[error("{what} {value:?} has characters that can't be in it, or is too long")]
    Characters {
        /// The element.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// S3: InvalidRequest.
    #[error("ExposeHeader {0:?} contains wildcard. We currently do not support wildcard for ExposeHeader.")]
    Expose(String),
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Access-Control-Allow-Origin.
    pub origin: String,
    /// Access-Control-Allow-Credentials: true.
    pub credentials: bool,
    /// Access-Control-Allow-Methods.
    pub methods: Vec<String>,
    /// Access-Control-Allow-Headers: those that were asked for. Of a preflight only.
    pub headers: Vec<String>,
    /// Access-Control-Expose-Headers.
    pub expose: Vec<String>,
    /// Access-Control-Max-Age. Of a preflight only.
    pub max_age_seconds: Option<u32>,
}

/// A letter, digit or other character of a field name (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn check_list(list: &[String]) -> Result<(), CorsError> {
    if list.len() > MAX_VALUES { Err(CorsError::Lists) } else { Ok(()) }
}

/// Refuses rules that can't be kept, or not be followed.
pub fn check(rules: &[Rule]) -> Result<(), CorsError> {
    if rules.is_empty() || rules.len() > MAX_RULES {
        return Err(CorsError::Rules);
    }
    rules.iter().try_for_each(check_rule)
}

/// The beginning of a value: all of one may be megabytes, and several times that once it is written as XML.
fn repeated(value: &str) -> String {
    value.chars().take(REPEATED).collect()
}

fn check_rule(rule: &Rule) -> Result<(), CorsError> {
    if rule.origins.is_empty() || rule.methods.is_empty() {
        return Err(CorsError::Lists);
    }
    [&rule.origins, &rule.methods, &rule.headers, &rule.expose].into_iter().try_for_each(|list| check_list(list))?;
    let characters = |what, value: &str| CorsError::Characters { what, value: repeated(value) };
    if rule.id.chars().count() > 255 || rule.id.chars().any(char::is_control) {
        return Err(characters("ID", &rule.id));
    }
    for method in &rule.methods {
        if !METHODS.contains(&method.as_str()) {
            return Err(CorsError::Method(repeated(method)));
        }
    }
    for (what, list) in [("AllowedOrigin", &rule.origins), ("AllowedHeader", &rule.headers)] {
        for value in list {
            if value.matches('*').count() > 1 {
                return Err(CorsError::Wildcards { what, value: repeated(value) });
            }
        }
    }
    for origin in &rule.origins {
        if origin.is_empty() || origin.len() > MAX_VALUE || !origin.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(characters("AllowedOrigin", origin));
        }
    }
    for header in &rule.headers {
        if !is_token(header) || header.len() > MAX_VALUE {
            return Err(characters("AllowedHeader", header));
        }
    }
    for header in &rule.expose {
        if header.contains('*') {
            return Err(CorsError::Expose(repeated(header)));
        }
        if !is_token(header) || header.len() > MAX_VALUE {
            return Err(characters("ExposeHeader", header));
        }
    }
    Ok(())
}

/// The same without regard to case.
fn fits_any_case(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    match pattern.iter().position(|byte| *byte == b'*') {
        None => pattern.eq_ignore_ascii_case(text),
        Some(star) => {
            let (start, end) = (&pattern[..star], &pattern[star + 1..]);
            text.len() >= start.len() + end.len()
                && text[..start.len()].eq_ignore_ascii_case(start)
                && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
        }
    }
}

/// One `*` at most stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

impl Rule {
    /// The origin that the answer names.
    fn allowed_origin(&self, origin: &str) -> Option<(String, bool)> {
        if self.origins.iter().any(|pattern| pattern == "*") {
            return Some(("*".to_owned(), false));
        }
        let named = origin.bytes().all(|b| b.is_ascii_graphic()) && !origin.is_empty();
        (named && self.origins.iter().any(|pattern| fits(pattern, origin))).then(|| (origin.to_owned(), true))
    }

    fn allows_header(&self, header: &str) -> bool {
        is_token(header) && self.headers.iter().any(|pattern| fits_any_case(pattern, header))
    }
}

/// What the answer to a request says; `None` without a rule: then it says nothing, and the browser keeps it from the page.
pub fn answer(rules: &[Rule], origin: &str, method: &str) -> Option<Answer> {
    rules.iter().find_map(|rule| answer_by(rule, origin, method, &[]))
}

/// What the answer to a preflight request says; `None`: 403. `headers` are those of Access-Control-Request-Headers.
pub fn preflight(rules: &[Rule], origin: &str, method: &str, headers: &[&str]) -> Option<Answer> {
    rules.iter().find_map(|rule| {
        let answer = answer_by(rule, origin, method, headers)?;
        Some(Answer { max_age_seconds: rule.max_age_seconds, ..answer })
    })
}

fn answer_by(rule: &Rule, origin: &str, method: &str, headers: &[&str]) -> Option<Answer> {
    let (origin, credentials) = rule.allowed_origin(origin)?;
    let methods = rule.methods.iter().any(|allowed| allowed == method);
    if !methods || !headers.iter().all(|header| rule.allows_header(header)) {
        return None;
    }
    Some(Answer {
        origin,
        credentials,
        methods: rule.methods.clone(),
        headers: headers.iter().map(|header| header.to_ascii_lowercase()).collect(),
        expose: rule.expose.clone(),
        max_age_seconds: None,
    })
}

/// The names in Access-Control-Request-Headers. A list that is not one fits no rule; `None`: there are more than any page needs, and
/// nothing is held against them.
pub fn requested_headers(value: &str) -> Option<Vec<&str>> {
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<&str> = names.take(MAX_REQUESTED + 1).collect();
    (names.len() <= MAX_REQUESTED).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> Rule {
        let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        Rule { origins: list(origins), methods: list(methods), headers: list(headers), ..Rule::default() }
    }

    /// The rules and origins of the public conformance suite.
    #[test]
    fn origins_with_wildcards() {
        let rules = [
            rule(&["*suffix"], &["GET"], &[]),
            rule(&["start*end"], &["GET"], &[]),
            rule(&["prefix*"], &["GET"], &[]),
            rule(&["*.put"], &["PUT"], &[]),
        ];
        assert_eq!(check(&rules), Ok(()));
        let of = |origin, method| answer(&rules, origin, method).map(|answer| answer.origin);
        for (origin, method, expected) in [
            ("foo.suffix", "GET", true),
            ("foo.bar", "GET", false),
            ("foo.suffix.get", "GET", false),
            ("startend", "GET", true),
            ("start1end", "GET", true),
            ("start12end", "GET", true),
            ("0start12end", "GET", false),
            ("prefix", "GET", true),
            ("prefix.suffix", "GET", true),
            ("bla.prefix", "GET", false),
            ("foo.put", "PUT", true),
            ("foo.put", "GET", false),
            ("", "GET", false),
        ] {
            assert_eq!(of(origin, method).as_deref(), expected.then_some(origin), "{origin} {method}");
        }
        assert!(!fits("ab*ba", "aba") && fits("ab*ba", "abba"), "the two ends don't overlap");
    }

    #[test]
    fn everybody_comes_without_credentials() {
        let rules = [rule(&["*"], &["GET"], &[])];
        let told = answer(&rules, "https://evil.example", "GET").expect("an answer");
        assert_eq!((told.origin.as_str(), told.credentials), ("*", false));
        let rules = [rule(&["https://*.example"], &["GET"], &[])];
        let told = answer(&rules, "https://a.example", "GET").expect("an answer");
        assert_eq!((told.origin.as_str(), told.credentials), ("https://a.example", true));
        assert_eq!(answer(&rules, "null", "GET"), None);
    }

    #[test]
    fn preflights() {
        let rules = [
            Rule { max_age_seconds: Some(60), ..rule(&["https://a"], &["PUT", "GET"], &["x-amz-*", "Content-Type"]) },
            rule(&["*"], &["GET"], &["*"]),
        ];
        let told = preflight(&rules, "https://a", "PUT", &["X-Amz-Date", "content-type"]).expect("an answer");
        assert_eq!((told.headers.join(","), told.max_age_seconds), ("x-amz-date,content-type".to_owned(), Some(60)));
        assert_eq!(preflight(&rules, "https://a", "PUT", &["authorization"]), None);
        assert_eq!(
            preflight(&rules, "https://a", "GET", &["authorization"]).map(|told| told.origin).as_deref(),
            Some("*")
        );
        assert_eq!(preflight(&rules, "https://b", "PUT", &[]), None);
        assert_eq!(preflight(&rules, "https://a", "put", &[]), None, "methods have case");
        assert_eq!(preflight(&rules, "https://b", "GET", &["x y"]), None, "what is no header's name fits no rule");
        assert_eq!(requested_headers(" a, b ,,c"), Some(vec!["a", "b", "c"]));
    }

    /// One unsigned request of 62 KB took seconds: each of its names was held against each pattern, in new memory.
    #[test]
    fn nobody_asks_for_more_headers_than_a_page_has() {
        let names = |n: usize| vec!["a"; n].join(",");
        assert_eq!(requested_headers(&names(MAX_REQUESTED)).map(|names| names.len()), Some(MAX_REQUESTED));
        assert_eq!(requested_headers(&names(MAX_REQUESTED + 1)), None);
        assert_eq!(requested_headers(&names(31_000)), None);
    }

    #[test]
    fn names_of_headers_have_no_case() {
        let allows = |pattern: &str, header: &str| rule(&["*"], &["GET"], &[pattern]).allows_header(header);
        assert!(allows("X-AMZ-*", "x-amz-date") && allows("x-*-ID", "X-Request-Id") && allows("*", "anything"));
        assert!(!allows("x-amz-*", "x-am") && !allows("ab*ba", "aba") && !allows("a", "ab") && !allows("*", "\u{e9}"));
    }

    #[test]
    fn rules_that_are_not_taken() {
        let good = rule(&["*"], &["GET"], &[]);
        assert_eq!(check(&[]), Err(CorsError::Rules));
        assert_eq!(check(&vec![good.clone(); MAX_RULES + 1]), Err(CorsError::Rules));
        assert_eq!(check(&[rule(&[], &["GET"], &[])]), Err(CorsError::Lists));
        assert_eq!(check(&[rule(&["*"], &[], &[])]), Err(CorsError::Lists));
        assert!(matches!(check(&[rule(&["*"], &["PATCH"], &[])]), Err(CorsError::Method(_))));
        assert!(matches!(check(&[rule(&["*"], &["get"], &[])]), Err(CorsError::Method(_))));
        assert!(matches!(check(&[rule(&["*a*"], &["GET"], &[])]), Err(CorsError::Wildcards { .. })));
        assert!(matches!(check(&[rule(&["*"], &["GET"], &["**"])]), Err(CorsError::Wildcards { .. })));
        assert!(matches!(check(&[rule(&["a\nb"], &["GET"], &[])]), Err(CorsError::Characters { .. })));
        assert!(matches!(check(&[rule(&["*"], &["GET"], &["a b"])]), Err(CorsError::Characters { .. })));
        // Ceph CVE-2020-10753: a line end in ExposeHeader became another header.
        for bad in ["x\r\nset-cookie: a", "x\n", "a:b", ""] {
            let rule = Rule { expose: vec![bad.to_owned()], ..good.clone() };
            assert!(matches!(check(&[rule]), Err(CorsError::Characters { .. })), "{bad:?}");
        }
        assert!(matches!(check(&[Rule { expose: vec!["*".into()], ..good.clone() }]), Err(CorsError::Expose(_))));
        assert!(check(&[Rule { id: "x".repeat(256), ..good }]).is_err());
    }

    proptest! {
        /// An answer never has a character that ends a header, whatever is asked.
        #[test]
        fn answers_are_headers(origin in ".{0,20}", method in ".{0,5}", header in ".{0,10}") {
            let rules = [rule(&["a*"], &["GET"], &["*"]), rule(&["https://*"], &["PUT"], &["x-*"])];
            if let Some(told) = preflight(&rules, &origin, &method, &[&header]) {
                let texts = told.headers.iter().chain(&told.expose).chain([&told.origin]);
                for text in texts {
                    prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
                }
            }
        }

        #[test]
        fn a_wildcard_fits_what_has_both_ends(start in "[a-c]{0,3}", middle in "[a-c]{0,3}", end in "[a-c]{0,3}") {
            let (pattern, text) = (format!("{start}*{end}"), format!("{start}{middle}{end}"));
            prop_assert!(fits(&pattern, &text));
        }
    }
}
