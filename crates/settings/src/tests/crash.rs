//! Every step of a change fails once, for good, and with the host lost.

use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::disk::{Disk, Fault};
use super::{anything, numbered, store_on};
use crate::*;

const SEEDS: u64 = 48;

/// How far a change came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Came {
    Nowhere,
    Undecided,
    Through,
}

/// Applies document `number`; the store is opened by the caller, without fault.
fn change(store: &Store, number: u32) -> Came {
    let Ok(plan) = store.propose(numbered(number), &anything) else {
        return Came::Nowhere;
    };
    match store.commit(plan, "tester", "a change") {
        Ok(_) => Came::Through,
        Err(CommitError::Activate(ActivateError::NotConfirmed { .. })) => Came::Undecided,
        Err(_) => Came::Nowhere,
    }
}

/// The number of the document that a disk gives after a start; 0 where there is none yet.
fn start(disk: &Arc<Disk>) -> (Store, u32) {
    let store = store_on(disk);
    match store.load() {
        Ok(loaded) => (store, loaded.document.service.spin_us),
        Err(LoadError::Absent { .. }) => (store, 0),
        Err(other) => panic!("{other}"),
    }
}

/// A disk with so many generations.
fn prepared(generations: u32) -> Disk {
    let disk = Arc::new(Disk::new());
    let (store, _) = start(&disk);
    for number in 1..=generations {
        assert_eq!(change(&store, number), Came::Through);
    }
    drop(store);
    Arc::into_inner(disk).expect("the only one")
}

/// The store must go on from here: another change works, and leaves nothing behind.
fn goes_on(disk: &Arc<Disk>, context: &str) {
    let (store, _) = start(disk);
    assert_eq!(change(&store, 99), Came::Through, "{context}");
    assert_eq!(start(disk).1, 99, "{context}");
    for path in disk.files().keys() {
        let name = path.to_string_lossy();
        assert!(
            !name.contains("staged") && !name.contains("tmp"),
            "{context}: {name}"
        );
    }
    let history = store.history().expect("readable");
    assert!(
        history.iter().all(|entry| entry.fault.is_none()),
        "{context}"
    );
    assert_eq!(
        history.iter().filter(|entry| entry.current).count(),
        1,
        "{context}"
    );
    assert!(history.len() <= limits::GENERATIONS, "{context}");
}

fn every_step(generations: u32, fault_at: fn(usize) -> Fault) {
    let before = prepared(generations);
    for step in 0.. {
        let disk = Arc::new(before.clone());
        let (store, old) = start(&disk);
        assert_eq!(old, generations);
        disk.plan(fault_at(step));
        let came = change(&store, 77);
        let done = disk.steps() <= step;
        let context = format!("step {step}, {came:?}");

        // The host is lost now.
        for seed in 0..SEEDS {
            let context = format!("{context}, seed {seed}");
            let lost = Arc::new(disk.after_crash(seed));
            let (_, now) = start(&lost);
            match came {
                Came::Nowhere => assert_eq!(now, old, "{context}"),
                Came::Undecided => assert!(now == old || now == 77, "{context}: {now}"),
                Came::Through => assert_eq!(now, 77, "{context}"),
            }
            goes_on(&lost, &context);
        }

        // The host lives on, and the disk is well again.
        disk.plan(Fault::None);
        let now = if came == Came::Nowhere { old } else { 77 };
        let memory = store
            .current()
            .map_or(0, |loaded| loaded.document.service.spin_us);
        assert_eq!(memory, now, "{context}");
        assert_eq!(change(&store, 78), Came::Through, "{context}");
        drop(store);
        assert_eq!(start(&disk).1, 78, "{context}");
        goes_on(&disk, &context);
        if done {
            assert_eq!(came, Came::Through);
            assert!(step > 10, "the fault met no step: {step}");
            return;
        }
    }
}

#[test]
fn a_first_change_fails_once_at_every_step() {
    every_step(0, Fault::At);
}

#[test]
fn a_first_change_fails_from_every_step_on() {
    every_step(0, Fault::From);
}

#[test]
fn a_change_fails_once_at_every_step() {
    every_step(2, Fault::At);
}

#[test]
fn a_change_fails_from_every_step_on() {
    every_step(2, Fault::From);
}

#[test]
fn a_change_that_drops_the_oldest_fails_at_every_step() {
    every_step(
        u32::try_from(limits::GENERATIONS).expect("few"),
        Fault::From,
    );
}

