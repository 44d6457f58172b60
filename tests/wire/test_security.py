"""The security history of iSCSI targets, each class as a case (spec/iscsi-san.md section 5)."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable

from harness import ports, wait
from harness.model import Account, Authentication
from harness.runner import Context, case, expect, expect_equal
from initiator import chap, scsi
from initiator import pdu as wire
from initiator import reservations as pr
from initiator.chap import Credentials
from initiator.connection import Closed, Connection, Silent
from initiator.login import OPERATIONAL, SECURITY, Login, LoginFailed
from initiator.pdu import FINAL, encode_keys
from initiator.session import ABORT_TASK, Rejected, Session
from wire.support import (
    alive,
    calm,
    connect,
    disk,
    log_in,
    options,
    pattern,
    raw_login,
    raw_session,
    read,
    resident,
    sanctum,
    serve,
    simple,
    write,
)

_ACCOUNT = Account("joe", "secret-of-16-byt")


def _survives(context: Context, connection: Connection, data: bytes) -> None:
    """Sends bytes; whatever the target says, it must say or close within the bound, and live."""
    try:
        connection.send_raw(data)
        while True:
            connection.receive(2.0)
    except (Closed, Silent):
        pass
    expect(context.server.process is not None and context.server.process.poll() is None, "the target died")


# -- before authentication --


@case(needs=("hardened",))
def test_length_fields_that_lie(context: Context) -> None:
    """CVE-2026-53176 and kin: lengths below, above and beside the truth, in the first PDU."""
    target = disk(context)
    login = raw_login(context, options(target.name))
    honest = login.request(SECURITY, OPERATIONAL, True, encode_keys(login.first_keys()))
    for length in (0, 1, 3, 8193, 65535, 0xFFFFFF):
        for ahs in (0, 1, 255):
            header = bytearray(honest.encode()[:48])
            header[4] = ahs
            header[5:8] = length.to_bytes(3, "big")
            connection = connect(context)
            connection.seconds = 3
            connection.send_raw(bytes(header) + encode_keys(login.first_keys()))
            connection.close()
    connection = connect(context)
    connection.send_raw(honest.encode()[:20])
    connection.close()
    alive(context, target)


@case(seconds=60, needs=("hardened",))
def test_enormous_and_unknown_keys_at_login(context: Context) -> None:
    """CVE-2013-2850: unknown keys up to 64 KiB are answered within limits or refused; memory stays flat."""
    target = disk(context)
    before = resident(context.server.pid())
    for size in (1000, 4000, 8000):
        login = raw_login(context, options(target.name))
        try:
            login.step(
                SECURITY,
                OPERATIONAL,
                False,
                [*login.first_keys(), ("AuthMethod", "None"), ("X-" + "k" * size, "v" * 10)],
            )
        except (LoginFailed, Closed):
            pass
    for _ in range(20):
        login = raw_login(context, options(target.name))
        try:
            for part in range(16):
                keys = [("X-" + f"{part}-" + "k" * 200, "v" * 3800)]
                first = login.first_keys() if part == 0 else []
                login.connection.send(login.request(SECURITY, 0, False, encode_keys([*first, *keys]), more=True))
                login.last = login.connection.receive()
                if login.last.u32(36) >> 16:
                    break
        except (LoginFailed, Closed):
            pass
    grown = resident(context.server.pid()) - before
    expect(grown < 16 * 1024, f"memory grew by {grown} KiB")
    alive(context, target)


@case(needs=("hardened",))
def test_odd_text(context: Context) -> None:
    """Text without '=', without its zero, with empty keys, with bytes that are no text."""
    target = disk(context)
    for text in (
        b"=",
        b"=\0",
        b"novalue\0",
        b"a=b",
        b"\0\0\0\0",
        b"\xff\xfe=\xff\0",
        b"InitiatorName\0",
        b"a" * 8192,
        b"=v\0" * 2000,
    ):
        login = raw_login(context, options(target.name))
        login.connection.send(login.request(SECURITY, OPERATIONAL, True, encode_keys(login.first_keys()) + text))
        try:
            login.answer(SECURITY)
        except (LoginFailed, Closed, Silent, AssertionError):
            pass
        login.connection.close()
    alive(context, target)


@case(needs=("hardened",))
def test_login_that_goes_on_and_on(context: Context) -> None:
    """CVE-2011-0001: continued logins of growing size, broken off anywhere; then a login that never ends."""
    target = disk(context)
    for pieces in range(1, 12):
        login = raw_login(context, options(target.name))
        try:
            for piece in range(pieces):
                data = encode_keys(login.first_keys()) if piece == 0 else os.urandom(64 * piece).replace(b"\0", b"x")
                login.connection.send(login.request(SECURITY, 0, False, data, more=True))
                login.connection.receive()
        except Closed:
            pass
        login.connection.reset()
    login = raw_login(context, options(target.name))
    try:
        for _ in range(2000):
            login.connection.send(login.request(SECURITY, 0, False, encode_keys(login.first_keys()) if _ == 0 else b""))
            answer = login.connection.receive()
            if answer.u32(36) >> 16:
                break
        else:
            raise AssertionError("two thousand login requests without an end")
    except Closed:
        pass
    alive(context, target)


@case(seconds=60, needs=("hardened",))
def test_chap_values_out_of_bounds(context: Context) -> None:
    """CVE-2018-14633: responses too long, too short, of odd digits, of broken base64, empty, and of other keys."""
    target = serve(context, simple("chap", authentication=Authentication((_ACCOUNT,))))
    values = [
        "", "0x", "0b", "0x0", "0xzz", "0b=", "0b====", "0b!!!!", "12345", "0x" + "0" * 31, "0x" + "0" * 33, "0x" + "ab" * 500,
        "0x" + "ab" * 3000, "0b" + "QUJD" * 1500, "0b" + "A" * 5, "0X" + "cd" * 16, "-1", "0x" + "ab" * 15 + "\u00e9",
    ]  # fmt: skip
    for value in values:
        for key in ("CHAP_R", "CHAP_C", "CHAP_I"):
            login = raw_login(context, options(target.name))
            login.step(SECURITY, OPERATIONAL, False, [*login.first_keys(), ("AuthMethod", "CHAP")])
            login.step(SECURITY, 0, False, [("CHAP_A", "5")])
            keys = {
                "CHAP_N": _ACCOUNT.user,
                "CHAP_R": "0x" + "00" * 16,
                "CHAP_I": "1",
                "CHAP_C": "0x" + "11" * 16,
                key: value,
            }
            try:
                login.step(SECURITY, OPERATIONAL, True, list(keys.items()))
                raise AssertionError(f"{key}={value[:40]!r} logged in")
            except (LoginFailed, Closed):
                pass
            login.connection.close()
    session = raw_session(context, options(target.name, credentials=Credentials(_ACCOUNT.user, _ACCOUNT.secret)))
    calm(session)


@case(needs=("hardened",))
def test_chap_steps_out_of_order(context: Context) -> None:
    """No way round the proof: straight to the next stage, None where CHAP is asked, an answer before a challenge."""
    target = serve(context, simple("steps", authentication=Authentication((_ACCOUNT,))))
    attempts: list[list[tuple[int, int, bool, list[tuple[str, str]]]]] = [
        [(SECURITY, OPERATIONAL, True, [("AuthMethod", "None")])],
        [(OPERATIONAL, 3, True, [("HeaderDigest", "None")])],
        [(SECURITY, 3, True, [("AuthMethod", "CHAP")]), (OPERATIONAL, 3, True, [])],
        [(SECURITY, 0, False, [("AuthMethod", "CHAP")]), (SECURITY, OPERATIONAL, True, []), (OPERATIONAL, 3, True, [])],
        [
            (SECURITY, 0, False, [("AuthMethod", "CHAP")]),
            (SECURITY, 0, False, [("CHAP_A", "5")]),
            (SECURITY, 3, True, []),
        ],
        [
            (SECURITY, 0, False, [("AuthMethod", "CHAP")]),
            (SECURITY, 3, True, [("CHAP_N", "joe"), ("CHAP_R", "0x" + "00" * 16)]),
        ],
        [(SECURITY, 0, False, [("AuthMethod", "CHAP")]), (SECURITY, 0, False, [("CHAP_A", "999")])],
        [(SECURITY, 0, False, [("AuthMethod", "KRB5,SRP")])],
    ]
    for number, steps in enumerate(attempts):
        login = raw_login(context, options(target.name))
        first = login.first_keys()
        try:
            for csg, nsg, transit, keys in steps:
                login.step(csg, nsg, transit, [*first, *keys])
                first = []
                at_end = login.last is not None and login.last.flags & 0x83 == 0x83
                expect(not at_end, f"attempt {number} reached the full feature phase without a proof")
        except (LoginFailed, Closed):
            continue
        try:
            login.step(OPERATIONAL, 3, True, [])
            raise AssertionError(f"attempt {number} logged in without a proof")
        except (LoginFailed, Closed, Silent):
            pass


@case(needs=("chap-mutual",))
def test_reflected_challenge(context: Context) -> None:
    """The target's own challenge sent back to it gets no answer, and the login fails (UNH CHAP plan)."""
    mutual = Account("mirror", "another-secret-16")
    target = serve(context, simple("mirror", authentication=Authentication((_ACCOUNT,), mutual)))
    login = raw_login(context, options(target.name))
    login.step(SECURITY, OPERATIONAL, False, [*login.first_keys(), ("AuthMethod", "CHAP")])
    answer = login.step(SECURITY, 0, False, [("CHAP_A", "5")])
    challenge = chap.read(answer["CHAP_C"])
    proof = chap.digest(5, int(answer["CHAP_I"]), _ACCOUNT.secret.encode(), challenge)
    keys = [
        ("CHAP_N", _ACCOUNT.user),
        ("CHAP_R", chap.spell(proof)),
        ("CHAP_I", answer["CHAP_I"]),
        ("CHAP_C", answer["CHAP_C"]),
    ]
    try:
        answer = login.step(SECURITY, OPERATIONAL, True, keys)
    except (LoginFailed, Closed):
        return
    raise AssertionError(f"a reflected challenge was answered: {sorted(answer)}")


