//! A small S3 client: one HTTP/1.1 connection, SigV4 with `UNSIGNED-PAYLOAD`
//! (AWS General Reference, "Signature Version 4 signing process").

use crate::LoadError;
use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What requests are signed with.
#[derive(Clone)]
pub struct Credentials {
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Region.
    pub region: String,
}

/// A server to connect to.
#[derive(Clone)]
pub struct Endpoint {
    authority: String,
    credentials: Credentials,
}

impl Endpoint {
    /// Parses `http://host:port`.
    pub fn parse(url: &str, credentials: Credentials) -> Result<Endpoint, LoadError> {
        let authority = url.strip_prefix("http://").ok_or_else(|| LoadError::Endpoint(url.to_owned()))?;
        let authority = authority.trim_end_matches('/');
        if authority.is_empty() || authority.contains('/') {
            return Err(LoadError::Endpoint(url.to_owned()));
        }
        let authority = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Endpoint { authority, credentials })
    }

    /// Opens one connection.
    pub async fn connect(&self) -> Result<Connection, LoadError> {
        let failed = |source| LoadError::Connect { address: self.authority.clone(), source };
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) =
            hyper::client::conn::http1::Builder::new().max_buf_size(1 << 20).handshake(TokioIo::new(stream)).await?;
        // The connection's own error reaches the next request as "connection closed".
        tokio::spawn(connection);
        Ok(Connection { sender, endpoint: self.clone() })
    }
}

/// One connection, one request at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    endpoint: Endpoint,
}

impl Connection {
    /// Creates a bucket; one that is already ours is fine.
    pub async fn create_bucket(&mut self, bucket: &str) -> Result<(), LoadError> {
        let path = format!("/{bucket}");
        let response = self.send(Method::PUT, &path, "", Bytes::new(), None).await?;
        if response.status().as_u16() == 409 {
            response.into_body().collect().await?;
            return Ok(());
        }
        self.expect_success(Method::PUT, &path, response).await.map(drop)
    }

    /// Puts an object.
    pub async fn put(&mut self, bucket: &str, key: &str, body: Bytes) -> Result<(), LoadError> {
        let path = format!("/{bucket}/{key}");
        let response = self.send(Method::PUT, &path, "", body, None).await?;
        self.expect_success(Method::PUT, &path, response).await.map(drop)
    }

    /// Gets an object or a range of it, handing each piece to `sink`; returns the length.
    pub async fn get(
        &mut self,
        bucket: &str,
        key: &str,
        range: Option<(u64, u64)>,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<u64, LoadError> {
        let path = format!("/{bucket}/{key}");
        let header = range.map(|(first, last)| format!("bytes={first}-{last}"));
        let response = self.send(Method::GET, &path, "", Bytes::new(), header).await?;
        if !response.status().is_success() {
            return self.expect_success(Method::GET, &path, response).await.map(|_| 0);
        }
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len() as u64;
                sink(&data);
            }
        }
        Ok(length)
    }

    /// Lists up to 1000 keys under `prefix` (ListObjectsV2); returns how many and the token of the next page.
    pub async fn list(
        &mut self,
        bucket: &str,
        prefix: &str,
        token: Option<&str>,
    ) -> Result<(u64, Option<String>), LoadError> {
        let path = format!("/{bucket}");
        let mut query = String::new();
        if let Some(token) = token {
            query.push_str(&format!("continuation-token={}&", uri_encode(token)));
        }
        query.push_str(&format!("list-type=2&prefix={}", uri_encode(prefix)));
        let response = self.send(Method::GET, &path, &query, Bytes::new(), None).await?;
        let body = self.expect_success(Method::GET, &path, response).await?;
        let text = String::from_utf8_lossy(&body);
        let keys = text.matches("<Key>").count() as u64;
        let next = text
            .split_once("<NextContinuationToken>")
            .and_then(|(_, rest)| rest.split_once("</NextContinuationToken>"))
            .map(|(token, _)| token.to_owned());
        Ok((keys, next))
    }

    async fn expect_success(
        &self,
        method: Method,
        path: &str,
        response: Response<Incoming>,
    ) -> Result<Bytes, LoadError> {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(LoadError::Status {
            method: method.to_string(),
            path: path.to_owned(),
            status: status.as_u16(),
            body: String::from_utf8_lossy(&body).chars().take(400).collect(),
        })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: Bytes,
        range: Option<String>,
    ) -> Result<Response<Incoming>, LoadError> {
        let stamp = amz_date(std::time::SystemTime::now());
        let authorization = self.authorization(&method, path, query, &stamp);
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", &self.endpoint.authority)
            .header("x-amz-date", &stamp)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .header("authorization", authorization);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let request = request.body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    fn authorization(&self, method: &Method, path: &str, query: &str, stamp: &str) -> String {
        let credentials = &self.endpoint.credentials;
        let day = &stamp[..8];
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{stamp}\n\n{signed}\nUNSIGNED-PAYLOAD",
            self.endpoint.authority
        );
        let scope = format!("{day}/{}/s3/aws4_request", credentials.region);
        let hashed = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}");
        let mut key = format!("AWS4{}", credentials.secret_key).into_bytes();
        for part in [day, &credentials.region, "s3", "aws4_request"] {
            key = mac(&key, part);
        }
        let signature = hex::encode(mac(&key, &to_sign));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            credentials.access_key
        )
    }
}

fn mac(key: &[u8], message: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes()).as_ref().to_vec()
}

fn uri_encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// `YYYYMMDDTHHMMSSZ`, by the civil-from-days algorithm (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn amz_date(now: std::time::SystemTime) -> String {
    let seconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_civil() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_763_764_925, "20251121T224205Z"),
            (4_107_542_399, "21000228T235959Z"),
        ] {
            assert_eq!(amz_date(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn endpoints_are_checked() {
        let credentials =
            || Credentials { access_key: String::new(), secret_key: String::new(), region: String::new() };
        assert!(Endpoint::parse("http://127.0.0.1:9000/", credentials()).is_ok());
        for bad in ["127.0.0.1:9000", "https://h", "http://", "http://h/path"] {
            assert!(Endpoint::parse(bad, credentials()).is_err(), "{bad}");
        }
    }
}
