//! CHAP accounts, their secrets, and what documents do with both.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Site, run, run_with, sanctumd};

#[test]
fn chap_accounts() {
    let site = Site::new();
    let service = site.start();
    let secrets = || std::fs::read_to_string(site.dir().join("secrets/secrets.toml")).unwrap();
    let add = |input: &str| run_with(&mut service.command("chap add bob --secret-stdin"), input);
    add("short\n").fails(1, &["5 bytes", "12"]);
    add("").fails(2, &["no secret"]);
    assert!(!secrets().contains("bob"));
    add("correct-horse\n").ok();
    assert!(secrets().contains("\"bob\" = \"correct-horse\""));
    add("battery-staple\n").fails(4, &["exists already", "set-secret"]);
    assert!(secrets().contains("correct-horse"));
    // Without a terminal there is nobody to ask.
    service
        .run("chap add carol")
        .fails(2, &["--secret-stdin", "--generate"]);
    let generation = service.generation();
    service.run("chap set-secret bob --generate").ok();
    assert!(!secrets().contains("correct-horse"));
    assert_eq!(service.generation(), generation + 1, "in the history");
    let why = service.json("settings history")[0]["why"].to_string();
    assert!(why.contains("new secret of CHAP account bob"), "{why}");
    // Nothing is kept of a secret whose change is refused.
    let words = "chap set-secret bob --secret-stdin";
    let before = secrets();
    let short = run_with(&mut service.command(words), "short\n");
    short.fails(1, &["5 bytes", "12"]);
    assert_eq!((secrets(), service.generation()), (before, generation + 1));
    service
        .run(&format!("target update {} --chap bob", site.target()))
        .ok();
    service
        .run("chap remove bob")
        .fails(4, &["target iqn", "uses it"]);
    service
        .run(&format!("target update {} --chap initiator", site.target()))
        .ok();
    service.run("chap remove bob").ok();
    assert!(!secrets().contains("bob"));
}

#[test]
fn settings_move_to_another_host_with_their_secrets() {
    let site = Site::new();
    let service = site.start();
    run_with(
        &mut service.command("chap add bob --secret-stdin"),
        "correct-horse\n",
    )
    .ok();
    let file = site.scratch("with-secrets.toml");
    let path = file.display();
    let export = format!("settings export {path} --with-secrets --passphrase-stdin");
    run_with(&mut service.command(&export), "short\n").fails(1, &["passphrase is shorter"]);
    run_with(&mut service.command(&export), "a long passphrase\n").ok();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("[sealed_secrets]") && !text.contains("correct-horse"));
    service.stop();

    // The other host has the image under the same path; the first one has ended.
    let other = Site::new();
    let service = other.start();
    // Its own first device makes place: what a device is made of never changes under its name.
    service
        .run(&format!("target delete {}", other.target()))
        .ok();
    service.run("device delete disk0").ok();
    let generation = service.generation();
    let secrets = || std::fs::read_to_string(other.dir().join("secrets/secrets.toml")).unwrap();
    let before = secrets();
    let apply = format!("settings apply {path} --passphrase-stdin");
    service
        .run(&format!("settings apply {path}"))
        .fails(1, &["give its passphrase"]);
    run_with(&mut service.command(&apply), "a wrong passphrase\n")
        .fails(1, &["passphrase is wrong"]);
    // A document that cannot be served takes its secrets with it.
    std::fs::rename(site.dir().join("images"), site.scratch("aside")).unwrap();
    run_with(&mut service.command(&apply), "a long passphrase\n").fails(4, &["disk0.img"]);
    assert_eq!(secrets(), before);
    assert_eq!(service.generation(), generation);
    std::fs::rename(site.scratch("aside"), site.dir().join("images")).unwrap();
    run_with(&mut service.command(&apply), "a long passphrase\n").ok();
    assert!(secrets().contains("\"bob\" = \"correct-horse\""));
    assert_eq!(service.json("target list")[0]["name"], site.target());
}

