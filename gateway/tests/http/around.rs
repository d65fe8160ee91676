//! What is around objects: pages of other origins, forms, tags of buckets, access logs.

use crate::client::{Answer, Server, policy_signature, stamp};
use crate::{refused, server};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use gateway::server::{Domains, Limits};

/// A request as it is sent, without a signature.
async fn plain(server: &Server, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    server.send(&format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n{lines}", server.host()), body).await
}

const RULES: &[u8] =
    b"<CORSConfiguration><CORSRule><AllowedOrigin>https://*.example</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
    <AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
    <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule></CORSConfiguration>";

#[tokio::test]
async fn pages_of_other_origins_are_told_what_the_bucket_says() {
    let server = server().await;
    let origin = ("origin", "https://a.example");
    refused(&server.query("alice", "GET", "/docs", "cors=", &[], b"").await, 404, "NoSuchCORSConfiguration");
    let asked = [origin, ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-amz-date")];
    refused(&plain(&server, "OPTIONS", "/docs/a", &asked, b"").await, 403, "AccessForbidden");
    assert_eq!(server.query("alice", "PUT", "/docs", "cors=", &[], RULES).await.status, 200);
    let kept = server.query("alice", "GET", "/docs", "cors=", &[], b"").await;
    assert!(kept.status == 200 && kept.text().contains("<ExposeHeader>ETag</ExposeHeader>"), "{}", kept.text());

    let told = plain(&server, "OPTIONS", "/docs/a", &asked, b"").await;
    assert_eq!(told.status, 200, "{}", told.text());
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-amz-date"),
        ("access-control-expose-headers", "ETag"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(told.header(name), Some(value), "{name}");
    }
    assert!(told.header("vary").is_some_and(|vary| vary.contains("Origin")));
    let with = |change: (&'static str, &'static str)| -> Vec<(&'static str, &'static str)> {
        asked.iter().map(|pair| if pair.0 == change.0 { change } else { *pair }).collect()
    };
    for change in [
        ("origin", "https://a.example.evil"),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "authorization"),
    ] {
        let answer = plain(&server, "OPTIONS", "/docs/a", &with(change), b"").await;
        refused(&answer, 403, "AccessForbidden");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{change:?}");
    }
    refused(&plain(&server, "OPTIONS", "/docs/a", &asked[1..], b"").await, 400, "BadRequest");
    refused(&plain(&server, "OPTIONS", "/docs/a", &asked[..1], b"").await, 400, "BadRequest");
    refused(&plain(&server, "OPTIONS", "/none/a", &asked, b"").await, 404, "NoSuchBucket");

    // Every answer, also a refusal, tells the page that it may read it.
    for (answer, status) in [
        (server.request("alice", "GET", "/docs/a", &[origin], b"").await, 200),
        (server.request("alice", "GET", "/docs/none", &[origin], b"").await, 404),
        (plain(&server, "GET", "/docs/a", &[origin], b"").await, 403),
    ] {
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some("https://a.example")));
    }
    for other in [("origin", "https://evil.test"), ("origin", "null")] {
        let answer = server.request("alice", "GET", "/docs/a", &[other], b"").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    }
    assert_eq!(server.query("alice", "DELETE", "/docs", "cors=", &[], b"").await.status, 204);
    let answer = server.request("alice", "GET", "/docs/a", &[origin], b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), None, "what was taken away is not followed");
}

/// Ceph CVE-2020-10753: a line end in a rule became a header of its own.
#[tokio::test]
async fn cve_2020_10753_cors_newline() {
    let server = server().await;
    let rules = b"<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
        <ExposeHeader>x&#13;&#10;set-cookie: a=b</ExposeHeader></CORSRule></CORSConfiguration>";
    refused(&server.query("alice", "PUT", "/docs", "cors=", &[], rules).await, 400, "InvalidRequest");
}

const IN_THE_FUTURE: &str = "2999-01-01T00:00:00Z";

/// Names and values of a form.
type Fields = Vec<(String, String)>;

