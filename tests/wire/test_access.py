"""Who may use what: CHAP in every combination, access rules, LUN maps, discovery, portals, one at a time."""

from __future__ import annotations

from dataclasses import replace

from harness import ports, wait
from harness.model import Account, Authentication, Device, Lun, Rule, Target
from harness.runner import Context, case, expect, expect_equal
from initiator import chap, scsi
from initiator import pdu as wire
from initiator.chap import Credentials
from initiator.connection import Closed
from initiator.login import LoginFailed, Options, WrongProof
from initiator.session import Session, discover
from wire.support import (
    calm,
    log_in,
    options,
    pattern,
    raw_login,
    raw_session,
    read,
    refused,
    sanctum,
    serve,
    simple,
    write,
)

_JOE = Account("joe", "secret-of-16-byt")
_PORTAL = Account("portal", "another-secret-16")
_FAILED, _FORBIDDEN, _NOT_FOUND = 0x0201, 0x0202, 0x0203


def _credentials(account: Account, mutual: Account | None = None, **more: object) -> Credentials:
    user, secret = (mutual.user, mutual.secret) if mutual else (None, None)
    return Credentials(account.user, account.secret, user, secret, **more)  # type: ignore[arg-type]


# -- CHAP --


@case(seconds=60, needs=("chap-all",))
def test_chap_matrix(context: Context) -> None:
    """Four hashes, one-way and mutual, hexadecimal and base64."""
    target = serve(context, simple("matrix", authentication=Authentication((_JOE,), _PORTAL)))
    for number in (5, 6, 7, 8):
        for spelling in ("hex", "base64"):
            for mutual in (None, _PORTAL):
                credentials = _credentials(_JOE, mutual, algorithms=(number,), spelling=spelling)
                session = log_in(context, target, credentials=credentials)
                expect_equal(session.chap_algorithm, number, "hash in use")
                read(session, 0, 1)
                session.logout()
                session.connection.close()


@case(needs=("chap-md5",))
def test_wrong_proofs(context: Context) -> None:
    """Wrong secret, wrong user, empty secret, no CHAP at all: authentication failure, each time."""
    target = serve(context, simple("wrong", authentication=Authentication((_JOE,))))
    for user, secret in (
        (_JOE.user, "wrong-secret-16b"),
        ("nobody", _JOE.secret),
        (_JOE.user, ""),
        ("", ""),
        ("JOE", _JOE.secret),
    ):
        expect_equal(
            refused(context, options(target.name, credentials=Credentials(user, secret))), _FAILED, f"{user}:{secret}"
        )
    expect_equal(refused(context, options(target.name)), _FAILED, "no CHAP offered")
    log_in(context, target, credentials=_credentials(_JOE))


@case(needs=("chap-mutual",))
def test_mutual_required_is_enforced(context: Context) -> None:
    """Where the target's proof is required, an initiator that does not ask for it is refused (SPDK 2024)."""
    proof = Authentication((_JOE,), _PORTAL, mutual_required=True)
    target = serve(context, simple("required", authentication=proof))
    expect_equal(
        refused(context, options(target.name, credentials=_credentials(_JOE))),
        _FAILED,
        "one-way where mutual is required",
    )
    log_in(context, target, credentials=_credentials(_JOE, _PORTAL))


@case(needs=("chap-mutual",))
def test_target_proves_itself_rightly(context: Context) -> None:
    """The initiator sees a wrong expectation of the target's secret as a wrong proof."""
    target = serve(context, simple("proof", authentication=Authentication((_JOE,), _PORTAL)))
    try:
        log_in(context, target, credentials=_credentials(_JOE, replace(_PORTAL, secret="not-its-secret-16")))
        raise AssertionError("a wrong target secret was proven")
    except WrongProof:
        pass
    log_in(context, target, credentials=_credentials(_JOE, _PORTAL))


