//! `/devices`

mod deletion;

use std::path::PathBuf;

use api::config::{Backing, Device, Provisioning};
use api::request::{DeviceChange, DeviceRemoval, NewBacking, NewDevice, NewImage};
use api::view::{Applied, DeviceView, LunPlace, Task};
use api::{Code, Problem};
use axum::Json;
use axum::extract::State;
use settings::Document;
use target::info::DeviceInfo;
use target::limits::BLOCK_SIZE_DEFAULT;
use target::provision::FileId;
use target::{Service, provision};

use self::deletion::{Deleting, delete, recognised, remove_unused, user_of};
use super::extract::{Body, Names, Params};
use super::{Answer, fresh, named};
use crate::admin::{Admin, By, Deed, Paths, blocking};
use crate::tasks::Running;
use crate::trouble;

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<DeviceView>> {
    let document = &admin.current()?.document;
    let live = admin.service().devices();
    let views = document
        .iscsi
        .devices
        .iter()
        .map(|device| view(document, device, &live));
    Ok(Json(views.collect()))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Names(name): Names<String>,
) -> Answer<DeviceView> {
    let mut document = admin.current()?.document.clone();
    let device = find(&mut document, &name)?.clone();
    Ok(Json(view(&document, &device, &admin.service().devices())))
}

fn view(document: &Document, device: &Device, live: &[DeviceInfo]) -> DeviceView {
    DeviceView {
        device: device.clone(),
        lun: place(document, &device.name),
        live: live.iter().find(|live| live.name == device.name).cloned(),
    }
}

/// The LUN that a device backs.
fn place(document: &Document, device: &str) -> Option<LunPlace> {
    document.iscsi.targets.iter().find_map(|target| {
        let lun = target.luns.iter().find(|lun| lun.device == device)?;
        Some(LunPlace {
            target: target.name.clone(),
            number: lun.number,
        })
    })
}

fn find<'a>(document: &'a mut Document, name: &str) -> Result<&'a mut Device, Problem> {
    let mut devices = document.iscsi.devices.iter_mut();
    let found = devices.find(|device| device.name == name);
    named(found, "device", &format!("device {name}"))
}

fn insert(document: &mut Document, device: Device) -> Result<(), Problem> {
    let devices = &document.iscsi.devices;
    fresh(
        devices.iter().any(|other| other.name == device.name),
        &format!("device {}", device.name),
        "choose another name",
    )?;
    document.iscsi.devices.push(device);
    Ok(())
}

/// What is wrong with the request is told at once; what takes long is a task.
pub(super) async fn add(
    State(admin): State<Admin>,
    by: By,
    Body(new): Body<NewDevice>,
) -> Answer<Task> {
    // An image takes a while, and is not made for a change that will be refused.
    admin.expected(&by)?;
    let existing = matches!(&new.backing, NewBacking::Image(image) if image.existing);
    let foreseen = admin.look(move |admin| {
        let device = completed(admin, new)?;
        foresee(admin, &device)?;
        Ok(device)
    });
    let device = foreseen.await?;
    let what = format!("add device {}", device.name);
    let image = match &device.backing {
        Backing::Image {
            path,
            size,
            provisioning,
            ..
        } if !existing => Some((path.clone(), *size, *provisioning)),
        _ => None,
    };
    let total = image.as_ref().map_or(0, |(_, size, _)| *size);
    let (running, task) = admin.tasks().begin(what.clone(), total)?;
    tokio::spawn(async move {
        let (running, made) = match image {
            Some(image) => match make(running, image).await {
                Some((running, made)) => (running, Some(made)),
                None => return,
            },
            None => (running, None),
        };
        let added = admin.alone_at_last(move |admin| async move {
            Ok(add_made(&admin, &by, &what, device, made).await)
        });
        let added = match added.await {
            Ok((Err(problem), Some(deleting))) => Err(deleting.after(problem).await),
            Ok((added, _)) => added,
            Err(problem) => Err(problem),
        };
        running.end(added);
    });
    Ok(Json(task))
}

