//! Inputs that nobody meant: what is parsed before, or while, a caller is known, is changed at random, from seeds that reach deep.
//!
//! A budget of seconds bounds each target: `STELE_FUZZ_SECONDS` makes it longer by hand, and `STELE_FUZZ_SEED` repeats a run. The seed
//! is the same each time, so that what fails is what was changed; [`soak_fuzz`] has another each time round. What is looked for: an
//! answer is HTTP, is never a 500, nobody panics, and nothing that nobody signed is ever stored. What is signed well ([`signing`],
//! [`chunked`], [`forms`]) is taken where it means something, and then it is what was meant.

mod chunked;
mod forms;
mod signing;

use super::store::Store;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tests::s3::Random;
use tests::sigv4::{Ask, ask, exchange};

const SECONDS: u64 = 3;
const SEED: u64 = 20_261_123;
/// How long a target that has to see something may go on for it where the machine is too busy to show it in its seconds.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

struct Fuzz {
    random: Random,
    /// Since it is first asked whether to go on.
    until: Option<Instant>,
    seed: u64,
}

impl Fuzz {
    fn new(target: u64) -> Fuzz {
        Fuzz::of(target, number("STELE_FUZZ_SEED").unwrap_or(SEED))
    }

    fn of(target: u64, seed: u64) -> Fuzz {
        Fuzz { random: Random::new(seed ^ target), until: None, seed }
    }

    /// An address of our own: who fails to sign in too often from one is slowed down there.
    fn address(&mut self) -> IpAddr {
        let bits = u32::try_from(self.random.below(1 << 22)).unwrap();
        IpAddr::V4(Ipv4Addr::from(0x7f00_0000 + 0x1_0000 + bits))
    }

    fn goes_on(&mut self) -> bool {
        let budget = Duration::from_secs(number("STELE_FUZZ_SECONDS").unwrap_or(SECONDS));
        Instant::now() < *self.until.get_or_insert_with(|| Instant::now() + budget)
    }

    /// [`Fuzz::goes_on`], and beyond its seconds as long as too little was seen to say anything.
    fn goes_on_until(&mut self, enough: bool) -> bool {
        self.goes_on() || (!enough && self.until.is_some_and(|until| Instant::now() < until + PATIENCE))
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[usize::try_from(self.random.below(of.len() as u64)).unwrap()]
    }

