//! Every noun of the command line against a running service.

use serde_json::json;

use crate::harness::{Running, Site, free_port, run, run_with};

#[test]
fn devices_and_luns() {
    let site = Site::new();
    let service = site.start();
    let target = site.target();
    service
        .run("device create image full --size 32M --provisioning preallocated")
        .ok();
    let full = site.dir().join("images/full.img");
    assert!(std::os::unix::fs::MetadataExt::blocks(&full.metadata().unwrap()) * 512 >= 32 << 20);
    service
        .run("device create image full --size 32M")
        .fails(4, &["full exists already"]);
    service
        .run("device create ram scratch --size 8M --block-size 4096")
        .ok();
    let added = service.json(&format!("lun add {target} full"));
    assert_eq!(added["number"], 1);
    assert_eq!(
        service.json(&format!(
            "lun add {target} scratch --number 9 --read-only true"
        ))["number"],
        9
    );
    service
        .run(&format!("lun add {target} scratch"))
        .fails(4, &["is LUN 9 of", "already"]);
    service
        .run(&format!("lun add {target} none"))
        .fails(1, &["there is no device none"]);
    let numbers: Vec<_> = service
        .json("lun list")
        .as_array()
        .unwrap()
        .iter()
        .map(|lun| lun["number"].clone())
        .collect();
    assert_eq!(numbers, [json!(0), json!(1), json!(9)]);

    service.run("device grow full +32M").ok();
    assert_eq!(service.json("device show full")["live"]["size"], 64 << 20);
    assert_eq!(full.metadata().unwrap().len(), 64 << 20);
    service
        .run("device grow full 16M")
        .fails(4, &["cannot shrink"]);
    service.run("device cache full write-back").ok();
    service
        .run("device queue full --queue-depth 4 --asynchronous true")
        .ok();
    // A setting has one spelling, when a device is made and later.
    let words = "--asynchronous false --physical-blocks false --removable true";
    service
        .run(&format!("device create ram other --size 8M {words}"))
        .ok();
    let other = service.json("device show other");
    let settings = ["asynchronous", "physical_blocks", "removable"].map(|name| other[name] == true);
    assert_eq!(settings, [false, false, true]);
    let shown = service.json("device show full");
    assert_eq!(
        (&shown["live"]["cache"], &shown["queue_depth"]),
        (&json!("write-back"), &json!(4))
    );
    service.run("device clear-reservations full").ok();
}

#[test]
fn what_initiators_are_told_can_be_changed_later() {
    let site = Site::new();
    let service = site.start();
    let target = site.target();
    service
        .run("device update disk0 --removable true --physical-blocks false")
        .ok();
    let shown = service.json("device show disk0");
    assert_eq!(
        (&shown["removable"], &shown["physical_blocks"]),
        (&json!(true), &json!(false))
    );
    // The data path follows: a medium that was fixed can be ejected now.
    service.run("device eject disk0").ok();
    assert_eq!(
        service.json("device show disk0")["live"]["state"],
        "ejected"
    );
    service.run("device load disk0").ok();
    service.run("device update disk0 --removable false").ok();
    service
        .run("device eject disk0")
        .fails(4, &["not removable"]);
    service
        .run("device update disk0")
        .fails(2, &["nothing to change"]);
    let table = service.run("device show disk0").ok().out;
    assert!(
        table.contains("physical blocks") && table.contains("hidden"),
        "{table}"
    );

    service
        .run(&format!("lun update {target} 0 --read-only true"))
        .ok();
    assert_eq!(service.json("lun list")[0]["read_only"], true);
    service
        .run(&format!("lun update {target} 0 --read-only false"))
        .ok();
    assert_eq!(service.json("lun list")[0]["read_only"], false);
    service
        .run(&format!("lun update {target} 9 --read-only true"))
        .fails(1, &["no LUN 9"]);
}

