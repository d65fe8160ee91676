//! The S3 API through the AWS SDK for Rust: what other client programs don't reach, above all checksums in trailers,
//! accounts, and what a restart leaves.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
    CreateBucketConfiguration, Delete, MetadataDirective, ObjectIdentifier, ServerSideEncryption,
};
use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::process::{ServerConfig, ServerProcess};
use tests::s3::{Head, RawRequest, client, client_of, document, refused};

const BUCKET: &str = "sdk-bucket";
const MIB: usize = 1 << 20;

struct Store {
    config: ServerConfig,
    server: ServerProcess,
    s3: Client,
    // Goes last: a server that is still running would fill it again.
    _dir: tempfile::TempDir,
}

async fn store(arguments: impl FnOnce(&Path) -> Vec<String>) -> Store {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = ServerConfig::new(dir.path().join("data"), 4);
    config.arguments.extend(arguments(dir.path()));
    let server = config.start().await;
    let s3 = client(&config);
    s3.create_bucket().bucket(BUCKET).send().await.expect("a bucket");
    Store { _dir: dir, config, server, s3 }
}

async fn plain_store() -> Store {
    store(|_| Vec::new()).await
}

/// The code that a call was refused with.
fn code<T: Debug, E: ProvideErrorMetadata + Debug>(result: Result<T, SdkError<E>>) -> String {
    let error = result.expect_err("it should have been refused");
    match refused(&error) {
        // An answer without a body (to HEAD) has a status only.
        Some(answer) if answer.code.is_empty() => answer.status.to_string(),
        Some(answer) => answer.code,
        None => panic!("no answer: {error:?}"),
    }
}

