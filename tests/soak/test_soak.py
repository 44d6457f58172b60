"""Eight initiators on one LUN with mixed I/O while connections die, tasks are aborted and the LUN grows (acceptance 5).

`loadgen` checks every block: owner, place, sequence, checksum. This side grows the device, watches memory, and looks
at the LUN with the other initiator. `SANCTUM_SOAK_SECONDS` says how long; a minute unless told otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from harness import wait
from harness.model import MIB
from harness.runner import Context, case, expect, expect_equal
from initiator import scsi
from initiator.session import Session
from wire.support import calm, disk, log_in, resident, sanctum

_SECONDS = int(os.environ.get("SANCTUM_SOAK_SECONDS", "60"))
_SIZE = 64 * MIB
#: Memory may settle during the first part; after that it must stay where it is.
_GROWTH_MAX_KIB = 16 * 1024


def loadgen_command(programs: Path, portal: str, target: str, seconds: int, pid: int) -> list[str]:
    """All spelling of loadgen's command line."""
    words = [
        str(programs / "loadgen"), "verify", "--portal", portal, "--target", target, "--lun", "1", "--initiators", "8", "--depth", "16",
        "--seconds", str(seconds), "--kill-every", "500", "--reset-every", "1000", "--watch-pid", str(pid), "--size", str(_SIZE),
    ]  # fmt: skip
    return words


def _capacity(session: Session) -> int:
    data = session.run(scsi.read_capacity16(), expect_in=32).good().data
    return (int.from_bytes(data[:8], "big") + 1) * int.from_bytes(data[8:12], "big")


@case(seconds=_SECONDS + 120, needs=("sanctum",))
def test_soak(context: Context) -> None:
    """No hang, no wrong byte, memory flat; the grow in the middle is seen by everybody."""
    server = sanctum(context)
    target = disk(context, stem="soak", size=_SIZE)
    log = context.directory / "loadgen.log"
    portal = f"{server.host}:{server.port}"
    command = loadgen_command(server.programs, portal, target.name, _SECONDS, server.pid())
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    context.cleanup.callback(_end, process)

    def running() -> None:
        code = process.poll()
        assert code in (None, 0), f"loadgen ended with {code}:\n{log.read_text(errors='replace')[-3000:]}"

    def sessions() -> bool:
        running()
        return len([entry for entry in server.cli.sessions() if entry["target"] == target.name]) >= 8

    wait.until("eight sessions", sessions, 30)
    watcher = log_in(context, target)
    server.grow(target.name, target.luns[0].device.name, 2 * _SIZE)
    calm(watcher)
    expect_equal(_capacity(watcher), 2 * _SIZE, "size after growing")
    settled = 0
    samples = []
    deadline = _SECONDS + 60
    third = _SECONDS / 3

    def ended() -> bool:
        nonlocal settled
        running()
        samples.append(resident(server.pid()))
        if settled == 0 and len(samples) * 0.5 > third:
            settled = max(samples)
        return process.poll() is not None

    wait.until("loadgen's end", ended, deadline, step=0.5)
    expect_equal(process.returncode, 0, "loadgen's exit code")
    grown = samples[-1] - settled
    expect(grown < _GROWTH_MAX_KIB, f"memory grew by {grown} KiB after it had settled at {settled}")
    report = json.loads(log.read_text())
    expect(report["kills"] > 0 and report["functions"] > 0, "the load was disturbed")
    expect(report["capacity_changes"] > 0, "the grow was noticed")
    words = (
        "reads",
        "writes",
        "unmaps",
        "increments",
        "kills",
        "functions",
        "unknown",
        "verified_blocks",
        "slowest_ms",
    )
    figures = ", ".join(f"{report[word]} {word}" for word in words)
    context.note(f"{_SECONDS} s, {samples[-1] // 1024} MiB resident: {figures}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
