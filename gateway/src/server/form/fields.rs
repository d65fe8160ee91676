//! The fields of a form, up to its file, and the headers that they stand for.

use crate::percent;
use crate::s3::error;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt, TryStreamExt};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyDataStream;
use hyper::body::Body as HttpBody;
use s3s::dto::Tagging;
use s3s::{S3Error, S3Result, StdError, s3_error};
use s3s_multipart::{Boundary, Error as FormFault, Multipart, Part, PartDataStream, parse_content_disposition};
use std::pin::Pin;

/// Most bytes of names and values before the file. As S3 has it.
pub(super) const MAX_FIELD_BYTES: usize = 20 << 10;
/// Most fields before the file.
pub(super) const MAX_FIELDS: usize = 200;
/// Most bytes of the headers of one part.
const MAX_PART_HEADERS: usize = 8 << 10;

/// The body of a form.
pub(super) type Source = Pin<Box<dyn Stream<Item = Result<Bytes, FormFault>> + Send>>;

/// Name, in lower case, and value of each field before the file.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, String)>);

/// What names no header: it is for the form itself, or for the page.
const OWN: [&str; 13] = [
    "key",
    "policy",
    "bucket",
    "file",
    "submit",
    "success_action_status",
    "success_action_redirect",
    "redirect",
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-signature",
    "content-length",
];

/// Fields that are headers of the object under their own name.
const HEADERS: [&str; 8] = [
    "cache-control",
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "expires",
    "x-amz-tagging",
];

/// Beginnings of the names of fields that are headers under their own name; whether what they ask for is given is found out where
/// it is for every request.
const FAMILIES: [&str; 9] = [
    "x-amz-acl",
    "x-amz-checksum-",
    "x-amz-grant-",
    "x-amz-meta-",
    "x-amz-object-lock-",
    "x-amz-security-token",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all(&self) -> &[(String, String)] {
        &self.0
    }

    pub(super) fn key(&self) -> S3Result<&str> {
        match self.get("key") {
            None => Err(super::missing("key")),
            Some("") => Err(s3_error!(InvalidArgument, "User key must have a length greater than 0.")),
            Some(key) => Ok(key),
        }
    }

    /// The headers of the PutObject that the form asks for.
    pub(super) fn headers(&self) -> S3Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.0 {
            let Some((name, value)) = header(name, value)? else { continue };
            let wrong = || s3_error!(InvalidArgument, "The field {name} is no value of a header.");
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?;
            // Two fields may stand for the same header: acl and x-amz-acl.
            if headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value).is_some() {
                return Err(twice(&name));
            }
        }
        Ok(headers)
    }
}

/// The header that a field stands for.
fn header(name: &str, value: &str) -> S3Result<Option<(String, String)>> {
    let same = || Ok(Some((name.to_owned(), value.to_owned())));
    match name {
        "acl" => Ok(Some(("x-amz-acl".to_owned(), value.to_owned()))),
        "tagging" => Ok(Some(("x-amz-tagging".to_owned(), tagging(value)?))),
        _ if OWN.contains(&name) => Ok(None),
        _ if HEADERS.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family)) => same(),
        _ if name.starts_with("x-amz-") => Err(error::not_implemented("This field of a form")),
        // The page's own.
        _ => Ok(None),
    }
}

/// The tags of a form, which are XML, as the header has them.
fn tagging(text: &str) -> S3Result<String> {
    let tags: Tagging = crate::configs::of_xml(text.as_bytes()).map_err(|_| s3_error!(MalformedXML))?;
    let mut out = String::new();
    for tag in &tags.tag_set {
        for (before, text) in [("&", &tag.key), ("=", &tag.value)] {
            if before != "&" || !out.is_empty() {
                out.push_str(before);
            }
            percent::push(&mut out, text.as_deref().unwrap_or_default());
        }
    }
    Ok(out)
}

fn twice(name: &str) -> S3Error {
    s3_error!(InvalidArgument, "The field {name} is there more than once.")
}

