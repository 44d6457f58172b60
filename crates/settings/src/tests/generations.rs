//! Plans, generations, rollback, restoration, on the model disk and on a real one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use insta::assert_snapshot;

use super::disk::Disk;
use super::{BASE, anything, numbered, store_on};
use crate::*;

const CURRENT: &str = "/data/settings/current.toml";

fn with_base() -> (Arc<Disk>, Store) {
    let disk = Arc::new(Disk::new());
    let store = store_on(&disk);
    assert!(matches!(store.load(), Err(LoadError::Absent { .. })));
    let plan = store
        .propose_text(BASE.as_bytes(), &anything)
        .expect("a plan");
    store
        .commit(plan, "root", "first settings")
        .expect("committed");
    (disk, store)
}

fn commit(store: &Store, number: u32) -> Generation {
    let plan = store.propose(numbered(number), &anything).expect("a plan");
    store.commit(plan, "tester", "a change").expect("committed")
}

#[test]
fn a_text_is_kept_as_it_was_written() {
    let (disk, store) = with_base();
    assert_eq!(store.load().expect("loads").text, BASE);
    let file = String::from_utf8(disk.files()[Path::new(CURRENT)].clone()).expect("text");
    assert!(file.ends_with(BASE));
    assert_snapshot!("generation_file", file);
    // A generation's file is itself a document that can be applied.
    let plan = store
        .propose_text(file.as_bytes(), &anything)
        .expect("a plan");
    assert!(plan.is_empty());
    assert_eq!(plan.text, BASE);
}

#[test]
fn a_plan_shows_what_changes() {
    let (disk, store) = with_base();
    let before = disk.files();
    let text = BASE
        .replace("size = 1073741824", "size = 2147483648")
        .replace(
            "[[iscsi.portal]]\nname = \"storage\"\naddress = \"192.0.2.1\"\n",
            "",
        )
        .replace("action = \"allow\"", "action = \"read-only\"")
        .replace(
            "[[iscsi.target.access]]",
            "[[iscsi.target.lun]]\nnumber = 7\ndevice = \"scratch\"\n\n[[iscsi.target.access]]",
        );
    let plan = store
        .propose_text(text.as_bytes(), &anything)
        .expect("a plan");
    assert_eq!(plan.base, Some(1));
    assert!(plan.is_accepted() && !plan.is_empty());
    assert_snapshot!("plan_diff", plan.diff);
    let changes: Vec<_> = plan
        .changes
        .iter()
        .map(|change| {
            let value =
                |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
            format!(
                "{}\n  - {}\n  + {}\n",
                change.path,
                value(&change.old),
                value(&change.new)
            )
        })
        .collect();
    assert_snapshot!("plan_changes", changes.concat());
    assert_eq!(disk.files(), before, "a plan writes nothing");
}

#[test]
fn an_order_that_changes_is_a_change() {
    let (_, store) = with_base();
    let mut document = store.current().expect("there").document.clone();
    document.iscsi.devices.reverse();
    let plan = store.propose(document, &anything).expect("a plan");
    assert_eq!(plan.changes.len(), 1);
    assert_eq!(plan.changes[0].path, "iscsi.device");
    assert_eq!(
        plan.changes[0].new.as_deref(),
        Some("order: scratch, disk1")
    );
}

#[test]
fn comments_alone_are_no_change_of_meaning() {
    let (_, store) = with_base();
    let text = format!("# another\n{BASE}");
    let plan = store
        .propose_text(text.as_bytes(), &anything)
        .expect("a plan");
    assert!(plan.is_empty());
    assert_eq!(plan.diff, "");
    store.commit(plan, "root", "a comment").expect("committed");
    assert_eq!(store.load().expect("loads").text, text);
}

#[test]
fn what_the_service_refuses_is_shown_with_its_line_and_not_staged() {
    let (disk, store) = with_base();
    let before = disk.files();
    let check = |document: &Document| match document.iscsi.targets.first() {
        Some(target) if target.luns.iter().any(|lun| lun.device == "disk1") => Err(
            CheckError::new("target[0].lun[0].device", "there is no device \"disk1\""),
        ),
        _ => Ok(()),
    };
    let plan = store.propose_text(BASE.as_bytes(), &check).expect("a plan");
    assert!(!plan.is_accepted());
    let error = store.stage(plan, "root", "").expect_err("refused");
    assert_snapshot!("refused_by_the_service", error);

    let text = BASE.replace("[service]", "[service]\nspin_us = 999999");
    let plan = store
        .propose_text(text.as_bytes(), &anything)
        .expect("a plan");
    let error = store.commit(plan, "root", "").expect_err("refused");
    assert_snapshot!("refused_by_the_crate", error);
    assert_eq!(disk.files(), before);
}

