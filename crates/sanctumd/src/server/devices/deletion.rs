//! Deletes image files: with their device, or because the device they were made for did not come
//! to be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Code, Problem};
use events::Draft;
use settings::Document;
use target::provision;
use target::provision::{FileId, ProvisionError};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::deed;
use crate::admin::{Admin, By, Paths, Removal};
use crate::limits;

/// The device that uses a file.
pub(super) fn user_of<'a>(
    paths: &Paths,
    document: &'a Document,
    path: &Path,
) -> Result<Option<&'a str>, Problem> {
    // Each path by itself: where one does not answer, that is the one that is told.
    let file = paths.look(path, provision::led_to)?;
    for device in &document.iscsi.devices {
        let Some(used) = device.backing.path() else {
            continue;
        };
        let other = paths.look(used, provision::led_to)?;
        // Where one cannot be looked at, equal paths lead to one file.
        if used == path || file.is_some() && file == other {
            return Ok(Some(&device.name));
        }
    }
    Ok(None)
}

/// Begins to remove an image that was made for a device, unless a device in force uses it: another
/// request can have added it under another name since. When that cannot be told, it may be.
pub(super) async fn remove_unused(
    admin: &Admin,
    name: String,
    path: PathBuf,
    file: FileId,
) -> Option<Deleting> {
    let made = path.clone();
    let unused =
        admin.look(
            move |admin| match user_of(admin.paths(), &admin.current()?.document, &made)? {
                Some(_) => Ok(None),
                None => begin(admin, &made, file).map(Some),
            },
        );
    match unused.await {
        Ok(removal) => Some(delete_unused(admin, name, removal?)),
        Err(problem) => {
            let path = path.display();
            let what = format!("the image {path} stays, which was made for device {name}");
            let draft = Draft::error("file-not-deleted", &name, &what).cause(&problem.what);
            admin.events().record(draft.next_step(REMOVE_BY_HAND));
            None
        }
    }
}

/// Begins a deletion.
fn begin(admin: &Admin, path: &Path, file: FileId) -> Result<Removal, Problem> {
    let removals = admin.removals().clone();
    let begin = move |path: &Path| removals.begin(path.to_owned(), file);
    admin.paths().look(path, begin)?
}

/// Removes an image without a device.
fn delete_unused(admin: &Admin, name: String, removal: Removal) -> Deleting {
    let admin = admin.clone();
    let late = format!("the image {} is not deleted yet", removal.path().display());
    Deleting::begin(late, removal, move |path, removed| {
        let Err(error) = removed else { return Ok(()) };
        let path = path.display();
        let what = format!("the image {path} stays, which was made for device {name}");
        let problem = Problem::new(Code::Internal, what).causes(&error);
        let problem = problem.detail(error.to_string()).next(REMOVE_BY_HAND);
        admin.events().record(not_deleted_event(&name, &problem));
        Err(problem)
    })
}

/// The file to delete is the device's own; looks at the disk. Who may write to its directory can
/// have put another one, or a link to one, in its place.
pub(super) fn recognised(admin: &Admin, name: &str, path: &Path) -> Result<Removal, Problem> {
    let refused = |why: &str| {
        Problem::new(
            Code::Refused,
            format!("device {name} is not deleted with its file: {why}"),
        )
        .next(format!(
            "remove the device alone, then what is to go by hand: sanctum device delete {name}"
        ))
    };
    let Some(file) = admin.service().file_of(name) else {
        return Err(refused(&format!(
            "it could not be opened, so the service cannot tell whether {} is its file",
            path.display()
        )));
    };
    let own = move |path: &Path| provision::is_image(path, file);
    let own = admin.paths().look(path, own)?;
    own.map_err(|error| refused(&error.to_string()).causes(&error))?;
    begin(admin, path, file)
}

/// Removes the file of a device that is gone.
pub(super) fn delete(admin: &Admin, by: By, name: String, removal: Removal) -> Deleting {
    let admin = admin.clone();
    let path = removal.path().display();
    let late = format!("device {name} is removed; its file {path} is not deleted yet");
    Deleting::begin(late, removal, move |path, removed| {
        let Err(error) = removed else {
            let mut deed = deed("file-deleted", &name, "deleted the file of device");
            deed.what = format!("{}: {}", deed.what, path.display());
            admin.tell_done(&by, &deed, None);
            return Ok(());
        };
        let problem = not_deleted(&name, path, &error);
        admin.events().record(not_deleted_event(&name, &problem));
        Err(problem)
    })
}

