//! Bad flags, damaged settings, two services, open secrets, a port that is taken, a device that is
//! gone: each has its clear error, and nothing is lost or half applied.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Site, run, run_with, sanctum, sanctumd};

#[test]
fn bad_flags_end_with_2_and_nobody_at_the_socket_with_3() {
    for words in [
        "",
        "target",
        "device create image a --size 10X",
        "access add t maybe",
        "status --output yaml",
    ] {
        let done = run(&mut sanctum(words)).fails(2, &[]);
        assert!(done.out.is_empty() && !done.err.is_empty(), "{done:?}");
    }
    run(&mut sanctumd("run")).fails(2, &["--data-dir"]);
    run(&mut sanctumd("run --data-dir /x --ring fast")).fails(2, &["fast"]);
    run(&mut sanctumd("run --data-dir /nonexistent/x"))
        .fails(1, &["no data directory", "sanctum setup"]);
    run(&mut sanctum("--socket /nonexistent/api.sock status")).fails(
        3,
        &["/nonexistent/api.sock", "sanctumd run", "SANCTUM_SOCKET"],
    );
    let done = run(&mut sanctum(
        "--output json --socket /nonexistent/api.sock status",
    ));
    let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(done.code, Some(3));
    assert!(
        problem["next_step"]
            .as_str()
            .unwrap()
            .contains("sanctumd run")
    );
}

#[test]
fn damaged_settings_keep_the_service_from_starting_and_are_never_replaced() {
    let site = Site::new();
    let service = site.start();
    service.run("device create image second --size 16M").ok();
    service.stop();
    let good = std::fs::read_to_string(site.current()).unwrap();
    let line = 1 + good
        .lines()
        .position(|line| line.starts_with("spin_us"))
        .unwrap();
    for (damaged, reason) in [
        (good.replace("spin_us = 50", "spin_us = = 50"), ""),
        (
            good.replace("spin_us = 50", "spin_su = 50"),
            "did you mean `spin_us`",
        ),
        (good.replace("spin_us = 50", "spin_us = \"much\""), ""),
    ] {
        std::fs::write(site.current(), &damaged).unwrap();
        let place = format!("line {line}, column");
        let done = run(&mut site.service()).fails(
            1,
            &[
                "current.toml",
                &place,
                reason,
                "sanctumd restore",
                "sanctumd adopt",
            ],
        );
        assert_eq!(done.out, "");
        assert_eq!(std::fs::read_to_string(site.current()).unwrap(), damaged);
    }
    // A changed value is a good document, but not what the service wrote.
    std::fs::write(site.current(), good.replace("spin_us = 50", "spin_us = 60")).unwrap();
    run(&mut site.service()).fails(1, &["changed by something else", "sanctumd adopt"]);
    // Cut in the middle, as by a bad disk.
    std::fs::write(site.current(), &good[..good.len() / 2]).unwrap();
    run(&mut site.service()).fails(1, &["current.toml"]);

    let dir = site.dir();
    let restore = |words: &str| run(sanctumd(words).arg("--data-dir").arg(&dir));
    restore("restore --generation 77").fails(1, &["no generation 77"]);
    assert!(restore("restore").ok().out.contains("generation 2 is back"));
    restore("restore").fails(1, &["well"]);
    let service = site.start();
    assert_eq!(service.json("device list").as_array().unwrap().len(), 2);
    assert!(site.dir().join("settings/current.damaged.toml").exists());
}

#[test]
fn settings_edited_by_hand_can_be_adopted() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.current()).unwrap();
    std::fs::write(
        site.current(),
        text.replace("queue_depth = 128", "queue_depth = 9"),
    )
    .unwrap();
    run(&mut site.service()).fails(1, &["sanctumd adopt"]);
    let dir = site.dir();
    let adopt = || run(sanctumd("adopt").arg("--data-dir").arg(&dir));
    assert!(adopt().ok().out.contains("generation 2"));
    let service = site.start();
    assert_eq!(service.json("device show disk0")["queue_depth"], 9);
    adopt().fails(1, &["another sanctumd"]);
    service.stop();
    std::fs::write(
        site.current(),
        text.replace("queue_depth = 128", "queue_depth = 0"),
    )
    .unwrap();
    adopt().fails(1, &["iscsi.device[0].queue_depth", "1 to 1024"]);
}

