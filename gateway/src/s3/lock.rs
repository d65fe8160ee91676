//! Object Lock: what a bucket keeps by default, and what its versions are kept by. What may be changed is decided by metadata, in the
//! entry that changes it; here requests are read and answers written.

use super::{answer, error, version};
use crate::auth;
use crate::auth::door::{Authorised, Object};
use crate::auth::facts;
use crate::engine::Gateway;
use access::lock::{DefaultError, DefaultRetention, Mode, Period, Retention};
use codec::effect::{RetentionRow, VersionRow};
use http::StatusCode;
use metadata::command::{BucketChange, ChangeVersion, Command, VersionChange};
use metadata::lock::{default_of, default_row, retention_of, retention_row};
use s3s::dto::{
    DefaultRetention as DefaultRetentionDto, GetObjectLegalHoldInput, GetObjectLegalHoldOutput,
    GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput, GetObjectRetentionInput,
    GetObjectRetentionOutput, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold,
    ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, ObjectLockRule,
    PutObjectLegalHoldInput, PutObjectLegalHoldOutput, PutObjectLockConfigurationInput,
    PutObjectLockConfigurationOutput, PutObjectRetentionInput, PutObjectRetentionOutput, Timestamp, TimestampFormat,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use std::sync::Arc;

/// PutObjectLockConfiguration. A bucket that has Object Lock keeps it.
pub async fn put_configuration(
    gateway: &Gateway,
    req: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
    let bucket = auth::bucket(&req)?;
    let configuration = req.input.object_lock_configuration.ok_or_else(|| s3_error!(MalformedXML))?;
    let enabled = configuration.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str);
    if enabled != Some(ObjectLockEnabled::ENABLED) {
        return Err(s3_error!(MalformedXML));
    }
    let default = configuration.rule.map(default).transpose()?;
    let change = BucketChange::Lock(default.map(default_row));
    let meta = gateway.metadata();
    let command = Command::ChangeBucket { bucket: bucket.bucket_id(), change };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput { request_charged: None }))
}

fn default(rule: ObjectLockRule) -> S3Result<DefaultRetention> {
    let default = rule.default_retention.ok_or_else(|| s3_error!(MalformedXML))?;
    let mode = default.mode.as_ref().and_then(|mode| Mode::parse(mode.as_str()));
    let period = Period::new(default.days.map(i64::from), default.years.map(i64::from));
    let period = period.map_err(|fault| match fault {
        DefaultError::Period => s3_error!(MalformedXML),
        DefaultError::Length => error::custom(
            "InvalidRetentionPeriod",
            StatusCode::BAD_REQUEST,
            "Default retention period must be a positive integer value, and at most 100 years.",
        ),
    })?;
    Ok(DefaultRetention { mode: mode.ok_or_else(|| s3_error!(MalformedXML))?, period })
}

/// GetObjectLockConfiguration.
pub fn get_configuration(
    req: &S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let bucket = auth::bucket(req)?;
    if !bucket.lock {
        return Err(error::custom(
            "ObjectLockConfigurationNotFoundError",
            StatusCode::NOT_FOUND,
            "Object Lock configuration does not exist for this bucket",
        ));
    }
    let rule = bucket.default_retention.as_ref().map(|row| {
        let default = default_of(row);
        let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        let (days, years) = match default.period {
            Period::Days(days) => (Some(number(days)), None),
            Period::Years(years) => (None, Some(number(years))),
        };
        let mode = Some(ObjectLockRetentionMode::from_static(default.mode.name()));
        ObjectLockRule { default_retention: Some(DefaultRetentionDto { days, mode, years }) }
    });
    let object_lock_enabled = Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED));
    let configuration = ObjectLockConfiguration { object_lock_enabled, rule };
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }))
}

