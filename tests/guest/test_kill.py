"""kill -9 under I/O in each cache mode: what was acknowledged is there, and the guest never sees an error."""

from __future__ import annotations

from dataclasses import dataclass

from guest import blocks, setting
from guest.machine import Guest, booted
from harness import ports, wait
from harness.model import MIB, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal
from initiator import scsi
from initiator.login import Options
from initiator.session import Session

_SPAN = 256


@dataclass
class Writer:
    """One writer in the guest with the record of what it was told."""

    lun: int
    cache: str
    mode: str
    acknowledged: int = -1
    synced: int = -1

    @property
    def syncs(self) -> bool:
        """Whether it asks for syncs at all."""
        return self.mode != "direct"

    @property
    def seed(self) -> int:
        """Owner of its blocks."""
        return 0x5A0000 + self.lun

    @property
    def label(self) -> str:
        """For messages."""
        return f"cache {self.cache}, {self.mode}"


def _collect(guest: Guest, writers: list[Writer]) -> None:
    """Takes in what the writers said so far."""
    by_lun = {str(writer.lun): writer for writer in writers}
    for line in guest.take("w"):
        lun, word, number = line[1:].split(" ")[:3]
        writer = by_lun[lun]
        if word == "ack":
            expect_equal(int(number), writer.acknowledged + 1, f"{writer.label}: acknowledgements in order")
            writer.acknowledged = int(number)
        elif word == "sync":
            expect(writer.synced < int(number) <= writer.acknowledged, f"{writer.label}: {line} after {writer.synced}")
            writer.synced = int(number)
        elif word == "error":
            raise AssertionError(f"{writer.label}: the guest saw an I/O error: {line}")


def _progress(guest: Guest, writers: list[Writer], by: int, seconds: float) -> None:
    """Waits until every writer is `by` blocks further."""
    goal = {writer.lun: writer.acknowledged + by for writer in writers}

    def reached() -> bool:
        guest.poll(0.2)
        _collect(guest, writers)
        return all(writer.acknowledged >= goal[writer.lun] for writer in writers)

    wait.until(f"{by} more blocks of each writer", reached, seconds)


def _start(guest: Guest, writers: list[Writer]) -> None:
    for writer in writers:
        node = guest.node_of(writer.lun)
        command = f"writer {node} {writer.seed} 0 100000000 {_SPAN} {writer.mode} /dev/ttyS1 w{writer.lun}"
        guest.background(command)


def _read_back(context: Context, target: str, writer: Writer) -> bytes:
    """The slots of a writer, read by our own initiator."""
    options = Options(ports.iqn("reader"), target)
    with Session(context.server.host, context.server.port, options) as session:
        session.run(scsi.test_unit_ready(), writer.lun)  # takes the unit attention
        image = b""
        per = blocks.BLOCK // 512
        for first in range(0, _SPAN, 32):
            count = 32 * per
            image += session.run(scsi.read10(first * per, count), writer.lun, expect_in=count * 512).good().data
        return image


@case(seconds=300)
def test_acknowledged_writes_survive_kill(context: Context) -> None:
    """Writers on LUNs of every cache mode; the target dies twice under them; every slot is checked at the end.

    A process that dies takes nothing along that it acknowledged (it was on the disk, or in the page cache of a host
    that lives). What a sync covers is checked as a claim of its own, with syncs that were answered after the first kill.
    """
    server = context.server
    modes = ("none", "write-through", "write-back") if "cache-modes" in server.abilities else ("none",)
    plan = [(cache, mode) for cache in modes for mode in ("direct", "sync", "flush:16")]
    writers = [Writer(lun, cache, mode) for lun, (cache, mode) in enumerate(plan, start=1)]
    name = ports.iqn("kill")
    luns = tuple(Lun(w.lun, Device(f"kill{w.lun}", 16 * MIB, cache=w.cache)) for w in writers)
    with server.serving(Target(name, luns)):
        with booted(setting.debian_kernel(), setting.initramfs(context), context.directory) as (guest,):
            guest.start_initiator()
            guest.log_in(name, server.port).good()
            _start(guest, writers)
            _progress(guest, writers, 40, 60)
            before = _kill(context, guest, writers)
            server.restart()
            _progress(guest, writers, _SPAN // 2, 120)
            _kill(context, guest, writers)
            expect_equal(guest.kernel_complaints(), [], "kernel complaints")
        server.restart()
        wrong = []
        for writer in writers:
            expect(writer.acknowledged > before[writer.lun], f"{writer.label}: went on after the restart")
            image = _read_back(context, name, writer)
            claims = [("acknowledged", writer.acknowledged)]
            if writer.syncs:
                expect(
                    writer.synced > before[writer.lun], f"{writer.label}: a sync after the kill covers all before it"
                )
                claims.append(("synced", writer.synced))
            for claim, upto in claims:
                # One more may have been acknowledged that the writer could not tell any more, and the next one begun.
                found = blocks.check(image, writer.seed, _SPAN, upto, writer.acknowledged + 2)
                wrong += [f"{writer.label}, {claim}: {text}" for text in found[:3]]
        covered = sum(writer.synced + 1 for writer in writers)
        context.note(
            f"{sum(w.acknowledged + 1 for w in writers)} acknowledged blocks checked, {covered} covered by syncs"
        )
        expect_equal(wrong, [], "damage")


def _kill(context: Context, guest: Guest, writers: list[Writer]) -> dict[int, int]:
    """kill -9; what each writer had been acknowledged by then."""
    context.server.kill()
    guest.run("true").good()  # what was acknowledged is on the channel before this answer
    _collect(guest, writers)
    return {writer.lun: writer.acknowledged for writer in writers}
