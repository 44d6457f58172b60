"""Login and negotiation, well-behaved and not (after UNH-IOL's login and full feature plans)."""

from __future__ import annotations

from harness import ports
from harness.runner import Context, case, expect, expect_equal
from initiator import pdu as wire
from initiator import scsi
from initiator.connection import Closed
from initiator.login import FULL_FEATURE, OPERATIONAL, SECURITY, LoginFailed
from initiator.pdu import encode_keys
from initiator.session import Rejected, discover
from wire.support import (
    alive,
    calm,
    connect,
    disk,
    isid,
    log_in,
    options,
    pattern,
    raw_login,
    raw_session,
    read,
    refused,
    sanctum,
    write,
)


@case()
def test_straight_to_operational_stage(context: Context) -> None:
    """An initiator may leave out the security stage where no proof is asked."""
    target = disk(context)
    login = raw_login(context, options(target.name))
    login.step(OPERATIONAL, FULL_FEATURE, True, [*login.first_keys(), *login.offer().items()])
    expect(login.transited(), "went to the full feature phase")
    expect(login.outcome().tsih != 0, "a TSIH was given")
    expect("TargetPortalGroupTag" in login.answered, "the portal group tag is declared")


@case()
def test_results_of_each_key(context: Context) -> None:
    """Each key follows its rule: minimum, maximum, and, or, first of a list."""
    target = disk(context)
    table = [
        (
            {"MaxBurstLength": "8192", "FirstBurstLength": "4096"},
            {"MaxBurstLength": "8192", "FirstBurstLength": "4096"},
        ),
        ({"MaxOutstandingR2T": "1"}, {"MaxOutstandingR2T": "1"}),
        ({"MaxConnections": "8"}, {"MaxConnections": "1"}),
        ({"ErrorRecoveryLevel": "2"}, {"ErrorRecoveryLevel": "0"}),
        ({"ImmediateData": "No"}, {"ImmediateData": "No"}),
        ({"InitialR2T": "Yes"}, {"InitialR2T": "Yes"}),
        ({"DataPDUInOrder": "Yes"}, {"DataPDUInOrder": "Yes"}),
        ({"DataSequenceInOrder": "Yes"}, {"DataSequenceInOrder": "Yes"}),
        ({"DefaultTime2Wait": "60"}, {"DefaultTime2Wait": "60"}),
        ({"DefaultTime2Retain": "0"}, {"DefaultTime2Retain": "0"}),
    ]
    for offer, wanted in table:
        session = raw_session(context, options(target.name, keys=offer))
        for key, value in wanted.items():
            expect_equal(session.keys[key], value, f"{key} of offer {offer}")
        session.logout()


@case()
def test_unknown_and_wrong_values(context: Context) -> None:
    """Unknown keys are NotUnderstood, impossible values Reject; neither ends the login."""
    target = disk(context)
    login = raw_login(context, options(target.name, keys={"X-org.example.nothing": "1", "IFMarker": "No"}))
    outcome = login.run()
    expect_equal(outcome.keys["X-org.example.nothing"], "NotUnderstood", "unknown key")
    for key, value in (
        ("MaxBurstLength", "511"),
        ("ImmediateData", "Perhaps"),
        ("MaxOutstandingR2T", "0"),
        ("HeaderDigest", "MD4"),
    ):
        login = raw_login(context, options(target.name))
        login.step(SECURITY, OPERATIONAL, True, [*login.first_keys(), ("AuthMethod", "None")])
        try:
            answer = login.step(OPERATIONAL, FULL_FEATURE, False, [(key, value)])
        except LoginFailed as failure:
            expect_equal(failure.status, 0x0200, f"status for {key}={value}")
            continue
        expect_equal(answer.get(key), "Reject", f"answer to {key}={value}")


@case(needs=("digests",))
def test_digest_choice(context: Context) -> None:
    """The initiator's order of digests decides; both digests then hold for every PDU."""
    target = disk(context)
    for offer, wanted in (("CRC32C", "CRC32C"), ("CRC32C,None", "CRC32C"), ("None,CRC32C", "None"), ("None", "None")):
        session = log_in(context, target, keys={"HeaderDigest": offer, "DataDigest": offer})
        expect_equal(
            (session.keys["HeaderDigest"], session.keys["DataDigest"]), (wanted, wanted), f"digests of {offer}"
        )
        data = pattern(65 * 512)
        write(session, 3, data).good()
        expect(read(session, 3, 65) == data, "data under digests")
        expect_equal(session.ping(b"ping of odd length"), b"ping of odd length", "NOP under digests")
        session.logout()


@case()
def test_keys_in_pieces(context: Context) -> None:
    """Keys cut anywhere over several requests with the C bit are one text."""
    target = disk(context)
    login = raw_login(context, options(target.name))
    login.step(SECURITY, OPERATIONAL, True, [*login.first_keys(), ("AuthMethod", "None")])
    text = encode_keys(list(login.offer().items()))
    for at in range(0, len(text), 37):
        piece = text[at : at + 37]
        last = at + 37 >= len(text)
        login.connection.send(login.request(OPERATIONAL, FULL_FEATURE, last, piece, more=not last))
        login.answer(OPERATIONAL)
    expect(login.transited(), "went on after the last piece")
    expect("MaxRecvDataSegmentLength" in login.answered, "the keys were answered")


