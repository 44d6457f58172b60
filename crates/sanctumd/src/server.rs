//! The management API on its socket: connections, limits, routes. One module for each resource.

mod access;
mod chap;
mod devices;
mod discovery;
mod document;
mod events;
mod extract;
mod luns;
mod places;
mod portals;
mod sessions;
mod status;
mod targets;
mod tasks;
#[cfg(test)]
mod tests;

use std::os::unix::net::UnixListener as StdListener;

use api::{Code, Problem};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::admin::Admin;
use crate::limits;
use crate::peer::{Caller, Peer};
use places::Places;

/// A problem as an answer.
#[derive(Debug)]
pub(crate) struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = axum::http::StatusCode::from_u16(self.0.code.status())
            .unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// What a handler gives.
type Answer<T> = Result<Json<T>, Failed>;

/// What was looked for by its name. `noun` is the command line's word for its kind.
fn named<T>(found: Option<T>, noun: &str, what: &str) -> Result<T, Problem> {
    found.ok_or_else(|| {
        Problem::new(Code::NotFound, format!("there is no {what}"))
            .next(format!("list what there is: sanctum {noun} list"))
    })
}

/// Refuses a second thing of a name.
fn fresh(taken: bool, what: &str, next_step: &str) -> Result<(), Problem> {
    if !taken {
        return Ok(());
    }
    let what = format!("{what} exists already");
    Err(Problem::new(Code::AlreadyExists, what).next(next_step))
}

fn router(admin: Admin) -> Router {
    let v1 = Router::new()
        .route("/status", get(status::show))
        .route("/targets", get(targets::list).post(targets::add))
        .route(
            "/targets/{name}",
            get(targets::show)
                .patch(targets::change)
                .delete(targets::remove),
        )
        .route("/targets/{name}/luns", post(luns::add))
        .route(
            "/targets/{name}/luns/{number}",
            patch(luns::change).delete(luns::remove),
        )
        .route(
            "/targets/{name}/access",
            get(access::list).post(access::add),
        )
        .route("/targets/{name}/access/{position}", delete(access::remove))
        .route(
            "/targets/{name}/access/{position}/move",
            post(access::shift),
        )
        .route("/devices", get(devices::list).post(devices::add))
        .route(
            "/devices/{name}",
            get(devices::show)
                .patch(devices::change)
                .delete(devices::remove),
        )
        .route("/devices/{name}/load", post(devices::load))
        .route("/devices/{name}/eject", post(devices::eject))
        .route(
            "/devices/{name}/reservations",
            delete(devices::clear_reservations),
        )
        .route("/portals", get(portals::list).post(portals::add))
        .route(
            "/portals/{name}",
            patch(portals::change).delete(portals::remove),
        )
        .route("/chap", get(chap::list).post(chap::add))
        .route("/chap/{user}", delete(chap::remove))
        .route("/chap/{user}/secret", put(chap::set_secret))
        .route("/discovery", get(discovery::show).put(discovery::set))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{tsih}", delete(sessions::end))
        .route("/events", get(events::list))
        .route("/events/next", get(events::next))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::show).delete(tasks::cancel))
        .layer(DefaultBodyLimit::max(api::limits::BODY_BYTES_MAX));
    Router::new()
        .nest(api::PREFIX, v1.merge(settings_routes()))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn(only_the_allowed))
        .with_state(admin)
}

/// The document as a whole; where one comes in, a body may be as large as one.
fn settings_routes() -> Router<Admin> {
    Router::new()
        .route("/settings", get(document::show))
        .route("/settings/export", post(document::export))
        .route("/settings/history", get(document::history))
        .route(
            "/settings/history/{generation}",
            get(document::of_generation),
        )
        .route("/settings/rollback", post(document::roll_back))
        .layer(DefaultBodyLimit::max(api::limits::BODY_BYTES_MAX))
        .route("/settings/diff", post(document::diff))
        .route("/settings/apply", post(document::apply))
        .layer(DefaultBodyLimit::max(api::limits::SETTINGS_BODY_BYTES_MAX))
}

async fn unknown_path(request: Request) -> Failed {
    Problem::new(
        Code::NotFound,
        format!("there is no {} in this API", request.uri().path()),
    )
    .next("check that client and service are of the same version")
    .into()
}

async fn unknown_method(request: Request) -> Failed {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(Code::MethodNotAllowed, format!("{path} knows no {method}"))
        .next("check that client and service are of the same version")
        .into()
}

/// Nothing is answered to who may not use the socket, not even which paths there are.
async fn only_the_allowed(request: Request, next: Next) -> Result<Response, Failed> {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.allowed => Ok(next.run(request).await),
        caller => {
            let name = caller.map_or("an unknown user", |caller| caller.name.as_str());
            tracing::warn!(user = name, "refused on the management socket");
            Err(
                Problem::new(Code::Forbidden, format!("{name} may not use this service"))
                    .next("use sudo, or become a member of the group that service.api_group names")
                    .into(),
            )
        }
    }
}

/// The answer comes in time; a change that was begun goes on to its end.
async fn in_time(request: Request, next: Next) -> Result<Response, Failed> {
    tokio::time::timeout(api::limits::REQUEST_TIME_MAX, next.run(request))
        .await
        .map_err(|_| {
            Problem::new(
                Code::TimedOut,
                format!(
                    "the work did not end within {} s",
                    api::limits::REQUEST_TIME_MAX.as_secs()
                ),
            )
            .next("it may still end well: look at `sanctum settings history` before repeating it")
            .into()
        })
}

/// Serves requests until `stop` is set; then lets those at work end, within a bound.
pub(crate) async fn serve(
    admin: Admin,
    listener: StdListener,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let router = router(admin.clone());
    let places = Places::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = next(&places, &listener) => accepted,
            Some(_) = connections.join_next() => continue,
            () = told_to_stop(&mut stop) => break,
        };
        let (free, stream) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: those in use come back when their connections end.
                tracing::warn!(%error, "cannot accept on the management socket");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = Peer::of(&stream);
        let Some(place) = places.take(free, peer) else {
            tracing::debug!(
                ?peer,
                "a user has too many connections to the management socket"
            );
            continue;
        };
        let (admin, router, stop) = (admin.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            connection(stream, peer, admin, router, stop).await;
            drop(place);
        });
    }
    let ended = tokio::time::timeout(limits::REQUESTS_END_MAX, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!("requests on the management socket were cut off");
    }
    Ok(())
}

/// Ends when the service stops, or when nobody is left to say so.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The next connection, once there is a place for it.
async fn next(
    places: &Places,
    listener: &UnixListener,
) -> std::io::Result<(OwnedSemaphorePermit, UnixStream)> {
    let free = places.free().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((free, stream))
}

async fn connection(
    stream: UnixStream,
    peer: Option<Peer>,
    admin: Admin,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let (admin, router) = (admin.clone(), router.clone());
        async move {
            if let Some(peer) = peer {
                let caller = admin.door().caller(peer).await;
                request.extensions_mut().insert(caller);
            }
            router.oneshot(request.map(Body::new)).await
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME_MAX)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told_to_stop(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection on the management socket ended badly");
    }
}
