//! Futures and timers, on every driver.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use ring::{AllocateMode, DriverKind, Event, Fd, Op, Options, Outcome, Pool, PoolLimits};

use crate::support::{
    Shard, buffer_of, fd, options, pair, pattern, real_now, recv_op, write_plain,
};

crate::support::on_all_drivers! {
    a_ready_future_ends_in_the_next_turn,
    a_future_reads_what_it_wrote,
    operations_of_one_future_run_at_once,
    foreign_combinators_are_woken,
    a_dropped_future_leaves_its_operation_to_end,
    timers_end_in_order_and_not_early,
    a_timer_can_be_cancelled_or_dropped,
    a_future_is_woken_from_another_thread,
    futures_that_wake_each_other_do_not_starve_sockets,
    an_operation_past_the_bound_is_refused,
    a_handle_outlives_its_reactor,
    places_of_futures_are_reused,
}

fn file() -> Fd {
    fd(tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary file"))
}

fn a_ready_future_ends_in_the_next_turn(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    shard.reactor.spawn(3, Box::pin(async { 42 }));
    assert_eq!(shard.reactor.tasks(), 0);
    // Without bound: it must not wait.
    shard.reactor.turn(None, &mut shard.events).expect("a turn");
    assert!(matches!(
        shard.events[..],
        [Event::Task { key: 3, output: 42 }]
    ));
}

fn a_future_reads_what_it_wrote(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    let (io, file) = (shard.reactor.io(), file());
    shard.reactor.spawn(
        1,
        Box::pin(async move {
            let bytes = pattern(100_000, 1);
            let buffer = buffer_of(&bytes);
            let (buffer, result) = io
                .write(Arc::clone(&file), buffer, 0..100_000, 5, true)
                .await;
            result.expect("written");
            io.sync(Arc::clone(&file), true).await.expect("synced");
            let mode = AllocateMode::PunchHole;
            io.allocate(Arc::clone(&file), mode, 65_536, 4096)
                .await
                .expect("punched");
            assert!(io.extent(Arc::clone(&file), 0).await.expect("an extent").0);
            io.block_zero(Arc::clone(&file), 0, 4096)
                .await
                .expect_err("not a device");
            io.block_discard(Arc::clone(&file), 0, 4096)
                .await
                .expect_err("not a device");
            let (buffer, result) = io.read(file, buffer, 0..100_000, 5).await;
            assert_eq!(result.expect("read"), 100_000);
            let mut expected = bytes;
            expected[65_531..65_531 + 4096].fill(0);
            assert!(buffer[..] == expected[..]);
        }),
    );
    shard.output(1);
    assert_eq!((shard.reactor.in_flight(), shard.reactor.tasks()), (0, 0));
}

/// Polls all until all have ended.
async fn join<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<(F, Option<F::Output>)> =
        futures.into_iter().map(|future| (future, None)).collect();
    poll_fn(|context| {
        for (future, output) in running.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = Pin::new(future).poll(context) {
                *output = Some(ready);
            }
        }
        match running.iter().all(|(_, output)| output.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

fn operations_of_one_future_run_at_once(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    let io = shard.reactor.io();
    let pairs: Vec<_> = (0..50).map(|_| pair()).collect();
    let ours: Vec<Fd> = pairs.iter().map(|(one, _)| Arc::clone(one)).collect();
    shard.reactor.spawn(
        1,
        Box::pin(
            async move { join(ours.iter().map(|one| io.run(recv_op(one, 1))).collect()).await },
        ),
    );
    shard
        .reactor
        .turn(Some(Duration::ZERO), &mut shard.events)
        .expect("a turn");
    assert_eq!(shard.reactor.in_flight(), 50, "all have started");
    for (number, (_, other)) in pairs.iter().enumerate().rev() {
        write_plain(other, &[u8::try_from(number).expect("small")]);
    }
    let received: Vec<u8> = shard
        .output(1)
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Received {
                buffer,
                result: Ok(1),
            } => buffer[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(received.into_iter().eq(0..50));
}

/// A future that is polled only when its own waker was used, as some combinators do.
struct Insulated<F> {
    inner: F,
    woken: Arc<Flag>,
}

struct Flag {
    set: Mutex<bool>,
    outer: Mutex<Option<std::task::Waker>>,
}

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        *self.set.lock().expect("not poisoned") = true;
        if let Some(outer) = &*self.outer.lock().expect("not poisoned") {
            outer.wake_by_ref();
        }
    }
}

impl<F: Future + Unpin> Future for Insulated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<F::Output> {
        *self.woken.outer.lock().expect("not poisoned") = Some(context.waker().clone());
        if !std::mem::take(&mut *self.woken.set.lock().expect("not poisoned")) {
            return Poll::Pending;
        }
        let waker = std::task::Waker::from(Arc::clone(&self.woken));
        Pin::new(&mut self.inner).poll(&mut std::task::Context::from_waker(&waker))
    }
}

fn foreign_combinators_are_woken(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    let io = shard.reactor.io();
    let (one, other) = pair();
    let woken = Arc::new(Flag {
        set: Mutex::new(true),
        outer: Mutex::new(None),
    });
    let future = Insulated {
        inner: io.run(recv_op(&one, 1)),
        woken,
    };
    shard.reactor.spawn(1, Box::pin(future));
    write_plain(&other, b"x");
    assert!(matches!(
        shard.output(1),
        Outcome::Received { result: Ok(1), .. }
    ));
}

fn a_dropped_future_leaves_its_operation_to_end(kind: DriverKind) {
    let mut shard = Shard::<bool>::new(kind);
    let pool = Pool::new(PoolLimits {
        bytes_max: 1 << 20,
        idle_bytes_max: 1 << 20,
    });
    let (io, one_pool) = (shard.reactor.io(), pool.clone());
    let (one, other) = UnixStream::pair().expect("a socket pair");
    let one = fd(one);
    shard.reactor.spawn(
        1,
        Box::pin(async move {
            let buffer = one_pool.take(4096).expect("a buffer");
            let mut recv = Box::pin(io.run(Op::Recv {
                socket: one,
                buffer,
                range: 0..4096,
            }));
            let started =
                poll_fn(|context| Poll::Ready(recv.as_mut().poll(context).is_pending())).await;
            drop(recv);
            started
        }),
    );
    assert!(shard.output(1), "it started");
    assert_eq!(
        (shard.reactor.in_flight(), pool.bytes_out()),
        (1, 4096),
        "it goes on"
    );
    std::io::Write::write_all(&mut &other, b"for nobody").expect("its socket is open");
    shard.settle();
    assert_eq!(pool.bytes_out(), 0);
    let error = std::io::Write::write_all(&mut &other, b"too late").expect_err("closed");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

fn timers_end_in_order_and_not_early(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    let start = shard.reactor.now();
    let order = Rc::new(RefCell::new(Vec::new()));
    for (key, millis) in [(0u64, 30u64), (1, 10), (2, 20), (3, 0), (4, 10)] {
        let (io, order) = (shard.reactor.io(), Rc::clone(&order));
        let future = async move {
            io.sleep(Duration::from_millis(millis)).await;
            order.borrow_mut().push(key);
            io.now()
        };
        shard.reactor.spawn(key, Box::pin(future));
        shard.reactor.submit(
            100 + key,
            Op::Timer {
                after: Duration::from_millis(millis),
            },
        );
    }
    for (key, millis) in [(0, 30), (1, 10), (2, 20), (3, 0), (4, 10)] {
        let ended = shard.output(key);
        assert!(
            ended - start >= Duration::from_millis(millis),
            "{key} ended early"
        );
        assert!(matches!(shard.outcome(100 + key), Outcome::Done(Ok(()))));
    }
    assert_eq!(*order.borrow(), [3, 1, 4, 2, 0]);
}

fn a_timer_can_be_cancelled_or_dropped(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    shard.reactor.submit(
        1,
        Op::Timer {
            after: Duration::from_secs(3600),
        },
    );
    assert!(shard.reactor.cancel(1));
    let Outcome::Done(Err(error)) = shard.outcome(1) else {
        panic!("an hour passed")
    };
    assert_eq!(error.raw_os_error(), Some(125), "{error}");
    let io = shard.reactor.io();
    let future = async move {
        let mut hour = Box::pin(io.sleep(Duration::from_secs(3600)));
        poll_fn(|context| Poll::Ready(hour.as_mut().poll(context).is_pending())).await
    };
    shard.reactor.spawn(2, Box::pin(future));
    assert!(shard.output(2));
    assert_eq!(shard.reactor.in_flight(), 0);
}

fn a_future_is_woken_from_another_thread(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    let (waker_out, wakers) = mpsc::sync_channel::<std::task::Waker>(1);
    let answer = Arc::new(Mutex::new(None));
    let of_thread = Arc::clone(&answer);
    let thread = std::thread::spawn(move || {
        let waker = wakers.recv().expect("a waker");
        *of_thread.lock().expect("not poisoned") = Some(7);
        waker.wake();
    });
    let future = poll_fn(move |context| {
        if let Some(answer) = answer.lock().expect("not poisoned").take() {
            return Poll::Ready(answer);
        }
        // The channel is full when this was polled before: the waker is the same.
        let _ = waker_out.try_send(context.waker().clone());
        Poll::Pending
    });
    shard.reactor.spawn(1, Box::pin(future));
    let start = real_now();
    while shard.events.is_empty() {
        assert!(start.elapsed() < crate::support::HANG);
        shard.reactor.turn(None, &mut shard.events).expect("a turn");
    }
    assert!(matches!(
        shard.events[..],
        [Event::Task { key: 1, output: 7 }]
    ));
    thread.join().expect("no panic");
}

fn futures_that_wake_each_other_do_not_starve_sockets(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    let (one, other) = pair();
    shard.reactor.submit(5, recv_op(&one, 1));
    let stop = Rc::new(Cell::new(false));
    let stopped = Rc::clone(&stop);
    shard.reactor.spawn(
        1,
        Box::pin(poll_fn(move |context| {
            context.waker().wake_by_ref();
            if stopped.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })),
    );
    write_plain(&other, b"x");
    assert!(matches!(
        shard.outcome(5),
        Outcome::Received { result: Ok(1), .. }
    ));
    stop.set(true);
    shard.output(1);
}

fn an_operation_past_the_bound_is_refused(kind: DriverKind) {
    let mut shard = Shard::with(&Options {
        entries: 8,
        ..options(kind)
    });
    let pairs: Vec<_> = (0..8).map(|_| pair()).collect();
    for (token, (one, _)) in pairs.iter().enumerate() {
        shard.reactor.submit(token as u64, recv_op(one, 1));
    }
    let (io, file) = (shard.reactor.io(), file());
    shard.reactor.spawn(
        1,
        Box::pin(async move {
            // A sleep without room for it is over at once.
            io.sleep(Duration::from_secs(3600)).await;
            io.read(file, buffer_of(&[1; 9]), 0..9, 0).await
        }),
    );
    let (buffer, result) = shard.output(1);
    assert_eq!(buffer.len(), 9);
    assert_eq!(
        result.expect_err("no room").kind(),
        std::io::ErrorKind::WouldBlock
    );
}

fn a_handle_outlives_its_reactor(kind: DriverKind) {
    let shard = Shard::<()>::new(kind);
    let io = shard.reactor.io();
    drop(shard);
    let mut run = std::pin::pin!(io.run(Op::Sync {
        file: file(),
        data_only: false
    }));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match run.as_mut().poll(&mut context) {
        Poll::Ready(Outcome::Done(Err(error))) => assert_eq!(error.raw_os_error(), Some(125)),
        other => panic!("{other:?}"),
    }
}

fn places_of_futures_are_reused(kind: DriverKind) {
    let mut shard = Shard::new(kind);
    for round in 0..100 {
        for key in 0..10 {
            let io = shard.reactor.io();
            let future = async move {
                io.sleep(Duration::from_micros(key * 10)).await;
                round * 10 + key
            };
            shard.reactor.spawn(key, Box::pin(future));
        }
        for key in (0..10).rev() {
            assert_eq!(shard.output(key), round * 10 + key);
        }
    }
    assert_eq!((shard.reactor.tasks(), shard.reactor.in_flight()), (0, 0));
}
