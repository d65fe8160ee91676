//! The archive: versions of the classes `GLACIER` and `DEEP_ARCHIVE` are read after a restore. Their bytes lie on the drives like all
//! others; what a restore waits for is the next round of the lane that follows the rules of buckets.

use super::{answer, bucket, error, version};
use crate::auth;
use crate::engine::Gateway;
use crate::server::Status;
use access::lifecycle::restore::{Asked, Restore, RestoreError, ask};
use codec::effect::VersionRow;
use codec::id::Lsn;
use http::StatusCode;
use metadata::client::CommitError;
use metadata::command::{ChangeVersion, Command, Named, Refusal, VersionChange};
use metadata::lifecycle::{calendar, class_of, may_read, restore_of, restore_row};
use s3s::dto::{RestoreObjectInput, RestoreObjectOutput, RestoreRequest, RestoreStatus};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// RestoreObject: 202 when it begins, 200 when what was restored stays for longer.
pub async fn restore(
    gateway: &Gateway,
    req: S3Request<RestoreObjectInput>,
) -> S3Result<S3Response<RestoreObjectOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket_row = authorised.bucket()?;
    let input = req.input;
    let days = days(input.restore_request.as_ref())?;
    let found = authorised.found();
    let row = version::find(gateway, &bucket_row, &input.key, input.version_id.as_deref(), found).await?.row;
    let calendar = calendar(gateway.config().lifecycle_day);
    let asked = ask(class_of(&row), restore_of(&row), days, calendar, bucket::now_ms()).map_err(refused)?;
    let (status, to) = match asked {
        Asked::Begins(to) => (StatusCode::ACCEPTED, to),
        Asked::Prolonged(to) => (StatusCode::OK, to),
    };
    let change = VersionChange::Restore { from: row.restore, to: restore_row(to) };
    let named = if row.version_id.is_empty() { Named::Null } else { Named::Id(row.version_id.clone()) };
    let (bucket, seq) = (bucket_row.bucket_id(), Some(Lsn(row.seq)));
    let change = ChangeVersion { bucket, key: input.key, named, change, bypass: false, seq };
    let meta = gateway.metadata();
    match meta.commit(meta.epoch(), Command::ChangeVersion(change)).await {
        Ok(_) => {
            let mut answer = S3Response::new(RestoreObjectOutput::default());
            answer.extensions.insert(Status(status));
            Ok(answer)
        }
        // Somebody else asked at the same time.
        Err(CommitError::Refused(Refusal::PreconditionFailed)) => Err(refused(RestoreError::Ongoing)),
        Err(failed) => Err(error::commit(failed)),
    }
}

fn days(request: Option<&RestoreRequest>) -> S3Result<u32> {
    let request = request.ok_or_else(|| s3_error!(MalformedXML))?;
    if request.output_location.is_some() || request.select_parameters.is_some() || request.type_.is_some() {
        return Err(error::not_implemented("Selecting from an archived object"));
    }
    let days = request.days.ok_or_else(|| s3_error!(MalformedXML))?;
    u32::try_from(days).map_err(|_| refused(RestoreError::Days))
}

fn refused(refused: RestoreError) -> S3Error {
    match refused {
        RestoreError::NotArchived => error::custom(
            "InvalidObjectState",
            StatusCode::FORBIDDEN,
            "Restore is not allowed for the object's current storage class",
        ),
        RestoreError::Ongoing => {
            error::custom("RestoreAlreadyInProgress", StatusCode::CONFLICT, "Object restore is already in progress")
        }
        RestoreError::Days => s3_error!(InvalidArgument, "{refused}"),
    }
}

/// Refuses to read or copy a version that lies in the archive.
pub fn check_read(row: &VersionRow) -> S3Result<()> {
    may_read(row, bucket::now_ms()).map_err(|_| {
        error::custom(
            "InvalidObjectState",
            StatusCode::FORBIDDEN,
            "The operation is not valid for the object's storage class",
        )
    })
}

/// What a listing says of a restore; `None` where nothing was restored, or is no more.
pub fn listed(row: &VersionRow) -> Option<RestoreStatus> {
    let (ongoing, until) = match restore_of(row) {
        Restore::Ongoing { .. } => (true, None),
        Restore::Until { ms } if bucket::now_ms() < ms => (false, Some(answer::timestamp(ms))),
        Restore::No | Restore::Until { .. } => return None,
    };
    Some(RestoreStatus { is_restore_in_progress: Some(ongoing), restore_expiry_date: until })
}

/// `x-amz-restore`: the same as listings say.
pub fn shown(row: &VersionRow) -> Option<String> {
    Some(match listed(row)?.restore_expiry_date {
        None => "ongoing-request=\"true\"".to_owned(),
        Some(until) => format!("ongoing-request=\"false\", expiry-date=\"{}\"", answer::http_date_of(&until)?),
    })
}
