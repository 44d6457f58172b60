"""ext4 over CHAP, with the target killed under it; an optical drive."""

from __future__ import annotations

import hashlib
import os

from guest import iso, setting
from guest.machine import Guest, booted
from harness import ports
from harness.model import MIB, Account, Authentication, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal

#: Files of a file system written before the first kill, under it, and (without a sync of their own) under the second.
_BEFORE, _UNDER, _BUFFERED = 12, 16, 12


def _files(place: str, first: int, count: int, sync: bool) -> str:
    """Writes files and notes what they hold, each once it is written (and synced, if it is to be)."""
    name = f"{place}/f$n"
    dd = f"dd if=/dev/urandom of={name} bs=64k count=4 {'conv=fsync ' if sync else ''}2>/dev/null || exit 9"
    note = f"sha256sum {name} >> /tmp/sums{place.replace('/', '-')} || exit 9"
    return f"n={first}; while [ $n -lt {first + count} ]; do {dd}; {note}; n=$((n+1)); done"


def _under_kill(context: Context, guest: Guest, places: list[str], first: int, count: int, sync: bool) -> None:
    """kill -9 while files are being written everywhere, then back; the guest's writers must still succeed."""
    for place in places:
        guest.background(f"( {_files(place, first, count, sync)}; echo written {place} >/dev/ttyS1 )")
    guest.until(" && ".join(f"[ -e {place}/f{first + 2} ]" for place in places))
    context.server.kill()
    for place in places:
        expect(guest.run(f"[ -e {place}/f{first + count - 1} ]").code != 0, f"{place}: the kill came under the writes")
    context.server.restart()
    for place in places:
        guest.await_line("the files written over the kill", f"written {place}".__eq__, 120)


@case(seconds=300, needs=("chap-md5",))
def test_ext4_over_chap_survives_kill(context: Context) -> None:
    """In each cache mode: CHAP, mkfs, files synced one by one under kill -9 or all before it, each checked."""
    account = Account("guest", "secret-of-guest1")
    mutual = Account("portal", "secret-of-portal") if "chap-mutual" in context.server.abilities else None
    modes = ("none", "write-through", "write-back") if "cache-modes" in context.server.abilities else ("none",)
    name = ports.iqn("ext4")
    first = 1 if context.server.kind == "tgt" else 0  # tgt's LUN 0 is a controller
    luns = [Lun(number, Device(f"ext4-{mode}", 64 * MIB, cache=mode)) for number, mode in enumerate(modes, start=first)]
    places = [f"/m/{lun.number}" for lun in luns]
    algorithms = "SHA3-256,SHA256,SHA1,MD5" if "chap-all" in context.server.abilities else "MD5"
    with (
        context.server.serving(Target(name, tuple(luns), Authentication((account,), mutual))),
        booted(setting.debian_kernel(), setting.initramfs(context), context.directory) as (guest,),
    ):
        guest.start_initiator()
        guest.log_in(name, context.server.port, setting.chap_settings(account, mutual, algorithms)).good()
        nodes = [guest.node_of(lun.number) for lun in luns]
        for node, place in zip(nodes, places, strict=True):
            guest.run(f"mkfs.ext4 -F -q {node} && mkdir -p {place} && mount -t ext4 {node} {place}", 120).good()
            guest.run(_files(place, 0, _BEFORE, sync=True), 120).good()
        _under_kill(context, guest, places, 100, _UNDER, sync=True)
        _under_kill(context, guest, places, 200, _BUFFERED, sync=False)
        guest.run("sync", 120).good()
        context.server.kill()  # everything is covered by that sync now, and nothing else may be needed
        context.server.restart()
        for node, place in zip(nodes, places, strict=True):
            guest.run(f"umount {place}", 120).good()
            guest.run(f"e2fsck -f -n {node}", 120).good()
            guest.run(f"mount -t ext4 {node} {place}", 120).good()
            checked = guest.run(f"sha256sum -c /tmp/sums{place.replace('/', '-')} | grep -c OK", 60).good()
            expect_equal(int(checked), _BEFORE + _UNDER + _BUFFERED, f"{place}: files with the right contents")
            guest.run(f"umount {place}").good()
        expect_equal(guest.kernel_complaints(), [], "kernel complaints")
        guest.log_out(name, context.server.port).good()


@case(seconds=120)
def test_wrong_secret_is_refused(context: Context) -> None:
    """A guest with the wrong secret gets no disk and says why."""
    name = ports.iqn("refused")
    account = Account("guest", "secret-of-guest1")
    target = Target(name, (Lun(1, Device("refused")),), Authentication((account,)))
    with (
        context.server.serving(target),
        booted(setting.debian_kernel(), setting.initramfs(context), context.directory) as (guest,),
    ):
        guest.start_initiator()
        wrong = setting.chap_settings(Account("guest", "secret-of-nobody"))
        done = guest.log_in(name, context.server.port, {**wrong, "node.session.initial_login_retry_max": "1"})
        expect(done.code != 0, "a wrong secret logged in")
        expect("authoriz" in done.output or "authent" in done.output, f"reason given: {done.output}")
        expect_equal(guest.run("ls /dev/sd*").code, 1, "ls of disks")


@case(seconds=120, needs=("optical",))
def test_iso_mounts_from_sr0(context: Context) -> None:
    """An ISO image shows as /dev/sr0, mounts, and its files read back; it takes no write."""
    files = {"README.TXT": b"Sanctum\n", "DATA.BIN": os.urandom(700_001), "EMPTY.TXT": b""}
    path = context.directory / "disc.iso"
    iso.write(path, "SANCTUM", files)
    (context.directory / "data.bin").write_bytes(files["DATA.BIN"])
    name = ports.iqn("disc")
    target = Target(name, (Lun(1, Device("disc", kind="iso", path=path)),))
    with (
        context.server.serving(target),
        booted(setting.debian_kernel(), setting.initramfs(context), context.directory) as (guest,),
    ):
        guest.start_initiator()
        guest.log_in(name, context.server.port).good()
        guest.device("/dev/sr0")
        guest.run("mount -t iso9660 -o ro /dev/sr0 /mnt").good()
        expect_equal(guest.run("cat /mnt/readme.txt").good(), "Sanctum", "a file on the disc")
        seen = guest.run("sha256sum /mnt/data.bin").good().split()[0]
        expect_equal(seen, hashlib.sha256(files["DATA.BIN"]).hexdigest(), "contents of a large file")
        guest.run("umount /mnt").good()
        expect(
            guest.run("dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 conv=fsync").code != 0, "an optical disc was written"
        )
