"""Changes while initiators are logged in: grow, add and remove LUNs, cache modes, media. No session drops."""

from __future__ import annotations

import threading

from harness import pages, ports, wait
from harness.cli import CommandFailed
from harness.model import MIB, Device, Lun
from harness.runner import Context, Skip, case, expect, expect_equal
from initiator import pdu as wire
from initiator import reservations as pr
from initiator import scsi
from initiator.scsi import Sense
from initiator.session import Session
from wire.support import calm, disk, log_in, pattern, read, sanctum, serve, simple, write


def _codes(senses: list[Sense]) -> list[tuple[int, int]]:
    return [sense.code for sense in senses]


def _size(session: Session) -> int:
    data = session.run(scsi.read_capacity16(), expect_in=32).good().data
    return (int.from_bytes(data[:8], "big") + 1) * int.from_bytes(data[8:12], "big")


def _await_attention(session: Session, code: tuple[int, int], lun: int | None = None) -> None:
    """The unit attention comes within the bound."""
    wait.until(f"unit attention {code[0]:02X}/{code[1]:02X}", lambda: code in _codes(calm(session, lun)), 10)


@case(needs=("hot-change",))
def test_grow_tells_everybody(context: Context) -> None:
    """A device grows online: CAPACITY DATA HAS CHANGED on every session, new blocks read as zero and take writes."""
    target = disk(context, size=16 * MIB)
    sessions = [log_in(context, target) for _ in range(3)]
    device = target.luns[0].device
    data = pattern(512)
    write(sessions[0], 16 * 2048 - 1, data).good()
    context.server.grow(target.name, device.name, 48 * MIB)
    for session in sessions:
        _await_attention(session, (0x2A, 0x09))
        expect_equal(_size(session), 48 * MIB, "size after growing")
    expect(read(sessions[1], 16 * 2048 - 1, 1) == data, "old contents")
    expect(not any(read(sessions[1], 16 * 2048, 64)), "new blocks are zero")
    write(sessions[2], 48 * 2048 - 1, data).good()


@case(needs=("hot-change",))
def test_shrinking_is_refused(context: Context) -> None:
    """A smaller size is refused with a reason; nothing changes."""
    target = disk(context, size=16 * MIB)
    session = log_in(context, target)
    try:
        context.server.grow(target.name, target.luns[0].device.name, 8 * MIB)
        raise AssertionError("a device was shrunk")
    except CommandFailed as failure:
        expect_equal(failure.code, "refused", f"code of {failure}")
        expect("cannot shrink" in failure.problem["what"], f"the reason is named: {failure}")
    expect_equal(_size(session), 16 * MIB, "size")


@case(needs=("hot-change",))
def test_luns_come_and_go(context: Context) -> None:
    """Added and removed LUNs: REPORTED LUNS DATA HAS CHANGED, no session drops, I/O on the others goes on."""
    server = context.server
    target = disk(context)
    sessions = [log_in(context, target) for _ in range(2)]
    server.add_lun(target.name, Lun(5, Device(ports.unique("added"))))
    for session in sessions:
        _await_attention(session, (0x3F, 0x0E))
        expect_equal(_luns(session) - {0}, {1, 5}, "REPORT LUNS after adding")
        calm(session, 5)
    data = pattern(512)
    write(sessions[0], 0, data, 5).good()
    expect(read(sessions[1], 0, 1, 5) == data, "the new LUN serves")
    server.remove_lun(target.name, 5)
    for session in sessions:
        _await_attention(session, (0x3F, 0x0E))
        expect_equal(_luns(session) - {0}, {1}, "REPORT LUNS after removing")
        session.run(scsi.test_unit_ready(), 5).check(scsi.ILLEGAL_REQUEST, 0x25, 0)
        read(session, 0, 1)


def _luns(session: Session) -> set[int]:
    data = session.run(scsi.report_luns(), expect_in=4096).good().data
    return {wire.decode_lun(data[at : at + 8]) for at in range(8, 8 + int.from_bytes(data[:4], "big"), 8)}


