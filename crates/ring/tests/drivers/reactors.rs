//! Waking, spinning, options and the end of a reactor, on every driver.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use ring::{
    DriverKind, Event, Op, Options, Outcome, Pool, PoolLimits, Reactor, RingError, Waker, probe,
};

use crate::support::{HANG, Shard, fd, options, pair, real_now, recv_op, write_plain};

crate::support::on_all_drivers! {
    many_wakes_are_one_event,
    a_wake_ends_a_turn_without_bound,
    no_wake_is_lost,
    every_wake_is_answered_one_by_one,
    spinning_finds_what_comes,
    a_bounded_turn_ends,
    dropping_a_reactor_ends_what_is_pending,
    dropping_a_reactor_drops_its_futures,
    a_dropped_reactor_gives_its_files_back,
    a_waker_outlives_its_reactor,
    options_have_limits,
}

fn woken(events: &[Event<()>]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Woken))
        .count()
}

fn many_wakes_are_one_event(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let waker = shard.reactor.waker();
    for _ in 0..3 {
        for _ in 0..100 {
            waker.clone().wake();
        }
        shard.until(|events| (woken(events) > 0).then_some(()));
        for _ in 0..5 {
            shard
                .reactor
                .turn(Some(Duration::ZERO), &mut shard.events)
                .expect("a turn");
        }
        assert_eq!(woken(&shard.events), 1);
        shard.events.clear();
    }
}

fn a_wake_ends_a_turn_without_bound(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let waker = shard.reactor.waker();
    let thread = std::thread::spawn(move || waker.wake());
    while woken(&shard.events) == 0 {
        shard.reactor.turn(None, &mut shard.events).expect("a turn");
    }
    thread.join().expect("no panic");
}

/// What producers leave for the shard.
#[derive(Default)]
struct Mailbox(Mutex<VecDeque<u64>>);

impl Mailbox {
    fn put(&self, value: u64) {
        self.0.lock().expect("not poisoned").push_back(value);
    }

    fn take(&self) -> VecDeque<u64> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }
}