@case(seconds=60)
def test_challenges_do_not_repeat(context: Context) -> None:
    """CVE-2024-45751: challenges are long, all differ, and differ over a restart."""
    target = serve(context, simple("random", authentication=Authentication((_ACCOUNT,))))

    def challenges(count: int) -> list[bytes]:
        found = []
        for _ in range(count):
            login = raw_login(context, options(target.name))
            login.step(SECURITY, OPERATIONAL, False, [*login.first_keys(), ("AuthMethod", "CHAP")])
            found.append(chap.read(login.step(SECURITY, 0, False, [("CHAP_A", "5")])["CHAP_C"]))
            login.connection.close()
        return found

    seen = challenges(40)
    context.server.kill()
    context.server.restart()
    seen += challenges(40)
    expect_equal(len(set(seen)), len(seen), "distinct challenges")
    expect(min(len(challenge) for challenge in seen) >= 16, "challenges of 16 bytes at least")


@case(seconds=90, needs=("hardened",))
def test_half_open_logins(context: Context) -> None:
    """CVE-2007-20001: a thousand connections that say nothing cost little, and others still get in."""
    target = disk(context)
    session = log_in(context, target)
    before = resident(context.server.pid())
    idle = []
    for _ in range(1000):
        try:
            idle.append(Connection(context.server.host, context.server.port, 2.0))
        except OSError:
            break  # refused at a limit: that is an answer
    for connection in idle:
        context.cleanup.callback(connection.close)
    read(session, 0, 8)
    grown = resident(context.server.pid()) - before
    expect(grown < 64 * 1024, f"{len(idle)} idle connections took {grown} KiB")
    for connection in idle:
        connection.reset()
    wait.until("a login after the flood", lambda: _can_log_in(context, target.name), 30)
    context.note(f"{len(idle)} half-open connections, {grown} KiB")


