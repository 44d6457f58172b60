//! Another file in the place of an image.

use std::path::Path;
use std::sync::Arc;

use disk::{BesideStore, CacheMode};
use parking_lot::Mutex;
use target::info::DeviceState;
use target::{Opener, Options, Secrets, Service};
use tokio::sync::mpsc;

use crate::config::image;

/// What comes of asking whether the file may be served.
#[derive(Clone, Copy, Debug)]
enum Answer {
    No,
    /// Yes, but it is exchanged meanwhile.
    Exchanged,
    Yes,
}

fn answer(answer: Answer, path: &Path) -> Result<(), String> {
    match answer {
        Answer::No => return Err("it is somebody's secret".to_owned()),
        Answer::Exchanged => {
            let other = path.with_extension("other");
            std::fs::copy(path, &other).unwrap();
            std::fs::rename(&other, path).unwrap();
        }
        Answer::Yes => {}
    }
    Ok(())
}

#[test]
fn a_file_that_may_not_be_served_is_not_ready_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let config = image(directory.path(), CacheMode::None);
    let backing = &config.devices[0].backing;
    let path = backing.path().unwrap().to_path_buf();
    let store = BesideStore::for_device(backing, "ram", directory.path()).unwrap();
    store.load_or_create().unwrap();
    let now = Arc::new(Mutex::new(Answer::No));
    let asked = Arc::clone(&now);
    let opener = Opener::default().checked(move |path, _| answer(*asked.lock(), path));
    let options = Options {
        shards: 1,
        opener,
        ..Options::new(directory.path())
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (sender, _notices) = mpsc::channel(1024);
    let started = Service::start(options, config, Secrets::new(), sender);
    let service = runtime.block_on(started).unwrap();
    let state = || service.devices().remove(0).state;
    let load = || runtime.block_on(service.load_device("ram"));
    let DeviceState::NotReady { reason } = state() else {
        panic!("{:?}", state());
    };
    assert!(reason.contains("somebody's secret"), "{reason}");
    assert!(reason.contains(path.to_str().unwrap()), "{reason}");
    assert!(load().unwrap_err().to_string().contains("secret"));
    *now.lock() = Answer::Exchanged;
    assert!(load().unwrap_err().to_string().contains("another file"));
    assert!(matches!(state(), DeviceState::NotReady { .. }));
    *now.lock() = Answer::Yes;
    load().unwrap();
    assert_eq!(state(), DeviceState::Ready);
    runtime.block_on(service.shutdown()).unwrap();
}