#[test]
fn staged_and_not_activated_is_the_old_one() {
    let disk = Arc::new(prepared(2));
    let (store, _) = start(&disk);
    let plan = store.propose(numbered(77), &anything).expect("a plan");
    let staged = store.stage(plan, "tester", "a change").expect("staged");
    assert_eq!(
        staged.generation().map(|generation| generation.number),
        Some(3)
    );
    assert_eq!(store.current().expect("there").generation.number, 2);
    for seed in 0..SEEDS {
        let lost = Arc::new(disk.after_crash(seed));
        assert_eq!(start(&lost).1, 2);
        goes_on(&lost, &format!("seed {seed}"));
    }
    assert!(matches!(
        store.stage(
            store.propose(numbered(78), &anything).expect("a plan"),
            "",
            ""
        ),
        Err(StageError::Busy)
    ));
    drop(staged);
    assert_eq!(change(&store, 78), Came::Through);
}

#[test]
fn a_discarded_change_leaves_nothing() {
    let disk = Arc::new(prepared(2));
    let (store, _) = start(&disk);
    let before = disk.files();
    let plan = store.propose(numbered(77), &anything).expect("a plan");
    let staged = store.stage(plan, "tester", "a change").expect("staged");
    assert_ne!(disk.files(), before);
    staged.discard().expect("discarded");
    assert_eq!(disk.files(), before);
}

#[test]
fn a_restoration_fails_at_every_step() {
    let before = prepared(3);
    before.overwrite("/data/settings/current.toml", b"version = 1\n[serv");
    for step in 0.. {
        let disk = Arc::new(before.clone());
        let store = store_on(&disk);
        assert!(matches!(store.load(), Err(LoadError::Unusable { .. })));
        disk.plan(Fault::From(step));
        let result = store
            .propose_restore(2, &anything)
            .ok()
            .map(|plan| store.commit(plan, "tester", "restored").is_ok());
        let done = disk.steps() <= step;
        for seed in 0..SEEDS {
            let lost = Arc::new(disk.after_crash(seed));
            // Until it is done, what is damaged stays as it is; then generation 2 is back.
            match store_on(&lost).load() {
                Ok(loaded) => assert_eq!(loaded.document, numbered(2), "step {step}"),
                Err(LoadError::Unusable { .. }) => assert_ne!(result, Some(true), "step {step}"),
                Err(other) => panic!("step {step}: {other}"),
            }
        }
        if done {
            assert_eq!(result, Some(true));
            let aside = disk
                .files()
                .remove(Path::new("/data/settings/current.damaged.toml"));
            assert_eq!(aside.as_deref(), Some(b"version = 1\n[serv".as_slice()));
            return;
        }
    }
}

#[test]
fn secrets_are_the_old_or_the_new_at_every_step() {
    let secret = |n: u32| SecretString::from(format!("secret-number-{n:04}"));
    let load = |disk: &Arc<Disk>| Secrets::load_from(disk.clone(), Path::new("/data"));
    let before = Arc::new(Disk::new());
    let mut secrets = load(&before).expect("loads");
    secrets.set("a", secret(1)).expect("set");
    drop(secrets);
    for step in 0.. {
        let disk = Arc::new(Disk::clone(&before));
        let mut secrets = load(&disk).expect("loads");
        disk.plan(Fault::From(step));
        let result = secrets.set("a", secret(2));
        let done = disk.steps() <= step;
        let memory = secrets.get("a").expect("there").expose_secret().to_owned();
        let new = secret(2).expose_secret().to_owned();
        let old = secret(1).expose_secret().to_owned();
        for seed in 0..SEEDS {
            let lost = Arc::new(disk.after_crash(seed));
            let secrets = load(&lost).expect("loads");
            let now = secrets.get("a").expect("there").expose_secret();
            match &result {
                Ok(_) => assert_eq!(now, new),
                Err(SecretsError::NotConfirmed { .. }) => {
                    assert!(now == old || now == new);
                    assert_eq!(memory, new);
                }
                Err(_) => assert!(now == old && memory == old),
            }
        }
        if done {
            assert!(result.is_ok());
            return;
        }
    }
}

/// Settings and secrets that come together: how far they came.
fn change_with_secrets(
    store: &Store,
    secrets: &mut Secrets,
    news: Vec<(String, SecretString)>,
) -> Came {
    let Ok(plan) = store.propose(numbered(77), &anything) else {
        return Came::Nowhere;
    };
    let Ok(staged) = store.stage(plan, "tester", "a change") else {
        return Came::Nowhere;
    };
    let Ok(next) = secrets.stage(news, &[], &staged) else {
        return Came::Nowhere;
    };
    match staged.activate() {
        Ok(_) => {
            // Where this fails, the next load does it.
            let _ = secrets.take(next);
            Came::Through
        }
        Err(ActivateError::NotConfirmed { .. }) => {
            secrets.hold(next);
            Came::Undecided
        }
        Err(ActivateError::NotActivated(_)) => {
            let _ = secrets.discard(next);
            Came::Nowhere
        }
    }
}