def _status_of(context: Context, keys: list[tuple[str, str]], change: dict[int, int] | None = None) -> int:
    """Status of a first login request with these keys and header bytes."""
    login = raw_login(context, options(None))
    request = login.request(SECURITY, OPERATIONAL, True, encode_keys(keys))
    for offset, value in (change or {}).items():
        request.bhs[offset] = value
    login.connection.send(request)
    try:
        login.answer(SECURITY)
        if login.transited() and not change:
            login.step(OPERATIONAL, FULL_FEATURE, True, [])
    except LoginFailed as failure:
        return failure.status
    except Closed:
        return -1
    return 0


@case()
def test_refusals_have_their_status(context: Context) -> None:
    """What is missing or unknown is refused with the status that says so."""
    target = disk(context)
    me = ("InitiatorName", ports.iqn("host"))
    name, normal, none = ("TargetName", target.name), ("SessionType", "Normal"), ("AuthMethod", "None")
    expect_equal(_status_of(context, [name, normal, none]), 0x0207, "no InitiatorName")
    expect_equal(_status_of(context, [me, normal, none]), 0x0207, "no TargetName")
    expect_equal(
        _status_of(context, [me, ("TargetName", ports.iqn("nothing")), normal, none]), 0x0203, "unknown target"
    )
    expect_equal(_status_of(context, [me, name, ("SessionType", "Odd"), none]), 0x0209, "unknown session type")
    expect_equal(_status_of(context, [me, name, normal, none], {3: 1, 2: 1}), 0x0205, "version 1 only")
    expect_equal(refused(context, options(target.name, tsih=0x7777)), 0x020A, "a TSIH that is not there")
    expect_equal(_status_of(context, [me, name, normal, none]), 0, "nothing wrong")


@case(needs=("hardened",))
def test_protocol_errors_in_login(context: Context) -> None:
    """Stages that do not exist, go back, or repeat a key end the login with an initiator error."""
    target = disk(context)
    good = [("InitiatorName", ports.iqn("host")), ("TargetName", target.name), ("AuthMethod", "None")]
    errors = {0x0200, 0x020B, -1}
    expect(_status_of(context, good, {1: 0x80 | 2}) in errors, "next stage 2")
    expect(_status_of(context, good, {1: 0x80 | (2 << 2) | 3}) in errors, "present stage 2")
    expect(_status_of(context, good, {1: 0x80 | (1 << 2) | 0}) in errors, "going back")
    expect(_status_of(context, good, {1: 0x80 | 0x40 | 1}) in errors, "T and C together")
    expect(_status_of(context, [*good, ("AuthMethod", "CHAP")]) in errors, "a key twice")
    alive(context, target)


@case(needs=("hardened",))
def test_nothing_but_login_before_login(context: Context) -> None:
    """Commands, text and data before the login are not answered as such; the connection ends."""
    target = disk(context)
    for opcode in (
        wire.SCSI_COMMAND,
        wire.TEXT,
        wire.NOP_OUT,
        wire.DATA_OUT,
        wire.TASK_MANAGEMENT,
        wire.LOGOUT,
        wire.SNACK,
    ):
        connection = connect(context)
        connection.send(wire.request(opcode, wire.FINAL, 1))
        expect(connection.at_end(), f"opcode {opcode:#x} before login ends the connection")
    alive(context, target)


@case(needs=("hardened",))
def test_login_again_in_full_feature_phase(context: Context) -> None:
    """A login request on a logged-in connection is a protocol error."""
    target = disk(context)
    session = log_in(context, target)
    pdu = wire.request(
        wire.LOGIN, 0x87, session.tag(), data=encode_keys([("InitiatorName", session.options.initiator)])
    )
    pdu.bhs[8:14] = session.options.isid
    session.connection.send(pdu)
    try:
        answer = session.connection.receive()
        expect(
            answer.opcode in (wire.REJECT, wire.LOGIN_RESPONSE) and answer.bhs[36] != 0 or answer.opcode == wire.REJECT,
            "rejected",
        )
    except Closed:
        pass
    alive(context, target)


@case()
def test_session_reinstatement(context: Context) -> None:
    """The same initiator and ISID again: the old session ends, the new one hears of it, data is whole."""
    target = disk(context)
    first = log_in(context, target)
    data = pattern(512)
    write(first, 5, data).good()
    again = raw_session(context, options(target.name, first.options.initiator, isid=first.options.isid))
    expect(first.connection.at_end(), "the old connection ends")
    expect(len(calm(again)) >= 1, "the new session hears of a nexus loss or power on")
    expect(read(again, 5, 1) == data, "data after reinstatement")


