//! The operations that exist. [`super::support::OPERATIONS`] and the trait implementation below list the same ones (a test
//! compares): that table is what [`crate::auth`] lets through, everything else ends there with NotImplemented before a byte of
//! its body is read.

use super::{
    acl, archive, attributes, bucket, bucket_tags, copy, cors, delete, error, inventory, lifecycle, list, lock,
    logging, multipart, notification, object, policy, public_access, tagging, unconfigured,
};
use crate::auth;
use crate::engine::Gateway;
use async_trait::async_trait;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};
use std::sync::Arc;

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
                    let authorised = auth::authorised(&$req)?;
                    let $gateway = self.gateway.as_ref();
                    let answered: S3Result<S3Response<$output>> = $body;
                    answered.map_err(|failed| error::sayable(authorised.shield(failed)))
                }
            )*
        }

        #[cfg(test)]
        const IMPLEMENTED: &[&str] = &[$( stringify!($name) ),*];
    };
}

operations! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput = |g, req| bucket::create(g, req).await;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = |_g, req| bucket::head(&req);
    list_buckets(ListBucketsInput) -> ListBucketsOutput = |g, req| bucket::list(g, req).await;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = |g, req| bucket::delete(g, req).await;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = |_g, req| bucket::get_location(&req);
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = |_g, req| bucket::get_versioning(&req);
    put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput =
        |g, req| bucket::put_versioning(g, req).await;
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = |_g, req| bucket::get_encryption(&req);
    put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput =
        |g, req| bucket::put_encryption(g, req).await;
    delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput =
        |g, req| bucket::delete_encryption(g, req).await;

    put_object(PutObjectInput) -> PutObjectOutput = |g, req| object::put(g, req).await;
    get_object(GetObjectInput) -> GetObjectOutput = |g, req| object::get(g, req).await;
    head_object(HeadObjectInput) -> HeadObjectOutput = |g, req| object::head(g, req).await;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = |g, req| tagging::get(g, req).await;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = |g, req| tagging::put(g, req).await;
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = |g, req| tagging::delete(g, req).await;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = |g, req| delete::one(g, req).await;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = |g, req| delete::many(g, req).await;
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

    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = |_g, req| acl::get_bucket(req).await;
    put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = |g, req| acl::put_bucket(g, req).await;
    get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = |g, req| acl::get_object(g, req).await;
    put_object_acl(PutObjectAclInput) -> PutObjectAclOutput = |g, req| acl::put_object(g, req).await;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput =
        |_g, req| public_access::get_ownership(&req);
    put_bucket_ownership_controls(PutBucketOwnershipControlsInput) -> PutBucketOwnershipControlsOutput =
        |g, req| public_access::put_ownership(g, req).await;
    delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput) -> DeleteBucketOwnershipControlsOutput =
        |g, req| public_access::delete_ownership(g, req).await;
    get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput =
        |_g, req| public_access::get_block(&req);
    put_public_access_block(PutPublicAccessBlockInput) -> PutPublicAccessBlockOutput =
        |g, req| public_access::put_block(g, req).await;
    delete_public_access_block(DeletePublicAccessBlockInput) -> DeletePublicAccessBlockOutput =
        |g, req| public_access::delete_block(g, req).await;
    get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = |g, req| policy::get(g, req).await;
    put_bucket_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput = |g, req| policy::put(g, req).await;
    delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput = |g, req| policy::delete(g, req).await;
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput =
        |_g, req| policy::status(&req);
    get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput = |g, req| logging::get(g, req).await;
    put_bucket_logging(PutBucketLoggingInput) -> PutBucketLoggingOutput = |g, req| logging::put(g, req).await;
    get_bucket_inventory_configuration(GetBucketInventoryConfigurationInput) -> GetBucketInventoryConfigurationOutput =
        |g, req| inventory::get(g, req).await;
    put_bucket_inventory_configuration(PutBucketInventoryConfigurationInput) -> PutBucketInventoryConfigurationOutput =
        |g, req| inventory::put(g, req).await;
    delete_bucket_inventory_configuration(DeleteBucketInventoryConfigurationInput)
        -> DeleteBucketInventoryConfigurationOutput = |g, req| inventory::delete(g, req).await;
    list_bucket_inventory_configurations(ListBucketInventoryConfigurationsInput)
        -> ListBucketInventoryConfigurationsOutput = |g, req| inventory::list(g, req).await;
    get_bucket_notification_configuration(GetBucketNotificationConfigurationInput)
        -> GetBucketNotificationConfigurationOutput = |g, req| notification::get(g, req).await;
    put_bucket_notification_configuration(PutBucketNotificationConfigurationInput)
        -> PutBucketNotificationConfigurationOutput = |g, req| notification::put(g, req).await;
    get_bucket_request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput =
        |_g, req| unconfigured::payer(&req);
    put_bucket_request_payment(PutBucketRequestPaymentInput) -> PutBucketRequestPaymentOutput =
        |_g, req| unconfigured::put_payer(&req);
    get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput =
        |_g, req| unconfigured::acceleration(&req);
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = |_g, req| bucket_tags::get(&req);
    put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput = |g, req| bucket_tags::put(g, req).await;
    delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput =
        |g, req| bucket_tags::delete(g, req).await;
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = |g, req| cors::get(g, req).await;
    put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput = |g, req| cors::put(g, req).await;
    delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput = |g, req| cors::delete(g, req).await;
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput =
        |g, req| lifecycle::get(g, req).await;
    put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput) -> PutBucketLifecycleConfigurationOutput =
        |g, req| lifecycle::put(g, req).await;
    delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput =
        |g, req| lifecycle::delete(g, req).await;
    get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::WEBSITE);
    get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput =
        |_g, req| unconfigured::unset(&req, unconfigured::REPLICATION);
    get_object_lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput =
        |_g, req| lock::get_configuration(&req);
    put_object_lock_configuration(PutObjectLockConfigurationInput) -> PutObjectLockConfigurationOutput =
        |g, req| lock::put_configuration(g, req).await;
    get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput = |g, req| lock::get_retention(g, req).await;
    put_object_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput = |g, req| lock::put_retention(g, req).await;
    get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput = |g, req| lock::get_hold(g, req).await;
    put_object_legal_hold(PutObjectLegalHoldInput) -> PutObjectLegalHoldOutput = |g, req| lock::put_hold(g, req).await;
    restore_object(RestoreObjectInput) -> RestoreObjectOutput = |g, req| archive::restore(g, req).await;
}

#[cfg(test)]
mod tests {
    use super::super::support;
    use super::IMPLEMENTED;
    use std::collections::BTreeSet;

    /// The name of an operation as its method: `ListObjectsV2` is `list_objects_v2`.
    fn method(operation: &str) -> String {
        let mut name = String::new();
        for (n, letter) in operation.chars().enumerate() {
            if n > 0 && letter.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    #[test]
    fn what_is_called_supported_is_implemented_and_the_reverse() {
        let supported: BTreeSet<String> = support::supported().map(method).collect();
        let implemented: BTreeSet<String> = IMPLEMENTED.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(supported, implemented);
    }
}
