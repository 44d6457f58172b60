//! Work that takes longer than a request should: numbered, followed, cancelled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use api::view::{Task, TaskState};
use api::{Code, Problem};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::limits;

/// All tasks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    tasks: BTreeMap<u64, Arc<Cell>>,
    closed: bool,
}

#[derive(Debug)]
struct Cell {
    task: watch::Sender<Task>,
    cancelled: AtomicBool,
}

/// A task at work. Dropped without an end: failed.
#[derive(Debug)]
pub(crate) struct Running {
    cell: Arc<Cell>,
    told: Mutex<Option<Instant>>,
}

impl Tasks {
    /// Begins a task.
    ///
    /// # Errors
    /// Too many are at work, or the service is stopping.
    pub(crate) fn begin(&self, what: String, total: u64) -> Result<(Running, Task), Problem> {
        let mut state = self.state.lock();
        let running = state
            .tasks
            .values()
            .filter(|cell| cell.is_running())
            .count();
        if state.closed || running >= limits::TASKS_RUNNING_MAX {
            let (why, next_step) = if state.closed {
                ("the service is stopping", "start the service again")
            } else {
                let why = "too much is being made already";
                (why, "try again a little later")
            };
            return Err(Problem::new(Code::Busy, format!("{what}: {why}")).next(next_step));
        }
        state.last += 1;
        let task = Task {
            id: state.last,
            what,
            state: TaskState::Running,
            done: 0,
            total,
            problem: None,
            generation: None,
            version: 1,
        };
        let cell = Arc::new(Cell {
            task: watch::Sender::new(task.clone()),
            cancelled: AtomicBool::new(false),
        });
        state.tasks.insert(task.id, Arc::clone(&cell));
        state.forget_the_oldest();
        Ok((
            Running {
                cell,
                told: Mutex::new(None),
            },
            task,
        ))
    }

    /// All that are remembered, oldest first.
    pub(crate) fn list(&self) -> Vec<Task> {
        self.state
            .lock()
            .tasks
            .values()
            .map(|cell| cell.task.borrow().clone())
            .collect()
    }

    /// One task; with `after`, once its version is past that or a bound is reached.
    ///
    /// # Errors
    /// There is none of this number.
    pub(crate) async fn wait(&self, id: u64, after: Option<u64>) -> Result<Task, Problem> {
        let mut receiver = self.cell(id)?.task.subscribe();
        let Some(after) = after else {
            return Ok(receiver.borrow().clone());
        };
        let changed =
            receiver.wait_for(|task| task.version > after || task.state != TaskState::Running);
        // At the bound the answer is what there is; the caller asks again.
        let _ = tokio::time::timeout(api::limits::TASK_WAIT_MAX, changed).await;
        Ok(receiver.borrow().clone())
    }

    /// Asks a task to end.
    ///
    /// # Errors
    /// There is none of this number.
    pub(crate) fn cancel(&self, id: u64) -> Result<Task, Problem> {
        let cell = self.cell(id)?;
        cell.cancelled.store(true, Ordering::Relaxed);
        Ok(cell.task.borrow().clone())
    }

    /// No more tasks; asks those at work to end and waits until they have.
    pub(crate) async fn close(&self) {
        let cells: Vec<_> = {
            let mut state = self.state.lock();
            state.closed = true;
            state.tasks.values().cloned().collect()
        };
        for cell in &cells {
            cell.cancelled.store(true, Ordering::Relaxed);
        }
        for cell in cells {
            let mut receiver = cell.task.subscribe();
            // The sender lives in `cell`, so the wait ends with the task.
            let _ = receiver
                .wait_for(|task| task.state != TaskState::Running)
                .await;
        }
    }

    fn cell(&self, id: u64) -> Result<Arc<Cell>, Problem> {
        self.state.lock().tasks.get(&id).cloned().ok_or_else(|| {
            Problem::new(Code::NotFound, format!("there is no task {id}"))
                .next("it ended long ago, or the service was started since")
        })
    }
}

impl State {
    fn forget_the_oldest(&mut self) {
        while self.tasks.len() > limits::TASKS_KEPT {
            let ended = self.tasks.iter().find(|(_, cell)| !cell.is_running());
            let Some((id, _)) = ended else { return };
            let id = *id;
            self.tasks.remove(&id);
        }
    }
}

