//! A shard that ends before its time: its ring has failed, or it has panicked.
//!
//! Nobody may go on waiting for it, and nothing may be given to it any more. Its connections break;
//! initiators come back through other shards. What it had on the disk may still land: the sessions
//! of such commands stay entered, so that their nexuses are not let in beside an old write, and the
//! units stay NOT READY until the service is started anew.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::Shard;
use super::command::Phase;
use crate::message::ShardMessage;
use crate::notice::Notice;

impl Drop for Shard {
    fn drop(&mut self) {
        if !(self.stopping && self.is_idle()) {
            self.abandon();
        }
    }
}

impl Shard {
    fn abandon(&mut self) {
        // From here on whoever sends to it is told that it is gone.
        self.inbox.close();
        let mut unfinished = HashSet::new();
        let running: Vec<_> = self.running.drain().collect();
        for mut running in running {
            if matches!(running.phase, Phase::Disk(_)) {
                unfinished.insert(running.session);
                if !running.owed {
                    running.unit.zombie_born();
                }
                running.unit.lose();
                // Its pass is not given back: nothing may come between the blocks it changes.
                continue;
            }
            if let Some(pass) = running.pass.take() {
                let grants = running.unit.gate.release(pass);
                self.deliver(grants);
            }
            if running.owed {
                // Should it be the last one, the control plane finds that by itself.
                running.unit.zombie_gone();
            }
        }
        while let Ok(message) = self.inbox.try_recv() {
            if let ShardMessage::Admitted {
                outcome: Ok(session),
                ..
            } = message
            {
                self.links.shared.registry.remove(session.tsih);
            }
        }
        self.break_connections(&unfinished);
        let failure = self.failure.take();
        self.links.shared.tell(Notice::ShardFailed {
            shard: self.index.to_string(),
            reason: failure.unwrap_or_else(|| "it panicked".to_owned()),
        });
    }

    fn break_connections(&mut self, unfinished: &HashSet<usize>) {
        for listener in self.listeners.drain() {
            listener.portal.listening.store(false, Ordering::Release);
        }
        for connection in self.connections.drain() {
            connection.break_off();
        }
        for (place, session) in std::mem::take(&mut self.sessions) {
            self.links.shared.tell(Notice::SessionClosed {
                initiator: session.shared.nexus.initiator.to_string(),
                target: session.shared.target.clone(),
                reason: "its shard has failed".to_owned(),
            });
            if !unfinished.contains(&place) {
                self.links.shared.registry.remove(session.shared.tsih);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::ops::Range;
    use std::time::{Duration, Instant};

    use iscsi::initiator::{Connection, Event, Settings};
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::{AccessRule, Action, Authentication, Config, Portal, Target};
    use crate::{Options, Secrets, Service};

    const TARGET: &str = "iqn.2026-11.test:target";
    const HANG: Duration = Duration::from_secs(20);

    #[derive(Default)]
    struct Wire(Vec<u8>);

    impl iscsi::Output for Wire {
        type Payload = Vec<u8>;

        fn bytes(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn payload(&mut self, payload: Vec<u8>, range: Range<usize>) {
            self.0.extend_from_slice(&payload[range]);
        }
    }

    fn config() -> Config {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Config {
            portals: vec![Portal {
                name: "lo".to_owned(),
                address: [127, 0, 0, 1].into(),
                port: free.local_addr().unwrap().port(),
                interface: None,
                group: 1,
                enabled: true,
            }],
            targets: vec![Target {
                name: TARGET.to_owned(),
                alias: None,
                allow_multiple: true,
                portals: Vec::new(),
                authentication: Authentication::default(),
                luns: Vec::new(),
                access: vec![AccessRule {
                    initiator: "*".to_owned(),
                    network: None,
                    portal: None,
                    action: Action::Allow,
                    luns: None,
                    authentication: None,
                }],
            }],
            ..Config::default()
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the test lives on the system's clock"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
        let until = now() + HANG;
        while !condition() {
            assert!(now() < until, "{what} did not come");
            std::thread::yield_now();
        }
    }

    /// Logs in; the socket keeps the session open.
    fn login(address: SocketAddr, isid: u8) -> Result<TcpStream, String> {
        let said = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(address).map_err(said)?;
        stream.set_read_timeout(Some(HANG)).map_err(said)?;
        let settings = Settings::new("iqn.2026-11.test:a", TARGET, [0x80, 0, 0, 0, 0, isid]);
        let mut engine = Connection::new(settings, now());
        let mut out = Wire::default();
        engine.start(&mut out);
        let mut bytes = [0; 4096];
        loop {
            stream
                .write_all(&std::mem::take(&mut out.0))
                .map_err(said)?;
            let count = match stream.read(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(said)?,
            };
            if count == 0 {
                return Err("the connection was closed".to_owned());
            }
            let mut input = &bytes[..count];
            let event = engine.next(now(), &mut input, &mut out);
            match event.map_err(|fatal| fatal.to_string())? {
                Some(Event::LoggedIn { .. }) => return Ok(stream),
                Some(other) => return Err(format!("{other:?}")),
                None => {}
            }
        }
    }

    #[test]
    fn a_shard_that_fails_is_given_up_and_the_others_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            shards: 2,
            ..Options::new(directory.path())
        };
        let (sender, mut notices) = mpsc::channel(100);
        let config = config();
        let address = config.portals[0].socket_address();
        let started = Service::start(options, config, Secrets::new(), sender);
        let service = runtime.block_on(started).unwrap();
        let shards = std::sync::Arc::clone(&service.inner.control.shards);
        let kept: Vec<_> = (0..4).map(|isid| login(address, isid).unwrap()).collect();
        let on = |shard| {
            let sessions = service.sessions();
            sessions
                .iter()
                .filter(|session| session.shard == shard)
                .count()
        };
        assert_eq!((on(0), on(1)), (2, 2));
        // The one that listens.
        assert!(runtime.block_on(shards[0].send(ShardMessage::Fail)));
        wait_for("the end of its sessions", || on(0) == 0);
        assert_eq!(on(1), 2, "the others stay");
        assert!(!runtime.block_on(shards[0].send(ShardMessage::Stop)));
        let told = std::iter::from_fn(|| notices.try_recv().ok())
            .any(|notice| notice.code() == "shard-failed");
        assert!(told);
        // Another one listens now, and nothing is given to the one that is gone.
        wait_for("a portal that listens", || service.portals()[0].listening);
        let again: Vec<_> = (10..12).map(|isid| login(address, isid).unwrap()).collect();
        assert_eq!((on(0), on(1)), (0, 4));
        assert_eq!(service.portals()[0].connections, 4);
        drop((kept, again));
        runtime.block_on(service.shutdown()).unwrap();
    }
}