def _can_log_in(context: Context, target: str) -> bool:
    try:
        session = Session(context.server.host, context.server.port, options(target), 5.0)
    except (OSError, LoginFailed):
        return False
    session.connection.close()
    return True


@case(seconds=60, needs=("hardened",))
def test_silent_login_is_ended(context: Context) -> None:
    """A connection that never logs in is closed within the login timeout."""
    disk(context)
    connection = connect(context)
    expect(connection.at_end(45), "closed within 45 s")


@case(seconds=60, needs=("hardened",))
def test_logins_to_nothing_leave_nothing(context: Context) -> None:
    """CVE-2013-20004: two thousand logins to a target that is not there; memory stays flat."""
    target = disk(context)
    for count in (200, 1800):
        if count == 1800:
            before = resident(context.server.pid())
        for _ in range(count):
            login = Login(Connection(context.server.host, context.server.port), options("iqn.2026-11.test:nothing"))
            try:
                login.run()
            except (LoginFailed, Closed):
                pass
            login.connection.close()
    grown = resident(context.server.pid()) - before
    expect(grown < 4 * 1024, f"memory grew by {grown} KiB")
    alive(context, target)


@case(seconds=60)
def test_noise(context: Context) -> None:
    """Random bytes on fresh connections: no answer is right or wrong, the target lives."""
    target = disk(context)
    for size in itertools.chain(range(1, 60), (100, 1000, 10_000, 100_000)):
        connection = connect(context)
        try:
            connection.send_raw(os.urandom(size))
        except (Closed, Silent):
            pass
        connection.close()
    alive(context, target)


