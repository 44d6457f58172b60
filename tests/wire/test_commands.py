"""Commands on the wire: residuals, windows, order, task management."""

from __future__ import annotations

from harness.model import MIB
from harness.runner import Context, case, expect, expect_equal
from initiator import pdu as wire
from initiator import scsi
from initiator import session as session_module
from initiator.connection import Closed, Silent
from wire.support import alive, calm, disk, log_in, options, pattern, raw_session, read, write


@case()
def test_residuals(context: Context) -> None:
    """Too much or too little room is told as underflow or overflow, the data is right."""
    target = disk(context)
    session = log_in(context, target)
    data = pattern(4 * 512)
    write(session, 0, data).good()
    less = session.run(scsi.read10(0, 2), expect_in=4 * 512).good()
    expect_equal((less.data, less.residual), (data[:1024], 1024), "underflow of a read")
    task = session.start(scsi.read10(0, 4), expect_in=2 * 512)
    more = session.wait(task)
    expect_equal(more.residual, -1024, "overflow of a read")
    expect_equal(more.data, data[:1024], "what fits of a read")
    short = session.run(scsi.inquiry(36), expect_in=255).good()
    expect_equal(short.residual, 255 - len(short.data), "underflow of INQUIRY")


@case()
def test_residuals_of_writes(context: Context) -> None:
    """A write whose announced length is not its CDB's: the blocks that both name are written, the rest is told."""
    target = disk(context)
    session = log_in(context, target)
    for edtl, blocks, written, residual in (
        (2048, 2, 2, 1024),
        (10000, 1, 1, 9488),
        (512, 2, 1, -512),
        (0, 1, 0, -512),
    ):
        before, after = b"a" * 2048, b"b" * edtl
        write(session, 0, before).good()
        result = session.run(scsi.write10(0, blocks), out=after).good()
        expect_equal(result.residual, residual, f"residual of {edtl} bytes for {blocks} blocks")
        wanted = b"b" * (written * 512) + b"a" * (2048 - written * 512)
        expect(read(session, 0, 4) == wanted, f"contents after {edtl} bytes for {blocks} blocks")


@case()
def test_capacity(context: Context) -> None:
    """READ CAPACITY tells the size; reads and writes beyond it are refused, those at its end are not."""
    size = 24 * MIB
    target = disk(context, size=size)
    session = log_in(context, target)
    ten = session.run(scsi.read_capacity10(), expect_in=8).good().data
    expect_equal(
        (int.from_bytes(ten[:4], "big") + 1) * int.from_bytes(ten[4:], "big"), size, "size by READ CAPACITY(10)"
    )
    sixteen = session.run(scsi.read_capacity16(), expect_in=32).good().data
    expect_equal((int.from_bytes(sixteen[:8], "big") + 1) * int.from_bytes(sixteen[8:12], "big"), size, "size by (16)")
    last = size // 512 - 1
    write(session, last, pattern(512)).good()
    write(session, last, pattern(1024)).check(scsi.ILLEGAL_REQUEST, 0x21, 0)
    session.run(scsi.read10(last + 1, 1), expect_in=512).check(scsi.ILLEGAL_REQUEST, 0x21, 0)
    session.run(scsi.read16((1 << 64) - 1, 1), expect_in=512).check(scsi.ILLEGAL_REQUEST, 0x21, 0)


@case(seconds=60)
def test_many_at_once(context: Context) -> None:
    """As many commands as the window allows, all at once, each with its own data."""
    target = disk(context)
    session = log_in(context, target)
    window = session.window()
    expect(window >= 1, f"window of {window}")
    blocks = {number: pattern(8 * 512) for number in range(200)}
    waiting = []
    for number, data in blocks.items():
        while session.window() == 0:
            session.pump()
        waiting.append(session.start(scsi.write10(number * 8, 8), out=data))
    for task in waiting:
        session.wait(task).good()
    for number, data in blocks.items():
        expect(read(session, number * 8, 8) == data, f"contents of {number}")
    context.note(f"command window {window}")