#[test]
fn a_group_that_went_keeps_nothing_from_being_served() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.current()).unwrap();
    let with_group = "ring = \"auto\"\napi_group = \"no-such-group\"";
    std::fs::write(site.current(), text.replace("ring = \"auto\"", with_group)).unwrap();
    run(sanctumd("adopt").arg("--data-dir").arg(site.dir())).ok();
    let service = site.start();
    let told = service.json("event list --code group-not-admitted");
    assert_eq!(told.as_array().unwrap().len(), 1);
    assert_eq!(
        service.json("device list")[0]["live"]["state"],
        "ready",
        "the disks are served"
    );
    // Nor does it keep something else from being changed.
    service.run("device create ram disk7 --size 1M").ok();
}

#[test]
fn documents_with_mistakes_change_nothing() {
    let site = Site::new();
    let service = site.start();
    let good = service.json("settings show")["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let line = |needle: &str| 1 + good.lines().position(|line| line.contains(needle)).unwrap();
    let at = |needle: &str| format!("line {}, column", line(needle));
    let apply = |text: &str| run_with(&mut service.command("settings apply -"), text);
    apply(&good.replace("queue_depth", "queue_depht")).fails(
        1,
        &[
            &at("queue_depth"),
            "unknown key",
            "did you mean `queue_depth`",
        ],
    );
    apply(&good.replace("version = 1", "version = 9"))
        .fails(1, &["line 1, column", "newer release"]);
    apply(&good.replace("secret = \"target\"", "secret = \"lost\""))
        .fails(1, &[&at("secret = \"target\""), "account `target`"]);
    let leak = apply(&good.replace("secret = \"target\"", "secret = \"hunter2hunter2\""));
    assert!(!leak.fails(1, &["account `target`"]).err.contains("hunter2"));
    apply(&good.replace("device = \"disk0\"", "device = \"disk9\""))
        .fails(1, &[&at("device = \"disk0\""), "disk9"]);
    apply(&good.replace("size = 67108864", "size = 67108865"))
        .fails(1, &["multiple of the block size"]);
    apply(&good.replace("size = 67108864", "size = 33554432")).fails(4, &["shrink"]);
    // One more than the data path takes would keep the next start from serving.
    apply(&good.replace("shards = 0", "shards = 65")).fails(1, &["service.shards", "at most 64"]);
    let own = good.replace("images/disk0.img", "secrets/secrets.toml");
    apply(&own).fails(1, &["iscsi.device[0].path", "the service's own files"]);
    apply("\u{0}\u{1}").fails(1, &["line 1"]);
    let group = "api_group = \"4294967295\"";
    apply(&good.replace("ring = \"auto\"", group)).fails(1, &["service.api_group"]);
    apply(&good.replace("ring = \"auto\"", "api_group = \"no-such-group\""))
        .fails(1, &["no-such-group"]);
    assert_eq!(service.generation(), 1);
    assert_eq!(service.json("settings show")["text"], good);
    let dir = site.dir().join("settings/generations");
    assert_eq!(dir.read_dir().unwrap().count(), 1, "nothing staged is left");
}

#[test]
fn two_services_never_share_a_directory() {
    let site = Site::new();
    let service = site.start();
    let other = site.scratch("other.sock");
    run(site.service().arg("--socket").arg(other)).fails(1, &["another sanctumd", "--data-dir"]);
    service.run("status").ok();
    // Nor a socket.
    let second = Site::new();
    run(second.service().arg("--socket").arg(&service.socket))
        .fails(1, &["another service answers", "--socket"]);
    service.run("status").ok();
}

#[test]
fn secrets_that_others_can_read_keep_the_service_from_starting() {
    let site = Site::new();
    let path = site.dir().join("secrets/secrets.toml");
    let set =
        |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    run(&mut site.service()).fails(1, &["secrets.toml", "0644", "chmod 600"]);
    set(0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}broken\n")).unwrap();
    let done = run(&mut site.service()).fails(1, &["secrets.toml", "line 4"]);
    assert!(
        text.lines()
            .skip(1)
            .all(|line| !done.err.contains(line.rsplit('"').nth(1).unwrap()))
    );
    // A secret that was removed by hand.
    let one: String = text
        .lines()
        .filter(|line| !line.starts_with("\"target\""))
        .fold(String::new(), |all, line| all + line + "\n");
    std::fs::write(&path, one).unwrap();
    run(&mut site.service()).fails(1, &["account `target` names a secret", "secrets.toml"]);
    std::fs::write(&path, text).unwrap();
    site.start().stop();
}

#[test]
fn a_device_that_is_gone_stops_nothing_else() {
    let site = Site::new();
    let service = site.start();
    service.run("device create image second --size 16M").ok();
    service.stop();
    let image = site.dir().join("images/second.img");
    let aside = site.scratch("second.img");
    std::fs::rename(&image, &aside).unwrap();
    let service = site.start();
    let status = service.json("status");
    assert_eq!(
        (&status["devices"]["working"], &status["devices"]["total"]),
        (&1.into(), &2.into())
    );
    assert!(
        status["attention"][0]
            .as_str()
            .unwrap()
            .contains("second.img")
    );
    assert_eq!(
        service.json("event list --code device-failed")[0]["subject"],
        "second"
    );
    // Other changes go on beside it.
    service.run("device queue disk0 --queue-depth 5").ok();
    service.run("device load second").fails(4, &["second.img"]);
    std::fs::rename(&aside, &image).unwrap();
    service.run("device load second").ok();
    assert_eq!(service.json("status")["attention"], serde_json::json!([]));
}

#[test]
fn an_image_that_is_too_short_at_the_start() {
    let site = Site::new();
    let image = site.dir().join("images/disk0.img");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let service = site.start();
    let attention = service.json("status")["attention"][0]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        attention.contains("disk0") && attention.contains("1048576"),
        "{attention}"
    );
    assert_eq!(
        image.metadata().unwrap().len(),
        1 << 20,
        "never grown silently"
    );
}