# -- after the login --


@case(needs=("hardened",))
def test_zero_length_text_with_continue(context: Context) -> None:
    """CVE-2021-28361: an empty text request that says more will come."""
    target = disk(context)
    session = log_in(context, target)
    pdu = wire.request(wire.TEXT, 0x40, session.tag())
    session.connection.send(session.stamp(pdu))
    try:
        answer = session.connection.receive(3)
        expect(answer.opcode in (wire.TEXT_RESPONSE, wire.REJECT), f"answered by opcode {answer.opcode:#x}")
    except (Closed, Silent):
        pass
    alive(context, target)


@case(seconds=60, needs=("hardened",))
def test_unknown_opcodes(context: Context) -> None:
    """Opcodes that do not exist are rejected as unsupported or end the connection."""
    target = disk(context)
    for opcode in (0x07, 0x0F, 0x11, 0x1C, 0x20, 0x2F, 0x3F):
        session = log_in(context, target)
        session.connection.send(session.stamp(wire.request(opcode, FINAL, session.tag())))
        try:
            answer = session.connection.receive(3)
            expect_equal(answer.opcode, wire.REJECT, f"answer to opcode {opcode:#x}")
        except (Closed, Silent):
            pass
        session.connection.close()
    alive(context, target)


@case(needs=("hardened",))
def test_data_out_that_belongs_to_nothing(context: Context) -> None:
    """Data with wrong tags, offsets and lengths writes nothing; other sessions do not notice."""
    target = disk(context)
    keep = pattern(64 * 512)
    write(log_in(context, target), 0, keep).good()
    manual = {"InitialR2T": "Yes", "ImmediateData": "No"}

    def attack(itt: int | None, ttt: int | None, begin: int, length: int, sn: int) -> None:
        session = log_in(context, target, keys=manual)
        task = session.start(scsi.write10(0, 8), out=b"\xee" * 8 * 512, hold=True)
        while not task.held:
            session.pump()
        pdu = wire.request(wire.DATA_OUT, FINAL, task.itt if itt is None else itt, 1, b"\xee" * length)
        pdu.put(20, task.held[0].ttt if ttt is None else ttt).put(36, sn).put(40, begin)
        try:
            session.connection.send(pdu)
            while session.pump(1.0).opcode != wire.SCSI_RESPONSE:
                pass
        except (Closed, Silent, Rejected, AssertionError):
            pass
        session.connection.reset()

    attack(0x7777, None, 0, 512, 0)
    attack(None, 0x77777777, 0, 512, 0)
    attack(None, None, 1 << 30, 512, 0)
    attack(None, None, 4096, 4096, 0)
    attack(None, None, 0, 8192, 0)
    attack(None, None, 512, 512, 5)
    expect(read(log_in(context, target), 8, 56) == keep[8 * 512 :], "blocks that no write named are untouched")
    alive(context, target)