@case(needs=("hardened",))
def test_commands_are_delivered_in_order_of_cmd_sn(context: Context) -> None:
    """One outside the window is dropped; one after a hole is never carried out before the hole is filled."""
    target = disk(context)
    session = log_in(context, target)
    expected, session.cmd_sn = session.cmd_sn, session.max_cmd_sn + 1000
    lost = session.start(scsi.test_unit_ready())
    session.cmd_sn = expected
    session.wait(session.start(scsi.test_unit_ready())).good()
    expect(lost.result is None, "a command outside the window is dropped")
    session.cmd_sn += 1  # leave a hole
    session.start(scsi.test_unit_ready())
    try:
        session.pump(0.5)
        raise AssertionError("a command after a hole was answered")
    except (Silent, Closed):
        # On a session's one connection the missing command cannot come any more: waiting and ending it are both right.
        pass
    alive(context, target)


@case()
def test_nop_carries_data(context: Context) -> None:
    """A NOP-Out's data comes back, whatever its length."""
    target = disk(context)
    session = log_in(context, target)
    for length in (0, 1, 3, 4, 511, 4096):
        data = pattern(length)
        expect_equal(session.ping(data), data, f"echo of {length} bytes")


@case()
def test_new_nexus_has_a_unit_attention(context: Context) -> None:
    """The first command of a nexus is answered with 29h; INQUIRY and REPORT LUNS go through and keep it."""
    target = disk(context)
    session = raw_session(context, options(target.name))
    session.run(scsi.inquiry(), expect_in=255).good()
    session.run(scsi.report_luns(), expect_in=4096).good()
    session.run(scsi.test_unit_ready()).check(scsi.UNIT_ATTENTION, 0x29)
    session.run(scsi.test_unit_ready()).good()


@case()
def test_lun_that_is_not_there(context: Context) -> None:
    """INQUIRY says that nothing is there, other commands are refused with 25/00, REPORT LUNS lists what is."""
    target = disk(context)
    session = log_in(context, target)
    found = session.run(scsi.inquiry(), 77, expect_in=255).good().data
    expect_equal(found[0], 0x7F, "peripheral qualifier and type")
    session.run(scsi.test_unit_ready(), 77).check(scsi.ILLEGAL_REQUEST, 0x25, 0)
    session.run(scsi.read10(0, 1), 77, expect_in=512).check(scsi.ILLEGAL_REQUEST, 0x25, 0)
    listing = session.run(scsi.report_luns(), expect_in=4096).good().data
    luns = [wire.decode_lun(listing[at : at + 8]) for at in range(8, 8 + int.from_bytes(listing[:4], "big"), 8)]
    expect(1 in luns and 77 not in luns, f"REPORT LUNS: {luns}")


@case()
def test_unknown_command_is_refused(context: Context) -> None:
    """An opcode that no one knows is answered with 20/00, for every opcode of the vendor range."""
    target = disk(context)
    session = log_in(context, target)
    for opcode in (0xC0, 0xD7, 0xFF, 0x7F):
        result = session.run(bytes((opcode,)) + bytes(15))
        result.check(scsi.ILLEGAL_REQUEST, 0x20 if opcode != 0x7F else None)
    alive(context, target)


@case(needs=("compare-and-write", "sanctum"))
def test_compare_and_write_is_atomic_over_sessions(context: Context) -> None:
    """Eight sessions count in one block by compare and write; no count is lost."""
    target = disk(context)
    sessions = [log_in(context, target) for _ in range(8)]
    write(sessions[0], 0, bytes(512)).good()
    done = 0
    state = [bytes(512) for _ in sessions]
    while done < 64:
        tasks = []
        for index, session in enumerate(sessions):
            count = int.from_bytes(state[index][:8], "big") + 1
            swap = count.to_bytes(8, "big") + bytes([index]) * 504
            tasks.append((session, index, swap, session.start(scsi.compare_and_write(0, 1), out=state[index] + swap)))
        for session, index, swap, task in tasks:
            result = session.wait(task)
            if result.status == scsi.GOOD:
                done += 1
                state[index] = swap
            else:
                result.check(scsi.MISCOMPARE, 0x1D, 0)
                state[index] = read(session, 0, 1)
    final = int.from_bytes(read(sessions[0], 0, 1)[:8], "big")
    expect_equal(final, done, "the counter")