/// PutObjectRetention. An empty retention takes it away, from whoever may.
pub async fn put_retention(
    gateway: &Gateway,
    req: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let authorised = auth::authorised(&req)?;
    let input = req.input;
    let object = Object { key: &input.key, version_id: input.version_id.as_deref() };
    let new = retention(input.retention.ok_or_else(|| s3_error!(MalformedXML))?)?;
    let said = new.as_ref().map(retention_of);
    authorised
        .settle(|context| {
            if let Some(said) = said {
                let until = jiff::Timestamp::from_millisecond(i64::try_from(said.until_ms).unwrap_or(i64::MAX));
                context.add("s3:object-lock-mode", said.mode.name());
                if let Ok(until) = until.map(|until| until.to_string()) {
                    facts::add_remaining_days(context, &until, super::bucket::now_ms());
                    context.add("s3:object-lock-retain-until-date", until);
                }
            }
        })
        .await?;
    let bypass = authorised.bypasses(object);
    change(gateway, &authorised, object, VersionChange::Retention(new), bypass).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

fn retention(asked: ObjectLockRetention) -> S3Result<Option<RetentionRow>> {
    match (asked.mode, asked.retain_until_date) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => {
            let mode = Mode::parse(mode.as_str()).ok_or_else(|| s3_error!(MalformedXML))?;
            Ok(Some(retention_row(Retention { mode, until_ms: milliseconds(until)? })))
        }
        _ => Err(s3_error!(MalformedXML)),
    }
}

/// PutObjectLegalHold.
pub async fn put_hold(
    gateway: &Gateway,
    req: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
    let authorised = auth::authorised(&req)?;
    let input = req.input;
    let object = Object { key: &input.key, version_id: input.version_id.as_deref() };
    let status = input.legal_hold.and_then(|hold| hold.status).ok_or_else(|| s3_error!(MalformedXML))?;
    let hold = is_on(status.as_str()).ok_or_else(|| s3_error!(MalformedXML))?;
    authorised.settle(|context| context.add("s3:object-lock-legal-hold", status.as_str())).await?;
    change(gateway, &authorised, object, VersionChange::Hold(hold), false).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

fn is_on(status: &str) -> Option<bool> {
    match status {
        ObjectLockLegalHoldStatus::ON => Some(true),
        ObjectLockLegalHoldStatus::OFF => Some(false),
        _ => None,
    }
}

async fn change(
    gateway: &Gateway,
    authorised: &Authorised,
    object: Object<'_>,
    change: VersionChange,
    bypass: bool,
) -> S3Result<()> {
    let bucket = authorised.bucket()?.bucket_id();
    let named = version::command_named(object.version_id)?;
    let change = ChangeVersion { bucket, key: object.key.to_owned(), named, change, bypass, seq: None };
    let meta = gateway.metadata();
    meta.commit(meta.epoch(), Command::ChangeVersion(change)).await.map_err(error::commit)?;
    Ok(())
}

/// GetObjectRetention.
pub async fn get_retention(
    gateway: &Gateway,
    req: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let row = locked_version(gateway, &req, &req.input.key, req.input.version_id.as_deref()).await?;
    let retention = row.retention.as_ref().map(retention_of).ok_or_else(nothing_set)?;
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(retention.mode.name())),
            retain_until_date: Some(answer::timestamp(retention.until_ms)),
        }),
    }))
}

/// GetObjectLegalHold. One that was never set is off.
pub async fn get_hold(
    gateway: &Gateway,
    req: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
    let row = locked_version(gateway, &req, &req.input.key, req.input.version_id.as_deref()).await?;
    Ok(S3Response::new(GetObjectLegalHoldOutput {
        legal_hold: Some(ObjectLockLegalHold { status: Some(status(row.hold)) }),
    }))
}

fn status(hold: bool) -> ObjectLockLegalHoldStatus {
    ObjectLockLegalHoldStatus::from_static(match hold {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    })
}

async fn locked_version<T>(
    gateway: &Gateway,
    req: &S3Request<T>,
    key: &str,
    version_id: Option<&str>,
) -> S3Result<Arc<VersionRow>> {
    let authorised = auth::authorised(req)?;
    let bucket = authorised.bucket()?;
    if !bucket.lock {
        return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
    }
    Ok(version::find(gateway, &bucket, key, version_id, authorised.found()).await?.row)
}

fn nothing_set() -> S3Error {
    error::custom(
        "NoSuchObjectLockConfiguration",
        StatusCode::NOT_FOUND,
        "The specified object does not have a ObjectLock configuration",
    )
}

