"""Disks that do not answer: under a LUN, and under the service's own data directory. All others go on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM
from typing import Any

from harness import ports, wait
from harness.cli import CommandFailed
from harness.model import MIB, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal
from initiator import reservations as pr
from initiator import scsi
from initiator.session import LUN_RESET, Pending, Session
from wire.storage import Freezable, Loop
from wire.support import alive, disk, log_in, own, pattern, read, sanctum, serve, write

#: The answer "function rejected" to a task management request (RFC 7143, 11.6.1).
_REJECTED = 255
#: Blocks of the one write that hangs.
_BLOCKS = 8
#: Within this a listing is there: it looks at memory alone.
_LISTED_WITHIN = 5.0
#: Within this the service's work is over after SIGTERM, whatever the disks do: `crates/sanctumd/src/limits.rs` at
#: STOP_TIME_MAX.
_STOPPED_WITHIN = 110.0
_LISTINGS = ("status", "target list", "lun list", "device list", "session list", "event list")


def _others_go_on(context: Context, bystander: Session, target: Target) -> None:
    """The service answers about itself, and another LUN serves: old sessions, new ones, reservations."""
    for words in _LISTINGS:
        sanctum(context).cli.run(*words.split(), seconds=_LISTED_WITHIN)
    data = pattern(_BLOCKS * 512)
    write(bystander, _BLOCKS, data).good()
    expect(read(bystander, _BLOCKS, _BLOCKS) == data, "what the other LUN holds")
    pr.register_and_ignore(bystander, 0x11, aptpl=True).good()
    alive(context, target)


def _over(pid: int) -> bool:
    """Whether the process's work is over. Threads that wait in the kernel may still keep its number."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _terminate(context: Context) -> None:
    """SIGTERM; the service comes to its end within its bound."""
    process = context.server.process
    assert process is not None
    process.send_signal(SIGTERM)
    wait.until("the end of the service", lambda: _over(process.pid), _STOPPED_WITHIN)


def _reap(context: Context) -> int:
    """The exit code of a service that has ended."""
    process, context.server.process = context.server.process, None
    assert process is not None
    return process.wait(10)


class Stuck:
    """A LUN on a physical disk of which one write hangs in the kernel, and another LUN beside it."""

    def __init__(self, context: Context) -> None:
        self.place = Freezable(context)
        self.loop = Loop(context, 16 * MIB, self.place.path / "disk.img")
        self.context = own(context)
        self.cli = sanctum(self.context).cli
        self.device = Device(ports.unique("stuck"), kind="block", path=self.loop.node)
        self.target = serve(self.context, Target(ports.iqn("stuck"), (Lun(1, self.device),)))
        self.other = disk(self.context, stem="other")
        self.bystander = log_in(self.context, self.other)
        self.old, self.new = pattern(_BLOCKS * 512), pattern(_BLOCKS * 512)
        self.writer = log_in(self.context, self.target)
        write(self.writer, 0, self.old).good()
        self.writer.run(scsi.synchronize_cache10()).good()
        self.place.freeze()
        self.write = self._write_that_hangs()

    def _write_that_hangs(self) -> Pending:
        write = self.writer.start(scsi.write10(0, _BLOCKS), out=self.new)
        wait.until("the write on the disk", lambda: self.live()["running"] == 1)
        return write

    def live(self) -> dict[str, Any]:
        """The state of the stuck device."""
        return dict(self.cli.device(self.device.name)["live"])

    def others_go_on(self) -> None:
        """Nobody but this LUN feels anything."""
        _others_go_on(self.context, self.bystander, self.other)

    def all_is_well(self) -> None:
        """The disk answers again: the write that hung is there whole or not at all, and nothing of it comes later."""
        session = log_in(self.context, self.target)
        expect(read(session, 0, _BLOCKS) in (self.old, self.new), "what became of the write that hung")
        last = pattern(_BLOCKS * 512)
        write(session, 0, last).good()
        session.run(scsi.synchronize_cache10()).good()
        expect(read(session, 0, _BLOCKS) == last, "what was written last")
        with self.loop.node.open("rb") as node:
            expect(node.read(len(last)) == last, "what the disk itself holds")
        self.others_go_on()


