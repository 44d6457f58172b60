//! `/events`

use api::request::EventQuery;
use axum::Json;
use axum::extract::State;

use super::Answer;
use super::extract::Params;
use crate::admin::Admin;

pub(super) async fn list(
    State(admin): State<Admin>,
    Params(mut query): Params<EventQuery>,
) -> Answer<Vec<events::Event>> {
    query.limit = query
        .limit
        .map(|limit| limit.min(api::limits::EVENTS_PER_PAGE_MAX));
    Ok(Json(admin.events().query(&query)))
}
