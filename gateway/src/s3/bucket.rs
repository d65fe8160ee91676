//! Buckets: create, find, list, delete, and their few settings.

use super::{answer, encryption, error, tags};
use crate::auth;
use crate::auth::door::Authorised;
use crate::engine::Gateway;
use crate::protect::Protection;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use codec::effect::{BucketRow, DefaultEncryptionRow, ProtectionClass, Tag, Versioning};
use codec::level::FormatLevel;
use metadata::client::CommitError;
use metadata::command::{BucketChange, BucketWith, Command, CreateBucket, Refusal};
use s3s::dto::{
    Bucket, BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, CreateBucketInput,
    CreateBucketOutput, DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketEncryptionInput, GetBucketEncryptionOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput, MFADelete, PutBucketEncryptionInput, PutBucketEncryptionOutput,
    PutBucketVersioningInput, PutBucketVersioningOutput, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// The region of a bucket that names none.
pub const DEFAULT_REGION: &str = "us-east-1";
/// Most buckets on a page, and as many without one.
const MAX_BUCKETS: usize = 10_000;

/// CreateBucket. As in S3's oldest region, creating one's own bucket again there is no error; elsewhere it is.
pub async fn create(gateway: &Gateway, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
    let authorised = auth::authorised(&req)?;
    encryption::refuse_on_bucket(&req.headers)?;
    let wanted = req.input.create_bucket_configuration.as_ref().and_then(|of| of.location_constraint.as_ref());
    let wanted = wanted.map(|constraint| constraint.as_str().to_owned());
    authorised
        .settle(|context| {
            if let Some(constraint) = wanted {
                context.add("s3:locationconstraint", constraint);
            }
        })
        .await?;
    let new = authorised.new_bucket(gateway.config().enforced_buckets).await?;
    let signed_region = req.region.as_ref().map_or(DEFAULT_REGION, |region| region.as_str()).to_owned();
    let input = req.input;
    check_new_name(&input.bucket)?;
    let location = location(input.create_bucket_configuration.as_ref())?;
    let tags = new_tags(&authorised, &input)?;
    let lock = input.object_lock_enabled_for_bucket == Some(true);
    let meta = gateway.metadata();
    let command = Command::CreateBucket(CreateBucket {
        name: input.bucket.clone(),
        owner: authorised.caller().signed()?.id.clone(),
        location,
        encrypt: false,
        zstd_level: 0,
        now_ms: now_ms(),
        with: BucketWith { ownership: new.ownership, block: new.block, acl: new.acl.clone(), lock, tags: tags.clone() },
    });
    match meta.commit(meta.epoch(), command).await {
        Ok(_) => {}
        Err(CommitError::Refused(Refusal::BucketOwnedByYou)) if signed_region == DEFAULT_REGION => {
            let there = meta.bucket(&input.bucket).await.map_err(error::lookup)?;
            // It does not get another list, tags, or a lock by being created again: who asked for them would believe that it has.
            let other_tags = |there: &BucketRow| !tags.is_empty() && there.tags != tags;
            let lacks_lock = |there: &BucketRow| lock && !there.lock;
            if there.is_some_and(|there| there.acl != new.acl || other_tags(&there) || lacks_lock(&there)) {
                return Err(error::refused(Refusal::BucketExists));
            }
        }
        Err(refused) => return Err(error::commit(refused)),
    }
    Ok(S3Response::new(CreateBucketOutput { bucket_arn: None, location: Some(format!("/{}", input.bucket)) }))
}

/// Milliseconds since the Unix epoch, for display.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `s3s` has checked the general rules; S3 has these for new buckets besides.
fn check_new_name(name: &str) -> S3Result<()> {
    let reserved = ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
        || ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|suffix| name.ends_with(suffix));
    if reserved || name.contains(".-") || name.contains("-.") {
        return Err(s3_error!(InvalidBucketName, "The specified bucket is not valid."));
    }
    Ok(())
}

fn location(configuration: Option<&CreateBucketConfiguration>) -> S3Result<String> {
    let Some(configuration) = configuration else { return Ok(String::new()) };
    if configuration.bucket.is_some() || configuration.location.is_some() {
        return Err(error::not_implemented("A directory bucket"));
    }
    let name = configuration.location_constraint.as_ref().map_or("", BucketLocationConstraint::as_str);
    let well_formed = name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    // S3 refuses its default region by name, too: no constraint at all means that region.
    if !well_formed || name == DEFAULT_REGION {
        return Err(s3_error!(InvalidLocationConstraint, "The specified location-constraint is not valid"));
    }
    Ok(name.to_owned())
}

