//! PutBucketCors, GetBucketCors, DeleteBucketCors. What the rules do to answers is `server::cors`' business.

use super::{error, unconfigured};
use crate::auth;
use crate::configs;
use crate::engine::Gateway;
use access::cors::{CorsError, Rule, check};
use codec::effect::ConfigKind;
use s3s::dto::{
    CORSConfiguration, CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput, GetBucketCorsInput,
    GetBucketCorsOutput, PutBucketCorsInput, PutBucketCorsOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, StdError, s3_error};

/// S3's limit for the configuration, in bytes.
const MAX_CONFIGURATION: usize = 64 << 10;

/// PutBucketCors.
pub async fn put(gateway: &Gateway, req: S3Request<PutBucketCorsInput>) -> S3Result<S3Response<PutBucketCorsOutput>> {
    let bucket = auth::bucket(&req)?;
    let configuration = req.input.cors_configuration;
    check(&rules(&configuration)?).map_err(|refused| wrong(&refused))?;
    let body = configs::to_xml(&configuration)?;
    if body.len() > MAX_CONFIGURATION {
        return Err(s3_error!(MalformedXML));
    }
    configs::put(gateway.metadata().as_ref(), &bucket, ConfigKind::Cors, "", body).await?;
    Ok(S3Response::new(PutBucketCorsOutput {}))
}

/// GetBucketCors.
pub async fn get(gateway: &Gateway, req: S3Request<GetBucketCorsInput>) -> S3Result<S3Response<GetBucketCorsOutput>> {
    let bucket = auth::bucket(&req)?;
    let kept = configs::read(gateway.metadata().as_ref(), &bucket, ConfigKind::Cors, "").await?;
    let Some(kept) = kept else { return unconfigured::unset(&req, unconfigured::CORS) };
    let configuration: CORSConfiguration = configs::of_xml(&kept).map_err(|fault| error::internal(&fault))?;
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(configuration.cors_rules) }))
}

/// DeleteBucketCors.
pub async fn delete(
    gateway: &Gateway,
    req: S3Request<DeleteBucketCorsInput>,
) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
    let bucket = auth::bucket(&req)?;
    configs::delete(gateway.metadata().as_ref(), &bucket, ConfigKind::Cors, "").await?;
    Ok(S3Response::new(DeleteBucketCorsOutput {}))
}

/// The rules of a configuration that is kept.
pub fn kept(text: &[u8]) -> Result<Vec<Rule>, StdError> {
    let configuration: CORSConfiguration = configs::of_xml(text)?;
    Ok(rules(&configuration)?)
}

fn rules(configuration: &CORSConfiguration) -> S3Result<Vec<Rule>> {
    configuration.cors_rules.iter().map(rule).collect()
}

fn rule(sent: &CORSRule) -> S3Result<Rule> {
    let max_age_seconds = sent.max_age_seconds.map(u32::try_from).transpose();
    Ok(Rule {
        id: sent.id.clone().unwrap_or_default(),
        origins: sent.allowed_origins.clone(),
        methods: sent.allowed_methods.clone(),
        headers: sent.allowed_headers.clone().unwrap_or_default(),
        expose: sent.expose_headers.clone().unwrap_or_default(),
        max_age_seconds: max_age_seconds.map_err(|_| s3_error!(MalformedXML))?,
    })
}

fn wrong(refused: &CorsError) -> S3Error {
    match refused {
        CorsError::Rules | CorsError::Lists => s3_error!(MalformedXML),
        CorsError::Method(_) | CorsError::Wildcards { .. } | CorsError::Characters { .. } | CorsError::Expose(_) => {
            s3_error!(InvalidRequest, "{refused}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_sent() {
        let sent = CORSConfiguration {
            cors_rules: vec![
                CORSRule {
                    allowed_headers: Some(vec!["*".into()]),
                    allowed_methods: vec!["GET".into(), "PUT".into()],
                    allowed_origins: vec!["https://a&b".into(), "*".into()],
                    expose_headers: Some(vec!["etag".into()]),
                    id: Some("<one>".into()),
                    max_age_seconds: Some(60),
                },
                CORSRule {
                    allowed_headers: None,
                    allowed_methods: vec!["HEAD".into()],
                    allowed_origins: vec!["x".into()],
                    expose_headers: None,
                    id: None,
                    max_age_seconds: None,
                },
            ],
        };
        let text = configs::to_xml(&sent).expect("XML");
        let back: CORSConfiguration = configs::of_xml(&text).expect("what was written");
        assert_eq!(back.cors_rules, sent.cors_rules);
        assert_eq!(kept(&text).expect("rules"), rules(&sent).expect("rules"));
        assert!(kept(b"<CORSConfiguration><CORSRule/></CORSConfiguration>").is_err() && kept(b"").is_err());
    }
}
