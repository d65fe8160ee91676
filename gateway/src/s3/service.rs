//! The operations that exist. [`OPERATIONS`] and the trait implementation below list the same ones: the list is what
//! [`crate::auth`] lets through, everything else ends there with NotImplemented before a byte of its body is read.

use super::{attributes, bucket, copy, list, multipart, object, unconfigured};
use crate::engine::Gateway;
use async_trait::async_trait;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};
use std::sync::Arc;

/// Names of the implemented operations, as `s3s` names them.
pub const OPERATIONS: [&str; 43] = [
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteBucketEncryption",
    "DeleteObject",
    "DeleteObjects",
    "GetBucketAccelerateConfiguration",
    "GetBucketAcl",
    "GetBucketCors",
    "GetBucketEncryption",
    "GetBucketLifecycleConfiguration",
    "GetBucketLocation",
    "GetBucketLogging",
    "GetBucketNotificationConfiguration",
    "GetBucketOwnershipControls",
    "GetBucketPolicy",
    "GetBucketPolicyStatus",
    "GetBucketReplication",
    "GetBucketRequestPayment",
    "GetBucketTagging",
    "GetBucketVersioning",
    "GetBucketWebsite",
    "GetObject",
    "GetObjectAcl",
    "GetObjectAttributes",
    "GetObjectLockConfiguration",
    "GetObjectTagging",
    "GetPublicAccessBlock",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListMultipartUploads",
    "ListObjectVersions",
    "ListObjects",
    "ListObjectsV2",
    "ListParts",
    "PutBucketEncryption",
    "PutObject",
    "UploadPart",
    "UploadPartCopy",
];

/// The S3 API over an engine.
#[derive(Clone, Debug)]
pub struct Service {
    gateway: Arc<Gateway>,
}

impl Service {
    /// The S3 API over `gateway`.
    pub fn new(gateway: Arc<Gateway>) -> Service {
        Service { gateway }
    }
}

macro_rules! operations {
    ($( $name:ident($input:ident) -> $output:ident = |$gateway:ident, $req:ident| $body:expr; )*) => {
        #[async_trait]
        impl S3 for Service {
            $(
                async fn $name(&self, $req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                    let $gateway = self.gateway.as_ref();
                    $body
                }
            )*
        }
    };
}

operations! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput = |g, req| bucket::create(g, req).await;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = |_g, req| bucket::head(&req);
    list_buckets(ListBucketsInput) -> ListBucketsOutput = |g, req| bucket::list(g, req).await;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = |g, req| bucket::delete(g, req).await;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = |_g, req| bucket::get_location(&req);
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = |_g, req| bucket::get_versioning(&req);
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = |_g, req| bucket::get_encryption(&req);
    put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput =
        |g, req| bucket::put_encryption(g, req).await;
    delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput =
        |g, req| bucket::delete_encryption(g, req).await;

    put_object(PutObjectInput) -> PutObjectOutput = |g, req| object::put(g, req).await;
    get_object(GetObjectInput) -> GetObjectOutput = |g, req| object::get(g, req).await;
    head_object(HeadObjectInput) -> HeadObjectOutput = |g, req| object::head(g, req).await;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = |g, req| object::tagging(g, req).await;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = |g, req| object::delete(g, req).await;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = |g, req| object::delete_many(g, req).await;
    copy_object(CopyObjectInput) -> CopyObjectOutput = |g, req| copy::object(g, req).await;

    list_objects(ListObjectsInput) -> ListObjectsOutput = |g, req| list::objects_v1(g, req).await;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = |g, req| list::objects_v2(g, req).await;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput = |g, req| list::versions(g, req).await;

    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput =
        |g, req| multipart::create(g, req).await;
    upload_part(UploadPartInput) -> UploadPartOutput = |g, req| multipart::put_part(g, req).await;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = |g, req| copy::part(g, req).await;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput =
        |g, req| multipart::complete(g, req).await;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput =
        |g, req| multipart::abort(g, req).await;
    list_parts(ListPartsInput) -> ListPartsOutput = |g, req| list::parts(g, req).await;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = |g, req| list::uploads(g, req).await;

    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = |g, req| attributes::get(g, req).await;

    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = |_g, req| unconfigured::bucket_acl(&req);
    get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = |g, req| unconfigured::object_acl(g, req).await;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput =
        |_g, req| unconfigured::ownership(&req);
    get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput = |_g, req| unconfigured::logging(&req);
    get_bucket_notification_configuration(GetBucketNotificationConfigurationInput)
        -> GetBucketNotificationConfigurationOutput = |_g, req| unconfigured::notifications(&req);
    get_bucket_request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput =
        |_g, req| unconfigured::payer(&req);
    get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput =
        |_g, req| unconfigured::acceleration(&req);
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::TAGS);
    get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::POLICY);
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::POLICY);
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = |_g, req| unconfigured::unset(&req, unconfigured::CORS);
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::LIFECYCLE);
    get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::WEBSITE);
    get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::PUBLIC_ACCESS_BLOCK);
    get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::REPLICATION);
    get_object_lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::OBJECT_LOCK);
}
