//! Against an endpoint that keeps objects in memory and answers as it is told.

use super::*;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use codec::effect::{Content, UserMeta};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How it answers.
#[derive(Clone, Debug, Default)]
struct Manner {
    /// HEAD gets 404, whatever is there.
    blind: bool,
    /// Writes with conditions get 501.
    unconditional: bool,
    /// Every request gets this status and code.
    says: Option<(u16, &'static str)>,
}

#[derive(Default)]
struct Endpoint {
    manner: Mutex<Manner>,
    /// By path: entity tag and headers of the last write.
    objects: Mutex<BTreeMap<String, (String, HeaderMap)>>,
    /// Uploads of the key `k`: id and when they were begun.
    uploads: Mutex<Vec<(String, String)>>,
}

fn error(status: u16, code: &str) -> Response {
    let body = format!("<Error><Code>{code}</Code><Message>because</Message></Error>");
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, request: Request) -> Response {
    let manner = endpoint.manner.lock().unwrap().clone();
    if let Some((status, code)) = manner.says {
        return error(status, code);
    }
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let mut objects = endpoint.objects.lock().unwrap();
    let tag = objects.get(&path).map(|(tag, _)| tag.clone());
    let query = request.uri().query().unwrap_or_default();
    let mut uploads = endpoint.uploads.lock().unwrap();
    if *request.method() == Method::POST && query.starts_with("uploads") {
        let id = format!("own-{}", uploads.len());
        uploads.push((id.clone(), "2099-01-01T00:00:00.000Z".to_owned()));
        let answer =
            format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
        return answer.into_response();
    }
    if *request.method() == Method::DELETE && query.contains("uploadId=") {
        uploads.retain(|(id, _)| !query.contains(&format!("uploadId={id}")));
        return StatusCode::NO_CONTENT.into_response();
    }
    if *request.method() == Method::GET && query.contains("uploads") {
        let line = |(id, at): &(String, String)| {
            format!("<Upload><Key>k</Key><UploadId>{id}</UploadId><Initiated>{at}</Initiated></Upload>")
        };
        let lines: String = uploads.iter().map(line).collect();
        return format!("<ListMultipartUploadsResult>{lines}</ListMultipartUploadsResult>").into_response();
    }
    if *request.method() == Method::GET {
        let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
        let keys = objects.keys().filter_map(|path| path.strip_prefix("/copy/")).filter(|key| key.starts_with(prefix));
        let lines: String = keys.take(1).map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect();
        return format!("<ListBucketResult>{lines}</ListBucketResult>").into_response();
    }
    if *request.method() == Method::HEAD && manner.blind {
        return StatusCode::NOT_FOUND.into_response();
    }
    if *request.method() == Method::HEAD {
        let Some((tag, stored)) = objects.get(&path) else { return StatusCode::NOT_FOUND.into_response() };
        let mut answer = stored.clone();
        answer.insert("etag", tag.parse().unwrap());
        return answer.into_response();
    }
    let (none, matched) = (headers.get("if-none-match"), headers.get("if-match"));
    if manner.unconditional && (none.is_some() || matched.is_some()) {
        return error(501, "NotImplemented");
    }
    let matched = matched.map(|tag| tag.to_str().unwrap().to_owned());
    if (none.is_some() && tag.is_some()) || (matched.is_some() && matched != tag) {
        return error(412, "PreconditionFailed");
    }
    if *request.method() == Method::DELETE {
        objects.remove(&path);
        return StatusCode::NO_CONTENT.into_response();
    }
    let kept = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta") || *name == "expires");
    let kept = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let tag = format!("\"{}\"", headers["content-md5"].to_str().unwrap());
    objects.insert(path, (tag.clone(), kept));
    [("etag", tag)].into_response()
}

async fn start() -> (Arc<Endpoint>, Target) {
    let endpoint = Arc::new(Endpoint::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(Arc::clone(&endpoint));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (endpoint, at(format!("http://{address}")))
}

fn at(endpoint: String) -> Target {
    let (region, target, access_key) = ("us-east-1".to_owned(), "copy".to_owned(), "KEY".to_owned());
    let rule = ReplicationRow { endpoint, region, target, access_key, ..ReplicationRow::default() };
    Target::new(&rule, &Secret::new("secret".to_owned()))
}

fn what() -> Described {
    let user = vec![UserMeta { name: "who".to_owned(), value: "the office".to_owned() }];
    let meta = ObjectMeta { user, expires: "not a date".to_owned(), ..ObjectMeta::default() };
    let content = Content { etag: "abc".to_owned(), ..Content::default() };
    Described::new(&VersionRow { meta: Some(meta), content: Some(content), ..VersionRow::default() }, true, None)
}

fn piece(byte: u8) -> Piece {
    Piece { bytes: Bytes::from(vec![byte; 10]), md5: [byte; 16] }
}

/// A write that was given up may arrive at any later time. Without its condition it would put the older version back.
#[tokio::test]
async fn a_write_that_comes_late_replaces_nothing_newer() {
    let (_endpoint, target) = start().await;
    assert_eq!(target.head("k", None).await, Ok(None));
    target.put("k", &what(), piece(1), None, None).await.unwrap();
    let first = target.head("k", None).await.unwrap().unwrap();
    assert_eq!((first.mark.as_str(), first.meta.user[0].value.as_str()), ("abc", "the office"));
    assert_eq!(first.meta.expires, "not a date", "headers are sent as they came");
    let late = target.put("k", &what(), piece(1), None, None).await;
    assert_eq!(late, Err(TargetError::Changed));
    target.put("k", &what(), piece(2), None, Some(&first)).await.unwrap();
    assert_eq!(target.put("k", &what(), piece(1), None, Some(&first)).await, Err(TargetError::Changed));
    assert_eq!(target.delete("k", &first).await, Err(TargetError::Changed));
    let second = target.head("k", None).await.unwrap().unwrap();
    assert_ne!(second.etag, first.etag);
    target.delete("k", &second).await.unwrap();
    assert_eq!(target.head("k", None).await, Ok(None));
}

/// A delete that was taken for copied because of a 404 would leave the object there for ever.
#[tokio::test]
async fn that_nothing_is_there_is_believed_only_of_the_listing_of_a_bucket_that_is_there() {
    let (endpoint, target) = start().await;
    target.put("k", &what(), piece(1), None, None).await.unwrap();
    endpoint.manner.lock().unwrap().blind = true;
    assert_eq!(target.head("k", None).await, Ok(None));
    assert_eq!(target.lacks("k").await, Err(TargetError::Changed));
    assert_eq!((target.lacks("").await, target.lacks("kk").await), (Ok(()), Ok(())));
    endpoint.manner.lock().unwrap().says = Some((404, "NoSuchBucket"));
    assert_eq!((target.head("k", None).await, target.lacks("k").await), (Ok(None), Err(TargetError::NoBucket)));
}

/// Somebody else may be writing that key: his parts are not thrown away under his hands.
#[tokio::test]
async fn only_own_and_old_uploads_are_given_up() {
    let (endpoint, target) = start().await;
    let others = [("theirs", "2099-01-01T00:00:00.000Z"), ("left", "2001-01-01T00:00:00.000Z")];
    *endpoint.uploads.lock().unwrap() = others.map(|(id, at)| (id.to_owned(), at.to_owned())).to_vec();
    target.begin("k", &what()).await.unwrap();
    assert_eq!(endpoint.uploads.lock().unwrap().len(), 3);
    target.abort_others("k").await;
    let left: Vec<String> = endpoint.uploads.lock().unwrap().iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(left, ["theirs"]);
    assert!(target.begun().is_empty());
}

#[tokio::test]
async fn an_endpoint_without_conditions_is_written_to_without() {
    let (endpoint, target) = start().await;
    endpoint.manner.lock().unwrap().unconditional = true;
    target.put("k", &what(), piece(1), None, None).await.unwrap();
    assert!(target.put_knows_none.load(Relaxed) && !target.delete_knows_none.load(Relaxed));
    let found = target.head("k", None).await.unwrap().unwrap();
    target.put("k", &what(), piece(2), None, Some(&found)).await.unwrap();
}

/// One object that an endpoint can't take for another reason would take the protection from all.
#[tokio::test]
async fn what_is_not_known_without_its_condition_either_says_nothing_of_conditions() {
    let (endpoint, target) = start().await;
    endpoint.manner.lock().unwrap().says = Some((501, "NotImplemented"));
    let refused = target.put("k", &what(), piece(1), None, None).await;
    assert!(matches!(refused, Err(TargetError::Unknown(_))), "{refused:?}");
    endpoint.manner.lock().unwrap().says = None;
    target.put("k", &what(), piece(2), None, None).await.unwrap();
    assert_eq!(target.put("k", &what(), piece(1), None, None).await, Err(TargetError::Changed), "a late one");
}

/// An endpoint that knows no tags has none: the copy lacks those that are here, and is not the same.
#[tokio::test]
async fn tags_that_can_not_be_read_there_lack_there() {
    use crate::replication::same::unlike_all;
    let (endpoint, target) = start().await;
    let tags = vec![Tag { key: "state".to_owned(), value: "new".to_owned() }];
    let content = Content { etag: "abc".to_owned(), ..Content::default() };
    let version = VersionRow { key: "k".to_owned(), content: Some(content), tags, ..VersionRow::default() };
    let far = Far { etag: "\"abc\"".to_owned(), ..Far::default() };
    for (status, code) in [(501, "NotImplemented"), (403, "AccessDenied"), (400, "InvalidRequest")] {
        endpoint.manner.lock().unwrap().says = Some((status, code));
        let found = unlike_all(&target, &version, &far).await.unwrap();
        assert!(matches!(&found[..], [unlike] if unlike.name == "tags"), "{status}: {found:?}");
    }
    endpoint.manner.lock().unwrap().says = Some((503, "SlowDown"));
    assert!(matches!(unlike_all(&target, &version, &far).await, Err(TargetError::Busy(_))));
}

#[tokio::test]
async fn what_an_endpoint_says_tells_what_to_do() {
    let (endpoint, target) = start().await;
    for (status, code, kind) in [
        (403, "SignatureDoesNotMatch", "Denied"),
        (404, "NoSuchBucket", "NoBucket"),
        (404, "NoSuchUpload", "Changed"),
        (404, "NoSuchKey", "Changed"),
        (400, "MetadataTooLarge", "Refused"),
        (429, "TooManyRequests", "Busy"),
        (503, "SlowDown", "Busy"),
        (507, "InsufficientStorage", "Busy"),
    ] {
        endpoint.manner.lock().unwrap().says = Some((status, code));
        let error = target.put("k", &what(), piece(1), None, None).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{status} {code}: {error:?}");
        assert!(!error.to_string().contains('\n'));
    }
    let nobody = at("http://127.0.0.1:9".to_owned());
    assert!(matches!(nobody.head("k", None).await, Err(TargetError::Unreachable(_))));
}
