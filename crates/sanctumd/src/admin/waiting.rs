//! What waits: for its turn, for a disk, for the data path, for the end. None of it keeps the
//! workers that serve requests, and all of it but a change has a bound.

use std::sync::Arc;
use std::time::Duration;

use api::{Code, Problem};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::Admin;
use crate::{limits, trouble};

impl Admin {
    /// Runs `work` while no other change runs. A caller that goes away before its turn has come is
    /// out of the queue, which has a bound; what has begun goes on to its end.
    pub(crate) async fn alone<T, F>(
        &self,
        work: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send,
    {
        let waiting = self.0.waiting.try_acquire().map_err(|_| {
            Problem::new(Code::Busy, "too many changes wait for the one under way").next(
                "try again later; where it does not end, see the system log for what the disks do",
            )
        })?;
        let turn = Arc::clone(&self.0.changing).lock_owned().await;
        drop(waiting);
        self.run(turn, work).await
    }

    /// As [`Admin::alone`] for a task, of which there are few: it waits as long as it takes.
    pub(crate) async fn alone_at_last<T, F>(
        &self,
        work: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send,
    {
        let turn = Arc::clone(&self.0.changing).lock_owned().await;
        self.run(turn, work).await
    }

    async fn run<T, F>(
        &self,
        turn: OwnedMutexGuard<()>,
        work: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send,
    {
        let admin = self.clone();
        let work = tokio::spawn(async move {
            let _turn = turn;
            work(admin).await
        });
        work.await.unwrap_or_else(|_| {
            Err(Problem::new(Code::Internal, "the change broke off")
                .next("look at `sanctum settings history` and at the service's log"))
        })
    }

    /// Looks at what lies in the data directory, or at what else takes a while, on a thread that
    /// may wait for it: so many at once, and no longer than a bound. Past it the thread is left
    /// behind, so `work` must not change anything. What it looks at on other disks goes through
    /// [`Admin::paths`]: none of these places is left to those.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.look_for(limits::LOOK_TIME_MAX, work).await
    }

    async fn look_for<T: Send + 'static>(
        &self,
        bound: Duration,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let admin = self.clone();
        let looked = async {
            let place = Arc::clone(&self.0.looking).acquire_owned().await;
            let work = move || {
                let _place = place;
                work(&admin)
            };
            blocking(work).await?
        };
        match timeout(bound, looked).await {
            Ok(looked) => looked,
            Err(_) => Err(Problem::new(
                Code::TimedOut,
                format!(
                    "the disk of the data directory does not answer: nothing came of it in {} s",
                    bound.as_secs()
                ),
            )
            .next("nothing was changed; look at the system log for what the host's disks do")),
        }
    }

    /// Asks something of the data path, on the runtime that its control plane has for itself.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.0.parts.control.spawn(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is given up, and with it the process.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Ends what runs: tasks and a change in progress, then the data path. What does not end is
    /// left behind: the disk of the data directory may not answer while those of the devices do.
    ///
    /// # Errors
    /// What did not end within its bound.
    pub(crate) async fn stop(&self, bounds: StopBounds) -> Result<(), Problem> {
        let changed = timeout(bounds.change, async {
            self.tasks().close().await;
            drop(self.0.changing.lock().await);
        });
        let changed = changed
            .await
            .map_err(|_| not_stopped("a change or a task", bounds.change));
        let service = self.service().clone();
        let stopped = self.ask(async move { service.shutdown().await });
        match timeout(bounds.service, stopped).await {
            Ok(Ok(())) => changed,
            Ok(Err(left)) => Err(trouble::unfinished(&left)),
            Err(_) => Err(not_stopped("the data path", bounds.service)),
        }
    }
}

/// How long the parts of a stop may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopBounds {
    /// Tasks and a change in progress.
    pub(crate) change: Duration,
    /// The data path.
    pub(crate) service: Duration,
}

impl Default for StopBounds {
    fn default() -> Self {
        Self {
            change: limits::CHANGE_END_MAX,
            service: limits::STOP_TIME_MAX,
        }
    }
}

fn not_stopped(what: &str, bound: Duration) -> Problem {
    let text = format!("{what} did not end in {} s", bound.as_secs());
    Problem::new(Code::TimedOut, text).next("look at the system log for what the host's disks do")
}

