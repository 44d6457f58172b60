"""A small runner: cases with time bounds, a server shared by a suite, one closing line.

A case is a function marked with `@case`; it takes a `Context`. It passes when it returns, fails on any
exception, and is skipped when it raises `Skip` or when the server lacks what the case needs. Each case
runs under an alarm, so that nothing can hang the run.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from harness.server import Server


class Skip(Exception):
    """The case cannot say anything here; the text says why."""


class Overran(BaseException):
    """The case's time bound passed. Not an `Exception`, so that no handler of a test swallows it."""


@dataclass
class Context:
    """What a case gets: the server, a directory of its own, and clean-up that always runs."""

    server: Server
    directory: Path
    cleanup: contextlib.ExitStack
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """A figure or remark printed beside the verdict."""
        self.notes.append(text)


Function = Callable[[Context], None]


@dataclass(frozen=True)
class Case:
    """One test with its bound and needs."""

    name: str
    function: Function
    seconds: float
    needs: frozenset[str]


@dataclass
class Tally:
    """The figures of a run."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Tally) -> None:
        """Sums up."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def line(self) -> str:
        """The closing line that `cargo xtask test` reads."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


_registry: dict[str, list[Case]] = {}


def case(seconds: float = 30.0, needs: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Marks a function as a case of its module, with its time bound and what it needs of the server."""

    def register(function: Function) -> Function:
        name = function.__name__.removeprefix("test_")
        entry = Case(name, function, seconds, frozenset(needs))
        _registry.setdefault(function.__module__, []).append(entry)
        return function

    return register


def cases_of(module: str) -> list[Case]:
    """The cases of a module, in the order they were written."""
    return _registry.get(module, [])


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises `Overran` in the main thread when the block takes longer."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Overran(f"over its bound of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _verdict(entry: Case, context: Context) -> tuple[str, str]:
    missing = entry.needs - context.server.abilities
    if missing:
        return "skipped", f"{context.server.kind} lacks {', '.join(sorted(missing))}"
    verdict, text = "passed", ""
    # The clean-up's own failure is told beside the case's, never in its place.
    for step in (context.server.ensure_running, functools.partial(entry.function, context), context.cleanup.close):
        if verdict != "passed" and step != context.cleanup.close:
            continue
        try:
            with bounded(entry.seconds):
                step()
        except Skip as reason:
            verdict, text = "skipped", str(reason)
        except (Exception, Overran):
            verdict, text = "failed", text + traceback.format_exc()
    return verdict, text


def run_module(module: str, server: Server, directory: Path, only: str | None = None) -> Tally:
    """Runs the cases of one module against one server and prints a line for each."""
    tally = Tally()
    for entry in cases_of(module):
        full = f"{module}::{entry.name}"
        if only is not None and only not in full:
            continue
        place = directory / f"{module.replace('.', '-')}-{entry.name}"
        place.mkdir(parents=True, exist_ok=True)
        context = Context(server, place, contextlib.ExitStack())
        begin = time.monotonic()
        verdict, text = _verdict(entry, context)
        took = time.monotonic() - begin
        notes = f"  [{'; '.join(context.notes)}]" if context.notes else ""
        reason = f"  ({text})" if verdict == "skipped" else ""
        print(f"{verdict:8}{took:7.2f} s  {full}{reason}{notes}", flush=True)
        if verdict == "failed":
            print(indent(text), flush=True)
            print(indent(server.log_tail()), flush=True)
        setattr(tally, verdict, getattr(tally, verdict) + 1)
    return tally


def indent(text: str) -> str:
    """The text, four columns in."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


def expect_equal(seen: Any, wanted: Any, what: str = "value") -> None:
    """Fails with both values when they differ."""
    if seen != wanted:
        raise AssertionError(f"{what}: wanted {wanted!r}, saw {seen!r}")


def expect(condition: object, what: str) -> None:
    """Fails with `what` when the condition does not hold."""
    if not condition:
        raise AssertionError(what)


def stderr(text: str) -> None:
    """A remark for people, outside the result lines."""
    print(text, file=sys.stderr, flush=True)