/// The tags of a new bucket. S3 asks for the first of these; whoever is denied the second must not come to tags in this way either.
const TAGS_IT: [&str; 2] = ["s3:TagResource", "s3:PutBucketTagging"];

fn new_tags(authorised: &Authorised, input: &CreateBucketInput) -> S3Result<Vec<Tag>> {
    let sent = input.create_bucket_configuration.as_ref().and_then(|of| of.tags.as_deref()).unwrap_or_default();
    if sent.is_empty() {
        return Ok(Vec::new());
    }
    authorised.may_make(&input.bucket, &TAGS_IT)?;
    tags::of_dto(sent, tags::MOST_OF_BUCKET)
}

/// The region that a bucket says it is in.
pub fn region(bucket: &BucketRow) -> String {
    if bucket.location.is_empty() { DEFAULT_REGION.to_owned() } else { bucket.location.clone() }
}

/// HeadBucket.
pub fn head(req: &S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
    let bucket = auth::bucket(req)?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(region(&bucket)), ..HeadBucketOutput::default() }))
}

/// ListBuckets: the caller's own, by name.
pub async fn list(gateway: &Gateway, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
    let caller = auth::caller(&req)?;
    let input = req.input;
    let max = match input.max_buckets {
        None => MAX_BUCKETS,
        Some(asked) => usize::try_from(asked)
            .ok()
            .filter(|n| (1..=MAX_BUCKETS).contains(n))
            .ok_or_else(|| s3_error!(InvalidArgument, "Argument max-buckets must be an integer between 1 and 10000"))?,
    };
    let after = input.continuation_token.as_deref().map(name_of).transpose()?;
    let prefix = input.prefix.clone().unwrap_or_default();
    if !prefix.chars().all(super::request::is_sayable) {
        // The answer would repeat it. No bucket has such a name.
        return Err(s3_error!(InvalidArgument, "The prefix has a control character."));
    }
    let rows = gateway.metadata().buckets(&caller.signed()?.id).await.map_err(error::lookup)?;
    let mut wanted = rows.into_iter().filter(|row| {
        row.name.starts_with(&prefix)
            && after.as_ref().is_none_or(|after| row.name > *after)
            && input.bucket_region.as_ref().is_none_or(|wanted| *wanted == region(row))
    });
    let page: Vec<BucketRow> = wanted.by_ref().take(max).collect();
    let more = wanted.next().is_some();
    let next = page.last().filter(|_| more).map(|row| BASE64.encode(&row.name));
    let paged = input.max_buckets.is_some() || input.prefix.is_some() || input.bucket_region.is_some();
    let buckets = page
        .into_iter()
        .map(|row| Bucket {
            bucket_region: paged.then(|| region(&row)),
            creation_date: Some(answer::timestamp(row.created_ms)),
            name: Some(row.name),
            ..Bucket::default()
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token: next,
        owner: Some(auth::owner(caller.signed()?)),
        prefix: input.prefix,
    }))
}

fn name_of(token: &str) -> S3Result<String> {
    BASE64
        .decode(token)
        .ok()
        .and_then(|raw| String::from_utf8(raw).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

/// DeleteBucket.
pub async fn delete(gateway: &Gateway, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
    let bucket = auth::bucket(&req)?;
    let meta = gateway.metadata();
    let command = Command::DeleteBucket { bucket: bucket.bucket_id() };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

/// GetBucketLocation.
pub fn get_location(req: &S3Request<GetBucketLocationInput>) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let bucket = auth::bucket(req)?;
    let location_constraint = answer::text(&bucket.location).map(BucketLocationConstraint::from);
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

/// GetBucketVersioning. Of a bucket that never kept versions nothing is said.
pub fn get_versioning(req: &S3Request<GetBucketVersioningInput>) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let status = match auth::bucket(req)?.versioning() {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
    };
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
}

/// PutBucketVersioning: it keeps versions from now on, or no more. What it has stays.
pub async fn put_versioning(
    gateway: &Gateway,
    req: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let bucket = auth::bucket(&req)?;
    let asked = req.input.versioning_configuration;
    if asked.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() != MFADelete::DISABLED) {
        return Err(error::not_implemented("MFA delete"));
    }
    let enabled = match asked.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => true,
        Some(BucketVersioningStatus::SUSPENDED) => false,
        _ => {
            return Err(s3_error!(IllegalVersioningConfigurationException, "The versioning configuration is invalid."));
        }
    };
    let meta = gateway.metadata();
    let command = Command::ChangeBucket { bucket: bucket.bucket_id(), change: BucketChange::Versioning(enabled) };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

/// GetBucketEncryption.
pub fn get_encryption(req: &S3Request<GetBucketEncryptionInput>) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
    let bucket = auth::bucket(req)?;
    let (algorithm, key) = match encryption::default_of(&bucket) {
        Protection::Managed => (ServerSideEncryption::AES256, None),
        Protection::Kms(key) => (ServerSideEncryption::AWS_KMS, Some(key)),
        Protection::Plain | Protection::Customer(_) => {
            let mut refused = s3_error!(
                ServerSideEncryptionConfigurationNotFoundError,
                "The server side encryption configuration was not found"
            );
            refused.set_status_code(http::StatusCode::NOT_FOUND);
            return Err(refused);
        }
    };
    let rule = ServerSideEncryptionRule {
        apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
            kms_master_key_id: key,
            sse_algorithm: ServerSideEncryption::from_static(algorithm),
        }),
        bucket_key_enabled: Some(false),
        ..ServerSideEncryptionRule::default()
    };
    Ok(S3Response::new(GetBucketEncryptionOutput {
        server_side_encryption_configuration: Some(ServerSideEncryptionConfiguration { rules: vec![rule] }),
    }))
}

