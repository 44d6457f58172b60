"""ext4 over CHAP, with the target killed under it; an optical drive."""

from __future__ import annotations

import hashlib
import os

from guest import iso, setting
from guest.machine import Guest, booted
from harness import ports
from harness.model import MIB, Account, Authentication, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal

_WRITE_FILES = (
    "n=$((FIRST)); while [ $n -lt $((FIRST+24)) ]; do dd if=/dev/urandom of=/mnt/f$n bs=64k count=4 conv=fsync 2>/dev/null || exit 9;"
    " sha256sum /mnt/f$n >> /tmp/sums || exit 9; n=$((n+1)); done"
)


def _kill_and_restart(context: Context, guest: Guest) -> None:
    """kill -9 while files are being written, then back; the guest's command must still succeed."""
    guest.background(f"( FIRST=100; {_WRITE_FILES}; echo written >/dev/ttyS1 )")
    guest.until("[ -e /mnt/f103 ]")
    context.server.kill()
    context.server.restart()
    guest.await_line("the files written after the kill", lambda line: line == "written", 120)


@case(seconds=240, needs=("chap-md5",))
def test_ext4_over_chap_survives_kill(context: Context) -> None:
    """Log in with CHAP, mkfs, write, sync, kill -9 under load, go on, check every file after a remount."""
    account = Account("guest", "secret-of-guest1")
    mutual = Account("portal", "secret-of-portal") if "chap-mutual" in context.server.abilities else None
    name = ports.iqn("ext4")
    target = Target(
        name,
        (Lun(0 if context.server.kind != "tgt" else 1, Device("ext4", 128 * MIB)),),
        Authentication((account,), mutual),
    )
    algorithms = "SHA3-256,SHA256,SHA1,MD5" if "chap-all" in context.server.abilities else "MD5"
    with (
        context.server.serving(target),
        booted(setting.debian_kernel(), setting.initramfs(context), context.directory) as (guest,),
    ):
        guest.start_initiator()
        guest.log_in(name, context.server.port, setting.chap_settings(account, mutual, algorithms)).good()
        disk = guest.device()
        guest.run(f"mkfs.ext4 -F -q {disk} && mount -t ext4 {disk} /mnt", 120).good()
        guest.run("FIRST=0; " + _WRITE_FILES + "; sync", 120).good()
        _kill_and_restart(context, guest)
        guest.run("sync && umount /mnt", 120).good()
        guest.run(f"e2fsck -f -n {disk}", 120).good()
        guest.run(f"mount -t ext4 {disk} /mnt").good()
        checked = guest.run("sha256sum -c /tmp/sums | grep -c OK", 60).good()
        expect_equal(int(checked), 48, "files with the right contents")
        guest.run("umount /mnt").good()
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
