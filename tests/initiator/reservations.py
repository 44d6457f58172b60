"""Persistent reservations: PR OUT and PR IN with their parameter data."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from initiator.scsi import Result
from initiator.session import Session

# Types.
WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS = 1, 3
WRITE_EXCLUSIVE_REGISTRANTS, EXCLUSIVE_ACCESS_REGISTRANTS = 5, 6
WRITE_EXCLUSIVE_ALL, EXCLUSIVE_ACCESS_ALL = 7, 8
ALL_TYPES = (1, 3, 5, 6, 7, 8)

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE, REGISTER_AND_MOVE = range(8)
READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS = range(4)


def out(session: Session, action: int, key: int = 0, action_key: int = 0, kind: int = 0, aptpl: bool = False) -> Result:
    """PERSISTENT RESERVE OUT with the basic parameter list."""
    return session.run(out_cdb(action, kind, 24), out=out_list(key, action_key, aptpl))


def out_cdb(action: int, kind: int, length: int) -> bytes:
    """PERSISTENT RESERVE OUT's CDB."""
    return struct.pack(">BBBBBIB", 0x5F, action, kind, 0, 0, length, 0)


def out_list(key: int, action_key: int, aptpl: bool = False, flags: int = 0) -> bytes:
    """The basic 24-byte parameter list."""
    return struct.pack(">QQIBBH", key, action_key, 0, flags | int(aptpl), 0, 0)


def register(session: Session, key: int, old: int = 0, aptpl: bool = False) -> Result:
    """REGISTER."""
    return out(session, REGISTER, old, key, aptpl=aptpl)


def register_and_ignore(session: Session, key: int, aptpl: bool = False) -> Result:
    """REGISTER AND IGNORE EXISTING KEY."""
    return out(session, REGISTER_AND_IGNORE, 0, key, aptpl=aptpl)


def reserve(session: Session, key: int, kind: int) -> Result:
    """RESERVE."""
    return out(session, RESERVE, key, kind=kind)


def release(session: Session, key: int, kind: int) -> Result:
    """RELEASE."""
    return out(session, RELEASE, key, kind=kind)


def clear(session: Session, key: int) -> Result:
    """CLEAR."""
    return out(session, CLEAR, key)


def preempt(session: Session, key: int, victim: int, kind: int, abort: bool = False) -> Result:
    """PREEMPT, or PREEMPT AND ABORT."""
    return out(session, PREEMPT_AND_ABORT if abort else PREEMPT, key, victim, kind)


def into(session: Session, action: int, length: int = 4096) -> bytes:
    """PERSISTENT RESERVE IN; the parameter data."""
    cdb = struct.pack(">BBBBBBBHB", 0x5E, action, 0, 0, 0, 0, 0, length, 0)
    return session.run(cdb, expect_in=length).good().data


def read_keys(session: Session) -> tuple[int, list[int]]:
    """PRGENERATION and the registered keys."""
    data = into(session, READ_KEYS)
    generation, length = struct.unpack_from(">II", data)
    return generation, [key for (key,) in struct.iter_unpack(">Q", data[8 : 8 + length])]


@dataclass(frozen=True)
class Holder:
    """A reservation."""

    key: int
    kind: int
    scope: int


def read_reservation(session: Session) -> Holder | None:
    """The reservation, if any."""
    data = into(session, READ_RESERVATION)
    length = int.from_bytes(data[4:8], "big")
    if length == 0:
        return None
    (key,) = struct.unpack_from(">Q", data, 8)
    return Holder(key, data[21] & 0x0F, data[21] >> 4)


@dataclass(frozen=True)
class Capabilities:
    """REPORT CAPABILITIES."""

    aptpl_capable: bool
    aptpl_active: bool
    all_target_ports: bool
    specify_ports: bool
    types: int


def capabilities(session: Session) -> Capabilities:
    """What the unit says it can."""
    data = into(session, REPORT_CAPABILITIES)
    return Capabilities(
        aptpl_capable=bool(data[2] & 1),
        aptpl_active=bool(data[3] & 1),
        all_target_ports=bool(data[2] & 4),
        specify_ports=bool(data[2] & 8),
        types=int.from_bytes(data[4:6], "big"),
    )


@dataclass(frozen=True)
class Registrant:
    """One descriptor of READ FULL STATUS."""

    key: int
    holder: bool
    kind: int
    port: int
    transport_id: bytes


def read_full_status(session: Session) -> list[Registrant]:
    """All registrations with their nexus."""
    data = into(session, READ_FULL_STATUS)
    length = int.from_bytes(data[4:8], "big")
    body = data[8 : 8 + length]
    found = []
    while body:
        (key,) = struct.unpack_from(">Q", body)
        holder, kind = bool(body[12] & 1), body[13] & 0x0F
        port = int.from_bytes(body[18:20], "big")
        extra = int.from_bytes(body[20:24], "big")
        found.append(Registrant(key, holder, kind, port, body[24 : 24 + extra]))
        body = body[24 + extra :]
    return found


def transport_id(initiator: str, isid: bytes) -> bytes:
    """An iSCSI TransportID with initiator name and ISID."""
    text = f"{initiator},i,0x{isid.hex()}".encode() + b"\0"
    text += b"\0" * (-len(text) % 4)
    return bytes((0x45, 0)) + len(text).to_bytes(2, "big") + text


def register_and_move(
    session: Session, key: int, new_key: int, port: int, to: bytes, unregister: bool = False
) -> Result:
    """REGISTER AND MOVE to the initiator port that `to` (a TransportID) names."""
    body = struct.pack(">QQBBHI", key, new_key, 0, 2 if unregister else 0, port, len(to)) + to
    return session.run(out_cdb(REGISTER_AND_MOVE, 0, len(body)), out=body)