#[test]
fn a_taken_port() {
    let site = Site::new();
    let service = site.start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    service
        .run(&format!("portal add second {address}"))
        .fails(4, &["second", &address.to_string()]);
    assert_eq!(service.generation(), 1);
    assert_eq!(service.json("portal list").as_array().unwrap().len(), 1);
    service.stop();
    // At a start it is told, and the rest serves.
    let portal = site.report["portal"].as_str().unwrap();
    let held = TcpListener::bind(portal).unwrap();
    let service = site.start();
    assert!(
        service.ready.starts_with("ready portal= socket="),
        "{}",
        service.ready
    );
    assert!(
        service.json("status")["attention"][0]
            .as_str()
            .unwrap()
            .contains(portal)
    );
    drop(held);
}

#[test]
fn a_disk_that_is_full() {
    let site = Site::new();
    let service = site.start();
    let before = site.dir().join("images").read_dir().unwrap().count();
    service
        .run("device create image vast --size 512T --provisioning preallocated")
        .fails(1, &["no space for", "vast.img", "free some space"]);
    assert_eq!(service.generation(), 1);
    assert_eq!(
        site.dir().join("images").read_dir().unwrap().count(),
        before
    );
    let tasks: serde_json::Value = service.json("device list");
    assert_eq!(tasks.as_array().unwrap().len(), 1);
}