#[test]
fn secrets_take_effect_with_their_document_or_not_at_all() {
    let site = Site::new();
    let service = site.start();
    let add = |secret: &str| {
        let words = "chap add bob --secret-stdin";
        run_with(&mut service.command(words), secret).ok();
    };
    add("correct-horse\n");
    let file = site.scratch("with-secrets.toml");
    let path = file.display();
    let export = format!("settings export {path} --with-secrets --passphrase-stdin");
    run_with(&mut service.command(&export), "a long passphrase\n").ok();
    let text = std::fs::read_to_string(&file).unwrap();
    run_with(
        &mut service.command("chap set-secret bob --secret-stdin"),
        "battery-staple\n",
    )
    .ok();
    let secrets_file = site.dir().join("secrets/secrets.toml");
    let secrets = || std::fs::read_to_string(&secrets_file).unwrap();
    let staged = site.dir().join("secrets/staged.toml");
    let before = secrets();
    let generation = service.generation();
    // The data path refuses the document: its secrets do not come either.
    std::fs::write(&file, text.replace("size = 67108864", "size = 33554432")).unwrap();
    let apply = format!("settings apply {path} --passphrase-stdin");
    run_with(&mut service.command(&apply), "a long passphrase\n").fails(4, &["shrink"]);
    assert_eq!((secrets(), service.generation()), (before, generation));
    assert!(!staged.exists());
    // The same settings with other secrets are a change, too, and one with a generation.
    std::fs::write(&file, &text).unwrap();
    let diff = format!("settings diff {path} --passphrase-stdin");
    let told = run_with(&mut service.command(&diff), "a long passphrase\n").ok();
    assert_eq!(told.out, "secrets new or replaced: bob\n");
    let told = run_with(&mut service.command(&apply), "a long passphrase\n").ok();
    let now = generation + 1;
    let sentence = format!("secrets new or replaced: bob\ngeneration {now} is in force\n");
    assert_eq!(told.out, sentence);
    assert!(secrets().contains("\"bob\" = \"correct-horse\""));
    assert_eq!(service.generation(), now);
    assert!(!staged.exists());
    // A second time there is nothing to do.
    let told = run_with(&mut service.command(&apply), "a long passphrase\n").ok();
    assert!(told.out.starts_with("nothing to change"), "{told:?}");
    let told = run_with(&mut service.command(&diff), "a long passphrase\n").ok();
    assert!(told.out.starts_with("no difference"), "{told:?}");
    assert_eq!(service.generation(), generation + 1);
    // What a kill between the two leaves is cleared away.
    service.kill();
    let left = secrets().replace("correct-horse", "battery-staple");
    std::fs::write(&staged, staged_for(now + 1, &left)).unwrap();
    site.start().stop();
    assert!(secrets().contains("correct-horse") && !staged.exists());
}

/// The text of secrets that a kill left staged for a generation.
fn staged_for(generation: u64, secrets: &str) -> String {
    let before = generation - 1;
    let settings = format!("generation {generation} after {before}, SHA-256 00");
    let (_, lines) = secrets.split_once('\n').unwrap();
    format!("# Secrets of Sanctum, in force with these settings: {settings}\n{lines}")
}

#[test]
fn settings_edited_after_a_kill_keep_the_secrets_of_their_change() {
    let site = Site::new();
    let service = site.start();
    let words = "chap add bob --secret-stdin";
    run_with(&mut service.command(words), "correct-horse\n").ok();
    let generation = service.generation();
    service.kill();
    // The change was in force, and its secrets had not got their place.
    let placed = site.dir().join("secrets/secrets.toml");
    let staged = site.dir().join("secrets/staged.toml");
    let secrets = std::fs::read_to_string(&placed).unwrap();
    std::fs::write(&staged, staged_for(generation, &secrets)).unwrap();
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600)).unwrap();
    let without: Vec<&str> = secrets
        .lines()
        .filter(|line| !line.contains("bob"))
        .collect();
    std::fs::write(&placed, without.join("\n")).unwrap();
    let current = site.current();
    let text = std::fs::read_to_string(&current).unwrap();
    std::fs::write(&current, text + "# by hand\n").unwrap();

    run(&mut site.service()).fails(1, &["sanctumd adopt"]);
    run(sanctumd("adopt").arg("--data-dir").arg(site.dir())).ok();
    let secrets = std::fs::read_to_string(&placed).unwrap();
    assert!(secrets.contains("\"bob\" = \"correct-horse\"") && !staged.exists());
    let service = site.start();
    assert_eq!(service.json("chap list")[2]["secret_stored"], true);
}