    /// `seed` with some of its bytes changed, cut out, doubled, or replaced by what parsers stumble over.
    fn changed(&mut self, seed: &[u8]) -> Vec<u8> {
        const STONES: [&[u8]; 22] = [
            b"\0",
            b"\r\n",
            b"\n",
            b"%",
            b"%00",
            b"%2e%2e",
            b"..",
            b"/",
            b"//",
            b"\"",
            b"'",
            b"<",
            b"&",
            b"&#0;",
            b"]]>",
            b"\xff\xfe",
            b"99999999999999999999",
            b"-1",
            b"0x",
            b"\xf0\x9f\x92\xa5",
            b";",
            b"=",
        ];
        let mut bytes = seed.to_vec();
        for _ in 0..=self.random.below(4) {
            let at = usize::try_from(self.random.below(bytes.len() as u64 + 1)).unwrap();
            let len = usize::try_from(self.random.below(8)).unwrap().min(bytes.len() - at);
            match self.random.below(5) {
                0 => drop(bytes.drain(at..at + len)),
                1 => drop(bytes.splice(at..at, self.one(&STONES).to_vec())),
                2 if at < bytes.len() => bytes[at] = u8::try_from(self.random.below(256)).unwrap(),
                3 => {
                    let piece = bytes[at..at + len].to_vec();
                    drop(bytes.splice(at..at, piece.repeat(usize::try_from(self.random.below(50)).unwrap())));
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }

    /// Of a header: no line ends in it, which would be another header.
    fn line(&mut self, seed: &str) -> String {
        let bytes = self.changed(seed.as_bytes());
        let text: String = bytes.iter().map(|b| char::from(*b)).filter(|c| !matches!(c, '\r' | '\n' | '\0')).collect();
        text.trim().to_owned()
    }
}

async fn harmless(store: &Store, fuzz: &mut Fuzz, request: &Ask) -> u16 {
    let bytes = request.bytes(store.config.s3());
    let answer = exchange(store.config.s3(), Some(fuzz.address()), &bytes).await;
    let shown = || format!("seed {}: {}", fuzz.seed, String::from_utf8_lossy(&bytes));
    match answer {
        Ok(answer) => {
            let slowed = answer.status == 503 && answer.code() == "SlowDown";
            assert!(answer.status < 500 || answer.status == 501 || slowed, "{}: {}", shown(), answer.text());
            answer.status
        }
        // A connection may be closed on what is no HTTP.
        Err(error) => {
            assert!(!is_http(request), "{}: no answer: {error}", shown());
            0
        }
    }
}

/// Whether a request is HTTP/1.1 as RFC 9110 and 9112 have it: then it is answered, whatever it asks for.
fn is_http(request: &Ask) -> bool {
    let is_token = |name: &str| {
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !name.is_empty() && name.bytes().all(sign)
    };
    let is_value = |value: &str| value.chars().all(|c| c == '\t' || !c.is_ascii_control());
    // Lengths that tests write themselves.
    let frames = ["content-length", "transfer-encoding"];
    let target = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}#".contains(c);
    request.path.starts_with('/')
        && request.path.chars().all(target)
        && request.headers.iter().all(|(n, value)| is_token(n) && is_value(value) && !frames.contains(&n.as_str()))
}

/// The canonical request of SigV4: whatever is changed after it was signed is refused, whatever is odd before is taken or refused.
#[tokio::test(flavor = "multi_thread")]
async fn sigv4_canonicalisation() {
    signatures(Fuzz::new(1)).await;
}

async fn signatures(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    while fuzz.goes_on() {
        let signed = ask("PUT", "/vault/forged")
            .query("x-id", "PutObject")
            .body("evil")
            .signed(store.config.s3(), &store.office);
        let mut request = signed.clone();
        match fuzz.random.below(4) {
            0 => request.path = fuzz.line("/vault/forged/%41/../b"),
            1 => request.query.push((fuzz.line("X-Amz-Signature"), fuzz.line("AWS4"))),
            2 => {
                let at = usize::try_from(fuzz.random.below(request.headers.len() as u64)).unwrap();
                let value = request.headers[at].1.clone();
                request.headers[at].1 = fuzz.line(&value);
            }
            _ => request.body = fuzz.changed(b"evil"),
        }
        if request.path.contains([' ', '?', '#']) || !request.path.starts_with('/') {
            continue;
        }
        let same = request.path == signed.path && request.query == signed.query && request.body == signed.body;
        let status = harmless(&store, &mut fuzz, &request).await;
        assert!(status != 200 || same, "seed {}: taken although it was changed: {request:?}", fuzz.seed);
    }
    for key in store.keys("vault").await {
        assert!(["k", "forged"].contains(&key.as_str()), "{key}");
    }
    store.end().await;
}

/// What is odd and signed well is not refused for its signature.
#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_that_are_signed() {
    signing::odd_requests(Fuzz::new(7)).await;
}

/// What comes of chunks that were signed, in whatever order they come.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_signed() {
    chunked::signed_chunks(Fuzz::new(8)).await;
}

/// Forms with any policy, signed by who may do all that it says.
#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_signed() {
    forms::signed_forms(Fuzz::new(9)).await;
}

/// aws-chunked bodies, signed and with trailers.
#[tokio::test(flavor = "multi_thread")]
async fn aws_chunked() {
    chunks(Fuzz::new(2)).await;
}

