"""Two guests and sg_persist: register, reserve, preempt; the loser's write is refused."""

from __future__ import annotations

from guest import setting
from guest.machine import Guest, booted
from harness import ports
from harness.model import Device, Lun, Target
from harness.runner import Context, case, expect

_WRITE = "dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct conv=fsync"
_READ = "dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct"


def _out(guest: Guest, words: str) -> None:
    guest.run(f"sg_persist --out --no-inquiry {words} /dev/sg0").good()


def _in(guest: Guest, words: str) -> str:
    return guest.run(f"sg_persist --in --no-inquiry {words} /dev/sg0").good().lower()


def _log_in(guest: Guest, name: str, port: int) -> None:
    guest.start_initiator()
    guest.log_in(name, port).good()
    guest.device()
    guest.until("[ -c /dev/sg0 ]")


@case(seconds=180, needs=("reservations",))
def test_preempted_guest_cannot_write(context: Context) -> None:
    """Write Exclusive - Registrants Only moves from one guest to the other; who lost it reads but writes no more."""
    name = ports.iqn("fence")
    number = 1 if context.server.kind == "tgt" else 0
    target = Target(name, (Lun(number, Device("fence")),))
    images = setting.initramfs(context, 2)
    with context.server.serving(target), booted(setting.debian_kernel(), images, context.directory) as (one, two):
        for guest in (one, two):
            _log_in(guest, name, context.server.port)
        if context.server.kind == "tgt":  # its LUN 0 is a controller
            for guest in (one, two):
                guest.run("ln -sf sg1 /dev/sg0 || mv /dev/sg1 /dev/sg0").good()
        _out(one, "--register --param-sark=0x1111")
        _out(two, "--register --param-sark=0x2222")
        _out(one, "--reserve --param-rk=0x1111 --prout-type=5")
        expect("0x1111" in _in(one, "--read-reservation"), "the reservation shows the first guest's key")
        one.run(_WRITE).good()
        two.run(_WRITE).good()  # a registrant may write
        _out(two, "--preempt --param-rk=0x2222 --param-sark=0x1111 --prout-type=5")
        keys = _in(two, "--read-keys")
        expect("0x2222" in keys and "0x1111" not in keys, f"only the winner's key is left: {keys}")
        expect("0x2222" in _in(two, "--read-reservation"), "the reservation is the winner's")
        lost = one.run(_WRITE)
        expect(lost.code != 0, "the loser's write went through")
        complaints = " ".join(one.kernel_complaints())
        expect(
            "reservation conflict" in one.run("dmesg").good().lower() or "critical nexus" in complaints,
            "the refusal is a conflict",
        )
        one.run(_READ).good()
        two.run(_WRITE).good()
        _out(two, "--release --param-rk=0x2222 --prout-type=5")
        _out(two, "--clear --param-rk=0x2222")
        one.run(_WRITE).good()