@case(needs=("hardened",))
def test_immediate_data_over_the_limits(context: Context) -> None:
    """More unsolicited data than FirstBurstLength, more immediate data than the write takes."""
    target = disk(context)
    before = pattern(64 * 512)
    write(log_in(context, target), 0, before).good()
    for size, blocks in ((8192, 16), (2048, 1)):
        session = log_in(context, target, keys={"FirstBurstLength": "4096", "MaxBurstLength": "4096"})
        pdu = wire.request(wire.SCSI_COMMAND, FINAL | 0x21, session.tag(), 1, b"\xdd" * size)
        pdu.put(20, blocks * 512)
        pdu.bhs[32:42] = scsi.write10(32, blocks)
        session.connection.send(session.stamp(pdu))
        try:
            answer = session.connection.receive(3)
            expect(answer.opcode in (wire.REJECT, wire.SCSI_RESPONSE), f"answered by {answer.opcode:#x}")
            expect(answer.opcode == wire.REJECT or answer.bhs[3] != 0, "data over the limit was taken")
        except (Closed, Silent):
            pass
    alive(context, target)


@case(needs=("digests",))
def test_damaged_digests(context: Context) -> None:
    """A wrong header digest ends the connection; wrong data is never written and never silently dropped."""
    target = disk(context)
    keep = pattern(512)
    write(log_in(context, target), 0, keep).good()
    keys = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
    session = log_in(context, target, keys=keys)
    whole = bytearray(
        session.stamp(wire.request(wire.NOP_OUT, FINAL, session.tag(), immediate=True)).encode(True, True)
    )
    whole[48] ^= 1
    session.connection.send_raw(bytes(whole))
    expect(session.connection.at_end(10), "a wrong header digest ends the connection")
    session = log_in(context, target, keys=keys)
    pdu = wire.request(wire.SCSI_COMMAND, FINAL | 0x21, session.tag(), 1, pattern(512))
    pdu.put(20, 512)
    pdu.bhs[32:42] = scsi.write10(0, 1)
    whole = bytearray(session.stamp(pdu).encode(True, True))
    whole[-1] ^= 1
    session.connection.send_raw(bytes(whole))
    try:
        answer = session.connection.receive(5)
        expect(answer.opcode == wire.REJECT or answer.bhs[3] != 0, "damaged data was taken")
    except Closed:
        pass
    expect(read(log_in(context, target), 0, 1) == keep, "damaged data was written")


@case(seconds=60, needs=("hardened",))
def test_persistent_reserve_out_lists_that_lie(context: Context) -> None:
    """CVE-2024-39281: list lengths of 0, 23, 25 and 4 GiB, with less data than they say."""
    target = disk(context)
    session = log_in(context, target)
    before = resident(context.server.pid())
    for action in range(9):
        for length in (0, 1, 23, 25, 4096, 0xFFFFFFFF):
            for data in (b"", pr.out_list(0, 1), bytes(64)):
                result = session.run(pr.out_cdb(action, 1, length), out=data)
                exact = length == 24 or (length == 0 and not data)
                expect(
                    exact or result.status != scsi.GOOD or len(data) >= length > 0,
                    f"action {action}, length {length}: GOOD",
                )
    expect(resident(context.server.pid()) - before < 16 * 1024, "memory by a length in a CDB")
    expect_equal(pr.read_keys(session)[1], [], "nothing was registered")
    alive(context, target)


