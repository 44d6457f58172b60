"""Persistent reservations rule by rule: the six types by command and role, moves, aborts, identities of nexuses."""

from __future__ import annotations

import struct

from harness import ports
from harness.runner import Context, case, expect, expect_equal
from initiator import reservations as pr
from initiator import scsi
from initiator.session import Session
from wire.support import calm, disk, isid, log_in, pattern, read, write

_READS = {"READ(10)": scsi.read10(0, 1), "READ(16)": scsi.read16(0, 1)}
_WRITES = {"WRITE(10)": scsi.write10(0, 1), "WRITE(16)": scsi.write16(0, 1)}


def _allowed(kind: int, role: str, writes: bool) -> bool:
    """SPC's table: what a role may do under a type."""
    if role == "holder":
        return True
    if kind in (pr.WRITE_EXCLUSIVE, pr.EXCLUSIVE_ACCESS):
        return kind == pr.WRITE_EXCLUSIVE and not writes
    if role == "registrant":
        return True
    return kind in (pr.WRITE_EXCLUSIVE_REGISTRANTS, pr.WRITE_EXCLUSIVE_ALL) and not writes


def _probe(session: Session, cdb: bytes, writes: bool) -> bool:
    result = session.run(cdb, out=bytes(512) if writes else b"", expect_in=0 if writes else 512)
    expect(result.status in (scsi.GOOD, scsi.RESERVATION_CONFLICT), f"status {result.status:#x} {result.sense}")
    return result.status == scsi.GOOD


@case(seconds=60, needs=("reservations",))
def test_types_by_command_and_role(context: Context) -> None:
    """Every type against holder, registrant and stranger, for reads, writes and what is always allowed."""
    target = disk(context)
    holder, registrant, stranger = (log_in(context, target) for _ in range(3))
    roles = {"holder": holder, "registrant": registrant, "stranger": stranger}
    for kind in pr.ALL_TYPES:
        pr.register_and_ignore(holder, 1).good()
        pr.register_and_ignore(registrant, 2).good()
        pr.reserve(holder, 1, kind).good()
        for role, session in roles.items():
            for name, cdb in _READS.items():
                wanted = _allowed(kind, role, False)
                expect_equal(_probe(session, cdb, False), wanted, f"type {kind}, {role}, {name}")
            for name, cdb in _WRITES.items():
                wanted = _allowed(kind, role, True)
                expect_equal(_probe(session, cdb, True), wanted, f"type {kind}, {role}, {name}")
            session.run(scsi.inquiry(), expect_in=255).good()
            session.run(scsi.report_luns(), expect_in=4096).good()
            session.run(scsi.request_sense(), expect_in=252).good()
            pr.read_keys(session)
        pr.clear(holder, 1).good()
        for session in roles.values():
            calm(session)


@case(needs=("aptpl",))
def test_other_writers_are_checked_too(context: Context) -> None:
    """UNMAP, WRITE SAME, COMPARE AND WRITE and SYNCHRONIZE CACHE of a stranger conflict under write exclusive."""
    target = disk(context)
    holder, stranger = log_in(context, target), log_in(context, target)
    pr.register_and_ignore(holder, 1).good()
    pr.reserve(holder, 1, pr.WRITE_EXCLUSIVE_REGISTRANTS).good()
    listing = scsi.unmap_list([(0, 8)])
    stranger.run(scsi.unmap(len(listing)), out=listing).conflict()
    stranger.run(scsi.write_same16(0, 8), out=bytes(512)).conflict()
    stranger.run(scsi.compare_and_write(0, 1), out=bytes(1024)).conflict()
    stranger.run(scsi.reserve6()).conflict()
    stranger.run(scsi.read10(0, 1), expect_in=512).good()


