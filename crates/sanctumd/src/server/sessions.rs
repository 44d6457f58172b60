//! `/sessions`

use api::view::SessionInfo;
use axum::Json;
use axum::extract::State;
use target::Service;

use super::Answer;
use super::extract::Names;
use crate::admin::{Admin, By, Deed};

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<SessionInfo>> {
    Ok(Json(admin.service().sessions()))
}

pub(super) async fn end(State(admin): State<Admin>, Names(tsih): Names<u16>, by: By) -> Answer<()> {
    let deed = Deed {
        code: "session-dropped",
        subject: format!("session {tsih}"),
        what: "ended a session".to_owned(),
    };
    let drop = move |service: Service| async move { service.drop_session(tsih).await };
    Ok(Json(admin.act(by, deed, drop).await?))
}
