"""`sanctumd` as the server under test, managed through `sanctum`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from harness import cli, ports
from harness.cli import Cli, CommandFailed
from harness.model import MIB, Account, Authentication, Device, Lun, Rule, Target
from harness.server import Server

#: Environment variable that forces the I/O driver.
_DRIVER = "SANCTUM_RING"


class SanctumServer(Server):
    """One `sanctumd` with a data directory of its own, made by `sanctumd init`."""

    kind = "sanctum"
    abilities = frozenset(
        {
            "sanctum", "chap-md5", "chap-mutual", "chap-all", "reservations", "aptpl", "compare-and-write", "digests",
            "optical", "cache-modes", "access", "hot-change", "windows-order", "hardened", "task-management", "unmap",
        }
    )  # fmt: skip

    def __init__(self, directory: Path, programs: Path, host: str = "127.0.0.1", driver: str | None = None) -> None:
        super().__init__(directory, host, ports.free_port(host))
        self.programs = programs
        self.driver = driver
        self.data_dir = directory / "data"
        self.report: dict[str, Any] = {}
        self.cli = Cli(programs, self.data_dir / "api.sock")
        self.targets: dict[str, Target] = {}
        self.accounts: Counter[str] = Counter()

    # -- life --

    def start(self, seconds: float = 15.0) -> None:
        fresh = not self.report
        if fresh:
            self.report = cli.init(self.programs, self.data_dir, f"{self.host}:{self.port}", 64 * MIB)
            self.port = int(self.report["portal"].rpartition(":")[2])
            self.cli = Cli(self.programs, Path(self.report["socket"]))
        super().start(seconds)
        if fresh:
            self._clear_default()

    def _clear_default(self) -> None:
        """Takes away what `init` made, so that discovery shows only what a case serves."""
        name = self.report["target"]
        devices = self._devices_under(name)
        self.cli.delete_target(name)
        for device in devices:
            self.cli.remove_device(device)

    def command(self) -> list[str]:
        return cli.service_command(self.programs, self.data_dir)

    def environment(self) -> dict[str, str] | None:
        return {**os.environ, _DRIVER: self.driver} if self.driver else None

    def ready(self) -> bool:
        # Not by connecting: after kill -9 the old process's socket may still take connections for a moment.
        try:
            portals = self.cli.portals()
        except CommandFailed:
            return False
        return any(portal["port"] == self.port and portal["listening"] for portal in portals)

    def configure(self) -> None:
        """It remembers everything by itself."""

    # -- what it serves --

    def path_of(self, device: Device) -> Path:
        return device.path or Path(self.cli.device(device.name)["path"])

    def _proofs(self, target: Target) -> list[Account]:
        proofs: list[Authentication] = [target.authentication]
        proofs += [rule.authentication for rule in target.access if rule.authentication is not None]
        found: dict[str, Account] = {}
        for proof in proofs:
            for account in (*proof.accounts, *((proof.mutual,) if proof.mutual else ())):
                found[account.user] = account
        return list(found.values())

    def add_target(self, target: Target) -> None:
        for account in self._proofs(target):
            if self.accounts[account.user] == 0:
                self.cli.add_account(account)
            self.accounts[account.user] += 1
        self.cli.create_target(target.name, target.authentication, not target.allow_multiple, target.portals)
        self.targets[target.name] = target
        for lun in target.luns:
            self.cli.create_device(lun.device)
            self.cli.add_lun(target.name, lun.device.name, lun.number, lun.read_only)
        for rule in target.access:
            self.cli.add_rule(target.name, rule)

    def remove_target(self, name: str) -> None:
        target = self.targets.pop(name)
        self.ensure_running()
        devices = self._devices_under(name)
        self.cli.delete_target(name)
        for device in devices:
            foreign = self.cli.device(device).get("kind") != "image"
            self.cli.remove_device(device, delete_file=not foreign)
        for account in self._proofs(target):
            self.accounts[account.user] -= 1
            if self.accounts[account.user] == 0:
                self.cli.remove_account(account.user)

    def _devices_under(self, name: str) -> list[str]:
        found = next(target for target in self.cli.targets() if target["name"] == name)
        return [lun["device"] for lun in found.get("lun", [])]

    def add_lun(self, target: str, lun: Lun) -> None:
        self.cli.create_device(lun.device)
        self.cli.add_lun(target, lun.device.name, lun.number, lun.read_only)

    def remove_lun(self, target: str, number: int) -> None:
        found = next(entry for entry in self.cli.targets() if entry["name"] == target)
        device = next(lun["device"] for lun in found["lun"] if lun["number"] == number)
        self.cli.remove_lun(target, number)
        self.cli.remove_device(device)

    def grow(self, target: str, device: str, size: int) -> None:
        self.cli.grow(device, size)

    def set_access(self, target: str, rules: tuple[Rule, ...]) -> None:
        before = len(self.cli.rules(target))
        for rule in rules:
            self.cli.add_rule(target, rule)
        for _ in range(before):
            self.cli.remove_rule(target, 1)

    def set_cache(self, device: str, mode: str) -> None:
        self.cli.cache(device, mode)