@case(needs=("reservations",))
def test_register_rules(context: Context) -> None:
    """REGISTER needs the right old key; a reservation goes when its holder unregisters."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    pr.register(one, 1, old=9).conflict()
    pr.register(one, 1).good()
    pr.register(one, 2, old=9).conflict()
    pr.register(one, 2, old=1).good()
    expect_equal(pr.read_keys(two)[1], [2], "keys")
    pr.reserve(two, 2, 1).conflict()  # not registered
    pr.reserve(one, 1, 1).conflict()  # not the key any more
    pr.reserve(one, 2, 1).good()
    pr.reserve(one, 2, 3).conflict()  # another type
    pr.register(one, 0, old=2).good()
    expect_equal(pr.read_reservation(two), None, "reservation after its holder unregistered")
    expect_equal(pr.read_keys(two)[1], [], "keys after unregistering")


@case(needs=("reservations",))
def test_two_nexuses_with_one_key(context: Context) -> None:
    """Several nexuses may use one key; a preempt of it removes them all."""
    target = disk(context)
    one, two, three = (log_in(context, target) for _ in range(3))
    for session in (one, two):
        pr.register_and_ignore(session, 5).good()
    pr.register_and_ignore(three, 6).good()
    expect_equal(sorted(pr.read_keys(three)[1]), [5, 5, 6], "one key a nexus")
    pr.preempt(three, 6, 5, 1).good()
    expect_equal(pr.read_keys(three)[1], [6], "keys after preempt")
    expect_equal(pr.read_reservation(three), None, "a preempt without a reservation makes none")
    pr.preempt(three, 6, 5, 1).conflict()  # nobody has it any more


@case(needs=("reservations",))
def test_isid_is_part_of_the_nexus(context: Context) -> None:
    """Log in again with the same ISID: still registered. With another one: a stranger."""
    target = disk(context)
    name, same = ports.iqn("host"), isid()
    first = log_in(context, target, name, isid=same)
    watcher = log_in(context, target)
    pr.register_and_ignore(first, 0x11).good()
    pr.reserve(first, 0x11, pr.WRITE_EXCLUSIVE_REGISTRANTS).good()
    first.logout()
    first.connection.close()
    other = log_in(context, target, name)
    write(other, 0, pattern(512)).conflict()
    again = log_in(context, target, name, isid=same)
    write(again, 0, pattern(512)).good()
    expect_equal(pr.read_keys(watcher)[1], [0x11], "one registration")
    pr.register_and_ignore(again, 0x11).good()
    expect_equal(pr.read_keys(watcher)[1], [0x11], "still one registration")


@case(needs=("aptpl",))
def test_full_status_names_the_nexus(context: Context) -> None:
    """READ FULL STATUS tells initiator name, ISID, port, key and holder of each registration."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    pr.register_and_ignore(one, 1).good()
    pr.register_and_ignore(two, 2).good()
    pr.reserve(one, 1, pr.EXCLUSIVE_ACCESS_REGISTRANTS).good()
    found = {entry.key: entry for entry in pr.read_full_status(two)}
    expect_equal(sorted(found), [1, 2], "keys")
    expect_equal((found[1].holder, found[1].kind, found[2].holder), (True, 6, False), "holder and type")
    for key, session in ((1, one), (2, two)):
        text = found[key].transport_id
        expect(session.options.initiator.encode() in text, f"initiator name in {text!r}")
        expect(session.options.isid.hex().encode() in text.lower(), f"ISID in {text!r}")
        expect_equal(found[key].port, 1, "relative target port")


