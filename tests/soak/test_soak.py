"""Eight initiators on one LUN with mixed I/O while connections die, tasks are aborted and the LUN grows (acceptance 5).

`loadgen` checks every block: owner, place, sequence, checksum; every increment by COMPARE AND WRITE; and that every
command has its answer. This side grows or kills the target, watches memory, and looks at the LUN with the other
initiator. `SANCTUM_SOAK_SECONDS` says how long; a minute unless told otherwise.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import struct
import subprocess
import time
from typing import Any

from harness import wait
from harness.model import MIB, Target
from harness.runner import Context, case, expect, expect_equal
from harness.sanctum import SanctumServer
from initiator import scsi
from initiator.crc32c import crc32c
from initiator.session import Session
from wire.support import calm, disk, log_in, read, resident, sanctum

_SECONDS = int(os.environ.get("SANCTUM_SOAK_SECONDS", "60"))
_SIZE = 64 * MIB
#: From the third quarter of a run to the last its memory may still settle in a minute, and must be flat in a long one.
#: Both lie behind the grow; in an hour a fourth of it has some 1800 logins and millions of commands, so 2 KiB lost in
#: each login, or one byte in each command, are seen.
_GROWTH_MAX_KIB = 16 * 1024 if _SECONDS < 600 else 4 * 1024
#: From the first quarter to the last, in a run of any length.
_GROWTH_ALL_MAX_KIB = 16 * 1024
#: Blocks that everybody increments (`COUNTERS` of loadgen); the rest is read once more in the end.
_COUNTERS = 16
#: Blocks in a row of one owner (`CHUNK_BLOCKS`).
_CHUNK = 4096
#: Blocks looked at in the end by our Python initiator.
_LOOKS = 1000
#: How commands may end that did not end well, when nothing is wrong but what loadgen does itself.
_ENDS = ("UNIT ATTENTION", "MISCOMPARE 1d/00", "status 08", "status 28", "status 40")
_WORDS = (
    "reads",
    "writes",
    "unmaps",
    "increments",
    "kills",
    "losses",
    "functions",
    "unknown",
    "verified_blocks",
    "slowest_ms",
)


class Load:
    """A running loadgen; all spelling of its command line is here."""

    def __init__(self, context: Context, target: Target, seconds: int, *more: str) -> None:
        server = sanctum(context)
        self.log = context.directory / "loadgen.log"
        words = [
            "verify", "--portal", f"{server.host}:{server.port}", "--target", target.name, "--lun", "1", "--initiators", "8",
            "--depth", "16", "--seconds", str(seconds), "--kill-every", "500ms", "--reset-every", "1s", *more,
        ]  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [server.programs / "loadgen", *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        context.cleanup.callback(self._stop)
        self.logged_in(server, target)

    def logged_in(self, server: SanctumServer, target: Target) -> None:
        """Waits until every initiator is there, or has come back."""

        def sessions() -> bool:
            open_now = [entry for entry in server.cli.sessions() if entry["target"] == target.name]
            return self.running() and len(open_now) >= 8

        wait.until("eight sessions", sessions, 30)

    def running(self) -> bool:
        """Whether it has not ended; fails when it has ended badly."""
        code = self.process.poll()
        assert code in (None, 0), f"loadgen ended with {code}:\n{self.log.read_text(errors='replace')[-3000:]}"
        return code is None

    def ended(self, seconds: float) -> None:
        """Waits for its end."""
        wait.until("loadgen's end", lambda: not self.running(), seconds, step=0.2)

    def report(self) -> dict[str, Any]:
        """What it told in the end."""
        expect(not self.running(), "it has ended")
        return dict(json.loads(self.log.read_text()))

    def _stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)


def _capacity(session: Session) -> int:
    """The size, whatever resets happen meanwhile."""
    for _ in range(20):
        calm(session)
        result = session.run(scsi.read_capacity16(), expect_in=32)
        if result.status == scsi.GOOD:
            return (int.from_bytes(result.data[:8], "big") + 1) * int.from_bytes(result.data[8:12], "big")
    raise AssertionError("no READ CAPACITY without an attention")


def _note(context: Context, report: dict[str, Any], rest: str) -> None:
    context.note(f"{rest}: " + ", ".join(f"{report[word]} {word}" for word in _WORDS))


@case(seconds=_SECONDS + 120, needs=("sanctum",))
def test_soak(context: Context) -> None:
    """No hang, no wrong byte, memory flat; the grow at half time is seen by everybody, and the new part used."""
    server = sanctum(context)
    target = disk(context, stem="soak", size=_SIZE)
    load = Load(context, target, _SECONDS)
    samples: list[int] = []
    begin = time.monotonic()

    def sample() -> bool:
        samples.append(resident(server.pid()))
        return load.running()

    wait.until("half time", lambda: sample() and time.monotonic() - begin > _SECONDS / 2, _SECONDS / 2 + 30, step=0.5)
    watcher = log_in(context, target)
    server.grow(target.name, target.luns[0].device.name, 2 * _SIZE)
    expect_equal(_capacity(watcher), 2 * _SIZE, "size after growing")
    watcher.connection.close()
    wait.until("loadgen's end", lambda: not sample(), _SECONDS / 2 + 60, step=0.5)
    report = load.report()
    _worked(report)
    # A session of its own: one that had waited here for half an hour would have been ended as silent.
    _looked_at_by_another(log_in(context, target), report["capacity_blocks"])
    expect(report["kills"] > 0 and report["functions"] > 0, "the load was disturbed")
    expect(report["capacity_changes"] > 0, "the grow was noticed")
    expect_equal(report["capacity_blocks"] * 512, 2 * _SIZE, "bytes used in the end")
    quarter = len(samples) // 4
    # Medians, since one sample says little.
    first, _, third, last = (statistics.median(samples[at * quarter : (at + 1) * quarter]) for at in range(4))
    expect(last - first < _GROWTH_ALL_MAX_KIB, f"memory grew from {first} KiB in the first quarter to {last}")
    expect(last - third < _GROWTH_MAX_KIB, f"memory grew from {third} KiB in the third quarter to {last} in the last")
    memory = ", ".join(f"{kib / 1024:.1f}" for kib in (first, third, last))
    _note(context, report, f"{_SECONDS} s, {memory} MiB resident in the first, third and last quarter")


def _looked_at_by_another(session: Session, blocks: int) -> None:
    """Blocks picked at random, read by another initiator and judged by code that loadgen does not share."""
    for _ in range(_LOOKS):
        lba = random.randrange(_COUNTERS, blocks)
        block = read(session, lba, 1)
        if not any(block):
            continue
        magic, owner, sequence, place = struct.unpack_from(">8sIQQ", block)
        expect_equal(magic, b"Sanctum!", f"the beginning of block {lba}")
        expect_equal(place, lba, "the block it says it is")
        expect_equal(owner, (lba - _COUNTERS) // _CHUNK % 8, f"the owner of block {lba}")
        expect(sequence > 0, f"a sequence in block {lba}")
        expect_equal(int.from_bytes(block[-4:], "big"), crc32c(block[:-4]), f"the checksum of block {lba}")


def _worked(report: dict[str, Any]) -> None:
    """Every kind of command was used, none ended in a way that nothing explains, all was read in the end."""
    for word in ("reads", "writes", "unmaps", "flushes", "increments"):
        expect(report[word] > 100, f"{report[word]} {word}")
    strange = {kind: count for kind, count in report["errors"].items() if not kind.startswith(_ENDS)}
    expect_equal(strange, {}, "ends that nothing explains")
    expect(report["verified_blocks"] >= report["capacity_blocks"] - _COUNTERS, "everything was read in the end")


@case(seconds=180, needs=("sanctum",))
def test_kill_9_under_load(context: Context) -> None:
    """Under kill -9 and restart nothing acknowledged is lost, whatever the cache mode (the host stays up)."""
    server = sanctum(context)
    for mode in ("none", "write-back"):
        target = disk(context, stem=f"kill-{mode}", size=_SIZE, cache=mode)
        load = Load(context, target, 12, "--tolerate-restart", "30")
        for _ in range(3):
            load.logged_in(server, target)
            server.kill()
            server.restart()
        load.ended(60)
        report = load.report()
        _worked(report)
        expect(report["losses"] >= 8, f"the target was away: {report['losses']} connections lost")
        _note(context, report, mode)
