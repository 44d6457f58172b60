//! Parts of a request, with what is wrong with them told as every other problem.

use std::time::Duration;

use api::request::Change;
use api::{Code, Problem};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Failed;
use crate::admin::By;
use crate::limits;
use crate::peer::Caller;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        Ok(Self(body(request, state, limits::BODY_TIME_MAX).await?))
    }
}

async fn body<T: DeserializeOwned>(
    request: Request,
    state: &(impl Send + Sync),
    bound: Duration,
) -> Result<T, Problem> {
    let arrived = tokio::time::timeout(bound, Json::from_request(request, state));
    let arrived = arrived.await.map_err(|_| {
        let what = format!(
            "the request's body did not arrive within {} s",
            bound.as_secs()
        );
        Problem::new(Code::TimedOut, what).next("send it without a pause")
    })?;
    let Json(body) = arrived.map_err(|rejection: JsonRejection| {
        let code = match rejection.status().as_u16() {
            413 => Code::TooLarge,
            408 => Code::TimedOut,
            _ => Code::InvalidRequest,
        };
        Problem::new(code, "the request's body cannot be used").detail(rejection.body_text())
    })?;
    Ok(body)
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::{Body as Content, Bytes, HttpBody};
    use hyper::body::Frame;

    use super::*;

    /// A body that makes no headway.
    struct Never;

    impl HttpBody for Never {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let request = |content| {
            Request::post("/")
                .header("content-type", "application/json")
                .body(content)
                .unwrap()
        };
        let never = request(Content::new(Never));
        let problem = body::<u32>(never, &(), Duration::from_millis(1))
            .await
            .unwrap_err();
        assert_eq!(problem.code, Code::TimedOut);
        let whole = request(Content::from("7"));
        assert_eq!(body(whole, &(), limits::BODY_TIME_MAX).await, Ok(7));
    }
}
