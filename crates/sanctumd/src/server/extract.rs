//! Parts of a request, with what is wrong with them told as every other problem.

use api::request::Change;
use api::{Code, Problem};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Failed;
use crate::admin::By;
use crate::peer::Caller;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let Json(body) =
            Json::from_request(request, state)
                .await
                .map_err(|rejection: JsonRejection| {
                    let code = match rejection.status().as_u16() {
                        413 => Code::TooLarge,
                        408 => Code::TimedOut,
                        _ => Code::InvalidRequest,
                    };
                    Problem::new(code, "the request's body cannot be used")
                        .detail(rejection.body_text())
                })?;
        Ok(Self(body))
    }
}

/// Names in the path.
pub(super) struct Names<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Names<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let Path(names) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| {
                Problem::new(Code::InvalidRequest, "the request's path cannot be used")
                    .detail(rejection.body_text())
            })?;
        Ok(Self(names))
    }
}

/// The query string.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| {
                Problem::new(Code::InvalidRequest, "the request's query cannot be used")
                    .detail(rejection.body_text())
            })?;
        Ok(Self(query))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let Params(Change { reason, expect }) = Params::from_request_parts(parts, state).await?;
        let most = api::limits::REASON_BYTES_MAX;
        if reason.as_ref().is_some_and(|reason| reason.len() > most) {
            return Err(Problem::new(
                Code::InvalidRequest,
                format!("the reason is longer than {most} bytes"),
            )
            .next("say it shorter")
            .into());
        }
        // The gate in front of all handlers let the caller in, so there is one.
        let caller = parts
            .extensions
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Problem::new(Code::Forbidden, "the caller is not known"))?;
        Ok(Self {
            caller,
            expect,
            why: reason.filter(|reason| !reason.trim().is_empty()),
        })
    }
}
