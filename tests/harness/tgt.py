"""Debian's tgt as a server under test: the yardstick, and the stand-in when the suites themselves are debugged."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

from harness import ports, wait
from harness.model import Device, Lun, Target
from harness.server import Server

_control_ports = itertools.count(100 + os.getpid() % 20000)


class TgtServer(Server):
    """One tgtd in the foreground on its own control port; it remembers nothing, so a restart configures again."""

    kind = "tgt"
    abilities = frozenset({"chap-md5", "reservations", "compare-and-write", "optical"})

    def __init__(self, directory: Path, host: str = "127.0.0.1", port: int | None = None) -> None:
        super().__init__(directory, host, port or ports.free_port(host))
        self.control = str(next(_control_ports))
        self.spare = ports.free_port(host)
        self.targets: dict[str, tuple[int, Target]] = {}
        self.ids = itertools.count(1)

    @staticmethod
    def available() -> bool:
        """Whether tgt is installed."""
        return shutil.which("tgtd") is not None

    def command(self) -> list[str]:
        return ["tgtd", "-f", "-C", self.control, "--iscsi", f"portal={self.host}:{self.spare}"]

    def ready(self) -> bool:
        return self._admin("--op", "show", "--mode", "target", check=False) == 0

    def configure(self) -> None:
        for number, target in self.targets.values():
            self._serve(number, target)
        # The portal comes last: an initiator that logs in again must not meet a target that is not there yet.
        self._admin("--op", "new", "--mode", "portal", "--param", f"portal={self.host}:{self.port}")
        wait.listening(self.host, self.port)

    def stop(self, seconds: float = 15.0) -> int:
        self.kill()  # it ignores SIGTERM while a session is open
        return 0

    def _admin(self, *words: str, check: bool = True) -> int:
        done = subprocess.run(
            ["tgtadm", "-C", self.control, "--lld", "iscsi", *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"tgtadm {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.returncode

    def path_of(self, device: Device) -> Path:
        return device.path or self.directory / f"{device.name}.img"

    def add_target(self, target: Target) -> None:
        number = next(self.ids)
        self.targets[target.name] = (number, target)
        self._serve(number, target)

    def _serve(self, number: int, target: Target) -> None:
        tid = str(number)
        self._admin("--op", "new", "--mode", "target", "--tid", tid, "-T", target.name)
        for lun in target.luns:
            self._serve_lun(tid, lun)
        for account in target.authentication.accounts:
            words = ["--op", "new", "--mode", "account", "--user", account.user, "--password", account.secret]
            self._admin(*words, check=False)
            self._admin("--op", "bind", "--mode", "account", "--tid", tid, "--user", account.user)
        self._admin("--op", "bind", "--mode", "target", "--tid", tid, "-I", "ALL")

    def _serve_lun(self, tid: str, lun: Lun) -> None:
        device = lun.device
        path = self.path_of(device)
        if not path.exists():
            with path.open("wb") as image:
                image.truncate(device.size)
        words = ["--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", str(lun.number), "-b", str(path)]
        if device.kind == "iso":
            words += ["--device-type", "cd"]
        else:
            words += ["--blocksize", str(device.block_size)]
        self._admin(*words)
        params = []
        if device.thin and device.kind == "image":
            params.append("thin_provisioning=1")
        if device.read_only or lun.read_only:
            params.append("readonly=1")
        if device.removable:
            params.append("removable=1")
        if params:
            words = ["--op", "update", "--mode", "logicalunit", "--tid", tid, "--lun", str(lun.number)]
            self._admin(*words, "--params", ",".join(params))

    def remove_target(self, name: str) -> None:
        number, target = self.targets.pop(name)
        if self.process is not None and self.process.poll() is None:
            self._admin("--op", "delete", "--mode", "target", "--tid", str(number), "--force", check=False)
        for lun in target.luns:
            if lun.device.kind == "image" and lun.device.path is None:
                self.path_of(lun.device).unlink(missing_ok=True)
