"""All spelling of our own command line is here: `sanctum NOUN VERB ... --output json`, `sanctumd`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from harness.model import Account, Authentication, Device, Rule

_SECONDS = 60.0


class CommandFailed(Exception):
    """A command ended badly; `problem` is what it said in JSON."""

    def __init__(self, words: list[str], code: int, problem: dict[str, Any], text: str) -> None:
        super().__init__(f"sanctum {' '.join(words)}: exit {code}: {problem or text}")
        self.exit = code
        self.problem = problem
        self.text = text

    @property
    def code(self) -> str:
        """The problem's code, such as `in-use`."""
        return str(self.problem.get("code", ""))


def service_command(programs: Path, data_dir: Path) -> list[str]:
    """Runs the service in the foreground."""
    return [str(programs / "sanctumd"), "run", "--data-dir", str(data_dir)]


def init(programs: Path, data_dir: Path, portal: str, size: int) -> dict[str, Any]:
    """Makes a data directory with a usable default."""
    words = ["init", "--output", "json", "--data-dir", str(data_dir), "--portal", portal, "--size", str(size)]
    done = subprocess.run(
        [str(programs / "sanctumd"), *words], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, _json(done.stdout) or {}, done.stdout + done.stderr)
    return dict(json.loads(done.stdout))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


