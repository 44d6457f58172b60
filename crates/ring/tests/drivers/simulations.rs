//! What only the simulation has: a virtual clock, a seeded order, faults.

use std::sync::Arc;
use std::time::Duration;

use ring::simulation::{Fault, FaultPlan, FaultRate, OpKind, ScriptedFault};
use ring::{Buffer, DriverKind, Fd, Op, Options, Outcome, Simulation};

use crate::support::{
    HANG, Shard, buffer_of, fd, options, pair, pattern, real_now, recv_op, send_op,
};

fn simulated(simulation: Simulation) -> Shard<()> {
    let simulation = Some(simulation);
    Shard::with(&Options {
        simulation,
        ..options(DriverKind::Simulated)
    })
}

fn scripted(operation: OpKind, nth: u64, fault: Fault) -> Simulation {
    let script = vec![ScriptedFault {
        operation,
        nth,
        fault,
    }];
    Simulation {
        faults: FaultPlan {
            script,
            ..FaultPlan::default()
        },
        ..Simulation::default()
    }
}

fn file() -> Fd {
    fd(tempfile::tempfile().expect("a file"))
}

fn write(file: &Fd, bytes: &[u8], offset: u64) -> Op {
    let (file, buffer, range) = (Arc::clone(file), buffer_of(bytes), 0..bytes.len());
    Op::Write {
        file,
        buffer,
        range,
        offset,
        durable: false,
    }
}

/// A busy run: its trace, and the order in which operations ended.
fn run(seed: u64) -> (Vec<String>, Vec<u64>) {
    let rates = vec![
        FaultRate {
            operation: OpKind::Write,
            per_mille: 100,
            fault: Fault::Errno(libc::EIO),
        },
        FaultRate {
            operation: OpKind::Recv,
            per_mille: 300,
            fault: Fault::Short,
        },
        FaultRate {
            operation: OpKind::Write,
            per_mille: 50,
            fault: Fault::Stall(Duration::from_secs(30)),
        },
    ];
    let faults = FaultPlan {
        rates,
        ..FaultPlan::default()
    };
    let mut shard = simulated(Simulation {
        seed,
        faults,
        ..Simulation::default()
    });
    let (file, (one, other)) = (file(), pair());
    for number in 0..100 {
        shard
            .reactor
            .submit(number, write(&file, &[1; 512], number * 512));
        shard.reactor.submit(
            200 + number,
            Op::Timer {
                after: Duration::from_micros(number * 31),
            },
        );
    }
    shard
        .reactor
        .submit(400, send_op(&one, &pattern(1 << 20, 1)));
    let mut received = 0;
    while received < 1 << 20 {
        received += shard.recv(&other, 40_000).expect("received").len();
    }
    shard.settle();
    let order = shard.events.iter().filter_map(|event| match event {
        ring::Event::Io(completion) => Some(completion.token),
        _ => None,
    });
    let order = order.collect();
    (shard.reactor.take_trace(), order)
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (trace, order) = run(7);
    assert!(trace.len() > 200);
    assert!(
        trace
            .iter()
            .any(|line| line.ends_with("write fails with errno 5"))
    );
    assert!(!order.is_sorted(), "operations overtake each other");
    assert_eq!(run(7), (trace, order));
}