#[test]
fn secrets_go_with_their_accounts() {
    let site = Site::new();
    let service = site.start();
    let secrets = || std::fs::read_to_string(site.dir().join("secrets/secrets.toml")).unwrap();
    let with_input = |words: &str, input: &str| run_with(&mut service.command(words), input);
    let add = |secret: &str| with_input("chap add bob --secret-stdin", secret).ok();
    let file = |name: &str| site.scratch(name).display().to_string();
    let (without, with, sealed) = (file("without"), file("with"), file("sealed"));
    service.run(&format!("settings export {without}")).ok();
    add("correct-horse\n");
    let named = service.generation();
    service.run(&format!("settings export {with}")).ok();
    let words = format!("settings export {sealed} --with-secrets --passphrase-stdin");
    with_input(&words, "a long passphrase\n").ok();

    // A change that fails takes no secret away.
    let text = std::fs::read_to_string(&without).unwrap();
    let shrinks = text.replace("size = 67108864", "size = 33554432");
    with_input("settings apply -", &shrinks).fails(4, &["shrink"]);
    assert!(secrets().contains("correct-horse"));
    let told = service.run(&format!("settings diff {without}")).ok().out;
    assert!(
        told.contains("secrets removed, as no account names them: bob"),
        "{told}"
    );
    assert!(secrets().contains("correct-horse"));
    let told = service.run(&format!("settings apply {without}")).ok().out;
    assert!(
        told.contains("secrets removed, as no account names them: bob"),
        "{told}"
    );
    assert!(!secrets().contains("bob"));
    let events = service.json("event list --code settings-changed");
    let event = events.as_array().unwrap().last().unwrap().to_string();
    assert!(event.contains("went: bob"), "{event}");

    // Whoever knows the old secret is not let in by a later document.
    let refused = ["account `bob` names a secret", "sanctum chap add bob"];
    service
        .run(&format!("settings apply {with}"))
        .fails(1, &refused);
    service
        .run(&format!("settings diff {with}"))
        .fails(1, &refused);
    service
        .run(&format!("settings rollback {named}"))
        .fails(1, &refused);
    add("battery-staple\n");
    let rollback = format!("settings rollback {named}");
    service.run(&rollback).ok();
    assert!(secrets().contains("\"bob\" = \"battery-staple\""));

    // A document's secrets that no account of it names do not come.
    service.run(&format!("settings apply {without}")).ok();
    let text = std::fs::read_to_string(&sealed).unwrap();
    let account = "[[iscsi.chap]]\nuser = \"bob\"\nsecret = \"bob\"\n";
    assert!(text.contains(account), "{text}");
    std::fs::write(&sealed, text.replace(account, "")).unwrap();
    let words = format!("settings apply {sealed} --passphrase-stdin");
    with_input(&words, "a long passphrase\n").ok();
    assert!(!secrets().contains("bob"));
}

#[test]
fn an_export_of_secrets_is_recorded() {
    let site = Site::new();
    let service = site.start();
    let events = || service.json("event list --code secrets-exported");
    let (plain, sealed) = (site.scratch("plain"), site.scratch("sealed"));
    service
        .run(&format!("settings export {}", plain.display()))
        .ok();
    let words = format!(
        "settings export {} --with-secrets --passphrase-stdin --reason moving",
        sealed.display()
    );
    run_with(&mut service.command(&words), "short\n").fails(1, &["passphrase is shorter"]);
    assert_eq!(events(), json!([]));
    run_with(&mut service.command(&words), "a long passphrase\n").ok();
    let events = events();
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    assert_eq!(
        (&events[0]["subject"], &events[0]["cause"]),
        (&json!("generation 1"), &json!("moving"))
    );
    let message = events[0]["message"].as_str().unwrap();
    assert!(message.ends_with("exported the settings with all secrets, under a passphrase"));
    assert!(!events.to_string().contains("a long passphrase"));
}

#[test]
fn what_of_a_change_did_not_go_well_is_a_warning() {
    let site = Site::new();
    let service = site.start();
    let placed = site.dir().join("secrets/secrets.toml");
    let aside = site.dir().join("secrets/aside.toml");
    // The staged secrets cannot be moved to where a directory lies.
    std::fs::rename(&placed, &aside).unwrap();
    std::fs::create_dir(&placed).unwrap();
    let words = "chap add bob --secret-stdin";
    run_with(&mut service.command(words), "correct-horse\n").ok();
    let warnings = service.json("event list --severity warning --code change-incomplete");
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    assert_eq!(warnings[0]["subject"], "generation 2");
    let message = warnings[0]["message"].as_str().unwrap();
    assert!(message.contains("secrets.toml"), "{message}");
    let change = &service.json("event list --code settings-changed")[0];
    assert_eq!(
        (&change["severity"], &change["next_step"]),
        (&json!("info"), &json!(null))
    );
    // The next change brings them to their place.
    std::fs::remove_dir(&placed).unwrap();
    service.run("chap set-secret bob --generate").ok();
    assert!(std::fs::read_to_string(&placed).unwrap().contains("bob"));
}
