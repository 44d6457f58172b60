//! `sanctum setup`, then start, stop, kill and start again.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::harness::{Site, run, run_with, sanctum};

#[test]
fn a_first_start_serves_and_a_second_setup_changes_nothing() {
    let site = Site::new();
    assert_eq!(site.report["created"], true);
    let port: u16 = site.report["portal"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let before = std::fs::read(site.current()).unwrap();
    let service = site.start();
    assert_eq!(
        service.ready,
        format!(
            "ready portal=127.0.0.1:{port} socket={}",
            site.dir().join("api.sock").display()
        )
    );
    // Beside a running service, too.
    let mut second = site.set_up(port).json();
    assert_eq!(second["created"], false);
    second["created"] = true.into();
    assert_eq!(second, site.report);
    assert_eq!(std::fs::read(site.current()).unwrap(), before);

    let status = service.json("status");
    assert_eq!(status["portals"]["working"], 1);
    assert_eq!(status["devices"]["working"], 1);
    assert_eq!(status["attention"], serde_json::json!([]));
    let devices = service.json("device list");
    assert_eq!(devices[0]["live"]["state"], "ready");
    assert_eq!(devices[0]["live"]["size"], 64 << 20);
    assert_eq!(service.stop(), "");
    assert!(!site.dir().join("api.sock").exists());
}

#[test]
fn setup_says_what_to_type_next() {
    let site = Site::new();
    let mut again = sanctum("setup --non-interactive --address 127.0.0.1 --data-dir");
    let text = run(again.arg(site.dir())).ok().out;
    for word in [
        site.target(),
        "secrets/secrets.toml",
        "sanctumd run --data-dir",
        "export SANCTUM_SOCKET=",
        "sanctum status",
    ] {
        assert!(text.contains(word), "`{word}` is missing: {text}");
    }
    let secrets = std::fs::read_to_string(site.dir().join("secrets/secrets.toml")).unwrap();
    for line in secrets.lines().filter(|line| !line.starts_with('#')) {
        let secret = line.rsplit('"').nth(1).unwrap();
        assert_eq!(secret.len(), 16);
        assert!(!text.contains(secret));
    }
}

#[test]
fn the_role_is_kept_and_those_to_come_are_refused() {
    let site = Site::new();
    let settings = std::fs::read_to_string(site.current()).unwrap();
    assert!(settings.contains("role = \"san\""), "{settings}");
    let home = tempfile::tempdir().unwrap();
    for (role, reason) in [
        ("node", "does not have the role `node` yet"),
        ("nas", "no such role"),
    ] {
        let mut command = sanctum(&format!("setup --non-interactive --role {role} --data-dir"));
        run(command.arg(home.path().join("data"))).fails(2, &[reason, "san"]);
    }
    assert_eq!(home.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_client_finds_the_service_of_the_default_directory() {
    let home = tempfile::tempdir().unwrap();
    let mut command = sanctum("status");
    command
        .env("XDG_DATA_HOME", home.path())
        .env("HOME", home.path());
    let place = if rustix::process::geteuid().is_root() {
        "/sanctum/api.sock".to_owned()
    } else {
        home.path().join("sanctum/api.sock").display().to_string()
    };
    run(&mut command).fails(3, &[&place]);
}

#[test]
fn setup_without_a_terminal_wants_flags() {
    let home = tempfile::tempdir().unwrap();
    let mut command = sanctum("setup --data-dir");
    run(command.arg(home.path().join("data"))).fails(2, &["no terminal", "--non-interactive"]);
    let mut command = sanctum("setup --non-interactive --address 192.0.2.1 --data-dir");
    run(command.arg(home.path().join("data")))
        .fails(4, &["cannot listen on 192.0.2.1", "--address"]);
}

#[test]
fn identity_and_settings_survive_stop_and_crash() {
    let site = Site::new();
    let service = site.start();
    service.run("device create image second --size 16M").ok();
    service
        .run(&format!("lun add {} second", site.target()))
        .ok();
    let serials = |devices: &serde_json::Value| -> Vec<String> {
        let devices = devices.as_array().unwrap();
        devices
            .iter()
            .map(|device| device["live"]["serial"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = serials(&service.json("device list"));
    let generation = service.generation();
    service.signal(Signal::HUP);
    service.kill();
    // The crash left a socket behind, which nobody answers on.
    assert!(site.dir().join("api.sock").exists());

    let service = site.start();
    assert_eq!(service.generation(), generation);
    assert_eq!(serials(&service.json("device list")), before);
    service.stop();
    let service = site.start();
    assert_eq!(serials(&service.json("device list")), before);
    let codes: Vec<String> = service
        .json("event list")
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["code"].as_str().unwrap().to_owned())
        .filter(|code| code.starts_with("service-"))
        .collect();
    assert_eq!(
        codes,
        [
            "service-started",
            "service-started",
            "service-stopped",
            "service-started"
        ]
    );
}

#[test]
fn what_is_private_is_private() {
    let site = Site::new();
    let service = site.start();
    let mode = |path: &str| {
        site.dir()
            .join(path)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        site.dir().metadata().unwrap().permissions().mode() & 0o7777,
        0o700
    );
    assert_eq!(mode("api.sock"), 0o660);
    assert_eq!(mode("secrets"), 0o700);
    for file in [
        "secrets/secrets.toml",
        "settings/current.toml",
        "images/disk0.img",
        "lock",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    let secrets = std::fs::read_to_string(site.dir().join("secrets/secrets.toml")).unwrap();
    let secrets: Vec<&str> = secrets
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit('"').nth(1).unwrap())
        .collect();
    assert_eq!(secrets.len(), 2);
    for words in [
        "status",
        "chap list",
        "target list",
        "settings show",
        "settings history",
        "event list",
    ] {
        let shown = service.json(words).to_string();
        assert!(
            secrets.iter().all(|secret| !shown.contains(secret)),
            "{words}"
        );
    }
    // Written in the background; there once the service has ended.
    service.stop();
    assert_eq!(mode("events/events.jsonl"), 0o600);
}

#[test]
fn an_export_to_standard_output_is_a_document_and_nothing_else() {
    let site = Site::new();
    let service = site.start();
    let text = service.run("settings export -").ok().out;
    let again = run_with(&mut service.command("settings apply -"), &text).ok();
    assert!(again.out.contains("nothing to change"), "{}", again.out);
    let value = service.json("settings export -");
    assert_eq!(value["text"], text);
}
