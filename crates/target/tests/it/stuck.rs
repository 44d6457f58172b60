//! Commands whose I/O does not end, and what has to wait for them.

use std::time::Duration;

use crate::support::{
    HANG, Initiator, World, block, cdb, config, free_port, read10, reserve_out, sense, took,
    write10,
};
use disk::OpKind;
use disk::fault::{Action, Rule};
use iscsi::initiator::{TmfFunction, TmfResponse};
use target::Options;

const LONG: Duration = HANG;
const SHORT: Duration = Duration::from_millis(1500);

/// Initiators `a` and `b`, registered with the keys 1 and 2; `a` has reserved (Write Exclusive,
/// Registrants Only).
fn reserved(world: &World) -> (Initiator, Initiator) {
    let mut a = world.initiator("a");
    let mut b = world.initiator("b");
    for (initiator, key) in [(&mut a, 1), (&mut b, 2)] {
        let (cdb, list) = reserve_out(6, 0, 0, key, false);
        assert_eq!(initiator.run(cdb, Some(list), 0).status, 0);
    }
    let (reserve, list) = reserve_out(1, 5, 1, 0, false);
    assert_eq!(a.run(reserve, Some(list), 0).status, 0);
    (a, b)
}

/// With so much buffer memory, all at one shard.
fn with_memory(pool_bytes_per_shard: usize) -> World {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        shards: 1,
        pool_bytes_per_shard,
        ..Options::new(directory.path())
    };
    World::start_with(directory, options, config(free_port()))
}

#[test]
fn abort_task_is_complete_only_when_the_write_has_ended() {
    let world = World::start(LONG);
    let mut a = world.initiator("a");
    let write = world.stalled_write(&mut a);
    let abort = a.function(TmfFunction::AbortTask, Some(write));
    // Another command goes through meanwhile: the abort is waited for, nothing else is.
    assert_eq!(a.run(read10(8, 1), None, 512).status, 0);
    assert!(
        !a.has_answer(abort),
        "answered while the write was on the disk"
    );
    world.fault.release();
    assert_eq!(a.function_answer(abort), Some(TmfResponse::Complete));
    assert!(!a.has_answer(write), "an aborted command was answered");
}

#[test]
fn past_the_bound_the_lun_is_not_ready_until_it_drains() {
    let world = World::start(SHORT);
    let mut a = world.initiator("a");
    let mut b = world.initiator("b");
    let write = world.stalled_write(&mut a);
    let reset = b.function(TmfFunction::LogicalUnitReset, None);
    assert_eq!(b.function_answer(reset), Some(TmfResponse::Rejected));
    // The reset's own unit attention comes first.
    let mut last = b.run(cdb(&[0]), None, 0);
    while last.status == 2 && sense(&last).0 == 6 {
        last = b.run(cdb(&[0]), None, 0);
    }
    assert_eq!(sense(&last).0, 2, "NOT READY");
    assert_eq!(sense(&b.run(write10(8, 1), Some(block(1)), 0)).0, 2);
    world.fault.release();
    let ready = |b: &mut Initiator| b.run(cdb(&[0]), None, 0).status == 0;
    let mut tries = 0;
    while !ready(&mut b) {
        tries += 1;
        assert!(tries < 10_000, "the LUN did not come back");
    }
    assert!(!a.has_answer(write));
}

#[test]
fn preempt_waits_for_writes_of_the_old_holder() {
    let world = World::start(LONG);
    let (mut a, mut b) = reserved(&world);
    let old = world.stalled_write(&mut a);
    let (preempt, list) = reserve_out(4, 5, 2, 1, false);
    let preempt = b.submit(preempt, Some(list), 0);
    assert_eq!(b.run(cdb(&[0]), None, 0).status, 0);
    assert!(
        !b.has_answer(preempt),
        "answered while the old holder's write could still land"
    );
    world.fault.release();
    assert_eq!(b.end_of(preempt).0.status, 0);
    assert_eq!(a.end_of(old).0.status, 0, "a plain PREEMPT aborts nothing");
    // The old holder is out.
    assert_eq!(sense(&a.run(write10(0, 1), Some(block(1)), 0)), (6, 0x2a05));
    assert_eq!(a.run(write10(0, 1), Some(block(1)), 0).status, 0x18);
    assert_eq!(b.run(write10(0, 1), Some(block(0xbb)), 0).status, 0);
}

#[test]
fn preempt_and_abort_ends_commands_that_wait_for_data() {
    let world = World::start(LONG);
    let (mut a, mut b) = reserved(&world);
    let old = world.stalled_write(&mut a);
    let (preempt, list) = reserve_out(5, 5, 2, 1, false);
    let preempt = b.submit(preempt, Some(list), 0);
    assert!(!b.has_answer(preempt));
    world.fault.release();
    assert_eq!(b.end_of(preempt).0.status, 0);
    assert_eq!(b.run(write10(0, 1), Some(block(0xbb)), 0).status, 0);
    let read = b.submit(read10(0, 1), None, 512);
    assert_eq!(b.end_of(read).1, block(0xbb));
    assert!(!a.has_answer(old), "an aborted command was answered");
}

