"""The server under test, seen by the suites: start, stop, kill, configure.

`harness.tgt` runs Debian's tgt behind this interface (the yardstick), `harness.sanctum` runs `sanctumd`.
"""

from __future__ import annotations

import abc
import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness import wait
from harness.model import Device, Lun, Rule, Target


class Server(abc.ABC):
    """One server process with a data directory that outlives it."""

    kind: str = "server"
    #: Words that cases name in `needs`.
    abilities: frozenset[str] = frozenset()

    def __init__(self, directory: Path, host: str, port: int) -> None:
        self.directory = directory
        self.host = host
        self.port = port
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    # -- life --

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command line of the service."""

    @abc.abstractmethod
    def configure(self) -> None:
        """Called once it listens after each start: whatever the service does not remember by itself."""

    def environment(self) -> dict[str, str] | None:
        """Its environment; the runner's own unless overridden."""
        return None

    def start(self, seconds: float = 15.0) -> None:
        """Starts the process and waits until it serves."""
        assert self.process is None, "already started"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        wait.until(f"{self.kind} ready (see {self.log})", self._ready, seconds)
        self.configure()

    def _ready(self) -> bool:
        process = self.process
        if process is not None and process.poll() is not None:
            self.process = None
            raise AssertionError(f"{self.kind} ended at start with {process.returncode}:\n{self.log_tail()}")
        return self.ready()

    def ready(self) -> bool:
        """Whether the service can be used."""
        return wait.connectable(self.host, self.port)

    def ensure_running(self) -> None:
        """Starts it when it does not run or does not serve, so that one case's trouble is not the next one's."""
        if self.process is not None and self.process.poll() is None:
            if self.ready():
                return
            self.kill()
        self.process = None
        self.start()

    def stop(self, seconds: float = 15.0) -> int:
        """Ends it in the friendly way and returns its exit code; kills it when it does not."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.kind} did not stop within {seconds:g} s of SIGTERM") from None
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def restart(self) -> None:
        """A start on the same data directory."""
        self.start()

    def pid(self) -> int:
        """The process id."""
        assert self.process is not None
        return self.process.pid

    def log_tail(self, lines: int = 25) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # -- what it serves --

    @abc.abstractmethod
    def add_target(self, target: Target) -> None:
        """Serves a target; its image files are made when they do not exist."""

    @abc.abstractmethod
    def remove_target(self, name: str) -> None:
        """Serves it no longer and deletes its images."""

    @abc.abstractmethod
    def path_of(self, device: Device) -> Path:
        """Where a device's image lies."""

    def add_lun(self, target: str, lun: Lun) -> None:
        """Adds a LUN to a served target."""
        raise NotImplementedError

    def remove_lun(self, target: str, number: int) -> None:
        """Removes a LUN of a served target."""
        raise NotImplementedError

    def grow(self, target: str, device: str, size: int) -> None:
        """Grows a device online."""
        raise NotImplementedError

    def set_access(self, target: str, rules: tuple[Rule, ...]) -> None:
        """Replaces a target's access rules."""
        raise NotImplementedError

    def set_cache(self, device: str, mode: str) -> None:
        """Changes a device's cache mode."""
        raise NotImplementedError

    @contextlib.contextmanager
    def serving(self, target: Target) -> Iterator[Target]:
        """Serves a target for the length of a block."""
        self.add_target(target)
        try:
            yield target
        finally:
            self.remove_target(target.name)

    def url(self, target: str, lun: int, credentials: str = "", port: int | None = None) -> str:
        """An iscsi:// URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"iscsi://{credentials}{host}:{port or self.port}/{target}/{lun}"
