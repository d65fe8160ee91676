//! The admin port's route for fixity reports. It wants the token.

use super::answers::{FixityAnswer, FixityQuestion};
use crate::admin::{AdminState, unavailable};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use metadata::client::LookupError;
use metadata::clock::{Clock, SystemClock};
use metadata::keep::fixity::{self, FixityError, FixityRequest, MAX_PAGE};
use std::sync::Arc;

/// The route.
pub(crate) fn routes() -> Router<Arc<AdminState>> {
    Router::new().route("/v1/fixity", post(page))
}

async fn page(State(state): State<Arc<AdminState>>, Json(question): Json<FixityQuestion>) -> Response {
    let metadata = match state.metadata() {
        Ok(metadata) => metadata,
        Err(stage) => return unavailable(stage),
    };
    let began_ms = question.began_ms.unwrap_or_else(|| SystemClock::default().wall_ms());
    let request = FixityRequest {
        bucket: question.bucket,
        prefix: question.prefix,
        after: question.after.map(Into::into),
        max: question.max.unwrap_or(MAX_PAGE),
        verify_since: question.verify.then_some(began_ms),
    };
    match fixity::page(&metadata, &request).await {
        Ok(page) => Json(FixityAnswer::new(&request.bucket, page, began_ms)).into_response(),
        Err(error) => {
            let status = match &error {
                FixityError::NoBucket(_) => StatusCode::NOT_FOUND,
                FixityError::OtherBucket(_) => StatusCode::CONFLICT,
                FixityError::Lookup(LookupError::Unavailable { .. }) => StatusCode::SERVICE_UNAVAILABLE,
                FixityError::Lookup(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}