/// Runs what waits for a disk to its end, where it does not hold up requests. Only for what is held
/// to a number otherwise (a change, of which there is one at a time; tasks) or only computes. All
/// else looks ([`Admin::look`]).
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Problem::new(Code::Internal, "the work broke off").next("see the service's log")
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;
    use std::sync::mpsc::{SyncSender, sync_channel};

    use events::Filter;
    use settings::{Document, Secrets, Store};
    use target::{Options, Service};
    use tokio::runtime::Handle;

    use super::*;
    use crate::admin::{By, Parts};
    use crate::data_dir::DataDir;
    use crate::door::Door;
    use crate::peer::Caller;
    use crate::socket::Socket;

    /// Longer than any wait that ends.
    const BOUND: Duration = Duration::from_secs(60);

    /// A service on an empty document, with all that is around it.
    pub(crate) async fn serving(dir: &Path) -> Admin {
        let events = events::Store::in_memory(events::Options::default());
        serving_with(dir, events).await
    }

    pub(crate) async fn serving_with(dir: &Path, events: events::Store) -> Admin {
        let data_dir = DataDir::make(dir).unwrap();
        let store = Store::open(dir).unwrap();
        let plan = store.propose(Document::default(), &|_| Ok(())).unwrap();
        store.commit(plan, "test", "first").unwrap();
        let options = Options {
            shards: 1,
            pool_bytes_per_shard: 1 << 20,
            ..Options::new(dir)
        };
        let (notices, _) = tokio::sync::mpsc::channel(8);
        let config = Document::default().iscsi;
        let service = Service::start(options, config, target::Secrets::new(), notices);
        let parts = Parts {
            data_dir,
            service: service.await.unwrap(),
            store,
            events,
            door: Door::new(Socket::listen(&dir.join("s")).unwrap()),
            control: Handle::current(),
        };
        Admin::new(parts, Secrets::load(dir).unwrap())
    }

    pub(crate) fn by() -> By {
        let caller = Caller {
            name: "test".to_owned(),
            allowed: true,
        };
        By {
            caller,
            expect: None,
            why: None,
        }
    }

    /// Holds what a change holds while the disk does not answer it, until told to let go. Where the
    /// test is kept from telling, lets go by itself, and the telling fails.
    pub(crate) fn hang(admin: &Admin) -> SyncSender<()> {
        let (let_go, told) = sync_channel(0);
        let (held, is_held) = sync_channel(1);
        let admin = admin.clone();
        std::thread::spawn(move || {
            admin.change_secrets(|_| {
                held.send(()).unwrap();
                let _ = told.recv_timeout(BOUND);
            });
        });
        is_held.recv().unwrap();
        let_go
    }

    #[tokio::test]
    async fn a_stop_is_heard_though_a_change_waits_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let admin = serving(dir.path()).await;
        let hanging = hang(&admin);
        let changing = tokio::spawn({
            let admin = admin.clone();
            let edit = |document: &mut Document| {
                document.service.spin_us += 1;
                Ok(())
            };
            async move { admin.edit(by(), "spin".to_owned(), edit).await }
        });
        while Arc::clone(&admin.0.changing).try_lock_owned().is_ok() {
            tokio::task::yield_now().await;
        }
        admin
            .events()
            .record(events::Draft::info("heard", "test", "x"));
        assert_eq!(admin.events().query(&Filter::default())[0].code, "heard");
        let bounds = StopBounds {
            change: Duration::from_millis(1),
            service: BOUND,
        };
        let stopped = timeout(BOUND, admin.stop(bounds)).await.unwrap();
        assert_eq!(stopped.unwrap_err().code, Code::TimedOut);
        hanging.send(()).expect("somebody waited for the disk");
        // It comes to an end of its own when the disk answers.
        let _ = timeout(BOUND, changing).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn changes_behind_one_that_does_not_end_leave_room_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let admin = serving(dir.path()).await;
        let stuck = Arc::clone(&admin.0.changing).lock_owned().await;
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..limits::CHANGES_WAITING_MAX {
            let admin = admin.clone();
            waiting.spawn(async move { admin.alone(|_| async { Ok(()) }).await });
        }
        while admin.0.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let one_more = timeout(BOUND, admin.alone(|_| async { Ok(()) }));
        assert_eq!(one_more.await.unwrap().unwrap_err().code, Code::Busy);
        drop(stuck);
        let ended = timeout(BOUND, waiting.join_all()).await.unwrap();
        assert!(ended.into_iter().all(|ended| ended.is_ok()));
        admin.alone(|_| async { Ok(()) }).await.unwrap();
        admin.stop(StopBounds::default()).await.unwrap();
    }

    #[tokio::test]
    async fn who_looks_at_a_disk_that_does_not_answer_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let admin = serving(dir.path()).await;
        let mut hanging = Vec::new();
        let bound = Duration::from_millis(1);
        for _ in 0..limits::LOOKING_MAX {
            let (let_go, told) = sync_channel::<()>(0);
            hanging.push(let_go);
            let looked = admin.look_for(bound, move |_| {
                let _ = told.recv_timeout(BOUND);
                Ok(())
            });
            let problem = looked.await.unwrap_err();
            assert_eq!(problem.code, Code::TimedOut);
            assert!(
                problem.what.contains("data directory does not answer"),
                "{problem}"
            );
        }
        // No more than so many threads are left to it.
        let one_more = admin.look_for(bound, |_| Ok(()));
        assert_eq!(one_more.await.unwrap_err().code, Code::TimedOut);
        drop(hanging);
        let looked = admin.look_for(BOUND, |_| Ok(7)).await;
        assert_eq!(looked, Ok(7));
        admin.stop(StopBounds::default()).await.unwrap();
    }
}