#[test]
fn discovery_can_ask_for_proof() {
    let site = Site::new();
    let service = site.start();
    assert_eq!(service.json("discovery show")["accounts"], json!(null));
    service
        .run("discovery require")
        .fails(2, &["--chap USER", "sanctum discovery open"]);
    service
        .run("discovery require --chap nobody")
        .fails(1, &["iscsi.discovery", "nobody"]);
    service
        .run("discovery require --chap initiator --mutual target --algorithm sha256")
        .ok();
    let shown = service.run("discovery show").ok().out;
    for word in ["initiator", "target", "sha256"] {
        assert!(shown.contains(word), "`{word}` is missing: {shown}");
    }
    let used = service.json("chap list")[0]["used_by"].to_string();
    assert!(used.contains("discovery"), "{used}");
    assert!(
        service.json("settings show")["text"]
            .as_str()
            .unwrap()
            .contains("[iscsi.discovery]")
    );
    service.run("discovery open").ok();
    assert!(
        service
            .run("discovery show")
            .ok()
            .out
            .contains("no proof asked")
    );
}

#[test]
fn events_are_followed_as_they_happen() {
    let site = Site::new();
    let service = site.start();
    let follow = |words: &str| {
        let mut command = service.command(&format!("event follow {words}"));
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        crate::harness::Process::spawn(&mut command)
    };
    // From the first event on: what was there comes first, then what happens.
    let last = service.json("event list")[0]["id"].as_u64().unwrap();
    let json = follow(&format!(
        "--output json --after {last} --code settings-changed --limit 2"
    ));
    let table = follow(&format!("--after {last} --code settings-changed --limit 2"));
    service.run("device queue disk0 --queue-depth 5").ok();
    service.run("device queue disk0 --queue-depth 6").ok();
    let lines = json.finish().ok().out;
    let events: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["code"], "settings-changed");
    assert!(events[0]["id"].as_u64() < events[1]["id"].as_u64());
    let lines = table.finish().ok().out;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("generation 3"), "{lines}");
    // Ends with the service.
    let open = follow(&format!("--after {last} --code settings-changed"));
    service.stop();
    // Told so, or nobody there any more.
    let done = open.finish();
    assert!(matches!(done.code, Some(1 | 3)), "{done:?}");
}

#[test]
fn a_removed_device_keeps_its_file_and_identity() {
    let site = Site::new();
    let service = site.start();
    let target = site.target();
    service.run("device create image full --size 32M").ok();
    service.run(&format!("lun add {target} full")).ok();
    let full = site.dir().join("images/full.img");
    let shown = service.json("device show full");
    service
        .run("device delete full")
        .fails(4, &["LUN 1 of", "sanctum lun remove"]);
    service.run(&format!("lun remove {target} 1")).ok();
    service
        .run(&format!("lun remove {target} 1"))
        .fails(1, &["no LUN 1"]);
    service.run("device delete full").ok();
    assert!(full.exists());
    let path = full.display();
    service
        .run(&format!(
            "device create image again --existing --path {path}"
        ))
        .ok();
    assert_eq!(
        service.json("device show again")["live"]["serial"],
        shown["live"]["serial"]
    );
    service.run("device delete again --delete-file").ok();
    assert_eq!(
        site.dir().join("images").read_dir().unwrap().count(),
        2,
        "disk0 and what lies beside it"
    );
}

