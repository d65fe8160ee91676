//! URLs of objects, as answers to uploads say them: where the client that sent the upload finds what it has stored.

use super::Peer;
use crate::percent;
use http::{Extensions, HeaderMap, Uri, header};

/// What a request is addressed to, of which the URLs in its answer are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address<'a> {
    host: &'a str,
    tls: bool,
    path: &'a str,
}

impl<'a> Address<'a> {
    /// Of a request. Over HTTP/2 its URI alone says the host.
    pub(crate) fn of(headers: &'a HeaderMap, uri: &'a Uri, extensions: &Extensions) -> Address<'a> {
        let tls = extensions.get::<Peer>().is_some_and(|peer| peer.tls.is_some());
        Address { host: host(headers, uri), tls, path: uri.path() }
    }

    /// The URL of an object, for a request that names its bucket alone.
    pub(crate) fn in_bucket(self, bucket: &str, key: &str) -> String {
        self.url(self.path.trim_matches('/').is_empty(), bucket, key)
    }

    /// The URL of the object that the request names.
    pub(crate) fn of_object(self, bucket: &str, key: &str) -> String {
        // With the bucket before it the path is longer than the key, whatever the key begins with.
        let path = self.path.strip_prefix('/').unwrap_or(self.path);
        self.url(decoded(path) == key.as_bytes(), bucket, key)
    }

    /// `by_host`: the bucket is in the host already.
    fn url(self, by_host: bool, bucket: &str, key: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let path = path(bucket, key);
        let path = path.get(1 + bucket.len()..).filter(|_| by_host).unwrap_or(&path);
        format!("{scheme}://{}{path}", self.host)
    }
}

/// The host that a request is for, as its client wrote it.
pub(super) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

/// Where an object is, by path. What `bucket` is was checked: it needs no encoding.
pub(super) fn path(bucket: &str, key: &str) -> String {
    let mut path = format!("/{bucket}/");
    percent::push_path(&mut path, key);
    path
}

/// The bytes of a path. A plus is a plus there.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let mut byte = [*first];
        rest = after;
        if let (b'%', Some((digits, after))) = (*first, after.split_at_checked(2))
            && hex::decode_to_slice(digits, &mut byte).is_ok()
        {
            rest = after;
        }
        bytes.extend_from_slice(&byte);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::net::Ipv4Addr;

    fn at(
        tls: Option<&'static str>,
        host: &'static str,
        uri: &'static str,
        say: impl Fn(Address<'_>) -> String,
    ) -> String {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        let mut extensions = Extensions::new();
        extensions.insert(Peer { address: (Ipv4Addr::LOCALHOST, 1).into(), tls });
        say(Address::of(&headers, &Uri::from_static(uri), &extensions))
    }

    #[test]
    fn urls_have_the_bucket_where_the_request_has_it() {
        let form = |host, uri| at(None, host, uri, |address| address.in_bucket("docs", "a b/c"));
        assert_eq!(form("s3.test:1", "/docs"), "http://s3.test:1/docs/a%20b/c");
        assert_eq!(form("docs.s3.test", "/"), "http://docs.s3.test/a%20b/c");
        assert_eq!(form("docs.s3.test", "http://docs.s3.test"), "http://docs.s3.test/a%20b/c");
        let object = |host, uri, key| at(None, host, uri, |address| address.of_object("docs", key));
        assert_eq!(object("s3.test", "/docs/a%20b/c?uploadId=1", "a b/c"), "http://s3.test/docs/a%20b/c");
        assert_eq!(object("docs.s3.test", "/a%20b/c?uploadId=1", "a b/c"), "http://docs.s3.test/a%20b/c");
        // A key that begins like the bucket is called, and one of signs that stand for others in queries.
        assert_eq!(object("docs.s3.test", "/docs/a", "docs/a"), "http://docs.s3.test/docs/a");
        assert_eq!(object("s3.test", "/docs/docs/a", "docs/a"), "http://s3.test/docs/docs/a");
        assert_eq!(object("docs.s3.test", "/a+%2B%c3%bc%25", "a++ü%"), "http://docs.s3.test/a%2B%2B%C3%BC%25");
        assert_eq!(object("docs.s3.test", "//a", "/a"), "http://docs.s3.test//a");
    }

    #[test]
    fn urls_are_of_the_scheme_that_the_request_came_by() {
        let object = |tls| at(tls, "s3.test", "/docs/a", |address| address.of_object("docs", "a"));
        assert_eq!(object(Some("1.3")), "https://s3.test/docs/a");
        assert_eq!(object(None), "http://s3.test/docs/a");
        let uri = Uri::from_static("https://s3.test:443/docs/a");
        let address = Address::of(&HeaderMap::new(), &uri, &Extensions::new()).of_object("docs", "a");
        assert_eq!(address, "http://s3.test:443/docs/a", "HTTP/2 has the host there");
    }
}
