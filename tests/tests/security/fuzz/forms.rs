//! Forms whose policy somebody with the right to do so has signed, whatever it says: what is taken is what the policy lets be.
//!
//! Source: "Creating a POST policy", Amazon S3 API Reference; judged here by a reading of our own.

use super::super::store::Store;
use super::{Fuzz, harmless};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tests::sigv4::{Ask, Key, Scope, ask, encoded, mac, signing_key, stamp};

/// Values that fields and conditions take.
const VALUES: [&str; 12] = [
    "in/a",
    "in/b",
    "in/",
    "out/a",
    "a",
    "",
    "text/plain",
    "text/html",
    "text/a,text/b",
    "in/\u{e9} +%41",
    "vault",
    "in",
];

/// Of content.
const TYPES: [&str; 3] = ["text/plain", "text/html", "text/plain; charset=utf-8"];

struct Form {
    fields: Vec<(String, String)>,
    file: Vec<u8>,
}

impl Form {
    fn request(&self, policy: &str, key: &Key, time: &str, credential: &str) -> Ask {
        let signature = hex::encode(mac(&signing_key(&key.secret, &time[..8], &Scope::default()), policy.as_bytes()));
        let own = [
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", credential),
            ("x-amz-date", time),
            ("policy", policy),
            ("x-amz-signature", &signature),
        ];
        let mut body = Vec::new();
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fields.chain(own) {
            let part = format!("--e\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        body.extend_from_slice(b"--e\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n");
        body.extend_from_slice(&self.file);
        body.extend_from_slice(b"\r\n--e--\r\n");
        ask("POST", "/vault").header("content-type", "multipart/form-data; boundary=e").body(body)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a condition holds; `Err`: it is none.
    fn holds(&self, condition: &Value, own: &[(&str, &str)]) -> Result<bool, ()> {
        let value = |field: &str| {
            let field = field.to_ascii_lowercase();
            let known = own.iter().find(|(name, _)| *name == field).map(|(_, value)| *value);
            if field == "bucket" { Some("vault") } else { known.or_else(|| self.value(&field)) }
        };
        match condition {
            Value::Object(pairs) if pairs.len() == 1 => {
                let (field, wanted) = pairs.iter().next().ok_or(())?;
                Ok(value(field) == Some(wanted.as_str().ok_or(())?))
            }
            Value::Array(parts) if parts.len() == 3 => {
                let number = |part: &Value| part.as_u64().or_else(|| part.as_str()?.parse().ok()).ok_or(());
                let operator = parts[0].as_str().ok_or(())?.to_ascii_lowercase();
                if operator == "content-length-range" {
                    let length = self.file.len() as u64;
                    return Ok((number(&parts[1])?..=number(&parts[2])?).contains(&length));
                }
                let field = parts[1].as_str().and_then(|field| field.strip_prefix('$')).ok_or(())?;
                let wanted = parts[2].as_str().ok_or(())?;
                let Some(value) = value(field) else { return Ok(false) };
                match operator.as_str() {
                    "eq" => Ok(value == wanted),
                    "starts-with" if field.eq_ignore_ascii_case("content-type") => {
                        Ok(value.split(',').all(|part| part.trim_start().starts_with(wanted)))
                    }
                    "starts-with" => Ok(value.starts_with(wanted)),
                    _ => Err(()),
                }
            }
            _ => Err(()),
        }
    }

    /// Whether the policy lets the form be. Its expiration is in the text, and no change of a few bytes makes another good one of it.
    fn is_let(&self, policy: &str, own: &[(&str, &str)]) -> bool {
        let Ok(Value::Object(policy)) = serde_json::from_str::<Value>(policy) else { return false };
        let Some(conditions) = policy.get("conditions").and_then(Value::as_array) else { return false };
        let year = policy.get("expiration").and_then(Value::as_str).and_then(|text| text.get(..4)?.parse::<u32>().ok());
        let speaks = |name: &str| {
            conditions.iter().any(|condition| match condition {
                Value::Object(pairs) => pairs.keys().any(|field| field.eq_ignore_ascii_case(name)),
                Value::Array(parts) => {
                    let field = parts.get(1).and_then(Value::as_str).and_then(|field| field.strip_prefix('$'));
                    field.is_some_and(|field| field.eq_ignore_ascii_case(name))
                }
                _ => false,
            })
        };
        let named = self.fields.iter().map(|(name, _)| name.as_str()).chain(own.iter().map(|(name, _)| *name));
        year.is_some_and(|year| year >= 2026)
            && conditions.iter().all(|condition| self.holds(condition, own) == Ok(true))
            && speaks("bucket")
            && named.filter(|name| !name.starts_with("x-ignore-")).all(speaks)
    }
}

impl Fuzz {
    fn form(&mut self) -> Form {
        let mut fields = vec![("key".to_owned(), self.one(&VALUES).to_owned())];
        if self.random.below(4) == 0 {
            fields[0].1 = self.line("in/key");
        }
        for name in ["Content-Type", "x-amz-meta-a", "x-ignore-a", "X-AMZ-META-B"] {
            if self.random.below(4) == 0 {
                // A type of content that is none is another reason to be refused.
                let values: &[&str] = if name == "Content-Type" { &TYPES } else { &VALUES };
                fields.push((name.to_owned(), self.one(values).to_owned()));
            }
        }
        let file = vec![b'x'; usize::try_from(self.random.below(14)).unwrap()];
        Form { fields, file }
    }

    fn condition(&mut self, field: &str, value: &str) -> String {
        let start: String = value.chars().take(usize::try_from(self.random.below(4)).unwrap()).collect();
        let wanted = if self.random.below(10) == 0 { self.one(&VALUES) } else { value };
        match self.random.below(4) {
            0 => serde_json::json!({ field: wanted }).to_string(),
            1 => serde_json::json!(["eq", format!("${field}"), wanted]).to_string(),
            2 => serde_json::json!(["Starts-With", format!("${}", field.to_ascii_lowercase()), start]).to_string(),
            _ => serde_json::json!(["starts-with", format!("${field}"), ""]).to_string(),
        }
    }

    /// A policy for this form that is right more often than not.
    fn policy(&mut self, form: &Form, own: &[(&str, &str)]) -> String {
        let fields = form.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut conditions = Vec::new();
        for (name, value) in fields.chain(own.iter().copied()).chain([("bucket", "vault")]) {
            if self.random.below(20) > 0 {
                conditions.push(self.condition(name, value));
            }
        }
        if self.random.below(2) == 0 {
            let (least, most) = (self.random.below(4), self.random.below(20));
            conditions.push(
                self.one(&[
                    format!("[\"content-length-range\",{least},{most}]").as_str(),
                    format!("[\"content-length-range\", \"{least}\", \"{most}\"]").as_str(),
                ])
                .to_owned(),
            );
        }
        format!("{{\"expiration\":\"2099-01-01T00:00:00.000Z\",\"conditions\":[{}]}}", conditions.join(","))
    }
}

pub(super) async fn signed_forms(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    let (mut taken, mut refused) = (0, 0);
    while fuzz.goes_on_until(taken > 3 && refused > 3) {
        let time = stamp(0);
        let credential = format!("{}/{}/us-east-1/s3/aws4_request", store.office.id, &time[..8]);
        let own = [
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", credential.as_str()),
            ("x-amz-date", time.as_str()),
        ];
        let form = fuzz.form();
        let meant = fuzz.policy(&form, &own);
        let bytes = if fuzz.random.below(2) == 0 { meant.clone().into_bytes() } else { fuzz.changed(meant.as_bytes()) };
        let is_let = std::str::from_utf8(&bytes).is_ok_and(|policy| form.is_let(policy, &own));
        let mut request = form.request(&BASE64.encode(&bytes), &store.office, &time, &credential);
        if fuzz.random.below(2) == 0 {
            let at = fuzz.address();
            request = request.from(at);
        }
        let status = harmless(&store, &mut fuzz, &request).await;
        let shown = || format!("seed {}: {status}: {}\n{:?}", fuzz.seed, String::from_utf8_lossy(&bytes), form.fields);
        let key = form.value("key").unwrap_or_default();
        if status == 204 {
            taken += 1;
            assert!(is_let, "{}", shown());
            let path = format!("/vault/{}", key.split('/').map(encoded).collect::<Vec<_>>().join("/"));
            assert_eq!(store.read(&path).await, form.file, "{}", shown());
            store.office(ask("DELETE", &path)).await;
        } else {
            refused += 1;
            // Fields, too, may be what no object has.
            let is_plain = VALUES.contains(&key) && !key.is_empty();
            let is_as_meant = bytes == meant.as_bytes();
            assert!(status >= 400 && !(is_let && is_plain && is_as_meant), "{}", shown());
        }
    }
    assert!(taken > 3 && refused > 3, "{taken} taken, {refused} refused");
    assert!(store.keys("vault").await.is_empty(), "what was taken lies where the form said");
    store.end().await;
}