@case(seconds=60, needs=("hardened", "unmap"))
def test_unmap_lists_that_lie(context: Context) -> None:
    """Descriptor lengths that disagree, ranges beyond the end and round the number's end take nothing away."""
    target = disk(context)
    session = log_in(context, target)
    keep = pattern(64 * 512)
    write(session, 0, keep).good()
    blocks = 32 * 1024 * 1024 // 512
    bad = [
        struct.pack(">HHI", 0xFFFF, 16, 0) + struct.pack(">QII", blocks, 8, 0),
        struct.pack(">HHI", 22, 0xFFF0, 0) + struct.pack(">QII", blocks - 1, 8, 0),
        struct.pack(">HHI", 22, 16, 0) + struct.pack(">QII", (1 << 64) - 4, 8, 0),
        struct.pack(">HHI", 22, 16, 0) + struct.pack(">QII", 0, 0xFFFFFFFF, 0),
    ]
    for listing in bad:
        result = session.run(scsi.unmap(len(listing)), out=listing)
        expect(result.status != scsi.GOOD, f"taken: {listing.hex()}")
    for length in (0, 1, 7, 8, 9, 23):
        session.run(scsi.unmap(length), out=scsi.unmap_list([(0, 8)])[:length])
    expect(read(session, 8, 56) == keep[8 * 512 :], "nothing beyond the first blocks was taken")
    alive(context, target)


@case(seconds=60, needs=("hardened",))
def test_allocation_lengths(context: Context) -> None:
    """CVE-2024-43110: every allocation length gives a prefix of the same answer, never a stale byte more."""
    target = disk(context)
    session = log_in(context, target)
    commands: dict[str, Callable[[int], bytes]] = {
        "INQUIRY": lambda n: scsi.inquiry(n),
        "page 83": lambda n: scsi.inquiry(n, 0x83),
        "page B0": lambda n: scsi.inquiry(n, 0xB0),
        "REQUEST SENSE": lambda n: scsi.request_sense(min(n, 255)),
        "MODE SENSE": lambda n: scsi.mode_sense6(0x3F, min(n, 255)),
        "READ CAPACITY(16)": lambda n: scsi.read_capacity16(n),
        "REPORT LUNS": lambda n: scsi.report_luns(max(n, 16)),
        "READ KEYS": lambda n: struct.pack(">BBBBBBBHB", 0x5E, 0, 0, 0, 0, 0, 0, n, 0),
        "READ FULL STATUS": lambda n: struct.pack(">BBBBBBBHB", 0x5E, 3, 0, 0, 0, 0, 0, n, 0),
    }
    for name, make in commands.items():
        full = session.run(make(255), expect_in=255).good().data
        for length in (0, 1, 3, 4, 5, 7, 8, 16, 17, 18, 31, 32, 36, 95, 96, 254):
            part = session.run(make(length), expect_in=255)
            if part.status == scsi.GOOD:
                wanted = full[: max(length, 16) if name == "REPORT LUNS" else length]
                expect_equal(part.data, wanted, f"{name} with {length} bytes")


@case(seconds=60, needs=("hardened",))
def test_report_supported_opcodes_matrix(context: Context) -> None:
    """CVE-2024-42416: all options, opcodes and actions, with rooms from none to plenty."""
    target = disk(context)
    session = log_in(context, target)
    for option in range(8):
        for opcode in (0, 0x12, 0x28, 0x5E, 0x5F, 0x7F, 0x9E, 0xA3, 0xFF):
            for action in (0, 1, 0x10, 0x1F, 0xFFFF):
                for length in (0, 4, 20, 4096):
                    result = session.run(scsi.report_supported_opcodes(option, opcode, action, length), expect_in=4096)
                    expect(len(result.data) <= length, "more than was asked for")
    alive(context, target)


