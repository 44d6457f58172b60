//! Follows a task of the service to its end, with a bar on a terminal; ctrl-C cancels it.

use std::io::{self, IsTerminal};

use api::request::TaskQuery;
use api::view::{Task, TaskState};
use api::{Client, Code, Problem};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Waits until the task ends. The wait has no bound of its own: the task ends, or a person presses
/// ctrl-C, or the service goes away.
pub(crate) async fn follow(client: &Client, mut task: Task) -> Result<Task, Failure> {
    let bar = bar(&task);
    let mut asked_to_cancel = false;
    while task.state == TaskState::Running {
        bar.set_length(task.total);
        bar.set_position(task.done);
        let query = TaskQuery {
            after: Some(task.version),
        };
        tokio::select! {
            next = client.task(task.id, query) => task = next?,
            interrupt = tokio::signal::ctrl_c(), if !asked_to_cancel => {
                interrupt.map_err(|error| Failure::local("cannot wait for ctrl-C", &error))?;
                asked_to_cancel = true;
                bar.set_message("cancelling");
                task = client.cancel_task(task.id).await?;
            }
        }
    }
    bar.finish_and_clear();
    outcome(task)
}

fn outcome(task: Task) -> Result<Task, Failure> {
    match task.state {
        TaskState::Done | TaskState::Running => Ok(task),
        TaskState::Cancelled => Err(Problem::new(
            Code::Cancelled,
            format!("{}: cancelled; nothing was left behind", task.what),
        )
        .into()),
        TaskState::Failed => Err(task
            .problem
            .unwrap_or_else(|| Problem::new(Code::Internal, format!("{}: failed", task.what)))
            .into()),
    }
}

fn bar(task: &Task) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(task.total), target);
    let template = "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(task.what.clone());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn task(state: TaskState, problem: Option<Problem>) -> Task {
        Task {
            id: 1,
            what: "create image a".to_owned(),
            state,
            done: 0,
            total: 0,
            problem,
            generation: None,
            version: 1,
        }
    }

    #[test]
    fn ends_as_the_task_ended() {
        assert!(outcome(task(TaskState::Done, None)).is_ok());
        let cancelled = outcome(task(TaskState::Cancelled, None)).unwrap_err();
        assert_eq!(
            (cancelled.problem.code, cancelled.exit),
            (Code::Cancelled, Exit::Failed)
        );
        let full = Problem::new(Code::NoSpace, "no space");
        let failed = outcome(task(TaskState::Failed, Some(full.clone()))).unwrap_err();
        assert_eq!(failed.problem, full);
    }
}