def _not_ready(session: Session) -> None:
    """After the unit attentions the unit says that it is not ready."""
    keys = []
    while not keys or keys[-1] == scsi.UNIT_ATTENTION:
        result = session.run(scsi.test_unit_ready())
        keys.append(result.sense.key if result.sense else None)
    expect_equal(keys[-1], scsi.NOT_READY, f"sense key at last, of {keys}")


@case(seconds=240, needs=("sanctum", "aptpl"))
def test_disk_that_does_not_answer(context: Context) -> None:
    """A reset fails and the LUN goes NOT READY; the service stops and starts, and the LUN comes back by itself."""
    stuck = Stuck(context)
    name = stuck.device.name
    resetter = log_in(stuck.context, stuck.target)
    reset = resetter.start_manage(LUN_RESET)
    stuck.others_go_on()
    expect_equal(resetter.await_answer(reset, 30).bhs[2], _REJECTED, "answer to the reset")
    _not_ready(resetter)
    expect_equal(stuck.live()["state"], "not-ready", "state of the device")
    expect(any(name in line for line in stuck.cli.status()["attention"]), "`sanctum status` names the device")
    told = [event["subject"] for event in stuck.cli.events() if event["code"] == "device-stuck"]
    expect_equal(told, [name], "events of the stuck device")
    stuck.others_go_on()

    driver = stuck.cli.status()["driver"]
    _terminate(stuck.context)
    if driver == "uring":
        # No thread waits for the disk, so the process is gone; the kernel keeps the disk claimed for the old write.
        expect_equal(_reap(stuck.context), 1, "exit code of a stop that left something behind")
        stuck.context.server.start()
        stuck.bystander = log_in(stuck.context, stuck.other)
        stuck.others_go_on()
        expect_equal(stuck.live()["state"], "not-ready", "state while the old write may still land")
        stuck.place.thaw()
    else:
        stuck.place.thaw()
        expect_equal(_reap(stuck.context), 1, "exit code of a stop that left something behind")
        stuck.context.server.start()
        stuck.bystander = log_in(stuck.context, stuck.other)
    wait.until("the disk served again by itself", lambda: stuck.live()["state"] == "ready", 30)
    stuck.all_is_well()


def _timed_out(change: Future[Any], what: str) -> None:
    """The change holds, and its answer says that something on the disk has not ended."""
    try:
        change.result(60)
    except CommandFailed as failure:
        expect_equal(failure.code, "timed-out", f"{what}: {failure}")
        expect("the change itself holds" in failure.problem["next_step"], f"{what}: {failure}")
        return
    raise AssertionError(f"{what}: done, while a write was on the disk")


@case(seconds=240, needs=("sanctum", "aptpl"))
def test_disk_that_does_not_answer_is_removed(context: Context) -> None:
    """LUN and device go, the answer says what has not ended; once it has, the same disk can be served again."""
    stuck = Stuck(context)
    name, number = stuck.device.name, stuck.target.luns[0].number
    identity = stuck.live()["serial"], stuck.live()["naa"]
    with ThreadPoolExecutor(1) as pool:
        for what, remove in (
            ("lun remove", lambda: stuck.cli.remove_lun(stuck.target.name, number)),
            ("device delete", lambda: stuck.cli.remove_device(name, delete_file=False)),
        ):
            removing = pool.submit(remove)
            stuck.others_go_on()
            _timed_out(removing, what)
    expect(name not in [device["name"] for device in stuck.cli.run("device", "list")], "the device is listed")
    expect_equal([lun for lun in stuck.cli.run("lun", "list") if lun["device"] == name], [], "its LUNs")
    before = stuck.cli.settings()
    expect(name not in before["text"], "the settings name the device")
    try:
        stuck.cli.create_device(stuck.device)
        raise AssertionError("a disk was taken on which an old write could still land")
    except CommandFailed as failure:
        expect(failure.problem.get("next_step"), f"what to do: {failure}")
    expect_equal(stuck.cli.settings(), before, "settings after a disk in use was refused")
    stuck.others_go_on()

    stuck.place.thaw()
    wait.until("the disk free again", lambda: _created(stuck), 30)
    stuck.cli.add_lun(stuck.target.name, name, number)
    expect_equal((stuck.live()["serial"], stuck.live()["naa"]), identity, "identity of the disk")
    stuck.all_is_well()