/// Adds a device, of which an image may have been made; gives the generation. Where that fails,
/// begins to remove the image.
async fn add_made(
    admin: &Admin,
    by: &By,
    what: &str,
    device: Device,
    made: Option<(PathBuf, FileId)>,
) -> (Result<u64, Problem>, Option<Deleting>) {
    let name = device.name.clone();
    let edit = |document: &mut Document| insert(document, device);
    match (Box::pin(admin.edit_alone(by, what, edit)).await, made) {
        (Ok(changed), _) => (changed.settled().map(|changed| changed.generation), None),
        (Err(problem), None) => (Err(problem), None),
        (Err(problem), Some((path, file))) => {
            (Err(problem), remove_unused(admin, name, path, file).await)
        }
    }
}

/// Makes an image; `None` when that ended the task.
async fn make(
    running: Running,
    image: (PathBuf, u64, Provisioning),
) -> Option<(Running, (PathBuf, FileId))> {
    let work = move || {
        let (path, size, provisioning) = image;
        let made = provision::create_image(&path, size, provisioning, &mut |done, total| {
            running.progress(done, total)
        });
        (running, made.map(|file| (path, file)))
    };
    // When the work panics, `running` is dropped there, which ends the task as failed.
    let (running, made) = blocking(work).await.ok()?;
    match made {
        Ok(made) => Some((running, made)),
        Err(error) => {
            running.end(Err(trouble::provision(&error)));
            None
        }
    }
}

/// The device that a request wants. Looks at the disk.
fn completed(admin: &Admin, new: NewDevice) -> Result<Device, Problem> {
    let backing = match new.backing {
        NewBacking::Image(image) => completed_image(admin, &new.name, image)?,
        NewBacking::Block {
            path,
            block_size,
            read_only,
        } => Backing::Block {
            path,
            block_size,
            read_only,
        },
        NewBacking::Ram { size, block_size } => Backing::Ram {
            size,
            block_size: block_size.unwrap_or(BLOCK_SIZE_DEFAULT),
        },
        NewBacking::Iso { path } => Backing::Iso { path },
    };
    let usual = Device::new(new.name, backing);
    Ok(Device {
        cache: new.cache.unwrap_or(usual.cache),
        removable: new.removable.unwrap_or(usual.removable),
        asynchronous: new.asynchronous.unwrap_or(usual.asynchronous),
        queue_depth: new.queue_depth.unwrap_or(usual.queue_depth),
        physical_blocks: new.physical_blocks.unwrap_or(usual.physical_blocks),
        ..usual
    })
}

fn completed_image(admin: &Admin, name: &str, image: NewImage) -> Result<Backing, Problem> {
    let path = match image.path {
        Some(path) => path,
        None => {
            // The name becomes a file name, so it is looked at before the settings' own check.
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                let what = format!("`{name}` is no name for a device");
                return Err(Problem::new(Code::InvalidRequest, what)
                    .next("at most 64 bytes, without `/` and not starting with `.`"));
            }
            admin.data_dir().images()?.join(format!("{name}.img"))
        }
    };
    let have = match image.existing {
        true => {
            let have = admin.paths().look(&path, provision::image_size)?;
            Some(have.map_err(|error| trouble::provision(&error))?)
        }
        false => None,
    };
    let size = image.size.or(have).ok_or_else(|| {
        let what = format!("how large is image {name} to be?");
        Problem::new(Code::InvalidRequest, what).next("give its size")
    })?;
    Ok(Backing::Image {
        path,
        size,
        provisioning: image.provisioning,
        block_size: image.block_size.unwrap_or(BLOCK_SIZE_DEFAULT),
        read_only: image.read_only,
    })
}

