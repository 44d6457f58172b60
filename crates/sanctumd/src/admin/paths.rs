//! Looks at what lies at a path that a request or a document names: on any disk, and so perhaps on
//! one that does not answer.
//!
//! Each look has a thread of its own and a bound, within that of what it is a part of
//! ([`limits::LOOK_TIME_MAX`]). A thread that is left behind holds one of the places for paths,
//! and none of those that other changes need; what lies in the same directory is not looked at
//! until it has come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use api::{Code, Problem};
use parking_lot::Mutex;

use crate::limits;

/// What looks at paths. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    looks: Vec<Look>,
}

#[derive(Debug)]
struct Look {
    number: u64,
    directory: PathBuf,
    /// Nobody waits for it any more.
    late: bool,
}

/// Holds the place of a look; with the thread that looks.
struct Place {
    paths: Paths,
    number: u64,
}

impl Paths {
    /// Looks at a path, on a thread that may wait for its disk; waits for it, up to a bound.
    ///
    /// # Errors
    /// The disk does not answer, or too many disks do not.
    pub(crate) fn look<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.look_for(limits::PATH_TIME_MAX, path, work)
    }

    fn look_for<T: Send + 'static>(
        &self,
        bound: Duration,
        path: &Path,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.place(path)?;
        let number = place.number;
        let (tell, told) = sync_channel(1);
        let of = path.to_owned();
        let looking = std::thread::Builder::new().name("path".to_owned());
        let looking = looking.spawn(move || {
            let seen = work(&of);
            // Before it is told: who looks again at once finds it free.
            drop(place);
            let _ = tell.send(seen);
        });
        looking.map_err(|error| {
            let what = format!("{} cannot be looked at: {error}", path.display());
            Problem::new(Code::Internal, what).next("look at the host's limits of threads")
        })?;
        match told.recv_timeout(bound) {
            Ok(seen) => Ok(seen),
            Err(RecvTimeoutError::Timeout) => {
                self.leave(number);
                Err(silent(path))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let what = format!("the look at {} broke off", path.display());
                Err(Problem::new(Code::Internal, what).next("see the service's log"))
            }
        }
    }

    fn place(&self, path: &Path) -> Result<Place, Problem> {
        let directory = path.parent().unwrap_or(path).to_owned();
        let mut state = self.0.lock();
        let late = |look: &Look| look.late && look.directory == directory;
        if state.looks.iter().any(late) {
            return Err(silent(path));
        }
        if state.looks.len() >= limits::PATHS_MAX {
            let what = format!(
                "{} cannot be looked at: {} disks or more do not answer",
                path.display(),
                state.looks.len()
            );
            return Err(Problem::new(Code::Busy, what)
                .next("see the system log for what the disks do, and try again when they answer"));
        }
        state.last += 1;
        let number = state.last;
        state.looks.push(Look {
            number,
            directory,
            late: false,
        });
        Ok(Place {
            paths: self.clone(),
            number,
        })
    }

    /// Leaves a look behind.
    fn leave(&self, number: u64) {
        let mut state = self.0.lock();
        let look = state.looks.iter_mut().find(|look| look.number == number);
        if let Some(look) = look {
            look.late = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.paths.0.lock();
        state.looks.retain(|look| look.number != self.number);
    }
}

fn silent(path: &Path) -> Problem {
    let what = format!(
        "{} cannot be looked at: its disk does not answer",
        path.display()
    );
    Problem::new(Code::TimedOut, what)
        .next("nothing was changed; look at the system log for what the disk of this path does")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any wait that ends.
    const BOUND: Duration = Duration::from_secs(60);

    #[test]
    fn disks_that_do_not_answer_take_their_own_places_alone() {
        let paths = Paths::default();
        let mut hanging = Vec::new();
        let soon = Duration::from_millis(1);
        for n in 0..limits::PATHS_MAX {
            let (let_go, told) = sync_channel::<()>(0);
            hanging.push(let_go);
            let path = format!("/dead/{n}/x");
            let looked = paths.look_for(soon, Path::new(&path), move |_| {
                let _ = told.recv_timeout(BOUND);
            });
            let problem = looked.unwrap_err();
            assert_eq!(problem.code, Code::TimedOut);
            assert!(problem.what.contains(&path), "{problem}");
            // Its neighbours are not looked at, and take no place.
            let beside = format!("/dead/{n}/y");
            let looked = paths.look_for(soon, Path::new(&beside), |_| ());
            assert_eq!(looked.unwrap_err().code, Code::TimedOut);
            if n == 0 {
                let other = paths.look_for(BOUND, Path::new("/well/x"), |path| path.to_owned());
                assert_eq!(other.unwrap(), Path::new("/well/x"));
            }
        }
        let one_more = paths.look_for(BOUND, Path::new("/well/x"), |_| ());
        assert_eq!(one_more.unwrap_err().code, Code::Busy);
        drop(hanging);
        // The threads come back by themselves.
        while !paths.0.lock().looks.is_empty() {
            std::thread::yield_now();
        }
        paths
            .look_for(BOUND, Path::new("/dead/0/y"), |_| ())
            .unwrap();
    }
}
