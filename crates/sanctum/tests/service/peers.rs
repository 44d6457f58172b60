//! Who may use the socket, and what it takes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;

use crate::harness::{Running, Site, run, sanctum_path};

/// A user and group that is neither root nor this one.
const STRANGER: u32 = 65_534;

/// The socket where others could reach it, so that only the service itself keeps them out.
fn open_to_all(site: &Site) -> Running {
    let place = site.scratch("run");
    std::fs::create_dir(&place).unwrap();
    let service = Running::start(site.service().arg("--socket").arg(place.join("api.sock")));
    std::fs::set_permissions(site.scratch(""), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
    service
}

/// A copy of the client that a stranger can run.
fn stranger(site: &Site, service: &Running) -> Command {
    let copy = site.scratch("sanctum-copy");
    if !copy.exists() {
        std::fs::copy(sanctum_path(), &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(copy);
    command
        .env("SANCTUM_SOCKET", &service.socket)
        .current_dir("/")
        .arg("status");
    command.uid(STRANGER).gid(STRANGER);
    command
}

#[test]
fn strangers_are_kept_out_and_group_members_let_in() {
    let site = Site::new();
    let service = open_to_all(&site);
    let mode = || service.socket.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o660);
    service.run("status").ok();
    if !geteuid().is_root() {
        // What can be seen without being several users is seen by now.
        eprintln!("skipped from here: only root can run a client as another user");
        return;
    }
    run(&mut stranger(&site, &service)).fails(3, &["Permission denied", "group"]);
    std::fs::set_permissions(&service.socket, PermissionsExt::from_mode(0o666)).unwrap();
    run(&mut stranger(&site, &service))
        .fails(1, &["may not use this service", "service.api_group"]);

    // The stranger's group is let in at once, and only by the mode that belongs to it.
    let text = service.json("settings show")["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let group = format!("ring = \"auto\"\napi_group = \"{}\"", group_name());
    let text = text.replace("ring = \"auto\"", &group);
    crate::harness::run_with(&mut service.command("settings apply -"), &text).ok();
    assert_eq!(mode(), 0o660);
    run(&mut stranger(&site, &service)).ok();
    service.run("settings rollback 1").ok();
    run(&mut stranger(&site, &service)).fails(3, &["Permission denied"]);
}

fn group_name() -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let line = groups
        .lines()
        .find(|line| line.split(':').nth(2) == Some("65534"))
        .unwrap();
    line.split(':').next().unwrap().to_owned()
}

fn raw(service: &Running, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(&service.socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // The service may answer and close before it has read all of a request that is too large.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_generation_that_is_expected_counts_for_every_change() {
    let site = Site::new();
    let service = site.start();
    service.run("device update disk0 --removable true").ok();
    let ask = |method: &str, path: &str, body: &str, expect: u64| {
        let request = format!(
            "{method} /api/v1/{path}?expect={expect} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        raw(&service, request.as_bytes())
    };
    let image = r#"{"name":"new","backing":{"kind":"image","size":1048576}}"#;
    for (method, path, body) in [
        ("POST", "devices", image),
        ("POST", "devices/disk0/eject", ""),
        ("POST", "devices/disk0/load", ""),
        ("DELETE", "devices/disk0/reservations", ""),
        ("PUT", "chap/initiator/secret", "{}"),
        ("DELETE", "sessions/1", ""),
    ] {
        let answer = ask(method, path, body, 1);
        assert!(answer.starts_with("HTTP/1.1 409"), "{path}: {answer}");
        assert!(answer.contains("generation-conflict"), "{path}: {answer}");
    }
    // An image that is not there has no size of its own.
    let image = r#"{"name":"new","backing":{"kind":"image"}}"#;
    let answer = ask("POST", "devices", image, service.generation());
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("give its size"),
        "{answer}"
    );
    assert!(!site.dir().join("images/new.img").exists());
    assert!(ask("POST", "devices/disk0/eject", "", 2).starts_with("HTTP/1.1 200"));
    assert_eq!(
        service.json("event list --code device-ejected")[0]["subject"],
        "disk0"
    );
}

#[test]
fn requests_that_are_too_large_or_make_no_sense() {
    let site = Site::new();
    let service = site.start();
    let post = |length: usize, body: &str| {
        let head = format!(
            "POST /api/v1/targets HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        raw(&service, head.as_bytes())
    };
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(100_000));
    assert!(post(large.len(), &large).starts_with("HTTP/1.1 413"));
    assert!(post(9, "{\"name\":1").starts_with("HTTP/1.1 400"));
    let unknown = "{\"name\":\"iqn.2026-11.a:b\",\"colour\":\"red\"}";
    let answer = post(unknown.len(), unknown);
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("colour"),
        "{answer}"
    );
    let head = format!(
        "GET /api/v1/status HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "a".repeat(64 * 1024)
    );
    assert!(raw(&service, head.as_bytes()).starts_with("HTTP/1.1 431"));
    let gone = raw(
        &service,
        b"GET /api/v1/nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(
        gone.starts_with("HTTP/1.1 404") && gone.contains("\"code\":\"not-found\""),
        "{gone}"
    );
    let method = raw(
        &service,
        b"PUT /api/v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(method.starts_with("HTTP/1.1 405"), "{method}");
    service.run("status").ok();
    assert_eq!(service.generation(), 1);
}

#[test]
fn more_connections_than_there_are_places() {
    let site = Site::new();
    let service = site.start();
    // One more than the places; the last waits, and gets its turn when one goes.
    let mut held: Vec<UnixStream> = (0..64)
        .map(|_| UnixStream::connect(&service.socket).unwrap())
        .collect();
    for stream in &mut held {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
            .write_all(b"GET /api/v1/portals HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
    }
    let mut last = UnixStream::connect(&service.socket).unwrap();
    last.write_all(b"GET /api/v1/portals HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    last.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut byte = [0];
    let waiting = last.read(&mut byte).unwrap_err();
    assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock);
    held.pop();
    last.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    last.read_exact(&mut byte).unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", service.id()))
        .unwrap()
        .count();
    assert!(descriptors < 64 + 100, "{descriptors}");
}
