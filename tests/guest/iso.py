"""A small ISO 9660 image (level 1, one directory), written here so that no mastering program is needed."""

from __future__ import annotations

import struct
from pathlib import Path

SECTOR = 2048


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _record(extent: int, size: int, flags: int, name: bytes) -> bytes:
    date = bytes((126, 11, 24, 8, 0, 0, 0))
    body = bytes((0,)) + _both32(extent) + _both32(size) + date + bytes((flags, 0, 0)) + _both16(1)
    body += bytes((len(name),)) + name + (b"" if len(name) % 2 else b"\0")
    return bytes((len(body) + 1,)) + body


def _padded(text: str, length: int) -> bytes:
    return text.encode().ljust(length)


def _descriptor(volume: str, sectors: int, root: bytes, path_table_size: int) -> bytes:
    out = b"\x01CD001\x01\0" + _padded("", 32) + _padded(volume, 32) + bytes(8) + _both32(sectors) + bytes(32)
    out += _both16(1) + _both16(1) + _both16(SECTOR) + _both32(path_table_size)
    out += struct.pack("<II", 18, 0) + struct.pack(">II", 19, 0) + root
    out += _padded("", 128 * 4) + _padded("", 37 * 3)
    out += (b"2026112408000000" + b"\0") * 2 + (b"0" * 16 + b"\0") * 2 + b"\x01\0"
    return out.ljust(SECTOR, b"\0")


def write(path: Path, volume: str, files: dict[str, bytes]) -> None:
    """Writes an image with these files; names are 8.3, upper case."""
    root_extent, position = 20, 21
    placed = []
    for name in sorted(files):
        placed.append((name, position, files[name]))
        position += max(1, -(-len(files[name]) // SECTOR))
    directory = _record(root_extent, SECTOR, 2, b"\0") + _record(root_extent, SECTOR, 2, b"\x01")
    for name, extent, data in placed:
        directory += _record(extent, len(data), 0, f"{name};1".encode())
    assert len(directory) <= SECTOR, "one sector of directory"
    table_little = bytes((1, 0)) + struct.pack("<IH", root_extent, 1) + b"\0\0"
    table_big = bytes((1, 0)) + struct.pack(">IH", root_extent, 1) + b"\0\0"
    root = _record(root_extent, SECTOR, 2, b"\0")
    with path.open("wb") as image:
        image.write(bytes(16 * SECTOR))
        image.write(_descriptor(volume, position, root, len(table_little)))
        image.write(b"\xffCD001\x01".ljust(SECTOR, b"\0"))
        for sector in (table_little, table_big, directory):
            image.write(sector.ljust(SECTOR, b"\0"))
        for _, _, data in placed:
            image.write(data + b"\0" * (-len(data) % SECTOR) if data else bytes(SECTOR))
        image.write(bytes(150 * SECTOR))