impl Cell {
    fn is_running(&self) -> bool {
        self.task.borrow().state == TaskState::Running
    }
}

impl Running {
    /// Tells how far the work is; false when it should end.
    pub(crate) fn progress(&self, done: u64, total: u64) -> bool {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= limits::TASK_TELLS) || done == total {
            *told = Some(now());
            self.cell.task.send_modify(|task| {
                task.done = done;
                task.total = total;
                task.version += 1;
            });
        }
        !self.is_cancelled()
    }

    /// Whether the work should end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cell.cancelled.load(Ordering::Relaxed)
    }

    /// Ends the task.
    pub(crate) fn end(self, result: Result<u64, Problem>) {
        self.finish(result);
    }

    fn finish(&self, result: Result<u64, Problem>) {
        self.cell.task.send_modify(|task| {
            task.version += 1;
            match result {
                Ok(generation) => {
                    task.state = TaskState::Done;
                    task.done = task.total;
                    task.generation = Some(generation);
                }
                Err(problem) => {
                    task.state = match problem.code {
                        Code::Cancelled => TaskState::Cancelled,
                        _ => TaskState::Failed,
                    };
                    task.problem = Some(problem);
                }
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.cell.is_running() {
            let problem = Problem::new(Code::Internal, "the work broke off");
            self.finish(Err(problem.next("see the service's log, then repeat")));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the binary's wiring; only paces what is told"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followed_to_its_end() {
        let tasks = Tasks::default();
        let (running, task) = tasks.begin("make a".to_owned(), 100).unwrap();
        let follower = {
            let tasks = tasks.clone();
            tokio::spawn(async move { tasks.wait(task.id, Some(task.version)).await })
        };
        assert!(running.progress(50, 100));
        assert_eq!(follower.await.unwrap().unwrap().done, 50);
        running.end(Ok(7));
        let ended = tasks.wait(task.id, Some(1000)).await.unwrap();
        assert_eq!(
            (ended.state, ended.generation, ended.done),
            (TaskState::Done, Some(7), 100)
        );
    }

    #[tokio::test]
    async fn cancelled_and_dropped() {
        let tasks = Tasks::default();
        let (running, task) = tasks.begin("make a".to_owned(), 100).unwrap();
        tasks.cancel(task.id).unwrap();
        assert!(!running.progress(1, 100));
        running.end(Err(Problem::new(Code::Cancelled, "x")));
        assert_eq!(
            tasks.wait(task.id, None).await.unwrap().state,
            TaskState::Cancelled
        );
        let (running, task) = tasks.begin("make b".to_owned(), 100).unwrap();
        drop(running);
        assert_eq!(
            tasks.wait(task.id, None).await.unwrap().state,
            TaskState::Failed
        );
        assert_eq!(tasks.cancel(99).unwrap_err().code, Code::NotFound);
    }

    #[tokio::test]
    async fn bounded_and_closed() {
        let tasks = Tasks::default();
        let running: Vec<_> = (0..limits::TASKS_RUNNING_MAX)
            .map(|n| tasks.begin(format!("make {n}"), 1).unwrap().0)
            .collect();
        let problem = tasks.begin("one more".to_owned(), 1).unwrap_err();
        assert_eq!(problem.code, Code::Busy);
        assert_eq!(problem.next_step, "try again a little later");
        running.into_iter().for_each(|running| running.end(Ok(1)));
        for n in 0..limits::TASKS_KEPT * 2 {
            tasks.begin(format!("make {n}"), 1).unwrap().0.end(Ok(1));
        }
        assert_eq!(tasks.list().len(), limits::TASKS_KEPT);
        let (running, task) = tasks.begin("last".to_owned(), 1).unwrap();
        let closing = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.close().await }
        });
        while running.progress(0, 1) {
            tokio::task::yield_now().await;
        }
        running.end(Err(Problem::new(Code::Cancelled, "x")));
        closing.await.unwrap();
        assert_eq!(
            tasks.wait(task.id, None).await.unwrap().state,
            TaskState::Cancelled
        );
        let problem = tasks.begin("too late".to_owned(), 1).unwrap_err();
        assert_eq!(problem.code, Code::Busy);
        assert_eq!(problem.next_step, "start the service again");
    }
}