#[test]
fn a_device_that_is_made_anew_is_another_one() {
    let site = Site::new();
    let service = site.start();
    let iso = site.scratch("cd.iso");
    let mut content = vec![0; 64 * 2048];
    content[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
    std::fs::write(&iso, content).unwrap();
    let iso = iso.display();
    let serial =
        |name: &str| service.json(&format!("device show {name}"))["live"]["serial"].clone();
    for create in [
        "ram scratch --size 8M".to_owned(),
        format!("iso scratch --path {iso}"),
    ] {
        service.run(&format!("device create {create}")).ok();
        let first = serial("scratch");
        service.run("device delete scratch").ok();
        let devices = site.dir().join("devices");
        assert_eq!(devices.read_dir().unwrap().count(), 0, "{create}");
        service.run(&format!("device create {create}")).ok();
        assert_ne!(serial("scratch"), first, "{create}");
        assert_eq!(
            service.json("device show scratch")["live"]["state"],
            "ready"
        );
        service.run("device delete scratch").ok();
    }
    // What a kill left after a deletion does not come back either.
    service.run("device create ram scratch --size 8M").ok();
    let first = serial("scratch");
    let left = site.dir().join("devices/ram-scratch.json");
    let document = std::fs::read(&left).unwrap();
    service.run("device delete scratch").ok();
    std::fs::write(&left, document).unwrap();
    service.run("device create ram scratch --size 8M").ok();
    assert_ne!(serial("scratch"), first);
}

#[test]
fn an_image_that_was_lost_leaves_its_identity_to_nobody() {
    let site = Site::new();
    let service = site.start();
    service.run("device create image one --size 16M").ok();
    service.run("device delete one").ok();
    std::fs::remove_file(site.dir().join("images/one.img")).unwrap();
    let generation = service.generation();
    service
        .run("device create image one --size 16M")
        .fails(4, &["one.img.sanctum", "remove it when"]);
    assert_eq!(service.generation(), generation);
    assert!(site.dir().join("images/one.img.sanctum").exists());
    assert!(!site.dir().join("images/one.img").exists());
    std::fs::remove_file(site.dir().join("images/one.img.sanctum")).unwrap();
    service.run("device create image one --size 16M").ok();
}

#[test]
fn a_file_that_another_device_uses_stays() {
    let site = Site::new();
    let service = site.start();
    service.run("device create image one --size 16M").ok();
    let file = site.dir().join("images/one.img");
    let link = site.scratch("link.img");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    service.run("device delete one").ok();
    let add = |name: &str, path: &std::path::Path| {
        let path = path.display();
        service.run(&format!(
            "device create image {name} --existing --read-only true --path {path}"
        ))
    };
    add("one", &file).ok();
    let generation = service.generation();
    // Both would be the same disk for initiators, even where both merely read it.
    add("two", &link).fails(4, &["serial number of the device one"]);
    assert_eq!(service.generation(), generation);
    assert!(file.exists() && link.exists());
    service.run("device delete one").ok();
    add("two", &link).ok();
    service.run("device delete two --delete-file").ok();
    assert!(!file.exists() && link.symlink_metadata().is_err());
    assert_eq!(
        site.dir().join("images").read_dir().unwrap().count(),
        2,
        "disk0 and what lies beside it"
    );
}

#[test]
fn what_was_put_in_the_place_of_a_device_file_is_not_deleted() {
    let site = Site::new();
    let service = site.start();
    let (file, kept) = (site.scratch("m.img"), site.scratch("kept.img"));
    let precious = site.scratch("precious.conf");
    std::fs::write(&precious, "precious").unwrap();
    let path = file.display();
    service
        .run(&format!("device create image m --size 16M --path {path}"))
        .ok();
    std::fs::rename(&file, &kept).unwrap();
    let generation = service.generation();
    let refused = || {
        service.run("device delete m --delete-file").fails(
            4,
            &[
                "not the one that the device uses",
                "sanctum device delete m",
            ],
        );
        assert_eq!(service.generation(), generation);
    };
    std::os::unix::fs::symlink(&precious, &file).unwrap();
    refused();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "other").unwrap();
    refused();
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    assert_eq!(std::fs::read(&file).unwrap(), b"other");
    std::fs::rename(&kept, &file).unwrap();
    service.run("device delete m --delete-file").ok();
    assert!(!file.exists() && !site.scratch("m.img.sanctum").exists());
    // What was never open cannot be recognised.
    service
        .run(&format!("device create image m --size 16M --path {path}"))
        .ok();
    service.stop();
    std::fs::write(&file, "short").unwrap();
    let service = site.start();
    service
        .run("device delete m --delete-file")
        .fails(4, &["could not be opened", "sanctum device delete m"]);
    service.run("device delete m").ok();
    assert_eq!(std::fs::read(&file).unwrap(), b"short");
}

#[test]
fn a_ram_disk_is_empty_after_a_restart_and_says_so() {
    let site = Site::new();
    let service = site.start();
    service.run("device create ram scratch --size 8M").ok();
    service
        .run(&format!("lun add {} scratch", site.target()))
        .ok();
    assert_eq!(
        service.json("device show scratch")["live"]["state"],
        "ready"
    );
    service.stop();
    let service = site.start();
    assert_eq!(
        service.json("device show scratch")["live"]["state"],
        "empty"
    );
    assert!(
        service.json("status")["attention"][0]
            .as_str()
            .unwrap()
            .contains("scratch")
    );
    service.run("device load scratch").ok();
    assert_eq!(
        service.json("device show scratch")["live"]["state"],
        "ready"
    );
}