@case(seconds=60, needs=("hardened",))
def test_buffers_and_diagnostics(context: Context) -> None:
    """CVE-2024-45063, -8178: WRITE BUFFER, READ BUFFER and SEND DIAGNOSTIC with every mode, offset and length."""
    target = disk(context)
    session = log_in(context, target)
    for mode in range(32):
        for offset, length in ((0, 0), (0, 512), (0xFFFFFF, 512), (256, 0xFFFFFF)):
            place = offset.to_bytes(3, "big") + length.to_bytes(3, "big")
            session.run(bytes((0x3B, mode, 0)) + place + b"\0", out=bytes(512))
            session.run(bytes((0x3C, mode, 0)) + place + b"\0", expect_in=512)
    for flags in range(256):
        session.run(bytes((0x1D, flags, 0, 0, 0, 0)))
        calm(session)
    alive(context, target)


@case(seconds=90, needs=("hardened",))
def test_every_command_with_noise(context: Context) -> None:
    """Every opcode with random fields, with and without data, each way: answered within the bound, every time."""
    target = disk(context)
    session = log_in(context, target)
    resets = {0x1B, 0x1E}  # START STOP and PREVENT would hide the medium from the cases after this one
    for opcode in range(256):
        for round_number in range(4):
            cdb = bytes((opcode,)) + os.urandom(15)
            if opcode in resets or opcode == 0x04:
                continue
            out = os.urandom(512) if round_number % 2 else b""
            session.run(cdb, out=out, expect_in=0 if out else 4096)
    expect(calm(session) is not None, "ready at the end")


@case(seconds=60, needs=("hardened", "task-management"))
def test_abort_before_data_and_broken_connections(context: Context) -> None:
    """Aborts, resets and closes while data is awaited: nothing hangs, nothing leaks, nothing is written."""
    target = disk(context)
    keep = pattern(8 * 512)
    write(log_in(context, target), 0, keep).good()
    for turn in range(60):
        session = log_in(context, target, keys={"InitialR2T": "Yes", "ImmediateData": "No"})
        tasks = [session.start(scsi.write10(0, 8), out=b"\xcc" * 4096, hold=True) for _ in range(4)]
        while not all(task.held for task in tasks):
            session.pump()
        if turn % 3 == 0:
            expect_equal(session.manage(ABORT_TASK, task=tasks[turn % 4]), 0, "abort")
        if turn % 2:
            session.connection.reset()
        else:
            session.connection.close()
    expect(read(log_in(context, target), 0, 8) == keep, "a write without its data changed something")
    alive(context, target)


@case(needs=("hardened",))
def test_ahs_of_every_length(context: Context) -> None:
    """Additional header segments that are unknown, too long for their field, or of length 0."""
    target = disk(context)
    for ahs in (
        b"\0" * 4,
        b"\xff" * 8,
        b"\x00\x01\x01\x00",
        b"\x00\x10\x01\x00" + bytes(16),
        b"\xff\xff\x01\x00",
        bytes(1020),
    ):
        session = log_in(context, target)
        task = session.start(scsi.test_unit_ready(), ahs=ahs)
        try:
            session.wait(task, 3)
        except (Closed, Silent, Rejected):
            pass
        session.connection.close()
    alive(context, target)


@case(seconds=60, needs=("sanctum",))
def test_files_and_socket_are_private(context: Context) -> None:
    """CVE-2020-13867, -10699: secrets readable by the owner only, the socket not by the world."""
    server = sanctum(context)
    secrets = server.report["secrets_file"]
    mode = os.stat(secrets).st_mode & 0o777
    expect_equal(mode, 0o600, "mode of the secrets file")
    socket_mode = os.stat(server.report["socket"]).st_mode & 0o777
    expect_equal(socket_mode, 0o660, "mode of the socket")
    account = Account(ports.unique("user"), "a-secret-nobody-reads")
    serve(context, simple("private", authentication=Authentication((account,))))
    shown = server.cli.settings()["text"] + str(server.cli.run("chap", "list")) + str(server.cli.events())
    expect(account.secret not in shown, "a secret in what the service shows")
    expect(account.secret not in server.log.read_text(errors="replace"), "a secret in the log")
