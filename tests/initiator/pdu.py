"""PDUs: the 48-byte header, additional header segments, data, digests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from initiator.crc32c import crc32c

BHS = 48
NO_TAG = 0xFFFFFFFF

# Initiator opcodes.
NOP_OUT, SCSI_COMMAND, TASK_MANAGEMENT, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x10,
)
# Target opcodes.
NOP_IN, SCSI_RESPONSE, TASK_MANAGEMENT_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE, DATA_IN, LOGOUT_RESPONSE = range(
    0x20, 0x27
)
R2T, ASYNC, REJECT = 0x31, 0x32, 0x3F

IMMEDIATE = 0x40
FINAL = 0x80


@dataclass
class Pdu:
    """One PDU; the header's fields are read and written by offset."""

    bhs: bytearray = field(default_factory=lambda: bytearray(BHS))
    ahs: bytes = b""
    data: bytes = b""

    # -- fields every PDU has --

    @property
    def opcode(self) -> int:
        """The opcode without the immediate bit."""
        return self.bhs[0] & 0x3F

    @property
    def flags(self) -> int:
        """Byte 1."""
        return self.bhs[1]

    @property
    def itt(self) -> int:
        """Initiator task tag."""
        return self.u32(16)

    @property
    def ttt(self) -> int:
        """Target transfer tag."""
        return self.u32(20)

    def u32(self, offset: int) -> int:
        """A big-endian word of the header."""
        return int(struct.unpack_from(">I", self.bhs, offset)[0])

    def put(self, offset: int, value: int) -> Pdu:
        """Writes a big-endian word of the header."""
        struct.pack_into(">I", self.bhs, offset, value & 0xFFFFFFFF)
        return self

    def encode(self, header_digest: bool = False, data_digest: bool = False) -> bytes:
        """The bytes on the wire; lengths in the header are set from the segments."""
        ahs = self.ahs + b"\0" * (-len(self.ahs) % 4)
        self.bhs[4] = len(ahs) // 4
        self.bhs[5:8] = len(self.data).to_bytes(3, "big")
        return seal(bytes(self.bhs) + ahs, self.data, header_digest, data_digest)


def seal(header: bytes, data: bytes, header_digest: bool, data_digest: bool) -> bytes:
    """Header and data with padding and digests, the lengths in the header taken as they are."""
    out = header
    if header_digest:
        out += struct.pack("<I", crc32c(header))
    if data:
        padded = data + b"\0" * (-len(data) % 4)
        out += padded
        if data_digest:
            out += struct.pack("<I", crc32c(padded))
    return out


def request(
    opcode: int, flags: int = 0, itt: int = NO_TAG, lun: int = 0, data: bytes = b"", immediate: bool = False
) -> Pdu:
    """A PDU of an initiator."""
    pdu = Pdu(data=data)
    pdu.bhs[0] = opcode | (IMMEDIATE if immediate else 0)
    pdu.bhs[1] = flags
    pdu.bhs[8:16] = encode_lun(lun)
    pdu.put(16, itt)
    pdu.put(20, NO_TAG)
    return pdu


def encode_lun(lun: int) -> bytes:
    """A LUN in the single-level form: peripheral addressing below 256, flat space above."""
    if lun < 256:
        return bytes((0, lun)) + b"\0" * 6
    return bytes((0x40 | (lun >> 8), lun & 0xFF)) + b"\0" * 6


def decode_lun(raw: bytes) -> int:
    """The number in a single-level LUN."""
    return ((raw[0] & 0x3F) << 8) | raw[1]


def encode_keys(keys: list[tuple[str, str]]) -> bytes:
    """key=value pairs, each ended by a zero byte."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys)


def decode_keys(data: bytes) -> list[tuple[str, str]]:
    """The pairs in a text segment, in order."""
    pairs = []
    for item in data.split(b"\0"):
        if item:
            key, _, value = item.decode("utf-8", "replace").partition("=")
            pairs.append((key, value))
    return pairs