#[test]
fn an_existing_image_that_is_too_short_or_missing() {
    let site = Site::new();
    let service = site.start();
    let short = site.scratch("short.img");
    std::fs::write(&short, vec![1; 1 << 20]).unwrap();
    let generation = service.generation();
    let short = short.display();
    service
        .run(&format!(
            "device create image short --existing --path {short} --size 2M"
        ))
        .fails(4, &["1048576 bytes"]);
    service
        .run("device create image none --existing --path /nonexistent/x.img")
        .fails(1, &["/nonexistent/x.img"]);
    assert_eq!(service.generation(), generation);
    assert_eq!(
        std::fs::read(site.scratch("short.img")).unwrap(),
        vec![1; 1 << 20]
    );
}

#[test]
fn targets_and_access_rules() {
    let site = Site::new();
    let service = site.start();
    let name = "iqn.2026-11.com.example:second";
    service
        .run(&format!(
            "target create {name} --alias two --allow-multiple false --chap initiator"
        ))
        .ok();
    service
        .run(&format!("target create {name}"))
        .fails(4, &["exists already"]);
    service
        .run("target create not-a-name")
        .fails(1, &["an iSCSI name looks like", "iscsi.target[2].name"]);
    service
        .run(&format!("target update {name} --chap nobody"))
        .fails(1, &["nobody"]);
    service.run(&format!("target update {name} --mutual target --mutual-required true --algorithm sha3-256 --algorithm md5")).ok();
    let shown = service.json(&format!("target show {name}"));
    assert_eq!(
        shown["authentication"],
        json!({"accounts": ["initiator"], "mutual": "target", "mutual_required": true, "algorithms": ["sha3-256", "md5"]})
    );
    assert_eq!(
        (&shown["allow_multiple"], &shown["alias"]),
        (&json!(false), &json!("two"))
    );

    service
        .run(&format!("access add {name} allow --network 10.0.0.0/8"))
        .ok();
    service
        .run(&format!(
            "access add {name} deny --initiator iqn.bad* --position 1"
        ))
        .ok();
    service
        .run(&format!("access add {name} read-only --lun 0=4"))
        .fails(1, &["no LUN 4"]);
    service.run(&format!("access move {name} 1 2")).ok();
    what_a_rule_asks_for(&service, name);
    let actions: Vec<_> = service
        .json(&format!("access list {name}"))
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["action"].clone())
        .collect();
    assert_eq!(actions, ["allow", "deny"]);
    service
        .run(&format!("access remove {name} 3"))
        .fails(1, &["no access rule 3"]);
    service.run(&format!("access remove {name} 2")).ok();
    service.run(&format!("target delete {name}")).ok();
    service
        .run(&format!("target show {name}"))
        .fails(1, &["there is no target"]);
}

/// What a rule asks for is shown, and what a target asks for can be lifted.
fn what_a_rule_asks_for(service: &Running, name: &str) {
    let words = "--chap initiator --mutual target --mutual-required true --algorithm sha256";
    service
        .run(&format!("access add {name} allow {words}"))
        .ok();
    for shown in ["access list", "target show"] {
        let shown = service.run(&format!("{shown} {name}")).ok().out;
        let words = ["target, required", "sha256", "as the target"];
        for word in words {
            assert!(shown.contains(word), "`{word}` is missing: {shown}");
        }
    }
    service.run(&format!("access remove {name} 3")).ok();
    // What was restricted can be lifted again.
    let mut lift = service.command(&format!("target update {name}"));
    run(lift.args(["--algorithm", ""])).ok();
    let shown = service.json(&format!("target show {name}"));
    let hashes = shown["authentication"]["algorithms"].as_array();
    assert!(hashes.is_none_or(Vec::is_empty), "{shown}");
}