#[test]
fn reinstatement_waits_for_the_old_session() {
    let world = World::start(LONG);
    let mut old = world.initiator("a");
    world.stalled_write(&mut old);
    let mut new = Initiator::begin(world.address, "a", 1);
    // The new login is brought forward until the target has ended the old connection for it.
    world.wait_for("the end of the old connection", || {
        assert!(!new.poll_login(), "let in before the old connection ended");
        old.is_closed()
    });
    assert!(
        !new.poll_login(),
        "let in while the old session's write was on the disk"
    );
    world.fault.release();
    new.wait_until(Initiator::is_logged_in);
    assert_eq!(world.service.sessions().len(), 1);
}

#[test]
fn reinstatement_of_a_stuck_session_is_refused() {
    let world = World::start(SHORT);
    let mut old = world.initiator("a");
    world.stalled_write(&mut old);
    let refused = Initiator::connect(world.address, "a", 1).err().unwrap();
    assert!(refused.contains("0x0301"), "{refused}");
    world.fault.release();
    world.wait_for("the end of the old session", || {
        world.service.sessions().is_empty()
    });
    Initiator::connect(world.address, "a", 1).unwrap();
}

#[test]
fn a_stalled_disk_does_not_stall_discovery_or_other_luns_of_the_shard() {
    let world = World::start(LONG);
    let mut a = world.initiator("a");
    let write = world.stalled_write(&mut a);
    for n in 0..8 {
        let mut other = world.initiator(&format!("other-{n}"));
        assert_eq!(other.run(read10(0, 8), None, 4096).status, 0);
    }
    world.fault.release();
    assert_eq!(a.end_of(write).0.status, 0);
}

#[test]
fn one_session_cannot_take_the_memory_of_the_others() {
    let world = with_memory(1 << 20);
    let mut greedy = world.initiator("greedy");
    let mut modest = world.initiator("modest");
    let rule = Rule {
        count: 64,
        ..Rule::next(OpKind::Read, Action::Stall)
    };
    world.fault.add(rule).unwrap();
    let reads: Vec<_> = (0..8)
        .map(|_| greedy.submit(read10(0, 128), None, 65536))
        .collect();
    world.wait_for("the stalled reads", || world.fault.stalled() == 4);
    let refused = reads[4..].iter().map(|read| greedy.end_of(*read).0.status);
    assert_eq!(
        refused.collect::<Vec<_>>(),
        [0x28; 4],
        "TASK SET FULL past a quarter"
    );
    assert_eq!(
        modest.run(write10(0, 128), Some(vec![1; 65536]), 0).status,
        0
    );
    world.fault.release();
    for read in &reads[..4] {
        assert_eq!(greedy.end_of(*read).0.status, 0);
    }
    assert_eq!(
        greedy.run(read10(0, 128), None, 65536).status,
        0,
        "the share is free again"
    );
}

/// A read that stalls.
fn stalled_read(world: &World) -> Initiator {
    let mut reader = world.initiator("reader");
    world
        .fault
        .add(Rule::next(OpKind::Read, Action::Stall))
        .unwrap();
    reader.submit(read10(0, 1), None, 512);
    world.wait_for("the stalled read", || world.fault.stalled() == 1);
    reader
}

#[test]
fn changes_that_were_aborted_take_no_place_behind_a_stalled_lun() {
    let world = World::start(LONG);
    let _reader = stalled_read(&world);
    let mut b = world.initiator("b");
    // It waits for the read, and the LUN's other changes wait for it.
    let mut clearer = world.initiator("clearer");
    let clear = clearer.function(TmfFunction::ClearTaskSet, None);
    assert!(!clearer.has_answer(clear));
    for _ in 0..200 {
        let (register, list) = reserve_out(6, 0, 0, 1, false);
        let register = b.submit(register, Some(list), 0);
        let abort = b.function(TmfFunction::AbortTask, Some(register));
        assert_eq!(b.function_answer(abort), Some(TmfResponse::Complete));
    }
    // There is room for some that wait, and for no more than that.
    let registers: Vec<_> = (0..100)
        .map(|_| {
            let (register, list) = reserve_out(6, 0, 0, 1, false);
            b.submit(register, Some(list), 0)
        })
        .collect();
    b.wait_until(|b| b.answered() == 100 - 63);
    // Others are not concerned.
    let mut c = world.initiator("c");
    assert_eq!(c.run(read10(0, 1), None, 512).status, 0);
    world.fault.release();
    let count = |wanted: u8, statuses: &[u8]| statuses.iter().filter(|s| **s == wanted).count();
    let statuses: Vec<u8> = registers.iter().map(|r| b.end_of(*r).0.status).collect();
    assert_eq!((count(0x08, &statuses), count(0, &statuses)), (37, 63));
    assert_eq!(clearer.function_answer(clear), Some(TmfResponse::Complete));
}