@case(needs=("chap-all",))
def test_algorithm_policy(context: Context) -> None:
    """Only what the target allows is chosen, in the initiator's order; nothing in common is a failure."""
    target = serve(context, simple("policy", authentication=Authentication((_JOE,), algorithms=("sha3-256", "sha256"))))
    session = log_in(context, target, credentials=_credentials(_JOE, algorithms=(5, 6, 7, 8)))
    expect(session.chap_algorithm in (7, 8), f"chosen {session.chap_algorithm}")
    status = refused(context, options(target.name, credentials=_credentials(_JOE, algorithms=(5, 6))))
    expect_equal(status, _FAILED, "MD5 and SHA-1 only")


@case(needs=("chap-all",))
def test_proof_per_rule(context: Context) -> None:
    """A rule's own proof holds for its initiators, the target's for the rest."""
    special = ports.iqn("special")
    ann = Account("ann", "secret-of-ann-16")
    rules = (Rule(initiator=special, authentication=Authentication((ann,))), Rule())
    target = serve(context, simple("per-rule", access=rules, authentication=Authentication((_JOE,))))
    log_in(context, target, special, credentials=_credentials(ann))
    log_in(context, target, credentials=_credentials(_JOE))
    expect_equal(
        refused(context, options(target.name, special, credentials=_credentials(_JOE))),
        _FAILED,
        "not the rule's account",
    )
    expect_equal(
        refused(context, options(target.name, credentials=_credentials(ann))), _FAILED, "the rule's account by another"
    )


@case(needs=("chap-md5",))
def test_hash_of_one_login_does_not_open_another(context: Context) -> None:
    """A response recorded in one login is refused in the next."""
    target = serve(context, simple("replay", authentication=Authentication((_JOE,))))
    first = raw_login(context, options(target.name))
    first.step(0, 1, False, [*first.first_keys(), ("AuthMethod", "CHAP")])
    answer = first.step(0, 0, False, [("CHAP_A", "5")])
    proof = chap.digest(5, int(answer["CHAP_I"]), _JOE.secret.encode(), chap.read(answer["CHAP_C"]))
    second = raw_login(context, options(target.name))
    second.step(0, 1, False, [*second.first_keys(), ("AuthMethod", "CHAP")])
    second.step(0, 0, False, [("CHAP_A", "5")])
    try:
        second.step(0, 1, True, [("CHAP_N", _JOE.user), ("CHAP_R", chap.spell(proof))])
        raise AssertionError("a recorded proof was taken")
    except (LoginFailed, Closed):
        pass


# -- rules --


@case(needs=("access",))
def test_rules_in_order(context: Context) -> None:
    """The first rule that matches decides; none that matches denies."""
    good, bad = ports.iqn("good"), ports.iqn("bad")
    rules = (Rule(initiator=bad, action="deny"), Rule(initiator=good), Rule(initiator=bad))
    target = serve(context, simple("order", access=rules))
    log_in(context, target, good)
    expect_equal(refused(context, options(target.name, bad)), _FORBIDDEN, "denied by the first rule")
    expect_equal(refused(context, options(target.name)), _FORBIDDEN, "no rule matches")


@case(needs=("access",))
def test_rules_by_pattern_network_and_portal(context: Context) -> None:
    """Patterns, networks and portals each narrow a rule."""
    server = sanctum(context)
    stem = ports.iqn("lab")
    rules = (Rule(initiator=f"{stem}:*"), Rule(network="127.0.0.9/32"), Rule(initiator="*:by-portal", portal="no-such"))
    target = simple("narrow", access=rules[:2])
    serve(context, target)
    log_in(context, target, f"{stem}:host1")
    expect_equal(refused(context, options(target.name, f"{stem}-other")), _FORBIDDEN, "outside the pattern")
    session = raw_session(context, options(target.name), source="127.0.0.9")
    calm(session)
    expect_equal(refused(context, options(target.name), source="127.0.0.8"), _FORBIDDEN, "outside the network")
    port = ports.free_port()
    name = ports.unique("side")
    server.cli.add_portal(name, f"127.0.0.1:{port}")
    second = serve(context, simple("by-portal", access=(Rule(portal=name),)))
    context.cleanup.callback(server.cli.remove_portal, name)
    calm(raw_session(context, options(second.name), port))
    expect_equal(refused(context, options(second.name)), _FORBIDDEN, "through another portal")
    server.set_access(second.name, (Rule(),))


