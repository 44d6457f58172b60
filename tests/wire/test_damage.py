"""Damaged files: each kind of damage to each file has its own outcome, is told, and is left for a person to repair."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import ports
from harness.cli import CommandFailed
from harness.model import MIB, Account, Authentication
from harness.runner import Context, case, expect, expect_equal
from harness.sanctum import SanctumServer
from initiator import reservations as pr
from initiator import scsi
from initiator.chap import Credentials
from initiator.session import Session
from wire.support import disk, log_in, options, pattern, raw_session, read, sanctum, serve, simple, write

Damage = Callable[[bytes], bytes]


def _half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def _garbage(_whole: bytes) -> bytes:
    return b"\xff{[" + os.urandom(200)


def _empty(_whole: bytes) -> bytes:
    return b""


def _swapped(old: bytes, new: bytes) -> Damage:
    def swap(whole: bytes) -> bytes:
        expect(whole.count(old) >= 1, f"{old!r} is in the file")
        return whole.replace(old, new, 1)

    return swap


@contextlib.contextmanager
def _damaged(victim: Path, damage: Damage) -> Iterator[bytes]:
    """The file with the damage; repaired on the way out, so that one case's damage is not the next one's."""
    whole = victim.read_bytes()
    broken = damage(whole)
    victim.write_bytes(broken)
    try:
        yield broken
    finally:
        victim.write_bytes(whole)


def _tree(server: SanctumServer) -> dict[Path, str]:
    """What every file of the data directory holds; what is only written on (locks, events) is left out."""
    kept = [path for path in server.data_dir.rglob("*") if path.is_file() and "events" not in path.parts]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def _refusal(server: SanctumServer) -> str:
    """What the service says when it does not start; fails when it does."""
    before = server.log.stat().st_size
    try:
        server.start(10)
    except AssertionError:
        expect(server.process is None, "the service hangs at start instead of refusing")
        return server.log.read_bytes()[before:].decode(errors="replace")
    server.stop()
    raise AssertionError("the service started")


@case(seconds=60, needs=("sanctum",))
def test_damaged_settings_and_secrets(context: Context) -> None:
    """The service does not start, names file, line and remedy, and writes nothing; repaired it starts as before."""
    server = sanctum(context)
    account = Account(ports.unique("user"), "secret-of-16-byt")
    target = serve(context, simple("damage", authentication=Authentication((account,))))
    settings, secrets = server.data_dir / "settings/current.toml", server.data_dir / "secrets/secrets.toml"
    before = server.cli.settings()
    server.stop()
    quoted = f'"{account.user}"'.encode()
    cases: list[tuple[str, Path, Damage, tuple[str, ...]]] = [
        ("settings cut", settings, lambda whole: whole[: whole.rindex(b" = ")], ("line ",)),
        ("settings of noise", settings, _garbage, ("line 1,", "UTF-8")),
        ("settings empty", settings, _empty, ("version",)),
        ("settings of a later release", settings, _swapped(b"version = 1", b"version = 99"), ("line ", "99", "newer")),
        (
            "settings with a wrong word",
            settings,
            _swapped(b"[[iscsi.target]]", b"[[iscsi.tarket]]"),
            ("line ", "tarket"),
        ),
        ("settings with a wrong value", settings, _swapped(b'"allow"', b'"alow"'), ("line ", "alow")),
        ("secrets cut", secrets, lambda whole: whole[: whole.index(quoted) + 4], ("line ",)),
        ("secrets of noise", secrets, _garbage, ("line ", "UTF-8")),
        ("secrets empty", secrets, _empty, ("names a secret that the secrets store does not hold",)),
        ("a secret without its name", secrets, _swapped(quoted, b'"nobody"'), (account.user,)),
    ]
    for label, victim, damage, words in cases:
        with _damaged(victim, damage):
            damaged = _tree(server)
            said = _refusal(server)
            for word in (str(victim), "what to do:", *words):
                expect(word in said, f"{label}: {word!r} is said in: {said}")
            expect_equal(_tree(server), damaged, f"{label}: files after a start that was refused")
    server.start()
    expect_equal(server.cli.settings(), before, "settings once repaired")
    log_in(context, target, credentials=Credentials(account.user, account.secret))


@case(needs=("sanctum",))
def test_secrets_that_others_can_read(context: Context) -> None:
    """With a secrets file (or its directory) that others may use the service does not start, and says the command."""
    server = sanctum(context)
    target = disk(context)
    server.stop()
    secrets = server.data_dir / "secrets/secrets.toml"
    for victim in (secrets, secrets.parent):
        right = victim.stat().st_mode & 0o777
        for wrong in (right | 0o040, right | 0o004, right | 0o020):
            victim.chmod(wrong)
            try:
                said = _refusal(server)
            finally:
                victim.chmod(right)
            expect(f"chmod {right:o} {victim}" in said, f"{victim.name} with mode {wrong:o}: {said}")
    server.start()
    read(log_in(context, target), 0, 1)


@case(seconds=60, needs=("sanctum",))
def test_damaged_generation(context: Context) -> None:
    """A generation of the past that cannot be read stops nothing; only returning to it is refused."""
    server = sanctum(context)
    target = disk(context)
    old = server.cli.settings()["generation"]
    server.cli.run("target", "update", target.name, "--alias", "later")
    before = server.cli.settings()
    victim = server.data_dir / f"settings/generations/{old:06}.toml"
    server.stop()
    with _damaged(victim, _garbage):
        server.start()
        expect_equal(server.cli.settings(), before, "settings beside a damaged generation")
        read(log_in(context, target), 0, 1)
        try:
            server.cli.roll_back(old)
            raise AssertionError("a damaged generation came back")
        except CommandFailed as failure:
            expect_equal(failure.code, "refused", f"code of {failure}")
            expect_equal(failure.problem["what"], f"generation {old} is damaged", "the reason")
        expect_equal(server.cli.settings(), before, "settings after a refused return")
    server.cli.roll_back(old)


def _not_ready(context: Context, target: str) -> None:
    """The LUN answers, that it is not ready, and takes no write."""
    session = raw_session(context, options(target))
    result = session.run(scsi.test_unit_ready())
    while result.sense is not None and result.sense.key == scsi.UNIT_ATTENTION:
        result = session.run(scsi.test_unit_ready())
    result.check(scsi.NOT_READY)
    write(session, 0, bytes(512)).check(scsi.NOT_READY)


def _identity(session: Session) -> bytes:
    return session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data


@case(seconds=90, needs=("sanctum", "aptpl"))
def test_damaged_document_beside_an_image(context: Context) -> None:
    """Its LUN is not shown, the document told and left as it is; the rest serves; repaired, all is back."""
    server = sanctum(context)
    hurt, whole_one = disk(context, stem="hurt"), disk(context, stem="whole")
    session = log_in(context, hurt)
    data = pattern(512)
    write(session, 0, data).good()
    pr.register_and_ignore(session, 0x77, aptpl=True).good()
    pr.reserve(session, 0x77, pr.WRITE_EXCLUSIVE).good()
    identity, holder = _identity(session), session.options
    image = server.path_of(hurt.luns[0].device)
    victim = image.with_name(image.name + ".sanctum")
    cases: list[tuple[str, Damage, str]] = [
        ("cut", _half, "damaged"),
        ("noise", _garbage, "damaged"),
        ("empty", _empty, "damaged"),
        ("a changed key", _swapped(b'"serial":"', b'"serial":"0'), "checksum"),
        ("of a later release", _swapped(b'"version":1', b'"version":99'), "version 99"),
    ]
    for label, damage, word in cases:
        server.stop()
        with _damaged(victim, damage) as damaged:
            server.start()
            read(log_in(context, whole_one), 0, 1)
            # Without its identity it must not be taken for the disk it was: there is no such LUN.
            raw_session(context, options(hurt.name)).run(scsi.test_unit_ready()).check(scsi.ILLEGAL_REQUEST, 0x25, 0)
            attention = " ".join(server.cli.status()["attention"])
            for wanted in (hurt.luns[0].device.name, str(victim), word):
                expect(wanted in attention, f"{label}: {wanted!r} is said in {attention!r}")
            server.stop()
            expect(victim.read_bytes() == damaged, f"{label}: the damaged document was written over")
            server.start()
        # Repaired while the service runs, it comes back without a restart.
        server.cli.load(hurt.luns[0].device.name)
    session = log_in(context, hurt, holder.initiator, isid=holder.isid)
    expect_equal(_identity(session), identity, "identity once repaired")
    expect_equal(pr.read_reservation(session), pr.Holder(0x77, pr.WRITE_EXCLUSIVE, 0), "reservation once repaired")
    write(log_in(context, hurt), 0, bytes(512)).conflict()
    expect(read(session, 0, 1) == data, "contents once repaired")
    pr.clear(session, 0x77).good()


@case(seconds=60, needs=("sanctum",))
def test_image_that_is_too_short(context: Context) -> None:
    """An image cut while the service was down: its LUN is not ready and named, the rest serves, a repair helps."""
    server = sanctum(context)
    short, whole = disk(context, stem="short"), disk(context, stem="whole")
    session = log_in(context, short)
    data = pattern(512)
    write(session, 0, data).good()
    path = server.path_of(short.luns[0].device)
    server.stop()
    with path.open("r+b") as image:
        image.truncate(MIB)
    server.start()
    read(log_in(context, whole), 0, 1)
    _not_ready(context, short.name)
    attention = " ".join(server.cli.status()["attention"])
    expect(short.luns[0].device.name in attention, f"the device is named: {attention!r}")
    expect_equal(path.stat().st_size, MIB, "size of the image that was cut")
    server.stop()
    with path.open("r+b") as image:
        image.truncate(short.luns[0].device.size)
    server.start()
    session = log_in(context, short)
    expect(read(session, 0, 1) == data, "contents once repaired")


@case(seconds=60, needs=("sanctum",))
def test_missing_image(context: Context) -> None:
    """An image that is gone leaves its LUN not ready; it is never made again blank."""
    server = context.server
    gone, whole = disk(context, stem="gone"), disk(context, stem="stays")
    path = server.path_of(gone.luns[0].device)
    server.stop()
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    try:
        server.start()
        expect(not path.exists(), "a blank image was made")
        read(log_in(context, whole), 0, 1)
        server.stop()
    finally:
        hidden.rename(path)
    server.start()
    read(log_in(context, gone), 0, 1)
