//! Where a request says which bucket it is about: in its host, or at the beginning of its path.

use super::location::host;
use http::Request;
use s3s::S3Result;
use s3s::host::{DomainError, S3Host, VirtualHost};

/// The names under which buckets are host names (`bucket.domain`); every other host is addressed by path.
#[derive(Clone, Debug, Default)]
pub struct Domains(Vec<String>);

impl Domains {
    /// Fails if a name is no domain, or if one lies below another.
    pub fn new(domains: &[String]) -> Result<Domains, DomainError> {
        // s3s knows what a domain is and that two of them must not overlap.
        if !domains.is_empty() {
            s3s::host::MultiDomain::new(domains)?;
        }
        Ok(Domains(domains.iter().map(|domain| domain.to_ascii_lowercase()).collect()))
    }
}

impl Domains {
    /// Every host is addressed by path.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bucket that a request names, and what of the path is behind it, if anything: not decoded.
    pub(super) fn target<B>(&self, req: &Request<B>) -> Option<(String, Option<String>)> {
        let path = req.uri().path().strip_prefix('/').unwrap_or_default();
        let behind = |rest: &str| (!rest.trim_matches('/').is_empty()).then(|| rest.to_owned());
        if let Ok(host) = self.parse_host_header(host(req.headers(), req.uri()))
            && let Some(bucket) = host.bucket()
        {
            return Some((bucket.to_owned(), behind(path)));
        }
        let (bucket, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
        (!bucket.is_empty()).then(|| (bucket.to_owned(), behind(rest)))
    }

    /// Whether a request names a bucket and nothing in it.
    pub(super) fn names_bucket<B>(&self, req: &Request<B>) -> bool {
        matches!(self.target(req), Some((_, None)))
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.to_ascii_lowercase();
        for domain in &self.0 {
            if let Some(bucket) = name.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.'))
                && !bucket.is_empty()
            {
                return Ok(VirtualHost::new(domain.as_str()).with_bucket(bucket.to_owned()));
            }
        }
        Ok(VirtualHost::new(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    #[test]
    fn hosts_below_the_domains_are_buckets_and_others_are_not() {
        let domains = Domains::new(&["s3.example.org".to_owned()]).expect("a domain");
        let bucket = |host| domains.parse_host_header(host).ok().and_then(|v| v.bucket().map(str::to_owned));
        assert_eq!(bucket("docs.s3.example.org").as_deref(), Some("docs"));
        assert_eq!(bucket("Docs.S3.example.org:9000").as_deref(), Some("docs"));
        assert_eq!(bucket("a.b.s3.example.org").as_deref(), Some("a.b"));
        for path_style in ["s3.example.org", "localhost:9000", "evils3.example.org", "docs.other.org", "[::1]:9000"] {
            assert_eq!(bucket(path_style), None, "{path_style}");
        }
        assert!(Domains::new(&["not a domain".to_owned()]).is_err());
    }

    #[test]
    fn requests_that_name_a_bucket() {
        let domains = Domains::new(&["s3.example.org".to_owned()]).expect("a domain");
        let names = |host: &str, path: &str| {
            let req = Request::builder().uri(path).header(header::HOST, host).body(()).expect("a request");
            domains.names_bucket(&req)
        };
        assert!(
            names("localhost", "/docs") && names("localhost", "/docs/?location") && names("docs.s3.example.org", "/")
        );
        assert!(!names("localhost", "/docs/a") && !names("localhost", "/") && !names("docs.s3.example.org", "/a"));
    }
}