/// Finds what would make the change fail, before anything is made for it. Looks at the disk.
fn foresee(admin: &Admin, device: &Device) -> Result<(), Problem> {
    let mut document = admin.current()?.document.clone();
    insert(&mut document, device.clone())?;
    admin
        .check(&document)
        .map_err(|error| trouble::settings_refused(&[format!("iscsi.{error}")]))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
    Body(to): Body<DeviceChange>,
) -> Answer<Applied> {
    let what = format!("change device {name}");
    let changed = admin.edit(by, what, move |document| merge(find(document, &name)?, &to));
    Ok(Json(changed.await?.applied()))
}

fn merge(device: &mut Device, to: &DeviceChange) -> Result<(), Problem> {
    if let Some(wanted) = to.size {
        let name = &device.name;
        let size = match &mut device.backing {
            Backing::Image { size, .. } | Backing::Ram { size, .. } => size,
            Backing::Block { .. } | Backing::Iso { .. } => {
                let what = format!("device {name} takes its size from what it is made of");
                return Err(Problem::new(Code::Refused, what).next(format!(
                    "enlarge the disk or volume, then: sanctum device load {name}"
                )));
            }
        };
        if wanted < *size {
            return Err(Problem::new(
                Code::Refused,
                format!("device {name} has {size} bytes and cannot shrink to {wanted}"),
            )
            .next("make a smaller device and copy what is needed"));
        }
        *size = wanted;
    }
    device.cache = to.cache.unwrap_or(device.cache);
    device.asynchronous = to.asynchronous.unwrap_or(device.asynchronous);
    device.queue_depth = to.queue_depth.unwrap_or(device.queue_depth);
    device.removable = to.removable.unwrap_or(device.removable);
    device.physical_blocks = to.physical_blocks.unwrap_or(device.physical_blocks);
    Ok(())
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
    Params(DeviceRemoval { delete_file }): Params<DeviceRemoval>,
) -> Answer<Applied> {
    let what = format!("remove device {name}");
    let removed = admin.alone(move |admin| async move {
        let (looking, device) = (admin.clone(), name.clone());
        let edit = move |document: &mut Document| {
            let path = take(looking.paths(), document, &device, delete_file)?;
            path.map(|path| recognised(&looking, &device, &path))
                .transpose()
        };
        let mut changed = Box::pin(admin.edit_alone(&by, &what, edit)).await?;
        // Also where nobody waits for the answer any more. A command that does not end holds the
        // open file, not its name.
        let removal = changed.value.take();
        let deleting = removal.map(|removal| delete(&admin, by, name, removal));
        Ok((changed, deleting))
    });
    let (changed, deleting) = removed.await?;
    // The next change need not wait for this disk.
    if let Some(deleting) = deleting {
        deleting.ended().await?;
    }
    Ok(Json(changed.settled()?.applied()))
}

/// Takes a device out of the document; gives the file to delete with it.
fn take(
    paths: &Paths,
    document: &mut Document,
    name: &str,
    delete_file: bool,
) -> Result<Option<PathBuf>, Problem> {
    let backing = find(document, name)?.backing.clone();
    if let Some(lun) = place(document, name) {
        return Err(Problem::new(
            Code::InUse,
            format!(
                "device {name} cannot be removed: LUN {} of {} uses it",
                lun.number, lun.target
            ),
        )
        .next(format!(
            "remove the LUN first: sanctum lun remove {} {}",
            lun.target, lun.number
        )));
    }
    document.iscsi.devices.retain(|device| device.name != name);
    match backing {
        Backing::Image { path, .. } if delete_file => match user_of(paths, document, &path)? {
            None => Ok(Some(path)),
            Some(other) => Err(Problem::new(
                Code::InUse,
                format!("the file of device {name} cannot be deleted: device {other} uses it, too"),
            )
            .next("remove the device without --delete-file")),
        },
        _ if delete_file => Err(Problem::new(
            Code::InvalidRequest,
            format!("device {name} is no image; only image files can be deleted with their device"),
        )
        .next("remove the device without --delete-file")),
        _ => Ok(None),
    }
}