async fn read(s3: &Client, key: &str) -> Vec<u8> {
    let got =
        s3.get_object().bucket(BUCKET).key(key).checksum_mode(ChecksumMode::Enabled).send().await.expect("a read");
    // With the checksum asked for, the SDK compares it and fails here if it differs.
    got.body.collect().await.expect("a body").to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checksum_goes_in_as_a_trailer_and_comes_back() {
    let store = plain_store().await;
    let s3 = &store.s3;
    for (algorithm, len) in [
        (ChecksumAlgorithm::Crc32, 0),
        (ChecksumAlgorithm::Crc32C, 1),
        (ChecksumAlgorithm::Crc64Nvme, 100_000),
        (ChecksumAlgorithm::Sha1, 300_000),
        (ChecksumAlgorithm::Sha256, 3 * MIB),
    ] {
        let data = document(7, len);
        let name = algorithm.as_str().to_owned();
        let body = ByteStream::from(data.clone());
        let put = s3.put_object().bucket(BUCKET).key(&name).body(body).checksum_algorithm(algorithm.clone());
        let put = put.send().await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let head =
            s3.head_object().bucket(BUCKET).key(&name).checksum_mode(ChecksumMode::Enabled).send().await.expect("head");
        let of = |a: &ChecksumAlgorithm| match a {
            ChecksumAlgorithm::Crc32 => (put.checksum_crc32(), head.checksum_crc32()),
            ChecksumAlgorithm::Crc32C => (put.checksum_crc32_c(), head.checksum_crc32_c()),
            ChecksumAlgorithm::Crc64Nvme => (put.checksum_crc64_nvme(), head.checksum_crc64_nvme()),
            ChecksumAlgorithm::Sha1 => (put.checksum_sha1(), head.checksum_sha1()),
            _ => (put.checksum_sha256(), head.checksum_sha256()),
        };
        let (stored, shown) = of(&algorithm);
        assert!(stored.is_some() && stored == shown, "{name}: {stored:?} {shown:?}");
        assert_eq!(read(s3, &name).await, data, "{name}");
        let wrong = s3.put_object().bucket(BUCKET).key("wrong").body(ByteStream::from_static(b"other"));
        let wrong = match algorithm {
            ChecksumAlgorithm::Crc32 => wrong.checksum_crc32("AAAAAA=="),
            ChecksumAlgorithm::Crc32C => wrong.checksum_crc32_c("AAAAAA=="),
            ChecksumAlgorithm::Crc64Nvme => wrong.checksum_crc64_nvme("AAAAAAAAAAA="),
            ChecksumAlgorithm::Sha1 => wrong.checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            _ => wrong.checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        };
        assert_eq!(code(wrong.send().await), "BadDigest", "{name}");
    }
    assert_eq!(code(s3.head_object().bucket(BUCKET).key("wrong").send().await), "NotFound", "nothing of it is visible");
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart_checksums_of_both_types() {
    let store = plain_store().await;
    let s3 = &store.s3;
    for (algorithm, kind) in [
        (ChecksumAlgorithm::Sha256, ChecksumType::Composite),
        (ChecksumAlgorithm::Crc32, ChecksumType::Composite),
        (ChecksumAlgorithm::Crc32C, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject),
    ] {
        let key = format!("{}-{}", algorithm.as_str(), kind.as_str());
        let create = s3.create_multipart_upload().bucket(BUCKET).key(&key);
        let created =
            create.checksum_algorithm(algorithm.clone()).checksum_type(kind.clone()).send().await.expect("upload");
        let upload = created.upload_id().expect("an id");
        let mut parts = CompletedMultipartUpload::builder();
        let mut whole = Vec::new();
        for (number, len) in [(1, 5 * MIB), (2, 5 * MIB + 17), (5, 100)] {
            let data = document(number, len);
            whole.extend_from_slice(&data);
            let number = i32::try_from(number).expect("small");
            let put = s3.upload_part().bucket(BUCKET).key(&key).upload_id(upload).part_number(number);
            let put = put.checksum_algorithm(algorithm.clone()).body(ByteStream::from(data));
            let put = put.send().await.unwrap_or_else(|error| panic!("{key}: {error:?}"));
            parts = parts.parts(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(put.e_tag)
                    .set_checksum_crc32(put.checksum_crc32)
                    .set_checksum_crc32_c(put.checksum_crc32_c)
                    .set_checksum_crc64_nvme(put.checksum_crc64_nvme)
                    .set_checksum_sha256(put.checksum_sha256)
                    .build(),
            );
        }
        let complete = s3.complete_multipart_upload().bucket(BUCKET).key(&key).upload_id(upload);
        let done =
            complete.multipart_upload(parts.build()).send().await.unwrap_or_else(|error| panic!("{key}: {error:?}"));
        assert_eq!(done.checksum_type(), Some(&kind), "{key}");
        assert!(done.e_tag().is_some_and(|etag| etag.ends_with("-3\"")), "{key}: {:?}", done.e_tag());
        assert_eq!(read(s3, &key).await, whole, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_do_not_reach_each_other() {
    let store = store(accounts_file).await;
    let (mine, theirs) = (&store.s3, client_of(&store.config, "OTHERACCESSKEY", "other-secret-key"));
    mine.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"mine")).send().await.expect("a put");
    theirs.create_bucket().bucket("their-bucket").send().await.expect("a bucket");
    assert_eq!(code(theirs.create_bucket().bucket(BUCKET).send().await), "BucketAlreadyExists");
    let listed = theirs.list_buckets().send().await.expect("a list");
    assert_eq!(listed.buckets().iter().filter_map(|b| b.name()).collect::<Vec<_>>(), ["their-bucket"]);
    assert_eq!(code(theirs.get_object().bucket(BUCKET).key("k").send().await), "AccessDenied");
    // The condition must not tell whether the object is there.
    assert_eq!(code(theirs.get_object().bucket(BUCKET).key("k").if_match("\"x\"").send().await), "AccessDenied");
    assert_eq!(code(theirs.head_bucket().bucket(BUCKET).send().await), "403");
    assert_eq!(code(theirs.delete_object().bucket(BUCKET).key("k").send().await), "AccessDenied");
    assert_eq!(code(theirs.delete_bucket().bucket(BUCKET).send().await), "AccessDenied");
    let steal = theirs.copy_object().bucket("their-bucket").key("k").copy_source(format!("{BUCKET}/k"));
    assert_eq!(code(steal.send().await), "AccessDenied");
    let upload = theirs.create_multipart_upload().bucket("their-bucket").key("k").send().await.expect("an upload");
    let steal =
        theirs.upload_part_copy().bucket("their-bucket").key("k").upload_id(upload.upload_id().unwrap_or_default());
    assert_eq!(code(steal.part_number(1).copy_source(format!("{BUCKET}/k")).send().await), "AccessDenied");
    let wrong_owner = mine.get_object().bucket(BUCKET).key("k").expected_bucket_owner("other");
    assert_eq!(code(wrong_owner.send().await), "AccessDenied");
    let wrong = client_of(&store.config, "OTHERACCESSKEY", "not the secret");
    assert_eq!(code(wrong.list_buckets().send().await), "SignatureDoesNotMatch");
    let unknown = client_of(&store.config, "NOBODYSKEY", "not the secret");
    assert_eq!(code(unknown.list_buckets().send().await), "InvalidAccessKeyId");
}

fn accounts_file(dir: &Path) -> Vec<String> {
    let file = dir.join("accounts.toml");
    let text = "[[account]]\nname = \"other\"\naccess_key = \"OTHERACCESSKEY\"\nsecret_key = \"other-secret-key\"\n";
    std::fs::write(&file, text).expect("a file");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).expect("a mode");
    vec!["--accounts".to_owned(), file.display().to_string()]
}

/// A key that had leaked was replaced, and was valid again after the next start; and a name given to another account by a command
/// kept the next start from serving.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_a_file_are_changed_in_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = ServerConfig::new(directory.path().join("data"), 3);
    let said = |output: std::process::Output| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), format!("{out}{err}"))
    };
    let server = config.start().await;
    // A mistyped name made a new account, and its keys were printed as if they were the other one's.
    let (code, text) = said(config.stele(&["account", "put", "othre", "--replace"]).await);
    assert!(code == Some(1) && text.contains("there is no account othre"), "{text}");
    assert_eq!(
        said(config.stele(&["account", "put", "other", "--id", "42", "--display-name", "The other"]).await).0,
        Some(0)
    );
    assert_eq!(said(config.stele(&["account", "put", "42", "--replace"]).await).0, Some(0));
    let listed = || async {
        let (code, text) = said(config.stele(&["account", "list", "--json"]).await);
        assert_eq!(code, Some(0), "{text}");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let accounts = answer["accounts"].as_array().cloned().unwrap_or_default();
        let text = |account: &serde_json::Value, field: &str| account[field].as_str().unwrap_or_default().to_owned();
        let row = |account: &serde_json::Value| ["id", "name", "display_name"].map(|field| text(account, field));
        accounts.iter().map(row).filter(|row| row[0] != "admin").collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [["42", "other", "The other"]], "other keys change no name");
    server.stop().await;

    let arguments = accounts_file(directory.path());
    let config = config.clone().arguments(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let server = config.start().await;
    assert_eq!(listed().await, [["42", "other", "The other"]]);
    // It said so before it was ready; whoever reads its output may come to it later.
    let (began, line) = (Instant::now(), "another account has its name, access key or e-mail address");
    while !server.output().contains(line) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", server.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(said(config.stele(&["account", "remove", "42"]).await).0, Some(0));
    server.stop().await;

    let server = config.start().await;
    for change in [&["account", "put", "other", "--replace"][..], &["account", "remove", "other"]] {
        let (code, text) = said(config.stele(change).await);
        assert!(code == Some(1) && text.contains("every start sets the account other"), "{change:?}: {text}");
    }
    client_of(&config, "OTHERACCESSKEY", "other-secret-key").list_buckets().send().await.expect("a list");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unsigned_and_the_unknown_are_refused() {
    let store = plain_store().await;
    for (path, status, code) in [
        ("/", 403, "AccessDenied"),
        ("/sdk-bucket", 403, "AccessDenied"),
        ("/sdk-bucket/k", 403, "AccessDenied"),
        ("/sdk-bucket?uploads", 403, "AccessDenied"),
        // Which buckets there are is no secret in S3: names are taken by the first who creates them.
        ("/absent", 404, "NoSuchBucket"),
    ] {
        let (found, body) = tests::process::get(store.config.s3(), path).await.expect("an answer");
        assert_eq!(found, status, "{path}: {body}");
        assert!(body.contains(&format!("<Code>{code}</Code>")) && body.contains("<RequestId>"), "{path}: {body}");
    }
    let s3 = &store.s3;
    assert_eq!(code(s3.get_bucket_policy().bucket(BUCKET).send().await), "NoSuchBucketPolicy");
    assert_eq!(code(s3.put_bucket_policy().bucket(BUCKET).policy("{}").send().await), "MalformedPolicy");
    assert_eq!(
        code(s3.get_bucket_lifecycle_configuration().bucket(BUCKET).send().await),
        "NoSuchLifecycleConfiguration"
    );
    let twice = s3.put_object().bucket(BUCKET).key("k").server_side_encryption(ServerSideEncryption::AwsKmsDsse);
    assert_eq!(code(twice.send().await), "NotImplemented");
    assert_eq!(
        code(s3.head_object().bucket(BUCKET).key("k").send().await),
        "NotFound",
        "a refused protection stores nothing"
    );
    let eu = CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::EuCentral1).build();
    s3.create_bucket().bucket("eu-bucket").create_bucket_configuration(eu).send().await.expect("a bucket");
    let location = s3.get_bucket_location().bucket("eu-bucket").send().await.expect("a location");
    assert_eq!(location.location_constraint(), Some(&BucketLocationConstraint::EuCentral1));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_must_be_whole_and_announced() {
    let store = plain_store().await;
    let put = |path: &'static str, payload: &'static str, headers: Vec<(&'static str, String)>, body: &'static [u8]| {
        let config = store.config.clone();
        async move {
            let head = Head { method: "PUT", path, payload, headers: &headers };
            let mut request = RawRequest::open(&config, &head).await.expect("a connection");
            request.send(body).await.expect("sent");
            request.answer().await.expect("an answer")
        }
    };
    let length = |n: usize| vec![("content-length", n.to_string())];
    let unsigned = "UNSIGNED-PAYLOAD";
    let answer =
        put("/sdk-bucket/k", unsigned, vec![("transfer-encoding", "chunked".to_owned())], b"1\r\nx\r\n0\r\n\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (411, "MissingContentLength"));
    let other_hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let answer = put("/sdk-bucket/k", other_hash, length(1), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "XAmzContentSHA256Mismatch"));
    let answer = put("/sdk-bucket/k", unsigned, vec![("content-length", (6u64 << 30).to_string())], b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "EntityTooLarge"));
    let answer = put("/sdk-bucket/k", unsigned, length(1), b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.head.to_ascii_lowercase().contains("x-amz-request-id"), "{}", answer.head);
    assert_eq!(read(&store.s3, "k").await, b"x", "the refused bodies stored nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let mut store = plain_store().await;
    let s3 = store.s3.clone();
    let sizes = [0, 1, 4096, 70_000, 3 * MIB];
    for (i, len) in sizes.into_iter().enumerate() {
        let put = s3.put_object().bucket(BUCKET).key(format!("doc/{i}")).metadata("n", i.to_string());
        put.body(ByteStream::from(document(i as u64, len))).send().await.expect("a put");
    }
    s3.put_bucket_encryption()
        .bucket(BUCKET)
        .server_side_encryption_configuration(encryption())
        .send()
        .await
        .expect("a default");
    s3.put_object().bucket(BUCKET).key("secret").body(ByteStream::from_static(b"secret")).send().await.expect("a put");
    assert!(store.server.stop().await.success());
    store.server = store.config.start().await;
    for (i, len) in sizes.into_iter().enumerate() {
        assert_eq!(read(&s3, &format!("doc/{i}")).await, document(i as u64, len), "doc/{i}");
    }
    let head = s3.head_object().bucket(BUCKET).key("secret").send().await.expect("a head");
    assert_eq!(head.server_side_encryption(), Some(&ServerSideEncryption::Aes256));
    assert_eq!(read(&s3, "secret").await, b"secret");
    let listed = s3.list_objects_v2().bucket(BUCKET).prefix("doc/").send().await.expect("a list");
    assert_eq!(listed.contents().len(), sizes.len());
    let replaced = s3.copy_object().bucket(BUCKET).key("doc/1").copy_source(format!("{BUCKET}/doc/1"));
    replaced.metadata_directive(MetadataDirective::Replace).metadata("n", "new").send().await.expect("a copy");
    let mut delete = Delete::builder().quiet(true);
    for object in listed.contents() {
        let key = object.key().unwrap_or_default();
        delete = delete.objects(ObjectIdentifier::builder().key(key).build().expect("a key"));
    }
    let deleted =
        s3.delete_objects().bucket(BUCKET).delete(delete.build().expect("keys")).send().await.expect("a delete");
    assert!(deleted.deleted().is_empty() && deleted.errors().is_empty(), "quiet: {deleted:?}");
    let left = s3.list_objects_v2().bucket(BUCKET).send().await.expect("a list");
    assert_eq!(left.key_count(), Some(1));
    assert!(store.server.stop().await.success());
}

fn encryption() -> aws_sdk_s3::types::ServerSideEncryptionConfiguration {
    use aws_sdk_s3::types::{
        ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
    };
    let default = ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::Aes256).build();
    let rule = ServerSideEncryptionRule::builder()
        .apply_server_side_encryption_by_default(default.expect("an algorithm"))
        .build();
    ServerSideEncryptionConfiguration::builder().rules(rule).build().expect("a rule")
}