#[test]
fn an_overtaken_plan_is_a_conflict() {
    let (_, store) = with_base();
    let mine = store.propose(numbered(1), &anything).expect("a plan");
    commit(&store, 2);
    let error = store.commit(mine, "me", "mine").expect_err("a conflict");
    assert_snapshot!("conflict", error);
    assert!(matches!(
        error,
        CommitError::Stage(StageError::Conflict {
            expected: Some(1),
            current: Some(_)
        })
    ));
    assert_eq!(store.load().expect("loads").document, numbered(2));
}

#[test]
fn a_file_edited_under_the_service_is_not_overwritten() {
    let (disk, store) = with_base();
    let before_the_edit = store.propose(numbered(1), &anything).expect("a plan");
    let edited = BASE.replace("san1", "san2");
    disk.overwrite(CURRENT, edited.as_bytes());
    for plan in [
        before_the_edit,
        store.propose(numbered(1), &anything).expect("a plan"),
    ] {
        let error = store.stage(plan, "", "").expect_err("changed");
        assert!(matches!(error, StageError::ChangedOutside));
    }
    assert_eq!(disk.files()[Path::new(CURRENT)], edited.as_bytes());
}

#[test]
fn a_rollback_is_a_new_generation_with_old_content() {
    let (_, store) = with_base();
    commit(&store, 2);
    commit(&store, 3);
    let plan = store.propose_rollback(1, &anything).expect("a plan");
    let generation = store.commit(plan, "root", "back").expect("committed");
    assert_eq!(
        (generation.number, generation.parent, generation.content_of),
        (4, Some(3), Some(1))
    );
    let loaded = store.load().expect("loads");
    assert_eq!(loaded.text, BASE);
    assert_eq!(loaded.generation, generation);
    let history = store.history().expect("readable");
    let numbers: Vec<_> = history.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
    assert_eq!(history[0].generation.as_ref(), Some(&generation));
    assert!(history[0].current && !history[1].current);
    let error = store.propose_rollback(9, &anything).expect_err("unknown");
    assert_snapshot!("no_such_generation", error);
}

#[test]
fn the_last_generations_are_kept() {
    let (_, store) = with_base();
    let last = u32::try_from(limits::GENERATIONS).expect("few") + 5;
    for number in 2..=last {
        commit(&store, number);
    }
    let history = store.history().expect("readable");
    assert_eq!(history.len(), limits::GENERATIONS);
    assert_eq!(history[0].number, u64::from(last));
    assert_eq!(history[limits::GENERATIONS - 1].number, 6);
    assert!(matches!(
        store.generation(5),
        Err(GenerationError::Unknown { number: 5 })
    ));
}

#[test]
fn damage_names_the_line_and_what_can_be_restored() {
    let (disk, store) = with_base();
    commit(&store, 2);
    let file = String::from_utf8(disk.files()[Path::new(CURRENT)].clone()).expect("text");
    let damaged = file.replace("spin_us = 2", "spin_us = #2");
    disk.overwrite(CURRENT, damaged.as_bytes());
    let again = store_on(&disk);
    assert_snapshot!("damaged_current", again.load().expect_err("damaged"));

    // The newest generation is damaged, too: the one before it is offered.
    disk.overwrite("/data/settings/generations/000002.toml", &[0xff; 40]);
    let Err(LoadError::Unusable {
        restorable: Some(generation),
        ..
    }) = again.load()
    else {
        panic!("unusable, with something to restore");
    };
    assert_eq!(generation.number, 1);
    assert_eq!(
        disk.files()[Path::new(CURRENT)],
        damaged.as_bytes(),
        "never replaced"
    );
    assert!(
        store_on(&disk).history().expect("readable")[0]
            .fault
            .is_some()
    );

    let plan = again.propose_restore(1, &anything).expect("a plan");
    let generation = again
        .commit(plan, "root", "after damage")
        .expect("restored");
    assert_eq!((generation.number, generation.content_of), (3, Some(1)));
    assert_eq!(store_on(&disk).load().expect("loads").text, BASE);
}

#[test]
fn damage_that_still_makes_sense_is_told_by_the_checksum() {
    let (disk, _) = with_base();
    let mut bytes = disk.files()[Path::new(CURRENT)].clone();
    let at = bytes
        .windows(8)
        .position(|w| w == b"10737418")
        .expect("a size");
    bytes[at] = b'3';
    disk.overwrite(CURRENT, &bytes);
    let store = store_on(&disk);
    assert_snapshot!("checksum", store.load().expect_err("changed"));
}