@case(needs=("access",))
def test_read_only_rule(context: Context) -> None:
    """A read-only initiator reads; each kind of write is refused with WRITE PROTECTED, and MODE SENSE says so."""
    reader = ports.iqn("reader")
    target = serve(context, simple("ro", access=(Rule(initiator=reader, action="read-only"), Rule())))
    full, limited = log_in(context, target), log_in(context, target, reader)
    data = pattern(512)
    write(full, 0, data).good()
    expect(read(limited, 0, 1) == data, "reads")
    listing = scsi.unmap_list([(0, 8)])
    for cdb, out in (
        (scsi.write10(0, 1), bytes(512)),
        (scsi.write16(0, 1), bytes(512)),
        (scsi.write_same16(0, 1), bytes(512)),
        (scsi.unmap(len(listing)), listing),
        (scsi.compare_and_write(0, 1), data + bytes(512)),
    ):
        limited.run(cdb, out=out).check(scsi.DATA_PROTECT, 0x27)
    expect(limited.run(scsi.mode_sense6(0x3F), expect_in=255).good().data[2] & 0x80, "WP bit for the reader")
    expect(not full.run(scsi.mode_sense6(0x3F), expect_in=255).good().data[2] & 0x80, "no WP bit for the other")
    expect(read(full, 0, 1) == data, "nothing was changed")


@case(needs=("access",))
def test_lun_map_per_initiator(context: Context) -> None:
    """An initiator sees its own numbers, all of them and no others, by REPORT LUNS and by access."""
    mapped = ports.iqn("mapped")
    devices = [Device(ports.unique("map")) for _ in range(3)]
    luns = tuple(Lun(number, device) for number, device in enumerate(devices, start=1))
    rules = (Rule(initiator=mapped, luns=((7, 2), (1, 3))), Rule())
    target = serve(context, Target(ports.iqn("map"), luns, access=rules))
    full = log_in(context, target)
    for number in (1, 2, 3):
        calm(full, number)
        write(full, 0, bytes([number]) * 512, number).good()
    session = log_in(context, target, mapped)
    calm(session, 7)
    expect_equal(_luns(session) - {0}, {1, 7}, "REPORT LUNS")
    expect_equal((read(session, 0, 1, 7)[0], read(session, 0, 1, 1)[0]), (2, 3), "what lies behind")
    session.run(scsi.read10(0, 1), 2, expect_in=512).check(scsi.ILLEGAL_REQUEST, 0x25, 0)
    expect_equal(session.manage(5, lun=2), 2, "a reset of a LUN outside the map")


def _luns(session: Session) -> set[int]:
    data = session.run(scsi.report_luns(), expect_in=4096).good().data
    return {wire.decode_lun(data[at : at + 8]) for at in range(8, 8 + int.from_bytes(data[:4], "big"), 8)}


@case(needs=("access",))
def test_discovery_shows_only_what_may_be_used(context: Context) -> None:
    """A denied target is not in the list, not even when asked for by its name."""
    friend = ports.iqn("friend")
    open_to_all = serve(context, simple("open"))
    secret = serve(context, simple("hidden", access=(Rule(initiator=friend),)))
    server = context.server

    def shown(initiator: str, which: str = "All") -> set[str]:
        return set(discover(server.host, server.port, Options(initiator), which))

    expect({open_to_all.name, secret.name} <= shown(friend), "the friend sees both")
    stranger = ports.iqn("stranger")
    expect(open_to_all.name in shown(stranger), "a stranger sees the open one")
    expect(secret.name not in shown(stranger), "a stranger sees the hidden one")
    expect_equal(shown(stranger, secret.name), set(), "by its name")