async fn chunks(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    let seeds: [&[u8]; 4] = [
        b"4\r\nevil\r\n0\r\nx-amz-checksum-crc32:aEWh1g==\r\n\r\n",
        b"4;chunk-signature=0000000000000000000000000000000000000000000000000000000000000000\r\nevil\r\n0;chunk-signature=00\r\n\r\n",
        b"ffffffffffffffff\r\nevil\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ];
    let kinds = [
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    ];
    while fuzz.goes_on() {
        let seed = fuzz.one(&seeds);
        let (body, kind) = (fuzz.changed(seed), fuzz.one(&kinds.map(|k| k)).to_owned());
        let length = fuzz.line("4");
        let request = ask("PUT", "/vault/k")
            .header("x-amz-content-sha256", &kind)
            .header("x-amz-decoded-content-length", &length)
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .header("content-encoding", "aws-chunked")
            .body(body)
            .signed(store.config.s3(), &store.office);
        let status = harmless(&store, &mut fuzz, &request).await;
        if status == 200 {
            let read = store.read("/vault/k").await;
            assert!(request.body.windows(read.len().max(1)).any(|bytes| bytes == read) || read.is_empty(), "made up");
        }
    }
    store.end().await;
}

/// Requests with an XML body: method, path, what of it, body.
const DOCUMENTS: [(&str, &str, &str, &str); 21] = [
    (
        "POST",
        "/vault",
        "delete",
        "<Delete><Quiet>true</Quiet><Object><Key>absent</Key><VersionId>null</VersionId></Object></Delete>",
    ),
    ("PUT", "/vault", "tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"),
    (
        "PUT",
        "/vault",
        "cors",
        "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>",
    ),
    (
        "PUT",
        "/vault",
        "lifecycle",
        "<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter><And><Prefix>a</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And></Filter><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>",
    ),
    (
        "PUT",
        "/vault",
        "acl",
        "<AccessControlPolicy><Owner><ID>x</ID></Owner><AccessControlList><Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"><ID>x</ID></Grantee><Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>",
    ),
    (
        "PUT",
        "/vault",
        "object-lock",
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>",
    ),
    (
        "PUT",
        "/vault",
        "encryption",
        "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
    ),
    (
        "PUT",
        "/vault",
        "publicAccessBlock",
        "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>",
    ),
    (
        "PUT",
        "/vault",
        "ownershipControls",
        "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>",
    ),
    (
        "PUT",
        "/vault/k",
        "retention",
        "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>",
    ),
    (
        "PUT",
        "/vault",
        "notification",
        "<NotificationConfiguration><QueueConfiguration><Queue>arn:aws:sqs:us-east-1::hook</Queue><Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>",
    ),
    (
        "POST",
        "/vault/k",
        "restore",
        "<RestoreRequest><Days>1</Days><GlacierJobParameters><Tier>Bulk</Tier></GlacierJobParameters></RestoreRequest>",
    ),
    (
        "POST",
        "/vault/parts",
        "uploadId",
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"0cc175b9c0f1b6a831c399e269772661\"</ETag><ChecksumCRC32>6Le+Qw==</ChecksumCRC32></Part></CompleteMultipartUpload>",
    ),
    (
        "PUT",
        "/made",
        "",
        "<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint><Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>",
    ),
    ("PUT", "/vault", "versioning", "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"),
    (
        "PUT",
        "/vault",
        "logging",
        "<BucketLoggingStatus><LoggingEnabled><TargetBucket>vault</TargetBucket><TargetPrefix>log/</TargetPrefix><TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>EventTime</PartitionDateSource></PartitionedPrefix></TargetObjectKeyFormat></LoggingEnabled></BucketLoggingStatus>",
    ),
    (
        "PUT",
        "/vault",
        "inventory&id=i",
        "<InventoryConfiguration><Id>i</Id><IsEnabled>false</IsEnabled><IncludedObjectVersions>All</IncludedObjectVersions><Schedule><Frequency>Weekly</Frequency></Schedule><Destination><S3BucketDestination><Bucket>arn:aws:s3:::vault</Bucket><Format>CSV</Format><Prefix>i</Prefix></S3BucketDestination></Destination><OptionalFields><Field>Size</Field></OptionalFields></InventoryConfiguration>",
    ),
    (
        "PUT",
        "/vault",
        "requestPayment",
        "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>",
    ),
    ("PUT", "/vault/k", "legal-hold", "<LegalHold><Status>OFF</Status></LegalHold>"),
    (
        "PUT",
        "/vault/k",
        "tagging",
        "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag><Tag><Key>c</Key><Value/></Tag></TagSet></Tagging>",
    ),
    ("PUT", "/vault", "accelerate", "<AccelerateConfiguration><Status>Suspended</Status></AccelerateConfiguration>"),
];

/// A request for one of [`DOCUMENTS`]; `upload` is the one that may be completed.
fn asked(method: &str, path: &str, what: &str, upload: &str) -> Ask {
    let pairs = what.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.fold(ask(method, path), |ask, (name, value)| ask.query(name, if name == "uploadId" { upload } else { value }))
}

/// An upload of `/vault/parts` that has one part.
async fn begun(store: &Store) -> String {
    let path = "/vault/parts";
    let text = store.office(ask("POST", path).query("uploads", "")).await.text();
    let id = text.split_once("<UploadId>").unwrap().1.split_once('<').unwrap().0.to_owned();
    store.office(ask("PUT", path).query("partNumber", "1").query("uploadId", &id).body("a")).await;
    id
}

/// The XML of every operation that has some.
#[tokio::test(flavor = "multi_thread")]
async fn xml() {
    documents(Fuzz::new(3)).await;
}

async fn documents(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let mut upload = begun(&store).await;
    while fuzz.goes_on() {
        let (method, path, name, text) = DOCUMENTS[usize::try_from(fuzz.random.below(DOCUMENTS.len() as u64)).unwrap()];
        let request = asked(method, path, name, &upload).body(fuzz.changed(text.as_bytes()));
        let status = harmless(&store, &mut fuzz, &request.signed(store.config.s3(), &store.office)).await;
        if name == "uploadId" && status == 200 {
            assert_eq!(store.read(path).await, b"a", "seed {}", fuzz.seed);
            upload = begun(&store).await;
        }
    }
    store.end().await;
}

/// What XML has no way to say, in every place of a request that an answer may repeat, at once or when it was stored: the answer was a
/// failure of the server's own, and what was stored could not be read again.
#[tokio::test(flavor = "multi_thread")]
async fn control_characters() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let mut fuzz = Fuzz::new(6);
    let upload = begun(&store).await;
    for (method, path, name, text) in DOCUMENTS {
        let places = text.match_indices(['<', '>']).map(|(at, sign)| at + usize::from(sign == ">"));
        for at in places.collect::<std::collections::BTreeSet<_>>() {
            for odd in ["\u{1}", "\u{1f}", "&#1;", "&#x0b;", "\u{ffff}"] {
                let body = [&text[..at], odd, &text[at..]].concat();
                let request = asked(method, path, name, &upload).body(body).signed(store.config.s3(), &store.office);
                let status = harmless(&store, &mut fuzz, &request).await;
                assert!(status >= 400, "{status}: {odd:?} at {at} of {text}");
            }
        }
        let read = asked("GET", path, name, &upload).signed(store.config.s3(), &store.office);
        harmless(&store, &mut fuzz, &read).await;
    }
    let names = "acl annotation-prefix attributes bucket-region continuation-token cors delete delimiter encoding-type events \
        fetch-owner inventory id key-marker lifecycle list-type logging marker max-buckets max-keys max-parts max-uploads \
        part-number-marker partNumber policy prefix response-cache-control response-content-disposition response-content-encoding \
        response-content-language response-content-type response-expires restore retention start-after suffix tagging torrent \
        upload-id-marker uploadId uploads version-id-marker versionId versioning versions x-id X-Amz-Date X-Amz-Expires";
    for name in names.split_ascii_whitespace() {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
            let key = if matches!(method, "GET" | "HEAD") { "/vault/k" } else { "/vault/gone" };
            for path in ["/", "/vault", key] {
                for more in ["", "list-type", "versions", "uploads", "uploadId"] {
                    let mut request = ask(method, path);
                    if !more.is_empty() && more != name {
                        request = request.query(more, if more == "list-type" { "2" } else { "" });
                    }
                    let request = request.query(name, "a\u{1}b").signed(store.config.s3(), &store.office);
                    harmless(&store, &mut fuzz, &request).await;
                }
            }
        }
    }
    // Said twice, it is unclear, and the refusal names it.
    let twice = ask("GET", "/vault").query("x-amz-\u{1}", "1").query("x-amz-\u{1}", "2");
    harmless(&store, &mut fuzz, &twice).await;
    let policy = "{\"Version\":\"2012-10-17\",\"Id\":\"a\\u0001\",\"Statement\":[{\"Sid\":\"s\\u0001\",\"Effect\":\"Al\\u0001low\",\
        \"Principal\":\"*\",\"Action\":\"s3:Get\\u0001\",\"Resource\":\"arn:aws:s3:::vault/\\u0001\"}]}";
    let request = ask("PUT", "/vault").query("policy", "").body(policy).signed(store.config.s3(), &store.office);
    assert!(harmless(&store, &mut fuzz, &request).await >= 400);
    let tagged = ask("PUT", "/vault/tagged").header("x-amz-tagging", "a=%01").signed(store.config.s3(), &store.office);
    assert!(harmless(&store, &mut fuzz, &tagged).await >= 400);
    assert_eq!(store.read("/vault/k").await, b"kept");
    store.end().await;
}

