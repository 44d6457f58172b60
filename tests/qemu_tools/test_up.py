"""`cargo xtask up` from nothing to a LUN that iscsi-ls and qemu-img use; a second start keeps everything."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness import ports
from harness.cli import Cli
from harness.model import MIB
from harness.runner import Context, case, expect, expect_equal
from qemu_tools.test_programs import run

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Printed:
    """What `up` tells a person."""

    portal: str
    target: str
    user: str
    secrets: Path
    socket: Path
    commands: list[str]


def _xtask(*words: str | Path, seconds: float = 600.0) -> str:
    command = ["cargo", "xtask", *map(str, words)]
    done = subprocess.run(
        command, cwd=_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"cargo xtask {words}: exit {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _up(directory: Path, port: int) -> Printed:
    text = _xtask("up", "--data-dir", directory, "--portal", f"127.0.0.1:{port}", "--size", str(64 * MIB))
    fields = dict(re.findall(r"^  (portal|target|user|secrets|socket)\s+(\S+)", text, re.MULTILINE))
    commands = re.findall(r"^  (?!portal|target|user|secrets|socket|data|note)(\S.*)$", text, re.MULTILINE)
    return Printed(
        fields["portal"], fields["target"], fields["user"], Path(fields["secrets"]), Path(fields["socket"]), commands
    )


def _secrets(path: Path) -> set[str]:
    """Every string in the secrets file."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, str):
            found.add(value)

    walk(tomllib.loads(path.read_text()))
    return found


def _login(printed: Printed) -> str:
    """`user%secret@`, with the one secret of the store that opens the target."""
    for secret in sorted(_secrets(printed.secrets)):
        credentials = f"{printed.user}%{secret}@"
        done = subprocess.run(
            ["iscsi-inq", f"iscsi://{credentials}{printed.portal}/{printed.target}/0"],
            capture_output=True,
            timeout=30,
            check=False,
        )
        if done.returncode == 0:
            return credentials
    raise AssertionError("no secret of the store opens the default target")


def _identity(url: str) -> str:
    return run("iscsi-inq", "-e", "1", "-c", "0x83", url) + run("iscsi-inq", "-e", "1", "-c", "0x80", url)


@case(seconds=900, needs=("sanctum",))
def test_up_serves_a_lun_and_keeps_it(context: Context) -> None:
    """Up; programs use the LUN; down; up again: identity, contents and settings are the same."""
    directory = context.directory / "up"
    port = ports.free_port()
    context.cleanup.callback(lambda: _xtask("down", "--data-dir", directory, seconds=60))
    printed = _up(directory, port)
    expect_equal(printed.portal, f"127.0.0.1:{port}", "portal")
    expect_equal(os.stat(printed.secrets).st_mode & 0o777, 0o600, "mode of the secrets file")
    expect(len(printed.commands) >= 3, f"the next three commands: {printed.commands}")
    listed = subprocess.run(
        ["bash", "-c", printed.commands[2]], capture_output=True, text=True, timeout=30, check=False
    )
    expect(printed.target in listed.stdout and "DIRECT_ACCESS" in listed.stdout, f"the third command: {listed}")
    credentials = _login(printed)
    url = f"iscsi://{credentials}{printed.portal}/{printed.target}/0"
    seen = run("iscsi-ls", "-s", f"iscsi://{credentials}{printed.portal}")
    expect(printed.target in seen and "DIRECT_ACCESS" in seen, f"iscsi-ls: {seen}")
    expect(str(64 * MIB) in run("qemu-img", "info", "--output=json", url), "size by qemu-img info")
    source = context.directory / "source.raw"
    source.write_bytes(os.urandom(64 * MIB))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, url)
    identity = _identity(url)
    cli = Cli(_ROOT / "target" / "debug", printed.socket)
    settings = cli.settings()
    _xtask("down", "--data-dir", directory)
    again = _up(directory, port)
    expect_equal(
        (again.portal, again.target, again.user), (printed.portal, printed.target, printed.user), "what is printed"
    )
    expect_equal(_identity(url), identity, "identity")
    expect_equal(cli.settings(), settings, "settings")
    expect("identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, url), "contents")
    expect("runs already" in _xtask("up", "--data-dir", directory), "a third up finds it running")