/// The headers of a new object: `x-amz-object-lock-mode`, `-retain-until-date` and `-legal-hold`. What they mean for the object is
/// decided when it is committed.
pub fn asked(
    mode: Option<&ObjectLockMode>,
    until: Option<Timestamp>,
    hold: Option<&ObjectLockLegalHoldStatus>,
) -> S3Result<(Option<RetentionRow>, bool)> {
    let retention = match (mode, until) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let mode = Mode::parse(mode.as_str());
            let mode = mode.ok_or_else(|| s3_error!(InvalidArgument, "Unknown wormMode directive."))?;
            Some(retention_row(Retention { mode, until_ms: milliseconds(until)? }))
        }
        _ => {
            return Err(s3_error!(
                InvalidArgument,
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
            ));
        }
    };
    let hold = hold.map_or(Some(false), |hold| is_on(hold.as_str()));
    let hold = hold.ok_or_else(|| s3_error!(InvalidArgument, "Legal Hold must be either of 'ON' or 'OFF'"))?;
    Ok((retention, hold))
}

/// What GetObject and HeadObject say of a version's lock, to those who may know.
#[derive(Debug, Default)]
pub struct Shown {
    /// `x-amz-object-lock-mode`.
    pub mode: Option<ObjectLockMode>,
    /// `x-amz-object-lock-retain-until-date`.
    pub until: Option<Timestamp>,
    /// `x-amz-object-lock-legal-hold`.
    pub hold: Option<ObjectLockLegalHoldStatus>,
}

/// The lock of a version, as far as the caller may know of it.
pub fn shown(authorised: &Authorised, object: Object<'_>, row: &VersionRow) -> Shown {
    let mut shown = Shown::default();
    if let Some(retention) = row.retention.as_ref().map(retention_of)
        && authorised.would("s3:GetObjectRetention", object, Some(row))
    {
        shown.mode = Some(ObjectLockMode::from_static(retention.mode.name()));
        shown.until = Some(answer::timestamp(retention.until_ms));
    }
    if row.hold && authorised.would("s3:GetObjectLegalHold", object, Some(row)) {
        shown.hold = Some(status(true));
    }
    shown
}

/// A date that a client names, in milliseconds since the Unix epoch.
///
/// # Errors
/// It lies before the epoch, or further in the future than a number can say.
pub fn milliseconds(timestamp: Timestamp) -> S3Result<u64> {
    let mut text = Vec::new();
    let written = timestamp.format(TimestampFormat::DateTime, &mut text).ok();
    let moment = written.and_then(|()| std::str::from_utf8(&text).ok()?.parse::<jiff::Timestamp>().ok());
    let ms = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
    ms.ok_or_else(|| s3_error!(InvalidArgument, "The date is out of range."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(text: &str) -> Timestamp {
        Timestamp::parse(s3s::dto::TimestampFormat::DateTime, text).expect("a date")
    }

    #[test]
    fn headers_come_together() {
        let mode = ObjectLockMode::from_static(ObjectLockMode::COMPLIANCE);
        let at = || until("2030-01-01T00:00:00Z");
        let (retention, hold) = asked(Some(&mode), Some(at()), None).expect("both");
        assert_eq!((retention.map(|row| (row.mode, row.until_ms)), hold), (Some((2, 1_893_456_000_000)), false));
        assert!(asked(Some(&mode), None, None).is_err() && asked(None, Some(at()), None).is_err());
        assert!(asked(Some(&ObjectLockMode::from("compliance".to_owned())), Some(at()), None).is_err());
        let hold = |text: &str| asked(None, None, Some(&ObjectLockLegalHoldStatus::from(text.to_owned()))).ok();
        assert_eq!((hold("ON"), hold("OFF"), hold("on")), (Some((None, true)), Some((None, false)), None));
        assert_eq!(asked(None, None, None).ok(), Some((None, false)));
    }

    #[test]
    fn a_retention_is_whole_or_empty() {
        let mode = |text: &str| Some(ObjectLockRetentionMode::from(text.to_owned()));
        let of = |mode, retain_until_date| retention(ObjectLockRetention { mode, retain_until_date });
        assert_eq!(of(None, None).ok(), Some(None));
        assert!(of(mode("GOVERNANCE"), Some(until("2030-01-01T00:00:00.5Z"))).is_ok_and(|row| row.is_some()));
        assert!(of(mode("governance"), Some(until("2030-01-01T00:00:00Z"))).is_err());
        assert!(of(mode("GOVERNANCE"), None).is_err() && of(None, Some(until("2030-01-01T00:00:00Z"))).is_err());
        assert!(of(mode("GOVERNANCE"), Some(until("1900-01-01T00:00:00Z"))).is_err());
    }
}
