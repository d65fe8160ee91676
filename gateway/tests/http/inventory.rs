//! Inventories, from their configuration to what lies in the destination.

use crate::client::Server;
use crate::{refused, server};
use codec::effect::ConfigKind;
use flate2::read::MultiGzDecoder;
use md5::{Digest, Md5};
use metadata::client::MetadataClient;
use metadata::command::{Command, PutBucketConfig};
use std::io::Read;

const DAY: u64 = 24 * 3600 * 1000;

fn configuration(format: &str, versions: &str, fields: &str) -> String {
    let fields: String = fields.split_whitespace().map(|field| format!("<Field>{field}</Field>")).collect();
    format!(
        "<InventoryConfiguration><Id>all</Id><IsEnabled>true</IsEnabled><Destination><S3BucketDestination>\
         <AccountId>alice</AccountId><Bucket>arn:aws:s3:::lists</Bucket><Format>{format}</Format><Prefix>in</Prefix>\
         <Encryption><SSE-S3></SSE-S3></Encryption></S3BucketDestination></Destination>\
         <IncludedObjectVersions>{versions}</IncludedObjectVersions><Schedule><Frequency>Daily</Frequency></Schedule>\
         <OptionalFields>{fields}</OptionalFields></InventoryConfiguration>"
    )
}

async fn put(server: &Server, who: &str, text: &str) -> crate::client::Answer {
    server.query(who, "PUT", "/docs", "id=all&inventory=", &[], text.as_bytes()).await
}

async fn keys(server: &Server) -> Vec<String> {
    let listed = server.query("alice", "GET", "/lists", "list-type=2", &[], b"").await.text();
    listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).map(str::to_owned).collect()
}

async fn object(server: &Server, key: &str) -> Vec<u8> {
    let answer = server.request("alice", "GET", &format!("/lists/{key}"), &[], b"").await;
    assert_eq!(answer.status, 200, "{key}");
    assert_eq!(answer.header("x-amz-server-side-encryption"), Some("AES256"), "as the configuration says");
    answer.body
}

/// The rows that a manifest names, after all of its sums were found right.
async fn rows(server: &Server, manifest: &str) -> Vec<String> {
    let text = object(server, manifest).await;
    let sum = object(server, &manifest.replace("manifest.json", "manifest.checksum")).await;
    assert_eq!(hex::encode(Md5::digest(&text)).into_bytes(), sum);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(r#""destinationBucket":"arn:aws:s3:::lists""#) && text.contains(r#""sourceBucket":"docs""#));
    assert!(
        text.contains(r#""fileSchema":"Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, EncryptionStatus""#)
    );
    let value = |name: &str| {
        let rest = text.split(&format!("\"{name}\":")).nth(1).unwrap().trim_start_matches('"');
        rest.split(['"', ',', '}']).next().unwrap().to_owned()
    };
    let packed = object(server, &value("key")).await;
    assert_eq!(hex::encode(Md5::digest(&packed)), value("MD5checksum"));
    assert_eq!(packed.len().to_string(), value("size"));
    let mut rows = String::new();
    MultiGzDecoder::new(&packed[..]).read_to_string(&mut rows).unwrap();
    rows.lines().map(str::to_owned).collect()
}

async fn state(server: &Server, body: Option<String>) {
    let bucket = server.metadata.bucket("docs").await.unwrap().unwrap().bucket_id();
    let (kind, id, body) = (ConfigKind::InventoryState, "all".to_owned(), body.map(Into::into));
    let command = Command::PutBucketConfig(PutBucketConfig { bucket, kind, id, body });
    server.metadata.commit(server.metadata.epoch(), command).await.unwrap();
}

async fn with_policy() -> Server {
    let server = server().await;
    assert_eq!(server.request("alice", "PUT", "/lists", &[], b"").await.status, 200);
    let policy = br#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"s3.amazonaws.com"},
        "Action":"s3:PutObject","Resource":"arn:aws:s3:::lists/in/*","Condition":{
        "ArnLike":{"aws:SourceArn":"arn:aws:s3:::docs"},
        "StringEquals":{"aws:SourceAccount":"alice","s3:x-amz-acl":"bucket-owner-full-control"}}}]}"#;
    refused(&put(&server, "alice", &configuration("CSV", "All", "Size")).await, 403, "AccessDenied");
    assert_eq!(server.query("alice", "PUT", "/lists", "policy=", &[], policy).await.status, 204);
    server
}

