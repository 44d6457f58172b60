//! `/tasks`

use api::request::TaskQuery;
use api::view::{Task, TaskState};
use axum::Json;
use axum::extract::State;

use super::Answer;
use super::extract::{Names, Params};
use crate::admin::{Admin, By, Deed};

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<Task>> {
    Ok(Json(admin.tasks().list()))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Names(id): Names<u64>,
    Params(query): Params<TaskQuery>,
) -> Answer<Task> {
    Ok(Json(admin.tasks().wait(id, query.after).await?))
}

pub(super) async fn cancel(
    State(admin): State<Admin>,
    Names(id): Names<u64>,
    by: By,
) -> Answer<Task> {
    let task = admin.tasks().cancel(id)?;
    if task.state != TaskState::Running {
        // Nothing was cancelled: it is over.
        return Ok(Json(task));
    }
    let deed = Deed {
        code: "task-cancelled",
        subject: format!("task {id}"),
        what: format!("cancelled: {}", task.what),
    };
    admin.tell_done(&by, &deed, None);
    Ok(Json(task))
}
