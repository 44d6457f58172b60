"""Storage of a case's own, as root: small file systems, loop devices, file systems that stop answering."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.model import MIB
from harness.runner import Context, Skip

_SECONDS = 20.0


def run(what: str, *words: str) -> str:
    """What a program of the system prints; skips where this machine cannot do it."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise Skip(f"{what}: this machine has no {words[0]}") from None
    if done.returncode != 0:
        raise Skip(f"{what}: {done.stderr.strip()}")
    return done.stdout.strip()


def _later(context: Context, *words: str) -> None:
    """Runs a program when the case ends, whether or not there is still something to do for it."""
    context.cleanup.callback(subprocess.run, words, capture_output=True, timeout=_SECONDS, check=False)


def small(context: Context, size: int, name: str = "small") -> Path:
    """A file system of `size` bytes in memory, gone when the case ends."""
    place = context.directory / name
    place.mkdir()
    run("no small file system", "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    _later(context, "umount", "-l", str(place))
    return place


class Loop:
    """A loop device over a file, gone when the case ends: to all others a physical disk."""

    def __init__(self, context: Context, size: int, file: Path | None = None) -> None:
        self.file = file or context.directory / "loop.img"
        # Written, not sparse: the file needs no space of its file system later.
        with self.file.open("wb") as image:
            image.write(bytes(size))
        self.node = Path(run("no loop devices", "losetup", "--find", "--show", str(self.file)))
        _later(context, "losetup", "--detach", str(self.node))

    def grow(self, size: int) -> None:
        """The disk has more room from now on, and the kernel knows."""
        with self.file.open("r+b") as image:
            image.truncate(size)
        subprocess.run(["losetup", "--set-capacity", str(self.node)], check=True, timeout=_SECONDS)


class Freezable:
    """A file system that can be frozen: then every write to it waits in the kernel until it is thawed.

    A loop device over a file on it is a disk that does not answer, neither writes nor reads that come after one.
    """

    def __init__(self, context: Context, size: int = 64 * MIB, name: str = "freezable") -> None:
        self.context = context
        self.path = context.directory / name
        self.path.mkdir()
        loop = Loop(context, size, context.directory / f"{name}.fs")
        run("no ext4", "mkfs.ext4", "-q", "-F", str(loop.node))
        run("no ext4", "mount", "-o", "noatime", str(loop.node), str(self.path))
        _later(context, "umount", "-l", str(self.path))

    def freeze(self) -> None:
        """Writes wait from now on. Thawed when the case ends, before anything that was set up earlier is undone."""
        run("no freezing", "fsfreeze", "--freeze", str(self.path))
        _later(self.context, "fsfreeze", "--unfreeze", str(self.path))

    def thaw(self) -> None:
        """Writes go on, those that waited first."""
        subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=True, timeout=_SECONDS)