/// Policies: of forms, of buckets, of users.
#[tokio::test(flavor = "multi_thread")]
async fn policies() {
    statements(Fuzz::new(4)).await;
}

async fn statements(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    let bucket = "{\"Version\":\"2012-10-17\",\"Id\":\"a\",\"Statement\":[{\"Sid\":\"s\",\"Effect\":\"Deny\",\"Principal\":{\"AWS\":[\"*\"]},\
        \"NotAction\":[\"s3:*\"],\"Resource\":\"arn:aws:s3:::vault/${aws:username}/*\",\"Condition\":{\"IpAddress\":{\"aws:SourceIp\":\"10.0.0.0/8\"},\
        \"ForAnyValue:StringLikeIfExists\":{\"s3:prefix\":[\"a*\",\"b?\"]},\"NumericLessThan\":{\"s3:max-keys\":\"5\"},\
        \"DateGreaterThan\":{\"aws:CurrentTime\":\"2030-01-01T00:00:00Z\"},\"Null\":{\"aws:Referer\":\"true\"}}}]}";
    let form = "{\"expiration\":\"2099-01-01T00:00:00.000Z\",\"conditions\":[{\"bucket\":\"vault\"},[\"starts-with\",\"$key\",\"a\"],\
        [\"content-length-range\",0,10],[\"eq\",\"$Content-Type\",\"text/plain\"]]}";
    while fuzz.goes_on() {
        let text = fuzz.changed(bucket.as_bytes());
        let request = ask("PUT", "/vault").query("policy", "").body(text).signed(store.config.s3(), &store.office);
        harmless(&store, &mut fuzz, &request).await;
        // What was taken is judged, too.
        harmless(&store, &mut fuzz, &ask("GET", "/vault").query("prefix", "a").query("max-keys", "3")).await;
        let policy = fuzz.changed(form.as_bytes());
        let policy = if fuzz.random.below(4) == 0 {
            fuzz.changed(BASE64.encode(&policy).as_bytes())
        } else {
            BASE64.encode(&policy).into_bytes()
        };
        let mut body = b"--e\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nforged\r\n--e\r\nContent-Disposition: form-data; name=\"policy\"\r\n\r\n".to_vec();
        body.extend_from_slice(&policy);
        let rest = "\r\n--e\r\nContent-Disposition: form-data; name=\"x-amz-algorithm\"\r\n\r\nAWS4-HMAC-SHA256\r\n--e\r\nContent-Disposition: \
            form-data; name=\"x-amz-signature\"\r\n\r\n00\r\n--e\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nx\r\n--e--\r\n";
        body.extend_from_slice(&fuzz.changed(rest.as_bytes()));
        let post = ask("POST", "/vault").header("content-type", "multipart/form-data; boundary=e").body(body);
        let status = harmless(&store, &mut fuzz, &post).await;
        assert!(status == 0 || status >= 400, "seed {}: nobody signed that", fuzz.seed);
    }
    let gone = store.by(&store.office, ask("DELETE", "/vault").query("policy", "")).await;
    assert!(gone.status == 204, "{}", gone.text());
    assert!(store.keys("vault").await.is_empty());
    store.end().await;
}