#[test]
fn a_reservation_of_a_lost_nexus_goes_even_if_there_was_no_place_to_say_so() {
    let world = World::start(LONG);
    let mut owner = world.initiator("owner");
    let mut b = world.initiator("b");
    let mut fillers: Vec<_> = (0..5)
        .map(|n| world.initiator(&format!("filler-{n}")))
        .collect();
    let _reader = stalled_read(&world);
    assert_eq!(owner.run(cdb(&[0x16]), None, 0).status, 0, "RESERVE(6)");
    // Functions that wait for the read: more than there are places.
    let mut functions = Vec::new();
    for filler in &mut fillers {
        let sent = (0..16).map(|_| filler.function(TmfFunction::ClearTaskSet, None));
        functions.push(sent.collect::<Vec<_>>());
    }
    world.wait_for("the end of the places", || {
        let answered = fillers.iter_mut().map(|filler| {
            filler.look();
            filler.answered()
        });
        answered.sum::<usize>() == 5 * 16 - 64
    });
    drop(owner);
    world.wait_for("the end of the session", || {
        let sessions = world.service.sessions();
        !sessions
            .iter()
            .any(|session| session.initiator.ends_with("owner"))
    });
    assert_eq!(b.run(write10(0, 1), Some(block(1)), 0).status, 0x18);
    world.fault.release();
    let mut complete = 0;
    for (filler, functions) in fillers.iter_mut().zip(functions) {
        for function in functions {
            let answer = filler.function_answer(function);
            complete += usize::from(answer == Some(TmfResponse::Complete));
        }
    }
    assert_eq!(complete, 64);
    world.wait_for("the end of the reservation", || {
        b.run(write10(0, 1), Some(block(1)), 0).status == 0
    });
}

#[test]
fn resets_of_a_stuck_lun_fail_at_once() {
    let world = World::start(SHORT);
    let _reader = stalled_read(&world);
    let mut b = world.initiator("b");
    let first = b.function(TmfFunction::LogicalUnitReset, None);
    assert_eq!(b.function_answer(first), Some(TmfResponse::Rejected));
    let took = took(|| {
        for _ in 0..20 {
            let reset = b.function(TmfFunction::LogicalUnitReset, None);
            assert_eq!(b.function_answer(reset), Some(TmfResponse::Rejected));
        }
    });
    assert!(took < 10 * SHORT, "each waited for its bound");
}

#[test]
fn sessions_of_one_initiator_share_its_memory() {
    let world = with_memory(1 << 20);
    let mut first = world.initiator("greedy");
    let mut second = Initiator::connect(world.address, "greedy", 2).unwrap();
    assert_eq!(second.run(cdb(&[0]), None, 0).status, 2, "power on");
    let rule = Rule {
        count: 64,
        ..Rule::next(OpKind::Read, Action::Stall)
    };
    world.fault.add(rule).unwrap();
    let reads: Vec<_> = (0..4)
        .map(|_| first.submit(read10(0, 128), None, 65536))
        .collect();
    world.wait_for("the stalled reads", || world.fault.stalled() == 4);
    let read = second.run(read10(0, 128), None, 65536);
    assert_eq!(read.status, 0x28, "the first session has the whole share");
    world.fault.release();
    for read in reads {
        assert_eq!(first.end_of(read).0.status, 0);
    }
    assert_eq!(second.run(read10(0, 128), None, 65536).status, 0);
}

#[test]
fn what_an_initiator_does_not_take_counts_in_its_share() {
    const MIB: u16 = 2048;
    let world = with_memory(16 << 20);
    let mut deaf = world.initiator("deaf");
    let mut other = Initiator::connect(world.address, "deaf", 2).unwrap();
    let mut modest = world.initiator("modest");
    let mut reads = Vec::new();
    // It asks and does not read: at some time its answers lie in the target's memory.
    world.wait_for("the end of the share", || {
        if reads.len() < 100 {
            reads.push(deaf.submit(read10(0, MIB), None, 1 << 20));
        }
        let idle = world.service.devices()[0].running == 0;
        other.run(read10(0, MIB), None, 1 << 20).status == 0x28 && idle
    });
    assert_eq!(modest.run(read10(0, MIB), None, 1 << 20).status, 0);
    for read in reads {
        deaf.end_of(read);
    }
    assert_eq!(other.run(read10(0, MIB), None, 1 << 20).status, 0);
}

#[test]
fn preempt_waits_for_writes_of_a_session_that_is_gone() {
    let world = World::start(LONG);
    let (mut a, mut b) = reserved(&world);
    world.stalled_write(&mut a);
    drop(a);
    world.wait_for("the end of the connection", || {
        world.service.portals()[0].connections == 1
    });
    let (preempt, list) = reserve_out(4, 5, 2, 1, false);
    let preempt = b.submit(preempt, Some(list), 0);
    assert_eq!(b.run(cdb(&[0]), None, 0).status, 0);
    assert!(
        !b.has_answer(preempt),
        "the dead owner's write is still on the disk"
    );
    world.fault.release();
    assert_eq!(b.end_of(preempt).0.status, 0);
}