fn settings_and_secrets_belong_together(fault_at: fn(usize) -> Fault) {
    let secret = |n: u32| SecretString::from(format!("secret-number-{n:04}"));
    let load = |disk: &Arc<Disk>| Secrets::load_from(disk.clone(), Path::new("/data"));
    let value = |secrets: &Secrets| {
        let secret = secrets.get("a").expect("there");
        secret.expose_secret().to_owned()
    };
    let (old, new) = ("secret-number-0001", "secret-number-0002");
    let before = Arc::new(prepared(2));
    load(&before)
        .expect("loads")
        .set("a", secret(1))
        .expect("set");
    for step in 0.. {
        let disk = Arc::new(Disk::clone(&before));
        let (store, _) = start(&disk);
        let mut secrets = load(&disk).expect("loads");
        disk.plan(fault_at(step));
        let news = vec![("a".to_owned(), secret(2))];
        let came = change_with_secrets(&store, &mut secrets, news);
        let done = disk.steps() <= step;
        let expected = if came == Came::Nowhere { old } else { new };
        assert_eq!(value(&secrets), expected, "step {step}, in memory");
        for seed in 0..SEEDS {
            let context = format!("step {step}, {came:?}, seed {seed}");
            let lost = Arc::new(disk.after_crash(seed));
            let (_, now) = start(&lost);
            let secrets = load(&lost).expect("loads");
            assert!(came == Came::Undecided || (now == 77) == (came == Came::Through));
            let expected = if now == 77 { new } else { old };
            assert_eq!(value(&secrets), expected, "{context}");
            goes_on(&lost, &context);
        }
        // The host lives on: what comes next is not overruled by what was staged.
        disk.plan(Fault::None);
        secrets.set("a", secret(3)).expect("set");
        drop(secrets);
        assert_eq!(value(&load(&disk).expect("loads")), "secret-number-0003");
        if done {
            assert_eq!(came, Came::Through);
            assert!(step > 15, "the fault met no step: {step}");
            return;
        }
    }
}

#[test]
fn settings_and_their_secrets_fail_once_at_every_step() {
    settings_and_secrets_belong_together(Fault::At);
}

#[test]
fn settings_and_their_secrets_fail_from_every_step_on() {
    settings_and_secrets_belong_together(Fault::From);
}

/// What a person or a fault makes of the current settings while the service is down.
#[derive(Clone, Copy, Debug)]
enum Hand {
    Edits,
    CutsTheHeader,
    Damages,
    Loses,
}

impl Hand {
    fn at_work(self, disk: &Disk) {
        const CURRENT: &str = "/data/settings/current.toml";
        let mut bytes = disk.files()[Path::new(CURRENT)].clone();
        match self {
            Self::Edits => bytes.extend_from_slice(b"# by hand\n"),
            Self::CutsTheHeader => {
                let text = String::from_utf8(bytes).expect("text");
                bytes = crate::record::without_header(&text).as_bytes().to_vec();
            }
            Self::Damages => bytes = b"version = 1\n[serv".to_vec(),
            Self::Loses => return disk.lose(CURRENT),
        }
        disk.overwrite(CURRENT, &bytes);
    }
}

/// The secrets `a`, which was there before, and `b`, which came with the change.
fn a_and_b(secrets: &Secrets) -> (Option<String>, Option<String>) {
    let value = |name| Some(secrets.get(name)?.expose_secret().to_owned());
    (value("a"), value("b"))
}

/// A change brings a new `a` and with it `b`; the host is lost at `step` of it.
fn lost_in_a_change(before: &Arc<Disk>, step: usize, seed: u64) -> (Disk, bool, bool) {
    let disk = Arc::new(Disk::clone(before));
    let (store, _) = start(&disk);
    let mut secrets = Secrets::load_from(disk.clone(), Path::new("/data")).expect("loads");
    disk.plan(Fault::From(step));
    let news = [("a", "secret-number-0002"), ("b", "secret-number-000b")];
    let news = news.map(|(name, secret)| (name.to_owned(), SecretString::from(secret)));
    change_with_secrets(&store, &mut secrets, news.into());
    let done = disk.steps() <= step;
    let lost = disk.after_crash(seed);
    // By the file alone: a load would clear away what the hand is to meet.
    let current = &lost.files()[Path::new("/data/settings/current.toml")];
    let after = String::from_utf8_lossy(current).contains("spin_us = 77");
    (lost, after, done)
}

