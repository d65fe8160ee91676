//! Secrets stay where they are.

use crate::{BUCKET, config, get, put};
use aws_sdk_s3::types::ServerSideEncryption;
use bytes::Bytes;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tests::s3::client_of;

/// The first start shows the secret that it made, in one line, once. Nothing else ever shows a secret, however much is
/// logged.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_printed() {
    let (_directory, mut config) = config(3);
    config.environment.clear();
    for (start, level) in
        [None, Some("debug"), Some("trace"), Some("trace,s3s=trace,hyper=trace")].into_iter().enumerate()
    {
        let mut leveled = config.clone();
        if let Some(level) = level {
            leveled = leveled.env("RUST_LOG", level);
        }
        let server = leveled.start().await;
        let text = fs::read_to_string(config.data.join("credentials")).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split('"').nth(1).unwrap().to_owned()
        };
        let (access_key, secret) = (value("access_key"), value("secret_key"));
        let client = client_of(&config, &access_key, &secret);
        use_it(&client, start).await;
        let wrong = client_of(&config, &access_key, "not-the-secret").list_buckets().send().await;
        assert!(wrong.is_err());
        let status = config.stele(&["status"]).await;
        assert!(status.status.success());
        config.seal().await;
        let mut server = server;
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(0));
        let output = server.output();
        let shown = output.lines().filter(|line| line.contains(&secret)).count();
        assert_eq!(
            shown,
            usize::from(start == 0),
            "start {start} with RUST_LOG={level:?}\n{}",
            around(&output, &secret)
        );
        for (name, secret) in secrets(&config.data) {
            assert!(!output.contains(&secret), "{name} with RUST_LOG={level:?}\n{}", around(&output, &secret));
        }
        if level.is_some() {
            assert!(output.lines().count() > 20, "the level counts, or this test says nothing");
        }
    }
}

async fn use_it(client: &aws_sdk_s3::Client, start: usize) {
    if start == 0 {
        client.create_bucket().bucket(BUCKET).send().await.unwrap();
    }
    let (key, body) = (format!("object-{start}"), Bytes::from_static(b"contents"));
    put(client, &key, body.clone()).await.unwrap();
    assert_eq!(get(client, &key).await.unwrap(), body);
    let encrypted =
        client.put_object().bucket(BUCKET).key("encrypted").server_side_encryption(ServerSideEncryption::Aes256);
    encrypted.body(vec![7; 100_000].into()).send().await.unwrap();
    assert_eq!(get(client, "encrypted").await.unwrap().len(), 100_000);
}

/// The other secrets of a data directory, in the forms in which they might be printed.
fn secrets(data: &std::path::Path) -> Vec<(String, String)> {
    let mut secrets = Vec::new();
    for name in ["keys/kek", "keys/kek2", "admin-token"] {
        let path = data.join(name);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
        let bytes = fs::read(&path).unwrap();
        if let Ok(text) = std::str::from_utf8(&bytes)
            && let Some(line) = text.lines().find(|line| line.len() >= 16)
        {
            secrets.push((name.to_owned(), line.trim().to_owned()));
        }
        secrets.push((name.to_owned(), hex::encode(&bytes)));
        secrets.push((
            name.to_owned(),
            format!("{:?}", &bytes[..bytes.len().min(16)]).trim_matches(['[', ']']).to_owned(),
        ));
    }
    secrets
}

fn around(output: &str, secret: &str) -> String {
    output.lines().filter(|line| line.contains(secret)).take(5).collect::<Vec<_>>().join("\n")
}