/// The fields of a signed form whose policy has these conditions, and the key `up/x`.
fn signed(account: &str, expiration: &str, conditions: &str) -> Fields {
    let all = format!(r#"{{"bucket":"docs"}},["starts-with","$key","up/"]{conditions}"#);
    signed_over(account, expiration, "up/${filename}", &all)
}

/// The fields of a signed form for this key, whose policy has these conditions and those of its signature.
fn signed_over(account: &str, expiration: &str, key: &str, conditions: &str) -> Fields {
    let stamp = stamp();
    let scope = format!("AK{account}/{}/us-east-1/s3/aws4_request", &stamp[..8]);
    let policy = format!(
        r#"{{"expiration":"{expiration}","conditions":[{conditions},
        {{"x-amz-algorithm":"AWS4-HMAC-SHA256"}},{{"x-amz-credential":"{scope}"}},{{"x-amz-date":"{stamp}"}}]}}"#
    );
    let policy = BASE64.encode(policy);
    let signature = policy_signature(account, &stamp, &policy);
    [
        ("key", key),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-credential", &scope),
        ("x-amz-date", &stamp),
        ("policy", &policy),
        ("x-amz-signature", &signature),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

async fn post(server: &Server, target: &str, fields: &[(String, String)], file: &[u8]) -> Answer {
    plain(server, "POST", target, &[("content-type", "multipart/form-data; boundary=xx")], &form(fields, file)).await
}

fn form(fields: &[(String, String)], file: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend_from_slice(
            format!("--xx\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").as_bytes(),
        );
    }
    body.extend_from_slice(b"--xx\r\ncontent-disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n");
    body.extend_from_slice(file);
    // The button that browsers send is behind the file.
    body.extend_from_slice(b"\r\n--xx\r\ncontent-disposition: form-data; name=\"submit\"\r\n\r\nUpload\r\n--xx--\r\n");
    body
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[tokio::test]
async fn forms_store_what_their_policy_allows() {
    let server = server().await;
    let answer = post(&server, "/docs", &signed("alice", IN_THE_FUTURE, ""), b"hello").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert!(
        answer.header("location").is_some_and(|url| url.ends_with("/docs/up/x")) && answer.header("etag").is_some()
    );
    assert_eq!(server.request("alice", "GET", "/docs/up/x", &[], b"").await.body, b"hello");

    // Longer than what is had whole: its length is not known before its end.
    let long: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let wanted = r#",{"success_action_status":"201"},{"x-amz-meta-a":"b"},["starts-with","$Content-Type","text/"],["content-length-range",1,400000]"#;
    let mut fields = signed("alice", IN_THE_FUTURE, wanted);
    fields.extend([
        field("success_action_status", "201"),
        field("x-amz-meta-a", "b"),
        field("Content-Type", "text/plain"),
    ]);
    let answer = post(&server, "/docs/", &fields, &long).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(answer.text().contains("<Key>up/x</Key>"), "{}", answer.text());
    let read = server.request("alice", "GET", "/docs/up/x", &[], b"").await;
    assert_eq!((read.header("content-type"), read.header("x-amz-meta-a")), (Some("text/plain"), Some("b")));
    assert!(read.body == long);

    let there = r#",{"success_action_redirect":"https://page.example/done?a=b#c"}"#;
    let mut fields = signed("alice", IN_THE_FUTURE, there);
    fields.push(field("success_action_redirect", "https://page.example/done?a=b#c"));
    let answer = post(&server, "/docs", &fields, b"").await;
    assert_eq!(answer.status, 303);
    let location = answer.header("location").unwrap_or_default();
    assert!(
        location.starts_with("https://page.example/done?a=b&bucket=docs&key=up/x&etag=%22") && location.ends_with("#c")
    );
}

/// The bucket that a form's host or path names was read again when the object was stored: the beginning of the key was the bucket then.
#[tokio::test]
async fn a_form_is_stored_where_its_policy_was_held_against() {
    let domains = Domains::new(&["s3.test".to_owned()]).unwrap();
    let server = Server::start_in(Limits::default(), domains).await;
    for bucket in ["/docs", "/victim"] {
        assert_eq!(server.request("alice", "PUT", bucket, &[], b"").await.status, 200);
    }
    let fields = signed_over("alice", IN_THE_FUTURE, "victim/owned", r#"{"bucket":"docs"},["starts-with","$key",""]"#);
    let body = form(&fields, b"hello");
    // As in HTTP/2, the host may be in the target alone.
    for head in ["POST http://docs.s3.test/ HTTP/1.1\r\n", "POST / HTTP/1.1\r\nhost: docs.s3.test\r\n"] {
        let head = format!("{head}content-type: multipart/form-data; boundary=xx\r\n");
        let answer = server.send(&head, &body).await;
        let location = answer.header("location").map(str::to_owned);
        assert_eq!((answer.status, location.as_deref()), (204, Some("http://docs.s3.test/victim/owned")), "{head}");
        assert_eq!(server.request("alice", "DELETE", "/docs/victim/owned", &[], b"").await.status, 204);
        let read = server.request("alice", "GET", "/victim/owned", &[], b"").await;
        refused(&read, 404, "NoSuchKey");
    }
    let conditions = r#"["starts-with","$bucket",""],["starts-with","$key","uploads/"]"#;
    let fields = signed_over("alice", IN_THE_FUTURE, "uploads/a", conditions);
    refused(&post(&server, "/docs%2Fhack", &fields, b"hello").await, 400, "InvalidBucketName");
    refused(&server.request("alice", "GET", "/docs/hack/uploads/a", &[], b"").await, 404, "NoSuchKey");
    assert_eq!(post(&server, "/docs", &fields, b"hello").await.status, 204);
    assert_eq!(server.request("alice", "GET", "/docs/uploads/a", &[], b"").await.body, b"hello");
}

/// MinIO GHSA-jv87's class: who tries secrets by forms, or by URLs whose parameters are spelt otherwise, was not slowed down; nor
/// who had mentioned the key in a request that nobody signed.
#[tokio::test]
async fn who_tries_secrets_is_slowed_down_however_he_signs() {
    let slowed = async |what: &str, send: &dyn Fn(&Server) -> (String, Vec<u8>)| {
        let server = server().await;
        for n in 0..2000 {
            let (head, body) = send(&server);
            let answer = server.send(&head, &body).await;
            if answer.status == 503 {
                refused(&answer, 503, "SlowDown");
                assert!(n >= 100, "{what}: after {n}");
                return;
            }
            refused(&answer, 403, "SignatureDoesNotMatch");
        }
        panic!("{what}: 2000 wrong signatures were looked at");
    };
    let fields: Fields =
        signed("bob", IN_THE_FUTURE, "").into_iter().map(|(n, v)| (n, v.replace("AKbob", "AKalice"))).collect();
    let body = form(&fields, b"hello");
    slowed("forms", &|server| {
        let head = format!(
            "POST /docs HTTP/1.1\r\nhost: {}\r\ncontent-type: multipart/form-data; boundary=xx\r\n",
            server.host()
        );
        (head, body.clone())
    })
    .await;
    slowed("URLs", &|server| {
        let (stamp, zeros) = (stamp(), "0".repeat(64));
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-%43redential=AKalice%2F{}%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date={stamp}&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={zeros}",
            &stamp[..8]
        );
        (format!("GET /docs/a?{query} HTTP/1.1\r\nhost: {}\r\n", server.host()), Vec::new())
    })
    .await;
    let server = server().await;
    let mentioned = plain(&server, "GET", "/docs/a?X-Amz-Credential=AKalice", &[], b"").await;
    refused(&mentioned, 400, "AuthorizationQueryParametersError");
}

/// MinIO GHSA-w5fh (conditions of the policy were not checked), CVE-2023-28434 (metadata that is not the form's), and what a form
/// must not be: unsigned, signed by another, expired, for another bucket or key, too long, or saying more than its policy.
#[tokio::test]
async fn ghsa_w5fh_cve_2023_28434_forms_that_are_refused() {
    let server = server().await;
    let with = |conditions: &str, more: &[(&str, &str)]| {
        let mut fields = signed("alice", IN_THE_FUTURE, conditions);
        fields.extend(more.iter().map(|(name, value)| field(name, value)));
        fields
    };
    let changed = |name: &str, value: &str| {
        let fields = signed("alice", IN_THE_FUTURE, "").into_iter();
        fields.map(|(n, v)| if n == name { (n, value.to_owned()) } else { (n, v) }).collect::<Vec<_>>()
    };
    let without =
        |name: &str| signed("alice", IN_THE_FUTURE, "").into_iter().filter(|(n, _)| n != name).collect::<Vec<_>>();
    let forged =
        signed("bob", IN_THE_FUTURE, "").into_iter().map(|(n, v)| (n, v.replace("AKbob", "AKalice"))).collect();
    let cases: Vec<(&str, Fields, u16, &str)> = vec![
        ("nobody signed", vec![field("key", "up/x")], 403, "AccessDenied"),
        ("another signed", signed("bob", IN_THE_FUTURE, ""), 403, "AccessDenied"),
        ("forged", forged, 403, "SignatureDoesNotMatch"),
        ("unknown", signed("mallory", IN_THE_FUTURE, ""), 403, "InvalidAccessKeyId"),
        ("expired", signed("alice", "2020-01-01T00:00:00Z", ""), 403, "AccessDenied"),
        ("another key", changed("key", "down/x"), 403, "AccessDenied"),
        ("another policy", changed("policy", "e30="), 403, "SignatureDoesNotMatch"),
        ("no key", without("key"), 400, "InvalidArgument"),
        ("no signature", without("x-amz-signature"), 400, "InvalidArgument"),
        ("no policy", without("policy"), 400, "InvalidArgument"),
        ("unspoken metadata", with("", &[("x-amz-meta-a", "b")]), 403, "AccessDenied"),
        ("unspoken acl", with("", &[("acl", "public-read")]), 403, "AccessDenied"),
        ("twice", with("", &[("key", "up/y")]), 400, "InvalidArgument"),
        ("too long", with(r#",["content-length-range",0,4]"#, &[]), 400, "EntityTooLarge"),
        ("too short", with(r#",["content-length-range",6,9]"#, &[]), 400, "EntityTooSmall"),
        ("another bucket", with(r#",{"bucket":"other"}"#, &[]), 403, "AccessDenied"),
        (
            "a copy",
            with(r#",["starts-with","$x-amz-copy-source",""]"#, &[("x-amz-copy-source", "/docs/a")]),
            501,
            "NotImplemented",
        ),
        ("version 2", with("", &[("AWSAccessKeyId", "AKalice"), ("signature", "AAAA")]), 400, "InvalidRequest"),
    ];
    for (what, fields, status, code) in cases {
        let answer = post(&server, "/docs", &fields, b"hello").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {}", answer.text());
    }
    // Found out while the file comes: nothing of it is left.
    let long = vec![7; 300_000];
    for range in ["0,200000", "400000,500000"] {
        let fields = with(&format!(r#",["content-length-range",{range}]"#), &[]);
        assert_eq!(post(&server, "/docs", &fields, &long).await.status, 400, "{range}");
    }
    refused(&post(&server, "/docs/up/x", &signed("alice", IN_THE_FUTURE, ""), b"x").await, 405, "MethodNotAllowed");
    assert_eq!(server.request("alice", "HEAD", "/docs/up/x", &[], b"").await.status, 404);
}

#[tokio::test]
async fn buckets_have_tags() {
    let server = server().await;
    let tags = |pairs: &[(&str, &str)]| {
        let tags: String =
            pairs.iter().map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>")).collect();
        format!("<Tagging><TagSet>{tags}</TagSet></Tagging>").into_bytes()
    };
    refused(&server.query("alice", "GET", "/docs", "tagging=", &[], b"").await, 404, "NoSuchTagSet");
    let put = async |body: Vec<u8>| server.query("alice", "PUT", "/docs", "tagging=", &[], &body).await;
    assert!(put(tags(&[("a", "b"), ("c", "")])).await.status < 300);
    let kept = server.query("alice", "GET", "/docs", "tagging=", &[], b"").await;
    assert!(kept.text().contains("<Tag><Key>a</Key><Value>b</Value></Tag>"), "{}", kept.text());
    refused(&put(tags(&[("a", "b"), ("a", "c")])).await, 400, "InvalidTag");
    refused(&put(tags(&[("aws:a", "b")])).await, 400, "InvalidTag");
    refused(&server.query("bob", "PUT", "/docs", "tagging=", &[], &tags(&[])).await, 403, "AccessDenied");
    assert_eq!(server.query("alice", "DELETE", "/docs", "tagging=", &[], b"").await.status, 204);
    refused(&server.query("alice", "GET", "/docs", "tagging=", &[], b"").await, 404, "NoSuchTagSet");
}

#[tokio::test]
async fn requests_are_logged_into_a_bucket_that_wants_that() {
    let server = server().await;
    assert_eq!(server.request("alice", "PUT", "/logs", &[], b"").await.status, 200);
    let status = |bucket: &str| {
        format!(
            "<BucketLoggingStatus><LoggingEnabled><TargetBucket>{bucket}</TargetBucket><TargetPrefix>log/</TargetPrefix>\
             </LoggingEnabled></BucketLoggingStatus>"
        )
    };
    let put =
        async |bucket: &str| server.query("alice", "PUT", "/docs", "logging=", &[], status(bucket).as_bytes()).await;
    refused(&put("none").await, 404, "NoSuchKey");
    refused(&put("docs").await, 400, "InvalidArgument");
    refused(&put("logs").await, 403, "AccessDenied");
    let policy = |principal: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"s3:PutObject",
            "Resource":"arn:aws:s3:::logs/log/*","Condition":{{"ArnLike":{{"aws:SourceArn":"arn:aws:s3:::docs"}},
            "StringEquals":{{"aws:SourceAccount":"alice"}}}}}}]}}"#
        )
    };
    let service = policy(r#"{"Service":"logging.s3.amazonaws.com"}"#);
    // A perimeter, as AWS's examples draw it, that leaves services out.
    let deny = r#"{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::logs/*","Condition":{
        "NotIpAddressIfExists":{"aws:SourceIp":"192.0.2.0/24"},"BoolIfExists":{"aws:PrincipalIsAWSService":"false"}}}"#;
    let service = format!("{},{deny}]}}", service.strip_suffix("]}").unwrap());
    assert_eq!(server.query("alice", "PUT", "/logs", "policy=", &[], service.as_bytes()).await.status, 204);
    let answer = put("logs").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let kept = server.query("alice", "GET", "/docs", "logging=", &[], b"").await;
    assert!(kept.text().contains("<TargetBucket>logs</TargetBucket>"), "{}", kept.text());

    assert_eq!(server.request("alice", "GET", "/docs/a", &[("user-agent", "test \"x\"")], b"").await.status, 200);
    assert_eq!(server.request("bob", "GET", "/docs/a", &[], b"").await.status, 403);
    assert_eq!(server.presigned("alice", "GET", "/docs/a", "x-id=GetObject", b"").await.status, 200);
    let mut lines = String::new();
    for _ in 0..900 {
        let listed = server.query("alice", "GET", "/logs", "list-type=2&prefix=log%2F", &[], b"").await.text();
        let keys: Vec<&str> = listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
        lines.clear();
        for key in keys {
            lines.push_str(&server.request("alice", "GET", &format!("/logs/{key}"), &[], b"").await.text());
        }
        if lines.matches(" REST.GET.OBJECT a ").count() >= 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let of = |wanted: &str| lines.lines().filter(|line| line.contains(wanted)).count();
    assert_eq!(of(" REST.GET.OBJECT a \"GET /docs/a"), 3, "{lines}");
    assert!(of(" alice ") >= 2 && of(" bob ") == 1 && of(" 403 AccessDenied ") == 1, "{lines}");
    assert!(of("\"test %22x%22\"") == 1 && of(" 200 - 5 5 ") == 2, "{lines}");
    assert!(
        of(" QueryString ") == 1 && of("&X-Amz-Signature=(hidden) ") == 1 && of("X-Amz-Signature=") == 1,
        "{lines}"
    );
}
