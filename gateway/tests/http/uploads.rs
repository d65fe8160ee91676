//! Multipart uploads whose answers are lost.

use crate::{refused, server};

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(found, _)| found).unwrap()
}

/// It was NoSuchUpload, and the client took its upload for lost.
#[tokio::test]
async fn completing_an_upload_again_is_answered_as_before() {
    let server = server().await;
    let created = server.query("alice", "POST", "/docs/m", "uploads=", &[], b"").await.text();
    let id = between(&created, "<UploadId>", "</UploadId>").to_owned();
    let part = server.query("alice", "PUT", "/docs/m", &format!("partNumber=1&uploadId={id}"), &[], b"hello").await;
    let etag = part.header("etag").unwrap().to_owned();
    let list = |etag: &str| {
        format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        )
    };
    let complete = async |id: &str, key: &str, etag: &str, headers: &[(&str, &str)]| {
        let (path, query) = (format!("/docs/{key}"), format!("uploadId={id}"));
        server.query("alice", "POST", &path, &query, headers, list(etag).as_bytes()).await
    };
    let none = [("if-none-match", "*")];
    let first = complete(&id, "m", &etag, &none).await;
    assert_eq!(first.status, 200, "{}", first.text());
    for _ in 0..2 {
        let again = complete(&id, "m", &etag, &none).await;
        assert_eq!((again.status, again.text()), (200, first.text()));
    }
    // Only what is proved: the same upload, of the same key, with the same parts.
    refused(&complete("1-2", "m", &etag, &[]).await, 404, "NoSuchUpload");
    refused(&complete(&id, "a", &etag, &[]).await, 404, "NoSuchUpload");
    refused(&complete(&id, "m", "\"00000000000000000000000000000000\"", &[]).await, 404, "NoSuchUpload");
    let copy = [("x-amz-copy-source", "/docs/m")];
    assert_eq!(server.request("alice", "PUT", "/docs/c", &copy, b"").await.status, 200);
    refused(&complete(&id, "c", &etag, &[]).await, 404, "NoSuchUpload");
    // What came after it is another object.
    assert_eq!(server.request("alice", "PUT", "/docs/m", &[], b"later").await.status, 200);
    refused(&complete(&id, "m", &etag, &[]).await, 404, "NoSuchUpload");
    assert_eq!(server.request("alice", "GET", "/docs/m", &[], b"").await.body, b"later");
    assert_eq!(server.request("alice", "GET", "/docs/c", &[], b"").await.body, b"hello");
}
