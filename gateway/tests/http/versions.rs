//! Versions, delete markers and tags, as a client sees them.

use crate::{refused, server};

const ENABLED: &[u8] = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
const SUSPENDED: &[u8] = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";

#[tokio::test]
async fn a_bucket_keeps_what_is_overwritten_and_deleted() {
    let server = server().await;
    let set = async |body: &[u8]| server.query("alice", "PUT", "/docs", "versioning=", &[], body).await;
    let get = async |method: &str, query: &str| server.query("alice", method, "/docs/a", query, &[], b"").await;
    refused(&server.query("bob", "PUT", "/docs", "versioning=", &[], ENABLED).await, 403, "AccessDenied");
    assert!(get("GET", "").await.header("x-amz-version-id").is_none(), "it never kept any");
    assert_eq!(set(ENABLED).await.status, 200);
    assert!(server.query("alice", "GET", "/docs", "versioning=", &[], b"").await.text().contains("Enabled"));
    let put = server.request("alice", "PUT", "/docs/a", &[], b"second").await;
    let second = put.header("x-amz-version-id").expect("an id").to_owned();
    assert_eq!(get("GET", "versionId=null").await.body, b"hello");
    assert_eq!(get("GET", &format!("versionId={second}")).await.body, b"second");
    let deleted = server.request("alice", "DELETE", "/docs/a", &[], b"").await;
    assert_eq!((deleted.status, deleted.header("x-amz-delete-marker")), (204, Some("true")));
    let marker = deleted.header("x-amz-version-id").expect("an id").to_owned();
    let hidden = get("GET", "").await;
    refused(&hidden, 404, "NoSuchKey");
    assert_eq!(hidden.header("x-amz-delete-marker"), Some("true"));
    let named = get("GET", &format!("versionId={marker}")).await;
    refused(&named, 405, "MethodNotAllowed");
    assert_eq!(named.header("allow"), Some("DELETE"));
    refused(&get("GET", "versionId=00000000000000010000000000000001").await, 404, "NoSuchVersion");
    refused(&get("GET", "versionId=x").await, 400, "InvalidArgument");
    let list = server.query("alice", "GET", "/docs", "versions=", &[], b"").await.text();
    assert_eq!((list.matches("<Version>").count(), list.matches("<DeleteMarker>").count()), (2, 1), "{list}");
    // The marker goes, and what it hid is there again; then a version of its own, and the one below it.
    let gone = get("DELETE", &format!("versionId={marker}")).await;
    assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (204, Some("true")));
    assert_eq!(get("GET", "").await.body, b"second");
    assert_eq!(set(SUSPENDED).await.status, 200);
    let null = server.request("alice", "PUT", "/docs/a", &[], b"null").await;
    assert_eq!(null.header("x-amz-version-id"), Some("null"));
    assert_eq!(get("GET", "versionId=null").await.body, b"null", "in place of the null version before it");
    let list = server.query("alice", "GET", "/docs", "versions=", &[], b"").await.text();
    assert_eq!(list.matches("<Version>").count(), 2, "{list}");
    refused(
        &server.query("bob", "DELETE", "/docs/a", &format!("versionId={second}"), &[], b"").await,
        403,
        "AccessDenied",
    );
    refused(&server.request("alice", "DELETE", "/docs", &[], b"").await, 409, "BucketNotEmpty");
}

#[tokio::test]
async fn a_copy_puts_an_old_version_back_on_top() {
    let server = server().await;
    server.query("alice", "PUT", "/docs", "versioning=", &[], ENABLED).await;
    server.request("alice", "PUT", "/docs/a", &[], b"second").await;
    let back = [("x-amz-copy-source", "/docs/a?versionId=null")];
    let copied = server.request("alice", "PUT", "/docs/a", &back, b"").await;
    assert_eq!(
        (copied.status, copied.header("x-amz-copy-source-version-id")),
        (200, Some("null")),
        "{}",
        copied.text()
    );
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
    let other = [("x-amz-copy-source", "/docs/a?versionId=00000000000000010000000000000001")];
    refused(&server.request("alice", "PUT", "/docs/b", &other, b"").await, 404, "NoSuchVersion");
}

#[tokio::test]
async fn deletes_under_conditions() {
    let server = server().await;
    let delete = async |name: &str, value: &str| {
        server.request("alice", "DELETE", "/docs/a", &[(name, value)], b"").await.status
    };
    assert_eq!(delete("if-match", "\"0\"").await, 412);
    assert_eq!(delete("x-amz-if-match-size", "4").await, 412);
    assert_eq!(delete("x-amz-if-match-last-modified-time", "Wed, 21 Oct 2015 07:28:00 GMT").await, 412);
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
    assert_eq!(delete("x-amz-if-match-size", "5").await, 204);
    assert_eq!(delete("if-match", "\"0\"").await, 204, "it is gone, as was asked");
    let put = async |value: &str, body: &[u8]| {
        server.request("alice", "PUT", "/docs/c", &[("if-none-match", value)], body).await.status
    };
    let etag = "\"5d41402abc4b2a76b9719d911017c592\"";
    assert_eq!(put(etag, b"hello").await, 200, "there is nothing with this tag");
    assert_eq!(put(etag, b"other").await, 412);
    assert_eq!(put("\"0\"", b"other").await, 200);
}

#[tokio::test]
async fn tags_of_objects() {
    let server = server().await;
    let tagged = [("x-amz-tagging", "a=1&b=2")];
    assert_eq!(server.request("alice", "PUT", "/docs/t", &tagged, b"x").await.status, 200);
    let tags = async |path: &str| server.query("alice", "GET", path, "tagging=", &[], b"").await.text();
    let has = |text: &str, key: &str| text.contains(&format!("<Key>{key}</Key>"));
    assert!(has(&tags("/docs/t").await, "a") && has(&tags("/docs/t").await, "b"));
    let head = server.request("alice", "HEAD", "/docs/t", &[], b"").await;
    assert_eq!(head.header("x-amz-tagging-count"), Some("2"));
    let copy = [("x-amz-copy-source", "/docs/t")];
    server.request("alice", "PUT", "/docs/u", &copy, b"").await;
    assert!(has(&tags("/docs/u").await, "a"), "they go along with a copy");
    let replace = [copy[0], ("x-amz-tagging-directive", "REPLACE"), ("x-amz-tagging", "c=3")];
    server.request("alice", "PUT", "/docs/u", &replace, b"").await;
    assert!(has(&tags("/docs/u").await, "c") && !has(&tags("/docs/u").await, "a"));
    let body = b"<Tagging><TagSet><Tag><Key>d</Key><Value>4</Value></Tag></TagSet></Tagging>";
    assert_eq!(server.query("alice", "PUT", "/docs/t", "tagging=", &[], body).await.status, 200);
    assert!(has(&tags("/docs/t").await, "d") && !has(&tags("/docs/t").await, "a"));
    refused(&server.query("bob", "PUT", "/docs/t", "tagging=", &[], body).await, 403, "AccessDenied");
    assert_eq!(server.query("alice", "DELETE", "/docs/t", "tagging=", &[], b"").await.status, 204);
    assert!(!tags("/docs/t").await.contains("<Tag>"));
    let bad = [("x-amz-tagging", "aws:a=1")];
    refused(&server.request("alice", "PUT", "/docs/v", &bad, b"x").await, 400, "InvalidTag");
    assert_eq!(server.request("alice", "HEAD", "/docs/v", &[], b"").await.status, 404);
}