#[test]
fn another_seed_gives_another_trace() {
    let (one, other) = (run(7), run(8));
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

#[test]
fn a_virtual_year_takes_no_time() {
    let mut shard = simulated(Simulation::default());
    let (start, virtual_start) = (real_now(), shard.reactor.now());
    let year = Duration::from_secs(365 * 24 * 3600);
    shard.reactor.submit(1, Op::Timer { after: year });
    while shard.events.is_empty() {
        shard.reactor.turn(None, &mut shard.events).expect("a turn");
    }
    assert!(start.elapsed() < HANG);
    assert!(shard.reactor.now() - virtual_start >= year);
}

#[test]
fn a_turn_passes_its_timeout() {
    let mut shard = simulated(Simulation::default());
    let before = shard.reactor.now();
    shard
        .reactor
        .turn(Some(Duration::from_secs(10)), &mut shard.events)
        .expect("a turn");
    assert_eq!(shard.reactor.now() - before, Duration::from_secs(10));
}

#[test]
fn a_scripted_error_hits_the_operation_it_names_and_does_nothing() {
    let mut shard = simulated(scripted(OpKind::Write, 1, Fault::Errno(libc::ENOSPC)));
    let file = file();
    let mut results = Vec::new();
    for round in 1..4 {
        match shard.run(write(&file, &[round; 100], 0)) {
            Outcome::Written { result, .. } => {
                results.push(result.err().and_then(|e| e.raw_os_error()));
            }
            other => panic!("{other:?}"),
        }
        let buffer = Buffer::zeroed(100);
        let read = Op::Read {
            file: Arc::clone(&file),
            buffer,
            range: 0..100,
            offset: 0,
        };
        let Outcome::Read {
            buffer,
            result: Ok(100),
        } = shard.run(read)
        else {
            panic!("not read")
        };
        let expected = if round == 2 { 1 } else { round };
        assert_eq!(&buffer[..], &[expected; 100]);
    }
    assert_eq!(results, [None, Some(libc::ENOSPC), None]);
}

#[test]
fn a_short_write_is_torn() {
    let mut shard = simulated(scripted(OpKind::Write, 0, Fault::Short));
    let file = file();
    match shard.run(write(&file, &[9; 1000], 0)) {
        Outcome::Written {
            buffer,
            result: Err(error),
        } => {
            assert_eq!(
                (buffer.len(), error.raw_os_error()),
                (1000, Some(libc::EIO))
            );
        }
        other => panic!("{other:?}"),
    }
    let read = Op::Read {
        file,
        buffer: Buffer::zeroed(1000),
        range: 0..1000,
        offset: 0,
    };
    assert!(matches!(
        shard.run(read),
        Outcome::Read {
            result: Ok(500),
            ..
        }
    ));
}

#[test]
fn a_short_read_ends_early() {
    let mut shard = simulated(scripted(OpKind::Read, 0, Fault::Short));
    let file = file();
    shard.run(write(&file, &[9; 1000], 0));
    for expected in [500, 1000] {
        let (file, buffer) = (Arc::clone(&file), Buffer::zeroed(1000));
        match shard.run(Op::Read {
            file,
            buffer,
            range: 0..1000,
            offset: 0,
        }) {
            Outcome::Read {
                result: Ok(count), ..
            } => assert_eq!(count, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_short_send_breaks_the_connection_midway() {
    let mut shard = simulated(scripted(OpKind::Send, 0, Fault::Short));
    let (one, other) = pair();
    let error = shard.send(&one, &[1; 1000]).expect_err("broken");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    assert_eq!(shard.recv(&other, 2000).expect("a part").len(), 500);
}

#[test]
fn a_stalled_operation_is_late() {
    let stall = Duration::from_secs(100);
    let mut shard = simulated(scripted(OpKind::Sync, 1, Fault::Stall(stall)));
    let file = file();
    for stalled in [false, true] {
        let before = shard.reactor.now();
        let sync = Op::Sync {
            file: Arc::clone(&file),
            data_only: true,
        };
        assert!(matches!(shard.run(sync), Outcome::Done(Ok(()))));
        assert_eq!(shard.reactor.now() - before >= stall, stalled);
    }
}

#[test]
fn a_scheduled_operation_can_be_cancelled() {
    let mut shard = simulated(Simulation::default());
    let (one, _other) = pair();
    shard.reactor.submit(1, recv_op(&one, 10));
    assert!(shard.reactor.cancel(1));
    match shard.outcome(1) {
        Outcome::Received {
            result: Err(error), ..
        } => {
            assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
        }
        other => panic!("{other:?}"),
    }
}