@case()
def test_reinstatement_storm(context: Context) -> None:
    """Sixty reinstatements under I/O: every one serves, nothing is left behind."""
    target = disk(context)
    name, same = ports.iqn("storm"), isid()
    for turn in range(60):
        session = raw_session(context, options(target.name, name, isid=same))
        calm(session)
        session.start(scsi.write10(turn, 1), out=pattern(512))
        session.start(scsi.read10(0, 64), expect_in=64 * 512)
    session = log_in(context, target, name, isid=same)
    read(session, 0, 8)


@case()
def test_parallel_sessions_of_one_initiator(context: Context) -> None:
    """Different ISIDs are different sessions with TSIHs of their own."""
    target = disk(context)
    name = ports.iqn("many")
    sessions = [log_in(context, target, name) for _ in range(8)]
    expect_equal(len({session.tsih for session in sessions}), 8, "distinct TSIHs")
    for number, session in enumerate(sessions):
        write(session, number, bytes([number]) * 512).good()
    for number in range(8):
        expect_equal(read(sessions[0], number, 1), bytes([number]) * 512, f"block {number}")


@case()
def test_discovery_session_is_only_that(context: Context) -> None:
    """SendTargets answers for all, for a name, and not for SCSI commands."""
    target = disk(context)
    expect_equal(
        list(discover(context.server.host, context.server.port, options(None), target.name)), [target.name], "by name"
    )
    found = discover(context.server.host, context.server.port, options(None), ports.iqn("nothing"))
    expect_equal(found, {}, "of a name that is not there")
    session = raw_session(context, options(None, session_type="Discovery"))
    pdu = wire.request(wire.SCSI_COMMAND, wire.FINAL | 0x40, session.tag())
    session.connection.send(session.stamp(pdu))
    try:
        session.pump()
        raise AssertionError("a discovery session answered a SCSI command")
    except (Rejected, Closed):
        pass


@case()
def test_normal_session_may_ask_for_itself(context: Context) -> None:
    """An empty SendTargets in a normal session names the session's own target."""
    target = disk(context)
    session = log_in(context, target)
    found = session.text([("SendTargets", "")])
    expect_equal([value for key, value in found if key == "TargetName"], [target.name], "own target")


@case()
def test_long_names(context: Context) -> None:
    """Names of 223 bytes are good, longer ones are refused."""
    target = disk(context)
    stem = ports.iqn("long") + "-"
    log_in(context, target, stem + "a" * (223 - len(stem)))
    if "hardened" in context.server.abilities:
        expect(refused(context, options(target.name, stem + "a" * (224 - len(stem)))) in (0x0200, 0x0207), "224 bytes")


@case(needs=("hot-change",))
def test_over_ipv6(context: Context) -> None:
    """An IPv6 portal serves like any other and is named in brackets."""
    target = disk(context)
    port = ports.free_port("::1")
    name = ports.unique("six")
    sanctum(context).cli.add_portal(name, f"[::1]:{port}")
    context.cleanup.callback(sanctum(context).cli.remove_portal, name)
    session = raw_session(context, options(target.name), port, "::1")
    calm(session)
    read(session, 0, 8)
    session.logout()
    session.connection.close()
    found = discover("::1", port, options(None))
    expect(any(entry.startswith(f"[::1]:{port},") for entry in found[target.name]), f"addresses {found[target.name]}")


@case(needs=("digests",))
def test_data_in_follows_declared_limits(context: Context) -> None:
    """Data-In comes in pieces of our MaxRecvDataSegmentLength, sequences of MaxBurstLength, R2Ts likewise."""
    target = disk(context)
    keys = {
        "MaxRecvDataSegmentLength": "1024",
        "MaxBurstLength": "4096",
        "FirstBurstLength": "1024",
        "MaxOutstandingR2T": "4",
    }
    session = log_in(context, target, keys=keys)
    data = pattern(256 * 512)
    task = session.start(scsi.write10(0, 256), out=data)
    session.wait(task).good()
    expect(task.r2ts >= (len(data) - 1024) // 4096, f"{task.r2ts} R2Ts for {len(data)} bytes")
    back = session.start(scsi.read10(0, 256), expect_in=len(data))
    expect(session.wait(back).good().data == data, "data in small pieces")
    expect(back.next_data_sn >= len(data) // 1024, "pieces of 1024")


@case()
def test_all_ways_to_send_data(context: Context) -> None:
    """Immediate or not, solicited or not, small bursts and large: the same bytes arrive."""
    target = disk(context)
    for immediate in ("Yes", "No"):
        for initial in ("Yes", "No"):
            for burst, first in (("512", "512"), ("8192", "4096"), ("262144", "65536"), ("1048576", "262144")):
                keys = {
                    "ImmediateData": immediate,
                    "InitialR2T": initial,
                    "MaxBurstLength": burst,
                    "FirstBurstLength": first,
                }
                session = log_in(context, target, keys=keys)
                data = pattern(300 * 512)
                write(session, 17, data).good()
                expect(read(session, 17, 300) == data, f"data with {keys}")
                session.logout()
                session.connection.close()