@case(seconds=60, needs=("hot-change",))
def test_changes_under_load(context: Context) -> None:
    """Ten LUNs come and go and the device grows while four sessions write: no error, no drop."""
    server = context.server
    target = disk(context, size=16 * MIB)
    stop = threading.Event()
    problems: list[str] = []
    counts = [0] * 4

    def load(index: int) -> None:
        try:
            session = log_in(context, target)
            while not stop.is_set():
                data = bytes([index, counts[index] & 0xFF]) * 2048
                result = write(session, index * 64, data)
                if result.status == scsi.CHECK_CONDITION and result.sense and result.sense.key == scsi.UNIT_ATTENTION:
                    continue
                result.good()
                expect(read_calm(session, index * 64, 8) == data, f"session {index} reads what it wrote")
                counts[index] += 1
        except Exception as problem:  # noqa: BLE001 - reported by the case
            problems.append(f"session {index}: {problem!r}")

    threads = [threading.Thread(target=load, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(10):
            server.add_lun(target.name, Lun(10 + turn, Device(ports.unique("load"))))
            server.grow(target.name, target.luns[0].device.name, (17 + turn) * MIB)
            server.remove_lun(target.name, 10 + turn)
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)
    expect_equal(problems, [], "problems of the writers")
    expect(min(counts) > 0, f"every session made progress: {counts}")
    context.note(f"{sum(counts)} writes meanwhile")


def read_calm(session: Session, lba: int, blocks: int) -> bytes:
    """Reads, over unit attentions that come between."""
    for _ in range(20):
        result = session.run(scsi.read10(lba, blocks), expect_in=blocks * 512)
        if result.status == scsi.CHECK_CONDITION and result.sense and result.sense.key == scsi.UNIT_ATTENTION:
            continue
        return result.good().data
    raise AssertionError("unit attentions without end")


# -- cache modes --


def _caching(session: Session) -> tuple[bool, bool]:
    """WCE of the caching page, DPOFUA of the header."""
    data = session.run(scsi.mode_sense6(0x08, dbd=True), expect_in=255).good().data
    return bool(data[4 + data[3] + 2] & 4), bool(data[2] & 0x10)


@case(seconds=60, needs=("cache-modes",))
def test_cache_mode_is_told_as_it_is(context: Context) -> None:
    """Modes change at run time: WCE follows, initiators are told, contents stay."""
    server = context.server
    target = disk(context)
    device = target.luns[0].device.name
    session = log_in(context, target)
    data = pattern(64 * 512)
    write(session, 0, data).good()
    # In mode none a write has reached the drive, whose own cache may be volatile: told as it is, so not judged here.
    plain = told = _caching(session)[0]
    for mode, wce in (("write-back", True), ("write-through", False), ("write-back", True), ("none", plain)):
        server.set_cache(device, mode)
        if wce != told:
            _await_attention(session, (0x2A, 0x01))
        told, fua = _caching(session)
        expect_equal(told, wce, f"WCE in mode {mode}")
        if wce:
            expect(fua, "DPOFUA with a volatile cache")
        expect(read(session, 0, 64) == data, f"contents in mode {mode}")
        write(session, 64, pattern(512)).good()
        session.run(scsi.write10(65, 1, fua=True), out=pattern(512)).good()
        session.run(scsi.synchronize_cache10()).good()


@case(needs=("cache-modes",))
def test_mode_change_under_reservation_is_refused(context: Context) -> None:
    """While a reservation is held the mode stays, with the reason; after its release it changes."""
    target = disk(context)
    device = target.luns[0].device.name
    session = log_in(context, target)
    pr.register_and_ignore(session, 1).good()
    pr.reserve(session, 1, 1).good()
    try:
        context.server.set_cache(device, "write-back")
        raise AssertionError("the mode changed under a reservation")
    except CommandFailed as failure:
        expect_equal(failure.code, "refused", f"code of {failure}")
        expect("persistent reservations" in failure.problem["what"], f"the reason is named: {failure}")
    pr.clear(session, 1).good()
    context.server.set_cache(device, "write-back")


@case(seconds=60, needs=("cache-modes",))
def test_write_back_survives_the_process(context: Context) -> None:
    """In each mode everything acknowledged before kill -9 is there after, synchronized or not."""
    server = context.server
    for mode in ("none", "write-through", "write-back"):
        target = disk(context, stem=mode, cache=mode)
        session = log_in(context, target)
        written = {}
        for number in range(64):
            written[number] = pattern(4096)
            write(session, number * 8, written[number]).good()
        server.kill()
        server.restart()
        session = log_in(context, target)
        wrong = [number for number, data in written.items() if read(session, number * 8, 8) != data]
        expect_equal(wrong, [], f"blocks lost in mode {mode}")
        session.run(scsi.synchronize_cache10()).good()  # the host did not fail: no deferred error


@case(seconds=60, needs=("cache-modes",))
def test_what_is_said_to_be_stable_is(context: Context) -> None:
    """After a flush, a FUA write, and each write of a mode without a volatile cache, nothing is in memory alone."""
    try:
        pages.check_usable(context.directory)
    except pages.CannotTell as reason:
        raise Skip(str(reason)) from reason
    for mode in ("none", "write-through", "write-back"):
        target = disk(context, stem=f"stable-{mode}", size=4 * MIB, cache=mode)
        image = context.server.path_of(target.luns[0].device)
        session = log_in(context, target)
        for number in range(16):
            write(session, number * 64, pattern(4096)).good()
            if mode != "write-back":
                expect_equal(pages.unstable(image), set(), f"{mode}: pages only in memory after write {number}")
        if mode == "write-back":  # or this case could not fail
            expect(pages.unstable(image), "a write in write-back stays in memory")
        session.run(scsi.synchronize_cache10()).good()
        expect_equal(pages.unstable(image), set(), f"{mode}: pages only in memory after SYNCHRONIZE CACHE")
        session.run(scsi.write10(2048, 8, fua=True), out=pattern(4096)).good()
        expect_equal(pages.unstable(image), set(), f"{mode}: pages only in memory after a write with FUA")
        # A flush that follows a change of the mode must not forget what was written before it.
        if mode == "write-back":
            write(session, 0, pattern(4096)).good()
            context.server.set_cache(target.luns[0].device.name, "none")
            expect_equal(pages.unstable(image), set(), "pages only in memory after leaving write-back")


# -- media --


@case(needs=("hot-change",))
def test_medium_of_a_removable_device(context: Context) -> None:
    """Eject by START STOP and by command: MEDIUM NOT PRESENT; loaded again it serves; PREVENT holds it."""
    server = sanctum(context)
    target = disk(context, removable=True)
    device = target.luns[0].device.name
    session = log_in(context, target)
    data = pattern(512)
    write(session, 0, data).good()
    session.run(bytes((0x1E, 0, 0, 0, 1, 0))).good()
    session.run(scsi.start_stop(False, load_eject=True)).check(scsi.ILLEGAL_REQUEST, 0x53, 0x02)
    session.run(bytes((0x1E, 0, 0, 0, 0, 0))).good()
    session.run(scsi.start_stop(False, load_eject=True)).good()
    session.run(scsi.test_unit_ready()).check(scsi.NOT_READY, 0x3A)
    session.run(scsi.start_stop(True, load_eject=True)).good()
    calm(session)
    expect(read(session, 0, 1) == data, "contents after loading")
    server.cli.eject(device)
    result = session.run(scsi.test_unit_ready())
    while result.sense is not None and result.sense.key == scsi.UNIT_ATTENTION:
        result = session.run(scsi.test_unit_ready())
    result.check(scsi.NOT_READY, 0x3A)
    server.cli.load(device)
    calm(session)
    expect(read(session, 0, 1) == data, "contents after loading by command")


@case(needs=("hot-change",))
def test_read_only_lun(context: Context) -> None:
    """A LUN that is read-only takes no write from anybody."""
    made = simple("fixed")
    lun = made.luns[0]
    target = serve(context, type(made)(made.name, (Lun(lun.number, lun.device, read_only=True),)))
    session = log_in(context, target)
    write(session, 0, pattern(512)).check(scsi.DATA_PROTECT, 0x27)
    read(session, 0, 1)


@case(needs=("hot-change",))
def test_blocks_of_4096(context: Context) -> None:
    """A device with 4096-byte blocks counts in them."""
    target = disk(context, block_size=4096)
    session = log_in(context, target)
    data = pattern(3 * 4096)
    session.run(scsi.write10(5, 3), out=data).good()
    expect(session.run(scsi.read10(5, 3), expect_in=len(data)).good().data == data, "contents")
    capacity = session.run(scsi.read_capacity10(), expect_in=8).good().data
    expect_equal(int.from_bytes(capacity[4:], "big"), 4096, "block size")
