//! A notice as S3 writes event messages (Amazon S3 User Guide, "Event message structure", version 2.2).

use codec::effect::NoticeRow;
use serde_json::{Value, json};

/// The body of a request to a webhook.
pub(super) fn body(notice: &NoticeRow) -> Vec<u8> {
    json!({ "Records": [record(notice)] }).to_string().into_bytes()
}

fn record(notice: &NoticeRow) -> Value {
    let (seq, number) = notice.name.as_ref().map_or((0, 0), |name| (name.seq, name.number));
    let at = i64::try_from(notice.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let mut object = json!({
        "key": encoded(&notice.key),
        "sequencer": format!("{seq:016X}{number:08X}"),
    });
    // A removal has neither size nor entity tag.
    if !notice.etag.is_empty() {
        object["size"] = json!(notice.size);
        object["eTag"] = json!(notice.etag);
    }
    if !notice.version_id.is_empty() {
        object["versionId"] = json!(notice.version_id);
    }
    json!({
        "eventVersion": "2.2",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": at.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        "eventName": notice.event.strip_prefix("s3:").unwrap_or(&notice.event),
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": notice.rule,
            "bucket": {
                "name": notice.bucket,
                "ownerIdentity": { "principalId": notice.owner },
                "arn": format!("arn:aws:s3:::{}", notice.bucket),
            },
            "object": object,
        },
    })
}

/// A key as S3 writes it here: like a form's value, with slashes as they are.
fn encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b' ' => out.push('+'),
            _ if byte.is_ascii_alphanumeric() || b"-._*/".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::NoticeName;

    #[test]
    fn a_record_is_one_of_s3() {
        let notice = NoticeRow {
            name: Some(NoticeName { webhook: "audit".into(), seq: 10, number: 1 }),
            rule: "new".into(),
            bucket: "b".into(),
            owner: "me".into(),
            key: "a b/\u{e9}\"".into(),
            event: "s3:ObjectCreated:Put".into(),
            size: 5,
            etag: "e".into(),
            version_id: String::new(),
            at_ms: 1_000,
        };
        let read: Value = serde_json::from_slice(&body(&notice)).expect("JSON");
        let record = &read["Records"][0];
        assert_eq!(
            (&record["eventName"], &record["eventTime"]),
            (&json!("ObjectCreated:Put"), &json!("1970-01-01T00:00:01.000Z"))
        );
        let object = json!({"key": "a+b/%C3%A9%22", "size": 5, "eTag": "e", "sequencer": "000000000000000A00000001"});
        assert_eq!(record["s3"]["object"], object);
    }
}
