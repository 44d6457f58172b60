"""Ports and names that no other run on this machine uses."""

from __future__ import annotations

import itertools
import os
import socket

_serial = itertools.count(1)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago, as the kernel gave it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def unique(stem: str) -> str:
    """A word that starts with `stem` and is used once in this process and by no other process."""
    return f"{stem}-{os.getpid()}-{next(_serial)}"


def iqn(stem: str) -> str:
    """A fresh iSCSI name."""
    return f"iqn.2026-11.test.sanctum:{unique(stem)}"