fn malformed() -> S3Error {
    error::custom(
        "MalformedPOSTRequest",
        StatusCode::BAD_REQUEST,
        "The body of your POST request is not well-formed multipart/form-data.",
    )
}

fn too_long() -> S3Error {
    error::custom(
        "MaxPostPreDataLengthExceeded",
        StatusCode::BAD_REQUEST,
        "Your POST request fields preceding the upload file were too large.",
    )
}

pub(super) fn fault(fault: FormFault) -> S3Error {
    match fault {
        FormFault::HeaderSizeExceeded { .. } => too_long(),
        FormFault::StreamReadFailed(_) | FormFault::IncompleteStream | FormFault::IncompleteStreamPart => {
            s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header"
            )
        }
        _ => malformed(),
    }
}

/// Reads the fields before the file; what comes then are the bytes of the file.
pub(super) async fn read<B>(headers: &HeaderMap, body: B) -> S3Result<(Fields, PartDataStream<Source>)>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
{
    let boundary = boundary(headers).ok_or_else(malformed)?;
    let source: Source =
        BodyDataStream::new(body).map_err(|broken| FormFault::stream_read_failed(broken.into())).boxed();
    let mut form = Multipart::new(source, &boundary, MAX_PART_HEADERS);
    let (mut fields, mut bytes) = (Vec::new(), 0);
    while let Some(mut part) = form.next_part().await.map_err(fault)? {
        let (name, filename) = name(&mut part).await?;
        if name == "file" {
            let file = part.take_data_stream().map_err(fault)?;
            return Ok((Fields(with_filename(fields, &filename)), file));
        }
        bytes += name.len();
        let mut value = Vec::new();
        while let Some(piece) = part.next_data().await.map_err(fault)? {
            if bytes + value.len() + piece.len() > MAX_FIELD_BYTES {
                return Err(too_long());
            }
            value.extend_from_slice(&piece);
        }
        bytes += value.len();
        if fields.len() == MAX_FIELDS {
            return Err(too_long());
        }
        let value =
            String::from_utf8(value).map_err(|_| s3_error!(InvalidArgument, "The field {name} is not UTF-8."))?;
        if fields.iter().any(|(known, _)| *known == name) {
            return Err(twice(&name));
        }
        fields.push((name, value));
    }
    Err(s3_error!(InvalidArgument, "POST requires exactly one file upload per request."))
}

/// The boundary that the form's type names.
fn boundary(headers: &HeaderMap) -> Option<Boundary> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let (_, value) = kind.split(';').skip(1).filter_map(|pair| pair.split_once('=')).find(|(name, _)| {
        // Names of parameters have no case (RFC 2045, section 5.1).
        name.trim().eq_ignore_ascii_case("boundary")
    })?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    Boundary::new(value.as_bytes()).ok()
}

/// The name of a part, in lower case, and that of its file without a path.
async fn name(part: &mut Part<'_, Source>) -> S3Result<(String, String)> {
    let mut found = None;
    while let Some(header) = part.next_header().await.map_err(fault)? {
        if header.name.eq_ignore_ascii_case("content-disposition")
            && let Some(said) = parse_content_disposition(header.value)
        {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| malformed());
            let filename = text(said.file_name.unwrap_or_default())?.replace("\\\"", "\"");
            let base = filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
            let name = said.name.ok_or_else(malformed)?;
            found = Some((text(name)?.to_ascii_lowercase(), base));
        }
    }
    found.ok_or_else(malformed)
}

