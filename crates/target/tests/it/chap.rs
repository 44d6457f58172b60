//! What a session proved at login has to hold as long as the session does.

use crate::support::{HANG, Initiator, World, cdb, rule, settings};
use iscsi::initiator::ChapLogin;
use iscsi::target::{Algorithm, Secret};
use target::Secrets;
use target::config::{Action, Authentication, ChapAccount, ChapAlgorithm, Config};

const FIRST: &str = "the first secret";
const SECOND: &str = "the second secret";

/// Accounts `a` and `b`; both are asked of everybody.
fn with_chap(world: &World) -> Config {
    let mut config = Config::clone(&world.service.config());
    config.accounts = ["a", "b"]
        .map(|user| ChapAccount {
            user: user.to_owned(),
            secret: format!("chap/{user}"),
        })
        .to_vec();
    config.targets[0].authentication.accounts = vec!["a".to_owned(), "b".to_owned()];
    config
}

/// Applies with `a`'s secret as given; that of `b` never changes.
fn apply(world: &World, config: &Config, secret_of_a: &str) {
    let mut secrets = Secrets::new();
    secrets.insert("chap/a", secret_of_a.as_bytes().to_vec());
    secrets.insert("chap/b", FIRST.as_bytes().to_vec());
    let applied = world.service.apply(config.clone(), secrets);
    world.runtime.block_on(applied).unwrap();
}

fn login(world: &World, user: &str, secret: &str) -> Result<Initiator, String> {
    let mut settings = settings(user, 1);
    settings.chap = Some(ChapLogin {
        user: user.to_owned(),
        secret: Secret::new(secret.as_bytes().to_vec()),
        algorithms: vec![Algorithm::Md5],
        optional: false,
        mutual: None,
    });
    let mut initiator = Initiator::begin_with(world.address, settings);
    initiator.outcome().map(|()| initiator)
}

fn sessions(world: &World) -> Vec<String> {
    let mut names: Vec<String> = world
        .service
        .sessions()
        .into_iter()
        .map(|session| session.initiator.replace("iqn.2026-11.test:", ""))
        .collect();
    names.sort();
    names
}

#[test]
fn sessions_from_before_chap_was_asked_for_end() {
    let world = World::start(HANG);
    let _open = world.initiator("open");
    apply(&world, &with_chap(&world), FIRST);
    assert!(sessions(&world).is_empty());
    let refused = Initiator::connect(world.address, "open", 1).err().unwrap();
    assert!(refused.contains("0x0201"), "{refused}");
    login(&world, "a", FIRST).unwrap();
}

#[test]
fn a_change_of_an_account_ends_its_sessions_and_no_others() {
    let world = World::start(HANG);
    let chap = with_chap(&world);
    apply(&world, &chap, FIRST);
    let _a = login(&world, "a", FIRST).unwrap();
    let mut b = login(&world, "b", FIRST).unwrap();
    apply(&world, &chap, FIRST);
    assert_eq!(sessions(&world), ["a", "b"], "nothing has changed");
    // Another secret counts from the next login.
    apply(&world, &chap, SECOND);
    assert_eq!(sessions(&world), ["a", "b"]);
    let refused = login(&world, "a", FIRST).err().unwrap();
    assert!(refused.contains("0x0201"), "{refused}");
    // The account is not among those that may log in any more.
    let mut only_b = chap.clone();
    only_b.targets[0].authentication.accounts = vec!["b".to_owned()];
    apply(&world, &only_b, SECOND);
    assert_eq!(sessions(&world), ["b"]);
    // A rule that asks for another account comes first.
    let mut ruled = chap.clone();
    ruled.targets[0]
        .access
        .insert(0, rule("*:b", Action::Allow));
    ruled.targets[0].access[0].authentication = Some(Authentication {
        accounts: vec!["a".to_owned()],
        ..Authentication::default()
    });
    assert_eq!(
        b.run(cdb(&[0]), None, 0).status,
        2,
        "the power-on attention"
    );
    assert_eq!(b.run(cdb(&[0]), None, 0).status, 0);
    apply(&world, &ruled, SECOND);
    assert!(sessions(&world).is_empty());
    b.wait_until_closed();
}

#[test]
fn a_hash_that_is_not_allowed_any_more_ends_the_session() {
    let world = World::start(HANG);
    let mut chap = with_chap(&world);
    apply(&world, &chap, FIRST);
    let _a = login(&world, "a", FIRST).unwrap();
    chap.targets[0].authentication.algorithms = vec![ChapAlgorithm::Md5, ChapAlgorithm::Sha256];
    apply(&world, &chap, FIRST);
    assert_eq!(sessions(&world), ["a"]);
    chap.targets[0].authentication.algorithms = vec![ChapAlgorithm::Sha256];
    apply(&world, &chap, FIRST);
    assert!(sessions(&world).is_empty());
}

#[test]
fn a_login_under_way_meets_the_new_policy() {
    let world = World::start(HANG);
    let mut late = Initiator::begin(world.address, "late", 1);
    // The target has let it go on without a proof.
    late.wait_for_bytes();
    apply(&world, &with_chap(&world), FIRST);
    let refused = late.outcome().unwrap_err();
    assert!(refused.contains("0x0201"), "{refused}");
    assert!(sessions(&world).is_empty());
}

#[test]
fn a_discovery_session_meets_the_new_policy() {
    let world = World::start(HANG);
    let mut settings = settings("curious", 1);
    settings.target_name = None;
    settings.session_type = iscsi::initiator::SessionType::Discovery;
    let mut curious = Initiator::begin_with(world.address, settings);
    curious.outcome().unwrap();
    let mut config = with_chap(&world);
    config.discovery = Some(Authentication {
        accounts: vec!["a".to_owned()],
        ..Authentication::default()
    });
    apply(&world, &config, FIRST);
    curious.ask_for_targets();
    curious.wait_until_closed();
}