/// PutBucketEncryption: one rule, SSE-S3 or SSE-KMS with a key that is named.
pub async fn put_encryption(
    gateway: &Gateway,
    req: S3Request<PutBucketEncryptionInput>,
) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
    let bucket = auth::bucket(&req)?;
    let [rule] = req.input.server_side_encryption_configuration.rules.as_slice() else {
        return Err(s3_error!(MalformedXML));
    };
    let Some(default) = &rule.apply_server_side_encryption_by_default else {
        return Err(s3_error!(MalformedXML));
    };
    if rule.blocked_encryption_types.is_some() {
        return Err(error::not_implemented("Blocking encryption types"));
    }
    let (algorithm, key) = (default.sse_algorithm.as_str(), default.kms_master_key_id.as_deref());
    let how = encryption::default_asked(algorithm, key, &bucket.owner)?;
    if let Protection::Kms(_) = &how {
        // A key that there is not would be found out by each PUT from now on, and by none before.
        gateway.metadata().domain(&bucket.owner, &how.purpose()).await.map_err(error::commit)?;
    }
    configure(gateway, &bucket, &how).await?;
    Ok(S3Response::new(PutBucketEncryptionOutput {}))
}

/// DeleteBucketEncryption.
pub async fn delete_encryption(
    gateway: &Gateway,
    req: S3Request<DeleteBucketEncryptionInput>,
) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
    let bucket = auth::bucket(&req)?;
    configure(gateway, &bucket, &Protection::Plain).await?;
    Ok(S3Response::new(DeleteBucketEncryptionOutput {}))
}

async fn configure(gateway: &Gateway, bucket: &BucketRow, how: &Protection) -> S3Result<()> {
    let meta = gateway.metadata();
    let default = match how {
        Protection::Kms(key) => Some(DefaultEncryptionRow { class: ProtectionClass::Kms.into(), key: key.clone() }),
        _ => None,
    };
    let (id, encrypt) = (bucket.bucket_id(), matches!(how, Protection::Managed));
    // As it was said before there was another class. Above that level it would leave a key in place that somebody sets meanwhile.
    let command = match meta.level() < FormatLevel::VERSIONS {
        true => Command::ConfigureBucket { bucket: id, encrypt, zstd_level: bucket.zstd_level },
        false => Command::ChangeBucket { bucket: id, change: BucketChange::Encryption { encrypt, default } },
    };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_new_buckets() {
        for bad in ["a.-b", "a-.b", "sthree-x", "x-s3alias", "b--ol-s3"] {
            assert!(check_new_name(bad).is_err(), "{bad}");
        }
        assert!(check_new_name("a.b-c").is_ok());
    }

    #[test]
    fn location_constraints() {
        let of = |name: &str| {
            location(Some(&CreateBucketConfiguration {
                location_constraint: Some(BucketLocationConstraint::from(name.to_owned())),
                ..CreateBucketConfiguration::default()
            }))
        };
        assert_eq!(location(None).ok().as_deref(), Some(""));
        assert_eq!(of("eu-central-1").ok().as_deref(), Some("eu-central-1"));
        assert!(of("us-east-1").is_err());
        assert!(of("no region").is_err());
    }
}
