"""A physical disk under a LUN: a loop device, which the kernel grows like a volume of an array."""

from __future__ import annotations

from harness import ports, wait
from harness.model import MIB, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal
from initiator import scsi
from initiator.session import Session
from wire.storage import Loop
from wire.support import calm, log_in, pattern, read, sanctum, serve, write


def _size(session: Session) -> int:
    data = session.run(scsi.read_capacity16(), expect_in=32).good().data
    return (int.from_bytes(data[:8], "big") + 1) * int.from_bytes(data[8:12], "big")


def _served(context: Context, loop: Loop, **more: object) -> Target:
    device = Device(ports.unique("disk"), kind="block", path=loop.node, **more)  # type: ignore[arg-type]
    return serve(context, Target(ports.iqn("block"), (Lun(1, device),)))


@case(needs=("sanctum",))
def test_physical_disk_is_grown_online(context: Context) -> None:
    """`device load` takes the new size: CAPACITY DATA HAS CHANGED for all, the new part serves, the old is as before."""
    server = sanctum(context)
    loop = Loop(context, 16 * MIB)
    target = _served(context, loop)
    sessions = [log_in(context, target) for _ in range(2)]
    expect_equal(_size(sessions[0]), 16 * MIB, "size, which is the disk's own")
    last = pattern(512)
    write(sessions[0], 16 * 2048 - 1, last).good()
    write(sessions[0], 16 * 2048, last).check(scsi.ILLEGAL_REQUEST, 0x21)
    loop.grow(32 * MIB)
    server.cli.load(target.luns[0].device.name)
    for session in sessions:
        told = lambda session=session: (0x2A, 0x09) in [sense.code for sense in calm(session)]  # noqa: E731
        wait.until("CAPACITY DATA HAS CHANGED", told, 10)
        expect_equal(_size(session), 32 * MIB, "size after the disk was grown")
    expect(read(sessions[1], 16 * 2048 - 1, 1) == last, "the old part")
    write(sessions[1], 32 * 2048 - 1, last).good()
    sessions[1].run(scsi.synchronize_cache10()).good()
    with loop.node.open("rb") as disk:
        disk.seek(32 * MIB - 512)
        expect(disk.read(512) == last, "what the disk itself holds at its new end")
    # Loaded again without a change nobody is told anything.
    server.cli.load(target.luns[0].device.name)
    expect_equal(calm(sessions[0]), [], "unit attentions of a load that changed nothing")


@case(seconds=60, needs=("sanctum",))
def test_physical_disk_keeps_its_identity(context: Context) -> None:
    """The disk holds the initiators' blocks alone; identity and contents outlive kill -9, in each cache mode."""
    server = sanctum(context)
    loop = Loop(context, 16 * MIB)
    target = _served(context, loop)
    name = target.luns[0].device.name
    session = log_in(context, target)
    identity = session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data
    whole = pattern(MIB)
    for mode in ("none", "write-through", "write-back"):
        server.set_cache(name, mode)
        calm(session)
        write(session, 0, whole).good()
        server.kill()
        server.restart()
        session = log_in(context, target)
        expect_equal(session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data, identity, f"{mode}: identity")
        expect(read(session, 0, len(whole) // 512) == whole, f"{mode}: contents after kill -9")
        whole = whole[::-1]
    session.run(scsi.synchronize_cache10()).good()
    with loop.node.open("rb") as disk:
        expect_equal(disk.seek(0, 2), 16 * MIB, "size of the disk")
        disk.seek(MIB)
        expect(not any(disk.read()), "nothing but the initiators' blocks is on the disk")
