//! What a server does at its limits: no room, no memory, no patience, and starts that make no sense.
#![allow(clippy::unwrap_used, missing_docs)]

mod bodies;
mod clock;
mod full;
mod memory;
mod secrets;
mod starts;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tests::process::ServerConfig;
use tests::s3::{Refused, client, refused};

const BUCKET: &str = "limits";

/// A fresh server's configuration, and the directory that it lies in.
fn config(drives: usize) -> (tempfile::TempDir, ServerConfig) {
    let directory = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(directory.path().join("data"), drives);
    (directory, config)
}

/// A client, and its bucket.
async fn bucket(config: &ServerConfig) -> Client {
    let client = client(config);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    client
}

async fn put(client: &Client, key: &str, body: Bytes) -> Result<(), Option<Refused>> {
    let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body)).send().await;
    put.map(drop).map_err(|error| refused(&error))
}

/// An object's bytes; the error is an S3 code, empty without an answer.
async fn get(client: &Client, key: &str) -> Result<Bytes, String> {
    let got = client.get_object().bucket(BUCKET).key(key).send().await;
    let got = got.map_err(|error| refused(&error).map(|refused| refused.code).unwrap_or_default())?;
    Ok(got.body.collect().await.map_err(|error| error.to_string())?.into_bytes())
}

/// Keys below a prefix.
async fn keys(client: &Client, prefix: &str) -> Vec<String> {
    let listed = client.list_objects_v2().bucket(BUCKET).prefix(prefix).send().await.unwrap();
    listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
}
