//! A shard that ends before its time: its ring has failed, or it has panicked.
//!
//! Nobody may go on waiting for it, and nothing may be given to it any more. Its connections break;
//! initiators come back through other shards. What it had on the disk may still land: the sessions
//! of such commands stay entered, so that their nexuses are not let in beside an old write, and the
//! units stay NOT READY until the service is started anew.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::Shard;
use super::command::{Phase, key_of, parts_of};
use crate::gate::Waiter;
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
        // Passes on their way to it; those that come later go back to their gates.
        for grant in self.board.close() {
            let (index, generation) = parts_of(grant.waiter.key);
            let running = self.running.get_mut(index);
            if let Some(running) = running.filter(|it| it.generation == generation) {
                running.pass = Some(grant.pass);
            }
        }
        let running: Vec<_> = std::mem::take(&mut self.running).into_iter().collect();
        for (index, mut running) in running {
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
                self.deliver(&running.unit, grants);
            } else if matches!(running.phase, Phase::Queued(_)) {
                // Where it is not in the queue, its pass came after the board was closed: whoever
                // brought it gives it back.
                let (shard, key) = (self.index, key_of(index, running.generation));
                let (_, grants) = running.unit.gate.leave(Waiter { shard, key });
                self.deliver(&running.unit, grants);
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
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::ops::Range;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use disk::fault::{Action as Fail, Rule};
    use disk::{CacheMode, DeviceError, Disk, Execution, Features, Geometry, Wanted};
    use iscsi::initiator::{Cdb, Connection, Event, Request, Settings};
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::{
        AccessRule, Action, Authentication, Backing, Config, Device, Lun, Portal, Target,
    };
    use crate::gate::{Claim, Entry};
    use crate::{Opener, Options, Secrets, Service};

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

    /// A session; its socket keeps it open.
    struct Client {
        stream: TcpStream,
        engine: Connection<Vec<u8>>,
        bytes: Vec<u8>,
    }

    impl Client {
        fn login(address: SocketAddr, isid: u8) -> Result<Self, String> {
            let said = |error: std::io::Error| error.to_string();
            let stream = TcpStream::connect(address).map_err(said)?;
            stream.set_read_timeout(Some(HANG)).map_err(said)?;
            let settings = Settings::new("iqn.2026-11.test:a", TARGET, [0x80, 0, 0, 0, 0, isid]);
            let mut engine = Connection::new(settings, now());
            let mut out = Wire::default();
            engine.start(&mut out);
            let mut client = Self {
                stream,
                engine,
                bytes: Vec::new(),
            };
            client.stream.write_all(&out.0).map_err(said)?;
            match client.status()? {
                None => Ok(client),
                Some(status) => Err(format!("status {status} before the end of the login")),
            }
        }

        /// The status of the next command that ends; none for a login.
        fn status(&mut self) -> Result<Option<u8>, String> {
            let said = |error: std::io::Error| error.to_string();
            loop {
                let mut out = Wire::default();
                let mut input = self.bytes.as_slice();
                let event = self.engine.next(now(), &mut input, &mut out);
                let event = match event.map_err(|fatal| fatal.to_string())? {
                    Some(Event::LoggedIn { .. }) => Some(None),
                    Some(Event::Done(completion)) => Some(Some(completion.status)),
                    Some(Event::Data { .. }) => {
                        self.bytes = input.to_vec();
                        continue;
                    }
                    Some(other) => return Err(format!("{other:?}")),
                    None => None,
                };
                self.bytes = input.to_vec();
                self.stream.write_all(&out.0).map_err(said)?;
                if let Some(status) = event {
                    return Ok(status);
                }
                let mut bytes = [0; 4096];
                let count = match self.stream.read(&mut bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    result => result.map_err(said)?,
                };
                if count == 0 {
                    return Err("the connection was closed".to_owned());
                }
                self.bytes.extend_from_slice(&bytes[..count]);
            }
        }

        /// One that has heard of its power-on.
        fn welcomed(address: SocketAddr, isid: u8) -> Self {
            let mut client = Self::login(address, isid).unwrap();
            client.send(&[0], 0);
            assert_eq!(client.status(), Ok(Some(2)), "the power-on attention");
            client
        }

        fn send(&mut self, cdb: &[u8], read_len: u32) {
            self.send_to(0, cdb, read_len);
        }

        fn send_to(&mut self, lun: u64, cdb: &[u8], read_len: u32) {
            let mut all = [0; 16];
            all[..cdb.len()].copy_from_slice(cdb);
            let request = Request::read(lun << 48, Cdb::new(all), read_len);
            let mut out = Wire::default();
            self.engine.send_command(request, &mut out).unwrap();
            self.stream.write_all(&out.0).unwrap();
        }

        fn read(&mut self) {
            self.read_from(0);
        }

        fn read_from(&mut self, lun: u64) {
            self.send_to(lun, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 512);
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
        let kept = (0..4).map(|isid| Client::login(address, isid).unwrap());
        let kept: Vec<_> = kept.collect();
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
        let again = (10..12).map(|isid| Client::login(address, isid).unwrap());
        let again: Vec<_> = again.collect();
        assert_eq!((on(0), on(1)), (0, 4));
        assert_eq!(service.portals()[0].connections, 4);
        drop((kept, again));
        runtime.block_on(service.shutdown()).unwrap();
    }

    /// A RAM disk that takes one command at a time.
    fn one_at_a_time() -> Config {
        let mut config = config();
        let (size, block_size) = (1 << 20, 512);
        config.devices.push(Device {
            asynchronous: false,
            ..Device::new("ram", Backing::Ram { size, block_size })
        });
        config.targets[0].luns.push(Lun {
            number: 0,
            device: "ram".to_owned(),
            read_only: false,
        });
        config
    }

    #[test]
    fn passes_of_a_shard_that_is_gone_go_to_the_next_in_turn() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let place = Arc::<std::sync::OnceLock<Arc<disk::Fault>>>::default();
        let seen = Arc::clone(&place);
        let opener = Opener::new(move |backing, mode| {
            let fault = Arc::new(disk::Fault::new(disk::open(backing, mode)?));
            seen.set(Arc::clone(&fault)).unwrap();
            Ok(fault)
        });
        let options = Options {
            shards: 2,
            opener,
            ..Options::new(directory.path())
        };
        let config = one_at_a_time();
        let address = config.portals[0].socket_address();
        let (sender, _notices) = mpsc::channel(100);
        let started = Service::start(options, config, Secrets::new(), sender);
        let service = runtime.block_on(started).unwrap();
        let clients = (0..2).map(|isid| Client::welcomed(address, isid));
        let mut clients: Vec<_> = clients.collect();
        let shard_of = |isid: &str| {
            let sessions = service.sessions();
            let session = sessions.iter().find(|it| it.isid.ends_with(isid));
            session.unwrap().shard
        };
        assert_ne!(shard_of("00"), shard_of("01"));
        let (gone, unit) = (shard_of("01"), service.unit("ram").unwrap());
        let (mut stays, mut goes) = (clients.remove(0), clients.remove(0));
        // One at a time: the other shard's command waits for this one.
        let fault = place.get().unwrap();
        fault
            .add(Rule::next(disk::OpKind::Read, Fail::Stall))
            .unwrap();
        stays.read();
        wait_for("the stalled read", || fault.stalled() == 1);
        goes.read();
        wait_for("the one that waits", || unit.gate.waiting() == 1);
        let shards = Arc::clone(&service.inner.control.shards);
        assert!(runtime.block_on(shards[gone].send(ShardMessage::Fail)));
        wait_for("the end of its session", || service.sessions().len() == 1);
        assert_eq!(unit.gate.waiting(), 0, "it left the queue");
        // And one whose pass is on its way when its shard ends.
        let (shard, key) = (gone, u64::MAX);
        let entry = unit.gate.enter(
            Claim::None,
            Waiter { shard, key },
            &"iqn.2026-11.test:b".into(),
        );
        assert!(matches!(entry, Entry::Queued));
        stays.read();
        wait_for("two that wait", || unit.gate.waiting() == 2);
        fault.release();
        assert_eq!(stays.status(), Ok(Some(0)));
        assert_eq!(stays.status(), Ok(Some(0)));
        wait_for("the end of all commands", || unit.gate.running() == 0);
        runtime.block_on(service.shutdown()).unwrap();
    }

    /// A disk whose next operation may keep its shard, or make it panic.
    #[derive(Debug)]
    struct Trap {
        inner: disk::Fault,
        spring: Arc<Spring>,
        is_slow: bool,
    }

    #[derive(Debug, Default)]
    struct Spring {
        is_armed: AtomicBool,
        is_inside: AtomicBool,
        holds: parking_lot::Mutex<()>,
    }

    impl Disk for Trap {
        fn geometry(&self) -> Geometry {
            self.inner.geometry()
        }

        fn features(&self) -> Features {
            self.inner.features()
        }

        fn cache_mode(&self) -> CacheMode {
            self.inner.cache_mode()
        }

        fn execute(&self, io: &ring::Io, request: disk::Request) -> Execution {
            if self.is_slow {
                self.spring.is_inside.store(true, Ordering::SeqCst);
                drop(self.spring.holds.lock());
            } else {
                let is_armed = self.spring.is_armed.load(Ordering::SeqCst);
                assert!(!is_armed, "the test's trap");
            }
            self.inner.execute(io, request)
        }

        fn set_cache_mode(&self, mode: CacheMode, wanted: &Wanted) -> Result<(), DeviceError> {
            self.inner.set_cache_mode(mode, wanted)
        }

        fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
            self.inner.grow(bytes)
        }

        fn flush_blocking(&self) -> Result<(), DeviceError> {
            self.inner.flush_blocking()
        }
    }

    type Traps = Arc<parking_lot::Mutex<BTreeMap<u64, Arc<Trap>>>>;

    /// RAM disks `a`, `b` and `c` of 1, 2 and 3 MiB as LUNs 0 to 2; the last one is slow. None runs
    /// more than one command at a time.
    fn trapped(spring: &Arc<Spring>, traps: &Traps) -> (Opener, Config) {
        let mut config = config();
        for (number, name) in (0_u16..).zip(["a", "b", "c"]) {
            let (size, block_size) = (u64::from(number + 1) << 20, 512);
            config.devices.push(Device {
                asynchronous: false,
                ..Device::new(name, Backing::Ram { size, block_size })
            });
            config.targets[0].luns.push(Lun {
                number,
                device: name.to_owned(),
                read_only: false,
            });
        }
        let (spring, traps) = (Arc::clone(spring), Arc::clone(traps));
        let opener = Opener::new(move |backing, mode| {
            let inner = disk::Fault::new(disk::open(backing, mode)?);
            let mib = inner.geometry().bytes() >> 20;
            let spring = Arc::clone(&spring);
            let is_slow = mib == 3;
            let trap = Trap {
                inner,
                spring,
                is_slow,
            };
            let trap = Arc::new(trap);
            traps.lock().insert(mib, Arc::clone(&trap));
            Ok(trap)
        });
        (opener, config)
    }

    #[test]
    fn a_panic_over_one_pass_loses_none_of_those_that_came_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (spring, traps) = (Arc::<Spring>::default(), Traps::default());
        let (opener, config) = trapped(&spring, &traps);
        let soon = Duration::from_millis(500);
        let options = Options {
            shards: 2,
            opener,
            drain_time: soon,
            ..Options::new(directory.path())
        };
        let address = config.portals[0].socket_address();
        let (sender, _notices) = mpsc::channel(100);
        let started = Service::start(options, config, Secrets::new(), sender);
        let service = runtime.block_on(started).unwrap();
        let mut clients: Vec<_> = (0..2)
            .map(|isid| {
                let mut client = Client::login(address, isid).unwrap();
                for lun in 0..3 {
                    client.send_to(lun, &[0], 0);
                    assert_eq!(client.status(), Ok(Some(2)), "the power-on attention");
                }
                client
            })
            .collect();
        let (mut stays, mut goes) = (clients.remove(0), clients.remove(0));
        let unit = |name: &str| service.unit(name).unwrap();
        let (a, b) = (unit("a"), unit("b"));
        let on = |mib: u64| Arc::clone(&traps.lock()[&mib]);
        for (lun, trap, unit) in [(0, on(1), &a), (1, on(2), &b)] {
            let stall = Rule::next(disk::OpKind::Read, Fail::Stall);
            trap.inner.add(stall).unwrap();
            stays.read_from(lun);
            wait_for("the stalled read", || trap.inner.stalled() == 1);
            goes.read_from(lun);
            wait_for("the one that waits", || unit.gate.waiting() == 1);
        }
        // Its shard is kept, until both passes are there.
        let held = spring.holds.lock();
        goes.read_from(2);
        wait_for("its shard", || spring.is_inside.load(Ordering::SeqCst));
        on(1).inner.release();
        on(2).inner.release();
        assert_eq!(stays.status(), Ok(Some(0)));
        assert_eq!(stays.status(), Ok(Some(0)));
        let running = || (a.gate.running(), b.gate.running());
        assert_eq!(running(), (1, 1));
        spring.is_armed.store(true, Ordering::SeqCst);
        drop(held);
        let shards = &service.inner.control.shards;
        let has_ended = || shards.iter().any(crate::message::ShardHandle::has_ended);
        wait_for("the end of its shard", has_ended);
        // The one that the shard went down with is lost; the other one goes on.
        wait_for("the other pass", || matches!(running(), (1, 0) | (0, 1)));
        spring.is_armed.store(false, Ordering::SeqCst);
        let lun = u64::from(b.gate.running() == 0);
        stays.read_from(lun);
        assert_eq!(stays.status(), Ok(Some(0)));
        assert_ne!(a.has_lost(), b.has_lost());
        runtime.block_on(service.shutdown()).unwrap();
    }
}