#[test]
fn portals() {
    let site = Site::new();
    let service = site.start();
    let port = free_port();
    // An address of its own: another test may take the port of 127.0.0.1 once it is free.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let address = std::net::Ipv4Addr::new(127, 64 | (a & 63), b, c | 1);
    service
        .run(&format!("portal add second {address}:{port}"))
        .ok();
    std::net::TcpStream::connect((address, port)).unwrap();
    service.run("portal disable second").ok();
    std::net::TcpStream::connect((address, port)).unwrap_err();
    service.run("portal enable second").ok();
    std::net::TcpStream::connect((address, port)).unwrap();
    let listed = service.json("portal list");
    assert_eq!(
        (&listed[1]["listening"], &listed[1]["enabled"]),
        (&json!(true), &json!(true))
    );
    service
        .run(&format!("target update {} --portal second", site.target()))
        .ok();
    service
        .run("portal remove second")
        .fails(4, &["target iqn"]);
    service
        .run(&format!("target update {} --portal=", site.target()))
        .ok();
    service.run("portal remove second").ok();
    std::net::TcpStream::connect((address, port)).unwrap_err();
}

#[test]
fn the_settings_as_a_whole() {
    let site = Site::new();
    let service = site.start();
    let file = site.scratch("san.toml");
    let path = file.display();
    service.run(&format!("settings export {path}")).ok();
    service
        .run(&format!("settings export {path}"))
        .fails(1, &["cannot write"]);
    let text = std::fs::read_to_string(&file).unwrap();
    let edited = format!(
        "# by hand\n{}",
        text.replace("queue_depth = 128", "queue_depth = 7")
    );
    std::fs::write(&file, &edited).unwrap();
    let diff = service.json(&format!("settings diff {path}"));
    assert!(diff["text"].as_str().unwrap().contains("+queue_depth = 7"));
    assert_eq!(service.generation(), 1);
    service
        .run(&format!("settings apply {path} --expect 7"))
        .fails(
            4,
            &["changed since generation 7", "generation 1 is in force"],
        );
    let mut apply = service.command(&format!("settings apply {path} --expect 1"));
    crate::harness::run(apply.args(["--reason", "less queue"])).ok();
    assert_eq!(service.json("device show disk0")["queue_depth"], 7);
    assert_eq!(
        service.json("settings show")["text"],
        edited,
        "comments are kept"
    );
    let again = service.json(&format!("settings apply {path}"));
    assert_eq!(
        (&again["text"], &again["changed"]),
        (&json!(""), &json!(false))
    );
    let said = |words: String| service.run(&words).ok().out;
    assert!(said(format!("settings apply {path}")).contains("nothing to change; generation 2"));
    // Comments alone are a change, and what is said is true.
    std::fs::write(&file, format!("# more\n{edited}")).unwrap();
    assert!(said(format!("settings diff {path}")).contains("only comments or layout differ"));
    let conflict = service.run(&format!("settings apply {path} --dry-run --expect 1"));
    conflict.fails(4, &["generation 2 is in force, not 1"]);
    let applied = said(format!("settings apply {path}"));
    assert!(applied.contains("only comments") && applied.contains("generation 3 is in force"));
    let history = service.json("settings history");
    assert_eq!(
        (&history[1]["generation"], &history[1]["why"]),
        (&json!(2), &json!("less queue"))
    );
    let events = service.json("event list --code settings-changed");
    assert_eq!(events[0]["cause"], "less queue");
    service.run("settings rollback 1").ok();
    assert_eq!(service.json("device show disk0")["queue_depth"], 128);
    assert_eq!(service.generation(), 4);
    service
        .run("settings rollback 99")
        .fails(1, &["no generation 99"]);
    let done = run_with(&mut service.command("settings apply -"), &edited).ok();
    assert!(done.out.contains("generation 5 is in force"));
}

#[test]
fn tables_are_for_people() {
    let site = Site::new();
    let service = site.start();
    let listed = service.run("device list").ok().out;
    let mut lines = listed.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "KIND", "SIZE", "CACHE", "EXPOSED", "AS", "STATE"]
    );
    assert!(lines.next().unwrap().starts_with("disk0"));
    let shown = service
        .run(&format!("target show {}", site.target()))
        .ok()
        .out;
    assert!(
        shown.contains("disk0") && shown.contains("127.0.0.0/8"),
        "{shown}"
    );
    assert!(!listed.contains('\x1b') && !shown.contains('\x1b'));
    for words in [
        "status",
        "target list",
        "lun list",
        "portal list",
        "chap list",
        "session list",
        "event list",
        "settings show",
        "settings history",
    ] {
        assert!(!service.run(words).ok().out.is_empty(), "{words}");
    }
    service.run("session drop 77").fails(1, &["no session"]);
}
