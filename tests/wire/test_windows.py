"""What Windows' cluster validation does with a disk, from three initiators (MS-CSVP), and the same over kill -9."""

from __future__ import annotations

from harness.model import Target
from harness.runner import Context, case, expect, expect_equal
from initiator import reservations as pr
from initiator import scsi
from initiator.reservations import Holder
from initiator.session import Session
from wire.support import calm, disk, log_in, pattern, read, write

_TYPE = pr.WRITE_EXCLUSIVE_REGISTRANTS
_KEYS = (0xA000_0001, 0xB000_0002, 0xC000_0003)


def _three(context: Context, target: Target) -> tuple[Session, Session, Session]:
    return log_in(context, target), log_in(context, target), log_in(context, target)


def _identifier(session: Session) -> None:
    """Page 83h must hold an identifier of the logical unit of type 8, 3 or 2; page 80h a serial."""
    page = session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data
    body, kinds = page[4 : 4 + int.from_bytes(page[2:4], "big")], set()
    while len(body) >= 4:
        if body[1] >> 4 & 3 == 0:  # association: logical unit
            kinds.add(body[1] & 0x0F)
        body = body[4 + body[3] :]
    expect(kinds & {8, 3, 2}, f"page 83h identifies the unit by {kinds}")
    serial = session.run(scsi.inquiry(255, 0x80), expect_in=255).good().data
    expect(serial[3] > 0, "page 80h holds a serial number")


def _refused_write(session: Session) -> None:
    write(session, 0, pattern(512)).conflict()


@case(seconds=60, needs=("reservations",))
def test_validation_sequence(context: Context) -> None:
    """Clear, register and ignore, reserve, read back, writes of others refused, preempt, release."""
    target = disk(context)
    one, two, three = _three(context, target)
    for session in (one, two, three):
        _identifier(session)
    # Clear by one that is not registered conflicts and changes nothing.
    pr.clear(one, 0).conflict()
    pr.clear(one, _KEYS[0]).conflict()
    # Clear by a registrant takes everything away.
    for session, key in zip((one, two, three), _KEYS, strict=True):
        pr.register_and_ignore(session, key).good()
    pr.reserve(two, _KEYS[1], _TYPE).good()
    pr.clear(one, _KEYS[0]).good()
    expect_equal(pr.read_keys(one)[1], [], "keys after clear")
    expect_equal(pr.read_reservation(one), None, "reservation after clear")
    for session in (two, three):
        taken = calm(session)
        expect_equal([sense.code for sense in taken], [(0x2A, 0x03)], "told that reservations were preempted")
    # Register and ignore, reserve.
    pr.register_and_ignore(one, _KEYS[0]).good()
    pr.register_and_ignore(two, _KEYS[1]).good()
    pr.reserve(one, _KEYS[0], _TYPE).good()
    pr.reserve(one, _KEYS[0], _TYPE).good()  # again by its holder: nothing happens
    pr.reserve(two, _KEYS[1], _TYPE).conflict()
    expect_equal(sorted(pr.read_keys(three)[1]), sorted(_KEYS[:2]), "keys")
    expect_equal(pr.read_reservation(three), Holder(_KEYS[0], _TYPE, 0), "reservation")
    # Writes: registrants may, others may not; everybody reads.
    data = pattern(512)
    write(one, 0, data).good()
    write(two, 1, data).good()
    _refused_write(three)
    expect_equal(read(three, 0, 1), data, "what the non-registrant reads")
    # Preempt.
    generation = pr.read_keys(two)[0]
    pr.preempt(two, _KEYS[1], _KEYS[0], _TYPE).good()
    expect_equal(pr.read_keys(two), (generation + 1, [_KEYS[1]]), "generation and keys after preempt")
    expect_equal(pr.read_reservation(two), Holder(_KEYS[1], _TYPE, 0), "reservation after preempt")
    expect_equal([sense.code for sense in calm(one)], [(0x2A, 0x05)], "the loser is told")
    _refused_write(one)
    pr.reserve(one, _KEYS[0], _TYPE).conflict()
    # Release: by another registrant nothing happens, by the holder it goes.
    pr.register_and_ignore(three, _KEYS[2]).good()
    pr.release(three, _KEYS[2], _TYPE).good()
    expect_equal(pr.read_reservation(two), Holder(_KEYS[1], _TYPE, 0), "after release by another")
    pr.release(two, _KEYS[1], pr.EXCLUSIVE_ACCESS).check(scsi.ILLEGAL_REQUEST, 0x26, 0x04)
    pr.release(two, _KEYS[1], _TYPE).good()
    expect_equal(pr.read_reservation(two), None, "after release")
    expect_equal([sense.code for sense in calm(three)], [(0x2A, 0x04)], "registrants hear of the release")
    write(one, 0, data).good()
    # Key 0 unregisters.
    pr.register_and_ignore(two, 0).good()
    expect_equal(pr.read_keys(one)[1], [_KEYS[2]], "keys after one unregistered")


