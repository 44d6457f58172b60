"""Bad input and bad luck: each gets its clear error, and nothing is lost or half-applied."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

from harness import cli as command_line
from harness import ports
from harness.cli import CommandFailed
from harness.model import MIB, Device, Lun
from harness.runner import Context, case, expect, expect_equal
from initiator import scsi
from initiator.login import Options
from initiator.session import discover
from wire.support import calm, disk, log_in, options, pattern, raw_session, read, sanctum, serve, simple, write


def _fails(context: Context, *words: str, stdin: str | None = None) -> CommandFailed:
    """The command must fail, with an answer of the service or about the command line."""
    try:
        sanctum(context).cli.run(*words, stdin=stdin)
    except CommandFailed as failure:
        expect(failure.exit in (1, 2, 4), f"exit code {failure.exit} of {words}: {failure.text}")
        if failure.problem:
            expect(failure.problem.get("next_step"), f"what to do after {words}: {failure.text}")
        return failure
    raise AssertionError(f"sanctum {' '.join(words)} succeeded")


@case(seconds=60, needs=("sanctum",))
def test_bad_commands_change_nothing(context: Context) -> None:
    """Unknown names, doubles, nonsense values: each refused for its own reason, and the settings stay."""
    target = disk(context)
    cli = sanctum(context).cli
    device = target.luns[0].device.name
    before = cli.settings()
    nobody = "iqn.2026-11.test:nothing"
    # Exit code, code of the problem, what must be named; then the command.
    for code, problem, named, *words in (
        (1, "not-found", nobody, "target", "show", nobody),
        (4, "already-exists", target.name, "target", "create", target.name),
        (1, "invalid-settings", "not an iscsi name", "target", "create", "not an iscsi name"),
        (1, "not-found", nobody, "target", "delete", nobody),
        (1, "not-found", "no-such-device", "lun", "add", target.name, "no-such-device"),
        (4, "in-use", device, "lun", "add", target.name, device, "--number", "9"),
        (1, "not-found", "LUN 99", "lun", "remove", target.name, "99"),
        (4, "already-exists", device, "device", "create", "image", device, "--size", "1M"),
        (1, "invalid-settings", "1000", "device", "create", "image", "odd", "--size", "1000"),
        (4, "refused", "/nowhere/disc.iso", "device", "create", "iso", "gone", "--path", "/nowhere/disc.iso"),
        (4, "refused", "/dev/nothing", "device", "create", "block", "gone", "--path", "/dev/nothing"),
        (4, "in-use", device, "device", "delete", device),
        (4, "refused", "shrink", "device", "grow", device, "1M"),
        (4, "refused", "192.0.2.1:3260", "portal", "add", "bad", "192.0.2.1:3260"),
        (1, "not-found", "no-such-portal", "portal", "remove", "no-such-portal"),
        (1, "invalid-settings", "no-such-portal", "access", "add", target.name, "allow", "--portal", "no-such-portal"),
        (1, "not-found", "42", "access", "remove", target.name, "42"),
        (1, "not-found", "65000", "session", "drop", "65000"),
        (1, "not-found", "999999", "settings", "rollback", "999999"),
        (1, "not-found", "no-such-user", "chap", "remove", "no-such-user"),
    ):
        failure = _fails(context, *words)
        expect_equal((failure.exit, failure.code), (code, problem), f"how {words} ends: {failure.text}")
        expect(named in failure.text, f"{named!r} is named after {words}: {failure.text}")
    expect_equal(cli.settings(), before, "settings after refused commands")
    read(log_in(context, target), 0, 1)


@case(needs=("sanctum",))
def test_bad_flags(context: Context) -> None:
    """A wrong command line of either program is told with what is wrong in it, changes nothing, and ends with 2."""
    server = sanctum(context)
    before = server.cli.settings()
    for named, *words in (
        ("--nonsense", "status", "--nonsense"),
        ("nonsense", "nonsense"),
        ("12Q", "device", "create", "image", "x", "--size", "12Q"),
        ("--size", "device", "create", "image", "x"),
        ("sideways", "device", "cache", "x", "sideways"),
        ("maybe", "target", "update", "x", "--allow-multiple", "maybe"),
    ):
        failure = _fails(context, *words)
        expect_equal(failure.exit, 2, f"exit code of {words}")
        expect(named in failure.text, f"{named!r} is named: {failure.text}")
    expect_equal(server.cli.settings(), before, "settings after wrong command lines")
    fresh = context.directory / "fresh"
    for named, *words in (
        ("--nonsense", "run", "--nonsense"),
        ("nowhere", "init", "--portal", "nowhere"),
        ("12Q", "init", "--size", "12Q"),
    ):
        command = [str(server.programs / "sanctumd"), *words, "--data-dir", str(fresh)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
        )
        expect_equal(done.returncode, 2, f"exit code of {words}: {done.stdout}{done.stderr}")
        expect(named in done.stdout + done.stderr, f"{named!r} is named: {done.stdout}{done.stderr}")
        expect(not fresh.exists(), f"{words} left a data directory")


@case(needs=("sanctum",))
def test_weak_secrets_are_refused(context: Context) -> None:
    """A secret that no initiator would take, or none at all, is refused with the reason, and no account is made."""
    cli = sanctum(context).cli
    before = cli.settings()
    for secret, reason in (("", "no secret"), ("2short4u", "at least 12"), ("x" * 300, "at most 255")):
        failure = _fails(context, "chap", "add", ports.unique("user"), "--secret-stdin", stdin=secret + "\n")
        expect(reason in failure.text, f"{reason!r} is said: {failure.text}")
        expect(not secret or secret not in failure.text, "the secret itself is told")
    expect_equal(cli.settings(), before, "settings after refused secrets")


@case(needs=("sanctum",))
def test_taken_port(context: Context) -> None:
    """A portal on a port that another program holds is refused, and nothing is half-applied."""
    cli = sanctum(context).cli
    before = cli.settings()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        _fails(context, "portal", "add", ports.unique("taken"), f"127.0.0.1:{holder.getsockname()[1]}")
    expect_equal(cli.settings(), before, "settings after a refused portal")


def _line_of(text: str, piece: str) -> int:
    """The number of the line on which the last such piece begins, from 1."""
    return text[: text.rindex(piece)].count("\n") + 1


@case(seconds=60, needs=("sanctum",))
def test_apply_is_all_or_nothing(context: Context) -> None:
    """A document with one bad line is refused with the line and the reason, and nothing of it is applied."""
    target = disk(context)
    session = log_in(context, target)
    cli = sanctum(context).cli
    before = cli.settings()
    text = before["text"]
    other = ports.iqn("other")
    head = f'\n[[iscsi.target]]\nname = "{other}"\n'
    # What is wrong, the piece on the line that must be named, the words that must be said.
    damages = [
        (f"{text}{head}banana = 1\n", "banana = 1", "banana"),
        (f"{text}{head}[[iscsi.target\n", "[[iscsi.target", "unclosed"),
        (f'{text}{head}[[iscsi.target.lun]]\nnumber = 0\ndevice = "missing"\n', 'device = "missing"', "missing"),
        (f"{text}{head}{head}", f'name = "{other}"', other),
        (text.replace('action = "allow"', 'action = "alow"', 1), 'action = "alow"', "alow"),
        (text.replace("version = 1", "version = 99", 1), "version = 99", "99"),
        (f"{text}\nfirst = 1\n{'x' * 1000}", "x" * 1000, "expected"),
    ]
    for damage, piece, word in damages:
        line = _line_of(damage, piece)
        problem = _fails(context, "settings", "apply", "-", stdin=damage).problem
        expect_equal(problem.get("code"), "invalid-settings", f"code of {problem}")
        details = problem.get("details", [])
        named = [detail for detail in details if detail.startswith(f"line {line},") and word in detail]
        expect(named, f"line {line} and {word!r} are named in {details}")
        _nothing_changed(context, before, other)
    for damage in ("", "\0\0\0", "x" * 100_000):
        problem = _fails(context, "settings", "apply", "-", stdin=damage).problem
        expect(problem.get("details", [""])[0].startswith("line 1,"), f"line 1 is named in {problem}")
        _nothing_changed(context, before, other)
    read(session, 0, 1)
    expect_equal(cli.diff(text)["text"], "", "no difference to itself")
    expect(target.name in text, "the target is in the document")
    applied = cli.apply(text)
    expect_equal(applied["generation"], before["generation"], "applying what is in force changes nothing")


def _nothing_changed(context: Context, before: dict[str, Any], absent: str) -> None:
    """The settings are those of before, and what was refused is not served either."""
    server = sanctum(context)
    expect_equal(server.cli.settings(), before, "settings after a refused document")
    expect_equal(server.cli.status()["generation"], before["generation"], "generation in force")
    shown = discover(server.host, server.port, Options(ports.iqn("looker")))
    expect(absent not in shown, "a target of a refused document is served")


@case(seconds=60, needs=("sanctum",))
def test_apply_that_fails_halfway_applies_nothing(context: Context) -> None:
    """A document whose last part the system refuses (a taken port): the parts before it are not in force either."""
    target = disk(context)
    session = log_in(context, target)
    cli = sanctum(context).cli
    before = cli.settings()
    other, name = ports.iqn("other"), ports.unique("other")
    image = context.directory / "other.img"
    image.write_bytes(bytes(MIB))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        text = before["text"] + (
            f'\n[[iscsi.device]]\nname = "{name}"\nkind = "image"\npath = "{image}"\nsize = {MIB}\n'
            f'\n[[iscsi.target]]\nname = "{other}"\n[[iscsi.target.lun]]\nnumber = 0\ndevice = "{name}"\n'
            f'[[iscsi.target.access]]\naction = "allow"\n'
            f'\n[[iscsi.portal]]\nname = "taken-{port}"\naddress = "127.0.0.1"\nport = {port}\n'
        )
        failure = _fails(context, "settings", "apply", "-", stdin=text)
        expect(str(port) in failure.text, f"the port is named: {failure.text}")
        _nothing_changed(context, before, other)
    expect(name not in [device["name"] for device in cli.run("device", "list")], "the device is there")
    expect(f"taken-{port}" not in [portal["name"] for portal in cli.portals()], "the portal is there")
    read(session, 0, 1)
    # With the port free the same document goes through: it was refused for the port and nothing else.
    cli.apply(text)
    calm(raw_session(context, options(other)), 0)
    cli.apply(before["text"])
    expect(other not in discover(context.server.host, context.server.port, Options(ports.iqn("looker"))), "gone again")


@case(seconds=60, needs=("sanctum",))
def test_roll_back_and_history(context: Context) -> None:
    """A generation from the history comes back as a new one; a stale expectation is refused."""
    target = disk(context)
    cli = sanctum(context).cli
    before = cli.settings()
    cli.run("target", "update", target.name, "--alias", "changed")
    changed = cli.settings()
    expect(
        changed["generation"] > before["generation"] and changed["text"] != before["text"], "a change is a generation"
    )
    _fails(context, "settings", "rollback", str(before["generation"]), "--expect", str(before["generation"]))
    cli.roll_back(before["generation"])
    expect_equal(cli.settings()["text"], before["text"], "text after rolling back")
    active = [entry["generation"] for entry in cli.history() if entry["active"]]
    expect_equal(active, [cli.settings()["generation"]], "the active generation")
    read(log_in(context, target), 0, 1)


@case(seconds=90, needs=("sanctum",))
def test_settings_survive_kill_at_any_moment(context: Context) -> None:
    """kill -9 between and amid changes: after each start the last answered change is in force."""
    server = sanctum(context)
    target = disk(context)
    cli = server.cli
    for turn in range(8):
        cli.run("target", "update", target.name, "--alias", f"turn-{turn}")
        process = subprocess.Popen(
            [str(cli.program), "--socket", str(cli.socket), "target", "update", target.name, "--alias", f"late-{turn}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        server.kill()
        answered = process.wait(20) == 0
        server.restart()
        alias = cli.run("target", "show", target.name)["alias"]
        allowed = {f"late-{turn}"} if answered else {f"turn-{turn}", f"late-{turn}"}
        expect(alias in allowed, f"alias {alias!r} after turn {turn}, answered {answered}")
    read(log_in(context, target), 0, 1)


@case(seconds=60, needs=("sanctum",))
def test_ram_disk_is_reported_empty(context: Context) -> None:
    """After a restart a RAM disk is not ready until its emptiness is accepted; its identity stays."""
    server = sanctum(context)
    name = ports.unique("ram")
    target = serve(context, type(simple("ram"))(ports.iqn("ram"), (Lun(1, Device(name, 8 * MIB, kind="ram")),)))
    session = log_in(context, target)
    write(session, 0, pattern(512)).good()
    identity = session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data
    server.kill()
    server.restart()
    session = raw_session(context, options(target.name))
    result = session.run(scsi.test_unit_ready())
    while result.sense is not None and result.sense.key == scsi.UNIT_ATTENTION:
        result = session.run(scsi.test_unit_ready())
    expect(result.status == scsi.CHECK_CONDITION, "a RAM disk is silently blank after a restart")
    server.cli.load(name)
    calm(session)
    expect(not any(read(session, 0, 1)), "empty")
    expect_equal(session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data, identity, "identity")


@case(needs=("sanctum",))
def test_two_services_never_share_a_directory(context: Context) -> None:
    """A second service on the same data directory refuses to start; the first goes on."""
    server = sanctum(context)
    target = disk(context)
    done = subprocess.run(
        command_line.service_command(server.programs, server.data_dir),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    expect(done.returncode != 0, "two services on one directory")
    read(log_in(context, target), 0, 1)


@case(needs=("sanctum",))
def test_listings_and_tables(context: Context) -> None:
    """Every listing comes as a table and as JSON."""
    disk(context)
    cli = sanctum(context).cli
    for words in (
        ("target", "list"), ("lun", "list"), ("device", "list"), ("portal", "list"), ("chap", "list"), ("session", "list"),
        ("settings", "history"), ("event", "list"),
    ):  # fmt: skip
        expect(isinstance(cli.run(*words), list), f"{words} as JSON")
        expect(len(cli.table(*words).splitlines()) >= 1, f"{words} as a table")
    expect("generation" in cli.table("status"), "status for people")
