"""File systems that run full: under a thin LUN, during a preallocation, under the service's own data directory."""

from __future__ import annotations

from pathlib import Path

from harness import ports
from harness.cli import CommandFailed
from harness.model import MIB, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal
from initiator import reservations as pr
from initiator import scsi
from initiator.session import Session
from wire.storage import small
from wire.support import calm, disk, log_in, own, pattern, read, sanctum, serve, write

_PIECE = MIB // 4
_BLOCKS = _PIECE // 512


def _write_until_full(session: Session, pieces: int) -> tuple[dict[int, bytes], scsi.Result]:
    """What was acknowledged, piece by piece, and how the first write ended that was not."""
    written: dict[int, bytes] = {}
    for number in range(pieces):
        data = pattern(_PIECE)
        result = write(session, number * _BLOCKS, data)
        if result.status != scsi.GOOD:
            return written, result
        written[number] = data
    raise AssertionError(f"{pieces} pieces of {_PIECE} bytes fitted")


@case(seconds=90, needs=("sanctum",))
def test_full_disk_under_a_thin_lun(context: Context) -> None:
    """In each cache mode the write that has no space fails with 27/07, and never an acknowledged one later."""
    other = disk(context, stem="other")
    for mode in ("none", "write-through", "write-back"):
        image = small(context, 8 * MIB, mode) / "thin.img"
        device = Device(ports.unique("thin"), 64 * MIB, path=image, cache=mode)
        target = serve(context, Target(ports.iqn("full"), (Lun(1, device),)))
        session = log_in(context, target)
        written, refused = _write_until_full(session, 64)
        refused.check(scsi.DATA_PROTECT, 0x27, 0x07)
        # In write-back a flush that fails would mean that an acknowledged write found no space.
        session.run(scsi.synchronize_cache10()).good()
        expect(len(written) >= 8, f"{mode}: {len(written)} pieces fitted into 8 MiB")
        for number, data in written.items():
            expect(read(session, number * _BLOCKS, _BLOCKS) == data, f"{mode}: contents of piece {number}")
        # Over what is there already it goes on, and freed space is used again.
        written[0] = pattern(_PIECE)
        write(session, 0, written[0]).good()
        listing = scsi.unmap_list([(_BLOCKS, 4 * _BLOCKS)])
        session.run(scsi.unmap(len(listing)), out=listing).good()
        written = {number: data for number, data in written.items() if not 1 <= number <= 4}
        written[60] = pattern(_PIECE)
        write(session, 60 * _BLOCKS, written[60]).good()
        read(log_in(context, other), 0, 1)
        context.server.kill()
        context.server.restart()
        session = log_in(context, target)
        wrong = [number for number, data in written.items() if read(session, number * _BLOCKS, _BLOCKS) != data]
        expect_equal(wrong, [], f"{mode}: pieces lost over kill -9 on a full disk")
        context.note(f"{mode}: {len(written)} pieces")


def _no_space(context: Context, *words: str) -> None:
    """The command fails for want of space and says so; the settings stay."""
    cli = sanctum(context).cli
    before = cli.settings()
    try:
        cli.run(*words)
    except CommandFailed as failure:
        expect_equal(failure.code, "no-space", f"code of {failure}")
        expect_equal(cli.settings(), before, "settings after a refused command")
        return
    raise AssertionError(f"sanctum {' '.join(words)} found space")


@case(seconds=60, needs=("sanctum",))
def test_disk_runs_full_during_a_preallocation(context: Context) -> None:
    """No device, no file and no setting is left of it; what already serves on that file system goes on."""
    cli = sanctum(context).cli
    place = small(context, 16 * MIB)
    device = Device(ports.unique("whole"), 4 * MIB, path=place / "whole.img", thin=False)
    target = serve(context, Target(ports.iqn("whole"), (Lun(1, device),)))
    session = log_in(context, target)
    data = pattern(512)
    write(session, 0, data).good()
    before = sorted(path.name for path in place.iterdir())
    name, image = ports.unique("large"), place / "large.img"
    create = ("device", "create", "image", name, "--path", str(image), "--provisioning", "preallocated", "--size")
    _no_space(context, *create, str(64 * MIB))
    expect_equal(sorted(path.name for path in place.iterdir()), before, "files after a preallocation without space")
    expect(name not in [entry["name"] for entry in cli.run("device", "list")], "the device is listed")
    # A preallocated image that cannot grow keeps its size, for its file and for the initiators.
    _no_space(context, "device", "grow", device.name, str(64 * MIB))
    expect_equal(device.path and device.path.stat().st_size, 4 * MIB, "size of the file")
    expect_equal(_capacity(session), 4 * MIB, "size told")
    expect(read(session, 0, 1) == data, "contents")
    # The space that was tried is free again.
    cli.run(*create, str(8 * MIB))
    cli.remove_device(name)


def _capacity(session: Session) -> int:
    calm(session)
    data = session.run(scsi.read_capacity16(), expect_in=32).good().data
    return (int.from_bytes(data[:8], "big") + 1) * int.from_bytes(data[8:12], "big")


@case(seconds=90, needs=("sanctum", "aptpl"))
def test_full_data_directory(context: Context) -> None:
    """Settings and reservations that cannot be written are refused and not in force; later everything goes on."""
    place = small(context, 16 * MIB)
    context = own(context, place / "data")
    server = sanctum(context)
    target = Target(ports.iqn("crowded"), (Lun(1, Device(ports.unique("disk"), 2 * MIB)),))
    server.add_target(target)
    before = server.cli.settings()
    holder = log_in(context, target)
    pr.register_and_ignore(holder, 0x11, aptpl=True).good()
    filler = place / "filler"
    _fill(filler)
    try:
        server.cli.run("target", "update", target.name, "--alias", "x" * 100)
        raise AssertionError("a change was written to a full disk")
    except CommandFailed as failure:
        expect_equal(failure.code, "no-space", f"code of {failure}")
    expect_equal(server.cli.settings(), before, "settings after a change that found no space")
    refused = pr.register_and_ignore(log_in(context, target), 0x22, aptpl=True)
    expect_equal(refused.status, scsi.CHECK_CONDITION, "a registration that cannot be kept")
    expect_equal(pr.read_keys(holder)[1], [0x11], "keys in force")
    server.kill()
    server.start()
    expect_equal(server.cli.settings(), before, "settings after a restart on a full disk")
    expect_equal(pr.read_keys(log_in(context, target))[1], [0x11], "keys kept")
    filler.unlink()
    server.cli.run("target", "update", target.name, "--alias", "roomy")
    expect_equal(server.cli.run("target", "show", target.name)["alias"], "roomy", "a change once there is space")
    late = log_in(context, target)
    pr.register_and_ignore(late, 0x22, aptpl=True).good()
    expect_equal(sorted(pr.read_keys(late)[1]), [0x11, 0x22], "keys in the end")


def _fill(path: Path) -> None:
    """Takes all the space there is."""
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