#[tokio::test]
async fn an_inventory_is_configured_as_s3_has_it_or_refused() {
    let server = with_policy().await;
    let asks = async |query: &str| server.query("alice", "GET", "/docs", query, &[], b"").await;
    refused(&asks("id=all&inventory=").await, 404, "NoSuchConfiguration");
    for format in ["ORC", "Parquet"] {
        refused(&put(&server, "alice", &configuration(format, "All", "")).await, 501, "NotImplemented");
    }
    refused(&put(&server, "alice", &configuration("CSV", "All", "BucketKeyStatus")).await, 501, "NotImplemented");
    refused(&put(&server, "alice", &configuration("CSV", "Some", "")).await, 400, "MalformedXML");
    let good = configuration("CSV", "All", "Size");
    refused(&put(&server, "bob", &good).await, 403, "AccessDenied");
    refused(&put(&server, "carol", &good).await, 403, "AccessDenied");
    refused(&put(&server, "alice", &good.replace(":::lists", ":::none")).await, 400, "InvalidS3DestinationBucket");
    refused(&put(&server, "alice", &good.replace(">alice<", ">bob<")).await, 400, "InvalidS3DestinationBucket");
    refused(&put(&server, "alice", &good.replace("<Id>all", "<Id>other")).await, 400, "InvalidArgument");
    let answer = put(&server, "alice", &good).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for query in ["id=all&inventory=", "inventory="] {
        let text = asks(query).await.text();
        assert!(text.contains("<Id>all</Id>") && text.contains("<Field>Size</Field>"), "{text}");
    }
    let delete = async || server.query("alice", "DELETE", "/docs", "id=all&inventory=", &[], b"").await;
    assert_eq!(delete().await.status, 204);
    refused(&delete().await, 404, "NoSuchConfiguration");
}

#[tokio::test]
async fn an_inventory_is_made_once_a_day_and_finished_as_it_was_begun() {
    let server = with_policy().await;
    let enabled = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(server.query("alice", "PUT", "/docs", "versioning=", &[], enabled).await.status, 200);
    assert_eq!(server.request("alice", "PUT", "/docs/a", &[], b"hello again").await.status, 200);
    // More than a page: a thousand delete markers come with one request.
    let many: String = (0..1000).map(|n| format!("<Object><Key>m{n:04}</Key></Object>")).collect();
    let many = format!("<Delete><Quiet>true</Quiet>{many}</Delete>");
    assert_eq!(server.query("alice", "POST", "/docs", "delete=", &[], many.as_bytes()).await.status, 200);
    assert_eq!(server.request("alice", "PUT", "/docs/z", &[], b"").await.status, 200);
    let answer = put(&server, "alice", &configuration("CSV", "All", "EncryptionStatus Size")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap() / DAY * DAY + 1;
    let round = async |now: u64| server.inventories.round(now).await.unwrap();
    assert_eq!(round(now).await, 1);
    assert_eq!(round(now + 1000).await, 0, "one a day");
    let manifests = |keys: &[String]| -> Vec<String> {
        keys.iter().filter(|key| key.ends_with("/manifest.json")).cloned().collect()
    };
    let first = keys(&server).await;
    assert_eq!((first.len(), manifests(&first).len()), (3, 1), "{first:?}");
    assert!(first.iter().all(|key| key.starts_with("in/docs/all/")), "{first:?}");
    let listed = rows(&server, &manifests(&first)[0]).await;
    assert_eq!(listed.len(), 1003);
    assert!(listed[0].starts_with("\"docs\",\"a\",\"") && listed[0].ends_with("\"true\",\"false\",\"11\",\"NOT-SSE\""));
    assert_eq!(listed[1], "\"docs\",\"a\",\"\",\"false\",\"false\",\"5\",\"NOT-SSE\"");
    assert!(listed[1001].starts_with("\"docs\",\"m0999\",\"") && listed[1001].ends_with("\"true\",\"true\",\"\",\"\""));
    let named: Vec<&str> = listed[2..1002].iter().map(|row| &row[8..13]).collect();
    assert!(named.is_sorted() && named.iter().zip(&named[1..]).all(|(a, b)| a != b), "each key once, in order");

    // Begun and not done, as after a crash: it is made under the time that it was begun with, and only once.
    let (day, began) = (now / DAY + 1, now + DAY + 120_000);
    state(&server, Some(format!("{day} {began} 0"))).await;
    assert_eq!(round(now + DAY + 900_000).await, 1);
    let second = keys(&server).await;
    assert_eq!((second.len(), manifests(&second).len()), (6, 2), "{second:?}");
    assert!(manifests(&second)[1].contains("T00-02Z/"), "{second:?}");
    state(&server, Some(format!("{day} {began} 0"))).await;
    assert_eq!(round(now + DAY + 950_000).await, 1);
    assert_eq!(keys(&server).await, second, "what is made again takes the place of what was made before");

    // Whom the destination no longer lets in puts nothing, and who is let in again does.
    let policy = server.query("alice", "GET", "/lists", "policy=", &[], b"").await.body;
    assert_eq!(server.query("alice", "DELETE", "/lists", "policy=", &[], b"").await.status, 204);
    assert_eq!(round(now + 2 * DAY).await, 0);
    assert_eq!(keys(&server).await, second);
    assert_eq!(server.query("alice", "PUT", "/lists", "policy=", &[], &policy).await.status, 204);
    assert_eq!(round(now + 2 * DAY).await, 1);

    // One that is taken away is forgotten.
    assert_eq!(server.query("alice", "DELETE", "/docs", "id=all&inventory=", &[], b"").await.status, 204);
    assert_eq!(round(now + 3 * DAY).await, 0);
    let bucket = server.metadata.bucket("docs").await.unwrap().unwrap().bucket_id();
    assert!(server.metadata.bucket_configs(bucket, ConfigKind::InventoryState).await.unwrap().is_empty());
}
