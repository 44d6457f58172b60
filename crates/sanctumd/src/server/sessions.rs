//! `/sessions`

use api::view::SessionInfo;
use axum::Json;
use axum::extract::State;

use super::Answer;
use super::extract::Names;
use crate::admin::{Admin, By};
use crate::trouble;

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<SessionInfo>> {
    Ok(Json(admin.service().sessions()))
}

pub(super) async fn end(State(admin): State<Admin>, Names(tsih): Names<u16>, by: By) -> Answer<()> {
    admin
        .service()
        .drop_session(tsih)
        .await
        .map_err(|error| trouble::service(&error))?;
    admin.tell_done(
        &by,
        "session-dropped",
        &format!("session {tsih}"),
        "ended a session",
    );
    Ok(Json(()))
}
