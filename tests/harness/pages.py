"""Which pages of a file exist only in memory: what a power cut would take."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path

_DIRTY, _WRITEBACK, _HEAD, _TAIL = 1 << 4, 1 << 8, 1 << 15, 1 << 16
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1


class CannotTell(Exception):
    """The kernel does not say, or the file system keeps everything in memory."""


def unstable(path: Path) -> set[int]:
    """The pages of a file that are dirty or being written, noted by folio: neighbours may be among them."""
    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    file = os.open(path, os.O_RDONLY)
    try:
        begin = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if begin in (None, ctypes.c_void_p(-1).value):
            raise CannotTell(f"cannot map {path}")
        try:
            return _look(begin, size)
        finally:
            libc.munmap(begin, size)
    finally:
        os.close(file)


def _look(begin: int, size: int) -> set[int]:
    page = mmap.PAGESIZE
    for at in range(0, size, page):
        ctypes.string_at(begin + at, 1)  # maps the page, so that it has a frame
    count = -(-size // page)
    try:
        with open("/proc/self/pagemap", "rb") as frames, open("/proc/kpageflags", "rb", buffering=0) as flags:
            frames.seek(begin // page * 8)
            entries = [entry for (entry,) in struct.iter_unpack("<Q", frames.read(count * 8))]
            return {at for at, entry in enumerate(entries) if _flags(flags.fileno(), entry) & (_DIRTY | _WRITEBACK)}
    except OSError as problem:
        raise CannotTell(str(problem)) from problem


def _flags(file: int, entry: int) -> int:
    frame = entry & _FRAME
    if not entry & _PRESENT or frame == 0:
        raise CannotTell("the kernel shows no page frames")
    while True:
        value = int(struct.unpack("<Q", os.pread(file, 8, frame * 8))[0])
        if not value & _TAIL or value & _HEAD:
            return value
        frame -= 1


def check_usable(directory: Path) -> None:
    """Raises `CannotTell` where a write does not show, or a sync does not help (tmpfs)."""
    probe = directory / "probe"
    with probe.open("wb", buffering=0) as file:
        file.write(bytes(mmap.PAGESIZE))
        written = unstable(probe)
        os.fsync(file.fileno())
        synced = unstable(probe)
    probe.unlink()
    if not written or synced:
        raise CannotTell(f"the file system of {directory} does not tell memory from disk")