#[test]
fn a_hand_edit_after_a_crash_loses_no_secret() {
    let load = |disk: &Arc<Disk>| Secrets::load_from(disk.clone(), Path::new("/data"));
    let before = Arc::new(prepared(2));
    let old = SecretString::from("secret-number-0001");
    load(&before).expect("loads").set("a", old).expect("set");
    let new = (
        Some("secret-number-0002".to_owned()),
        Some("secret-number-000b".to_owned()),
    );
    let old = (Some("secret-number-0001".to_owned()), None);
    let hands = [Hand::Edits, Hand::CutsTheHeader, Hand::Damages, Hand::Loses];
    for step in 0.. {
        let mut done = false;
        for (hand, seed) in hands
            .iter()
            .flat_map(|hand| (0..8).map(move |seed| (hand, seed)))
        {
            let context = format!("step {step}, seed {seed}, {hand:?}");
            let (lost, after, through) = lost_in_a_change(&before, step, seed);
            done = through;
            hand.at_work(&lost);
            let now = a_and_b(&load(&Arc::new(lost.clone())).expect("loads"));
            if after {
                assert_eq!(now, new, "{context}");
            } else if matches!(hand, Hand::Edits) {
                assert_eq!(now, old, "{context}");
            } else {
                assert!(now == old || now == new, "{context}: {now:?}");
            }
            // The host is lost once more, within that load.
            for at in 0.. {
                let again = Arc::new(lost.clone());
                again.plan(Fault::From(at));
                let loaded = load(&again).is_ok();
                let over = again.steps() <= at;
                let again = Arc::new(again.after_crash(seed));
                let found = a_and_b(&load(&again).expect("loads"));
                assert_eq!(found, now, "{context}, then at {at}: loaded {loaded}");
                if over {
                    break;
                }
            }
        }
        if done {
            assert!(step > 15, "the fault met no step: {step}");
            return;
        }
    }
}

#[test]
fn an_edit_by_hand_is_adopted_with_the_secrets_it_names() {
    let disk = Arc::new(prepared(2));
    let (store, _) = start(&disk);
    let load = |disk: &Arc<Disk>| Secrets::load_from(disk.clone(), Path::new("/data"));
    let mut secrets = load(&disk).expect("loads");
    let plan = store.propose(numbered(77), &anything).expect("a plan");
    let staged = store.stage(plan, "tester", "a change").expect("staged");
    let news = vec![("b".to_owned(), SecretString::from("secret-number-000b"))];
    let next = secrets.stage(news, &[], &staged).expect("staged");
    staged.activate().expect("current");
    secrets.hold(next);
    drop((store, secrets));
    Hand::Edits.at_work(&disk);

    let secrets = load(&disk).expect("loads");
    let store = store_on(&disk);
    assert!(matches!(store.load(), Err(LoadError::Changed { .. })));
    let named = |_: &Document| match secrets.contains("b") {
        true => Ok(()),
        false => Err(CheckError::new("chap[0].secret", "no such secret")),
    };
    let plan = store.propose_adoption(&named).expect("a plan");
    store.commit(plan, "tester", "adopt").expect("adopted");
    assert_eq!(start(&disk).1, 77);
    assert!(load(&disk).expect("loads").contains("b"));
    goes_on(&disk, "adopted");
}

#[test]
fn secrets_that_were_given_up_do_not_come_into_force_with_a_later_change() {
    let load = |disk: &Arc<Disk>| Secrets::load_from(disk.clone(), Path::new("/data"));
    let old = (Some("secret-number-0001".to_owned()), None);
    let mut refused = 0;
    for step in 0.. {
        let disk = Arc::new(prepared(2));
        let (store, _) = start(&disk);
        let mut secrets = load(&disk).expect("loads");
        let first = SecretString::from("secret-number-0001");
        secrets.set("a", first).expect("set");
        let plan = store.propose(numbered(77), &anything).expect("a plan");
        let staged = store.stage(plan, "tester", "given up").expect("staged");
        let given_up = staged.generation().expect("a generation").number;
        let news = vec![("b".to_owned(), SecretString::from("secret-number-000b"))];
        let next = secrets.stage(news, &[], &staged).expect("staged");
        disk.plan(Fault::At(0));
        secrets.discard(next).expect_err("the disk fails");
        staged.discard().expect("discarded");

        disk.plan(Fault::At(step));
        let ready = secrets.stage_none();
        let done = disk.steps() <= step;
        disk.plan(Fault::None);
        if ready.is_err() {
            refused += 1;
        } else {
            let plan = store.propose(numbered(78), &anything).expect("a plan");
            let made = store.commit(plan, "tester", "a later one").expect("made");
            assert_eq!(made.number, given_up, "a number is given again");
        }
        for seed in 0..SEEDS {
            let lost = disk.after_crash(seed);
            Hand::Edits.at_work(&lost);
            let now = a_and_b(&load(&Arc::new(lost)).expect("loads"));
            assert_eq!(now, old, "step {step}, seed {seed}");
        }
        if done {
            assert!(refused > 0, "no fault met the removal");
            return;
        }
    }
}
