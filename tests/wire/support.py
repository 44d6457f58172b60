"""What the wire cases share: a disk under a fresh target, sessions to it, raw logins."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

from harness import ports
from harness.model import MIB, Authentication, Device, Lun, Rule, Target
from harness.runner import Context, expect
from harness.sanctum import SanctumServer
from initiator import scsi
from initiator.chap import Credentials
from initiator.connection import Connection
from initiator.login import Login, LoginFailed, Options
from initiator.session import Session

BLOCK = 512
LUN = 1
_isids = itertools.count(1)


def isid() -> bytes:
    """A fresh ISID of the random format."""
    return b"\x80" + next(_isids).to_bytes(5, "big")


def disk(context: Context, stem: str = "disk", size: int = 32 * MIB, **device: object) -> Target:
    """Serves a target with one LUN until the case ends."""
    made = Device(ports.unique(stem), size, **device)  # type: ignore[arg-type]
    return serve(context, Target(ports.iqn(stem), (Lun(LUN, made),)))


def serve(context: Context, target: Target) -> Target:
    """Serves a target until the case ends."""
    context.server.add_target(target)
    context.cleanup.callback(context.server.remove_target, target.name)
    return target


def simple(
    stem: str, access: tuple[Rule, ...] = (Rule(),), authentication: Authentication | None = None, **target: object
) -> Target:
    """A target with one small LUN, not served yet."""
    lun = Lun(LUN, Device(ports.unique(stem)))
    proof = authentication or Authentication()
    return Target(ports.iqn(stem), (lun,), access=access, authentication=proof, **target)  # type: ignore[arg-type]


def options(target: str | None, initiator: str | None = None, **more: object) -> Options:
    """Login options with a fresh ISID and, unless given, a fresh initiator name."""
    return Options(initiator or ports.iqn("host"), target, **{"isid": isid(), **more})  # type: ignore[arg-type]


def raw_session(
    context: Context, wanted: Options, port: int | None = None, host: str | None = None, source: str | None = None
) -> Session:
    """A session that closes when the case ends; unit attentions are left pending."""
    session = Session(host or context.server.host, port or context.server.port, wanted, source=source)
    context.cleanup.callback(session.connection.close)
    return session


def log_in(
    context: Context,
    target: Target,
    initiator: str | None = None,
    keys: dict[str, str] | None = None,
    credentials: Credentials | None = None,
    **more: object,
) -> Session:
    """A session whose unit attentions have been taken."""
    session = raw_session(context, options(target.name, initiator, keys=keys or {}, credentials=credentials, **more))
    calm(session)
    return session


def calm(session: Session, lun: int | None = None) -> list[scsi.Sense]:
    """Takes unit attentions until the unit is ready; returns them."""
    taken: list[scsi.Sense] = []
    for _ in range(12):
        result = session.run(scsi.test_unit_ready(), lun)
        if result.status == scsi.GOOD:
            return taken
        expect(
            result.sense is not None and result.sense.key == scsi.UNIT_ATTENTION,
            f"not ready: {result.status:#x} {result.sense}",
        )
        assert result.sense is not None
        taken.append(result.sense)
    raise AssertionError(f"unit attentions without end: {taken}")


def connect(context: Context) -> Connection:
    """A connection without a login, closed when the case ends."""
    connection = Connection(context.server.host, context.server.port)
    context.cleanup.callback(connection.close)
    return connection


def raw_login(context: Context, wanted: Options) -> Login:
    """A login on a fresh connection, to be driven by hand."""
    return Login(connect(context), wanted)


def refused(context: Context, wanted: Options, port: int | None = None, source: str | None = None) -> int:
    """The login status of a login that must be refused."""
    try:
        session = raw_session(context, wanted, port, source=source)
    except LoginFailed as failure:
        return failure.status
    raise AssertionError(
        f"login of {session.options.initiator} to {session.options.target} succeeded, it must be refused"
    )


def pattern(size: int) -> bytes:
    """Bytes that repeat nowhere."""
    return os.urandom(size)


def write(session: Session, lba: int, data: bytes, lun: int | None = None) -> scsi.Result:
    """Writes whole blocks."""
    return session.run(scsi.write10(lba, len(data) // BLOCK), lun, out=data)


def read(session: Session, lba: int, blocks: int, lun: int | None = None) -> bytes:
    """Reads whole blocks."""
    return session.run(scsi.read10(lba, blocks), lun, expect_in=blocks * BLOCK).good().data


def resident(pid: int) -> int:
    """Resident memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS of {pid}")


def alive(context: Context, target: Target) -> None:
    """The server still serves: a fresh session reads a block."""
    session = log_in(context, target)
    read(session, 0, 1)
    session.logout()
    session.connection.close()


def sanctum(context: Context) -> SanctumServer:
    """The server as what it is, for cases that need `sanctum` itself."""
    assert isinstance(context.server, SanctumServer), "the case lacks needs=(...)"
    return context.server


def own(context: Context, data: Path | None = None) -> Context:
    """The same case over a service of its own, which ends with it; its data directory lies where `data` says."""
    suite = sanctum(context)
    server = SanctumServer(context.directory / "server", suite.programs, driver=suite.driver)
    server.data_dir = data or server.data_dir
    context.cleanup.callback(server.kill)
    server.start()
    return replace(context, server=server)