/// Range, and the sources of copies.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_copy_sources() {
    ranges(Fuzz::new(5)).await;
}

async fn ranges(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    let body = tests::s3::document(3, 5000);
    store.object("/vault/k", &body).await;
    let ranges = ["bytes=0-4", "bytes=4990-", "bytes=-5", "bytes=0-0,5-6", "bytes=18446744073709551615-"];
    let sources = ["/vault/k", "vault/k?versionId=null", "arn:aws:s3:::vault/k", "/vault/%6b", "vault/../vault/k"];
    while fuzz.goes_on() {
        let range = fuzz.one(&ranges);
        let range = fuzz.line(range);
        let request = ask("GET", "/vault/k").header("range", &range).signed(store.config.s3(), &store.office);
        if let Ok(answer) = request.send(store.config.s3()).await {
            assert!(answer.status < 500, "{range}: {}", answer.text());
            if answer.status == 206 {
                let whole = body.windows(answer.body.len()).any(|part| part == answer.body);
                assert!(!answer.body.is_empty() && whole, "seed {}: {range}", fuzz.seed);
            }
        }
        let source = fuzz.one(&sources);
        let source = fuzz.line(source);
        let copy = ask("PUT", "/vault/copy").header("x-amz-copy-source", &source);
        let copy = if fuzz.random.below(3) == 0 { copy.header("x-amz-copy-source-range", &range) } else { copy };
        let status = harmless(&store, &mut fuzz, &copy.signed(store.config.s3(), &store.office)).await;
        if status == 200 {
            assert_eq!(store.read("/vault/copy").await, body, "seed {}: {source}", fuzz.seed);
        }
    }
    store.end().await;
}

/// All targets with other seeds, for as long as `STELE_SOAK_MINUTES` says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: some minutes"]
async fn soak_fuzz() {
    let end = Instant::now() + Duration::from_secs(60 * number("STELE_SOAK_MINUTES").unwrap_or(10));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut seed = number("STELE_FUZZ_SEED").unwrap_or(now.as_secs());
    while Instant::now() < end {
        eprintln!("STELE_FUZZ_SEED={seed}");
        signatures(Fuzz::of(1, seed)).await;
        chunks(Fuzz::of(2, seed)).await;
        documents(Fuzz::of(3, seed)).await;
        statements(Fuzz::of(4, seed)).await;
        ranges(Fuzz::of(5, seed)).await;
        signing::odd_requests(Fuzz::of(7, seed)).await;
        chunked::signed_chunks(Fuzz::of(8, seed)).await;
        forms::signed_forms(Fuzz::of(9, seed)).await;
        seed += 1;
    }
}