/// Sockets and wakes at once; the shard looks into its mailbox only when it was woken.
fn no_wake_is_lost(kind: DriverKind) {
    const THREADS: u64 = 3; // and of `next`, below
    const EACH: u64 = 20_000;
    let mut shard = Shard::<()>::new(kind);
    let mailbox = Arc::new(Mailbox::default());
    let start = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (mailbox, start) = (Arc::clone(&mailbox), Arc::clone(&start));
            let waker = shard.reactor.waker();
            std::thread::spawn(move || {
                start.wait();
                for number in 0..EACH {
                    mailbox.put(thread * EACH + number);
                    waker.wake();
                    if number % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let (one, other) = pair();
    shard.reactor.submit(1, recv_op(&one, 1));
    start.wait();
    let mut next = [0; 3];
    let mut seen = 0;
    let mut sent = false;
    let end = real_now() + HANG;
    while seen < THREADS * EACH {
        assert!(real_now() < end, "a wake was lost after {seen}");
        shard
            .reactor
            .turn(Some(Duration::from_secs(5)), &mut shard.events)
            .expect("a turn");
        for event in std::mem::take(&mut shard.events) {
            match event {
                Event::Woken => {
                    for value in mailbox.take() {
                        let next = &mut next[usize::try_from(value / EACH).expect("small")];
                        assert_eq!(value % EACH, *next);
                        *next += 1;
                        seen += 1;
                    }
                    if !std::mem::replace(&mut sent, true) {
                        write_plain(&other, b"x");
                    }
                }
                Event::Io(_) => {
                    sent = false;
                    shard.reactor.submit(1, recv_op(&one, 1));
                }
                Event::Task { .. } => panic!("no future was spawned"),
            }
        }
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
}

/// One wake at a time, each waiting for the answer to the one before: nothing covers for a lost
/// one.
fn every_wake_is_answered_one_by_one(kind: DriverKind) {
    const ROUNDS: u64 = 5_000;
    let mut shard = Shard::<()>::new(kind);
    let (asked, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let thread = {
        let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
        let waker: Waker = shard.reactor.waker();
        std::thread::spawn(move || {
            let end = real_now() + HANG;
            for round in 1..=ROUNDS {
                asked.store(round, Ordering::Relaxed);
                waker.wake();
                while answered.load(Ordering::Relaxed) < round {
                    assert!(real_now() < end, "wake {round} was lost");
                    std::thread::yield_now();
                }
            }
        })
    };
    let mut last = 0;
    while last < ROUNDS {
        assert!(!thread.is_finished(), "the other side gave up");
        let timeout = (kind == DriverKind::Simulated).then_some(Duration::from_millis(1));
        shard
            .reactor
            .turn(timeout, &mut shard.events)
            .expect("a turn");
        if woken(&shard.events) > 0 {
            // Relaxed is enough here: the wake itself orders it.
            last = asked.load(Ordering::Relaxed);
            answered.store(last, Ordering::Relaxed);
        }
        shard.events.clear();
    }
    thread.join().expect("no panic");
}

fn spinning_finds_what_comes(kind: DriverKind) {
    let mut shard = Shard::<()>::with(&Options {
        spin: Duration::from_micros(200),
        ..options(kind)
    });
    let (one, other) = pair();
    let stop = Arc::new(AtomicBool::new(false));
    let echo = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut byte = [0; 1];
            while !stop.load(Ordering::Acquire) && rustix::io::read(&other, &mut byte) == Ok(1) {
                write_plain(&other, &byte);
            }
        })
    };
    for round in 0..500 {
        shard
            .send(&one, &[u8::try_from(round % 256).expect("a byte")])
            .expect("sent");
        assert_eq!(
            shard.recv(&one, 10).expect("back"),
            [u8::try_from(round % 256).expect("a byte")]
        );
    }
    stop.store(true, Ordering::Release);
    ring::shutdown(&one).expect("shut down");
    echo.join().expect("no panic");
    // Timers and file operations end under spinning, too.
    let file = fd(tempfile::tempfile().expect("a file"));
    let extent = Op::Extent { file, offset: 0 };
    assert!(matches!(shard.run(extent), Outcome::Extent(Err(_))));
    let timer = Op::Timer {
        after: Duration::from_millis(2),
    };
    assert!(matches!(shard.run(timer), Outcome::Done(Ok(()))));
}

fn a_bounded_turn_ends(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, _other) = pair();
    shard.reactor.submit(1, recv_op(&one, 1));
    let start = real_now();
    for _ in 0..3 {
        let timeout = Some(Duration::from_millis(10));
        shard
            .reactor
            .turn(timeout, &mut shard.events)
            .expect("a turn");
    }
    assert!(start.elapsed() < HANG && shard.events.is_empty());
    assert_eq!(shard.reactor.in_flight(), 1);
}

fn dropping_a_reactor_ends_what_is_pending(kind: DriverKind) {
    let pool = Pool::new(PoolLimits {
        bytes_max: 1 << 20,
        idle_bytes_max: 0,
    });
    let mut shard = Shard::<()>::new(kind);
    let pairs: Vec<_> = (0..20).map(|_| pair()).collect();
    let file = fd(tempfile::tempfile().expect("a file"));
    for (token, (one, _)) in pairs.iter().enumerate() {
        let buffer = pool.take(4096).expect("a buffer");
        let (socket, range) = (Arc::clone(one), 0..4096);
        shard.reactor.submit(
            token as u64,
            Op::Recv {
                socket,
                buffer,
                range,
            },
        );
        let buffer = pool.take(4096).expect("a buffer");
        let (file, range) = (Arc::clone(&file), 0..4096);
        let write = Op::Write {
            file,
            buffer,
            range,
            offset: 0,
            durable: true,
        };
        shard.reactor.submit(100 + token as u64, write);
    }
    shard
        .reactor
        .turn(Some(Duration::ZERO), &mut shard.events)
        .expect("a turn");
    let start = real_now();
    drop(shard);
    assert!(
        start.elapsed() < ring::limits::SHUTDOWN_BOUND,
        "the receives were not cancelled"
    );
    assert_eq!(pool.bytes_out(), 0, "every buffer came back");
    for (one, other) in &pairs {
        assert_eq!(Arc::strong_count(one), 1, "every descriptor was let go");
        write_plain(other, b"late bytes hurt nobody");
    }
}

fn dropping_a_reactor_drops_its_futures(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (io, held) = (shard.reactor.io(), Arc::new(()));
    let (one, other) = pair();
    let of_future = Arc::clone(&held);
    shard.reactor.spawn(
        1,
        Box::pin(async move {
            let _of_future = of_future;
            io.run(recv_op(&one, 100)).await;
        }),
    );
    shard
        .reactor
        .turn(Some(Duration::ZERO), &mut shard.events)
        .expect("a turn");
    assert_eq!(Arc::strong_count(&held), 2);
    drop(shard);
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(
        rustix::io::write(&other, b"x"),
        Err(rustix::io::Errno::PIPE),
        "closed"
    );
}

/// Rings, sets, eventfds and threads do not pile up.
fn a_dropped_reactor_gives_its_files_back(kind: DriverKind) {
    let open = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    drop(Shard::<()>::new(kind));
    let before = open();
    for _ in 0..50 {
        let mut shard = Shard::<()>::new(kind);
        let file = fd(tempfile::tempfile().expect("a file"));
        shard.run(Op::Extent { file, offset: 0 });
    }
    // The kernel closes a ring a little later than asked to.
    let end = real_now() + HANG;
    while open() > before + 5 {
        assert!(
            real_now() < end,
            "{before} descriptors before, {} now",
            open()
        );
        std::thread::yield_now();
    }
}

fn a_waker_outlives_its_reactor(kind: DriverKind) {
    let shard = Shard::<()>::new(kind);
    let waker = shard.reactor.waker();
    drop(shard);
    waker.wake();
    waker.wake();
}

fn options_have_limits(kind: DriverKind) {
    for wrong in [
        Options {
            entries: 1,
            ..options(kind)
        },
        Options {
            entries: 1 << 20,
            ..options(kind)
        },
        Options {
            workers: 0,
            ..options(kind)
        },
        Options {
            workers: 1 << 20,
            ..options(kind)
        },
    ] {
        let error = Reactor::<()>::new(&wrong).expect_err("outside its limits");
        assert!(matches!(error, RingError::OutOfLimits { .. }), "{error}");
    }
    let largest = Options {
        entries: ring::limits::ENTRIES_MAX,
        ..options(kind)
    };
    let reactor = Reactor::<()>::new(&largest).expect("within the limits");
    let forced = std::env::var_os("SANCTUM_RING").is_some_and(|word| !word.is_empty());
    assert!(reactor.kind() == kind || (forced && kind != DriverKind::Simulated));
}

#[test]
fn without_a_wish_the_probe_decides() {
    let reactor = Reactor::<()>::new(&Options::default()).expect("a reactor");
    let expected = match std::env::var("SANCTUM_RING").as_deref() {
        Ok("epoll") => DriverKind::Epoll,
        _ if probe().uring.is_ok() => DriverKind::Uring,
        _ => DriverKind::Epoll,
    };
    assert_eq!(reactor.kind(), expected);
}