def _created(stuck: Stuck) -> bool:
    try:
        stuck.cli.create_device(stuck.device)
    except CommandFailed:
        return False
    return True


@case(seconds=240, needs=("sanctum", "aptpl"))
def test_data_directory_that_does_not_answer(context: Context) -> None:
    """Listings, logins and the LUNs whose images lie elsewhere go on; a change is there whole or not at all."""
    place = Freezable(context)
    context = own(context, place.path / "data")
    cli = sanctum(context).cli
    target = serve(context, Target(ports.iqn("elsewhere"), (Lun(1, _elsewhere(context)),)))
    bystander = log_in(context, target)
    place.freeze()
    _others_go_on(context, bystander, target)
    words = ("target", "update", target.name, "--alias", "changed")
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(cli.run, *words, seconds=_STOPPED_WITHIN + 60)
        # More than once: with each of them something may be left waiting that is needed.
        for _ in range(4):
            _others_go_on(context, bystander, target)
        expect(not changing.done(), "a change ended while the disk of its data directory did not answer")
        _terminate(context)
        place.thaw()
        _reap(context)
        promised = _succeeded(changing)
    context.server.start()
    alias = cli.run("target", "show", target.name).get("alias")
    expect(alias in (["changed"] if promised else [None, "changed"]), f"alias {alias} after a change ({promised=})")
    bystander = log_in(context, target)
    _others_go_on(context, bystander, target)
    cli.run("target", "update", target.name, "--alias", "well")
    expect_equal(cli.run("target", "show", target.name)["alias"], "well", "a change in the end")


def _elsewhere(context: Context) -> Device:
    return Device(ports.unique("elsewhere"), 16 * MIB, path=context.directory / "elsewhere.img")


def _succeeded(change: Future[Any]) -> bool:
    try:
        change.result(60)
    except CommandFailed:
        return False
    return True


@case(seconds=240, needs=("sanctum",))
def test_deletion_that_does_not_end(context: Context) -> None:
    """The device goes and no change waits; no device gets the file until it is gone, and an event tells when it is."""
    place = Freezable(context)
    context = own(context)
    cli = sanctum(context).cli
    other = disk(context, stem="other")
    device = Device(ports.unique("gone"), 16 * MIB, path=place.path / "gone.img")
    cli.create_device(device)
    place.freeze()
    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(cli.run, "device", "delete", device.name, "--delete-file", seconds=60)
        wait.until("the device gone", lambda: device.name not in [d["name"] for d in cli.run("device", "list")], 30)
        cli.run("target", "update", other.name, "--alias", "meanwhile", seconds=_LISTED_WITHIN)
        expect(not removing.done(), "the deletion waits for the disk")
        try:
            cli.run("device", "create", "image", device.name, "--path", str(device.path), "--existing")
            raise AssertionError("a device got a file that is being deleted")
        except CommandFailed as failure:
            expect("is being deleted" in str(failure), f"why the file is refused: {failure}")
        _timed_out(removing, "device delete")
    place.thaw()
    wait.until("the event of the deletion", lambda: "file-deleted" in [event["code"] for event in cli.events()], 30)
    expect(not list(place.path.glob("gone.img*")), "nothing of the image is left")
    cli.create_device(device)