/// `${filename}` stands for the name of the file in every field but those that are signed as they are.
fn with_filename(mut fields: Vec<(String, String)>, filename: &str) -> Vec<(String, String)> {
    for (name, value) in &mut fields {
        if name != "policy" && name != "x-amz-signature" && value.contains("${filename}") {
            *value = value.replace("${filename}", filename);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use proptest::prelude::*;

    async fn of(body: impl Into<Bytes>) -> S3Result<(Fields, PartDataStream<Source>)> {
        let kind = HeaderValue::from_static("multipart/form-data; charset=utf-8; Boundary=\"xx\"");
        read(&HeaderMap::from_iter([(CONTENT_TYPE, kind)]), Full::new(body.into())).await
    }

    fn part(name: &str, value: &str) -> String {
        format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    const FILE: &str =
        "--xx\r\ncontent-disposition: form-data; filename=\"C:\\a\\b.txt\"; name=\"File\"\r\n\r\nhello\r\n--xx--\r\n";

    #[tokio::test]
    async fn fields_come_before_the_file() {
        let (fields, file) = of(format!("{}{}{FILE}", part("Key", "u/${filename}"), part("policy", "${filename}")))
            .await
            .expect("a form");
        assert_eq!((fields.key().ok(), fields.get("policy")), (Some("u/b.txt"), Some("${filename}")));
        let bytes: Vec<Bytes> = file.try_collect().await.expect("a file");
        assert_eq!(bytes.concat(), b"hello");
    }

    #[tokio::test]
    async fn forms_that_are_none() {
        let code = async |body: String| match of(body).await {
            Ok(_) => String::new(),
            Err(refused) => refused.code().as_str().to_owned(),
        };
        assert_eq!(code(format!("{}--xx--\r\n", part("key", "a"))).await, "InvalidArgument");
        assert_eq!(code(format!("{}{}{FILE}", part("key", "a"), part("KEY", "b"))).await, "InvalidArgument");
        assert_eq!(
            code(format!("{}{FILE}", part("a", &"x".repeat(MAX_FIELD_BYTES)))).await,
            "MaxPostPreDataLengthExceeded"
        );
        let many: String = (0..=MAX_FIELDS).map(|n| part(&format!("f{n}"), "")).collect();
        assert_eq!(code(format!("{many}{FILE}")).await, "MaxPostPreDataLengthExceeded");
        assert_eq!(code(part("key", "a")).await, "IncompleteBody");
        assert_eq!(code("--xx\r\n\r\nx\r\n--xx--\r\n".into()).await, "MalformedPOSTRequest");
    }

    #[test]
    fn fields_that_become_headers() {
        let of = |pairs: &[(&str, &str)]| {
            Fields(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()).headers()
        };
        let xml = "<Tagging><TagSet><Tag><Key>a b</Key><Value>&amp;</Value></Tag><Tag><Key>c</Key><Value/></Tag></TagSet></Tagging>";
        let headers =
            of(&[("acl", "private"), ("tagging", xml), ("x-amz-meta-a", "b"), ("utf8", "x"), ("x-ignore-a", "b")])
                .expect("headers");
        assert_eq!(headers.get("x-amz-tagging").map(HeaderValue::as_bytes), Some(&b"a%20b=%26&c="[..]));
        assert_eq!((headers.len(), headers.get("x-amz-acl").map(HeaderValue::as_bytes)), (3, Some(&b"private"[..])));
        // None of these is a PutObject's body any more.
        for name in [
            "x-amz-copy-source",
            "x-amz-content-sha256",
            "x-amz-decoded-content-length",
            "x-amz-trailer",
            "x-amz-what-is-next",
        ] {
            assert!(of(&[(name, "a")]).is_err(), "{name}");
        }
        assert!(of(&[("acl", "private"), ("x-amz-acl", "private")]).is_err());
        // MinIO CVE-2023-28434 and Ceph: a line end is another header.
        assert!(
            of(&[("x-amz-meta-a", "b\r\nx-amz-acl: public-read")]).is_err() && of(&[("x-amz-meta-a b", "c")]).is_err()
        );
        assert!(of(&[("tagging", "<Tagging/>x")]).is_err());
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let body = if whole { body } else { [b"--xx\r\nContent-Disposition: form-data; name=".as_slice(), &body, b"\r\n--xx--"].concat() };
            let _ = runtime.block_on(of(body));
        }
    }
}