/// The deletion of an image and of what lies beside it, on a thread that may wait for the disk.
#[derive(Debug)]
pub(super) struct Deleting {
    /// What is told where it takes too long.
    late: String,
    work: JoinHandle<Result<(), Problem>>,
}

impl Deleting {
    /// What came of it is told once it is over, whether or not anybody waits for it.
    fn begin<F>(late: String, removal: Removal, tell: F) -> Self
    where
        F: FnOnce(&Path, Result<(), ProvisionError>) -> Result<(), Problem> + Send + 'static,
    {
        let path = removal.path().to_owned();
        let work = tokio::task::spawn_blocking(move || tell(&path, removal.finish()));
        Self { late, work }
    }

    pub(super) async fn ended(self) -> Result<(), Problem> {
        self.ended_within(limits::DELETE_TIME_MAX).await
    }

    async fn ended_within(self, bound: Duration) -> Result<(), Problem> {
        match timeout(bound, self.work).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(Problem::new(Code::Internal, "the deletion broke off")
                .next("see the service's log")),
            Err(_) => {
                let why = format!("the disk did not answer in {} s", bound.as_secs());
                Err(Problem::new(Code::TimedOut, self.late).detail(why).next(
                    "the change itself holds, and the deletion goes on: an event file-deleted or \
                     file-not-deleted tells of its end. Until then no device can have this file; \
                     if the service ends before, look what is left and remove it by hand",
                ))
            }
        }
    }

    /// The problem that the file is deleted for, once it is.
    pub(super) async fn after(self, problem: Problem) -> Problem {
        match self.ended().await {
            Ok(()) => problem,
            Err(left) => problem.detail(left.what),
        }
    }
}

/// What to do with an image that stays and that no device has.
const REMOVE_BY_HAND: &str = "look whether anybody needs it, and remove it by hand";

fn not_deleted_event(name: &str, problem: &Problem) -> Draft {
    let draft = Draft::error("file-not-deleted", name, &problem.what);
    let draft = draft.cause(&problem.details.join(": "));
    draft.next_step(&problem.next_step)
}

/// A device is gone, and its file is there still.
fn not_deleted(name: &str, path: &Path, error: &ProvisionError) -> Problem {
    let path = path.display();
    let what = format!("device {name} is removed, but not all of its file {path}");
    Problem::new(Code::Internal, what)
        .detail(error.to_string())
        .causes(error)
        .next(format!(
            "the device is gone, so this cannot be repeated: look at what is left at {path} and at \
             {path}.sanctum, and remove by hand what nobody needs"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::waiting::tests::serving;

    #[tokio::test]
    async fn who_waits_for_a_deletion_that_does_not_end_is_told_what_holds() {
        let late = Deleting {
            late: "not yet".to_owned(),
            work: tokio::spawn(std::future::pending()),
        };
        let told = late.ended_within(Duration::from_millis(1)).await;
        let told = told.unwrap_err();
        assert_eq!((told.code, &*told.what), (Code::TimedOut, "not yet"));
        assert!(told.next_step.contains("file-deleted"), "{told}");
    }

    #[tokio::test]
    async fn deletions_that_do_not_end_are_of_a_bounded_number() {
        let directory = tempfile::tempdir().unwrap();
        let admin = serving(&directory.path().join("data")).await;
        let file = FileId::at(directory.path()).unwrap();
        let begin = || admin.removals().begin("/nowhere/d.img".into(), file);
        let under_way: Vec<_> = std::iter::repeat_with(begin)
            .take(limits::REMOVALS_MAX)
            .map(Result::unwrap)
            .collect();
        assert_eq!(begin().unwrap_err().code, Code::Busy);
        drop(under_way);
        begin().unwrap();
        admin
            .stop(crate::admin::StopBounds::default())
            .await
            .unwrap();
    }
}
