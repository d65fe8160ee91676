//! What answers say of what was stored: where it is, what becomes of restores, what a new bucket has.

use super::client::Server;
use super::{refused, server};
use codec::effect::RestoreRow;
use codec::id::BucketId;
use gateway::server::{Domains, Limits};
use metadata::client::MetadataClient as _;
use metadata::command::{ChangeVersion, Command, Named, VersionChange};

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(found, _)| found).unwrap_or_default()
}

async fn put_policy(server: &Server, statements: &str) {
    let text = format!(r#"{{"Statement":[{statements}]}}"#);
    let answer = server.query("alice", "PUT", "/docs", "policy=", &[], text.as_bytes()).await;
    assert_eq!(answer.status, 204, "{text}: {}", answer.text());
}

/// An open upload with one part: its id, and the list that completes it.
async fn upload(server: &Server, path: &str, headers: &[(&str, &str)]) -> (String, String) {
    let created = server.query("alice", "POST", path, "uploads=", headers, b"").await.text();
    let id = between(&created, "<UploadId>", "</UploadId>").to_owned();
    let part = server.query("alice", "PUT", path, &format!("partNumber=1&uploadId={id}"), &[], b"hello").await;
    let etag = part.header("etag").unwrap().to_owned();
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    (id, list)
}

/// With the bucket in the host it was there twice, and nobody found `a b` at a URL with a space in it.
#[tokio::test]
async fn a_completed_upload_is_where_it_is_said_to_be() {
    let domains = Domains::new(&["s3.test".to_owned()]).unwrap();
    let server = Server::start_in(Limits::default(), domains).await;
    assert_eq!(server.request("alice", "PUT", "/docs", &[], b"").await.status, 200);
    let anybody = r#"{"Effect":"Allow","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::docs/*"}"#;
    put_policy(&server, anybody).await;
    let path = "/docs/docs/a%20b%26";
    let (id, list) = upload(&server, path, &[]).await;
    let by_path = server.query("alice", "POST", path, &format!("uploadId={id}"), &[], list.as_bytes()).await.text();
    let wanted = format!("http://{}{path}", server.host());
    assert_eq!(between(&by_path, "<Location>", "</Location>"), wanted, "{by_path}");
    let (id, list) = upload(&server, path, &[]).await;
    let head = format!("POST /docs/a%20b%26?uploadId={id} HTTP/1.1\r\nhost: docs.s3.test\r\n");
    let by_host = server.send(&head, list.as_bytes()).await.text();
    assert_eq!(between(&by_host, "<Location>", "</Location>"), "http://docs.s3.test/docs/a%20b%26", "{by_host}");
}

/// Listings said nothing of restores, whatever was asked.
#[tokio::test]
async fn listings_say_what_becomes_of_restores_if_they_are_asked() {
    let server = server().await;
    let archived = [("x-amz-storage-class", "GLACIER")];
    for key in ["/docs/b", "/docs/c"] {
        assert_eq!(server.request("alice", "PUT", key, &archived, b"x").await.status, 200);
    }
    let days = b"<RestoreRequest><Days>2</Days></RestoreRequest>";
    assert_eq!(server.query("alice", "POST", "/docs/b", "restore=", &[], days).await.status, 202);
    let asks = [("x-amz-optional-object-attributes", "RestoreStatus")];
    let list = async |query: &str, headers: &[(&str, &str)]| {
        let answer = server.query("alice", "GET", "/docs", query, headers, b"").await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        answer.text()
    };
    const ONGOING: &str = "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>";
    for query in ["", "list-type=2", "versions="] {
        assert!(!list(query, &[]).await.contains("RestoreStatus"), "{query}");
        let told = list(query, &asks).await;
        assert_eq!((told.matches("<RestoreStatus>").count(), told.matches(ONGOING).count()), (1, 1), "{told}");
        assert!(told.split("<Key>b</Key>").nth(1).is_some_and(|b| b.find(ONGOING) < b.find("<Key>c")), "{told}");
    }
    let signed = server.presigned("alice", "GET", "/docs", "x-amz-optional-object-attributes=RestoreStatus", b"").await;
    assert!(signed.text().contains(ONGOING), "{}", signed.text());
    for other in ["Owner", "RestoreStatus,Owner"] {
        let answer = server.query("alice", "GET", "/docs", "", &[(asks[0].0, other)], b"").await;
        refused(&answer, 400, "InvalidArgument");
    }

    let bucket = BucketId(server.metadata.bucket("docs").await.unwrap().unwrap().id);
    // 2100-01-01, and a time that is over: then it is in the archive as before.
    for (until_ms, wanted) in [(4_102_444_800_000, "2100-01-01T00:00:00.000Z"), (1, "")] {
        let row = server.metadata.current_version(bucket, "b").await.unwrap().unwrap();
        let to = Some(RestoreRow { days: 0, until_ms });
        let change = VersionChange::Restore { from: row.restore, to };
        let (key, named) = ("b".to_owned(), Named::Null);
        let command = ChangeVersion { bucket, key, named, change, bypass: false, seq: None };
        server.metadata.commit(server.metadata.epoch(), Command::ChangeVersion(command)).await.unwrap();
        for query in ["", "list-type=2", "versions="] {
            let told = list(query, &asks).await;
            assert_eq!(between(&told, "<RestoreExpiryDate>", "</RestoreExpiryDate>"), wanted, "{told}");
            assert_eq!(told.contains("<IsRestoreInProgress>false<"), !wanted.is_empty(), "{told}");
        }
    }
}

/// It was NotImplemented, though buckets have tags.
#[tokio::test]
async fn a_bucket_is_made_with_tags() {
    let server = server().await;
    let body = |tags: &[(&str, &str)]| {
        let tag = |(key, value): &(&str, &str)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        let tags: String = tags.iter().map(tag).collect();
        format!("<CreateBucketConfiguration><Tags>{tags}</Tags></CreateBucketConfiguration>")
    };
    let make = async |who: &str, path: &str, tags: &[(&str, &str)]| {
        server.request(who, "PUT", path, &[], body(tags).as_bytes()).await
    };
    let made = make("alice", "/tagged", &[("team", "a"), ("b", "")]).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let kept = server.query("alice", "GET", "/tagged", "tagging=", &[], b"").await.text();
    assert!(kept.contains("<Tag><Key>team</Key><Value>a</Value></Tag><Tag><Key>b</Key>"), "{kept}");
    // As the same it may be made again; with other tags it would not have those.
    assert_eq!(make("alice", "/tagged", &[("team", "a"), ("b", "")]).await.status, 200);
    refused(&make("alice", "/tagged", &[("team", "b")]).await, 409, "BucketAlreadyExists");
    let locked = [("x-amz-bucket-object-lock-enabled", "true")];
    refused(&server.request("alice", "PUT", "/tagged", &locked, b"").await, 409, "BucketAlreadyExists");
    for bad in [&[("a", "b"), ("a", "c")][..], &[("aws:a", "b")]] {
        refused(&make("alice", "/bad", bad).await, 400, "InvalidTag");
    }
    assert_eq!(server.request("alice", "HEAD", "/bad", &[], b"").await.status, 404);

    let carol = async |statements: &str| {
        let policy = format!(r#"{{"Statement":[{statements}]}}"#);
        let asked = [("UserName", "carol"), ("PolicyName", "p"), ("PolicyDocument", &policy)];
        let asked = asked.map(|(name, value)| (name.to_owned(), value.to_owned()));
        server.metadata.iam_as_operator("alice", "PutUserPolicy", &asked, None).await.unwrap();
    };
    let may = |effect: &str, what: &str| format!(r#"{{"Effect":"{effect}","Action":"s3:{what}","Resource":"*"}}"#);
    let all = ["CreateBucket", "TagResource", "PutBucketTagging"].map(|action| may("Allow", action));
    for refuses in [
        all[0].clone(),
        all[..2].join(","),
        [all[0].clone(), all[2].clone()].join(","),
        [may("Allow", "*"), may("Deny", "PutBucketTagging")].join(","),
        [may("Allow", "*"), may("Deny", "TagResource")].join(","),
        [may("Allow", "*"), may("Deny", "Create*")].join(","),
    ] {
        carol(&refuses).await;
        refused(&make("carol", "/carols", &[("team", "a")]).await, 403, "AccessDenied");
        assert_eq!(server.request("alice", "HEAD", "/carols", &[], b"").await.status, 404, "{refuses}");
    }
    carol(&all[0]).await;
    assert_eq!(make("carol", "/plain", &[]).await.status, 200, "without tags nothing more is asked");
    carol(&all.join(",")).await;
    assert_eq!(make("carol", "/carols", &[("team", "a")]).await.status, 200);
}

/// It was denied: of an upload that is done nothing was known, and so not that it was encrypted.
#[tokio::test]
async fn completing_an_upload_again_is_judged_by_what_came_of_it() {
    let server = server().await;
    let deny = r#"{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::docs/*",
        "Condition":{"Null":{"s3:x-amz-server-side-encryption":"true"}}}"#;
    let (plain, plain_list) = upload(&server, "/docs/p", &[]).await;
    let (id, list) = upload(&server, "/docs/m", &[("x-amz-server-side-encryption", "AES256")]).await;
    let complete = async |path: &str, id: &str, list: &str| {
        server.query("alice", "POST", path, &format!("uploadId={id}"), &[], list.as_bytes()).await
    };
    assert_eq!(complete("/docs/p", &plain, &plain_list).await.status, 200);
    put_policy(&server, deny).await;
    let first = complete("/docs/m", &id, &list).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let again = complete("/docs/m", &id, &list).await;
    assert_eq!((again.status, again.text()), (200, first.text()));
    // By the policy of now, and only of an upload that there was.
    refused(&complete("/docs/p", &plain, &plain_list).await, 403, "AccessDenied");
    refused(&complete("/docs/m", "1-2", &list).await, 403, "AccessDenied");
    let query = format!("partNumber=1&uploadId={id}");
    refused(&server.query("alice", "PUT", "/docs/m", &query, &[], b"hello").await, 403, "AccessDenied");
}
