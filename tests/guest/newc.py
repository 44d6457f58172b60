"""A cpio archive in the newc format, as the kernel unpacks it into its initramfs."""

from __future__ import annotations

import io
import stat
from pathlib import Path


class Archive:
    """Collects files and directories, then gives the bytes. Parents are made as needed."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 1
        self._seen: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(name) + 1, 0)
        self._inode += 1
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._out.write(header + b"\0" * (-len(header) % 4))
        self._out.write(data + b"\0" * (-len(data) % 4))

    def _parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            self.directory("/".join(parts[:depth]))

    def directory(self, name: str) -> None:
        """A directory, once."""
        name = name.strip("/")
        if name and name not in self._seen:
            self._parents(name)
            self._seen.add(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """A file with contents, once."""
        name = name.strip("/")
        if name not in self._seen:
            self._parents(name)
            self._seen.add(name)
            self._entry(name, stat.S_IFREG | mode, data)

    def copy(self, source: Path, name: str | None = None) -> None:
        """A file of this machine under its own path or another one."""
        real = source.resolve()
        self.file(name or str(source), real.read_bytes(), real.stat().st_mode & 0o777)

    def link(self, name: str, to: str) -> None:
        """A symbolic link, once."""
        name = name.strip("/")
        if name not in self._seen:
            self._parents(name)
            self._seen.add(name)
            self._entry(name, stat.S_IFLNK | 0o777, to.encode())

    def node(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        name = name.strip("/")
        self._parents(name)
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def bytes(self) -> bytes:
        """The whole archive."""
        self._entry("TRAILER!!!", 0)
        return self._out.getvalue()