@case(seconds=60, needs=("reservations",))
def test_simultaneous_failover(context: Context) -> None:
    """Ownership goes round three nodes twenty times; at every moment exactly one key writes."""
    target = disk(context)
    nodes = _three(context, target)
    for node, key in zip(nodes, _KEYS, strict=True):
        pr.register_and_ignore(node, key).good()
    pr.reserve(nodes[0], _KEYS[0], _TYPE).good()
    for turn in range(20):
        old, new = turn % 3, (turn + 1) % 3
        pr.preempt(nodes[new], _KEYS[new], _KEYS[old], _TYPE).good()
        calm(nodes[old])
        _refused_write(nodes[old])
        write(nodes[new], turn, pattern(512)).good()
        pr.register_and_ignore(nodes[old], _KEYS[old]).good()
        expect_equal(pr.read_reservation(nodes[old]), Holder(_KEYS[new], _TYPE, 0), f"owner in turn {turn}")


@case(seconds=90, needs=("aptpl",))
def test_aptpl_survives_kill(context: Context) -> None:
    """Registrations and the reservation with APTPL are there after kill -9; without it they are gone."""
    target = disk(context)
    one, two, three = _three(context, target)
    pr.register_and_ignore(one, _KEYS[0], aptpl=True).good()
    pr.register_and_ignore(two, _KEYS[1], aptpl=True).good()
    pr.reserve(one, _KEYS[0], _TYPE).good()
    expect(pr.capabilities(one).aptpl_active, "APTPL reported active")
    expect(pr.capabilities(one).aptpl_capable, "APTPL reported capable")
    names = [(session.options.initiator, session.options.isid) for session in (one, two, three)]
    context.server.kill()
    context.server.restart()
    one, two, three = (log_in(context, target, name, isid=isid) for name, isid in names)
    expect_equal(sorted(pr.read_keys(three)[1]), sorted(_KEYS[:2]), "keys after kill -9")
    expect_equal(pr.read_reservation(three), Holder(_KEYS[0], _TYPE, 0), "reservation after kill -9")
    write(one, 0, pattern(512)).good()
    write(two, 0, pattern(512)).good()
    _refused_write(three)
    # Registering again without APTPL ends the persistence.
    pr.register_and_ignore(one, _KEYS[0], aptpl=False).good()
    context.server.kill()
    context.server.restart()
    three = log_in(context, target, names[2][0], isid=names[2][1])
    expect_equal(pr.read_keys(three)[1], [], "keys without APTPL")
    write(three, 0, pattern(512)).good()


@case(seconds=120, needs=("aptpl",))
def test_aptpl_status_is_durable_at_once(context: Context) -> None:
    """kill -9 right after each GOOD status: what was answered is what is found, ten times."""
    target = disk(context)
    names = [(log_in(context, target).options.initiator, bytes((0x80, 0, 0, 1, 0, n))) for n in range(2)]
    holder = 0
    one = log_in(context, target, names[0][0], isid=names[0][1])
    pr.register_and_ignore(one, _KEYS[0], aptpl=True).good()
    pr.reserve(one, _KEYS[0], _TYPE).good()
    for turn in range(10):
        other = 1 - holder
        session = log_in(context, target, names[other][0], isid=names[other][1])
        pr.register_and_ignore(session, _KEYS[other], aptpl=True).good()
        pr.preempt(session, _KEYS[other], _KEYS[holder], _TYPE).good()
        context.server.kill()
        context.server.restart()
        session = log_in(context, target, names[other][0], isid=names[other][1])
        expect_equal(pr.read_keys(session)[1], [_KEYS[other]], f"keys in turn {turn}")
        expect_equal(pr.read_reservation(session), Holder(_KEYS[other], _TYPE, 0), f"reservation in turn {turn}")
        holder = other
