//! `/events`

use api::request::EventQuery;
use api::view::NextEvents;
use api::{Code, Problem};
use axum::Json;
use axum::extract::State;
use events::Delivery;

use super::Answer;
use super::extract::Params;
use crate::admin::Admin;

pub(super) async fn list(
    State(admin): State<Admin>,
    Params(query): Params<EventQuery>,
) -> Answer<Vec<events::Event>> {
    Ok(Json(admin.events().query(&bounded(query))))
}

/// Waits for events after a number; without one, for what comes from now on. Answers with what
/// there is once something is there, or with nothing at a bound.
pub(super) async fn next(
    State(admin): State<Admin>,
    Params(query): Params<EventQuery>,
) -> Answer<NextEvents> {
    let query = bounded(query);
    let mut followed = admin.events().subscribe(query.since_id).map_err(|error| {
        Problem::new(Code::Busy, error.to_string()).next("try again a little later")
    })?;
    let mut answer = NextEvents {
        events: Vec::new(),
        last_id: followed.last_id(),
        missed: 0,
    };
    let most = query.limit.unwrap_or(api::limits::EVENTS_PER_PAGE_MAX);
    let gather = async {
        loop {
            let delivery = match followed.try_next() {
                Some(delivery) => delivery,
                None if answer.events.is_empty() && answer.missed == 0 => followed.next().await,
                None => return,
            };
            match delivery {
                Delivery::Event(event) => {
                    answer.last_id = event.id;
                    if query.matches(&event) {
                        answer.events.push(*event);
                    }
                }
                Delivery::Lagged { missed } => {
                    answer.missed += missed;
                    answer.last_id += missed;
                }
                Delivery::Closed => return,
            }
            if answer.events.len() >= most {
                return;
            }
        }
    };
    // At the bound the answer is what there is; the caller asks again after its last number.
    let _ = tokio::time::timeout(api::limits::EVENT_WAIT_MAX, gather).await;
    Ok(Json(answer))
}

fn bounded(mut query: EventQuery) -> EventQuery {
    query.limit = query
        .limit
        .map(|limit| limit.clamp(1, api::limits::EVENTS_PER_PAGE_MAX));
    query
}
