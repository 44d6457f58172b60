//! Cancelling work that takes long.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Process, Running, Site};

/// Large enough to take a moment, small enough for the disk: a part of what is free.
fn size(site: &Site) -> u64 {
    let free = rustix::fs::statvfs(site.dir()).unwrap();
    let bytes = (free.f_bavail * free.f_frsize / 8).min(16 << 30);
    bytes >> 20 << 20
}

/// Nothing of the device is left: not in the settings, not on disk.
fn nothing_left(site: &Site, service: &Running) {
    assert_eq!(service.json("device list").as_array().unwrap().len(), 1);
    assert!(!site.dir().join("images/large.img").exists());
}

/// Sends requests on one connection without waiting between them, and reads all answers.
fn pipelined(service: &Running, requests: &str) -> String {
    let mut stream = UnixStream::connect(&service.socket).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers
}

/// The work may be done before it can be cancelled, then it is tried again: what is tested is what
/// a cancellation leaves, and that there is one in so many tries.
const TRIES: u64 = 20;

#[test]
fn a_cancelled_preallocation_leaves_nothing() {
    let site = Site::new();
    let service = site.start();
    let body = format!(
        r#"{{"name":"large","backing":{{"kind":"image","size":{},"provisioning":"preallocated"}}}}"#,
        size(&site)
    );
    for id in 1..=TRIES {
        let requests = format!(
            "POST /api/v1/devices HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}\
             DELETE /api/v1/tasks/{id} HTTP/1.1\r\nhost: x\r\n\r\n\
             GET /api/v1/tasks/{id}?after=1000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let answers = pipelined(&service, &requests);
        if answers.contains(r#""state":"cancelled""#) {
            nothing_left(&site, &service);
            let events = service.json("event list --code task-cancelled");
            assert!(
                events[0]["message"]
                    .as_str()
                    .unwrap()
                    .contains("add device large")
            );
            return;
        }
        assert!(answers.contains(r#""state":"done""#), "{answers}");
        service.run("device delete large --delete-file").ok();
    }
    panic!("never cancelled in {TRIES} tries");
}

#[test]
fn ctrl_c_cancels() {
    let site = Site::new();
    let service = site.start();
    let size = size(&site);
    for _ in 0..TRIES {
        let mut command = service.command(&format!(
            "device create image large --size {size} --provisioning preallocated"
        ));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let process = Process::spawn(&mut command);
        while !begun(&service) {}
        process.signal(Signal::INT);
        let done = process.finish();
        if done.code == Some(0) {
            service.run("device delete large --delete-file").ok();
            continue;
        }
        // Between begin and signal the client had no time to catch the signal: it died of it, and
        // the service goes on with the work.
        if done.code.is_none() {
            while service.json("device list").as_array().unwrap().len() == 1 {}
            service.run("device delete large --delete-file").ok();
            continue;
        }
        done.fails(1, &["cancelled", "nothing was left behind"]);
        nothing_left(&site, &service);
        return;
    }
    panic!("never cancelled in {TRIES} tries");
}

/// A task runs, or one has ended since the last look at the list of devices.
fn begun(service: &Running) -> bool {
    let answers = pipelined(
        service,
        "GET /api/v1/tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    let body = answers.split("\r\n\r\n").nth(1).unwrap();
    let tasks: Value = serde_json::from_str(body).unwrap();
    let last = tasks
        .as_array()
        .unwrap()
        .last()
        .map(|task| task["state"].clone());
    last.is_some_and(|state| state == "running")
        || service.json("device list").as_array().unwrap().len() > 1
}

#[test]
fn a_stop_in_the_middle_leaves_nothing() {
    let site = Site::new();
    let service = site.start();
    let body = format!(
        r#"{{"name":"large","backing":{{"kind":"image","size":{},"provisioning":"preallocated"}}}}"#,
        size(&site)
    );
    let request = format!(
        "POST /api/v1/devices HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = pipelined(&service, &request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    service.stop();
    // Either it was done before the stop, or there is nothing of it.
    let service = site.start();
    let devices = service.json("device list").as_array().unwrap().len();
    assert_eq!(devices == 2, site.dir().join("images/large.img").exists());
    assert_eq!(service.json("status")["attention"], serde_json::json!([]));
}