@case(needs=("access",))
def test_removed_rule_cuts_its_sessions(context: Context) -> None:
    """Taking a rule away ends the sessions that it let in, and no others."""
    guest = ports.iqn("guest")
    target = serve(context, simple("cut", access=(Rule(initiator=guest), Rule(initiator="*:keep*"))))
    cut, keep = log_in(context, target, guest), log_in(context, target, ports.iqn("x") + ":keep")
    write(keep, 0, pattern(512)).good()
    sanctum(context).cli.remove_rule(target.name, 1)
    expect(_ends(cut), "the session without a rule ends")
    write(keep, 0, pattern(512)).good()
    expect_equal(refused(context, options(target.name, guest)), _FORBIDDEN, "logging in again")


def _ends(session: Session) -> bool:
    """The session is closed, perhaps after a message that asks for a logout."""
    return session.connection.at_end(10)


@case(needs=("access",))
def test_one_at_a_time(context: Context) -> None:
    """With "allow multiple" off a second initiator is refused; the first may come back by its other ports or again."""
    target = serve(context, simple("single", allow_multiple=False))
    first = log_in(context, target)
    # Class 3, out of resources: the initiator is in order and may try again later. (0206h speaks of the connections of
    # one session, class 2 would tell it to stop trying.)
    expect_equal(refused(context, options(target.name)), 0x0302, "status for a second initiator")
    log_in(context, target, first.options.initiator, isid=first.options.isid)
    log_in(context, target, first.options.initiator)
    sanctum(context).cli.allow_multiple(target.name, True)
    log_in(context, target)


@case(needs=("access",))
def test_slot_is_free_after_the_first_left(context: Context) -> None:
    """Logout and a broken connection both make room for the next initiator."""
    target = serve(context, simple("slot", allow_multiple=False))
    first = log_in(context, target)
    first.logout()
    first.connection.close()
    second = log_in(context, target)
    second.connection.reset()

    def free() -> Session | None:
        try:
            return raw_session(context, options(target.name))
        except LoginFailed:
            return None

    calm(wait.until("room after a broken connection", free, 15))


@case(seconds=60, needs=("hot-change",))
def test_portal_off_and_on(context: Context) -> None:
    """A disabled portal takes no connections and ends its sessions; enabled it serves again; others do not notice."""
    server = sanctum(context)
    target = serve(context, simple("portal"))
    port, name = ports.free_port(), ports.unique("gate")
    server.cli.add_portal(name, f"127.0.0.1:{port}")
    context.cleanup.callback(server.cli.remove_portal, name)
    through = raw_session(context, options(target.name), port)
    calm(through)
    other = log_in(context, target)
    server.cli.enable_portal(name, False)
    expect(_ends(through), "sessions through a disabled portal end")
    try:
        raw_session(context, options(target.name), port)
        raise AssertionError("a disabled portal took a connection")
    except OSError:
        pass
    read(other, 0, 1)
    server.cli.enable_portal(name, True)
    calm(raw_session(context, options(target.name), port))
    listed = {entry["name"]: entry for entry in server.cli.portals()}
    expect(listed[name]["listening"], "listed as listening")


@case(needs=("access",))
def test_dropped_session_may_come_back(context: Context) -> None:
    """`session drop` ends one session; listing shows it before and not after."""
    server = sanctum(context)
    target = serve(context, simple("drop"))
    session = log_in(context, target)
    tsih = next(s["tsih"] for s in server.cli.sessions() if s["initiator"] == session.options.initiator)
    expect_equal(tsih, session.tsih, "TSIH in the listing")
    server.cli.drop_session(tsih)
    expect(_ends(session), "the session ends")
    left = [s for s in server.cli.sessions() if s["initiator"] == session.options.initiator]
    expect_equal(left, [], "sessions left")
    log_in(context, target, session.options.initiator)
