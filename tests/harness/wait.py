"""Bounded, level-triggered waits. Nothing in these suites sleeps a fixed time and hopes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimedOut(AssertionError):
    """A condition did not come true within its bound."""


def until(what: str, condition: Callable[[], T | None], seconds: float = 10.0, step: float = 0.02) -> T:
    """Polls `condition` until it gives something true; fails after `seconds`, naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimedOut(f"not within {seconds:g} s: {what} (last seen: {value!r})")
        time.sleep(step)


def connectable(host: str, port: int) -> bool:
    """Whether something accepts TCP connections there right now."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def listening(host: str, port: int, seconds: float = 10.0) -> None:
    """Waits until something accepts connections at the address."""
    until(f"a listener at {host}:{port}", lambda: connectable(host, port), seconds)