#[test]
fn a_missing_file_is_not_a_first_start() {
    let (disk, _) = with_base();
    disk.lose(CURRENT);
    let store = store_on(&disk);
    assert_snapshot!("missing_current", store.load().expect_err("missing"));
    let plan = store.propose_restore(1, &anything).expect("a plan");
    assert_eq!(store.commit(plan, "root", "").expect("restored").number, 2);
}

#[test]
fn a_file_edited_by_hand_can_be_adopted() {
    let (disk, _) = with_base();
    let edited = BASE.replace("san1", "san2");
    disk.overwrite(CURRENT, edited.as_bytes());
    let store = store_on(&disk);
    assert!(matches!(store.load(), Err(LoadError::Changed { .. })));
    let plan = store.propose_adoption(&anything).expect("a plan");
    let generation = store.commit(plan, "root", "edited").expect("adopted");
    assert_eq!(generation.number, 2);
    assert_eq!(store_on(&disk).load().expect("loads").text, edited);
}

#[test]
fn a_real_directory_holds_private_files_and_one_service() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let store = Store::open(&data).expect("opens");
    let plan = store
        .propose_text(BASE.as_bytes(), &anything)
        .expect("a plan");
    store.commit(plan, "root", "first").expect("committed");
    commit(&store, 2);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let settings = data.join("settings");
    assert_eq!(mode(&settings), 0o700);
    for name in [
        "current.toml",
        "generations/000001.toml",
        "generations/000002.toml",
        "lock",
    ] {
        assert_eq!(mode(&settings.join(name)), 0o600, "{name}");
    }
    let error = Store::open(&data).expect_err("in use");
    assert!(matches!(error, OpenError::InUse { .. }));
    drop(store);
    let store = Store::open(&data).expect("opens again");
    assert_eq!(store.load().expect("loads").document, numbered(2));
    assert_eq!(store.history().expect("readable").len(), 2);
}

#[test]
fn a_link_in_place_of_the_settings_is_not_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opens");
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, BASE).expect("writable");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("settings/current.toml"))
        .expect("a link");
    assert!(matches!(store.load(), Err(LoadError::Read { .. })));
    assert_eq!(fs::read_to_string(&elsewhere).expect("readable"), BASE);
}

#[test]
fn a_generation_that_cannot_be_written_changes_nothing() {
    // A file stands where the directory of generations was: nothing can be made in it.
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opens");
    let plan = store
        .propose_text(BASE.as_bytes(), &anything)
        .expect("a plan");
    store.commit(plan, "root", "first").expect("committed");
    let generations = dir.path().join("settings/generations");
    fs::rename(&generations, dir.path().join("moved")).expect("movable");
    fs::write(&generations, "in the way").expect("writable");
    let plan = store.propose(numbered(2), &anything).expect("a plan");
    let error = store.commit(plan, "root", "second").expect_err("no room");
    assert!(matches!(error, CommitError::Stage(StageError::Write(_))));
    assert_eq!(store.load().expect("loads").text, BASE);
}

#[test]
fn only_plain_files_of_our_own_names_are_generations() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("opens");
    let generations = directory.path().join("settings/generations");
    fs::write(generations.join("30.toml"), "an image").expect("written");
    fs::write(generations.join("0000031.toml"), "an image").expect("written");
    fs::create_dir(generations.join("000032.toml")).expect("made");
    assert!(matches!(store.load(), Err(LoadError::Absent { .. })));
    assert_eq!(commit(&store, 1).number, 1);
    assert_eq!(store.history().expect("a history").len(), 1);
    assert!(generations.join("30.toml").exists());
}

#[test]
fn there_is_a_last_number() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("opens");
    let last = format!("settings/generations/{}.toml", u64::MAX);
    fs::write(directory.path().join(last), "").expect("written");
    let plan = store.propose(numbered(1), &anything).expect("a plan");
    let error = store.stage(plan, "tester", "a change").expect_err("full");
    assert!(
        matches!(&error, StageError::Write(source) if source.to_string().contains("no number")),
        "{error:?}"
    );
}

#[test]
fn settings_that_another_user_wrote_are_not_read() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can give a file away to see it refused.
    }
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("opens");
    commit(&store, 1);
    let current = directory.path().join("settings/current.toml");
    std::os::unix::fs::chown(&current, Some(65534), None).expect("given away");
    let error = store.load().expect_err("another user's");
    assert!(matches!(error, LoadError::Read { .. }), "{error}");
}