@case(needs=("aptpl",))
def test_register_and_move(context: Context) -> None:
    """The reservation moves to a nexus that is named, registered by the move."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    pr.register_and_ignore(one, 1).good()
    to = pr.transport_id(two.options.initiator, two.options.isid)
    pr.register_and_move(one, 1, 2, 1, to).check(scsi.ILLEGAL_REQUEST, 0x24)  # no reservation that could move
    pr.reserve(one, 1, pr.WRITE_EXCLUSIVE).good()
    pr.register_and_ignore(two, 3).good()
    pr.register_and_move(two, 3, 4, 1, to).conflict()  # not the holder
    pr.register_and_ignore(two, 0).good()
    pr.register_and_move(one, 1, 2, 1, to, unregister=True).good()
    expect_equal(pr.read_reservation(two), pr.Holder(2, pr.WRITE_EXCLUSIVE, 0), "the reservation moved")
    expect_equal(pr.read_keys(two)[1], [2], "the mover is unregistered")
    write(two, 0, pattern(512)).good()
    write(one, 0, pattern(512)).conflict()


@case(needs=("aptpl",))
def test_preempt_and_abort(context: Context) -> None:
    """Tasks of the preempted nexus end before the answer; its late data writes nothing."""
    target = disk(context)
    winner = log_in(context, target)
    loser = log_in(context, target, keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    keep = pattern(4096)
    write(winner, 0, keep).good()
    pr.register_and_ignore(loser, 1).good()
    pr.register_and_ignore(winner, 2).good()
    pr.reserve(loser, 1, pr.WRITE_EXCLUSIVE_REGISTRANTS).good()
    tasks = [loser.start(scsi.write10(0, 8), out=b"\xaa" * 4096, hold=True) for _ in range(4)]
    while not all(task.held for task in tasks):
        loser.pump()
    pr.preempt(winner, 2, 1, pr.WRITE_EXCLUSIVE_REGISTRANTS, abort=True).good()
    for task in tasks:
        loser.connection.send(loser.data_out(task, task.held[0].ttt, 1, 0, 4096, 0, True))
    expect(any(sense.code == (0x2A, 0x05) for sense in calm(loser)), "the loser is told")
    write(loser, 0, pattern(4096)).conflict()
    expect(read(winner, 0, 8) == keep, "a write of the preempted nexus landed")


@case(needs=("aptpl",))
def test_all_registrants_types(context: Context) -> None:
    """Types 7 and 8: every registrant holds; the reservation ends with the last one; preempt by key 0 takes it."""
    target = disk(context)
    one, two, three = (log_in(context, target) for _ in range(3))
    for kind in (pr.WRITE_EXCLUSIVE_ALL, pr.EXCLUSIVE_ACCESS_ALL):
        pr.register_and_ignore(one, 1).good()
        pr.register_and_ignore(two, 2).good()
        pr.reserve(one, 1, kind).good()
        holder = pr.read_reservation(three)
        expect_equal(holder, pr.Holder(0, kind, 0), "key 0 stands for all registrants")
        pr.register_and_ignore(one, 0).good()
        expect_equal(pr.read_reservation(three), pr.Holder(0, kind, 0), "still held by the other")
        write(two, 0, pattern(512)).good()
        pr.register_and_ignore(three, 3).good()
        pr.preempt(three, 3, 0, pr.WRITE_EXCLUSIVE).good()
        expect_equal(pr.read_reservation(three), pr.Holder(3, pr.WRITE_EXCLUSIVE, 0), "taken by preempt with key 0")
        expect_equal(pr.read_keys(three)[1], [3], "all others are gone")
        pr.clear(three, 3).good()
        for session in (one, two, three):
            calm(session)


@case(needs=("aptpl",))
def test_specify_initiator_ports(context: Context) -> None:
    """SPEC_I_PT registers the named nexuses at once, or nobody when one of them cannot be."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    caps = pr.capabilities(one)
    ids = pr.transport_id(two.options.initiator, two.options.isid)
    body = pr.out_list(0, 7, flags=8) + struct.pack(">I", len(ids)) + ids
    result = one.run(pr.out_cdb(pr.REGISTER, 0, len(body)), out=body)
    if not caps.specify_ports:
        result.check(scsi.ILLEGAL_REQUEST, 0x26)
        return
    result.good()
    expect_equal(sorted(pr.read_keys(one)[1]), [7, 7], "both are registered")
    pr.reserve(two, 7, pr.WRITE_EXCLUSIVE_REGISTRANTS).good()
    lie = pr.out_list(7, 8, flags=8) + struct.pack(">I", 0xFFFFFF00) + ids
    one.run(pr.out_cdb(pr.REGISTER, 0, len(lie)), out=lie).check(scsi.ILLEGAL_REQUEST)
    expect_equal(sorted(pr.read_keys(one)[1]), [7, 7], "a list that lies changes nothing")


@case(needs=("reservations",))
def test_generation_counts_changes(context: Context) -> None:
    """PRGENERATION rises with REGISTER, CLEAR and PREEMPT, not with RESERVE and RELEASE."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    start = pr.read_keys(one)[0]
    pr.register_and_ignore(one, 1).good()
    pr.register_and_ignore(two, 2).good()
    expect_equal(pr.read_keys(one)[0], start + 2, "after two registrations")
    pr.reserve(one, 1, 1).good()
    pr.release(one, 1, 1).good()
    expect_equal(pr.read_keys(one)[0], start + 2, "after reserve and release")
    pr.preempt(one, 1, 2, 1).good()
    pr.clear(one, 1).good()
    expect_equal(pr.read_keys(one)[0], start + 4, "after preempt and clear")


@case(needs=("aptpl",))
def test_legacy_reservation(context: Context) -> None:
    """RESERVE(6) excludes others and ends with its nexus; with registrations present it conflicts."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    one.run(scsi.reserve6()).good()
    write(two, 0, pattern(512)).conflict()
    two.run(scsi.read10(0, 1), expect_in=512).conflict()
    two.run(scsi.release6()).good()  # by another: nothing happens
    write(two, 0, pattern(512)).conflict()
    pr.register_and_ignore(two, 5).conflict()
    one.logout()
    one.connection.close()
    calm(two)
    write(two, 0, pattern(512)).good()
    pr.register_and_ignore(two, 5).good()
    three = log_in(context, target)
    three.run(scsi.reserve6()).conflict()
