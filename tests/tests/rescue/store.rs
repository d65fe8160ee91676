//! A server with objects of every kind that there is, and what a rescue must bring back of them.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Output;
use tests::process::ServerConfig;
use tests::s3::{client, document};

/// A bucket and a key.
pub type Name = (String, String);

/// Keys that a file system has other meanings for.
const ODD_KEYS: [&str; 14] = [
    "a",
    "a/b",
    "a/b/c",
    "a/",
    "../../escape",
    "/absolute",
    "x//y",
    "./here",
    "line\nbreak",
    "100%",
    "%2E",
    "ü/日本",
    "..",
    "trailing/../",
];

pub struct Store {
    pub config: ServerConfig,
    pub directory: tempfile::TempDir,
    pub objects: BTreeMap<Name, Bytes>,
    client: Client,
    seed: u64,
}

/// What a rescue said and where it wrote.
#[derive(Debug)]
pub struct Rescued {
    pub code: i32,
    pub report: serde_json::Value,
    pub out: PathBuf,
}

impl Rescued {
    pub fn number(&self, field: &str) -> u64 {
        self.report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {:?}", self.report))
    }
}

impl Store {
    pub fn new(drives: usize) -> Store {
        let directory = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(directory.path().join("data"), drives);
        let client = client(&config);
        Store { config, directory, objects: BTreeMap::new(), client, seed: 1 }
    }

    pub fn is_encrypted(bucket: &str, key: &str) -> bool {
        bucket == "plain" && key.contains("encrypted") || Self::kms_key(bucket, key).is_some()
    }

    /// The key of the key store that an object is under. Its entity tag is random, and proves nothing.
    fn kms_key(bucket: &str, key: &str) -> Option<String> {
        (bucket == "plain" && key.starts_with("kms/")).then(|| "k1".to_owned())
    }

    fn method(bucket: &str, key: &str) -> Option<ServerSideEncryption> {
        let is_kms = Self::kms_key(bucket, key).is_some();
        let method = if is_kms { ServerSideEncryption::AwsKms } else { ServerSideEncryption::Aes256 };
        Self::is_encrypted(bucket, key).then_some(method)
    }

    async fn put(&mut self, bucket: &str, key: &str, len: usize) {
        self.seed += 1;
        let body = document(self.seed, len);
        let mut request = self.client.put_object().bucket(bucket).key(key).body(ByteStream::from(body.clone()));
        request = request.set_server_side_encryption(Self::method(bucket, key));
        request = request.set_ssekms_key_id(Self::kms_key(bucket, key));
        if self.seed.is_multiple_of(3) {
            request = request.checksum_algorithm(ChecksumAlgorithm::Sha256);
        }
        request.send().await.unwrap_or_else(|error| panic!("put {key}: {error:?}"));
        self.objects.insert((bucket.to_owned(), key.to_owned()), body);
    }

    /// An object in parts of 5 MiB and what is left.
    async fn put_parts(&mut self, key: &str, len: usize, checksum: Option<ChecksumAlgorithm>) {
        self.seed += 1;
        let body = document(self.seed, len);
        let mut create =
            self.client.create_multipart_upload().bucket("plain").key(key).set_checksum_algorithm(checksum.clone());
        create = create.set_server_side_encryption(Self::method("plain", key));
        create = create.set_ssekms_key_id(Self::kms_key("plain", key));
        let upload = create.send().await.unwrap().upload_id.unwrap();
        let mut parts = Vec::new();
        for (number, part) in (1..).zip(body.chunks(5 << 20)) {
            let sent = self.client.upload_part().bucket("plain").key(key).upload_id(&upload).part_number(number);
            let sent =
                sent.set_checksum_algorithm(checksum.clone()).body(ByteStream::from(Bytes::copy_from_slice(part)));
            let sent = sent.send().await.unwrap();
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(sent.e_tag)
                    .set_checksum_sha256(sent.checksum_sha256)
                    .set_checksum_crc32(sent.checksum_crc32)
                    .build(),
            );
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.client.complete_multipart_upload().bucket("plain").key(key).upload_id(upload);
        complete.multipart_upload(parts).send().await.unwrap_or_else(|error| panic!("complete {key}: {error:?}"));
        self.objects.insert(("plain".to_owned(), key.to_owned()), body);
    }

    async fn delete(&mut self, key: &str) {
        self.client.delete_object().bucket("plain").key(key).send().await.unwrap();
        assert!(self.objects.remove(&("plain".to_owned(), key.to_owned())).is_some());
    }