@case(needs=("unmap",))
def test_unmapped_blocks_read_as_zero(context: Context) -> None:
    """UNMAP gives space back, and what it took reads as zero."""
    target = disk(context)
    session = log_in(context, target)
    write(session, 0, pattern(2048 * 512)).good()
    listing = scsi.unmap_list([(0, 1024)])
    session.run(scsi.unmap(len(listing)), out=listing).good()
    expect(not any(read(session, 0, 1024)), "unmapped blocks are zero")
    expect(any(read(session, 1024, 1024)), "the blocks after them are not")
    path = context.server.path_of(target.luns[0].device)
    expect(path.stat().st_blocks * 512 < 1024 * 1024, f"space given back: {path.stat().st_blocks * 512} bytes in use")


# -- task management --


@case(needs=("task-management",))
def test_abort_of_a_write_that_waits_for_data(context: Context) -> None:
    """ABORT TASK of a write before its data: function complete, no response of the task, nothing written."""
    target = disk(context)
    session = log_in(context, target, keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    before = pattern(8 * 512)
    write(session, 0, before).good()
    task = session.start(scsi.write10(0, 8), out=pattern(8 * 512), hold=True)
    while not task.held:
        session.pump()
    expect_equal(session.manage(session_module.ABORT_TASK, task=task), 0, "response to ABORT TASK")
    # Data for the dead task is dropped without harm.
    session.connection.send(session.data_out(task, task.held[0].ttt, 1, 0, 4096, 0, True))
    expect(read(session, 0, 8) == before, "the aborted write changed nothing")
    expect(task.result is None, "the aborted task was answered")


@case(needs=("task-management",))
def test_abort_of_a_task_that_is_not_there(context: Context) -> None:
    """An unknown task: does not exist where its CmdSN was delivered, complete where it may still come."""
    target = disk(context)
    session = log_in(context, target)
    done = session.start(scsi.test_unit_ready())
    session.wait(done)
    expect_equal(session.manage(session_module.ABORT_TASK, task=done), 1, "task does not exist")


@case(needs=("task-management",))
def test_each_function_is_answered(context: Context) -> None:
    """Every function has its answer; after those that abort, the session goes on."""
    target = disk(context)
    session = log_in(context, target)
    wanted = {
        session_module.ABORT_TASK_SET: {0},
        session_module.CLEAR_TASK_SET: {0},
        session_module.LUN_RESET: {0},
        session_module.CLEAR_ACA: {5, 0, 255},
        session_module.REASSIGN: {4, 5, 255},
    }
    for function, answers in wanted.items():
        expect(session.manage(function) in answers, f"answer to function {function}")
        calm(session)
    expect_equal(session.manage(session_module.LUN_RESET, lun=77), 2, "reset of a LUN that is not there")


@case(needs=("task-management",))
def test_reset_ends_tasks_and_tells_everybody(context: Context) -> None:
    """LUN RESET by one: the waiting write of another never runs, and the other is told 29h."""
    target = disk(context)
    one = log_in(context, target)
    two = log_in(context, target, keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    before = pattern(512)
    write(one, 0, before).good()
    task = two.start(scsi.write10(0, 1), out=pattern(512), hold=True)
    while not task.held:
        two.pump()
    expect_equal(one.manage(session_module.LUN_RESET), 0, "response to LUN RESET")
    two.connection.send(two.data_out(task, task.held[0].ttt, 1, 0, 512, 0, True))
    taken = calm(two)
    expect(any(sense.code[0] == 0x29 for sense in taken), f"the other is told of the reset: {taken}")
    calm(one)
    expect(read(one, 0, 1) == before, "the aborted write changed nothing")


@case(seconds=60, needs=("task-management",))
def test_target_resets(context: Context) -> None:
    """Warm reset keeps sessions, cold reset ends them or is refused; either way the target serves on."""
    target = disk(context)
    session = log_in(context, target)
    expect(session.manage(session_module.WARM_RESET) in (0, 5), "answer to warm reset")
    calm(session)
    session.start_manage(session_module.COLD_RESET)
    alive(context, target)


@case(needs=("task-management",))
def test_logout_while_commands_run(context: Context) -> None:
    """A logout with commands under way is answered, and no response comes after it."""
    target = disk(context)
    for _ in range(20):
        session = log_in(context, target)
        for number in range(min(session.window() - 1, 16)):
            session.start(scsi.read10(number, 8), expect_in=8 * 512)
        expect_equal(session.logout(), 0, "logout response")
        expect(session.connection.at_end(), "the connection ends after logout")
    alive(context, target)
