"""Command descriptor blocks, statuses, sense data."""

from __future__ import annotations

import struct
from dataclasses import dataclass

GOOD, CHECK_CONDITION, BUSY, RESERVATION_CONFLICT, TASK_SET_FULL, TASK_ABORTED = 0x00, 0x02, 0x08, 0x18, 0x28, 0x40

NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT, MISCOMPARE = 0x2, 0x3, 0x5, 0x6, 0x7, 0xE


@dataclass(frozen=True)
class Sense:
    """Sense data, of either format."""

    key: int
    code: tuple[int, int]
    deferred: bool = False
    information: int | None = None
    raw: bytes = b""

    def __str__(self) -> str:
        word = " deferred" if self.deferred else ""
        return f"sense {self.key:x}/{self.code[0]:02X}/{self.code[1]:02X}{word}"


def parse_sense(raw: bytes) -> Sense | None:
    """Reads fixed (70h, 71h) and descriptor (72h, 73h) sense."""
    if len(raw) < 4:
        return None
    kind = raw[0] & 0x7F
    if kind in (0x70, 0x71):
        code = (raw[12], raw[13]) if len(raw) > 13 else (0, 0)
        information = int.from_bytes(raw[3:7], "big") if raw[0] & 0x80 and len(raw) > 6 else None
        return Sense(raw[2] & 0x0F, code, kind == 0x71, information, raw)
    if kind in (0x72, 0x73):
        return Sense(raw[1] & 0x0F, (raw[2], raw[3]), kind == 0x73, None, raw)
    return None


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    data: bytes = b""
    sense: Sense | None = None
    #: Positive: underflow, negative: overflow, as the response said.
    residual: int = 0
    response: int = 0

    def good(self) -> Result:
        """Itself when GOOD; fails otherwise."""
        assert self.status == GOOD, f"status {self.status:#x}, {self.sense}"
        return self

    def conflict(self) -> Result:
        """Itself when RESERVATION CONFLICT; fails otherwise."""
        assert self.status == RESERVATION_CONFLICT, f"wanted RESERVATION CONFLICT, saw {self.status:#x}, {self.sense}"
        return self

    def check(self, key: int, asc: int | None = None, ascq: int | None = None) -> Result:
        """Itself when CHECK CONDITION with this sense; fails otherwise."""
        seen = f"status {self.status:#x}, {self.sense}"
        assert self.status == CHECK_CONDITION and self.sense is not None, f"wanted sense {key:x}/{asc}, saw {seen}"
        assert self.sense.key == key, f"wanted sense key {key:x}, saw {seen}"
        assert asc is None or self.sense.code[0] == asc, f"wanted ASC {asc:02X}, saw {seen}"
        assert ascq is None or self.sense.code[1] == ascq, f"wanted ASCQ {ascq:02X}, saw {seen}"
        return self


def test_unit_ready() -> bytes:
    """TEST UNIT READY."""
    return bytes(6)


def request_sense(length: int = 252, descriptor: bool = False) -> bytes:
    """REQUEST SENSE."""
    return bytes((0x03, int(descriptor), 0, 0, length, 0))


def inquiry(length: int = 255, page: int | None = None) -> bytes:
    """INQUIRY, standard or a vital product data page."""
    return struct.pack(">BBBHB", 0x12, 0 if page is None else 1, page or 0, length, 0)


def report_luns(length: int = 4096) -> bytes:
    """REPORT LUNS."""
    return struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, length, 0, 0)


def read_capacity10() -> bytes:
    """READ CAPACITY(10)."""
    return bytes((0x25,)) + bytes(9)


def read_capacity16(length: int = 32) -> bytes:
    """READ CAPACITY(16)."""
    return struct.pack(">BBQIBB", 0x9E, 0x10, 0, length, 0, 0)


def mode_sense6(page: int, length: int = 255, control: int = 0, dbd: bool = False) -> bytes:
    """MODE SENSE(6)."""
    return bytes((0x1A, 8 if dbd else 0, (control << 6) | page, 0, length, 0))


def mode_select6(length: int, save: bool = False) -> bytes:
    """MODE SELECT(6), page format."""
    return bytes((0x15, 0x10 | int(save), 0, 0, length, 0))


def read10(lba: int, blocks: int, fua: bool = False) -> bytes:
    """READ(10)."""
    return struct.pack(">BBIBHB", 0x28, 8 if fua else 0, lba, 0, blocks, 0)


def write10(lba: int, blocks: int, fua: bool = False) -> bytes:
    """WRITE(10)."""
    return struct.pack(">BBIBHB", 0x2A, 8 if fua else 0, lba, 0, blocks, 0)


def read16(lba: int, blocks: int) -> bytes:
    """READ(16)."""
    return struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0)


def write16(lba: int, blocks: int, fua: bool = False) -> bytes:
    """WRITE(16)."""
    return struct.pack(">BBQIBB", 0x8A, 8 if fua else 0, lba, blocks, 0, 0)


def synchronize_cache10() -> bytes:
    """SYNCHRONIZE CACHE(10) of the whole unit."""
    return bytes((0x35,)) + bytes(9)


def compare_and_write(lba: int, blocks: int) -> bytes:
    """COMPARE AND WRITE; the data-out is the expected blocks, then the new ones."""
    return struct.pack(">BBQBBBBBB", 0x89, 0, lba, 0, 0, 0, blocks, 0, 0)


def write_same16(lba: int, blocks: int, unmap: bool = False, no_data: bool = False) -> bytes:
    """WRITE SAME(16)."""
    return struct.pack(">BBQIBB", 0x93, (8 if unmap else 0) | int(no_data), lba, blocks, 0, 0)


def unmap(length: int) -> bytes:
    """UNMAP with a parameter list of `length` bytes."""
    return struct.pack(">BBIBHB", 0x42, 0, 0, 0, length, 0)


def unmap_list(extents: list[tuple[int, int]]) -> bytes:
    """UNMAP's parameter list."""
    body = b"".join(struct.pack(">QII", lba, blocks, 0) for lba, blocks in extents)
    return struct.pack(">HHI", len(body) + 6, len(body), 0) + body


def get_lba_status(lba: int, length: int = 4096) -> bytes:
    """GET LBA STATUS."""
    return struct.pack(">BBQIBB", 0x9E, 0x12, lba, length, 0, 0)


def reserve6() -> bytes:
    """RESERVE(6)."""
    return bytes((0x16, 0, 0, 0, 0, 0))


def release6() -> bytes:
    """RELEASE(6)."""
    return bytes((0x17, 0, 0, 0, 0, 0))


def start_stop(start: bool, load_eject: bool = False) -> bytes:
    """START STOP UNIT."""
    return bytes((0x1B, 0, 0, 0, (2 if load_eject else 0) | int(start), 0))


def report_supported_opcodes(option: int, opcode: int, action: int, length: int) -> bytes:
    """REPORT SUPPORTED OPERATION CODES."""
    return struct.pack(">BBBBHIBB", 0xA3, 0x0C, option, opcode, action, length, 0, 0)


def report_target_port_groups(length: int = 4096) -> bytes:
    """REPORT TARGET PORT GROUPS."""
    return struct.pack(">BBIIBB", 0xA3, 0x0A, 0, length, 0, 0)