    /// What the test seals: small objects that rode in the journal, large ones, parts, encrypted ones, odd keys.
    pub async fn fill_sealed(&mut self) {
        for bucket in ["plain", "odd-keys", "empty"] {
            self.client.create_bucket().bucket(bucket).send().await.unwrap();
        }
        let made = self.config.stele(&["kms", "create", "k1", "--account", "admin"]).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for n in 0..30 {
            self.put("plain", &format!("sealed/{n}"), 1 + n * 1900).await;
        }
        self.put("plain", "kms/small", 3000).await;
        self.put("plain", "kms/large", 3_000_000).await;
        self.put("plain", "sealed/empty", 0).await;
        self.put("plain", "sealed/overwritten", 1000).await;
        self.put("plain", "sealed/deleted", 5000).await;
        self.put("plain", "encrypted/small", 3000).await;
        self.put("plain", "encrypted/large", 3_000_000).await;
        for key in ODD_KEYS {
            self.put("odd-keys", key, 700).await;
        }
        self.put("odd-keys", &"l".repeat(1000), 100).await;
        self.put("odd-keys", &format!("{}z", "d/".repeat(500)), 100).await;
        for (key, len) in [("large/1", 700_000), ("large/2", 5_000_000), ("large/3", 20_000_000)] {
            self.put("plain", key, len).await;
        }
        self.put_parts("parts/md5", 12_000_000, None).await;
        self.put_parts("parts/sha256", 6_000_000, Some(ChecksumAlgorithm::Sha256)).await;
        self.put_parts("parts/encrypted", 6_000_000, Some(ChecksumAlgorithm::Crc32)).await;
        self.put_parts("kms/parts", 6_000_000, Some(ChecksumAlgorithm::Crc32)).await;
        // Never completed: nobody was told that it is there.
        self.client.create_multipart_upload().bucket("plain").key("parts/open").send().await.unwrap();
    }

    /// Three objects, and one that is encrypted.
    pub async fn fill_few(&mut self) {
        self.client.create_bucket().bucket("plain").send().await.unwrap();
        for (key, len) in [("small", 3000), ("large", 700_000), ("encrypted/small", 3000)] {
            self.put("plain", key, len).await;
        }
        self.put_parts("parts", 6_000_000, None).await;
    }

    /// What stays in the journal, or was written after the seal.
    pub async fn fill_unsealed(&mut self) {
        for n in 0..30 {
            self.put("plain", &format!("journal/{n}"), 1 + n * 1700).await;
        }
        self.put("plain", "sealed/overwritten", 2000).await;
        self.delete("sealed/deleted").await;
        self.put("plain", "encrypted/journal", 4000).await;
        self.put("plain", "large/late", 4_000_000).await;
        self.put_parts("parts/late", 11_000_000, None).await;
        self.put("odd-keys", "late ~bell?", 10).await;
    }

    pub async fn rescue_raw(&self, drives: &[PathBuf], out: &str, more: &[&str]) -> Output {
        let mut command = std::process::Command::new(tests::process::binary());
        command.arg("rescue").arg("--json").arg("--out").arg(self.directory.path().join(out)).args(more);
        for drive in drives {
            command.arg("--drive").arg(drive);
        }
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    pub async fn rescue(&self, drives: &[PathBuf], out: &str, more: &[&str]) -> Rescued {
        let output = self.rescue_raw(drives, out, more).await;
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        Rescued { code: output.status.code().unwrap(), report, out: self.directory.path().join(out) }
    }

    /// Exactly the objects that `wanted` names are there, byte for byte, and nothing lies outside the output directory.
    pub fn compare(&self, rescued: &Rescued, wanted: impl Fn(&Name) -> bool) {
        let seen = self.compare_what_came(rescued);
        let missing: Vec<_> = self.objects.keys().filter(|name| wanted(name) && !seen.contains(*name)).collect();
        assert!(missing.is_empty(), "not rescued: {missing:?}");
        let outside: Vec<_> = seen.iter().filter(|name| !wanted(name)).collect();
        assert!(outside.is_empty(), "not asked for: {outside:?}");
    }

    /// Whatever is there is an object as it was, byte for byte, inside the output directory. Returns which.
    pub fn compare_what_came(&self, rescued: &Rescued) -> BTreeSet<Name> {
        let manifest = std::fs::read_to_string(rescued.out.join("MANIFEST.jsonl")).unwrap();
        let root = rescued.out.canonicalize().unwrap();
        let mut seen = BTreeSet::new();
        let mut paths = BTreeSet::new();
        for line in manifest.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = (line["bucket"].as_str().unwrap().to_owned(), line["key"].as_str().unwrap().to_owned());
            let Some(path) = line["path"].as_str() else {
                assert!(line["lost"].is_string(), "{line}");
                continue;
            };
            let path = root.join(path).canonicalize().unwrap();
            assert!(path.starts_with(&root), "{name:?} is at {path:?}");
            let expected = self.objects.get(&name).unwrap_or_else(|| panic!("{name:?} came back from the dead"));
            let body = std::fs::read(&path).unwrap();
            assert!(body[..] == expected[..], "{name:?}: {} bytes instead of {}", body.len(), expected.len());
            assert!(paths.insert(path) && seen.insert(name.clone()), "{name:?} twice");
        }
        assert!(!self.directory.path().join("escape").exists() && !rescued.out.join("PARTIAL").exists());
        seen
    }
}
