"""The shortest proof that a target serves: also run with the I/O driver forced to its fallback."""

from __future__ import annotations

from harness.runner import Context, case, expect, expect_equal
from initiator import reservations as pr
from initiator import scsi
from initiator.session import LUN_RESET, discover
from wire.support import alive, disk, log_in, options, pattern, read, sanctum, write


@case()
def test_smoke_discovery_finds_the_target(context: Context) -> None:
    """SendTargets=All names the target at our portal."""
    target = disk(context)
    found = discover(context.server.host, context.server.port, options(None))
    expect(target.name in found, f"found {sorted(found)}")
    address = f"{context.server.host}:{context.server.port}"
    expect(any(entry.startswith(address + ",") for entry in found[target.name]), f"addresses {found[target.name]}")


@case()
def test_smoke_data_comes_back(context: Context) -> None:
    """Writes of several sizes are read back, over a second session too."""
    target = disk(context)
    session = log_in(context, target)
    written = []
    lba = 0
    for blocks in (1, 2, 7, 8, 64, 129, 512, 2048):
        data = pattern(blocks * 512)
        write(session, lba, data).good()
        written.append((lba, data))
        lba += blocks
    session.run(scsi.synchronize_cache10()).good()
    for reader in (session, log_in(context, target)):
        for begin, data in written:
            expect_equal(read(reader, begin, len(data) // 512) == data, True, f"contents at {begin}")


@case(seconds=60)
def test_smoke_contents_survive_kill(context: Context) -> None:
    """A synchronized write is there after kill -9 and restart, under the same identity."""
    target = disk(context)
    session = log_in(context, target)
    data = pattern(64 * 512)
    write(session, 100, data).good()
    session.run(scsi.synchronize_cache10()).good()
    before = session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data
    context.server.kill()
    context.server.restart()
    session = log_in(context, target)
    expect(read(session, 100, 64) == data, "contents after kill -9")
    after = session.run(scsi.inquiry(255, 0x83), expect_in=255).good().data
    expect_equal(after, before, "identity after kill -9")


@case()
def test_smoke_reset_and_reservation(context: Context) -> None:
    """A LUN reset is answered, a reservation excludes."""
    target = disk(context)
    one, two = log_in(context, target), log_in(context, target)
    expect_equal(one.manage(LUN_RESET), 0, "response to LUN reset")
    for session in (one, two):
        session.run(scsi.test_unit_ready())
    pr.register_and_ignore(one, 7).good()
    pr.reserve(one, 7, pr.EXCLUSIVE_ACCESS).good()
    two.run(scsi.read10(0, 1), expect_in=512).conflict()
    pr.clear(one, 7).good()
    alive(context, target)


@case(needs=("sanctum",))
def test_smoke_driver_is_the_one_asked_for(context: Context) -> None:
    """`status` names the I/O driver; where one was forced it is that one."""
    driver = sanctum(context).cli.status()["driver"]
    forced = sanctum(context).driver
    expect(forced is None or forced in driver.replace("io_", ""), f"driver {driver}, forced {forced}")
    context.note(driver)