class Cli:
    """The client against one service."""

    def __init__(self, programs: Path, socket: Path) -> None:
        self.program = programs / "sanctum"
        self.socket = socket

    def run(self, *words: str, stdin: str | None = None, seconds: float = _SECONDS) -> Any:
        """Runs a command and returns what it says in JSON."""
        command = [str(self.program), "--output", "json", "--socket", str(self.socket), *words]
        # Without given input the standard input is empty, so that nothing can wait for a person.
        done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode != 0:
            problem = _json(done.stderr) or _json(done.stdout)
            found = problem if isinstance(problem, dict) else {}
            raise CommandFailed(list(words), done.returncode, found, done.stdout + done.stderr)
        return _json(done.stdout) if done.stdout.strip() else None

    def table(self, *words: str) -> str:
        """Runs a command and returns its table."""
        command = [str(self.program), "--socket", str(self.socket), *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            raise CommandFailed(list(words), done.returncode, {}, done.stderr)
        return done.stdout

    # -- status, sessions, events --

    def status(self) -> dict[str, Any]:
        """The service at a glance."""
        return dict(self.run("status"))

    def sessions(self) -> list[dict[str, Any]]:
        """Sessions open now."""
        return list(self.run("session", "list"))

    def drop_session(self, tsih: int) -> None:
        """Ends a session."""
        self.run("session", "drop", str(tsih))

    def events(self, limit: int = 200) -> list[dict[str, Any]]:
        """The newest events."""
        return list(self.run("event", "list", "--limit", str(limit)))

    # -- devices --

    def create_device(self, device: Device) -> None:
        """Adds a device; an image without a path is made in the service's own directory."""
        words = ["device", "create", device.kind, device.name]
        if device.kind == "iso":
            self.run(*words, "--path", str(device.path))
            return
        if device.path is not None:
            words += ["--path", str(device.path)]
        if device.kind != "block":
            words += ["--size", str(device.size)]
        words += ["--block-size", str(device.block_size), "--cache", device.cache]
        if device.kind == "image" and not device.thin:
            words += ["--provisioning", "preallocated"]
        if device.kind == "image" and device.path is not None and device.path.exists():
            words.append("--existing")
        if device.read_only:
            words += ["--read-only", "true"]
        if not device.physical_blocks:
            words += ["--physical-blocks", "false"]
        if device.removable:
            words += ["--removable", "true"]
        self.run(*words)

    def device(self, name: str) -> dict[str, Any]:
        """A device with its live state."""
        return dict(self.run("device", "show", name))

    def remove_device(self, name: str, delete_file: bool = True) -> None:
        """Removes a device, and its image unless told otherwise."""
        self.run("device", "delete", name, *(["--delete-file"] if delete_file else []))

    def grow(self, name: str, size: int) -> None:
        """Grows a device."""
        self.run("device", "grow", name, str(size))

    def cache(self, name: str, mode: str) -> None:
        """Sets a cache mode."""
        self.run("device", "cache", name, mode)

    def load(self, name: str) -> None:
        """Loads a medium, or accepts an empty RAM disk."""
        self.run("device", "load", name)

    def eject(self, name: str) -> None:
        """Ejects a medium."""
        self.run("device", "eject", name)

    def clear_reservations(self, name: str) -> None:
        """Removes all registrations."""
        self.run("device", "clear-reservations", name)

    # -- targets --

    def create_target(
        self, name: str, proof: Authentication, single: bool = False, portals: tuple[str, ...] = ()
    ) -> None:
        """Adds a target."""
        words = ["target", "create", name, *_proof(proof)]
        if single:
            words += ["--allow-multiple", "false"]
        for portal in portals:
            words += ["--portal", portal]
        self.run(*words)

    def allow_multiple(self, name: str, allowed: bool) -> None:
        """Several initiators at once, or one."""
        self.run("target", "update", name, "--allow-multiple", "true" if allowed else "false")

    def delete_target(self, name: str) -> None:
        """Removes a target."""
        self.run("target", "delete", name)

    def targets(self) -> list[dict[str, Any]]:
        """All targets."""
        return list(self.run("target", "list"))

    def add_lun(self, target: str, device: str, number: int, read_only: bool = False) -> None:
        """Adds a LUN."""
        self.run("lun", "add", target, device, "--number", str(number), "--read-only", "true" if read_only else "false")

    def remove_lun(self, target: str, number: int) -> None:
        """Removes a LUN."""
        self.run("lun", "remove", target, str(number))

    # -- access --

    def add_rule(self, target: str, rule: Rule, position: int | None = None) -> None:
        """Adds an access rule, last unless told otherwise."""
        words = ["access", "add", target, rule.action, "--initiator", rule.initiator]
        if rule.network is not None:
            words += ["--network", rule.network]
        if rule.portal is not None:
            words += ["--portal", rule.portal]
        for seen, lun in rule.luns or ():
            words += ["--lun", f"{seen}={lun}"]
        if rule.authentication is not None:
            words += _proof(rule.authentication)
        if position is not None:
            words += ["--position", str(position)]
        self.run(*words)

    def remove_rule(self, target: str, position: int) -> None:
        """Removes the rule at a position from 1."""
        self.run("access", "remove", target, str(position))

    def rules(self, target: str) -> list[dict[str, Any]]:
        """The rules of a target in order."""
        return list(self.run("access", "list", target))

    # -- accounts --

    def add_account(self, account: Account) -> None:
        """Adds a CHAP account."""
        self.run("chap", "add", account.user, "--secret-stdin", stdin=account.secret + "\n")

    def remove_account(self, user: str) -> None:
        """Removes a CHAP account."""
        self.run("chap", "remove", user)

    # -- portals --

    def add_portal(self, name: str, address: str, group: int = 1) -> None:
        """Adds a portal."""
        self.run("portal", "add", name, address, "--group", str(group))

    def enable_portal(self, name: str, enabled: bool) -> None:
        """Listens, or not."""
        self.run("portal", "enable" if enabled else "disable", name)

    def remove_portal(self, name: str) -> None:
        """Removes a portal."""
        self.run("portal", "remove", name)

    def portals(self) -> list[dict[str, Any]]:
        """All portals."""
        return list(self.run("portal", "list"))

    # -- settings --

    def settings(self) -> dict[str, Any]:
        """The settings in force: generation and text."""
        return dict(self.run("settings", "show"))

    def apply(self, text: str, expect: int | None = None) -> dict[str, Any]:
        """Applies a document."""
        words = ["settings", "apply", "-", *(["--expect", str(expect)] if expect is not None else [])]
        return dict(self.run(*words, stdin=text))

    def diff(self, text: str) -> dict[str, Any]:
        """What a document would change."""
        return dict(self.run("settings", "diff", "-", stdin=text))

    def roll_back(self, generation: int) -> dict[str, Any]:
        """Returns to a generation."""
        return dict(self.run("settings", "rollback", str(generation)))

    def history(self) -> list[dict[str, Any]]:
        """Kept generations."""
        return list(self.run("settings", "history"))


def _proof(proof: Authentication) -> list[str]:
    words = []
    for account in proof.accounts:
        words += ["--chap", account.user]
    if proof.mutual is not None:
        words += ["--mutual", proof.mutual.user]
    if proof.mutual_required:
        words += ["--mutual-required", "true"]
    for algorithm in proof.algorithms:
        words += ["--algorithm", algorithm]
    return words