pub(super) async fn load(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
) -> Answer<()> {
    let deed = deed("device-loaded", &name, "loaded device");
    let load = move |service: Service| async move { service.load_device(&name).await };
    Ok(Json(admin.act(by, deed, load).await?))
}

pub(super) async fn eject(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
) -> Answer<()> {
    let deed = deed("device-ejected", &name, "ejected device");
    let eject = move |service: Service| async move { service.eject_device(&name).await };
    Ok(Json(admin.act(by, deed, eject).await?))
}

pub(super) async fn clear_reservations(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
) -> Answer<()> {
    let what = "cleared the reservations of device";
    let deed = deed("reservations-cleared", &name, what);
    let clear = move |service: Service| async move { service.clear_reservations(&name).await };
    Ok(Json(admin.act(by, deed, clear).await?))
}

fn deed(code: &'static str, device: &str, what: &str) -> Deed {
    Deed {
        code,
        subject: device.to_owned(),
        what: format!("{what} {device}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use api::config::CacheMode;

    use super::*;
    use crate::admin::waiting::tests::{by, serving};

    fn image() -> Device {
        serde_json::from_str(r#"{"name":"d","kind":"image","path":"/d.img","size":1048576}"#)
            .unwrap()
    }

    #[test]
    fn grows_and_never_shrinks() {
        let mut device = image();
        let size = |size| DeviceChange {
            size: Some(size),
            ..DeviceChange::default()
        };
        merge(&mut device, &size(2 << 20)).unwrap();
        assert!(matches!(device.backing, Backing::Image { size, .. } if size == 2 << 20));
        assert_eq!(
            merge(&mut device, &size(1 << 20)).unwrap_err().code,
            Code::Refused
        );
        device.backing = Backing::Iso { path: "/x".into() };
        assert_eq!(
            merge(&mut device, &size(1)).unwrap_err().code,
            Code::Refused
        );
    }

    #[test]
    fn what_is_not_given_stays() {
        let mut device = image();
        merge(&mut device, &DeviceChange::default()).unwrap();
        assert_eq!(device, image());
        let to = DeviceChange {
            cache: Some(CacheMode::WriteBack),
            ..DeviceChange::default()
        };
        merge(&mut device, &to).unwrap();
        assert_eq!(device.cache, CacheMode::WriteBack);
        assert_eq!(device.queue_depth, image().queue_depth);
    }

    #[test]
    fn a_file_that_another_device_uses_is_not_deleted_with_its_device() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("d.img"), directory.path().join("e"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut document = Document::default();
        for (name, at) in [("d", &file), ("e", &link)] {
            let mut device = image();
            device.name = name.to_owned();
            let Backing::Image { path, .. } = &mut device.backing else {
                panic!("{device:?}");
            };
            path.clone_from(at);
            insert(&mut document, device).unwrap();
        }
        let paths = Paths::default();
        let refused = take(&paths, &mut document.clone(), "d", true).unwrap_err();
        assert_eq!(refused.code, Code::InUse);
        assert!(refused.what.contains("device e"), "{}", refused.what);
        assert_eq!(
            take(&paths, &mut document.clone(), "e", false).unwrap(),
            None
        );
        take(&paths, &mut document, "e", false).unwrap();
        assert_eq!(take(&paths, &mut document, "d", true).unwrap(), Some(file));
        assert!(document.iscsi.devices.is_empty());
    }

    #[test]
    fn names_are_taken_once() {
        let mut document = Document::default();
        insert(&mut document, image()).unwrap();
        assert_eq!(
            insert(&mut document, image()).unwrap_err().code,
            Code::AlreadyExists
        );
    }

    /// The events so far: code, message, next step.
    fn told(admin: &Admin) -> Vec<(String, String, String)> {
        let events = admin.events().query(&events::Filter::default());
        let line = |event: events::Event| {
            let next_step = event.next_step.unwrap_or_default();
            (event.code, event.message, next_step)
        };
        events.into_iter().map(line).collect()
    }

    #[tokio::test]
    async fn what_became_of_a_device_s_file_is_recorded_once_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let admin = serving(&directory.path().join("data")).await;
        let file = directory.path().join("d.img");
        let made = provision::create_image(&file, 1 << 20, Provisioning::Thin, &mut |_, _| true);
        let made = made.unwrap();
        let mut device = image();
        let Backing::Image { path, .. } = &mut device.backing else {
            panic!("{device:?}");
        };
        path.clone_from(&file);
        let add = admin.edit(by(), "add".to_owned(), |document| insert(document, device));
        add.await.unwrap();
        let how = DeviceRemoval { delete_file: true };
        let removed = remove(
            State(admin.clone()),
            Names("d".to_owned()),
            by(),
            Params(how),
        );
        let Json(Applied { .. }) = removed.await.unwrap();
        assert!(!file.exists());
        let path = file.display();
        let events = told(&admin);
        let lines: Vec<_> = events
            .iter()
            .map(|(code, text, _)| (&**code, &**text))
            .collect();
        let deleted = format!("test deleted the file of device d: {path}");
        assert_eq!(
            lines[1..],
            [
                (
                    "settings-changed",
                    "test changed the settings: remove device d"
                ),
                ("file-deleted", &deleted),
            ]
        );

        // Where it cannot be deleted, that is what is recorded, and what the answer says.
        std::fs::write(&file, "another").unwrap();
        let removal = admin.removals().begin(file.clone(), made).unwrap();
        let deleting = delete(&admin, by(), "d".to_owned(), removal);
        let problem = deleting.ended().await.unwrap_err();
        assert!(
            problem.what.contains("removed, but not all of its file"),
            "{problem}"
        );
        assert!(
            problem.next_step.contains("cannot be repeated"),
            "{problem}"
        );
        let (code, text, next_step) = told(&admin).pop().unwrap();
        assert_eq!(
            (&*code, text, next_step),
            ("file-not-deleted", problem.what, problem.next_step)
        );
        assert!(file.exists());
        admin
            .stop(crate::admin::StopBounds::default())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn while_a_file_is_being_deleted_changes_go_on_and_no_device_gets_it() {
        let directory = tempfile::tempdir().unwrap();
        let admin = serving(&directory.path().join("data")).await;
        let file = directory.path().join("d.img");
        let link = directory.path().join("link.img");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let made = provision::create_image(&file, 1 << 20, Provisioning::Thin, &mut |_, _| true);
        let removal = admin.removals().begin(file.clone(), made.unwrap()).unwrap();
        let add = async |path: &Path| {
            let mut device = image();
            let Backing::Image { path: at, .. } = &mut device.backing else {
                panic!("{device:?}");
            };
            at.clone_from(&path.to_owned());
            let added = admin.edit(by(), "add".to_owned(), |document| insert(document, device));
            added.await.map(|changed| changed.generation)
        };
        for path in [&file, &link] {
            let refused = add(path).await.unwrap_err();
            assert_eq!(refused.code, Code::InvalidSettings, "{refused}");
            let details = refused.details.concat();
            assert!(details.contains("is being deleted"), "{details}");
        }
        let spin = |document: &mut Document| {
            document.service.spin_us += 1;
            Ok(())
        };
        admin.edit(by(), "spin".to_owned(), spin).await.unwrap();

        delete(&admin, by(), "d".to_owned(), removal)
            .ended()
            .await
            .unwrap();
        assert!(!file.exists());
        std::fs::write(&file, vec![0; 1 << 20]).unwrap();
        add(&file).await.unwrap();
        admin
            .stop(crate::admin::StopBounds::default())
            .await
            .unwrap();
    }
}
